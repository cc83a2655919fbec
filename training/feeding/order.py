"""The order in which cubes come, and their batches (METHOD.md section 4): pure functions of (seed, epoch).

There is one global order, dealt into batches, of each of which every one of several processes takes its part.
So the pairs of an epoch, and of a step, are the same however many processes share them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.rng import Operation, draw_words


@dataclass(frozen=True)
class Work:
    """One batch to fill: `cubes`, int64 indices into the store, all in the same `variant`."""

    cubes: NDArray[np.int64]
    variant: int


def epoch_order(
    seed: int, epoch: int, cubes: NDArray[np.int64], scan: NDArray[np.integer[Any]]
) -> NDArray[np.int64]:
    """The order in which one epoch takes the training cubes: a permutation that depends on nothing else.

    The cubes of each scan, in random order, are spread over the epoch: of n cubes one falls at random into
    each n-th of it. So a batch has cubes of many scans, which its batch norm wants: where scans have about
    as many cubes each, a batch of B holds cubes of at least B/2 scans, or of all. A plain permutation gives
    no such promise.

    Seeds go from 0 to 2^63 - 1, epochs are counted from 0; `cubes` are int64 indices into the store, as is
    what comes back, `scan` tells the scan of each.
    """
    words = draw_words(seed, np.uint64(0), 0, epoch, Operation.ORDER, 4 * len(cubes)).astype(np.uint64)
    draws = words[0::2] << np.uint64(32) | words[1::2]
    shuffle, shift = draws[: len(cubes)], draws[len(cubes) :]
    by_scan = np.lexsort((shuffle, scan))
    _, first, count = np.unique(scan[by_scan], return_index=True, return_counts=True)
    place = np.arange(len(cubes)) - np.repeat(first, count)
    # 53 bits of the draw are all that float64 holds in [0, 1).
    inside = (shift >> np.uint64(11)).astype(np.float64) * 2.0**-53
    when = (place + inside) / np.repeat(count, count)
    return cubes[by_scan[np.argsort(when, kind="stable")]]


def deal(order: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """Cut an order into as few batches as possible, of sizes that differ by one at most.

    A short last batch would be trained with other batch-norm statistics than the rest, and a single cube in
    it with hardly any: seven cubes in batches of six are four and three here, not six and one.
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
    """Return the batches of one epoch: every cube once, in `epoch_order`, in the given variant."""
    return [Work(part, variant) for part in deal(epoch_order(seed, epoch, cubes, scan), batch_size)]


def validation_works(cubes: NDArray[np.int64], batch_size: int) -> list[Work]:
    """The batches of validation: always variant 0 in the same order, so that epochs can be compared.

    The batches are fixed as well, because the network's batch norm uses the statistics of the batch
    (METHOD.md section 4).
    """
    return [Work(part, 0) for part in deal(cubes, batch_size)]


def part_of(works: Iterable[Work], rank: int, world: int) -> Iterable[Work]:
    """What process `rank` of `world` has of every batch: parts whose sizes differ by one at most."""
    return (Work(np.array_split(work.cubes, world)[rank], work.variant) for work in works)


def smallest(works: Sequence[Work]) -> int:
    """The number of cubes in the smallest batch."""
    return min(len(work.cubes) for work in works)
