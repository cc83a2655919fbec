"""Test whether one arm is better than another: t-tests, correction for several pairs, and effect sizes.

Pure: numbers in, numbers out. The default is Welch's t-test, two-sided (METHOD.md section 6), which treats
arms as independent samples with different spreads; most published p-values match the pooled test, one-tailed.
Trials with the same name in two arms share their labelled cases, which the paired test uses. scipy computes
all of them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import stdev, variance

import numpy as np
from scipy import optimize, special, stats

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.training.compare.scores import ArmSummary, arms_of

#: The p-values of every pair, the default first.
TESTS = tuple(
    f"{test}_{tail}" for test in ("welch", "student", "paired") for tail in ("two_sided", "one_tailed")
)
DEFAULT_TEST = TESTS[0]
#: Confidence level of the interval of the effect size.
CONFIDENCE = 0.95
#: Power for `trials_needed`: share of comparisons that find a true difference, two-sided at 1 - `CONFIDENCE`.
POWER = 0.8
#: Larger numbers of trials are not computed.
MOST_NEEDED = 1_000_000

_STARS = ((0.0001, "****"), (0.001, "***"), (0.01, "**"), (0.05, "*"))
_ROUNDING = 1e-12  # differences that vary by less than this part of the scores are rounding errors
_SURE = 30.0
_LARGE_T = 1000.0  # up to here scipy's noncentral t is accurate in both tails


@dataclass(frozen=True)
class TTest:
    """A t-test of two arms: the difference of the means, second minus first, in standard errors, and its df.

    The one-tailed p-value is for a higher second mean. Fix which arm is second before looking at the scores.
    """

    t: float
    df: float
    p_two_sided: float
    p_one_tailed: float


@dataclass(frozen=True)
class Effect:
    """The difference of two arms in pooled standard deviations: Hedges' g, second minus first.

    The 95 % confidence interval of the true effect is `low` to `high`.
    """

    g: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Two arms on one task. None means that it could not be tested, since neither arm has any spread.

    Attributes:
        first: the arm that the other is compared with.
        second: the arm that one-tailed tests expect to be higher.
        welch: Welch's test, which allows different spreads.
        student: the pooled test, which assumes equal spreads.
        effect: size of the difference.
        paired: test of the differences between trials with the same name; also None if the trials differ.
        needed: number of trials per arm with which Welch's test finds a difference this large, see
            `trials_needed`; also None if the means are equal.
        needed_paired: likewise, for the paired test.
        p_holm: the two-sided p-value of Welch's test after Holm's correction, see `compare_arms`.
    """

    first: ArmSummary
    second: ArmSummary
    welch: TTest | None
    student: TTest | None
    effect: Effect | None
    paired: TTest | None = None
    needed: int | None = None
    needed_paired: int | None = None
    p_holm: float | None = None

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.first.task

    @property
    def difference(self) -> float:
        """Difference of the means, second minus first, in the unit of the metric."""
        return self.second.mean - self.first.mean

    @property
    def p(self) -> float | None:
        """p-value of the default test, without correction."""
        return self.welch.p_two_sided if self.welch else None

    def p_values(self) -> dict[str, float | None]:
        """Return the p-values by name of the test, those in `TESTS`."""
        return {
            f"{name}_{tail}": getattr(test, f"p_{tail}") if test else None
            for name, test in (("welch", self.welch), ("student", self.student), ("paired", self.paired))
            for tail in ("two_sided", "one_tailed")
        }


def stars(p: float | None) -> str:
    """Return the stars of a p-value as printed on the slides (METHOD.md section 6), `n.s.` from 0.05 on.

    None, for a pair that could not be tested, gives `-`.
    """
    if p is None:
        return "-"
    return next((mark for below, mark in _STARS if p < below), "n.s.")


