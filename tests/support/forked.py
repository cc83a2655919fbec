"""A process that is forked, and killed where the test wants it."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path


def forked(
    work: Callable[[Path, Callable[[], None]], None], folder: Path, kill: tuple[int, float] | None
) -> int:
    """The exit code of one process at work; SIGKILL so many seconds after so many of its steps.

    Args:
        work: given the folder, and what to call after every step.
        folder: of the run.
        kill: (steps, seconds); None lets it end.
    """
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work(folder, lambda: os.write(there, b".") and None)
            code = 0
        finally:
            os._exit(code)
    os.close(there)
    left = kill[0] if kill else -1
    while left and os.read(here, 1):
        left -= 1
    if kill and not left:
        time.sleep(kill[1])
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(here)
    return os.waitstatus_to_exitcode(status)
