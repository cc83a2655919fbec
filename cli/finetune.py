"""`genesis-train finetune`: train a network on a target task, and evaluate it on the test fold."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

import genesis_toolkit as gt
from genesis_toolkit.cli import options, output
from genesis_toolkit.cli.errors import check_installed
from genesis_toolkit.cli.further import after_finetuning
from genesis_toolkit.cli.run_tables import show_finetuning_plan
from genesis_toolkit.pipeline.absent import check_store
from genesis_toolkit.pipeline.progress import TrainingBars
from genesis_toolkit.pipeline.wording import counted
from genesis_toolkit.training.finetune.parameters import FinetuneParameters, labels_words
from genesis_toolkit.training.pretrain.parameters import NETWORKS


@click.command(cls=options.Resumable, short_help="Fine-tune a network on a target task, and test it.")
@click.argument("targets")
@options.out_option
@options.grouped(
    "Network",
    options.option(
        "--weights",
        "Initial weights: a run, a checkpoint, an official .pt file or a ResNet-18. [default: from scratch]",
        options.path,
        metavar="W",
    ),
    options.option(
        "--network",
        "Architecture when training from scratch. [default: unet3d, or unet2d for images]",
        NETWORKS,
    ),
    options.option(
        "--width",
        "Number of channels of the first convolution. [default: the width of "
        "the given weights, else the published width]",
        int,
    ),
)
@options.finetuning_options
@options.grouped("Run", options.dry_run_training, options.overwrite_run, options.json_option)
def finetune(targets: str, out: Path, weights: Path | None, dry_run: bool, **given: Any) -> None:
    """Fine-tune a network on the task of TARGETS, and evaluate it on the test fold.

    TARGETS is a store from genesis-prep extract-targets, which also records the task. Classification uses the
    encoder with a new head, segmentation the whole network with a new last convolution. The network of the
    last step is evaluated on the test fold. RUN receives the result (result.json), that network (best.pt),
    the losses of every epoch (losses.jsonl) and a checkpoint (last.pt). Run the same command again to resume.

    \b
    Example:
      genesis-train finetune nodules.zarr --out scratch
      genesis-train finetune nodules.zarr --out finetuned --weights pretrained
      genesis-train finetune lungs.zarr --out few --weights pretrained \\
        --labels 10%
    """
    more: dict[str, Any] = {name: given.pop(name) for name in ("network", "width", "device", "overwrite")}
    parameters = FinetuneParameters.from_dict(given)
    check_installed("Fine-tuning", "finetune", "torch", "scipy")
    check_store(targets, "extract-targets")  # before torch is loaded
    if dry_run:
        from genesis_toolkit.training.finetune.plan import plan_finetuning

        show_finetuning_plan(targets, plan_finetuning(targets, out, parameters, weights=weights, **more))
        output.say_the_same_without("--dry-run")
        return
    with TrainingBars() as progress:
        more |= {"progress": progress, "say": progress.say}
        outcome = gt.finetune(targets, out, parameters, weights=weights, **more)
    output.print_json(asdict(outcome), targets)
    _show(outcome, parameters, targets, weights)


def _show(
    outcome: "gt.FinetuneOutcome", parameters: FinetuneParameters, targets: str, weights: Path | None
) -> None:
    """Print the result on stdout, and next steps on stderr."""
    one = "image" if len(gt.open_store(targets).size) == 2 else "cube"
    trained = counted(outcome.train_cubes, one)
    if one == "cube":
        trained += f" of {counted(outcome.train_scans, 'scan')}"
    rows = [
        ("network", f"{outcome.network}, width {outcome.width}, {outcome.weights:,} parameters"),
        ("initial weights", weights or "random (from scratch)"),
        ("trained on", f"{trained} (--labels {labels_words(parameters.labels)})"),
        ("validation loss", f"{outcome.validation_loss:.5f} ({_kept_words(outcome)})"),
        ("run", outcome.run),
    ]
    output.show_run("fine-tuning", outcome, rows)
    metrics = [
        (name, "-" if value is None else f"{value:.4f}", "main score" if name == outcome.metric else "")
        for name, value in outcome.metrics.items()
    ]
    output.show_table((f"{outcome.task}, {counted(outcome.test_cubes, f'test {one}')}", "value", ""), metrics)
    for step, scored in outcome.at_steps.items():
        output.say(f"After {counted(int(step), 'step')}: {outcome.metric} {scored['score']:.4f}")
    output.say(*(f"Note: {note}" for note in outcome.notes), err=True)
    if outcome.kind == "segment":
        output.say(f"To segment a whole scan: genesis-train segment {outcome.run} SCAN mask.nii.gz", err=True)
    output.say_next(*after_finetuning(targets, outcome.network, weights, options.given_options()))


def _kept_words(outcome: "gt.FinetuneOutcome") -> str:
    """Return which network was evaluated, in words."""
    if outcome.select == "last":
        return f"after the last of {counted(outcome.steps, 'step')}"
    return f"epoch {outcome.kept_epoch}, the best"
