"""Draw curves over the number of labelled cases or of steps, on a logarithmic axis: one line per arm."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from genesis_toolkit.training.compare.figure import COLOURS, render
from genesis_toolkit.training.compare.scores import ArmSummary, arms_of
from genesis_toolkit.training.compare.statistics import Comparison, stars

_WIDTH, _HEIGHT, _COLUMNS = 3.4, 2.7, 3
_LINE, _LETTER = 0.16, 0.06  # size of the notes, in inches
_MARKS = "os^Dv<>P"


@dataclass(frozen=True)
class Point:
    """The position of a task on a curve: the task, the axis, and the number on it."""

    task: str
    axis: str
    at: float


def draw_curves(
    summaries: Sequence[ArmSummary],
    comparisons: Sequence[Comparison],
    points: Mapping[str, Point],
    metrics: Mapping[str, str],
    notes: Sequence[str],
) -> dict[str, bytes]:
    """Draw the curves with notes below them, and return the files by format, `png` and `svg`.

    Args:
        summaries: every arm at every point; their tasks are keys of `points`.
        comparisons: comparisons of these arms; with two arms each point shows the stars of the default test.
        points: position on a curve by name of the point.
        metrics: name of the scores by name of the point.
        notes: sentences.
    """
    return render(lambda: _draw(summaries, comparisons, points, metrics, notes))


def _draw(
    summaries: Sequence[ArmSummary],
    comparisons: Sequence[Comparison],
    points: Mapping[str, Point],
    metrics: Mapping[str, str],
    notes: Sequence[str],
) -> Figure:
    arms, tasks = arms_of(summaries), list(dict.fromkeys(points[one.task].task for one in summaries))
    columns = min(_COLUMNS, len(tasks))
    rows, across = math.ceil(len(tasks) / columns), max(4.6, columns * _WIDTH)
    said = [line for note in notes for line in textwrap.wrap(note, math.floor((across - 0.3) / _LETTER))]
    below = 0.5 + _LINE * len(said)
    total = rows * _HEIGHT + below
    figure = Figure(figsize=(across, total), dpi=150)
    for number, task in enumerate(tasks):
        row, column = divmod(number, columns)
        left = (column * across / columns + 0.65) / across
        foot = below + (rows - 1 - row) * _HEIGHT + 0.55
        area = (left, foot / total, (across / columns - 0.8) / across, (_HEIGHT - 0.95) / total)
        axes: Any = figure.add_axes(area)
        mine = [one for one in summaries if points[one.task].task == task]
        at = sorted({points[one.task].at for one in mine})
        for place, arm in enumerate(arms):
            line = sorted((points[one.task].at, one.mean, one.sd) for one in mine if one.arm == arm)
            if line:
                at_points, y, spread = zip(*line, strict=True)
                colour, mark = COLOURS[place % len(COLOURS)], _MARKS[place % len(_MARKS)]
                # Side by side, so that the error bars of two arms do not hide each other.
                x = [one * 1.02 ** (place - (len(arms) - 1) / 2) for one in at_points]
                axes.errorbar(
                    x, y, spread, color=colour, marker=mark, capsize=3, linewidth=1.2, markersize=4, label=arm
                )
        axes.set_xscale("log")
        axes.set_xlim(at[0] / 1.3, at[-1] * 1.3)
        axes.xaxis.set_major_locator(FixedLocator(at))
        axes.xaxis.set_major_formatter(FixedFormatter([f"{one:g}" for one in at]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.tick_params(labelsize=7.5)
        point = next(points[one.task] for one in mine)
        axes.set_xlabel(f"{point.axis} (logarithmic)", fontsize=7.5)
        axes.set_ylabel(metrics.get(mine[0].task, "score"), fontsize=7.5)
        axes.set_title(task, fontsize=9.5, fontweight="bold")
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + 0.12 * (high - low))
        for one in comparisons if len(arms) == 2 else ():
            if points[one.task].task == task:
                where = (points[one.task].at, high + 0.02 * (high - low))
                text = "not tested" if one.p is None else stars(one.p)
                axes.text(*where, text, ha="center", fontsize=7.5)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    middle = (0.5, (0.12 + _LINE * len(said)) / total)
    figure.legend(
        handles, labels, loc="lower center", bbox_to_anchor=middle, ncols=4, frameon=False, fontsize=8
    )
    for number, line_said in enumerate(said, 1):
        height = (0.1 + _LINE * (len(said) - number)) / total
        figure.text(0.15 / across, height, line_said, fontsize=7.5, color="#444444")
    return figure
