"""Scans -> cube store: `extract_cubes` finds the scans, cuts each in a task of its own, packs what they gave.

A finished scan is staged, encoded; when all are done their cubes are packed into shards in scan order, so the
bytes do not depend on which scan was finished first. METHOD.md section 2.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.degrade.seeds import Operation, checked_seed, draw_words, stream_key
from pipeline.engine import Report, cores, counting, run, silent
from pipeline.errors import CallError, DataError
from pipeline.formats import files_of
from pipeline.hounsfield import Window
from pipeline.ledger import Ledger, first_difference, hold, run_log, sha256_of, sweep, write_whole
from pipeline.place import PlaceRule, Triple, draw_corners, passing_corners, tissue_score, too_small
from pipeline.scans import (
    PRETRAINING_SUBSETS,
    Found,
    Layout,
    Scan,
    Source,
    find_scans,
    read_geometry,
    read_scan,
)
from pipeline.shards import encode_cube, shard_length, shard_parts, shard_path
from pipeline.stores import CUBES, CubeStore, check_target, open_cubes, write_cube_store
from pipeline.tables import CubeTable, ScanTable

_DTYPE = np.dtype(np.int16)
_MOST_CUBES = 10_000
_TRIES = 64  # random corners drawn for each one wanted


@dataclass(frozen=True)
class ExtractParameters:
    """What is cut, from where (METHOD.md section 2; the published values as defaults).

    Attributes:
        layout: of the source; `auto` looks.
        subsets: of LUNA16; None takes those for pre-training, 0-6.
        cubes_per_scan: how many corners are drawn in a scan.
        size: edges of a cube in voxels, x, y, z.
        hu: the HU window, lowest and highest value kept.
        border: voxels in x, y, z that no cube may touch, on either side.
        max_tissue: a cube is refused when its tissue score exceeds this share of its voxels.
        seed: of the corners.

    Raises:
        CallError: a value out of range.
    """

    layout: Layout = "auto"
    subsets: tuple[int, ...] | None = None
    cubes_per_scan: int = 32
    size: Triple = (64, 64, 32)
    hu: tuple[int, int] = (-1000, 1000)
    border: Triple = (100, 100, 30)
    max_tissue: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.cubes_per_scan <= _MOST_CUBES:
            raise CallError(
                f"--cubes-per-scan {self.cubes_per_scan}: a number from 1 to {_MOST_CUBES}, as in 32."
            )
        checked_seed(self.seed)
        window = self.window
        if window.low <= -32768 or window.high > 32767:
            raise CallError(
                f"--hu {window.low},{window.high}: both must lie in -32767..32767, as in -1000,1000."
            )
        _ = self.rule

    @property
    def window(self) -> Window:
        """The HU window."""
        return Window(*self.hu)

    @property
    def rule(self) -> PlaceRule:
        """Where cubes may lie."""
        return PlaceRule(self.size, self.border, self.max_tissue)


@dataclass(frozen=True)
class Extraction:
    """What came of `extract_cubes`.

    Attributes:
        store: the finished store.
        passed_over: LUNA16 subsets of the test set that hold scans and were left out by default.
        done_before: the store was finished already, and nothing was done.
    """

    store: CubeStore
    passed_over: tuple[int, ...]
    done_before: bool


@dataclass(frozen=True)
class _Task:
    """One scan to cut: where it is, how many bytes it has, and the name of its record in the ledger."""

    ledger: Ledger
    path: Path
    source: Source
    bytes: int
    name: str
    parameters: ExtractParameters


def extract_cubes(
    source: Path,
    target: Path,
    parameters: ExtractParameters,
    *,
    workers: int | None = None,
    overwrite: bool = False,
    report: Report = silent,
) -> Extraction:
    """Cut cubes out of every scan of a folder into one cube store.

    Interrupted, it goes on when it is called again; finished, it does nothing. A scan that cannot be read is
    noted in the store and stops no other.

    Args:
        source: the folder of the scans.
        target: the store to make.
        parameters: what to cut.
        workers: processes at work; None takes one a core.
        overwrite: replace a finished store, and begin again where other work was left.
        report: told as scans are finished.

    Raises:
        CallError: no scans, something in the way, other parameters than the store's.
        DataError: no scan gave a cube; the reasons are in the message.
    """
    present = check_target(target, CUBES, overwrite=overwrite, inputs=[source])
    found = find_scans(source, parameters.layout, parameters.subsets)
    job = _job(parameters, found)
    if present is not None:
        return Extraction(_unchanged(target, present, job, found), found.passed_over, done_before=True)
    started = datetime.now(UTC)
    workers = workers or cores()
    with hold(target, job, overwrite=overwrite) as ledger:
        tasks = [_task(ledger, found, scan, parameters) for scan in found.sources]
        left = [task for task in tasks if ledger.recorded(task.name) is None]
        finished = counting(report, "scans", len(tasks), len(tasks) - len(left))
        run(_cut, left, workers=workers, pool="processes", finished=finished)
        records = [{**(ledger.recorded(task.name) or {}), "name": task.name} for task in tasks]
        if not any(record["chunks"] for record in records):
            ledger.abandon()
            raise DataError(_nothing(records))
        _pack(ledger, job, parameters, records, workers, report, started)
    return Extraction(open_cubes(target), found.passed_over, done_before=False)


def cut_cubes(
    scan: Scan, stream: np.uint64, parameters: ExtractParameters
) -> tuple[NDArray[np.int32], list[float], list[NDArray[np.int16]]]:
    """Draw corners in a scan that is large enough, and cut the cubes. Pure.

    Args:
        scan: the scan.
        stream: its random stream key.
        parameters: what to cut.

    Returns:
        corners : int32 [cube, 3], voxels in x, y, z, in the order drawn; empty where no corner passes.
        tissue : the rule's score of each, 0..1.
        cubes : int16 [x, y, z] each, HU in the window.
    """
    words = draw_words(parameters.seed, stream, 0, 0, Operation.PLACE, 2 * _TRIES * parameters.cubes_per_scan)
    corners = draw_corners(passing_corners(scan.voxels, parameters.rule), parameters.cubes_per_scan, words)
    tissue, cubes = [], []
    for corner in corners:
        box = tuple(slice(start, start + edge) for start, edge in zip(corner, parameters.size, strict=True))
        tissue.append(tissue_score(scan.voxels, corner, parameters.size))
        cubes.append(np.ascontiguousarray(parameters.window.clip(scan.voxels[box])))
    return corners, tissue, cubes


def _task(ledger: Ledger, found: Found, source: Source, parameters: ExtractParameters) -> _Task:
    """The task of one scan. One that changed since an earlier run gets another name, and so is cut again."""
    path = found.root / source.path
    size, when = _state(path)
    name = sha256_of(f"{source.path} {size} {when}".encode(errors="surrogateescape"))[:32]
    return _Task(ledger, path, source, size, name, parameters)


def _state(path: Path) -> tuple[int, int]:
    """Bytes of a scan's files, and when the latest was changed, in ns; zeros where that cannot be told."""
    try:
        states = [file.stat() for file in files_of(path)]
    except (DataError, OSError):
        return 0, 0
    return sum(state.st_size for state in states), max(state.st_mtime_ns for state in states)