def t_test(first: ArmSummary, second: ArmSummary, *, pooled: bool) -> TTest | None:
    """Compute Student's pooled t-test, or Welch's (Biometrika 34, 1947) with Satterthwaite's df.

    Return None if both arms have sd 0.
    """
    largest = max(first.sd, second.sd)
    if not largest:
        return None
    sds = first.sd / largest, second.sd / largest  # scaled so that no square overflows
    given = ((second.mean - first.mean) / largest, sds[1], second.n, 0.0, sds[0], first.n, pooled)
    either, higher = (
        stats.ttest_ind_from_stats(*given, alternative=alternative)
        for alternative in ("two-sided", "greater")
    )
    df: float = first.n + second.n - 2
    if not pooled:
        parts = sds[0] ** 2 / first.n, sds[1] ** 2 / second.n
        df = sum(parts) ** 2 / (parts[0] ** 2 / (first.n - 1) + parts[1] ** 2 / (second.n - 1))
    return TTest(float(either.statistic), df, float(either.pvalue), float(higher.pvalue))


def differences_of(first: ArmSummary, second: ArmSummary) -> list[float]:
    """Return the score of each trial of the second arm minus the first's; empty if their trials differ."""
    if not first.scores or first.scores.keys() != second.scores.keys():
        return []
    return [second.scores[trial] - score for trial, score in first.scores.items()]


def paired_test(first: ArmSummary, second: ArmSummary) -> TTest | None:
    """Compute the paired t-test; None if the arms have different trials, or all differences are equal."""
    apart = differences_of(first, second)
    size = max(map(abs, (*first.scores.values(), *second.scores.values())), default=0.0)
    if not apart or stdev(apart) <= _ROUNDING * size:
        return None
    scores = [second.scores[trial] for trial in first.scores], list(first.scores.values())
    either, higher = (
        stats.ttest_rel(*scores, alternative=alternative) for alternative in ("two-sided", "greater")
    )
    return TTest(float(either.statistic), len(apart) - 1, float(either.pvalue), float(higher.pvalue))


def power_of(trials: int, difference: float, variances: Sequence[float]) -> float:
    """Return the power of a two-sided t-test at 0.05 for a difference of means (noncentral t distribution).

    Args:
        trials: number per arm, 2 or more.
        difference: difference of the means.
        variances: those of the scores of both arms, for Welch's test; or one, of the differences of pairs.
    """
    total = sum(variances)
    df = (trials - 1) * total**2 / sum(one**2 for one in variances)
    critical = special.stdtrit(df, (1 + CONFIDENCE) / 2)
    middle = abs(difference) / math.sqrt(total / trials)
    if middle - critical > _SURE:  # outside the range of scipy's distribution
        return 1.0
    below = special.nctdtr(df, middle, critical)
    other_side = np.nan_to_num(special.nctdtr(df, middle, -critical))
    return float(1 - below + other_side)


def trials_needed(difference: float, variances: Sequence[float]) -> int | None:
    """Return the smallest number of trials per arm with power `POWER`, up to `MOST_NEEDED`; see `power_of`.

    None if there is no difference to find, or no spread.
    """
    if not difference or not sum(variances):
        return None
    enough = 2
    while power_of(enough, difference, variances) < POWER and enough < MOST_NEEDED:
        enough *= 2
    lower, enough = enough // 2, min(enough, MOST_NEEDED)
    while enough - lower > 1:
        middle = (lower + enough) // 2
        if power_of(middle, difference, variances) < POWER:
            lower = middle
        else:
            enough = middle
    return enough


def hedges_effect(first: ArmSummary, second: ArmSummary) -> Effect | None:
    """Return Hedges' g with the confidence interval of the effect in the population; None if both sd are 0.

    g is Cohen's d times the exact factor that removes its bias (Hedges, J. Educ. Stat. 6, 1981). The interval
    comes from the noncentral t distribution (Steiger and Fouladi, 1997) and is exact for normal scores with
    equal spreads; it contains 0 exactly if the pooled two-sided p-value is 0.05 or more.
    """
    test, df = t_test(first, second, pooled=True), first.n + second.n - 2
    if test is None:
        return None
    scale = math.sqrt(1 / first.n + 1 / second.n)  # converts a noncentrality to standard deviations
    unbiased = special.poch((df - 1) / 2, 0.5) / math.sqrt(df / 2)
    tail = (1 - CONFIDENCE) / 2
    low, high = _noncentrality(test.t, df, 1 - tail), _noncentrality(test.t, df, tail)
    return Effect(float(test.t * scale * unbiased), low * scale, high * scale)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values of a family of tests after Holm's correction (Scand. J. Statist. 6, 1979)."""
    order = np.argsort(p_values, kind="stable")
    stepped = np.array(p_values)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate(np.minimum(stepped, 1.0))
    return list(map(float, adjusted))


