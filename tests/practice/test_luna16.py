import csv
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from support.scans import kill_after

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.practice.anatomy.chest import SHAPE_LIMITS
from genesis_toolkit.pipeline.practice.luna16 import PhantomParameters, write_luna16
from genesis_toolkit.pipeline.scans.find import find_scans

SMALL = (96, 96, 48)
SEED = 5


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def world(row: dict[str, str]) -> tuple[float, float, float]:
    return float(row["coordX"]), float(row["coordY"]), float(row["coordZ"])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path], list[tuple[str, int, int]]]:
    folder = tmp_path_factory.mktemp("phantom") / "new" / "luna16"
    calls: list[tuple[str, int, int]] = []
    parameters = PhantomParameters(scans=3, shape=SMALL, seed=SEED)
    headers = write_luna16(folder, parameters, progress=lambda *call: calls.append(call))
    return folder, headers, calls


def test_layout_is_that_of_luna16(written):
    folder, headers, calls = written
    assert {path.name for path in folder.iterdir()} == {
        *(f"subset{number}" for number in range(10)),
        "seg-lungs-LUNA16",
        "seg-nodules",
        "annotations.csv",
        "candidates_V2.csv",
    }
    assert [header.parent.name for header in headers] == ["subset0", "subset1", "subset2"]
    assert len(digests(folder)) == 3 * 6 + 2, "nothing unfinished is left behind"
    assert len({header.stem for header in headers}) == 3
    for header in headers:
        assert len(header.stem) <= 64
        assert re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+", header.stem)
    assert calls == [("scans", done, 3) for done in range(4)]


def test_scans_are_dealt_round_robin_and_differ(tmp_path):
    headers = write_luna16(tmp_path / "a", PhantomParameters(scans=11, shape=(32, 32, 32), seed=SEED))
    assert [header.parent.name for header in headers] == [f"subset{index % 10}" for index in range(11)]
    images = [sitk.ReadImage(str(header)) for header in headers]
    assert len({image.GetSpacing() for image in images}) == 11
    assert {image.GetDirection()[0] for image in images} == {1.0, -1.0}
    lowest = {int(sitk.GetArrayViewFromImage(image).min()) for image in images}
    assert lowest & {-2000, -3024}
    assert max(lowest) >= -1024


def test_header_has_the_keys_of_luna16(written):
    for header in written[1]:
        fields = dict(line.split(" = ") for line in header.read_text("ascii").splitlines())
        assert list(fields) == [
            "ObjectType",
            "NDims",
            "BinaryData",
            "BinaryDataByteOrderMSB",
            "CompressedData",
            "TransformMatrix",
            "Offset",
            "CenterOfRotation",
            "AnatomicalOrientation",
            "ElementSpacing",
            "DimSize",
            "ElementType",
            "ElementDataFile",
        ]
        assert fields["ElementType"] == "MET_SHORT"
        assert fields["DimSize"] == "96 96 48"
        assert fields["ElementDataFile"] == f"{header.stem}.raw"
        assert (header.parent / fields["ElementDataFile"]).stat().st_size == 2 * np.prod(SMALL)


def test_another_reader_reads_what_was_drawn(written, chests):
    for header, chest in zip(written[1], chests, strict=True):
        image = sitk.ReadImage(str(header))
        array = sitk.GetArrayFromImage(image)
        assert array.dtype == np.int16
        np.testing.assert_array_equal(array.transpose(2, 1, 0), chest.hu)
        assert image.GetSpacing() == chest.spacing
        assert image.GetOrigin() == chest.origin
        assert image.GetDirection() == chest.direction


@pytest.mark.parametrize("name", ["seg-lungs-LUNA16", "seg-nodules"])
def test_masks_lie_on_the_grids_of_their_scans(written, chests, name):
    folder, headers, _ = written
    assert {path.stem for path in (folder / name).iterdir()} == {header.stem for header in headers}
    for header, chest in zip(headers, chests, strict=True):
        scan, mask = sitk.ReadImage(str(header)), sitk.ReadImage(str(folder / name / header.name))
        assert mask.GetPixelID() == sitk.sitkUInt8
        for grid in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(mask, grid)() == getattr(scan, grid)()
        values = sitk.GetArrayFromImage(mask).transpose(2, 1, 0)
        assert set(np.unique(values)) == {0, 1}
        np.testing.assert_array_equal(values == 1, chest.lung if "lung" in name else chest.nodule)


def test_masks_are_not_taken_for_scans(written):
    folder, headers, _ = written
    found = find_scans(folder)
    assert [scan.path for scan in found.sources] == [str(path.relative_to(folder)) for path in headers]


