"""Every item once, whatever runs it; errors and Ctrl-C reach the caller; nobody is left behind."""

import functools
import io
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import dask
import pytest
from rich.console import Console
from support.scans import extract_call, gone
from support.tasks import die_at_3, fail_at_3, listening, nap, process_of, square

from genesis_toolkit.pipeline import engine, local_cluster
from genesis_toolkit.pipeline.engine import Workers, batch_size, counting, processes_pay, run
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.progress import TrainingBars

THREADS, PROCESSES = Workers(2), Workers(2, processes=True)
BOTH = pytest.mark.parametrize("workers", [THREADS, PROCESSES], ids=["threads", "processes"])


@pytest.mark.parametrize("workers", [1, 3, Workers(1, processes=True), Workers(3, processes=True)])
def test_every_item_is_done_once(workers: Workers | int) -> None:
    records: list[tuple[int, int]] = []
    run(square, range(300), workers=workers, finished=records.append)
    assert sorted(records) == [(n, n * n) for n in range(300)]
    run(square, [], workers=workers, finished=records.append)
    assert len(records) == 300


def test_processes_are_other_processes_and_records_arrive_here() -> None:
    processes: set[int] = set()
    threads: set[str] = set()

    def finished(process: int) -> None:
        processes.add(process)
        threads.add(threading.current_thread().name)

    run(process_of, range(4), workers=PROCESSES, finished=finished)
    assert len(processes) == 2, "two processes share four tasks"
    assert os.getpid() not in processes
    assert threads == {threading.current_thread().name}


def test_threads_are_given_what_no_process_could_be() -> None:
    held, records = threading.Lock(), list[object]()

    def take(number: int) -> tuple[object, int]:
        with held:
            return held, number

    run(take, range(20), workers=2, finished=records.append)
    assert sorted(records, key=str) == sorted([(held, number) for number in range(20)], key=str)
    assert not engine._held


@pytest.mark.parametrize("workers", [1, THREADS, PROCESSES])
def test_an_error_is_raised_here(workers: Workers | int) -> None:
    with pytest.raises(ValueError, match="three"):
        run(fail_at_3, range(5), workers=workers, finished=lambda _: None)


def test_items_are_begun_in_order() -> None:
    begun: list[int] = []
    run(begun.append, range(500), workers=2, finished=lambda _: None)
    assert sorted(begun) == list(range(500))
    assert all(abs(place - number) < 50 for place, number in enumerate(begun))


def test_no_more_are_handed_out_than_keep_everyone_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = most = done = 0
    begin = engine._Hands.begin

    def counted(hands: engine._Hands, *call: object) -> object:
        nonlocal tasks, most
        tasks += 1
        most = max(most, sum(map(len, engine._held.values())))
        return begin(hands, *call)  # type: ignore[arg-type]

    def finished(_: object) -> None:
        nonlocal done
        done += 1

    monkeypatch.setattr(engine._Hands, "begin", counted)
    run(square, range(10_000), workers=2, finished=finished)
    assert done == 10_000
    assert most <= 2
    assert tasks < 1000, "short ones go together"


@pytest.mark.parametrize(
    ("before", "seconds", "waiting", "size"),
    [
        (1, 3.0, 1000, 1),  # a scan
        (1, 0.01, 1000, 2),  # an image: two, then four ..
        (16, 0.01, 100_000, 25),  # .. up to a quarter of a second
        (256, 0.0, 100_000, 256),
        (32, 0.01, 160, 10),  # of the last ones each has a share
        (32, 0.01, 0, 1),
        (256, 3.0, 1000, 1),
    ],
)
def test_short_items_go_to_a_worker_together(before: int, seconds: float, waiting: int, size: int) -> None:
    assert batch_size(before, seconds, waiting, workers=2) == size


def test_a_task_that_ends_its_process_costs_itself_alone() -> None:
    records: list[tuple[int, int]] = []
    run(die_at_3, range(40), workers=PROCESSES, finished=records.append, lost=lambda n: (n, -1))
    assert sorted(records) == [(n, -1 if n == 3 else n * n) for n in range(40)]


