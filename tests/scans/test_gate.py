"""The gate of all formats of files: whatever a scan is written as, the same faults are refused alike.

Every voxel that is read is held against another reader: nibabel for NIfTI, pynrrd for NRRD, and SimpleITK,
which the product asks for headers alone, for MetaImage.
"""

import ast
import gzip
import hashlib
import re
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from support.dicom import write_series
from support.scans import lungs, write_scan

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.scans import gate
from genesis_toolkit.pipeline.scans.find import find_scans
from genesis_toolkit.pipeline.scans.gate import check_rescale, rescaled, upright
from genesis_toolkit.pipeline.scans.read import read_geometry, read_scan, scan_files, scan_sha256

SUFFIXES = [".mhd", ".mha", ".nii", ".nii.gz", ".nrrd", ".nhdr"]
NAN, INF = float("nan"), float("inf")
VOXELS = lungs(4, (9, 8, 6))
NRRD = (
    "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 9 8 6\n"
    "space directions: (1,0,0) (0,1,0) (0,0,2)\nkinds: domain domain domain\nendian: little\n"
)


def bytes_of(voxels: NDArray[Any]) -> bytes:
    return voxels.tobytes(order="F")


def write_grid(path: Path, axes: NDArray[np.float64], voxels: NDArray[Any] = VOXELS) -> Path:
    """Voxels on a grid whose axes are columns in mm, in DICOM's axes; by hand, so that they may lean."""
    name, suffix = path.name.partition(".")[0], path.name[path.name.index(".") :]
    if suffix.startswith(".nii"):
        image = nibabel.Nifti1Image(voxels, None)
        affine = np.diag([-1, -1, 1, 1]) @ np.block([[axes, np.zeros((3, 1))], [0, 0, 0, 1]])
        image.header.set_sform(affine, code=2)
        image.header["pixdim"][1:4] = np.linalg.norm(axes, axis=0)
        nibabel.save(image, path)
    elif suffix in (".nrrd", ".nhdr"):
        vectors = " ".join(f"({','.join(f'{edge:.9g}' for edge in axis)})" for axis in axes.T)
        sizes = " ".join(map(str, voxels.shape))
        head = NRRD.replace("(1,0,0) (0,1,0) (0,0,2)", vectors).replace("9 8 6", sizes) + "encoding: raw\n"
        path.with_name(f"{name}.raw").write_bytes(bytes_of(voxels))
        detached = f"data file: {name}.raw\n" if suffix == ".nhdr" else "\n"
        path.write_bytes((head + detached).encode() + (b"" if suffix == ".nhdr" else bytes_of(voxels)))
    else:
        lengths = np.linalg.norm(axes, axis=0)
        matrix = " ".join(f"{edge:.9g}" for edge in (axes / np.where(lengths, lengths, 1)).T.ravel())
        lines = ["ObjectType = Image", "NDims = 3", "BinaryData = True", f"TransformMatrix = {matrix}"]
        lines += [f"ElementSpacing = {' '.join(f'{edge:.9g}' for edge in np.where(lengths, lengths, 1))}"]
        lines += [f"DimSize = {' '.join(map(str, voxels.shape))}", "ElementType = MET_SHORT"]
        lines += [f"ElementDataFile = {'LOCAL' if suffix == '.mha' else name + '.raw'}", ""]
        path.with_name(f"{name}.raw").write_bytes(bytes_of(voxels))
        path.write_bytes("\n".join(lines).encode() + (bytes_of(voxels) if suffix == ".mha" else b""))
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_no_format_reads_a_value_that_is_no_number(
    tmp_path: Path, suffix: str, compressed: bool, dtype: type, value: float
) -> None:
    voxels = VOXELS.astype(dtype)
    path = tmp_path / f"s{suffix}"
    for number in (0.5, value):  # with a number it is read
        voxels[4, 3, 2] = number
        sitk.WriteImage(sitk.GetImageFromArray(np.ascontiguousarray(voxels.T)), str(path), compressed)
        if number == 0.5:
            np.testing.assert_array_equal(read_scan(path).voxels, voxels)
    with pytest.raises(DataError, match=r"^the file is not supported: some voxels are NaN or infinite"):
        read_scan(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("lean", [0.0, 0.3, 0.45, 0.55, 2.0])
@pytest.mark.parametrize("pair", [(0, 2), (1, 2), (0, 1)])
def test_shear_of_half_a_voxel_is_upright_and_more_is_tilted(
    tmp_path: Path, suffix: str, lean: float, pair: tuple[int, int]
) -> None:
    towards, axis = pair
    spacing = np.array([0.7, 0.8, 2.5])
    axes = np.diag(spacing)
    axes[towards, axis] = lean * spacing[towards] / (VOXELS.shape[axis] - 1)  # over the whole volume
    path = write_grid(tmp_path / f"s{suffix}", axes)
    if lean > 0.5:
        angle = np.degrees(np.arctan(axes[towards, axis] / spacing[axis]))
        with pytest.raises(
            DataError, match=rf"^the file is not supported: the axes are tilted by {angle:.2g} degrees"
        ):
            read_scan(path)
        return
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    assert scan.geometry.spacing == pytest.approx(np.linalg.norm(axes, axis=0))
    cosines = np.reshape(scan.geometry.direction, (3, 3))
    np.testing.assert_allclose(cosines.T @ cosines, np.eye(3), atol=2e-4)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("axis", [[0, 0, 0], [0.7, 0, 0]], ids=["none", "twice the same"])
def test_axes_that_span_no_space(tmp_path: Path, suffix: str, axis: list[float]) -> None:
    axes = np.diag([0.7, 0.8, 2.5])
    axes[:, 2] = axis
    with pytest.raises(
        DataError, match=r"^the file is damaged: the (axes lie in one plane|spacing .* is not positive)"
    ):
        read_scan(write_grid(tmp_path / f"s{suffix}", axes))


def test_the_rule_for_shear_against_moving_every_corner() -> None:
    rng = np.random.default_rng(0)
    refusals = []
    for _ in range(500):
        shape, spacing = tuple(rng.integers(2, 200, 3).tolist()), rng.uniform(0.3, 5, 3)
        lean = np.triu(rng.normal(0, rng.choice([1e-4, 1e-3, 1e-2]), (3, 3)), 1)
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        cosines = turn @ (np.eye(3) + lean)
        cosines /= np.linalg.norm(cosines, axis=0)
        # How far the far corner along the leaning axes lies from where upright axes would put it, in voxels.
        local = turn.T @ cosines * spacing
        moved = [
            sum(abs(local[a, b]) * (shape[b] - 1) for b in range(a + 1, 3)) / local[a, a] for a in range(3)
        ]
        farthest = float(np.linalg.norm(moved))
        try:
            straight = upright(cosines, tuple(spacing.tolist()), shape)
        except DataError as error:
            refusals.append((farthest, str(error)))
        else:
            assert farthest <= 0.5
            np.testing.assert_allclose(straight, cosines, atol=0.6)
            np.testing.assert_allclose(straight.T @ straight, np.eye(3), atol=2e-4)
    assert 100 < len(refusals) < 450
    assert min(refusals) > (0.5, "")


@pytest.mark.parametrize(
    ("slope", "intercept"), [(None, 0), (1, None), (NAN, 0), (1, INF), (0, -1024), (None, None)]
)
def test_values_that_do_not_become_hu(slope: float | None, intercept: float | None) -> None:
    with pytest.raises(DataError, match=r"^the file is not supported: the header has .*(slope|intercept)"):
        check_rescale(slope, intercept)


def test_rescaling_against_python_numbers() -> None:
    rng = np.random.default_rng(1)
    for dtype in (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32):
        stored = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, 50, dtype, endpoint=True)
        for slope, intercept in ((1, -1024), (2, 7), (-3, 0), (16384, -16384), (20000, 5), (0.5, -1000.25)):
            expected = [value * slope + intercept for value in stored.tolist()]
            assert rescaled(stored, slope, intercept).tolist() == expected


