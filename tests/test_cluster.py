"""A real dask scheduler with real workers on loopback gives the bytes of one process, whoever dies."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.folders import TESTS
from support.scans import POISON, SMALL, extract_call

from genesis_toolkit.pipeline import engine
from genesis_toolkit.pipeline.cubes.extract import extract_cubes
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import read_manifest, unfinished
from genesis_toolkit.pipeline.pairs.degrade import DegradeParameters, degrade_cubes
from genesis_toolkit.pipeline.targets.extract import extract_targets
from genesis_toolkit.pipeline.targets.parameters import MaskParameters


class Dask:
    """A scheduler and its workers, each a process group of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "scheduler.json"
        self.processes: list[subprocess.Popen[bytes]] = []
        # `interface` of the scheduler file is loopback's, so nothing leaves the machine.
        words = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(self.file)]
        self.scheduler = self.start("dask_scheduler", *words)
        self.wait(self.file.exists)

    def start(self, module: str, *words: str, **environment: str) -> "subprocess.Popen[bytes]":
        call = [sys.executable, "-m", f"distributed.cli.{module}", *words]
        environment = {**os.environ, "PYTHONPATH": str(TESTS), **environment}
        with (self.folder / f"{module}-{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                call, cwd=self.folder, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        self.processes.append(process)
        return process

    def work(self, **environment: str) -> "subprocess.Popen[bytes]":
        """Start a worker with one thread, which is not restarted when it dies."""
        words = ["--scheduler-file", str(self.file), "--nthreads", "1", "--no-nanny", "--no-dashboard"]
        return self.start(
            "dask_worker", *words, "--host", "127.0.0.1", "--local-directory", str(self.folder), **environment
        )

    def wait(self, condition: object) -> None:
        while not condition():  # type: ignore[operator] # any callable
            assert all(process.poll() is None for process in self.processes), self.logs()
            time.sleep(0.05)

    def logs(self) -> str:
        return "".join(path.read_text(errors="replace") for path in self.folder.glob("*.log"))

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def running(folder: Path, workers: int) -> Iterator[Dask]:
    folder.mkdir()
    dask = Dask(folder)
    try:
        for _ in range(workers):
            dask.work()
        dask.wait(lambda: engine.workers_of(str(dask.file)) == max(1, workers))
        yield dask
    finally:
        dask.end()


def recorded(target: Path) -> int:
    return len(list((unfinished(target) / "done").glob("[!.]*.json")))


@pytest.mark.full
def test_a_cluster_gives_the_bytes_that_one_process_gives(twelve_scans: Path, tmp_path: Path) -> None:
    alone, pairs = tmp_path / "alone.zarr", tmp_path / "pairs.zarr"
    extract_cubes(twelve_scans, alone, SMALL, workers=1)
    degrade_cubes(alone, pairs, DegradeParameters(variants=3), workers=1)
    with running(tmp_path / "dask", 2) as dask:
        there = tmp_path / "there.zarr"
        address = json.loads(dask.file.read_text())["address"]
        extract_cubes(twelve_scans, there, SMALL, scheduler=address)
        assert read_manifest(there) == read_manifest(alone)
        # the command, by the scheduler file
        words = extract_call(twelve_scans, tmp_path / "command.zarr", "--scheduler", str(dask.file))
        done = subprocess.run(words, capture_output=True, encoding="utf-8", check=False)
        assert done.returncode == 0, done.stderr
        said = f"Next: genesis-prep degrade {tmp_path / 'command.zarr'} pairs.zarr\n"
        assert done.stderr == said, "dask keeps its notes to itself"
        assert read_manifest(tmp_path / "command.zarr") == read_manifest(alone)
        degrade_cubes(there, tmp_path / "p.zarr", DegradeParameters(variants=3), scheduler=address)
        assert read_manifest(tmp_path / "p.zarr") == read_manifest(pairs)
        masks = shutil.copytree(twelve_scans, tmp_path / "masks")  # any whole numbers on the scans' grids do
        parameters = MaskParameters(size=(8, 8, 8), cubes_per_scan=2, masks=masks)
        extract_targets(twelve_scans, tmp_path / "t1.zarr", parameters, workers=1)
        extract_targets(twelve_scans, tmp_path / "t2.zarr", parameters, scheduler=address)
        assert read_manifest(tmp_path / "t2.zarr") == read_manifest(tmp_path / "t1.zarr")
    assert not list(tmp_path.glob(".genesis*"))


@pytest.mark.full
def test_a_worker_that_is_killed_costs_its_scan_only_time(twelve_scans: Path, tmp_path: Path) -> None:
    alone, there = tmp_path / "alone.zarr", tmp_path / "there.zarr"
    extract_cubes(twelve_scans, alone, SMALL, workers=1)
    with running(tmp_path / "dask", 2) as dask:
        words = extract_call(twelve_scans, there, "--scheduler", str(dask.file))
        run = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8")
        while recorded(there) < 2:
            assert run.poll() is None, run.communicate()[1]
            time.sleep(0.001)
        os.killpg(dask.processes[1].pid, signal.SIGKILL)
        error = run.communicate()[1]
        assert run.returncode == 0, error
    assert read_manifest(there) == read_manifest(alone)


@pytest.mark.full
def test_a_cluster_that_is_gone_ends_the_run_with_a_sentence_and_it_goes_on(
    twelve_scans: Path, tmp_path: Path
) -> None:
    alone, there = tmp_path / "alone.zarr", tmp_path / "there.zarr"
    extract_cubes(twelve_scans, alone, SMALL, workers=1)
    with running(tmp_path / "dask", 1) as dask:
        words = extract_call(twelve_scans, there, "--scheduler", str(dask.file))
        run = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8")
        while recorded(there) < 1:
            assert run.poll() is None, run.communicate()[1]
            time.sleep(0.001)
        os.killpg(dask.scheduler.pid, signal.SIGKILL)
        error = run.communicate()[1]
        assert run.returncode == 1, error
        assert error.splitlines()[-1].startswith("Error: The dask scheduler no longer responds.")
        assert "Traceback" not in error
    extract_cubes(twelve_scans, there, SMALL, workers=1)
    assert read_manifest(there) == read_manifest(alone)


@pytest.mark.full
def test_a_scan_that_every_worker_dies_of_is_named_and_stops_no_other(
    twelve_scans: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(POISON, encoding="utf-8")
    with running(tmp_path / "dask", 0) as dask:
        for _ in range(6):  # a scan is given up after it took four
            dask.work(PYTHONPATH=str(tmp_path))
        dask.wait(lambda: engine.workers_of(str(dask.file)) == 6)
        there = tmp_path / "there.zarr"
        store = extract_cubes(twelve_scans, there, SMALL, scheduler=str(dask.file)).store
    assert store.scans.status.tolist().count("used") == 10
    assert store.scans.status[5] == "failed"
    assert "reading the scan killed the process" in str(store.scans.reason[5])


@pytest.mark.full
def test_workers_that_cannot_do_the_work_are_named_before_it_begins(
    luna16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "c.zarr"
    with running(tmp_path / "dask", 1) as dask:
        monkeypatch.setattr(engine, "__version__", "9.9")
        with pytest.raises(CallError, match=r"has genesis-toolkit 0\..*, but this machine has 9\.9: install"):
            extract_cubes(luna16, target, SMALL, scheduler=str(dask.file))
        monkeypatch.undo()
        with (
            pytest.raises(
                CallError, match=r"cannot see /no/such: keep the scans and the store on a file system"
            ),
            engine.connect(str(dask.file), None, Path("/no/such"), target, engine.silent),
        ):
            pass
    assert not target.exists()
    assert not unfinished(target).exists()


def test_where_no_scheduler_answers_the_call_was_wrong(
    luna16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_SECONDS_TO_ANSWER", 0.5)
    target = tmp_path / "c.zarr"
    for words in ("tcp://127.0.0.1:1", "tcp://127.0.0.1:nonsense", "nonsense://"):
        with pytest.raises(CallError, match="no dask scheduler responds at this address"):
            extract_cubes(luna16, target, SMALL, scheduler=words)
    (tmp_path / "broken.json").write_text("{")
    for name in ("none.json", "broken.json"):
        with pytest.raises(CallError, match=r"json is not a scheduler file: give"):
            extract_cubes(luna16, target, SMALL, scheduler=str(tmp_path / name))
    assert not unfinished(target).exists()


def test_a_worker_of_another_run_writes_nothing_into_this_one(luna16: Path, tmp_path: Path) -> None:
    from genesis_toolkit.pipeline.ledger import hold

    target = tmp_path / "c.zarr"
    with hold(target, {}, overwrite=False) as before:
        before.record("a", {})
    with hold(target, {}, overwrite=False) as now:
        with pytest.raises(DataError, match="another run is using it now"):
            before.record("b", {})
        assert now.names() == {"a"}
        now.abandon()
    with pytest.raises(DataError, match="does not exist on this machine"):
        now.record("c", {})
    assert not unfinished(target).exists(), "late work brings no folder back"
