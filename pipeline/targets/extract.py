"""Scans -> target store: `extract_targets` plans, cuts each scan in a task of its own, packs what they gave.

The ledger and the engine are those of `extract_cubes`: interrupted, the same call goes on, and no worker
shows in the bytes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genesis_toolkit.pipeline.cubes import assemble
from genesis_toolkit.pipeline.cubes.copies import changes_of
from genesis_toolkit.pipeline.cubes.estimate import Estimate, try_one
from genesis_toolkit.pipeline.cubes.records import Cut, cut_all, nothing_given
from genesis_toolkit.pipeline.cubes.split_file import SplitFile, read_split_file, recorded
from genesis_toolkit.pipeline.describe.facts import count_folds
from genesis_toolkit.pipeline.engine import connect
from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.job import Facts
from genesis_toolkit.pipeline.ledger import AnyPath, Ledger, check_same_parameters, hold, run_log
from genesis_toolkit.pipeline.progress import Bars, Progress, callback, shows
from genesis_toolkit.pipeline.rng import Operation, draw_words
from genesis_toolkit.pipeline.scans.images import resize
from genesis_toolkit.pipeline.store.open import TargetStore, open_targets
from genesis_toolkit.pipeline.store.schema import FOLDS, TARGETS, TargetTable
from genesis_toolkit.pipeline.store.shards import shard_length
from genesis_toolkit.pipeline.store.write import check_target, write_store
from genesis_toolkit.pipeline.targets.findings import cut_findings, plan_findings
from genesis_toolkit.pipeline.targets.labels import (
    cut_labelled_image,
    cut_labelled_scan,
    plan_labels,
    with_classes,
)
from genesis_toolkit.pipeline.targets.masks import (
    cut_image_masks,
    cut_masks,
    masks_folder,
    plan_image_masks,
    plan_masks,
)
from genesis_toolkit.pipeline.targets.nodules import cut_nodules, plan_nodules
from genesis_toolkit.pipeline.targets.parameters import (
    FindingParameters,
    ImageLabelParameters,
    ImageMaskParameters,
    MaskParameters,
    NoduleParameters,
    ScanLabelParameters,
    TargetParameters,
    as_now,
    described,
)
from genesis_toolkit.pipeline.targets.plan import Plan, TargetTask


@dataclass(frozen=True)
class TargetResult:
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

    `description` is the parameters as they stand in the store; `finished`: it is there already.
    """

    parameters: TargetParameters
    plan: Plan
    description: dict[str, Any]
    tasks: tuple[TargetTask[Any], ...]
    finished: bool

    def labels_of(self, task: TargetTask[Any]) -> list[list[int]]:
        """The labels of the cubes that a scan would give, one row a cube, 0 or 1 a class.

        It may give fewer: whether it can be read, and reaches as far as its candidates, is known once it is
        cut. Of segmentation, whose cubes have masks, rows are without a class.
        """
        sound = not (task.source.problem or task.source.skip)
        return _WAYS[type(self.parameters)].labels(task.piece.wanted, self.parameters) if sound else []


class _Ways(NamedTuple):
    """How a source is planned for a task, how a scan is cut, and which labels its cubes will have."""

    plan: Callable[[Path, Any, SplitFile | None], Plan]
    cut: Callable[[Any], Cut]
    labels: Callable[[Any, Any], list[list[int]]]


#: What has masks.
_MASKED = (MaskParameters, ImageMaskParameters)

_WAYS: dict[type[TargetParameters], _Ways] = {
    NoduleParameters: _Ways(plan_nodules, cut_nodules, lambda wanted, _: [[row[4]] for row in wanted]),
    MaskParameters: _Ways(
        plan_masks, cut_masks, lambda wanted, asked: [[]] * asked.cubes_per_scan if len(wanted) == 1 else []
    ),
    FindingParameters: _Ways(plan_findings, cut_findings, lambda wanted, _: [wanted]),
    ImageMaskParameters: _Ways(plan_image_masks, cut_image_masks, lambda _wanted, _: [[]]),
    ScanLabelParameters: _Ways(
        plan_labels, cut_labelled_scan, lambda wanted, asked: [wanted] * (asked.cubes_per_scan or 1)
    ),
    ImageLabelParameters: _Ways(plan_labels, cut_labelled_image, lambda wanted, _: [wanted]),
}


