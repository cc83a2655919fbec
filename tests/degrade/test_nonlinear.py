"""Curves against the plain program of METHOD.md, and what they leave alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import oracle
from support.degraded import GENESIS, degrade, run

from genesis_toolkit.pipeline.degrade.nonlinear import fill_table
from genesis_toolkit.pipeline.degrade.recipes import RECIPES, Applied, only
from genesis_toolkit.pipeline.hounsfield import Window


def table_of(points, inverted, window, dtype=np.int16):
    table = np.zeros(np.iinfo(dtype).max - np.iinfo(dtype).min + 1, dtype)
    fill_table(*points, inverted, window.low, window.high, table)
    return table[np.arange(window.low, window.high + 1) % table.size].astype(np.int64)


unit = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0, 0.5, 1 / 3]))


@given(st.tuples(unit, unit, unit, unit), st.booleans())
@settings(max_examples=50, deadline=None)
def test_a_curve_is_monotone_exact_at_both_ends_and_within_one_of_the_oracle(points, inverted):
    window = Window()
    curve = table_of(points, inverted, window)
    assert (curve[0], curve[-1]) == ((1000, -1000) if inverted else (-1000, 1000))
    steps = np.diff(curve) * (-1 if inverted else 1)
    assert steps.min() >= 0
    expected = oracle.nonlinear(np.arange(-1000, 1001), points, inverted, -1000, 1000)
    assert np.abs(curve - expected).max() <= 1


@pytest.mark.parametrize(
    "points", [(1.0, 0.3, 0.0, 0.8), (1.0, 1.0, 0.0, 1.0), (0.0, 1.0, 0.0, 0.0), (0, 0, 1, 1)]
)
def test_a_curve_whose_x_stands_still_is_solved_exactly(points):
    """Where X' vanishes (P1x = 1, P2x = 0 at s = 1/2), against bisection to the last bit, within 0.01 HU."""
    window = Window()
    low, high = np.zeros(2001), np.ones(2001)
    value = np.arange(2001) / 2000
    x1, y1, x2, y2 = points
    for _ in range(60):
        s = (low + high) / 2
        over = 3 * (1 - s) ** 2 * s * x1 + 3 * (1 - s) * s**2 * x2 + s**3 > value
        low, high = np.where(over, low, s), np.where(over, s, high)
    y = (3 * (1 - s) ** 2 * s * y1 + 3 * (1 - s) * s**2 * y2 + s**3) * 2000 - 1000
    curve = table_of(points, False, window)
    assert np.abs(curve - y).max() <= 0.51


def test_values_outside_the_window_stay_and_harm_nothing():
    cube = np.full((1, 16, 16, 16), -32768, np.int16)
    cube[0, 0] = 32767
    degraded = degrade(only(RECIPES["genesis"], Applied.NONLINEAR), cube, [0], [0], 0)[0]
    assert np.array_equal(degraded, cube)


def test_curves_are_monotone_and_inverted_half_the_time():
    """400 curves, the whole window as the cube: 0 non-monotone, as published; 50 % inverted, tolerance 8."""
    ramp = np.resize(np.arange(-1000, 1001), (400, 13, 14, 11)).astype(np.int16)
    ramp[:] = ramp[0]
    out, _, _ = run(only(GENESIS, Applied.NONLINEAR), ramp)
    steps = np.diff(out.reshape(400, -1)[:, :2001].astype(np.int64), axis=1)
    rising, falling = (steps >= 0).all(axis=1), (steps <= 0).all(axis=1)
    assert np.all(rising ^ falling)
    assert falling.mean() == pytest.approx(0.5, abs=0.08)
