"""Series whose slices lie in several folders, copies of slices, slices that cannot be read, and litter."""

import hashlib
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from support.dicom import VOXELS, rewrite, write_series, write_slice
from support.scans import lungs, write_scan

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.scans.find import Source, find_scans
from genesis_toolkit.pipeline.scans.nih import find_images
from genesis_toolkit.pipeline.scans.read import read_scan, scan_files, scan_path, scan_sha256

APPLE_DOUBLE = b"\0\5\x16\7" + bytes(80)


def scans_of(root: Path) -> dict[str, Source]:
    """The sources of a folder that are neither passed over nor problems, by path; each can be looked up."""
    found = {
        source.path: source for source in find_scans(root).sources if not (source.problem or source.skip)
    }
    for path in found:
        assert scan_path(f"{root}/{path}") == root / path
    return found


def spread(root: Path, folders: list[str]) -> list[Path]:
    """A series of six slices, each moved to its folder; by height."""
    moved = []
    for path, folder in zip(write_series(root / "all"), folders, strict=True):
        (root / folder).mkdir(parents=True, exist_ok=True)
        moved.append(Path(shutil.move(path, root / folder / path.name)))
    if not any((root / "all").iterdir()):
        (root / "all").rmdir()
    return moved


@pytest.mark.parametrize(
    ("folders", "home"),
    [
        (["a", "a", "a", "b", "b", "b"], "."),
        (["a", "b", "a", "b", "a", "b"], "."),
        (["p/1", "p/2", "p/3", "p/4", "p/5", "p/6"], "p"),
        (["p", "p/q", "p", "p/q/r", "p", "p"], "p"),
        (["p/ab", "p/ac", "p/ab", "p/ac", "p/ab", "p/ac"], "p"),
        ([".", "a", ".", "a", ".", "a"], "."),
        (["all"] * 6, "all"),
    ],
)
def test_a_series_is_put_together_from_any_folders(tmp_path: Path, folders: list[str], home: str) -> None:
    files = spread(tmp_path, folders)
    assert list(scans_of(tmp_path)) == [home]
    scan = read_scan(tmp_path / home)
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    assert sorted(scan_files(tmp_path / home)) == sorted(files)
    assert scan.sha256 == hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    assert scan_sha256(tmp_path / home) == scan.sha256


def test_a_slice_that_comes_to_another_folder_is_seen(tmp_path: Path) -> None:
    files = spread(tmp_path, ["a", "a", "a", "b", "b", "b"])
    assert read_scan(tmp_path).geometry.shape == (9, 8, 6)
    write_slice(tmp_path / "b" / "new.dcm", VOXELS[:, :, 0], (-10, -20, 12.0))
    assert read_scan(tmp_path).geometry.shape == (9, 8, 7)
    files[0].unlink()
    assert read_scan(tmp_path).geometry.shape == (9, 8, 6)


def test_series_that_share_folders_keep_their_paths_alone(tmp_path: Path) -> None:
    """A path means the same in the whole tree and where it is looked up without the rest of it."""
    spread(tmp_path, ["a", "a", "a", "b", "b", "b"])
    for name, uid in (("a", "1.2.3.11111111"), ("b", "1.2.3.22222222"), ("c", "1.2.3.33333333")):
        for path in write_series(tmp_path / "one", VOXELS + 1, t0020_000e=uid):
            (tmp_path / name).mkdir(exist_ok=True)
            path.rename(tmp_path / name / f"x{path.name}")
    (tmp_path / "one").rmdir()
    found = scans_of(tmp_path)
    assert list(found) == [".", "a#11111111", "b#22222222", "c"]
    for path in found:
        np.testing.assert_array_equal(read_scan(tmp_path / path).voxels, VOXELS + (path != "."))


