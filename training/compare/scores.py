"""Scores of arms on tasks: summaries of an arm's trials, and the tables in which anyone may submit them.

An arm is one way to initialise a network (scratch, ImageNet, Genesis ..), a trial one fine-tuning run of it
with its own seed, and a score the metric of that trial on the task's test set. Higher counts as better only
when a one-tailed test needs a direction (`statistics`).
"""

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from genesis_toolkit.pipeline.errors import DataError

TRIALS = ("task", "arm", "trial", "value")
SUMMARIES = ("task", "arm", "mean", "sd", "n")
#: Number of trials per arm in METHOD.md section 6; results from fewer say so.
PUBLISHED_TRIALS = 10
#: Limit for names: longer ones do not fit into a chart.
MOST_LETTERS = 40

_MOST_TRIALS = 1_000_000
_LEAST_SIZE, _MOST_SIZE = 1e-100, 1e100  # squares and ratios of such numbers stay finite
_WAYS = f"{','.join(TRIALS)} or {','.join(SUMMARIES)}"
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class ArmSummary:
    """Summary of the trials of one arm on one task.

    Attributes:
        task: name of the task, at most 40 letters.
        arm: name of the arm, likewise.
        mean: mean of the scores, in the unit of the metric.
        sd: their standard deviation, with n - 1.
        n: number of trials, at least 2.
        scores: score of each trial by its name, if known: two arms with the same trials are paired.

    Raises:
        DataError: a value is out of range; the error names it.
    """

    task: str
    arm: str
    mean: float
    sd: float
    n: int
    scores: Mapping[str, float] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for what, name in (("task", self.task), ("arm", self.arm)):
            if not name or len(name) > MOST_LETTERS or not name.isprintable():
                raise DataError(
                    f"the {what} is named {name[: MOST_LETTERS + 1]!r}: give it 1 to {MOST_LETTERS} "
                    "printable letters."
                )
        _check_size("mean", self.mean)
        _check_size("sd", self.sd)
        if self.sd < 0 or 0 < self.sd < _LEAST_SIZE:
            raise DataError(
                f"the sd is {self.sd:g}: it must be 0, or at least {_LEAST_SIZE:g}; correct or remove it."
            )
        if not 2 <= self.n <= _MOST_TRIALS:
            raise DataError(
                f"arm {self.arm} of task {self.task} has n = {self.n}, but it must be 2 to "
                f"{_MOST_TRIALS:,}, since one trial has no spread: add trials, or omit the "
                "arm."
            )


def summarise(
    task: str, arm: str, scores: Sequence[float], trials: Sequence[str] | None = None
) -> ArmSummary:
    """Summarise the scores of an arm's trials; mean and sd are rounded once, from exact sums.

    Args:
        task: name of the task.
        arm: name of the arm.
        scores: one per trial, 2 or more.
        trials: their names; trials with the same name in two arms are a pair.

    Raises:
        DataError: a score is not finite or too large, there are fewer than two, or a name is not allowed.
    """
    for score in scores:
        _check_size("value", score)
    if len(scores) < 2:
        return ArmSummary(task, arm, 0.0, 0.0, len(scores))  # raises the error about n
    exact = [float(score) for score in scores]
    named = dict(zip(trials, exact, strict=True)) if trials else {}
    return ArmSummary(task, arm, mean(exact), stdev(exact), len(exact), named)


def arms_of(summaries: Iterable[ArmSummary]) -> list[str]:
    """Return the names of all arms, in order of first appearance."""
    return list(dict.fromkeys(summary.arm for summary in summaries))


