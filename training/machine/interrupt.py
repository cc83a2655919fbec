"""How a run is asked to stop: what Ctrl-C and SIGTERM do while a step is at work, which may take a minute.

Python runs its handlers between two of its own instructions, and a backward pass of torch is one: on a
laptop a Ctrl-C went unanswered for 44 s. But the byte that Python writes into a pipe for each signal
(`signal.set_wakeup_fd`) comes at once, and torch lets other threads work meanwhile, so a thread that reads
the pipe can answer.
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
_GRACE = 1.0  # seconds that the main thread has to end by itself, tidily
_LEAVING = 2.0  # seconds that the process has for its last words after that
_CURSOR = "\x1b[?25h"  # shows it again where bars have hidden it
_OVER = 0  # no signal has this number

_may_end: ContextVar[bool] = ContextVar("may_end", default=False)


class Stop:
    """Whether somebody has asked the run to stop. It does so after the step at work."""

    asked = False


@contextmanager
def process_may_end() -> Iterator[None]:
    """Let a second signal end the whole process where nothing else would: of a command, not of a notebook."""
    before = _may_end.set(True)
    try:
        yield
    finally:
        _may_end.reset(before)


@contextmanager
def stop_on_signals(say: Say = lambda _: None) -> Iterator[Stop]:
    """Take the first SIGTERM, as batch systems send it, or Ctrl-C for a wish that `Stop` holds.

    The second one interrupts at once, whatever is under way. Outside the main thread no signal can be taken,
    and nothing changes.

    Args:
        say: told at once that the wish has come, from another thread.
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
    """Answer signals from a thread of their own, however long the main thread is busy."""
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
    """Read the numbers of signals until it is over; the second one that asks to stop ends what goes on."""
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
            # Python waits for threads before it ends, and one may be in a call that takes as long as a step.
            leaving = threading.Timer(_LEAVING, os._exit, (INTERRUPTED,))
            leaving.daemon = True
            leaving.start()


def _end(say: Say) -> None:
    """End the process as it is. Files are written under other names and renamed, so none is cut short."""
    say("Ended within the step: the same command goes on from the last checkpoint.")
    if sys.stderr.isatty():
        sys.stderr.write(_CURSOR)
        sys.stderr.flush()
    os._exit(INTERRUPTED)
