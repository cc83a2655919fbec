"""Stop a run on Ctrl-C or SIGTERM, even while a step is running, which may take a minute.

Python runs signal handlers between two of its own instructions, and a backward pass of torch is one
instruction: on a laptop, Ctrl-C went unanswered for 44 s. But the byte that Python writes into a pipe for
each signal (`signal.set_wakeup_fd`) arrives at once, and torch lets other threads run meanwhile, so a thread
that reads the pipe can respond.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from genesis_toolkit.training.machine.steps import Say

INTERRUPTED = 130
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_GRACE = 1.0  # seconds for the main thread to end tidily
_LEAVING = 2.0  # seconds for the process to exit after that
_CURSOR = "\x1b[?25h"  # shows the cursor again, which progress bars hide
_OVER = 0  # no signal has this number

_may_end: ContextVar[bool] = ContextVar("may_end", default=False)


class Stop:
    """Flag that the run has been asked to stop, which it does after the current step."""

    asked = False


@contextmanager
def process_may_end() -> Iterator[None]:
    """Allow a second signal to end the whole process if nothing else does: for commands, not notebooks."""
    before = _may_end.set(True)
    try:
        yield
    finally:
        _may_end.reset(before)


@contextmanager
def stop_on_signals(say: Say = lambda _: None) -> Iterator[Stop]:
    """Turn the first SIGTERM (sent by batch systems) or Ctrl-C into a request to stop, held by `Stop`.

    The second one interrupts at once. Outside the main thread signals cannot be handled, and nothing
    changes.

    Args:
        say: called from another thread as soon as the request arrives.
    """
    stop = Stop()

    def ask(*_: Any) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, ask) for number in _SIGNALS}
    try:
        with _answering(say):
            yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _answering(say: Say) -> Iterator[None]:
    """Respond to signals from a separate thread, however long the main thread is busy."""
    over = threading.Event()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    thread = threading.Thread(target=_answer, args=(reading, over, say, _may_end.get()), daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        over.set()
        os.write(writing, bytes([_OVER]))
        thread.join()
        os.close(reading)
        os.close(writing)


def _answer(reading: int, over: threading.Event, say: Say, may_end: bool) -> None:
    """Read signal numbers until `over`; the second request to stop ends the process."""
    came = 0
    while number := os.read(reading, 1)[0]:
        if number not in _SIGNALS:
            continue
        came += 1
        if came == 1:
            again = "; Ctrl-C again ends now" if number == signal.SIGINT else ""
            say(f"Stopping after this step{again}.")
        elif may_end:
            if not over.wait(_GRACE):
                _end(say)
            # Python waits for its threads before it exits, and one may be in a call as long as a step.
            leaving = threading.Timer(_LEAVING, os._exit, (INTERRUPTED,))
            leaving.daemon = True
            leaving.start()


def _end(say: Say) -> None:
    """End the process immediately. Files are written under other names and renamed, so none is cut short."""
    say("Ended within the step. Run the same command again to continue from the last checkpoint.")
    if sys.stderr.isatty():
        sys.stderr.write(_CURSOR)
        sys.stderr.flush()
    os._exit(INTERRUPTED)
