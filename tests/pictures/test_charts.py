import re
from itertools import pairwise
from typing import Any

import matplotlib
import matplotlib.image
import numpy as np
import pytest

from genesis_toolkit.pipeline.hounsfield import SUBSTANCES
from genesis_toolkit.pipeline.pictures.charts import bar_chart, histogram_chart


def outline(chart: str, name: str) -> tuple[list[tuple[float, float]], str]:
    """The corners of the distribution of this name, in pixels, and its style."""
    ((path, style),) = re.findall(rf'<title>{name}</title>\s*<path d="([^"]+)" style="([^"]+)"', chart)
    return corners(path), style


def corners(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", path)]


def height(points: list[tuple[float, float]], at: float) -> float:
    """Where the level part of an outline over this place lies."""
    (found,) = {
        y for (x, y), (end, level) in pairwise(points) if y == level and min(x, end) < at < max(x, end)
    }
    return found


def along(chart: str) -> Any:
    """Where a value lies along x, by the names of the ticks."""
    ticks = re.findall(r'text-anchor: middle[^>]* x="([\d.]+)"[^>]*>([-\d.]+)<', chart)
    places, values = np.array(ticks, dtype=float).T
    slope, start = np.polyfit(values, places, 1)
    return lambda value: slope * value + start


def levels(chart: str) -> dict[str, float]:
    """Where the lines across lie, by their names."""
    ticks = re.findall(r'<g id="ytick_.*?<path d="M [\d.]+ ([\d.]+).*?<text[^>]*>([^<]+)<', chart, re.DOTALL)
    return {name: float(y) for y, name in ticks}


def test_bars_and_marks_stand_where_their_axes_say() -> None:
    counts = np.zeros(201, np.int64)
    counts[[0, 100, 200]] = 10, 989, 1
    marks = {"<fat>": (-120, -90), "far": (1800, 1900)}
    chart = histogram_chart("HU & more", -1000, 10, {"a": counts, "b": counts[::-1]}, marks)
    assert 'aria-label="HU &amp; more"' in chart
    assert "<title>HU &amp; more</title>" in chart
    assert "&lt;fat&gt;" in chart
    assert "far" not in chart
    x, lines = along(chart), levels(chart)
    assert list(lines) == ["0.1 %", "1 %", "10 %", "100 %"]
    (filled, fill), (line, stroke) = outline(chart, "a"), outline(chart, "b")
    assert fill.startswith("fill: var(--fill)")
    assert "fill: none; stroke: var(--line)" in stroke
    for value, level in ((-999, "1 %"), (-991, "1 %"), (1001, "0.1 %"), (1009, "0.1 %"), (500, "0.1 %")):
        assert height(filled, x(value)) == pytest.approx(lines[level], abs=0.1), value
    for value in (1, 9):
        assert height(filled, x(value)) == pytest.approx(lines["100 %"], abs=1)
    for value in (-995, -985, -500, 5, 1005):
        assert height(filled, x(value)) == pytest.approx(height(line, x(10 - value)), abs=0.1)
    (band,) = re.findall(r'<path d="([^"]+)" style="fill: var\(--band\)', chart)
    places = [place for place, _ in corners(band)]
    assert (min(places), max(places)) == pytest.approx((x(-120), x(-89)), abs=0.1)


def test_names_of_marks_do_not_lie_on_each_other() -> None:
    chart = histogram_chart("HU", -1000, 10, {"a": np.ones(201, np.int64)}, SUBSTANCES)
    places = sorted(float(place) for place in re.findall(r"translate\(([\d.]+) ", chart))
    assert len(places) == len(SUBSTANCES) - 1  # cortical bone lies outside
    assert min(np.diff(places)) > 11


def test_bars_of_counts() -> None:
    chart = bar_chart("scores", 0.0, 0.2, np.array([0, 5, 20, 10]))
    x, lines = along(chart), levels(chart)
    bars, _ = outline(chart, "scores")
    for value, count in ((0.01, 0), (0.049, 0), (0.051, 5), (0.099, 5), (0.11, 20), (0.19, 10)):
        assert height(bars, x(value)) == pytest.approx(lines[str(count)], abs=0.1)
    for few in (0, 1, 3):
        names = list(levels(bar_chart("few", 0.0, 1.0, np.array([0, few]))))
        assert names == [str(number) for number in range(max(1, few) + 1)]


def test_charts_are_the_same_whatever_the_users_settings_are() -> None:
    counts = np.arange(1, 22)
    charts = []
    for size in (10.0, 30.0):
        with matplotlib.rc_context({"font.size": size, "axes.grid": size > 20, "svg.fonttype": "path"}):
            charts.append(
                (bar_chart("a", 0, 1, counts), histogram_chart("b", 0, 10, {"c": counts}, SUBSTANCES))
            )
            assert matplotlib.rcParams["font.size"] == size
    assert charts[0] == charts[1]
    assert len("".join(charts[0])) < 30_000
