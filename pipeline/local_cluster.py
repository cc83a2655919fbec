"""Starts dask on this machine: a LocalCluster of threads in this process, or of separate processes.

It stays silent: no log lines, no ports except on 127.0.0.1, and no workers left when the block ends.
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

_SECONDS_TO_END = 1.5  # when interrupted, since Ctrl-C must take effect within two seconds
_SECONDS_TO_LISTEN = 0.25
_HERE = "127.0.0.1:0"  # any port
_LOUD = ("distributed", "distributed.client", "bokeh", "tornado.application")
#: Name that multiprocessing gives to the processes started here.
_PROCESS = "Dask Worker process"


@contextmanager
def local_workers(
    number: int, processes: bool, progress: Callable[[str, int, int], None] | None
) -> Iterator[Any]:
    """Start workers on this machine that end with the block, immediately if an error ends it.

    Args:
        number: number of workers, each for one task at a time.
        processes: whether each is a process of its own; otherwise they are threads of this one.
        progress: a `Progress` callback for messages during the start, or None.

    Yields:
        Their `distributed.Client`.

    Raises:
        CallError: they cannot be started.
    """
    seed = os.environ.get("PYTHONHASHSEED")
    what = f"starting {number} worker {'processes' if processes else 'threads'}"
    report = progress or (lambda *_: None)
    report(what, 0, 1)
    with quiet() as distributed:
        import dask

        # These settings are complete: a user's files and environment variables are for their own clusters.
        if processes:
            _clean_up_quietly()
        watched = progress is not None and _is_watched()
        defaults = dask.config.merge(*dask.config.defaults)["distributed"]
        with dask.config.set({"distributed": dask.config.merge(defaults, _CONFIGURATION)}):
            start = _Start(number, processes, watched, distributed)
            try:
                client = start.client()
                report(what, 1, 1)
                if watched:
                    report(f"dask shows the work at http://127.0.0.1:{start.port}/status", 0, 0)
                yield client
                start.end()
            except BaseException:
                start.end_at_once()
                raise
            finally:
                if seed is None:
                    os.environ.pop("PYTHONHASHSEED", None)  # set by dask, and inherited by now


def _clean_up_quietly() -> None:
    """Have Python's resource tracker clean up silently after a killed process.

    It removes the locks of libraries (numcodecs, tqdm), and otherwise warns of each as a leak.
    """
    before = os.environ.pop("PYTHONWARNINGS", None)
    quiet = "ignore:resource_tracker:UserWarning"
    os.environ["PYTHONWARNINGS"] = f"{before},{quiet}" if before else quiet
    try:
        resource_tracker.ensure_running()  # it reads its environment once, when it starts
    finally:
        del os.environ["PYTHONWARNINGS"]
        if before is not None:
            os.environ["PYTHONWARNINGS"] = before


def _is_watched() -> bool:
    """Return whether dask's dashboard is worth the 0.8 s of loading bokeh, if that is installed."""
    looks_on = sys.stderr.isatty() or "ipykernel" in sys.modules
    return looks_on and importlib.util.find_spec("bokeh") is not None


_CONFIGURATION: dict[str, Any] = {
    "scheduler": {
        "allowed-failures": 0,  # `run` retries each item alone
        "worker-ttl": None,  # a reader may hold the GIL for minutes, and block the heartbeat
        "no-workers-timeout": "120s",
        "active-memory-manager": {"start": False},
    },
    "worker": {
        "multiprocessing-method": "spawn",  # a forked process with threads may hang
        "profile": {"enabled": False},
        "http": {"routes": []},
    },
    "nanny": {"pre-spawn-environ": {}},  # it would change this process too
    "deploy": {"lost-worker-timeout": "1h"},  # otherwise a slow restart after a death counts as lost
    "diagnostics": {"nvml": False},
}


class _Start:
    """Starts a LocalCluster in a thread, so that Ctrl-C works meanwhile."""

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
        """Return the client of the cluster, once all workers are there.

        Raises:
            CallError: the cluster could not be started.
        """
        error = awaited(self._answer)
        if error is None:
            return self._client
        raise CallError(
            f"No worker can be started on this machine ({error}); dask needs free ports on 127.0.0.1. "
            "With --workers 1 no ports are needed."
        )

    def end(self) -> None:
        """Close the cluster after all its work is done."""
        closing = threading.Thread(target=self._close, args=(None,), daemon=True)
        closing.start()
        while closing.is_alive():
            closing.join(_SECONDS_TO_LISTEN)

    def end_at_once(self) -> None:
        """Kill processes and abandon threads; return once the cluster is closed, after at most 1.5 s."""
        self._over, limit = True, monotonic() + _SECONDS_TO_END
        closing = self._thread
        if self._cluster is not None:
            self._cluster.shutdown_on_close = False  # otherwise this process waits for it at exit
            for nanny in self._cluster.workers.values() if self._processes else ():
                nanny.close_gracefully()  # prevents a restart of the killed worker
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
        # Threads and processes started from here leave Ctrl-C to the main thread.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        processes, number = self._processes, self._number
        try:
            self._cluster = self._distributed.LocalCluster(
                n_workers=number if processes else 1,
                threads_per_worker=1 if processes else number,
                processes=processes,
                dashboard_address=_HERE,
                # Without it, the scheduler of threads listens on all networks.
                worker_dashboard_address=None if processes else _HERE,
                silence_logs=logging.CRITICAL,
                memory_limit=0,  # dask never spills, pauses or kills: a scan takes the memory it needs
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
    """Silence a worker process. dask calls it, by this name, before the first task."""
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def quiet() -> Iterator[Any]:
    """Yield the module `distributed`, silenced: this module reports its errors in one sentence."""
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
    """Return the next item of a queue. An endless wait would miss a Ctrl-C just before it."""
    while True:
        with suppress(Empty):
            return queue.get(timeout=_SECONDS_TO_LISTEN)


def _loaded() -> Any:
    """Import `distributed` in a thread: an import in the main thread may swallow a Ctrl-C."""
    answer: SimpleQueue[Any] = SimpleQueue()

    def load() -> None:
        try:
            import dask

            with dask.config.set({"logging": dict.fromkeys(_LOUD, "critical")}):  # the import below reads it
                import distributed
            answer.put(distributed)
        except BaseException as error:
            answer.put(error)

    threading.Thread(target=load).start()  # not a daemon: Python cannot exit during an import
    module = awaited(answer)
    if isinstance(module, BaseException):
        raise module
    return module
