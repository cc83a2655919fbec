"""A process that is killed where the test wants it."""

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

Work = Callable[[Path, Path, Callable[[], None]], None]


def spawned(work: Work, store: Path, folder: Path, kill: tuple[int, float] | None) -> int:
    """The exit code of one process at work; SIGKILL so many seconds after so many of its steps.

    Args:
        work: a function of a module, given the store, the folder, and what to call after every step.
        store: to train from.
        folder: of the run.
        kill: (steps, seconds); None lets it end.
    """
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_take_part, args=(work, store, folder, there))
    process.start()
    there.close()
    left = kill[0] if kill else -1
    with here:
        try:
            while left:
                here.recv_bytes()
                left -= 1
        except EOFError:
            pass  # it has ended by itself
        if kill and not left:
            time.sleep(kill[1])
            process.kill()
        process.join()
    assert process.exitcode is not None
    return process.exitcode


def _take_part(work: Work, store: Path, folder: Path, there: Connection) -> None:
    work(store, folder, lambda: there.send_bytes(b"."))
