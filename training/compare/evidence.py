"""Evidence: from the scores of arms to files with the table of comparisons and the slides' chart.

A folder of evidence holds results.json and results.csv (every pair of arms compared), figure.png and
figure.svg. They contain no times and no paths, so the same scores and pairs give the same bytes.
"""

import csv
import io
import json
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import write_whole
from genesis_toolkit.pipeline.store.write import check_place
from genesis_toolkit.training.compare import statistics
from genesis_toolkit.training.compare.curves import Point, draw_curves
from genesis_toolkit.training.compare.figure import MOST_ARMS, MOST_BRACKETS, MOST_TASKS, draw_bars, panels_of
from genesis_toolkit.training.compare.registration import Primary, Registration
from genesis_toolkit.training.compare.scores import PUBLISHED_TRIALS, ArmSummary, arms_of, parse_table

FORMAT = "genesis-evidence"
VERSION = 1
#: The files of a folder of evidence.
FILES = ("results.json", "results.csv", "figure.png", "figure.svg")
#: Names of the metrics of `loop` in the chart.
METRICS = {"auc": "AUC", "mean_auc": "mean AUC", "iou": "IoU"}


@dataclass(frozen=True)
class Evidence:
    """Summaries of arms on tasks, and their comparisons.

    Attributes:
        summaries: every arm of every task.
        comparisons: comparisons of these scores, task by task.
        chosen: whether the pairs were requested; otherwise all are compared, and if there are many, the chart
            has brackets for some.
        metrics: name of the scores by task, `auc`, `mean_auc` or `iou`; empty if a table does not give it.
        points: for curves, the position of each "task" on its curve.
        registration: what was fixed before any test fold was read; None for a table.
    """

    summaries: tuple[ArmSummary, ...]
    comparisons: tuple[statistics.Comparison, ...]
    chosen: bool
    metrics: Mapping[str, str] = field(default_factory=dict)
    points: Mapping[str, Point] = field(default_factory=dict)
    registration: Registration | None = None

    @property
    def primary(self) -> statistics.Comparison | None:
        """The comparison that was registered as the primary outcome."""
        named = self.registration.primary if self.registration else None
        for one in self.comparisons if named else ():
            if Primary(one.task, one.first.arm, one.second.arm) == named:
                return one
        return None

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values; None for what could not be computed."""
        percent = 100 * statistics.CONFIDENCE
        return {
            "format": FORMAT,
            "version": VERSION,
            "default_test": statistics.DEFAULT_TEST,
            "stars": "of the default test, as in the slides: * p < 0.05, ** 0.01, *** 0.001, **** 0.0001",
            "one_tailed": "asks whether the mean of `second` is higher than that of `first`",
            "paired": "of trials of one name, which share labelled cases; null where the arms' trials differ",
            "trials_needed": f"of each arm, for a power of {statistics.POWER:g} at p < 0.05, two-sided",
            "holm": "of the default test, over the pairs of one task in this file, at all points of a curve",
            "effect": f"Hedges' g, with a {percent:g} % interval from the noncentral t distribution",
            "fewer_than_10_trials": any(one.n < PUBLISHED_TRIALS for one in self.summaries),
            "metrics": dict(self.metrics),
            "curves": {name: asdict(point) for name, point in self.points.items()},
            "registration": asdict(self.registration) if self.registration else None,
            "arms": [asdict(one) for one in self.summaries],
            "pairs": [_pair(one) for one in self.comparisons],
        }


@dataclass(frozen=True)
class Written:
    """The result of `compare_table` or `trials.compare_trials`.

    The folder, the evidence, and whether the files were `written` or `already there` with the same content.
    """

    folder: Path
    status: str
    evidence: Evidence


def compare_table(
    table: Path,
    out: Path,
    *,
    reference: str | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    overwrite: bool = False,
) -> Written:
    """Compare the arms of a CSV table, and write table and chart.

    Args:
        table: one row per trial or one row per arm, see `scores.parse_table`.
        out: the folder to create.
        reference: compare with this arm only.
        pairs: compare only these arms, (first, second).
        overwrite: replace other evidence in `out`.

    Raises:
        CallError: there is no such table or arm, or something is in the way of `out`; nothing is written.
        DataError: the table is invalid; the error names the line.
    """
    check_folder(out)
    if not table.exists() or table.is_dir():
        raise CallError(f"There is no file {table}: give a CSV table with one row per trial or per arm.")
    evidence = weigh(parse_table(table.read_bytes(), table.name), reference, pairs)
    return Written(out, write_folder(out, files_of(evidence), overwrite=overwrite), evidence)


def weigh(
    summaries: Sequence[ArmSummary],
    reference: str | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    metrics: Mapping[str, str] | None = None,
    points: Mapping[str, Point] | None = None,
    registration: Registration | None = None,
) -> Evidence:
    """Compare the arms of every task.

    Args:
        summaries: every arm of every task once, with arms expected to score higher later in the order, which
            sets the direction of one-tailed tests.
        reference: compare with this arm only.
        pairs: compare only these arms, (first, second).
        metrics: name of the scores by task, if known.
        points: for curves, the position of each "task" on its curve.
        registration: what was fixed beforehand.

    Raises:
        CallError: an arm or a pair is unknown or makes no sense.
        DataError: there are more arms or tasks than fit into a chart.
    """
    arms = arms_of(summaries)
    tasks = len({one.task for one in summaries})
    for count, most, what in ((len(arms), MOST_ARMS, "arms"), (tasks, MOST_TASKS, "tasks")):
        if count > most:
            raise DataError(
                f"There are {count} {what}, but a chart has room for at most {most}: split the table."
            )
    curves = {name: point.task for name, point in (points or {}).items()}
    compared = statistics.compare_arms(summaries, statistics.choose_pairs(arms, reference, pairs), curves)
    chosen = reference is not None or pairs is not None
    more = dict(metrics or {}), dict(points or {}), registration
    return Evidence(tuple(summaries), tuple(compared), chosen, *more)


def files_of(evidence: Evidence) -> dict[str, bytes]:
    """Return the files of a folder of evidence by name, `FILES`."""
    names = {task: METRICS.get(metric, metric) for task, metric in evidence.metrics.items()}
    shown = evidence.summaries, evidence.comparisons
    if evidence.points:
        pictures = draw_curves(*shown, evidence.points, names, _curve_notes(evidence))
    else:
        panels = panels_of(*shown, names, all_brackets=evidence.chosen)
        brackets = sum(len(panel.brackets) for panel in panels)
        pictures = draw_bars(panels, _notes(evidence, brackets))
    rows = [_row(one) for one in evidence.comparisons]
    return {
        "results.json": (json.dumps(evidence.as_dict(), indent=1, allow_nan=False) + "\n").encode(),
        "results.csv": csv_of([rows[0], *(row.values() for row in rows)]),
        **{f"figure.{kind}": data for kind, data in pictures.items()},
    }


def write_folder(out: Path, files: Mapping[str, bytes], *, overwrite: bool) -> str:
    """Write a folder of evidence atomically, and return the status of `Written`."""
    out = out.resolve()
    if _is_there(out, files):
        return "already there"
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise CallError(
            f"{out} holds other results: choose another folder, or use --overwrite to replace them."
        )
    fresh = out.with_name(f".{out.name}.{uuid4().hex[:12]}.part")
    replaced = fresh.with_suffix(".replaced")
    try:
        for name, data in files.items():
            write_whole(fresh / name, data)
        if out.exists():
            out.rename(replaced)
        try:
            fresh.rename(out)
        except BaseException:
            if replaced.exists():
                replaced.rename(out)
            raise
    finally:
        for left in (fresh, replaced):
            shutil.rmtree(left, ignore_errors=True)
    return "written"


def write_beside(out: Path, files: Mapping[str, bytes]) -> str:
    """Write evidence into the folder of its trials, and return the status of `Written`.

    The old results.json is deleted first and the new one written last: if it exists, all files match it.
    """
    if _is_there(out, files):
        return "already there"
    last = FILES[0]
    (out / last).unlink(missing_ok=True)
    for name in sorted(files, key=lambda name: name == last):
        write_whole(out / name, files[name])
    return "written"


def _is_there(out: Path, files: Mapping[str, bytes]) -> bool:
    return all((out / name).is_file() and (out / name).read_bytes() == data for name, data in files.items())


def check_folder(out: Path, beside: Collection[str] = ()) -> None:
    """Refuse a place in a store, a file, and a folder with files other than evidence and `beside`."""
    check_place(out)
    if out.exists() and not out.is_dir():
        raise CallError(f"{out} is a file, but a folder is needed: choose another name.")
    found = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if beside:  # a killed process may have left a partial file
        found -= {name for name in found if name.startswith(".") and name.endswith(".part")}
    strange = found.difference(FILES, beside)
    if strange:
        raise CallError(
            f"{out} holds {min(strange)}, which is not a file of a comparison, so the folder "
            "is left unchanged: choose another folder."
        )


def _pair(one: statistics.Comparison) -> dict[str, Any]:
    """Return a comparison as plain JSON values."""
    effect, values = one.effect, one.p_values()
    return {
        "task": one.task,
        "first": one.first.arm,
        "second": one.second.arm,
        "difference": one.difference,
        "tests": {
            name: {
                "default": name == statistics.DEFAULT_TEST,
                **{key: getattr(getattr(one, name.partition("_")[0]), key, None) for key in ("t", "df")},
                "p": values[name],
            }
            for name in statistics.TESTS
        },
        "stars": statistics.stars(one.p),
        "p_holm": one.p_holm,
        "stars_holm": statistics.stars(one.p_holm),
        "trials_needed": one.needed,
        "trials_needed_paired": one.needed_paired,
        **dict(zip(("hedges_g", "g_low", "g_high"), astuple(effect) if effect else [None] * 3, strict=True)),
    }


def _row(one: statistics.Comparison) -> dict[str, Any]:
    """Return a comparison as a row; `p` is that of the default test, None if nothing could be tested."""
    cells = _pair(one)
    del cells["tests"]
    row = {"task": cells.pop("task")}
    for place, arm in (("first", one.first), ("second", one.second)):
        row |= {
            place: cells.pop(place),
            f"{place}_mean": arm.mean,
            f"{place}_sd": arm.sd,
            f"{place}_n": arm.n,
        }
    row |= {"difference": cells.pop("difference"), "default_test": statistics.DEFAULT_TEST, "p": one.p}
    return row | {f"p_{name}": p for name, p in one.p_values().items()} | cells


def csv_of(rows: Iterable[Iterable[Any]]) -> bytes:
    """Return a CSV file."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()


