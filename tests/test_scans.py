"""Finding scans by name, reading them, and saying in one sentence why one cannot be read."""

import hashlib
import os
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from conftest import lungs, write_scan
from numpy.typing import NDArray

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


def meta_image(path: Path, values: NDArray[np.generic] | None = None, **said: str) -> Path:
    """A `.mhd` with its `.raw`, written by hand so that it can say anything; voxels [x, y, z]."""
    values = np.arange(64, dtype=np.int16).reshape(4, 4, 4, order="F") if values is None else values
    header = {"ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False"}
    header |= {"ElementSpacing": "1 1 2", "DimSize": " ".join(map(str, values.shape))}
    header |= {"ElementType": "MET_SHORT"} | said
    header["ElementDataFile"] = header.pop("ElementDataFile", path.with_suffix(".raw").name)
    lines = [f"{key} = {value}\n" for key, value in header.items() if value]
    path.write_text("".join(lines), encoding="latin-1")
    path.with_suffix(".raw").write_bytes(values.tobytes(order="F"))
    return path


def odd_scan(folder: Path, kind: str) -> Path:
    """A scan that cannot be taken, made the way it comes about."""
    path = folder / "s.mhd"
    said = {
        "truncated": {"DimSize": "4 4 5"},
        "missing": {"ElementDataFile": "gone.raw"},
        "absolute": {"ElementDataFile": "/etc/hostname"},
        "outside": {"ElementDataFile": "../s.raw"},
        "header only": {"ElementDataFile": ""},
        "4D header": {"NDims": "4", "DimSize": "4 4 2 2", "ElementSpacing": "1 1 1 1"},
        "2D": {"NDims": "2", "DimSize": "8 8", "ElementSpacing": "1 1"},
        "zero spacing": {"ElementSpacing": "1 0 1"},
        "negative spacing": {"ElementSpacing": "1 1 -1"},
        "unknown type": {"ElementType": "MET_HALF"},
        "no voxels": {"DimSize": "0 4 4"},
        "words": {"DimSize": "four 4 4"},
    }
    if kind in said:
        return meta_image(path, **said[kind])
    if kind == "4D":
        image = sitk.JoinSeries([sitk.Image((8, 8, 8), sitk.sitkInt16)] * 2)
        sitk.WriteImage(image, str(path := folder / "s.nii"))
    elif kind == "RGB":
        sitk.WriteImage(sitk.Image((8, 8, 8), sitk.sitkVectorUInt8, 3), str(path))
    elif kind == "NaN":
        path = write_scan(folder / "s.nrrd", np.full((4, 4, 4), np.nan, np.float32))
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "noise":
        path = folder / "s.nii"
        path.write_bytes(np.random.default_rng(0).bytes(1000))
    elif kind == "no header":
        path.write_text("ElementDataFile = s.raw\n")
        path.with_suffix(".raw").write_bytes(b"12")
    elif kind == "circle":
        path.symlink_to(folder / "t.mhd")
        (folder / "t.mhd").symlink_to(path)
    elif kind == "pipe":
        os.mkfifo(path)
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("truncated", "its data file s.raw is cut short: 128 bytes, 160 needed"),
        ("missing", "its data file gone.raw is missing"),
        ("absolute", "its header points to /etc/hostname, outside its own folder, which is refused"),
        ("outside", r"its header points to \.\./s.raw, outside its own folder, which is refused"),
        ("header only", "its header names no ElementDataFile"),
        ("empty", "it is an empty file"),
        ("no header", "its header cannot be read: it is damaged or of another format"),
        ("noise", "its header cannot be read: it is damaged or of another format"),
        ("words", "its header cannot be read: it is damaged or of another format"),
        ("unknown type", "its header cannot be read: it is damaged or of another format"),
        ("4D", r"it has 4 dimensions \(8 x 8 x 8 x 2\), 3 wanted"),
        ("4D header", r"it has 4 dimensions \(4 x 4 x 2 x 2\), 3 wanted"),
        ("2D", r"it has 2 dimensions \(8 x 8\), 3 wanted"),
        ("no voxels", r"it has no voxels \(0 x 4 x 4\)"),
        ("zero spacing", r"its spacing \(1.0, 0.0, 1.0\) is not positive"),
        ("negative spacing", r"its spacing \(1.0, 1.0, -1.0\) is not positive"),
        ("RGB", r"it has 3 numbers a voxel \(colour\?\), 1 wanted"),
        ("NaN", r"it holds values that are no numbers \(NaN or infinite\)"),
        ("circle", "it cannot be opened: Too many levels of symbolic links"),
        ("pipe", "it is no regular file"),
    ],
)
def test_a_scan_that_cannot_be_read_says_why(tmp_path: Path, kind: str, reason: str) -> None:
    write_scan(tmp_path / "a.mhd", lungs(0))
    odd = odd_scan(tmp_path, kind)
    sources = {source.path: source for source in find_scans(tmp_path).sources}
    assert not sources[odd.name].problem
    with pytest.raises(DataError, match=f"^{reason}$"):
        read_scan(tmp_path / odd.name)
    assert not sources["a.mhd"].problem
    np.testing.assert_array_equal(read_scan(tmp_path / "a.mhd").voxels, lungs(0))


