"""Curves: each arm where its points are, on a logarithmic axis, with stars where there are two arms."""

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer

import genesis_toolkit.training.compare.figure
from genesis_toolkit.training.compare.curves import Point, _draw
from genesis_toolkit.training.compare.evidence import files_of, weigh
from genesis_toolkit.training.compare.scores import ArmSummary

POINTS = {f"{task}, {at} labels": Point(task, "labelled cases", at) for task in "tu" for at in (20, 60, 200)}
ARMS = [
    ArmSummary(name, arm, 0.7 + 0.001 * point.at + 0.05 * place, 0.01 * (1 + place), 10)
    for name, point in POINTS.items()
    for place, arm in enumerate(("scratch", "ours"))
]


def test_lines_run_through_the_means_and_bars_reach_one_standard_deviation() -> None:
    evidence = weigh(ARMS, points=POINTS)
    figure = _draw(evidence.summaries, evidence.comparisons, POINTS, {}, [])
    assert [axes.get_title() for axes in figure.axes] == ["t", "u"]
    for axes in figure.axes:
        assert axes.get_xscale() == "log"
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["20", "60", "200"]
        bars = [one for one in axes.containers if isinstance(one, ErrorbarContainer)]
        for place, bar in enumerate(bars):
            x, y = (np.array(one, np.float64) for one in bar.lines[0].get_data())
            np.testing.assert_allclose(x, [20, 60, 200], rtol=0.05)
            means = np.array([0.72, 0.76, 0.9]) + 0.05 * place
            np.testing.assert_allclose(y, means)
            ends = np.array([one[:, 1] for one in bar.lines[2][0].get_segments()], np.float64)
            np.testing.assert_allclose(ends, means[:, None] + np.array([-1, 1]) * 0.01 * (1 + place))
        assert [text.get_text() for text in axes.texts] == ["****"] * 3
        assert len(bars) == 2


def test_the_files_say_what_they_show(monkeypatch: pytest.MonkeyPatch) -> None:
    words = genesis_toolkit.training.compare.figure._SETTINGS | {"svg.fonttype": "none"}
    monkeypatch.setattr(genesis_toolkit.training.compare.figure, "_SETTINGS", words)
    evidence = weigh(ARMS, metrics=dict.fromkeys(POINTS, "auc"), points=POINTS)
    files = files_of(evidence)
    text = files["figure.svg"].decode().replace("\N{NO-BREAK SPACE}", " ")
    for said in (
        "labelled cases (logarithmic)",
        "AUC",
        "scratch",
        "ours",
        "Error bars",
        "**** p &lt; 0.0001",
    ):
        assert said in text, said
    assert files["figure.png"].startswith(b"\x89PNG")
    assert files == files_of(evidence)
    more = [*ARMS, *(ArmSummary(name, "third", 0.5, 0.1, 4) for name in POINTS)]
    text = files_of(weigh(more, points=POINTS))["figure.svg"].decode()
    assert "Above each point" not in text
    assert "fewer than 10 trials" in text
