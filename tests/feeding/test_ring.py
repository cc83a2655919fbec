"""Splits, order and batches: who trains, in which order, and that nothing is lost, doubled or left behind."""

import threading
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.scan_rows import scan_rows

from genesis_toolkit.pipeline.degrade.recipes import get_recipe
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.pipeline.ledger import hold
from genesis_toolkit.pipeline.pairs.degrade import DegradeParameters, degrade_cubes
from genesis_toolkit.pipeline.store.open import CubeStore, PairStore, open_cubes
from genesis_toolkit.pipeline.store.schema import CubeTable, ImageTable, ScanTable
from genesis_toolkit.pipeline.store.shards import encode_cube, shard_length, shard_parts, shard_path
from genesis_toolkit.pipeline.store.write import write_cube_store
from genesis_toolkit.training.feeding.feeds import CubeFeed, PairBuffer, PairFeed, feed_of
from genesis_toolkit.training.feeding.ring import (
    Batches,
    Work,
    deal,
    epoch_order,
    normalise,
    smallest,
    validation_works,
)
from genesis_toolkit.training.pretrain.split import split_cubes

SIZE = (16, 24, 16)


def scan_table(subset: list[int], stream: list[int]) -> ScanTable:
    return scan_rows([1] * len(subset), stream, subset)


def cube_table(scan: list[int]) -> CubeTable:
    number = [scan[:place].count(row) for place, row in enumerate(scan)]
    n = len(scan)
    return CubeTable(
        np.array(scan, np.int32), np.array(number, np.int32), np.zeros((n, 3), np.int32), np.zeros(n)
    )


def make_cube_store(path: Path, cubes: NDArray[np.int16]) -> CubeStore:
    """A finished cube store of two scans, written by the library's own pieces."""
    table = cube_table([i % 2 for i in range(len(cubes))])
    length = shard_length(cubes.shape[1:], 2)
    with hold(path, {}, overwrite=False) as ledger:
        shard = shard_path(ledger.store / "cubes", 0, 4)
        shard.parent.mkdir(parents=True)
        shard.write_bytes(b"".join(shard_parts([encode_cube(cube) for cube in cubes], length)))
        attributes = {
            "window": [-1000, 1000],
            "unit": "HU",
            "size": list(cubes.shape[1:]),
            "parameters": {"seed": 0},
        }
        scans = scan_table([-1, -1], [20, 7])
        write_cube_store(ledger.store, attributes, np.dtype(np.int16), table, scans)
        ledger.finish({}, {})
    return open_cubes(path)


@pytest.fixture(scope="module")
def originals() -> NDArray[np.int16]:
    return np.random.default_rng(5).integers(-1000, 1001, (11, *SIZE)).astype(np.int16)


@pytest.fixture(scope="module")
def cubes(tmp_path_factory: pytest.TempPathFactory, originals: NDArray[np.int16]) -> CubeStore:
    return make_cube_store(tmp_path_factory.mktemp("store") / "cubes.zarr", originals)


@pytest.fixture(scope="module")
def pairs(cubes: CubeStore) -> PairStore:
    return degrade_cubes(
        cubes.path, cubes.path.with_name("pairs.zarr"), DegradeParameters(variants=3, seed=4)
    ).store


class CountingFeed:
    """Cubes that hold their own number; fails on cube 13."""

    window = Window()
    size = (2, 2, 2)
    dtype = np.dtype(np.int16)

    def variant(self, epoch: int) -> int:
        return epoch

    def fill(self, cubes: NDArray[np.int64], variant: int, room: PairBuffer) -> None:
        if 13 in cubes:
            raise DataError("Cube 13 is damaged.")
        room.original[: len(cubes)] = cubes[:, None, None, None]
        room.degraded[: len(cubes)] = cubes[:, None, None, None] + 100 * variant
        room.flip[: len(cubes)] = cubes % 8
        room.applied[: len(cubes)] = cubes % 16


