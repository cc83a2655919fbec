"""The tissue rule against the rule written as loops, and the corners that are drawn."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.errors import CallError
from pipeline.place import PlaceRule, draw_corners, passing_corners, tissue_score, too_small

Triple = tuple[int, int, int]


def score_by_loops(voxels: NDArray[np.int16], corner: Triple, size: Triple) -> float:
    """METHOD.md section 2, word for word."""
    total = 0.0
    for x in range(corner[0], corner[0] + size[0]):
        for y in range(corner[1], corner[1] + size[1]):
            for z in range(corner[2], corner[2] + size[2]):
                k = next((k for k in (0, 1, 2) if voxels[x, y, z + k] >= -150), 2)
                total += 1 - k / 2
    return total


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 1000),
    size=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
    border=st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)),
    max_tissue=st.floats(0, 1),
    beyond=st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)),
)
def test_every_decision_is_that_of_the_loops(
    seed: int, size: Triple, border: Triple, max_tissue: float, beyond: Triple
) -> None:
    rule = PlaceRule(size, border, max_tissue)
    shape = tuple(least + more for least, more in zip(rule.least_shape, beyond, strict=True))
    voxels = np.asfortranarray(np.random.default_rng(seed).integers(-200, -100, shape).astype(np.int16))
    corners = passing_corners(voxels, rule)
    assert corners.passing.shape == tuple(more + 1 for more in beyond)
    for place in np.ndindex(*corners.passing.shape):
        corner = tuple(first + step for first, step in zip(corners.first, place, strict=True))
        score = score_by_loops(voxels, corner, size)
        assert corners.passing[place] == (not score > max_tissue * np.prod(size))
        assert tissue_score(voxels, np.array(corner), size) == pytest.approx(score / np.prod(size), abs=1e-12)
    np.testing.assert_array_equal(corners.passing.sum(axis=(0, 1)), corners.by_slice)


@pytest.mark.parametrize("hu", [-32768, -1000, -151, -150, -149, 0, 32767])
def test_tissue_begins_at_minus_150(hu: int) -> None:
    voxels = np.full((8, 8, 8), hu, dtype=np.int16, order="F")
    corners = passing_corners(voxels, PlaceRule((2, 2, 2), (0, 0, 0), 0.5))
    assert corners.passing.all() == (hu < -150)


def test_the_published_bounds() -> None:
    rule = PlaceRule()
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
    corners = passing_corners(voxels, PlaceRule((3, 3, 3), (1, 1, 1), 0.2))
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
    corners = passing_corners(voxels, PlaceRule((3, 3, 3), (2, 2, 0), 0.2))
    words = np.random.default_rng(0).integers(0, 2**32, 1000, dtype=np.uint32)
    assert len(draw_corners(corners, 32, words)) == corners.count == 2
    voxels[...] = 50
    assert draw_corners(passing_corners(voxels, PlaceRule((3, 3, 3), (2, 2, 0), 0.2)), 32, words).shape == (
        0,
        3,
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"size": (64, 64)}, "--size 64,64"),
        ({"size": (64, 64, 0)}, "--size 64,64,0"),
        ({"border": (1, 1, -1)}, "--border 1,1,-1"),
        ({"max_tissue": 1.5}, "--max-tissue 1.5"),
    ],
)
def test_wrong_rules_are_refused_with_the_value(values: dict[str, object], words: str) -> None:
    with pytest.raises(CallError, match=words):
        PlaceRule(**values)  # type: ignore[arg-type]
