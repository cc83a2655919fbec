"""Work of both trainers around a step: report it, refuse a loss that is not finite, and save checkpoints."""

from collections.abc import Callable
from time import monotonic

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.progress import Progress

#: Called with sentences for people: the losses of an epoch, a warning.
Say = Callable[[str], None]

#: Called after each step with its description.
Tick = Callable[[str], None]


def counting(report: Progress, prefix: str, total: int, done: int = 0) -> Tick:
    """Return a function that reports one more finished step out of `total`, starting after `done`."""

    def tick(what: str) -> None:
        nonlocal done
        done += 1
        report(prefix + what, done, total)

    return tick


def diverged(place: str, lr: float) -> DataError:
    """Return the error for a loss that is not finite, at `place` and with that learning rate."""
    return DataError(
        f"The loss is no longer finite in {place}. Start again with a lower learning rate, such as "
        f"--lr {lr / 10:g}, and another --out or --overwrite."
    )


class Saving:
    """Decides when the next checkpoint is due: some steps or seconds after the last; None for never."""

    def __init__(self, steps: int | None, seconds: float) -> None:
        self._steps, self._seconds = steps, seconds
        self.saved()

    def saved(self) -> None:
        """Start counting from here."""
        self._done, self._since = 0, monotonic()

    def due(self) -> bool:
        """Count a step, and return whether to save now."""
        self._done += 1
        return self._done == self._steps or monotonic() - self._since >= self._seconds