@shows(Bars)
def extract_targets(
    source: AnyPath,
    target: AnyPath,
    parameters: TargetParameters,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    split_file: AnyPath | None = None,
    overwrite: bool = False,
    progress: Progress | bool = False,
) -> TargetResult:
    """Cut labelled cubes of one task out of a source into one target store.

    Interrupted, it goes on when it is called again; finished, it does nothing. Names, tables and lists of the
    source stand in the store as one sha256, so a store is known not to be of another state of them. A scan
    that cannot be read is noted in the store and stops no other.

    Args:
        source: the folder of LUNA16, of NIH ChestX-ray14, or of scans with masks.
        target: the store to make.
        parameters: the task, and how it is cut.
        workers: how many scans at a time on this machine; None takes one a core. `readers` says
            whether they are threads or processes.
        scheduler: of a dask.distributed cluster that does the work, as `engine.connect` takes it.
        split_file: a table of CSV that says the fold of every scan, as `extract_cubes` takes it.
        overwrite: replace a finished store, and begin again where other work was left.
        progress: True shows bars on stderr; a callback is told as the work goes on.

    Raises:
        CallError: nothing to cut, something in the way, other parameters or another source than the store's.
        DataError: a table is damaged, or no scan gave a cube, and the reasons are in the message.
    """
    report = callback(progress)
    started, source, target = datetime.now(UTC), Path(source), Path(target)
    split_file = Path(split_file) if split_file else None
    job = plan_target_job(source, target, parameters, split_file=split_file, overwrite=overwrite)
    if job.finished:
        return TargetResult(open_targets(target), job.plan.said, done_before=True)
    with (
        connect(scheduler, workers, source, target, report) as crew,
        hold(target, job.description, overwrite=overwrite) as ledger,
    ):
        cut_all(crew, ledger, "scan", job.tasks, cut_target)
        changes = changes_of(ledger, job.tasks)
        if nothing := nothing_given(ledger, job.tasks, "scan", changes) or _no_foreground(ledger, job):
            ledger.abandon()
            raise nothing
        ledger.finish(_assemble(ledger, job, changes, report), run_log(started, crew.count))
    return TargetResult(open_targets(target), job.plan.said)


def plan_target_job(
    source: Path,
    target: Path,
    parameters: TargetParameters,
    *,
    split_file: Path | None = None,
    overwrite: bool,
) -> TargetJob:
    """Find out what is to be done, doing none of it; raises as `extract_targets`."""
    parameters = with_classes(parameters)
    masks = masks_folder(source, parameters).resolve() if isinstance(parameters, _MASKED) else None
    present = check_target(target, TARGETS, overwrite=overwrite, inputs=[source, *filter(None, [masks])])
    split = read_split_file(split_file) if split_file else None
    plan = plan_targets(source, parameters, split)
    description = described(parameters, plan.sha256) | recorded(split)
    if present is not None:
        check_same_parameters(target, as_now(present["parameters"]), description)
    tasks = target_tasks(plan, parameters, masks)
    return TargetJob(parameters, plan, description, tasks, present is not None)


def plan_targets(source: Path, parameters: TargetParameters, split: SplitFile | None) -> Plan:
    """Find the scans of a source, and what is wanted of each; a split file says their folds.

    Raises:
        CallError: no such source, or nothing of it can be cut.
        DataError: a table or a list is damaged.
    """
    return _WAYS[type(parameters)].plan(source, parameters, split)


def cut_target(task: TargetTask[Any]) -> Cut:
    """Cut what is wanted of one scan.

    Raises:
        DataError, OSError, ValueError, MemoryError: it cannot be read, or has several masks.
    """
    return _WAYS[type(task.parameters)].cut(task)


def target_tasks(plan: Plan, parameters: TargetParameters, masks: Path | None) -> tuple[TargetTask[Any], ...]:
    """A task for every scan of a plan; `masks` is the folder of the masks, None but for segmentation."""
    root = plan.root.resolve()  # a worker of a cluster has another working directory
    tasks = []
    for one in plan.pieces:
        own = tuple(masks / name for name in one.wanted) if masks else ()
        tasks.append(TargetTask(root / one.source.path, one.source, parameters, one, own))
    return tuple(tasks)


