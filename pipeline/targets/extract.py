"""Makes a target store: `extract_targets` plans, cuts each scan in its own task, and packs the cubes.

It shares the ledger and the engine with `extract_cubes`: the same call resumes interrupted work, and the
bytes do not depend on the workers.
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
from genesis_toolkit.pipeline.progress import Bars, Progress, callback, shows, waited_for
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
    """Outcome of `extract_targets`.

    Attributes:
        store: the finished store.
        said: sentences on what was left out of the source, and what it lacks.
        done_before: the store was already finished, and nothing was done.
    """

    store: TargetStore
    said: tuple[str, ...]
    done_before: bool = False


@dataclass(frozen=True)
class TargetJob:
    """The plan of a call of `extract_targets`, made without doing any of it.

    `description` is the parameters as written to the store; `finished`: the store already exists.
    """

    parameters: TargetParameters
    plan: Plan
    description: dict[str, Any]
    tasks: tuple[TargetTask[Any], ...]
    finished: bool

    def labels_of(self, task: TargetTask[Any]) -> list[list[int]]:
        """Return the labels of the cubes that a scan would give, one row per cube, 0 or 1 per class.

        The scan may give fewer: only cutting shows whether it can be read, and contains its candidates. For
        segmentation, whose cubes have masks, rows have no classes.
        """
        sound = not (task.source.problem or task.source.skip)
        return _WAYS[type(self.parameters)].labels(task.piece.data, self.parameters) if sound else []


class _Ways(NamedTuple):
    """The functions of a task: plan a source, cut a scan, and name the labels of its cubes."""

    plan: Callable[[Path, Any, SplitFile | None], Plan]
    cut: Callable[[Any], Cut]
    labels: Callable[[Any, Any], list[list[int]]]


#: Parameters of tasks with masks.
_MASKED = (MaskParameters, ImageMaskParameters)

_WAYS: dict[type[TargetParameters], _Ways] = {
    NoduleParameters: _Ways(plan_nodules, cut_nodules, lambda data, _: [[row[4]] for row in data]),
    MaskParameters: _Ways(
        plan_masks, cut_masks, lambda data, asked: [[]] * asked.cubes_per_scan if len(data) == 1 else []
    ),
    FindingParameters: _Ways(plan_findings, cut_findings, lambda data, _: [data]),
    ImageMaskParameters: _Ways(plan_image_masks, cut_image_masks, lambda _wanted, _: [[]]),
    ScanLabelParameters: _Ways(
        plan_labels, cut_labelled_scan, lambda data, asked: [data] * (asked.cubes_per_scan or 1)
    ),
    ImageLabelParameters: _Ways(plan_labels, cut_labelled_image, lambda data, _: [data]),
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
    """Cut labelled cubes for one task from a source into one target store.

    Call it again to resume an interrupted run; on a finished store it does nothing. The store records the
    names, tables and lists of the source as one sha256, so a later change of them is detected. An unreadable
    scan is recorded in the store and does not stop the others.

    Args:
        source: the folder of LUNA16, of NIH ChestX-ray14, or of scans with masks.
        target: the store to make.
        parameters: the task, and how to cut.
        workers: number of scans at a time on this machine; None means one per core. `readers` decides
            whether they are threads or processes.
        scheduler: address of a dask.distributed cluster that does the work, see `engine.connect`.
        split_file: a CSV table with the fold of every scan, see `extract_cubes`.
        overwrite: replace a finished store, and start again if other unfinished work exists.
        progress: True shows bars on stderr; a callback receives the progress.

    Raises:
        CallError: there is nothing to cut, something is in the way, or the parameters or the source differ
            from the store's.
        DataError: a table is damaged, or no scan gave a cube (the message has the reasons).
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
    """Plan the work without starting it; raises as `extract_targets`."""
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
    """Find the scans of a source, and their data for the task; a split file assigns the folds.

    Raises:
        CallError: the source does not exist, or nothing in it can be cut.
        DataError: a table or a list is damaged.
    """
    with waited_for(f"finding scans in {source}"):
        return _WAYS[type(parameters)].plan(source, parameters, split)


