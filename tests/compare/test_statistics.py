"""Tests of arms against the textbook, corrections against their definition, intervals against simulation."""

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.training.compare.scores import ArmSummary, summarise
from genesis_toolkit.training.compare.statistics import (
    MOST_NEEDED,
    TESTS,
    choose_pairs,
    compare_arms,
    hedges_effect,
    holm,
    paired_test,
    power_of,
    stars,
    t_test,
    trials_needed,
)

#: METHOD.md section 6, IUC: mean and sd of 10 trials.
SCRATCH = ArmSummary("IUC", "scratch-2d", 92.78, 3.71, 10)
IMAGENET = ArmSummary("IUC", "imagenet", 95.51, 1.77, 10)

SCORES = st.lists(st.floats(0, 100).map(lambda score: round(score, 3)), min_size=2, max_size=12)


SUMMARIES = st.builds(
    ArmSummary,
    st.just("task"),
    st.just("arm"),
    st.floats(-100, 100),
    st.floats(1e-3, 50),
    st.integers(2, 200),
)


def test_the_published_p_value_and_ours() -> None:
    (found,) = compare_arms([SCRATCH, IMAGENET])
    rounded = {name: round(p, 4) for name, p in found.p_values().items() if p is not None}
    assert rounded == dict(zip(TESTS[:4], (0.0560, 0.0280, 0.0501, 0.0250), strict=True))
    assert found.p == found.p_values()["welch_two_sided"]
    assert stars(found.p) == "n.s."
    assert stars(found.p_values()["student_one_tailed"]) == "*"


def textbook(first: ArmSummary, second: ArmSummary, *, pooled: bool) -> tuple[float, float, float]:
    """t, degrees of freedom and the two-sided p of a t-test, the p as an incomplete beta function."""
    if pooled:
        df: float = first.n + second.n - 2
        variance = ((first.n - 1) * first.sd**2 + (second.n - 1) * second.sd**2) / df
        error = math.sqrt(variance * (1 / first.n + 1 / second.n))
    else:
        a, b = first.sd**2 / first.n, second.sd**2 / second.n
        df = (a + b) ** 2 / (a**2 / (first.n - 1) + b**2 / (second.n - 1))
        error = math.sqrt(a + b)
    t = (second.mean - first.mean) / error
    if t**2 < df:  # near 1 the other way round, which no rounding of its argument moves
        return t, df, float(special.betaincc(0.5, df / 2, t**2 / (df + t**2)))
    return t, df, float(special.betainc(df / 2, 0.5, df / (df + t**2)))


@given(SUMMARIES, SUMMARIES)
def test_t_tests_are_those_of_the_textbook(first: ArmSummary, second: ArmSummary) -> None:
    for pooled in (False, True):
        test = t_test(first, second, pooled=pooled)
        assert test is not None
        t, df, p = textbook(first, second, pooled=pooled)
        assert test.t == pytest.approx(t, rel=1e-9, abs=1e-12)
        assert test.df == pytest.approx(df, rel=1e-9)
        assert test.p_two_sided == pytest.approx(p, rel=1e-7, abs=1e-290)
        higher = p / 2 if t > 0 else 1 - p / 2
        assert test.p_one_tailed == pytest.approx(higher, rel=1e-7, abs=1e-290)


@given(SCORES, SCORES)
def test_raw_scores_give_what_scipy_gives(first: list[float], second: list[float]) -> None:
    arms = summarise("task", "a", first), summarise("task", "b", second)
    for arm, scores in zip(arms, (first, second), strict=True):
        assert arm.mean == pytest.approx(np.mean(scores), rel=1e-12)
        assert arm.sd == pytest.approx(np.std(scores, ddof=1), rel=1e-6, abs=1e-12)
    if min(arm.sd for arm in arms) < 1e-3:  # where all scores are equal scipy warns of what rounding leaves
        return
    test, theirs = t_test(*arms, pooled=False), stats.ttest_ind(second, first, equal_var=False)
    assert test is not None
    assert test.df == pytest.approx(theirs.df, rel=1e-8)
    assert test.p_two_sided == pytest.approx(theirs.pvalue, rel=1e-6)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=12))
def test_paired_tests_are_those_of_scipy_and_of_the_textbook(scores: list[tuple[float, float]]) -> None:
    names = [f"trial {number}" for number in range(len(scores))]
    first, second = (
        summarise("t", arm, [round(pair[at], 3) for pair in scores], names) for at, arm in enumerate("ab")
    )
    turned = summarise("t", "b", list(second.scores.values())[::-1], names[::-1])
    apart = np.array([second.scores[name] - first.scores[name] for name in names])
    found = paired_test(first, turned)
    if apart.std() < 1e-9:
        assert found is None
        return
    assert found is not None
    t = apart.mean() / (apart.std(ddof=1) / math.sqrt(len(apart)))
    assert (found.t, found.df) == (pytest.approx(t, rel=1e-6, abs=1e-9), len(apart) - 1)
    theirs = stats.ttest_rel(list(second.scores.values()), list(first.scores.values()))
    assert found.p_two_sided == pytest.approx(theirs.pvalue, rel=1e-6)
    assert found.p_one_tailed == pytest.approx(stats.t.sf(t, len(apart) - 1), rel=1e-6, abs=1e-12)


