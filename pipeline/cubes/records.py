"""What a task of `extract_cubes` is, and what it notes of its scan or image in the ledger.

Scans and images share this, so that resuming, packing and taking in what is new work alike for both.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.ledger import Ledger
from genesis_toolkit.pipeline.scans.find import Source
from genesis_toolkit.pipeline.scans.read import scan_files
from genesis_toolkit.pipeline.store.shards import encode_cube

Parameters = TypeVar("Parameters", covariant=True)


@dataclass(frozen=True)
class CutTask(Generic[Parameters]):
    """One scan or image to cut: where it is, and the name of its record in the ledger."""

    ledger: Ledger
    path: Path
    source: Source
    name: str
    parameters: Parameters


@dataclass(frozen=True)
class Outcome:
    """What came of one scan, in a few words: `used`, `skipped` or `failed`, and why."""

    path: str
    status: str
    reason: str


def file_state(path: Path) -> tuple[int, int]:
    """Bytes of a scan's files, and when the latest was changed, in ns; zeros where that cannot be told."""
    try:
        states = [file.stat() for file in scan_files(path)]
    except (DataError, OSError):
        return 0, 0
    return sum(state.st_size for state in states), max(state.st_mtime_ns for state in states)


def record_is_old(record: dict[str, Any], path: Path) -> bool:
    """Whether a scan's files have changed since it was recorded."""
    return (record["bytes"], record["modified"]) != file_state(path)


def blank_record(task: CutTask[object]) -> dict[str, Any]:
    """The record of a scan of which nothing is known but where it lies."""
    size, when = file_state(task.path)
    record: dict[str, Any] = {**asdict(task.source), "bytes": size, "modified": when, "sha256": ""}
    skip, problem = record.pop("skip"), record.pop("problem")
    record |= {"status": "skipped" if skip else "failed", "reason": skip or problem}
    record |= {"corners": [], "tissue": [], "chunks": []}
    return record | {"shape": [0] * 3, "spacing": [0.0] * 3, "origin": [0.0] * 3, "direction": [0.0] * 9}


def staged(
    task: CutTask[object],
    corners: NDArray[Any],
    tissue: Sequence[float],
    cubes: Sequence[NDArray[Any]],
) -> dict[str, Any]:
    """Stage the cubes of a scan, encoded; what its record says of them."""
    chunks = [encode_cube(cube) for cube in cubes]
    task.ledger.write(task.ledger.staged(task.name), *chunks)
    sizes = [len(chunk) for chunk in chunks]
    return {"status": "used", "corners": corners.tolist(), "tissue": list(tissue), "chunks": sizes}


def recorded(task: CutTask[object], record: dict[str, Any]) -> Outcome:
    """Note what came of a scan, once its cubes are staged."""
    task.ledger.record(task.name, record)
    return Outcome(task.source.path, record["status"], record["reason"])


def lost_scans(tasks: Sequence[CutTask[object]]) -> list[Outcome]:
    """The records of scans that end the process which works on them."""
    reason = "the process that worked on it died, alone as well: the file is broken, or memory is too short"
    return [recorded(task, blank_record(task) | {"status": "failed", "reason": reason}) for task in tasks]