def choose_pairs(
    arms: Sequence[str], reference: str | None = None, named: Sequence[tuple[str, str]] | None = None
) -> list[tuple[str, str]]:
    """Choose the pairs of arms to compare, (first, second): the second is the one expected to be higher.

    By default every pair, for arms in an order in which later ones are expected to be higher; or only those
    with the reference; or only the named ones.
    """
    if named is None:
        if reference is not None:
            _check_arm("--reference", reference, arms)
        return [pair for pair in combinations(arms, 2) if reference is None or reference in pair]
    if reference is not None:
        raise CallError("--reference and --pairs exclude each other: use only one of them.")
    seen: set[frozenset[str]] = set()
    for pair in named:
        for arm in pair:
            _check_arm("--pairs", arm, arms)
        if pair[0] == pair[1] or frozenset(pair) in seen:
            raise CallError(
                f"--pairs names {':'.join(pair)}, an arm paired with itself or a repeated "
                "pair: give each pair of two different arms once."
            )
        seen.add(frozenset(pair))
    return list(named)


def compare_arms(
    summaries: Sequence[ArmSummary],
    pairs: Sequence[tuple[str, str]] | None = None,
    families: Mapping[str, str] | None = None,
) -> list[Comparison]:
    """Compare arms, every one of every task once, task by task, in the pairs of `choose_pairs`.

    Tasks that lack one of the two arms are skipped; a `CallError` if all do. Holm's correction covers the
    pairs of one task that are compared here and could be tested, or those of all tasks with the same family
    name.
    """
    chosen = choose_pairs(arms_of(summaries)) if pairs is None else pairs
    by_task: dict[str, dict[str, ArmSummary]] = {}
    for summary in summaries:
        by_task.setdefault(summary.task, {})[summary.arm] = summary
    found = [
        _compare(arms[first], arms[second])
        for arms in by_task.values()
        for first, second in chosen
        if first in arms and second in arms
    ]
    if not found:
        raise CallError("No task has both arms of a pair: choose arms that occur in the same task.")
    tested: dict[str, dict[int, float]] = {}
    for at, one in enumerate(found):
        if one.p is not None:
            tested.setdefault((families or {}).get(one.task, one.task), {})[at] = one.p
    for p_values in tested.values():
        for at, corrected in zip(p_values, holm(list(p_values.values())), strict=True):
            found[at] = replace(found[at], p_holm=corrected)
    return found


def _compare(first: ArmSummary, second: ArmSummary) -> Comparison:
    """Compare two arms, without Holm's correction."""
    apart, largest = differences_of(first, second), max(first.sd, second.sd)
    difference, needed, paired = second.mean - first.mean, None, paired_test(first, second)
    if largest:  # scaled so that no square overflows
        needed = trials_needed(difference / largest, [(one.sd / largest) ** 2 for one in (first, second)])
    return Comparison(
        first,
        second,
        t_test(first, second, pooled=False),
        t_test(first, second, pooled=True),
        hedges_effect(first, second),
        paired,
        needed,
        trials_needed(difference, [variance(apart)]) if paired else None,
    )


def _noncentrality(t: float, df: int, p: float) -> float:
    """Return the noncentrality with which a noncentral t variable stays below `t` with probability `p`."""
    if t < 0:
        return -_noncentrality(-t, df, 1 - p)
    # For large t, the spread of the pooled sd dominates, and that of the means adds as a square.
    apart = math.sqrt(2 * special.gammaincinv(df / 2, 1 - p) / df) - 1
    found = t + math.copysign(math.hypot(t * apart, special.ndtri(p)), apart)
    if t > _LARGE_T:
        return found
    # For smaller t this is wrong by at most 0.2; scipy's own search, nctdtrinc, by up to 0.5.
    return float(optimize.brentq(lambda middle: special.nctdtr(df, middle, t) - p, found - 1, found + 1))


def _check_arm(option: str, arm: str, arms: Sequence[str]) -> None:
    if arm not in arms:
        raise CallError(f"{option} names {arm!r}, which is not an arm here; allowed: {', '.join(arms)}.")
