"""What the world does to a long run: kills, full disks, an impatient user. The bytes end up the same."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.folders import TESTS
from support.scans import POISON, SMALL, extract_call, gone, kill_after, lungs, write_scan

from genesis_toolkit.pipeline.cubes.extract import extract_cubes
from genesis_toolkit.pipeline.ledger import read_manifest, unfinished

KILLS = 20


@pytest.fixture
def whole(twelve: Path, tmp_path: Path) -> dict[str, str]:
    """What a run that nothing stops makes of the twelve scans: the sha256 of every file."""
    store = extract_cubes(twelve, tmp_path / "whole.zarr", SMALL, workers=1).store
    return read_manifest(store.path)


@pytest.mark.full
def test_killed_at_twenty_random_moments_it_ends_with_the_same_bytes(
    twelve: Path, tmp_path: Path, whole: dict[str, str]
) -> None:
    target = tmp_path / "killed.zarr"
    moments, kills, stores = random.Random(20), 0, 0
    while kills < KILLS:
        done = unfinished(target) / "done"
        before = sum(1 for _ in done.glob("[!.]*.json")) if done.is_dir() else 0
        pieces = min(12, before + moments.randrange(4))
        if kill_after(extract_call(twelve, target), target, pieces, moments.uniform(0, 0.1)):
            kills += 1
        else:  # it was faster: begin another store
            assert read_manifest(target) == whole
            shutil.rmtree(target)
            stores += 1
    extract_cubes(twelve, target, SMALL, workers=1)
    assert read_manifest(target) == whole
    assert not unfinished(target).exists()
    assert stores < KILLS


@pytest.mark.full
def test_no_worker_outlives_a_command_that_is_killed(twelve: Path, tmp_path: Path) -> None:
    target = tmp_path / "killed.zarr"
    run = subprocess.Popen(extract_call(twelve, target), stderr=subprocess.DEVNULL, start_new_session=True)
    while not (done := unfinished(target) / "done").is_dir() or not any(done.glob("[!.]*.json")):
        assert run.poll() is None
        time.sleep(0.001)
    os.kill(run.pid, signal.SIGKILL)  # of which its processes are not told
    run.wait()
    gone(run.pid)
    extract_cubes(twelve, target, SMALL, workers=1)


def go_on_after(
    error: "subprocess.CompletedProcess[str]", source: Path, target: Path, whole: dict[str, str]
) -> None:
    """What must hold after a run that the disk stopped: one sentence, no store, and the same bytes later."""
    assert error.returncode == 1, error.stderr
    assert error.stderr.count("\n") == 1
    assert "the same command continues from there" in error.stderr
    assert not target.exists()
    extract_cubes(source, target, SMALL, workers=1)
    assert read_manifest(target) == whole


@pytest.mark.full
@pytest.mark.parametrize("limit", [1_200, 20_000, 200_000])
def test_a_file_that_may_not_grow_stops_it_with_a_sentence(
    twelve: Path, tmp_path: Path, whole: dict[str, str], limit: int
) -> None:
    """As a full disk does, anywhere: RLIMIT_FSIZE. A record, a staged scan and a shard are what fails."""
    target = tmp_path / "full.zarr"
    call = f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
    words = extract_call(twelve, target)
    words = [words[0], "-c", call + words[2], *words[3:]]
    done = subprocess.run(words, capture_output=True, encoding="utf-8", check=False)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    go_on_after(done, twelve, target, whole)


@pytest.mark.full
def test_a_disk_that_is_full_stops_it_with_a_sentence(
    twelve: Path, tmp_path: Path, whole: dict[str, str]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted here; RLIMIT_FSIZE stands for it")
    try:
        target = disk / "full.zarr"
        words = extract_call(twelve, target)
        done = subprocess.run(words, capture_output=True, encoding="utf-8", check=False)
        assert "No space left on device" in done.stderr
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        go_on_after(done, twelve, target, whole)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.full
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_says_what_is_done_and_how_to_go_on(
    twelve: Path, tmp_path: Path, kind: signal.Signals
) -> None:
    alike = next(twelve.rglob("1.3.4.[mn]*"))  # where its kind of scans lies
    for number in range(60):
        write_scan(alike.with_stem(f"1.4.{number}"), lungs(100 + number))
    target = tmp_path / "c.zarr"
    run = subprocess.Popen(
        extract_call(twelve, target), stderr=subprocess.PIPE, encoding="utf-8", start_new_session=True
    )
    done = unfinished(target) / "done"
    while not (done.is_dir() and any(done.glob("[!.]*.json"))):
        time.sleep(0.01)
        assert run.poll() is None
    os.killpg(run.pid, kind)  # a terminal sends it to the workers as well
    error = run.communicate()[1]
    assert run.returncode == 130
    first, second = error.splitlines()
    words = first.split()
    assert [words[0], words[2], words[4]] == ["scans:", "of", "done"]
    assert int(words[3]) == 72
    assert second == "Interrupted. Finished work is kept: the same command continues from there."
    kept = len(list(done.glob("[!.]*.json")))
    assert int(words[1]) <= kept
    gone(run.pid)
    extract_cubes(twelve, target, SMALL, workers=1)


@pytest.mark.full
def test_a_second_run_on_the_same_store_is_refused(twelve_scans: Path, tmp_path: Path) -> None:
    target = tmp_path / "c.zarr"
    first = subprocess.Popen(extract_call(twelve_scans, target), stdout=subprocess.DEVNULL)
    while not (unfinished(target) / "job.json").exists():
        time.sleep(0.005)
        assert first.poll() is None
    os.kill(first.pid, signal.SIGSTOP)
    try:
        second = subprocess.run(
            extract_call(twelve_scans, target), capture_output=True, encoding="utf-8", check=False
        )
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert first.wait() == 0
    assert second.returncode == 2
    assert "Another run is working on" in second.stderr


@pytest.mark.full
def test_a_scan_that_ends_its_process_stops_no_other(twelve_nifti: Path, tmp_path: Path) -> None:
    """As a damaged file does that the reader's own library breaks at."""
    target = tmp_path / "c.zarr"
    number = sorted(path.name for path in twelve_nifti.iterdir()).index("1.3.4.nii")
    code = (
        "from pathlib import Path\n"
        "import genesis_toolkit.pipeline.engine, poison\n"
        "from support.scans import SMALL\n"
        "from genesis_toolkit.pipeline.cubes.extract import extract_cubes\n"
        "genesis_toolkit.pipeline.engine._SECONDS_TO_START = -1\n"
        "if __name__ == '__main__':\n"
        f"    source, target = Path({str(twelve_nifti)!r}), Path({str(target)!r})\n"
        "    store = extract_cubes(source, target, SMALL, workers=2).store\n"
        f"    print(store.scans.status.tolist().count('used'), store.scans.reason[{number}])\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code, encoding="utf-8")
    (tmp_path / "poison.py").write_text(POISON, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{TESTS}"}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("10 reading the scan killed the process, even without")
