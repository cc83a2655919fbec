"""`genesis-train finetune`: a network learns a target task, and the test fold judges it."""

import json
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genesis_toolkit.cli.packages import check_installed
from genesis_toolkit.cli.progress import TrainingProgress
from genesis_toolkit.training.finetune.parameters import FinetuneParameters, labels_words, parse_labels
from genesis_toolkit.training.pretrain.parameters import NETWORKS, option

if TYPE_CHECKING:
    from genesis_toolkit.training.finetune.run import FinetuneOutcome

_DEFAULT = FinetuneParameters()


class Labels(click.ParamType[float | int]):
    """A share of the training scans, or a number of them."""

    name = "10%|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | int:
        """What `parse_labels` makes of it."""
        return parse_labels(value) if isinstance(value, str) else value


def finetuning_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that `FinetuneParameters` is made of, and `--device`, for a command that fine-tunes."""
    for one in (
        click.option(
            "--device",
            default="auto",
            show_default=True,
            type=click.Choice(["auto", "cpu", "cuda"]),
            help="Where to train; auto takes CUDA where there is one.",
        ),
        click.option(
            "--seed",
            default=_DEFAULT.seed,
            show_default=True,
            help="Of the labelled scans, the first weights and the order.",
        ),
        click.option("--lr", default=_DEFAULT.lr, show_default=True, help="Adam's learning rate."),
        click.option(
            "--batch-size", default=_DEFAULT.batch_size, show_default=True, help="Cubes a batch, at most."
        ),
        click.option(
            "--patience",
            default=_DEFAULT.patience,
            show_default=True,
            help="Stop after so many epochs without a better validation loss.",
        ),
        click.option("--epochs", default=_DEFAULT.epochs, show_default=True, help="At most so many epochs."),
        click.option(
            "--freeze-encoder", is_flag=True, help="Train the head, or the way up, only: a linear probe."
        ),
        click.option(
            "--labels",
            type=Labels(),
            default=labels_words(_DEFAULT.labels),
            show_default=True,
            metavar="10%|N",
            help="Train on this share of the training scans, or on so many of them.",
        ),
    ):
        command = one(command)
    return command


def parameters_of(options: dict[str, Any]) -> FinetuneParameters:
    """Take the parameters out of what `finetuning_options` gave; the rest stays.

    Raises:
        CallError: a value is out of range.
    """
    return FinetuneParameters(**{one.name: options.pop(one.name) for one in fields(FinetuneParameters)})


@click.command(short_help="Weights -> a target task, learnt and judged.")
@click.argument("targets")
@click.option(
    "--out", required=True, metavar="RUN", type=click.Path(path_type=Path), help="The folder of the run."
)
@click.option(
    "--weights",
    metavar="W",
    type=click.Path(path_type=Path),
    help="Weights to begin with: a run, a checkpoint, the authors' .pt, or a ResNet-18.  [default: scratch]",
)
@click.option(
    "--network",
    type=click.Choice(NETWORKS),
    help="From scratch: which network.  [default: unet3d, or unet2d for images]",
)
@click.option("--width", type=int, help="From scratch: channels of the first convolution.")
@finetuning_options
@click.option("--overwrite", is_flag=True, help="Begin again, and throw an earlier run in --out away.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def finetune(
    targets: str,
    out: Path,
    weights: Path | None,
    network: str | None,
    width: int | None,
    device: str,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Fine-tune a network on the task of TARGETS, and judge it on the test fold.

    TARGETS is a store that genesis-prep extract-targets made; it tells the task. A classifier is the encoder
    with a new head, a segmenter the whole network with a new last convolution. The epoch with the lowest
    validation loss is judged once on the test fold: RUN gets the result (result.json), the checkpoints
    (best.pt, last.pt) and the losses of every epoch (losses.jsonl). Interrupted, the same command goes on.

    \b
    Example:
      genesis-train finetune nodules.zarr --out scratch
      genesis-train finetune nodules.zarr --out genesis --weights run
      genesis-train finetune lungs.zarr --out few --weights run --labels 10%
    """
    parameters = parameters_of(options)
    check_installed("Fine-tuning", "finetune", "torch", "scipy")
    from genesis_toolkit.training.finetune.loop import finetune as tune

    with TrainingProgress() as progress:
        outcome = tune(
            targets,
            out,
            parameters,
            weights=weights,
            network=network,
            width=width,
            device=device,
            overwrite=overwrite,
            report=progress,
            say=progress.say,
        )
    if as_json:
        click.echo(json.dumps(asdict(outcome)))
        return
    _show(outcome, parameters, targets, weights)


def _show(
    outcome: "FinetuneOutcome", parameters: FinetuneParameters, targets: str, weights: Path | None
) -> None:
    """The result on stdout, and on stderr what can be done next."""
    from genesis_toolkit.cli.output import counted, show_table

    one = "image" if outcome.task == "dxc" else "cube"
    trained = counted(outcome.train_cubes, one)
    if one == "cube":
        trained += f" of {counted(outcome.train_scans, 'scan')}"
    stopped = f"after {counted(outcome.epochs, 'epoch')} (by {option(outcome.stopped_by)})"
    show_table(
        ("fine-tuning", ""),
        [
            ("status", f"{outcome.status}, {stopped}"),
            ("network", f"{outcome.network}, width {outcome.width}, {outcome.weights:,} parameters"),
            ("begun with", f"the weights of {weights}" if weights else "nothing: from scratch"),
            ("trained on", f"{trained} (--labels {labels_words(parameters.labels)})"),
            ("validation loss", f"{outcome.validation_loss:.5f} (epoch {outcome.best_epoch}, the best)"),
            ("run", outcome.run),
        ],
    )
    rows = [
        (name, "-" if value is None else f"{value:.4f}", "the task's own" if name == outcome.metric else "")
        for name, value in outcome.metrics.items()
    ]
    show_table((f"{outcome.task}, {counted(outcome.test_cubes, f'test {one}')}", "value", ""), rows)
    for note in outcome.notes:
        click.echo(f"Note: {note}", err=True)
    if outcome.status == "already finished":
        click.echo(f"Nothing was left to do in {outcome.run}.", err=True)
    if outcome.kind == "segment":
        click.echo(f"A whole scan: genesis-train segment {outcome.run} SCAN mask.nii.gz", err=True)
    scratch = "scratch-2d" if outcome.network == "unet2d" else "scratch-3d"
    if weights is None:
        click.echo(f"Next: genesis-train finetune {targets} --out other --weights WEIGHTS", err=True)
    else:
        arms = f"--arm {scratch} --arm pretrained={weights}"
        click.echo(f"Next: genesis-train compare {targets} --out comparison {arms}", err=True)
