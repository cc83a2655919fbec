"""The one place that knows dask: it runs one task for each item, on threads or processes, and reports.

What is computed never depends on where: a task is a plain function of its item, writes its own files, and
returns a small record.
"""

import os
from collections.abc import Callable, Sequence
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
    if not items:
        return
    if workers == 1 or len(items) == 1:
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

    with Callback(posttask=posttask):
        compute(*tasks, scheduler=pool, num_workers=min(workers, len(items)), optimize_graph=False)
