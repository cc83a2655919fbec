"""Scans -> cube store: `extract_cubes` finds the scans, cuts each in a task of its own, packs what they gave.

X-ray images are scans of one slice here; what is cut of each say `cut` and `crop`. A finished scan is
staged, encoded; when all are done, cubes are packed into shards in scan order, whichever scan was finished
first. Scans that were added to the source come behind what is there. METHOD.md sections 2 and 5.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from genesis_toolkit.pipeline.cubes.assemble import assemble
from genesis_toolkit.pipeline.cubes.copies import changes_of
from genesis_toolkit.pipeline.cubes.crop import cut_picture
from genesis_toolkit.pipeline.cubes.cut import cut_official, cut_scan, official_is_same, official_tasks
from genesis_toolkit.pipeline.cubes.parameters import (
    ExtractParameters,
    ImageParameters,
    Parameters,
    find_sources,
)
from genesis_toolkit.pipeline.cubes.parts import recorded_part, taken
from genesis_toolkit.pipeline.cubes.pseudonyms import Key, read_key
from genesis_toolkit.pipeline.cubes.records import (
    Cut,
    CutTask,
    Outcome,
    cut_all,
    nothing_given,
    suited_readers,
)
from genesis_toolkit.pipeline.cubes.repair import Damage, find_damage, make_cubes_again, repair
from genesis_toolkit.pipeline.cubes.split_file import dealt_by, read_split_file, recorded
from genesis_toolkit.pipeline.cubes.update import Update, compare
from genesis_toolkit.pipeline.engine import Workers, connect
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.job import Facts, run_missing
from genesis_toolkit.pipeline.ledger import AnyPath, Ledger, check_same_parameters, hold, run_log
from genesis_toolkit.pipeline.progress import Bars, Progress, callback, shows
from genesis_toolkit.pipeline.scans.find import PRETRAINING_SUBSETS, Found, layout_of
from genesis_toolkit.pipeline.scans.hashing import leave_room
from genesis_toolkit.pipeline.store.open import CubeStore, open_cubes
from genesis_toolkit.pipeline.store.schema import CUBES
from genesis_toolkit.pipeline.store.write import check_target


@dataclass(frozen=True)
class ExtractionResult:
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
        parameters: what is cut.
        description: the same as they stand in the store, with what was left to be found out put in.
        key: of the pseudonyms in the store; None where it has none.
        update: what the finished store is to take in; None where a store is made.
    """

    found: Found
    parameters: Parameters
    description: dict[str, Any]
    key: Key | None
    update: Update | None = None

    @property
    def noun(self) -> str:
        """What is cut."""
        return "image" if isinstance(self.parameters, ImageParameters) else "scan"

    @cached_property
    def tasks(self) -> list[CutTask[Any]]:
        """The scans to cut; none where all is done."""
        sources = self.update.sources if self.update else self.found.sources
        root = self.found.root.resolve()  # a worker of a cluster has another working directory
        return [CutTask(root / scan.path, scan, self.parameters) for scan in sources]

    @property
    def cut(self) -> Callable[[CutTask[Any]], Cut]:
        """Cuts one of them, without the official draws."""
        return cut_picture if self.noun == "image" else cut_scan


