"""Target stores: every label is true, every mask lies on its cube, no scan or patient is in two folds."""

import csv
import json
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import zarr
from click.testing import CliRunner
from PIL import Image
from support.damage import files_of, flip, forge, look, set_attribute, set_value, told

from genesis_toolkit.cli.prep import main
from genesis_toolkit.pipeline.describe.facts import describe_store
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import read_manifest, unfinished
from genesis_toolkit.pipeline.pictures.sheet import contact_rows
from genesis_toolkit.pipeline.store.open import CubeStore, PairStore, TargetStore, open_store, open_targets
from genesis_toolkit.pipeline.store.schema import is_shard
from genesis_toolkit.pipeline.targets.extract import estimate_targets, extract_targets
from genesis_toolkit.pipeline.targets.nodules import choose_candidates, parse_candidates
from genesis_toolkit.pipeline.targets.parameters import (
    FindingParameters,
    MaskParameters,
    NoduleParameters,
    as_now,
    described,
    parameters_of,
)
from genesis_toolkit.pipeline.targets.plan import fold_of_name, fold_of_patient

SHAPE, SIZE = (22, 20, 18), (8, 8, 6)
NODULES = NoduleParameters(size=SIZE, negatives=2)
HEADER = ["seriesuid", "coordX", "coordY", "coordZ", "class"]
TURNED = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0)

#: Subset and name of each scan; the voxels of its nodules: in the middle, and at a corner of the scan.
SCANS = [(0, "a.1"), (4, "a.2"), (5, "b.1"), (6, "b.2"), (7, "c.1"), (9, "c.2")]
SPOTS = [(11, 9, 8), (0, 19, 17)]


def image_of(path: Path) -> sitk.Image:
    return sitk.ReadImage(str(path))


def cropped(image: sitk.Image, corner: list[int], size: tuple[int, ...], outside: int) -> np.ndarray:
    """A box [x, y, z] of an image, cut by SimpleITK; beyond the image `outside`."""
    wide = sitk.ConstantPad(image, size, size, outside)
    box = sitk.RegionOfInterest(wide, size, [int(c) + s for c, s in zip(corner, size, strict=True)])
    return sitk.GetArrayFromImage(box).T


def write(path: Path, voxels: np.ndarray, **changes: tuple[float, ...]) -> None:
    """Voxels [x, y, z] on a grid that is turned and stretched, but for what is said otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T))
    image.SetSpacing(changes.get("spacing", (0.7, 0.9, 2.5)))
    image.SetOrigin(changes.get("origin", (-120.5, 33.25, 400.0)))
    image.SetDirection(TURNED)
    sitk.WriteImage(image, str(path))


def write_table(folder: Path, rows: list[list[object]]) -> None:
    with (folder / "candidates_V2.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])


def voxels_of(number: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(number).integers(-1400, 1400, shape).astype(np.int16)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six scans with two nodules of 777 HU each, and nine other candidates; masks of the values 0 to 2."""
    folder, rows = tmp_path_factory.mktemp("data") / "LUNA16", []
    for number, (subset, name) in enumerate(SCANS):
        voxels = voxels_of(number)
        for spot in SPOTS:
            voxels[spot] = 777
        path = folder / f"subset{subset}" / f"{name}.mhd"
        write(path, voxels)
        image = image_of(path)
        others = np.random.default_rng(number).integers(1, 17, (9, 3)).tolist()
        for spot, kind in [*((spot, 1) for spot in SPOTS), *((spot, 0) for spot in others)]:
            place = image.TransformContinuousIndexToPhysicalPoint([float(edge) + 0.3 for edge in spot])
            rows.append([name, *place, kind])
        mask = np.zeros(SHAPE, np.uint8)
        mask[4:12, 5:9, 3:15], mask[15, 15, 15] = 1, 2
        write(folder / "seg-lungs-LUNA16" / f"{name}.mhd", mask)
    write_table(folder, rows)
    return folder


