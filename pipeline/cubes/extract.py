"""Makes a cube store: `extract_cubes` finds scans, cuts each in its own task, and packs the cubes.

X-ray images count as scans of one slice here; `cut` and `crop` define what is cut. A finished scan is staged,
encoded; at the end cubes are packed into shards in scan order, whichever scan finished first. Scans that were
added to the source follow the existing ones. METHOD.md sections 2 and 5.
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
    """Outcome of `extract_cubes`.

    Attributes:
        store: the finished store.
        found: contents of the source, including what was left out.
        done_before: the store was already finished, and nothing was done.
        taken_in: number of scans added to a store that was already finished.
        repaired: number of damaged files rebuilt in a store that was already finished.
        unused: outcomes of the scans processed in this call that gave no cube, by path, under their own names
            even if the store has pseudonyms.
    """

    store: CubeStore
    found: Found
    done_before: bool = False
    taken_in: int = 0
    repaired: int = 0
    unused: tuple[Outcome, ...] = ()


@dataclass(frozen=True)
class Job:
    """The plan of a call of `extract_cubes`, made without doing any of it.

    Attributes:
        found: the scans of the source.
        parameters: parameters of the extraction.
        description: the same in the form of the store, with automatic choices resolved.
        key: key of the pseudonyms in the store; None if it has none.
        update: what a finished store is extended by; None to make a new store.
    """

    found: Found
    parameters: Parameters
    description: dict[str, Any]
    key: Key | None
    update: Update | None = None

    @property
    def noun(self) -> str:
        """Return the noun for what is cut."""
        return "image" if isinstance(self.parameters, ImageParameters) else "scan"

    @cached_property
    def tasks(self) -> list[CutTask[Any]]:
        """Return the scans to cut; none if all is done."""
        sources = self.update.sources if self.update else self.found.sources
        root = self.found.root.resolve()  # a cluster worker has another working directory
        return [CutTask(root / scan.path, scan, self.parameters) for scan in sources]

    @property
    def cut(self) -> Callable[[CutTask[Any]], Cut]:
        """Return the function that cuts one of them, without the official draws."""
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
    """Cut cubes from every scan or X-ray image of a folder into one cube store.

    Call it again to resume an interrupted run. On a finished store it rebuilds damaged files (see `repair`)
    and adds new scans after the existing cubes, or does nothing. An unreadable scan is recorded in the store
    and does not stop the others.

    Args:
        source: the folder of the scans.
        target: the store to make.
        parameters: what to cut; `ExtractParameters` for CT scans, `ImageParameters` for X-ray images.
        workers: number of scans at a time on this machine; None means one per core. `readers` decides
            whether they are threads or processes.
        scheduler: address of a dask.distributed cluster that does the work, see `engine.connect`.
        anonymize: a file with a key, generated if missing: the store gets pseudonyms made with it instead of
            identifiers, paths and sha256; the voxels are the same.
        split_file: a CSV table with the columns `scan`, a path or an identifier, and `part`: `train`,
            `validation`, `test` or `exclude`. It overrides LUNA16's subsets, NIH's lists and the split by
            patient.
        part: `1/8` takes the first of eight parts of the scans, divided by their identifiers, for an array
            job; `merge_stores` of all parts yields the store of one undivided call.
        strict: stop at the first scan that fails.
        overwrite: replace a finished store, and start again if other unfinished work exists.
        progress: True shows bars on stderr; a callback receives the progress.

    Raises:
        CallError: there are no scans, something is in the way, parameters differ, or scans have changed.
        DataError: no scan gave a cube (the message has the reasons), a scan failed under `strict`, or the
            finished store is damaged and cannot be repaired.
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
    given: dict[str, Any] = {"anonymize": anonymize, "split_file": split_file, "part": part}
    job = plan_job(source, target, parameters, **given, overwrite=overwrite)
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


#: Hints if no scan or image gives a cube, by words in the reason of a skipped one.
_EXPLAIN = "genesis-prep explain SCAN shows which settings help."
_ADVICE: dict[str, dict[str, tuple[str, ...]]] = {
    "scan": {
        "needed": ("A smaller --border or --size accepts smaller scans.", _EXPLAIN),
        "tissue score": ("A larger --max-tissue accepts denser scans.", _EXPLAIN),
    },
    "image": {"needed": ("A smaller --size accepts smaller images.",)},
}


