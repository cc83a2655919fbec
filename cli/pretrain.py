"""`genesis-train pretrain`: train weights on a pair store or a cube store."""

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


@click.command(cls=options.Resumable, short_help="Pre-train a network on a store.")
@click.argument("store")
@options.out_option
@options.grouped(
    "Training",
    options.setting(_PUBLISHED, "--epochs", "Maximum number of epochs; raise it to continue a finished run."),
    options.option(
        "--patience",
        "Stop after this many epochs without a better validation loss.  [default: 50; in 2D at least 1000 "
        "steps]",
        int,
    ),
    options.option("--max-steps", "Maximum number of steps; training may stop within an epoch.", int),
    options.option(
        "--overfit",
        "Train and validate on the same N fixed cubes to check that the network can learn.",
        int,
        metavar="N",
    ),
    options.setting(
        _PUBLISHED, "--batch-size", "Maximum number of cubes per batch; lower it if memory runs out."
    ),
    options.option(
        "--optimiser", "Optimiser; SGD uses momentum 0.9.  [default: sgd, or adam for unet2d]", OPTIMISERS
    ),
    options.option(
        "--lr",
        "Learning rate; use 0.1 if SGD gets stuck at a constant output.  [default: 1.0, or 0.001 with Adam; "
        "0.0003 for unet2d from width 64 on, unless --optimiser is given]",
        float,
    ),
    options.setting(
        _PUBLISHED,
        "--schedule",
        "Learning-rate schedule: halve the rate every 40 epochs (in 2D at least 2000 steps "
        "apart), or follow a cosine to the last step.",
        SCHEDULES,
    ),
    options.setting(_PUBLISHED, "--warmup", "Number of warm-up steps for the learning rate."),
    options.option(
        "--clip-norm",
        "Largest allowed norm of the gradient; a larger gradient is scaled down to it. [default: no limit]",
        float,
    ),
    options.option(
        "--ema",
        "Decay of an exponential moving average of the weights; the averaged weights are "
        "evaluated and saved. [default: none]",
        float,
        metavar="DECAY",
    ),
    options.setting(
        _PUBLISHED,
        "--drop-skips",
        "Probability of zeroing each skip connection in a step; try 0.5 on small data.",
    ),
    options.setting(_PUBLISHED, "--seed", "Random seed for the initial weights and the order of the cubes."),
    options.option(
        "--recipe",
        "Recipe for degrading a cube store on the fly; a pair store is already degraded.  [default: genesis]",
    ),
)
@options.grouped(
    "Network",
    options.option(
        "--network",
        "Architecture: the papers' U-Nets (unet3d, unet2d) or nnU-Net's networks (resenc-l, "
        "plainconv).  [default: unet3d, or unet2d for 2D stores]",
        NETWORKS,
    ),
    options.option(
        "--width",
        "Number of channels of the first convolution. [default: the published 32, or 64 for "
        "unet2d (ResNet-18)]",
        int,
    ),
    options.option(
        "--initial-encoder",
        "File of initial weights for the encoder of unet2d: a ResNet-18 with torchvision's tensor names.",
        options.path,
        metavar="FILE",
    ),
)
@options.grouped(
    "Machine",
    options.device_option,
    options.setting(_HERE, "--devices", "Number of processes, one per GPU, that share each batch."),
    options.setting(
        _PUBLISHED,
        "--precision",
        "Precision of the arithmetic: tf32 rounds the inputs of matrix products and convolutions; bf16 and "
        "fp16 are mixed precision.",
        PRECISIONS,
    ),
    options.option(
        "--fast", "Let cuDNN pick its fastest algorithms; results then differ slightly from run to run.", bool
    ),
    options.option("--compile", "Compile the network with torch before training.", bool),
    options.option(
        "--channels-last/--no-channels-last",
        "Store the channels of each voxel next to each other in memory. [default: only on the CPU]",
    ),
)
@options.grouped(
    "Run",
    options.option(
        "--save-steps",
        "Number of steps between additional saves of the checkpoint last.pt. [default: off]",
        int,
    ),
    options.setting(
        _HERE, "--save-seconds", "Number of seconds between additional saves of the checkpoint last.pt."
    ),
    options.option("--tensorboard", "Write TensorBoard events into RUN.", bool),
    options.option("--profile", "Profile a few steps and write the timings into RUN.", bool),
    options.dry_run_training,
    options.overwrite_run,
    options.json_option,
)
def pretrain(
    store: str, out: Path, initial_encoder: Path | None, overwrite: bool, dry_run: bool, **given: Any
) -> None:
    """Train a network to restore the degraded cubes of STORE.

    STORE is a pair store, or a cube store, whose cubes are then degraded on the fly. It may hold 3D cubes, 2D
    slices or images. RUN receives the checkpoints (best.pt, last.pt), the losses of every epoch
    (losses.jsonl, losses.png) and a picture of restored cubes (restored.png). Run the same command again to
    resume; raise --epochs to continue a finished run. For several GPUs use --devices, or torchrun on one or
    more nodes.

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
    more: dict[str, Any] = {"initial_encoder": initial_encoder, "overwrite": overwrite}
    if dry_run:
        from genesis_toolkit.training.pretrain.plan import plan_pretraining

        show_pretraining_plan(store, plan_pretraining(store, out, parameters, execution, **more))
        output.say_the_same_without("--dry-run")
        return
    with TrainingBars() as progress:
        more |= {"progress": progress, "say": progress.say}
        outcome = gt.pretrain(store, out, parameters, execution, **more)
    if os.environ.get("RANK", "0") != "0":  # only one of torchrun's processes prints
        return
    output.print_json(asdict(outcome), store)
    _show(outcome, parameters.stopping_rules)


def _show(outcome: "gt.PretrainOutcome", may_differ: Sequence[str]) -> None:
    """Print the result on stdout, and next steps on stderr."""
    facts = asdict(outcome)
    network = f"{outcome.network}, {outcome.weights:,} parameters"
    output.show_run("pre-training", outcome, [("network", network), *pretraining_rows(facts)])
    show_degradations(facts)
    if outcome.effective_rank:
        output.show_table(
            ("effective rank of pooled features", "channels", "initial weights", "best epoch"),
            [
                (f"level {of.level}", of.channels, f"{of.first:.1f}", f"{of.best:.1f}")
                for of in outcome.effective_rank
            ],
        )
    limit = option_name(outcome.stopped_by)
    further = "run the command again" if outcome.stopped_by in may_differ else "start another run"
    output.say(f"To train longer, {further} with a higher {limit}.", err=True)
    output.say_next(*after_pretraining(outcome.run, outcome.network))
