"""`genesis-train pretrain`: weights of a pair store or a cube store."""

import os
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import click

import genesis_toolkit as gt
from genesis_toolkit.cli import options, output
from genesis_toolkit.cli.errors import check_installed
from genesis_toolkit.cli.further import after_pretraining
from genesis_toolkit.cli.run_tables import pretraining_rows, show_degradations, show_pretraining_plan
from genesis_toolkit.pipeline.absent import check_store
from genesis_toolkit.pipeline.progress import TrainingBars
from genesis_toolkit.training.machine.options import option as option_name
from genesis_toolkit.training.pretrain.parameters import NETWORKS, OPTIMISERS, PRECISIONS, SCHEDULES

_PUBLISHED, _HERE = gt.PretrainParameters(), gt.Execution()


@click.command(cls=options.Resumable, short_help="Pairs -> weights.")
@click.argument("store")
@options.out_option
@options.grouped(
    "Training",
    options.setting(_PUBLISHED, "--epochs", "At most so many epochs."),
    options.setting(_PUBLISHED, "--patience", "Stop after so many epochs without a better validation loss."),
    options.option("--max-steps", "At most so many steps, the last epoch cut short.", int),
    options.option("--overfit", "Train and validate on N fixed cubes, as a check.", int, metavar="N"),
    options.setting(_PUBLISHED, "--batch-size", "Cubes a batch, at most."),
    options.option("--optimiser", "SGD has momentum 0.9.  [default: sgd, or adam for unet2d]", OPTIMISERS),
    options.option(
        "--lr",
        "Learning rate; take 0.1 where SGD gives one value only.  [default: 1.0, or 0.001 with Adam]",
        float,
    ),
    options.setting(
        _PUBLISHED, "--schedule", "Halve it every 40 epochs, or a cosine to the last step.", SCHEDULES
    ),
    options.setting(_PUBLISHED, "--warmup", "Let it rise over so many steps."),
    options.option("--clip-norm", "Scale longer gradients down to this length.", float),
    options.option("--ema", "Evaluate and keep a moving average of the weights.", float, metavar="DECAY"),
    options.setting(
        _PUBLISHED, "--drop-skips", "Chance of each skip connection to be zero in a step; 0.5 for small data."
    ),
    options.setting(_PUBLISHED, "--seed", "Of the first weights and of the order."),
    options.option("--recipe", "Of degradations on the fly, for a cube store only.  [default: genesis]"),
)
@options.grouped(
    "Network",
    options.option(
        "--network",
        "The U-Net of the papers or one of nnU-Net's.  [default: unet3d, or unet2d for a 2D store]",
        NETWORKS,
    ),
    options.option(
        "--width",
        "Channels of the first convolution.  [default: the published 32, or 64 for unet2d: ResNet-18]",
        int,
    ),
    options.option(
        "--initial-encoder",
        "Weights that the encoder of unet2d begins with: a ResNet-18 under torchvision's names.",
        options.path,
        metavar="FILE",
    ),
)
@options.grouped(
    "Machine",
    options.device_option,
    options.setting(_HERE, "--devices", "Processes, one a GPU, to share each batch."),
    options.setting(_PUBLISHED, "--precision", "bf16 and fp16 are mixed; tf32 rounds products.", PRECISIONS),
    options.option("--fast", "Let cuDNN choose by speed: no longer the same bits every time.", bool),
    options.option("--compile", "Let torch compile the network first.", bool),
    options.option(
        "--channels-last/--no-channels-last",
        "Order of the voxels in memory.  [default: channels last on the CPU]",
    ),
)
@options.grouped(
    "Run",
    options.option("--save-steps", "Write last.pt after every so many steps as well.", int),
    options.setting(_HERE, "--save-seconds", "And after so many seconds."),
    options.option("--tensorboard", "Write events for TensorBoard into RUN.", bool),
    options.option("--profile", "Write where the time of a few steps goes into RUN.", bool),
    options.dry_run_training,
    options.overwrite_run,
    options.json_option,
)
def pretrain(
    store: str, out: Path, initial_encoder: Path | None, overwrite: bool, dry_run: bool, **given: Any
) -> None:
    """Train a network to restore the degraded cubes of STORE.

    STORE is a pair store, or a cube store, whose cubes are then degraded on the fly; of 3D cubes, or of 2D
    slices and images. RUN gets the checkpoints (best.pt, last.pt), the losses of every epoch (losses.jsonl,
    losses.png) and a picture of restored cubes (restored.png). The same command again goes on where it
    stopped; a larger --epochs goes on with a finished run. Several GPUs: --devices, or torchrun, on one node
    or more.

    \b
    Example:
      genesis-train pretrain pairs.zarr --out pretrained
      genesis-train pretrain pairs.zarr --out small --width 8 --epochs 40
      torchrun --nproc-per-node 4 --no-python genesis-train pretrain ...
    """
    check_installed("Training", "train", "torch")
    execution = gt.Execution(**{one.name: given.pop(one.name) for one in fields(gt.Execution)})
    parameters = gt.PretrainParameters(**given)
    check_store(store, "extract-cubes")  # before torch is loaded
    told: dict[str, Any] = {"initial_encoder": initial_encoder, "overwrite": overwrite}
    if dry_run:
        from genesis_toolkit.training.pretrain.plan import plan_pretraining

        show_pretraining_plan(store, plan_pretraining(store, out, parameters, execution, **told))
        output.say_the_same_without("--dry-run")
        return
    with TrainingBars() as progress:
        told |= {"progress": progress, "say": progress.say}
        outcome = gt.pretrain(store, out, parameters, execution, **told)
    if os.environ.get("RANK", "0") != "0":  # of torchrun's processes one speaks
        return
    output.print_json(asdict(outcome), store)
    _show(outcome, parameters.stopping_rules)


def _show(outcome: "gt.PretrainOutcome", may_differ: Sequence[str]) -> None:
    """The result on stdout, and on stderr what can be done next."""
    facts = asdict(outcome)
    network = f"{outcome.network}, {outcome.weights:,} parameters"
    output.show_run("pre-training", outcome, [("network", network), *pretraining_rows(facts)])
    show_degradations(facts)
    if outcome.effective_rank:
        output.show_table(
            ("effective rank of pooled features", "channels", "first weights", "best epoch"),
            [
                (f"level {of.level}", of.channels, f"{of.first:.1f}", f"{of.best:.1f}")
                for of in outcome.effective_rank
            ],
        )
    limit = option_name(outcome.stopped_by)
    further = "repeat the command" if outcome.stopped_by in may_differ else "begin another run"
    output.say(f"The picture shows what was restored. To train on, {further} with more {limit}.", err=True)
    output.say_next(*after_pretraining(outcome.run, outcome.network))
