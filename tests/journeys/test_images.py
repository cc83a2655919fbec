"""Any folder of X-ray images to stores: cubes, labels from a table, and masks beside them."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from support.radiographs import chest, write_cr, write_picture

import genesis_toolkit as gt
from genesis_toolkit.cli.prep import main
from genesis_toolkit.pipeline.scans.images import resize
from genesis_toolkit.pipeline.scans.radiographs import read_radiograph


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, words)))


def made(*words: str | Path) -> Result:
    done = call(*words)
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """PNG of 8 and 16 bits, JPEG, and DICOM of CR and DX, one of it MONOCHROME1; and a CT slice."""
    folder = tmp_path / "xrays"
    write_picture(folder / "a.png", chest(1).astype(np.uint8))
    write_picture(folder / "p" / "b.png", chest(2, most=4000))
    write_picture(folder / "p" / "c.jpg", chest(3).astype(np.uint8))
    write_cr(folder / "q" / "d.dcm", chest(4, most=3000), WindowCenter=1500, WindowWidth=2001)
    write_cr(folder / "q" / "e", chest(5, most=3000), "DX", PhotometricInterpretation="MONOCHROME1")
    write_cr(folder / "q" / "f.dcm", chest(6), "CT")
    return folder


def test_a_mixed_folder_becomes_a_store(mixed: Path, tmp_path: Path) -> None:
    store = tmp_path / "x.zarr"
    asked = ["extract-cubes", mixed, store, "--layout", "images", "--size", "16,12"]
    made(*asked, "--dry-run")
    made(*asked)
    cubes = gt.open_store(store)
    assert isinstance(cubes, gt.CubeStore)
    paths = cubes.scans.path.tolist()
    assert paths == ["a.png", "p/b.png", "p/c.jpg", "q/d.dcm", "q/e", "q/f.dcm"]
    assert cubes.scans.status.tolist() == ["used"] * 5 + ["skipped"]
    assert (list(cubes.window), cubes.attributes["unit"]) == ([0, 255], "grey level")
    assert cubes.scans.window is not None
    assert cubes.scans.window[3].tolist() == [499.5, 2499.5]
    assert cubes.scans.window[0].tolist() == [0, 255]
    assert cubes.scans.window[5].tolist() == [0, 0]
    assert cubes.scans.inverted is not None
    assert cubes.scans.inverted.tolist() == [0, 0, 0, 0, 1, 0]
    for number, path in enumerate(paths[:5]):
        np.testing.assert_array_equal(cubes[number], resize(read_radiograph(mixed / path).pixels, (16, 12)))
    assert "nothing done" in made(*asked).output
    assert "--layout images --size 16,12" in (store / "README.md").read_text()
    facts = json.loads(made("info", store, "--json").stdout)
    assert facts["images"]["patients"] == 4  # two of DICOM are of one, and of the others each its own
    assert "split" not in facts["parameters"]
    verified = json.loads(made("verify", store, "--source", mixed, "--json").stdout)
    assert verified["cut_again"] == 5
    made("degrade", store, tmp_path / "pairs.zarr", "--inpaint-share", "1")
    write_picture(mixed / "z.png", chest(7).astype(np.uint8))
    assert "1 image added" in made(*asked).output
    made("verify", store, "--source", mixed)


def test_crops_of_images_of_any_kind(mixed: Path, tmp_path: Path) -> None:
    store = tmp_path / "x.zarr"
    made("extract-cubes", mixed, store, "--layout", "images", "--size", "8,8", "--cubes-per-scan", "3")
    cubes = gt.open_store(store)
    for number in (0, 7, 14):
        pixels = read_radiograph(mixed / cubes.scans.path[cubes.table.scan[number]]).pixels
        x, y, _ = cubes.table.corner[number]
        np.testing.assert_array_equal(cubes[number], pixels[x : x + 8, y : y + 8])
    made("verify", store, "--source", mixed)


def test_labels_and_masks_beside_images(mixed: Path, tmp_path: Path) -> None:
    table, split = tmp_path / "labels.csv", tmp_path / "split.csv"
    table.write_text("image,sick\na.png,1\nb,0\nc.jpg,1\nd,\ne,0\n")
    parts = dict(
        zip(["a", "p/b", "p/c", "q/d", "q/e", "q/f"], ["train", "train", "test", "test"] * 2, strict=False)
    )
    split.write_text("scan,part\n" + "".join(f"{name},{part}\n" for name, part in parts.items()))
    store = tmp_path / "sick.zarr"
    asked = ["extract-targets", mixed, store, "--layout", "images", "--size", "16,12"]
    made(*asked, "--label-table", table, "--label-columns", "sick", "--split-file", split)
    targets = gt.open_store(store)
    assert isinstance(targets, gt.TargetStore)
    assert targets.labels is not None
    assert targets.labels.ravel().tolist() == [1, 0, 1, 0]
    assert targets.table.fold.tolist() == [0, 0, 2, 0]
    made("verify", store, "--source", mixed)
    masks = tmp_path / "masks"
    drawn = {"a.png": chest(1) > 100, "q/e_mask.png": chest(5, most=3000) > 1500}
    for name, mask in drawn.items():
        write_picture(masks / name, (mask * 2).astype(np.uint8))
    write_picture(masks / "p" / "b.png", np.ones((5, 5), np.uint8))
    store = tmp_path / "masks.zarr"
    asked = ["extract-targets", mixed, store, "--task", "segment", "--layout", "images", "--size", "10,6"]
    done = call(*asked, "--masks", masks, "--foreground", "2")
    assert done.exit_code == 1
    assert "mask b.png has 5 x 5 pixels, but the image has 20 x 24" in " ".join(done.output.split())
    targets = gt.open_store(store)
    assert isinstance(targets, gt.TargetStore)
    assert len(targets) == 2
    for number, mask in enumerate(drawn.values()):
        share = mask.T.reshape(10, 2, 6, 4).mean(axis=(1, 3))
        np.testing.assert_array_equal(targets[number][1], share >= 0.5)
    assert call("verify", store, "--source", mixed).exit_code == 0


def test_masks_may_lie_among_the_images(tmp_path: Path) -> None:
    """No image is taken of their folder, and a split file says nothing of it."""
    source = tmp_path / "x"
    for number in range(3):
        write_picture(source / f"{number}.png", chest(number).astype(np.uint8))
        write_picture(source / "masks" / f"{number}.png", (chest(number) > 99).astype(np.uint8))
    split = tmp_path / "split.csv"
    split.write_text("scan,part\n0,train\n1,validation\n2,test\n")
    store = tmp_path / "m.zarr"
    asked = ["extract-targets", source, store, "--task", "segment", "--layout", "images", "--size", "8,8"]
    made(*asked, "--masks", source / "masks", "--split-file", split, "--dry-run")
    made(*asked, "--masks", source / "masks", "--split-file", split)
    targets = gt.open_store(store)
    assert isinstance(targets, gt.TargetStore)
    assert targets.scans.path.tolist() == ["0.png", "1.png", "2.png"]
    assert targets.table.fold.tolist() == [0, 1, 2]
    assert json.loads(made("verify", store, "--source", source, "--json").stdout)["cut_again"] == 3


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--layout", "images", "--split", "test"], "--split test selects a list of NIH"),
        (
            ["--layout", "images", "--hu", "0,1"],
            "--hu is for CT scans; X-ray images are stored as grey levels",
        ),
        ([], "if they are X-ray images, use --layout images"),
    ],
)
def test_wrong_calls_are_refused(tmp_path: Path, options: list[str], why: str) -> None:
    write_picture(tmp_path / "x" / "a.png", chest(1).astype(np.uint8))
    refused = call("extract-cubes", tmp_path / "x", tmp_path / "no.zarr", *options)
    assert refused.exit_code == 2
    assert why in " ".join(refused.output.split())


def test_real_images_of_pneumonia_mnist(real_data: Path, tmp_path: Path) -> None:
    """All of them whole, a copy once, and their own table as labels and as the split."""
    source, store = real_data / "pneumonia_mnist", tmp_path / "x.zarr"
    made("extract-cubes", source, store, "--layout", "images", "--size", "32,32", "--workers", "1")
    cubes = gt.open_store(store)
    assert len(cubes) == len({path.read_bytes() for path in (source / "images").iterdir()})
    assert len(cubes.scans) == 3806
    rows = [line.split(",") for line in (source / "labels.csv").read_text().split()[1:]]
    split = tmp_path / "split.csv"
    split.write_text("scan,part\n" + "".join(f"images/{name},{part}\n" for name, _, part in rows))
    made(
        *("extract-targets", source, tmp_path / "t.zarr", "--layout", "images", "--size", "32,32"),
        *("--label-table", source / "labels.csv", "--label-columns", "pneumonia"),
        *("--split-file", split, "--workers", "1"),
    )
    targets = gt.open_store(tmp_path / "t.zarr")
    assert isinstance(targets, gt.TargetStore)
    assert targets.labels is not None
    known = {f"images/{name}": (int(label), part != "train") for name, label, part in rows}
    paths = targets.scans.path[targets.table.scan].tolist()
    found = list(zip(targets.labels[:, 0].tolist(), (targets.table.fold == 1).tolist(), strict=True))
    assert found == [known[path] for path in paths]
