"""Finding scans by name, reading them, and saying in one sentence why one cannot be read."""

import hashlib
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from conftest import lungs, write_scan

from pipeline.errors import CallError, DataError
from pipeline.scans import find_scans, read_geometry, read_scan


def test_luna16_is_recognised_and_held_out_subsets_stay_out(luna16: Path) -> None:
    write_scan(luna16 / "subset7" / "1.2.6.mhd", lungs(3))
    found = find_scans(luna16)
    assert found.layout == "luna16"
    assert [(scan.identifier, scan.subset, scan.path) for scan in found.sources] == [
        ("1.2.3", 0, "subset0/1.2.3.mhd"),
        ("1.2.4", 1, "subset1/1.2.4.mhd"),
        ("1.2.5", 5, "subset5/1.2.5.mhd"),
    ]
    assert found.passed_over == (7,)
    assert [scan.subset for scan in find_scans(luna16, subsets=(7,)).sources] == [7]


def test_files_are_found_in_any_folders(tmp_path: Path) -> None:
    for name in ("a.mhd", "p1/ct.nii.gz", "p1/two.nrrd", "p2/deep/er/ct.nii", "b.mha"):
        write_scan(tmp_path / name, lungs(0))
    (tmp_path / "notes.txt").write_text("no scan")
    found = find_scans(tmp_path)
    assert found.layout == "files"
    assert [scan.identifier for scan in found.sources] == ["a", "b", "p1/ct", "p1/two", "p2/deep/er/ct"]
    assert {scan.subset for scan in found.sources} == {-1}
    single = find_scans(tmp_path / "p1" / "ct.nii.gz")
    assert [scan.path for scan in single.sources] == ["ct.nii.gz"]


def test_two_scans_of_one_identifier_are_told(tmp_path: Path) -> None:
    write_scan(tmp_path / "subset0" / "1.2.mhd", lungs(0))
    write_scan(tmp_path / "subset3" / "1.2.mhd", lungs(1))
    first, second = find_scans(tmp_path).sources
    assert first.problem == ""
    assert second.problem == "its identifier is that of subset0/1.2.mhd as well"


def test_sources_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(CallError, match="There is no folder"):
        find_scans(tmp_path / "absent")
    with pytest.raises(
        CallError, match=r"No scan lies in .*looked for \.mhd, \.mha, \.nii, \.nii\.gz, \.nrrd"
    ):
        find_scans(tmp_path)
    with pytest.raises(CallError, match="no folder subset0"):
        find_scans(tmp_path, "luna16")
    write_scan(tmp_path / "subset8" / "1.mhd", lungs(0))
    with pytest.raises(
        CallError, match="has no subset 0, 1, 2, 3, 4, 5, 6; there are 8: choose with --subsets"
    ):
        find_scans(tmp_path)
    with pytest.raises(CallError, match="--subsets"):
        find_scans(tmp_path, "files", (0,))


@pytest.mark.parametrize("name", ["s.mhd", "s.mha", "s.nii", "s.nii.gz", "s.nrrd"])
def test_every_format_gives_the_same_scan(tmp_path: Path, name: str) -> None:
    voxels = lungs(4, (9, 8, 7))
    path = write_scan(tmp_path / name, voxels, (0.5, 0.75, 2.5))
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.voxels, voxels)
    assert scan.voxels.dtype == np.int16
    assert scan.voxels.flags.f_contiguous
    assert scan.geometry.shape == (9, 8, 7)
    assert scan.geometry.spacing == pytest.approx((0.5, 0.75, 2.5))
    assert scan.geometry.origin == pytest.approx((-100.5, -80.25, 30.0))
    files = [path] if name != "s.mhd" else [path, path.with_suffix(".raw")]
    assert scan.sha256 == hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def test_nibabel_sees_the_same_nifti(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "s.nii.gz", lungs(5, (9, 8, 7)))
    image = nibabel.load(path)
    np.testing.assert_array_equal(read_scan(path).voxels, np.asarray(image.dataobj))  # type: ignore[attr-defined]


def test_numbers_of_other_types_become_int16(tmp_path: Path) -> None:
    real = np.array([-1000.5, -0.5, 0.5, 1.5, 70000.0, -70000.0]).reshape(6, 1, 1).astype(np.float32)
    assert read_scan(write_scan(tmp_path / "f.nrrd", real)).voxels.ravel().tolist() == [
        -1000, 0, 0, 2, 32767, -32768,
    ]  # fmt: skip
    wide = np.array([-(2**31), 5, 2**31 - 1]).reshape(3, 1, 1).astype(np.int32)
    assert read_scan(write_scan(tmp_path / "i.nrrd", wide)).voxels.ravel().tolist() == [-32768, 5, 32767]