@pytest.mark.parametrize("name", ["s.mha", "s.nii.gz", "s.nrrd", "data.gz", "data.zraw"])
def test_one_byte_that_turned_in_a_compressed_file_changes_no_voxel(tmp_path: Path, name: str) -> None:
    """The header of a MetaImage or NRRD is text without a checksum, so places lie in what is compressed."""
    voxels = lungs(3, (16, 15, 14))
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T))
    header = tmp_path / {"data.gz": "s.nhdr", "data.zraw": "s.mhd"}.get(name, name)
    if name == "data.gz":
        text = NRRD.replace("9 8 6", "16 15 14") + "encoding: gzip\ndata file: data.gz\n"
        header.write_text(text)
        (tmp_path / name).write_bytes(gzip.compress(bytes_of(voxels)))
    else:
        sitk.WriteImage(image, str(header), useCompression=True)
    data = header if header.name == name else scan_files(header)[1]
    whole = data.read_bytes()
    np.testing.assert_array_equal(read_scan(header).voxels, voxels)
    begin = {"s.mha": whole.find(b"LOCAL") + 6, "s.nrrd": whole.find(b"\n\n") + 2}.get(name, 0)
    rng, same = np.random.default_rng(7), 0
    refusals: list[str] = []
    for place in rng.integers(begin, len(whole), 300).tolist():
        changed = bytearray(whole)
        changed[place] ^= int(rng.integers(1, 256))
        data.write_bytes(changed)
        try:
            found = read_scan(header).voxels
        except DataError as error:
            refusals.append(str(error))
        else:
            np.testing.assert_array_equal(found, voxels, f"byte {place} is now {changed[place]}")
            same += 1
    assert len(refusals) > 280
    assert len(refusals) + same == 300
    assert not [said for said in refusals if "damaged" not in said and "cut short" not in said]


