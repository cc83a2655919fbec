"""Estimates what a command would do and how long it would take, without doing it: `--dry-run`.

Time and bytes are estimated by processing one scan on this machine and discarding the result; counts are
exact unless marked otherwise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from genesis_toolkit.pipeline.cubes.crop import too_small as too_small_image
from genesis_toolkit.pipeline.cubes.cut import turned
from genesis_toolkit.pipeline.cubes.extract import plan_job
from genesis_toolkit.pipeline.cubes.parameters import ImageParameters, Parameters
from genesis_toolkit.pipeline.cubes.records import UNREADABLE, Cut, CutTask, Task, file_state
from genesis_toolkit.pipeline.cubes.rule import CubeRule, passing_corners, too_small
from genesis_toolkit.pipeline.engine import counting
from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.progress import Progress, silent
from genesis_toolkit.pipeline.scans.images import resize
from genesis_toolkit.pipeline.scans.radiographs import picture_size
from genesis_toolkit.pipeline.scans.read import read_geometry
from genesis_toolkit.pipeline.store.shards import encode_cube, shard_length

#: Most headers read to count scans that are too small; sampled evenly.
_MOST_HEADERS = 1000
_TRIED = 5  # most scans tried until one gives cubes
_EDGES = 3  # edges of a cube; the tissue score of a patch or an image does not reveal air


@dataclass(frozen=True)
class Estimate:
    """Estimated outcome of a command that cuts scans.

    Attributes:
        scans: number to be cut, as far as the search shows.
        set_aside: number found but skipped or unusable, as far as the search shows.
        cubes: upper limit.
        bytes: size of the scans' files in bytes.
        store_bytes: size of these cubes if they compress like the example's; None if no scan gave any.
        files: upper limit of the number of shards.
        example: the scan that was cut; empty if none gave a cube.
        example_seconds: how long that took.
        example_cubes, example_without_tissue: how many cubes it gave, and how many of these have a tissue
            score of 0, that is, only air. The latter is counted only for cubes of scans.
        seconds: for all scans with `workers` at work, in proportion to bytes; None if no scan gave a cube.
        workers: number of scans at a time.
    """

    scans: int
    set_aside: int
    cubes: int
    bytes: int
    store_bytes: int | None
    files: int
    example: str
    example_seconds: float | None
    example_cubes: int
    example_without_tissue: int
    seconds: float | None
    workers: int


@dataclass(frozen=True)
class ExtractionPlan(Estimate):
    """Estimated outcome of `extract_cubes`.

    Attributes:
        known: number of scans that a finished store already holds.
        passed_over, other_list, absent: what is left out, see `Found`.
        headers: number of headers read to check whether the scans are large enough.
        tried: a scan to explain if none gave a cube: the first that was cut, or the first of all; empty if
            there is none.
        small, unreadable: numbers of these headers that show too small a scan, or are unreadable.
    """

    known: int
    passed_over: tuple[int, ...]
    other_list: int
    absent: int
    headers: int
    small: int
    unreadable: int
    tried: str


def plan_extraction(
    source: Path,
    target: Path,
    parameters: Parameters,
    *,
    workers: int,
    anonymize: Path | None = None,
    split_file: Path | None = None,
    part: str | None = None,
    overwrite: bool = False,
    report: Progress = silent,
) -> ExtractionPlan:
    """Find the scans, read up to a thousand headers, cut one scan, and extrapolate to all.

    The arguments are those of `extract_cubes`; nothing is written; `report` is called as headers are read.

    Raises:
        CallError, DataError: see `extract_cubes`.
    """
    given: dict[str, Any] = {"anonymize": anonymize, "split_file": split_file, "part": part}
    job = plan_job(source, target, parameters, **given, overwrite=overwrite)
    tasks = job.tasks
    sound = [task for task in tasks if not (task.source.problem or task.source.skip)]
    looked_at = sound[:: -(-len(sound) // _MOST_HEADERS) or 1]
    fits, count = [], counting(report, "headers", len(looked_at), 0)
    for task in looked_at:
        fits.append(_fits(task.path, parameters))
        count(task)
    large = [task for task, it_fits in zip(looked_at, fits, strict=True) if it_fits]
    fit = round(len(sound) * len(large) / len(looked_at)) if looked_at else 0
    sizes = {task.name: file_state(task.path, mr=parameters.mr)[0] for task in sound}
    work = sum(sizes[task.name] for task in large) * len(sound) / max(1, len(looked_at))
    cubes = fit * (parameters.cubes_per_scan or 1)
    tiny = CubeRule((1, 1, 1), (0, 0, 0))  # compiles the kernels, which would distort the time
    passing_corners(np.zeros(tiny.least_shape, np.int16, order="F"), tiny)
    resize(np.zeros((1, 1), np.uint8), (1, 1))
    return ExtractionPlan(
        scans=len(sound),
        set_aside=len(tasks) - len(sound),
        cubes=cubes,
        bytes=sum(sizes.values()),
        files=-(-cubes // shard_length(parameters.size, parameters.dtype.itemsize)),
        workers=workers,
        known=len(job.update.store.scans) if job.update else 0,
        passed_over=job.found.passed_over,
        other_list=job.found.other_list,
        absent=job.found.absent,
        headers=len(looked_at),
        small=fits.count(False),
        unreadable=fits.count(None),
        tried=next((task.source.path for task in (*large[len(large) // 2 :], *sound)), ""),
        **try_one(large, job.cut, cubes, work, min(workers, fit)),
    )


def try_one(
    tasks: Sequence[Task], cut: Callable[[Task], Cut], cubes: int, bytes_: float, workers: int
) -> dict[str, Any]:
    """Cut the scan in the middle, or the next ones if it gives no cube, and discard the result.

    Returns:
        The extrapolation to all scans, given their total numbers of cubes and bytes: the fields of
        `Estimate` from `store_bytes` to `seconds`.
    """
    for task in tasks[len(tasks) // 2 :][:_TRIED]:
        begun = perf_counter()
        try:
            given = cut(task)
        except UNREADABLE:  # the extraction itself will report it
            continue
        if given.cubes:
            stored = sum(len(encode_cube(one)) for one in (*given.cubes, *given.masks))
            seconds = perf_counter() - begun
            return {
                "store_bytes": round(stored / len(given.cubes) * cubes),
                "example": task.source.path,
                "example_seconds": seconds,
                "seconds": seconds * bytes_ / task.states()[0][0] / workers,
                "example_cubes": len(given.cubes),
                "example_without_tissue": given.tissue.count(0) if _tells_air(task, given) else 0,
            }
    nothing = dict.fromkeys(("store_bytes", "example_seconds", "seconds"))
    return {**nothing, "example": "", "example_cubes": 0, "example_without_tissue": 0}


def _tells_air(task: CutTask[Any], given: Cut) -> bool:
    return given.cubes[0].ndim == _EDGES and not task.parameters.mr


def _fits(path: Path, parameters: Parameters) -> bool | None:
    """Return whether a header allows a position for a cube; None if it is unreadable."""
    try:
        if isinstance(parameters, ImageParameters):
            return too_small_image(picture_size(path, parameters.layout), parameters) is None
        return (
            too_small(turned(read_geometry(path, parameters.mr), parameters).shape, parameters.rule) is None
        )
    except DataError:
        return None
