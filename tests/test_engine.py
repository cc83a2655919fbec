"""Every item once, whatever runs it; an error in a task reaches the caller."""

import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.tasks import die_at_3, fail_at_3, nap, process_of, square

from genesis_toolkit.pipeline.engine import Pool, run
from genesis_toolkit.pipeline.errors import DataError


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


def test_items_are_begun_in_order() -> None:
    begun: list[int] = []
    run(begun.append, range(500), workers=2, pool="threads", finished=lambda _: None)
    assert sorted(begun) == list(range(500))
    assert all(abs(place - number) < 50 for place, number in enumerate(begun))


def test_no_more_are_handed_out_than_keep_everyone_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    handed_out = most = done = 0

    class Counting(ThreadPoolExecutor):
        def submit(self, *args: Any, **options: Any) -> Any:  # type: ignore[override]
            nonlocal handed_out
            handed_out += 1
            return super().submit(*args, **options)

    def finished(_: object) -> None:
        nonlocal most, done
        most = max(most, handed_out - done)
        done += 1

    monkeypatch.setattr("genesis_toolkit.pipeline.engine.ThreadPoolExecutor", Counting)
    run(square, range(10_000), workers=2, pool="threads", finished=finished)
    assert done == 10_000
    assert 2 <= most <= 4


def test_a_task_that_ends_its_process_costs_itself_alone() -> None:
    records: list[tuple[int, int]] = []
    run(die_at_3, range(8), workers=2, pool="processes", finished=records.append, lost=lambda n: (n, -1))
    assert sorted(records) == [(n, -1 if n == 3 else n * n) for n in range(8)]


def test_where_nothing_is_known_of_lost_tasks_the_run_ends_with_a_sentence() -> None:
    with pytest.raises(DataError, match=r"A worker died at its work.*the same command again"):
        run(die_at_3, range(8), workers=2, pool="processes", finished=lambda _: None)


def test_an_interruption_ends_the_workers_at_once() -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(nap, [0.0, 3600.0, 3600.0], workers=2, pool="processes", finished=interrupt)
    for process in multiprocessing.active_children():
        process.join(60)
    assert not multiprocessing.active_children(), "nobody sleeps on for an hour"