def cut_target(task: TargetTask[Any]) -> Cut:
    """Cut one scan as its task requires.

    Raises:
        DataError, OSError, ValueError, MemoryError: it cannot be read, or has several masks.
    """
    return _WAYS[type(task.parameters)].cut(task)


def target_tasks(plan: Plan, parameters: TargetParameters, masks: Path | None) -> tuple[TargetTask[Any], ...]:
    """Return a task for every scan of a plan; `masks` is the folder of masks, for segmentation only."""
    root = plan.root.resolve()  # a cluster worker has another working directory
    tasks = []
    for one in plan.pieces:
        own = tuple(masks / name for name in one.data) if masks else ()
        tasks.append(TargetTask(root / one.source.path, one.source, parameters, one, own))
    return tuple(tasks)


def _no_foreground(ledger: Ledger, job: TargetJob) -> DataError | None:
    """Return an error if no mask has any foreground; None if one has, or if there are no masks."""
    parameters, records = job.parameters, ledger.records(task.name for task in job.tasks)
    if not isinstance(parameters, _MASKED) or any(record.get("foreground") for record in records):
        return None
    values = parameters.foreground
    asked = f"of --foreground {','.join(map(str, values))}" if values else "other than 0"
    return DataError(
        f"No mask has a value {asked}, so there is nothing to learn, and no "
        "store was made. Choose other masks or other values for --foreground."
    )


def _assemble(
    ledger: Ledger, job: TargetJob, changes: Mapping[str, Facts], report: Progress
) -> dict[str, str]:
    """Write everything of a target store but its manifest and name; return the sha256 of its shards."""
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
    entries = {"task": parameters.task, "classes": list(parameters.classes), "folds": list(FOLDS)}
    corner = np.concatenate([record["corners"] for record in records])
    fold = np.array([task.piece.fold for task in job.tasks], np.uint8)[scan]
    table = TargetTable(scan=scan, number=number, corner=corner, fold=fold)
    attributes = assemble.attributes_of(parameters, job.description, **entries)
    tables = [table], *assemble.scan_tables(records)
    write_store(ledger.store, TARGETS, attributes, parameters.dtype, *tables, labels=labels)
    hashes = dict[str, str]()
    for name, itemsize in arrays.items():
        chunks = assemble.staged_chunks(ledger, names, records, masks=name == "masks")
        hashes |= assemble.write_shards(ledger, name, parameters.size, itemsize, len(table), chunks, report)
    return hashes


@dataclass(frozen=True)
class TargetEstimate(Estimate):
    """Estimated outcome of `extract_targets`; store_bytes are of cubes and masks.

    Attributes:
        finished: the store already exists, and nothing would be done.
        said: sentences on what is left out of the source.
        folds: numbers of the cubes, see `count_folds`. These are upper limits: unreadable scans give none,
            nor do candidates outside their scans.
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
    """Plan the source, cut one scan, discard the result, and extrapolate to all: `--dry-run`.

    Names, tables and lists are read as for the store itself, so the counts are exact for the plan.

    Raises:
        CallError, DataError: see `extract_targets`.
    """
    job = plan_target_job(source, target, parameters, split_file=split_file, overwrite=overwrite)
    taken = [(task, rows) for task in job.tasks if (rows := job.labels_of(task))]
    counts = [len(rows) for _, rows in taken]
    cubes = sum(counts)
    fold = np.repeat(np.array([task.piece.fold for task, _ in taken], np.uint8), counts)
    scan = np.repeat(np.arange(len(taken), dtype=np.int32), counts)
    masks = isinstance(parameters, _MASKED)
    parameters = job.parameters
    entries = None if masks else np.array([row for _, rows in taken for row in rows], np.uint8)
    size = sum(task.states()[0][0] for task, _ in taken)
    tasks = [] if job.finished else [task for task, _ in taken]
    itemsizes = (parameters.dtype.itemsize, 1) if masks else (parameters.dtype.itemsize,)
    # Compiles the kernels, which would distort the time.
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
        folds=count_folds(fold, scan, entries, parameters.classes),
        **try_one(tasks, cut_target, cubes, size, min(workers, len(taken))),
    )
