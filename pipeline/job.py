"""One job: run the tasks that no earlier run has done, and record each as it is done.

A task is a plain function of its item. It writes its own files and returns what is to be noted of them, JSON
values, which stand in the ledger once the files are on the disk. So a kill loses the tasks under way and no
others, and the same call runs what is missing.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Generic, TypeVar

from genesis_toolkit.pipeline.engine import Workers, counting, run
from genesis_toolkit.pipeline.ledger import Ledger

Item = TypeVar("Item")
Record = TypeVar("Record")

#: What the ledger notes of a piece of work.
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
    told: Callable[[Facts], None] | None = None,
    lost: Callable[[Item], Facts] | None = None,
    chain: Callable[[Item], Hashable] | None = None,
    pieces: Callable[[Item], int] = lambda _: 1,
) -> None:
    """Do what no earlier run has done; `Ledger.records` then has what is noted of every task.

    Args:
        workers, ledger: who does it, and the ledger of the work, held by this run.
        what: is made, for the progress.
        tasks: by the names of their records, begun in this order.
        make: does a task, and says what is to be noted of it.
        is_true: whether what an earlier run noted of a task is still true; None: it always is.
        suited: the kind of workers that suits what is left to do.
        told: what was noted of every task, before this run or in it, in the order in which they finish.
        lost: what is to be noted of a task that ends the process it runs in.
        chain: tasks next to one another for which this is equal are done in order, by one worker; each may
            ask the ledger about those before it.
        pieces: how many of `what` a task makes.

    Raises:
        DataError: as `engine.run`.
    """
    names, left, done = ledger.names(), list[_Chain[Item]](), 0
    told = told or (lambda _: None)
    piece = _Piece(ledger, make, is_true)
    links = groupby(tasks.items(), key=lambda task: chain(task[1]) if chain else task[0])
    for chained in [tuple(group) for _, group in links]:
        for place, (name, item) in enumerate(chained):
            facts = piece.noted(name, item) if name in names else None
            if facts is None:
                left.append(chained[place:])
                break
            told(facts)
            done += pieces(item)
    count = counting(workers.progress, what, sum(map(pieces, tasks.values())), done)

    def finished(made: Sequence[tuple[str, Facts]]) -> None:
        for name, facts in made:
            told(facts)
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
    """Run a task on every item, as `engine.run` does, and report each as one more of `what`."""
    count = counting(workers.progress, what, len(items), 0)

    def told(record: Record) -> None:
        finished(record)
        count(record)

    run(task, items, finished=told, workers=workers, lost=lost)


#: Tasks that one worker does in order, with their names.
_Chain = tuple[tuple[str, Item], ...]


@dataclass(frozen=True)
class _Piece(Generic[Item]):
    """How a task is done and noted, in whatever process."""

    ledger: Ledger
    make: Callable[[Item], Facts]
    is_true: Callable[[Item, Facts], bool] | None

    def noted(self, name: str, item: Item) -> Facts | None:
        """What was noted of a task, if that is still true."""
        facts = self.ledger.recorded(name)
        if facts is None or not self.ledger.is_whole(name, facts):
            return None
        return facts if self.is_true is None or self.is_true(item, facts) else None

    def note(self, name: str, facts: Facts) -> tuple[str, Facts]:
        """Note what came of a task."""
        self.ledger.record(name, facts)
        return name, facts

    def make_all(self, chained: _Chain[Item]) -> Sequence[tuple[str, Facts]]:
        """Do what is missing of a chain; what is noted of all of it."""
        made = []
        for name, item in chained:
            facts = self.noted(name, item)
            made.append((name, facts) if facts is not None else self.note(name, self.make(item)))
        return made
