"""The tables of a training run: before it starts, while it runs, and when it ends."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genesis_toolkit.cli import output
from genesis_toolkit.pipeline.wording import counted, value_words

if TYPE_CHECKING:
    from genesis_toolkit.training.finetune.plan import FinetunePlan
    from genesis_toolkit.training.pretrain.plan import PretrainPlan

Row = tuple[str, object]
_BASELINES = {"copying": "copy_loss", "mean image": "mean_image_loss", "best constant": "constant_loss"}
_WORDS = {
    "copying": "copying the input",
    "mean image": "the mean image",
    "best constant": "the best constant",
}


def pretraining_rows(facts: Mapping[str, Any]) -> list[Row]:
    """Return the rows of a pre-training run, from the facts of `PretrainOutcome`, after its network."""
    lowest, loss = facts["lowest_baseline"], facts["validation_loss"]
    rows: list[Row] = [
        ("cubes", _cubes(facts["train_cubes"], facts["validation_cubes"], facts["split"])),
        ("validation loss", f"{loss:.5f} (epoch {facts['best_epoch']}, the best)"),
    ]
    for name, key in _BASELINES.items():
        reached = "" if loss < facts[key] else ", not reached yet"
        note = f" (the lowest{reached})" if name == lowest else ""
        rows.append((f"  {_WORDS[name]}", f"{facts[key]:.5f}{note}"))
    drawn = f", drawn in {Path(facts['curves']).name}" if facts["curves"] else ""
    return [
        *rows,
        ("checkpoint", facts["checkpoint"]),
        ("losses", facts["losses"] + drawn),
        ("picture", facts["picture"]),
    ]


def show_degradations(facts: Mapping[str, Any]) -> None:
    """Print the losses of the best epoch for each combination of degradations."""
    output.show_table(
        ("validation loss of the best epoch", "pairs", "network", "copying", "mean image"),
        [
            (name, f"{of['pairs']:.0f}", *(f"{of[key]:.5f}" for key in ("loss", "copy", "mean_image")))
            for name, of in facts["by_degradation"].items()
        ],
    )


def show_pretraining_plan(store: str, plan: "PretrainPlan") -> None:
    """Print the result of a dry run of pre-training."""
    processes = "" if plan.processes == 1 else f", {plan.processes} processes that share each batch"
    rows = [
        ("run", f"{plan.run}: {plan.status}"),
        ("device", plan.device + processes),
        ("network", f"{plan.network}, width {plan.width}, {plan.weights:,} parameters"),
        ("cubes", _cubes(plan.train_cubes, plan.validation_cubes, plan.split)),
        ("optimiser", f"{plan.optimiser}, learning rate {plan.lr:g}, batches of {plan.batch_size}"),
        ("steps", f"{plan.steps:,} per epoch, at most {counted(plan.epochs, 'epoch')}"),
        *_memory_rows(plan.model_bytes, plan.batch_bytes),
        ("last.pt", output.size_of(plan.checkpoint_bytes)),
        ("files", ", ".join(plan.files)),
    ]
    output.say(*(f"Warning: {plan.warning}" for _ in range(plan.warning is not None)), err=True)
    output.show_plan(Path(store), asdict(plan), rows)


def show_finetuning_plan(targets: str, plan: "FinetunePlan") -> None:
    """Print the result of a dry run of fine-tuning."""
    first = plan.beginning["file"]
    given = ", ".join(
        f"{'' if value is not False else 'no '}{name.replace('_', ' ')}{_value(value)}"
        for name, value in plan.parameters.items()
        if value not in (None, [])
    )
    cubes = f"{plan.train_cubes:,} train, {plan.validation_cubes:,} validate, {plan.test_cubes:,} test"
    rows = [
        ("run", f"{plan.run}: {plan.status}"),
        ("device", plan.device),
        ("task", plan.task),
        ("network", f"{plan.network}, width {plan.width}, {plan.weights:,} parameters"),
        ("initial weights", first or "random (from scratch)"),
        ("cubes", cubes),
        ("parameters", given),
        ("steps", f"{plan.steps:,} per epoch"),
        *_memory_rows(plan.model_bytes, plan.batch_bytes),
        ("files", ", ".join(plan.files)),
    ]
    output.show_plan(Path(targets), asdict(plan), rows)


def _value(value: Any) -> str:
    """Return the value of a parameter behind its name; that of a switch is in its name."""
    return "" if isinstance(value, bool) else f" {value_words(value)}"


def _cubes(train: int, validate: int, split: str) -> str:
    return f"{train:,} train, {validate:,} validate ({split})"


def _memory_rows(model: int, batch: int) -> list[tuple[str, str]]:
    """Return the rows on the device memory that training needs, as far as it is known."""
    return [
        ("memory, model", f"{output.size_of(model)} with gradients and optimiser"),
        ("memory, batch", f"about {output.size_of(batch)} in float32, plus what kernels need"),
    ]
