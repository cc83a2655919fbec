"""Batches of cubes degraded for the tests, and held against the plain program of METHOD.md."""

import numpy as np
from support import oracle

from genesis_toolkit.pipeline.degrade.compose import Degrader
from genesis_toolkit.pipeline.degrade.recipes import RECIPES, Applied, shuffle_windows
from genesis_toolkit.pipeline.hounsfield import Window

WINDOWS = {np.int16: Window(), np.uint8: Window(0, 255), np.uint16: Window(100, 50_000)}
SMALL = (28, 27, 30)
SLICE = (40, 150)  # a row of three 64-bit words


def cubes_of(n, size, dtype=np.int16, seed=0):
    window = WINDOWS[dtype]
    return np.random.default_rng(seed).integers(window.low, window.high + 1, (n, *size)).astype(dtype)


def degrade(recipe, cubes, streams, numbers, variant, seed=0, window=None):
    """(degraded cubes, flip, applied) of a batch."""
    out = np.full_like(cubes, 77)
    flip, applied = np.zeros(len(cubes), np.uint8), np.zeros(len(cubes), np.uint8)
    size = cubes.shape[1:]
    degrader = Degrader(recipe, size, window or WINDOWS[cubes.dtype.type], seed)
    degrader(cubes, np.array(streams, np.uint64), np.array(numbers), variant, out, flip, applied)
    return out, flip, applied


def flip_bits(turned):
    bits = 0
    for axis in turned:
        bits ^= {"channel": 0, "x": 1, "y": 2, "z": 4}[axis]
    return bits


def check_against_oracle(recipe, cubes, streams, numbers, variant, seed):
    """All equal but where a curve was applied: there within 1, and only where rounding is a close call."""
    window = WINDOWS[cubes.dtype.type]
    windows = shuffle_windows(recipe, cubes.shape[1:])
    degraded, flip, applied = degrade(recipe, cubes, streams, numbers, variant, seed)
    for i, cube in enumerate(cubes):
        draws = oracle.StreamDraws(seed, int(streams[i]), int(numbers[i]), variant)
        expected, turned, names = oracle.degrade(cube, recipe, windows, window.low, window.high, draws)
        assert flip[i] == flip_bits(turned)
        assert applied[i] == sum(Applied[name] for name in names)
        difference = np.abs(degraded[i].astype(np.int64) - expected)
        if "NONLINEAR" not in names:
            assert not difference.any()
        else:
            # The oracle's own curve has samples 1e-5 apart in s, so it is off by a part of a step itself.
            assert difference.max() <= max(1, 3e-5 * window.span)
            assert np.mean(difference > 0) < 0.02 * max(1, window.span / 2000)


SIZE = (64, 64, 32)
GENESIS = RECIPES["genesis"]
UNTOUCHED = -32768  # outside the window: stays wherever nothing is painted


def run(recipe, cubes, variant=0, window=Window(), seed=0):  # noqa: B008
    """(twins, flip, applied); cube i is number i of one scan."""
    n = len(cubes)
    out, flip, applied = np.zeros_like(cubes), np.zeros(n, np.uint8), np.zeros(n, np.uint8)
    degrader = Degrader(recipe, cubes.shape[1:], window, seed)
    degrader(cubes, np.full(n, 2**63 + 5, np.uint64), np.arange(n), variant, out, flip, applied)
    return out, flip, applied


def painted_shares(recipe, n, size=SIZE):
    """Shares of the voxels that are painted, of `n` pairs."""
    cubes = np.full((100, *size), UNTOUCHED, np.int16)
    shares = []
    for variant in range(n // 100):
        out, _, _ = run(recipe, cubes, variant)
        shares.append((out != UNTOUCHED).reshape(100, -1).mean(axis=1))
    return np.concatenate(shares)
