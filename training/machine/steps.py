"""What both trainers do around a step: count and tell it, refuse its loss, save now and then, and stop."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.progress import Progress

#: Told in sentences what a person should know: an epoch's losses, a warning.
Say = Callable[[str], None]

#: Called after a step with what it was.
Tick = Callable[[str], None]


def counting(report: Progress, prefix: str, total: int, done: int = 0) -> Tick:
    """Return what is called after every step to report one more of `total`, after those `done` before."""

    def tick(what: str) -> None:
        nonlocal done
        done += 1
        report(prefix + what, done, total)

    return tick


def diverged(place: str, lr: float) -> DataError:
    """Return the error of a loss that is no finite number, in words where, at that learning rate."""
    return DataError(
        f"The loss is no number any more in {place}. Begin again with a lower learning rate, such as "
        f"--lr {lr / 10:g}, and another --out or --overwrite."
    )


class Saving:
    """When the next checkpoint is due: so many steps or seconds after the last one; None for never."""

    def __init__(self, steps: int | None, seconds: float) -> None:
        self._steps, self._seconds = steps, seconds
        self.saved()

    def saved(self) -> None:
        """Count from here."""
        self._done, self._since = 0, monotonic()

    def due(self) -> bool:
        """Count one more step, and return whether to save now."""
        self._done += 1
        return self._done == self._steps or monotonic() - self._since >= self._seconds


class Stop:
    """Whether somebody has asked the run to stop. It does so after the step at work."""

    asked = False


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Take the first SIGTERM, as batch systems send it, or Ctrl-C for a wish that `Stop` holds.

    The second one interrupts at once, whatever is under way. Outside the main thread no signal can be taken,
    and nothing changes.
    """
    stop = Stop()

    def ask(*_: Any) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
