"""The chart: what it says, where its axis begins, and which brackets it has."""

import pytest
from matplotlib.container import ErrorbarContainer

import genesis_toolkit.training.compare.figure
from genesis_toolkit.training.compare.evidence import files_of, weigh
from genesis_toolkit.training.compare.figure import axis_low, levels_of, panels_of
from genesis_toolkit.training.compare.scores import ArmSummary
from genesis_toolkit.training.compare.statistics import compare_arms


def drawn(arms: list[ArmSummary], monkeypatch: pytest.MonkeyPatch) -> str:
    """The chart as SVG with its words in it."""
    words = genesis_toolkit.training.compare.figure._SETTINGS | {"svg.fonttype": "none"}
    monkeypatch.setattr(genesis_toolkit.training.compare.figure, "_SETTINGS", words)
    return files_of(weigh(arms))["figure.svg"].decode().replace("\N{NO-BREAK SPACE}", " ")


def test_the_chart_says_what_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    few = [ArmSummary("IUC", "$a_{b", 92.78, 3.71, 10), ArmSummary("IUC", "_c<&", 95.51, 1.77, 4)]
    text = drawn(few, monkeypatch)
    for words in (
        "n = 4 to 10, fewer than 10 trials",
        "axis from 84, not from 0",
        "n.s.",
        "$a_{b",
        "_c&lt;&amp;",
        "Welch's t-test",
        "with care",
    ):
        assert words in text, words
    assert "Holm" not in text  # of one pair there is nothing to correct
    many = [ArmSummary("IUC", f"arm {number}", 10.0 + number, 1.0, 10) for number in range(6)]
    text = drawn(many, monkeypatch)
    for words in ("more than 6 pairs", "5 of all 15", "Holm", "n = 10<"):
        assert words in text, words
    assert "fewer than 10 trials" not in text
    assert "dc:date" not in text


@pytest.mark.parametrize(
    "arms",
    [
        [(0.0, 0.0), (0.0, 0.0)],
        [(5.0, 0.0), (5.0, 0.0)],
        [(-3.0, 1.0), (-5.0, 0.5)],
        [(-0.3, 0.2), (0.4, 0.1)],
        [(1e100, 1.0), (1e100, 3.0)],
        [(1e-90, 1e-95), (2e-90, 1e-92)],
    ],
)
def test_odd_scores_are_drawn(arms: list[tuple[float, float]]) -> None:
    summaries = [ArmSummary("肺", name, *scores, 3) for name, scores in zip("ab", arms, strict=True)]
    assert files_of(weigh(summaries))["figure.png"].startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arms", "low"),
    [
        ([(92.78, 3.71), (95.51, 1.77)], 84.0),
        ([(10.0, 4.0), (12.0, 1.0)], 0.0),  # bars that differ by much stand on 0
        ([(5.0, 0.0), (5.0, 0.0)], 0.0),
        ([(0.97612, 1e-5), (0.97615, 1e-5)], 0.97608),
    ],
)
def test_the_axis_begins_below_every_error_bar(arms: list[tuple[float, float]], low: float) -> None:
    bars = [ArmSummary("t", name, *scores, 3) for name, scores in zip("ab", arms, strict=True)]
    assert axis_low(bars) == pytest.approx(low)


def test_error_bars_reach_one_standard_deviation_up_and_down() -> None:
    arms = [ArmSummary("t", "a", 92.0, 3.5, 10), ArmSummary("t", "b", 95.5, 1.75, 10)]
    panels = panels_of(arms, compare_arms(arms), all_brackets=False)
    drawn = genesis_toolkit.training.compare.figure._draw(panels, ["a", "b"], [])
    bars = [one for one in drawn.axes[0].containers if isinstance(one, ErrorbarContainer)]
    ends = [segment[:, 1].tolist() for bar in bars for segment in bar.lines[2][0].get_segments()]
    assert ends == [pytest.approx([88.5, 95.5]), pytest.approx([93.75, 97.25])]


def test_brackets_do_not_touch() -> None:
    brackets = [(left, right, "") for left in range(6) for right in range(left + 1, 6)]
    for chosen in (brackets, brackets[:5], brackets[::-1], [(0, 1, ""), (2, 3, "")], []):
        levels = levels_of(chosen)
        for one, level in zip(chosen, levels, strict=True):
            for other, its in zip(chosen, levels, strict=True):
                if one is not other and level == its:
                    assert one[1] < other[0] or other[1] < one[0]
    assert levels_of([(0, 1, ""), (2, 3, ""), (0, 3, "")]) == [0, 0, 1]


def test_brackets_are_those_asked_for_or_a_readable_few() -> None:
    arms = [ArmSummary("t", f"{number}", float(number), 1.0, 3) for number in range(6)]
    arms += [ArmSummary("u", f"{number}", float(number), 1.0, 3) for number in range(4)]
    few = panels_of(arms, compare_arms(arms), all_brackets=False)
    assert [{(left, right) for left, right, _ in panel.brackets} for panel in few] == [
        {(number, 5) for number in range(5)},
        {(left, right) for right in range(4) for left in range(right)},
    ]
    every = panels_of(arms, compare_arms(arms), all_brackets=True)
    assert [len(panel.brackets) for panel in every] == [15, 6]
