"""Arms x trials: every arm fine-tuned on every task with several seeds, and what they came to as evidence.

    OUT/registration.json      what was to be compared, before any test fold was read (`registration`)
    OUT/trials.json            what is compared: parameters, tasks, arms; only the same may go on
    OUT/trials/TASK/ARM/SEED   a trial, the folder of a run of `loop`; of a curve TASK/ARM/labels-N/SEED
    OUT/scores.csv             a row a trial
    OUT/results.json ..        the evidence (`evidence`)
    OUT/lock                   held by the process at work

A trial whose result is there is never run again, and one that was begun goes on, so a comparison that was
killed ends as one that was not. On the CPU a trial computes in one thread, several trials side by side in
processes of their own: its numbers do not depend on how many there are.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from genesis_toolkit.pipeline.engine import Workers, cores, run
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import AnyPath, locked, sha256_of, write_whole
from genesis_toolkit.pipeline.progress import Progress, TrainingBars, callback, shows
from genesis_toolkit.pipeline.wording import listed
from genesis_toolkit.training.compare import evidence
from genesis_toolkit.training.compare.plan import Arm, Plan, ReadyArm, Task, Trial, difference, make_plan
from genesis_toolkit.training.compare.registration import (
    FILE,
    Primary,
    Registration,
    bytes_of,
    check_primary,
    content_of,
    read,
)
from genesis_toolkit.training.compare.scores import TRIALS, summarise
from genesis_toolkit.training.finetune.loop import finetune
from genesis_toolkit.training.finetune.parameters import SCORES, FinetuneParameters, parse_labels
from genesis_toolkit.training.machine.devices import choose_device
from genesis_toolkit.training.machine.steps import Say
from genesis_toolkit.training.weights.load import read_beginning

FORMAT = "genesis-trials"
VERSION = 2
RECORD, SCORES_FILE, FOLDER = "trials.json", "scores.csv", "trials"
_MOST_TOLD = 3  # failed trials in one sentence
_MOST_SHOWN = 2  # trials at work


@dataclass(frozen=True)
class Done:
    """What a trial came to: its score on the test fold, or None and the reason why it failed; and notes."""

    trial: Trial
    score: float | None
    reason: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Work:
    """All it takes to carry out a trial in another process; see `finetune`."""

    trial: Trial
    folder: Path
    task: Task
    arm: ReadyArm
    parameters: FinetuneParameters
    device: str


@shows(TrainingBars)
def compare_trials(
    targets: Sequence[AnyPath],
    arms: Sequence[Arm],
    out: AnyPath,
    parameters: FinetuneParameters | None = None,
    *,
    trials: int = 10,
    width: int | None = None,
    workers: int | None = None,
    device: str = "auto",
    reference: str | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    labels: Sequence[float | int] = (),
    primary: Primary | None = None,
    overwrite: bool = False,
    progress: Progress | bool = False,
    say: Say = lambda _: None,
) -> evidence.Written:
    """Fine-tune every arm on every task with several seeds, and write table and chart of what came out.

    What an earlier call has done in `out` is kept: more trials, a further arm or a further task may be added
    to it. The evidence is of the trials that this call names.

    Args:
        targets: target stores, one a task, which is named as its store.
        arms: two or more, in an order in which later ones are expected to be higher.
        out: the folder to make, or to go on with.
        parameters: of every trial; the seeds of the trials count up from its seed.
        trials: of every arm on every task.
        width: of the arms from scratch, see `plan.read_arms`.
        workers: trials at a time; when left out one a core on the CPU, and one on CUDA. More than one are
            processes of their own, so a program that calls this needs `if __name__ == "__main__":`.
        device: `auto`, `cpu` or `cuda`.
        reference: compare only with this arm.
        pairs: compare only these arms, (first, second).
        labels: in place of the one of `parameters`, several: a curve over the number of labelled cases. For
            a curve over steps see `FinetuneParameters.at_steps`.
        primary: the outcome that is to decide, for the registration; a single one is it by itself.
        overwrite: throw earlier results in `out` away and begin again.
        progress: True shows bars on stderr; a callback is told as the work goes on.
        say: told a sentence about each trial that is done.

    Raises:
        CallError: a store, an arm, a parameter or `out` does not fit; no trial has begun.
        DataError: trials failed. All others are done, and kept; the evidence is left as it was.
        KeyboardInterrupt: when interrupted; the same call goes on.
    """
    report, out = callback(progress), Path(out)
    places = [os.fspath(place) for place in targets]
    plan = make_plan(places, arms, parameters or FinetuneParameters(), trials, width, labels)
    registered = check_choice(plan, reference, pairs, primary)
    if workers is not None and workers < 1:
        raise CallError(f"--workers {workers} is out of range: it must be at least 1.")
    kind = choose_device(device).type
    if workers is None:
        workers = 1 if kind == "cuda" else cores()
    check_out(out, plan, overwrite=overwrite)
    for task, arm in product(plan.tasks, plan.arms):
        if arm.taken(task) == "not":
            say(f"{arm.name} is left out on {task.name}: its network takes cubes, and these are images.")
    with locked(out, f"Another process is at work on {out}: wait for it, or give another --out."):
        registration = begin(out, plan, registered, overwrite=overwrite)
        say(f"Registered in {out / FILE}, sha256 {registration.sha256}.")
        scores = points_of(out, plan, carry_out(out, plan, workers, device, report, say))
        found = evidence_of(plan, scores, reference, pairs, registration)
        files = {SCORES_FILE: scores_table(scores), **evidence.files_of(found)}
        return evidence.Written(out, evidence.write_beside(out, files), found)


def check_choice(
    plan: Plan,
    reference: str | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    primary: Primary | None = None,
) -> dict[str, Any]:
    """Refuse, before any trial, pairs that cannot be compared, or more bars than the chart has room for.

    Return what is to be registered.
    """
    steps = plan.parameters.at_steps or (0,)
    trials = [replace(trial, steps=step) for trial in plan.trials for step in steps]
    found = evidence_of(plan, dict.fromkeys(trials, 0.0), reference, pairs)
    outcomes = [Primary(one.task, one.first.arm, one.second.arm) for one in found.comparisons]
    if primary is not None:
        check_primary(primary, outcomes)
    settings = {**plan.record(), "labels": list(plan.labels), "seeds": list(plan.seeds)}
    return content_of(settings, outcomes, primary)


def check_out(out: Path, plan: Plan, *, overwrite: bool) -> None:
    """Refuse a folder that holds anything but a comparison which this plan may go on with."""
    evidence.check_folder(out, (RECORD, FILE, SCORES_FILE, FOLDER, "lock"))
    if overwrite:
        return
    before = read_record(out)
    held = [name for name in (*evidence.FILES, SCORES_FILE, FOLDER) if (out / name).exists()]
    if before is None and held:
        raise CallError(
            f"{out} holds other results ({held[0]}): choose another folder, or give --overwrite to "
            "replace them."
        )
    differs = difference(before, plan.record()) if before is not None else None
    if differs:
        raise CallError(
            f"{out} was begun with {differs}: repeat the first to continue, give another --out, or "
            "--overwrite to begin again."
        )


def read_record(out: Path) -> dict[str, Any] | None:
    """What an earlier call noted in `out`: `parameters`, `tasks` and `arms`; None where none was here."""
    path = out / RECORD
    try:
        noted = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        noted = None
    if not isinstance(noted, dict) or noted.get("format") != FORMAT or noted.get("version") != VERSION:
        raise DataError(f"{path} is damaged or of another version: give --overwrite to begin again.")
    told = {key: dict(noted.get(key) or {}) for key in ("parameters", "tasks", "arms")}
    return {**told, "registration": str(noted.get("registration"))}


def begin(out: Path, plan: Plan, registered: Mapping[str, Any], *, overwrite: bool) -> Registration:
    """Note what is compared, beside what earlier calls noted; with `overwrite` throw all of theirs away.

    The first call registers; of a later one the registration comes back with what it did not foresee.

    Raises:
        DataError: the registration was changed since.
    """
    for left in out.glob(".*.part"):  # of a process that was killed while it wrote
        left.unlink()
    if overwrite:
        if (out / FOLDER).exists():
            shutil.rmtree(out / FOLDER)
        for name in (
            *evidence.FILES,
            SCORES_FILE,
            FILE,
            RECORD,
        ):  # the record last: it tells of all that is left
            (out / name).unlink(missing_ok=True)
    check_out(out, plan, overwrite=False)  # another process may have been here since
    before, now = read_record(out), plan.record()
    if before is None:
        write_whole(out / FILE, bytes_of(registered))
        before = {"registration": sha256_of((out / FILE).read_bytes())}
    registration = read(out, before["registration"], registered)
    noted = {"format": FORMAT, "version": VERSION, "parameters": now["parameters"]}
    noted["registration"] = before["registration"]
    noted |= {key: {**before.get(key, {}), **now[key]} for key in ("tasks", "arms")}
    write_whole(out / RECORD, f"{json.dumps(noted, indent=1)}\n".encode())
    return registration


def folder_of(out: Path, trial: Trial) -> Path:
    """Where a trial lies."""
    return out / FOLDER / str(trial)


def read_score(folder: Path) -> float | None:
    """The score of a finished trial; None where it is not finished, or its result cannot be read."""
    try:
        score = json.loads((folder / "result.json").read_bytes())["score"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return float(score) if isinstance(score, int | float) and not isinstance(score, bool) else None


def points_of(out: Path, plan: Plan, scores: Mapping[Trial, float]) -> dict[Trial, float]:
    """The scores of all points of the curves: those of trials as they are, but for a curve over steps.

    Raises:
        DataError: a result was damaged since.
    """
    if not plan.parameters.at_steps:
        return dict(scores)
    found = {}
    every = product(plan.tasks, plan.parameters.at_steps, scores)
    for step, trial in ((step, trial) for task, step, trial in every if trial.task == task.name):
        path = folder_of(out, trial) / "result.json"
        try:
            after = json.loads(path.read_bytes())["at_steps"]
            found[replace(trial, steps=step)] = float(after[str(step)]["score"])
        except (OSError, ValueError, LookupError, TypeError):
            raise DataError(
                f"{path} has no score after every step of --at-steps: remove its folder, and repeat the call."
            ) from None
    return found


def carry_out(
    out: Path, plan: Plan, workers: int, device: str, report: Progress, say: Say
) -> dict[Trial, float]:
    """Run the trials that are not finished, and return the score of all, in the order task, arm, seed.

    Raises:
        DataError: some failed; the sentence names them and why.
    """
    tasks, arms = {one.name: one for one in plan.tasks}, {one.name: one for one in plan.arms}
    scores = {trial: read_score(folder_of(out, trial)) for trial in plan.trials}
    waiting = [trial for trial in plan.trials if scores[trial] is None]
    failed: list[Done] = []
    noted: set[str] = set()
    for trial in scores.keys() - waiting:
        _tidy(folder_of(out, trial))
    if waiting and len(waiting) < len(plan.trials):
        say(f"{len(plan.trials) - len(waiting)} of {len(plan.trials)} trials are done.")

    def tell() -> None:
        at_work = listed(waiting[:workers], _MOST_SHOWN)  # they are begun in order
        done = len(plan.trials) - len(waiting)
        report(f"at work: {at_work}" if at_work else "done", done, len(plan.trials))

    def finished(done: Done) -> None:
        waiting.remove(done.trial)
        scores[done.trial] = done.score
        if done.reason:
            failed.append(done)
        else:
            _tidy(folder_of(out, done.trial))
        for note in (f"Note: {done.trial.arm} on {done.trial.task}: {one}" for one in done.notes):
            if note not in noted:
                say(note)
                noted.add(note)
        metric = evidence.METRICS[SCORES[tasks[done.trial.task].code]]
        say(f"{done.trial}: " + (f"failed. {done.reason}" if done.reason else f"{metric} {done.score:.4f}"))
        tell()

    if waiting:
        tell()
        works = [
            _Work(one, folder_of(out, one), tasks[one.task], arms[one.arm], plan.parameters, device)
            for one in waiting
        ]
        crew = Workers(workers, processes=True, progress=report)
        run(_carry_out, works, finished=finished, workers=crew, lost=_lost)
    if failed:
        raise DataError(_told(failed, len(plan.trials)))
    every = product(plan.tasks, plan.labels or [""], plan.arms, plan.seeds)
    order = (Trial(task.name, arm.name, seed, labels) for task, labels, arm, seed in every)
    return {trial: score for trial in order if (score := scores.get(trial)) is not None}


def evidence_of(
    plan: Plan,
    scores: Mapping[Trial, float],
    reference: str | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    registration: Registration | None = None,
) -> evidence.Evidence:
    """Compare the arms of every task by the scores of all trials, in whose order tasks and arms are told.

    On a curve they are compared at every point.
    """
    by_arm: dict[tuple[str, str], dict[str, float]] = {}
    for trial, score in scores.items():
        by_arm.setdefault((trial.outcome, trial.arm), {})[str(trial.seed)] = score
    summaries = [summarise(*names, list(told.values()), list(told)) for names, told in by_arm.items()]
    codes = {one.name: SCORES[one.code] for one in plan.tasks}
    metrics = {trial.outcome: codes[trial.task] for trial in scores}
    points = {trial.outcome: trial.point for trial in scores if trial.point is not None}
    return evidence.weigh(summaries, reference, pairs, metrics, points, registration)


def scores_table(scores: Mapping[Trial, float]) -> bytes:
    """A row a trial, as `--from-csv` reads it; the trial's name is its seed."""
    rows = ((one.outcome, one.arm, one.seed, repr(score)) for one, score in scores.items())
    return evidence.csv_of([TRIALS, *rows])


