"""How far the work is: told by a callback, and shown as bars on stderr to whoever asks for them."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from io import StringIO
from threading import Timer
from time import monotonic
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress as Display
    from rich.progress import TaskID

P = ParamSpec("P")
R = TypeVar("R")

#: Told as work goes on: what is being done, how many pieces are done, how many there are. Where there are
#: none at all (0, 0), the text is a message, to be shown once.
Progress = Callable[[str, int, int], None]


def silent(what: str, done: int, total: int) -> None:
    """Report nothing."""


#: Told what a call waits for, once that takes over a second, as an address that does not answer.
told_of_waiting: list[Callable[[str], None]] = []

#: Told the name of a kernel when it has to be compiled, since no earlier call on this machine did.
told_of_compiling: list[Callable[[str], None]] = []


@contextmanager
def waited_for(what: str, seconds: float = 1.0) -> Iterator[None]:
    """Tell those who asked for it what is waited for while the block runs, unless it is done at once."""

    def tell() -> None:
        for listener in told_of_waiting:
            listener(what)

    if not told_of_waiting:  # a thread less for every file
        yield
        return
    timer = Timer(seconds, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


_BAR, _LEAST_TEXT = 16, 12  # columns
_BESIDE_TEXT = 46  # of the spinner, the bar, a count of 99,999/99,999, the time left and the gaps


class _NotebookOutput:
    """The bars as one output of a notebook's cell, which is drawn anew in its place, and empty in the end.

    Without ipywidgets, rich would draw nothing in a notebook but a warning.
    """

    PAUSE = 0.25  # seconds between two drawings, however fast the work is reported

    def __init__(self) -> None:
        from IPython.display import display

        self._output = display({"text/plain": ""}, raw=True, display_id=True)
        self._drawn = monotonic()

    def draw(self, bars: "Display") -> None:
        """Draw the bars, unless they have just been drawn."""
        from rich.console import Console

        if monotonic() < self._drawn + self.PAUSE:
            return
        paper = Console(file=StringIO(), width=80, force_jupyter=False, color_system=None)
        with paper.capture() as drawing:
            paper.print(bars.get_renderable())
        self._output.update({"text/plain": drawing.get().rstrip()}, raw=True)
        self._drawn = monotonic()

    def clear(self) -> None:
        """Leave nothing behind."""
        self._output.update({"text/plain": ""}, raw=True)


class Bars:
    """A bar for each kind of work that is reported, shown while the `with` block runs.

    It is a `Progress` callback itself. Nothing is drawn where stderr is neither a terminal nor a notebook.
    """

    _only = ""  # the name of the bar, where there is one for all

    def __enter__(self) -> Self:
        from rich import progress
        from rich.console import Console
        from rich.table import Column

        console = Console(stderr=True)
        # The text gives way, never the count and the time.
        room = max(_LEAST_TEXT, console.width - _BESIDE_TEXT)
        self._bars = progress.Progress(
            progress.SpinnerColumn(),  # moves where the first piece takes long, as kernels are compiled
            progress.TextColumn("{task.description}", table_column=Column(no_wrap=True, max_width=room)),
            progress.BarColumn(_BAR),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._counts: dict[str, tuple[int, int]] = {}
        self._notebook = _NotebookOutput() if console.is_jupyter else None
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._bars.stop()
        if self._notebook:
            self._notebook.clear()
        if kind is not None and issubclass(kind, KeyboardInterrupt) and self._counts:
            left = {what: count for what, count in self._counts.items() if count[0] < count[1]}
            what, (done, total) = (left or self._counts).popitem()
            self.say(f"{what}: {done:,} of {total:,} done")

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` pieces of `what` are done; of none, print `what` above the bars."""
        if not total:
            self.say(what)
            return
        bar = self._only or what
        if bar not in self._tasks:
            self._tasks[bar] = self._bars.add_task(what, total=total)
        self._bars.update(self._tasks[bar], description=what, completed=done, total=total)
        if self._notebook:
            self._notebook.draw(self._bars)
        if not self._only:
            self._counts.pop(what, None)  # the latest stands last
            self._counts[what] = done, total

    def say(self, sentence: str) -> None:
        """Print a line above the bar, or plainly where there is none."""
        self._bars.console.print(sentence, markup=False, highlight=False, emoji=False, soft_wrap=True)


class TrainingBars(Bars):
    """One bar for all epochs, whose text, with the loss in it, changes at every step."""

    _only = "steps"


def callback(progress: Progress | bool) -> Progress:
    """Return what the work reports to: the callback itself, or nobody."""
    return progress if callable(progress) else silent


def shows(bars: Callable[[], AbstractContextManager[Progress]]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function show `bars` while it runs when it is called with `progress=True`.

    Args:
        bars: makes the bars, which are a callback themselves.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def called(*args: P.args, **options: P.kwargs) -> R:
            if options.get("progress") is not True:
                return function(*args, **options)
            with bars() as shown:
                options["progress"] = shown
                return function(*args, **options)

        return called

    return decorate
