"""Progress bars on stderr, none where stderr is no terminal; what was done, where a run is interrupted."""

from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import TaskID


class Progress:
    """A bar for each kind of work that is reported, shown while the `with` block runs.

    Calling it is the library's `Progress`: what is being done, how many pieces are done, how many there are;
    of none at all, a message.
    """

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        console = Console(stderr=True)
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._counts: dict[str, tuple[int, int]] = {}
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()
        if kind is not None and issubclass(kind, KeyboardInterrupt) and self._counts:
            left = {what: count for what, count in self._counts.items() if count[0] < count[1]}
            what, (done, total) = (left or self._counts).popitem()
            self.say(f"{what}: {done:,} of {total:,} done")

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` pieces of `what` are done; of none, print `what` above the bars."""
        if not total:
            self._tell(what)
            return
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total)
        self._bars.update(self._tasks[what], completed=done, total=total)
        self._counts.pop(what, None)  # the latest stand last
        self._counts[what] = done, total

    def _tell(self, message: str) -> None:
        if self._bars.console.is_terminal:
            self.say(message)

    def say(self, sentence: str) -> None:
        """Print a line above the bar, or plainly where there is none."""
        self._bars.console.print(sentence, markup=False, highlight=False, emoji=False, soft_wrap=True)


class TrainingProgress(Progress):
    """One bar for all epochs, whose text, with the loss in it, changes at every step."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that `done` of the epoch's `total` steps are done; of none, print `what` above the bars."""
        if not total:
            self._tell(what)
            return
        if not self._tasks:
            self._tasks["steps"] = self._bars.add_task(what, total=total)
        self._bars.update(self._tasks["steps"], description=what, completed=done, total=total)
