"""Degradations III and IV, out- and in-painting (METHOD.md section 3).

Out-painting replaces everything outside a few large windows by noise, in-painting everything inside a few
smaller ones; some recipes fill with one random constant instead. Noise belongs to the voxel, not to the
window: word i of the stream is for voxel i, so windows may overlap and be filled in any order.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.jit import FOUR, HALF, LOW, ONE, THREE, TWO, ZERO, kernel
from genesis_toolkit.pipeline.rng import Operation, block, bounded, extent, philox

_PAINT = np.uint64(Operation.PAINT)
_NOISE = np.uint64(Operation.NOISE)
_CONSTANT = np.uint64(Operation.CONSTANT)


class Painting(NamedTuple):
    """The rules by which windows of in- or out-painting are drawn and filled.

    Attributes:
        sure: number of windows that are always drawn: 0 in in-painting, 1 in out-painting.
        windows: largest number of windows.
        more_below: threshold for another window.
        edges: uint64 [3, 2], the smallest and largest window edge per axis.
        constant: whether windows are filled with one value each instead of noise.
    """

    sure: np.uint64
    windows: np.uint64
    more_below: np.uint64
    edges: NDArray[np.uint64]
    constant: bool


@kernel
def draw_boxes(k0, k1, variant, cube, shape, how, margins, start, stop):  # type: ignore[no-untyped-def]
    """Draw the windows of in- or out-painting in a cube; return their number, uint64.

    Args:
        k0, k1, variant, cube: the scan's key and the rest of the counter, uint64.
        shape, how: the cube's edges, and a `Painting`.
        margins: uint64 [3], the voxels kept free at either border of an axis.
        start, stop: uint64 [>= how.windows, 3], filled with the windows in voxels, stop excluded.
    """
    n = ZERO
    for w in range(how.windows):
        words = block(w, _PAINT, variant, cube, k0, k1)
        if w >= how.sure and words[3] >= how.more_below:
            break
        for axis in range(3):
            low, high, length = how.edges[axis, 0], how.edges[axis, 1], np.uint64(shape[axis])
            start[w, axis], stop[w, axis] = extent(words[axis], low, high, length, margins[axis])
        n += ONE
    return n


@kernel
def draw_constant(k0, k1, variant, cube, window, low, count):  # type: ignore[no-untyped-def]
    """Return the constant of one window: low + a number below count; all uint64 (low wraps if negative)."""
    words = block(window >> TWO, _CONSTANT, variant, cube, k0, k1)
    return low + bounded(words[window & THREE], count)[0]


@kernel
def fill_noise(k0, k1, variant, cube, low, count, out):  # type: ignore[no-untyped-def]
    """Fill a whole cube with noise, uniform over the whole numbers low .. low + count - 1.

    Args:
        k0, k1, variant, cube: the scan's key and the rest of the counter, uint64.
        low: smallest value, uint64 (wraps if negative); count: number of values, uint64.
        out: [x, y, z], C-contiguous, int16, uint8 or uint16.
    """
    flat = out.reshape(out.size)
    size = np.uint64(flat.size)
    whole = size // FOUR
    count &= LOW  # shows the vectoriser that 32 x 32 bits suffice: a fifth faster
    for b in range(whole):
        w0, w1, w2, w3 = philox(b, _NOISE, variant, cube, k0, k1)
        i = b * FOUR
        flat[i] = low + ((w0 * count) >> HALF)
        flat[i + ONE] = low + ((w1 * count) >> HALF)
        flat[i + TWO] = low + ((w2 * count) >> HALF)
        flat[i + THREE] = low + ((w3 * count) >> HALF)
    _noise_run(k0, k1, variant, cube, low, count, whole * FOUR, size, flat)


@kernel
def _noise_run(k0, k1, variant, cube, low, count, begin, end, flat):  # type: ignore[no-untyped-def]
    """Fill voxels begin .. end - 1 of a flat cube with noise."""
    for b in range(begin // FOUR, (end + THREE) // FOUR):
        words = block(b, _NOISE, variant, cube, k0, k1)
        for i in range(max(begin, b * FOUR), min(end, (b + ONE) * FOUR)):
            flat[i] = low + ((words[i & THREE] * count) >> HALF)


@kernel
def fill_noise_box(k0, k1, variant, cube, low, count, start, stop, out):  # type: ignore[no-untyped-def]
    """Fill one box with the noise that `fill_noise` would put there; start, stop: uint64 [3] in voxels."""
    flat = out.reshape(out.size)
    ny = np.uint64(out.shape[1])
    nz = np.uint64(out.shape[2])
    for x in range(start[0], stop[0]):
        for y in range(start[1], stop[1]):
            row = (x * ny + y) * nz
            _noise_run(k0, k1, variant, cube, low, count, row + start[2], row + stop[2], flat)


@kernel
def fill_constant_box(value, start, stop, out):  # type: ignore[no-untyped-def]
    """Fill one box with one value (uint64, wraps if negative); start, stop: uint64 [3] in voxels."""
    for x in range(start[0], stop[0]):
        for y in range(start[1], stop[1]):
            for z in range(start[2], stop[2]):
                out[x, y, z] = value
