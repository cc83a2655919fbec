"""What METHOD.md measured of the released program, measured of the kernels, with sample sizes and tolerances.

Every test has a fixed seed, so a pass is a pass for good; tolerances are three to five standard errors.
"""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from support import oracle

from genesis_toolkit.pipeline.degrade.compose import Degrader
from genesis_toolkit.pipeline.degrade.recipes import RECIPES, Applied, get_recipe, only, shuffle_windows
from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.pipeline.rng import Operation, draw_words

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


def test_the_twelve_combinations_come_as_often_as_they_should():
    """20,000 pairs, chi-square over 12 combinations, p > 0.001; nothing at all in 0.5 % (tolerance 0.15)."""
    quick = get_recipe("genesis", shuffle_windows=1, shuffle_keeps="number")
    cubes = np.zeros((20_000, 14, 14, 14), np.int16)
    _, _, applied = run(quick, cubes, window=Window(0, 10))
    counts = np.bincount(applied, minlength=16)
    expected = np.zeros(16)
    for shuffled, mapped in itertools.product((0, 1), repeat=2):
        both = 0.5 * (0.9 if mapped else 0.1)
        for paint, chance in ((0, 0.1), (4, 0.18), (8, 0.72)):
            expected[mapped + 2 * shuffled + paint] = both * chance
    possible = expected > 0
    assert not counts[~possible].any()
    assert stats.chisquare(counts[possible], expected[possible] * 20_000).pvalue > 0.001
    assert counts[0] / 20_000 == pytest.approx(0.005, abs=0.0015)


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


def test_curves_are_monotone_and_inverted_half_the_time():
    """400 curves, the whole window as the cube: 0 non-monotone, as published; 50 % inverted, tolerance 8."""
    ramp = np.resize(np.arange(-1000, 1001), (400, 13, 14, 11)).astype(np.int16)
    ramp[:] = ramp[0]
    out, _, _ = run(only(GENESIS, Applied.NONLINEAR), ramp)
    steps = np.diff(out.reshape(400, -1)[:, :2001].astype(np.int64), axis=1)
    rising, falling = (steps >= 0).all(axis=1), (steps <= 0).all(axis=1)
    assert np.all(rising ^ falling)
    assert falling.mean() == pytest.approx(0.5, abs=0.08)


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


# --- in two dimensions: against a brute-force program with random numbers of its own ---------------------

SLICE = (56, 64)


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


def test_noise_of_x_ray_images_is_uniform():
    """100 images of uint8, around the windows of out-painting: chi-square over 256 values, p > 0.001."""
    black, white = (np.full((100, *SLICE), grey, np.uint8) for grey in (0, 255))
    recipe = only(GENESIS, Applied.OUTPAINT)
    both = [run(recipe, cubes, window=Window(0, 255))[0] for cubes in (black, white)]
    noise = both[0][both[0] == both[1]]
    assert noise.size > 100_000
    assert stats.chisquare(np.bincount(noise, minlength=256)).pvalue > 0.001


@pytest.mark.full
@pytest.mark.parametrize("size", [(26, 28, 30), (40, 50)])
@pytest.mark.parametrize("name", RECIPES)
def test_kernels_and_the_straightforward_program_agree_in_distribution(name, size):
    """300 pairs each way, each with generators of its own: mean and share of changed voxels.

    The program's own random numbers, not the kernels': Kolmogorov-Smirnov over pairs, p > 0.001.
    """
    recipe = get_recipe(name, shuffle_windows=300, shuffle_keeps="number")
    ramp = np.arange(np.prod(size)).reshape(size) % 2001 - 1000
    cubes = np.broadcast_to(ramp.astype(np.int16), (300, *size)).copy()
    ours, _, _ = run(recipe, cubes)
    draws = oracle.FreshDraws(1)
    theirs = np.stack([oracle.degrade(ramp, recipe, 300, -1000, 1000, draws)[0] for _ in range(300)])
    for measure in (lambda a: a, lambda a: a != ramp):
        means = [measure(twins).reshape(300, -1).mean(axis=1) for twins in (ours, theirs)]
        assert stats.ks_2samp(*means).pvalue > 0.001