def test_only_arms_of_the_same_trials_are_paired() -> None:
    first, second = summarise("t", "a", [1.0, 2.0, 4.0], "xyz"), summarise("t", "b", [2.0, 2.5, 6.0], "xyw")
    (found,) = compare_arms([first, second])
    assert (found.paired, found.needed_paired) == (None, None)
    assert compare_arms([SCRATCH, IMAGENET])[0].paired is None
    same = summarise("t", "b", [2.0, 3.0, 5.0], "xyz")
    (found,) = compare_arms([first, same])
    assert found.paired is None  # all differ by 1: there is no spread to test against
    assert found.welch is not None


@pytest.mark.parametrize(
    ("difference", "variances", "trials"),
    [  # Cohen, Statistical power analysis (1988), table 2.4.1, and Student's for pairs
        (0.2, (1.0, 1.0), 394),
        (0.5, (1.0, 1.0), 64),
        (-0.8, (1.0, 1.0), 26),
        (1.2, (1.0, 1.0), 12),
        (0.5, (1.0,), 34),
        (0.8, (1.0,), 15),
        (8.0, (1.0, 1.0), 2),
        (1000.0, (1.0,), 2),
        (1e-6, (1.0,), MOST_NEEDED),
        (0.0, (1.0,), None),
        (1.0, (0.0, 0.0), None),
    ],
)
def test_trials_that_a_difference_needs_are_those_of_the_tables(
    difference: float, variances: tuple[float, ...], trials: int | None
) -> None:
    assert trials_needed(difference, variances) == trials


@pytest.mark.parametrize(("sds", "n"), [((1.0, 1.0), 12), ((0.4, 2.0), 9)])
def test_power_is_how_often_simulated_trials_find_the_difference(sds: tuple[float, float], n: int) -> None:
    rng, runs = np.random.default_rng(11), 4000
    first, second = (rng.normal(mean, sd, (n, runs)) for mean, sd in zip((0, 1.2), sds, strict=True))
    power = power_of(n, 1.2, [sd**2 for sd in sds])
    found = (stats.ttest_ind(first, second, equal_var=False).pvalue < 0.05).mean()
    assert found == pytest.approx(power, abs=4 * math.sqrt(power * (1 - power) / runs) + 0.01)
    pairs = (stats.ttest_rel(first, second).pvalue < 0.05).mean()
    power = power_of(n, 1.2, [sum(sd**2 for sd in sds)])
    assert pairs == pytest.approx(power, abs=4 * math.sqrt(power * (1 - power) / runs))


def test_a_comparison_says_how_many_trials_its_difference_needs() -> None:
    (found,) = compare_arms([SCRATCH, IMAGENET])
    assert found.needed is not None
    variances = [SCRATCH.sd**2, IMAGENET.sd**2]
    assert power_of(found.needed, 2.73, variances) >= 0.8 > power_of(found.needed - 1, 2.73, variances)


def test_one_family_may_span_several_tasks() -> None:
    arms = [
        ArmSummary(task, arm, mean, 1.0, 5)
        for task, means in (("t, 20", (1, 3)), ("t, 60", (1, 2.5)), ("u", (1, 2)))
        for arm, mean in zip("ab", means, strict=True)
    ]
    found = compare_arms(arms, None, {"t, 20": "t", "t, 60": "t"})
    alone = [one.p or 0 for one in found]
    assert [one.p_holm for one in found] == [*holm(alone[:2]), alone[2]]


def test_one_tailed_asks_if_the_second_is_higher() -> None:
    up, down = t_test(SCRATCH, IMAGENET, pooled=False), t_test(IMAGENET, SCRATCH, pooled=False)
    assert up is not None
    assert down is not None
    assert up.p_one_tailed == pytest.approx(up.p_two_sided / 2)
    assert down.p_one_tailed == pytest.approx(1 - up.p_one_tailed)
    assert down.p_two_sided == up.p_two_sided


def test_spreads_of_any_size_overflow_nowhere() -> None:
    for size in (1e-97, 1e99):
        first, second = (
            ArmSummary("t", arm.arm, arm.mean / 100 * size, arm.sd / 100 * size, 10)
            for arm in (SCRATCH, IMAGENET)
        )
        (found,) = compare_arms([first, second])
        assert found.p == pytest.approx(0.05596, abs=1e-5)
        assert found.effect is not None
        assert found.effect.g == pytest.approx(0.89945, abs=1e-5)


