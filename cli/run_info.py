"""`genesis-train info`: show the progress of a run. (`info.py` is that of genesis-prep, for stores.)"""

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


@click.command(name="info", cls=options.Command, short_help="Show the status and results of a run.")
@click.argument("run", type=options.path)
@options.json_option
def run_info(run: Path) -> None:
    """Show the results of RUN, and whether it is running, stopped or finished.

    RUN is the folder of a pre-training or fine-tuning run. The table is the one printed at the end of the
    run. The command changes nothing in the folder.

    \b
    Examples:
      genesis-train info run
      genesis-train info run --json
    """
    from genesis_toolkit.training.machine.so_far import read_so_far

    so_far = read_so_far(run)
    facts = _facts(so_far)
    output.print_json(facts)
    title = "pre-training" if so_far.kind == "pretrain" else "fine-tuning"
    rows: list[Row] = [
        ("status", _status(so_far)),
        ("network", f"{facts['network']}, width {facts['width']}"),
    ]
    if so_far.records:
        rows += _last_epoch(so_far)
    if so_far.kind == "pretrain" and so_far.records:
        rows += pretraining_rows(facts)
    elif so_far.kind == "finetune":
        rows += _finetuning_rows(so_far)
    output.show_table((title, ""), rows)
    if so_far.kind == "pretrain" and so_far.records:
        show_degradations(facts)
    elif so_far.result:
        metrics = {name: value for name, value in so_far.result["metrics"].items() if value is not None}
        output.show_table(
            (f"{so_far.result['task']}, test fold", "value"),
            [(name, f"{metrics[name]:.4f}") for name in metrics],
        )


def _facts(so_far: "SoFar") -> dict[str, Any]:
    """Return all facts as plain JSON values; those of pre-training have the names in `PretrainOutcome`."""
    described, best = so_far.described, so_far.best or {}
    parameters = described["parameters"]
    facts: dict[str, Any] = {
        "run": str(so_far.folder),
        "command": f"genesis-train {so_far.kind}",
        "status": so_far.status,
        "stopped_by": so_far.stopped_by,
        "store": described["store"]["path"],
        "parameters": parameters,
        "network": parameters["network"],
        "width": parameters["width"],
        "epochs": len(so_far.records),
        "best_epoch": best.get("epoch"),
        "validation_loss": best.get("validation_loss"),
        "last_epoch": so_far.records[-1] if so_far.records else None,
        "seconds": sum(record["seconds"] for record in so_far.records),
    }
    if so_far.kind == "finetune":
        return facts | {"result": so_far.result}
    curves = so_far.folder / "losses.png"
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
        "checkpoint": str(so_far.folder / "best.pt"),
        "losses": str(so_far.folder / "losses.jsonl"),
        "curves": str(curves) if curves.exists() else None,  # older versions drew none
        "picture": str(so_far.folder / "restored.png"),
    }


def _status(so_far: "SoFar") -> str:
    """Return the status in words: `running, 3 epochs finished of at most 100`."""
    epochs = counted(len(so_far.records), "epoch")
    if so_far.stopped_by:
        return f"finished, after {epochs} (by {option_name(so_far.stopped_by)})"
    most = so_far.described["parameters"]["epochs"]  # None if steps are counted
    finished = f"{epochs} finished" + (f" of at most {most:,}" if most else "")
    return f"{so_far.status}, {finished}" + (
        "; the same command resumes it" if so_far.status == "stopped" else ""
    )


def _last_epoch(so_far: "SoFar") -> list[Row]:
    """Return the losses of the latest epoch, and the time it and all epochs took."""
    last = so_far.records[-1]
    took = duration(sum(record["seconds"] for record in so_far.records))
    judged = last["validation_loss"]  # fine-tuning does not validate after every epoch
    validation = "" if judged is None else f", validation {judged:.5f}"
    return [
        ("last epoch", f"train {last['train_loss']:.5f}{validation}"),
        ("time", f"{duration(last['seconds'])} for the last epoch, {took} for all"),
    ]


def _finetuning_rows(so_far: "SoFar") -> list[Row]:
    """Return the initial weights and the best epoch of a fine-tuning run."""
    file, best = so_far.described["beginning"]["file"], so_far.best
    rows: list[Row] = [("initial weights", file or "random (from scratch)")]
    if best and best["validation_loss"] is not None:
        rows.append(("validation loss", f"{best['validation_loss']:.5f} (epoch {best['epoch']}, kept)"))
    return rows
