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
from genesis_toolkit.pipeline.hounsfield import TISSUE_HU
from genesis_toolkit.pipeline.practice.anatomy.chest import SHAPE_LIMITS, Chest, draw_chest
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


@pytest.fixture(scope="module")
def chests() -> list[Chest]:
    return [draw_chest(SMALL, SEED, index) for index in range(3)]


@pytest.fixture(scope="module")
def large() -> Chest:
    return draw_chest((300, 300, 112), 0, 0)


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


def test_masks_hold_what_they_say(chests, large):
    for chest in (*chests, large):
        inside = chest.hu[chest.lung]
        assert (inside < -400).mean() > 0.85
        air = (chest.hu < -400) & (chest.hu > -950)
        assert chest.lung[air].mean() > 0.5, "most of what looks like lung is marked"
        assert not (chest.nodule & ~chest.lung).any()
        assert chest.hu[chest.nodule].mean() > inside.mean() + 200
        marked = np.argwhere(chest.nodule)
        claimed = np.zeros(len(marked), dtype=bool)
        for nodule in chest.nodules:
            assert chest.nodule[tuple(np.rint(nodule.centre).astype(int))]
            away = np.linalg.norm((marked - nodule.centre) * chest.spacing, axis=1)
            near = away <= 0.8 * nodule.diameter_mm
            if nodule.attached != "wall" and nodule.diameter_mm > 3 * max(chest.spacing):
                volume = near.sum() * np.prod(chest.spacing)
                assert volume == pytest.approx(np.pi / 6 * nodule.diameter_mm**3, rel=0.35)
            claimed |= near
        assert claimed.all(), "nothing is marked away from the nodules"


def test_masks_are_not_taken_for_scans(written):
    folder, headers, _ = written
    found = find_scans(folder)
    assert [scan.path for scan in found.sources] == [str(path.relative_to(folder)) for path in headers]


def test_values_are_those_of_a_scanner(chests, large):
    for chest in (*chests, large):
        assert chest.hu.dtype == np.int16
        inside = chest.hu[chest.hu != chest.padding] if chest.padding is not None else chest.hu
        assert inside.min() >= -1024
        assert inside.max() <= 3071
        assert chest.hu[0, 0].max() <= (-900 if chest.padding is None else chest.padding)


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


def test_substances_are_plausible(large):
    hu = large.hu
    assert -900 <= np.median(hu[large.lung]) <= -650
    assert 0.08 < large.lung.mean() < 0.3
    assert 0.008 < (hu > 250).mean() < 0.05
    assert hu.max() > 900, "cortical bone"
    soft = ((hu > 0) & (hu < 100)).mean()
    fat = ((hu > -150) & (hu < -60)).mean()
    assert 0.1 < soft < 0.4
    assert 0.02 < fat < 0.3
    vessels = (hu[large.lung] > TISSUE_HU).mean()
    assert 0.01 < vessels < 0.12
    assert (hu[large.lung] < -940).mean() > 1e-4, "airways"


@pytest.mark.parametrize("shape", [(32, 32, 32), (48, 40, 33), (40, 64, 32)])
def test_the_smallest_shapes_hold_a_body_with_lungs(shape):
    chest = draw_chest(shape, 0, 0)
    assert chest.hu.shape == chest.lung.shape == shape
    assert 0.03 < chest.lung.mean() < 0.3
    assert np.median(chest.hu[chest.lung]) < -400
    assert (chest.hu > -200).mean() > 0.1
    assert (chest.hu > 250).any()
    assert len(chest.tempting) >= 4


def test_the_published_rule_finds_cubes(large):
    tissue = large.hu >= TISSUE_HU
    following = np.zeros_like(tissue)
    following[:, :, :-1] = tissue[:, :, 1:]
    score = np.where(tissue, 1.0, np.where(following, 0.5, 0.0))
    # Every third corner of the rule's range, x and y 100 to X-165, z 30 to Z-66.
    valid = [
        score[x : x + 64, y : y + 64, z : z + 32].mean() <= 0.15
        for x in range(100, 136, 3)
        for y in range(100, 136, 3)
        for z in range(30, 47, 3)
    ]
    assert sum(valid) * 27 > 2000
    x, y, z = np.argwhere(np.reshape(valid, (12, 12, 6)))[0] * 3 + (100, 100, 30)
    assert large.lung[x : x + 64, y : y + 64, z : z + 32].mean() > 0.6, "lung, not the air around the body"


@pytest.mark.parametrize(
    ("wrong", "found", "way_out"),
    [
        ({"scans": 0}, "0 scans", "--scans 10"),
        ({"scans": 10_001}, "10001 scans", "10000"),
        ({"shape": (31, 96, 48)}, "31,96,48", f"from {SHAPE_LIMITS[0]} to"),
        ({"shape": (96, 96, 2000)}, "96,96,2000", "--shape 320,320,128"),
        ({"shape": (96, 96)}, "96,96", "three numbers"),
        ({"seed": -1}, "-1", "choose another --seed"),
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
    with pytest.raises(CallError, match=r"is not empty.*empty this one"):
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
