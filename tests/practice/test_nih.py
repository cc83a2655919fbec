import csv
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from support.scans import kill_after

from genesis_toolkit.cli.prep import main
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.practice.anatomy.radiograph import draw_case, person, take
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


@pytest.mark.parametrize(
    ("wrong", "found", "way_out"),
    [
        ({"scans": 0}, "0 images", "--scans 100"),
        ({"scans": 100_001}, "--scans 100001", "100000"),
        ({"shape": (63, 96)}, "63,96", "from 64 to 2048"),
        ({"shape": (96, 96, 48)}, "96,96,48", "two numbers"),
        ({"seed": -1}, "-1", "from 0 to 2^63 - 1"),
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
    assert "1 image of 64 x 64 pixels, of 1 patient, to" in done.stdout
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
