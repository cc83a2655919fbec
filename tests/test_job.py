"""What an earlier run has done, and what is still true, is not done again; all else is, and is counted."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from support.tasks import record_or_die_at_2

from genesis_toolkit.pipeline.engine import Workers
from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.job import Facts, run_all, run_missing
from genesis_toolkit.pipeline.ledger import Ledger, hold

TEN = {f"n{number}": number for number in range(10)}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with hold(tmp_path / "store", {}, overwrite=False) as held:
        yield held


def squared(number: int) -> Facts:
    return {"square": number * number, "process": os.getpid()}


def squares(ledger: Ledger) -> list[int]:
    return [record["square"] for record in ledger.records(TEN)]


def test_only_what_is_missing_or_no_longer_true_is_done(ledger: Ledger) -> None:
    ledger.record("n3", {"square": 9})
    ledger.record("n4", {"square": 17})
    made, told, seen = [], [], []

    def make(number: int) -> Facts:
        made.append(number)
        return squared(number)

    run_missing(
        Workers(1, progress=lambda *news: told.append(news)),
        ledger,
        "squares",
        TEN,
        make,
        is_true=lambda number, facts: facts["square"] == number**2,
        on_record=lambda facts: seen.append(facts["square"]),
    )
    assert made == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert squares(ledger) == [n * n for n in range(10)]
    assert sorted(seen) == squares(ledger)
    assert told == [("squares", done, 10) for done in range(1, 11)]
    run_missing(Workers(1), ledger, "squares", TEN, make)
    assert len(made) == 9


def test_processes_and_threads_leave_the_same_records(ledger: Ledger) -> None:
    run_missing(Workers(2), ledger, "squares", TEN, squared)
    assert {record["process"] for record in ledger.records(TEN)} == {os.getpid()}
    before = squares(ledger)
    never = partial(bool, False)
    run_missing(
        Workers(2),
        ledger,
        "squares",
        TEN,
        squared,
        is_true=lambda *_: never(),
        suited=lambda workers, left: Workers(1) if len(left) == 10 else workers,
    )
    assert squares(ledger) == before == [n * n for n in range(10)]


def summed(ledger: Ledger, number: int) -> Facts:
    """The sum of the numbers up to this one in its chain of five, from the record of the one before."""
    before = ledger.recorded(f"n{number - 1}") if number % 5 else None
    return {"square": number + (before["square"] if before else 0)}


def fits(ledger: Ledger, number: int, facts: Facts) -> bool:
    return facts == summed(ledger, number)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_chain_is_done_in_order_from_the_first_that_is_not_true(ledger: Ledger, workers: int) -> None:
    expected = [0, 1, 3, 6, 10, 5, 11, 18, 26, 35]
    for name, total in {"n0": 0, "n1": 7, "n2": 9, "n5": 5, "n6": 11}.items():
        ledger.record(name, {"square": total})
    news: list[tuple[str, int, int]] = []
    run_missing(
        Workers(workers, progress=lambda *told: news.append(told)),
        ledger,
        "sums",
        TEN,
        partial(summed, ledger),
        is_true=partial(fits, ledger),
        chain=lambda number: number // 5,
    )
    assert squares(ledger) == expected
    sums = [done for what, done, _ in news if what == "sums"]
    assert sums == list(range(3, 11))  # n0, n5 and n6 were true


def test_a_task_may_make_several_pieces(ledger: Ledger) -> None:
    news: list[tuple[str, int, int]] = []
    ledger.record("n9", {})
    workers = Workers(1, progress=lambda *told: news.append(told))
    run_missing(workers, ledger, "pieces", TEN, squared, pieces=lambda number: number)
    assert news[0] == ("pieces", 9, 45)
    assert news[-1] == ("pieces", 45, 45)


def test_an_error_ends_the_run_and_what_is_done_stays(ledger: Ledger) -> None:
    def make(number: int) -> Facts:
        if number == 4:
            raise DataError("four")
        return squared(number)

    with pytest.raises(DataError, match="four"):
        run_missing(Workers(1), ledger, "squares", TEN, make)
    assert ledger.names() == {"n0", "n1", "n2", "n3"}
    with pytest.raises(RuntimeError, match=r"n4 of .* was never finished"):
        list(ledger.records(TEN))


def nothing(number: int) -> Facts:
    return {"square": -number}


def test_a_task_that_ends_its_process_is_noted_as_lost(ledger: Ledger) -> None:
    four = {f"n{number}": number for number in range(4)}
    workers = Workers(2, processes=True)
    run_missing(workers, ledger, "squares", four, record_or_die_at_2, lost=nothing)
    assert [record["square"] for record in ledger.records(four)] == [0, 1, -2, 9]


def test_run_all_hands_every_record_over_and_counts() -> None:
    news, records = [], []
    workers = Workers(1, progress=lambda *told: news.append(told))
    run_all(workers, "numbers", lambda number: number + 1, range(3), records.append)
    assert records == [1, 2, 3]
    assert news == [("numbers", done, 3) for done in range(4)]
