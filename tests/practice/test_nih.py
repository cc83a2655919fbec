import csv
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from support.scans import kill_after

from genesis_toolkit.cli.prep import main
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.practice.anatomy.findings import HEARTS, LABELS
from genesis_toolkit.pipeline.practice.anatomy.radiograph import Case, draw_case, person, take
from genesis_toolkit.pipeline.practice.anatomy.torso import GRID, draw_torso, magnified, project, water
from genesis_toolkit.pipeline.practice.nih import RadiographParameters, is_test, planned, write_nih

SHAPE = (96, 64)
SEED = 3
SIDE = 256

#: The labels of ChestX-ray14.
FOURTEEN = set(
    "Atelectasis Cardiomegaly Consolidation Edema Effusion Emphysema Fibrosis Hernia Infiltration Mass "
    "Nodule Pleural_Thickening Pneumonia Pneumothorax".split()
)


def rows_of(folder: Path) -> list[list[str]]:
    with (folder / "Data_Entry_2017.csv").open(newline="", encoding="ascii") as file:
        return list(csv.reader(file))


def pictures(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.glob("images_*/images/*.png")}


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="ascii").split()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path], list[tuple[str, int, int]]]:
    folder = tmp_path_factory.mktemp("nih") / "xrays"
    calls: list[tuple[str, int, int]] = []
    parameters = RadiographParameters(scans=6, shape=SHAPE, seed=SEED)
    paths = write_nih(folder, parameters, workers=1, progress=lambda *call: calls.append(call))
    return folder, paths, calls


@pytest.fixture(scope="module")
def case() -> Case:
    """A patient of middle size in everything."""
    drawn = draw_case(0, 0)
    return replace(drawn, course=replace(drawn.course, size=dict.fromkeys(LABELS, 0.6)))


def change(case: Case, label: str) -> np.ndarray:
    """What a finding changes in a picture: grey levels, (rows, columns), without what changes everywhere."""
    healthy, ill = (take(case, 0, (SIDE, SIDE), labels=labels) for labels in ((), (label,)))
    assert healthy.view == ill.view
    assert ill.labels == (label,)
    difference = ill.grey.astype(float) - healthy.grey
    difference -= np.median(difference)
    assert np.abs(difference).max() > 8, "it can be seen"
    return np.where(np.abs(difference) > 5, difference, 0.0)


def test_layout_is_that_of_nih(written):
    folder, paths, calls = written
    assert {path.name for path in folder.iterdir()} == {
        "images_001", "Data_Entry_2017.csv", "train_val_list.txt", "test_list.txt",
    }  # fmt: skip
    head, *rows = rows_of(folder)
    assert ",".join(head) == (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    )
    assert [path.name for path in paths] == [row[0] for row in rows]
    assert {path.name: path for path in paths} == pictures(folder)
    for row in rows:
        assert len(row) == len(head)
        assert row[0] == f"{int(row[3]):08d}_{int(row[2]):03d}.png"
        assert row[1] == "No Finding" or set(row[1].split("|")) < FOURTEEN
        assert 20 <= int(row[4]) <= 92
        assert row[5] in "MF"
        assert row[6] in ("PA", "AP")
        width, height = (int(size) * 0.168 for size in row[7:9])
        assert 250 < width < 450, "mm of a chest"
        assert 250 < height < 450
    for patient in {row[3] for row in rows}:
        mine = [row for row in rows if row[3] == patient]
        assert [int(row[2]) for row in mine] == list(range(len(mine)))
        assert len({row[5] for row in mine}) == 1
    assert calls[0] == ("images", 0, 6)
    assert calls[-1] == ("images", 6, 6)


def test_patients_do_not_cross_the_lists(written):
    folder, paths, _ = written
    train, test = lines(folder / "train_val_list.txt"), lines(folder / "test_list.txt")
    assert sorted(train + test) == sorted(path.name for path in paths)
    assert train
    assert test
    assert not {name[:8] for name in train} & {name[:8] for name in test}


def test_pictures_are_grey_or_four_channels_that_show_the_same(written):
    modes = Counter()
    for path in written[1]:
        with Image.open(path) as picture:
            modes[picture.mode] += 1
            assert picture.size == SHAPE
            grey = np.asarray(picture.convert("L"))
            if picture.mode == "RGBA":
                red, green, blue, alpha = np.moveaxis(np.asarray(picture), -1, 0)
                assert (red == green).all()
                assert (red == blue).all()
                assert (alpha == 255).all()
                np.testing.assert_array_equal(grey, red)
        assert grey.std() > 30
        assert grey[:, :2].mean() < grey[:, 40:56].mean() - 60, "air beside the body, the spine in the middle"
    assert modes == {"L": 5, "RGBA": 1}


