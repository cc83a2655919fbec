"""Parts of a source: by the identifier alone, each scan in one."""

import dataclasses
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.scans import SMALL

from genesis_toolkit.cli.prep import main
from genesis_toolkit.pipeline.cubes.extract import extract_cubes
from genesis_toolkit.pipeline.cubes.parts import parse_part, part_of, together
from genesis_toolkit.pipeline.errors import CallError


def test_every_scan_is_in_one_part_and_parts_are_about_even() -> None:
    names = [f"1.2.840.{number}" for number in range(4000)]
    parts = [part_of(name, 8) for name in names]
    counts = [parts.count(part) for part in range(1, 9)]
    assert sum(counts) == len(names)
    assert min(counts) > 400
    assert part_of("1.2.840.7", 8) == part_of("1.2.840.7", 8)
    assert part_of("1.2.840.7", 1) == 1


@pytest.mark.parametrize("text", ["0/8", "9/8", "1", "1/0", "a/b", "-1/8", "1/99999", ""])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(CallError, match=r"for example 1/8"):
        parse_part(text)


def test_only_all_parts_of_one_number_are_the_whole() -> None:
    assert together(["2/2", "1/2"]) is None
    assert together([None, None]) is None
    assert together(["2/3", "1/3"]) == "1/3, 2/3"
    assert together(["1/2", "2/3"]) == "1/2, 2/3"
    assert together(["1/3, 3/3", "2/3"]) is None
    assert together(["1/2", None]) == "several"
    assert together(["several", "2/2"]) == "several"


def test_a_moved_file_stays_in_its_part_and_what_cannot_be_parted_is_refused(
    luna16: Path, tmp_path: Path
) -> None:
    words = "--size 16,16,16 --border 2,2,2 --max-tissue 0.4 --cubes-per-scan 2 --workers 1".split()
    done = CliRunner().invoke(
        main, ["extract-cubes", str(luna16), str(tmp_path / "c.zarr"), *words, "--part", "5/2"]
    )
    assert (done.exit_code, "for example 1/8" in done.stderr) == (2, True)
    (first,) = (path.stem for path in (luna16 / "subset0").glob("*.mhd"))
    mine = f"{part_of(first, 2)}/2"
    done = CliRunner().invoke(
        main, ["extract-cubes", str(luna16), str(tmp_path / "p.zarr"), *words, "--part", mine]
    )
    assert f"This is part {mine}: join the stores of all parts" in done.stderr
    assert done.stderr.endswith("Next: genesis-prep merge --help\n")
    assert "held out" not in done.stderr  # a single part may well hold few scans
    official = dataclasses.replace(SMALL, sampler="official")
    with pytest.raises(CallError, match="--sampler official draws continuously through a whole subset"):
        extract_cubes(luna16, tmp_path / "c.zarr", official, part="1/2")
    (name,) = (path.stem for path in (luna16 / "subset0").glob("*.mhd"))
    number = part_of(name, 2)
    shutil.copytree(luna16, tmp_path / "moved")
    for file in (tmp_path / "moved" / "subset0").iterdir():
        file.rename(tmp_path / "moved" / "subset5" / file.name)
    for source in (luna16, tmp_path / "moved"):
        store = extract_cubes(
            source, tmp_path / f"{source.name}.zarr", SMALL, workers=1, part=f"{number}/2"
        ).store
        assert name in store.scans.identifier.tolist()
    alone = "/".join(map(str, (number % 2 + 1, 2)))
    (tmp_path / "one").mkdir()
    shutil.copytree(luna16 / "subset0", tmp_path / "one" / "subset0")
    with pytest.raises(CallError, match="none of the 1 scans belongs to this part"):
        extract_cubes(tmp_path / "one", tmp_path / "one.zarr", SMALL, part=alone)
