"""Arms x trials: fine-tune every arm on every task with several seeds, and compare the results as evidence.

    OUT/registration.json      what is compared, fixed before any test fold is read (`registration`)
    OUT/trials.json            what is compared: parameters, tasks, arms; later calls must match
    OUT/trials/TASK/ARM/SEED   a trial, the folder of a `loop` run; for a curve TASK/ARM/labels-N/SEED
    OUT/scores.csv             one row per trial
    OUT/results.json ..        the evidence (`evidence`)
    OUT/lock                   held by the process at work

A finished trial is never run again, and an unfinished one is resumed, so a killed comparison ends like an
uninterrupted one. On the CPU each trial computes in one thread, and several trials run in parallel processes:
the numbers do not depend on how many.
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
_MOST_LISTED = 3  # failed trials in one sentence
_MOST_SHOWN = 2  # running trials


@dataclass(frozen=True)
class Done:
    """The outcome of a trial: its score on the test fold, or None and the reason why it failed; and notes."""

    trial: Trial
    score: float | None
    reason: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Work:
    """Everything needed to run a trial in another process; see `finetune`."""

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
    """Fine-tune every arm on every task with several seeds, and write table and chart of the results.

    Results of earlier calls in `out` are kept: a call may add trials, arms or tasks. The evidence covers the
    trials of this call.

    Args:
        targets: target stores, one per task, which is named after its store.
        arms: two or more, in an order in which later ones are expected to be higher.
        out: the folder to create, or to continue.
        parameters: those of every trial; the seeds of the trials count up from its seed.
        trials: number per arm and task.
        width: width of the arms from scratch, see `plan.read_arms`.
        workers: trials at a time; by default one per core on the CPU, and one on CUDA. More than one run in
            their own processes, so a program that calls this needs `if __name__ == "__main__":`.
        device: `auto`, `cpu` or `cuda`.
        reference: compare with this arm only.
        pairs: compare only these arms, (first, second).
        labels: several values instead of the one in `parameters`: a curve over the number of labelled cases.
            For a curve over steps see `FinetuneParameters.at_steps`.
        primary: the primary outcome, for the registration; a single outcome is primary by default.
        overwrite: delete earlier results in `out` and start again.
        progress: True shows bars on stderr; a callback is called as the work advances.
        say: called with a sentence about each finished trial.

    Raises:
        CallError: a store, an arm, a parameter or `out` is not suitable; no trial has started.
        DataError: trials failed. All others are finished and kept; the evidence is unchanged.
        KeyboardInterrupt: when interrupted; the same call continues.
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
            say(
                f"The arm {arm.name} is left out of the task {task.name}: the network takes "
                "cubes, but the task has images."
            )
    with locked(out, f"Another process is working on {out}: wait until it ends, or use another --out."):
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
    """Check, before any trial, that the pairs can be compared and the chart has room for the bars.

    Return the content of the registration.
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
    """Check that a folder is empty, or holds a comparison that this plan may continue."""
    evidence.check_folder(out, (RECORD, FILE, SCORES_FILE, FOLDER, "lock"))
    if overwrite:
        return
    before = read_record(out)
    held = [name for name in (*evidence.FILES, SCORES_FILE, FOLDER) if (out / name).exists()]
    if before is None and held:
        raise CallError(
            f"{out} holds other results ({held[0]}): choose another folder, or use --overwrite to "
            "replace them."
        )
    differs = difference(before, plan.record()) if before is not None else None
    if differs:
        raise CallError(
            f"{out} was started with {differs}: use the original value to continue, or start "
            "again with another --out or with --overwrite."
        )


def read_record(out: Path) -> dict[str, Any] | None:
    """Return the record of an earlier call in `out`: `parameters`, `tasks` and `arms`; None without one."""
    path = out / RECORD
    try:
        noted = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        noted = None
    if not isinstance(noted, dict) or noted.get("format") != FORMAT or noted.get("version") != VERSION:
        raise DataError(
            f"{path} is damaged or was written by another version: use --overwrite to start again."
        )
    described = {key: dict(noted.get(key) or {}) for key in ("parameters", "tasks", "arms")}
    return {**described, "registration": str(noted.get("registration"))}


def begin(out: Path, plan: Plan, registered: Mapping[str, Any], *, overwrite: bool) -> Registration:
    """Record what is compared, next to earlier records; with `overwrite` delete everything earlier.

    The first call registers; a later one returns the registration with what it did not cover.

    Raises:
        DataError: the registration was changed.
    """
    for left in out.glob(".*.part"):  # from a process killed while writing
        left.unlink()
    if overwrite:
        if (out / FOLDER).exists():
            shutil.rmtree(out / FOLDER)
        for name in (
            *evidence.FILES,
            SCORES_FILE,
            FILE,
            RECORD,
        ):  # the record last: it marks the folder as a comparison
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
    """Return the folder of a trial."""
    return out / FOLDER / str(trial)


def read_score(folder: Path) -> float | None:
    """Return the score of a finished trial; None if it is not finished, or its result cannot be read."""
    try:
        score = json.loads((folder / "result.json").read_bytes())["score"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return float(score) if isinstance(score, int | float) and not isinstance(score, bool) else None


def points_of(out: Path, plan: Plan, scores: Mapping[Trial, float]) -> dict[Trial, float]:
    """Return the scores of all points of the curves: those of the trials, except for a curve over steps.

    Raises:
        DataError: a result was damaged.
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
                f"{path} lacks scores after some steps of --at-steps: delete the trial's "
                "folder and run the same command again."
            ) from None
    return found


