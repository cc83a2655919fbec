"""Scans -> target store: `extract_targets` plans, cuts each scan in a task of its own, packs what they gave.

The ledger and the engine are those of `extract_cubes`: interrupted, the same call goes on, and no worker
shows in the bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from genesis_toolkit.pipeline.cluster import connect
from genesis_toolkit.pipeline.cubes.records import (
    CutTask,
    Outcome,
    blank_record,
    file_state,
    lost_scans,
    recorded,
)
from genesis_toolkit.pipeline.engine import Pool, Report, cores, counting, run, silent
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import Ledger, first_difference, hold, run_log, sha256_of
from genesis_toolkit.pipeline.store.open import TargetStore, open_targets
from genesis_toolkit.pipeline.store.schema import TARGETS
from genesis_toolkit.pipeline.store.shards import encode_cube
from genesis_toolkit.pipeline.store.write import check_target
from genesis_toolkit.pipeline.targets.assemble import pack_targets
from genesis_toolkit.pipeline.targets.mask_files import masks_folder
from genesis_toolkit.pipeline.targets.parameters import MaskParameters, TargetParameters
from genesis_toolkit.pipeline.targets.plan import Cut, Piece, Plan
from genesis_toolkit.pipeline.targets.tasks import cut_piece, described, plan_task

_MOST_REASONS = 20


@dataclass(frozen=True)
class TargetExtraction:
    """What came of `extract_targets`.

    Attributes:
        store: the finished store.
        said: sentences on what of the source was left out, and what it lacks.
        done_before: the store was finished already, and nothing was done.
    """

    store: TargetStore
    said: tuple[str, ...]
    done_before: bool = False


@dataclass(frozen=True)
class TargetJob:
    """What a call of `extract_targets` is to do, found out without doing any of it.

    Attributes:
        plan: the scans, and what is wanted of each.
        description: the parameters as they stand in the store.
        masks: the folder of the masks; None but for segmentation.
        finished: the store is there already, and there is nothing to do.
    """

    plan: Plan
    description: dict[str, Any]
    masks: Path | None
    finished: bool

    def masks_of(self, piece: Piece) -> list[Path]:
        """Where the masks lie that have the name of a scan."""
        return [self.masks / name for name in piece.wanted] if self.masks else []


@dataclass(frozen=True)
class _Task(CutTask[TargetParameters]):
    """One scan: besides what every task knows, what of it is wanted, and the masks that have its name."""

    piece: Piece
    masks: tuple[Path, ...]


def extract_targets(
    source: Path,
    target: Path,
    parameters: TargetParameters,
    *,
    workers: int | None = None,
    pool: Pool = "processes",
    scheduler: str | None = None,
    overwrite: bool = False,
    report: Report = silent,
) -> TargetExtraction:
    """Cut labelled cubes of one task out of a source into one target store.

    Interrupted, it goes on when it is called again; finished, it does nothing. Names, tables and lists of the
    source stand in the store as one sha256, so a store is known not to be of another state of them. A scan
    that cannot be read is noted in the store and stops no other.

    Args:
        source: the folder of LUNA16, of NIH ChestX-ray14, or of scans with masks.
        target: the store to make.
        parameters: the task, and how it is cut.
        workers: how many scans at a time on this machine; None takes one a core.
        pool: `threads` where processes cannot be started.
        scheduler: of a dask.distributed cluster that does the work, as `cluster.connect` takes it.
        overwrite: replace a finished store, and begin again where other work was left.
        report: told as scans are finished.

    Raises:
        CallError: nothing to cut, something in the way, other parameters or another source than the store's.
        DataError: a table is damaged, or no scan gave a cube, and the reasons are in the message.
    """
    started = datetime.now(UTC)
    job = plan_target_job(source, target, parameters, overwrite=overwrite)
    if job.finished:
        return TargetExtraction(open_targets(target), job.plan.said, done_before=True)
    with (
        connect(scheduler, source, target, report) as cluster,
        hold(target, job.description, overwrite=overwrite) as ledger,
    ):
        tasks = _tasks(ledger, job, parameters)
        workers = workers or cores()
        _cut_all(tasks, partial(run, workers=workers, pool=pool, cluster=cluster), report)
        _check_any(ledger, tasks, parameters)
        hashes = pack_targets(ledger, job.description, parameters, [task.name for task in tasks], report)
        ledger.finish(hashes, run_log(started, cluster.workers if cluster else workers))
    return TargetExtraction(open_targets(target), job.plan.said)


def plan_target_job(
    source: Path, target: Path, parameters: TargetParameters, *, overwrite: bool
) -> TargetJob:
    """Find out what is to be done, doing none of it.

    Raises:
        CallError, DataError: as `extract_targets`.
    """
    masks = masks_folder(source, parameters).resolve() if isinstance(parameters, MaskParameters) else None
    inputs = [source, *([masks] if masks else [])]
    present = check_target(target, TARGETS, overwrite=overwrite, inputs=inputs)
    plan = plan_task(source, parameters)
    description = described(parameters, plan.sha256)
    difference = first_difference(present["parameters"], description) if present else None
    if difference:
        raise CallError(
            f"{target} was made with {difference}: choose another name, or give --overwrite to make it again."
        )
    return TargetJob(plan, description, masks, finished=present is not None)


def _tasks(ledger: Ledger, job: TargetJob, parameters: TargetParameters) -> list[_Task]:
    root = job.plan.root.resolve()  # a worker of a cluster has another working directory
    return [
        _Task(
            ledger,
            root / one.source.path,
            one.source,
            _record_name(one),
            parameters,
            one,
            tuple(job.masks_of(one)),
        )
        for one in job.plan.pieces
    ]


def _record_name(piece: Piece) -> str:
    return sha256_of(piece.source.path.encode(errors="surrogateescape"))[:32]


def _cut_all(tasks: Sequence[_Task], spread: Callable[..., None], report: Report) -> None:
    """Cut every scan that an earlier run has not finished."""
    left = [task for task in tasks if _is_left(task)]
    finished = counting(report, "scans", len(tasks), len(tasks) - len(left))
    spread(_cut_one, left, finished=finished, lost=_lost)


def _is_left(task: _Task) -> bool:
    record = task.ledger.recorded(task.name)
    return record is None or record["states"] != _states(task)


def _cut_one(task: _Task) -> Outcome:
    """Cut one scan, from its file to its staged cubes and its record."""
    record = blank_record(task) | _nothing(task)
    if not record["reason"]:
        try:
            record |= _staged(task, cut_piece(task.path, task.masks, task.piece, task.parameters))
        except DataError as error:
            record["reason"] = str(error)
        except (OSError, ValueError, MemoryError) as error:  # whatever else a strange file leads to
            record["reason"] = f"it cannot be read: {error}"
    return recorded(task, record)


def _staged(task: _Task, cut: Cut) -> dict[str, Any]:
    """Stage what a scan gave; what its record says of it."""
    cubes, masks = [encode_cube(cube) for cube in cut.cubes], [encode_cube(mask) for mask in cut.masks]
    task.ledger.write(task.ledger.staged(task.name), *cubes, *masks)
    found = {"corners": cut.corners.tolist(), "targets": [list(row) for row in cut.labels]}
    found |= {"chunks": [len(chunk) for chunk in cubes], "mask_chunks": [len(chunk) for chunk in masks]}
    return {"status": "used", "reason": "", **cut.facts, "sha256": cut.sha256, **found}


def _nothing(task: _Task) -> dict[str, Any]:
    """What the record of a scan has besides that of `extract_cubes`, of one that gave nothing."""
    return {"fold": task.piece.fold, "targets": [], "mask_chunks": [], "states": _states(task)}


def _lost(task: _Task) -> Outcome:
    """The record of a scan that ends the process which works on it."""
    outcome = lost_scans([task])[0]
    record = task.ledger.recorded(task.name) or {}
    task.ledger.record(task.name, record | _nothing(task))
    return outcome


def _states(task: _Task) -> list[list[int]]:
    """Bytes and time of the files that a piece is made of, which tell whether it was changed since."""
    return [list(file_state(path)) for path in (task.path, *task.masks)]


def _check_any(ledger: Ledger, tasks: Sequence[_Task], parameters: TargetParameters) -> None:
    """Refuse to make a store of nothing.

    Raises:
        DataError: no scan gave a cube, or no mask has any foreground.
    """
    records = [ledger.recorded(task.name) or {} for task in tasks]
    if not any(record["chunks"] for record in records):
        reasons = [f"  {record['path']}: {record['reason']}" for record in records[:_MOST_REASONS]]
        more = [f"  and {len(records) - _MOST_REASONS} more"] if len(records) > _MOST_REASONS else []
        ledger.abandon()
        raise DataError("\n".join(["No scan gave a cube, so no store was made.", *reasons, *more]))
    if isinstance(parameters, MaskParameters) and not any(record.get("foreground") for record in records):
        ledger.abandon()
        asked = f"one of --labels {','.join(map(str, parameters.labels))}" if parameters.labels else "but 0"
        raise DataError(f"No mask has a value {asked}, so there is nothing to learn, and no store was made.")
