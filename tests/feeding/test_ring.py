"""The ring: batches in order, memory that stays what it is, and no thread left behind."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.training.feeding.feeds import PairBuffer
from genesis_toolkit.training.feeding.order import Work, deal
from genesis_toolkit.training.feeding.ring import Batches


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


class Event:
    """What a device would signal, in the test's hands."""

    def __init__(self) -> None:
        self.reached = threading.Event()

    def synchronize(self) -> None:
        self.reached.wait()


class Marked(Batches):
    """Batches for a device that reads when the test lets it."""

    def __init__(self) -> None:
        super().__init__(CountingFeed(), 4)
        self.events: list[Event] = []

    def _mark(self) -> Event:
        self.events.append(Event())
        return self.events[-1]


@pytest.mark.usefixtures("no_thread_left")
def test_a_room_is_filled_anew_only_after_the_device_has_read_it() -> None:
    batches, works = Marked(), [Work(np.arange(4) + 20 * number, 0) for number in range(1, 9)]
    with closing(batches.stream(works)) as stream:
        first = next(stream).original
        kept = [next(stream).original for _ in range(3)]  # the first was given back, and waits to be read
        time.sleep(0.2)  # long enough for two idle threads to fill three rooms
        assert first[:, 0, 0, 0].tolist() == [20, 21, 22, 23]
        assert [cubes[0, 0, 0, 0].item() for cubes in kept] == [40, 60, 80]
        for event in batches.events:
            event.reached.set()
        assert next(stream).original.data_ptr() == first.data_ptr()
        assert first[:, 0, 0, 0].tolist() == [100, 101, 102, 103]
        batches.events[-1].reached.set()


@pytest.mark.usefixtures("no_thread_left")
@pytest.mark.parametrize("end", ["exhausted", "closed"])
def test_the_next_stream_waits_for_what_the_last_one_left_unread(end: str) -> None:
    batches, seen = Marked(), list[torch.Tensor]()
    with closing(batches.stream([Work(np.arange(4) + 20, 0)])) as stream:
        for batch in stream:
            seen.append(batch.original)
            if end == "closed":
                break
    again = threading.Thread(
        target=lambda: seen.append(next(batches.stream([Work(np.arange(4), 0)])).original)
    )
    again.start()
    again.join(0.2)
    assert again.is_alive()
    assert seen[0][:, 0, 0, 0].tolist() == [20, 21, 22, 23]
    batches.events[0].reached.set()
    again.join()
    assert seen[1][:, 0, 0, 0].tolist() == [0, 1, 2, 3]