def test_arms_without_spread_are_not_tested() -> None:
    flat = [ArmSummary("t", name, mean, 0.0, 3) for name, mean in (("a", 1.0), ("b", 1.0), ("c", 2.0))]
    found = compare_arms(flat)
    assert [one.p for one in found] == [one.effect for one in found] == [one.p_holm for one in found]
    assert {stars(one.p) for one in found} == {"-"}
    assert set(found[0].p_values().values()) == {None}
    moving = ArmSummary("t", "d", 1.5, 0.5, 3)
    with_one = compare_arms([flat[0], flat[1], moving])  # a:b, a:d, b:d; the family has two tests
    assert with_one[0].p_holm is None
    assert with_one[1].p is not None
    assert with_one[1].p_holm == pytest.approx(2 * with_one[1].p)
    assert with_one[1].welch is not None
    assert with_one[1].welch.df == pytest.approx(2)


def test_equal_means_differ_in_nothing() -> None:
    (found,) = compare_arms([ArmSummary("t", "a", 5.0, 1.0, 4), ArmSummary("t", "b", 5.0, 2.0, 9)])
    assert found.p == found.p_values()["student_two_sided"] == 1.0
    assert found.effect is not None
    assert found.effect.g == 0.0
    assert found.effect.low == pytest.approx(-found.effect.high)


@pytest.mark.parametrize(
    ("given_p", "adjusted"),
    [  # R: p.adjust(p, "holm")
        ([0.01, 0.02, 0.03, 0.04], [0.04, 0.06, 0.06, 0.06]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5, 0.6], [1.0, 1.0]),
        ([], []),
    ],
)
def test_holm_gives_what_r_gives(given_p: list[float], adjusted: list[float]) -> None:
    assert holm(given_p) == pytest.approx(adjusted)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.sampled_from([0.05, 0.01, 0.2]))
def test_holm_rejects_what_the_steps_reject(p_values: list[float], level: float) -> None:
    """Step down from the smallest p, each against level / (tests left), and stop at the first that stays."""
    rejected = set()
    for left, number in zip(
        range(len(p_values), 0, -1), sorted(range(len(p_values)), key=p_values.__getitem__), strict=True
    ):
        if p_values[number] * left > level:
            break
        rejected.add(number)
    assert {number for number, p in enumerate(holm(p_values)) if p <= level} == rejected


def test_holm_looks_at_no_order() -> None:
    expected = dict(zip((0.001, 0.02, 0.03), holm([0.001, 0.02, 0.03]), strict=True))
    for order in permutations(expected):
        assert holm(order) == [expected[p] for p in order]


@pytest.mark.parametrize(
    ("p", "mark"),
    [
        (1.0, "n.s."),
        (0.05, "n.s."),
        (0.0499, "*"),
        (0.01, "*"),
        (0.0099, "**"),
        (0.001, "**"),
        (0.00099, "***"),
        (0.0001, "***"),
        (0.000099, "****"),
        (0.0, "****"),
        (None, "-"),
    ],
)
def test_stars_are_those_of_the_slides(p: float | None, mark: str) -> None:
    assert stars(p) == mark


def below(t: float, df: int, noncentrality: float) -> float:
    """P(T <= t) of a noncentral t, integrated over the sd that T divides by."""
    return float(
        integrate.quad(
            lambda sd: (
                stats.norm.cdf(t * sd - noncentrality) * stats.chi.pdf(sd * math.sqrt(df), df) * math.sqrt(df)
            ),
            0,
            1 + 12 / math.sqrt(df),
            limit=500,
        )[0]
    )


@pytest.mark.parametrize(("difference", "n"), [(0.0, 10), (2.1, 10), (-9.0, 10), (30.0, 2), (1.0, 40)])
def test_the_ends_of_the_interval_leave_a_fortieth_each(difference: float, n: int) -> None:
    first, second = ArmSummary("t", "a", 0, 1.0, n), ArmSummary("t", "b", difference, 2.0, n)
    effect, test = hedges_effect(first, second), t_test(first, second, pooled=True)
    assert effect is not None
    assert test is not None
    of_t = math.sqrt(n / 2)
    assert below(test.t, 2 * n - 2, effect.low * of_t) == pytest.approx(0.975, abs=1e-6)
    assert below(test.t, 2 * n - 2, effect.high * of_t) == pytest.approx(0.025, abs=1e-6)


