"""What METHOD.md measured of the released program, measured of the kernels, with sample sizes and tolerances.

Every test has a fixed seed, so a pass is a pass for good; tolerances are three to five standard errors.
"""

import itertools

import numpy as np
import pytest
from scipy import stats
from support import oracle
from support.degraded import run

from genesis_toolkit.pipeline.degrade.recipes import RECIPES, get_recipe
from genesis_toolkit.pipeline.hounsfield import Window


def test_the_twelve_combinations_come_as_often_as_they_should():
    """20,000 pairs, chi-square over 12 combinations, p > 0.001; nothing at all in 0.5 % (tolerance 0.15)."""
    quick = get_recipe("genesis", shuffle_windows=1, shuffle_keeps="number")
    cubes = np.zeros((20_000, 14, 14, 14), np.int16)
    _, _, applied = run(quick, cubes, window=Window(0, 10))
    counts = np.bincount(applied, minlength=16)
    expected = np.zeros(16)
    for shuffled, mapped in itertools.product((0, 1), repeat=2):
        both = 0.5 * (0.9 if mapped else 0.1)
        for paint, chance in ((0, 0.1), (4, 0.18), (8, 0.72)):
            expected[mapped + 2 * shuffled + paint] = both * chance
    possible = expected > 0
    assert not counts[~possible].any()
    assert stats.chisquare(counts[possible], expected[possible] * 20_000).pvalue > 0.001
    assert counts[0] / 20_000 == pytest.approx(0.005, abs=0.0015)


@pytest.mark.full
@pytest.mark.parametrize("size", [(26, 28, 30), (40, 50)])
@pytest.mark.parametrize("name", RECIPES)
def test_kernels_and_the_straightforward_program_agree_in_distribution(name, size):
    """300 pairs each way, each with generators of its own: mean and share of changed voxels.

    The program's own random numbers, not the kernels': Kolmogorov-Smirnov over pairs, p > 0.001.
    """
    recipe = get_recipe(name, shuffle_windows=300, shuffle_keeps="number")
    ramp = np.arange(np.prod(size)).reshape(size) % 2001 - 1000
    cubes = np.broadcast_to(ramp.astype(np.int16), (300, *size)).copy()
    ours, _, _ = run(recipe, cubes)
    draws = oracle.FreshDraws(1)
    theirs = np.stack([oracle.degrade(ramp, recipe, 300, -1000, 1000, draws)[0] for _ in range(300)])
    for measure in (lambda a: a, lambda a: a != ramp):
        means = [measure(twins).reshape(300, -1).mean(axis=1) for twins in (ours, theirs)]
        assert stats.ks_2samp(*means).pvalue > 0.001
