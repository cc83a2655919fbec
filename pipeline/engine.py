"""The only module that uses dask: runs one task per item and delivers each record as it arrives.

Results never depend on where they are computed: a task is a plain function of its item, writes its own files,
and returns a small record. A single worker is this process, without dask. Several workers are threads of this
process, processes on a cluster that `run` starts on this machine, or the workers of an existing cluster,
which `connect` checks before any work starts.

Items start in order, and only as many are handed out as keep all workers busy, so a hundred thousand need no
extra memory. Short ones are sent several at a time: a dask task costs 1 to 3 ms of processor time.
"""

import json
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter
from typing import Any, TypeVar
from uuid import uuid4

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.local_cluster import awaited, local_workers, quiet
from genesis_toolkit.pipeline.progress import Progress, silent, waited_for
from genesis_toolkit.pipeline.version import __version__

Item = TypeVar("Item")
Record = TypeVar("Record")

#: Tasks handed out in advance to an existing cluster: enough for hundreds of workers.
_AHEAD = 1000
_SECONDS_TO_ANSWER = 20
#: Seconds before workers start working: for processes their start and imports, for threads loading dask.
_SECONDS_TO_START, _SECONDS_FOR_THREADS = 3.0, 1.0
#: Target seconds of work per message to a worker, and the most items per message.
_SECONDS_A_BATCH, _MOST_A_BATCH = 0.25, 256


@dataclass(frozen=True)
class Workers:
    """The workers that carry out tasks.

    Attributes:
        count: number of tasks at a time. One task at a time runs in this process.
        processes: whether each worker is a process of its own, for tasks that hold the GIL; else a thread.
        client: client of the cluster that `connect` found; None if workers are started for each `run`.
        progress: receives messages while workers start.
    """

    count: int = 1
    processes: bool = False
    client: Any = None
    progress: Progress = field(default=silent, repr=False)

    def for_seconds(self, seconds: float) -> "Workers":
        """Return workers for `seconds` of work that holds the GIL: processes, or one if those cost more."""
        if self.client is not None:
            return self
        return replace(self, processes=True) if processes_pay(seconds, self.count) else replace(self, count=1)

    def for_free_seconds(self, seconds: float) -> "Workers":
        """Return workers for `seconds` of work without the GIL: threads, or one if those cost more."""
        saved = seconds - seconds / self.count
        return self if self.client is not None or saved > _SECONDS_FOR_THREADS else replace(self, count=1)


def processes_pay(seconds: float, workers: int) -> bool:
    """Return whether processes, including their start, finish `seconds` of work sooner than one worker."""
    return seconds - seconds / workers > _SECONDS_TO_START


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def counting(progress: Progress, what: str, total: int, done: int) -> Callable[[object], None]:
    """Return a `finished` callback for `run` that counts pieces, starting from `done`."""
    if total:
        progress(what, done, total)

    def finished(_: object) -> None:
        nonlocal done
        done += 1
        progress(what, done, total)

    return finished


def run(
    task: Callable[[Item], Record],
    items: Sequence[Item],
    *,
    finished: Callable[[Record], None],
    workers: Workers | int = 1,
    lost: Callable[[Item], Record] | None = None,
) -> None:
    """Run `task` on every item and pass each record to `finished` as soon as its task ends.

    Args:
        task: for processes and clusters, a picklable function. It reports bad data in its record instead of
            raising.
        items: the work, started in this order.
        finished: called in this process and thread.
        workers: the workers; a number means that many threads.
        lost: returns the record of an item whose task kills its process, also when run alone.

    Raises:
        CallError: workers cannot be started on this machine.
        DataError: a worker died and there is no `lost`, no worker could be restarted, or the cluster is gone.
    """
    workers = Workers(workers) if isinstance(workers, int) else workers
    if workers.client is not None:
        with quiet():
            _spread(task, items, _Hands(workers.client, workers.count, _AHEAD), finished, lost)
    elif workers.count == 1 or len(items) <= 1:
        for item in items:
            finished(task(item))
    else:
        _run_here(task, items, workers, finished, lost)


def _run_here(
    task: Callable[[Item], Record],
    items: Sequence[Item],
    workers: Workers,
    finished: Callable[[Record], None],
    lost: Callable[[Item], Record] | None,
) -> None:
    """Run `task` on newly started workers; start new ones if dask does not replace those that died."""
    number, place = min(workers.count, len(items)), next(_numbers)
    progress = None if workers.progress is silent else workers.progress
    _held[place] = {}
    try:
        while items:
            with local_workers(number, workers.processes, progress) as client:
                hands = _Hands(client, number, number, None if workers.processes else place, ours=True)
                left = _spread(task, items, hands, finished, lost)
            if len(left) == len(items):
                raise DataError(_DIED)
            items = left
    finally:
        del _held[place]  # late tasks then find nothing to do