def test_annotated_nodules_are_where_the_table_says(written, chests):
    folder, headers, _ = written
    rows = rows_of(folder / "annotations.csv")
    assert list(rows[0]) == ["seriesuid", "coordX", "coordY", "coordZ", "diameter_mm"]
    assert {row["seriesuid"] for row in rows} <= {header.stem for header in headers}
    solid = 0
    for header, chest in zip(headers, chests, strict=True):
        image = sitk.ReadImage(str(header))
        mine = [row for row in rows if row["seriesuid"] == header.stem]
        assert len(mine) == len(chest.nodules) >= 1
        for row, nodule in zip(mine, chest.nodules, strict=True):
            voxel = image.TransformPhysicalPointToIndex(world(row))
            assert voxel == tuple(round(value) for value in nodule.centre)
            assert 3.0 <= float(row["diameter_mm"]) <= 30.0
            assert chest.lung[voxel]
            if nodule.kind == "solid":
                solid += 1
                assert image[voxel] > -300
                assert image[voxel] > np.median(chest.hu[chest.lung]) + 300
    assert solid >= 3


def test_candidates_are_the_nodules_and_places_that_only_look_like_one(written, chests):
    folder, headers, _ = written
    rows = rows_of(folder / "candidates_V2.csv")
    assert list(rows[0]) == ["seriesuid", "coordX", "coordY", "coordZ", "class"]
    for header, chest in zip(headers, chests, strict=True):
        centres = [chest.to_world(nodule.centre) for nodule in chest.nodules]
        radii = np.array([nodule.diameter_mm / 2 for nodule in chest.nodules])
        mine = [row for row in rows if row["seriesuid"] == header.stem]
        assert sum(row["class"] == "1" for row in mine) == len(centres)
        assert sum(row["class"] == "0" for row in mine) >= 8
        hit = set()
        image = sitk.ReadImage(str(header))
        for row in mine:
            away = np.linalg.norm(np.array(centres) - world(row), axis=1)
            if row["class"] == "1":
                hit.add(int(np.argmin(away / radii)))
                assert (away < 0.4 * radii).any()
            else:
                assert (away > radii + 3).all()
                image[image.TransformPhysicalPointToIndex(world(row))]  # inside the scan
        assert hit == set(range(len(centres)))


def test_the_same_seed_gives_the_same_bytes(written, tmp_path):
    folder = written[0]
    write_luna16(tmp_path / "fewer", PhantomParameters(scans=2, shape=SMALL, seed=SEED))
    fewer, all_three = digests(tmp_path / "fewer"), digests(folder)
    scans = {name for name in fewer if name.startswith("subset")}
    assert len(scans) == 4
    assert all(fewer[name] == all_three[name] for name in scans)
    first = rows_of(tmp_path / "fewer" / "annotations.csv")
    assert first == rows_of(folder / "annotations.csv")[: len(first)]

    write_luna16(tmp_path / "other", PhantomParameters(scans=1, shape=SMALL, seed=SEED + 1))
    other = {digest for name, digest in digests(tmp_path / "other").items() if name.endswith(".raw")}
    assert not other & set(all_three.values())


@pytest.mark.parametrize(
    ("wrong", "found", "way_out"),
    [
        ({"scans": 0}, "0 scans", "--scans 10"),
        ({"scans": 10_001}, "--scans 10001", "10000"),
        ({"shape": (31, 96, 48)}, "31,96,48", f"from {SHAPE_LIMITS[0]} to"),
        ({"shape": (96, 96, 2000)}, "96,96,2000", "--shape 320,320,128"),
        ({"shape": (96, 96)}, "96,96", "three numbers"),
        ({"seed": -1}, "-1", "from 0 to 2^63 - 1"),
    ],
)
def test_parameters_out_of_range_are_refused(wrong, found, way_out):
    with pytest.raises(CallError) as refusal:
        PhantomParameters(**wrong)
    assert found in str(refusal.value)
    assert way_out in str(refusal.value)


def test_a_folder_in_use_is_refused(tmp_path):
    parameters = PhantomParameters(scans=1, shape=(32, 32, 32))
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(CallError, match=r"is not empty.*empty this folder"):
        write_luna16(tmp_path, parameters)
    with pytest.raises(CallError, match="is a file"):
        write_luna16(tmp_path / "mine.txt", parameters)
    with pytest.raises(CallError, match="is a file"):
        write_luna16(tmp_path / "mine.txt" / "below", parameters)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.full
def test_killed_it_goes_on_and_ends_with_the_same_files(tmp_path: Path) -> None:
    def call(folder: Path) -> list[str]:
        return [
            sys.executable, "-m", "genesis_toolkit.cli.prep", "phantom", str(folder),
            "--scans", "4", "--shape", "48,48,32",
        ]  # fmt: skip

    subprocess.run(call(tmp_path / "whole"), check=True, capture_output=True)
    killed = tmp_path / "killed"
    assert kill_after(call(killed), killed, 1)
    assert not killed.exists()
    subprocess.run(call(killed), check=True, capture_output=True)
    files = sorted(path.relative_to(killed) for path in killed.rglob("*") if path.is_file())
    assert len(files) == 4 * 6 + 2
    assert all((killed / file).read_bytes() == (tmp_path / "whole" / file).read_bytes() for file in files)
