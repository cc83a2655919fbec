"""Paths at which there is nothing: every command says so, and has loaded nothing for it."""

import subprocess
import sys
from pathlib import Path

import pytest

from genesis_toolkit.pipeline import absent
from genesis_toolkit.pipeline.errors import CallError

HEAVY = {"torch", "numba", "zarr", "numcodecs", "numpy", "SimpleITK", "pydicom", "matplotlib", "distributed"}
STORE, SCANS = (
    "There is no store at nope: make one with genesis-prep extract-",
    "There is no folder nope: give",
)
CALLS = {
    "prep extract-cubes nope out.zarr": SCANS,
    "prep explain nope": "There is no scan nope: give a file",
    "prep degrade nope out.zarr": f"{STORE}cubes",
    "prep preview nope out.png": f"{STORE}cubes",
    "prep info nope": f"{STORE}cubes",
    "prep card nope": f"{STORE}cubes",
    "prep verify nope": f"{STORE}cubes",
    "prep pack nope out.zip": f"{STORE}cubes",
    "prep merge nope nope out.zarr": f"{STORE}cubes",
    "prep import-npy nope out.zarr": "There is no file nope: give the authors' files",
    "prep export-npy nope out": f"{STORE}cubes",
    "prep extract-targets nope out.zarr --task ncc": SCANS,
    "train pretrain nope --out run": f"{STORE}cubes",
    "train export nope out.pt --format official": "There is no run in nope: make one with genesis-train",
    "train finetune nope --out run": f"{STORE}targets",
    "train segment nope . out.nii": "There is no fine-tuning run at nope: make one with genesis-train finet",
    "train segment . nope out.nii": "There is no scan nope: give a file",
    "train compare nope --out out": f"{STORE}targets",
}


@pytest.mark.parametrize("call", CALLS)
def test_a_mistyped_path_is_named_before_anything_heavy_is_loaded(call: str, tmp_path: Path) -> None:
    group, *words = call.split()
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print(*sorted({HEAVY!r} & set(sys.modules))))\n"
        f"from genesis_toolkit.cli.{group} import main\n"
        "main(sys.argv[1:])\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, encoding="utf-8", check=False
    )
    assert told.returncode == 2
    assert CALLS[call] in " ".join(told.stderr.split())
    assert told.stdout.split() == []
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_or_may_be_passes(tmp_path: Path) -> None:
    for name in ("https://example.org/s.zarr", str(tmp_path)):
        absent.check_store(name, "degrade")
    for name in ("subset0/1234", "series#12ab", "a…b", str(tmp_path)):
        absent.check_scan(name)
    assert absent.check_scans(str(tmp_path)) == tmp_path
    absent.check_run(tmp_path)
    absent.check_finetuned(tmp_path)


def test_a_store_that_is_being_made_is_not_said_to_be_missing(tmp_path: Path) -> None:
    (tmp_path / "c.zarr.unfinished").mkdir()
    with pytest.raises(CallError, match=r"c\.zarr is not finished: repeat the command that makes the store"):
        absent.check_store(tmp_path / "c.zarr", "degrade")
    with pytest.raises(CallError, match=r"p\.zarr: make one with genesis-prep degrade\.$"):
        absent.check_store(tmp_path / "p.zarr", "degrade")
    with pytest.raises(CallError, match="The path of the scans is empty"):
        absent.check_scans("")