def _carry_out(work: _Work) -> Done:
    """Carry out a trial, here or in a process of its own; what is wrong with it is its reason."""
    arm = work.arm
    try:
        beginning = read_beginning(arm.arm.weights, arm.network, arm.width)
        if beginning.sha256 != arm.sha256:
            raise DataError(f"{arm.arm.weights} holds other weights than when the comparison began")
        outcome = finetune(
            work.task.targets,
            work.folder,
            _parameters_of(work),
            beginning=beginning,
            device=work.device,
            threads=1 if choose_device(work.device).type == "cpu" else None,
        )
    except (CallError, DataError, OSError, MemoryError, RuntimeError) as error:
        return Done(work.trial, None, str(error) or type(error).__name__)
    return Done(work.trial, outcome.score, notes=tuple(outcome.notes))


def _parameters_of(work: _Work) -> FinetuneParameters:
    given = replace(work.parameters, seed=work.trial.seed)
    return replace(given, labels=parse_labels(work.trial.labels)) if work.trial.labels else given


def _tidy(folder: Path) -> None:
    """Remove what a finished trial needs no more.

    That is the checkpoint that it would go on from, three times as large as its network, and files that a
    killed process had only begun to write.
    """
    for left in (folder / "last.pt", *folder.glob(".*.part")):
        left.unlink(missing_ok=True)


def _lost(work: _Work) -> Done:
    """What is said of a trial whose process has ended."""
    reason = "its process ended, most likely because memory ran out: give fewer --workers."
    return Done(work.trial, None, reason)


def _told(failed: Sequence[Done], total: int) -> str:
    """The sentence about trials that failed."""
    few = " ".join(f"{one.trial}: {one.reason}" for one in failed[:_MOST_TOLD])
    more = f" And {len(failed) - _MOST_TOLD} more." if len(failed) > _MOST_TOLD else ""
    return (
        f"{len(failed)} of {total} trials failed, so there is no chart of them. {few}{more} The others are "
        "kept: the same command runs only those that failed. To begin one anew, remove its folder first."
    )
