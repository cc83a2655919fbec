"""Order and batches: every cube once an epoch, batches that mix scans, nothing left behind."""

import numpy as np
import pytest

from genesis_toolkit.training.feeding.order import deal, epoch_order, smallest, validation_works


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
