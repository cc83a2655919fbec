"""Cuts the cubes of one scan: reads it, decides where it may be cut, and cuts.

METHOD.md section 2. With `--sampler official` each scan continues the draws of the one before it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.cubes.official import OfficialCorners
from genesis_toolkit.pipeline.cubes.parameters import ExtractParameters
from genesis_toolkit.pipeline.cubes.records import UNREADABLE, Cut, CutTask, cut_and_stage, is_same, why
from genesis_toolkit.pipeline.cubes.rule import (
    Corners,
    draw_corners,
    passing_corners,
    place_words,
    tissue_score,
    too_small,
)
from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.job import Facts
from genesis_toolkit.pipeline.ledger import Ledger
from genesis_toolkit.pipeline.scans.geometry import (
    Geometry,
    Scan,
    Voxels,
    reorient,
    reoriented,
    resample,
    resampled,
)
from genesis_toolkit.pipeline.scans.hashing import kept_room
from genesis_toolkit.pipeline.scans.mapping import apply_window
from genesis_toolkit.pipeline.scans.read import open_scan, read_scan

# Limits for a mask: its number of values, its largest label, and the voxels checked before all others are.
_MOST_VALUES, _MOST_LABEL, _LOOKED = 16, 255, 8

#: Chooses corners: (decisions for a scan, number) -> int32 [corner, 3].
Draw = Callable[[Corners, int], NDArray[np.int32]]


def cut_cubes(
    scan: Scan, draw: Draw, parameters: ExtractParameters
) -> tuple[NDArray[np.int32], list[float], list[NDArray[np.int16]]]:
    """Draw corners in a scan that is large enough, and cut the cubes. Pure.

    Returns:
        corners : int32 [cube, 3], voxels in x, y, z, in the order drawn; empty if no corner passes.
        tissue : the rule's score of each, 0..1.
        cubes : int16 each, HU in the window: [x, y, z], or a patch [x, y], [x, z] or [y, z].
    """
    rule, window = parameters.rule, parameters.store_window
    corners = draw(passing_corners(scan.voxels, rule, window), parameters.cubes_per_scan)
    tissue = [tissue_score(scan.voxels, corner, rule.size, window, rule.plane) for corner in corners]
    return corners, tissue, list(cubes_at(scan.voxels, corners, parameters))


def cubes_at(
    voxels: Voxels, corners: Iterable[Sequence[int] | NDArray[np.integer[Any]]], parameters: ExtractParameters
) -> Iterator[NDArray[np.int16]]:
    """Return the cubes of a scan at known corners, like those of `cut_cubes`, C-contiguous.

    Raises:
        DataError: a cube extends beyond the scan.
    """
    x, y, z = edges = parameters.box
    window = parameters.store_window
    # Clipped row by row, where x is contiguous, in one buffer that stays in the cache, then transposed: 0.22
    # of the time of clipping a transposed cube, 0.4 of that with [z, y, x].
    rows = np.empty((y, z, x), voxels.dtype)
    for corner in corners:
        box = voxels[tuple(slice(start, start + edge) for start, edge in zip(corner, edges, strict=True))]
        if min(corner) < 0 or box.shape != edges:
            raise DataError(
                f"a cube of {' x '.join(map(str, edges))} voxels at {tuple(map(int, corner))} does not fit "
                f"inside the scan of {' x '.join(map(str, voxels.shape))}"
            )
        rows[...] = box.transpose(1, 2, 0)
        np.clip(rows, window.low, window.high, out=rows)
        if rows.dtype.kind == "f":
            np.rint(rows, out=rows)
        # Always a copy: with an edge of 1 in x the transposed buffer may already be contiguous.
        cube = np.array(rows.transpose(2, 0, 1), dtype=np.int16, order="C")
        yield cube.reshape(parameters.size)


def mask_words(voxels: Voxels) -> str:
    """Return a reason if voxels [x, y, z] look like a mask; empty if not.

    A mask has two to sixteen values, whole numbers from 0 to 255, including 0. HU of a body take more values,
    and negative ones.
    """
    if voxels[::_LOOKED, ::_LOOKED, ::_LOOKED].min() != 0 or voxels.min() != 0 or voxels.max() > _MOST_LABEL:
        return ""
    values = np.unique(voxels)
    if not 1 < len(values) <= _MOST_VALUES or (np.rint(values) != values).any():
        return ""
    *some, last = (f"{value:g}" for value in values)
    return f"the file looks like a mask, not a scan: the only values are {', '.join(some)} and {last}"


def uniform(identifier: str, seed: int) -> Draw:
    """Return a function that draws distinct corners uniformly, from the random stream of this scan."""

    return lambda corners, count: draw_corners(corners, count, place_words(seed, identifier, count))


def cut_scan(task: CutTask[ExtractParameters], draw: Draw | None = None) -> Cut:
    """Read a scan that is large enough, and cut its cubes, at corners from `draw` (default: uniform).

    Raises:
        DataError, OSError, ValueError, MemoryError: its header cannot be read.
    """
    parameters = task.parameters
    opened = open_scan(task.path, parameters.mr)
    geometry = turned(opened.geometry, parameters)
    facts, small = asdict(geometry), too_small(geometry.shape, parameters.rule)
    if small:
        return Cut("", facts | {"status": "skipped", "reason": small})
    try:
        scan = opened.read(kept_room())
        if mask := mask_words(scan.voxels):
            return Cut(scan.sha256, facts | {"status": "skipped", "reason": mask})
        scan, own = apply_window(scan, parameters.window, parameters.store_window)
        scan, facts = _turned(scan, parameters), facts | own
    except UNREADABLE as error:
        return Cut("", facts | {"status": "failed", "reason": why(error)})
    draw = draw or uniform(task.source.identifier, parameters.first_seed)
    corners, tissue, cubes = cut_cubes(scan, draw, parameters)
    if not cubes:
        low = f"{parameters.min_tissue:g} to " if parameters.min_tissue else ""
        found = f"{low}{parameters.max_tissue:g}{'' if low else ' or less'}"
        facts |= {"status": "skipped", "reason": f"no position of a cube has a tissue score of {found}"}
    return Cut(scan.sha256, facts, corners, cubes, tissue)


@dataclass(frozen=True)
class OfficialTask(CutTask[ExtractParameters]):
    """One scan that continues the draws of the scan before it, given by its record; None for the first."""

    before: str

    def draws_before(self, ledger: Ledger) -> int:
        """Return the number of words drawn by earlier scans of its subset."""
        return int((ledger.recorded(self.before) or {"draws": 0})["draws"]) if self.before else 0


def official_tasks(tasks: Iterable[CutTask[ExtractParameters]]) -> Iterator[OfficialTask]:
    """Chain the scans of each subset, which are adjacent."""
    for _, group in groupby(tasks, key=lambda task: task.source.subset):
        before = ""
        for task in group:
            yield OfficialTask(task.path, task.source, task.parameters, before)
            before = task.name


def cut_official(ledger: Ledger, task: OfficialTask) -> Facts:
    """Cut and stage a scan with the authors' draws; return its record."""
    used = task.draws_before(ledger)
    generator = OfficialCorners(task.parameters.first_seed, used)
    record = cut_and_stage(ledger, partial(cut_scan, draw=generator.draw), task)
    return record | {"draws_before": used, "draws": generator.used}


def official_is_same(ledger: Ledger, task: OfficialTask, record: Facts) -> bool:
    """Return whether a record matches the scan's files and the draws that now precede it."""
    return is_same(task, record) and record["draws_before"] == task.draws_before(ledger)


def turned(geometry: Geometry, parameters: ExtractParameters) -> Geometry:
    """Return the geometry after the scan has been reoriented and resampled."""
    if parameters.orient:
        geometry = reoriented(geometry, parameters.orient)
    return resampled(geometry, parameters.spacing) if parameters.spacing else geometry


def read_turned(path: Path, parameters: ExtractParameters) -> Scan:
    """Read a scan, map its values, reorient and resample it; a DataError if it is unreadable."""
    scan = read_scan(path, parameters.mr)
    return _turned(apply_window(scan, parameters.window, parameters.store_window)[0], parameters)


def _turned(scan: Scan, parameters: ExtractParameters) -> Scan:
    scan = reorient(scan, parameters.orient) if parameters.orient else scan
    return resample(scan, parameters.spacing) if parameters.spacing else scan
