"""Read the progress of a run, training or not, from its folder, without changing anything there."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import is_held

#: The formats of `run.json`, and the command that writes each.
KINDS = {"genesis-pretrain-run": "pretrain", "genesis-finetune-run": "finetune"}


@dataclass(frozen=True)
class SoFar:
    """The progress of a run.

    Attributes:
        folder: the run folder.
        kind: `pretrain` or `finetune`.
        status: `running`, `finished`, or `stopped`: no process is working on it; the same command resumes.
        stopped_by: the rule that ended a finished run: `epochs`, `patience` or `max_steps`.
        described: content of `run.json`.
        records: lines of `losses.jsonl`, one per finished epoch.
        result: scores of a finished fine-tuning run, the content of `result.json`.
    """

    folder: Path
    kind: str
    status: str
    stopped_by: str | None
    described: dict[str, Any]
    records: list[dict[str, Any]]
    result: dict[str, Any] | None

    @property
    def best(self) -> dict[str, Any] | None:
        """The epoch with the lowest validation loss, the first if tied; in fine-tuning the one kept."""
        kept = [record for record in self.records if record.get("kept")]
        if kept:
            return kept[-1]
        judged = [record for record in self.records if record["validation_loss"] is not None]
        return min(judged, key=lambda record: record["validation_loss"], default=None)


def read_so_far(folder: Path) -> SoFar:
    """Read the progress of a run of `genesis-train pretrain` or `finetune`.

    Raises:
        CallError: there is no run.
        DataError: the description of the run cannot be read.
    """
    if not folder.is_dir():
        raise CallError(f"There is no run at {folder}: give the folder that was used as --out.")
    try:
        described = json.loads((folder / "run.json").read_bytes())
    except FileNotFoundError:
        held = (
            "is a run that has not started its first epoch yet: try again soon"
            if is_held(folder)
            else "is not a run folder"
        )
        raise CallError(
            f"{folder} {held}. Runs are made by genesis-train pretrain and finetune; for a "
            "store, use genesis-prep info."
        ) from None
    except ValueError:
        raise DataError(f"{folder / 'run.json'} is damaged: restore the file from a copy.") from None
    kind = KINDS.get(str(described.get("format"))) if isinstance(described, dict) else None
    if kind is None:
        raise CallError(
            f"{folder} is not a run of genesis-train pretrain or finetune: choose another folder."
        )
    running = is_held(folder)  # checked before reading the losses, so that a finished run has all of them
    records, result = list(_records(folder)), None
    if kind == "finetune":
        with suppress(OSError, ValueError):
            result = json.loads((folder / "result.json").read_bytes())
        ended = result["stopped_by"] if result else None
    else:
        ended = _stopped_by(described["parameters"], records)
    status = "running" if running else "finished" if ended else "stopped"
    return SoFar(folder, kind, status, None if running else ended, described, records, result)


def _records(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of finished epochs; skip a last one that is half written."""
    records: list[dict[str, Any]] = []
    with suppress(OSError, ValueError):
        for line in (folder / "losses.jsonl").read_text(encoding="utf-8").splitlines()[1:]:
            records.append(json.loads(line))
    return records


def _stopped_by(parameters: Mapping[str, Any], records: list[dict[str, Any]]) -> str | None:
    """Return the stopping rule that applies after these epochs (`pretrain.loop.stopped_by`)."""
    if not records:
        return None
    limit, losses = parameters["max_steps"], [record["validation_loss"] for record in records]
    if limit is not None and sum(record["steps"] for record in records) >= limit:
        return "max_steps"
    if len(records) >= parameters["epochs"]:
        return "epochs"
    return "patience" if len(records) - 1 - losses.index(min(losses)) >= parameters["patience"] else None
