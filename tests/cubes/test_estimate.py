"""A dry run tells what will come, and writes nothing."""

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.scans import SMALL, lungs, write_scan

from genesis_toolkit.cli.prep import main
from genesis_toolkit.pipeline.cubes.estimate import plan_extraction
from genesis_toolkit.pipeline.cubes.extract import extract_cubes
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.pairs.degrade import DegradeParameters, degrade_cubes, plan_degradation

WORDS = "--size 16,16,16 --border 2,2,2 --max-tissue 0.4 --cubes-per-scan 6".split()


def everything(folder: Path) -> set[tuple[str, int]]:
    return {(str(path), path.stat().st_mtime_ns) for path in folder.rglob("*")}


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_it_counts_what_extraction_then_does(luna16: Path, tmp_path: Path) -> None:
    (luna16 / "subset5" / "1.2.9.mhd").mkdir()  # passed over by name
    write_scan(luna16 / "subset8" / "1.2.8.mhd", lungs(8))
    before = everything(tmp_path)
    plan = plan_extraction(luna16, tmp_path / "c.zarr", SMALL, workers=2)
    assert everything(tmp_path) == before
    assert (plan.scans, plan.set_aside, plan.headers, plan.cubes) == (3, 1, 3, 12)
    assert (plan.small, plan.unreadable) == (1, 0)
    assert plan.passed_over == (8,)
    paths = [path for subset in (0, 1, 5) for path in (luna16 / f"subset{subset}").glob("*.*")]
    assert plan.bytes == sum(path.stat().st_size for path in paths if path.is_file())
    store = extract_cubes(luna16, tmp_path / "c.zarr", SMALL, workers=1).store
    assert plan.cubes == len(store)
    shards = files_in(store.path / "cubes" / "c")
    assert plan.files == len(shards)
    assert plan.store_bytes is not None
    assert plan.store_bytes == pytest.approx(sum(path.stat().st_size for path in shards), rel=0.2)
    assert plan.seconds is not None
    assert plan.example_seconds is not None
    assert plan.example == "subset5/1.2.5.mhd"
    assert plan.seconds == pytest.approx(plan.example_seconds * 2 / 2)  # two scans of one size, two workers


def test_it_sees_what_is_done_and_refuses_what_extraction_would(luna16: Path, cube_store: Path) -> None:
    plan = plan_extraction(luna16, cube_store, SMALL, workers=2)
    assert (plan.scans, plan.known, plan.cubes, plan.seconds) == (0, 3, 0, None)
    write_scan(luna16 / "subset6" / "1.2.9.mhd", lungs(9))
    plan = plan_extraction(luna16, cube_store, SMALL, workers=2)
    assert (plan.scans, plan.known, plan.cubes) == (1, 3, 6)
    with pytest.raises(CallError, match="made with seed 0"):
        plan_extraction(luna16, cube_store, dataclasses.replace(SMALL, seed=1), workers=2)


def test_of_many_scans_a_thousand_headers_tell(
    luna16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genesis_toolkit.pipeline.cubes.estimate._MOST_HEADERS", 2)
    for number in range(5):
        write_scan(luna16 / "subset2" / f"2.{number}.mhd", lungs(number))
    plan = plan_extraction(luna16, tmp_path / "c.zarr", SMALL, workers=2)
    assert (plan.scans, plan.headers, plan.small, plan.cubes) == (8, 2, 0, 48)


def test_where_no_scan_gives_a_cube_there_is_no_time_to_tell(luna16: Path, tmp_path: Path) -> None:
    strict = dataclasses.replace(SMALL, max_tissue=0.0)
    plan = plan_extraction(luna16, tmp_path / "c.zarr", strict, workers=2)
    assert (plan.store_bytes, plan.seconds, plan.example) == (None, None, "")


def test_it_counts_what_degrading_then_does(cube_store: Path, tmp_path: Path) -> None:
    before = everything(tmp_path)
    parameters = DegradeParameters(variants=3)
    plan = plan_degradation(cube_store, tmp_path / "p.zarr", parameters, workers=1)
    assert everything(tmp_path) == before
    assert (plan.cubes, plan.pairs, plan.files) == (12, 36, 2)
    store = degrade_cubes(cube_store, tmp_path / "p.zarr", parameters, workers=1).store
    shards = [*files_in(store.path / "original" / "c"), *files_in(store.path / "degraded" / "c")]
    assert plan.files == len(shards)
    assert plan.store_bytes == pytest.approx(sum(path.stat().st_size for path in shards), rel=0.3)
    assert plan_degradation(cube_store, tmp_path / "p.zarr", parameters, workers=1).pairs == 0


def test_the_commands_show_it(luna16: Path, cube_store: Path, tmp_path: Path) -> None:
    call = ["extract-cubes", str(luna16), str(tmp_path / "new.zarr"), *WORDS, "--dry-run"]
    done = CliRunner().invoke(main, call)
    assert done.exit_code == 0, done.output
    assert "scans to examine" in done.stdout
    assert done.stderr == f"Next: genesis-prep {' '.join(call[:-1])}\n"
    facts = json.loads(CliRunner().invoke(main, [*call, "--json"]).stdout)
    assert (facts["scans"], facts["cubes"]) == (3, 12)
    done = CliRunner().invoke(main, ["degrade", str(cube_store), str(tmp_path / "p.zarr"), "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "pairs to make" in done.stdout
    assert not (tmp_path / "new.zarr").exists()
    assert not (tmp_path / "p.zarr").exists()