@pytest.fixture
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


# ---------------------------------------------------------------------------------------------- split


def test_luna16_subsets_decide_where_both_sides_have_cubes() -> None:
    split = split_cubes(scan_table([0, 4, 5, 6, 7, 9, -1], range(7)), cube_table([0, 0, 1, 2, 3, 4, 5, 6]))
    assert split.train.tolist() == [0, 1, 2]
    assert split.validation.tolist() == [3, 4]
    assert "subsets 0-4 train" in split.rule
    assert split.warning is None


def test_images_of_a_patient_are_on_one_side() -> None:
    names = ["11", "11", "12", "13", "13", "", ""]
    empty = np.full(len(names), "", dtype=object)
    images = ImageTable(np.array(names, dtype=object), empty, empty)
    scans = scan_table([-1] * len(names), [1, 2, 3, 4, 5, 20, 7])
    split = split_cubes(scans, cube_table([0, 0, 1, 2, 3, 4, 5, 6]), images)
    # The first eight bytes of the sha256 of the names, modulo ten: 6 of "11", 9 of "12", 2 of "13". An
    # unknown patient has one image, and its scan's stream key.
    keys = [int.from_bytes(sha256(name.encode()).digest()[:8], "little") for name in ("11", "12", "13")]
    assert all(key % 10 for key in keys)
    assert split.validation.tolist() == [6]
    assert split.train.tolist() == [0, 1, 2, 3, 4, 5, 7]
    assert "one patient in 10 validates" in split.rule

    smallest = np.argmin(keys)
    split = split_cubes(scan_table([-1] * 5, [10] * 5), cube_table(list(range(5))), _first(images, 5))
    assert split.validation.tolist() == [[0, 1], [2], [3, 4]][smallest]

    single = split_cubes(scan_table([-1, -1], [1, 2]), cube_table([0, 1]), _first(images, 2))
    assert single.validation.tolist() == [0]
    assert "All images are of one patient" in str(single.warning)


def _first(images: ImageTable, count: int) -> ImageTable:
    return ImageTable(images.patient[:count], images.view[:count], images.labels[:count])


def test_without_validation_subsets_one_scan_in_ten_validates_and_the_test_subsets_stay_out() -> None:
    scans = scan_table([0, 1, 2, 7, 3], [11, 20, 31, 30, 41])
    split = split_cubes(scans, cube_table([0, 1, 1, 2, 3]))
    assert split.train.tolist() == [0, 3]
    assert split.validation.tolist() == [1, 2]
    assert "7-9 left out" in split.rule


@pytest.mark.parametrize(
    ("stream", "validating"),
    [([13, 12, 11], [2]), ([30, 20, 10], [2]), ([2**64 - 6, 1, 3], [0])],
    ids=["none divisible", "all divisible", "large keys"],
)
def test_some_scan_validates_and_some_scan_trains(stream: list[int], validating: list[int]) -> None:
    split = split_cubes(scan_table([-1] * 3, stream), cube_table([0, 1, 2]))
    assert split.validation.tolist() == validating
    assert sorted([*split.train, *split.validation]) == [0, 1, 2]


def test_scans_without_cubes_do_not_count() -> None:
    split = split_cubes(scan_table([-1, -1], [10, 3]), cube_table([1] * 32))
    assert split.validation.tolist() == [0, 10, 20, 30]
    assert len(split.train) == 28
    assert split.warning is not None
    assert "overlap" in split.warning


def test_test_subsets_alone_are_used_with_a_warning() -> None:
    split = split_cubes(scan_table([8, 9], [1, 2]), cube_table([0, 1]))
    assert split.validation.tolist() == [0]
    assert split.warning is not None
    assert "nodule task" in split.warning


@pytest.mark.parametrize("scan", [[], [0]])
def test_fewer_than_two_cubes_cannot_be_split(scan: list[int]) -> None:
    with pytest.raises(DataError, match=r"no cube|1 cube"):
        split_cubes(scan_table([-1], [1]), cube_table(scan))


