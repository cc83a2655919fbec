"""Cuts scans or images one by one, and records each in the ledger.

Cubes and targets share this, so resuming, assembling and adding new scans work the same way for both.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.engine import Workers
from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.hounsfield import GreyLevels, HounsfieldValues
from genesis_toolkit.pipeline.job import Facts, run_missing
from genesis_toolkit.pipeline.ledger import SEAL, Ledger, sha256_of
from genesis_toolkit.pipeline.scans.files import named
from genesis_toolkit.pipeline.scans.find import Source
from genesis_toolkit.pipeline.scans.read import scan_files
from genesis_toolkit.pipeline.scans.readers import readers
from genesis_toolkit.pipeline.store.shards import encode_cube

Parameters = TypeVar("Parameters", bound=HounsfieldValues | GreyLevels, covariant=True)
Task = TypeVar("Task", bound="CutTask[Any]")

#: Exceptions that unreadable files can raise; `why` words them.
UNREADABLE = (DataError, OSError, ValueError, MemoryError)

#: Table entries of a scan that was not read.
NOTHING_KNOWN: Facts = {
    "sha256": "",
    "reason": "",
    "shape": [0] * 3,
    "spacing": [0.0] * 3,
    "origin": [0.0] * 3,
    "direction": [0.0] * 9,
}

_MOST_REASONS = 20
_DIED = (
    "reading the scan killed the process, even without other scans at the same time: the "
    "file is broken, or memory ran out"
)


@dataclass(frozen=True)
class CutTask(Generic[Parameters]):
    """One scan or image to cut, with its location, its source, and the parameters."""

    path: Path
    source: Source
    parameters: Parameters

    @property
    def name(self) -> str:
        """Return the name of its record in the ledger."""
        return sha256_of(self.source.path.encode(errors="surrogateescape"))[:32]

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the files it is cut from: the scan first, then its masks."""
        return (self.path,)

    def states(self) -> list[list[int]]:
        """Return size and time of the files, which reveal later changes."""
        return [list(file_state(path, mr=self.parameters.mr)) for path in self.files]


@dataclass(frozen=True)
class Cut:
    """The cubes of one scan.

    Attributes:
        sha256: sha256 of its files; empty if they were not read.
        facts: further entries of its record: geometry, status and reason.
        corners: int32 [cube, 3].
        cubes: the store's dtype each, C-contiguous.
        tissue: the rule's score of each; empty if not requested.
        labels: one row per cube, 0 or 1 per class; empty if there are none.
        masks: uint8 each, 1 foreground, C-contiguous; empty if there are none.
    """

    sha256: str
    facts: Mapping[str, Any]
    corners: NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 3), np.int32))
    cubes: Sequence[NDArray[Any]] = ()
    tissue: Sequence[float] = ()
    labels: Sequence[Sequence[int]] = ()
    masks: Sequence[NDArray[np.uint8]] = ()


@dataclass(frozen=True)
class Outcome:
    """Outcome of one scan: `used`, `skipped` or `failed`, and the reason."""

    path: str
    status: str
    reason: str


def why(error: Exception) -> str:
    """Return why a scan, or its mask, cannot be read, in words that follow its name."""
    return str(error) if isinstance(error, DataError) else f"the file cannot be read: {error}"


def file_state(path: Path, *, came: bool = False, mr: bool = False) -> tuple[int, int]:
    """Return the size of a scan's files, and the latest modification time in ns; zeros if unknown.

    With `came` the time when a file was moved into place counts as well. For `mr` see `read_scan`.
    """
    try:
        states = [file.stat() for file in scan_files(path, mr)]
    except (DataError, OSError):
        return 0, 0
    return sum(state.st_size for state in states), max(
        max(state.st_mtime_ns, state.st_ctime_ns * came) for state in states
    )


def is_same(task: CutTask[Any], record: Facts) -> bool:
    """Return whether a scan's files are those of a record."""
    return bool(record["states"] == task.states())


