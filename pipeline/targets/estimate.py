"""What `extract_targets` would do, and about how long it would take, without doing it: `--dry-run`.

Names, tables and lists are read as for the store itself, so the counts are those of what is wanted. One scan
is cut, and thrown away, for bytes and time.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genesis_toolkit.pipeline.cubes.example import cut_example
from genesis_toolkit.pipeline.cubes.records import file_state
from genesis_toolkit.pipeline.describe.facts import count_folds
from genesis_toolkit.pipeline.rng import Operation, draw_words
from genesis_toolkit.pipeline.scans.images import resize
from genesis_toolkit.pipeline.store.shards import encode_cube, shard_length
from genesis_toolkit.pipeline.targets.extract import TargetJob, plan_target_job
from genesis_toolkit.pipeline.targets.parameters import MaskParameters, TargetParameters
from genesis_toolkit.pipeline.targets.plan import Piece
from genesis_toolkit.pipeline.targets.tasks import cut_piece, wanted_labels


@dataclass(frozen=True)
class TargetEstimate:
    """What `extract_targets` would do.

    Attributes:
        finished: the store is there already, and nothing would be done.
        scans: to be cut.
        set_aside: found, but unusable, or without anything that is wanted of them.
        said: sentences on what of the source is left out.
        cubes: at most: scans that cannot be read give none, nor do candidates outside their scans.
        folds: of these cubes, as `count_folds` has it.
        bytes: of the files of the scans to be cut, without their masks.
        store_bytes: of the cubes and masks, encoded as those of the example were; None where no scan that
            was tried gave any.
        files: of shards, at most.
        example: the scan that was cut; empty where none gave a cube.
        example_seconds: how long that took.
        seconds: of all scans with `workers` at work, by their bytes; None where no scan gave a cube.
        workers: scans at a time.
    """

    finished: bool
    scans: int
    set_aside: int
    said: tuple[str, ...]
    cubes: int
    folds: dict[str, Any]
    bytes: int
    store_bytes: int | None
    files: int
    example: str
    example_seconds: float | None
    seconds: float | None
    workers: int


def estimate_targets(
    source: Path, target: Path, parameters: TargetParameters, *, workers: int, overwrite: bool = False
) -> TargetEstimate:
    """Plan the source, cut one scan, and say what all would come to.

    Args:
        source: as for `extract_targets`.
        target: the store that would be made; nothing is written.
        parameters: the task, and how it would be cut.
        workers: scans at a time.
        overwrite: as for `extract_targets`.

    Raises:
        CallError, DataError: as `extract_targets`.
    """
    job = plan_target_job(source, target, parameters, overwrite=overwrite)
    wanted = [(piece, wanted_labels(piece, parameters)) for piece in job.plan.pieces]
    taken = [(piece, rows) for piece, rows in wanted if rows]
    counts = [len(rows) for _, rows in taken]
    cubes = sum(counts)
    fold = np.repeat(np.array([piece.fold for piece, _ in taken], np.uint8), counts)
    scan = np.repeat(np.arange(len(taken), dtype=np.int32), counts)
    masks = isinstance(parameters, MaskParameters)
    told = None if masks else np.array([row for _, rows in taken for row in rows], np.uint8)
    sizes = [file_state(job.plan.root / piece.source.path)[0] for piece, _ in taken]
    example = seconds = None
    if not job.finished:
        _compile()
        example = cut_example([piece for piece, _ in taken], lambda piece: _encoded(job, piece, parameters))
    if example:
        whole = sum(sizes) / file_state(job.plan.root / example.scan.source.path)[0]
        seconds = example.seconds * whole / min(workers, len(taken))
    itemsizes = (parameters.dtype.itemsize, 1) if masks else (parameters.dtype.itemsize,)
    return TargetEstimate(
        finished=job.finished,
        scans=len(taken),
        set_aside=len(wanted) - len(taken),
        said=job.plan.said,
        cubes=cubes,
        folds=count_folds(fold, scan, told, parameters.classes),
        bytes=sum(sizes),
        store_bytes=round(example.cube_bytes * cubes) if example else None,
        files=sum(-(-cubes // shard_length(parameters.size, itemsize)) for itemsize in itemsizes),
        example=example.scan.source.path if example else "",
        example_seconds=example.seconds if example else None,
        seconds=seconds,
        workers=workers,
    )


def _encoded(job: TargetJob, piece: Piece, parameters: TargetParameters) -> list[int]:
    """Cut a scan; the bytes of each of its cubes as it is stored, with its mask."""
    cut = cut_piece(job.plan.root / piece.source.path, job.masks_of(piece), piece, parameters)
    masks = [len(encode_cube(mask)) for mask in cut.masks] or [0] * len(cut.cubes)
    return [len(encode_cube(cube)) + mask for cube, mask in zip(cut.cubes, masks, strict=True)]


def _compile() -> None:
    """Let the kernels be compiled, which the first scan or image would wait for."""
    draw_words(0, np.uint64(0), 0, 0, Operation.TARGET, 2)
    resize(np.zeros((1, 1), np.uint8), (1, 1))