def _curve_notes(evidence: Evidence) -> list[str]:
    """Return the notes below the curves."""
    notes = ["Lines: mean. Error bars: standard deviation of the trials."]
    if len(arms_of(evidence.summaries)) == 2:
        notes.append(f"Above each point: Welch's t-test, two-sided, not corrected: {_steps()}.")
    return notes + _few(evidence)


def _steps() -> str:
    steps = "n.s. p >= 0.05", "* p < 0.05", "** p < 0.01", "*** p < 0.001", "**** p < 0.0001"
    return ", ".join(text.replace(" ", "\N{NO-BREAK SPACE}") for text in steps)


def _few(evidence: Evidence) -> list[str]:
    if all(one.n >= PUBLISHED_TRIALS for one in evidence.summaries):
        return []
    return [f"Some arms have fewer than {PUBLISHED_TRIALS} trials: interpret them with care."]


def _notes(evidence: Evidence, brackets: int) -> list[str]:
    """Return the notes below the chart: what it shows, what the stars mean, and what they leave out."""
    notes = [
        "Bars: mean. Error bars: standard deviation of the trials.",
        f"Brackets: Welch's t-test, two-sided: {_steps()}.",
    ]
    pairs = len(evidence.comparisons)
    if brackets < pairs:
        notes.append(
            f"Where a task has more than {MOST_BRACKETS} pairs, brackets show those with its last arm: "
            f"{brackets} of all {pairs}."
        )
    fewer = sum(statistics.stars(one.p) != statistics.stars(one.p_holm) for one in evidence.comparisons)
    if any(one.p_holm != one.p for one in evidence.comparisons):
        notes.append(
            "Not corrected for several pairs: with Holm's correction over the pairs of a task "
            f"{fewer} of {pairs} pairs have fewer stars."
        )
    return notes + _few(evidence)