# ---------------------------------------------------------------------------------------------- order


def test_every_epoch_has_an_order_of_its_own_that_takes_every_cube_once() -> None:
    chosen = np.arange(100, 400, 3)
    orders = [epoch_order(7, epoch, chosen, chosen % 7) for epoch in range(20)]
    assert all(sorted(order) == chosen.tolist() for order in orders)
    assert len({order.tobytes() for order in orders}) == 20
    assert np.array_equal(orders[3], epoch_order(7, 3, chosen, chosen % 7))
    assert not np.array_equal(orders[3], epoch_order(8, 3, chosen, chosen % 7))


def test_the_order_is_uniform() -> None:
    """Each of 5 cubes comes first in a fifth of 5,000 epochs; 5 standard deviations are 0.028."""
    for scan in (np.zeros(5, int), np.arange(5)):
        first = np.array([epoch_order(0, epoch, np.arange(5), scan)[0] for epoch in range(5000)])
        assert np.abs(np.bincount(first, minlength=5) / 5000 - 0.2).max() < 0.03


@pytest.mark.parametrize(("scans", "batch_size"), [(89, 6), (40, 64), (12, 6), (16, 32), (5, 12), (2, 6)])
def test_a_batch_mixes_cubes_of_many_scans(scans: int, batch_size: int) -> None:
    """Of at least half as many scans as it has cubes, or of all: in every batch of 20 epochs."""
    scan = np.repeat(np.arange(scans), 32)
    for epoch in range(20):
        order = epoch_order(3, epoch, np.arange(len(scan)), scan)
        mixed = [len(set(scan[part])) for part in deal(order, batch_size)]
        assert min(mixed) >= min(scans, batch_size // 2)


def test_scans_with_few_cubes_are_spread_as_well() -> None:
    """Half of the scans gave 32 cubes, half of them 5: no stretch of the epoch has much more of one kind.

    Of 10 equal stretches of an epoch each has 18.5 cubes of each scan pair's sum in the mean; the spread
    leaves each scan at most one cube more or less than its share in any stretch.
    """
    scan = np.repeat(np.arange(20), [32, 5] * 10)
    order = epoch_order(0, 7, np.arange(len(scan)), scan)
    for part in np.array_split(scan[order], 10):
        counts = np.bincount(part, minlength=20)
        assert counts[0::2].min() >= 1
        assert counts[0::2].max() <= 6
        assert counts[1::2].max() <= 2


def test_neighbours_in_the_order_are_neighbours_no_more() -> None:
    """Where each cube comes has nothing to do with its number in its scan: correlations under 5 / sqrt(n)."""
    scan = np.repeat(np.arange(60), 32)
    places = np.argsort([epoch_order(0, epoch, np.arange(len(scan)), scan) for epoch in range(4)], axis=1)
    number = np.tile(np.arange(32), 60)
    for one in places:
        assert abs(np.corrcoef(one, number)[0, 1]) < 5 / np.sqrt(len(scan))
        assert abs(np.corrcoef(one, scan)[0, 1]) < 5 / np.sqrt(len(scan))
    assert abs(np.corrcoef(places[0], places[1])[0, 1]) < 5 / np.sqrt(len(scan))


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"),
    [(7, 6, [4, 3]), (12, 6, [6, 6]), (13, 6, [5, 4, 4]), (3, 6, [3]), (1, 6, [1]), (3, 1, [1, 1, 1])],
)
def test_cubes_are_dealt_evenly(n: int, batch_size: int, sizes: list[int]) -> None:
    dealt = deal(np.arange(n), batch_size)
    assert [len(part) for part in dealt] == sizes
    assert np.concatenate(dealt).tolist() == list(range(n))


def test_validation_never_changes() -> None:
    works = validation_works(np.arange(8), 3)
    assert [work.cubes.tolist() for work in works] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert {work.variant for work in works} == {0}
    assert smallest(works) == 2