def test_gzip_in_pieces_is_read_whole(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "s.nii", VOXELS)
    whole = path.read_bytes()
    for cut in (1, 400, len(whole) - 1):
        pieces = gzip.compress(whole[:cut]) + gzip.compress(whole[cut:])
        (tmp_path / "p.nii.gz").write_bytes(pieces)
        np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "p.nii.gz").dataobj), VOXELS)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(read_scan(tmp_path / "p.nii.gz").voxels, VOXELS)
        (tmp_path / "p.nii.gz").write_bytes(pieces[:-3])
        with pytest.raises(DataError, match="cut short"):
            read_scan(tmp_path / "p.nii.gz")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8", "i8", "u8"])
@pytest.mark.parametrize("scaling", [(1, 0), (1, -1024), (2.5, 3)])
def test_nifti_is_read_as_nibabel_reads_it(
    tmp_path: Path, order: str, dtype: str, scaling: tuple[float, float]
) -> None:
    low = 0 if dtype[0] == "u" else -100
    voxels = np.random.default_rng(2).integers(low, 100, (5, 4, 3)).astype(dtype)
    image = nibabel.Nifti1Image(voxels, np.eye(4), dtype=voxels.dtype)
    if order == ">":
        image = nibabel.Nifti1Image(voxels, np.eye(4), image.header.as_byteswapped(">"), dtype=voxels.dtype)
    for name in ("s.nii", "s.nii.gz"):
        nibabel.save(image, tmp_path / name)
        written = (gzip.decompress if name.endswith("gz") else bytes)((tmp_path / name).read_bytes())
        made = bytearray(written)
        struct.pack_into(order + "2f", made, 112, *scaling)
        (tmp_path / name).write_bytes(gzip.compress(made) if name.endswith("gz") else made)
        expected = np.asarray(nibabel.load(tmp_path / name).dataobj)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(read_scan(tmp_path / name).voxels, expected)


