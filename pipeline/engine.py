"""Runs one task for each item: here, on threads, on processes, or on a cluster that `cluster` connects to.

What is computed never depends on where: a task is a plain function of its item, writes its own files, and
returns a small record. Items are begun in order, and no more of them are handed out than keep everyone at
work, so that a hundred thousand cost what they weigh. An interruption reaches the caller at once; what was
under way is dropped.

The local pools are those of the standard library. Through dask.delayed a task cost 0.5 ms before it began,
independent tasks ran in any order, and six went to a process at a time.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Literal, TypeVar

from genesis_toolkit.pipeline.errors import DataError

Item = TypeVar("Item")
Record = TypeVar("Record")

#: Told as work goes on: what is being done, how many pieces are done, how many there are.
Report = Callable[[str, int, int], None]

Pool = Literal["threads", "processes"]


@dataclass(frozen=True)
class Cluster:
    """Workers elsewhere, connected to by `cluster.connect`.

    Attributes:
        executor: takes tasks for them.
        workers: how many there are at the beginning.
        ahead: how many tasks to hand out before one has come back.
        lost: what a task raises that several workers died of.
    """

    executor: Executor
    workers: int
    ahead: int
    lost: type[BaseException]


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def silent(what: str, done: int, total: int) -> None:
    """Report nothing."""


def counting(report: Report, what: str, total: int, done: int) -> Callable[[object], None]:
    """A `finished` for `run` that reports one more piece done each time; `done` were done before."""
    report(what, done, total)

    def finished(_: object) -> None:
        nonlocal done
        done += 1
        report(what, done, total)

    return finished


def run(
    task: Callable[[Item], Record],
    items: Sequence[Item],
    *,
    finished: Callable[[Record], None],
    workers: int = 1,
    pool: Pool = "threads",
    cluster: Cluster | None = None,
    lost: Callable[[Item], Record] | None = None,
) -> None:
    """Run `task` on every item and hand each record to `finished`, in the order in which they finish.

    Args:
        task: for processes and clusters, a function that can be pickled. It does not raise for bad data but
            says so in its record.
        items: what to work on, begun in this order.
        finished: called in this process and thread.
        workers: how many tasks at a time. One runs in this very process.
        pool: `threads` for tasks that leave the GIL (our kernels, blosc); `processes` for those that do not
            (SimpleITK reads with the GIL held: two threads took 1.1 times the time of one after the other).
        cluster: runs the tasks instead of workers on this machine.
        lost: the record of an item whose task ends the process it runs in, alone as well as among others.

    Raises:
        DataError: a worker died and there is no `lost`, or the cluster is gone.
    """
    if cluster is not None:
        _run_on_cluster(task, items, cluster, finished, lost)
    elif workers == 1 or len(items) <= 1:
        for item in items:
            finished(task(item))
    else:
        _run_here(task, items, min(workers, len(items)), pool, finished, lost)


def _run_here(
    task: Callable[[Item], Record],
    items: Iterable[Item],
    workers: int,
    pool: Pool,
    finished: Callable[[Record], None],
    lost: Callable[[Item], Record] | None,
) -> None:
    waiting = deque(items)
    while waiting:
        with _executor(pool, workers) as executor:
            suspects = []
            for item, future in _handed_out(executor, task, waiting, 2 * workers):
                if isinstance(future.exception(), BrokenExecutor):
                    suspects.append(item)
                else:
                    finished(future.result())
        # A worker died, and the pool with it. Alone, each item that was under way shows if it was the one.
        for item in suspects:
            with _executor("processes", 1) as executor:
                try:
                    record = executor.submit(task, item).result()
                except BrokenExecutor:
                    record = _record_of(item, lost)
            finished(record)


def _run_on_cluster(
    task: Callable[[Item], Record],
    items: Iterable[Item],
    cluster: Cluster,
    finished: Callable[[Record], None],
    lost: Callable[[Item], Record] | None,
) -> None:
    for item, future in _handed_out(cluster.executor, task, deque(items), cluster.ahead):
        try:
            record = future.result()
        except cluster.lost:
            record = _record_of(item, lost)
        except CancelledError:
            raise DataError(
                "The dask scheduler does not answer any more. What is done is kept: start it again and give "
                "the same command."
            ) from None
        finished(record)


def _record_of(item: Item, lost: Callable[[Item], Record] | None) -> Record:
    """The record of an item that ends the process it is worked on in."""
    if lost is not None:
        return lost(item)
    raise DataError(
        "A worker died at its work, most likely because memory ran out. What is done is kept: give the same "
        "command again, with fewer workers."
    )


def _handed_out(
    executor: Executor, task: Callable[[Item], Record], waiting: deque[Item], ahead: int
) -> Iterator[tuple[Item, "Future[Record]"]]:
    """Take items from `waiting` and give them back with their futures as these are done.

    Where the executor breaks, those under way come back with that error, and the others stay in `waiting`.
    """
    # A queue costs the same for any number under way; concurrent.futures.wait looks at all of them each time.
    done: SimpleQueue[tuple[Item, Future[Record]]] = SimpleQueue()
    under_way = 0
    while waiting or under_way:
        while waiting and under_way < ahead:
            item = waiting.popleft()
            try:
                future = executor.submit(task, item)
            except BrokenExecutor:
                waiting.appendleft(item)
                break
            under_way += 1
            future.add_done_callback(partial(_put, done, item))
        if not under_way:
            return
        yield done.get()
        under_way -= 1


def _put(done: "SimpleQueue[tuple[Item, Future[Record]]]", item: Item, future: "Future[Record]") -> None:
    done.put((item, future))


@contextmanager
def _executor(pool: Pool, workers: int) -> Iterator[Executor]:
    """Threads or processes that are gone when the block is left, at once where it is left by an error.

    Processes do not hear Ctrl-C, which a terminal sends to all of them: this process does, and ends them.
    """
    if pool == "threads":
        executor: Executor = ThreadPoolExecutor(workers, thread_name_prefix="genesis")
    else:
        before = set(multiprocessing.active_children())
        spawn = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        executor = ProcessPoolExecutor(workers, spawn, initializer=_follow_parent)
    try:
        yield executor
    except BaseException:
        if pool == "processes":
            for process in set(multiprocessing.active_children()) - before:
                process.terminate()
        executor.shutdown(wait=pool == "processes", cancel_futures=True)
        raise
    executor.shutdown()


def _follow_parent() -> None:
    """In a worker: leave interruptions to the parent, and end with it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # numcodecs makes a lock when it is imported. A spawned process has it looked after, which ends in a
    # warning about a leak where the process is terminated; a forked one does not. No worker starts another.
    multiprocessing.set_start_method("fork", force=True)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)  # a killed parent leaves its workers waiting for ever

    threading.Thread(target=watch, daemon=True).start()
