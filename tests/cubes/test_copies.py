"""Scans that come twice: which is used, and what is said of the others."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from support.damage import look
from support.dicom import SMALL, VOXELS, write_volume

import genesis_toolkit as gt
from genesis_toolkit.pipeline.cubes.copies import Twin, same_voxels, settle
from genesis_toolkit.pipeline.cubes.parameters import ImageParameters


def twin(path: str, identifier: str, sha256: str, used: bool = True, name: str | None = None) -> Twin:
    return Twin(path if name is None else name, path, Path(path), identifier, sha256, used)


def settled(*twins: Twin, same: bool = False) -> dict[str, tuple[str, str]]:
    return settle(twins, lambda one, other: same)


def test_one_of_those_with_the_same_bytes_is_used() -> None:
    found = settled(
        twin("a", "a", "1"), twin("b", "b", "2"), twin("c", "c", "1"), twin("d", "d", "", used=False)
    )
    assert found == {"c": ("skipped", "the same scan as a")}


def test_one_identifier_and_the_same_voxels_are_one_scan() -> None:
    one, other = twin("a.mha", "a", "1"), twin("a.nii", "a", "2")
    assert settled(one, other, same=True) == {"a.nii": ("skipped", "the same scan as a.mha")}
    changes = settled(one, other)
    assert {status for status, _ in changes.values()} == {"failed"}
    assert all("a.mha and a.nii" in why for _, why in changes.values())
    assert list(changes) == ["a.mha", "a.nii"]


def test_a_scan_of_a_finished_store_stays() -> None:
    held = twin("a.mha", "a", "1", name="")
    assert list(settled(held, twin("a.nii", "a", "2"))) == ["a.nii"]
    assert settled(held, twin("b", "b", "1")) == {"b": ("skipped", "the same scan as a.mha")}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    write_volume(root / "a.mha")
    write_volume(root / "b.mha", VOXELS + 1)
    write_volume(root / "b.nii", VOXELS + 1)
    write_volume(root / "c.mha", VOXELS + 2)
    write_volume(root / "c.nii", VOXELS + 3)
    shutil.copy(root / "a.mha", root / "z.mha")
    cut = write_volume(root / "d.mha", VOXELS + 4)
    shutil.copy(cut, root / "e.mha")
    cut.write_bytes(cut.read_bytes()[:-9])
    write_volume(root / "f.mha", VOXELS + 5)
    broken = write_volume(root / "f.nii", VOXELS + 5)
    broken.write_bytes(broken.read_bytes()[:-9])
    return root


WANTED = {
    "a.mha": ("used", ""),
    "b.mha": ("used", ""),
    "b.nii": ("skipped", "the same scan as b.mha"),
    "c.mha": ("failed", "c.mha and c.nii have the same identifier but different voxels"),
    "c.nii": ("failed", "c.mha and c.nii have the same identifier but different voxels"),
    "d.mha": ("failed", "cut short"),
    "e.mha": ("used", ""),
    "f.mha": ("used", ""),
    "f.nii": ("failed", "cut short"),
    "z.mha": ("skipped", "the same scan as a.mha"),
}


def test_a_store_holds_every_scan_once(source: Path, tmp_path: Path) -> None:
    store = gt.extract_cubes(source, tmp_path / "c.zarr", SMALL, workers=1).store
    rows = zip(
        store.scans.path.tolist(), store.scans.status.tolist(), store.scans.reason.tolist(), strict=True
    )
    for path, status, reason in rows:
        assert (status, WANTED[path][1] in reason) == (WANTED[path][0], True), path
    assert len(store) == 4 * 3
    assert look(tmp_path / "c.zarr", source=source).findings == ()
    assert gt.extract_cubes(source, tmp_path / "c.zarr", SMALL, workers=1).done_before


def test_scans_that_come_later_are_held_against_those_of_the_store(source: Path, tmp_path: Path) -> None:
    aside = tmp_path / "aside"
    aside.mkdir()
    for name in ("b.nii", "c.nii", "z.mha"):
        (source / name).rename(aside / name)
    gt.extract_cubes(source, tmp_path / "c.zarr", SMALL, workers=1)
    for path in aside.iterdir():
        path.rename(source / path.name)
    result = gt.extract_cubes(source, tmp_path / "c.zarr", SMALL, workers=1)
    scans = result.store.scans
    found = dict(
        zip(scans.path.tolist(), zip(scans.status.tolist(), scans.reason.tolist(), strict=True), strict=True)
    )
    assert found["b.nii"] == ("skipped", "the same scan as b.mha")
    assert found["z.mha"] == ("skipped", "the same scan as a.mha")
    assert found["c.mha"][0] == "used"
    assert found["c.nii"][0] == "failed"
    assert {one.path for one in result.unused} == {"b.nii", "c.nii", "z.mha"}


def test_names_are_not_told_under_pseudonyms(source: Path, tmp_path: Path) -> None:
    scans = gt.extract_cubes(
        source, tmp_path / "k.zarr", SMALL, workers=1, anonymize=tmp_path / "key"
    ).store.scans
    said = [reason for reason in scans.reason.tolist() if reason.startswith("the same scan as ")]
    assert len(said) == 2
    assert {reason.rpartition(" ")[2] for reason in said} <= set(scans.path.tolist())
    assert not any(".mha" in reason or ".nii" in reason for reason in scans.reason.tolist())


def test_images_are_compared_as_pictures(tmp_path: Path) -> None:
    for name, value in (("a", 1), ("b", 1), ("c", 2)):
        sitk.WriteImage(
            sitk.GetImageFromArray(np.full((3, 4), value, np.uint8)), str(tmp_path / f"{name}.png")
        )
    assert same_voxels(tmp_path / "a.png", tmp_path / "b.png", ImageParameters())
    assert not same_voxels(tmp_path / "a.png", tmp_path / "c.png", ImageParameters())
    assert not same_voxels(tmp_path / "a.png", tmp_path / "d.png", ImageParameters())