def test_an_image_depends_on_the_seed_and_its_number_only(written, tmp_path):
    folder, paths, _ = written
    fewer = write_nih(tmp_path / "fewer", RadiographParameters(scans=3, shape=SHAPE, seed=SEED), workers=2)
    assert [path.read_bytes() for path in fewer] == [path.read_bytes() for path in paths[:3]]
    assert rows_of(tmp_path / "fewer") == rows_of(folder)[:4]
    case = draw_case(SEED, 0)
    again = take(case, 0, SHAPE)
    np.testing.assert_array_equal(np.asarray(Image.open(paths[0]).convert("L")), again.grey)
    assert rows_of(folder)[1][1] == ("|".join(again.labels) or "No Finding")
    assert not (take(case, 1, SHAPE).grey == again.grey).all()
    other = write_nih(tmp_path / "other", RadiographParameters(scans=1, shape=SHAPE, seed=SEED + 1))
    assert other[0].read_bytes() != paths[0].read_bytes()


def test_images_are_dealt_alike_however_many_follow():
    many = list(planned(RadiographParameters(scans=2000)))
    few = list(planned(RadiographParameters(scans=100)))
    assert few[:-1] == many[: len(few) - 1]
    assert sum(one.images for one in many) == 2000
    assert [one.first for one in many] == np.cumsum([0, *(one.images for one in many[:-1])]).tolist()
    assert 3 < 2000 / len(many) < 4
    test = sum(one.images for one in many if is_test(one.patient))
    assert 0.2 < test / 2000 < 0.3
    assert {person(0, one.patient).gender for one in few} == {"M", "F"}


