"""Shuffling against the plain program of METHOD.md, and what it moves."""

import numpy as np
import pytest
from scipy import stats
from support import oracle
from support.degraded import GENESIS, SIZE, SLICE, SMALL, check_against_oracle, cubes_of, degrade, run

from genesis_toolkit.pipeline.degrade import shuffle as shuffling
from genesis_toolkit.pipeline.degrade.compose import Degrader
from genesis_toolkit.pipeline.degrade.recipes import RECIPES, Applied, get_recipe, only, shuffle_windows
from genesis_toolkit.pipeline.hounsfield import Window


@pytest.mark.parametrize("applied", [2, 6, 10, 11])
def test_shuffling_many_layers_deep_equals_the_oracle(applied):
    """Alone, painted in, and with windows left over: 9 layers in rows that are longer than a 64-bit word."""
    recipe = only(get_recipe("official-2020", shuffle_windows=3000), Applied(applied))
    check_against_oracle(recipe, cubes_of(1, (130, 70)), [applied], [0], 0, 0)


@pytest.mark.parametrize("size", [SMALL, (20, 30, 70), SLICE, (64, 65), (130, 63)])
@pytest.mark.parametrize("applied", [2, 10])
def test_looking_for_buried_windows_does_not_show(monkeypatch, size, applied):
    """4 cubes, 3,000 windows, 0.5 to 10 layers: the same bits whether buried windows are shuffled or not."""
    recipe = only(get_recipe("official-2020", shuffle_windows=3000), Applied(applied))
    cubes = cubes_of(4, size)
    degraded = []
    for layers, looks in ((np.inf, False), (0.0, True)):
        monkeypatch.setattr(shuffling, "_LAYERS", layers)
        degrader = Degrader(recipe, size, Window(), 0)
        assert bool(degrader._scratch(cubes.dtype).shuffle.covered.size) == looks
        degraded.append(degrade(recipe, cubes, range(4), range(4), 0)[0])
    assert np.array_equal(*degraded)
    assert (degraded[0] != cubes).any()


def test_shuffling_moves_78_5_percent_of_the_voxels():
    """6 cubes whose voxels hold their own index, in two parts of 15 bits: 78.5 % moved, tolerance 0.5."""
    index = np.arange(64 * 64 * 32).reshape(SIZE)
    moved = np.zeros((6, *SIZE), bool)
    for part in (index & 0x7FFF, index >> 15):
        cubes = np.broadcast_to(part.astype(np.int16), (6, *SIZE)).copy()
        moved |= run(only(GENESIS, Applied.SHUFFLE), cubes, window=Window(0, 32767))[0] != cubes
    assert moved.mean() == pytest.approx(0.785, abs=0.005)


def test_shuffling_windows_cover_81_9_percent_of_the_voxels():
    """The windows of 4 cubes (the streams are the kernels', see test_kernels): 81.9 %, tolerance 0.4."""
    inside = np.zeros((4, *SIZE), bool)
    for number in range(4):
        draws = oracle.StreamDraws(0, 1, number, 0)
        for window in draws.shuffle_windows(10_000, [(1, 6), (1, 6), (1, 3)], SIZE):
            inside[number][oracle.box(window)] = True
    assert inside.mean() == pytest.approx(0.819, abs=0.004)


def test_permutations_are_uniform():
    """40,000 windows of 8 voxels, one a cube: where a voxel goes (8 x 8) and where two go (56), p > 0.001."""
    one = get_recipe("genesis", shuffle_windows=1, shuffle_keeps="number", shuffle_edges=("2", "2"))
    cubes = np.broadcast_to(np.arange(8, dtype=np.int16).reshape(2, 2, 2), (40_000, 2, 2, 2)).copy()
    out, _, _ = run(only(one, Applied.SHUFFLE), cubes, window=Window(0, 7))
    places = out.reshape(-1, 8).astype(np.int64)
    assert np.array_equal(np.sort(places, axis=1), cubes.reshape(-1, 8))
    for position in range(8):
        assert stats.chisquare(np.bincount(places[:, position], minlength=8)).pvalue > 0.001
    for first, second in ((0, 1), (2, 3), (0, 7), (6, 7)):
        pairs = np.bincount(places[:, first] * 8 + places[:, second], minlength=64).reshape(8, 8)
        assert not pairs.diagonal().any()
        assert stats.chisquare(pairs[~np.eye(8, dtype=bool)]).pvalue > 0.001


def test_shuffling_is_no_permutation_of_the_cube():
    """Windows are read from the original and overwrite one another, so some voxels are lost, some doubled."""
    index = np.arange(20 * 20 * 20, dtype=np.int16).reshape(1, 20, 20, 20)
    out, _, _ = run(only(GENESIS, Applied.SHUFFLE), index, window=Window(0, 8000))
    assert len(np.unique(out)) < 0.9 * index.size


@pytest.mark.parametrize(("name", "tolerance"), [("genesis", 0.012), ("official-2020", 0.005)])
def test_shuffling_of_slices_moves_what_the_oracle_moves(name, tolerance):
    """12 slices of 100 x 120 whose pixels hold their own index, 3 by brute force: shares moved.

    81.9 % lie inside a window of genesis; tolerance 1.2 points, 0.5 where nearly all do (3 standard errors).
    """
    index = np.arange(100 * 120, dtype=np.int16).reshape(100, 120)
    recipe = only(RECIPES[name], Applied.SHUFFLE)
    windows = shuffle_windows(recipe, index.shape)
    out, _, _ = run(recipe, np.broadcast_to(index, (12, 100, 120)).copy(), window=Window(0, 12_000))
    draws = oracle.FreshDraws(3)
    edges = oracle.edges_of(recipe, "shuffle", index.shape)
    theirs = [oracle.shuffle(index, windows, edges, draws) != index for _ in range(3)]
    assert (out != index).mean() == pytest.approx(np.mean(theirs), abs=tolerance)
    assert (np.sort(out.reshape(12, -1)) != index.ravel()).any()  # no permutation of the slice


def test_permutations_of_pixels_are_uniform():
    """40,000 windows of 2 x 2 pixels, one a slice: all 24 orders come as often, chi-square, p > 0.001."""
    one = get_recipe("genesis", shuffle_windows=1, shuffle_keeps="number", shuffle_edges=("2", "2"))
    cubes = np.broadcast_to(np.arange(4, dtype=np.int16).reshape(2, 2), (40_000, 2, 2)).copy()
    out, _, _ = run(only(one, Applied.SHUFFLE), cubes, window=Window(0, 3))
    orders = np.unique(out.reshape(-1, 4), axis=0, return_counts=True)
    assert len(orders[0]) == 24
    assert stats.chisquare(orders[1]).pvalue > 0.001
