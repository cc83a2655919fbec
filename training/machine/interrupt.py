"""When a run writes its checkpoint between epochs, and how it is stopped in the middle of one."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from genesis_toolkit.training.pretrain.parameters import Execution


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


class Saving:
    """When the next checkpoint is due: so many steps or seconds after the last one."""

    def __init__(self, execution: Execution) -> None:
        self._steps, self._seconds = execution.save_steps, execution.save_seconds
        self.saved()

    def saved(self) -> None:
        """Count from here."""
        self._done, self._since = 0, monotonic()

    def due(self) -> bool:
        """Told after every step: whether to save now."""
        self._done += 1
        return self._done == self._steps or monotonic() - self._since >= self._seconds
