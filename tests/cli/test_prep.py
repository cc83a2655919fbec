"""The commands as a user types them: exit codes, one sentence on stderr, a table or one JSON object."""

import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from support.scans import lungs, write_scan

from genesis_toolkit.cli.degrade import RECIPE_OPTIONS
from genesis_toolkit.cli.prep import main
from genesis_toolkit.pipeline.degrade.recipes import Recipe
from genesis_toolkit.pipeline.store.open import open_cubes

SMALL = "--size 16,16,16 --border 2,2,2 --max-tissue 0.4 --cubes-per-scan 6 --workers 1".split()


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def assert_refused(result: Result, code: int, *words: str) -> None:
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)
    for word in words:
        assert word in result.stderr


def test_the_journey(luna16: Path, tmp_path: Path) -> None:
    cubes, pairs = tmp_path / "cubes.zarr", tmp_path / "pairs.zarr"
    done = call("extract-cubes", luna16, cubes, *SMALL)
    assert done.exit_code == 0, done.output
    assert "20 slices, 24 needed" in " ".join(done.stdout.split())
    assert "12 cubes from 2 of 3 scans (1 skipped)." in done.stdout
    assert done.stderr == f"Next: genesis-prep degrade {cubes} pairs.zarr\n"
    assert max(map(len, done.stdout.splitlines()[:-2])) <= 80  # the table
    assert "already finished, nothing done" in call("extract-cubes", luna16, cubes, *SMALL).stdout
    done = call("degrade", cubes, pairs, "--variants", 2)
    assert done.exit_code == 0, done.output
    assert "24 pairs, 2 for each of 12 cubes" in done.stdout
    for store in (cubes, pairs):
        assert call("info", store).exit_code == 0
        facts = json.loads(call("info", store, "--json").stdout)
        assert (facts["store"], facts["cubes"]) == (str(store), 12)
        assert facts["cubes_by_subset"] == {"0": 6, "5": 6}
        picture = tmp_path / f"{store.stem}.png"
        assert call("preview", store, picture, "--rows", 2).exit_code == 0
        assert picture.read_bytes().startswith(b"\x89PNG")
    assert sum(facts["combinations"].values()) == facts["pairs"] == 24


