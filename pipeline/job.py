"""A job runs the tasks that no earlier run has done, and records each as it finishes.

A task is a plain function of its item. It writes its own files and returns its record, JSON values that enter
the ledger once the files are on disk. A kill therefore loses only the tasks in progress, and the same call
runs whatever is missing.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Generic, TypeVar

from genesis_toolkit.pipeline.engine import Workers, counting, run
from genesis_toolkit.pipeline.ledger import Ledger

Item = TypeVar("Item")
Record = TypeVar("Record")

#: The ledger's record of a piece of work.
Facts = dict[str, Any]


def run_missing(
    workers: Workers,
    ledger: Ledger,
    what: str,
    tasks: Mapping[str, Item],
    make: Callable[[Item], Facts],
    *,
    is_true: Callable[[Item, Facts], bool] | None = None,
    suited: Callable[[Workers, Sequence[Item]], Workers] | None = None,
    on_record: Callable[[Facts], None] | None = None,
    lost: Callable[[Item], Facts] | None = None,
    chain: Callable[[Item], Hashable] | None = None,
    pieces: Callable[[Item], int] = lambda _: 1,
) -> None:
    """Run the missing tasks; afterwards `Ledger.records` has the record of every task.

    Args:
        workers, ledger: the workers, and the ledger of the work, held by this run.
        what: noun for the progress display.
        tasks: items by the names of their records, started in this order.
        make: runs a task and returns its record.
        is_true: checks whether an earlier record still holds; None: it always does.
        suited: chooses the kind of workers for the remaining work.
        on_record: receives every record, from this run or an earlier one, as tasks finish.
        lost: returns the record of a task that kills its process.
        chain: neighbouring tasks with equal keys run in order on one worker; each may query the ledger for
            those before it.
        pieces: number of `what` that a task makes.

    Raises:
        DataError: see `engine.run`.
    """
    names, left, done = ledger.names(), list[_Chain[Item]](), 0
    on_record = on_record or (lambda _: None)
    piece = _Piece(ledger, make, is_true)
    links = groupby(tasks.items(), key=lambda task: chain(task[1]) if chain else task[0])
    for chained in [tuple(group) for _, group in links]:
        for place, (name, item) in enumerate(chained):
            facts = piece.noted(name, item) if name in names else None
            if facts is None:
                left.append(chained[place:])
                break
            on_record(facts)
            done += pieces(item)
    count = counting(workers.progress, what, sum(map(pieces, tasks.values())), done)

    def finished(made: Sequence[tuple[str, Facts]]) -> None:
        for name, facts in made:
            on_record(facts)
            for _ in range(pieces(tasks[name])):
                count(facts)

    def died(chained: _Chain[Item]) -> Sequence[tuple[str, Facts]]:
        return [piece.note(name, lost(item)) for name, item in chained] if lost else ()

    if suited is not None:
        workers = suited(workers, [item for chained in left for _, item in chained])
    run(piece.make_all, left, finished=finished, workers=workers, lost=died if lost else None)


def run_all(
    workers: Workers,
    what: str,
    task: Callable[[Item], Record],
    items: Sequence[Item],
    finished: Callable[[Record], None],
    lost: Callable[[Item], Record] | None = None,
) -> None:
    """Run a task on every item, like `engine.run`, and count each in the progress of `what`."""
    count = counting(workers.progress, what, len(items), 0)

    def on_record(record: Record) -> None:
        finished(record)
        count(record)

    run(task, items, finished=on_record, workers=workers, lost=lost)


#: Tasks that one worker runs in order, with their names.
_Chain = tuple[tuple[str, Item], ...]


@dataclass(frozen=True)
class _Piece(Generic[Item]):
    """The way in which any process runs a task and records it."""

    ledger: Ledger
    make: Callable[[Item], Facts]
    is_true: Callable[[Item, Facts], bool] | None

    def noted(self, name: str, item: Item) -> Facts | None:
        """Return the record of a task if it still holds."""
        facts = self.ledger.recorded(name)
        if facts is None or not self.ledger.is_whole(name, facts):
            return None
        return facts if self.is_true is None or self.is_true(item, facts) else None

    def note(self, name: str, facts: Facts) -> tuple[str, Facts]:
        """Record the result of a task."""
        self.ledger.record(name, facts)
        return name, facts

    def make_all(self, chained: _Chain[Item]) -> Sequence[tuple[str, Facts]]:
        """Run the missing tasks of a chain; return the records of all its tasks."""
        made = []
        for name, item in chained:
            facts = self.noted(name, item)
            made.append((name, facts) if facts is not None else self.note(name, self.make(item)))
        return made
