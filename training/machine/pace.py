"""Sentences that a run prints before its first step and after its second: device and expected duration."""

from collections.abc import Callable
from time import perf_counter

from genesis_toolkit.pipeline.wording import counted, duration
from genesis_toolkit.training.machine.steps import Say

_VALIDATING = 1 / 3  # time of a validation batch, which has no backward pass, relative to a training step
_LONG = 600.0  # seconds per epoch above which few users wait for the first picture
_LEAST_WIDTH = 8  # narrower networks hardly learn
_TIMED = 2  # steps
_FAR_OFF = 1.5  # by this factor; then the announcement is corrected after an epoch

# Speed-up when the width is halved. Measured on one core, batches of 6: 50.1, 15.0 and
# 4.2 s a step for widths 32, 16 and 8 of unet3d; 1.72, 0.49, 0.21 and 0.15 s for 64, 32, 16 and 8 of unet2d.
_HALF_WIDTH = {3: 3.4, 2: 2.2}


def network_words(name: str, width: int, weights: int) -> str:
    """Return the network in words: `unet3d of width 32 (19,073,665 parameters, 73 MiB)`."""
    return f"{name} of width {width} ({weights:,} parameters, {4 * weights / 2**20:,.1f} MiB)"


def narrower(width: int, axes: int, seconds: float = 0.0) -> tuple[int, float]:
    """Return the largest of half the width, a quarter and so on whose epochs take at most ten minutes.

    Args:
        width: channels of the first convolution.
        axes: axes of a cube, 2 or 3.
        seconds: duration of an epoch with that width; 0 if unknown.

    Returns:
        The width and the speed-up of a step. The width is 8 if even that takes longer, or if the duration is
        unknown. The same width and 1 if an epoch is short enough.
    """
    factor = 1.0
    while width >= 2 * _LEAST_WIDTH and not 0 < seconds <= factor * _LONG:
        width, factor = width // 2, factor * _HALF_WIDTH[axes]
    return width, factor


class Pace:
    """Announces after two steps how long an epoch and the whole run will take; corrects it after an epoch.

    Args:
        say: called with the announcement.
        steps: steps per epoch.
        validation: batches that this process validates after every epoch.
        epochs: epochs left at most.
        advise: returns further advice for the seconds per epoch; empty for none.
    """

    def __init__(
        self, say: Say, steps: int, validation: int, epochs: int, advise: Callable[[float], str]
    ) -> None:
        self._say, self._steps, self._epochs, self._advise = say, steps, epochs, advise
        self._batches = steps + validation * _VALIDATING
        self._ends: list[float] = []
        self._count = 0

    def step(self) -> None:
        """Count a finished step."""
        self._count += 1
        if self._count <= _TIMED:
            self._ends.append(perf_counter())
        if self._count == _TIMED:
            step = self._ends[1] - self._ends[0]  # the first may include compilation and kernel selection
            self._announce("A step takes", step)
            if advice := self._advise(step * self._batches):
                self._say(advice)
        elif _TIMED < self._count == self._steps and self._epochs > 1:
            announced = self._ends[1] - self._ends[0]
            mean = (perf_counter() - self._ends[0]) / (self._steps - 1)
            if not announced / _FAR_OFF <= mean <= announced * _FAR_OFF:
                self._announce("Over the first epoch, a step took", mean)

    def _announce(self, begin: str, step: float) -> None:
        epoch = step * self._batches
        took = f"{step:.2g} s" if step < 10 else duration(step)
        left = f"{counted(self._epochs, 'epoch')} {duration(epoch * self._epochs)}"
        self._say(f"{begin} {took}, an epoch with validation about {duration(epoch)}, {left} at most.")