def test_commands_that_compile_nothing_do_without_numba(luna16: Path, tmp_path: Path) -> None:
    """Finished work, and the commands that only look, answer without what kernels are compiled with."""
    cubes, pairs = str(tmp_path / "cubes.zarr"), str(tmp_path / "pairs.zarr")
    extract, degrade = ["extract-cubes", str(luna16), cubes, *SMALL], ["degrade", cubes, pairs]
    assert call(*extract).exit_code == call(*degrade).exit_code == 0
    calls = [extract, degrade, *([name, store] for name in ("info", "card") for store in (cubes, pairs))]
    code = (
        "import sys\n"
        "from genesis_toolkit.cli.prep import main\n"
        f"for call in {calls!r}: main(call, standalone_mode=False)\n"
        "print('LOADED', sorted({'numba', 'llvmlite', 'torch', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED []"
    assert done.stdout.count("already finished, nothing done") == 2


def test_json_is_one_object(luna16: Path, tmp_path: Path) -> None:
    done = call("extract-cubes", luna16, tmp_path / "c.zarr", *SMALL, "--json")
    facts = json.loads(done.stdout)
    assert facts["cubes"] == 12
    assert [scan["status"] for scan in facts["scans"]] == ["used", "skipped", "used"]
    degraded = json.loads(call("degrade", tmp_path / "c.zarr", tmp_path / "p.zarr", "--json").stdout)
    assert degraded["pairs"] == 12


def test_held_out_subsets_are_mentioned_once(luna16: Path, tmp_path: Path) -> None:
    write_scan(luna16 / "subset8" / "1.2.8.mhd", lungs(8))
    done = call("extract-cubes", luna16, tmp_path / "c.zarr", *SMALL)
    assert done.stderr.count("Subset 8 not used") == 1
    assert "1.2.8" not in done.stdout
    again = call("extract-cubes", luna16, tmp_path / "c.zarr", *SMALL)
    assert again.stderr == f"Next: genesis-prep degrade {tmp_path / 'c.zarr'} pairs.zarr\n"


def test_a_failed_scan_is_named_and_the_exit_code_is_1(luna16: Path, tmp_path: Path) -> None:
    raw = luna16 / "subset0" / "1.2.3.raw"
    raw.write_bytes(raw.read_bytes()[:99])
    done = call("extract-cubes", luna16, tmp_path / "c.zarr", *SMALL)
    assert done.exit_code == 1
    assert "cut short: 99 bytes" in " ".join(done.stdout.split())
    assert "6 cubes from 1 of 3 scans (1 skipped, 1 could not be read)." in done.stdout
    assert call("degrade", tmp_path / "c.zarr", tmp_path / "p.zarr").exit_code == 0


def test_wrong_calls_exit_with_2(luna16: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.zarr"
    assert_refused(call("extract-cubes", tmp_path / "absent", out), 2, "There is no folder")
    (tmp_path / "empty").mkdir()
    assert_refused(call("extract-cubes", tmp_path / "empty", out), 2, "There is no scan in")
    assert_refused(call("extract-cubes", luna16, out, "--size", "64"), 2, "--size 64")
    assert_refused(call("extract-cubes", luna16, out, "--size", "big"), 2, "'big'")
    assert_refused(call("extract-cubes", luna16, out, "--hu", "1000,-1000"), 2, "1000,-1000")
    assert_refused(call("extract-cubes", luna16, out, "--subsets", "0-10"), 2, "0 to 9")
    assert_refused(call("extract-cubes", luna16, out, "--max-tissue", "2"), 2, "--max-tissue 2")
    (tmp_path / "notes").write_text("mine")
    assert_refused(call("extract-cubes", luna16, tmp_path / "notes", *SMALL), 2, "left untouched")
    assert_refused(call("degrade", luna16, out), 2, "is not a store made by genesis-prep")
    assert_refused(call("info", tmp_path / "absent"), 2, "There is no store")
    assert not out.exists()
    assert (tmp_path / "notes").read_text() == "mine"


def test_wrong_degradations_exit_with_2(cube_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.zarr"
    assert_refused(
        call("degrade", cube_store, out, "--recipe", "nature"), 2, "nature", "genesis", "official-2019"
    )
    assert_refused(call("degrade", cube_store, out, "--variants", 0), 2, "--variants 0")
    assert_refused(call("degrade", cube_store, out, "--recipe", "official-2019"), 2, "16", "26")
    assert not out.exists()


def test_no_cube_at_all_exits_with_1(luna16: Path, tmp_path: Path) -> None:
    result = call("extract-cubes", luna16, tmp_path / "c.zarr", "--workers", 1)
    assert_refused(result, 1, "No scan gave a cube", "265 x 265 needed")
    assert not (tmp_path / "c.zarr").exists()


def test_what_comes_next_works_for_small_practice_scans(tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    done = call("phantom", scans, "--scans", 1, "--shape", "64,64,48")
    assert "smaller than the published rule needs" in done.stderr
    words = done.stderr.splitlines()[-1].removeprefix("Next: genesis-prep ").split()
    assert words[:3] == ["extract-cubes", str(scans), "cubes.zarr"]
    assert call("extract-cubes", scans, tmp_path / "cubes.zarr", *words[3:]).exit_code == 0


def test_an_interruption_that_an_import_swallows_is_one_all_the_same(
    cube_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As numpy does, half imported: it fails of something else than of the Ctrl-C."""

    def half_imported(*_: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            raise RecursionError from None

    monkeypatch.setattr("genesis_toolkit.describe_store", half_imported)
    before = signal.getsignal(signal.SIGINT)
    done = call("info", cube_store)
    assert (done.exit_code, done.stderr) == (130, "Interrupted. The same command starts again.\n")
    assert signal.getsignal(signal.SIGINT) == before
    monkeypatch.setattr("genesis_toolkit.describe_store", lambda _: 1 / 0)
    assert isinstance(call("info", cube_store).exception, ZeroDivisionError)


def test_a_disk_that_is_full_is_one_sentence(
    luna16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        result = call("extract-cubes", luna16, tmp_path / "c.zarr", *SMALL)
        assert_refused(result, 1, "No space left on device", "the same command continues")
    assert call("extract-cubes", luna16, tmp_path / "c.zarr", *SMALL).exit_code == 0


def test_version() -> None:
    assert call("--version").stdout.startswith("genesis-prep, version 0.1")


def test_every_parameter_of_a_recipe_can_be_given(cube_store: Path, tmp_path: Path) -> None:
    assert {name for name, _, _ in RECIPE_OPTIONS} == {
        f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(Recipe) if field.name != "name"
    }
    pairs = tmp_path / "p.zarr"
    done = call("degrade", cube_store, pairs, "--nonlinear-rate", 0, "--paint-rate", 1, "--inpaint-share", 1)
    assert done.exit_code == 0, done.output
    facts = json.loads(call("info", pairs, "--json").stdout)
    assert facts["degradations"]["non-linear"] == facts["degradations"]["out-painted"] == 0
    assert facts["degradations"]["in-painted"] == 12
    assert facts["parameters"]["recipe"]["nonlinear_rate"] == 0
    out = tmp_path / "q.zarr"
    assert_refused(call("degrade", cube_store, out, "--flip-rate", 2), 2, "2", "0<=x<=1")
    assert_refused(
        call("degrade", cube_store, out, "--flip-axes", "x,w"), 2, "--flip-axes", "channel, x, y, z"
    )
    assert_refused(call("degrade", cube_store, out, "--inpaint-edges", "L/2,L"), 2, "--inpaint-edges", "L//6")


def test_pictures_replace_nothing_but_pictures(cube_store: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("mine")
    assert_refused(call("preview", cube_store, tmp_path / "notes.png"), 2, "left untouched")
    assert_refused(call("preview", cube_store, tmp_path / "sheet.txt"), 2, "must end in .png")
    assert_refused(call("preview", cube_store, cube_store / "sheet.png"), 2, "inside the store")
    assert (tmp_path / "notes.png").read_text() == "mine"
    for _ in range(2):
        assert call("preview", cube_store, tmp_path / "sheet.png", "--rows", 1).exit_code == 0


def test_a_recipe_without_some_degradation_can_be_drawn(cube_store: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "p.zarr"
    assert call("degrade", cube_store, pairs, "--shuffle-rate", 0, "--paint-rate", 0).exit_code == 0
    assert call("preview", pairs, tmp_path / "p.png").exit_code == 0


def test_absurd_numbers_are_refused(luna16: Path, cube_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.zarr"
    assert_refused(call("extract-cubes", luna16, out, "--subsets", "0-9999999999"), 2, "0 to 9")
    assert_refused(call("extract-cubes", luna16, out, "--cubes-per-scan", 10**8), 2, "between 1 and 10000")
    assert_refused(call("degrade", cube_store, out, "--variants", 10**20), 2, "between 1 and 10000")


def test_an_empty_folder_may_be_given_as_a_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert call("phantom", ".", "--scans", 1, "--shape", "32,32,32").exit_code == 0
    assert (tmp_path / "here" / "subset0").is_dir()


def test_info_writes_the_whole_table_of_scans(luna16: Path, tmp_path: Path) -> None:
    raw = luna16 / "subset0" / "1.2.3.raw"
    raw.write_bytes(raw.read_bytes()[:99])
    call("extract-cubes", luna16, tmp_path / "c.zarr", *SMALL)
    done = call("info", tmp_path / "c.zarr")
    assert "1 scan that was used is not listed here; --csv FILE.csv writes all." in done.stdout
    rows = [line.split()[:2] for line in done.stdout.splitlines() if ".mhd" in line]
    assert rows == [["subset0/1.2.3.mhd", "failed"], ["subset1/1.2.4.mhd", "skipped"]]
    table = tmp_path / "scans.csv"
    assert call("info", tmp_path / "c.zarr", "--csv", table).exit_code == 0
    with table.open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    scans = open_cubes(tmp_path / "c.zarr").scans
    assert [row["path"] for row in read] == scans.path.tolist()
    assert [row["subset"] for row in read] == ["0", "1", "5"]
    assert [[int(row[f"shape_{axis}"]) for axis in "xyz"] for row in read] == scans.shape.tolist()
    assert [row["reason"] for row in read] == scans.reason.tolist()
    assert [int(row["stream"]) for row in read] == scans.stream.tolist()
    assert [float(row["direction_8"]) for row in read] == scans.direction[:, 8].tolist()
    assert_refused(call("info", tmp_path / "c.zarr", "--csv", tmp_path / "t.txt"), 2, "must end in .csv")
    assert not (tmp_path / "t.txt").exists()


def test_cubes_of_air_are_told_with_the_way_out(tmp_path: Path) -> None:
    air = np.full((40, 38, 36), -1000, np.int16)
    write_scan(tmp_path / "scans" / "air.mhd", air)
    write_scan(tmp_path / "scans" / "lungs.mhd", lungs(0))
    said = "hold no tissue, only air: 6 of the 6 of air.mhd. --min-tissue 0.001 leaves such cubes out."
    done = call("extract-cubes", tmp_path / "scans", tmp_path / "c.zarr", *SMALL)
    assert f"6 of 12 cubes {said}" in done.stdout
    assert call("extract-cubes", tmp_path / "scans", tmp_path / "n.zarr", *SMALL, "--json").exit_code == 0
    page = tmp_path / "report.html"
    assert call("preview", tmp_path / "c.zarr", page).exit_code == 0
    assert said in page.read_text(encoding="utf-8")
    (tmp_path / "scans" / "lungs.mhd").unlink()
    dry = call("extract-cubes", tmp_path / "scans", tmp_path / "d.zarr", *SMALL, "--dry-run")
    told = " ".join(dry.stdout.split())
    assert "cubes without tissue 6 of 6 in air.mhd (air only); --min-tissue 0.001 excludes them" in told
    none = call("extract-cubes", tmp_path / "scans", tmp_path / "d.zarr", *SMALL, "--min-tissue", "0.001")
    assert none.exit_code == 1


def test_advice_is_given_only_where_it_helps(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "broken" / "a.mhd", lungs(0))
    scan.with_suffix(".raw").write_bytes(b"short")
    write_scan(tmp_path / "mask" / "m.mhd", (lungs(0) > -500).astype(np.int16))
    for name, reason in (("broken", "cut short"), ("mask", "the file looks like a mask")):
        done = call("extract-cubes", tmp_path / name, tmp_path / "c.zarr", *SMALL)
        assert_refused(done, 1, "No scan gave a cube", reason)
        assert "--border" not in done.stderr
        assert "--max-tissue" not in done.stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("subset0.zip", "It holds subset0.zip: unpack LUNA16's archives there first."),
        ("00000001_000.png", "add the download's table Data_Entry_2017*.csv"),
    ],
)
def test_what_is_a_step_away_from_scans_gets_a_hint(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / name).write_bytes(b"PK\3\4 or other bytes")
    assert_refused(
        call("extract-cubes", tmp_path / "folder", tmp_path / "c.zarr"), 2, "There is no scan in", said
    )


def test_a_size_that_no_network_takes_is_a_warning(luna16: Path, tmp_path: Path) -> None:
    words = [*SMALL, "--size", "14,14,14"]
    done = call("extract-cubes", luna16, tmp_path / "c.zarr", *words)
    assert done.exit_code == 0
    assert done.stderr.startswith("Warning: no network can be pre-trained on cubes of --size 14,14,14")
    assert "valid sizes: 16,16,16." in done.stderr


def test_nothing_typed_asks_for_help() -> None:
    done = call()
    assert done.exit_code == 0
    assert done.stdout == call("--help").stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["info", "absent.zarr"], 2, "There is no store at absent.zarr"),
        (["info"], 2, "Missing argument 'STORE'."),
        (["verify", "absent.zarr", "--cubes", "some"], 2, "Invalid value for '--cubes'"),
        (["info", "damaged.zarr"], 1, "is missing or has changed"),
    ],
)
def test_with_json_an_error_is_one_object(
    words: list[str], code: int, said: str, cube_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cube_store.rename("damaged.zarr")
    with Path("damaged.zarr/zarr.json").open("a") as file:
        file.write(" ")
    for order in ([*words, "--json"], [words[0], "--json", *words[1:]]):
        done = call(*order)
        told = json.loads(done.stdout)
        assert (done.exit_code, done.stderr, list(told)) == (code, "", ["error", "exit"])
        assert said in told["error"]
        assert told["exit"] == code
    plain = call(*words)
    assert (plain.exit_code, plain.stdout) == (code, "")
    assert f"Error: {told['error']}\n" in plain.stderr


def test_a_reader_that_has_enough_ends_a_command_silently(cube_store: Path) -> None:
    command = [sys.executable, "-m", "genesis_toolkit.cli.prep", "info", str(cube_store)]
    reading, writing = os.pipe()
    os.close(reading)  # as head does, once it has its lines
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, encoding="utf-8", check=False)
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode in (1, 141), "rich leaves with 1, where it is the first to notice"


def test_info_says_when_in_one_kind_of_time(cube_store: Path) -> None:
    shown = " ".join(call("info", cube_store).stdout.split())
    assert re.search(
        r" made \d{4}-\d\d-\d\d [\d:]{8} to \d{4}-\d\d-\d\d [\d:]{8} UTC made with workers", shown
    )
    assert "crc32" not in shown
    assert "None" not in shown