@settings(max_examples=60)
@given(SUMMARIES, SUMMARIES)
def test_the_interval_holds_zero_where_the_pooled_test_says_so(first: ArmSummary, second: ArmSummary) -> None:
    effect, test = hedges_effect(first, second), t_test(first, second, pooled=True)
    assert effect is not None
    assert test is not None
    if abs(test.p_two_sided - 0.05) > 1e-6:
        assert (effect.low <= 0 <= effect.high) == (test.p_two_sided > 0.05)
    assert effect.low < effect.high
    turned = hedges_effect(second, first)
    assert turned is not None
    assert (turned.g, turned.low, turned.high) == pytest.approx((-effect.g, -effect.high, -effect.low))


def test_huge_effects_go_on_where_the_exact_interval_ends() -> None:
    ends = []
    for t in (999.99, 1000.01):
        n, sd = 10, 1.0
        effect = hedges_effect(
            ArmSummary("t", "a", 0, sd, n), ArmSummary("t", "b", t * math.sqrt(2 / n), sd, n)
        )
        assert effect is not None
        ends.append((effect.g, effect.low, effect.high))
    assert ends[0] == pytest.approx(ends[1], rel=1e-4)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_simulated_g_has_no_bias_and_its_interval_covers(shift: float) -> None:
    rng = np.random.default_rng(20191015)
    runs, n = 1200, 4
    samples = rng.normal(0, 1, (runs, 2, n))
    samples[:, 1] += shift
    means, sds = samples.mean(axis=2), samples.std(axis=2, ddof=1)
    found = [
        hedges_effect(*(ArmSummary("t", "ab"[k], mean[k], sd[k], n) for k in (0, 1)))
        for mean, sd in zip(means.tolist(), sds.tolist(), strict=True)
    ]
    effects = [one for one in found if one is not None]
    covered = sum(one.low <= shift <= one.high for one in effects)
    assert abs(covered / runs - 0.95) < 4 * math.sqrt(0.05 * 0.95 / runs)
    g = np.array([one.g for one in effects])
    assert abs(g.mean() - shift) < 4 * g.std() / math.sqrt(runs)
    if shift:  # Cohen's d, without the factor, is found out by the same measure
        assert abs(g.mean() * 1.15 - shift) > 4 * g.std() / math.sqrt(runs)


def test_the_family_is_the_pairs_of_one_task() -> None:
    other = ArmSummary("DXC", "scratch-2d", 69.15, 0.77, 10)
    third = ArmSummary("IUC", "genesis-ct-2d", 94.5, 2.08, 10)
    found = compare_arms([SCRATCH, other, IMAGENET, ArmSummary("DXC", "imagenet", 75.55, 0.48, 10), third])
    assert [(one.task, one.first.arm, one.second.arm) for one in found] == [
        ("IUC", "scratch-2d", "imagenet"),
        ("IUC", "scratch-2d", "genesis-ct-2d"),
        ("IUC", "imagenet", "genesis-ct-2d"),
        ("DXC", "scratch-2d", "imagenet"),
    ]
    assert found[3].p_holm == found[3].p
    assert [one.p_holm for one in found[:3]] == holm([one.p or 0 for one in found[:3]])


def test_pairs_are_chosen_in_the_order_of_the_arms() -> None:
    arms = ["scratch", "imagenet", "genesis"]
    assert choose_pairs(arms, "genesis") == [("scratch", "genesis"), ("imagenet", "genesis")]
    assert choose_pairs(arms, "scratch") == [("scratch", "imagenet"), ("scratch", "genesis")]
    assert choose_pairs(arms, named=[("genesis", "scratch")]) == [("genesis", "scratch")]
    assert len(choose_pairs(arms)) == 3


@pytest.mark.parametrize(
    ("reference", "named", "words"),
    [
        ("genesys", None, "--reference names 'genesys'"),
        ("b", [("a", "b")], "exclude each other"),
        (None, [("a", "x")], "--pairs names 'x'"),
        (None, [("a", "a")], "with itself"),
        (None, [("a", "b"), ("b", "a")], "repeated pair"),
    ],
)
def test_pairs_that_make_no_sense_are_refused(
    reference: str | None, named: list[tuple[str, str]] | None, words: str
) -> None:
    with pytest.raises(CallError, match=words):
        choose_pairs(["a", "b"], reference, named)


def test_pairs_that_meet_in_no_task_are_refused() -> None:
    alone = [SCRATCH, IMAGENET, ArmSummary("DXC", "c", 1, 1, 3), ArmSummary("DXC", "d", 1, 1, 3)]
    with pytest.raises(CallError, match="No task has both"):
        compare_arms(alone, [("imagenet", "c")])


@pytest.mark.parametrize("scores", [[], [1.0], [1.0, math.nan], [1.0, math.inf], [1.0, 1e101]])
def test_scores_that_tell_nothing_are_refused(scores: list[float]) -> None:
    with pytest.raises(DataError):
        summarise("task", "arm", scores)
    assert summarise("task", "arm", [0.1] * 7) == ArmSummary("task", "arm", 0.1, 0.0, 7)
