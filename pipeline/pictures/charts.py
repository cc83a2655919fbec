"""Charts for a page of HTML, as SVG that takes the page's colours, and grey pictures as data URIs.

Pure: numbers in, text out, always the same text for the same numbers. Names are escaped here.
"""

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor, log10

import numpy as np
from numpy.typing import NDArray

_WIDTH, _HEIGHT = 760, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 112, 34
_PLAIN_TOP = 14  # of a chart without marks
_SMALLEST = 1e-6  # shares below this lie on the axis of a logarithmic chart
_APART = 13  # pixels between the names of marks
_MOST_TICKS = 10


def histogram_chart(
    title: str,
    low: int,
    width: int,
    counts: Mapping[str, NDArray[np.int64]],
    marks: Mapping[str, tuple[int, int]],
) -> str:
    """Draw distributions over whole numbers, shares on a logarithmic scale, substances marked.

    Args:
        title: what it shows, for those who do not see it.
        low: the first number.
        width: how many numbers share a bin.
        counts: by name, int64 [bin]; the first is filled, the others are lines.
        marks: ranges to mark by name, lowest and highest number; those outside are left out.

    Returns:
        An `svg` element.
    """
    bins = len(next(iter(counts.values())))
    last = low + bins * width
    plot = _Plot(low, last, _TOP)
    least = max(_SMALLEST, min(_least_share(each) for each in counts.values()))
    lowest = min(-1, floor(log10(least)))

    def height(share: float) -> float:
        return max(0.0, 1 - log10(share) / lowest) if share > 0 else 0.0

    parts = [_grid(plot, [(1 - power / lowest, _percent(10.0**power)) for power in range(0, lowest - 1, -1)])]
    inside = {
        name: (max(first, low), min(end, last))
        for name, (first, end) in marks.items()
        if end >= low and first < last
    }
    parts += _marked(plot, inside)
    for number, (name, each) in enumerate(counts.items()):
        shares = each / max(1, int(each.sum()))
        heights = [height(float(share)) for share in shares]
        parts.append(_steps(plot, low, width, heights, "filled" if number == 0 else "line", name))
    return _svg(title, [*parts, _axis(plot)])


def bar_chart(title: str, first: float, last: float, counts: NDArray[np.int64]) -> str:
    """Draw a distribution as bars, on a linear scale.

    Args:
        title: what it shows.
        first: where the first bar begins.
        last: where the last bar ends.
        counts: int64 [bar], of equal width.

    Returns:
        An `svg` element.
    """
    plot = _Plot(first, last, _PLAIN_TOP)
    most = max(1, int(counts.max()))
    step = max(1.0, _nice_step(most, 5))
    ticks = [(value * step / most, f"{value * step:,.0f}") for value in range(floor(most / step) + 1)]
    heights = [float(count) / most for count in counts]
    bars = _steps(plot, first, (last - first) / len(counts), heights, "filled", title)
    return _svg(title, [_grid(plot, ticks), bars, _axis(plot)])


class _Plot:
    """The area of a chart: numbers along x and shares of the height -> pixels."""

    def __init__(self, first: float, last: float, top: int) -> None:
        self.first, self.last, self.top = first, last, top
        self.right, self.bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def x(self, value: float) -> float:
        return _LEFT + (value - self.first) / (self.last - self.first) * (self.right - _LEFT)

    def y(self, height: float) -> float:
        return self.bottom - height * (self.bottom - self.top)


def _svg(title: str, parts: Sequence[str]) -> str:
    name = escape(title)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{name}"><title>{name}</title>'
        f"{''.join(parts)}</svg>"
    )


def _grid(plot: _Plot, ticks: Sequence[tuple[float, str]]) -> str:
    """Lines across the plot at these heights, with their names on the left."""
    return "".join(
        f'<path class="grid" d="M{_LEFT} {plot.y(height):.1f}H{plot.right}"/>'
        f'<text x="{_LEFT - 6}" y="{plot.y(height) + 4:.1f}" text-anchor="end">{name}</text>'
        for height, name in ticks
    )


def _axis(plot: _Plot) -> str:
    step = _nice_step(plot.last - plot.first, _MOST_TICKS)
    values = [
        number * step for number in range(ceil(plot.first / step - 1e-9), floor(plot.last / step + 1e-9) + 1)
    ]
    ticks = "".join(
        f'<text x="{plot.x(value):.1f}" y="{plot.bottom + 18}" text-anchor="middle">{value:.6g}</text>'
        for value in values
    )
    return f'<path class="axis" d="M{_LEFT} {plot.bottom}H{plot.right}"/>{ticks}'


def _steps(plot: _Plot, first: float, width: float, heights: Sequence[float], kind: str, name: str) -> str:
    """A histogram's outline; a title tells its name."""
    outline = f"M{plot.x(first):.1f} {plot.bottom}"
    for number, height in enumerate(heights):
        outline += f"V{plot.y(height):.1f}H{plot.x(first + (number + 1) * width):.1f}"
    return f'<path class="{kind}" d="{outline}V{plot.bottom}"><title>{escape(name)}</title></path>'


def _marked(plot: _Plot, marks: Mapping[str, tuple[int, int]]) -> list[str]:
    """Bands with their names above, moved apart where they would lie on each other."""
    parts, free = [], 0.0
    for name, (first, end) in sorted(marks.items(), key=lambda mark: sum(mark[1])):
        left, right = plot.x(first), plot.x(end + 1)
        middle = (left + right) / 2
        place = max(middle, free)
        free = place + _APART
        parts.append(
            f'<rect class="band" x="{left:.1f}" y="{plot.top}" width="{max(1.5, right - left):.1f}" '
            f'height="{plot.bottom - plot.top}"/>'
            f'<path class="leader" d="M{middle:.1f} {plot.top}L{place:.1f} {plot.top - 10}"/>'
            f'<text transform="translate({place + 4:.1f} {plot.top - 12}) rotate(-90)">{escape(name)}</text>'
        )
    return parts


def _least_share(counts: NDArray[np.int64]) -> float:
    found = counts[counts > 0]
    return float(found.min() / counts.sum()) if len(found) else 1.0


def _nice_step(span: float, most: int) -> float:
    """The smallest of 1, 2, 5, 10, .. that makes at most so many steps of a span."""
    power = 10.0 ** floor(log10(span / most))
    return next(power * digit for digit in (1, 2, 5, 10) if span / (power * digit) <= most)


def _percent(share: float) -> str:
    return f"{100 * share:.6g} %"
