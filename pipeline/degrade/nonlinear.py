"""Degradation I, non-linear: a random Bezier curve from intensity to intensity (METHOD.md section 3).

The cubic from (0, 0) to (1, 1) with control points P1, P2 ~ U(0,1)^2. With s solving X(s) = v, an increasing
curve maps v to Y(s), an inverted one to Y(1 - s). Cubes hold whole numbers in one window, so the curve is a
table with one entry per whole number: about 2,001 small equations instead of one interpolation per voxel.
Solved side by side they take 0.25 of the time of solving them in turn, with the same results.
"""

import numpy as np

from genesis_toolkit.pipeline.jit import ONE, ZERO, kernel
from genesis_toolkit.pipeline.rng import Operation, block

_OPERATION = np.uint64(Operation.CURVE)
_UNIT = 1.0 / 4294967296.0

# Tolerance of the step that ends the search for s. Where X' stays away from 0 the remaining error is about
# its square; where X' vanishes (P1x = 1, P2x = 0) steps shrink by 2/3, which leaves twice the step: 0.001 HU.
_TOLERANCE = 1.0 / 8388608.0
_SAMPLES = 512


@kernel
def draw_curve(k0, k1, variant, cube, inverted_below):  # type: ignore[no-untyped-def]
    """Draw the control points of one pair's curve, and whether it is inverted (below a threshold, uint64).

    Returns:
        (P1x, P1y, P2x, P2y, inverted): float64 in [0, 1), and a boolean.
    """
    w0, w1, w2, w3 = block(ZERO, _OPERATION, variant, cube, k0, k1)
    v0, _, _, _ = block(ONE, _OPERATION, variant, cube, k0, k1)
    return w0 * _UNIT, w1 * _UNIT, w2 * _UNIT, w3 * _UNIT, v0 < inverted_below


@kernel
def _solve(value, lowest, guess, c1, c2, c3):  # type: ignore[no-untyped-def]
    """Return the s in [lowest, 1] with X(s) = value, by Newton steps inside a shrinking bracket.

    X is monotone, so the bracket always contains the root; a step that leaves it is replaced by a bisection.
    """
    low = lowest
    high = 1.0
    s = guess
    slope = 0.0
    for _ in range(64):
        if not low < s < high:
            s = 0.5 * (low + high)
        excess = ((c3 * s + c2) * s + c1) * s - value
        slope = (3.0 * c3 * s + 2.0 * c2) * s + c1
        if excess > 0.0:
            high = s
        else:
            low = s
        before = s
        s = s - excess / slope if slope > 0.0 else 0.5 * (low + high)
        if not low <= s <= high:
            s = 0.5 * (low + high)
        if abs(s - before) < _TOLERANCE:
            break
    return s


@kernel
def fill_table(p1x, p1y, p2x, p2y, inverted, low, high, table):  # type: ignore[no-untyped-def]
    """Tabulate a curve over the whole numbers of the window.

    Args:
        p1x, p1y, p2x, p2y: the control points, float64 in [0, 1].
        inverted: whether 0 maps to 1 and 1 to 0.
        low, high: the window, int64.
        table: one entry per bit pattern of its integer dtype, indexed by the value modulo the table's size;
            the entries of low .. high are overwritten with Y rounded to the nearest whole number, halves
            upward. Both end points are exact.
    """
    span = high - low
    step = 1.0 / span
    c1 = 3.0 * p1x
    c2 = 3.0 * p2x - 6.0 * p1x
    c3 = 1.0 + 3.0 * p1x - 3.0 * p2x
    d1 = 3.0 * p1y
    d2 = 3.0 * p2y - 6.0 * p1y
    d3 = 1.0 + 3.0 * p1y - 3.0 * p2y
    wrap = np.uint64(table.size - 1)
    table[np.uint64(low) & wrap] = high if inverted else low
    table[np.uint64(high) & wrap] = low if inverted else high
    roots, values = np.empty(span), np.empty(span)
    _guess(c1, c2, c3, roots)
    for i in range(1, span):  # two Newton steps without a branch, so that they run in SIMD
        guess = s = roots[i]
        before = s - (((c3 * s + c2) * s + c1) * s - i / span) / ((3.0 * c3 * s + 2.0 * c2) * s + c1)
        s = before
        s = s - (((c3 * s + c2) * s + c1) * s - i / span) / ((3.0 * c3 * s + 2.0 * c2) * s + c1)
        t = 1.0 - s if inverted else s
        found = (abs(s - before) < _TOLERANCE) & (abs(s - guess) < 1.0 / _SAMPLES)
        roots[i] = s if found else np.nan
        values[i] = ((d3 * t + d2) * t + d1) * t * span + 0.5
    for i in range(1, span):
        if np.isnan(roots[i]):  # about 3 in 1,000, if X' is small
            s = roots[i - 1]
            slope = (3.0 * c3 * s + 2.0 * c2) * s + c1
            roots[i] = _solve(i / span, s, s + step / slope if slope > 0.0 else s, c1, c2, c3)
            t = 1.0 - roots[i] if inverted else roots[i]
            values[i] = ((d3 * t + d2) * t + d1) * t * span + 0.5
        table[np.uint64(low + i) & wrap] = low + np.int64(values[i])


@kernel
def _guess(c1, c2, c3, roots):  # type: ignore[no-untyped-def]
    """Fill `roots` after its first entry with s for X(s) = i / its length, interpolating linearly."""
    span = roots.size
    roots[0] = 0.0
    begin, x = 1, 0.0
    for sample in range(1, _SAMPLES + 1):
        s = sample / _SAMPLES
        before, x = x, ((c3 * s + c2) * s + c1) * s
        end = span if sample == _SAMPLES else min(span, np.int64(x * span) + 1)
        slope = (x - before) * span * _SAMPLES
        for i in range(begin, end):
            roots[i] = s - (x * span - i) / slope
        begin = max(begin, end)


@kernel
def map_box(source, table, start, stop, out):  # type: ignore[no-untyped-def]
    """Look up the voxels of one box in the table.

    Args:
        source: [x, y, z]; out: the same shape and dtype, may be `source` itself.
        table: from `fill_table`. Values outside the window map to the table's other entries.
        start, stop: uint64 [3], the box in voxels.
    """
    # An index of known width: masking with the table's size takes a third longer.
    for x in range(start[0], stop[0]):
        for y in range(start[1], stop[1]):
            for z in range(start[2], stop[2]):
                out[x, y, z] = table[np.uint16(source[x, y, z])]
