"""NIH ChestX-ray14 to a store: the right images of the right list, whoever works, whatever is broken."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from genesis_toolkit.cli.prep import main
from genesis_toolkit.pipeline.cubes.crop import cut_image
from genesis_toolkit.pipeline.cubes.estimate import plan_extraction
from genesis_toolkit.pipeline.cubes.extract import extract_cubes
from genesis_toolkit.pipeline.cubes.parameters import ExtractParameters, ImageParameters
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import read_manifest, unfinished
from genesis_toolkit.pipeline.scans.find import find_scans, layout_of
from genesis_toolkit.pipeline.scans.images import resize
from genesis_toolkit.pipeline.scans.nih import find_images, parse_table
from genesis_toolkit.pipeline.store.open import open_cubes

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
SMALL = ImageParameters(size=(6, 5))


#: Name, list, labels, view: three patients to train on, one to test on.
IMAGES = [
    ("00000001_000", "train_val", "Cardiomegaly|Effusion", "PA"),
    ("00000001_001", "train_val", "No Finding", "AP"),
    ("00000002_000", "train_val", "No Finding", "PA"),
    ("00000003_000", "test", "Hernia", "PA"),
    ("00000011_000", "train_val", "Nodule", "AP"),
]


def pixels_of(name: str) -> np.ndarray:
    """uint8 [y, x], some noise of the image's own."""
    return np.random.default_rng(int(name[:8]) * 1000 + int(name[9:])).integers(
        0, 256, (24, 32), dtype=np.uint8
    )


def write_tables(folder: Path, header: str = HEADER) -> None:
    rows = [
        f"{name}.png,{labels},{int(name[9:])},{int(name[:8])},50,M,{view},32,24,0.1,0.1,"
        for name, _, labels, view in IMAGES
    ]
    (folder / "Data_Entry_2017.csv").write_text("\r\n".join([header, *rows, ""]), encoding="utf-8")
    for split in ("train_val", "test"):
        names = [f"{name}.png" for name, own, _, _ in IMAGES if own == split]
        (folder / f"{split}_list.txt").write_text("\n".join(names), encoding="utf-8")


@pytest.fixture
def nih(tmp_path: Path) -> Path:
    """Five images in two folders as downloaded, one of them RGBA."""
    folder = tmp_path / "nih"
    for number, (name, *_) in enumerate(IMAGES):
        path = folder / f"images_00{1 + number // 3}" / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels_of(name))
        (image.convert("RGBA") if name == "00000002_000" else image).save(path)
    write_tables(folder)
    return folder


def path_of(nih: Path, name: str) -> Path:
    return next(nih.rglob(f"{name}.png"))


def cubes_of(path: Path) -> np.ndarray:
    store = open_cubes(path)
    out = np.empty((len(store), *store.size), store.cubes.dtype)
    store.cubes.read_many(np.arange(len(store)), out)
    return out


def test_the_official_split_and_what_the_table_says(nih: Path) -> None:
    found = find_images(nih)
    assert [(one.identifier, one.path) for one in found.sources] == [
        ("00000001_000", "images_001/images/00000001_000.png"),
        ("00000001_001", "images_001/images/00000001_001.png"),
        ("00000002_000", "images_001/images/00000002_000.png"),
        ("00000011_000", "images_002/images/00000011_000.png"),
    ]
    assert (found.layout, found.other_list, found.absent) == ("nih", 1, 0)
    first = found.sources[0]
    assert (first.patient, first.view, first.labels) == ("1", "PA", "Cardiomegaly|Effusion")  # type: ignore[attr-defined]
    assert [one.identifier for one in find_images(nih, "test").sources] == ["00000003_000"]
    assert len(find_images(nih, "all").sources) == 5
    assert layout_of(nih) == "nih"
    with pytest.raises(CallError, match="whose images are not CT scans"):
        find_scans(nih)


def test_other_editions_and_other_folders(nih: Path, tmp_path: Path) -> None:
    as_first = [dataclasses.asdict(one) for one in find_images(nih).sources]
    text = (nih / "Data_Entry_2017.csv").read_text(encoding="utf-8")
    (nih / "Data_Entry_2017.csv").unlink()
    newer = text.replace("Patient Gender", "Patient Sex").replace(
        "OriginalImage[Width,Height]", '"OriginalImage[Width,Height]"'
    )
    (nih / "Data_Entry_2017_v2020.csv").write_text("\ufeff" + newer, encoding="utf-8")
    assert [dataclasses.asdict(one) for one in find_images(nih).sources] == as_first
    path_of(nih, "00000001_000").rename(nih / "00000001_000.png")
    (nih / "images").mkdir()
    path_of(nih, "00000001_001").rename(nih / "images" / "00000001_001.png")
    assert [one.path for one in find_images(nih).sources][:2] == [
        "00000001_000.png",
        "images/00000001_001.png",
    ]
    (nih / "Data_Entry_2017.csv").write_text(text, encoding="utf-8")
    with pytest.raises(CallError, match=r"2 tables, Data_Entry_2017\.csv, Data_Entry_2017_v2020\.csv: keep"):
        find_images(nih)


