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

import genesis_toolkit.cli.output
import genesis_toolkit.training.compare.evidence
import genesis_toolkit.training.compare.figure
from genesis_toolkit.cli.train import main
from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.training.compare.evidence import FILES, files_of, weigh
from genesis_toolkit.training.compare.figure import axis_low, levels_of, panels_of
from genesis_toolkit.training.compare.scores import ArmSummary, parse_table
from genesis_toolkit.training.compare.statistics import compare_arms

#: METHOD.md section 6: the 2D results whose spread was published, 10 trials each.
ARMS = ("scratch-2d", "imagenet", "genesis-ct-2d", "genesis-xray-2d")
PUBLISHED = {
    "NCC": ((96.03, 0.86), (97.64, 0.96), (97.45, 0.61), (93.52, 0.13)),
    "NCS": ((70.48, 1.07), (72.39, 0.77), (72.20, 0.67), (72.88, 0.79)),
    "DXC": ((69.15, 0.77), (75.55, 0.48), (74.99, 0.36), (75.48, 0.13)),
    "IUC": ((92.78, 3.71), (95.51, 1.77), (94.50, 2.08), (94.99, 0.93)),
}
TABLE = "task,arm,mean,sd,n\n" + "".join(
    f"{task},{arm},{mean},{sd},10\n"
    for task, results in PUBLISHED.items()
    for arm, (mean, sd) in zip(ARMS, results, strict=True)
)
TRIALS = "task,arm,trial,value\n" + "".join(
    f"NCC,{arm},{trial},{base + trial % 3}\n"
    for arm, base in (("scratch", 70), ("ours", 74))
    for trial in range(3)
)


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
    assert {name: round(test["p"], 4) for name, test in pair["tests"].items()} == {
        "welch_two_sided": 0.0560,
        "welch_one_tailed": 0.0280,
        "student_two_sided": 0.0501,
        "student_one_tailed": 0.0250,
    }
    assert [name for name, test in pair["tests"].items() if test["default"]] == ["welch_two_sided"]
    assert pair["stars"] == "n.s."
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
    assert "Nothing was left to do" in again.stderr
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
    assert "read them with care" in done.stderr
    monkeypatch.setattr(genesis_toolkit.cli.output, "is_terminal", lambda: True)
    again = compare("--from-csv", tmp_path / "t.csv", "--out", tmp_path / "a")
    assert max(map(len, again.stdout.splitlines())) <= 80
    assert f"{long}:b" not in again.stdout


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
        (("--pairs", "imagenet"), "no list of pairs"),
        (("--pairs", "imagenet:a:b"), "no list of pairs"),
        (("--pairs", "imagenet:scratch"), "no arm of the table; allowed: scratch-2d"),
        (("--reference", "x"), "no arm of the table; allowed: scratch-2d"),
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


