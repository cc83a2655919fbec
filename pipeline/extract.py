"""Scans -> cube store: `extract_cubes` finds the scans, cuts each in a task of its own, packs what they gave.

A finished scan is staged, encoded; when all are done their cubes are packed into shards in scan order, so the
bytes do not depend on which scan was finished first. METHOD.md section 2.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.degrade.seeds import Operation, checked_seed, draw_words, stream_key
from pipeline.engine import Report, cores, counting, run, silent
from pipeline.errors import CallError, DataError
from pipeline.grid import (
    Geometry,
    check_orientation,
    check_spacing,
    reorient,
    reoriented,
    resample,
    resampled,
)
from pipeline.hounsfield import Window
from pipeline.ledger import Ledger, first_difference, hold, sha256_of, sweep, write_whole
from pipeline.official import OFFICIAL_SEED, OfficialCorners
from pipeline.pack import pack
from pipeline.place import Corners, PlaceRule, Triple, draw_corners, passing_corners, tissue_score, too_small
from pipeline.scans import (
    PRETRAINING_SUBSETS,
    Found,
    Layout,
    Scan,
    Source,
    find_scans,
    read_geometry,
    read_scan,
    scan_files,
)
from pipeline.shards import encode_cube
from pipeline.stores import CUBES, CubeStore, check_target, open_cubes

#: Chooses corners: the decision for a scan and how many are wanted -> int32 [corner, 3].
Draw = Callable[[Corners, int], NDArray[np.int32]]

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
        min_tissue: a cube is refused when its tissue score is below this share; the published rule has none.
        sampler: `uniform` draws among the corners that pass; `official` replays the authors' generator.
        seed: of the corners; None takes 0, or 1 with the official sampler, as the authors did.
        spacing: mm in x, y, z to resample every scan to; None keeps its own.
        orient: axes to turn every scan to, such as LPS; None keeps its own.

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
    min_tissue: float = 0.0
    sampler: Literal["uniform", "official"] = "uniform"
    seed: int | None = None
    spacing: tuple[float, float, float] | None = None
    orient: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.cubes_per_scan <= _MOST_CUBES:
            raise CallError(
                f"--cubes-per-scan {self.cubes_per_scan}: a number from 1 to {_MOST_CUBES}, as in 32."
            )
        object.__setattr__(self, "seed", self.first_seed)
        checked_seed(self.first_seed)
        if self.spacing is not None:
            check_spacing(self.spacing)
        if self.orient is not None:
            object.__setattr__(self, "orient", check_orientation(self.orient))
        window = self.window
        if window.low <= -32768 or window.high > 32767:
            raise CallError(
                f"--hu {window.low},{window.high}: both must lie in -32767..32767, as in -1000,1000."
            )
        _ = self.rule

    @property
    def first_seed(self) -> int:
        """The seed, with the sampler's own where none was given."""
        if self.seed is not None:
            return self.seed
        return OFFICIAL_SEED if self.sampler == "official" else 0

    @property
    def window(self) -> Window:
        """The HU window."""
        return Window(*self.hu)

    @property
    def rule(self) -> PlaceRule:
        """Where cubes may lie."""
        return PlaceRule(self.size, self.border, self.max_tissue, self.min_tissue)


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
        _cut_all(tasks, parameters, workers, report)
        records = [{**(ledger.recorded(task.name) or {}), "name": task.name} for task in tasks]
        if not any(record["chunks"] for record in records):
            ledger.abandon()
            raise DataError(_nothing(records))
        pack(ledger, job, parameters.window, parameters.size, records, workers, report, started)
    return Extraction(open_cubes(target), found.passed_over, done_before=False)


def cut_cubes(
    scan: Scan, draw: Draw, parameters: ExtractParameters
) -> tuple[NDArray[np.int32], list[float], list[NDArray[np.int16]]]:
    """Draw corners in a scan that is large enough, and cut the cubes. Pure.

    Args:
        scan: the scan.
        draw: chooses among the corners that pass; see `uniform`.
        parameters: what to cut.

    Returns:
        corners : int32 [cube, 3], voxels in x, y, z, in the order drawn; empty where no corner passes.
        tissue : the rule's score of each, 0..1.
        cubes : int16 [x, y, z] each, HU in the window.
    """
    corners = draw(
        passing_corners(scan.voxels, parameters.rule, parameters.window), parameters.cubes_per_scan
    )
    tissue, cubes = [], []
    for corner in corners:
        box = tuple(slice(start, start + edge) for start, edge in zip(corner, parameters.size, strict=True))
        tissue.append(tissue_score(scan.voxels, corner, parameters.size, parameters.window))
        cubes.append(np.ascontiguousarray(parameters.window.clip(scan.voxels[box])))
    return corners, tissue, cubes


def uniform(identifier: str, seed: int) -> Draw:
    """Draw distinct corners uniformly, from the random stream of the scan of this identifier."""

    def draw(corners: Corners, count: int) -> NDArray[np.int32]:
        words = draw_words(seed, stream_key(identifier), 0, 0, Operation.PLACE, 2 * _TRIES * count)
        return draw_corners(corners, count, words)

    return draw


