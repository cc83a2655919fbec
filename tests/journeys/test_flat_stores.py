"""Stores of X-ray images and of patches of slices: the format with one axis less, and all that reads it."""

import csv
import dataclasses
import hashlib
import json
import re
import shutil
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
import zarr
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from support.scans import lungs, write_scan

import genesis_toolkit.cli.prep
from genesis_toolkit.pipeline.cubes.extract import extract_cubes
from genesis_toolkit.pipeline.cubes.parameters import ExtractParameters, ImageParameters, box_of
from genesis_toolkit.pipeline.cubes.pseudonyms import read_key
from genesis_toolkit.pipeline.cubes.repair import write_note
from genesis_toolkit.pipeline.describe.card import CARD, IMAGE_OPTIONS
from genesis_toolkit.pipeline.describe.croissant import CROISSANT
from genesis_toolkit.pipeline.describe.facts import describe_store
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.exchange.merge import merge_stores
from genesis_toolkit.pipeline.exchange.npy_files import export_npy
from genesis_toolkit.pipeline.ledger import hold, read_manifest
from genesis_toolkit.pipeline.pairs.degrade import DegradeParameters, degrade_cubes
from genesis_toolkit.pipeline.pictures.report import report
from genesis_toolkit.pipeline.pictures.sheet import contact_rows
from genesis_toolkit.pipeline.store.metadata import described
from genesis_toolkit.pipeline.store.open import CubeStore, PairStore, open_cubes, open_store
from genesis_toolkit.pipeline.store.salvage import attribute_problems
from genesis_toolkit.pipeline.store.schema import CUBES, CubeTable, ScanTable
from genesis_toolkit.pipeline.store.shards import encode_cube, shard_length, shard_parts, shard_path
from genesis_toolkit.pipeline.store.write import write_store
from genesis_toolkit.pipeline.verify.tables import pair_problems, parameter_problems, table_problems
from genesis_toolkit.pipeline.verify.verify import Verification, verify_store

#: Patient, view and labels of every image; of the last two patients the second is on the test list.
IMAGES = {
    "00000007_000.png": ("7", "PA", "No Finding"),
    "00000007_001.png": ("7", "AP", "Effusion|Mass"),
    "00000031_000.png": ("31", "PA", "Mass"),
    "00000032_000.png": ("32", "PA", "No Finding"),
    "00000032_004.png": ("32", "PA", "Hernia"),
    "00000033_000.png": ("33", "PA", "Nodule"),
}
TAKEN = list(IMAGES)[:5]
WHOLE = ImageParameters(size=(24, 20))
CROPS = ImageParameters(size=(24, 20), cubes_per_scan=3)
PATCHES = ExtractParameters(
    layout="luna16", cubes_per_scan=6, size=(16, 20), plane="coronal", border=(2, 2, 2), max_tissue=0.6
)