@pytest.mark.parametrize("offset", [0, 348, 351, 352.5, NAN, -16, 352, 368])
@pytest.mark.parametrize("name", ["s.nii", "s.nii.gz"])
def test_the_first_voxel_of_nifti(tmp_path: Path, name: str, offset: float) -> None:
    nibabel.save(nibabel.Nifti1Image(VOXELS, np.eye(4)), tmp_path / "w.nii")
    whole = bytearray((tmp_path / "w.nii").read_bytes())
    struct.pack_into("<f", whole, 108, offset)
    if offset == 368:
        whole[352:352] = bytes(16)
    path = tmp_path / name
    path.write_bytes(gzip.compress(whole) if name.endswith("gz") else whole)
    if offset in (352, 368):
        np.testing.assert_array_equal(read_scan(path).voxels, VOXELS)
        return
    with pytest.raises(
        DataError, match=rf"^the file is damaged: the vox_offset is {offset:g}, inside the header"
    ):
        read_scan(path)


@pytest.mark.parametrize("kind", [1, 32, 128, 1536, 1792, 2048, 2304, 3])
def test_types_of_nifti_that_are_not_read_are_named(tmp_path: Path, kind: int) -> None:
    nibabel.save(nibabel.Nifti1Image(VOXELS, np.eye(4)), path := tmp_path / "s.nii")
    whole = bytearray(path.read_bytes())
    struct.pack_into("<h", whole, 70, kind)
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"^the file is not supported: the voxels are .*; save HU as int16$"):
        read_scan(path)


def nrrd_of(folder: Path, fields: str, data: dict[str, bytes], name: str = "s.nhdr") -> Path:
    """A NRRD by hand: what its header says besides, and its data; `inline` is what follows the header."""
    folder.mkdir(exist_ok=True)
    data = dict(data)
    inline = data.pop("inline", None)
    (folder / name).write_bytes((NRRD + fields).encode() + (b"" if inline is None else b"\n" + inline))
    for file, content in data.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content)
    return folder / name


PLAIN = bytes_of(VOXELS)
PARTS = {f"p{k}.raw": bytes_of(VOXELS[:, :, k : k + 1]) for k in range(6)}
TEXT = " ".join(map(str, VOXELS.ravel(order="F"))).encode()
LINES = b"first\nsecond\n"
DETACHED: dict[str, tuple[str, dict[str, bytes]]] = {
    "one file": ("encoding: raw\ndata file: s.raw\n", {"s.raw": PLAIN}),
    "in a folder": ("encoding: raw\ndatafile: ./sub/s.raw\n", {"sub/s.raw": PLAIN}),
    "gzip": ("encoding: gzip\ndata file: s.raw.gz\n", {"s.raw.gz": gzip.compress(PLAIN)}),
    "list": ("encoding: raw\ndata file: LIST\n" + "\n".join(PARTS) + "\n", PARTS),
    "list of planes": ("encoding: raw\ndata file: LIST 2\n" + "\n".join(PARTS) + "\n", PARTS),
    "pattern": ("encoding: raw\ndata file: p%d.raw 0 5 1\n", PARTS),
    "pattern of planes": ("encoding: raw\ndata file: p%d.raw 0 5 1 2\n", PARTS),
    "gzip pattern": (
        "encoding: gz\ndata file: p%01d.raw 0 5 1\n",
        {k: gzip.compress(v) for k, v in PARTS.items()},
    ),
    "from the end": ("encoding: raw\nbyte skip: -1\ndata file: s.raw\n", {"s.raw": b"abc" + PLAIN}),
    "after bytes": ("encoding: raw\nbyteskip: 3\ndata file: s.raw\n", {"s.raw": b"abc" + PLAIN}),
    "after lines": ("encoding: raw\nline skip: 2\ndata file: s.raw\n", {"s.raw": LINES + PLAIN}),
    "text": ("encoding: ascii\ndata file: s.txt\n", {"s.txt": TEXT + b"\n"}),
    "inline": ("encoding: raw\n", {"inline": PLAIN}),
    "inline gzip": ("# a comment\nencoding: gzip\nkey:=value: 3\n", {"inline": gzip.compress(PLAIN)}),
    "inline hex": ("encoding: hex\n", {"inline": PLAIN.hex().encode()}),
    "gzip after bytes": ("encoding: gzip\nbyte skip: 3\n", {"inline": gzip.compress(b"abc" + PLAIN)}),
}


