"""The headers of DICOM files: every way to write one, and no damage does more than say so."""

import struct
import zlib
from pathlib import Path

import numpy as np
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
    ],
    ids=["explicit", "implicit", "big endian", "deflated"],
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
