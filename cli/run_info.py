"""`genesis-train info`: what a run has come to so far. (`info.py` is that of genesis-prep, for stores.)"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genesis_toolkit.cli import options, output
from genesis_toolkit.cli.run_tables import Row, pretraining_rows, show_degradations
from genesis_toolkit.pipeline.wording import counted, duration
from genesis_toolkit.training.machine.options import option as option_name

if TYPE_CHECKING:
    from genesis_toolkit.training.machine.so_far import SoFar

_MEASURED = {"copying": "copy", "mean image": "mean_image", "best constant": "constant"}


@click.command(name="info", cls=options.Command, short_help="Show status and results of a run.")
@click.argument("run", type=options.path)
@options.json_option
def run_info(run: Path) -> None:
    """Show the status and results of RUN, whether it is running, stopped or finished.

    RUN is the folder of a pre-training or fine-tuning run. The table is the one printed at the end of the
    run. The command changes nothing in the folder.

    \b
    Examples:
      genesis-train info run
      genesis-train info run --json
    """
    from genesis_toolkit.training.machine.so_far import read_so_far

    told = read_so_far(run)
    facts = _facts(told)
    output.print_json(facts)
    title = "pre-training" if told.kind == "pretrain" else "fine-tuning"
    rows: list[Row] = [("status", _status(told)), ("network", f"{facts['network']}, width {facts['width']}")]
    if told.records:
        rows += _last_epoch(told)
    if told.kind == "pretrain" and told.records:
        rows += pretraining_rows(facts)
    elif told.kind == "finetune":
        rows += _finetuning_rows(told)
    output.show_table((title, ""), rows)
    if told.kind == "pretrain" and told.records:
        show_degradations(facts)
    elif told.result:
        metrics = {name: value for name, value in told.result["metrics"].items() if value is not None}
        output.show_table(
            (f"{told.result['task']}, test fold", "value"),
            [(name, f"{metrics[name]:.4f}") for name in metrics],
        )


def _facts(told: "SoFar") -> dict[str, Any]:
    """All that is known, as plain JSON values; those of pre-training by the names of `PretrainOutcome`."""
    described, best = told.described, told.best or {}
    parameters = described["parameters"]
    facts: dict[str, Any] = {
        "run": str(told.folder),
        "command": f"genesis-train {told.kind}",
        "status": told.status,
        "stopped_by": told.stopped_by,
        "store": described["store"]["path"],
        "parameters": parameters,
        "network": parameters["network"],
        "width": parameters["width"],
        "epochs": len(told.records),
        "best_epoch": best.get("epoch"),
        "validation_loss": best.get("validation_loss"),
        "last_epoch": told.records[-1] if told.records else None,
        "seconds": sum(record["seconds"] for record in told.records),
    }
    if told.kind == "finetune":
        return facts | {"result": told.result}
    curves = told.folder / "losses.png"
    baselines, losses = described["baselines"], best.get("by_degradation", {})
    return facts | {
        "copy_loss": baselines["copy"],
        "mean_image_loss": baselines["mean_image"],
        "constant_loss": baselines["constant"],
        "lowest_baseline": min(_MEASURED, key=lambda name: float(baselines[_MEASURED[name]])),
        "by_degradation": {
            name: {**baselines["by_degradation"][name], "loss": loss} for name, loss in losses.items()
        },
        **{name: described[name] for name in ("train_cubes", "validation_cubes", "split")},
        "checkpoint": str(told.folder / "best.pt"),
        "losses": str(told.folder / "losses.jsonl"),
        "curves": str(curves) if curves.exists() else None,  # an older version drew none
        "picture": str(told.folder / "restored.png"),
    }


def _status(told: "SoFar") -> str:
    """`running, 3 epochs finished of at most 100`."""
    epochs = counted(len(told.records), "epoch")
    if told.stopped_by:
        return f"finished, after {epochs} (by {option_name(told.stopped_by)})"
    most = told.described["parameters"]["epochs"]  # None where the steps are counted
    finished = f"{epochs} finished" + (f" of at most {most:,}" if most else "")
    return f"{told.status}, {finished}" + ("; the same command goes on" if told.status == "stopped" else "")


def _last_epoch(told: "SoFar") -> list[Row]:
    """What the latest epoch gave, and how long all of them took."""
    last = told.records[-1]
    took = duration(sum(record["seconds"] for record in told.records))
    judged = last["validation_loss"]  # not of every epoch of fine-tuning
    validation = "" if judged is None else f", validation {judged:.5f}"
    return [
        ("last epoch", f"train {last['train_loss']:.5f}{validation}"),
        ("time", f"{duration(last['seconds'])} the last epoch, {took} all of them"),
    ]


def _finetuning_rows(told: "SoFar") -> list[Row]:
    """Of a fine-tuning run, what it began with, and its best epoch."""
    file, best = told.described["beginning"]["file"], told.best
    rows: list[Row] = [("begun with", f"the weights of {file}" if file else "nothing: from scratch")]
    if best and best["validation_loss"] is not None:
        rows.append(("validation loss", f"{best['validation_loss']:.5f} (epoch {best['epoch']}, kept)"))
    return rows
