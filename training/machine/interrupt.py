"""How a run is stopped in the middle of an epoch."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


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