@pytest.mark.parametrize("kind", DETACHED)
def test_nrrd_data_wherever_they_lie(tmp_path: Path, kind: str) -> None:
    fields, data = DETACHED[kind]
    path = nrrd_of(tmp_path, fields, data, "s.nrrd" if "inline" in data else "s.nhdr")
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    assert scan.geometry.spacing == (1, 1, 2)
    files = [path, *(tmp_path / name for name in data if name != "inline")]
    assert scan_files(path) == files
    assert scan.sha256 == hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    assert scan_sha256(path) == scan.sha256
    assert [source.path for source in find_scans(tmp_path).sources] == [path.name]


PYNRRD = ("one file", "in a folder", "gzip", "from the end", "after lines", "text", "inline", "inline gzip")


@pytest.mark.parametrize("kind", PYNRRD)
def test_nrrd_is_read_as_pynrrd_reads_it(tmp_path: Path, kind: str) -> None:
    nrrd = pytest.importorskip("nrrd", reason="pynrrd is not installed")
    fields, data = DETACHED[kind]
    path = nrrd_of(tmp_path, fields, data, "s.nrrd" if "inline" in data else "s.nhdr")
    with warnings.catch_warnings(action="ignore"):
        expected, _ = nrrd.read(str(path))
    np.testing.assert_array_equal(read_scan(path).voxels, expected)


@pytest.mark.parametrize("kind", DETACHED)
def test_nrrd_is_read_as_simpleitk_reads_it(tmp_path: Path, kind: str) -> None:
    """Which the product does not ask for voxels."""
    fields, data = DETACHED[kind]
    path = nrrd_of(tmp_path, fields, data, "s.nrrd" if "inline" in data else "s.nhdr")
    np.testing.assert_array_equal(read_scan(path).voxels, sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T)


@pytest.mark.parametrize("name", ["../s.raw", "sub/../../s.raw", "/etc/hostname", "away/s.raw"])
@pytest.mark.parametrize("suffix", [".nhdr", ".nrrd", ".mhd"])
def test_data_outside_the_folder_are_refused(tmp_path: Path, name: str, suffix: str) -> None:
    folder = tmp_path / "scans"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (folder / "away").symlink_to(tmp_path / "elsewhere")
    for place in (tmp_path, tmp_path / "elsewhere"):
        (place / "s.raw").write_bytes(PLAIN)
    path = write_grid(folder / f"s{'.mhd' if suffix == '.mhd' else '.nhdr'}", np.diag([1.0, 1, 2]))
    path = path.rename(path.with_suffix(suffix))
    path.write_text(path.read_text().replace("s.raw", name))
    for read in (read_scan, read_geometry, scan_files, scan_sha256):
        with pytest.raises(
            DataError, match=f"^the file is not supported: the header points to {name}, outside the"
        ):
            read(path)


@pytest.mark.parametrize("name", ["./s.raw", "sub/s.raw", "sub/../s.raw", "linked/s.raw"])
@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
def test_data_inside_the_folder_are_read_and_hashed(tmp_path: Path, name: str, suffix: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "sub")
    path = write_grid(tmp_path / f"s{suffix}", np.diag([1.0, 1, 2]))
    path.write_text(path.read_text().replace("s.raw", name))
    (tmp_path / "sub" / "s.raw").write_bytes(PLAIN)
    assert read_scan(path).sha256 == hashlib.sha256(path.read_bytes() + PLAIN).hexdigest()
    np.testing.assert_array_equal(read_scan(path).voxels, VOXELS)
    if suffix == ".mhd":
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T, VOXELS)


