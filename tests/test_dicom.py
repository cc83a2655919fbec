"""The headers of DICOM files: every way to write one, and no damage does more than say so."""

import struct
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from conftest import lungs
from numpy.typing import NDArray

from pipeline.dicom import read_header
from pipeline.errors import DataError

UPRIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
VOXELS = lungs(7, (9, 8, 6)).clip(-1024, 1000)


def write_slice(path: Path, plane: NDArray[np.generic], position: tuple[float, ...], **tags: str) -> Path:
    """One slice [x, y] as a scanner writes it; a tag is given as in `t0020_000e`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(np.ascontiguousarray(plane.T)[np.newaxis])
    image.SetSpacing((0.5, 0.75, 1.0))
    elements = {
        "t0008_0008": "ORIGINAL\\PRIMARY\\AXIAL",
        "t0008_0060": "CT",
        "t0020_000e": "1.2.840.1",
        "t0020_0032": "\\".join(f"{edge:.6f}" for edge in position),
        "t0020_0037": "\\".join(map(str, UPRIGHT)),
        "t0028_1052": "-1024",
        "t0028_1053": "1",
    } | tags
    for tag, value in elements.items():
        image.SetMetaData(tag[1:].replace("_", "|"), value)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(path))
    writer.Execute(image)
    return path


def write_series(
    folder: Path,
    voxels: NDArray[np.int16] = VOXELS,
    heights: tuple[float, ...] | None = None,
    lean: float = 0.0,
    **tags: str,
) -> list[Path]:
    """A series, its files named against the order of its slices; `lean` mm aside in y for each slice."""
    count = voxels.shape[2]
    heights = heights or tuple(2.0 * k for k in range(count))
    return [
        write_slice(
            folder / f"{count - k:03}.dcm", voxels[:, :, k], (-10, -20 + lean * k, heights[k]), **tags
        )
        for k in range(count)
    ]


def explicit(
    modality: bytes = b"CT",
    rows: bool = True,
    sop: bytes = b"1.2.3\0",
    series: bytes = b"1.2.345\0",
    syntax: bytes = b"1.2.840.10008.1.2.1\0",
    order: str = "<",
    implicit: bool = False,
) -> bytes:
    """A DICOM file made by hand: nested sequences of undefined length before what is wanted."""

    def element(tag: int, kind: bytes, value: bytes, order: str = order, implicit: bool = implicit) -> bytes:
        head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
        undefined = value.startswith((b"\xfe\xff", b"\xff\xfe"))
        length = 0xFFFFFFFF if undefined else len(value)
        if implicit:
            return head + struct.pack(order + "I", length) + value
        if kind in (b"SQ", b"OB", b"UN"):
            return head + kind + b"\0\0" + struct.pack(order + "I", length) + value
        return head + kind + struct.pack(order + "H", length) + value

    def delimiter(which: int, length: int = 0) -> bytes:
        return struct.pack(order + "HHI", 0xFFFE, which, length)

    inner = delimiter(0xE000, 0xFFFFFFFF) + element(0x00080060, b"CS", b"SR") + delimiter(0xE00D)
    inner += delimiter(0xE000, 8) + bytes(8) + delimiter(0xE0DD)
    nested = delimiter(0xE000, 0xFFFFFFFF) + element(0x00081199, b"SQ", inner) + delimiter(0xE00D)
    meta = element(0x00020002, b"UI", sop, "<", False) + element(0x00020010, b"UI", syntax, "<", False)
    body = element(0x00080008, b"CS", b"ORIGINAL\\PRIMARY ")
    body += element(0x00080060, b"CS", modality + b" " * (len(modality) % 2))
    body += element(0x00081140, b"SQ", nested + delimiter(0xE0DD))
    body += element(0x00091001, b"OB", bytes(70_000))  # more than is read at first
    body += element(0x0020000E, b"UI", series)
    body += element(0x00200032, b"DS", b"1\\-2.5\\3e1")
    if rows:
        body += element(0x00280002, b"US", struct.pack(order + "H", 1))
        body += element(0x00280010, b"US", struct.pack(order + "H", 300))
        body += element(0x00280011, b"US", struct.pack(order + "H", 400))
        body += element(0x00280030, b"DS", b"0.7\\0.8 ")
    if syntax.startswith(b"1.2.840.10008.1.2.1.99"):
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        body = packer.compress(body) + packer.flush()
    return bytes(128) + b"DICM" + meta + body


@pytest.mark.parametrize(
    "made",
    [
        explicit(),
        explicit(syntax=b"1.2.840.10008.1.2\0", implicit=True),
        explicit(syntax=b"1.2.840.10008.1.2.2\0", order=">"),
        explicit(syntax=b"1.2.840.10008.1.2.1.99"),
        explicit(implicit=True),
        explicit(syntax=b"1.2.840.10008.1.2\0"),
    ],
    ids=[
        "explicit",
        "implicit",
        "big endian",
        "deflated",
        "implicit, said explicit",
        "explicit, said implicit",
    ],
)
def test_every_way_to_write_a_header(tmp_path: Path, made: bytes) -> None:
    path = tmp_path / "s"
    path.write_bytes(made)
    one = read_header(path)
    assert one is not None
    assert (one.series, one.skip, one.edges, one.frames) == ("1.2.345", "", (400, 300), 1)
    assert one.position == (1.0, -2.5, 30.0)
    assert one.spacing == (0.8, 0.7)
    assert one.orientation == ()
    for length in np.random.default_rng(0).integers(150, len(made), 20).tolist():
        path.write_bytes(made[:length])
        try:
            short = read_header(path)
        except DataError as error:
            reason = str(error)
        else:  # cut between two elements
            assert short is not None
            reason = short.skip
        assert reason in (
            "its DICOM header cannot be read: it is damaged or cut short",
            "a DICOM object without an image, not a volume",
        )


def test_no_damage_does_more_than_say_so(tmp_path: Path) -> None:
    whole = write_series(tmp_path)[0].read_bytes()
    path = tmp_path / "damaged"
    rng = np.random.default_rng(1)
    for _ in range(500):
        data = bytearray(whole)
        for place in rng.integers(132, len(data), 4):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        try:
            reason = str(read_header(path) and "")
        except DataError as error:
            reason = str(error)
        assert reason in ("", "its DICOM header cannot be read: it is damaged or cut short")


def test_what_pydicom_thinks_of_a_file_is_not_heard(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It warns of alphabets, of types of values, of ends; from threads, and none of it stays switched off."""
    whole = explicit(implicit=True)
    at = whole.index(b"\x08\0\x08\0")
    alphabet = b"\x08\0\x05\0" + struct.pack("<I", 8) + b"KLINGON "
    unended = whole.index(b"\x09\0\x01\x10")  # of undefined length, and it never ends
    makings = [
        whole[:at] + alphabet + whole[at:],
        whole[: unended + 4] + b"\xff" * 4 + b"no items",
    ]
    paths = []
    for number, made in enumerate(makings):
        paths.append(tmp_path / f"{number}")
        paths[-1].write_bytes(made)
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            pydicom.dcmread(paths[-1], stop_before_pixels=True)
        assert heard, "it warns"
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as threads:
        read = [threads.submit(read_header, path) for path in paths * 20]
    assert {one.result().series for one in read[::2]} == {"1.2.345"}  # type: ignore[union-attr]
    for one in read[1::2]:
        with pytest.raises(DataError, match="damaged or cut short"):
            one.result()
    assert warnings.filters == before
    assert capfd.readouterr().err == ""


