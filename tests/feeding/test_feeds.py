"""Feeds: a pair store as it lies there and a cube store degraded on the fly give the same pairs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.training_runs import make_cube_store

from genesis_toolkit.pipeline.degrade.recipes import get_recipe
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.pairs.degrade import DegradeParameters, degrade_cubes
from genesis_toolkit.pipeline.store.open import CubeStore, PairStore, open_cubes
from genesis_toolkit.pipeline.store.shards import shard_path
from genesis_toolkit.training.feeding.feeds import CubeFeed, PairFeed, feed_of
from genesis_toolkit.training.feeding.order import Work, deal, epoch_order
from genesis_toolkit.training.feeding.ring import Batches

SIZE = (16, 24, 16)


@pytest.fixture(scope="module")
def originals() -> NDArray[np.int16]:
    return np.random.default_rng(5).integers(-1000, 1001, (11, *SIZE)).astype(np.int16)


@pytest.fixture(scope="module")
def cubes(tmp_path_factory: pytest.TempPathFactory, originals: NDArray[np.int16]) -> CubeStore:
    return open_cubes(make_cube_store(tmp_path_factory.mktemp("store") / "cubes.zarr", originals, 2))


@pytest.fixture(scope="module")
def pairs(cubes: CubeStore) -> PairStore:
    return degrade_cubes(
        cubes.path, cubes.path.with_name("pairs.zarr"), DegradeParameters(variants=3, seed=4)
    ).store


def flipped(cube: NDArray[Any], bits: int) -> NDArray[Any]:
    return np.flip(cube, [axis for axis in range(3) if bits >> axis & 1])


def epochs(feed: PairFeed | CubeFeed, chosen: NDArray[np.int64], count: int) -> list[Any]:
    batches = Batches(feed, 4)
    works = [
        Work(part, feed.variant(epoch))
        for epoch in range(count)
        for part in deal(epoch_order(9, epoch, chosen, chosen % 2), 4)
    ]
    return [
        (b.cubes.tolist(), b.original.clone(), b.degraded.clone(), b.flip.tolist(), b.applied.tolist())
        for b in batches.stream(works)
    ]


def test_a_pair_store_gives_originals_flipped_like_their_twins(
    pairs: PairStore, originals: NDArray[np.int16]
) -> None:
    feed = feed_of(pairs, None, 0)
    assert [feed.variant(epoch) for epoch in range(5)] == [0, 1, 2, 0, 1]
    seen = 0
    twin = np.empty(SIZE, np.int16)
    for batch in Batches(feed, 4).stream(Work(part, 2) for part in deal(np.arange(11), 4)):
        for row, cube in enumerate(batch.cubes):
            pair = 2 * 11 + int(cube)
            assert (pairs.pairs.cube[pair], pairs.pairs.variant[pair]) == (cube, 2)
            assert batch.flip[row] == pairs.pairs.flip[pair]
            assert batch.applied[row] == pairs.pairs.applied[pair]
            assert np.array_equal(batch.original[row], flipped(originals[cube], batch.flip[row]))
            pairs.degraded.read(pair, twin)
            assert np.array_equal(batch.degraded[row], twin)
            seen += 1
    assert seen == 11
    assert pairs.pairs.flip.any()


def test_a_recipe_is_for_degrading_on_the_fly(cubes: CubeStore, pairs: PairStore) -> None:
    feed = feed_of(cubes, "paper", 0)
    assert isinstance(feed, CubeFeed)
    with pytest.raises(CallError, match="There is no recipe 'nature'"):
        feed_of(cubes, "nature", 0)
    with pytest.raises(
        CallError, match=r"--recipe paper applies to degrading on the fly.*degraded by recipe genesis"
    ):
        feed_of(pairs, "paper", 0)


@pytest.mark.parametrize("recipe", ["genesis", "official-2020", "paper"])
def test_on_the_fly_gives_the_bits_of_the_pair_store(cubes: CubeStore, tmp_path: Path, recipe: str) -> None:
    pairs = degrade_cubes(
        cubes.path, tmp_path / "pairs.zarr", DegradeParameters(get_recipe(recipe), 3, 7), workers=1
    ).store
    chosen = np.arange(11)
    feed = feed_of(cubes, recipe, pairs.seed)
    assert isinstance(feed, CubeFeed)
    stored, made = epochs(PairFeed(pairs), chosen, 3), epochs(feed, chosen, 3)
    assert len(stored) == len(made) == 9
    for (ours, *left), (theirs, *right) in zip(stored, made, strict=True):
        assert ours == theirs
        assert torch.equal(left[0], right[0])
        assert torch.equal(left[1], right[1])
        assert left[2:] == right[2:]


def test_a_damaged_cube_is_named(tmp_path: Path, originals: NDArray[np.int16]) -> None:
    store = open_cubes(make_cube_store(tmp_path / "cubes.zarr", originals, 2))
    shard = store.path / shard_path("cubes", 0, 4)
    data = bytearray(shard.read_bytes())
    data[20] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        list(Batches(feed_of(store, None, 0), 4).stream([Work(np.arange(4), 0)]))
