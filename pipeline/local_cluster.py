"""Starts dask on this machine: a LocalCluster of threads of this process, or of processes of their own.

Nothing of it is heard: no log line, no port but on 127.0.0.1, no trace of a worker once the block is left.
"""

import importlib.util
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

from genesis_toolkit.pipeline.errors import CallError

_SECONDS_TO_END = 1.5  # of an interruption, which is answered within two
_SECONDS_TO_LISTEN = 0.25
_HERE = "127.0.0.1:0"  # at any port
_LOUD = ("distributed", "distributed.client", "bokeh", "tornado.application")
#: What multiprocessing calls the processes that are started here.
_PROCESS = "Dask Worker process"


@contextmanager
def local_workers(
    number: int, processes: bool, progress: Callable[[str, int, int], None] | None
) -> Iterator[Any]:
    """Workers on this machine that are gone when the block is left, at once where it is left by an error.

    Args:
        number: how many, of one task at a time each.
        processes: whether each is a process of its own; else they are threads of this one.
        progress: an `engine.Progress`, told while they start; None where nobody listens.

    Yields:
        Their `distributed.Client`.

    Raises:
        CallError: they cannot be started.
    """
    seed = os.environ.get("PYTHONHASHSEED")
    what = f"starting {number} worker {'processes' if processes else 'threads'}"
    told = progress or (lambda *_: None)
    told(what, 0, 1)
    with quiet() as distributed:
        import dask

        # What is set here is all there is: a user's files and environment are for clusters of their own.
        if processes:
            _clean_up_quietly()
        watched = progress is not None and _is_watched()
        defaults = dask.config.merge(*dask.config.defaults)["distributed"]
        with dask.config.set({"distributed": dask.config.merge(defaults, _CONFIGURATION)}):
            start = _Start(number, processes, watched, distributed)
            try:
                client = start.client()
                told(what, 1, 1)
                if watched:
                    told(f"dask shows the work at http://127.0.0.1:{start.port}/status", 0, 0)
                yield client
                start.end()
            except BaseException:
                start.end_at_once()
                raise
            finally:
                if seed is None:
                    os.environ.pop("PYTHONHASHSEED", None)  # dask's, which its processes have by now


def _clean_up_quietly() -> None:
    """Have Python's resource tracker clean up after a process that is killed without a word on stderr.

    It removes the locks that libraries made there (numcodecs, tqdm), and warns of each as of a leak.
    """
    before = os.environ.pop("PYTHONWARNINGS", None)
    quiet = "ignore:resource_tracker:UserWarning"
    os.environ["PYTHONWARNINGS"] = f"{before},{quiet}" if before else quiet
    try:
        resource_tracker.ensure_running()  # it reads its environment when it starts, once
    finally:
        del os.environ["PYTHONWARNINGS"]
        if before is not None:
            os.environ["PYTHONWARNINGS"] = before


def _is_watched() -> bool:
    """Whether dask's dashboard is worth the 0.8 s of loading bokeh: that is there, and somebody looks on."""
    looks_on = sys.stderr.isatty() or "ipykernel" in sys.modules
    return looks_on and importlib.util.find_spec("bokeh") is not None


_CONFIGURATION: dict[str, Any] = {
    "scheduler": {
        "allowed-failures": 0,  # `run` tries again, alone
        "worker-ttl": None,  # a reader may hold the GIL, and so the heartbeat, for minutes
        "no-workers-timeout": "120s",
        "active-memory-manager": {"start": False},
    },
    "worker": {
        "multiprocessing-method": "spawn",  # a fork of a process with threads may hang
        "profile": {"enabled": False},
        "http": {"routes": []},
    },
    "nanny": {"pre-spawn-environ": {}},  # which would come into this process too
    "deploy": {"lost-worker-timeout": "1h"},  # or one that starts slowly after a death is given up
    "diagnostics": {"nvml": False},
}


