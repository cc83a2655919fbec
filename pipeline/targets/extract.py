"""Scans -> target store: `extract_targets` plans, cuts each scan in a task of its own, packs what they gave.

The ledger and the engine are those of `extract_cubes`: interrupted, the same call goes on, and no worker
shows in the bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.engine import Pool, Report, cores, counting, run, silent
from pipeline.errors import CallError, DataError
from pipeline.ledger import Ledger, first_difference, hold, run_log, sha256_of
from pipeline.records import CutTask, Outcome, blank_record, file_state, lost_scans, recorded
from pipeline.shards import encode_cube
from pipeline.stores import check_target
from pipeline.targets.findings import cut_findings, plan_findings
from pipeline.targets.masks import cut_masks
from pipeline.targets.nodules import cut_nodules, plan_nodules
from pipeline.targets.pack import pack_targets
from pipeline.targets.pairs import masks_folder, plan_masks
from pipeline.targets.parameters import FindingParameters, MaskParameters, NoduleParameters, TargetParameters
from pipeline.targets.pieces import Cut, Piece, Plan
from pipeline.targets.store import TARGETS, TargetStore, open_targets

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
class _Task(CutTask[TargetParameters]):
    """One scan: besides what every task knows, what of it is wanted, and where its mask may lie."""

    piece: Piece
    masks: Path | None


def extract_targets(
    source: Path,
    target: Path,
    parameters: TargetParameters,
    *,
    workers: int | None = None,
    pool: Pool = "processes",
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
        workers: how many scans at a time; None takes one a core.
        pool: `threads` where processes cannot be started.
        overwrite: replace a finished store, and begin again where other work was left.
        report: told as scans are finished.

    Raises:
        CallError: nothing to cut, something in the way, other parameters or another source than the store's.
        DataError: a table is damaged, or no scan gave a cube, and the reasons are in the message.
    """
    started = datetime.now(UTC)
    masks = masks_folder(source, parameters).resolve() if isinstance(parameters, MaskParameters) else None
    inputs = [source, *([masks] if masks else [])]
    present = check_target(target, TARGETS, overwrite=overwrite, inputs=inputs)
    plan = _plan(source, parameters)
    description = _describe(parameters, plan)
    if present is not None:
        difference = first_difference(present["parameters"], description)
        if difference:
            raise CallError(
                f"{target} was made with {difference}: choose another name, or give --overwrite to make it "
                "again."
            )
        return TargetExtraction(open_targets(target), plan.said, done_before=True)
    with hold(target, description, overwrite=overwrite) as ledger:
        root = plan.root.resolve()
        tasks = [
            _Task(ledger, root / one.source.path, one.source, _record_name(one), parameters, one, masks)
            for one in plan.pieces
        ]
        workers = workers or cores()
        _cut_all(tasks, workers, pool, report)
        _check_any(ledger, tasks, parameters)
        hashes = pack_targets(ledger, description, parameters, [task.name for task in tasks], report)
        ledger.finish(hashes, run_log(started, workers))
    return TargetExtraction(open_targets(target), plan.said)


def _plan(source: Path, parameters: TargetParameters) -> Plan:
    if isinstance(parameters, NoduleParameters):
        return plan_nodules(source, parameters)
    return plan_masks(source, parameters) if isinstance(parameters, MaskParameters) else plan_findings(source)


def _describe(parameters: TargetParameters, plan: Plan) -> dict[str, Any]:
    """The parameters as they stand in the store; of the masks' folder its name, for its path is nobody's."""
    values = {
        name: list(value) if isinstance(value, tuple) else value for name, value in vars(parameters).items()
    }
    if isinstance(parameters, MaskParameters):
        values["masks"] = parameters.masks.name if parameters.masks else None
    return {"task": parameters.task, **values, "source_sha256": plan.sha256}


def _record_name(piece: Piece) -> str:
    return sha256_of(piece.source.path.encode(errors="surrogateescape"))[:32]


def _cut_all(tasks: Sequence[_Task], workers: int, pool: Pool, report: Report) -> None:
    """Cut every scan that an earlier run has not finished."""
    left = [task for task in tasks if _is_left(task)]
    finished = counting(report, "scans", len(tasks), len(tasks) - len(left))
    run(_cut_one, left, workers=workers, pool=pool, finished=finished, lost=_lost)


def _is_left(task: _Task) -> bool:
    record = task.ledger.recorded(task.name)
    return record is None or record["states"] != _states(task)


def _cut_one(task: _Task) -> Outcome:
    """Cut one scan, from its file to its staged cubes and its record."""
    record = blank_record(task) | _nothing(task)
    if not record["reason"]:
        try:
            record |= _staged(task, _cut(task))
        except DataError as error:
            record["reason"] = str(error)
        except (OSError, ValueError, MemoryError) as error:  # whatever else a strange file leads to
            record["reason"] = f"it cannot be read: {error}"
    return recorded(task, record)


def _cut(task: _Task) -> Cut:
    if isinstance(task.parameters, NoduleParameters):
        return cut_nodules(task.path, task.piece, task.parameters)
    if isinstance(task.parameters, FindingParameters):
        return cut_findings(task.path, task.piece, task.parameters)
    paths = _mask_paths(task)
    if len(paths) > 1:
        raise DataError(f"it has {len(paths)} masks, {', '.join(path.name for path in paths)}: keep one")
    return cut_masks(task.path, paths[0], task.piece, task.parameters)


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
    return [list(file_state(path)) for path in (task.path, *_mask_paths(task))]


def _mask_paths(task: _Task) -> list[Path]:
    return [task.masks / name for name in task.piece.wanted] if task.masks else []


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