@shows(Bars)
def extract_cubes(
    source: AnyPath,
    target: AnyPath,
    parameters: Parameters | None = None,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    anonymize: AnyPath | None = None,
    split_file: AnyPath | None = None,
    part: str | None = None,
    strict: bool = False,
    overwrite: bool = False,
    progress: Progress | bool = False,
) -> ExtractionResult:
    """Cut cubes out of every scan, or X-ray image, of a folder into one cube store.

    Interrupted, it goes on when it is called again; finished, it makes damaged files again (`repair`) and
    takes in what scans were added, behind the cubes that are there, or does nothing. A scan that cannot be
    read is noted in the store and stops no other.

    Args:
        source: the folder of the scans.
        target: the store to make.
        parameters: what to cut; `ExtractParameters` of CT scans, `ImageParameters` of X-ray images.
        workers: how many scans at a time on this machine; None takes one a core. `readers` says
            whether they are threads or processes.
        scheduler: of a dask.distributed cluster that does the work, as `engine.connect` takes it.
        anonymize: a file with a key, made where there is none: the store tells pseudonyms made with it in
            the place of identifiers, paths and sha256, and the voxels are the same.
        split_file: a table of CSV with the columns `scan`, a path or an identifier, and `part`: `train`,
            `validation`, `test` or `exclude`. It overrides LUNA16's subsets, NIH's lists and the split by
            patient.
        part: `1/8` takes the first of eight parts of the scans, dealt by their identifiers, for an array job;
            `merge_stores` of all parts gives the store of one undivided call.
        strict: stop at the first scan that fails.
        overwrite: replace a finished store, and begin again where other work was left.
        progress: True shows bars on stderr; a callback is told as the work goes on.

    Raises:
        CallError: no scans, something in the way, other parameters than the store's, scans that changed.
        DataError: no scan gave a cube, and the reasons are in the message; a scan failed under `strict`; or
            the finished store is damaged and cannot be repaired.
    """
    report, parameters = callback(progress), parameters or ExtractParameters()
    started, source, target = datetime.now(UTC), Path(source), Path(target)
    anonymize, split_file = (Path(one) if one else None for one in (anonymize, split_file))
    hands = partial(connect, scheduler, workers, source, target, report)
    damage = None if overwrite else find_damage(target, CUBES)
    repaired = (
        _repaired(damage, _asked_for(source, parameters, anonymize, split_file, part), source, hands)
        if damage
        else 0
    )
    told: dict[str, Any] = {"anonymize": anonymize, "split_file": split_file, "part": part}
    job = plan_job(source, target, parameters, **told, overwrite=overwrite)
    if job.update and not job.tasks:
        return ExtractionResult(job.update.store, job.found, done_before=True, repaired=repaired)
    if job.key:
        job.key.keep()
    grow = job.update is not None
    with hands() as crew, hold(target, job.description, overwrite=overwrite, grow=grow) as ledger:
        _cut_all(crew, ledger, job, strict)
        changes = changes_of(ledger, job.tasks, job.update, job.key)
        unused = _outcomes(ledger, job, changes, strict)
        nothing = None if grow else nothing_given(ledger, job.tasks, job.noun, changes, _ADVICE[job.noun])
        if nothing:
            ledger.abandon()
            raise nothing
        names = [task.name for task in job.tasks]
        to_do = job.description, job.parameters, names, changes, job.update, job.key
        hashes = assemble(ledger, *to_do, report)
        ledger.finish(hashes, run_log(started, crew.count))
    taken_in = len(job.tasks) if grow else 0
    return ExtractionResult(open_cubes(target), job.found, False, taken_in, repaired, unused)


#: What helps where no scan, or no image, gives a cube, by words in the reason of one that was skipped.
_EXPLAIN = "genesis-prep explain SCAN says what helps."
_ADVICE = {
    "scan": {
        "needed": f"A smaller --border or --size takes smaller scans; {_EXPLAIN}",
        "tissue score": f"A larger --max-tissue takes denser scans; {_EXPLAIN}",
    },
    "image": {"needed": "A smaller --size takes smaller images."},
}


def _repaired(
    damage: Damage, asked: Job, source: Path, hands: Callable[[], AbstractContextManager[Workers]]
) -> int:
    """Make the damaged files of a finished store again; how many."""
    with hands() as crew:
        told = (asked.parameters, asked.description, asked.key, crew)
        return repair(damage, asked.description, partial(make_cubes_again, damage, source, *told))