class _Start:
    """A LocalCluster that is started in a thread, so that an interruption is answered meanwhile."""

    def __init__(self, number: int, processes: bool, watched: bool, distributed: Any) -> None:
        self._number, self._processes, self._watched = number, processes, watched
        self._distributed = distributed
        self._before = set(multiprocessing.active_children())
        self._answer: SimpleQueue[Any] = SimpleQueue()
        self._cluster: Any = None
        self._client: Any = None
        self._over = False
        self.port = 0
        self._thread = threading.Thread(target=self._start, daemon=True)
        self._thread.start()

    def client(self) -> Any:
        """The client of the cluster, once all workers are there.

        Raises:
            CallError: it could not be started.
        """
        error = awaited(self._answer)
        if error is None:
            return self._client
        raise CallError(
            f"No worker can be started on this machine ({error}); dask needs ports of its own on 127.0.0.1 "
            "for them. With --workers 1 the work is done without."
        )

    def end(self) -> None:
        """Close the cluster, of which all work is done."""
        closing = threading.Thread(target=self._close, args=(None,), daemon=True)
        closing.start()
        while closing.is_alive():
            closing.join(_SECONDS_TO_LISTEN)

    def end_at_once(self) -> None:
        """Kill processes and leave threads; return when the cluster is closed, after 1.5 s at the latest."""
        self._over, limit = True, monotonic() + _SECONDS_TO_END
        closing = self._thread
        if self._cluster is not None:
            self._cluster.shutdown_on_close = False  # or it is waited for when this process ends
            for nanny in self._cluster.workers.values() if self._processes else ():
                nanny.close_gracefully()  # no worker is started in the place of one that is killed
            closing = threading.Thread(target=self._close, daemon=True)
            closing.start()
        while closing.is_alive() and monotonic() < limit:
            for child in set(multiprocessing.active_children()) - self._before:
                if child.name.startswith(_PROCESS):
                    child.kill()
            closing.join(0.05)
            if not self._processes:
                break

    def _start(self) -> None:
        # All threads and processes that are started from here leave Ctrl-C to the main thread.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        processes, number = self._processes, self._number
        try:
            self._cluster = self._distributed.LocalCluster(
                n_workers=number if processes else 1,
                threads_per_worker=1 if processes else number,
                processes=processes,
                dashboard_address=_HERE,
                # Left out, that of threads is at a port that all networks reach.
                worker_dashboard_address=None if processes else _HERE,
                silence_logs=logging.CRITICAL,
                memory_limit=0,  # nothing is spilled, paused or ended: what a scan takes, it takes
                scheduler_kwargs={"dashboard": self._watched},
                **({"preload": [__name__]} if processes else {"worker_class": self._thread_pool}),
            )
            self._client = self._distributed.Client(self._cluster, set_as_default=False)
            self.port = self._client.scheduler_info()["services"]["dashboard"]
        except Exception as error:
            self._answer.put(error)
        else:
            self._answer.put(None)
        if self._over:
            self._close()

    def _thread_pool(self, *place: Any, **options: Any) -> Any:
        return self._distributed.Worker(*place, **options | {"dashboard": False})

    def _close(self, timeout: float | None = 1) -> None:
        with suppress(Exception):
            if self._client is not None:
                self._client.close(timeout=timeout)
            if self._cluster is not None:
                self._cluster.close(timeout=timeout)


def dask_setup(_: Any) -> None:
    """Keep a worker process from writing. dask calls it, by this name, before the first task."""
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def quiet() -> Iterator[Any]:
    """The module `distributed`, kept from writing: what its notes come to is said in one sentence here."""
    distributed = _loaded()
    loggers = [logging.getLogger(name) for name in _LOUD]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield distributed
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def awaited(queue: SimpleQueue[Any]) -> Any:
    """Return what a queue gives next. A wait without end would not hear a Ctrl-C just before it."""
    while True:
        with suppress(Empty):
            return queue.get(timeout=_SECONDS_TO_LISTEN)


def _loaded() -> Any:
    """The module `distributed`, imported in a thread: an import may swallow a Ctrl-C that falls into it."""
    answer: SimpleQueue[Any] = SimpleQueue()

    def load() -> None:
        try:
            import dask

            with dask.config.set({"logging": dict.fromkeys(_LOUD, "critical")}):  # read by the next line
                import distributed
            answer.put(distributed)
        except BaseException as error:
            answer.put(error)

    threading.Thread(target=load).start()  # no daemon: Python cannot end in the middle of it
    module = awaited(answer)
    if isinstance(module, BaseException):
        raise module
    return module