def test_a_part_of_the_download_is_counted_and_strangers_are_named(nih: Path, tmp_path: Path) -> None:
    path_of(nih, "00000011_000").unlink()
    Image.fromarray(pixels_of("00000099_000")).save(nih / "00000099_000.png")
    found = find_images(nih)
    assert (found.other_list, found.absent) == (1, 1)
    strange = found.sources[-1]
    assert (strange.path, strange.skip) == (
        "00000099_000.png",
        "the image is on neither train_val_list.txt nor test_list.txt",
    )
    store = extract_cubes(nih, tmp_path / "c.zarr", SMALL, workers=1).store
    assert store.scans.status.tolist() == ["used"] * 3 + ["skipped"]
    assert find_images(nih, "all").sources[-1].problem == "Data_Entry_2017.csv has no row for the image"
    for path in nih.rglob("*.png"):
        path.unlink()
    with pytest.raises(CallError, match=r"There is no image \(\.png\) in"):
        find_images(nih)


def test_what_is_wrong_with_tables_and_lists_is_said(nih: Path) -> None:
    table, lists = nih / "Data_Entry_2017.csv", nih / "test_list.txt"
    write_tables(nih, HEADER.replace("Finding Labels", "Findings"))
    with pytest.raises(
        DataError, match=r"Data_Entry_2017\.csv has no column Finding Labels; its columns are Image Index"
    ):
        find_images(nih)
    write_tables(nih)
    lists.write_text("00000003_000.png\n00000001_002.png\n", encoding="utf-8")
    with pytest.raises(
        DataError,
        match=r"Patient 1 is on both lists: 00000001_001\.png on train_val_list\.txt, 00000001_002\.png on",
    ):
        find_images(nih)
    lists.write_text("00000099_000.png\n", encoding="utf-8")
    with pytest.raises(CallError, match=r"5 images, but none is on test_list\.txt: choose another --split"):
        find_images(nih, "test")
    lists.unlink()
    with pytest.raises(CallError, match=r"test_list\.txt is missing.*--split all"):
        find_images(nih)
    assert len(find_images(nih, "all").sources) == 5
    text = table.read_text(encoding="utf-8")
    with pytest.raises(DataError, match=r"two rows for 00000001_000\.png"):
        parse_table(text + text.partition("\n")[2], "t.csv")
    with pytest.raises(DataError, match="1 columns in row 7; at least 7 are needed"):
        parse_table(text + "00000001_009.png", "t.csv")
    table.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not text in UTF-8"):
        find_images(nih, "all")
    table.unlink()
    with pytest.raises(CallError, match=r"holds no table Data_Entry_2017\*\.csv"):
        find_images(nih)
    with pytest.raises(CallError, match="is a file: give the folder"):
        find_images(path_of(nih, "00000001_000"))


def test_the_store_holds_whole_images_resized(nih: Path, tmp_path: Path) -> None:
    store = extract_cubes(nih, tmp_path / "c.zarr", SMALL, workers=1).store
    expected = [resize(pixels_of(name).T, (6, 5)) for name, split, *_ in IMAGES if split == "train_val"]
    np.testing.assert_array_equal(cubes_of(tmp_path / "c.zarr"), expected)
    assert (store.cubes.dtype, store.attributes["unit"]) == (np.uint8, "grey level")
    assert store.attributes["window"] == [0, 255]
    assert store.attributes["parameters"] == {
        "layout": "nih",
        "split": "train_val",
        "size": [6, 5],
        "cubes_per_scan": None,
        "seed": 0,
    }
    assert store.scans.shape.tolist() == [[32, 24, 1]] * 4
    assert store.table.corner.tolist() == [[0, 0, 0]] * 4
    assert store.images is not None
    assert store.images.patient.tolist() == ["1", "1", "2", "11"]
    assert store.images.view.tolist() == ["PA", "AP", "PA", "AP"]
    assert store.images.labels.tolist()[0] == "Cardiomegaly|Effusion"
    assert extract_cubes(nih, tmp_path / "c.zarr", SMALL).done_before