def write_images(folder: Path, names: list[str]) -> Path:
    """Some of the images, in NIH's layout: smooth greys of 40 columns and 48 rows."""
    (folder / "images_001" / "images").mkdir(parents=True)
    for name in names:
        coarse = np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (12, 10)).astype(np.uint8)
        grey = Image.fromarray(coarse).resize((40, 48), Image.Resampling.BICUBIC)
        grey.save(folder / "images_001" / "images" / name)
    with (folder / "Data_Entry_2017.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["Image Index", "Finding Labels", "Follow-up #", "Patient ID", "View Position"])
        rows.writerows([name, labels, 0, patient, view] for name, (patient, view, labels) in IMAGES.items())
    for text, these in (("train_val_list.txt", TAKEN), ("test_list.txt", [*IMAGES][5:])):
        there = [name for name in these if name in names]
        (folder / text).write_text("".join(f"{name}\n" for name in there), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images and a scan, and stores of them with four cubes a shard."""
    folder = tmp_path_factory.mktemp("flat")
    write_images(folder / "nih", [*IMAGES])
    write_scan(folder / "luna16" / "subset0" / "1.2.3.mhd", lungs(0))
    with pytest.MonkeyPatch.context() as patch:
        for module in ("store.shards", "cubes.assemble", "store.write", "pairs.degrade"):
            patch.setattr(f"genesis_toolkit.pipeline.{module}.shard_length", lambda *_: 4)
        extract_cubes(folder / "nih", folder / "whole.zarr", WHOLE, workers=1)
        extract_cubes(folder / "nih", folder / "crops.zarr", CROPS, workers=1)
        extract_cubes(folder / "luna16", folder / "patches.zarr", PATCHES, workers=1)
        for name in ("crops", "patches"):
            parameters = DegradeParameters(variants=2, seed=3)
            degrade_cubes(folder / f"{name}.zarr", folder / f"{name}-pairs.zarr", parameters, workers=1)
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """A copy to do harm to."""
    return Path(shutil.copytree(made, tmp_path / "copy"))


def pixels_of(source: Path, name: str) -> NDArray[np.uint8]:
    """An image [x, y] as Pillow reads it."""
    with Image.open(source / "images_001" / "images" / name) as image:
        return np.asarray(image).T


def look(store: Path, **more: Any) -> Verification:
    return verify_store(store, workers=1, **more)


def call(*words: object) -> str:
    done = CliRunner().invoke(genesis_toolkit.cli.prep.main, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.stdout


# --- the format -----------------------------------------------------------------------------------------


def test_zarr_and_xarray_read_images(made: Path) -> None:
    data = xarray.open_zarr(made / "crops.zarr")
    assert data["cubes"].dims == ("cube", "x", "y")
    assert data["cubes"].shape == (15, 24, 20)
    assert data["cubes"].dtype == np.uint8
    scans = xarray.open_zarr(made / "crops.zarr", group="scans")
    images = xarray.open_zarr(made / "crops.zarr", group="images")
    assert images.sizes == {"scan": 5}
    names = [Path(path).name for path in scans["path"].values]
    found = [images[name].values.tolist() for name in ("patient", "view", "labels")]
    assert dict(zip(names, zip(*found, strict=True), strict=True)) == {name: IMAGES[name] for name in TAKEN}
    assert scans["shape"].values.tolist() == [[40, 48, 1]] * 5
    for cube, scan, corner in zip(data["cubes"], data["scan"].values, data["corner"].values, strict=True):
        x, y, z = corner
        truth = pixels_of(made / "nih", names[scan])[x : x + 24, y : y + 20]
        assert z == 0
        np.testing.assert_array_equal(cube.values, truth)


def test_slices_are_int16_without_images(made: Path) -> None:
    store = open_cubes(made / "patches.zarr")
    assert store.images is None
    assert store.cubes.dtype == np.int16
    assert (store.size, store.attributes["unit"]) == ((16, 20), "HU")
    assert not (made / "patches.zarr" / "images").exists()
    group = zarr.open_group(made / "patches.zarr", mode="r")
    assert group["cubes"].metadata.dimension_names == ("cube", "x", "y")
    assert group["cubes"].fill_value == -32768


@settings(max_examples=6, deadline=None)
@given(
    count=st.integers(1, 9),
    size=st.tuples(st.integers(1, 33), st.integers(1, 33)),
    dtype=st.sampled_from([np.uint8, np.int16]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_patches_are_read_as_written(
    tmp_path_factory: pytest.TempPathFactory, count: int, size: tuple[int, int], dtype: Any, seed: int
) -> None:
    path = tmp_path_factory.mktemp("any") / "cubes.zarr"
    cubes = np.random.default_rng(seed).integers(0, 200, (count, *size)).astype(dtype)
    write_patches(path, cubes)
    store = open_cubes(path)
    found = np.empty_like(cubes)
    store.cubes.read_many(range(count), found)
    np.testing.assert_array_equal(found, cubes)
    np.testing.assert_array_equal(zarr.open_group(path, mode="r")["cubes"][...], cubes)


def write_patches(path: Path, cubes: NDArray[Any]) -> None:
    """A store of one scan, written by the library's pieces."""
    count, size = len(cubes), cubes.shape[1:]
    word, nought = np.array(["a"], object), np.zeros((1, 3))
    scans = ScanTable(
        *(word, np.array([-1], np.int16), word, np.ones(1, np.int64), np.array([""], object)),
        *(nought.astype(np.int32), nought, nought, np.zeros((1, 9)), np.array(["used"], object)),
        *(np.array([""], object), np.array([count], np.int32), np.zeros(1, np.uint64)),
    )
    numbers = np.arange(count, dtype=np.int32)
    table = CubeTable(np.zeros_like(numbers), numbers, np.zeros((count, 3), np.int32), np.zeros(count))
    attributes = {"window": [0, 255], "unit": "HU", "size": list(size), "parameters": {"any": 1}}
    with hold(path, {}, overwrite=False) as ledger:
        shard = ledger.store / shard_path("cubes", 0, 3)
        shard.parent.mkdir(parents=True)
        parts = shard_parts([encode_cube(cube) for cube in cubes], shard_length(size, cubes.dtype.itemsize))
        shard.write_bytes(b"".join(parts))
        write_store(ledger.store, CUBES, attributes, cubes.dtype, [table], scans)
        ledger.finish({}, {})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": [15]}, "dimension_names is"),
        ({"shape": [15, 24, 20, 4, 4]}, "dimension_names is"),
        ({"dimension_names": ["cube", "y", "x"]}, "dimension_names is"),
        ({"shape": [15, 24, 0]}, r"the cubes have the shape \[24, 0\]"),
        ({"shape": [15, 25, 20]}, "chunk_shape of a row"),
    ],
)
def test_other_axes_are_refused(made: Path, changes: dict[str, Any], words: str) -> None:
    metadata = json.loads((made / "crops.zarr" / "cubes" / "zarr.json").read_bytes())
    assert described(CUBES, "cubes", metadata).shape == (15, 24, 20)
    with pytest.raises(ValueError, match=words):
        described(CUBES, "cubes", metadata | changes)