UNSUPPORTED: dict[str, tuple[str, dict[str, bytes], str]] = {
    "bzip2": (
        "encoding: bzip2\n",
        {"inline": b"BZh9"},
        "the encoding is bzip2; save the voxels as raw or gzip",
    ),
    "zrl": ("encoding: zrl\n", {"inline": b""}, "the encoding is zrl; save the voxels as raw or gzip"),
    "block": (
        "encoding: raw\ntype: block\n",
        {"inline": PLAIN},
        "the type is block; save the voxels as int16",
    ),
}
DAMAGED: dict[str, tuple[str, dict[str, bytes], str]] = {
    "missing": ("encoding: raw\ndata file: s.raw\n", {}, "the data file s.raw is missing"),
    "missing of a list": (
        "encoding: raw\ndata file: LIST\np0.raw\nq.raw\n",
        PARTS,
        "the data file q.raw is missing",
    ),
    "short": (
        "encoding: raw\n",
        {"inline": PLAIN[:-1]},
        "the file is cut short: 863 bytes, but 864 are needed",
    ),
    "short of a list": (
        "encoding: raw\ndata file: p%d.raw 0 5 1\n",
        PARTS | {"p3.raw": b"x" * 143},
        "the data file p3.raw is cut short: 143 bytes, but 144 are needed",
    ),
    "short gzip": (
        "encoding: gzip\n",
        {"inline": gzip.compress(PLAIN)[:-1]},
        "the compressed voxels are cut short",
    ),
    "few in gzip": (
        "encoding: gzip\n",
        {"inline": gzip.compress(PLAIN[:-2])},
        "the file is cut short: 862 bytes, but 864",
    ),
    "many in gzip": (
        "encoding: gzip\n",
        {"inline": gzip.compress(PLAIN + b"x")},
        "the file holds 865 bytes of voxels",
    ),
    "few as text": ("encoding: text\n", {"inline": TEXT.rsplit(b" ", 3)[0]}, "the file is cut short"),
    "words as text": (
        "encoding: text\n",
        {"inline": b"one two"},
        "the voxels should be numbers written as text",
    ),
    "no files": ("encoding: raw\ndata file: LIST\n", {}, "the header lists no data files"),
}


@pytest.mark.parametrize("kind", [*UNSUPPORTED, *DAMAGED])
def test_a_nrrd_that_is_refused_says_which_is_true(tmp_path: Path, kind: str) -> None:
    fields, data, reason = {**UNSUPPORTED, **DAMAGED}[kind]
    path = nrrd_of(tmp_path, fields, data, "s.nrrd" if "inline" in data else "s.nhdr")
    with pytest.raises(DataError) as refusal:
        read_scan(path)
    said = str(refusal.value)
    assert reason in said
    assert said.startswith("the file is not supported: ") == (kind in UNSUPPORTED)
    assert ("damaged" in said or "cut short" in said) == (kind in DAMAGED)


@pytest.mark.parametrize("wbits", [zlib.MAX_WBITS, 16 + zlib.MAX_WBITS], ids=["zlib", "gzip"])
def test_metaimages_compressed_either_way(tmp_path: Path, wbits: int) -> None:
    path = write_grid(tmp_path / "s.mhd", np.diag([1.0, 1, 2]))
    packer = zlib.compressobj(wbits=wbits)
    packed = packer.compress(PLAIN) + packer.flush()
    (tmp_path / "s.raw").write_bytes(packed)
    said = f"CompressedData = t\nCompressedDataSize = {len(packed)}\nDimSize"
    path.write_text(path.read_text().replace("DimSize", said))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T, VOXELS)
    np.testing.assert_array_equal(read_scan(path).voxels, VOXELS)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("MET_LONG_LONG", "i8"), ("MET_ULONG_LONG", "u8"), ("MET_ULONG", "u4"), ("MET_CHAR", "i1")],
)
def test_all_types_of_metaimage(tmp_path: Path, kind: str, dtype: str) -> None:
    voxels = np.random.default_rng(3).integers(0, 100, (9, 8, 6)).astype(dtype)
    path = write_grid(tmp_path / "s.mha", np.diag([1.0, 1, 2]), voxels)
    path.write_bytes(path.read_bytes().replace(b"MET_SHORT", kind.encode()))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T, voxels)
    np.testing.assert_array_equal(read_scan(path).voxels, voxels)