def test_crops_are_cut_where_the_table_says(nih: Path, tmp_path: Path) -> None:
    crops = ImageParameters(size=(10, 8), cubes_per_scan=3)
    store = extract_cubes(nih, tmp_path / "c.zarr", crops, workers=1).store
    names = [name for name, split, *_ in IMAGES if split == "train_val"]
    for cube, row, (x, y, z) in zip(
        cubes_of(tmp_path / "c.zarr"), store.table.scan, store.table.corner, strict=True
    ):
        np.testing.assert_array_equal(cube, pixels_of(names[row]).T[x : x + 10, y : y + 8])
        assert z == 0
    alone = cut_image(pixels_of(names[1]).T, names[1], crops)[0]
    np.testing.assert_array_equal(alone, store.table.corner[3:6])
    too_large = ImageParameters(size=(33, 8), cubes_per_scan=3)
    with pytest.raises(DataError, match=r"(?s)No image gave a cube.*32 x 24 pixels, 33 x 8 needed"):
        extract_cubes(nih, tmp_path / "d.zarr", too_large, workers=1)


@pytest.mark.full
def test_workers_do_not_show(nih: Path, tmp_path: Path, processes: None) -> None:
    extract_cubes(nih, tmp_path / "one.zarr", SMALL, workers=1)
    extract_cubes(nih, tmp_path / "three.zarr", SMALL, workers=3)
    assert read_manifest(tmp_path / "three.zarr") == read_manifest(tmp_path / "one.zarr")


def test_a_broken_image_stops_no_other_and_is_taken_in_once_mended(nih: Path, tmp_path: Path) -> None:
    broken, deep = path_of(nih, "00000001_001"), path_of(nih, "00000011_000")
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(deep)
    target = tmp_path / "c.zarr"
    with pytest.raises(DataError, match=r"00000001_001\.png: the file is cut short.*--strict"):
        extract_cubes(nih, target, SMALL, workers=1, strict=True)
    assert len(list((unfinished(target) / "done").iterdir())) == 2
    store = extract_cubes(nih, target, SMALL, workers=1).store
    assert store.scans.status.tolist() == ["used", "failed", "used", "failed"]
    assert store.scans.reason[3].startswith("the PNG has 16 bits per channel, grey")
    before = cubes_of(target)
    broken.write_bytes(whole)
    Image.fromarray(pixels_of(deep.stem)).save(deep)
    result = extract_cubes(nih, target, SMALL, workers=1)
    assert result.taken_in == 2
    assert result.store.scans.status.tolist() == ["used"] * 4
    assert result.store.table.scan.tolist() == [0, 2, 1, 3]
    np.testing.assert_array_equal(cubes_of(target)[:2], before)


def test_a_dry_run_counts_what_is_then_done(nih: Path, tmp_path: Path) -> None:
    path_of(nih, "00000011_000").unlink()
    path_of(nih, "00000001_001").write_bytes(b"none")
    plan = plan_extraction(nih, tmp_path / "c.zarr", SMALL, workers=2)
    assert (plan.scans, plan.headers, plan.unreadable, plan.cubes, plan.files) == (3, 3, 1, 2, 1)
    assert (plan.other_list, plan.absent) == (1, 1)
    assert plan.seconds is not None
    assert len(extract_cubes(nih, tmp_path / "c.zarr", SMALL, workers=1).store) == plan.cubes


def test_the_command_says_what_it_left_out(nih: Path, tmp_path: Path) -> None:
    path_of(nih, "00000011_000").unlink()
    call = ["extract-cubes", str(nih), str(tmp_path / "c.zarr"), "--size", "6,5", "--workers", "1"]
    done = CliRunner().invoke(main, [*call, "--dry-run"])
    assert "images to examine" in done.stdout
    done = CliRunner().invoke(main, [*call, "--dry-run", "--split", "all"])
    assert "The images of NIH's test list are included" in done.stderr
    done = CliRunner().invoke(main, call)
    assert done.exit_code == 0, done.output
    assert "c.zarr: 3 cubes from 3 of 3 images." in done.stdout
    assert "1 image of the test list not used: pre-training on a test set leaks information." in done.stderr
    assert "1 image of the train-val list not found" in done.stderr
    assert "test list are included" not in done.stderr
    facts = json.loads(CliRunner().invoke(main, [*call, "--json"]).stdout)
    assert (facts["done_before"], facts["other_list"], facts["absent"]) == (True, 1, 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "--hu -100,100",
            "--hu is for CT scans; X-ray images are stored as grey levels 0..255: omit the option.",
        ),
        ("--subsets 0-6", "--subsets is for CT scans; X-ray images have no subsets: omit the option."),
        ("--plane axial", "--plane is for CT scans"),
        ("--size 6,5,4", "--size 6,5,4 is invalid: for images it must be two edges"),
        ("--cubes-per-scan 0", "--cubes-per-scan 0 is out of range: it must be between 1 and 10000 crops"),
    ],
)
def test_options_of_ct_are_refused(nih: Path, tmp_path: Path, words: str, said: str) -> None:
    done = CliRunner().invoke(main, ["extract-cubes", str(nih), str(tmp_path / "c.zarr"), *words.split()])
    assert done.exit_code == 2
    assert said in done.stderr
    assert not (tmp_path / "c.zarr").exists()