def _cut(task: _Task) -> None:
    """One scan, from its file to its staged cubes and its record."""
    record: dict[str, Any] = {**asdict(task.source), "bytes": task.bytes, "sha256": "", "status": "failed"}
    record |= {"corners": [], "tissue": [], "chunks": [], "reason": record.pop("problem")}
    record |= {"shape": [0] * 3, "spacing": [0.0] * 3, "origin": [0.0] * 3, "direction": [0.0] * 9}
    scan = None if record["reason"] else _read(task, record)
    if scan is not None:
        record |= {"sha256": scan.sha256, **_stage(task, scan)}
    task.ledger.record(task.name, record)


def _read(task: _Task, record: dict[str, Any]) -> Scan | None:
    """The scan, if it can be read and is large enough; else None, and the record says why."""
    try:
        geometry = read_geometry(task.path)
        record |= asdict(geometry)
        reason = too_small(geometry.shape, task.parameters.rule)
        if reason is None:
            return read_scan(task.path)
        record |= {"status": "skipped", "reason": reason}
    except DataError as error:
        record["reason"] = str(error)
    except (OSError, ValueError, MemoryError) as error:  # whatever else a strange file leads to
        record["reason"] = f"it cannot be read: {error}"
    return None


def _stage(task: _Task, scan: Scan) -> dict[str, Any]:
    """Cut and stage the cubes of one scan; what its record says of them."""
    parameters = task.parameters
    corners, tissue, cubes = cut_cubes(scan, stream_key(task.source.identifier), parameters)
    if not cubes:
        return {
            "status": "skipped",
            "reason": f"no place for a cube has a tissue score of {parameters.max_tissue:g} or less",
        }
    chunks = [encode_cube(cube) for cube in cubes]
    write_whole(task.ledger.staged(task.name), *chunks)
    sizes = [len(chunk) for chunk in chunks]
    return {"status": "used", "corners": corners.tolist(), "tissue": tissue, "chunks": sizes}