@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize("label", ["Consolidation", "Effusion", "Mass", "Nodule", "Pneumothorax"])
def test_a_finding_is_where_it_belongs(case, label, side):
    course = replace(case.course, sides=dict.fromkeys(LABELS, side))
    changed = change(replace(case, course=course), label)
    # The patient's left is to the right of the picture.
    mine = changed[:, SIDE // 2 :] if side > 0 else changed[:, : SIDE // 2]
    weight = np.abs(mine).sum()
    assert weight > 0.9 * np.abs(changed).sum()
    if label == "Pneumothorax":
        assert -mine[mine < 0].sum() > 0.7 * weight, "air is dark"
        assert np.abs(mine[: SIDE // 2]).sum() > 0.6 * weight, "and rises"
    else:
        assert mine[mine > 0].sum() > 0.95 * weight
    if label == "Effusion":
        assert np.abs(mine[SIDE // 2 :]).sum() > 0.95 * weight, "fluid runs down"


def test_infiltration_is_fainter_than_consolidation(case):
    faint, dense = change(case, "Infiltration"), change(case, "Consolidation")
    assert (faint >= 0).mean() > 0.99
    assert np.percentile(faint[faint > 0], 95) < 0.7 * np.percentile(dense[dense > 0], 95)


@pytest.mark.parametrize(("label", "diameter"), [("Nodule", 11 + 0.6 * 17), ("Mass", 33 + 0.6 * 29)])
def test_a_nodule_is_as_large_as_was_drawn_and_no_larger_than_30_mm(case, label, diameter):
    seen = change(case, label) > 0
    width, height = take(case, 0, (64, 64), labels=()).field
    area = seen.sum() * (width / SIDE) * (height / SIDE)
    assert 2 * np.sqrt(area / np.pi) == pytest.approx(diameter, rel=0.25)
    assert (diameter <= 30) == (label == "Nodule")


def test_an_enlarged_heart_has_a_wider_shadow(case):
    wide = []
    for heart in HEARTS[0][1], HEARTS[1][0]:  # the largest that is normal, the smallest that is not
        torso = draw_torso(replace(case.torso.patient, heart=heart), np.random.default_rng(0))
        depth = torso.canvas.spacing[1] * water(torso.canvas.hu[30:60]).sum(axis=1)
        inside = np.abs(np.arange(GRID[0]) - GRID[0] / 2) < 0.3 * GRID[0]  # not the wall of the chest
        wide.append((depth[:, inside] > 130).sum() * torso.canvas.spacing[0] / len(depth))
    assert wide[1] > wide[0] + 4, "mm"


def test_rays_sum_what_they_cross(case):
    """A block of water 100 mm deep gives 100 mm; air gives none."""
    torso = case.torso
    canvas, patient = torso.canvas, torso.patient
    hu = np.full(GRID[::-1], -1000, dtype=np.float32)
    assert np.abs(project(canvas, patient, hu, "PA")).max() < 1e-3
    voxels = round(100 / canvas.spacing[1])
    middle = GRID[1] // 2
    hu[44:84, middle - voxels // 2 : middle - voxels // 2 + voxels, 80:144] = 0
    shadow = project(canvas, patient, hu, "PA")
    rows, columns = shadow.shape
    inner = shadow[rows // 2 - 20 : rows // 2 + 20, columns // 2 - 40 : columns // 2 + 40]
    np.testing.assert_allclose(inner, voxels * canvas.spacing[1], rtol=2e-3)
    assert shadow[: rows // 5].max() < 1e-3


def test_what_is_near_the_tube_is_larger(case):
    """By similar triangles: the heart, in front, is smaller PA than AP."""
    patient = case.torso.patient
    front = -30.0
    for view, tube, to_detector in (
        ("PA", 1830, patient.half_depth + front),
        ("AP", 1150, patient.half_depth - front),
    ):
        middle = tube / (tube - patient.half_depth)
        assert magnified(patient, view, front) == pytest.approx(tube / (tube - to_detector) / middle)
        assert magnified(patient, view, 0.0) == 1.0
    assert magnified(patient, "PA", front) < 1 < magnified(patient, "AP", front)


def test_vessels_lie_in_the_lungs(case):
    lung = (case.torso.canvas.depth > 0).any(axis=1)[::-1]
    fine = lung.repeat(3, axis=0).repeat(3, axis=1)
    vessels = case.torso.vessels
    assert vessels[~fine].sum() < 0.02 * vessels.sum()
    assert 0.1 < (vessels[fine] > 0.5).mean() < 0.9


@pytest.mark.parametrize(
    ("wrong", "found", "way_out"),
    [
        ({"scans": 0}, "0 images", "--scans 100"),
        ({"scans": 100_001}, "100001 images", "100000"),
        ({"shape": (63, 96)}, "63,96", "from 64 to 2048"),
        ({"shape": (96, 96, 48)}, "96,96,48", "two numbers"),
        ({"seed": -1}, "-1", "choose another --seed"),
    ],
)
def test_parameters_out_of_range_are_refused(wrong, found, way_out):
    with pytest.raises(CallError) as refusal:
        RadiographParameters(**wrong)
    assert found in str(refusal.value)
    assert way_out in str(refusal.value)


def test_the_command_says_what_it_wrote_and_what_comes_next(tmp_path):
    call = ["phantom", str(tmp_path / "x"), "--layout", "nih", "--scans", "1", "--shape", "64,64"]
    done = CliRunner().invoke(main, call)
    assert done.exit_code == 0
    assert "1 image of 64 x 64 pixels, of 1 patient, is in" in done.stdout
    assert f"Next: genesis-prep extract-cubes {tmp_path / 'x'} cubes.zarr --layout nih" in done.stderr
    again = CliRunner().invoke(main, call)
    assert again.exit_code == 2
    assert "is not empty" in again.stderr


@pytest.mark.full
def test_killed_it_goes_on_and_ends_with_the_same_files(tmp_path: Path) -> None:
    def call(folder: Path) -> list[str]:
        return [
            sys.executable, "-m", "genesis_toolkit.cli.prep", "phantom", str(folder),
            "--layout", "nih", "--scans", "8",
            "--shape", "64,64",
        ]  # fmt: skip

    subprocess.run(call(tmp_path / "whole"), check=True, capture_output=True)
    killed = tmp_path / "killed"
    assert kill_after(call(killed), killed, 1)
    assert not killed.exists()
    subprocess.run(call(killed), check=True, capture_output=True)
    files = sorted(path.relative_to(killed) for path in killed.rglob("*") if path.is_file())
    assert len(files) == 8 + 3
    assert all((killed / file).read_bytes() == (tmp_path / "whole" / file).read_bytes() for file in files)