@pytest.mark.full
def test_where_no_worker_comes_up_again_others_are_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """dask gives a worker up where its start fails; here it never tries."""

    async def give_up(*_: object) -> None:
        pass

    monkeypatch.setattr("distributed.nanny.Nanny._on_worker_exit", give_up)
    monkeypatch.setitem(local_cluster._CONFIGURATION["scheduler"], "no-workers-timeout", "1s")
    records: list[tuple[int, int]] = []
    run(die_at_3, range(8), workers=PROCESSES, finished=records.append, lost=lambda n: (n, -1))
    assert sorted(records) == [(n, -1 if n == 3 else n * n) for n in range(8)]


def test_where_nothing_is_known_of_lost_tasks_the_run_ends_with_a_sentence() -> None:
    with pytest.raises(DataError, match=r"A worker died, most likely.*the same command again"):
        run(die_at_3, range(8), workers=PROCESSES, finished=lambda _: None)


@BOTH
def test_an_interruption_ends_the_workers_at_once(workers: Workers) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # nobody waits for an hour
        run(nap, [0.0, 3600.0, 3600.0], workers=workers, finished=interrupt)
    assert not engine._held
    for process in multiprocessing.active_children():
        process.join(60)
    assert not multiprocessing.active_children(), "nobody sleeps on for an hour"


