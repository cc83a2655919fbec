"""Flips against numpy, and how often they come."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from support.degraded import cubes_of, run

from genesis_toolkit.pipeline.degrade.flip import flip_into
from genesis_toolkit.pipeline.degrade.recipes import get_recipe
from genesis_toolkit.pipeline.rng import Operation, draw_words


@given(
    st.integers(0, 7), st.sampled_from([np.int16, np.uint8, np.float32]), st.sampled_from([(5, 6, 7), (6, 7)])
)
@settings(max_examples=40, deadline=None)
def test_flipping_equals_numpy(bits, dtype, size):
    cube = cubes_of(1, size)[0]
    out = np.zeros(cube.shape, dtype)
    bits %= 2 ** len(size)
    flip_into(cube, bits, out)
    axes = tuple(axis for axis in range(len(size)) if bits >> axis & 1)
    assert np.array_equal(out, np.flip(cube, axes).astype(dtype))


def chance_of_flips(recipe):
    """Net flip bits -> chance, by listing all that can happen."""
    chances = np.zeros(8)
    p = recipe.flip_rate
    for turns in range(4):
        chance = p**turns * (1 - p if turns < 3 else 1) / len(recipe.flip_axes) ** turns
        for axes in itertools.product(recipe.flip_axes, repeat=turns):
            bits = 0
            for axis in axes:
                bits ^= {"channel": 0, "x": 1, "y": 2, "z": 4}[axis]
            chances[bits] += chance
    return chances


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("name", ["genesis", "official-2020", "official-2019"])
def test_flips_are_as_frequent_as_they_should_be(name, dimensions):
    """60,000 pairs against the exact chances, chi-square, p > 0.001; released program: 27.1 %."""
    still = get_recipe(name, shuffle_rate=0.0, nonlinear_rate=0.0, paint_rate=0.0)
    _, flip, _ = run(still, np.zeros((60_000, *[2] * dimensions), np.int16))
    axes = tuple(axis for axis in still.flip_axes if dimensions == 3 or axis != "z")
    expected = chance_of_flips(replace(still, flip_axes=axes))
    possible = expected > 0
    counts = np.bincount(flip, minlength=8)
    assert not counts[~possible].any()
    assert stats.chisquare(counts[possible], expected[possible] * 60_000).pvalue > 0.001
    if name == "official-2020":
        assert 1 - expected[0] == pytest.approx(0.271, abs=0.0005)
        assert (flip != 0).mean() == pytest.approx(0.271, abs=0.006)


def test_some_flip_is_drawn_in_40_percent():
    """40,000 first words of flip streams, as uniform numbers: 40.0 %, tolerance 0.8."""
    first = [draw_words(0, np.uint64(9), n, 0, Operation.FLIP, 1)[0] for n in range(40_000)]
    assert np.mean(np.array(first) < 0.4 * 2**32) == pytest.approx(0.4, abs=0.008)
