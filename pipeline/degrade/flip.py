"""Flip: augments both members of a pair in the same way (METHOD.md section 3).

At most three turns while U < rate, each about one random axis. Two turns about the same axis cancel, so only
the net flip is stored: one bit per axis.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.degrade.recipes import FLIP_X, FLIP_Y, FLIP_Z
from genesis_toolkit.pipeline.jit import ONE, ZERO, kernel
from genesis_toolkit.pipeline.rng import Operation, block, bounded

_OPERATION = np.uint64(Operation.FLIP)
_X, _Y, _Z = np.uint64(FLIP_X), np.uint64(FLIP_Y), np.uint64(FLIP_Z)


@kernel
def draw_flip(k0, k1, variant, cube, below, axes):  # type: ignore[no-untyped-def]
    """Return the net flip of one pair: uint64, bits as FLIP_X, FLIP_Y, FLIP_Z.

    Args:
        k0, k1, variant, cube: the scan's key and the rest of the counter, uint64.
        below: threshold for another turn, uint64; see `rng.threshold`.
        axes: uint64 [1 .. 3], the bit of each axis that may be drawn (0: a turn without effect).
    """
    n = np.uint64(axes.size)
    a0, a1, b0, b1 = block(ZERO, _OPERATION, variant, cube, k0, k1)
    c0, c1, _, _ = block(ONE, _OPERATION, variant, cube, k0, k1)
    bits = ZERO
    if a0 < below:
        bits ^= axes[bounded(a1, n)[0]]
        if b0 < below:
            bits ^= axes[bounded(b1, n)[0]]
            if c0 < below:
                bits ^= axes[bounded(c1, n)[0]]
    return bits


@kernel
def _flip_into(cube, bits, out):  # type: ignore[no-untyped-def]
    """Do the same as `flip_into` for three dimensions and uint64 bits, inside kernels."""
    nx = np.uint64(cube.shape[0])
    ny = np.uint64(cube.shape[1])
    nz = np.uint64(cube.shape[2])
    for x in range(nx):
        from_x = nx - ONE - x if bits & _X else x
        for y in range(ny):
            from_y = ny - ONE - y if bits & _Y else y
            if bits & _Z:
                for z in range(nz):
                    out[x, y, z] = cube[from_x, from_y, nz - ONE - z]
            else:
                for z in range(nz):
                    out[x, y, z] = cube[from_x, from_y, z]


def flip_into(cube: NDArray[Any], bits: int, out: NDArray[Any]) -> None:
    """Flip a cube into another buffer, as training does with the original of a pair.

    Args:
        cube: [x, y, z] or [x, y], C-contiguous, any integer dtype.
        bits: the net flip: FLIP_X, FLIP_Y, FLIP_Z.
        out: the same shape; for example float32, or the dtype of `cube`; must not overlap `cube`.
    """
    if cube.ndim == 2:  # one layer of three dimensions, see `compose`
        cube, bits, out = cube[np.newaxis], bits << 1, out[np.newaxis]
    _flip_into(cube, np.uint64(bits), out)
