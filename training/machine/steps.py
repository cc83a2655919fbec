"""What both trainers do around a step: count and tell it, refuse its loss, and save now and then."""

from collections.abc import Callable
from time import monotonic

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