# --- pairs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["crops", "patches"])
def test_pairs_hold_the_originals_and_twins_of_two_axes(made: Path, name: str) -> None:
    cubes, pairs = open_cubes(made / f"{name}.zarr"), open_store(made / f"{name}-pairs.zarr")
    assert isinstance(pairs, PairStore)
    group = zarr.open_group(pairs.path, mode="r")
    originals, twins = group["original"][...], group["degraded"][...]
    np.testing.assert_array_equal(originals, zarr.open_group(cubes.path, mode="r")["cubes"][...])
    assert twins.shape == (2 * len(cubes), *cubes.size)
    assert twins.dtype == cubes.cubes.dtype
    assert twins.min() >= cubes.window.low
    assert twins.max() <= cubes.window.high
    assert (twins != np.tile(originals, (2, 1, 1))).any(axis=(1, 2)).mean() > 0.8
    assert set(pairs.pairs.flip.tolist()) <= {0, 1, 2, 3}
    assert group["flip"].attrs["flag_meanings"] == "x y"
    if pairs.images is None or cubes.images is None:
        assert pairs.images is cubes.images
    else:
        for one, other in zip(vars(pairs.images).values(), vars(cubes.images).values(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_workers_do_not_show(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("store.shards", "cubes.assemble", "store.write", "pairs.degrade"):
        monkeypatch.setattr(f"genesis_toolkit.pipeline.{module}.shard_length", lambda *_: 4)
    extract_cubes(made / "nih", tmp_path / "c.zarr", CROPS, workers=3)
    degrade_cubes(tmp_path / "c.zarr", tmp_path / "p.zarr", DegradeParameters(variants=2, seed=3), workers=3)
    assert read_manifest(tmp_path / "c.zarr") == read_manifest(made / "crops.zarr")
    assert read_manifest(tmp_path / "p.zarr") == read_manifest(made / "crops-pairs.zarr")


# --- verify, repair, merge, growth ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "source", "cubes"), [("whole", "nih", 5), ("crops", "nih", 15), ("patches", "luna16", 6)]
)
def test_sound_stores_are_sound(made: Path, name: str, source: str, cubes: int) -> None:
    found = look(made / f"{name}.zarr", source=made / source)
    assert (found.findings, found.left_out, found.cut_again) == ((), (), cubes)
    if name != "whole":
        found = look(made / f"{name}-pairs.zarr", source=made / source, pairs=100)
        assert (found.findings, found.left_out) == ((), ())
        assert (found.cut_again, found.replayed) == (cubes, 2 * cubes)


@pytest.mark.parametrize("name", ["whole", "crops", "patches"])
def test_cubes_of_other_images_are_found(copy: Path, name: str) -> None:
    """A store that is consistent, and was not cut from these scans at these places."""
    path = copy / f"{name}.zarr"
    store = open_cubes(path)
    cubes = np.empty((len(store), *store.size), store.cubes.dtype)
    store.cubes.read_many(range(len(store)), cubes)
    cubes[-1, 3, 5] += 1 if cubes[-1, 3, 5] < store.window.high else -1
    first = (len(store) - 1) // 4 * 4
    shard = path / store.cubes.path(first // 4)
    shard.write_bytes(b"".join(shard_parts([encode_cube(cube) for cube in cubes[first:]], 4)))
    rewrite_manifest(path)
    found = look(path, source=copy / ("luna16" if name == "patches" else "nih"))
    assert [one.what for one in found.findings] == [
        f"has voxels that differ from those of cube {len(store) - 1}"
    ]


def rewrite_manifest(store: Path) -> None:
    """Make the manifest fit what lies in a store."""
    names = sorted(read_manifest(store))
    lines = [f"{hashlib.sha256((store / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (store / "manifest-sha256.txt").write_text("".join(lines), encoding="utf-8")


@pytest.mark.parametrize(
    "damaged",
    [
        ["cubes/c/0/0/0"],
        ["images/labels/zarr.json", "scans/shape/zarr.json"],
        ["README.md", "croissant.json", "cubes/c/3/0/0"],
    ],
)
def test_images_are_mended_to_the_byte(copy: Path, damaged: list[str], monkeypatch: Any) -> None:
    for module in ("store.shards", "cubes.assemble", "store.write"):
        monkeypatch.setattr(f"genesis_toolkit.pipeline.{module}.shard_length", lambda *_: 4)
    path = copy / "crops.zarr"
    for name in damaged:
        data = bytearray((path / name).read_bytes())
        data[len(data) // 2] ^= 4
        (path / name).write_bytes(data)
    found = look(path)
    assert set(found.damaged) == set(damaged)
    write_note(path, found.damaged)
    mended = extract_cubes(copy / "nih", path, CROPS, workers=1)
    assert mended.repaired == len(damaged)
    assert look(path, source=copy / "nih").findings == ()


def test_a_lost_label_is_found_and_not_guessed(copy: Path) -> None:
    path = copy / "crops.zarr"
    (path / "images" / "labels" / "c" / "0").unlink()
    with pytest.raises(DataError, match="images/labels/c/0"):
        open_store(path)
    assert "images/labels/c/0" in look(path).damaged
    with pytest.raises(DataError, match="images/labels can only be restored by cutting all scans again"):
        extract_cubes(copy / "nih", path, CROPS, workers=1)


def test_stores_of_images_made_apart_merge_to_one_made_at_once(made: Path, tmp_path: Path) -> None:
    parts = []
    for number, names in enumerate((TAKEN[:2], TAKEN[2:])):
        parts.append(tmp_path / f"{number}.zarr")
        source = write_images(tmp_path / f"nih{number}", names)
        extract_cubes(source, parts[-1], CROPS, workers=1)
    extract_cubes(made / "nih", tmp_path / "once.zarr", CROPS, workers=1)
    merge_stores(parts, tmp_path / "merged.zarr", workers=1)
    assert read_manifest(tmp_path / "merged.zarr") == read_manifest(tmp_path / "once.zarr")
    assert merge_stores(parts, tmp_path / "merged.zarr", workers=1).done_before
    with pytest.raises(CallError, match="cannot be merged"):
        merge_stores([made / "patches.zarr", made / "crops.zarr"], tmp_path / "mixed.zarr")


def test_new_images_come_behind_with_what_the_table_says(tmp_path: Path) -> None:
    source = write_images(tmp_path / "nih", TAKEN[1:3])
    extract_cubes(source, tmp_path / "c.zarr", WHOLE, workers=1)
    shutil.rmtree(source)
    write_images(source, TAKEN)
    grown = extract_cubes(source, tmp_path / "c.zarr", WHOLE, workers=1)
    assert grown.taken_in == 3
    store = grown.store
    assert store.images is not None
    names = [Path(path).name for path in store.scans.path]
    assert names == [*TAKEN[1:3], TAKEN[0], *TAKEN[3:]]
    assert store.images.patient.tolist() == [IMAGES[name][0] for name in names]
    assert store.images.labels.tolist() == [IMAGES[name][2] for name in names]
    assert look(store.path, source=source).findings == ()


# --- tables and attributes that do not agree ------------------------------------------------------------


def test_what_an_image_takes_up_in_its_scan(made: Path) -> None:
    boxes = {"whole": (1, 1, 1), "crops": (24, 20, 1), "patches": (16, 1, 20)}
    for name, box in boxes.items():
        store = open_cubes(made / f"{name}.zarr")
        assert box_of(store.attributes["parameters"], store.size) == box
        columns = {"scan": store.table.scan, "corner": store.table.corner.copy()}
        columns |= {"scans/cubes": store.scans.cubes, "scans/shape": store.scans.shape}
        assert table_problems(columns, box) == []
        columns["corner"][1] = store.scans.shape[store.table.scan[1]] - box + [0, 0, 1]
        assert [problem[0] for problem in table_problems(columns, box)] == ["corner"]
    assert box_of({}, (24, 20)) is None


def test_two_axes_have_four_flips(made: Path) -> None:
    flip = np.array([0, 3, 4], np.uint8)
    assert pair_problems({"flip": flip}, 3, 1, 3) == []
    assert pair_problems({"flip": flip}, 3, 1, 2) == [("flip", "is not in 0..3: pair 2")]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"window": [0, 200]}, "window"),
        ({"unit": "HU"}, "unit"),
        ({"size": [24]}, "size"),
        ({"size": [24, 20, 1, 1]}, "size"),
    ],
)
def test_attributes_that_no_store_of_images_has(made: Path, changes: dict[str, Any], name: str) -> None:
    attributes = open_cubes(made / "crops.zarr").attributes
    assert problems_of(attributes) == set()
    assert name in problems_of(attributes | changes)


def problems_of(attributes: dict[str, Any]) -> set[str]:
    found = [*attribute_problems(CUBES, attributes, ()), *parameter_problems(CUBES, attributes)]
    return {name for name, _ in found}


# --- what is told of them -------------------------------------------------------------------------------


def test_pseudonyms_tell_no_patient(made: Path, tmp_path: Path) -> None:
    path, key = tmp_path / "c.zarr", tmp_path / "key"
    extract_cubes(made / "nih", path, CROPS, workers=1, anonymize=key)
    plain, store = open_cubes(made / "crops.zarr"), open_cubes(path)
    assert plain.images is not None
    assert store.images is not None
    tables = [one for one in (*vars(store.scans).values(), *vars(store.images).values()) if one is not None]
    words = [str(word) for column in tables if column.dtype == object for word in column]
    told = "\n".join(words) + (path / CARD).read_text(encoding="utf-8")
    assert not re.search(r"0000|\.png|images_001", told)
    assert not set(words) & {patient for patient, _, _ in IMAGES.values()}
    assert len(set(store.images.patient)) == 3
    pairs = Counter(zip(plain.images.patient, store.images.patient, strict=True))
    assert len(pairs) == 3  # one pseudonym a patient
    assert set(store.images.patient) == {read_key(key).patient(name) for name in ("7", "31", "32")}
    np.testing.assert_array_equal(store.images.labels, plain.images.labels)
    np.testing.assert_array_equal(store.streams(), plain.streams())
    assert look(path, source=made / "nih", anonymize=key).findings == ()
    with pytest.raises(CallError, match="pseudonyms"):
        look(path, source=made / "nih")


def test_info_counts_patients_views_and_labels(made: Path) -> None:
    facts = json.loads(call("info", made / "crops-pairs.zarr", "--json"))
    assert facts == json.loads(json.dumps(describe_store(open_store(made / "crops-pairs.zarr"))))
    assert (facts["size"], facts["unit"], facts["cubes"], facts["pairs"]) == ([24, 20], "grey level", 15, 30)
    views, labels = (Counter[str]() for _ in range(2))
    for _, view, joined in map(IMAGES.__getitem__, TAKEN):
        views[view] += 1
        labels.update(joined.split("|"))
    assert facts["images"] == {"patients": 3, "views": dict(views), "labels": dict(labels)}
    assert set(facts["flips"]) <= {"none", "x", "y", "x, y"}
    told = call("info", made / "crops.zarr")
    assert re.search(r"labels +Mass: 2, No Finding: 2, Effusion: 1, Hernia: 1 *\n", told)
    assert "tissue" not in told
    assert "24 x 20 pixels" in told


def test_the_report_of_images_names_no_substance(made: Path) -> None:
    page = re.sub(r"data:image/png[^\"]*", "", report(open_store(made / "crops-pairs.zarr"), 4))
    assert "<h2>Grey levels</h2>" in page
    for absent in ("HU", "liver", "Tissue score", "Spacing"):
        assert absent not in page
    assert '<th scope="row">Mass</th><td>2</td><td>40.0%</td>' in page
    assert "Where crops were cut" in page
    assert "Where" not in report(open_store(made / "whole.zarr"), 4)
    page = report(open_store(made / "patches.zarr"), 4)
    assert "Where patches were cut" in page
    assert "Tissue score" in page
    assert "liver" in page


@pytest.mark.parametrize("name", ["whole", "crops-pairs", "patches", "patches-pairs"])
def test_the_contact_sheet_shows_them_as_they_are(made: Path, tmp_path: Path, name: str) -> None:
    store = open_store(made / f"{name}.zarr")
    headings, rows = contact_rows(store, 2)
    assert all(len(row) == len(headings) for row in rows)
    if isinstance(store, CubeStore):
        first, shown = np.empty(store.size, store.cubes.dtype), rows[0][0].voxels
        store.cubes.read(0, first)
        upright = first[:, ::-1] if name == "patches" else first  # coronal: the head stands at the top
        np.testing.assert_array_equal(shown, upright)
    assert {picture.voxels.shape for row in rows for picture in row} == {store.size}
    call("preview", store.path, tmp_path / "sheet.png", "--rows", 2)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 100


def test_the_card_of_images_credits_and_loads(made: Path, tmp_path: Path) -> None:
    text = (made / "crops-pairs.zarr" / CARD).read_text(encoding="utf-8")
    assert "30 pairs of a crop and a degraded variant of it: 15 crops of 24 x 20 pixels" in text
    assert "grey levels 0 .. 255" in text
    assert "NIH Clinical Center" in " ".join(text.split())
    assert "LIDC" not in text
    assert "HU" not in text.replace("--hu", "")
    plain, _ = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    group = zarr.open_group(made / "crops-pairs.zarr", mode="r")
    original, flip = np.asarray(group["original"][0]), int(group["flip"][0])
    original = original[::-1] if flip & 1 else original
    original = original[:, ::-1] if flip & 2 else original
    np.savez(tmp_path / "truth.npz", x=np.asarray(group["degraded"][0]), y=original)
    shutil.copytree(made / "crops-pairs.zarr", tmp_path / "pairs.zarr")
    check = "truth = np.load('truth.npz')\nfor name, found in (('x', x), ('y', y)):\n"
    check += "    np.testing.assert_allclose(found, truth[name] / 255, atol=1e-6)\n"
    words = [sys.executable, "-W", "error", "-c", f"{plain}\n{check}"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("name", "source"), [("whole", "nih"), ("crops", "nih"), ("patches", "luna16")])
def test_the_command_on_the_card_makes_the_same_again(
    made: Path, tmp_path: Path, name: str, source: str
) -> None:
    text = (made / f"{name}.zarr" / CARD).read_text(encoding="utf-8")
    (block,) = re.findall(r"^```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    words = block.replace("\\\n", " ").split()
    places = {"SOURCE": str(made / source), "cubes.zarr": str(tmp_path / "again.zarr")}
    call(*[places.get(word, word) for word in words[1:]], "--workers", "1")
    again, first = open_cubes(tmp_path / "again.zarr"), open_cubes(made / f"{name}.zarr")
    assert again.attributes == first.attributes
    assert again.manifest["README.md"] == first.manifest["README.md"]
    np.testing.assert_array_equal(
        zarr.open_group(again.path, mode="r")["cubes"][...],
        zarr.open_group(first.path, mode="r")["cubes"][...],
    )


def test_every_parameter_of_images_is_an_option() -> None:
    assert tuple(field.name for field in dataclasses.fields(ImageParameters)) == IMAGE_OPTIONS
    known = {
        option for parameter in genesis_toolkit.cli.prep.extract_cubes.params for option in parameter.opts
    }
    assert {f"--{name.replace('_', '-')}" for name in IMAGE_OPTIONS} <= known


@pytest.mark.parametrize("name", ["crops", "crops-pairs", "patches-pairs"])
def test_croissant_describes_every_array(made: Path, name: str) -> None:
    store = made / f"{name}.zarr"
    document = json.loads((store / CROISSANT).read_text(encoding="utf-8"))
    fields = [field for records in document["recordSet"] for field in records["field"]]
    columns = {field["source"]["extract"].get("column"): field for field in fields}
    arrays = {
        path.parent.relative_to(store).as_posix()
        for path in store.rglob("zarr.json")
        if json.loads(path.read_bytes())["node_type"] == "array"
    }
    assert arrays == set(columns) - {None}
    group = zarr.open_group(store, mode="r")
    for path in arrays:
        shape = ",".join(map(str, group[path].shape[1:]))
        assert columns[path].get("arrayShape", "") == shape
    assert ("chest X-ray" in document["keywords"]) == ("crops" in name)


def test_export_refuses_what_the_authors_never_published(made: Path, tmp_path: Path) -> None:
    for name in ("crops", "patches"):
        with pytest.raises(
            CallError, match=r"pixels, but the original Models Genesis format holds only cubes"
        ):
            export_npy(made / f"{name}.zarr", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_explain_speaks_of_patches(made: Path) -> None:
    scan = made / "luna16" / "subset0" / "1.2.3.mhd"
    words = ["--size", "16,20", "--plane", "coronal", "--border", "2,2,2"]
    facts = json.loads(call("explain", scan, *words, "--json"))
    assert (facts["size"], facts["plane"], facts["box"]) == ([16, 20], "coronal", [16, 1, 20])
    done = CliRunner().invoke(genesis_toolkit.cli.prep.main, ["explain", str(scan), *words])
    assert "a patch" in done.stdout
    assert "16 x 1 x 20 voxels" in done.stdout
    assert "cube" not in done.stdout
    assert re.search(r"Next: .* --size 16,20 --plane coronal --border 2,2,2\n", done.stderr)
    image = made / "nih" / "images_001" / "images" / TAKEN[0]
    done = CliRunner().invoke(genesis_toolkit.cli.prep.main, ["explain", str(image)])
    assert done.exit_code == 2
    assert "neither the border nor the tissue rule applies" in done.output