def test_copies_are_left_out(tmp_path: Path) -> None:
    write_series(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    sources = {source.path: source for source in find_scans(tmp_path).sources}
    assert {path: (one.problem, one.skip) for path, one in sources.items()} == {
        "a": ("", ""),
        "b": ("", "the same scan as a"),
    }
    np.testing.assert_array_equal(read_scan(tmp_path / "a").voxels, VOXELS)
    np.testing.assert_array_equal(read_scan(tmp_path / "b").voxels, VOXELS)


def test_copies_that_are_not_the_same_stand_by_themselves(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        shutil.rmtree(tmp_path / "made", ignore_errors=True)
        for number, path in enumerate(write_series(tmp_path / "made")):
            rewrite(path, lambda one, number=number: setattr(one, "SOPInstanceUID", f"1.2.3.{number + 1}"))  # type: ignore[misc]
        shutil.copytree(tmp_path / "made", tmp_path / name)
    shutil.rmtree(tmp_path / "made")
    (tmp_path / "a" / "006.dcm").write_bytes((tmp_path / "a" / "006.dcm").read_bytes()[:-50])
    (tmp_path / "b" / "004.dcm").write_bytes(b"")
    sources = {source.path: source for source in find_scans(tmp_path).sources}
    assert sorted(sources) == ["a", "b", "c"]
    assert {source.identifier for source in sources.values()} == {"1.2.840.1"}
    assert sources["b"].problem.startswith("slice 004.dcm cannot be read")
    assert (sources["a"].problem, sources["c"].problem) == ("", "")
    np.testing.assert_array_equal(read_scan(tmp_path / "c").voxels, VOXELS)
    with pytest.raises(DataError, match="cut short"):
        read_scan(tmp_path / "a")
    shutil.rmtree(tmp_path / "b")
    for path in sorted((tmp_path / "c").iterdir())[:3]:  # the good one in two folders
        (tmp_path / "d").mkdir(exist_ok=True)
        path.rename(tmp_path / "d" / path.name)
    assert sorted(source.path for source in find_scans(tmp_path).sources) == [".", "a"]
    np.testing.assert_array_equal(read_scan(tmp_path).voxels, VOXELS)


def test_a_slice_twice_in_two_folders(tmp_path: Path) -> None:
    files = spread(tmp_path, ["a", "a", "a", "b", "b", "b"])
    shutil.copy(files[0], tmp_path / "b" / "again.dcm")
    assert list(scans_of(tmp_path)) == ["."]
    np.testing.assert_array_equal(read_scan(tmp_path).voxels, VOXELS)
    # Exported once more: another header and name for the slice, the same pixels.
    shutil.copy(files[5], tmp_path / "a" / "exported.dcm")
    rewrite(tmp_path / "a" / "exported.dcm", lambda one: setattr(one, "SOPInstanceUID", "1.2.3.4"))
    np.testing.assert_array_equal(read_scan(tmp_path).voxels, VOXELS)
    write_slice(tmp_path / "b" / "other.dcm", VOXELS[:, :, 0] + 1, (-10, -20, 2.0))
    with pytest.raises(
        DataError,
        match=r"^the file is damaged: 1 of the slices have the position of another slice but differ",
    ):
        read_scan(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"\0" * 128 + b"DICM" + b"\2\0\0\0UL\4\0\x90\0\0\0" + b"\2\0\1\0OB"])
def test_slices_that_cannot_be_read_are_one_row(tmp_path: Path, damage: bytes) -> None:
    files = write_series(tmp_path / "p")
    for path in files[:2]:
        path.write_bytes(damage)
    (source,) = find_scans(tmp_path).sources
    assert source.path == "p"
    assert source.problem.startswith("slice 005.dcm cannot be read: the")
    assert "and 1 more files in the same folder" in source.problem
    with pytest.raises(DataError, match=r"^slice 005\.dcm cannot be read"):
        read_scan(tmp_path / "p")
    for path in files:  # none is left that says which series
        path.write_bytes(damage)
    (source,) = find_scans(tmp_path).sources
    assert source.path == "p/001.dcm"
    assert "(and 5 more files in the same folder)" in source.problem


@pytest.mark.parametrize("name", ["._{}", ".DS_Store", "Thumbs.db"])
def test_what_systems_leave_is_passed_over(tmp_path: Path, name: str) -> None:
    """Beside every format, in LUNA16's layout and NIH's, and beside their tables."""
    made = [
        write_scan(tmp_path / "files" / f"{k}{end}", lungs(0))
        for k, end in enumerate((".mhd", ".nii.gz", ".nrrd"))
    ]
    made += write_series(tmp_path / "files" / "dicom")
    made += [write_scan(tmp_path / "luna" / "subset0" / "1.2.mhd", lungs(0))]
    nih = tmp_path / "nih"
    (nih / "images").mkdir(parents=True)
    picture = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    (nih / "images" / "00000001_000.png").write_bytes(picture)
    (nih / "Data_Entry_2017.csv").write_text(
        "Image Index,Finding Labels,Patient ID,View Position\n00000001_000.png,No Finding,1,PA\n"
    )
    (nih / "train_val_list.txt").write_text("00000001_000.png\n")
    (nih / "test_list.txt").write_text("")
    made += [path for path in nih.rglob("*") if path.is_file()]
    before = [find_scans(tmp_path / part) for part in ("files", "luna")] + [find_images(nih)]
    for path in made:
        path.with_name(name.format(path.name)).write_bytes(APPLE_DOUBLE)
    after = [find_scans(tmp_path / part) for part in ("files", "luna")] + [find_images(nih)]
    assert after == before
    np.testing.assert_array_equal(read_scan(tmp_path / "files" / "dicom").voxels, VOXELS)


def test_a_name_like_macos_gives_is_not_enough_to_be_passed_over(tmp_path: Path) -> None:
    write_scan(tmp_path / "._s.nii.gz", lungs(0))
    assert list(scans_of(tmp_path)) == ["._s.nii.gz"]
