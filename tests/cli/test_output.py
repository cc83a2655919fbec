"""What commands print: where it goes, how wide it is, and that a Next line can be pasted."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import genesis_toolkit.cli.output
import genesis_toolkit.cli.prep
import genesis_toolkit.cli.train
import genesis_toolkit.pipeline.cubes.parameters
from genesis_toolkit.cli.errors import GenesisGroup, _waiting_told, check_installed
from genesis_toolkit.cli.options import given_options
from genesis_toolkit.cli.output import (
    AS_JSON,
    WIDTH,
    print_json,
    say,
    say_next,
    shortened,
    show_list,
    show_scans,
    show_table,
)
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.progress import TrainingBars, told_of_compiling

PROGRAMS: dict[str, click.Group] = {
    "genesis-prep": genesis_toolkit.cli.prep.main,
    "genesis-train": genesis_toolkit.cli.train.main,
}
SMALL = "--size 16,16,16 --border 2,2,2 --max-tissue 0.4 --cubes-per-scan 6 --workers 1".split()
LONG = "subset0/1.3.6.1.4.1.14519.5.2.1.6279.6001.105756658031515062000744821260.mhd"


def call(*words: object) -> Result:
    done = CliRunner().invoke(genesis_toolkit.cli.prep.main, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done


def test_the_store_is_called_store_in_every_json(luna16: Path, tmp_path: Path) -> None:
    cubes, pairs = tmp_path / "c.zarr", tmp_path / "p.zarr"
    calls = {
        ("extract-cubes", luna16, cubes, *SMALL, "--dry-run"): cubes,
        ("extract-cubes", luna16, cubes, *SMALL): cubes,
        ("degrade", cubes, pairs, "--dry-run"): pairs,
        ("degrade", cubes, pairs): pairs,
        ("info", pairs): pairs,
        ("verify", pairs): pairs,
        ("extract-cubes", luna16, tmp_path / "0.zarr", *SMALL, "--subsets", "0"): tmp_path / "0.zarr",
        ("extract-cubes", luna16, tmp_path / "5.zarr", *SMALL, "--subsets", "5"): tmp_path / "5.zarr",
        ("merge", tmp_path / "0.zarr", tmp_path / "5.zarr", tmp_path / "m.zarr"): tmp_path / "m.zarr",
        ("export-npy", cubes, tmp_path / "npy"): cubes,
        ("import-npy", tmp_path / "npy" / "bat_6_s_16x16x16_0.npy", tmp_path / "i.zarr"): tmp_path / "i.zarr",
    }
    for words, store in calls.items():
        done = call(*words, "--json")
        facts = json.loads(done.stdout)
        assert next(iter(facts.items())) == ("store", str(store)), words
        assert "Next" not in done.stderr, words


def test_the_card_is_the_one_in_the_store(cube_store: Path) -> None:
    done = call("card", cube_store)
    assert done.stdout == (cube_store / "README.md").read_text(encoding="utf-8")
    assert done.stderr == ""


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_keeps_to_80_columns_in_the_order_of_the_journey(program: str) -> None:
    group = PROGRAMS[program]
    listed = {
        "genesis-prep": "demo phantom extract-cubes explain degrade preview info card verify pack merge "
        "import-npy export-npy extract-targets warmup",
        "genesis-train": "pretrain export finetune segment compare info",
    }
    said = CliRunner().invoke(group, ["--help"], terminal_width=200).stdout
    names = [line.split()[0] for line in said.partition("Commands:\n")[2].splitlines()]
    assert names == listed[program].split()
    for name, command in group.commands.items():
        lines = command.get_help(click.Context(command, info_name=name)).splitlines()
        assert max(map(len, lines)) <= WIDTH, (name, max(lines, key=len))
        shown = " ".join(lines)
        for parameter in command.params:
            assert isinstance(parameter, click.Argument) or parameter.opts[-1] in shown


def test_help_shows_options_in_groups() -> None:
    command = PROGRAMS["genesis-prep"].commands["degrade"]
    said = command.get_help(click.Context(command, info_name="degrade"))
    general, _, rest = said.partition("Single recipe parameters (default: the value in --recipe):\n")
    recipe, _, work = rest.partition("Work and output:\n")
    assert "--variants" in general.partition("Options:\n")[2]
    assert "--outpaint-fill" in recipe
    assert {"--workers", "--json"} <= set(work.split())
    assert "PAIRS" not in rest


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_table_fits_a_terminal_and_is_whole_elsewhere(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = "its voxels cannot be read: the file is damaged or cut short, and more words than one line holds"

    def shown() -> list[str]:
        row = [shortened(LONG), "512 x 512 x 133", "skipped", "0", reason]
        show_table(["scan", "shape", "status", "cubes", "reason"], [row])
        return capsys.readouterr().out.splitlines()

    lines = shown()
    assert any(LONG in line for line in lines)
    assert reason.split()[0] in "".join(lines)
    monkeypatch.setattr(genesis_toolkit.cli.output, "is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    lines = shown()
    assert max(map(len, lines)) <= min(width, WIDTH)
    if width >= WIDTH:
        assert any("subset…260.mhd" in line for line in lines), "the name gives way"
        assert "".join(reason.split()) in "".join("".join(line[53:].split()) for line in lines)


def test_a_short_name_stays_and_a_long_one_keeps_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(genesis_toolkit.cli.output, "is_terminal", lambda: True)
    assert [shortened("abcdefgh", width) for width in (8, 7, 6)] == ["abcdefgh", "abc…fgh", "ab…fgh"]


def test_a_long_list_says_how_many_more(capsys: pytest.CaptureFixture[str]) -> None:
    show_list(["n"], [])
    assert capsys.readouterr().out == ""
    show_list(["n"], [[number] for number in range(1020)])
    out = capsys.readouterr().out
    assert "19" in out.split()
    assert "20" not in out.split()
    assert out.endswith("... and 1,000 more; --json lists all.\n")


def test_json_begins_with_the_store_and_is_all_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    def speak() -> str:
        print_json({"cubes": 3}, Path("a.zarr"))
        print_json({"mask": "m.nii"})
        show_table(["n"], [["all"]])
        say("a", "b")
        say("c", err=True)
        say_next("info {}", "a b")
        return "".join(capsys.readouterr())

    with click.Context(click.Command("one")) as context:
        assert speak().split() == [
            "n",
            "\N{BOX DRAWINGS LIGHT HORIZONTAL}" * 3,
            *"all a b c Next: info 'a b'".split(),
        ]
        context.meta[AS_JSON] = True
        assert speak() == '{"store": "a.zarr", "cubes": 3}\n{"mask": "m.nii"}\n'


@pytest.mark.parametrize(
    ("line", "missing"),
    [
        ("genesis-prep extract-targets scans t.zarr", "--task"),
        ("genesis-train pretrain p.zarr", "--out"),
        ("genesis-train export run w.pt", "--format"),
        ("genesis-train compare t.zarr", "--out"),
    ],
)
def test_an_option_that_must_be_given_is_missed(
    line: str, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    program, *words = line.split()
    (tmp_path / words[1]).mkdir()
    done = CliRunner().invoke(PROGRAMS[program], words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"Error: Missing option '{missing}'." in done.stderr


def test_a_missing_package_is_named_and_nothing_else_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    before = dict(os.environ)
    check_installed("Printing", "train", "click", "rich")
    with pytest.raises(CallError, match=r'Printing needs nonesuch: .*"genesis-toolkit\[train\]"'):
        check_installed("Printing", "train", "click", "nonesuch")
    assert dict(os.environ) == before


def test_training_commands_let_threads_wait_quietly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for told, taken in ((None, "passive"), ("active", "active")):
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        if told:
            monkeypatch.setenv("OMP_WAIT_POLICY", told)
        words = ["export", str(tmp_path / "none"), str(tmp_path / "w.pt"), "--format", "official"]
        assert CliRunner().invoke(genesis_toolkit.cli.train.main, words).exit_code == 2
        assert os.environ["OMP_WAIT_POLICY"] == taken


def test_given_options_are_those_that_were_typed() -> None:
    @click.command()
    @click.option("--size", default=3)
    @click.option("--seed", default=0)
    def one(**_: int) -> None:
        click.echo(repr(given_options()))

    assert CliRunner().invoke(one, ["--seed", "0"]).stdout == "{'seed': 0}\n"


def rows_of(*told: tuple[str, str, str]) -> list[dict[str, object]]:
    return [{"scan": scan, "status": status, "cubes": 0, "reason": reason} for scan, status, reason in told]


def test_failed_scans_come_first_and_skipped_ones_by_reason(capsys: pytest.CaptureFixture[str]) -> None:
    small = [(f"s{number}.mhd", "skipped", f"{number} slices, 96 needed") for number in range(11, 41)]
    same = [(f"c{number}.mhd", "skipped", f"the same scan as a{number}.mhd") for number in range(5)]
    alone = [("mask.mhd", "skipped", "the file looks like a mask")]
    used, failed = [("a1.mhd", "used", "")], [(f"f{number}.mhd", "failed", "bad") for number in range(25)]
    show_scans(rows_of(*small, *used, *same, *alone, *failed), "scan", "my store.zarr")
    rows = [words for line in capsys.readouterr().out.splitlines() if (words := " ".join(line.split()))]
    names = [row.split()[0] for row in rows[2:] if " " in row]
    assert names[:25] == [f"f{number}.mhd" for number in range(25)]
    assert [name for name in names[25:] if name[0].isdigit() or name.endswith("mhd")] == [
        *["mask.mhd", "5", "c0.mhd", "c1.mhd", "30", "s11.mhd", "s12.mhd"],
        "31",  # not listed: 28 and 3 skipped
    ]
    whole = " ".join(rows)
    assert "30 scans, 2 shown: skipped 11..40 slices," in whole
    assert "5 scans, 2 shown: skipped the same scan as" in whole
    assert "another" in whole
    last = "31 scans not shown: list them with genesis-prep info 'my store.zarr' --csv scans.csv."
    assert rows[-1] == last


def test_few_scans_are_all_listed(capsys: pytest.CaptureFixture[str]) -> None:
    show_scans(rows_of(("a", "used", ""), ("b", "skipped", "1 slices"), ("c", "failed", "bad")), "scan", "s")
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.split()]
    assert [line[0] for line in lines[2:]] == ["c", "a", "b"]


def test_a_name_in_the_last_column_is_whole_where_no_terminal_reads_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_table(["what", "value"], [["store", f"/data/{LONG}"], ["scan", f"the same scan as {LONG}"]])
    lines = capsys.readouterr().out.splitlines()
    assert any(f"/data/{LONG}" in line for line in lines)


def test_a_reader_that_has_left_ends_a_command_silently(cube_store: Path) -> None:
    read, write = os.pipe()
    os.close(read)  # as head does once it has its lines
    words = [sys.executable, "-m", "genesis_toolkit.cli.prep", "info", str(cube_store)]
    with os.fdopen(write, "wb") as gone:
        done = subprocess.run(words, stdout=gone, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_long_search_for_scans_says_what_it_is(luna16: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = genesis_toolkit.pipeline.cubes.parameters.find_scans

    def slow(*asked: Any, **more: Any) -> Any:
        time.sleep(1.5)
        return find(*asked, **more)

    words = [
        "extract-cubes",
        str(luna16),
        "cubes.zarr",
        "--dry-run",
        "--size",
        "16,16,16",
        "--border",
        "2,2,2",
    ]
    monkeypatch.setattr(genesis_toolkit.pipeline.cubes.parameters, "find_scans", slow)
    done = CliRunner().invoke(genesis_toolkit.cli.prep.main, words)
    assert done.stderr.count(f"finding scans in {luna16} ...") == 1


class _Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_names_that_would_look_alike_are_shortened_less(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(genesis_toolkit.cli.output, "is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    reason = "it is damaged: its compressed voxels are cut short, and more words than one line holds"
    names = [f"Patient B/{one}.nii.gz" for one in ("head scan", "body plan", "c")]
    rows = [[name, "122 x 101 x 112", "failed", "0", reason] for name in names]
    show_table(["scan", "shape", "status", "cubes", "reason"], rows)
    shown = [line.split()[:2] for line in capsys.readouterr().out.splitlines() if "122 x" in line]
    assert len({tuple(words) for words in shown}) == len(names)


def test_what_is_said_beside_a_bar_stands_above_it_and_wraps_at_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"TERM": "xterm", "COLUMNS": "40", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", screen := _Terminal())
    with _waiting_told(), TrainingBars() as bars:
        bars("scans", 0, 4)
        told_of_compiling[-1]("_degrade_all")
        bars.say("epoch 1: train 0.0273, validation 0.0224, best")
    drawn = screen.getvalue()
    # The bar's line is erased before the text is written.
    assert "\x1b[2KCompiling the kernels, about 10 s, once" in drawn
    assert "\x1b[2Kepoch 1: train 0.0273, validation\n0.0224, best" in drawn


def test_a_file_that_cannot_be_written_has_its_own_name_in_the_error() -> None:
    group = GenesisGroup("genesis-prep")

    @group.command()
    def draw() -> None:
        raise PermissionError(13, "Permission denied", "out/.sheet.png.b4afecd7a9df.part")

    done = CliRunner().invoke(group, ["draw"])
    assert done.exit_code == 1
    assert "Permission denied (out/sheet.png)." in done.stderr