# ---------------------------------------------------------------------------------------------- batches


@pytest.mark.usefixtures("no_thread_left")
def test_batches_come_in_order_with_what_was_filled() -> None:
    batches = Batches(CountingFeed(), 4)
    works = [Work(part, v) for v in range(30) for part in deal(np.arange(100 * v, 100 * v + 11), 4)]
    works = [work for work in works if 13 not in work.cubes]
    count = 0
    for work, batch in zip(works, batches.stream(works), strict=True):
        count += 1
        assert batch.cubes.tolist() == work.cubes.tolist()
        assert batch.original.dtype == torch.int16
        assert batch.original.shape == (len(batch), 2, 2, 2)
        assert batch.original[:, 0, 0, 0].tolist() == work.cubes.tolist()
        assert batch.degraded[:, 1, 1, 1].tolist() == (work.cubes + 100 * work.variant).tolist()
        assert batch.flip.tolist() == (work.cubes % 8).tolist()
        assert batch.applied.tolist() == (work.cubes % 16).tolist()
    assert count == len(works) == 90


def test_buffers_are_reused() -> None:
    batches = Batches(CountingFeed(), 4)
    works = [Work(np.arange(4), 0)] * 40
    places = {batch.original.data_ptr() for _ in range(2) for batch in batches.stream(works)}
    assert len(places) == 4


@pytest.mark.usefixtures("no_thread_left")
def test_closing_early_leaves_no_thread() -> None:
    stream = Batches(CountingFeed(), 4).stream([Work(np.arange(4), 0)] * 100)
    next(stream)
    stream.close()


@pytest.mark.usefixtures("no_thread_left")
def test_an_error_in_the_consumer_leaves_no_thread() -> None:
    stream = Batches(CountingFeed(), 4).stream([Work(np.arange(4), 0)] * 100)

    def train() -> None:
        with closing(stream):
            for _ in stream:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()


@pytest.mark.usefixtures("no_thread_left")
def test_an_error_while_filling_comes_in_its_batchs_turn() -> None:
    works = [Work(part, 0) for part in deal(np.arange(40), 4)]
    stream = Batches(CountingFeed(), 4).stream(works)
    assert [next(stream).cubes.tolist() for _ in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    with pytest.raises(DataError, match="Cube 13"):
        next(stream)


def test_nothing_to_do_is_no_error() -> None:
    assert list(Batches(CountingFeed(), 4).stream([])) == []


def test_normalise_is_exact_for_every_code() -> None:
    codes = np.arange(-1000, 1001, dtype=np.int16)
    got = normalise(torch.from_numpy(codes.reshape(-1, 1, 1, 1)), Window()).numpy()
    assert got.shape == (2001, 1, 1, 1, 1)
    assert got.dtype == np.float32
    assert np.array_equal(got.ravel(), ((codes.astype(np.float64) + 1000) / 2000).astype(np.float32))


def test_normalise_takes_any_window_and_dtype() -> None:
    wide = torch.tensor([[-32000, 32000]], dtype=torch.int16)
    assert normalise(wide, Window(-32000, 32000)).tolist() == [[[0.0, 1.0]]]
    grey = torch.tensor([[0, 51, 255]], dtype=torch.uint8)
    assert normalise(grey, Window(0, 255)).tolist() == [[[0.0, np.float32(0.2), 1.0]]]


# ---------------------------------------------------------------------------------------------- feeds


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
        CallError, match=r"--recipe paper is for degrading on the fly.*degraded by recipe genesis"
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
    store = make_cube_store(tmp_path / "cubes.zarr", originals)
    shard = shard_path(store.path / "cubes", 0, 4)
    data = bytearray(shard.read_bytes())
    data[20] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        list(Batches(feed_of(store, None, 0), 4).stream([Work(np.arange(4), 0)]))