def carry_out(
    out: Path, plan: Plan, workers: int, device: str, report: Progress, say: Say
) -> dict[Trial, float]:
    """Run the unfinished trials, and return the score of all, in the order task, arm, seed.

    Raises:
        DataError: some failed; the error names them and gives the reasons.
    """
    tasks, arms = {one.name: one for one in plan.tasks}, {one.name: one for one in plan.arms}
    scores = {trial: read_score(folder_of(out, trial)) for trial in plan.trials}
    waiting = [trial for trial in plan.trials if scores[trial] is None]
    failed: list[Done] = []
    noted: set[str] = set()
    for trial in scores.keys() - waiting:
        _tidy(folder_of(out, trial))
    if waiting and len(waiting) < len(plan.trials):
        say(f"{len(plan.trials) - len(waiting):,} of {len(plan.trials):,} trials are done.")

    def show() -> None:
        at_work = listed(waiting[:workers], _MOST_SHOWN)  # they start in this order
        done = len(plan.trials) - len(waiting)
        report(f"running: {at_work}" if at_work else "done", done, len(plan.trials))

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
        show()

    if waiting:
        show()
        works = [
            _Work(one, folder_of(out, one), tasks[one.task], arms[one.arm], plan.parameters, device)
            for one in waiting
        ]
        crew = Workers(workers, processes=True, progress=report)
        run(_carry_out, works, finished=finished, workers=crew, lost=_lost)
    if failed:
        raise DataError(_failures(failed, len(plan.trials)))
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
    """Compare the arms of every task by the scores of all trials, whose order sets that of tasks and arms.

    On a curve they are compared at every point.
    """
    by_arm: dict[tuple[str, str], dict[str, float]] = {}
    for trial, score in scores.items():
        by_arm.setdefault((trial.outcome, trial.arm), {})[str(trial.seed)] = score
    summaries = [
        summarise(*names, list(by_seed.values()), list(by_seed)) for names, by_seed in by_arm.items()
    ]
    codes = {one.name: SCORES[one.code] for one in plan.tasks}
    metrics = {trial.outcome: codes[trial.task] for trial in scores}
    points = {trial.outcome: trial.point for trial in scores if trial.point is not None}
    return evidence.weigh(summaries, reference, pairs, metrics, points, registration)


def scores_table(scores: Mapping[Trial, float]) -> bytes:
    """Return one row per trial, as `--from-csv` reads it; a trial is named by its seed."""
    rows = ((one.outcome, one.arm, one.seed, repr(score)) for one, score in scores.items())
    return evidence.csv_of([TRIALS, *rows])


def _carry_out(work: _Work) -> Done:
    """Run a trial, in this process or its own; an error becomes its reason."""
    arm = work.arm
    try:
        beginning = read_beginning(arm.arm.weights, arm.network, arm.width)
        if beginning.sha256 != arm.sha256:
            raise DataError(
                f"{arm.arm.weights} holds different weights than when the comparison "
                "started: restore the original file"
            )
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
    """Delete what a finished trial no longer needs.

    That is the checkpoint to resume from, three times as large as its network, and partial files of a killed
    process.
    """
    for left in (folder / "last.pt", *folder.glob(".*.part")):
        left.unlink(missing_ok=True)


def _lost(work: _Work) -> Done:
    """Return the outcome of a trial whose process has died."""
    reason = "the process of the trial ended, most likely because memory ran out: use fewer --workers."
    return Done(work.trial, None, reason)


def _failures(failed: Sequence[Done], total: int) -> str:
    """Return the sentence about trials that failed."""
    few = " ".join(f"{one.trial}: {one.reason}" for one in failed[:_MOST_LISTED])
    more = f" And {len(failed) - _MOST_LISTED} more." if len(failed) > _MOST_LISTED else ""
    return (
        f"{len(failed)} of {total} trials failed, so no chart was drawn. {few}{more} The "
        "other trials are kept: run the same command again to repeat only those that failed. "
        "To restart a trial from scratch, delete its folder first."
    )
