"""The one place that knows dask: runs one task for each item, and hands over each record as it comes.

What is computed never depends on where: a task is a plain function of its item, writes its own files, and
returns a small record. One worker is this very process, without dask. Several are the threads of this process
or processes of their own, on a cluster that `run` starts on this machine, or those of a cluster that is there
already, which `connect` looks at before anything is begun.

Items are begun in order, and no more of them are handed out than keep everyone at work, so a hundred thousand
cost no memory. Short ones go to a worker several at a time: a dask task costs 1 to 3 ms of processor time.
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

#: Tasks handed out to a cluster that is there already: enough for hundreds of workers.
_AHEAD = 1000
_SECONDS_TO_ANSWER = 20
#: What processes cost before they are at work: starting them, and their imports; and threads: loading dask.
_SECONDS_TO_START, _SECONDS_FOR_THREADS = 3.0, 1.0
#: How long items are worked on between two messages, and how many they are at most.
_SECONDS_A_BATCH, _MOST_A_BATCH = 0.25, 256


@dataclass(frozen=True)
class Workers:
    """Who carries out tasks.

    Attributes:
        count: how many tasks at a time. One is done in this very process.
        processes: whether each has a process of its own, for tasks that hold the GIL; else they are threads.
        client: of the cluster that `connect` found; None where workers are started for each `run`.
        progress: told while workers start.
    """

    count: int = 1
    processes: bool = False
    client: Any = None
    progress: Progress = field(default=silent, repr=False)

    def for_seconds(self, seconds: float) -> "Workers":
        """Who does work that holds the GIL, so many seconds of it: processes, or one where they cost more."""
        if self.client is not None:
            return self
        return replace(self, processes=True) if processes_pay(seconds, self.count) else replace(self, count=1)

    def for_free_seconds(self, seconds: float) -> "Workers":
        """Who does so many seconds of work without the GIL: threads, or one where they cost more."""
        saved = seconds - seconds / self.count
        return self if self.client is not None or saved > _SECONDS_FOR_THREADS else replace(self, count=1)


def processes_pay(seconds: float, workers: int) -> bool:
    """Whether so many seconds of work are done sooner by processes, which have to be started, than by one."""
    return seconds - seconds / workers > _SECONDS_TO_START


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def counting(progress: Progress, what: str, total: int, done: int) -> Callable[[object], None]:
    """A `finished` for `run` that reports one more piece done each time; `done` were done before."""
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
    """Run `task` on every item and hand each record to `finished`, in the order in which they finish.

    Args:
        task: for processes and clusters, a function that can be pickled. It does not raise for bad data but
            says so in its record.
        items: what to work on, begun in this order.
        finished: called in this process and thread.
        workers: who does it; a number is that many threads.
        lost: the record of an item whose task ends the process it runs in, alone as well as among others.

    Raises:
        CallError: workers cannot be started on this machine.
        DataError: a worker died and there is no `lost`, no worker comes up again, or the cluster is gone.
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
    """Run `task` on workers started for it, and started anew where those that died do not come up again."""
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
        del _held[place]  # late ones find nothing to do


