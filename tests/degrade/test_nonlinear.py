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


def one_after_the_other(points, inverted, window):
    """The table by a plain loop: Newton's steps kept inside a bracket, each root begun at the last."""
    x1, y1, x2, y2 = points
    (c1, c2, c3), (d1, d2, d3) = ((3 * a, 3 * b - 6 * a, 1 + 3 * a - 3 * b) for a, b in ((x1, x2), (y1, y2)))
    span, s, slope, curve = window.span, 0.0, 3 * x1, [0]
    for i in range(1, span):
        low, high = s, 1.0
        s = s + 1.0 / span / slope if slope > 0 else s
        for _ in range(64):
            s = s if low < s < high else 0.5 * (low + high)
            excess = ((c3 * s + c2) * s + c1) * s - i / span
            slope = (3 * c3 * s + 2 * c2) * s + c1
            low, high = (low, s) if excess > 0 else (s, high)
            before = s
            s = s - excess / slope if slope > 0 else 0.5 * (low + high)
            s = s if low <= s <= high else 0.5 * (low + high)
            if abs(s - before) < 2**-23:
                break
        t = 1 - s if inverted else s
        curve.append(int(((d3 * t + d2) * t + d1) * t * span + 0.5))
    curve = np.array([*curve, span]) + window.low
    curve[[0, -1]] = (window.high, window.low) if inverted else (window.low, window.high)
    return curve


@pytest.mark.parametrize("window", [Window(), Window(-1000, 400), Window(0, 255)])
def test_roots_found_side_by_side_are_those_found_one_after_the_other(window):
    rng = np.random.default_rng(7)
    for number in range(40):
        points = rng.random(4)
        points[[0, 2]] = points[[0, 2]] ** (1, 8, 0.1)[number % 3]  # where X' comes near 0 as well
        points[2] *= number % 3 < 2 or 1e-3
        inverted = bool(number % 2)
        expected = one_after_the_other(points.tolist(), inverted, window)
        np.testing.assert_array_equal(table_of(points, inverted, window), expected)


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
