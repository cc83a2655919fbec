"""Batches that threads fill while the network works: a small ring of buffers that are reused.

`Ring` fills buffers of any kind, for both trainers. `Batches` fills them with pairs. Voxels stay whole
numbers here; `normalise` maps them to [0, 1] on the device that trains.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genesis_toolkit.training.feeding.feeds import Feed, PairBuffer
from genesis_toolkit.training.feeding.order import Work

#: Threads that fill batches: each reads or degrades thousands of cubes per second, more than any device uses.
THREADS = 2

_CPU = torch.device("cpu")

Item = TypeVar("Item")
Room = TypeVar("Room")
Filled = TypeVar("Filled")


class Read(Protocol):
    """Signals that a buffer has been read, like a CUDA event."""

    def synchronize(self) -> None:
        """Wait for the signal."""


@dataclass
class _Slot(Generic[Room]):
    """A buffer, and the signal that its last reader is done."""

    room: Room
    read: Read | None = None


class Ring(Generic[Item, Room, Filled]):
    """A few buffers, and the threads that fill them in turn; memory use stays constant.

    A CUDA device reads page-locked buffers asynchronously, possibly long after the next buffer was requested.
    So an event is recorded after the work queued so far, and a buffer is refilled only after its event.

    Args:
        make: makes one buffer.
        fill: writes an item into a buffer and returns what `stream` yields; runs in several threads at once,
            on different buffers.
        threads: number of filling threads.
        waiting: filled buffers that may wait, besides the one in use and those being filled.
        device: device that reads the buffers.

    Attributes:
        waited: total seconds that the consumer has waited for buffers.
    """

    waited = 0.0

    def __init__(
        self,
        make: Callable[[], Room],
        fill: Callable[[Item, Room], Filled],
        threads: int,
        waiting: int,
        device: torch.device = _CPU,
    ) -> None:
        self._fill, self._threads, self._device = fill, threads, device
        self._slots = [_Slot(make()) for _ in range(threads + 1 + waiting)]

    def stream(self, items: Iterable[Item]) -> Generator[Filled, None, None]:
        """Fill a buffer for each item, in the order of the items.

        A yielded value stays valid until the next one is requested; so do copies to the device queued by then
        on its current stream. Close the generator, or exhaust it, before streaming again. An error while
        filling is raised here, at its item's turn. When the generator ends, is closed or is dropped, its
        threads end too.

        Raises:
            DataError: a cube cannot be read.
        """
        coming = iter(items)
        filling: deque[tuple[_Slot[Room], Future[Filled]]] = deque()
        threads = ThreadPoolExecutor(self._threads, thread_name_prefix="batches")

        def begin(slot: _Slot[Room]) -> None:
            for item in coming:
                filling.append((slot, threads.submit(self._fill_when_read, item, slot)))
                return

        try:
            for slot in self._slots:
                begin(slot)
            while filling:
                slot, done = filling.popleft()
                asked = perf_counter()
                filled = done.result()
                self.waited += perf_counter() - asked
                try:
                    yield filled
                finally:
                    slot.read = self._mark()
                begin(slot)
        finally:
            threads.shutdown(wait=True, cancel_futures=True)

    def _fill_when_read(self, item: Item, slot: _Slot[Room]) -> Filled:
        if slot.read is not None:
            slot.read.synchronize()
        return self._fill(item, slot.room)

    def _mark(self) -> Read | None:
        """Record an event after all work queued on the device so far."""
        if self._device.type != "cuda":
            return None
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call] # torch leaves it so
        event.record(torch.cuda.current_stream(self._device))
        return event


@dataclass(frozen=True)
class Batch:
    """One filled batch. Its arrays are reused: they stay valid until the next batch is requested.

    Attributes:
        original: the store's dtype (int16 HU), `[cube, x, y, z]`: the target, already flipped.
        degraded: likewise: the network's input.
        cubes: int64 [cube], indices into the store.
        variant: variant of every pair in the batch.
        flip: uint8 [cube], bit 0 = x, bit 1 = y, bit 2 = z.
        applied: uint8 [cube], bits of `recipes.Applied`.
    """

    original: Tensor
    degraded: Tensor
    cubes: NDArray[np.int64]
    variant: int
    flip: NDArray[np.uint8]
    applied: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.cubes)


#: Tensors for originals and degraded cubes, and the arrays that share their memory.
_PairRoom = tuple[Tensor, Tensor, PairBuffer]


class Batches(Ring[Work, _PairRoom, Batch]):
    """Batches of at most `batch_size` pairs from a ring, in page-locked memory for a CUDA device."""

    def __init__(
        self, feed: Feed, batch_size: int, *, device: torch.device = _CPU, threads: int = THREADS
    ) -> None:
        self.feed, pin = feed, device.type == "cuda"
        shape, kind = (batch_size, *feed.size), torch.from_numpy(np.empty(0, feed.dtype)).dtype

        def make() -> _PairRoom:
            original, degraded = (torch.zeros(shape, dtype=kind, pin_memory=pin) for _ in range(2))
            return original, degraded, PairBuffer.around(original.numpy(), degraded.numpy())

        def fill(work: Work, room: _PairRoom) -> Batch:
            (original, degraded, buffer), n = room, len(work.cubes)
            feed.fill(work.cubes, work.variant, buffer)
            flip, applied = buffer.flip[:n], buffer.applied[:n]
            return Batch(original[:n], degraded[:n], work.cubes, work.variant, flip, applied)

        super().__init__(make, fill, threads, waiting=1, device=device)