def _repaired(
    damage: Damage, asked: Job, source: Path, hands: Callable[[], AbstractContextManager[Workers]]
) -> int:
    """Rebuild the damaged files of a finished store; return their number."""
    with hands() as crew:
        given = (asked.parameters, asked.description, asked.key, crew)
        return repair(damage, asked.description, partial(make_cubes_again, damage, source, *given))


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
    """Plan the work without starting it: a new key, for example, is not yet written.

    Raises:
        CallError, DataError: see `extract_cubes`.
    """
    present = check_target(target, CUBES, overwrite=overwrite, inputs=[source])
    job = _asked_for(source, parameters, anonymize, split_file, part)
    if present is None:
        return job
    if "imported" in present["parameters"]:
        raise CallError(
            f"{target} was imported, not extracted: choose another name, or replace it with --overwrite."
        )
    made, asked = present["parameters"], job.description
    if "split_file" in made and "split_file" in asked:  # its table may grow, so parts are compared instead
        asked = asked | {"split_file": made["split_file"]}
    check_same_parameters(target, made, asked)
    return replace(job, update=compare(open_cubes(target), job.found, job.key))


def _asked_for(
    source: Path, parameters: Parameters, anonymize: Path | None, split_file: Path | None, part: str | None
) -> Job:
    """Return what a call requests, regardless of existing stores."""
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
            del values["plane"]  # cubes have none
        del values["window" if parameters.window is None else "hu"]
    elif parameters.split is None:
        del values["split"]
    values |= {"anonymized_with": key.fingerprint} if key else {}
    values |= recorded(split, key.digest if key else str) | recorded_part(part)
    description = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return Job(found, parameters, description, key)


def _all_parts(source: Path, parameters: Parameters) -> Parameters:
    """Return parameters that find all scans a split file may assign.

    Raises:
        CallError: they select subsets or a list themselves.
    """
    if isinstance(parameters, ImageParameters):
        if parameters.layout != "nih":
            return parameters
        if parameters.split == "test":
            raise CallError("--split-file replaces --split: omit one of the two options.")
        return replace(parameters, split="all")
    if parameters.subsets is not None:
        raise CallError("--split-file replaces --subsets: omit one of the two options.")
    luna16 = parameters.layout == "luna16" or (parameters.layout == "auto" and layout_of(source) == "luna16")
    return replace(parameters, subsets=tuple(range(10))) if luna16 else parameters


def _strictly(record: Facts) -> None:
    """Stop after a scan that failed."""
    if record["status"] == "failed":
        raise DataError(
            f"{record['path']}: {record['reason']}. With --strict the command stops at the "
            "first scan that fails. Finished work is kept: run the same command again to "
            "continue."
        )


def _outcomes(ledger: Ledger, job: Job, changes: Mapping[str, Facts], strict: bool) -> tuple[Outcome, ...]:
    """Return the scans that gave no cube, by path; a DataError if one failed under `strict`."""
    unused: list[Outcome] = []
    for task, record in zip(job.tasks, ledger.records(task.name for task in job.tasks), strict=True):
        record |= changes.get(task.name, {})
        if strict:
            _strictly(record)
        if record["status"] != "used":
            unused.append(Outcome(record["path"], record["status"], record["reason"]))
    return tuple(sorted(unused, key=lambda outcome: outcome.path))


def _cut_all(workers: Workers, ledger: Ledger, job: Job, strict: bool) -> None:
    """Cut every scan that no earlier run has finished; a DataError if one fails under `strict`."""
    on_record = _strictly if strict else None
    try:
        if job.description.get("sampler") == "official":
            tasks = {task.name: task for task in official_tasks(job.tasks)}
            draw, is_true = partial(cut_official, ledger), partial(official_is_same, ledger)
            which: dict[str, Any] = {"is_true": is_true, "suited": suited_readers, "on_record": on_record}
            run_missing(workers, ledger, "scans", tasks, draw, chain=lambda task: task.source.subset, **which)
        else:
            cut_all(workers, ledger, job.noun, job.tasks, job.cut, on_record)
    finally:
        leave_room()
