"""Every item once, whatever runs it; an error in a task reaches the caller."""

import multiprocessing
import os
import threading
import time

import pytest
from tasks import fail_at_3, nap, process_of, square

from pipeline.engine import Pool, run


@pytest.mark.parametrize("pool", ["threads", "processes"])
@pytest.mark.parametrize("workers", [1, 3])
def test_every_item_is_done_once(pool: Pool, workers: int) -> None:
    records: list[tuple[int, int]] = []
    run(square, range(7), workers=workers, pool=pool, finished=records.append)
    assert sorted(records) == [(n, n * n) for n in range(7)]
    run(square, [], workers=workers, pool=pool, finished=records.append)
    assert len(records) == 7


def test_processes_are_other_processes_and_records_arrive_here() -> None:
    processes: set[int] = set()
    threads: set[str] = set()

    def finished(process: int) -> None:
        processes.add(process)
        threads.add(threading.current_thread().name)

    run(process_of, range(4), workers=2, pool="processes", finished=finished)
    assert len(processes) == 2, "two processes share four tasks"
    assert os.getpid() not in processes
    assert threads == {threading.current_thread().name}


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_is_raised_here(workers: int) -> None:
    with pytest.raises(ValueError, match="three"):
        run(fail_at_3, range(5), workers=workers, pool="threads", finished=lambda _: None)


def test_an_interruption_ends_the_workers_at_once() -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(nap, [0.0, 30.0, 30.0], workers=2, pool="processes", finished=interrupt)
    for process in multiprocessing.active_children():
        process.join(5)
    assert not multiprocessing.active_children()
    assert time.monotonic() - begin < 25