def test_a_deflated_header_is_not_inflated_without_limit(tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    whole = explicit(syntax=b"1.2.840.10008.1.2.1.99")
    at = whole.index(b"1.2.840.10008.1.2.1.99") + 22
    body = zlib.decompress(whole[at:], wbits=-zlib.MAX_WBITS)
    body += struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, 2**27) + bytes(2**27)
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    path.write_bytes(whole[:at] + packer.compress(body) + packer.flush())
    read_header(path)
    tracemalloc.start()
    try:
        one = read_header(path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert one is not None
    assert one.spacing == (0.8, 0.7)
    assert most < 2**26


def test_real_headers_are_those_of_simple_itk(real_data: Path) -> None:
    reader = sitk.ImageFileReader()
    paths = sorted(path for path in (real_data / "dicom").rglob("*") if path.is_file())
    for path in paths:
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        one = read_header(path)
        assert one is not None
        assert one.series == reader.GetMetaData("0020|000e").strip(" \0")
        assert one.skip == ""
        assert one.edges == reader.GetSize()[:2]
        np.testing.assert_allclose(one.position, reader.GetOrigin(), rtol=1e-9)
        np.testing.assert_allclose(one.spacing, reader.GetSpacing()[:2], rtol=1e-9)
        np.testing.assert_allclose(
            np.reshape(one.orientation, (2, 3)).T, np.reshape(reader.GetDirection(), (3, 3))[:, :2], atol=1e-6
        )
    assert len(paths) == 99


def test_a_header_without_preamble(tmp_path: Path) -> None:
    path = tmp_path / "bare"
    whole = explicit()
    path.write_bytes(whole[whole.index(b"\x08\0\x08\0") :])
    one = read_header(path)
    assert one is not None
    assert one.series == "1.2.345"
    path.write_bytes(whole[whole.index(b"\x08\0\x08\0") :][:131])
    assert read_header(path) is None, "too short to tell"
    path.write_bytes(b"x" * 200)
    assert read_header(path) is None