def _pack(
    ledger: Ledger,
    job: dict[str, Any],
    parameters: ExtractParameters,
    records: Sequence[dict[str, Any]],
    workers: int,
    report: Report,
    started: datetime,
) -> None:
    """Staged scans -> shards, tables, manifest, and the store's own name."""
    ledger.clear_store()  # packing is copying: cheaper to do again than to trust what a kill left
    attributes = {
        "window": list(parameters.hu),
        "unit": "HU",
        "size": list(parameters.size),
        "parameters": job,
    }
    write_cube_store(ledger.store, attributes, _DTYPE, _cube_table(records), _scan_table(records))
    where = [
        (record["name"], offset - size, size)
        for record in records
        for offset, size in zip(accumulate(record["chunks"]), record["chunks"], strict=True)
    ]
    length = shard_length(parameters.size, _DTYPE.itemsize)
    hashes = {}
    shards = -(-len(where) // length)
    report("shards", 0, shards)
    for shard in range(shards):
        chunks = _staged_chunks(ledger, where[shard * length : (shard + 1) * length])
        path = shard_path(ledger.store / "cubes", shard, 1 + len(parameters.size))
        digest = write_whole(path, *shard_parts(chunks, length))
        hashes[path.relative_to(ledger.store).as_posix()] = digest
        report("shards", shard + 1, shards)
    ledger.finish(hashes, run_log(started, workers))


def _staged_chunks(ledger: Ledger, where: Sequence[tuple[str, int, int]]) -> list[bytes]:
    chunks, open_name, data = [], "", b""
    for name, offset, size in where:
        if name != open_name:
            open_name, data = name, ledger.staged(name).read_bytes()
        chunks.append(data[offset : offset + size])
    return chunks


def _cube_table(records: Sequence[dict[str, Any]]) -> CubeTable:
    counts = [len(record["chunks"]) for record in records]
    return CubeTable(
        scan=np.repeat(np.arange(len(records), dtype=np.int32), counts),
        number=np.concatenate([np.arange(count, dtype=np.int32) for count in counts]),
        corner=np.array([corner for record in records for corner in record["corners"]], dtype=np.int32),
        tissue=np.array([score for record in records for score in record["tissue"]], dtype=np.float64),
    )


def _scan_table(records: Sequence[dict[str, Any]]) -> ScanTable:
    def column(name: str, dtype: Any) -> NDArray[Any]:
        return np.array([record[name] for record in records], dtype=dtype)

    return ScanTable(
        identifier=column("identifier", object),
        subset=column("subset", np.int16),
        path=column("path", object),
        bytes=column("bytes", np.int64),
        sha256=column("sha256", object),
        shape=column("shape", np.int32),
        spacing=column("spacing", np.float64),
        origin=column("origin", np.float64),
        direction=column("direction", np.float64),
        status=column("status", object),
        reason=column("reason", object),
        cubes=np.array([len(record["chunks"]) for record in records], dtype=np.int32),
        stream=np.array([stream_key(record["identifier"]) for record in records], dtype=np.uint64),
    )


def _job(parameters: ExtractParameters, found: Found) -> dict[str, Any]:
    """The parameters as they stand in the store, with what was left to be found out put in."""
    subsets = None if found.layout == "files" else sorted(parameters.subsets or PRETRAINING_SUBSETS)
    values = asdict(parameters) | {"layout": found.layout, "subsets": subsets}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _unchanged(target: Path, present: dict[str, Any], job: dict[str, Any], found: Found) -> CubeStore:
    difference = first_difference(present["parameters"], job)
    if difference:
        raise CallError(
            f"{target} was made with {difference}: choose another name, or give --overwrite to make it again."
        )
    store = open_cubes(target)
    before, now = set(store.scans.path.tolist()), {source.path for source in found.sources}
    if before != now:
        changed = sorted(before ^ now)
        raise CallError(
            f"{target} was made from {len(before)} scans, the source holds {len(now)} now ({changed[0]} "
            f"{'is new' if changed[0] in now else 'is gone'}): choose another name, or give --overwrite."
        )
    for path, size in zip(store.scans.path.tolist(), store.scans.bytes.tolist(), strict=True):
        if _state(found.root / path)[0] != size:
            raise CallError(
                f"{path} has changed since {target} was made from it: choose another name, or give "
                "--overwrite."
            )
    sweep(target)
    return store


def _nothing(records: Sequence[dict[str, Any]]) -> str:
    reasons = [f"  {record['path']}: {record['status']}, {record['reason']}" for record in records[:20]]
    more = [f"  and {len(records) - 20} more"] if len(records) > 20 else []
    return "\n".join(["No scan gave a cube, so no store was made.", *reasons, *more])