def plan_job(
    source: Path,
    target: Path,
    parameters: Parameters,
    *,
    anonymize: Path | None = None,
    split_file: Path | None = None,
    part: str | None = None,
    overwrite: bool,
) -> Job:
    """Find out what is to be done, doing none of it: a key that is to be made is not yet written.

    Raises:
        CallError, DataError: as `extract_cubes`.
    """
    present = check_target(target, CUBES, overwrite=overwrite, inputs=[source])
    job = _asked_for(source, parameters, anonymize, split_file, part)
    if present is None:
        return job
    if "imported" in present["parameters"]:
        raise CallError(
            f"{target} was imported, not extracted: choose another name, or give --overwrite to replace it."
        )
    made, asked = present["parameters"], job.description
    if "split_file" in made and "split_file" in asked:  # of a table that grew, the parts are compared
        asked = asked | {"split_file": made["split_file"]}
    check_same_parameters(target, made, asked)
    return replace(job, update=compare(open_cubes(target), job.found, job.key))


def _asked_for(
    source: Path, parameters: Parameters, anonymize: Path | None, split_file: Path | None, part: str | None
) -> Job:
    """What a call asks for, whatever store there is."""
    split = read_split_file(split_file) if split_file else None
    parameters = _all_parts(source, parameters) if split else parameters
    found, key = find_sources(source, parameters), read_key(anonymize) if anonymize else None
    found = replace(found, sources=dealt_by(split, found.sources))
    values = asdict(parameters)
    found = taken(found, part, values.get("sampler"))
    if isinstance(parameters, ExtractParameters):
        subsets = None if found.layout == "files" else sorted(parameters.subsets or PRETRAINING_SUBSETS)
        values |= {"layout": found.layout, "subsets": subsets}
        if parameters.plane is None:
            del values["plane"]  # which cubes have none of
    values |= {"anonymized_with": key.fingerprint} if key else {}
    values |= recorded(split, key.digest if key else str) | recorded_part(part)
    description = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return Job(found, parameters, description, key)


def _all_parts(source: Path, parameters: Parameters) -> Parameters:
    """The parameters that find all that a split file may deal.

    Raises:
        CallError: they choose subsets or a list themselves.
    """
    if isinstance(parameters, ImageParameters):
        if parameters.split == "test":
            raise CallError("--split-file says what --split would: leave one of them out.")
        return replace(parameters, split="all")
    if parameters.subsets is not None:
        raise CallError("--split-file says what --subsets would: leave one of them out.")
    luna16 = parameters.layout == "luna16" or (parameters.layout == "auto" and layout_of(source) == "luna16")
    return replace(parameters, subsets=tuple(range(10))) if luna16 else parameters


def _strictly(record: Facts) -> None:
    """Refuse to go on after a scan that failed."""
    if record["status"] == "failed":
        raise DataError(
            f"{record['path']}: {record['reason']}. That is the first scan that failed, and --strict "
            "stops there; what is done is kept, and the same command goes on."
        )


def _outcomes(ledger: Ledger, job: Job, changes: Mapping[str, Facts], strict: bool) -> tuple[Outcome, ...]:
    """What came of the scans that gave no cube, by path; a DataError where one failed, and `strict`."""
    unused: list[Outcome] = []
    for task, record in zip(job.tasks, ledger.records(task.name for task in job.tasks), strict=True):
        record |= changes.get(task.name, {})
        if strict:
            _strictly(record)
        if record["status"] != "used":
            unused.append(Outcome(record["path"], record["status"], record["reason"]))
    return tuple(sorted(unused, key=lambda outcome: outcome.path))


def _cut_all(workers: Workers, ledger: Ledger, job: Job, strict: bool) -> None:
    """Cut every scan that an earlier run has not finished; a DataError where one failed, and `strict`."""
    told = _strictly if strict else None
    try:
        if job.description.get("sampler") == "official":
            tasks = {task.name: task for task in official_tasks(job.tasks)}
            draw, is_true = partial(cut_official, ledger), partial(official_is_same, ledger)
            which: dict[str, Any] = {"is_true": is_true, "suited": suited_readers, "told": told}
            run_missing(workers, ledger, "scans", tasks, draw, chain=lambda task: task.source.subset, **which)
        else:
            cut_all(workers, ledger, job.noun, job.tasks, job.cut, told)
    finally:
        leave_room()
