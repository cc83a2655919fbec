"""Batches that threads fill while the network works: a small ring of buffers, used again and again.

`Ring` fills rooms of any kind, for both trainers. `Batches` fills them with pairs. Whole numbers travel;
`normalise` makes [0, 1] of them on the device that trains.
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

#: Threads that fill batches: each reads or degrades thousands of cubes a second, more than any device takes.
THREADS = 2

_CPU = torch.device("cpu")

Item = TypeVar("Item")
Room = TypeVar("Room")
Filled = TypeVar("Filled")


class Read(Protocol):
    """What tells that a room has been read, such as an event of CUDA."""

    def synchronize(self) -> None:
        """Wait for it."""


@dataclass
class _Slot(Generic[Room]):
    """A room, and what tells that whoever had it last has read it."""

    room: Room
    read: Read | None = None


class Ring(Generic[Item, Room, Filled]):
    """A few rooms and the threads that fill them in turn; memory stays what it is at the start.

    A CUDA device reads page-locked rooms when it comes to it, which may be long after the next room was
    asked for. So an event is put behind what it has been told by then, and a room is filled anew only after
    its own.

    Args:
        make: makes one room.
        fill: writes what an item asks for into a room and returns what of it is to be handed out; runs in
            several threads at once, on different rooms.
        threads: that fill.
        waiting: filled rooms that may wait, beside the one in use and those being filled.
        device: that reads the rooms.

    Attributes:
        waited: seconds that whoever takes the rooms has waited for them, all together.
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
        """Fill a room for each item, in the order of the items.

        What is yielded is good until the next one is asked for; copies from it to the device that were begun
        until then on its current stream are good as well. Close the generator, or exhaust it, before
        streaming anew. An error while filling is raised here, in its item's turn. When the generator ends, is
        closed or is dropped, its threads end with it.

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
        """Put an event behind all that the device was told to do until now."""
        if self._device.type != "cuda":
            return None
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call] # torch leaves it so
        event.record(torch.cuda.current_stream(self._device))
        return event


@dataclass(frozen=True)
class Batch:
    """One filled batch. Its arrays are reused: they are good until the next batch is asked for.

    Attributes:
        original: the store's dtype (int16 HU), `[cube, x, y, z]`: what shall be restored, flipped already.
        degraded: likewise: what the network sees.
        cubes: int64 [cube], indices into the store.
        variant: of every pair in the batch.
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
    """Batches of pairs from a ring, `batch_size` at most; in page-locked memory for a CUDA device."""

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
