"""Scans -> cube store: `extract_cubes` finds the scans, cuts each in a task of its own, packs what they gave.

X-ray images are scans of one slice here; what is cut of each say `cut` and `cut_images`. A finished scan is
staged, encoded; when all are done their cubes are packed into shards in scan order, so the bytes do not
depend on which scan was finished first. Scans that were added to the source of a finished store are cut and
packed behind what is there. METHOD.md sections 2 and 5.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from genesis_toolkit.pipeline.cluster import connect
from genesis_toolkit.pipeline.cubes.assemble import attributes_of, pack
from genesis_toolkit.pipeline.cubes.crop import cut_images
from genesis_toolkit.pipeline.cubes.cut import cut_scans, cut_subset
from genesis_toolkit.pipeline.cubes.parameters import (
    ExtractParameters,
    ImageParameters,
    Parameters,
    find_sources,
)
from genesis_toolkit.pipeline.cubes.pseudonyms import Key, read_key
from genesis_toolkit.pipeline.cubes.records import CutTask, Outcome, lost_scans, record_is_old
from genesis_toolkit.pipeline.cubes.repair import Damage, find_damage, repair_cubes
from genesis_toolkit.pipeline.cubes.update import Growth, compare
from genesis_toolkit.pipeline.engine import Pool, Report, cores, counting, run, silent
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import Ledger, first_difference, hold, run_log, sha256_of
from genesis_toolkit.pipeline.scans.find import PRETRAINING_SUBSETS, Found, Source
from genesis_toolkit.pipeline.store.open import CubeStore, open_cubes
from genesis_toolkit.pipeline.store.schema import CUBES
from genesis_toolkit.pipeline.store.write import check_target

_MOST_REASONS = 20


@dataclass(frozen=True)
class Extraction:
    """What came of `extract_cubes`.

    Attributes:
        store: the finished store.
        found: what the source holds, and what of it was left out.
        done_before: the store was finished already, and nothing was done.
        taken_in: how many scans were added to a store that was finished already.
        repaired: how many damaged files of a store that was finished already were made again.
        unused: what came of the scans that were looked at now and gave no cube, by path, under their own
            names whatever the store tells.
    """

    store: CubeStore
    found: Found
    done_before: bool = False
    taken_in: int = 0
    repaired: int = 0
    unused: tuple[Outcome, ...] = ()


@dataclass(frozen=True)
class Job:
    """What a call of `extract_cubes` is to do, found out without doing any of it.

    Attributes:
        found: the scans of the source.
        description: the parameters as they stand in the store, with what was left to be found out put in.
        key: of the pseudonyms in the store; None where it has none.
        growth: what the finished store is to take in; None where a store is made.
    """

    found: Found
    description: dict[str, Any]
    key: Key | None
    growth: Growth | None = None

    @property
    def sources(self) -> tuple[Source, ...]:
        """The scans to cut; none where all is done."""
        return self.growth.sources if self.growth else self.found.sources


@dataclass(frozen=True)
class _Work:
    """Who does the work, and who is told."""

    source: Path
    workers: int
    pool: Pool
    scheduler: str | None
    report: Report

    @property
    def spread(self) -> Callable[..., None]:
        """`engine.run` on this machine."""
        return partial(run, workers=self.workers, pool=self.pool)


def extract_cubes(
    source: Path,
    target: Path,
    parameters: Parameters,
    *,
    workers: int | None = None,
    pool: Pool = "processes",
    scheduler: str | None = None,
    anonymize: Path | None = None,
    strict: bool = False,
    overwrite: bool = False,
    report: Report = silent,
) -> Extraction:
    """Cut cubes out of every scan, or X-ray image, of a folder into one cube store.

    Interrupted, it goes on when it is called again; finished, it makes damaged files again (`repair`) and
    takes in what scans were added, behind the cubes that are there, or does nothing. A scan that cannot be
    read is noted in the store and stops no other.

    Args:
        source: the folder of the scans.
        target: the store to make.
        parameters: what to cut; `ExtractParameters` of CT scans, `ImageParameters` of X-ray images.
        workers: how many scans at a time on this machine; None takes one a core.
        pool: `threads` where processes cannot be started; CT scans are then read one at a time.
        scheduler: of a dask.distributed cluster that does the work, as `cluster.connect` takes it.
        anonymize: a file with a key, made where there is none: the store tells pseudonyms made with it in
            the place of identifiers, paths and sha256, and the voxels are the same.
        strict: stop at the first scan that fails.
        overwrite: replace a finished store, and begin again where other work was left.
        report: told as scans are finished.

    Raises:
        CallError: no scans, something in the way, other parameters than the store's, scans that changed.
        DataError: no scan gave a cube, and the reasons are in the message; a scan failed under `strict`; or
            the finished store is damaged and cannot be repaired.
    """
    started = datetime.now(UTC)
    work = _Work(source, workers or cores(), pool, scheduler, report)
    damage = None if overwrite else find_damage(target, CUBES)
    repaired = _repair(damage, parameters, anonymize, work) if damage else 0
    job = plan_job(source, target, parameters, anonymize=anonymize, overwrite=overwrite)
    if job.growth and not job.sources:
        return Extraction(job.growth.store, job.found, done_before=True, repaired=repaired)
    if job.key:
        job.key.keep()
    unused = _make(target, job, parameters, work, strict, overwrite, started)
    taken_in = len(job.sources) if job.growth else 0
    return Extraction(open_cubes(target), job.found, False, taken_in, repaired, unused)


def plan_job(
    source: Path,
    target: Path,
    parameters: Parameters,
    *,
    anonymize: Path | None = None,
    overwrite: bool,
) -> Job:
    """Find out what is to be done, doing none of it: a key that is to be made is not yet written.

    Raises:
        CallError, DataError: as `extract_cubes`.
    """
    present = check_target(target, CUBES, overwrite=overwrite, inputs=[source])
    job = _asked_for(source, parameters, anonymize)
    if present is None:
        return job
    if "imported" in present["parameters"]:
        raise CallError(
            f"{target} was imported, not extracted: choose another name, or give --overwrite to replace it."
        )
    difference = first_difference(present["parameters"], job.description)
    if difference:
        raise CallError(
            f"{target} was made with {difference}: choose another name, or give --overwrite to make it again."
        )
    return replace(job, growth=compare(open_cubes(target), job.found, job.key))


def _asked_for(source: Path, parameters: Parameters, anonymize: Path | None) -> Job:
    """What a call asks for, whatever store there is."""
    found = find_sources(source, parameters)
    key = read_key(anonymize) if anonymize else None
    return Job(found, _describe(parameters, found, key), key)


def _make(
    target: Path,
    job: Job,
    parameters: Parameters,
    work: _Work,
    strict: bool,
    overwrite: bool,
    started: datetime,
) -> tuple[Outcome, ...]:
    """Cut what is to be cut, and make or grow the store; the scans that gave no cube.

    Raises:
        CallError, DataError: as `extract_cubes`.
    """
    grow, report = job.growth is not None, work.report
    with (
        connect(work.scheduler, work.source, target, report) as cluster,
        hold(target, job.description, overwrite=overwrite, grow=grow) as ledger,
    ):
        tasks = _tasks(ledger, job, parameters)
        unused = _cut_all(tasks, parameters, partial(work.spread, cluster=cluster), strict, report)
        if len(unused) == len(tasks) and not grow:
            reasons = _nothing(tasks, parameters)
            ledger.abandon()
            raise DataError(reasons)
        names = [task.name for task in tasks]
        hashes = pack(ledger, job.description, parameters, names, job.growth, job.key, report)
        ledger.finish(hashes, run_log(started, cluster.workers if cluster else work.workers))
    return unused


def _repair(damage: Damage, parameters: Parameters, anonymize: Path | None, work: _Work) -> int:
    """Make the damaged files of a finished store again; how many, none where it was made by another call."""
    job = _asked_for(work.source, parameters, anonymize)
    said = damage.remains.attributes
    if said is not None and said.get("parameters") != job.description:
        return 0  # `plan_job` says what differs
    attributes = attributes_of(parameters, job.description)
    with (
        connect(work.scheduler, work.source, damage.target, work.report) as cluster,
        hold(damage.target, job.description, overwrite=False) as ledger,
    ):
        spread = partial(work.spread, cluster=cluster)
        try:
            repair_cubes(damage, work.source, parameters, attributes, job.key, ledger, spread, work.report)
        finally:
            ledger.clear_store()
            if not ledger.names():  # of scans that were being taken in
                ledger.abandon()
    return len(damage.files) + damage.log


def _tasks(ledger: Ledger, job: Job, parameters: Parameters) -> list[CutTask[Parameters]]:
    root = job.found.root.resolve()  # a worker of a cluster has another working directory
    return [CutTask(ledger, root / scan.path, scan, _record_name(scan), parameters) for scan in job.sources]


def _record_name(scan: Source) -> str:
    return sha256_of(scan.path.encode(errors="surrogateescape"))[:32]


def _cut_all(
    tasks: Sequence[CutTask[Parameters]],
    parameters: Parameters,
    spread: Callable[..., None],
    strict: bool,
    report: Report,
) -> tuple[Outcome, ...]:
    """Cut every scan that an earlier run has not finished; what came of those that gave no cube, by path.

    Raises:
        DataError: a scan failed, and `strict`.
    """
    done = _done_before(tasks)
    images = isinstance(parameters, ImageParameters)
    count = counting(report, "images" if images else "scans", len(tasks), len(done))
    # By path, since the official draws may cut a scan again that was done before.
    outcomes: dict[str, Outcome] = {}

    def look(outcome: Outcome) -> None:
        outcomes[outcome.path] = outcome
        if strict and outcome.status == "failed":
            raise DataError(
                f"{outcome.path}: {outcome.reason}. That is the first scan that failed, and --strict stops "
                "there; what is done is kept, and the same command goes on."
            )

    def finished(cut_now: Sequence[Outcome]) -> None:
        for outcome in cut_now:
            known = outcome.path in outcomes
            look(outcome)
            if not known:
                count(outcome)

    for outcome in done.values():
        look(outcome)
    if isinstance(parameters, ExtractParameters) and parameters.sampler == "official":
        # The official draws run on through a subset, so its scans are cut in order; subsets side by side.
        subsets = [list(group) for _, group in groupby(tasks, key=lambda task: task.source.subset)]
        spread(cut_subset, subsets, finished=finished, lost=None)
    else:
        alone = [[task] for task in tasks if task.name not in done]
        spread(cut_images if images else cut_scans, alone, finished=finished, lost=lost_scans)
    return tuple(outcome for _, outcome in sorted(outcomes.items()) if outcome.status != "used")


def _done_before(tasks: Sequence[CutTask[Parameters]]) -> dict[str, Outcome]:
    """What came of the scans that an earlier run finished and that are still the same, by their names."""
    done = {}
    names = tasks[0].ledger.names() if tasks else set()
    for task in tasks:
        record = task.ledger.recorded(task.name) if task.name in names else None
        if record is not None and not record_is_old(record, task.path):
            done[task.name] = Outcome(task.source.path, record["status"], record["reason"])
    return done


def _describe(parameters: Parameters, found: Found, key: Key | None) -> dict[str, Any]:
    """The parameters as they stand in the store, with what was left to be found out put in."""
    values = asdict(parameters)
    if isinstance(parameters, ExtractParameters):
        subsets = None if found.layout == "files" else sorted(parameters.subsets or PRETRAINING_SUBSETS)
        values |= {"layout": found.layout, "subsets": subsets}
        if parameters.plane is None:
            del values["plane"]  # which cubes have none of
    values |= {"anonymized_with": key.fingerprint} if key else {}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _nothing(tasks: Sequence[CutTask[Parameters]], parameters: Parameters) -> str:
    """The sentence, and the reasons, where nothing gave a cube."""
    kind = "scan"
    advice = (
        "A smaller --border or --size takes smaller scans, a larger --max-tissue denser ones; genesis-prep "
        "explain SCAN says what helps."
    )
    if isinstance(parameters, ImageParameters):
        kind, advice = "image", "A smaller --size takes smaller images; damaged ones must be fetched again."
    records = [task.ledger.recorded(task.name) or {} for task in tasks[:_MOST_REASONS]]
    reasons = [f"  {record['path']}: {record['status']}, {record['reason']}" for record in records]
    more = [f"  and {len(tasks) - _MOST_REASONS} more"] if len(tasks) > _MOST_REASONS else []
    return "\n".join([f"No {kind} gave a cube, so no store was made.", *reasons, *more, advice])
