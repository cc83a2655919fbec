"""Reading scans, and saying in one sentence why one cannot be read."""

import gc
import hashlib
import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from support.scans import lungs, write_scan

from genesis_toolkit.pipeline.cubes.rule import CubeRule, passing_corners
from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.scans.find import find_scans
from genesis_toolkit.pipeline.scans.read import read_geometry, read_scan, scan_files, scan_sha256


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
    wide = np.array([-(2**31), 5, 2**31 - 1]).reshape(3, 1, 1).astype(np.int32)
    assert read_scan(write_scan(tmp_path / "i.nrrd", wide)).voxels.ravel().tolist() == [-32768, 5, 32767]
    for dtype in (np.uint8, np.int8, np.uint16, np.uint32, np.int64, np.uint64):
        limits = np.iinfo(dtype)
        ends = np.array([limits.min, 7, limits.max], dtype).reshape(1, 1, 3)
        voxels = read_scan(write_scan(tmp_path / f"{limits}.nrrd".replace("\n", ""), ends)).voxels
        assert voxels.dtype == np.int16
        assert voxels.ravel().tolist() == [max(limits.min, -32768), 7, min(limits.max, 32767)]


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", [".mhd", ".mha", ".nii", ".nii.gz", ".nrrd"])
def test_real_numbers_are_not_rounded(tmp_path: Path, suffix: str, compressed: bool) -> None:
    def read(name: str, values: NDArray[np.generic]) -> NDArray[np.generic]:
        image = sitk.GetImageFromArray(np.ascontiguousarray(values.T))
        sitk.WriteImage(image, str(tmp_path / f"{name}{suffix}"), useCompression=compressed)
        voxels = read_scan(tmp_path / f"{name}{suffix}").voxels
        assert voxels.flags.f_contiguous
        return voxels

    whole = lungs(2, (7, 6, 5)).astype(np.float64)
    whole[0, 0, 0], whole[1, 1, 1] = 1e9, -70000.5  # outside int16, and so whole once clipped
    real = whole.copy()
    real[2, 3, 4] = -150.4  # a single one, in the last slice
    halves = whole + 0.5
    clipped = whole.clip(-32768, 32767)
    for dtype in (np.float32, np.float64):
        found = read(f"whole {np.dtype(dtype)}", whole.astype(dtype))
        assert found.dtype == np.int16
        np.testing.assert_array_equal(found, clipped)
        found = read(f"real {np.dtype(dtype)}", real.astype(dtype))
        assert found.dtype == dtype, "-150.4 of double precision is no float32"
        np.testing.assert_array_equal(found, real.astype(dtype).clip(-32768, 32767))
        found = read(f"halves {np.dtype(dtype)}", halves.astype(dtype))
        assert found.dtype == np.float32, "which holds halves exactly"
        np.testing.assert_array_equal(found, halves.clip(-32768, 32767))


def passing_by_loops(voxels: NDArray[np.generic], edge: int, share: float) -> NDArray[np.bool_]:
    """METHOD.md section 2 for every corner there is: scaled to [0, 1] in double precision, then compared."""
    tissue = (voxels.astype(np.float64) + 1000) / 2000 >= (-150 + 1000) / 2000
    corners = tuple(
        length - edge - beyond + 1 for length, beyond in zip(voxels.shape, (1, 1, 4), strict=True)
    )
    passing = np.zeros(corners, bool)
    for x, y, z in np.ndindex(*corners):
        score = 0.0
        for i, j, k in np.ndindex(edge, edge, edge):
            looks = tissue[x + i, y + j, z + k : z + k + 3]
            score += 1.0 if looks[0] else 0.5 if looks[1] else 0.0
        passing[x, y, z] = score <= share * edge**3
    return passing


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_real_numbers_are_judged_before_they_are_rounded(tmp_path: Path, dtype: type) -> None:
    near = np.array([-150.6, -150.4, -150.0001, -150.0, -149.9999, -149.6, -149.4, -1000, 40], dtype)
    values = np.random.default_rng(6).choice(near, (12, 11, 13))
    voxels = read_scan(write_scan(tmp_path / "s.mhd", values)).voxels
    expected = passing_by_loops(values, 3, 0.7)
    rule = CubeRule((3, 3, 3), (0, 0, 0), 0.7)
    np.testing.assert_array_equal(passing_corners(voxels, rule).passing, expected)
    assert (passing_by_loops(np.rint(values), 3, 0.7) != expected).any(), "rounded first it would be another"
    whole = np.rint(values)
    as_real = read_scan(write_scan(tmp_path / "real.nii", whole)).voxels
    as_int = read_scan(write_scan(tmp_path / "int.nii", whole.astype(np.int16))).voxels
    assert as_real.dtype == as_int.dtype == np.int16
    np.testing.assert_array_equal(as_real, as_int)
    np.testing.assert_array_equal(passing_corners(as_real, rule).passing, passing_by_loops(whole, 3, 0.7))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
