"""What a command would do, and how long it would take, without doing it: `--dry-run`.

Time and bytes come from doing a small part of the work on this machine, one scan or one block of cubes, and
throwing it away. They are estimates; the counts are exact, or say that they are not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.cubes import crop as cut_images
from genesis_toolkit.pipeline.cubes.crop import cut_image
from genesis_toolkit.pipeline.cubes.cut import cut_cubes, read_turned, turned, uniform
from genesis_toolkit.pipeline.cubes.example import cut_example
from genesis_toolkit.pipeline.cubes.extract import plan_job
from genesis_toolkit.pipeline.cubes.parameters import ImageParameters, Parameters
from genesis_toolkit.pipeline.cubes.records import file_state
from genesis_toolkit.pipeline.cubes.rule import CubeRule, passing_corners, too_small
from genesis_toolkit.pipeline.engine import Report, counting, silent
from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.scans.find import Found, Source
from genesis_toolkit.pipeline.scans.images import read_image, read_image_size, resize
from genesis_toolkit.pipeline.scans.read import read_geometry
from genesis_toolkit.pipeline.store.shards import encode_cube, shard_length

#: Headers that are read at most, to see how many scans are too small; taken evenly.
_MOST_HEADERS = 1000


@dataclass(frozen=True)
class ExtractionPlan:
    """What `extract_cubes` would do.

    Attributes:
        scans: to be cut, as far as finding them tells.
        known: scans that a finished store holds already.
        set_aside: found, but passed over or unusable, as finding them tells.
        passed_over, other_list, absent: what is left out, as in `Found`.
        bytes: of the scans' files.
        headers: how many headers were read to see whether the scans are large enough.
        unfit: of these headers, those that cannot be read or are of scans too small for the rule.
        cubes: at most, if the scans are like those that were looked at.
        store_bytes: of these cubes, encoded as those of the example were; None where no scan gave any.
        files: of shards, at most.
        example: the scan that was cut; empty where none gave a cube.
        example_seconds: how long that took.
        seconds: of all scans with `workers` at work, by their bytes; None where no scan gave a cube.
        workers: scans at a time.
    """

    scans: int
    known: int
    set_aside: int
    passed_over: tuple[int, ...]
    other_list: int
    absent: int
    bytes: int
    headers: int
    unfit: int
    cubes: int
    store_bytes: int | None
    files: int
    example: str
    example_seconds: float | None
    seconds: float | None
    workers: int


def plan_extraction(
    source: Path,
    target: Path,
    parameters: Parameters,
    *,
    workers: int,
    anonymize: Path | None = None,
    overwrite: bool = False,
    report: Report = silent,
) -> ExtractionPlan:
    """Find the scans, read the headers of up to a thousand, cut one, and say what all would come to.

    Args:
        source: the folder of the scans.
        target: the store that would be made; nothing is written.
        parameters: what would be cut.
        workers: scans at a time.
        anonymize, overwrite: as for `extract_cubes`; no key is written.
        report: told as headers are read.

    Raises:
        CallError, DataError: as `extract_cubes`.
    """
    job = plan_job(source, target, parameters, anonymize=anonymize, overwrite=overwrite)
    sound = [scan for scan in job.sources if not scan.problem and not scan.skip]
    looked_at = sound[:: -(-len(sound) // _MOST_HEADERS)] if sound else []
    unfit = _unfit(job.found, looked_at, parameters, report)
    large = [scan for scan in looked_at if scan not in unfit]
    sizes = {scan: file_state(job.found.root / scan.path)[0] for scan in sound}
    share = len(large) / len(looked_at) if looked_at else 0.0
    fit = round(len(sound) * share)
    cubes = fit * (parameters.cubes_per_scan or 1)
    _compile()
    root = job.found.root
    example = cut_example(
        large,
        lambda scan: [len(encode_cube(cube)) for cube in _cubes_of(root / scan.path, scan, parameters)],
    )
    seconds = None
    if example:
        bytes_fit = sum(map(sizes.__getitem__, large)) * len(sound) / len(looked_at)
        seconds = example.seconds * bytes_fit / sizes[example.scan] / min(workers, fit)
    return ExtractionPlan(
        scans=len(sound),
        known=len(job.update.store.scans) if job.update else 0,
        set_aside=len(job.sources) - len(sound),
        passed_over=job.found.passed_over,
        other_list=job.found.other_list,
        absent=job.found.absent,
        bytes=sum(sizes.values()),
        headers=len(looked_at),
        unfit=len(unfit),
        cubes=cubes,
        store_bytes=round(example.cube_bytes * cubes) if example else None,
        files=-(-cubes // shard_length(parameters.size, parameters.dtype.itemsize)),
        example=example.scan.path if example else "",
        example_seconds=example.seconds if example else None,
        seconds=seconds,
        workers=workers,
    )


def _unfit(found: Found, scans: Sequence[Source], parameters: Parameters, report: Report) -> list[Source]:
    unfit = []
    read = counting(report, "headers", len(scans), 0)
    for scan in scans:
        if not _fits(found.root / scan.path, parameters):
            unfit.append(scan)
        read(scan)
    return unfit


def _fits(path: Path, parameters: Parameters) -> bool:
    """Whether a header can be read, and says that there is a place for a cube."""
    try:
        if isinstance(parameters, ImageParameters):
            return cut_images.too_small(read_image_size(path), parameters) is None
        return too_small(turned(read_geometry(path), parameters).shape, parameters.rule) is None
    except DataError:
        return False


def _cubes_of(path: Path, scan: Source, parameters: Parameters) -> Sequence[NDArray[Any]]:
    """The cubes of one scan or image.

    Raises:
        DataError: it cannot be read.
    """
    if isinstance(parameters, ImageParameters):
        return cut_image(read_image(path).pixels, scan.identifier, parameters)[2]
    draw = uniform(scan.identifier, parameters.first_seed)
    return cut_cubes(read_turned(path, parameters), draw, parameters)[2]


def _compile() -> None:
    """Let the kernels be compiled, which the first scan or image would wait for."""
    rule = CubeRule((1, 1, 1), (0, 0, 0))
    passing_corners(np.zeros(rule.least_shape, np.int16, order="F"), rule)
    resize(np.zeros((1, 1), np.uint8), (1, 1))