def test_odd_scans_that_are_read_as_they_are(tmp_path: Path) -> None:
    plain = np.arange(64).reshape(4, 4, 4, order="F")
    big = meta_image(tmp_path / "big.mhd", plain.astype(">i2"), BinaryDataByteOrderMSB="True")
    wide = meta_image(tmp_path / "wide.mhd", plain.astype(np.int32), ElementType="MET_INT")
    small = meta_image(tmp_path / "small.mhd", plain.astype(np.uint8), ElementType="MET_UCHAR")
    unsigned = meta_image(tmp_path / "unsigned.mhd", plain.astype(np.uint16), ElementType="MET_USHORT")
    latin = meta_image(tmp_path / "latin.mhd", Comment="M\xfcller")  # not UTF-8
    for path in (big, wide, small, unsigned, latin):
        np.testing.assert_array_equal(read_scan(path).voxels, plain)
    matrix = "0 1 0 0 0 -1 -1 0 0"
    turned = read_scan(meta_image(tmp_path / "turned.mhd", TransformMatrix=matrix, Offset="5 6 7"))
    np.testing.assert_array_equal(turned.voxels, plain)  # as stored: the orientation is in the geometry
    assert turned.geometry.direction == (0, 0, -1, 1, 0, 0, 0, -1, 0)  # MetaImage writes column by column
    assert turned.geometry.origin == (5, 6, 7)
    flipped = read_scan(meta_image(tmp_path / "flipped.mhd", TransformMatrix="-1 0 0 0 -1 0 0 0 1"))
    np.testing.assert_array_equal(flipped.voxels, plain)
    assert flipped.geometry.direction == (-1, 0, 0, 0, -1, 0, 0, 0, 1)


def test_unsigned_numbers_with_an_intercept(tmp_path: Path) -> None:
    stored = np.arange(0, 4096, 64, dtype=np.uint16).reshape(4, 4, 4)
    image = nibabel.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(1, -1024)
    nibabel.save(image, tmp_path / "s.nii")
    np.testing.assert_array_equal(read_scan(tmp_path / "s.nii").voxels, stored.astype(int) - 1024)


def test_folders_that_are_not_looked_into_are_named(tmp_path: Path) -> None:
    write_scan(tmp_path / "p" / "a.mhd", lungs(0))
    (tmp_path / "p" / "again").symlink_to(tmp_path)
    (tmp_path / "b.mhd").mkdir()
    write_scan(tmp_path / "b.mhd" / "c.nii", lungs(0))
    named = "a folder named like a scan; what lies in it is taken by itself"
    assert [(source.path, source.problem, source.skip) for source in find_scans(tmp_path).sources] == [
        ("b.mhd", "", named),
        ("b.mhd/c.nii", "", ""),
        ("p/a.mhd", "", ""),
        ("p/again", "", "a link to a folder, which is not followed: it may lead in a circle"),
    ]
    (tmp_path / "subset0" / "d.mhd").mkdir(parents=True)
    write_scan(tmp_path / "subset0" / "e.mhd", lungs(0))
    assert [(source.path, source.skip) for source in find_scans(tmp_path).sources] == [
        ("subset0/d.mhd", named),
        ("subset0/e.mhd", ""),
    ]


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    good = write_scan(tmp_path / "subset0" / "a.mhd", lungs(0))
    odd = os.fsdecode(b"m\xfc.mhd")
    try:
        good.with_name(odd).write_bytes(good.read_bytes())
    except OSError:
        pytest.skip("this file system takes no such name")
    for layout, paths in (("luna16", ["subset0/a.mhd", r"subset0/m\xfc.mhd"]), ("files", None)):
        sources = find_scans(tmp_path, layout).sources  # type: ignore[arg-type]
        assert [source.path for source in sources] == (paths or ["subset0/a.mhd", r"subset0/m\xfc.mhd"])
        assert [source.problem for source in sources] == ["", "its name is not valid UTF-8: rename it"]


def test_what_may_not_be_read_says_so(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    write_scan(tmp_path / "a.mhd", lungs(0))
    write_scan(tmp_path / "b.mhd", lungs(0)).chmod(0)
    (tmp_path / "c.dcm").write_bytes(b"x")
    (tmp_path / "c.dcm").chmod(0)
    (tmp_path / "d").mkdir(mode=0)
    try:
        problems = {source.path: source.problem for source in find_scans(tmp_path).sources}
        with pytest.raises(DataError, match=r"^it cannot be opened: Permission denied$"):
            read_scan(tmp_path / "b.mhd")
        with pytest.raises(CallError, match="cannot be opened: Permission denied"):
            find_scans(tmp_path / "d")
    finally:
        (tmp_path / "d").chmod(0o700)
    denied = "it cannot be opened: Permission denied"
    assert problems == {"a.mhd": "", "b.mhd": "", "c.dcm": denied, "d": denied}


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


def test_a_folder_one_level_off_is_refused(luna16: Path, tmp_path: Path) -> None:
    write_scan(luna16 / "subset8" / "1.2.8.mhd", lungs(8))
    for wrong in (tmp_path, luna16 / "subset8"):
        with pytest.raises(CallError, match=rf"looks like a subset of it: give {luna16}, or --layout files"):
            find_scans(wrong)
    assert len(find_scans(tmp_path, "files").sources) == 4
    assert len(find_scans(luna16 / "subset8" / "1.2.8.mhd").sources) == 1, "one file is somebody's own choice"