def test_voxels_are_not_copied(tmp_path: Path, dtype: type, compressed: bool) -> None:
    values = lungs(1, (160, 160, 160)).astype(dtype)
    if dtype != np.int16:
        values += dtype(0.1)
    path, image = tmp_path / "s.mhd", sitk.GetImageFromArray(np.ascontiguousarray(values.T))
    sitk.WriteImage(image, str(path), useCompression=compressed)
    read_scan(path)
    tracemalloc.start()
    try:
        voxels = read_scan(path).voxels
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert voxels.dtype == dtype
    assert most < voxels.nbytes + (4 << 20) <= 1.53 * voxels.nbytes, "a slice, and blocks of the file"
    assert voxels.flags.writeable, "compiled code takes what may not be written for another type"
    gc.collect()
    np.testing.assert_array_equal(voxels, values)


@pytest.mark.parametrize("name", ["s.mhd", "z.mhd", "s.mha", "s.nii", "s.nii.gz", "s.nrrd"])
def test_the_sha256_alone_is_that_of_reading(tmp_path: Path, name: str) -> None:
    image = sitk.GetImageFromArray(np.ascontiguousarray(lungs(4, (9, 8, 7)).T))
    path = tmp_path / name
    sitk.WriteImage(image, str(path), useCompression=name == "z.mhd")
    assert scan_sha256(path) == read_scan(path).sha256
    written = [path, *(path.with_suffix(suffix) for suffix in (".raw", ".zraw"))]
    files = [file for file in written if file.exists()]
    assert scan_files(path) == files
    files[-1].write_bytes(files[-1].read_bytes()[:-9])  # the voxels are not looked at
    assert scan_sha256(path) == hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    files[-1].unlink()
    with pytest.raises(DataError, match=r"^the file cannot be opened: No such file or directory$"):
        scan_sha256(path)


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
    elif kind == "late NaN":
        real = np.full((4, 4, 4), 0.5, np.float64)
        real[3, 3, 3] = np.inf
        path = write_scan(folder / "s.mha", real)
    elif kind == "NIfTI-2":
        nibabel.save(nibabel.Nifti2Image(lungs(0), np.eye(4)), path := folder / "s.nii.gz")
    elif kind in NIFTI_FIELDS:
        path = nifti(folder / "s.nii", **NIFTI_FIELDS[kind])
    elif kind == "pipe":
        os.mkfifo(path)
    return path


def nifti(path: Path, order: str = "<", **said: float) -> Path:
    """A NIfTI file whose header says anything in pixdim_x, pixdim_y, pixdim_z, slope and intercept."""
    image = nibabel.Nifti1Image(np.arange(64, dtype=np.int16).reshape(4, 4, 4), np.diag([1, 2, 3, 1]))
    if order == ">":
        image = nibabel.Nifti1Image(image.dataobj, image.affine, image.header.as_byteswapped(">"))
    nibabel.save(image, path)
    written = bytearray(path.read_bytes())
    places = {"pixdim_x": 80, "pixdim_y": 84, "pixdim_z": 88, "slope": 112, "intercept": 116}
    for name, value in said.items():
        struct.pack_into(order + "f", written, places[name], value)
    path.write_bytes(written)
    return path


