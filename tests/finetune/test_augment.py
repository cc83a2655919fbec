"""Changes of training cubes against scipy, voxel by voxel; what is drawn depends on the cube alone."""

import numpy as np
import pytest
import torch
from support.plain_loops import changed, tinted

from genesis_toolkit.training.finetune.augment import (
    BRIGHTNESS,
    CONTRAST,
    TURN,
    Changes,
    draw_changes,
    move,
    tint,
)

SIZES = [(16, 24, 8), (32, 16)]
STREAMS = np.random.default_rng(1).integers(0, 2**63, 300).astype(np.uint64)


def drawn(size: tuple[int, ...], count: int = 300, epoch: int = 2) -> Changes:
    return draw_changes(5, epoch, STREAMS[:count], np.arange(count) % 7, size)


@pytest.mark.parametrize("size", SIZES)
def test_cubes_and_masks_are_moved_as_scipy_moves_them(size: tuple[int, ...]) -> None:
    changes = drawn(size, 24)
    rng = np.random.default_rng(0)
    cubes = rng.random((24, 1, *size), np.float32)
    masks = (rng.random(cubes.shape) < 0.4).astype(np.float32)
    ours = move(torch.from_numpy(cubes), changes).numpy()
    follow = move(torch.from_numpy(masks), changes, nearest=True).numpy()
    assert (ours.shape, follow.shape) == (cubes.shape, masks.shape)
    for at in range(24):
        np.testing.assert_allclose(ours[at, 0], changed(cubes[at, 0], changes, at), atol=1e-4)
        theirs = changed(masks[at, 0], changes, at, order=0)
        # Halfway between two voxels either of them is the nearest.
        assert (follow[at, 0] != theirs).mean() < 0.002
        if not changes.turn[at]:
            np.testing.assert_array_equal(follow[at, 0], theirs)


def test_a_single_voxel_goes_where_it_should() -> None:
    one, none = np.ones(1), np.zeros(1)
    still = Changes(np.zeros((1, 3), bool), np.zeros((1, 3), np.int64), none, one, none)
    cube = torch.zeros(1, 1, 9, 9, 5)
    cube[0, 0, 6, 4, 1] = 1
    for changes, place in (
        (still, (6, 4, 1)),
        (still._replace(flip=np.array([[True, False, False]])), (2, 4, 1)),
        (still._replace(flip=np.array([[False, False, True]])), (6, 4, 3)),
        (still._replace(shift=np.array([[1, -2, 2]])), (7, 2, 3)),
        (still._replace(turn=np.array([np.pi / 2])), (4, 6, 1)),  # from x to y
        (still._replace(flip=np.array([[True, True, True]]), shift=np.array([[1, 0, 0]])), (3, 4, 3)),
    ):
        moved = move(cube, changes)
        assert tuple(int(i) for i in np.unravel_index(int(moved.argmax()), (9, 9, 5))) == place
        assert moved.max() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_grey_values_are_spread_about_the_mean_of_each_cube(size: tuple[int, ...]) -> None:
    changes, cubes = drawn(size, 10), np.random.default_rng(0).random((10, 1, *size), np.float32)
    ours = tint(torch.from_numpy(cubes), changes).numpy()
    for at in range(10):
        expected = tinted(cubes[at, 0].astype(np.float64), changes, at)
        np.testing.assert_allclose(ours[at, 0], expected, atol=1e-6)
    assert ours.min() == 0
    assert ours.max() == 1


def test_draws_reach_all_that_they_may_and_nothing_else() -> None:
    changes = drawn((16, 24, 8))
    assert (np.abs(changes.flip.mean(0) - 0.5) < 0.12).all()
    assert changes.shift.min(0).tolist() == [-2, -3, -1]
    assert changes.shift.max(0).tolist() == [2, 3, 1]
    degrees = np.degrees(changes.turn)
    assert 0.9 * TURN < np.abs(degrees).max() <= TURN
    assert abs((degrees == 0).mean() - 0.5) < 0.12
    assert abs(changes.contrast.mean() - 1) < 0.05
    assert 0.9 * CONTRAST < np.abs(changes.contrast - 1).max() <= CONTRAST + 1e-6
    assert 0.9 * BRIGHTNESS < np.abs(changes.brightness).max() <= BRIGHTNESS
    assert not drawn((32, 16)).flip[:, 1].any()  # nobody hangs an X-ray upside down
    assert drawn((32, 16)).flip[:, 0].any()


def test_a_cube_is_changed_alike_in_every_batch_and_otherwise_in_every_epoch() -> None:
    whole, order = drawn((16, 24, 8)), np.random.default_rng(3).permutation(300)[:40]
    part = draw_changes(5, 2, STREAMS[order], (np.arange(300) % 7)[order], (16, 24, 8))
    for ours, theirs in zip(part, whole, strict=True):
        np.testing.assert_array_equal(ours, theirs[order])
    for other in (drawn((16, 24, 8), epoch=3), draw_changes(6, 2, STREAMS, np.arange(300) % 7, (16, 24, 8))):
        assert not np.array_equal(other.turn, whole.turn)
