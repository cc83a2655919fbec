"""`genesis-train compare`: compare arms, fine-tuned here or from a table of scores."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from itertools import product
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

import genesis_toolkit as gt
from genesis_toolkit.cli import options, output
from genesis_toolkit.cli.errors import check_installed
from genesis_toolkit.pipeline.progress import Progress, TrainingBars
from genesis_toolkit.pipeline.wording import counted, duration
from genesis_toolkit.training.compare.scores import PUBLISHED_TRIALS
from genesis_toolkit.training.finetune.parameters import FinetuneParameters, parse_labels

if TYPE_CHECKING:
    from genesis_toolkit.training.compare.evidence import Evidence, Written
    from genesis_toolkit.training.compare.plan import Plan
    from genesis_toolkit.training.compare.statistics import Comparison, Effect

#: Options allowed with --from-csv; all others are about trials.
_OF_TABLES = {"from_csv", "out", "reference", "pairs", "overwrite"}


@click.command(cls=options.Resumable, short_help="Compare ways to initialise a network.")
@click.argument("targets", nargs=-1, type=options.made_targets)
@options.option(
    "--out", "Folder for the results; it is created if needed.", options.path, metavar="DIR", required=True
)
@options.grouped(
    "Arms and trials",
    options.option(
        "--arm",
        "Arm to compare, that is, one way to initialise a network; repeat the option for each arm. "
        "Either scratch-3d or scratch-2d, or NAME=WEIGHTS: a name such as genesis-ct-3d, genesis-ct-2d, "
        "genesis-xray-2d or imagenet, and a run, a checkpoint or an official file.",
        metavar="NAME[=WEIGHTS]",
        multiple=True,
    ),
    options.option(
        "--trials",
        "Number of trials (training runs) per arm and task, with consecutive seeds starting at --seed.",
        int,
        PUBLISHED_TRIALS,
    ),
    options.option(
        "--width",
        "Width of networks trained from scratch. [default: the width of the given weights of "
        "the same dimensionality, else the published width]",
        int,
    ),
)
@options.grouped(
    "Comparison",
    options.option(
        "--primary",
        "Primary outcome: a task and two arms, registered before the first trial. [default: "
        "the comparison, if there is only one]",
        metavar="TASK,A:B",
    ),
    options.option(
        "--reference", "Compare each arm only with this arm.  [default: every pair]", metavar="ARM"
    ),
    options.option(
        "--pairs",
        "Compare only these pairs; one-tailed tests ask whether B is higher.  [default: every pair]",
        metavar="A:B,...",
    ),
    options.option(
        "--from-csv",
        "CSV table of scores to compare instead of target stores, with columns "
        "task,arm,trial,value or task,arm,mean,sd,n.",
        options.path,
        metavar="FILE",
    ),
)
@options.finetuning_options
@options.grouped(
    "Work and output",
    options.option(
        "--workers", "Number of trials to run in parallel.  [default: one per core; one on CUDA]", int
    ),
    options.option("--dry-run", "List the trials without running them.", bool),
    options.option("--overwrite", "Discard all earlier results in DIR, including trials.", bool),
    options.json_option,
)
def compare(targets: tuple[str | Path, ...], out: Path, **given: Any) -> None:
    """Fine-tune arms on target tasks and compare them, or compare the scores in a table.

    An arm is one way to initialise a network: scratch, ImageNet or Genesis. The command fine-tunes every arm
    on every target store with several seeds. Several values of --labels, or --at-steps, give curves. Run the
    same command again to resume; later calls may add trials, arms and stores. A 2D network processes cubes
    slice by slice.

    The default test is Welch's two-sided t-test. The tables also give one-tailed, pooled and paired p-values,
    Holm's correction over the pairs of a task, Hedges' g with its 95 % confidence interval, and the number of
    trials needed to detect such a difference. Without --pairs, one-tailed tests ask whether the later arm is
    higher. DIR receives results.json, results.csv, figure.png and figure.svg; with trials also
    registration.json, scores.csv and one folder per trial.

    \b
    Examples:
      genesis-train compare nodules.zarr lungs.zarr --out evidence \\
        --arm scratch-3d --arm genesis-ct-3d=pretrained --labels 10%
      genesis-train compare nodules.zarr --out curve --labels 20,60,200 \\
        --arm scratch-3d --arm genesis-ct-3d=pretrained
      genesis-train compare --from-csv scores.csv --out comparison
    """
    table, given["arms"] = given.pop("from_csv"), given.pop("arm")
    choice: dict[str, Any] = {"reference": given.pop("reference"), "pairs": _pairs(given.pop("pairs"))}
    if table is None:
        _compare_trials(targets, out, choice, given)
        return
    strange = options.given_options().keys() - _OF_TABLES
    for parameter in click.get_current_context().command.params:
        if parameter.name in strange:
            what = "the target stores" if parameter.name == "targets" else parameter.opts[0]
            raise gt.CallError(f"--from-csv reads scores from a table: omit {what}, or omit --from-csv.")
    check_installed("Comparing", "evidence", "scipy")
    from genesis_toolkit.training.compare.evidence import compare_table

    _show(compare_table(table, out, **choice, overwrite=given["overwrite"]))


def _compare_trials(
    targets: Sequence[str | Path], out: Path, choice: dict[str, Any], given: dict[str, Any]
) -> None:
    """Fine-tune and compare, or print the plan of a dry run."""
    check_installed("Comparing", "finetune", "torch", "scipy")
    from genesis_toolkit.training.compare.plan import make_plan, parse_arm
    from genesis_toolkit.training.compare.registration import parse_primary
    from genesis_toolkit.training.compare.trials import check_choice

    arms = [parse_arm(text) for text in given.pop("arms")]
    asked = {one.name: given.pop(one.name) for one in fields(FinetuneParameters)}
    labels = [word.strip() for word in asked["labels"].split(",")]
    parameters = FinetuneParameters.from_dict({**asked, "labels": labels[0]})
    given["labels"] = [parse_labels(word) for word in labels] if len(labels) > 1 else []
    primary = given.pop("primary")
    choice["primary"] = None if primary is None else parse_primary(primary)
    if given.pop("dry_run"):
        plan = make_plan(targets, arms, parameters, given["trials"], given["width"], given["labels"])
        check_choice(plan, **choice)
        _show_plan(plan, out, overwrite=given["overwrite"])
        return
    with TrainingBars() as progress:
        reports: dict[str, Any] = {"progress": remaining(progress), "say": progress.say}
        written = gt.compare_trials(targets, arms, out, parameters, **given, **choice, **reports)
    _show(written)


def _show_plan(plan: "Plan", out: Path, *, overwrite: bool) -> None:
    """Print the trials, and which of them are done."""
    from genesis_toolkit.training.compare.trials import check_out, folder_of, read_score

    check_out(out, plan, overwrite=overwrite)
    done = {trial for trial in plan.trials if not overwrite and read_score(folder_of(out, trial)) is not None}
    trials = [asdict(trial) | {"done": trial in done} for trial in plan.trials]
    output.print_json({"out": str(out), **plan.record(), "trials": trials})
    rows = []
    for task, arm in product(plan.tasks, plan.arms):
        mine = [trial in done for trial in plan.trials if (trial.task, trial.arm) == (task.name, arm.name)]
        names, ready = (output.shortened(task.name, 12), output.shortened(arm.name, 15)), sum(mine)
        network, weights = f"{arm.network}, {arm.width}", arm.arm.weights or "from scratch"
        rows.append((*names, network, arm.taken(task), f"{ready} of {len(mine)}", weights))
    output.show_table(("task", "arm", "network", "taken", "done", "weights"), rows)
    left = counted(len(plan.trials) - len(done), "trial")
    output.say(f"Dry run: nothing was written. Left to do: {left}.", err=True)
    output.say_the_same_without("--dry-run")


def remaining(report: Progress, clock: Callable[[], float] = monotonic) -> Progress:
    """Add the estimated time left to the progress that `report` shows, from the pace of this call."""
    began: tuple[int, float] | None = None

    def with_time_left(what: str, done: int, total: int) -> None:
        nonlocal began
        now = clock()
        first, since = began = began or (done, now)
        if first < done < total:
            # First, because long text is cut at its end.
            what = f"{duration((now - since) / (done - first) * (total - done))} left, {what}"
        report(what, done, total)

    return with_time_left


def _pairs(text: str | None) -> list[tuple[str, str]] | None:
    """Return the pairs in `--pairs`."""
    if text is None:
        return None
    pairs = []
    for pair in text.split(","):
        first, colon, second = (part.strip() for part in pair.partition(":"))
        if not (first and colon and second) or ":" in second:
            raise gt.CallError(
                f"--pairs {text} is not a list of pairs: give two arms per pair, such as --pairs a:b,a:c."
            )
        pairs.append((first, second))
    return pairs


def _show(written: "Written") -> None:
    """Print the tables on stdout, and cautions on stderr."""
    evidence = written.evidence
    output.print_json({"out": str(written.folder), "status": written.status} | evidence.as_dict())
    rows = [
        (output.shortened(one.task), output.shortened(one.arm), *_supported(one.sd, one.mean, one.sd), one.n)
        for one in evidence.summaries
    ]
    output.show_table(("task", "arm", "mean", "sd", "n"), rows)
    _show_registration(evidence)
    for task in dict.fromkeys(one.task for one in evidence.comparisons):
        _show_task(task, [one for one in evidence.comparisons if one.task == task])
    output.say("In A:B, difference and g are B minus A; one-tailed tests ask if B is higher.", err=True)
    if any(one.p is None for one in evidence.comparisons):
        output.say("-: the scores of both arms do not vary, so there is nothing to test.", err=True)
    if evidence.as_dict()["fewer_than_10_trials"]:
        output.say("Some arms have fewer than 10 trials: interpret them with care.", err=True)
    if written.status == "already there":
        output.say(f"{written.folder} is finished; there was nothing left to do.", err=True)
    pairs = counted(len(evidence.comparisons), "pair")
    output.say(f"See {written.folder / 'figure.png'}; {pairs} in results.csv next to it.", err=True)


def _show_task(task: str, comparisons: "Sequence[Comparison]") -> None:
    """Print the pairs of one task: their differences, and all their p-values."""
    apart, tests, paired = [], [], []
    for one in comparisons:
        pair = f"{output.shortened(one.first.arm, 11)}:{output.shortened(one.second.arm, 12)}"
        (difference,) = _supported(max(one.first.sd, one.second.sd), one.difference)
        sign = "+" if one.difference >= 0 else ""
        apart.append((pair, f"{sign}{difference}", _effect(one.effect), _starred(one.p)))
        p_values = list(one.p_values().values())
        tests.append((pair, _starred(one.p_holm), *map(_number, p_values[1:4])))
        paired.append((pair, *map(_number, p_values[4:]), _many(one.needed), _many(one.needed_paired)))
    output.show_table(("pair", "difference", "Hedges' g [95 %]", "p (default)"), apart, title=task)
    kinds = ("Welch\ntwo-sided,\nHolm", "Welch\none-tailed", "Student\ntwo-sided", "Student\none-tailed")
    output.show_table(("pair", *kinds), tests)
    kinds = ("paired\ntwo-sided", "paired\none-tailed", "trials\nneeded", "needed\nif paired")
    output.show_table(("pair", *kinds), paired)


def _show_registration(evidence: "Evidence") -> None:
    """Print the primary outcome, and whether the comparison follows the registration."""
    registered, primary = evidence.registration, evidence.primary
    if registered is None:
        return
    output.say(f"Registered before any test fold was read: sha256 {registered.sha256[:16]}..", err=True)
    if registered.differs:
        output.say(f"Differs from the registration: {', '.join(registered.differs)}.", err=True)
    if primary is not None:
        names = f"{primary.task}, {primary.first.arm}:{primary.second.arm}"
        output.say(f"Primary outcome: {names}: p {_starred(primary.p)}")
    elif registered.primary is None:
        output.say("No primary outcome was registered (--primary): all results are exploratory.", err=True)


def _supported(spread: float, *values: float) -> list[str]:
    """Return values with as many digits as their spread supports: those of its first two."""
    if not spread:
        return [f"{value:.6g}" for value in values]
    digits = 1 - math.floor(math.log10(spread))
    return [f"{value:.{max(0, digits)}f}" if -6 < digits < 10 else f"{value:.6g}" for value in values]


def _many(trials: int | None) -> str:
    """Return a number of trials, up to the limit of counting."""
    if trials is None:
        return "-"
    return f"{trials:,}" if trials < 100_000 else "> 100,000"


def _effect(effect: "Effect | None") -> str:
    """Return an effect and its interval; extreme sizes, which would fit no column, are cut off."""
    if effect is None:
        return "-"
    sizes = (max(-9999.0, min(9999.0, size)) for size in (effect.g, effect.low, effect.high))
    g, low, high = (f"{size:.2f}" if abs(size) < 100 else f"{size:.0f}" for size in sizes)
    return f"{g} [{low}, {high}]"


def _starred(p: float | None) -> str:
    from genesis_toolkit.training.compare.statistics import stars

    return f"{_number(p)} {stars(p)}"


def _number(p: float | None) -> str:
    """Return a p-value with four decimals, or two significant digits if it is smaller."""
    if p is None:
        return "-"
    return f"{p:.4f}" if p >= 0.0001 else f"{p:.1e}" if p else "<1e-300"
