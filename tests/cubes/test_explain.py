"""Why a scan gives the cubes it gives: the counts against brute force, the picture, the command."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from support.dicom import explicit, write_series, write_volume
from support.scans import lungs, write_scan

from genesis_toolkit.cli.errors import GenesisGroup
from genesis_toolkit.cli.explain import explain
from genesis_toolkit.cli.prep import main
from genesis_toolkit.pipeline.cubes.cut import mask_words
from genesis_toolkit.pipeline.cubes.explain import Explanation, Shortage, explain_scan
from genesis_toolkit.pipeline.cubes.rule import CubeRule, passing_corners, tissue_score, too_small

Triple = tuple[int, int, int]
SPACING = (0.7, 0.7, 1.5)
SMALL = "--size 16,16,16 --border 2,2,2 --max-tissue 0.4".split()


def call(*words: object) -> Result:
    return CliRunner().invoke(GenesisGroup(commands={"explain": explain}), ["explain", *map(str, words)])


def passing(voxels: np.ndarray, rule: CubeRule) -> tuple[int, int]:
    if too_small(voxels.shape, rule):
        return 0, 0
    corners = passing_corners(voxels, rule)
    return corners.passing.size, corners.count


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 99),
    shape=st.tuples(st.integers(4, 14), st.integers(4, 14), st.integers(4, 16)),
    size=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
    border=st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)),
    bounds=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_the_counts_are_those_of_the_rule(
    seed: int, shape: Triple, size: Triple, border: Triple, bounds: tuple[float, float]
) -> None:
    rule = CubeRule(size, border, max(bounds), min(bounds))
    voxels = np.asfortranarray(np.random.default_rng(seed).integers(-250, -100, shape).astype(np.int16))
    found = explain_scan(voxels, SPACING, rule)
    assert (found.candidates, found.passing) == passing(voxels, rule)
    removed = sum(found.lost_to_border) + found.lost_to_max_tissue + found.lost_to_min_tissue
    assert found.places_whole == removed + found.passing
    assert min(found.lost_to_border) >= 0
    assert found.places_whole == np.prod(np.maximum(np.subtract(shape, size) + 1, 0))
    assert bool(found.shortages) == (too_small(shape, rule) is not None)
    for shortage in found.shortages:
        axis = "xyz".index(shortage.axis)
        if shortage.largest_border is not None:
            for more, fits in ((0, True), (1, False)):
                changed = list(border)
                changed[axis] = shortage.largest_border + more
                least = CubeRule(size, tuple(changed)).least_shape[axis]  # type: ignore[arg-type]
                assert (shape[axis] >= least) == fits
        else:
            assert shape[axis] < CubeRule(size, (0, 0, 0)).least_shape[axis]
    for other in found.alternatives:
        option, value = other.option.split()
        values = {"size": size, "border": border, "max_tissue": max(bounds), "min_tissue": min(bounds)}
        values[option[2:].replace("-", "_")] = (
            tuple(map(int, value.split(","))) if option == "--border" else float(value)
        )
        assert (other.candidates, other.passing) == passing(voxels, CubeRule(**values))  # type: ignore[arg-type]
    json.dumps(asdict(found))


def test_the_scores_are_quantiles_of_all_candidates() -> None:
    rule = CubeRule((5, 4, 3), (2, 2, 2), 0.4)
    voxels = np.asfortranarray(lungs(3, (16, 14, 15)))
    found = explain_scan(voxels, SPACING, rule)
    corners = passing_corners(voxels, rule)
    scores = [
        tissue_score(voxels, np.add(place, corners.first), rule.size)
        for place in np.ndindex(*corners.passing.shape)
    ]
    for name, share in {
        "least": 0,
        "5 %": 0.05,
        "25 %": 0.25,
        "median": 0.5,
        "95 %": 0.95,
        "most": 1,
    }.items():
        assert found.scores[name] == np.quantile(scores, share, method="inverted_cdf")


def test_a_scan_too_small_names_the_axes_and_the_border_that_fits() -> None:
    found = explain_scan(lungs(0, (300, 200, 64)), SPACING, CubeRule())
    assert found.shortages == (Shortage("y", 200, 265, 67), Shortage("z", 64, 96, 14))
    assert (found.candidates, found.passing, found.share, found.scores) == (0, 0, 0.0, {})
    assert found.alternatives[0].option == "--border 100,67,14"
    assert found.alternatives[0].candidates == 36 * 2 * 1
    found = explain_scan(lungs(0, (300, 300, 30)), SPACING, CubeRule())
    assert found.shortages == (Shortage("z", 30, 96, None),)
    assert [other.option for other in found.alternatives] == ["--border 50,50,15", "--border 0,0,0"]


def test_the_command_explains(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.mhd", lungs(0))
    png = tmp_path / "map.png"
    done = call(scan, *SMALL, "--png", png)
    assert done.exit_code == 0, done.output
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "Enough positions pass" in done.stdout
    assert "40 x 38 x 36, 28 x 27 x 54 mm" in done.stdout
    assert f"Next: genesis-prep extract-cubes {scan} cubes.zarr --size 16,16,16 --border 2,2,2" in done.stderr
    lines = [line for line in done.stdout.splitlines() if str(tmp_path) not in line]
    assert max(map(len, lines)) <= 80
    facts = json.loads(call(scan, *SMALL, "--json").stdout)
    assert set(facts) == {"scan", "map", *Explanation.__dataclass_fields__}
    assert facts["places_whole"] == 25 * 23 * 21
    assert facts["candidates"] == 20 * 18 * 13


def test_the_command_explains_patches(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.mhd", lungs(0))
    facts = json.loads(call(scan, *"--size 16,20 --plane sagittal --border 2,2,3 --json".split()).stdout)
    assert (facts["size"], facts["plane"], facts["box"]) == ([16, 20], "sagittal", [1, 16, 20])
    assert facts["max_tissue"] == 0.7
    assert facts["places_whole"] == 40 * 23 * 17
    assert facts["candidates"] == 36 * 19 * 11
    done = call(scan, *"--size 16,20 --plane sagittal --border 2,2,3".split())
    assert done.stderr.endswith("cubes.zarr --size 16,20 --plane sagittal --border 2,2,3\n")
    assert "from -150 HU up (soft tissue, bone), plus those below -950 HU (air)" in " ".join(
        done.stdout.split()
    )
    assert json.loads(call(scan, *SMALL, "--json").stdout)["plane"] is None


def test_the_command_says_what_to_do_where_nothing_passes(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "flat.mhd", lungs(0, (40, 38, 22)))
    done = call(scan, *SMALL)
    assert "z has 22 voxels and needs 24 (the largest border that fits is 1)." in done.stdout
    assert done.stderr.endswith("--size 16,16,16 --max-tissue 0.4 --border 2,2,1\n")
    scan = write_scan(tmp_path / "dense.mhd", np.full((24, 24, 26), 40, np.int16))
    done = call(scan, *SMALL)
    assert "no position inside the border has a tissue score between 0 and 0.4" in done.stdout
    assert "the scores range from 1.000 to 1.000" in done.stdout
    assert done.stderr.endswith("--size 16,16,16 --border 2,2,2 --max-tissue 1\n")
    scan = write_scan(tmp_path / "tiny.mhd", np.full((12, 24, 26), -800, np.int16))
    said = call(scan, *SMALL).stderr
    assert "None of these settings gives a cube. Try a smaller --size with a smaller --border." in said


def test_real_numbers_are_explained_before_they_are_rounded(tmp_path: Path) -> None:
    near = np.array([-150.6, -150.4, -150.1, -149.9, -149.6, -1000], np.float32)
    voxels = np.random.default_rng(4).choice(near, (20, 19, 18))
    scan = write_scan(tmp_path / "scan.nrrd", voxels)
    png = tmp_path / "map.png"
    words = "--size 3,3,3 --border 1,1,1 --max-tissue 0.6 --json --png".split()
    done = call(scan, *words, png)
    assert done.exit_code == 0, done.output
    assert png.read_bytes().startswith(b"\x89PNG")
    found = json.loads(done.stdout)
    counts = {}
    for name, tissue in (("real", voxels >= -150), ("rounded", np.rint(voxels) >= -150)):
        score = np.where(tissue[:, :, :-1], 1.0, np.where(tissue[:, :, 1:], 0.5, 0.0))
        boxes = np.lib.stride_tricks.sliding_window_view(score, (3, 3, 3))[1:16, 1:15, 1:11]
        counts[name] = int((boxes.sum(axis=(3, 4, 5)) <= 0.6 * 27).sum())
    assert found["candidates"] == 15 * 14 * 10
    assert found["passing"] == counts["real"] != counts["rounded"]


def test_a_series_is_given_as_the_tables_show_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "both"
    for name, depth in (("11111111", 24), ("22222222", 36)):
        series = write_series(tmp_path / name, lungs(0, (40, 38, depth)), t0020_000e=f"1.2.840.{name}")
        folder.mkdir(exist_ok=True)
        for path in series:
            path.rename(folder / f"{name}_{path.name}")
    for named in (folder / ".#22222222", f"{folder}#22222222"):
        done = call(named, *SMALL)
        assert done.exit_code == 0, done.output
        assert "40 x 38 x 36" in done.stdout
        assert f"Next: genesis-prep extract-cubes {folder} cubes.zarr --size" in done.stderr
    monkeypatch.chdir(folder)
    assert json.loads(call(".#11111111", *SMALL, "--json").stdout)["shape"] == [40, 38, 24]
    ways = f"give one, such as {folder}#11111111, {folder}#22222222."
    for wrong, count in ((folder, "2"), (f"{folder}#3", "none")):
        done = call(wrong)
        assert done.exit_code == 2
        assert done.stderr == f"Error: {wrong} matches {count} of the scans in {folder}: {ways}\n"


def test_the_command_refuses(tmp_path: Path) -> None:
    for none, said in (
        (tmp_path / "none.mhd", f"There is no scan {tmp_path / 'none.mhd'}: give a file, or the folder of"),
        (tmp_path / "none#1", f"There is no scan {tmp_path / 'none#1'}: give a file, or the folder of"),
        (
            tmp_path,
            f"There is no scan in {tmp_path}: searched for",
        ),
        ("", "The path of the scan is empty: give a file, or a folder with one scan."),
    ):
        done = call(none)
        assert done.exit_code == 2
        assert done.stderr.startswith(f"Error: {said}")
        assert done.stderr.count("\n") == 1
    broken = tmp_path / "broken.mhd"
    broken.write_text("nothing")
    done = call(broken)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"Error: {broken}: ")
    scan = write_scan(tmp_path / "scan.mhd", lungs(0))
    for words, said in (
        (["--min-tissue", "0.5"], "--min-tissue 0.5"),
        (["--size", "16,16", "--min-tissue", "0.1"], "--min-tissue 0.1 applies only to cubes"),
        (["--size", "4"], "--size 4 is invalid: it must be three edges"),
        (["--size", "4,4,4,4"], "--size 4,4,4,4"),
        (["--hu", "0"], "--hu 0"),
        (["--hu", "0,0"], "--hu 0,0 is an empty range: the lower limit must be less than the upper limit"),
    ):
        done = call(scan, *words)
        assert done.exit_code == 2
        assert said in done.stderr


def test_the_next_line_takes_a_free_name_and_the_layout_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_scan(tmp_path / "LUNA16" / "subset3" / "a.mhd", lungs(0))
    for made in ("cubes.zarr", "cubes-2.zarr.unfinished"):
        (tmp_path / made).mkdir()
    done = call("LUNA16/subset3", *SMALL)
    line = done.stderr.splitlines()[-1]
    assert line.startswith(
        "Next: genesis-prep extract-cubes LUNA16/subset3 cubes-3.zarr --layout files --size"
    )
    words = line.removeprefix("Next: genesis-prep ").split()
    made_now = CliRunner().invoke(main, [*words, "--workers", "1"])
    assert made_now.exit_code == 0, made_now.output
    assert (tmp_path / "cubes-3.zarr").is_dir()


def test_it_answers_as_extraction_does(tmp_path: Path) -> None:
    """What extraction skips or reports as failed, explain says in the same words."""
    folder = tmp_path / "scans"
    write_scan(folder / "whole.mhd", lungs(0))
    whole = write_scan(folder / "short.nii.gz", lungs(1)).read_bytes()
    (folder / "short.nii.gz").write_bytes(whole[: len(whole) // 2])
    write_series(folder / "single", lungs(2)[:, :, :1])
    write_scan(folder / "mask.nrrd", (lungs(3) > -500).astype(np.int16))
    made = CliRunner().invoke(
        main, ["extract-cubes", str(folder), str(tmp_path / "c.zarr"), *SMALL, "--json"]
    )
    rows = {row["path"]: row for row in json.loads(made.stdout)["scans"]}
    assert len(rows) == 4
    for path, row in rows.items():
        done = call(folder / path, *SMALL)
        assert (done.exit_code == 0) == bool(row["status"] == "used" or "mask" in row["reason"]), path
        said = " ".join((done.stdout + done.stderr).split())
        assert row["reason"] in said, path


def test_a_detached_header_and_a_disc_with_an_index_are_read_as_extraction_does(tmp_path: Path) -> None:
    """The same voxels in three ways give the same counts; the index itself is refused by name."""
    voxels, folder = lungs(0), tmp_path / "scans"
    write_scan(folder / "plain.mhd", voxels)
    write_volume(folder / "detached.nhdr", voxels)
    write_series(folder / "disc" / "series", voxels)
    index = folder / "disc" / "DICOMDIR"
    index.write_bytes(explicit(modality=b"", rows=False, sop=b"1.2.840.10008.1.3.10\0", series=b""))
    counts = []
    for place in ("plain.mhd", "detached.nhdr", "disc", "disc/series"):
        done = call(folder / place, *SMALL, "--json")
        assert done.exit_code == 0, done.output
        counts.append({name: json.loads(done.stdout)[name] for name in ("candidates", "passing")})
    assert counts == counts[:1] * 4
    made = CliRunner().invoke(
        main, ["extract-cubes", str(folder), str(tmp_path / "c.zarr"), *SMALL, "--json"]
    )
    told = json.loads(made.stdout)
    assert {row["path"] for row in told["scans"]} == {"plain.mhd", "detached.nhdr", "disc/series"}
    (kind,) = told["beside"]
    refused = call(index, *SMALL)
    assert refused.exit_code == 1
    assert kind in refused.stderr


def test_a_mask_is_named_as_one(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "mask.mhd", (lungs(0) > -500).astype(np.int16))
    done = call(scan, *SMALL)
    assert (
        "This scan gives no cube: the file looks like a mask, not a scan: the only values are 0 and 1."
        in done.stdout
    )
    assert "extract-cubes" not in done.stderr
    for voxels in (
        lungs(0),
        np.zeros((9, 9, 9), np.int16),
        np.full((9, 9, 9), 40, np.int16),
        np.arange(729, dtype=np.int16).reshape(9, 9, 9),
        np.where(lungs(0) > -500, 1, 0).astype(np.float32) / 2,
        np.where(lungs(0) > -500, 0, -1000).astype(np.int16),
    ):
        assert mask_words(voxels) == ""


def test_places_of_air_are_counted_and_the_way_out_leaves_them_out(tmp_path: Path) -> None:
    voxels = np.full((30, 20, 20), -1000, np.int16)
    voxels[22:, :, :] = np.asfortranarray(lungs(0))[:8, :20, :20]
    scan = write_scan(tmp_path / "scan.mhd", voxels)
    words = ["--size", "8,8,8", "--border", "0,0,0", "--max-tissue", "1"]
    facts = json.loads(call(scan, *words, "--json").stdout)
    tissue = voxels >= -150
    score = np.where(tissue[:, :, :-1], 1.0, np.where(tissue[:, :, 1:], 0.5, 0.0))
    boxes = np.lib.stride_tricks.sliding_window_view(score, (8, 8, 8))[:22, :12, :9].sum(axis=(3, 4, 5))
    assert facts["candidates"] == boxes.size
    assert facts["without_tissue"] == int((boxes == 0).sum()) > 0
    done = call(scan, *words)
    assert f"{100 * (boxes == 0).mean():.1f} % of the passing positions hold no tissue" in done.stdout
    assert "--min-tissue 0.001 excludes such cubes" in " ".join(done.stdout.split())
    assert json.loads(call(scan, *words, "--min-tissue", "0.001", "--json").stdout)["without_tissue"] == 0


def test_what_is_needed_without_a_border_is_told_to_the_voxel(tmp_path: Path) -> None:
    """A cube of 64 needs 65 voxels in the plane: the published bounds leave one out."""
    scan = write_scan(tmp_path / "scan.mhd", lungs(0, (64, 70, 40)))
    said = " ".join(call(scan, "--size", "64,64,32").stdout.split())
    assert "x has 64 voxels and needs 265 (65 even without a border, for this --size)" in said
    said = " ".join(call(scan, "--size", "64,64,32", "--border", "0,0,0").stdout.split())
    assert "x has 64 voxels and needs 65 (65 even without a border" in said