NAN = float("nan")
NIFTI_FIELDS: dict[str, dict[str, float]] = {
    "NIfTI zero spacing": {"pixdim_y": 0},
    "NIfTI NaN spacing": {"pixdim_z": NAN},
    "NIfTI negative spacing": {"pixdim_x": -1},
    "NIfTI slope 0": {"slope": 0, "intercept": -1024},
    "NIfTI slope NaN": {"slope": NAN, "intercept": 5},
    "NIfTI intercept NaN": {"slope": 2, "intercept": NAN},
}


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("truncated", "the data file s.raw is cut short: 128 bytes, but 160 are needed"),
        ("missing", "the file is damaged: the data file gone.raw is missing; copy or export the scan again"),
        (
            "absolute",
            "the file is not supported: the header points to /etc/hostname, outside the header's folder; .*",
        ),
        (
            "outside",
            r"the file is not supported: the header points to \.\./s.raw, outside the header's .*",
        ),
        (
            "header only",
            "the file is damaged: the header has no ElementDataFile; copy or export the scan again",
        ),
        ("empty", "the file is empty"),
        (
            "no header",
            "the file is not supported: the ElementType is not given; save the voxels as MET_CHAR, .*",
        ),
        ("noise", "the file is damaged: the header cannot be read, or the file has another format; copy .*"),
        ("words", "the file is damaged: the header cannot be read, or the file has another format; copy .*"),
        (
            "unknown type",
            "the file is not supported: the ElementType is MET_HALF; save the voxels as MET_CHAR, .*",
        ),
        ("4D", r"the file is not a CT scan: the scan has 4 dimensions \(8 x 8 x 8 x 2\) instead of 3"),
        ("4D header", r"the file is not a CT scan: the scan has 4 dimensions \(4 x 4 x 2 x 2\) instead of 3"),
        ("2D", r"the file is not a CT scan: the scan has 2 dimensions \(8 x 8\) instead of 3"),
        (
            "no voxels",
            r"the file is damaged: the scan has no voxels \(0 x 4 x 4\); copy or export the scan again",
        ),
        ("zero spacing", r"the file is damaged: the spacing \(1.0, 0.0, 1.0\) is not positive; copy .*"),
        ("negative spacing", r"the file is damaged: the spacing \(1.0, 1.0, -1.0\) is not positive; copy .*"),
        ("RGB", r"the file is not a CT scan: each voxel has 3 numbers \(colour\?\) instead of 1"),
        ("NaN", r"the file is not supported: some voxels are NaN or infinite; replace .*"),
        ("late NaN", r"the file is not supported: some voxels are NaN or infinite; .*"),
        ("NIfTI-2", "the file is not supported: the file is NIfTI-2; save the scan as NIfTI-1"),
        (
            "NIfTI zero spacing",
            r"the file is damaged: the spacing \(1.0, 0.0, 3.0\) is not positive; copy .*",
        ),
        ("NIfTI NaN spacing", r"the file is damaged: the spacing \(1.0, 2.0, nan\) is not positive; copy .*"),
        (
            "NIfTI negative spacing",
            r"the file is damaged: the spacing \(-1.0, 2.0, 3.0\) is not positive; copy .*",
        ),
        (
            "NIfTI slope 0",
            "the file is not supported: the header has slope 0 and intercept -1024, which makes .*",
        ),
        ("NIfTI slope NaN", "the file is not supported: the header has nan as slope, so the values .*"),
        ("NIfTI intercept NaN", "the file is not supported: the header has nan as intercept, so the .*"),
        ("circle", "the file cannot be opened: Too many levels of symbolic links"),
        ("pipe", "the path is not a regular file"),
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


@pytest.mark.parametrize("order", ["<", ">"])
def test_nifti_headers_that_say_nothing_of_scaling(tmp_path: Path, order: str) -> None:
    said = ({"slope": NAN, "intercept": 0}, {"slope": NAN, "intercept": NAN}, {"slope": 0, "intercept": 0})
    for number, fields in enumerate(said):
        path = nifti(tmp_path / f"{number}.nii", order, **fields)
        np.testing.assert_array_equal(read_scan(path).voxels, np.asarray(nibabel.load(path).dataobj))  # type: ignore[attr-defined]
        np.testing.assert_array_equal(read_scan(path).voxels, np.arange(64).reshape(4, 4, 4))
    with pytest.raises(DataError, match="the spacing"):
        read_geometry(nifti(tmp_path / "0.nii", order, pixdim_x=0))


@pytest.mark.parametrize("suffix", [".mhd", ".mha", ".nii", ".nii.gz", ".nrrd"])
def test_a_fourth_dimension_of_one_entry_is_dropped(tmp_path: Path, suffix: str) -> None:
    voxels = lungs(3, (9, 8, 7))
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T))
    image.SetSpacing((0.5, 0.75, 2.0))
    image.SetOrigin((1, 2, 3))
    image.SetDirection((0, 1, 0, 0, 0, -1, -1, 0, 0))
    plain, longer = tmp_path / f"3{suffix}", tmp_path / f"4{suffix}"
    sitk.WriteImage(image, str(plain))
    sitk.WriteImage(sitk.JoinSeries([image]), str(longer))
    np.testing.assert_array_equal(read_scan(longer).voxels, voxels)
    found, expected = read_geometry(longer), read_geometry(plain)
    assert found.shape == expected.shape
    for field in ("spacing", "origin"):
        assert getattr(found, field) == pytest.approx(getattr(expected, field))
    if suffix not in (".nii", ".nii.gz"):  # with four dimensions SimpleITK writes no orientation there
        assert found.direction == pytest.approx(expected.direction)


