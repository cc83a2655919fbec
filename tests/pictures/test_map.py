from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.scans import lungs

from genesis_toolkit.pipeline.cubes.rule import (
    CubeRule,
    Plane,
    Triple,
    passing_corners,
)
from genesis_toolkit.pipeline.pictures.map import draw_map, passing_share

PLANES = st.sampled_from(get_args(Plane))
SPACING = (0.7, 0.7, 1.5)


@pytest.mark.parametrize(
    ("shape", "share"),
    [((40, 38, 36), 0.4), ((40, 38, 36), 0.0), ((40, 38, 18), 0.4), ((40, 10, 36), 0.4)],
    ids=["cubes", "no place", "too flat", "too narrow"],
)
def test_the_map_is_a_png_that_is_whole_and_repeats(tmp_path: Path, shape: Triple, share: float) -> None:
    rule = CubeRule((16, 16, 16), (2, 2, 2), share)
    voxels = np.asfortranarray(lungs(0, shape))
    for name in ("a.png", "b.png"):
        draw_map(voxels, SPACING, rule, tmp_path / name, title="a scan")
    data = (tmp_path / "a.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert data.endswith(b"IEND\xaeB`\x82")
    assert data == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 99), size=st.sampled_from([(3, 2), (1, 4), (3, 4, 2)]), plane=PLANES)
def test_the_heat_map_is_the_share_of_patches_centred_there(
    seed: int, size: tuple[int, ...], plane: Plane
) -> None:
    shape = (9, 10, 11)
    rule = CubeRule(size, (1, 1, 1), 0.5, plane=plane if len(size) == 2 else None)
    voxels = np.random.default_rng(seed).choice(np.array([-1000, 0], np.int16), shape)
    corners = passing_corners(np.asfortranarray(voxels), rule)
    for axis in range(3):
        number = corners.first[axis] + rule.box[axis] // 2
        heat = passing_share(corners, rule.box, shape, axis, number)
        passed, all_ = np.zeros(heat.shape), np.zeros(heat.shape)
        for place in np.ndindex(*corners.passing.shape):
            corner = np.add(place, corners.first)
            if corner[axis] <= number < corner[axis] + rule.box[axis]:
                centre = tuple(np.delete(corner + np.array(rule.box) // 2, axis))
                all_[centre] += 1
                passed[centre] += corners.passing[place]
        with np.errstate(invalid="ignore"):
            np.testing.assert_allclose(heat, passed / all_)


def test_the_map_of_patches_is_drawn(tmp_path: Path) -> None:
    voxels = np.asfortranarray(lungs(0))
    draw_map(voxels, SPACING, CubeRule((16, 20), (2, 2, 2), plane="coronal"), tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