@pytest.fixture(scope="module")
def nodules(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("stores") / "nodules.zarr"
    extract_targets(scans, target, NODULES, workers=1)
    return target


def read(reader, position: int) -> np.ndarray:
    out = np.empty(reader.shape[1:], reader.dtype)
    reader.read(position, out)
    return out


# --- ncc ------------------------------------------------------------------------------------------------


def test_a_nodule_lies_in_its_cube(scans: Path, nodules: Path) -> None:
    store = open_targets(nodules)
    assert store.labels is not None
    assert store.labels.sum() == 2 * len(SCANS)
    assert store.cubes.dtype == np.int16
    assert store.classes == ("nodule",)
    found = []
    for row in range(len(store)):
        image = image_of(scans / str(store.scans.path[store.table.scan[row]]))
        cube, corner = read(store.cubes, row), store.table.corner[row].tolist()
        assert (cube == np.clip(cropped(image, corner, SIZE, -1000), -1000, 1000)).all()
        if store.labels[row, 0]:
            assert 777 in (cube[tuple(np.subtract(spot, corner))] for spot in SPOTS if within(spot, corner))
            found.append(corner)
    # The one in the middle of the scan lies in the middle of its cube, the other is moved inside.
    middle = np.subtract(SPOTS[0], np.array(SIZE) // 2).tolist()
    assert sorted(found) == sorted([middle, [0, 12, 12]] * len(SCANS))


def within(spot: tuple[int, ...], corner: list[int]) -> bool:
    return all(0 <= s - c < e for s, c, e in zip(spot, corner, SIZE, strict=True))


def test_subsets_are_the_folds_and_each_has_its_negatives(nodules: Path) -> None:
    store = open_targets(nodules)
    subsets = store.scans.subset[store.table.scan]
    assert (store.table.fold == np.select([subsets <= 4, subsets <= 6], [0, 1], 2)).all()
    folds = describe_store(store)["folds"]
    for name in ("train", "validation", "test"):
        assert folds[name] == {"cubes": 12, "scans": 2, "classes": {"nodule": 4}}
    geometry = store.scans
    assert geometry.direction[0].tolist() == list(TURNED)  # all that it takes to find the way back
    assert geometry.spacing[0].tolist() == [0.7, 0.9, 2.5]
    assert geometry.shape[0].tolist() == list(SHAPE)


def test_negatives_are_drawn_once_and_for_all(scans: Path) -> None:
    table = parse_candidates((scans / "candidates_V2.csv").read_text(encoding="utf-8")).by_scan
    folds = {name: 0 for _, name in SCANS}

    def rows(negatives: int | None, seed: int = 0) -> set[int]:
        chosen = choose_candidates(table, folds, negatives, seed)
        return {one.row for ones in chosen.values() for one in ones}

    assert rows(1) < rows(2) < rows(None) == {one.row for ones in table.values() for one in ones}
    assert (len(rows(0)), len(rows(1)), len(rows(2))) == (12, 24, 36)
    assert rows(2) == rows(2) != rows(2, seed=1)
    assert rows(1000) == rows(None)


def test_interrupted_it_goes_on_and_no_worker_shows(scans: Path, nodules: Path, tmp_path: Path) -> None:
    target, seen = tmp_path / "again.zarr", []

    def interrupt(what: str, done: int, total: int) -> None:
        seen.append(done)
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_targets(scans, target, NODULES, workers=1, progress=interrupt)
    with pytest.raises(CallError, match="not finished"):
        open_targets(target)
    with pytest.raises(CallError, match=r"started with negatives 2 \(requested: 3\)"):
        extract_targets(scans, target, NoduleParameters(size=SIZE, negatives=3))
    first = []
    extract_targets(scans, target, NODULES, workers=3, progress=lambda *told: first.append(told))
    assert first[0] == ("scans", 3, 6)
    assert read_manifest(target) == read_manifest(nodules)
    assert not unfinished(target).exists()
    assert extract_targets(scans, target, NODULES).done_before


def test_a_scan_that_ends_its_process_fails_alone(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(task, items, *, lost, finished, **_) -> None:
        for item in items:
            finished(lost(item) if item[0][1].source.identifier == "a.2" else task(item))

    monkeypatch.setattr("genesis_toolkit.pipeline.job.run", run)
    store = extract_targets(scans, tmp_path / "t.zarr", NODULES).store
    assert store.scans.status.tolist().count("used") == 5
    assert "reading the scan killed the process" in store.scans.reason[1]
    assert len(store) == 30


def test_rows_that_cannot_be_taken_are_told_of(scans: Path, tmp_path: Path) -> None:
    folder = tmp_path / "part"
    folder.mkdir()
    (folder / "subset0").symlink_to(scans / "subset0")
    nodule = image_of(scans / "subset0" / "a.1.mhd").TransformIndexToPhysicalPoint(SPOTS[0])
    write_table(folder, [["a.1", *nodule, 0], ["a.1", 0, 0, 0, 0], ["x", 1, 2, 3, 0], ["a.1", *nodule, 1]])
    result = extract_targets(folder, tmp_path / "t.zarr", NODULES, workers=1)
    assert result.said == (
        "candidates_V2.csv has positions that are a nodule in one row but not in another (row 5): each is "
        "used once, as a nodule.",
        "Skipped 1 candidates in candidates_V2.csv of 1 scans that are missing (row 4), which is normal if "
        "LUNA16 was downloaded only in part.",
    )
    assert result.store.labels is not None
    assert result.store.labels.tolist() == [[1]]
    assert result.store.scans.reason.tolist() == ["candidates outside it: row 3 of candidates_V2.csv"]
    call = ["extract-targets", str(folder), str(tmp_path / "t.zarr"), "--task", "ncc", "--negatives", "2"]
    done = CliRunner().invoke(main, [*call, "--size", "8,8,6"])
    assert done.exit_code == 1
    assert "row 3 of" in done.output
    assert "fold validation, test" in done.stderr


@pytest.mark.parametrize("row", ["a,1,2", "a,1,2,x,0", "a,1,2,nan,0", "a,1,2,3,2", ",1,2,3,0"])
def test_rows_that_are_no_candidates_are_refused(row: str) -> None:
    with pytest.raises(DataError, match=r"1 rows that are not candidates \(row 3: "):
        parse_candidates(f"{','.join(HEADER)}\na,1,2,3,0\n{row}\n")


def test_a_repeated_row_is_taken_once() -> None:
    found = parse_candidates(f"{','.join(HEADER)}\na,1,2,3,0\na,1,2,3.0,0\n")
    assert len(found.by_scan["a"]) == 1
    assert found.said[0].startswith("candidates_V2.csv repeats")
    with pytest.raises(DataError, match="no column class; its columns are seriesuid"):
        parse_candidates("seriesuid,coordX,coordY,coordZ\n")


def test_a_scan_smaller_than_a_cube_lies_in_its_middle(tmp_path: Path) -> None:
    voxels = voxels_of(1, (5, 20, 18))
    write(tmp_path / "L" / "subset0" / "s.mhd", voxels)
    place = image_of(tmp_path / "L" / "subset0" / "s.mhd").TransformIndexToPhysicalPoint((2, 10, 9))
    write_table(tmp_path / "L", [["s", *place, 1]])
    store = extract_targets(tmp_path / "L", tmp_path / "t.zarr", NODULES, workers=1).store
    assert store.table.corner.tolist() == [[-2, 6, 6]]
    cube = read(store.cubes, 0)
    assert (cube[2:7] == np.clip(voxels[:, 6:14, 6:12], -1000, 1000)).all()
    assert (cube[:2] == -1000).all()
    assert (cube[7:] == -1000).all()


# --- segment --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [None, (2,)])
def test_masks_are_those_of_the_same_boxes(scans: Path, tmp_path: Path, values: tuple[int, ...]) -> None:
    parameters = MaskParameters(size=SIZE, foreground=values, cubes_per_scan=10)
    store = extract_targets(scans, tmp_path / "t.zarr", parameters, workers=1).store
    assert store.masks is not None
    assert store.labels is None
    for row in range(len(store)):
        path, corner = str(store.scans.path[store.table.scan[row]]), store.table.corner[row].tolist()
        mask = cropped(image_of(scans / "seg-lungs-LUNA16" / Path(path).name), corner, SIZE, 0)
        assert (read(store.masks, row) == (mask != 0 if values is None else mask == 2)).all()
        cube = cropped(image_of(scans / path), corner, SIZE, -1000)
        assert (read(store.cubes, row) == np.clip(cube, -1000, 1000)).all()
    inner = [read(store.masks, row).any() for row in range(len(store))]
    assert np.mean(inner) >= (0.5 if values is None else 0.1)
    if values is None:
        assert len(store) == 10 * len(SCANS)


def test_pairs_of_any_format_and_what_is_wrong_with_some(tmp_path: Path) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[5:9, 5:9, 5:9] = 1
    for name in ("p/one", "two", "three", "four"):
        write(tmp_path / "data" / "scans" / f"{name}.nii.gz", voxels_of(len(name)))
    write(tmp_path / "data" / "masks" / "scans" / "p" / "one.nrrd", mask)
    write(tmp_path / "data" / "masks" / "scans" / "two.mha", mask, spacing=(0.7, 0.9, 2.6))
    write(tmp_path / "data" / "masks" / "scans" / "three.mha", mask)
    write(tmp_path / "data" / "masks" / "scans" / "three.nrrd", mask)
    parameters = MaskParameters(size=SIZE, cubes_per_scan=4, masks=tmp_path / "data" / "masks")
    result = extract_targets(tmp_path / "data", tmp_path / "t.zarr", parameters, workers=1)
    said = dict(zip(result.store.scans.path.tolist(), result.store.scans.reason.tolist(), strict=True))
    assert sorted(said) == [f"scans/{name}.nii.gz" for name in ("p/one", "three", "two")]
    assert said["scans/p/one.nii.gz"] == ""
    assert "there are 2 masks" in said["scans/three.nii.gz"]
    assert "the mask's grid (22 x 20 x 18 voxels, spacing 0.7 0.9 2.6" in said["scans/two.nii.gz"]
    assert "differs from the scan's (22 x 20 x 18 voxels, spacing 0.7 0.9 2.5" in said["scans/two.nii.gz"]
    assert result.said[0].startswith("1 scans without a mask in ")
    assert set(result.store.table.fold.tolist()) == {fold_of_name("scans/p/one")}
    assert result.store.attributes["parameters"]["masks"] == "masks"


def test_without_foreground_there_is_no_store(scans: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No mask has a value of --foreground 7"):
        extract_targets(scans, tmp_path / "t.zarr", MaskParameters(size=SIZE, foreground=(7,)), workers=1)
    assert not list(tmp_path.iterdir())


def test_folds_of_names_are_eight_to_one_to_one() -> None:
    counts = np.bincount([fold_of_name(f"scan {number}") for number in range(20_000)]) / 20_000
    assert np.allclose(counts, [0.8, 0.1, 0.1], atol=0.01)  # 0.01 is 3.5 standard deviations


# --- dxc ------------------------------------------------------------------------------------------------

#: Name, list, findings.
IMAGES = [
    ("00000001_000", "train_val", "Cardiomegaly|Effusion"),
    ("00000001_001", "train_val", "No Finding"),
    ("00000003_000", "test", "Hernia"),
    ("00000004_000", "", "Mass"),
]


def write_nih(folder: Path, images: list[tuple[str, str, str]]) -> dict[str, np.ndarray]:
    """Images of 32 x 24 pixels, the table and the lists; the pixels [x, y] by name."""
    (folder / "images").mkdir(parents=True)
    rows, pixels = ["Image Index,Finding Labels,Patient ID,View Position"], {}
    for number, (name, _, labels) in enumerate(images):
        pixels[name] = np.random.default_rng(number).integers(0, 256, (24, 32), dtype=np.uint8).T
        Image.fromarray(pixels[name].T).save(folder / "images" / f"{name}.png")
        rows.append(f"{name}.png,{labels},{int(name[:8])},PA")
    (folder / "Data_Entry_2017.csv").write_text("\n".join(rows), encoding="utf-8")
    for split in ("train_val", "test"):
        names = [f"{name}.png" for name, own, _ in images if own == split]
        (folder / f"{split}_list.txt").write_text("\n".join(names), encoding="utf-8")
    return pixels


def test_findings_are_those_of_the_table(tmp_path: Path) -> None:
    pixels = write_nih(tmp_path / "nih", IMAGES)
    result = extract_targets(tmp_path / "nih", tmp_path / "t.zarr", FindingParameters((32, 24)), workers=1)
    store = result.store
    assert store.labels is not None
    assert store.images is not None
    assert len(store.classes) == 14
    told = [
        {one for one, there in zip(store.classes, row, strict=True) if there} for row in store.labels.tolist()
    ]
    assert told == [{"Cardiomegaly", "Effusion"}, set(), {"Hernia"}]
    assert all((read(store.cubes, row) == pixels[IMAGES[row][0]]).all() for row in range(3))
    folds = store.table.fold.tolist()
    assert folds[2] == 2
    assert folds[0] == folds[1] in (0, 1)
    assert store.images.patient.tolist() == ["1", "1", "3"]
    assert result.said == ("Skipped 1 image on neither of NIH's lists.",)


@pytest.mark.parametrize("labels", ["Covid", "", "No Finding|Mass"])
def test_a_finding_that_is_none_is_refused(tmp_path: Path, labels: str) -> None:
    write_nih(tmp_path / "nih", [("00000001_000", "train_val", labels)])
    with pytest.raises(DataError, match=r"for 00000001_000\.png, but .* is not one of NIH's findings"):
        extract_targets(tmp_path / "nih", tmp_path / "t.zarr", FindingParameters())


def test_no_patient_is_in_two_folds(tmp_path: Path) -> None:
    images = [(f"{patient:08}_{n:03}", "train_val", "Mass") for patient in range(1, 41) for n in range(2)]
    write_nih(tmp_path / "nih", images)
    store = extract_targets(tmp_path / "nih", tmp_path / "t.zarr", FindingParameters((4, 4)), workers=1).store
    assert store.images is not None
    patients = store.images.patient[store.table.scan]
    assert set(store.table.fold.tolist()) == {0, 1}
    assert not set(patients[store.table.fold == 0]) & set(patients[store.table.fold == 1])


# --- verify ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three(scans: Path, nodules: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of each task, named by it, and the X-ray images; four cubes a shard but of ncc."""
    folder = tmp_path_factory.mktemp("three")
    images = [(f"{n:08}_000", "train_val", "Mass|Hernia") for n in range(1, 10)]
    images += [(f"00000010_{n:03}", "test", "Mass|Hernia") for n in range(2)]
    write_nih(folder / "nih", images)
    shutil.copytree(nodules, folder / "ncc.zarr")
    with pytest.MonkeyPatch.context() as patch:
        for module in ("cubes.assemble", "store.write"):
            patch.setattr(f"genesis_toolkit.pipeline.{module}.shard_length", lambda *_: 4)
        masks = MaskParameters(size=SIZE, cubes_per_scan=3, masks=scans / "seg-lungs-LUNA16")
        extract_targets(scans, folder / "segment.zarr", masks, workers=1)
        extract_targets(folder / "nih", folder / "dxc.zarr", FindingParameters((8, 8)), workers=1)
    return folder


@pytest.fixture
def copies(three: Path, tmp_path: Path) -> Path:
    """Copies of the three stores, to do harm to."""
    shutil.copytree(three, tmp_path / "copies", symlinks=True)
    return tmp_path / "copies"


def source_of(task: str, scans: Path, folder: Path) -> Path:
    return folder / "nih" if task == "dxc" else scans


@pytest.mark.parametrize(("task", "cubes", "used"), [("ncc", 36, 6), ("segment", 18, 6), ("dxc", 11, 11)])
def test_sound_stores_are_sound_and_are_cut_again(
    three: Path, scans: Path, task: str, cubes: int, used: int
) -> None:
    store = three / f"{task}.zarr"
    found = look(store, source=source_of(task, scans, three), cubes=999)
    assert found.findings == found.left_out == found.damaged == ()
    assert (found.kind, found.maker, found.pairs) == ("genesis-targets", "extract-targets", None)
    assert (found.cubes, found.cut_again, found.scans) == (cubes, cubes, used)
    assert found.files == len(read_manifest(store))


@pytest.mark.full
@pytest.mark.parametrize("task", ["ncc", "segment", "dxc"])
def test_a_flipped_byte_of_any_file_is_found(copies: Path, task: str) -> None:
    store = copies / f"{task}.zarr"
    for path in random.Random(0).sample(files_of(store), 15):
        whole = flip(path, random.Random(path.name).randrange(path.stat().st_size))
        found = look(store)
        assert any(path.relative_to(store).as_posix() == one.name for one in found.findings), path
        assert found.maker == "extract-targets"
        path.write_bytes(whole)
    assert not look(store).findings


def drop(array: str) -> Callable[[Path], None]:
    return lambda store: shutil.rmtree(store / array)


def drop_a_shard(store: Path) -> None:
    (store / "masks" / "c" / "4" / "0" / "0" / "0").unlink()


def scale_masks(store: Path) -> None:
    group = zarr.open_group(store, mode="r+")
    group["masks"][2] = np.asarray(group["masks"][2]) * 255


@pytest.mark.parametrize(
    ("task", "edit", "name", "words"),
    [
        ("ncc", set_value("fold", 7, 3), "fold", "is none of train, validation, test: cube 7"),
        ("ncc", set_value("fold", 7, 1), "fold", "differs from the fold of its scan: cube 7"),
        ("segment", set_value("fold", 17, 0), "fold", "differs from the fold of its scan: cube 17"),
        ("dxc", set_value("fold", 10, 0), "fold", "differs from the fold of its patient: cube 10"),
        ("ncc", set_value("scans/subset", 0, 10), "scans/subset", "neither in 0..9 nor -1: scan 0"),
        ("ncc", set_value("labels", (4, 0), 2), "labels", "is neither 0 nor 1: cube 4"),
        ("dxc", set_value("labels", (4, 0), 1), "labels", "contradicts images/labels: cube 4"),
        ("dxc", set_value("images/labels", 2, "Covid"), "images/labels", "not findings of NIH: cube 2"),
        (
            "dxc",
            set_value("images/patient", 10, "1"),
            "fold",
            "differs from the fold of its patient: cube 10",
        ),
        ("ncc", set_value("corner", 3, [15, 0, 0]), "corner", "is outside its scan: cube 3"),
        ("ncc", set_value("corner", 3, [-1, 0, 0]), "corner", "is outside its scan: cube 3"),
        ("dxc", set_value("corner", 3, [1, 0, 0]), "corner", "differs from that of a whole image: cube 3"),
        ("ncc", set_value("number", 7, 5), "number", "does not count within its scan: cube 7"),
        ("ncc", set_value("scan", 3, 6), "scan", "is not one of the 6 rows of scans: cube 3"),
        ("segment", scale_masks, "masks/c/0/0/0/0", "cube 2: values outside the window 0..1"),
        ("segment", drop_a_shard, "masks", "the 18 rows need 5 files, but there are 4"),
        ("segment", drop("masks"), "masks", "are missing, but the task needs them"),
        ("dxc", drop("images"), "images", "are missing, but the task needs them"),
        ("ncc", set_attribute("task", value="dxc"), "task", "the parameters mean 'ncc'"),
        ("ncc", set_attribute("classes", value=["mass"]), "classes", "parameters mean ['nodule']"),
        ("dxc", set_attribute("unit", value="HU"), "unit", "parameters mean 'grey level'"),
        ("dxc", set_attribute("folds", value=None), "folds", "is None"),
        (
            "ncc",
            set_attribute("parameters", "task", value="iuc"),
            "parameters",
            "not one of ncc, segment, dxc",
        ),
        ("ncc", set_attribute("parameters", "negatives", value="x"), "parameters", "not those of extract-"),
        ("ncc", set_attribute("parameters", "plane", value=1), "parameters", "plane is missing or unknown"),
        ("ncc", set_attribute("parameters", "source_sha256", value=1), "parameters.source_sha256", "is 1"),
    ],
)
def test_edits_with_a_manifest_that_fits_are_found(
    three: Path, tmp_path: Path, task: str, edit: Callable[[Path], None], name: str, words: str
) -> None:
    store = shutil.copytree(three / f"{task}.zarr", tmp_path / "store")
    edit(store)
    forge(store)
    found = look(store)
    assert words in told(found).get(name, ""), found.findings


def test_cubes_labels_and_masks_that_are_not_those_of_the_source_are_named(copies: Path, scans: Path) -> None:
    zarr.open_group(copies / "ncc.zarr", mode="r+")["labels"][5, 0] = 1
    zarr.open_group(copies / "segment.zarr", mode="r+")["cubes"][4, 0, 0, 0] = 999
    zarr.open_group(copies / "segment.zarr", mode="r+")["masks"][4, 0, 0, 0] ^= 1
    # A patient of the test list in the training fold: its own images cannot tell, the lists can.
    zarr.open_group(copies / "dxc.zarr", mode="r+")["fold"][9:] = fold_of_patient("10")
    in_training = {f"images/00000010_{n:03}.png": f"differs from cube {9 + n} in its fold" for n in range(2)}
    for task, words in (
        ("ncc", {"subset0/a.1.mhd": "differs from cube 5 in its labels"}),
        ("segment", {"subset4/a.2.mhd": "differs from cube 4 in its voxels, mask"}),
        ("dxc", in_training),
    ):
        store = copies / f"{task}.zarr"
        forge(store)
        assert not look(store).findings
        assert told(look(store, source=source_of(task, scans, copies), cubes=999)) == words


def test_a_source_that_says_something_else_is_told_of(copies: Path, scans: Path, tmp_path: Path) -> None:
    source = tmp_path / "LUNA16"
    shutil.copytree(scans, source)
    with (source / "candidates_V2.csv").open("a", encoding="utf-8") as table:
        table.write("a.1,1,2,3,1\n")
    found = look(copies / "ncc.zarr", source=source)
    assert "names, tables or lists have changed" in told(found)["parameters.source_sha256"]
    assert (found.scans, found.cut_again) == (6, 0)
    write(source / "subset4" / "a.2.mhd", voxels_of(77))
    mask = np.ones(SHAPE, np.uint8)
    write(source / "seg-lungs-LUNA16" / "b.1.mhd", mask)
    found = look(copies / "segment.zarr", source=source, cubes=999)
    assert "the sha256 differs" in told(found)["subset4/a.2.mhd"]
    assert found.findings[1].name == "subset5/b.1.mhd"
    assert {one.name for one in found.findings} == {"subset4/a.2.mhd", "subset5/b.1.mhd"}
    (source / "seg-lungs-LUNA16").rename(source / "lungs")
    found = look(copies / "segment.zarr", source=source)
    assert found.left_out == (
        f"cubes of the scans: the folder of masks, 'seg-lungs-LUNA16', is neither in {source} nor next to it"
        ": copy the folder there",
    )


def test_the_command_says_what_is_wrong_and_what_to_do(copies: Path) -> None:
    store = copies / "ncc.zarr"
    flip(store / "cubes" / "c" / "0" / "0" / "0" / "0", 700)
    done = CliRunner().invoke(main, ["verify", str(store)])
    assert done.exit_code == 1
    assert "cubes/c/0/0/0/0   cubes 0-35" in done.stdout
    assert "run genesis-prep extract-targets again with --overwrite." in done.stderr
    assert not list(copies.glob("*.json")), "no note, since nothing reads it"
    done = CliRunner().invoke(main, ["verify", str(store), "--replay", "3"])
    assert done.exit_code == 2
    assert "is a target store, but --replay derives the pairs" in done.stderr


# --- the store and the command --------------------------------------------------------------------------


def test_others_read_it_and_damage_is_found(nodules: Path, tmp_path: Path, cube_store: Path) -> None:
    group = zarr.open_group(nodules, mode="r")
    store = open_targets(nodules)
    assert store.labels is not None
    assert (np.asarray(group["labels"]) == store.labels).all()
    assert (np.asarray(group["cubes"][3]) == read(store.cubes, 3)).all()
    assert isinstance(open_store(nodules), TargetStore)
    words = "is a target store, but this command needs a cube store .made by extract-cubes. or a pair store"
    with pytest.raises(CallError, match=words):
        open_store(nodules, CubeStore, PairStore)
    with pytest.raises(
        CallError, match=r"is a cube store, but .* needs a target store \(made by extract-targets"
    ):
        open_targets(cube_store)
    with pytest.raises(CallError, match="is not a genesis-targets store, so it is left untouched"):
        extract_targets(tmp_path, cube_store, NODULES, overwrite=True)
    copy = tmp_path / "copy.zarr"
    for path in read_manifest(nodules) | {"manifest-sha256.txt": "", "log.json": ""}:
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / path).write_bytes((nodules / path).read_bytes())
    open_targets(copy)
    chunk = copy / "labels" / "c" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"!")
    with pytest.raises(DataError, match="labels/c/0/0 is missing or has changed"):
        open_targets(copy)


def test_the_command(scans: Path, nodules: Path) -> None:
    call = [
        "extract-targets",
        str(scans),
        str(nodules),
        "--task",
        "ncc",
        "--size",
        "8,8,6",
        "--negatives",
        "2",
    ]
    done = CliRunner().invoke(main, [*call, "--json"])
    facts = json.loads(done.stdout)
    assert done.exit_code == 0
    assert facts["done_before"]
    assert facts["cubes"] == 36
    assert "with nodule" in CliRunner().invoke(main, ["info", str(nodules)]).stdout
    assert json.loads(CliRunner().invoke(main, ["info", str(nodules), "--json"]).stdout)["task"] == "ncc"
    done = CliRunner().invoke(main, [*call, "--foreground", "1"])
    assert done.exit_code == 2
    assert "--foreground does not apply to --task ncc" in done.stderr
    done = CliRunner().invoke(main, [*call[:-1], "all"])
    assert done.exit_code == 2
    assert "negatives 2 (requested: None)" in done.stderr


@pytest.mark.parametrize("task", ["ncc", "segment", "dxc"])
def test_a_dry_run_says_what_the_store_will_hold(three: Path, scans: Path, tmp_path: Path, task: str) -> None:
    store, source = open_targets(three / f"{task}.zarr"), source_of(task, scans, three)
    made = parameters_of(store.attributes["parameters"])
    if isinstance(made, MaskParameters):
        made = replace(made, masks=scans / "seg-lungs-LUNA16")
    found = estimate_targets(source, tmp_path / "t.zarr", made, workers=2)
    assert (found.finished, found.folds, found.cubes) == (False, describe_store(store)["folds"], len(store))
    assert (found.scans, found.set_aside) == (len(np.unique(store.table.scan)), 0)
    used = np.unique(store.table.scan)
    assert found.bytes == store.scans.bytes[used].sum()
    shards = [three / f"{task}.zarr" / path for path in store.manifest if is_shard(path)]
    index = 16 * store.cubes.length + 4  # at the end of a shard
    encoded = sum(path.stat().st_size - index for path in shards)
    assert found.store_bytes == pytest.approx(encoded, rel=0.3)
    assert list(tmp_path.iterdir()) == []
    assert estimate_targets(source, three / f"{task}.zarr", made, workers=2).finished


def test_a_dry_run_by_the_command(scans: Path, tmp_path: Path) -> None:
    call = ["extract-targets", str(scans), str(tmp_path / "t.zarr"), "--task", "ncc", "--size", "8,8,6"]
    done = CliRunner().invoke(main, [*call, "--dry-run"])
    assert done.exit_code == 0
    assert "dry run: nothing was written" in done.stdout
    assert re.search(r"train +2 +22 +4", done.stdout)
    facts = json.loads(CliRunner().invoke(main, [*call, "--dry-run", "--json"]).stdout)
    assert facts["folds"]["test"] == {"cubes": 22, "scans": 2, "classes": {"nodule": 4}}
    done = CliRunner().invoke(main, [*call, "--scheduler", str(tmp_path / "none.json")])
    assert done.exit_code == 2
    assert "not a scheduler file" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_sheet_shows_cubes_with_their_labels_masks_and_folds(three: Path, tmp_path: Path) -> None:
    store = open_targets(three / "segment.zarr")
    headings, pictures = contact_rows(store, 3)
    assert (headings, len(pictures)) == (["axial", "coronal", "sagittal"], 3)
    assert store.masks is not None
    for line, cube, fold in zip(pictures, (0, 8, 17), (0, 1, 2), strict=True):
        words = ("train", "validation", "test")[fold]
        assert line[0].label == f"cube {cube} of {store.scans.path[store.table.scan[cube]]}\n{words}"
        for voxels, shown in (
            (read(store.cubes, cube), [one.voxels for one in line]),
            (read(store.masks, cube), [one.mask for one in line]),
        ):
            sides = (voxels[:, :, 3], voxels[:, 4, ::-1], voxels[4, :, ::-1])
            assert all((one == side).all() for one, side in zip(shown, sides, strict=True))
    _, pictures = contact_rows(open_targets(three / "ncc.zarr"), 4)
    assert [line[0].label.split("\n")[2] for line in pictures].count("nodule") == 2
    assert [[one.mask for one in line] for line in pictures] == [[None] * 3] * 4
    _, pictures = contact_rows(open_targets(three / "dxc.zarr"), 2)
    name = open_targets(three / "dxc.zarr").scans.path[0]
    assert pictures[0][0].label == f"cube 0 of {name}\ntrain\nHernia, Mass"
    for task in ("segment", "dxc"):
        done = CliRunner().invoke(
            main, ["preview", str(three / f"{task}.zarr"), str(tmp_path / f"{task}.png")]
        )
        assert done.exit_code == 0, done.output
        with Image.open(tmp_path / f"{task}.png") as sheet:
            assert sheet.format == "PNG"
    done = CliRunner().invoke(main, ["preview", str(three / "ncc.zarr"), str(tmp_path / "ncc.html")])
    assert done.exit_code == 2
    assert "a name that ends in .png" in done.stderr


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        (NoduleParameters, {"size": (8, 8)}, "--size 8,8 is invalid: it must be three edges"),
        (NoduleParameters, {"negatives": -1}, "--negatives -1"),
        (NoduleParameters, {"hu": (0, 40_000)}, "--hu 0,40000"),
        (MaskParameters, {"foreground": (0, 1)}, "--foreground 0,1"),
        (MaskParameters, {"cubes_per_scan": 0}, "--cubes-per-scan 0"),
        (FindingParameters, {"size": (8, 8, 8)}, "--size 8,8,8 is invalid: for images it must be two"),
    ],
)
def test_values_out_of_range_are_refused(kind: type, given: dict[str, object], words: str) -> None:
    with pytest.raises(CallError, match=words):
        kind(**given)


def test_a_store_that_says_labels_is_of_that_foreground() -> None:
    """Its name until a table could give labels; nothing else of such a store is another."""
    now = described(MaskParameters(foreground=(1, 2), size=SIZE), "0" * 64)
    before = {"labels" if name == "foreground" else name: value for name, value in now.items()}
    assert "labels" in before
    assert parameters_of(before) == parameters_of(now) == MaskParameters(foreground=(1, 2), size=SIZE)
    assert as_now(before) == now
