"""The slides' bar chart: one panel per task, one bar per arm, error bars, and brackets with stars.

Every panel has its own axis, since scores differ widely between tasks. If that axis does not start at 0, the
panel says so in words and with a break in the axis: truncated bars exaggerate differences. With one version
of matplotlib, the same chart always gives the same bytes.
"""

import io
import math
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from genesis_toolkit.training.compare.scores import PUBLISHED_TRIALS, ArmSummary, arms_of
from genesis_toolkit.training.compare.statistics import Comparison, stars

#: The palette of Okabe and Ito, safe for colour-blind readers; hatched when it repeats.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999")
_HATCHES = ("", "///")
MOST_ARMS = len(COLOURS) * len(_HATCHES)
MOST_TASKS = 48
#: With more pairs on one task, only those with its last arm get brackets, unless pairs were requested.
MOST_BRACKETS = 6

# In inches.
_BAR, _LEAST_PANEL, _LEFT, _RIGHT = 0.46, 1.9, 0.62, 0.18
_BARS_HIGH, _LEVEL, _ROOF, _TITLE, _FOOT = 1.9, 0.27, 0.12, 0.52, 0.22
_LINE, _NOTE_LETTER, _KEY_LETTER, _TITLE_LETTER = 0.16, 0.06, 0.07, 0.1
_LEAST_WIDTH = 4.6
_COLUMNS = 3

_SETTINGS: Any = {"svg.hashsalt": "genesis-toolkit", "text.parse_math": False, "hatch.linewidth": 0.6}
_SAVED = {"png": {"Software": "genesis-toolkit"}, "svg": {"Creator": "genesis-toolkit", "Date": None}}


@dataclass(frozen=True)
class Panel:
    """One task of the chart: its bars from left to right, brackets over pairs with their texts, metric."""

    task: str
    bars: tuple[ArmSummary, ...]
    brackets: tuple[tuple[int, int, str], ...]
    metric: str = ""


def panels_of(
    summaries: Sequence[ArmSummary],
    comparisons: Sequence[Comparison],
    metrics: Mapping[str, str] | None = None,
    *,
    all_brackets: bool,
) -> list[Panel]:
    """Return the panel of every task, with the arms in order; `metrics` names the scores by task.

    If a task has more comparisons than `MOST_BRACKETS`, only those with its last arm get brackets, unless all
    of them are requested.
    """
    order = arms_of(summaries)
    panels = []
    for task in dict.fromkeys(summary.task for summary in summaries):
        bars = sorted((one for one in summaries if one.task == task), key=lambda one: order.index(one.arm))
        met = [one for one in comparisons if one.task == task]
        brackets = []
        for one in met:
            left, right = sorted(bars.index(arm) for arm in (one.first, one.second))
            if all_brackets or len(met) <= MOST_BRACKETS or right == len(bars) - 1:
                brackets.append((left, right, "not tested" if one.p is None else stars(one.p)))
        panels.append(Panel(task, tuple(bars), tuple(brackets), (metrics or {}).get(task, "")))
    return panels


def draw_bars(panels: Sequence[Panel], notes: Sequence[str]) -> dict[str, bytes]:
    """Draw the chart with notes below it, and return the files by format, `png` and `svg`."""
    arms = arms_of(bar for panel in panels for bar in panel.bars)
    return render(lambda: _draw(panels, arms, notes))


