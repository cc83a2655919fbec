"""Every Next line works when it is pasted: each that any of these journeys ends with is run."""

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import genesis_toolkit.cli.prep
import genesis_toolkit.cli.train
from genesis_toolkit.cli.further import after_finetuning

PROGRAMS = {
    "genesis-prep": genesis_toolkit.cli.prep.main,
    "genesis-train": genesis_toolkit.cli.train.main,
}
SMALL = "--size 32,32,32 --border 0,0,0 --cubes-per-scan 4 --workers 1"
#: Goes behind a Next line, so that it takes seconds; never what a line would need to work.
LESS = {
    "phantom": "",
    "extract-cubes": "--workers 1",
    "degrade": "--workers 1",
    "pretrain": "--width 2 --epochs 1 --batch-size 4 --device cpu",
    "finetune": "--epochs 1 --device cpu",
    "compare": "--trials 2 --epochs 1 --workers 1",
}
SHORT = "--size 32,32,16 --border 30,30,12"  # of practice scans of 64 x 64 x 48 voxels
CT = "phantom scans --scans 10 --shape 96,96,64"


def run(line: str) -> Result:
    """Run a line as a shell would take it; it must do all its work."""
    program, *words = shlex.split(line)
    done = CliRunner().invoke(PROGRAMS[program], words)
    assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"
    return done


def next_of(done: Result) -> str | None:
    """The command of the Next line, which is the last of all; None where there is none."""
    assert "Next:" not in done.stdout
    lines = done.stderr.splitlines()
    named = [line for line in lines if line.startswith("Next: ")]
    assert named in ([], lines[-1:])
    line = named[0].removeprefix("Next: ") if named else None
    assert line is None or shlex.split(line)[0] in PROGRAMS, line
    return line


def follow(line: str | None, most: int = 9) -> list[str]:
    """Run a line, and each that follows from it; the lines as they were shown, the first included."""
    lines: list[str] = []
    while line is not None and line not in lines and len(lines) < most:
        lines.append(line)
        if "--help" in line:
            run(line)
            break
        line = next_of(run(f"{line} {LESS.get(shlex.split(line)[1], '')}"))
    return lines


