"""Every kernel against the plain program of METHOD.md, voxel by voxel, on the same draws."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.degraded import SLICE, SMALL, WINDOWS, check_against_oracle, cubes_of, degrade

from genesis_toolkit.pipeline.degrade.compose import Degrader
from genesis_toolkit.pipeline.degrade.recipes import RECIPES, Applied, get_recipe, only
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.hounsfield import Window


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("dtype", WINDOWS)
def test_pairs_equal_the_oracle(name, dtype):
    cubes = cubes_of(4, SMALL, dtype)
    check_against_oracle(RECIPES[name], cubes, [1, 2**63 - 1, 2**63, 2**64 - 1], range(4), 3, 5)


@pytest.mark.parametrize(
    ("name", "dtype"), list(zip(RECIPES, (np.int16, np.uint8, np.uint16, np.uint8), strict=True))
)
def test_pairs_in_two_dimensions_equal_the_oracle(name, dtype):
    """Windows lie 2 layers deep in genesis and paper, 29 in official-2020: both ways of shuffling."""
    cubes = cubes_of(4, (28, 37), dtype)
    check_against_oracle(RECIPES[name], cubes, [1, 2**63 - 1, 2**63, 2**64 - 1], range(4), 3, 5)


@pytest.mark.parametrize("size", [(64, 64, 32), (33, 40, 17), (14, 14, 14), SLICE, (64, 64), (15, 14)])
def test_other_sizes_equal_the_oracle(size):
    check_against_oracle(RECIPES["genesis"], cubes_of(2, size), [7, 8], [0, 2**32 - 1], 0, 2**63 - 1)


@pytest.mark.full
@pytest.mark.parametrize("size", [(96, 96, 96), (128, 128, 64), (224, 224), (512, 512)])
def test_large_sizes_equal_the_oracle(size):
    check_against_oracle(RECIPES["genesis"], cubes_of(2, size), [7, 12], [0, 1], 0, 1)


@pytest.mark.parametrize("applied", [0, 1, 2, 4, 8, 3, 5, 6, 7, 9, 10, 11])
@pytest.mark.parametrize(
    "name", ["genesis", *(pytest.param(name, marks=pytest.mark.full) for name in ("official-2019", "paper"))]
)
def test_each_of_the_twelve_combinations_equals_the_oracle(name, applied):
    recipe = only(RECIPES[name], Applied(applied))
    check_against_oracle(recipe, cubes_of(1, SMALL), [applied], [0], 0, 0)
    assert degrade(recipe, cubes_of(1, SMALL), [applied], [0], 0)[2][0] == applied


@given(
    st.integers(0, 2**63 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)
)
@settings(max_examples=5, deadline=None)
def test_any_address_equals_the_oracle(seed, stream, number, variant):
    for size in ((14, 15, 16), (16, 15)):
        check_against_oracle(RECIPES["genesis"], cubes_of(1, size), [stream], [number], variant, seed)


def test_the_identity_copies():
    cube = cubes_of(2, (4, 5, 6))
    nothing = get_recipe("genesis", flip_rate=0.0, shuffle_rate=0.0, nonlinear_rate=0.0, paint_rate=0.0)
    degraded, flip, applied = degrade(nothing, cube, [0, 1], [0, 0], 0)
    assert np.array_equal(degraded, cube)
    assert not flip.any()
    assert not applied.any()


@pytest.mark.parametrize("size", [SMALL, SLICE])
def test_the_dtype_does_not_show(size):
    """With one window, the degraded cubes of 4 are the same numbers in every dtype."""
    cubes = cubes_of(4, size, np.uint8)
    degraded = [
        degrade(RECIPES["genesis"], cubes.astype(dtype), range(4), range(4), 0, window=Window(0, 255))
        for dtype in WINDOWS
    ]
    for other in degraded[1:]:
        for one, two in zip(degraded[0], other, strict=True):
            assert np.array_equal(one, two)


@pytest.mark.parametrize("size", [SMALL, SLICE])
def test_a_pair_depends_on_nothing_around_it(size):
    cubes = cubes_of(8, size)
    streams, numbers = np.arange(8, dtype=np.uint64) * np.uint64(2**61), np.arange(8)
    together = degrade(RECIPES["genesis"], cubes, streams, numbers, 2)
    order = np.random.default_rng(1).permutation(8)
    shuffled = degrade(RECIPES["genesis"], cubes[order], streams[order], numbers[order], np.full(8, 2))
    for whole, part in zip(together, shuffled, strict=True):
        assert np.array_equal(whole[order], part)
    alone = degrade(RECIPES["genesis"], cubes[3:4], streams[3:4], numbers[3:4], 2)
    assert np.array_equal(alone[0][0], together[0][3])


@pytest.mark.parametrize(("name", "size"), [("genesis", SMALL), ("official-2020", SLICE)])
def test_four_threads_give_the_same_bits(name, size):
    cubes = cubes_of(24, size)
    streams, numbers = np.arange(24, dtype=np.uint64), np.arange(24)
    degrader = Degrader(RECIPES[name], size, Window(), 1)
    expected, flip, applied = np.zeros_like(cubes), np.zeros(24, np.uint8), np.zeros(24, np.uint8)
    degrader(cubes, streams, numbers, 0, expected, flip, applied)
    results = [np.zeros_like(cubes) for _ in range(4)]

    def work(out):
        for i in range(0, 24, 3):
            part = slice(i, i + 3)
            bits = np.zeros(3, np.uint8)
            degrader(cubes[part], streams[part], numbers[part], 0, out[part], bits, bits.copy())

    threads = [threading.Thread(target=work, args=(out,)) for out in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for out in results:
        assert np.array_equal(out, expected)


@pytest.mark.full  # numba compiles everything once more for read-only arrays
def test_the_original_is_read_only_and_may_be_so():
    cubes = cubes_of(2, SMALL)
    before = cubes.copy()
    cubes.flags.writeable = False
    degrade(RECIPES["genesis"], cubes, [0, 1], [0, 0], 0)
    assert np.array_equal(cubes, before)


def test_arrays_that_do_not_fit_are_refused():
    degrader = Degrader(RECIPES["genesis"], SMALL, Window(), 0)
    good = cubes_of(2, SMALL)
    bits = np.zeros(2, np.uint8)
    rest = (np.zeros(2, np.uint64), np.zeros(2, np.int64), 0)
    for cubes, out, words in (
        (good, np.zeros_like(good[:1]), "the output buffer"),
        (good, good.astype(np.uint16), "the same dtype"),
        (cubes_of(2, (28, 27, 31)), np.zeros((2, 28, 27, 31), np.int16), r"\(28, 27, 30\)"),
        (good.astype(np.int32), good.astype(np.int32), "int16, uint8 or uint16"),
        (good.astype(np.uint8), good.astype(np.uint8), "does not fit into uint8"),
        (np.asfortranarray(good), good.copy(), "C-contiguous"),
    ):
        with pytest.raises(CallError, match=words):
            degrader(cubes, *rest, out, bits, bits.copy())
    with pytest.raises(CallError, match="stream"):
        degrader(good, rest[0][:1], rest[1], 0, good.copy(), bits, bits.copy())
    with pytest.raises(CallError, match="applied"):
        degrader(good, *rest, good.copy(), bits, bits[:1])
    with pytest.raises(
        CallError, match=r"must have the shape \[n, x, y\] and the same dtype, with x, y = \(40, 150\)"
    ):
        Degrader(RECIPES["genesis"], SLICE, Window(), 0)(good, *rest, good.copy(), bits, bits.copy())
    for size in ((64,), (64, 64, 32, 1)):
        with pytest.raises(CallError, match=f"has {len(size)} edges"):
            Degrader(RECIPES["genesis"], size, Window(), 0)
    with pytest.raises(CallError, match="--seed -1 is out of range: it must be"):
        Degrader(RECIPES["genesis"], SMALL, Window(), -1)
