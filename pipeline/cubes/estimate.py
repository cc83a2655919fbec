"""What a command would do, and how long it would take, without doing it: `--dry-run`.

Time and bytes are estimates, from doing one scan on this machine and throwing it away; counts are exact, or
say that they are not.
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
from genesis_toolkit.pipeline.cubes.records import UNREADABLE, Cut, Task, file_state
from genesis_toolkit.pipeline.cubes.rule import CubeRule, passing_corners, too_small
from genesis_toolkit.pipeline.engine import counting
from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.progress import Progress, silent
from genesis_toolkit.pipeline.scans.images import read_image_size, resize
from genesis_toolkit.pipeline.scans.read import read_geometry
from genesis_toolkit.pipeline.store.shards import encode_cube, shard_length

#: Headers that are read at most, to see how many scans are too small; taken evenly.
_MOST_HEADERS = 1000
_TRIED = 5  # scans, until one gives cubes
_EDGES = 3  # of a cube; the tissue score of a patch or an image does not tell air


@dataclass(frozen=True)
class Estimate:
    """What a command that cuts scans would do.

    Attributes:
        scans: to be cut, as far as finding them tells.
        set_aside: found, but passed over or unusable, as finding them tells.
        cubes: at most.
        bytes: of the scans' files.
        store_bytes: of these cubes, encoded as those of the example were; None where no scan gave any.
        files: of shards, at most.
        example: the scan that was cut; empty where none gave a cube.
        example_seconds: how long that took.
        example_cubes, example_without_tissue: how many cubes it gave, and how many of these have a tissue
            score of 0: no tissue, only air. Only of cubes of scans that is counted.
        seconds: of all scans with `workers` at work, by their bytes; None where no scan gave a cube.
        workers: scans at a time.
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
    """What `extract_cubes` would do.

    Attributes:
        known: scans that a finished store holds already.
        passed_over, other_list, absent: what is left out, as in `Found`.
        headers: how many headers were read to see whether the scans are large enough.
        tried: a scan to explain where none gave a cube: the first that was cut, or the first of all; empty
            where there is none.
        small, unreadable: of these headers, those of scans too small for the rule, and those that cannot be
            read.
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
    """Find the scans, read the headers of up to a thousand, cut one, and say what all would come to.

    The arguments are those of `extract_cubes`, and nothing is written; `report` is told as headers are read.

    Raises:
        CallError, DataError: as `extract_cubes`.
    """
    told: dict[str, Any] = {"anonymize": anonymize, "split_file": split_file, "part": part}
    job = plan_job(source, target, parameters, **told, overwrite=overwrite)
    tasks = job.tasks
    sound = [task for task in tasks if not (task.source.problem or task.source.skip)]
    looked_at = sound[:: -(-len(sound) // _MOST_HEADERS) or 1]
    fits, count = [], counting(report, "headers", len(looked_at), 0)
    for task in looked_at:
        fits.append(_fits(task.path, parameters))
        count(task)
    large = [task for task, it_fits in zip(looked_at, fits, strict=True) if it_fits]
    fit = round(len(sound) * len(large) / len(looked_at)) if looked_at else 0
    sizes = {task.name: file_state(task.path)[0] for task in sound}
    work = sum(sizes[task.name] for task in large) * len(sound) / max(1, len(looked_at))
    cubes = fit * (parameters.cubes_per_scan or 1)
    tiny = CubeRule((1, 1, 1), (0, 0, 0))  # lets the kernels be compiled, which the first scan would wait for
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
    """Cut the scan in the middle, or the next ones where it gives no cube, and throw away what it gives.

    Returns:
        What all of the scans, which would give so many cubes and whose files have so many bytes, would come
        to: the fields of `Estimate` from `store_bytes` to `seconds`.
    """
    for task in tasks[len(tasks) // 2 :][:_TRIED]:
        begun = perf_counter()
        try:
            given = cut(task)
        except UNREADABLE:  # said of it by the extraction itself
            continue
        if given.cubes:
            stored = sum(len(encode_cube(one)) for one in (*given.cubes, *given.masks))
            seconds = perf_counter() - begun
            return {
                "store_bytes": round(stored / len(given.cubes) * cubes),
                "example": task.source.path,
                "example_seconds": seconds,
                "seconds": seconds * bytes_ / file_state(task.path)[0] / workers,
                "example_cubes": len(given.cubes),
                "example_without_tissue": given.tissue.count(0) if given.cubes[0].ndim == _EDGES else 0,
            }
    nothing = dict.fromkeys(("store_bytes", "example_seconds", "seconds"))
    return {**nothing, "example": "", "example_cubes": 0, "example_without_tissue": 0}


def _fits(path: Path, parameters: Parameters) -> bool | None:
    """Whether a header says that there is a place for a cube; None where it cannot be read."""
    try:
        if isinstance(parameters, ImageParameters):
            return too_small_image(read_image_size(path), parameters) is None
        return too_small(turned(read_geometry(path), parameters).shape, parameters.rule) is None
    except DataError:
        return None