def _no_foreground(ledger: Ledger, job: TargetJob) -> DataError | None:
    """The error where no mask has any foreground; None where there are no masks, or one has."""
    parameters, records = job.parameters, ledger.records(task.name for task in job.tasks)
    if not isinstance(parameters, _MASKED) or any(record.get("foreground") for record in records):
        return None
    values = parameters.foreground
    asked = f"one of --foreground {','.join(map(str, values))}" if values else "but 0"
    return DataError(f"No mask has a value {asked}, so there is nothing to learn, and no store was made.")


def _assemble(
    ledger: Ledger, job: TargetJob, changes: Mapping[str, Facts], report: Progress
) -> dict[str, str]:
    """Staged scans -> everything of a target store but its manifest and name; the sha256 of its shards."""
    ledger.clear_store()
    parameters, names = job.parameters, [task.name for task in job.tasks]
    records = list(assemble.compact(ledger, names, changes))
    scan, number = assemble.numbered(records)
    labels, arrays = None, {"cubes": parameters.dtype.itemsize}
    if isinstance(parameters, _MASKED):
        arrays["masks"] = 1
    else:
        rows = [row for record in records for row in record["targets"]]
        labels = np.array(rows, np.uint8).reshape(-1, len(parameters.classes))
    told = {"task": parameters.task, "classes": list(parameters.classes), "folds": list(FOLDS)}
    corner = np.concatenate([record["corners"] for record in records])
    fold = np.array([task.piece.fold for task in job.tasks], np.uint8)[scan]
    table = TargetTable(scan=scan, number=number, corner=corner, fold=fold)
    attributes = assemble.attributes_of(parameters, job.description, **told)
    tables = [table], *assemble.scan_tables(records)
    write_store(ledger.store, TARGETS, attributes, parameters.dtype, *tables, labels=labels)
    hashes = dict[str, str]()
    for name, itemsize in arrays.items():
        chunks = assemble.staged_chunks(ledger, names, records, masks=name == "masks")
        hashes |= assemble.write_shards(ledger, name, parameters.size, itemsize, len(table), chunks, report)
    return hashes


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
    source: Path,
    target: Path,
    parameters: TargetParameters,
    *,
    workers: int,
    split_file: Path | None = None,
    overwrite: bool = False,
) -> TargetEstimate:
    """Plan the source, cut one scan and throw it away, and say what all would come to: `--dry-run`.

    Names, tables and lists are read as for the store itself, so the counts are those of what is wanted.

    Raises:
        CallError, DataError: as `extract_targets`.
    """
    job = plan_target_job(source, target, parameters, split_file=split_file, overwrite=overwrite)
    taken = [(task, rows) for task in job.tasks if (rows := job.labels_of(task))]
    counts = [len(rows) for _, rows in taken]
    cubes = sum(counts)
    fold = np.repeat(np.array([task.piece.fold for task, _ in taken], np.uint8), counts)
    scan = np.repeat(np.arange(len(taken), dtype=np.int32), counts)
    masks = isinstance(parameters, _MASKED)
    parameters = job.parameters
    told = None if masks else np.array([row for _, rows in taken for row in rows], np.uint8)
    size = sum(task.states()[0][0] for task, _ in taken)
    tasks = [] if job.finished else [task for task, _ in taken]
    itemsizes = (parameters.dtype.itemsize, 1) if masks else (parameters.dtype.itemsize,)
    # Let the kernels be compiled, which the first scan or image would wait for.
    draw_words(0, np.uint64(0), 0, 0, Operation.TARGET, 2)
    resize(np.zeros((1, 1), np.uint8), (1, 1))
    return TargetEstimate(
        scans=len(taken),
        set_aside=len(job.tasks) - len(taken),
        cubes=cubes,
        bytes=size,
        files=sum(-(-cubes // shard_length(parameters.size, itemsize)) for itemsize in itemsizes),
        workers=workers,
        finished=job.finished,
        said=job.plan.said,
        folds=count_folds(fold, scan, told, parameters.classes),
        **try_one(tasks, cut_target, cubes, size, min(workers, len(taken))),
    )