def parse_table(data: bytes, name: str) -> list[ArmSummary]:
    """Read a CSV table of scores: one row per trial (`TRIALS`), or one row per arm (`SUMMARIES`).

    Args:
        data: the file: UTF-8, with or without a byte order mark; columns in any order, separated by commas.
        name: name of the file, for messages.

    Returns:
        One summary for every arm of every task, in order of first appearance.

    Raises:
        DataError: it is not such a table; the error names the line.
    """
    (_, columns), *lines = _lines(data, name)
    if sorted(columns) not in (sorted(TRIALS), sorted(SUMMARIES)):
        raise DataError(
            f"{name} has the columns {_quoted(','.join(columns))}: they must be {_WAYS}, in "
            "any order, separated by commas, with no others."
        )
    rows = []
    for number, cells in lines:
        with _line(name, number):
            rows.append((number, _row(columns, cells)))
    if not rows:
        raise DataError(f"{name} has no rows below the header: add one row per trial, or one per arm.")
    found: dict[tuple[str, str], dict[str, tuple[int, Any]]] = {}
    for number, row in rows:
        task, arm, trial = row["task"], row["arm"], row.get("trial", "")
        mine = found.setdefault((task, arm), {})
        with _line(name, number):
            if trial in mine:
                what = f"trial {trial} of arm {arm} on task {task}" if trial else f"arm {arm} of task {task}"
                more = ", or give one of them another trial" if trial else ""
                raise DataError(f"{what} is already in line {mine[trial][0]}: remove one of them{more}.")
            mine[trial] = number, _number(row, "value") if trial else _summary(row)
    summaries = []
    for one, mine in found.items():
        numbers, values = zip(*mine.values(), strict=True)
        with _line(name, numbers[0]):
            summaries.append(summarise(*one, values, list(mine)) if "trial" in columns else values[0])
    arms = Counter(task for task, _ in found)
    for (task, arm), mine in found.items():
        if arms[task] < 2:
            with _line(name, next(iter(mine.values()))[0]):
                raise DataError(f"task {task} has only one arm, {arm}: add another arm, or remove the task.")
    return summaries


def _summary(cells: dict[str, str]) -> ArmSummary:
    """Return the summary in the line of an arm."""
    if not re.fullmatch(r"[0-9]{1,9}", cells["n"]):
        raise DataError(f"n is {_quoted(cells['n'])}: it must be a whole number from 2 to {_MOST_TRIALS:,}.")
    numbers = _number(cells, "mean"), _number(cells, "sd")
    return ArmSummary(cells["task"], cells["arm"], *numbers, int(cells["n"]))


@contextmanager
def _line(name: str, number: int) -> Iterator[None]:
    """Prefix errors with the line they are about."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{name}, line {number}: {error}") from None


def _lines(data: bytes, name: str) -> list[tuple[int, list[str]]]:
    """Return the lines that are not blank, each with its number, split into cells."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{name} is not UTF-8 text: save it as CSV in UTF-8.") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise DataError(f"{name}, line {reader.line_num}: invalid CSV ({error}): correct the line.") from None
    lines = [(number, cells) for number, cells in lines if any(cells)]
    if not lines:
        raise DataError(f"{name} is empty: the first line must name the columns, {_WAYS}.")
    return lines


def _row(columns: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    """Return the cells of a line by column."""
    if len(cells) != len(columns):
        raise DataError(
            f"{len(cells)} cells for {len(columns)} columns: fill in each cell, with a point in decimals."
        )
    row = dict(zip(columns, cells, strict=True))
    for column, cell in row.items():
        if not cell:
            raise DataError(f"{column} is empty: fill it in, or remove the row.")
    return row


def _number(cells: dict[str, str], column: str) -> float:
    """Return a finite number in plain or scientific notation."""
    cell = cells[column]
    if not _NUMBER.fullmatch(cell):
        raise DataError(
            f"{column} is {_quoted(cell)}, not a number: write a number such as 92.78, or remove the row."
        )
    _check_size(column, float(cell))
    return float(cell)


def _check_size(what: str, number: float) -> None:
    """Check that a number is finite and no larger than any score."""
    if not (math.isfinite(number) and abs(number) <= _MOST_SIZE):
        raise DataError(
            f"the {what} is {number:g}, but must be between {-_MOST_SIZE:g} and {_MOST_SIZE:g}: correct or "
            "remove it."
        )


def _quoted(cell: str) -> str:
    return repr(cell if len(cell) <= 60 else cell[:60] + "…")