def test_split_is_refused_for_ct(luna16: Path, tmp_path: Path) -> None:
    call = ["extract-cubes", str(luna16), str(tmp_path / "c.zarr"), "--split", "test"]
    done = CliRunner().invoke(main, call)
    assert done.exit_code == 2
    assert "--split selects among the lists of NIH ChestX-ray14" in done.stderr
    with pytest.raises(CallError, match="--layout luna16"):
        ImageParameters(layout="luna16")  # type: ignore[arg-type]
    with pytest.raises(CallError, match="--split val"):
        ImageParameters(split="val")  # type: ignore[arg-type]


def test_a_store_of_cubes_keeps_no_plane(luna16: Path, tmp_path: Path) -> None:
    cubes = ExtractParameters(cubes_per_scan=1, size=(16, 16, 16), border=(2, 2, 2), max_tissue=0.4)
    store = extract_cubes(luna16, tmp_path / "c.zarr", cubes, workers=1).store
    assert "plane" not in store.attributes["parameters"]


def test_finding_opens_no_image(nih: Path) -> None:
    """What a hundred thousand cost is listing and the table."""
    for name, *_ in IMAGES:
        path = path_of(nih, name)
        path.unlink()
        path.symlink_to("nowhere")
    assert [one.problem for one in find_images(nih).sources] == [""] * 4


def test_real_images_come_by_their_lists(real_data: Path, tmp_path: Path) -> None:
    target = tmp_path / "c.zarr"
    result = extract_cubes(real_data / "nih", target, ImageParameters(), workers=1)
    listed = (real_data / "nih" / "train_val_list.txt").read_text(encoding="utf-8").split()
    names = [f"{identifier}.png" for identifier in result.store.scans.identifier]
    assert sorted(names) == sorted(listed)
    assert (len(result.store), result.store.size, result.found.other_list) == (23, (224, 224), 7)
    assert len(find_images(real_data / "nih", "test").sources) == 7
    assert result.store.scans.shape[0].tolist() == [1024, 1024, 1]


def test_images_are_not_flushed_one_by_one(
    nih: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushes, flush = list[int](), os.fsync
    monkeypatch.setattr("os.fsync", lambda file: flushes.append(file) or flush(file))
    everything = dataclasses.replace(SMALL, split="all")
    extract_cubes(nih, tmp_path / "five.zarr", everything, workers=1)
    of_five = len(flushes)
    for name, *_ in IMAGES[1:]:
        path_of(nih, name).unlink()
    flushes.clear()
    extract_cubes(nih, tmp_path / "one.zarr", everything, workers=1)
    assert 0 <= of_five - len(flushes) < len(IMAGES) - 1  # a column of zeros has no file


@pytest.mark.parametrize("lost", ["stage", "done"])
@pytest.mark.parametrize("left", [0, 0.5, None], ids=["nothing", "half", "zeros"])
def test_what_a_power_failure_takes_is_made_again(
    nih: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str, left: float | None
) -> None:
    """Files that were renamed but not flushed may come back empty, short or as zeros of the right length."""
    whole = extract_cubes(nih, tmp_path / "whole.zarr", SMALL, workers=1).store

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("genesis_toolkit.pipeline.cubes.extract.assemble", stopped)
        with pytest.raises(KeyboardInterrupt):
            extract_cubes(nih, tmp_path / "c.zarr", SMALL, workers=1)
    pieces = sorted((unfinished(tmp_path / "c.zarr") / lost).iterdir())
    assert len(pieces) == 4
    for path in pieces[::2]:
        data = path.read_bytes()
        path.write_bytes(bytes(len(data)) if left is None else data[: int(left * len(data))])
    store = extract_cubes(nih, tmp_path / "c.zarr", SMALL, workers=1).store
    assert store.manifest == whole.manifest
