"""Shuffled batches of pairs, filled by threads while the network works (METHOD.md section 4).

Whole numbers travel; `normalise` makes [0, 1] of them on the device that trains. The order is a pure function
of (seed, epoch): one global order, dealt into batches, so that several processes can each take their part of
every batch.
"""

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.degrade.seeds import Operation, draw_words
from pipeline.hounsfield import Window
from training.feeds import Feed, PairBuffer

#: Threads that fill batches: each reads or degrades thousands of cubes a second, more than any device takes.
THREADS = 2

#: Filled batches that may wait, beside the one in use and those being filled.
_WAITING = 1


@dataclass(frozen=True)
class Work:
    """One batch to fill: `cubes`, int64 indices into the store, all in the same `variant`."""

    cubes: NDArray[np.int64]
    variant: int


@dataclass(frozen=True)
class Batch:
    """One filled batch. Its arrays are reused: they are good until the next batch is asked for.

    Attributes:
        original: the store's dtype (int16 HU), `[cube, x, y, z]`: what shall be restored, flipped already.
        degraded: likewise: what the network sees.
        cubes: int64 [cube], indices into the store.
        variant: of every pair in the batch.
        flip: uint8 [cube], bit 0 = x, bit 1 = y, bit 2 = z.
        applied: uint8 [cube], bits of `pipeline.degrade.recipes.Applied`.
    """

    original: Tensor
    degraded: Tensor
    cubes: NDArray[np.int64]
    variant: int
    flip: NDArray[np.uint8]
    applied: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.cubes)


def epoch_order(seed: int, epoch: int, cubes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The order in which one epoch takes the training cubes: a permutation that depends on nothing else.

    Args:
        seed: 0 .. 2^63 - 1.
        epoch: counted from 0.
        cubes: int64 [cube], indices into the store.

    Returns:
        int64 [cube]: every one of `cubes`, once.
    """
    words = draw_words(seed, np.uint64(0), 0, epoch, Operation.ORDER, 2 * len(cubes)).astype(np.uint64)
    return cubes[np.argsort(words[0::2] << np.uint64(32) | words[1::2], kind="stable")]


def deal(order: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """Cut an order into as few batches as possible, of sizes that differ by one at most.

    A short last batch would be trained with other batch-norm statistics than the rest, and a single cube in
    it with hardly any: seven cubes in batches of six are four and three here, not six and one.

    Args:
        order: int64 [cube], not empty.
        batch_size: cubes a batch, at most.

    Returns:
        The batches in order; every cube is in one of them.
    """
    return np.array_split(order, -(-len(order) // batch_size))


class Batches:
    """A small ring of buffers and the threads that fill them in turn; memory stays what it is at the start.

    Args:
        feed: where the pairs come from.
        batch_size: the largest batch that will be asked for.
        pin: page-locked memory, for the way to a CUDA device.
        threads: that fill.
    """

    def __init__(self, feed: Feed, batch_size: int, *, pin: bool = False, threads: int = THREADS) -> None:
        self.feed = feed
        self._threads = threads
        shape = (batch_size, *feed.size)
        kind = torch.from_numpy(np.empty(0, feed.dtype)).dtype
        self._ring = [
            (torch.zeros(shape, dtype=kind, pin_memory=pin), torch.zeros(shape, dtype=kind, pin_memory=pin))
            for _ in range(threads + 1 + _WAITING)
        ]
        self._rooms = [
            PairBuffer(
                original.numpy(),
                degraded.numpy(),
                np.zeros(batch_size, np.uint8),
                np.zeros(batch_size, np.uint8),
                np.zeros(feed.size, feed.dtype),
            )
            for original, degraded in self._ring
        ]

    def stream(self, works: Iterable[Work]) -> Generator[Batch, None, None]:
        """Fill and yield `works` in their order. Close it (or exhaust it) before streaming anew.

        An error while filling is raised here, in its batch's turn. When the iterator ends, is closed or is
        dropped, its threads end with it.

        Raises:
            DataError: a cube cannot be read.
        """
        coming = iter(works)
        filling: deque[tuple[int, Work, Future[None]]] = deque()
        threads = ThreadPoolExecutor(self._threads, thread_name_prefix="batches")

        def begin(slot: int) -> None:
            work = next(coming, None)
            if work is not None:
                done = threads.submit(self.feed.fill, work.cubes, work.variant, self._rooms[slot])
                filling.append((slot, work, done))

        try:
            for slot in range(len(self._ring)):
                begin(slot)
            while filling:
                slot, work, done = filling.popleft()
                done.result()
                yield self._batch(slot, work)
                begin(slot)
        finally:
            threads.shutdown(wait=True, cancel_futures=True)

    def _batch(self, slot: int, work: Work) -> Batch:
        n = len(work.cubes)
        (original, degraded), room = self._ring[slot], self._rooms[slot]
        return Batch(original[:n], degraded[:n], work.cubes, work.variant, room.flip[:n], room.applied[:n])


def epoch_works(feed: Feed, cubes: NDArray[np.int64], batch_size: int, seed: int, epoch: int) -> list[Work]:
    """The batches of one training epoch, counted from 0: every cube once, shuffled, in its variant."""
    variant = feed.variant(epoch)
    return [Work(part, variant) for part in deal(epoch_order(seed, epoch, cubes), batch_size)]


def validation_works(cubes: NDArray[np.int64], batch_size: int) -> list[Work]:
    """The batches of validation: always variant 0 in the same order, so that epochs can be compared.

    The batches are fixed as well, because the network's batch norm uses the statistics of the batch
    (METHOD.md section 4).
    """
    return [Work(part, 0) for part in deal(cubes, batch_size)]


def smallest(works: Sequence[Work]) -> int:
    """The number of cubes in the smallest batch."""
    return min(len(work.cubes) for work in works)


def normalise(cubes: Tensor, window: Window) -> Tensor:
    """Make [0, 1] of whole numbers, on the device they are on (METHOD.md section 2).

    Args:
        cubes: integers in the window, `[cube, x, y, z]`.
        window: `low` becomes 0, `high` becomes 1.

    Returns:
        float32 `[cube, 1, x, y, z]`: the float32 nearest to (x - low) / span.
    """
    # Divided by a tensor on the device: dividing a CUDA tensor by a number multiplies by its float32
    # reciprocal, which is off by one bit for 1,181 of the 2,001 codes of the HU window.
    span = torch.tensor(window.span, dtype=torch.float32, device=cubes.device)
    return ((cubes.to(torch.float32) - window.low) / span).unsqueeze(1)
