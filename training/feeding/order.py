"""Order and batches of the cubes in an epoch (METHOD.md section 4): pure functions of (seed, epoch).

There is one global order, cut into batches, and each of several processes takes its part of every batch. So
an epoch, and a step, has the same pairs for any number of processes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.rng import Operation, draw_words


@dataclass(frozen=True)
class Work:
    """One batch to fill: `cubes`, int64 indices into the store, all with the same `variant`."""

    cubes: NDArray[np.int64]
    variant: int


def epoch_order(
    seed: int, epoch: int, cubes: NDArray[np.int64], scan: NDArray[np.integer[Any]]
) -> NDArray[np.int64]:
    """Return the order of the training cubes in one epoch: a permutation that depends on the arguments only.

    The cubes of each scan, in random order, are spread over the epoch: the n cubes of a scan fall one into
    each n-th of it, at random places. So a batch mixes many scans, which helps its batch norm: if scans have
    similar numbers of cubes, a batch of B holds cubes of at least B/2 scans, or of all. A plain permutation
    does not guarantee that.

    Seeds range from 0 to 2^63 - 1, epochs are counted from 0; `cubes` and the result are int64 indices into
    the store, and `scan` holds the scan of each.
    """
    words = draw_words(seed, np.uint64(0), 0, epoch, Operation.ORDER, 4 * len(cubes)).astype(np.uint64)
    draws = words[0::2] << np.uint64(32) | words[1::2]
    shuffle, shift = draws[: len(cubes)], draws[len(cubes) :]
    by_scan = np.lexsort((shuffle, scan))
    _, first, count = np.unique(scan[by_scan], return_index=True, return_counts=True)
    place = np.arange(len(cubes)) - np.repeat(first, count)
    # float64 in [0, 1) holds only 53 bits of the draw.
    inside = (shift >> np.uint64(11)).astype(np.float64) * 2.0**-53
    when = (place + inside) / np.repeat(count, count)
    return cubes[by_scan[np.argsort(when, kind="stable")]]


def deal(order: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """Cut an order into as few batches as possible, whose sizes differ by at most one.

    A short last batch would have other batch-norm statistics than the rest, and a single cube hardly any:
    with a batch size of six, seven cubes become four and three, not six and one.
    """
    return np.array_split(order, -(-len(order) // batch_size))


def epoch_works(
    seed: int,
    epoch: int,
    cubes: NDArray[np.int64],
    scan: NDArray[np.integer[Any]],
    batch_size: int,
    variant: int,
) -> list[Work]:
    """Return the batches of one epoch: every cube once, in `epoch_order`, with the given variant."""
    return [Work(part, variant) for part in deal(epoch_order(seed, epoch, cubes, scan), batch_size)]


def validation_works(cubes: NDArray[np.int64], batch_size: int) -> list[Work]:
    """Return the validation batches: always variant 0 in the same order, so that epochs are comparable.

    The batches are fixed as well, because the network's batch norm uses the statistics of the batch
    (METHOD.md section 4).
    """
    return [Work(part, 0) for part in deal(cubes, batch_size)]


def part_of(works: Iterable[Work], rank: int, world: int) -> Iterable[Work]:
    """Return the part of process `rank` of `world` in every batch; their sizes differ by at most one."""
    return (Work(np.array_split(work.cubes, world)[rank], work.variant) for work in works)


def smallest(works: Sequence[Work]) -> int:
    """Return the number of cubes in the smallest batch."""
    return min(len(work.cubes) for work in works)
