"""What a run, at work or not, has come to so far: read from its folder, of which nothing is changed."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import is_held

#: The formats of `run.json`, and what made such a run.
KINDS = {"genesis-pretrain-run": "pretrain", "genesis-finetune-run": "finetune"}


@dataclass(frozen=True)
class SoFar:
    """A run so far.

    Attributes:
        folder: of the run.
        kind: `pretrain` or `finetune`.
        status: `running`, `finished`, or `stopped`: nobody works on it, and the same command goes on.
        stopped_by: the rule that ended a finished one, `epochs`, `patience` or `max_steps`.
        described: what `run.json` says.
        records: of the finished epochs, what `losses.jsonl` says of each.
        result: what a finished fine-tuning run scored, of `result.json`.
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
        """The epoch with the lowest validation loss, the first of several; in fine-tuning the one kept."""
        kept = [record for record in self.records if record.get("kept")]
        if kept:
            return kept[-1]
        judged = [record for record in self.records if record["validation_loss"] is not None]
        return min(judged, key=lambda record: record["validation_loss"], default=None)


def read_so_far(folder: Path) -> SoFar:
    """Read what a run of `genesis-train pretrain` or `finetune` has come to.

    Raises:
        CallError: there is no run.
        DataError: what the run is made of cannot be read.
    """
    if not folder.is_dir():
        raise CallError(f"There is no run at {folder}: name the folder that was given as --out.")
    try:
        described = json.loads((folder / "run.json").read_bytes())
    except FileNotFoundError:
        held = (
            "has not begun its first epoch yet: ask again soon" if is_held(folder) else "is no run's folder"
        )
        raise CallError(
            f"{folder} {held}; genesis-train pretrain and finetune make runs, and genesis-prep info is for "
            "stores."
        ) from None
    except ValueError:
        raise DataError(f"{folder / 'run.json'} is damaged: put a copy of it back.") from None
    kind = KINDS.get(str(described.get("format"))) if isinstance(described, dict) else None
    if kind is None:
        raise CallError(f"{folder} is no run of genesis-train pretrain or finetune: name another folder.")
    running = is_held(folder)  # before its losses are read, so that a finished one has all of them
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
    """The lines of finished epochs; the last one may be half written."""
    records: list[dict[str, Any]] = []
    with suppress(OSError, ValueError):
        for line in (folder / "losses.jsonl").read_text(encoding="utf-8").splitlines()[1:]:
            records.append(json.loads(line))
    return records


def _stopped_by(parameters: Mapping[str, Any], records: list[dict[str, Any]]) -> str | None:
    """The rule of stopping that holds after these epochs (`pretrain.loop.stopped_by`)."""
    if not records:
        return None
    limit, losses = parameters["max_steps"], [record["validation_loss"] for record in records]
    if limit is not None and sum(record["steps"] for record in records) >= limit:
        return "max_steps"
    if len(records) >= parameters["epochs"]:
        return "epochs"
    return "patience" if len(records) - 1 - losses.index(min(losses)) >= parameters["patience"] else None