def cut_all(
    workers: Workers,
    ledger: Ledger,
    noun: str,
    tasks: Sequence[Task],
    cut: Callable[[Task], Cut],
    on_record: Callable[[Facts], None] | None = None,
) -> None:
    """Cut every scan that no earlier run has cut, stage its cubes and record it.

    Args:
        workers, ledger: see `run_missing`.
        noun: what is cut, `scan` or `image`.
        tasks: one per scan.
        cut: cuts one; raises one of `UNREADABLE` if it cannot be read.
        on_record: receives each record.
    """
    by_name, make = {task.name: task for task in tasks}, partial(cut_and_stage, ledger, cut)
    which: dict[str, Any] = {"is_true": is_same, "suited": suited_readers, "lost": _lost}
    run_missing(workers, ledger, f"{noun}s", by_name, make, on_record=on_record, **which)


def suited_readers(workers: Workers, tasks: Sequence[CutTask[Any]]) -> Workers:
    """Return the kind of workers that suits the scans to be read."""
    sound = [task for task in tasks if not (task.source.problem or task.source.skip)]
    paths = (path for task in sound for path in task.files)
    return readers(workers, paths, sound[0].parameters if sound else None)


def cut_and_stage(ledger: Ledger, cut: Callable[[Task], Cut], task: Task) -> Facts:
    """Cut one scan, from its file to its staged cubes, in any process; return its record."""
    record, small = _blank_record(task), isinstance(task.parameters, GreyLevels)
    if small:  # an image takes milliseconds, as long as flushing to disk
        record[SEAL] = 0
    if record["reason"]:
        return record
    try:
        given = cut(task)
    except UNREADABLE as error:
        return record | {"reason": why(error)}
    record |= {"status": "used", "reason": "", **given.facts, "sha256": given.sha256}
    if not given.cubes:
        return record
    chunks, masks = [encode_cube(cube) for cube in given.cubes], [encode_cube(mask) for mask in given.masks]
    if small:
        record[SEAL] = crc32(b"".join((*chunks, *masks)))
    ledger.write(ledger.staged(task.name), [*chunks, *masks], flush=not small)
    record |= {"corners": given.corners.tolist(), "tissue": list(given.tissue)}
    record |= {"targets": [list(row) for row in given.labels]}
    return record | {"chunks": list(map(len, chunks)), "mask_chunks": list(map(len, masks))}


def nothing_given(
    ledger: Ledger,
    tasks: Sequence[CutTask[Any]],
    noun: str,
    changes: Mapping[str, Facts],
    advice: Mapping[str, Sequence[str]] | None = None,
) -> DataError | None:
    """Return an error that explains why no scan gave a cube, failed scans first; None if one did.

    `changes` override recorded entries. `advice` maps words in the reason of a skipped scan to hints, which
    are only given if they occur, each once; no setting helps if no file can be read.
    """
    outcomes, names = [], [task.name for task in tasks]
    for task, record in zip(tasks, ledger.records(names), strict=True):
        if record["chunks"] and task.name not in changes:
            return None
        record = record | changes.get(task.name, {})
        outcomes.append(Outcome(named(record["path"], task.path), record["status"], record["reason"]))
    outcomes.sort(key=lambda outcome: outcome.status != "failed")
    reasons = [f"  {one.path}: {one.status}, {one.reason}" for one in outcomes[:_MOST_REASONS]]
    more = f"  and {len(tasks) - _MOST_REASONS} more" if len(tasks) > _MOST_REASONS else ""
    skipped = [one.reason for one in outcomes if one.status == "skipped"]
    ways = [way for words, way in (advice or {}).items() if any(words in reason for reason in skipped)]
    said = (
        f"No {noun} gave a cube, so no store was made.",
        *reasons,
        more,
        " ".join(sorted(set(chain(*ways)))),
    )
    return DataError("\n".join(filter(None, said)))


def _blank_record(task: CutTask[Any]) -> Facts:
    """Return the record of a scan of which only the location is known."""
    states = task.states()
    record: Facts = {**NOTHING_KNOWN, **asdict(task.source), "bytes": states[0][0], "states": states}
    skip, problem, _ = record.pop("skip"), record.pop("problem"), record.pop("known")  # may contain names
    record |= {"status": "skipped" if skip else "failed", "reason": skip or problem}
    record |= {"window": [0.0, 0.0]} if task.parameters.maps else {}
    record |= {"inverted": False} if task.parameters.maps and isinstance(task.parameters, GreyLevels) else {}
    return record | {name: [] for name in ("corners", "tissue", "targets", "chunks", "mask_chunks")}


def _lost(task: CutTask[Any]) -> Facts:
    """Return the record of a scan that killed its process."""
    return _blank_record(task) | {"status": "failed", "reason": _DIED}