def commands(lines: list[str]) -> list[str]:
    return [line.split()[1] for line in lines]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, whose name needs quotes."""
    folder = tmp_path / "my work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.full
def test_from_practice_scans_to_the_comparison(here: Path) -> None:
    """3D: dry runs and all, the chain runs by its Next lines alone but for the labels that it needs."""
    run(f"genesis-prep {CT}")
    lines = follow(f"genesis-prep extract-cubes scans 'my cubes.zarr' {SMALL} --dry-run")
    journey = "extract-cubes extract-cubes degrade pretrain export extract-targets"
    assert commands(lines) == journey.split()
    assert lines[-3:] == [
        "genesis-train pretrain pairs.zarr --out pretrained",
        "genesis-train export pretrained weights.pt --format official",
        "genesis-prep extract-targets --help",
    ]
    for task in ("ncc", "segment"):
        cut = f"genesis-prep extract-targets scans {task}.zarr --task {task} --size 32,32,32 --workers 1"
        lines = follow(f"{cut} {'--negatives 2' if task == 'ncc' else '--cubes-per-scan 4'} --dry-run")
        assert commands(lines) == "extract-targets extract-targets finetune compare".split()
        assert lines[2].endswith("--weights pretrained")
        assert "--arm scratch-3d --arm pretrained=pretrained --epochs 1 --device cpu" in lines[3]
    follow("genesis-train compare ncc.zarr --out c --arm scratch-3d --arm p=pretrained --dry-run")
    scratch = next_of(run("genesis-train finetune ncc.zarr --out scratch --width 2 --epochs 1 --device cpu"))
    assert scratch is not None
    assert "--weights pretrained" in scratch
    assert commands(follow(scratch)) == ["finetune", "compare"]
    for store in ("'my cubes.zarr'", "pairs.zarr", "ncc.zarr"):
        assert next_of(run(f"genesis-prep info {store}"))
        assert next_of(run(f"genesis-prep preview {store} sheet.png --rows 1"))


@pytest.mark.full
@pytest.mark.parametrize(("network", "kind"), [("plainconv", "nnssl"), ("unet2d", "state-dict")])
def test_other_networks_are_exported_in_a_format_of_theirs(here: Path, network: str, kind: str) -> None:
    run("genesis-prep phantom scans --scans 3 --shape 96,96,64")
    size = "--size 64,64 --border 0,0,0" if network == "unet2d" else "--size 32,64,32 --border 0,0,0"
    words = f"{size} --cubes-per-scan 2 --max-tissue 1"
    run(f"genesis-prep extract-cubes scans cubes.zarr {words} --workers 1")
    assert commands(follow("genesis-prep degrade cubes.zarr pairs.zarr --dry-run", 2)) == ["degrade"] * 2
    trained = run(f"genesis-train pretrain pairs.zarr --out run --network {network} {LESS['pretrain']}")
    lines = follow(next_of(trained))
    assert lines[0] == f"genesis-train export run weights.pt --format {kind}"


@pytest.mark.full
def test_radiographs(here: Path) -> None:
    lines = follow("genesis-prep phantom xrays --layout nih --scans 40 --shape 64,64", 4)
    assert commands(lines) == ["phantom", "extract-cubes", "degrade", "pretrain"]
    lines = follow("genesis-prep extract-targets xrays findings.zarr --task dxc --size 64,64", 3)
    assert commands(lines) == ["extract-targets", "finetune", "compare"]
    assert "--arm scratch-2d" in lines[2]


@pytest.mark.parametrize("rule", ["--size 32,32,16 --border 2,2,2", "--size 48,48 --border 2,2,2", SHORT])
def test_explain_names_settings_that_give_cubes(here: Path, rule: str) -> None:
    run("genesis-prep phantom 'my scans' --scans 1 --shape 64,64,48")
    (scan,) = Path("my scans").glob("subset*/*.mhd")
    Path("cubes.zarr").mkdir()
    (line,) = follow(f"genesis-prep explain '{scan}' {rule}", 2)[1:]
    assert line.startswith(f"genesis-prep extract-cubes '{scan}' cubes-2.zarr")


def test_a_dry_run_that_finds_no_cube_names_a_scan_to_explain(here: Path) -> None:
    run("genesis-prep phantom scans --scans 2 --shape 64,64,48")
    lines = follow(f"genesis-prep extract-cubes scans cubes.zarr {SHORT} --workers 1 --dry-run", 3)
    assert commands(lines) == ["extract-cubes", "explain", "extract-cubes"]
    assert lines[1].startswith("genesis-prep explain scans/subset0/")
    assert lines[1].endswith(SHORT)


def test_stores_that_no_network_takes_are_looked_at(here: Path) -> None:
    """A size between multiples, and a single cube, of which nothing is left to validate."""
    run("genesis-prep phantom scans --scans 1 --shape 64,64,48")
    for number, words in enumerate(
        ("--size 30,30,30 --cubes-per-scan 4", "--size 32,32,32 --cubes-per-scan 1")
    ):
        cubes, pairs = f"cubes{number}.zarr", f"pairs{number}.zarr"
        run(f"genesis-prep extract-cubes scans {cubes} {words} --border 0,0,0 --workers 1")
        lines = follow(f"genesis-prep degrade {cubes} {pairs}")
        assert lines[1:] == [f"genesis-prep preview {pairs} sheet.png"]


def test_stores_by_other_ways_go_on_too(here: Path) -> None:
    run("genesis-prep phantom scans --scans 2 --shape 64,64,48")
    for subset in "01":
        run(f"genesis-prep extract-cubes scans {subset}.zarr --subsets {subset} {SMALL}")
    run("genesis-prep export-npy 0.zarr npy")
    (file,) = Path("npy").glob("*.npy")
    assert commands(follow("genesis-prep pack 0.zarr 0.zip", 2)) == ["pack", "info"]
    assert commands(follow("genesis-prep merge 0.zarr 1.zarr all.zarr", 2)) == ["merge", "degrade"]
    line = follow(f"genesis-prep import-npy {file} imported.zarr", 2)[1]
    assert line == "genesis-prep degrade imported.zarr pairs-2.zarr"


def test_the_comparison_keeps_every_option_of_the_fine_tuning(here: Path) -> None:
    given = {"steps": 60, "at_steps": (20, 40), "augment": False, "freeze_encoder": True, "head": "all"}
    line, *_ = after_finetuning("t.zarr", "unet2d", Path("pretrained"), {**given, "out": Path("tuned")})
    assert line.endswith(" --steps 60 --at-steps 20,40 --no-augment --head all --freeze-encoder")
    commands = PROGRAMS["genesis-train"].commands
    finetune, compare = ({one.name for one in commands[name].params} for name in ("finetune", "compare"))
    for name in (finetune & compare) - {"targets", "out", "width", "dry_run", "overwrite", "json"}:
        line, *_ = after_finetuning("t.zarr", "unet2d", Path("pretrained"), {name: "given"})
        assert line.endswith(f" --{str(name).replace('_', '-')} given")