def render(draw: Callable[[], Figure]) -> dict[str, bytes]:
    """Draw a figure reproducibly, and return the files by format, `png` and `svg`."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # independent of the user's settings
        matplotlib.rcParams.update(_SETTINGS)
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # drawn as a box
        figure = draw()
        files = {kind: io.BytesIO() for kind in _SAVED}
        for kind, metadata in _SAVED.items():
            figure.savefig(files[kind], format=kind, metadata=metadata)
    return {kind: file.getvalue() for kind, file in files.items()}


def axis_low(bars: Sequence[ArmSummary]) -> float:
    """Return the start of a panel's axis: 0 unless the bars differ by less than a third of their height.

    Then it starts well below every error bar; if an error bar goes below 0, so does the axis.
    """
    low, high = min(one.mean - one.sd for one in bars), max(one.mean + one.sd for one in bars)
    if low < 0:
        return low - 0.05 * (max(high, 0) - low)
    span = high - low
    if span > high / 3 or span <= 1e-9 * high:
        return 0.0
    grain = 10.0 ** math.floor(math.log10(span))
    return max(0.0, math.floor((low - 0.6 * span) / grain) * grain)


def levels_of(brackets: Sequence[tuple[int, int, str]]) -> list[int]:
    """Return the level of each bracket, so that none touches another; short ones come lowest."""
    order = sorted(range(len(brackets)), key=lambda one: (brackets[one][1] - brackets[one][0], brackets[one]))
    levels, highest = [0] * len(brackets), [0] * (1 + max((right for _, right, _ in brackets), default=0))
    for one in order:
        left, right, _ = brackets[one]
        levels[one] = max(highest[left : right + 1])
        highest[left : right + 1] = [levels[one] + 1] * (right + 1 - left)
    return levels


def _draw(panels: Sequence[Panel], arms: Sequence[str], notes: Sequence[str]) -> Figure:
    """Place everything by hand, in inches, so that the layout does not depend on the data."""
    rows = math.ceil(len(panels) / _COLUMNS)
    columns = math.ceil(len(panels) / rows)
    width = max(_LEAST_PANEL, _BAR * max(len(panel.bars) for panel in panels))
    across = max(_LEAST_WIDTH, columns * (_LEFT + width + _RIGHT))
    by_row = [panels[row * columns : (row + 1) * columns] for row in range(rows)]
    heights = [
        _BARS_HIGH + _ROOF + _LEVEL * max(1 + max(levels_of(one.brackets), default=-1) for one in row)
        for row in by_row
    ]
    key_columns = max(1, math.floor((across - 0.2) / (0.5 + _KEY_LETTER * max(map(len, arms)))))
    key_rows = math.ceil(len(arms) / key_columns)
    said = [line for note in notes for line in textwrap.wrap(note, math.floor((across - 0.3) / _NOTE_LETTER))]
    below = 0.15 + _LINE * (len(said) + key_rows * 1.15) + 0.15
    total = below + sum(height + _TITLE + _FOOT for height in heights)
    figure = Figure(figsize=(across, total), dpi=150)
    top = total
    margin = (across - columns * (_LEFT + width + _RIGHT)) / 2
    for row, height in zip(by_row, heights, strict=True):
        top -= _TITLE + height
        for column, panel in enumerate(row):
            left = margin + column * (_LEFT + width + _RIGHT) + _LEFT
            axes = figure.add_axes((left / across, top / total, width / across, height / total))
            _draw_panel(axes, panel, arms, width, height)
        top -= _FOOT
    figure.legend(
        [Patch(**_look(arm, arms)) for arm in arms],
        list(arms),
        loc="lower center",
        bbox_to_anchor=(0.5, (0.12 + _LINE * len(said)) / total),
        ncols=min(key_columns, len(arms)),
        frameon=False,
        fontsize=8,
        handlelength=1.4,
        columnspacing=1.2,
        labelspacing=0.25,
        borderaxespad=0,
    )
    for number, line in enumerate(said, 1):
        height = (0.1 + _LINE * (len(said) - number)) / total
        figure.text(0.15 / across, height, line, fontsize=7.5, color="#444444")
    return figure


def _draw_panel(axes: Axes, panel: Panel, arms: Sequence[str], width: float, height: float) -> None:
    low, high = axis_low(panel.bars), max(one.mean + one.sd for one in panel.bars)
    high = max(high, 0.0) if low < 0 else high
    high = low + 1 if high <= low else high
    foot = max(low, 0.0)

    def at(inches: float) -> float:  # the value this far above the highest end of a bar
        return high + inches * ((high - low) / _BARS_HIGH)

    for place, bar in enumerate(panel.bars):
        axes.bar(place, bar.mean - foot, 0.72, bottom=foot, linewidth=0.8, **_look(bar.arm, arms))
        axes.errorbar(place, bar.mean, bar.sd, color="#222222", capsize=3, linewidth=1, capthick=1)
    for (left, right, text), level in zip(panel.brackets, levels_of(panel.brackets), strict=True):
        base, roof = at(_LEVEL * level + 0.09), at(_LEVEL * level + 0.14)
        axes.plot((left, left, right, right), (base, roof, roof, base), color="#222222", linewidth=0.8)
        # Asterisks sit at the top of their line, so their text starts lower.
        size, raised = (10, -0.01) if "*" in text else (7.5, 0.025)
        height_of = at(_LEVEL * level + 0.14 + raised)
        axes.text((left + right) / 2, height_of, text, ha="center", fontsize=size)
    axes.set_xlim(-0.6, len(panel.bars) - 0.4)
    axes.set_ylim(low, at(height - _BARS_HIGH))
    ticks = [float(tick) for tick in MaxNLocator(5).tick_values(low, high)]
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axes.tick_params(axis="y", labelsize=7.5)
    axes.set_xticks([])
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_bounds(low, high)
    if low < 0:
        axes.axhline(0, color="#222222", linewidth=0.8)
        axes.spines["bottom"].set_visible(False)
    size = 9.5 * min(1.0, (width + _LEFT) / (_TITLE_LETTER * len(panel.task)))
    axes.set_title(f"{panel.task}\n", fontsize=size, fontweight="bold", pad=4)
    beside: Any = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "center"}
    axes.annotate(_caption(panel), (0.5, 1), (0, 5), fontsize=7.5, **beside)
    if low > 0:
        _break(axes, width, height)
        note = f"axis from {low:.6g}, not from 0"
        axes.annotate(note, (0.5, 0), (0, -10), fontsize=7, color="#444444", **beside)


def _break(axes: Axes, width: float, height: float) -> None:
    """Draw two strokes through the foot of the axis."""
    look: Any = {"transform": axes.transAxes, "color": "#222222", "linewidth": 0.9, "clip_on": False}
    for inches in (0.06, 0.11):
        upright = ((inches - 0.03) / height, (inches + 0.03) / height)
        axes.plot((-0.05 / width, 0.05 / width), upright, **look)


def _caption(panel: Panel) -> str:
    """Return the metric of a panel, its number of trials, and a warning if those are few."""
    least, most = min(one.n for one in panel.bars), max(one.n for one in panel.bars)
    metric = f"{panel.metric}, " if panel.metric else ""
    few = f", fewer than {PUBLISHED_TRIALS} trials" if least < PUBLISHED_TRIALS else ""
    return f"{metric}n = {least}{few}" if least == most else f"{metric}n = {least} to {most}{few}"


def _look(arm: str, arms: Sequence[str]) -> dict[str, Any]:
    """Return the colour and hatch of an arm, the same in every panel."""
    again, colour = divmod(arms.index(arm), len(COLOURS))
    return {"facecolor": COLOURS[colour], "hatch": _HATCHES[again], "edgecolor": "#222222"}