def test_unsigned_numbers_with_an_intercept(tmp_path: Path) -> None:
    stored = np.arange(0, 4096, 64, dtype=np.uint16).reshape(4, 4, 4)
    image = nibabel.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(1, -1024)
    nibabel.save(image, tmp_path / "s.nii")
    np.testing.assert_array_equal(read_scan(tmp_path / "s.nii").voxels, stored.astype(int) - 1024)


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
    with pytest.raises(
        DataError, match=r"^the file is damaged: the compressed voxels cannot be read, or their check"
    ):
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


@pytest.mark.parametrize("suffix", [".mhd", ".mha"])
def test_compressed_voxels_of_another_number_than_the_header_says(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"s{suffix}"
    image = sitk.GetImageFromArray(np.ascontiguousarray(lungs(6, (10, 10, 10)).T))
    sitk.WriteImage(image, str(path), useCompression=True)
    whole = path.read_bytes()
    for edge, found in (
        (b"11", "is cut short: 2000 bytes, but 2200 are needed"),
        (b"9 ", "holds 2000 bytes of voxels, but the header requires 1800; copy"),
        (b"99999999999", r"is cut short: 2000 bytes, but \d{12,} are needed"),
    ):
        path.write_bytes(whole.replace(b"DimSize = 10 10 10", b"DimSize = 10 10 " + edge))
        with pytest.raises(DataError, match=found):
            read_scan(path)


def test_the_header_alone_gives_the_geometry(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "s.mhd", lungs(0))
    assert read_geometry(path) == read_scan(path).geometry


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"ElementType": "MET_USHORT"},
        {"BinaryDataByteOrderMSB": "True"},
        {"ElementByteOrderMSB": "True"},
        {"BinaryDataByteOrderMSB": "True", "ElementByteOrderMSB": "False"},
        {"ElementByteOrderMSB": "True", "BinaryDataByteOrderMSB": "False"},
        *({key: said} for key in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB") for said in "Tt1Fy0"),
        *({"BinaryData": said} for said in ("T", "t", "1", "true", "")),
        {"HeaderSize": "16", "DimSize": "40 38 35"},
        {"HeaderSize": "-1", "DimSize": "40 38 35"},
    ],
    ids=lambda change: " ".join(f"{key}={said}" for key, said in change.items()) or "as written",
)
@pytest.mark.parametrize("separator", [" = ", ": ", "=", ":"])
def test_a_metaimage_is_read_as_simpleitk_reads_it(
    tmp_path: Path, change: dict[str, str], separator: str
) -> None:
    path = write_scan(tmp_path / "a.mhd", lungs(3))
    fields = dict(line.split(" = ", 1) for line in path.read_text().splitlines()) | change
    name = fields.pop("ElementDataFile")
    order = [fields.pop(key) for key in change]  # in the order of the change, since the last one holds
    fields = {k: v for k, v in (fields | dict(zip(change, order, strict=True))).items() if v}
    path.write_text("".join(f"{k}{separator}{v}\n" for k, v in (fields | {"ElementDataFile": name}).items()))
    scan = read_scan(path)
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T.astype(int).clip(-32768, 32767)
    np.testing.assert_array_equal(scan.voxels, expected)
    files = path.read_bytes() + (tmp_path / name).read_bytes()
    assert scan.sha256 == hashlib.sha256(files).hexdigest() == scan_sha256(path)


@pytest.mark.parametrize("said", ["T", "t", "1", "True", "true"])
@pytest.mark.parametrize("local", ["LOCAL", "Local", "local"])
def test_compressed_metaimages_whatever_true_is_spelled(tmp_path: Path, said: str, local: str) -> None:
    path = tmp_path / "a.mha"
    image = sitk.GetImageFromArray(np.ascontiguousarray(lungs(3).T))
    sitk.WriteImage(image, str(path), useCompression=True)
    whole = path.read_bytes()
    said_so = f"CompressedData = {said}\n".encode()
    whole = whole.replace(b"CompressedData = True\n", said_so).replace(b"= LOCAL", f"= {local}".encode())
    assert said_so in whole
    path.write_bytes(whole)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T, lungs(3))
    np.testing.assert_array_equal(read_scan(path).voxels, lungs(3))