@dataclass(frozen=True)
class _Hands:
    """Workers that are there, and how they are given their tasks.

    Attributes:
        client: of their cluster.
        count: how many they are.
        ahead: how many dask tasks to hand out before one has come back.
        threads: where threads of this process find what they are given; None where they are none.
        ours: whether the cluster is this run's own. Then a dask task may be several items, and one whose
            process died is tried again alone; of another, the scheduler has tried it on several workers.
    """

    client: Any
    count: int
    ahead: int
    threads: int | None = None
    ours: bool = False

    def begin(self, task: Callable[[Any], Any], items: Sequence[Any]) -> Any:
        """Give some items to a worker; a dask future of their records and of the seconds that they took."""
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
    """Hand items out in a window and their records over as they come; return what nobody is left for."""
    waiting, suspects, under_way, size = deque(items), deque[Item](), dict[int, list[Item]](), 1
    with _asking(task, hands) as (questions, answers):
        while waiting or under_way or suspects:
            # Alone, each item that was under way in a process which died shows if it was the one.
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
    """A queue that takes lists of items, and one that gives each list back with its `_answer`, or an error.

    All futures live in a thread of their own: a Ctrl-C that falls into one of their methods, in the main
    thread, would be swallowed there, or end in a traceback on stderr.
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
    """Begin every list of items that comes, and answer when its future comes, until None does."""
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
    """How many items to give to a worker at a time.

    Args:
        before: how many it was; it no more than doubles, since one short item may come before long ones.
        seconds: that an item took.
        waiting: how many are left, of which all workers shall have their share to the end.
        workers: how many there are.
    """
    fit = int(_SECONDS_A_BATCH / max(seconds, 1e-9))
    return max(1, min(fit, 2 * before, waiting // (8 * workers), _MOST_A_BATCH))


def _answer(future: Any) -> tuple[list[Any], float] | None:
    """What came of a dask task; None where the process that worked on it died.

    Raises:
        _NobodyLeftError: no worker has been there for minutes.
        DataError: the cluster is gone.
        Exception: what the task raised.
    """
    from distributed import CancelledError, KilledWorker
    from distributed.comm.core import CommClosedError

    try:
        answer: tuple[list[Any], float] = future.result()
    except KilledWorker:
        return None
    except (CancelledError, CommClosedError):
        raise DataError(
            "The dask scheduler does not answer any more. What is done is kept: start it again and give "
            "the same command."
        ) from None
    except Exception as error:
        if type(error).__module__ == "distributed.scheduler":
            raise _NobodyLeftError(_DIED) from None
        raise
    return answer


_DIED = (
    "A worker died at its work, most likely because memory ran out. What is done is kept: give the same "
    "command again, with fewer workers."
)


class _NobodyLeftError(DataError):
    """dask has not brought up a worker in the place of one that died, as it gives up where a start fails."""


def _carry_out(task: Callable[[Item], Record], items: Sequence[Item]) -> tuple[list[Record], float]:
    """On a worker: the records of some items, and the seconds that they took."""
    begun = perf_counter()
    return [task(item) for item in items], perf_counter() - begun


#: What threads of this process are given, by run. It does not go through dask, which would pickle it.
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
        scheduler: its address, as in `tcp://node17:8786`, or the path of its scheduler file. None: there is
            no cluster to connect to, and workers of this machine are given back.
        workers: how many of this machine; None takes one a core.
        source: what the workers will read; None where that is on a server.
        target: where they will write; its folder is tried with a file that is removed again.
        progress: told while workers are waited for.

    Raises:
        CallError: no scheduler answers, or its workers cannot do this work; the sentence says what to change.
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
            with suppress(OSError, TimeoutError):  # a scheduler that is gone
                client.close(timeout=2)


def workers_of(scheduler: str) -> int:
    """How many workers a cluster has at this moment; 1 where none has come yet.

    Raises:
        CallError: no scheduler answers.
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
            f"--scheduler {scheduler}: no dask scheduler answers there. Start one with dask scheduler, or "
            "leave the option out to work on this machine."
        ) from None


def _address(scheduler: str) -> str:
    """The address itself, or the one that a scheduler file holds."""
    if "://" in scheduler:
        return scheduler
    try:
        return str(json.loads(Path(scheduler).read_bytes())["address"])
    except (OSError, ValueError, KeyError, TypeError):
        raise CallError(
            f"--scheduler {scheduler}: that is no scheduler file. Give the one that dask scheduler "
            "--scheduler-file writes, or an address as in tcp://node17:8786."
        ) from None


def _check_workers(client: Any, source: Path | None, folder: Path) -> int:
    """Let every worker look at the source, and at a file written beside the target; how many there are."""
    probe = folder / f".genesis-{uuid4().hex}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
    except OSError as error:
        raise CallError(f"{folder} cannot be written ({error.strerror}): choose another place.") from None
    try:
        answers = client.run(_look, [path for path in (source, probe) if path])
    except ImportError:
        raise CallError(
            "The dask workers lack this toolkit: pip install genesis-toolkit where they run."
        ) from None
    finally:
        probe.unlink(missing_ok=True)
    for version, host, missing in answers.values():
        if version != __version__:
            raise CallError(
                f"The dask worker on {host} has genesis-toolkit {version}, this is {__version__}: install "
                "the same version everywhere, or the voxels may differ."
            )
        if missing:
            place = folder if probe in missing else source
            raise CallError(
                f"The dask worker on {host} does not see {place}: scans and store must lie on a file system "
                "that this machine and all workers share."
            )
    return len(answers)


def _look(paths: Sequence[Path]) -> tuple[str, str, list[Path]]:
    """On a worker: its version of the toolkit, its name, and which of the paths are not there."""
    return __version__, socket.gethostname(), [path for path in paths if not path.exists()]