WRONG: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "is empty"),
    "blank": ("\n\n", "is empty"),
    "columns": ("task,arm,value\na,b,1\n", "has the columns 'task,arm,value'"),
    "semicolons": ("task;arm;mean;sd;n\n", "separated by commas"),
    "both kinds": ("task,arm,trial,value,mean,sd,n\n", "remove all others"),
    "a column twice": ("task,arm,mean,sd,n,n\n", "remove all others"),
    "no row": ("task,arm,mean,sd,n\n", "no row below"),
    "UTF-16": (TABLE.encode("utf-16"), "no UTF-8 text"),
    "short row": (TABLE + "IUC,x,1\n", "line 18: 3 cells for 5 columns"),
    "decimal comma": (TABLE + "IUC,x,9,5,1,2\n", "line 18: 6 cells for 5 columns"),
    "no number": (TABLE + "IUC,x,high,1,2\n", "line 18: mean is 'high'"),
    "NaN": (TABLE + "IUC,x,nan,1,2\n", "line 18: mean is 'nan'"),
    "infinite": (TABLE + "IUC,x,1e400,1,2\n", "line 18: the mean is inf"),
    "underscore": (TABLE + "IUC,x,1_0,1,2\n", "line 18: mean is '1_0'"),
    "negative sd": (TABLE + "IUC,x,1,-1,2\n", "line 18: the sd is -1"),
    "n of 1": (TABLE + "IUC,x,1,1,1\n", "line 18: arm x of task IUC has n = 1"),
    "n of 2.5": (TABLE + "IUC,x,1,1,2.5\n", "line 18: n is '2.5'"),
    "n of many digits": (TABLE + f"IUC,x,1,1,{'9' * 5000}\n", "line 18: n is '999"),
    "arm twice": (TABLE + "IUC,imagenet,1,1,2\n", "stands in line 15 already"),
    "one arm": (TABLE + "BMS,imagenet,1,1,2\n", "line 18: task BMS has one arm only, imagenet"),
    "empty cell": (TABLE + "IUC, ,1,1,2\n", "line 18: arm is empty"),
    "a name that cannot be printed": (TABLE + "IUC,a\x1bb,1,1,2\n", "line 18: the arm is named"),
    "a name without end": (TABLE + f"IUC,{'a' * 41},1,1,2\n", "line 18: the arm is named"),
    "an open quote": (TABLE + 'IUC,"x,1,1,2\n', "this is no CSV"),
    "trial twice": (TRIALS + "NCC,ours,2,77\n", "line 8: trial 2 of arm ours on task NCC stands in line 7"),
    "one trial": (TRIALS + "NCC,third,0,77\n", "line 8: arm third of task NCC has n = 1"),
    "value": (TRIALS + "NCC,ours,9,\n", "line 8: value is empty"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_table_is_told_with_its_line(kind: str, tmp_path: Path) -> None:
    text, said = WRONG[kind]
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(DataError) as refused:
        parse_table(data, "scores.csv")
    assert said in str(refused.value)
    assert str(refused.value).startswith("scores.csv")
    assert len(str(refused.value)) < 300


def test_a_wrong_table_leaves_with_1_and_nothing_written(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(WRONG["NaN"][0], encoding="utf-8")  # type: ignore[arg-type]
    done = compare("--from-csv", tmp_path / "t.csv", "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: t.csv, line 18: mean is 'nan'")
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_what_other_programs_write_is_read_alike() -> None:
    rows = [row.split(",") for row in TABLE.splitlines()]
    turned = "\r\n".join(f'"{n}" , {sd}, {arm},{mean},{task}' for task, arm, mean, sd, n in rows)
    assert parse_table(b"\xef\xbb\xbf" + turned.replace('" ', '"').encode(), "t") == parse_table(
        TABLE.encode(), "t"
    )
    assert parse_table(TRIALS.encode(), "t") == [
        ArmSummary("NCC", "scratch", 71.0, 1.0, 3),
        ArmSummary("NCC", "ours", 75.0, 1.0, 3),
    ]


def test_too_many_arms_are_refused() -> None:
    arms = [ArmSummary("t", f"arm {number}", 1.0, 1.0, 3) for number in range(17)]
    with pytest.raises(DataError, match="17 arms, and the chart has room for 16"):
        weigh(arms)


def test_other_things_in_the_folder_stay(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert compare("--from-csv", table, "--out", out).exit_code == 0
    before = contents(out)
    table.write_text(TABLE.replace("95.51", "96.51"), encoding="utf-8")
    refused = compare("--from-csv", table, "--out", out)
    assert (refused.exit_code, "give --overwrite" in refused.stderr) == (2, True)
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


def drawn(arms: list[ArmSummary], monkeypatch: pytest.MonkeyPatch) -> str:
    """The chart as SVG with its words in it."""
    words = genesis_toolkit.training.compare.figure._SETTINGS | {"svg.fonttype": "none"}
    monkeypatch.setattr(genesis_toolkit.training.compare.figure, "_SETTINGS", words)
    return files_of(weigh(arms))["figure.svg"].decode().replace("\N{NO-BREAK SPACE}", " ")


def test_the_chart_says_what_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    few = [ArmSummary("IUC", "$a_{b", 92.78, 3.71, 10), ArmSummary("IUC", "_c<&", 95.51, 1.77, 4)]
    text = drawn(few, monkeypatch)
    for words in (
        "n = 4 to 10, fewer than 10 trials",
        "axis from 84, not from 0",
        "n.s.",
        "$a_{b",
        "_c&lt;&amp;",
        "Welch's t-test",
        "with care",
    ):
        assert words in text, words
    assert "Holm" not in text  # of one pair there is nothing to correct
    many = [ArmSummary("IUC", f"arm {number}", 10.0 + number, 1.0, 10) for number in range(6)]
    text = drawn(many, monkeypatch)
    for words in ("more than 6 pairs", "5 of all 15", "Holm", "n = 10<"):
        assert words in text, words
    assert "fewer than 10 trials" not in text
    assert "dc:date" not in text


@pytest.mark.parametrize(
    "arms",
    [
        [(0.0, 0.0), (0.0, 0.0)],
        [(5.0, 0.0), (5.0, 0.0)],
        [(-3.0, 1.0), (-5.0, 0.5)],
        [(-0.3, 0.2), (0.4, 0.1)],
        [(1e100, 1.0), (1e100, 3.0)],
        [(1e-90, 1e-95), (2e-90, 1e-92)],
    ],
)
def test_odd_scores_are_drawn(arms: list[tuple[float, float]]) -> None:
    summaries = [ArmSummary("肺", name, *scores, 3) for name, scores in zip("ab", arms, strict=True)]
    assert files_of(weigh(summaries))["figure.png"].startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arms", "low"),
    [
        ([(92.78, 3.71), (95.51, 1.77)], 84.0),
        ([(10.0, 4.0), (12.0, 1.0)], 0.0),  # bars that differ by much stand on 0
        ([(5.0, 0.0), (5.0, 0.0)], 0.0),
        ([(0.97612, 1e-5), (0.97615, 1e-5)], 0.97608),
    ],
)
def test_the_axis_begins_below_every_error_bar(arms: list[tuple[float, float]], low: float) -> None:
    bars = [ArmSummary("t", name, *scores, 3) for name, scores in zip("ab", arms, strict=True)]
    assert axis_low(bars) == pytest.approx(low)


def test_brackets_do_not_touch() -> None:
    brackets = [(left, right, "") for left in range(6) for right in range(left + 1, 6)]
    for chosen in (brackets, brackets[:5], brackets[::-1], [(0, 1, ""), (2, 3, "")], []):
        levels = levels_of(chosen)
        for one, level in zip(chosen, levels, strict=True):
            for other, its in zip(chosen, levels, strict=True):
                if one is not other and level == its:
                    assert one[1] < other[0] or other[1] < one[0]
    assert levels_of([(0, 1, ""), (2, 3, ""), (0, 3, "")]) == [0, 0, 1]


def test_brackets_are_those_asked_for_or_a_readable_few() -> None:
    arms = [ArmSummary("t", f"{number}", float(number), 1.0, 3) for number in range(6)]
    arms += [ArmSummary("u", f"{number}", float(number), 1.0, 3) for number in range(4)]
    few = panels_of(arms, compare_arms(arms), all_brackets=False)
    assert [{(left, right) for left, right, _ in panel.brackets} for panel in few] == [
        {(number, 5) for number in range(5)},
        {(left, right) for right in range(4) for left in range(right)},
    ]
    every = panels_of(arms, compare_arms(arms), all_brackets=True)
    assert [len(panel.brackets) for panel in every] == [15, 6]