def image_of(tmp_path: Path, kind: str) -> Path:
    """A scan that cannot be taken, made the way it comes about."""
    path = tmp_path / "s.mhd"
    if kind == "4D":
        image = sitk.JoinSeries([sitk.Image((8, 8, 8), sitk.sitkInt16)] * 2)
        sitk.WriteImage(image, str(path := tmp_path / "s.nii"))
        return path
    if kind == "RGB":
        sitk.WriteImage(sitk.Image((8, 8, 8), sitk.sitkVectorUInt8, 3), str(path))
        return path
    if kind == "NaN":
        return write_scan(tmp_path / "s.nrrd", np.full((4, 4, 4), np.nan, np.float32))
    write_scan(path, lungs(0))
    raw = path.with_suffix(".raw")
    if kind == "truncated":
        raw.write_bytes(raw.read_bytes()[:1000])
    elif kind == "missing":
        raw.unlink()
    elif kind == "outside":
        path.write_text(path.read_text().replace("= s.raw", "= ../s.raw"))
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "no header":
        path.write_text("ElementDataFile = s.raw\n")
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("truncated", "its data file s.raw is cut short: 1000 bytes, 109440 needed"),
        ("missing", "its data file s.raw is missing"),
        ("outside", r"its header points to \.\./s.raw, outside its own folder, which is refused"),
        ("empty", "its header names no ElementDataFile"),
        ("no header", "its header cannot be read: it is damaged or of another format"),
        ("4D", r"it has 4 dimensions \(8 x 8 x 8 x 2\), 3 wanted"),
        ("RGB", r"it has 3 numbers a voxel \(colour\?\), 1 wanted"),
        ("NaN", r"it holds values that are no numbers \(NaN or infinite\)"),
    ],
)
def test_a_scan_that_cannot_be_read_says_why(tmp_path: Path, kind: str, reason: str) -> None:
    path = image_of(tmp_path, kind)
    with pytest.raises(DataError, match=f"^{reason}$"):
        read_scan(path)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", [".mhd", ".mha", ".nii", ".nii.gz", ".nrrd"])
def test_no_file_cut_short_is_ever_read(tmp_path: Path, suffix: str, compressed: bool) -> None:
    path = tmp_path / f"s{suffix}"
    image = sitk.GetImageFromArray(np.ascontiguousarray(lungs(0).T))
    sitk.WriteImage(image, str(path), useCompression=compressed)
    np.testing.assert_array_equal(read_scan(path).voxels, lungs(0))
    data = path if suffix != ".mhd" else path.with_suffix(".zraw" if compressed else ".raw")
    whole = data.read_bytes()
    for length in (len(whole) // 2, len(whole) - 10):
        data.write_bytes(whole[:length])
        with pytest.raises(DataError, match="cut short"):
            read_scan(path)


@pytest.mark.parametrize("suffix", [".mhd", ".mha", ".nii.gz", ".nrrd"])
def test_damaged_compression_is_noticed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"s{suffix}"
    image = sitk.GetImageFromArray(np.ascontiguousarray(lungs(0).T))
    sitk.WriteImage(image, str(path), useCompression=True)
    data = path if suffix != ".mhd" else path.with_suffix(".zraw")
    whole = bytearray(data.read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    data.write_bytes(whole)
    with pytest.raises(DataError, match="cannot be read"):
        read_scan(path)


def test_big_endian_compressed_voxels(tmp_path: Path) -> None:
    voxels = lungs(6, (7, 6, 5))
    stored = zlib.compress(np.ascontiguousarray(voxels.T).astype(">i2").tobytes())
    (tmp_path / "s.zraw").write_bytes(stored)
    (tmp_path / "s.mhd").write_text(
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = True\n"
        f"CompressedData = True\nCompressedDataSize = {len(stored)}\nElementSpacing = 1 1 1\n"
        "DimSize = 7 6 5\nElementType = MET_SHORT\nElementDataFile = s.zraw\n"
    )
    np.testing.assert_array_equal(read_scan(tmp_path / "s.mhd").voxels, voxels)


def test_the_header_alone_gives_the_geometry(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "s.mhd", lungs(0))
    assert read_geometry(path) == read_scan(path).geometry
