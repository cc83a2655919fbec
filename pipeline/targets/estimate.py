"""What `extract_targets` would do, and about how long it would take, without doing it: `--dry-run`.

Names, tables and lists are read as for the store itself, so the counts are those of what is wanted. One scan
is cut, and thrown away, for bytes and time.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genesis_toolkit.pipeline.cubes.estimate import Estimate, try_one
from genesis_toolkit.pipeline.cubes.records import file_state
from genesis_toolkit.pipeline.describe.facts import count_folds
from genesis_toolkit.pipeline.rng import Operation, draw_words
from genesis_toolkit.pipeline.scans.images import resize
from genesis_toolkit.pipeline.store.shards import shard_length
from genesis_toolkit.pipeline.targets.extract import cut_target, plan_target_job
from genesis_toolkit.pipeline.targets.parameters import MaskParameters, TargetParameters


@dataclass(frozen=True)
class TargetEstimate(Estimate):
    """What `extract_targets` would do; store_bytes are of cubes and masks.

    Attributes:
        finished: the store is there already, and nothing would be done.
        said: sentences on what of the source is left out.
        folds: of the cubes, as `count_folds` has it. They are so many at most: scans that cannot be read give
            none, nor do candidates outside their scans.
    """

    finished: bool
    said: tuple[str, ...]
    folds: dict[str, Any]


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
    wanted = [(task, job.labels_of(task)) for task in job.tasks]
    taken = [(task, rows) for task, rows in wanted if rows]
    counts = [len(rows) for _, rows in taken]
    cubes = sum(counts)
    fold = np.repeat(np.array([task.piece.fold for task, _ in taken], np.uint8), counts)
    scan = np.repeat(np.arange(len(taken), dtype=np.int32), counts)
    masks = isinstance(parameters, MaskParameters)
    told = None if masks else np.array([row for _, rows in taken for row in rows], np.uint8)
    size = sum(file_state(task.path)[0] for task, _ in taken)
    tasks = [] if job.finished else [task for task, _ in taken]
    itemsizes = (parameters.dtype.itemsize, 1) if masks else (parameters.dtype.itemsize,)
    _compile()
    return TargetEstimate(
        scans=len(taken),
        set_aside=len(wanted) - len(taken),
        cubes=cubes,
        bytes=size,
        files=sum(-(-cubes // shard_length(parameters.size, itemsize)) for itemsize in itemsizes),
        workers=workers,
        finished=job.finished,
        said=job.plan.said,
        folds=count_folds(fold, scan, told, parameters.classes),
        **try_one(tasks, cut_target, cubes, size, min(workers, len(taken))),
    )


def _compile() -> None:
    """Let the kernels be compiled, which the first scan or image would wait for."""
    draw_words(0, np.uint64(0), 0, 0, Operation.TARGET, 2)
    resize(np.zeros((1, 1), np.uint8), (1, 1))
