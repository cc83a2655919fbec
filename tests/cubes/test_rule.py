"""The tissue rule against the rule written as loops, and the corners that are drawn."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from genesis_toolkit.pipeline.cubes.rule import (
    CubeRule,
    count_scores,
    draw_corners,
    passing_corners,
    tissue_from,
    tissue_score,
    too_small,
)
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.hounsfield import Window

Triple = tuple[int, int, int]


#: int16 is compared in HU; real numbers scaled to [0, 1] first, in double precision.
DTYPES = st.sampled_from([np.int16, np.float32, np.float64])
WINDOWS = st.sampled_from(
    [(-1000, 1000), (-1024, 3071), (-999, 998), (-32767, 32767), (-151, -149), (0, 4000)]
)


def is_tissue(value: np.generic, window: tuple[int, int]) -> bool:
    if isinstance(value, np.integer):
        return int(value) >= -150
    low, high = window
    return (float(value) - low) / (high - low) >= (-150.0 - low) / (high - low)


def score_by_loops(
    voxels: NDArray[np.generic], corner: Triple, size: Triple, window: tuple[int, int] = (-1000, 1000)
) -> float:
    """METHOD.md section 2, word for word."""
    total = 0.0
    for x in range(corner[0], corner[0] + size[0]):
        for y in range(corner[1], corner[1] + size[1]):
            for z in range(corner[2], corner[2] + size[2]):
                k = next((k for k in (0, 1, 2) if is_tissue(voxels[x, y, z + k], window)), 2)
                total += 1 - k / 2
    return total


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 1000),
    size=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
    border=st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)),
    bounds=st.tuples(st.floats(0, 1), st.floats(0, 1)) | st.just((0.0, 0.15)),
    beyond=st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)),
    dtype=DTYPES,
    window=WINDOWS,
)
def test_every_decision_is_that_of_the_loops(
    seed: int,
    size: Triple,
    border: Triple,
    bounds: tuple[float, float],
    beyond: Triple,
    dtype: type,
    window: tuple[int, int],
) -> None:
    rule = CubeRule(size, border, max(bounds), min(bounds))
    shape = tuple(least + more for least, more in zip(rule.least_shape, beyond, strict=True))
    values = np.random.default_rng(seed).uniform(-200, -100, shape)
    voxels = np.asfortranarray(values.astype(dtype))
    corners = passing_corners(voxels, rule, Window(*window))
    assert corners.passing.shape == tuple(more + 1 for more in beyond)
    by_score = count_scores(voxels, rule, Window(*window))
    for place in np.ndindex(*corners.passing.shape):
        corner = tuple(first + step for first, step in zip(corners.first, place, strict=True))
        score = score_by_loops(voxels, corner, size, window)
        refused = score > rule.max_tissue * np.prod(size) or score < rule.min_tissue * np.prod(size)
        assert corners.passing[place] == (not refused)
        found = tissue_score(voxels, np.array(corner), size, Window(*window))
        assert found == pytest.approx(score / np.prod(size), abs=1e-12)
        by_score[int(2 * score)] -= 1
    assert not by_score.any()
    np.testing.assert_array_equal(corners.passing.sum(axis=(0, 1)), corners.by_slice)


def test_every_int16_value_is_judged() -> None:
    values = np.arange(-32768, 32768).astype(np.int16).reshape(256, 256)
    for slice_, score in ((0, 1.0), (1, 0.5), (2, 0.0)):  # here, after, and the look that changes nothing
        voxels = np.full((257, 257, 5), -32768, dtype=np.int16, order="F")
        voxels[:256, :256, slice_] = values
        for max_tissue in (0.0, 0.5, 1.0):
            corners = passing_corners(voxels, CubeRule((1, 1, 1), (0, 0, 0), max_tissue))
            expected = np.where(values >= -150, score, 0.0) <= max_tissue
            np.testing.assert_array_equal(corners.passing[:, :, 0], expected)


@pytest.mark.parametrize(("max_tissue", "min_tissue"), [(0.15, 0.0), (0.3, 0.05), (0.52, 0.5)])
def test_the_published_size_at_random_and_boundary_corners(max_tissue: float, min_tissue: float) -> None:
    rule = CubeRule(max_tissue=max_tissue, min_tissue=min_tissue, border=(10, 11, 3))
    rng = np.random.default_rng(3)
    coarse = rng.normal(-350, 500, (4, 4, 4)).repeat(40, 0).repeat(38, 1).repeat(20, 2)
    voxels = np.asfortranarray((coarse + rng.normal(0, 40, coarse.shape)).astype(np.int16))
    corners = passing_corners(voxels, rule)
    edges = np.array(corners.passing.shape)
    places = rng.integers(0, edges, (1500, 3)).tolist()
    places += [
        [side * (edge - 1) for side, edge in zip(sides, edges, strict=True)] for sides in np.ndindex(2, 2, 2)
    ]
    tissue = voxels >= -150
    for place in places:
        box = tuple(
            slice(first + step, first + step + edge + beyond)
            for first, step, edge, beyond in zip(corners.first, place, rule.size, (0, 0, 1), strict=True)
        )
        here, after = tissue[box][:, :, :-1], tissue[box][:, :, 1:]
        score = np.where(here, 1.0, np.where(after, 0.5, 0.0)).mean()
        assert corners.passing[tuple(place)] == (min_tissue <= score <= max_tissue)
    assert 0 < corners.count < corners.passing.size


def test_bounds_between_two_scores_let_nothing_pass() -> None:
    voxels = np.full((8, 8, 8), -1000, dtype=np.int16, order="F")
    voxels[::2] = 0
    rule = CubeRule((1, 1, 1), (0, 0, 0), max_tissue=0.3, min_tissue=0.2)
    assert passing_corners(voxels, rule).count == 0
    assert passing_corners(voxels, CubeRule((2, 1, 1), (0, 0, 0), 0.5, 0.5)).count == 6 * 7 * 4


@given(share=st.floats(0, 1), size=st.tuples(*[st.integers(1, 70)] * 3))
def test_bounds_in_halves_are_those_of_the_shares(share: float, size: Triple) -> None:
    voxels = int(np.prod(size))
    most, least = (
        CubeRule(size, max_tissue=share).most_halves,
        CubeRule(size, (0, 0, 0), 1.0, share).least_halves,
    )
    assert most / 2 <= share * voxels < (most + 1) / 2
    assert least / 2 >= share * voxels
    assert least == 0 or (least - 1) / 2 < share * voxels


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_real_numbers_are_judged_before_they_are_rounded(dtype: type) -> None:
    rule = CubeRule((1, 1, 1), (0, 0, 0), 0.5)
    values = np.array([-150.5, -150.3, -150.0001, -150.0, -149.9999, -149.6, -149.4], dtype)
    voxels = np.full((8, 2, 5), -1000, dtype=dtype, order="F")
    voxels[:7, 0, 0] = values
    assert (~passing_corners(voxels, rule).passing).ravel().tolist() == [False] * 3 + [True] * 4
    scores = [tissue_score(voxels, np.array([x, 0, 0]), rule.size) for x in range(7)]
    assert scores == [0, 0, 0, 1, 1, 1, 1]


@given(window=WINDOWS, steps=st.integers(-3000, 3000), dtype=st.sampled_from([np.float32, np.float64]))
def test_the_least_tissue_is_where_the_scaled_value_crosses(
    window: tuple[int, int], steps: int, dtype: type
) -> None:
    least = tissue_from(np.dtype(dtype), Window(*window))
    assert type(least) is dtype
    assert is_tissue(least, window)
    assert not is_tissue(np.nextafter(least, dtype(-np.inf)), window)
    value = dtype(-150 + steps * np.spacing(dtype(150)))
    assert (value >= least) == is_tissue(value, window)


def test_whole_numbers_are_judged_alike_in_every_dtype() -> None:
    voxels = np.asfortranarray(np.random.default_rng(5).integers(-160, -140, (12, 11, 13)).astype(np.int16))
    rule = CubeRule((3, 2, 4), (1, 1, 1), 0.6, 0.2)
    expected = passing_corners(voxels, rule).passing
    assert 0 < expected.sum() < expected.size
    for window in (Window(), Window(-999, 998), Window(0, 4000), Window(-2000, -500)):
        for dtype in (np.float32, np.float64):
            real = passing_corners(voxels.astype(dtype), rule, window)
            np.testing.assert_array_equal(real.passing, expected)


@pytest.mark.parametrize("hu", [-32768, -1000, -151, -150, -149, 0, 32767])
def test_tissue_begins_at_minus_150(hu: int) -> None:
    voxels = np.full((8, 8, 8), hu, dtype=np.int16, order="F")
    corners = passing_corners(voxels, CubeRule((2, 2, 2), (0, 0, 0), 0.5))
    assert corners.passing.all() == (hu < -150)


def test_the_published_bounds() -> None:
    rule = CubeRule()
    assert rule.least_shape == (265, 265, 96)
    assert too_small((265, 265, 96), rule) is None
    assert too_small((512, 512, 64), rule) == "64 slices, 96 needed"
    assert too_small((200, 512, 300), rule) == "200 x 512 voxels in the plane, 265 x 265 needed"
    voxels = np.full((266, 268, 97), -1000, dtype=np.int16, order="F")
    corners = passing_corners(voxels, rule)
    # inclusive ends: x in 100 .. 266-64-1-100, y in 100 .. 268-64-1-100, z in 30 .. 97-32-3-1-30
    assert corners.passing.shape == (2, 4, 2)
    assert corners.first == (100, 100, 30)
    assert corners.count == 16, "a cube of air passes"


def test_corners_are_drawn_uniformly_among_those_that_pass_each_once() -> None:
    rng = np.random.default_rng(0)
    voxels = np.asfortranarray(rng.choice(np.array([-1000, 0], np.int16), (14, 13, 12), p=[0.8, 0.2]))
    corners = passing_corners(voxels, CubeRule((3, 3, 3), (1, 1, 1), 0.2))
    counts = np.zeros(corners.passing.shape, int)
    for _ in range(400):
        drawn = draw_corners(corners, 20, rng.integers(0, 2**32, 2 * 64 * 20, dtype=np.uint32))
        assert len(np.unique(drawn, axis=0)) == 20
        counts[tuple((drawn - corners.first).T)] += 1
    assert counts[~corners.passing].sum() == 0
    assert scipy.stats.chisquare(counts[corners.passing]).pvalue > 1e-4


def test_few_places_give_few_cubes() -> None:
    voxels = np.full((8, 8, 9), 50, dtype=np.int16, order="F")
    voxels[:, :, :4] = -1000
    corners = passing_corners(voxels, CubeRule((3, 3, 3), (2, 2, 0), 0.2))
    words = np.random.default_rng(0).integers(0, 2**32, 1000, dtype=np.uint32)
    assert len(draw_corners(corners, 32, words)) == corners.count == 2
    voxels[...] = 50
    assert draw_corners(passing_corners(voxels, CubeRule((3, 3, 3), (2, 2, 0), 0.2)), 32, words).shape == (
        0,
        3,
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"size": (64,)}, "--size 64 is invalid: "),
        ({"size": (64, 64, 32), "plane": "axial"}, "--plane axial"),
        ({"size": (64, 64, 0)}, "--size 64,64,0"),
        ({"border": (1, 1, -1)}, "--border 1,1,-1"),
        ({"max_tissue": 1.5}, "--max-tissue 1.5"),
        ({"min_tissue": -0.1}, "--min-tissue -0.1"),
        ({"min_tissue": 0.2}, "--min-tissue 0.2 is out of range: .* --max-tissue, which is 0.15"),
        ({"min_tissue": float("nan")}, "--min-tissue nan"),
    ],
)
def test_wrong_rules_are_refused_with_the_value(values: dict[str, object], words: str) -> None:
    with pytest.raises(CallError, match=words):
        CubeRule(**values)  # type: ignore[arg-type]