def test_a_metaimage_of_text(tmp_path: Path) -> None:
    path = write_grid(tmp_path / "s.mhd", np.diag([1.0, 1, 2]))
    path.write_text(path.read_text().replace("BinaryData = True", "BinaryData = F"))
    (tmp_path / "s.raw").write_bytes(TEXT + b"\n")
    np.testing.assert_array_equal(read_scan(path).voxels, VOXELS)


def faults_of(kind: str, folder: Path) -> dict[str, Path]:
    """The same fault in every format that can have it."""
    folder.mkdir()
    grid = np.diag([0.7, 0.8, 2.5])
    if kind == "tilted":
        grid[1, 2] = 0.8
    files = {
        suffix: write_grid(folder / f"{suffix[1:].replace('.', '')}{suffix}", grid) for suffix in SUFFIXES
    }
    slices = write_series(folder / "dicom", VOXELS, lean=grid[1, 2])
    files["DICOM"] = folder / "dicom"
    if kind == "short":
        for suffix, path in files.items():
            data = slices[3] if suffix == "DICOM" else scan_files(path)[-1]
            content = data.read_bytes()
            packed = suffix == ".nii.gz"
            data.write_bytes(gzip.compress(gzip.decompress(content)[:-20]) if packed else content[:-20])
    elif kind == "no numbers":
        del files["DICOM"]  # whose values are whole
        for path in files.values():
            sitk.WriteImage(sitk.GetImageFromArray(np.full((4, 5, 6), NAN, np.float32)), str(path))
    elif kind == "outside":
        files = {suffix: path for suffix, path in files.items() if suffix in (".mhd", ".nhdr")}
        for path in files.values():
            path.write_text(re.sub(r"(ElementDataFile = |data file: )(.*)", r"\1../\2", path.read_text()))
    return files


@pytest.mark.parametrize("kind", ["short", "tilted", "no numbers", "outside"])
def test_one_fault_is_refused_in_one_sentence_whatever_the_format(tmp_path: Path, kind: str) -> None:
    """The rule: a check exists once, so that no format passes what another refuses, or says it otherwise."""
    for path in faults_of("none", tmp_path / "sound").values():
        np.testing.assert_array_equal(read_scan(path).voxels, VOXELS)
    said = {}
    for name, path in faults_of(kind, tmp_path / "faulty").items():
        with pytest.raises(DataError) as refusal:
            read_scan(path)
        said[name] = str(refusal.value)
    shapes = {
        re.sub(r"(the data file|slice) \S+|the file(?= is cut)|[\d.]+|\S+raw", "#", text)
        for text in said.values()
    }
    assert len(shapes) == 1, said
    assert len(said) == {"short": 7, "tilted": 7, "no numbers": 6, "outside": 2}[kind]


def test_refusals_are_worded_by_the_gate() -> None:
    """A refusal that a format words by itself could say something else of the same fault."""
    rooms = Path(gate.__file__).parent
    by_itself = {}
    for module in (
        "dicom",
        "pixels",
        "series",
        "gather",
        "metaimage",
        "nifti",
        "nrrd",
        "stored",
        "formats",
        "read",
    ):
        tree = ast.parse((rooms / f"{module}.py").read_text(encoding="utf-8"))
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        raised = {ast.unparse(call.args[0]) for call in calls if ast.unparse(call.func) == "DataError"}
        by_itself |= dict.fromkeys(raised - {"not_opened(error)"}, module)
    assert by_itself == {
        "'the DICOM header cannot be read: the file is damaged'": "dicom",
        "f'there is no DICOM series of this name; the folder holds {holds}'": "series",
        "series[label].problem": "series",  # which holds one of these
    }
