"""`genesis-train`: from a finished store to a network."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genesis_toolkit.cli.compare import compare
from genesis_toolkit.cli.errors import GenesisGroup
from genesis_toolkit.cli.export import export
from genesis_toolkit.cli.finetune import finetune
from genesis_toolkit.cli.packages import check_installed
from genesis_toolkit.cli.progress import TrainingProgress
from genesis_toolkit.cli.segment import segment
from genesis_toolkit.pipeline.version import __version__
from genesis_toolkit.training.machine.options import option
from genesis_toolkit.training.pretrain.parameters import (
    NETWORKS,
    OPTIMISERS,
    PRECISIONS,
    SCHEDULES,
    Execution,
    PretrainParameters,
)

if TYPE_CHECKING:
    from genesis_toolkit.training.pretrain.call import PretrainOutcome

_PUBLISHED, _HERE = PretrainParameters(), Execution()


@click.group(
    cls=GenesisGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="genesis-train")
def main() -> None:
    """Train networks from the stores that genesis-prep makes.

    \b
    Example:
      genesis-prep extract-cubes LUNA16 cubes.zarr
      genesis-prep degrade cubes.zarr pairs.zarr
      genesis-train pretrain pairs.zarr --out run
      genesis-train finetune nodules.zarr --out nodules --weights run
    """


@main.command(short_help="Pairs -> weights.")
@click.argument("store")
@click.option(
    "--out", required=True, metavar="RUN", type=click.Path(path_type=Path), help="The folder of the run."
)
@click.option("--epochs", default=_PUBLISHED.epochs, show_default=True, help="At most so many epochs.")
@click.option(
    "--patience",
    default=_PUBLISHED.patience,
    show_default=True,
    help="Stop after so many epochs without a better validation loss.",
)
@click.option("--max-steps", type=int, help="At most so many steps, the last epoch cut short.")
@click.option("--overfit", type=int, metavar="N", help="Train and validate on N fixed cubes, as a check.")
@click.option(
    "--batch-size", default=_PUBLISHED.batch_size, show_default=True, help="Cubes a batch, at most."
)
@click.option(
    "--optimiser",
    default=_PUBLISHED.optimiser,
    show_default=True,
    type=click.Choice(OPTIMISERS),
    help="SGD has momentum 0.9.",
)
@click.option(
    "--lr",
    type=float,
    help="Learning rate; take 0.1 where SGD gives one value only.  [default: 1.0, or 0.001 with Adam]",
)
@click.option(
    "--schedule",
    default=_PUBLISHED.schedule,
    show_default=True,
    type=click.Choice(SCHEDULES),
    help="Halve it every 40 epochs, or a cosine to the last step.",
)
@click.option(
    "--warmup", default=_PUBLISHED.warmup, show_default=True, help="Let it rise over so many steps."
)
@click.option("--clip-norm", type=float, help="Scale longer gradients down to this length.")
@click.option("--ema", type=float, metavar="DECAY", help="Judge and keep a moving average of the weights.")
@click.option(
    "--precision",
    default=_PUBLISHED.precision,
    show_default=True,
    type=click.Choice(PRECISIONS),
    help="bf16 and fp16 are mixed precision.",
)
@click.option(
    "--network",
    type=click.Choice(NETWORKS),
    help="The U-Net of the papers or one of nnU-Net's.  [default: unet3d, or unet2d for a 2D store]",
)
@click.option(
    "--width",
    type=int,
    help="Channels of the first convolution.  [default: the published 32, or 64 for unet2d: ResNet-18]",
)
@click.option(
    "--initial-encoder",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Weights that the encoder of unet2d begins with: a ResNet-18 under torchvision's names.",
)
@click.option(
    "--seed", default=_PUBLISHED.seed, show_default=True, help="Of the first weights and of the order."
)
@click.option("--recipe", help="Of degradations on the fly, for a cube store only.  [default: genesis]")
@click.option(
    "--device",
    default=_HERE.device,
    show_default=True,
    type=click.Choice(["auto", "cpu", "cuda"]),
    help="Where to train; auto takes CUDA where there is one.",
)
@click.option(
    "--devices", default=_HERE.devices, show_default=True, help="Processes, one a GPU, to share each batch."
)
@click.option("--compile", is_flag=True, help="Let torch compile the network first.")
@click.option(
    "--channels-last/--no-channels-last",
    default=None,
    help="Order of the voxels in memory.  [default: channels last on the CPU]",
)
@click.option("--save-steps", type=int, help="Write last.pt after every so many steps as well.")
@click.option(
    "--save-seconds", default=_HERE.save_seconds, show_default=True, help="And after so many seconds."
)
@click.option("--tensorboard", is_flag=True, help="Write events for TensorBoard into RUN.")
@click.option("--profile", is_flag=True, help="Write where the time of a few steps goes into RUN.")
@click.option("--overwrite", is_flag=True, help="Begin again, and throw an earlier run in --out away.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def pretrain(
    store: str, out: Path, initial_encoder: Path | None, overwrite: bool, as_json: bool, **options: Any
) -> None:
    """Train a network to restore the degraded cubes of STORE.

    STORE is a pair store, or a cube store, whose cubes are then degraded on the fly; of 3D cubes, or of 2D
    slices and images. RUN gets the
    checkpoints (best.pt, last.pt), the losses of every epoch (losses.jsonl) and a picture of restored cubes
    (restored.png). The same command again goes on where it stopped; a larger --epochs goes on with a
    finished run. Several GPUs: --devices, or torchrun, on one node or more.

    \b
    Example:
      genesis-train pretrain pairs.zarr --out run
      genesis-train pretrain pairs.zarr --out small --width 8 --epochs 40
      torchrun --nproc-per-node 4 --no-python genesis-train pretrain ...
    """
    check_installed("Training", "train", "torch")
    from genesis_toolkit.training.pretrain.call import pretrain as run

    execution = Execution(**{name.name: options.pop(name.name) for name in fields(Execution)})
    parameters = PretrainParameters(**options)
    with TrainingProgress() as progress:
        outcome = run(
            store,
            out,
            parameters,
            execution,
            initial_encoder=initial_encoder,
            overwrite=overwrite,
            report=progress,
            say=progress.say,
        )
    if os.environ.get("RANK", "0") == "0":  # of torchrun's processes one speaks
        _show(outcome, parameters.stopping_rules, as_json=as_json)


def _show(outcome: "PretrainOutcome", may_differ: Sequence[str], *, as_json: bool) -> None:
    """The result on stdout, and on stderr what can be done next."""
    if as_json:
        click.echo(json.dumps(asdict(outcome)))
        return
    from genesis_toolkit.cli.output import counted, show_table

    worse = outcome.validation_loss >= outcome.mean_image_loss
    rows = [
        (
            "status",
            f"{outcome.status}, after {counted(outcome.epochs, 'epoch')} (by {option(outcome.stopped_by)})",
        ),
        ("network", f"{outcome.network}, {outcome.weights:,} parameters"),
        ("cubes", f"{outcome.train_cubes} train, {outcome.validation_cubes} validate ({outcome.split})"),
        ("validation loss", f"{outcome.validation_loss:.5f} (epoch {outcome.best_epoch}, the best)"),
        ("  copying the input", f"{outcome.copy_loss:.5f}"),
        ("  the mean image", f"{outcome.mean_image_loss:.5f}{' (not reached yet)' if worse else ''}"),
        ("checkpoint", outcome.checkpoint),
        ("losses", outcome.losses),
        ("picture", outcome.picture),
    ]
    show_table(("pre-training", ""), rows)
    show_table(
        ("validation loss of the best epoch", "pairs", "network", "copying", "mean image"),
        [
            (name, f"{of['pairs']:.0f}", f"{of['loss']:.5f}", f"{of['copy']:.5f}", f"{of['mean_image']:.5f}")
            for name, of in outcome.by_degradation.items()
        ],
    )
    if outcome.status == "already finished":
        click.echo(f"Nothing was left to do in {outcome.run}.", err=True)
    limit = option(outcome.stopped_by)
    further = "repeat the command" if outcome.stopped_by in may_differ else "begin another run"
    click.echo(f"The picture shows what was restored. To train on, {further} with more {limit}.", err=True)
    click.echo(f"Next: genesis-train export {outcome.run} weights.pt --format official", err=True)


main.add_command(export)
main.add_command(finetune)
main.add_command(segment)
main.add_command(compare)


if __name__ == "__main__":
    main()