NAPS = """\
import sys
sys.path.insert(0, {tests!r})
from support.tasks import nap
from genesis_toolkit.pipeline.engine import Workers, run
if __name__ == "__main__":
    def progress(what, done, total):
        print(what, done, flush=True)
    try:
        workers = Workers(2, {processes}, progress=progress)
        run(nap, [0.0, 3600.0, 3600.0], workers=workers, finished=lambda _: print("finished", flush=True))
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.full
@pytest.mark.parametrize("moment", ["starting", "finished"])
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
@BOTH
def test_a_program_that_is_ended_leaves_nobody_behind_and_says_nothing(
    workers: Workers, sent: signal.Signals, moment: str
) -> None:
    """While its workers start and while they work; Ctrl-C goes to all of them, SIGKILL to the program."""
    code = NAPS.format(tests=str(Path(__file__).parent), processes=workers.processes)
    program = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )
    assert program.stdout
    assert any(line.startswith(moment) for line in iter(program.stdout.readline, ""))
    time.sleep(0.5 if moment == "starting" else 0)
    begun = time.monotonic()
    if sent == signal.SIGINT:
        os.killpg(program.pid, sent)
    else:
        os.kill(program.pid, sent)
    error = program.communicate()[1]
    gone(program.pid)
    assert program.returncode == (130 if sent == signal.SIGINT else -sent), error
    if sent == signal.SIGINT:
        assert error == ""
        assert time.monotonic() - begun < 60, "nobody is waited for"


@BOTH
def test_nothing_is_heard_of_dask(workers: Workers) -> None:
    """Not of errors, nor of a process that dies and one that takes its place, nor of the end."""
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from support.tasks import die_at_3, fail_at_3
from genesis_toolkit.pipeline.engine import Workers, run
if __name__ == "__main__":
    workers = Workers(2, {workers.processes})
    if workers.processes:
        run(die_at_3, range(8), workers=workers, finished=lambda _: None, lost=lambda n: (n, -1))
    try:
        run(fail_at_3, range(5), workers=workers, finished=lambda _: None)
    except ValueError:
        print("raised")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "raised\n", "")


@BOTH
def test_no_port_is_open_to_other_machines(workers: Workers) -> None:
    open_to: list[str] = []

    def finished(there: list[str]) -> None:
        open_to.extend([*there, *listening(0)])

    run(listening, range(2), workers=workers, finished=finished)
    assert open_to, "the scheduler's, at least"
    assert {place.partition(":")[0] for place in open_to} == {"0100007F"}  # 127.0.0.1


@BOTH
def test_where_ports_are_forbidden_it_says_so_and_what_works(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(one: socket.socket, *_: object) -> None:
        one.close()
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(socket.socket, "bind", forbidden)
    with pytest.raises(CallError, match=r"127\.0\.0\.1.*--workers 1"):
        run(square, range(3), workers=workers, finished=lambda _: None)
    run(square, range(3), workers=1, finished=lambda _: None)


def test_the_user_is_told_what_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bokeh")
    pages: list[str] = []

    def progress(what: str, done: int, total: int) -> None:
        told.append((what.partition(" at ")[0], done, total))
        pages.extend([what.partition(" at ")[2]] if " at " in what else [])

    def look(_: object) -> None:
        for page in pages:
            with urllib.request.urlopen(page) as answer:
                assert answer.status == 200
                assert "Dask" in answer.read().decode()

    for watched in (True, False):
        told: list[tuple[str, int, int]] = []
        monkeypatch.setattr(local_cluster, "_is_watched", lambda watched=watched: watched)
        run(square, range(2), workers=Workers(2, progress=progress), finished=look if watched else id)
        message = [("dask shows the work", 0, 0)] if watched else []
        assert told == [("starting 2 worker threads", 0, 1), ("starting 2 worker threads", 1, 1), *message]
    assert len(pages) == 1
    told = []
    run(square, range(2), workers=Workers(1, progress=progress), finished=id)
    assert told == []


def test_a_user_s_own_dask_is_left_alone_and_changes_nothing() -> None:
    before = dict(os.environ)
    theirs = {"distributed.worker.preload": ["no.such.module"], "distributed.scheduler.allowed-failures": 7}
    with dask.config.set(theirs):
        run(process_of, range(2), workers=PROCESSES, finished=lambda _: None)
        assert {key: dask.config.get(key) for key in theirs} == theirs
    assert dict(os.environ) == before


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("command", ["extract-cubes", "degrade"])
def test_dask_is_loaded_by_commands_with_several_workers(
    luna16: Path, cube_store: Path, tmp_path: Path, command: str, workers: int
) -> None:
    words = extract_call(luna16, tmp_path / "out.zarr")
    if command == "degrade":
        words = [*words[:4], command, str(cube_store), str(tmp_path / "out.zarr"), "--variants", "4"]
    words[2] = f"import atexit, sys; atexit.register(lambda: print('dask' in sys.modules))\n{words[2]}"
    words += ["--workers", str(workers)]
    done = subprocess.run(words, capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.splitlines()[-1] == str(workers > 1)


@pytest.mark.parametrize(
    ("seconds", "workers", "pay"),
    [(0.0, 2, False), (5.0, 2, False), (7.0, 2, True), (4.0, 8, True), (1000.0, 1, False)],
)
def test_processes_pay_where_they_save_more_than_their_start(seconds: float, workers: int, pay: bool) -> None:
    assert processes_pay(seconds, workers) == pay
    assert Workers(workers).for_seconds(seconds) == (Workers(workers, processes=True) if pay else Workers(1))


@pytest.mark.parametrize(
    ("seconds", "workers", "count"), [(0.0, 2, 1), (1.9, 2, 1), (2.1, 2, 2), (1.2, 8, 8), (1000.0, 1, 1)]
)
def test_threads_pay_where_they_save_more_than_their_start(seconds: float, workers: int, count: int) -> None:
    assert Workers(workers).for_free_seconds(seconds) == Workers(count)
    found = Workers(workers, client=object())
    assert found.for_free_seconds(seconds) is found


def test_of_nothing_nothing_is_counted() -> None:
    told: list[tuple[str, int, int]] = []
    counting(lambda *one: told.append(one), "scans", 0, 0)
    assert told == []


def test_a_bar_keeps_its_count_however_long_its_text_is(monkeypatch: pytest.MonkeyPatch) -> None:
    paper = io.StringIO()
    monkeypatch.setattr("rich.console.Console", functools.partial(Console, width=80, force_terminal=False))
    text = "genesis-ct-3d on nodules, seed 3, epoch 12, loss 0.01234, about 12 min left of the whole run"
    with TrainingBars() as bars:
        bars(text, 1234, 99_999)
        Console(file=paper, width=80).print(bars._bars.get_renderable())
        for done in (99_999, 1, 2):
            bars("epoch 2", done, 99_999)
        assert not bars._bars.tasks[0].finished, "a full bar is not full in the next epoch"
    (line,) = paper.getvalue().splitlines()
    assert len(line) <= 80
    assert text[:20] in line
    assert "1234/99999 -:--:--" in line