@dataclass(frozen=True)
class _Hands:
    """Running workers, and how tasks are handed to them.

    Attributes:
        client: client of their cluster.
        count: number of workers.
        ahead: number of dask tasks to hand out before the first one returns.
        threads: key under which threads of this process find their work; None for processes.
        ours: whether this run started the cluster. If so, a dask task may hold several items, and the items
            of a process that died are retried one by one; another cluster's scheduler has already retried.
    """

    client: Any
    count: int
    ahead: int
    threads: int | None = None
    ours: bool = False

    def begin(self, task: Callable[[Any], Any], items: Sequence[Any]) -> Any:
        """Submit some items to a worker; return a dask future of their records and the seconds they took."""
        if self.threads is None:
            return self.client.submit(_carry_out, task, items, pure=False)
        place = next(_numbers)
        _held[self.threads][place] = task, items
        return self.client.submit(_carry_out_held, self.threads, place, pure=False)


def _spread(
    task: Callable[[Item], Record],
    items: Sequence[Item],
    hands: _Hands,
    finished: Callable[[Record], None],
    lost: Callable[[Item], Record] | None,
) -> list[Item]:
    """Hand items out in a window and deliver their records; return the items for which no worker is left."""
    waiting, suspects, under_way, size = deque(items), deque[Item](), dict[int, list[Item]](), 1
    with _asking(task, hands) as (questions, answers):
        while waiting or under_way or suspects:
            # Rerun one by one, the items of a process that died reveal which of them killed it.
            alone = not waiting and not under_way
            if alone:
                waiting.append(suspects.popleft())
            while waiting and len(under_way) < hands.ahead:
                batch = [waiting.popleft() for _ in range(min(size, len(waiting)))]
                under_way[id(batch)] = batch
                questions.put(batch)
            batch, answer = awaited(answers)
            if hands.ours and isinstance(answer, _NobodyLeftError):
                return [*chain.from_iterable(under_way.values()), *suspects, *waiting]
            del under_way[id(batch)]
            if isinstance(answer, BaseException):
                raise answer
            if answer is not None:
                records, seconds = answer
                if hands.ours:
                    size = batch_size(size, seconds / len(batch), len(waiting), hands.count)
            elif hands.ours and not alone:
                suspects += batch
                continue
            elif lost is not None:
                records = [lost(item) for item in batch]
            else:
                raise DataError(_DIED)
            for record in records:
                finished(record)
    return []


@contextmanager
def _asking(task: Callable[[Any], Any], hands: _Hands) -> Iterator[tuple[SimpleQueue[Any], SimpleQueue[Any]]]:
    """Yield a queue for lists of items, and one that returns each list with its `_answer` or an error.

    All futures are kept in a thread of their own: a Ctrl-C during one of their methods in the main thread
    would be swallowed or end in a traceback on stderr.
    """
    questions, answers = SimpleQueue[Any](), SimpleQueue[Any]()
    threading.Thread(target=_ask, args=(task, hands, questions, answers), daemon=True).start()
    try:
        yield questions, answers
    finally:
        questions.put(None)


def _ask(
    task: Callable[[Any], Any], hands: _Hands, events: SimpleQueue[Any], answers: SimpleQueue[Any]
) -> None:
    """Submit every list of items that arrives and answer when its future completes, until None arrives."""
    under_way = dict[Any, list[Any]]()
    while (event := events.get()) is not None:
        batch = event if isinstance(event, list) else under_way.pop(event)
        try:
            if event is batch:
                future = hands.begin(task, batch)
                under_way[future] = batch
                future.add_done_callback(events.put)
            else:
                answers.put((batch, _answer(event)))
        except BaseException as error:
            answers.put((batch, error))


