"""What a scan or image is to give, what it gave, and what the ledger notes of it.

Cubes and targets share this, so that resuming, assembling and taking in what is new work alike for both.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
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

#: What reading a strange file leads to; `why` says it in words.
UNREADABLE = (DataError, OSError, ValueError, MemoryError)

#: What stands in the table of scans of one that was not read.
NOTHING_KNOWN: Facts = {
    "sha256": "",
    "reason": "",
    "shape": [0] * 3,
    "spacing": [0.0] * 3,
    "origin": [0.0] * 3,
    "direction": [0.0] * 9,
}

_MOST_REASONS = 20
_DIED = "the process that worked on it died, alone as well: the file is broken, or memory is too short"


@dataclass(frozen=True)
class CutTask(Generic[Parameters]):
    """One scan or image to cut: where it is, as which source it was found, and what is cut."""

    path: Path
    source: Source
    parameters: Parameters

    @property
    def name(self) -> str:
        """Of its record in the ledger."""
        return sha256_of(self.source.path.encode(errors="surrogateescape"))[:32]

    @property
    def files(self) -> tuple[Path, ...]:
        """What it is cut from: the scan first, then its masks."""
        return (self.path,)

    def states(self) -> list[list[int]]:
        """Bytes and time of the files, which tell whether they were changed since."""
        return [list(file_state(path, mr=self.parameters.mr)) for path in self.files]


@dataclass(frozen=True)
class Cut:
    """What a scan gave.

    Attributes:
        sha256: of its files; empty where they were not read.
        facts: what its record says besides: its geometry, a status and a reason.
        corners: int32 [cube, 3].
        cubes: the store's dtype each, C-contiguous.
        tissue: the rule's score of each; empty where it was not asked.
        labels: one row a cube, 0 or 1 a class; empty where there are none.
        masks: uint8 each, 1 foreground, C-contiguous; empty where there are none.
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
    """What came of one scan, in a few words: `used`, `skipped` or `failed`, and why."""

    path: str
    status: str
    reason: str


def why(error: Exception) -> str:
    """Why a scan, or its mask, cannot be read, in words to go after its name."""
    return str(error) if isinstance(error, DataError) else f"it cannot be read: {error}"


def file_state(path: Path, *, came: bool = False, mr: bool = False) -> tuple[int, int]:
    """Bytes of a scan's files, and when the latest was changed, in ns; zeros where that cannot be told.

    With `came` also when it came to its place, though it may have been written before. `mr` is as for
    `read_scan`.
    """
    try:
        states = [file.stat() for file in scan_files(path, mr)]
    except (DataError, OSError):
        return 0, 0
    return sum(state.st_size for state in states), max(
        max(state.st_mtime_ns, state.st_ctime_ns * came) for state in states
    )


def is_same(task: CutTask[Any], record: Facts) -> bool:
    """Whether a scan's files are those that a record is of."""
    return bool(record["states"] == task.states())


def cut_all(
    workers: Workers,
    ledger: Ledger,
    noun: str,
    tasks: Sequence[Task],
    cut: Callable[[Task], Cut],
    told: Callable[[Facts], None] | None = None,
) -> None:
    """Cut every scan that no earlier run has cut, and stage and note what it gave.

    Args:
        workers, ledger: as for `run_missing`.
        noun: what is cut, `scan` or `image`.
        tasks: one a scan.
        cut: cuts one; raises one of `UNREADABLE` where it cannot be read.
        told: each record.
    """
    by_name, make = {task.name: task for task in tasks}, partial(cut_and_stage, ledger, cut)
    which: dict[str, Any] = {"is_true": is_same, "suited": suited_readers, "lost": _lost}
    run_missing(workers, ledger, f"{noun}s", by_name, make, told=told, **which)


def suited_readers(workers: Workers, tasks: Sequence[CutTask[Any]]) -> Workers:
    """The kind of workers that suits the scans to be read."""
    sound = [task for task in tasks if not (task.source.problem or task.source.skip)]
    paths = (path for task in sound for path in task.files)
    return readers(workers, paths, sound[0].parameters if sound else None)


def cut_and_stage(ledger: Ledger, cut: Callable[[Task], Cut], task: Task) -> Facts:
    """Cut one scan, from its file to its staged cubes, in whatever process; what its record says."""
    record, small = _blank_record(task), isinstance(task.parameters, GreyLevels)
    if small:  # an image takes milliseconds, a flush of the disk as long
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
    advice: Mapping[str, str] | None = None,
) -> DataError | None:
    """The error that says why no scan gave a cube, failed scans first; None where one did.

    `changes` stand in place of what is recorded. `advice` has what helps, by words in the reason of a scan
    that was skipped: only where one has them does it help, and where no file can be read no setting does.
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
    helps = {way for words, way in (advice or {}).items() if any(words in reason for reason in skipped)}
    said = (f"No {noun} gave a cube, so no store was made.", *reasons, more, " ".join(sorted(helps)))
    return DataError("\n".join(filter(None, said)))


def _blank_record(task: CutTask[Any]) -> Facts:
    """The record of a scan of which nothing is known but where it lies."""
    states = task.states()
    record: Facts = {**NOTHING_KNOWN, **asdict(task.source), "bytes": states[0][0], "states": states}
    skip, problem, _ = record.pop("skip"), record.pop("problem"), record.pop("known")  # which may tell names
    record |= {"status": "skipped" if skip else "failed", "reason": skip or problem}
    record |= {"window": [0.0, 0.0]} if task.parameters.maps else {}
    record |= {"inverted": False} if task.parameters.maps and isinstance(task.parameters, GreyLevels) else {}
    return record | {name: [] for name in ("corners", "tissue", "targets", "chunks", "mask_chunks")}


def _lost(task: CutTask[Any]) -> Facts:
    """The record of a scan that ends the process which works on it."""
    return _blank_record(task) | {"status": "failed", "reason": _DIED}
