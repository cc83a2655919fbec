"""The tables of a training run, printed when it ends and by `genesis-train info` at any time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genesis_toolkit.cli import output

Row = tuple[str, object]
_BASELINES = {"copying": "copy_loss", "mean image": "mean_image_loss", "best constant": "constant_loss"}
_WORDS = {
    "copying": "copying the input",
    "mean image": "the mean image",
    "best constant": "the best constant",
}


def pretraining_rows(facts: Mapping[str, Any]) -> list[Row]:
    """The rows of a pre-training run, as `PretrainOutcome` has its facts, that come after its network."""
    lowest, loss = facts["lowest_baseline"], facts["validation_loss"]
    rows: list[Row] = [
        ("cubes", f"{facts['train_cubes']} train, {facts['validation_cubes']} validate ({facts['split']})"),
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
    """Print the losses of the best epoch by how the pairs were degraded."""
    output.show_table(
        ("validation loss of the best epoch", "pairs", "network", "copying", "mean image"),
        [
            (name, f"{of['pairs']:.0f}", *(f"{of[key]:.5f}" for key in ("loss", "copy", "mean_image")))
            for name, of in facts["by_degradation"].items()
        ],
    )