def batch_size(before: int, seconds: float, waiting: int, workers: int) -> int:
    """Return the number of items to send to a worker at a time.

    Args:
        before: the previous number; it at most doubles, since short items may precede long ones.
        seconds: time that one item took.
        waiting: number of items left, to be shared among all workers until the end.
        workers: number of workers.
    """
    fit = int(_SECONDS_A_BATCH / max(seconds, 1e-9))
    return max(1, min(fit, 2 * before, waiting // (8 * workers), _MOST_A_BATCH))


def _answer(future: Any) -> tuple[list[Any], float] | None:
    """Return the result of a dask task; None if its worker process died.

    Raises:
        _NobodyLeftError: no worker has been available for minutes.
        DataError: the cluster is gone.
        Exception: raised by the task.
    """
    from distributed import CancelledError, KilledWorker
    from distributed.comm.core import CommClosedError

    try:
        answer: tuple[list[Any], float] = future.result()
    except KilledWorker:
        return None
    except (CancelledError, CommClosedError):
        raise DataError(
            "The dask scheduler no longer responds. Finished work is kept: restart the scheduler and run "
            "the same command again."
        ) from None
    except Exception as error:
        if type(error).__module__ == "distributed.scheduler":
            raise _NobodyLeftError(_DIED) from None
        raise
    return answer


_DIED = (
    "A worker died, most likely because memory ran out. Finished work is kept: run the same command "
    "again with fewer workers."
)


class _NobodyLeftError(DataError):
    """dask did not replace a worker that died; it gives up if a start fails."""


def _carry_out(task: Callable[[Item], Record], items: Sequence[Item]) -> tuple[list[Record], float]:
    """Run the task on some items (on a worker); return their records and the seconds they took."""
    begun = perf_counter()
    return [task(item) for item in items], perf_counter() - begun


#: Work for threads of this process, by run. It bypasses dask, which would pickle it.
_held: dict[int, dict[int, tuple[Callable[[Any], Any], Sequence[Any]]]] = {}
_numbers = count()


def _carry_out_held(run: int, place: int) -> tuple[list[Any], float]:
    return _carry_out(*_held[run].pop(place))


@contextmanager
def connect(
    scheduler: str | None, workers: int | None, source: Path | None, target: Path, progress: Progress
) -> Iterator[Workers]:
    """Connect to a dask.distributed scheduler and its workers while the block runs.

    Args:
        scheduler: its address, for example `tcp://node17:8786`, or the path of its scheduler file. None: no
            cluster; workers of this machine are returned.
        workers: number of workers on this machine; None means one per core.
        source: data that the workers will read; None if it is on a server.
        target: path they will write to; a temporary file tests its folder.
        progress: receives messages while waiting for workers.

    Raises:
        CallError: no scheduler responds, or its workers cannot do this work; the message gives the remedy.
    """
    if scheduler is None:
        yield Workers(workers or cores(), progress=progress)
        return
    with quiet():
        client = _client(scheduler)
        try:
            progress("waiting for a dask worker", 0, 1)
            client.wait_for_workers(1)
            progress("waiting for a dask worker", 1, 1)
            there = _check_workers(client, source and source.resolve(), target.resolve().parent)
            yield Workers(there, client=client, progress=progress)
        finally:
            with suppress(OSError, TimeoutError):  # the scheduler is gone
                client.close(timeout=2)


def workers_of(scheduler: str) -> int:
    """Return the current number of workers of a cluster; 1 if none has connected yet.

    Raises:
        CallError: no scheduler responds.
    """
    with quiet():
        client = _client(scheduler)
        try:
            return max(1, len(client.nthreads()))
        finally:
            client.close()


def _client(scheduler: str) -> Any:
    from distributed import Client

    address = _address(scheduler)
    try:
        with waited_for(f"asking the dask scheduler at {address}"):
            return Client(address, timeout=_SECONDS_TO_ANSWER, set_as_default=False)
    except (OSError, TimeoutError, ValueError):
        raise CallError(
            f"--scheduler {scheduler}: no dask scheduler responds at this address. Start one with `dask "
            "scheduler`, or omit the option to work on this machine."
        ) from None


def _address(scheduler: str) -> str:
    """Return the address itself, or the one in a scheduler file."""
    if "://" in scheduler:
        return scheduler
    try:
        return str(json.loads(Path(scheduler).read_bytes())["address"])
    except (OSError, ValueError, KeyError, TypeError):
        raise CallError(
            f"--scheduler {scheduler} is not a scheduler file: give the file that dask "
            "scheduler --scheduler-file writes, or an address such as tcp://node17:8786."
        ) from None


def _check_workers(client: Any, source: Path | None, folder: Path) -> int:
    """Have every worker check the source and a file written next to the target; return their number."""
    probe = folder / f".genesis-{uuid4().hex}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
    except OSError as error:
        raise CallError(f"{folder} cannot be written ({error.strerror}): choose another location.") from None
    try:
        answers = client.run(_look, [path for path in (source, probe) if path])
    except ImportError:
        raise CallError(
            "The dask workers lack this toolkit: run pip install genesis-toolkit on their machines."
        ) from None
    finally:
        probe.unlink(missing_ok=True)
    for version, host, missing in answers.values():
        if version != __version__:
            raise CallError(
                f"The dask worker on {host} has genesis-toolkit {version}, but this machine "
                f"has {__version__}: install the same version everywhere, or the voxels may "
                "differ."
            )
        if missing:
            place = folder if probe in missing else source
            raise CallError(
                f"The dask worker on {host} cannot see {place}: keep the scans and the store "
                "on a file system that this machine and all workers share."
            )
    return len(answers)


def _look(paths: Sequence[Path]) -> tuple[str, str, list[Path]]:
    """Return, from a worker, its toolkit version, its host name, and the paths that are missing there."""
    return __version__, socket.gethostname(), [path for path in paths if not path.exists()]
