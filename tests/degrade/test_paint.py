"""In- and out-painting: how much, where, and with what noise."""

import numpy as np
import pytest
from scipy import stats
from support import oracle
from support.degraded import (
    GENESIS,
    SIZE,
    SMALL,
    UNTOUCHED,
    cubes_of,
    degrade,
    painted_shares,
    run,
)

from genesis_toolkit.pipeline.degrade.recipes import RECIPES, Applied, only
from genesis_toolkit.pipeline.hounsfield import Window

SLICE = (56, 64)


def test_noise_and_cube_are_one_or_the_other():
    """The noise of a voxel does not depend on the windows: degraded == where(mask, noise, cube)."""
    cube = cubes_of(1, SMALL)
    noise = oracle.StreamDraws(0, 5, 0, 0).noise(SMALL, -1000, 1000)
    for bit in (Applied.INPAINT, Applied.OUTPAINT):
        degraded = degrade(only(RECIPES["genesis"], bit), cube, [5], [0], 0)[0][0]
        assert np.all((degraded == cube[0]) | (degraded == noise))


def test_inpainting_paints_5_6_percent():
    """2,000 pairs: mean 5.6 % (tolerance 0.25), never over 16.8 %, nothing at all in 5 % (tolerance 1.5)."""
    shares = painted_shares(only(GENESIS, Applied.INPAINT), 2000)
    assert shares.mean() == pytest.approx(0.056, abs=0.0025)
    assert shares.max() <= 5 * 21 * 21 * 10 / (64 * 64 * 32)
    assert (shares == 0).mean() == pytest.approx(0.05, abs=0.015)


def test_outpainting_keeps_31_7_percent():
    """2,000 pairs: mean 31.7 % (tolerance 0.6), never under 8.4 %."""
    kept = 1 - painted_shares(only(GENESIS, Applied.OUTPAINT), 2000)
    assert kept.mean() == pytest.approx(0.317, abs=0.006)
    assert kept.min() >= 28 * 28 * 14 / (64 * 64 * 32)


def test_painting_stays_three_voxels_from_the_border():
    """400 pairs of each kind; the layer just inside is reached."""
    for kind, painted_outside in ((Applied.INPAINT, False), (Applied.OUTPAINT, True)):
        reached = np.zeros(SIZE, bool)
        for variant in range(4):
            out, _, _ = run(only(GENESIS, kind), np.full((100, *SIZE), UNTOUCHED, np.int16), variant)
            reached |= ((out != UNTOUCHED) != painted_outside).any(axis=0)
        inner = np.zeros(SIZE, bool)
        inner[3:-3, 3:-3, 3:-3] = True
        assert not reached[~inner].any()
        where = np.argwhere(reached)
        assert where.min(axis=0).tolist() == [3, 3, 3]
        assert where.max(axis=0).tolist() == [60, 60, 28]


def noise(n, window=Window()):  # noqa: B008
    """The noise around the windows of out-painting, of `n` cubes."""
    cubes = np.full((n, *SIZE), UNTOUCHED, np.int16)
    out, _, _ = run(only(GENESIS, Applied.OUTPAINT), cubes, window=window)
    return out


def test_noise_is_uniform_over_the_window():
    """20 cubes, about 1.8 million voxels, chi-square over all 2,001 values, p > 0.001."""
    values = noise(20)
    counts = np.bincount(values[values != UNTOUCHED] + 1000, minlength=2001)
    assert len(counts) == 2001
    assert stats.chisquare(counts).pvalue > 0.001


def test_neighbouring_noise_is_independent():
    """8 cubes: correlation with the next voxel, row, slice and cube under 0.01 (standard error 0.001)."""
    values = noise(8).astype(np.float64)
    values[values == UNTOUCHED] = 0
    for axis in range(4):
        a = np.delete(values, -1, axis).ravel()
        b = np.delete(values, 0, axis).ravel()
        painted = (a != 0) & (b != 0)
        assert abs(np.corrcoef(a[painted], b[painted])[0, 1]) < 0.01


def drawn_shares(n, sure, edges):
    """Shares of the pixels of SLICE inside `sure` to five windows of painting, of `n` slices."""
    draws, shares = oracle.FreshDraws(2), []
    for _ in range(n):
        inside = np.zeros(SLICE, bool)
        for window in draws.paint_windows(sure, 5, 0.95, edges, SLICE):
            inside[oracle.box(window)] = True
        shares.append(inside.mean())
    return np.array(shares)


def test_inpainting_of_slices_paints_what_the_oracle_paints():
    """2,000 pairs, 2,000 by brute force: means within 0.9 points (standard error 0.24), KS p > 0.001."""
    ours = painted_shares(only(GENESIS, Applied.INPAINT), 2000, SLICE)
    theirs = drawn_shares(2000, 0, [(9, 18), (10, 21)])
    assert ours.mean() == pytest.approx(theirs.mean(), abs=0.009)
    assert stats.ks_2samp(ours, theirs).pvalue > 0.001
    assert ours.max() <= 5 * 18 * 21 / (56 * 64)
    assert (ours == 0).mean() == pytest.approx(0.05, abs=0.015)


def test_outpainting_of_slices_keeps_what_the_oracle_keeps():
    """2,000 pairs, 2,000 by brute force: means within 1.2 points (standard error 0.3), KS p > 0.001."""
    ours = 1 - painted_shares(only(GENESIS, Applied.OUTPAINT), 2000, SLICE)
    theirs = drawn_shares(2000, 1, [(24, 32), (28, 37)])
    assert ours.mean() == pytest.approx(theirs.mean(), abs=0.012)
    assert stats.ks_2samp(ours, theirs).pvalue > 0.001
    assert ours.min() >= 24 * 28 / (56 * 64)


@pytest.mark.parametrize(("kind", "painted_outside"), [(Applied.INPAINT, False), (Applied.OUTPAINT, True)])
def test_painting_of_slices_stays_three_pixels_from_the_border(kind, painted_outside):
    """1,000 pairs of each kind; the pixels just inside are reached."""
    out, _, _ = run(only(GENESIS, kind), np.full((1000, *SLICE), UNTOUCHED, np.int16))
    reached = ((out != UNTOUCHED) != painted_outside).any(axis=0)
    where = np.argwhere(reached)
    assert where.min(axis=0).tolist() == [3, 3]
    assert where.max(axis=0).tolist() == [52, 60]


def test_noise_of_x_ray_images_is_uniform():
    """100 images of uint8, around the windows of out-painting: chi-square over 256 values, p > 0.001."""
    black, white = (np.full((100, *SLICE), grey, np.uint8) for grey in (0, 255))
    recipe = only(GENESIS, Applied.OUTPAINT)
    both = [run(recipe, cubes, window=Window(0, 255))[0] for cubes in (black, white)]
    noise = both[0][both[0] == both[1]]
    assert noise.size > 100_000
    assert stats.chisquare(np.bincount(noise, minlength=256)).pvalue > 0.001
