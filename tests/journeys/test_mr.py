"""MR from files and DICOM to cubes and targets: mapped by a window that every store records."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from support.dicom import write_series
from support.scans import write_scan

import genesis_toolkit as gt
from genesis_toolkit.cli.prep import main
from genesis_toolkit.training.finetune.run import read_finetuned

PLACES = ["--size", "8,8,8", "--border", "0,0,0", "--cubes-per-scan", "4"]
_RESCALE = {"RescaleSlope": 1.0, "RescaleIntercept": 0.0}


def head(seed: int, scale: float = 1.0) -> NDArray[np.int16]:
    """A scan [x, y, z] of MR: 0 around a ball of positive values."""
    rng = np.random.default_rng(seed)
    x, y, z = np.ogrid[:20, :18, :16]
    inside = (x - 10) ** 2 + (y - 9) ** 2 + (z - 8) ** 2 < 60
    return (inside * rng.integers(100, 2000, inside.shape) * scale).astype(np.int16)


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, words)))


def made(*words: str | Path) -> Result:
    done = call(*words)
    assert done.exit_code == 0, done.output
    return done


def test_cubes_are_the_scans_own_values_mapped(tmp_path: Path) -> None:
    """By the store alone: its column of ends, its corners, and the files."""
    scans, store = tmp_path / "scans", tmp_path / "cubes.zarr"
    for seed, scale in ((1, 1.0), (2, 8.0)):
        write_scan(scans / f"{seed}.nii.gz", head(seed, scale))
    write_scan(scans / "empty.nii.gz", np.zeros((20, 18, 16), np.int16))
    done = call("extract-cubes", scans, store, *PLACES, "--window", "p0.5,p99.5")
    assert done.exit_code == 1, done.output
    assert "all voxels are 0" in " ".join(done.output.split())
    cubes = gt.open_store(store)
    assert isinstance(cubes, gt.CubeStore)
    assert cubes.attributes["unit"] == "mapped intensity"
    assert list(cubes.window) == [-1000, 1000]
    assert cubes.attributes["parameters"]["window"] == ["p0.5", "p99.5"]
    assert "hu" not in cubes.attributes["parameters"]
    assert cubes.attributes["parameters"]["max_tissue"] == 1.0
    names, windows = cubes.scans.path.tolist(), cubes.scans.window
    assert windows is not None
    assert windows[names.index("empty.nii.gz")].tolist() == [0, 0]
    for number in range(len(cubes)):
        scan, corner = cubes.table.scan[number], cubes.table.corner[number]
        seed = int(names[scan][0])
        voxels = head(seed, 1.0 if seed == 1 else 8.0)
        low, high = windows[scan]
        inner = np.sort(voxels[voxels != 0])
        assert low == inner[int(np.ceil(0.005 * len(inner))) - 1]
        assert high == inner[int(np.ceil(0.995 * len(inner))) - 1]
        box = voxels[tuple(slice(first, first + 8) for first in corner)].astype(float)
        wanted = np.rint(2000 * (box.clip(low, high) - low) / (high - low)) - 1000
        np.testing.assert_array_equal(cubes[number], wanted)
    assert len(cubes) == 8


def test_a_store_of_mr_is_known_repeated_and_verified(tmp_path: Path) -> None:
    scans, store = tmp_path / "scans", tmp_path / "cubes.zarr"
    write_scan(scans / "a.mha", head(1))
    asked = ["extract-cubes", scans, store, *PLACES, "--window", "0,p99"]
    made(*asked)
    assert "nothing done" in made(*asked).output
    card = (store / "README.md").read_text()
    assert "--window 0,p99" in card
    assert "--hu" not in card
    assert "computed-tomography" not in card
    assert "0,p99" in made("info", store).output
    assert "only air" not in made("info", store).output
    assert json.loads(made("info", store, "--json").stdout)["parameters"]["window"] == [0, "p99"]
    made("info", store, "--csv", tmp_path / "scans.csv")
    assert "window_0,window_1" in (tmp_path / "scans.csv").read_text()
    made("preview", store, tmp_path / "report.html")
    write_scan(scans / "b.mha", head(2))
    assert "1 scan added" in made(*asked).output
    verified = json.loads(made("verify", store, "--source", scans, "--json").stdout)
    assert (verified["scans"], verified["cut_again"]) == (2, 8)
    other = call("extract-cubes", scans, store, *PLACES, "--window", "0,p98")
    assert other.exit_code == 2
    assert "window 0,p99 (requested: 0,p98)" in other.output
    # A shard that was lost is made again, with the same bytes.
    shard = next(path for path in (store / "cubes" / "c").rglob("*") if path.is_file())
    before = shard.read_bytes()
    shard.unlink()
    made(*asked)
    assert shard.read_bytes() == before


def test_stores_of_two_windows_are_not_merged(tmp_path: Path) -> None:
    for name, window in (("a", "p1,p99"), ("b", "p1,p99"), ("c", "p2,p99")):
        write_scan(tmp_path / name / f"{name}.mha", head(ord(name)))
        made("extract-cubes", tmp_path / name, tmp_path / f"{name}.zarr", *PLACES, "--window", window)
    write_scan(tmp_path / "ct" / "ct.mha", head(9))
    made("extract-cubes", tmp_path / "ct", tmp_path / "ct.zarr", *PLACES, "--max-tissue", "1")
    for other, why in (
        ("c.zarr", "window is p2,p99"),
        ("ct.zarr", "hu is -1000,1000 in the former and none in the latter"),
    ):
        refused = call("merge", tmp_path / "a.zarr", tmp_path / other, tmp_path / "no.zarr")
        assert refused.exit_code == 2
        assert why in refused.output
    made("merge", tmp_path / "a.zarr", tmp_path / "b.zarr", tmp_path / "ab.zarr")
    merged, parts = gt.open_store(tmp_path / "ab.zarr"), [gt.open_store(tmp_path / f"{x}.zarr") for x in "ab"]
    windows: list[Any] = [part.scans.window for part in parts]
    np.testing.assert_array_equal(merged.scans.window, np.concatenate(windows))


def test_mr_in_dicom_is_taken_with_a_window_alone(tmp_path: Path) -> None:
    """Without slope and intercept its values are taken as stored; CT stays as strict as it was."""
    voxels = head(5)
    bare = write_series(tmp_path / "scans" / "mr", voxels)
    strip_rescale(bare, "MR")
    refused = call("extract-cubes", tmp_path / "scans", tmp_path / "no.zarr", *PLACES)
    assert "the DICOM modality is MR; only CT is read" in " ".join(refused.output.split())
    store = tmp_path / "mr.zarr"
    asked = ["extract-cubes", tmp_path / "scans", store, *PLACES, "--window", "0,2000"]
    made(*asked)
    cubes = gt.open_store(store)
    x, y, z = cubes.table.corner[0]
    box = voxels[x : x + 8, y : y + 8, z : z + 8].astype(int)
    np.testing.assert_array_equal(cubes[0], box - 1000)
    verified = json.loads(made("verify", store, "--source", tmp_path / "scans", "--json").stdout)
    assert (verified["scans"], verified["cut_again"]) == (1, 4)
    assert "nothing done" in made(*asked).output
    explained = made("explain", tmp_path / "scans" / "mr", *PLACES[:4], "--window", "0,2000").output
    assert "--window 0,2000" in explained.replace("\n", " ")
    ct = write_series(tmp_path / "ct" / "ct", head(6))
    strip_rescale(ct, "CT")
    also = call("extract-cubes", tmp_path / "ct", tmp_path / "ct.zarr", *PLACES, "--window", "0,2000")
    assert "cannot be converted to HU" in " ".join(also.output.split())


def strip_rescale(paths: list[Path], modality: str) -> None:
    """Take slope and intercept out of slices, whose values stay as they were written."""
    import pydicom

    for path in paths:
        one = pydicom.dcmread(path)
        slope, intercept = (float(one.get(name, first)) for name, first in _RESCALE.items())
        own = np.rint(one.pixel_array * slope + intercept)
        one.PixelData = own.astype(one.pixel_array.dtype).tobytes()
        for name in _RESCALE:
            del one[name]
        one.Modality = modality
        one.save_as(path)


def test_tumours_are_cut_with_their_masks(tmp_path: Path) -> None:
    voxels = head(3)
    write_scan(tmp_path / "scans" / "p.nii.gz", voxels)
    write_scan(tmp_path / "masks" / "p.nii.gz", (voxels > 1500).astype(np.uint8) * 4)
    store = tmp_path / "tumours.zarr"
    asked = ["extract-targets", tmp_path / "scans", store, "--task", "segment", "--masks", tmp_path / "masks"]
    made(*asked, *PLACES[:2], *PLACES[4:], "--window", "0,2000", "--foreground", "4")
    targets = gt.open_store(store)
    assert isinstance(targets, gt.TargetStore)
    assert targets.scans.window is not None
    assert targets.scans.window.tolist() == [[0, 2000]]
    for number in range(len(targets)):
        cube, mask = targets[number]
        np.testing.assert_array_equal(mask, cube > 500)
    verified = json.loads(made("verify", store, "--source", tmp_path / "scans", "--json").stdout)
    assert verified["cut_again"] == 4


def test_a_scan_is_segmented_as_it_was_trained(tmp_path: Path) -> None:
    """Twice as bright, a scan gets the same mask, since its percentiles are twice as high."""
    for number in range(3):
        voxels = head(number)
        write_scan(tmp_path / "scans" / f"p{number}.nii.gz", voxels)
        write_scan(tmp_path / "masks" / f"p{number}.nii.gz", (voxels > 0).astype(np.uint8))
    (tmp_path / "split.csv").write_text("scan,part\np0,train\np1,validation\np2,test\n")
    store, run = tmp_path / "t.zarr", tmp_path / "run"
    asked = ["extract-targets", tmp_path / "scans", store, "--task", "segment", "--masks", tmp_path / "masks"]
    made(*asked, *PLACES[:2], *PLACES[4:], "--window", "p0.5,p99.5", "--split-file", tmp_path / "split.csv")
    gt.finetune(store, run, gt.FinetuneParameters(epochs=1), width=2, device="cpu", threads=1)
    assert read_finetuned(run).ends == ("p0.5", "p99.5")
    found = []
    for name, scale in (("one", 1.0), ("two", 2.0)):
        scan = write_scan(tmp_path / f"{name}.nii.gz", head(1, scale))
        found.append(gt.segment_scan(run, scan, tmp_path / f"{name}-mask.nii.gz", device="cpu"))
    assert found[0].foreground == found[1].foreground
    masks = [gt.read_scan(one.mask).voxels for one in found]
    np.testing.assert_array_equal(*masks)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--window", "0,9", "--hu", "-1000,1000"], "--hu is for CT, --window"),
        (["--window", "9,0"], "--window 9,0 is an empty range"),
        (["--window", "p0.5"], "has 1 limit, but must have two"),
        (["--window", "x,9"], "'x' is neither a number nor a percentile"),
    ],
)
@pytest.mark.parametrize(
    "command", [["extract-cubes"], ["extract-targets", "--task", "segment"], ["explain"]]
)
def test_wrong_windows_are_refused(tmp_path: Path, command: list[str], options: list[str], why: str) -> None:
    scan = write_scan(tmp_path / "a.mha", head(1))
    target = [] if command == ["explain"] else [tmp_path / "a.zarr"]
    refused = call(command[0], scan, *target, *command[1:], *options)
    assert refused.exit_code == 2
    assert why in refused.output
    assert not (tmp_path / "a.zarr").exists()
