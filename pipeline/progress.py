"""Reports progress through a callback, and shows it as bars on stderr on request."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from io import StringIO
from threading import Timer
from time import monotonic
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

from genesis_toolkit.pipeline.wording import wrapped

if TYPE_CHECKING:
    from rich.progress import Progress as Display
    from rich.progress import TaskID

P = ParamSpec("P")
R = TypeVar("R")

#: A progress callback: a noun for the work, pieces done, and pieces in total. If both numbers are 0, the text
#: is a message to be shown once.
Progress = Callable[[str, int, int], None]


def silent(what: str, done: int, total: int) -> None:
    """Ignore all reports."""


#: Listeners that hear about a wait of over a second, for example for a server that does not respond.
told_of_waiting: list[Callable[[str], None]] = []

#: Listeners that hear the name of a kernel before it is compiled, that is, if it is not cached.
told_of_compiling: list[Callable[[str], None]] = []


@contextmanager
def waited_for(what: str, seconds: float = 1.0) -> Iterator[None]:
    """Notify the listeners of `what` is awaited if the block takes longer than `seconds`."""

    def tell() -> None:
        for listener in told_of_waiting:
            listener(what)

    if not told_of_waiting:  # saves a thread per file
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
_BESIDE_TEXT = 46  # columns of the spinner, the bar, a count of 99,999/99,999, the time left and the gaps


class _NotebookOutput:
    """Bars as one output of a notebook cell, redrawn in place and cleared at the end.

    Without ipywidgets, rich shows only a warning in a notebook.
    """

    PAUSE = 0.25  # least number of seconds between two drawings

    def __init__(self) -> None:
        from IPython.display import display

        self._output = display({"text/plain": ""}, raw=True, display_id=True)
        self._drawn = monotonic()

    def draw(self, bars: "Display") -> None:
        """Draw the bars, unless they were just drawn."""
        from rich.console import Console

        if monotonic() < self._drawn + self.PAUSE:
            return
        paper = Console(file=StringIO(), width=80, force_jupyter=False, color_system=None)
        with paper.capture() as drawing:
            paper.print(bars.get_renderable())
        self._output.update({"text/plain": drawing.get().rstrip()}, raw=True)
        self._drawn = monotonic()

    def clear(self) -> None:
        """Clear the output."""
        self._output.update({"text/plain": ""}, raw=True)


class Bars:
    """One bar for each kind of reported work, shown while the `with` block runs.

    The object is itself a `Progress` callback. Nothing is drawn unless stderr is a terminal or a notebook.
    """

    _only = ""  # name of the bar if a single one serves all work

    def __enter__(self) -> Self:
        from rich import progress
        from rich.console import Console
        from rich.table import Column

        console = Console(stderr=True)
        # Long text is cut before the count and the time are.
        room = max(_LEAST_TEXT, console.width - _BESIDE_TEXT)
        self._bars = progress.Progress(
            progress.SpinnerColumn(),  # moves during a long first piece, such as compiling kernels
            progress.TextColumn("{task.description}", table_column=Column(no_wrap=True, max_width=room)),
            progress.BarColumn(_BAR),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(),
            speed_estimate_period=600.0,  # seconds; no time left is shown if a piece takes longer
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._counts: dict[str, tuple[int, int]] = {}
        self._done: dict[str, int] = {}
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
        """Show that `done` of `total` pieces of `what` are done; if both are 0, print `what`."""
        if not total:
            self.say(what)
            return
        bar = self._only or what
        if bar not in self._tasks:
            self._tasks[bar] = self._bars.add_task(what, total=total)
        elif done < self._done[bar]:  # the next epoch; a bar that was once full would show no time left
            self._bars.reset(self._tasks[bar])
        self._done[bar] = done
        self._bars.update(self._tasks[bar], description=what, completed=done, total=total)
        if self._notebook:
            self._notebook.draw(self._bars)
        if not self._only:
            self._counts.pop(what, None)  # the latest goes last
            self._counts[what] = done, total

    def say(self, sentence: str) -> None:
        """Print a line above the bar, wrapped at words, or plainly if there is no bar."""
        console = self._bars.console
        if console.is_terminal:  # rich itself would break a path that is longer than a line
            sentence = wrapped(sentence, console.width)
        console.print(sentence, markup=False, highlight=False, emoji=False, soft_wrap=True)


class TrainingBars(Bars):
    """A single bar for all epochs; its text, which includes the loss, changes at every step."""

    _only = "steps"


def callback(progress: Progress | bool) -> Progress:
    """Return the progress callback itself, one that draws bars, or one that ignores reports."""
    return progress if callable(progress) else silent


def shows(bars: Callable[[], AbstractContextManager[Progress]]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function show `bars` when it is called with `progress=True`.

    Args:
        bars: creates the bars, which are themselves a callback.
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
