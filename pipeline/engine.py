"""The one place that knows dask: it runs one task for each item, on threads, processes or a cluster.

What is computed never depends on where: a task is a plain function of its item, writes its own files, and
returns a small record. An interruption reaches the caller at once; what was under way is dropped.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

Item = TypeVar("Item")
Record = TypeVar("Record")

#: Told as work goes on: what is being done, how many pieces are done, how many there are.
Report = Callable[[str, int, int], None]

Pool = Literal["threads", "processes"]


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
    workers: int,
    pool: Pool,
    finished: Callable[[Record], None],
) -> None:
    """Run `task` on every item and hand each record to `finished`, in the order in which they finish.

    Args:
        task: for `processes`, a function that can be pickled. It does not raise for bad data but says so in
            its record.
        items: what to work on.
        workers: how many tasks at a time. One runs in this very process.
        pool: `threads` for tasks that leave the GIL (our kernels, blosc); `processes` for those that do not
            (SimpleITK reads with the GIL held: two threads took 1.1 times the time of one after the other).
        finished: called in this process and thread.
    """
    if workers == 1 or len(items) <= 1:
        for item in items:
            finished(task(item))
        return
    from dask.base import compute
    from dask.callbacks import Callback
    from dask.delayed import delayed

    submit = delayed(task, pure=False, traverse=False)
    tasks = [submit(item) for item in items]
    ours = {task.key for task in tasks}

    def posttask(key: Any, result: Any, *_: Any) -> None:
        if key in ours:
            finished(result)

    with _executor(pool, min(workers, len(items))) as executor, Callback(posttask=posttask):
        # dask hands six tasks at a time to a process, so that six scans would be cut one after the other.
        compute(*tasks, scheduler=pool, pool=executor, optimize_graph=False, chunksize=1)


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
        executor.shutdown(wait=False, cancel_futures=True)
        if pool == "processes":
            for process in set(multiprocessing.active_children()) - before:
                process.terminate()
        raise
    executor.shutdown()


def _follow_parent() -> None:
    """In a worker: leave interruptions to the parent, and end with it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)  # a killed parent leaves its workers waiting for ever

    threading.Thread(target=watch, daemon=True).start()
