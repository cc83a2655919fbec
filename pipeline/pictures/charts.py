"""Draws charts for an HTML page, as SVG with the page's fonts and colours: numbers in, text out.

With one version of matplotlib, equal numbers give equal text. Names are escaped here.
"""

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape
from math import floor, log10
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from genesis_toolkit.pipeline.ledger import write_whole

# Drawing colours that are replaced by the page's, which may be light, dark or printed.
_COLOURS = {"ink": "#000001", "soft": "#000002", "faint": "#000003", "fill": "#000004", "line": "#000005"}
_COLOURS["band"] = "#000006"
_FILLED: Any = {"fill": True, "color": _COLOURS["fill"], "alpha": 0.75}
_OUTLINED: Any = {"color": _COLOURS["line"], "linewidth": 1.5}
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "genesis-toolkit",
    "text.parse_math": False,
    "text.color": _COLOURS["ink"],
    "font.size": 11,
    "axes.unicode_minus": False,
    "axes.edgecolor": _COLOURS["soft"],
    "axes.facecolor": "none",
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _COLOURS["faint"],
    "xtick.bottom": False,
    "ytick.left": False,
    "xtick.labelcolor": _COLOURS["ink"],
    "ytick.labelcolor": _COLOURS["ink"],
}
_TITLE = "title of "  # prefix of an SVG group's name whose remainder becomes the group's title
_SIZE = (760 / 72, 320 / 72)  # inches
_NICE = (1, 2, 5, 10)  # allowed distances between ticks, times a power of ten
_SMALLEST = 1e-6  # smaller shares are drawn at the axis of a logarithmic chart
_APART = 1 / 52  # least distance between the names of marks, as a share of the width


def histogram_chart(
    title: str,
    low: int,
    width: int,
    counts: Mapping[str, NDArray[np.int64]],
    marks: Mapping[str, tuple[int, int]],
) -> str:
    """Draw distributions over whole numbers, shares on a logarithmic scale, substances marked.

    Args:
        title: description for readers who cannot see it.
        low: the first number.
        width: how many numbers share a bin.
        counts: by name, int64 [bin]; the first is filled, the others are lines.
        marks: ranges to mark by name, lowest and highest number; those outside the chart are left out.

    Returns:
        An `svg` element.
    """
    shares = {name: each / max(1, int(each.sum())) for name, each in counts.items()}
    least = min(float(each.min(initial=1.0, where=each > 0)) for each in shares.values())
    powers = range(min(-1, floor(log10(max(_SMALLEST, least)))), 1)
    foot, bins = 10.0 ** powers[0], len(next(iter(shares.values())))
    last = low + bins * width
    with _chart(title, low, last) as (figure, axes):
        axes.set(yscale="log", ylim=(foot, 1))
        labels = [f"{10.0 ** (power + 2):.6g} %" for power in powers]
        axes.set_yticks([10.0**power for power in powers], labels)
        axes.minorticks_off()
        free = float(low)
        for name, (first, end) in sorted(marks.items(), key=lambda mark: sum(mark[1])):
            if end >= low and first < last:
                free = _mark(axes, name, max(first, low), min(end, last) + 1, free) + _APART * (last - low)
        for number, (name, each) in enumerate(shares.items()):
            look = _OUTLINED if number else _FILLED
            edges, heights = low + width * np.arange(bins + 1), np.maximum(each, foot)
            axes.stairs(heights, edges, baseline=foot, gid=_TITLE + name, **look)
        return _svg(figure, title)


def bar_chart(title: str, first: float, last: float, counts: NDArray[np.int64]) -> str:
    """Draw a distribution as bars, on a linear scale.

    Args:
        title: description for readers who cannot see it.
        first, last: start of the first bar, and end of the last one.
        counts: int64 [bar], of equal width.

    Returns:
        An `svg` element.
    """
    with _chart(title, first, last) as (figure, axes):
        axes.set_ylim(0, max(1, int(counts.max())))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=_NICE, integer=True))
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.stairs(counts, np.linspace(first, last, len(counts) + 1), gid=_TITLE + title, **_FILLED)
        return _svg(figure, title)


@contextmanager
def _chart(title: str, first: float, last: float) -> Iterator[tuple[Figure, Axes]]:
    """Create an empty chart with these ends of x, independent of the user's own settings."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        figure = Figure(_SIZE, dpi=72, frameon=False, layout="constrained", gid=_TITLE + title)
        axes = figure.add_subplot(xlim=(first, last))
        axes.xaxis.set_major_locator(MaxNLocator(10, steps=_NICE))
        axes.xaxis.set_major_formatter("{x:.6g}")
        yield figure, axes


def _mark(axes: Axes, name: str, first: int, end: int, free: float) -> float:
    """Draw a band with its name above, no further left than `free`; return the position of the name."""
    axes.axvspan(first, end, facecolor=_COLOURS["band"], edgecolor=_COLOURS["band"], linewidth=0.5)
    middle = (first + end) / 2
    place = max(middle, free)
    leader = {"arrowstyle": "-", "color": _COLOURS["faint"], "shrinkA": 0, "shrinkB": 0, "relpos": (0.5, 0)}
    above = ("data", "axes fraction")
    where: Any = {"rotation": 90, "ha": "center", "va": "bottom", "annotation_clip": False}
    axes.annotate(name, (middle, 1), (place, 1.05), above, above, leader, **where)
    return place


def save_png(figure: Figure, png: Path) -> None:
    """Save a figure as a PNG picture, without the version of matplotlib."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": None})
    write_whole(png, drawn.getvalue())


def _svg(figure: Figure, title: str) -> str:
    """Return the chart as a self-contained element of a page, without references, even for clipping."""
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = drawn.getvalue().split("<svg ", 1)[1]
    text = re.sub(r'font-family: [^;"]*;? ?| clip-path="[^"]*"', "", text)
    text = re.sub(f'<g id="{_TITLE}([^"]*)">', r"<g><title>\1</title>", text)
    for name, colour in _COLOURS.items():
        text = text.replace(f": {colour}", f": var(--{name})")
    return f'<svg role="img" aria-label="{escape(title)}" {text}'
