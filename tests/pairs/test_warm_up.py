"""`genesis-prep warmup`: afterwards no command compiles, whatever is in its cubes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from genesis_toolkit.cli.prep import main
from genesis_toolkit.pipeline.pairs import warm_up as warming

COMPILES = "Compiling the kernels"
JOURNEY = """
from genesis_toolkit.cli.prep import main
import genesis_toolkit as gt

def call(*words):
    main([str(word) for word in words], standalone_mode=False)

call("extract-cubes", SOURCE, "c.zarr", "--size", "16,16,16", "--border", "2,2,2", "--max-tissue", 0.4,
     "--cubes-per-scan", 6, "--workers", 1)
call("degrade", "c.zarr", "p.zarr", "--workers", 1)
call("phantom", "nih", "--layout", "nih", "--scans", 4, "--shape", "160,160")
call("extract-cubes", "nih", "i.zarr", "--layout", "nih", "--size", "64,64", "--workers", 1)
call("degrade", "i.zarr", "ip.zarr", "--workers", 1)
for store in ("p.zarr", "ip.zarr", "c.zarr", "i.zarr"):
    next(iter(gt.PairLoader(store, batch_size=2)))
"""


def python(folder: Path, code: str, *words: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "kernels")}
    call = [sys.executable, "-c", code, *words]
    done = subprocess.run(
        call, cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.full
def test_after_it_no_command_compiles(luna16: Path, tmp_path: Path) -> None:
    warmup = "from genesis_toolkit.cli.prep import main; main(['warmup'])"
    first = python(tmp_path, warmup)
    assert f"The compiled kernels are kept in {tmp_path / 'kernels'}." in first.stdout
    assert "compiled in" in first.stdout
    assert COMPILES in first.stderr
    kept = {file: file.read_bytes() for file in (tmp_path / "kernels").rglob("*.nb?")}
    assert "All kernels had been compiled before." in python(tmp_path, warmup).stdout
    assert COMPILES not in python(tmp_path, JOURNEY.replace("SOURCE", repr(str(luna16)))).stderr
    assert {file: file.read_bytes() for file in (tmp_path / "kernels").rglob("*.nb?")} == kept


@pytest.mark.full
def test_the_first_degrade_on_a_machine_says_what_it_waits_for(cube_store: Path, tmp_path: Path) -> None:
    degrade = "import sys; from genesis_toolkit.cli.prep import main; main(sys.argv[1:])"
    said = "Compiling the kernels, about 10 s, once on this machine ..."
    assert python(tmp_path, degrade, "degrade", str(cube_store), "a.zarr").stderr.count(said) == 1
    assert said not in python(tmp_path, degrade, "degrade", str(cube_store), "b.zarr").stderr


def test_kernels_that_cannot_be_kept_are_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warming, "_steps", list)
    monkeypatch.setattr(warming, "kept_in", lambda: (3, None))
    done = CliRunner().invoke(main, ["warmup"])
    assert done.exit_code == 2
    assert "Set a folder, for example NUMBA_CACHE_DIR=/scratch/numba" in done.stderr
