"""`genesis-train compare`: tables in, the same files out every time, nothing half written."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from click.testing import CliRunner, Result
from support.score_tables import ARMS, TABLE

import genesis_toolkit.cli.output
import genesis_toolkit.training.compare.evidence
from genesis_toolkit.cli.compare import _supported
from genesis_toolkit.cli.train import main
from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.training.compare.evidence import FILES, weigh
from genesis_toolkit.training.compare.scores import ArmSummary


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "scores.csv"
    path.write_text(TABLE, encoding="utf-8")
    return path


def compare(*words: object) -> Result:
    return CliRunner().invoke(main, ["compare", *map(str, words)])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_published_table_gives_the_four_p_values_and_all_files(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "comparison"
    done = compare("--from-csv", table, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["out"], told["status"]) == (str(out), "written")
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    assert [path.name for path in out.parent.iterdir()] == ["comparison"]
    written = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert written == {key: told[key] for key in written}
    (pair,) = [
        one
        for one in told["pairs"]
        if (one["task"], one["first"], one["second"]) == ("IUC", "scratch-2d", "imagenet")
    ]
    known = {name: test["p"] for name, test in pair["tests"].items() if test["p"] is not None}
    assert {name: round(p, 4) for name, p in known.items()} == {
        "welch_two_sided": 0.0560,
        "welch_one_tailed": 0.0280,
        "student_two_sided": 0.0501,
        "student_one_tailed": 0.0250,
    }
    assert [name for name, test in pair["tests"].items() if test["default"]] == ["welch_two_sided"]
    assert pair["stars"] == "n.s."
    assert (pair["trials_needed"], pair["trials_needed_paired"]) == (20, None)
    assert (told["registration"], told["curves"]) == (None, {})
    with (out / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(told["pairs"]) == 24
    for row, one in zip(rows, told["pairs"], strict=True):
        assert float(row["p"]) == float(row["p_welch_two_sided"]) == one["tests"]["welch_two_sided"]["p"]
        assert [row[key] for key in ("task", "first", "second", "stars", "stars_holm")] == [
            one[key] for key in ("task", "first", "second", "stars", "stars_holm")
        ]
    picture = matplotlib.image.imread(out / "figure.png")
    assert min(picture.shape[:2]) > 400
    assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > len(ARMS)


def test_the_tables_fit_a_terminal_and_the_same_command_changes_nothing(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(genesis_toolkit.cli.output, "is_terminal", lambda: True)
    first = compare("--from-csv", table, "--out", tmp_path / "a")
    before = contents(tmp_path / "a")
    again = compare("--from-csv", table, "--out", tmp_path / "a")
    assert first.exit_code == again.exit_code == 0
    assert max(map(len, first.stdout.splitlines())) <= 80
    assert first.stdout == again.stdout
    assert "0.0560 n.s." in first.stdout
    assert "(default)" in first.stdout
    assert "nothing left to do" in again.stderr
    assert contents(tmp_path / "a") == before
    compare("--from-csv", table, "--out", tmp_path / "b")
    assert contents(tmp_path / "b") == before


def test_wide_names_and_effects_keep_to_the_width_of_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "a name of a task or of an arm, 40 letter"
    text = f'task,arm,mean,sd,n\n"{long}","{long}",-1.23456e-9,1e-99,3\n"{long}",b,123456789.5,1e-9,1000000\n'
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    done = compare("--from-csv", tmp_path / "t.csv", "--out", tmp_path / "a")
    assert done.exit_code == 0, done.output
    assert f"{long}:b" in done.stdout  # whole, where no terminal limits it
    assert "interpret them with care" in done.stderr
    monkeypatch.setattr(genesis_toolkit.cli.output, "is_terminal", lambda: True)
    again = compare("--from-csv", tmp_path / "t.csv", "--out", tmp_path / "a")
    assert max(map(len, again.stdout.splitlines())) <= 80
    assert f"{long}:b" not in again.stdout


@pytest.mark.parametrize(
    ("spread", "value", "text"),
    [
        (0.026, 0.88123, "0.881"),
        (3.71, 92.783, "92.8"),
        (0.86, 96.03, "96.03"),
        (37.1, 1234.5, "1234"),
        (0.00031, 0.5, "0.50000"),
        (0.0, 0.123456789, "0.123457"),
    ],
)
def test_numbers_have_the_digits_that_their_spread_supports(spread: float, value: float, text: str) -> None:
    assert _supported(spread, value) == [text]


def test_trials_of_one_name_are_paired_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ["task,arm,trial,value"]
    for trial, (scratch, ours) in enumerate([(0.70, 0.75), (0.80, 0.84), (0.90, 0.96), (0.60, 0.66)]):
        rows += [f"t,scratch,{trial},{scratch}", f"t,ours,{trial},{ours}"]
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    monkeypatch.setattr(genesis_toolkit.cli.output, "is_terminal", lambda: True)
    done = compare("--from-csv", tmp_path / "t.csv", "--out", tmp_path / "a")
    assert max(map(len, done.stdout.splitlines())) <= 80
    told = json.loads((tmp_path / "a" / "results.json").read_text(encoding="utf-8"))["pairs"][0]
    paired, welch = (told["tests"][f"{test}_two_sided"]["p"] for test in ("paired", "welch"))
    assert paired < 0.01 < welch
    assert (told["trials_needed_paired"] or 9) < 5 < (told["trials_needed"] or 0)
    assert f"{told['trials_needed']:,}" in done.stdout


@pytest.mark.full
def test_another_process_draws_the_same_bytes_and_needs_no_torch(table: Path, tmp_path: Path) -> None:
    compare("--from-csv", table, "--out", tmp_path / "a")
    (tmp_path / "matplotlibrc").write_text("axes.facecolor: red\nfont.size: 20\n", encoding="utf-8")
    code = (
        "import sys; from genesis_toolkit.cli.train import main\n"
        f"try: main(['compare', '--from-csv', {str(table)!r}, '--out', {str(tmp_path / 'b')!r}])\n"
        "except SystemExit as end: assert not end.code and 'torch' not in sys.modules"
    )
    env = {**os.environ, "PYTHONHASHSEED": "7", "MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env=env, cwd=tmp_path)
    assert contents(tmp_path / "b") == contents(tmp_path / "a")


def test_pairs_and_reference_choose(table: Path, tmp_path: Path) -> None:
    named = compare("--from-csv", table, "--out", tmp_path / "a", "--json", "--pairs", "imagenet:scratch-2d")
    pairs = json.loads(named.stdout)["pairs"]
    assert {(one["first"], one["second"]) for one in pairs} == {("imagenet", "scratch-2d")}
    assert round(pairs[-1]["tests"]["welch_one_tailed"]["p"], 4) == 0.9720
    assert pairs[-1]["p_holm"] == pairs[-1]["tests"]["welch_two_sided"]["p"]
    reference = compare(
        "--from-csv", table, "--out", tmp_path / "b", "--json", "--reference", "genesis-ct-2d"
    )
    assert len(json.loads(reference.stdout)["pairs"]) == 12


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--pairs", "imagenet"), "not a list of pairs"),
        (("--pairs", "imagenet:a:b"), "not a list of pairs"),
        (("--pairs", "imagenet:scratch"), "not an arm here; allowed: scratch-2d"),
        (("--reference", "x"), "not an arm here; allowed: scratch-2d"),
        (("--reference", "imagenet", "--pairs", "imagenet:scratch-2d"), "exclude each other"),
    ],
)
def test_a_wrong_call_is_told_in_a_sentence(
    table: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    done = compare("--from-csv", table, "--out", tmp_path / "out", *words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_missing_table_is_a_wrong_call(tmp_path: Path) -> None:
    for place in (tmp_path / "none.csv", tmp_path):
        done = compare("--from-csv", place, "--out", tmp_path / "out")
        assert (done.exit_code, "There is no file" in done.stderr) == (2, True)


def test_a_wrong_table_leaves_with_1_and_nothing_written(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TABLE + "IUC,x,nan,1,2\n", encoding="utf-8")
    done = compare("--from-csv", tmp_path / "t.csv", "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: t.csv, line 18: mean is 'nan'")
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_too_many_arms_are_refused() -> None:
    arms = [ArmSummary("t", f"arm {number}", 1.0, 1.0, 3) for number in range(17)]
    with pytest.raises(DataError, match="17 arms, but a chart has room for at most 16"):
        weigh(arms)


def test_other_things_in_the_folder_stay(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert compare("--from-csv", table, "--out", out).exit_code == 0
    before = contents(out)
    table.write_text(TABLE.replace("95.51", "96.51"), encoding="utf-8")
    refused = compare("--from-csv", table, "--out", out)
    assert (refused.exit_code, "use --overwrite" in refused.stderr) == (2, True)
    assert contents(out) == before
    assert compare("--from-csv", table, "--out", out, "--overwrite").exit_code == 0
    assert contents(out) != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "scores.csv"]
    (out / "thesis.txt").write_text("three years", encoding="utf-8")
    refused = compare("--from-csv", table, "--out", out, "--overwrite")
    assert (refused.exit_code, "thesis.txt" in refused.stderr) == (2, True)
    assert (out / "thesis.txt").exists()
    refused = compare("--from-csv", table, "--out", table)
    assert (refused.exit_code, "is a file" in refused.stderr) == (2, True)


def test_a_full_disk_leaves_the_folder_as_it_was(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    compare("--from-csv", table, "--out", out)
    before = contents(out)
    write = genesis_toolkit.training.compare.evidence.write_whole

    def full(path: Path, *parts: bytes) -> str:
        if path.name == FILES[-1]:
            raise OSError(28, "No space left on device", str(path))
        return write(path, *parts)

    monkeypatch.setattr(genesis_toolkit.training.compare.evidence, "write_whole", full)
    table.write_text(TABLE.replace("95.51", "96.51"), encoding="utf-8")
    done = compare("--from-csv", table, "--out", out, "--overwrite")
    assert (done.exit_code, "No space left" in done.stderr) == (1, True)
    assert contents(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "scores.csv"]


def test_a_rename_that_fails_brings_the_old_results_back(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    compare("--from-csv", table, "--out", out)
    before = contents(out)
    rename: Callable[[Path, Any], Path] = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name.endswith(".part"):
            raise OSError(5, "Input/output error", str(target))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    table.write_text(TABLE.replace("95.51", "96.51"), encoding="utf-8")
    assert compare("--from-csv", table, "--out", out, "--overwrite").exit_code == 1
    assert contents(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "scores.csv"]


def test_without_scipy_it_says_what_to_install(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("evidence", "figure", "statistics"):
        monkeypatch.delitem(sys.modules, f"training.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "scipy", None)
    done = compare("--from-csv", table, "--out", tmp_path / "out")
    assert (done.exit_code, "genesis-toolkit[evidence]" in done.stderr) == (2, True)
