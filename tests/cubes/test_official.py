"""The authors' generator, replayed, against METHOD.md section 2 written as loops over Python's functions."""

import random
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from genesis_toolkit.pipeline.cubes.official import OFFICIAL_SEED, OfficialCorners
from genesis_toolkit.pipeline.cubes.rule import Corners, CubeRule, passing_corners, too_small
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.hounsfield import Window

RULE = CubeRule((4, 3, 2), (2, 1, 3), 0.3)
COUNT = 5


def draw_subset(
    scans: Iterable[Corners | None], count: int, seed: int = OFFICIAL_SEED
) -> Iterator[NDArray[np.int32]]:
    """The corners of every scan of one subset; None is one that cannot be read or is too small."""
    generator = OfficialCorners(seed)
    for corners in scans:
        yield np.empty((0, 3), dtype=np.int32) if corners is None else generator.draw(corners, count)


def scan(seed: int, shape: tuple[int, int, int], share: float = 0.35) -> NDArray[np.int16]:
    """A scan of air with patches of tissue, around the threshold so that a wrong one shows."""
    rng = np.random.default_rng(seed)
    tissue = rng.random(tuple(edge // 2 + 1 for edge in shape)).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    tissue = tissue[: shape[0], : shape[1], : shape[2]] < share
    return np.asfortranarray(np.where(tissue, rng.integers(-150, 1500, shape), -151).astype(np.int16))


def nook(shape: tuple[int, int, int]) -> NDArray[np.int16]:
    """A scan of tissue with room for hardly more than one cube, so that the attempts run out."""
    voxels = np.full(shape, 40, dtype=np.int16, order="F")
    voxels[7:12, 6:10, 8:12] = -1000
    return voxels


#: A subset with all that may happen: enough room, little, unreadable, none, too small, hardly any, air.
SUBSET: tuple[NDArray[np.int16] | None, ...] = (
    scan(0, (14, 12, 20)),
    scan(1, (13, 11, 16), 0.45),
    None,
    scan(2, (13, 13, 15), 1.1),
    scan(3, (8, 13, 15)),
    nook((15, 13, 17)),
    scan(4, (17, 16, 18)),
    scan(5, (13, 12, 13), 0.0),
)


def cubes_by_loops(
    scans: tuple[NDArray[np.int16] | None, ...], rule: CubeRule, count: int, seed: int
) -> list[list[NDArray[np.float64]]]:
    """METHOD.md section 2 for one subset, with the module's generator and normalised float voxels."""
    (sx, sy, sz), (bx, by, bz) = rule.size, rule.border
    random.seed(seed)
    subset = []
    for voxels in scans:
        cubes: list[NDArray[np.float64]] = []
        subset.append(cubes)
        if voxels is None or too_small(voxels.shape, rule):  # type: ignore[arg-type]
            continue
        values = (np.clip(voxels, -1000, 1000).astype(float) + 1000) / 2000
        for _ in range(50 * count):
            x = random.randint(bx, values.shape[0] - sx - 1 - bx)
            y = random.randint(by, values.shape[1] - sy - 1 - by)
            z = random.randint(bz, values.shape[2] - sz - 3 - 1 - bz)
            total = 0.0
            for i, j, k in np.ndindex(sx, sy, sz):
                looks = values[x + i, y + j, z + k : z + k + 3] >= (-150 + 1000) / 2000
                total += 1 - next((look for look in (0, 1, 2) if looks[look]), 2) / 2
            if total > rule.max_tissue * sx * sy * sz:
                continue
            cubes.append(values[x : x + sx, y : y + sy, z : z + sz])
            if len(cubes) == count:
                break
    return subset


def decisions(scans: tuple[NDArray[np.int16] | None, ...]) -> list[Corners | None]:
    return [
        None if voxels is None or too_small(voxels.shape, RULE) else passing_corners(voxels, RULE)  # type: ignore[arg-type]
        for voxels in scans
    ]


@pytest.mark.parametrize("seed", [OFFICIAL_SEED, 0, 2020, 2**40 + 3])
def test_the_cubes_are_those_of_the_loops_voxel_for_voxel(seed: int) -> None:
    expected = cubes_by_loops(SUBSET, RULE, COUNT, seed)
    drawn = list(draw_subset(decisions(SUBSET), COUNT, seed))
    assert [len(corners) for corners in drawn] == [len(cubes) for cubes in expected]
    if seed == OFFICIAL_SEED:
        assert [len(corners) for corners in drawn] == [5, 5, 0, 0, 0, 3, 5, 5], "all that may happen"
    for voxels, corners, cubes in zip(SUBSET, drawn, expected, strict=True):
        for (x, y, z), cube in zip(corners.tolist(), cubes, strict=True):
            assert voxels is not None
            here = voxels[x : x + 4, y : y + 3, z : z + 2]
            np.testing.assert_array_equal((Window().clip(here) + 1000.0) / 2000, cube)


def test_a_scan_depends_on_the_scans_before_it_and_on_no_unreadable_or_small_one() -> None:
    whole = list(draw_subset(decisions(SUBSET), COUNT))
    without = list(draw_subset(decisions(tuple(SUBSET[place] for place in (0, 1, 3, 5, 6, 7))), COUNT))
    np.testing.assert_array_equal(np.concatenate(whole), np.concatenate(without))
    shorter = list(draw_subset(decisions(SUBSET[1:]), COUNT))
    assert not np.array_equal(np.concatenate(whole[1:]), np.concatenate(shorter))


def test_a_subset_goes_on_from_any_scan() -> None:
    scans = [corners for corners in decisions(SUBSET) if corners is not None]
    generator = OfficialCorners()
    states, drawn = [0], []
    for corners in scans:
        drawn.append(generator.draw(corners, COUNT))
        states.append(generator.used)
    assert states == sorted(set(states))
    for place, corners in enumerate(scans):
        again = OfficialCorners(used=states[place])
        assert again.used == states[place]
        np.testing.assert_array_equal(again.draw(corners, COUNT), drawn[place])
        assert again.used == states[place + 1]


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**63 - 1),
    edges=st.tuples(st.integers(1, 40), st.integers(1, 300), st.integers(1, 5)),
    first=st.tuples(st.integers(0, 200), st.integers(0, 200), st.integers(0, 200)),
    count=st.integers(1, 20),
)
def test_the_draws_are_those_of_the_modules_functions(
    seed: int, edges: tuple[int, int, int], first: tuple[int, int, int], count: int
) -> None:
    corners = Corners(np.ones(edges, bool), np.full(edges[2], edges[0] * edges[1]), first)
    random.seed(seed)
    expected = [
        [random.randint(low, low + edge - 1) for low, edge in zip(first, edges, strict=True)]
        for _ in range(count)
    ]
    generator = OfficialCorners(seed)
    np.testing.assert_array_equal(generator.draw(corners, count), expected)
    on = OfficialCorners(seed, generator.used)
    assert [on._random.randint(0, 999) for _ in range(9)] == [random.randint(0, 999) for _ in range(9)]


def test_attempts_end_at_fifty_a_cube() -> None:
    nowhere = Corners(np.zeros((4, 4, 4), bool), np.zeros(4, np.int64), (0, 0, 0))
    generator = OfficialCorners(7)
    assert generator.draw(nowhere, 3).shape == (0, 3)
    random.seed(7)
    for _ in range(150 * 3):
        random.randint(0, 3)
    assert generator._random.random() == random.random()


def test_nonsense_is_refused() -> None:
    with pytest.raises(CallError, match="--seed -1 is out of range: it must be"):
        OfficialCorners(-1)
    with pytest.raises(CallError, match="random words used is -5"):
        OfficialCorners(used=-5)