def _task(ledger: Ledger, found: Found, source: Source, parameters: ExtractParameters) -> _Task:
    """The task of one scan. One that changed since an earlier run gets another name, and so is cut again."""
    path = found.root / source.path
    size, when = _state(path)
    name = sha256_of(f"{source.path} {size} {when}".encode(errors="surrogateescape"))[:32]
    return _Task(ledger, path, source, size, name, parameters)


def _state(path: Path) -> tuple[int, int]:
    """Bytes of a scan's files, and when the latest was changed, in ns; zeros where that cannot be told."""
    try:
        states = [file.stat() for file in scan_files(path)]
    except (DataError, OSError):
        return 0, 0
    return sum(state.st_size for state in states), max(state.st_mtime_ns for state in states)


def _cut_all(tasks: Sequence[_Task], parameters: ExtractParameters, workers: int, report: Report) -> None:
    """Cut every scan that an earlier run has not finished."""
    left = [task for task in tasks if task.ledger.recorded(task.name) is None]
    finished = counting(report, "scans", len(tasks), len(tasks) - len(left))
    if parameters.sampler == "uniform":
        run(_cut, left, workers=workers, pool="processes", finished=finished)
        return
    # The official draws run on through a subset, so its scans are cut in order; subsets side by side.
    subsets = [list(group) for _, group in groupby(tasks, key=lambda task: task.source.subset)]

    def finished_subset(count: int) -> None:
        for _ in range(count):
            finished(None)

    run(_cut_subset, subsets, workers=workers, pool="processes", finished=finished_subset)


def _cut_subset(tasks: Sequence[_Task]) -> int:
    """Cut the scans of one subset in order, each going on with the draws of the one before; how many were."""
    used = count = 0
    for task in tasks:
        record = task.ledger.recorded(task.name)
        if record is None or "used" not in record:
            generator = OfficialCorners(task.parameters.first_seed, used)
            record = _cut(task, generator.draw)
            task.ledger.record(task.name, record | {"used": generator.used})
            count += 1
            used = generator.used
        else:
            used = record["used"]
    return count


def _cut(task: _Task, draw: Draw | None = None) -> dict[str, Any]:
    """One scan, from its file to its staged cubes and its record."""
    record: dict[str, Any] = {**asdict(task.source), "bytes": task.bytes, "sha256": ""}
    skip, problem = record.pop("skip"), record.pop("problem")
    record |= {"status": "skipped" if skip else "failed", "reason": skip or problem}
    record |= {"corners": [], "tissue": [], "chunks": []}
    record |= {"shape": [0] * 3, "spacing": [0.0] * 3, "origin": [0.0] * 3, "direction": [0.0] * 9}
    scan = None if record["reason"] else _read(task, record)
    if scan is not None:
        draw_here = draw or uniform(task.source.identifier, task.parameters.first_seed)
        record |= {"sha256": scan.sha256, **_stage(task, scan, draw_here)}
    if draw is None:
        task.ledger.record(task.name, record)
    return record


def _read(task: _Task, record: dict[str, Any]) -> Scan | None:
    """The scan, if it can be read and is large enough; else None, and the record says why."""
    orient, spacing = task.parameters.orient, task.parameters.spacing
    try:
        geometry = _turned(read_geometry(task.path), task.parameters)
        record |= asdict(geometry)
        reason = too_small(geometry.shape, task.parameters.rule)
        if reason is None:
            scan = read_scan(task.path)
            scan = reorient(scan, orient) if orient else scan
            return resample(scan, spacing) if spacing else scan
        record |= {"status": "skipped", "reason": reason}
    except DataError as error:
        record["reason"] = str(error)
    except (OSError, ValueError, MemoryError) as error:  # whatever else a strange file leads to
        record["reason"] = f"it cannot be read: {error}"
    return None


def _turned(geometry: Geometry, parameters: ExtractParameters) -> Geometry:
    """Where the voxels will lie once the scan has been turned and resampled."""
    if parameters.orient:
        geometry = reoriented(geometry, parameters.orient)
    return resampled(geometry, parameters.spacing) if parameters.spacing else geometry


def _stage(task: _Task, scan: Scan, draw: Draw) -> dict[str, Any]:
    """Cut and stage the cubes of one scan; what its record says of them."""
    parameters = task.parameters
    corners, tissue, cubes = cut_cubes(scan, draw, parameters)
    if not cubes:
        low = f"{parameters.min_tissue:g} to " if parameters.min_tissue else ""
        found = f"{low}{parameters.max_tissue:g}{'' if low else ' or less'}"
        return {"status": "skipped", "reason": f"no place for a cube has a tissue score of {found}"}
    chunks = [encode_cube(cube) for cube in cubes]
    write_whole(task.ledger.staged(task.name), *chunks)
    sizes = [len(chunk) for chunk in chunks]
    return {"status": "used", "corners": corners.tolist(), "tissue": tissue, "chunks": sizes}


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
    advice = "A smaller --border or --size takes smaller scans; genesis-prep explain SCAN says what helps."
    return "\n".join(["No scan gave a cube, so no store was made.", *reasons, *more, advice])
