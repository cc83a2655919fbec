"""DICOM series of small scans, written slice by slice."""

import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID
from support.scans import lungs

import genesis_toolkit as gt

UPRIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


VOXELS = lungs(7, (9, 8, 6)).clip(-1024, 1000)
#: Three cubes of any scan as small as these.
SMALL = gt.ExtractParameters(size=(4, 4, 2), border=(0, 0, 0), max_tissue=1.0, cubes_per_scan=3)


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


def rewrite(path: Path, change: Callable[[Dataset], object] | None = None, syntax: UID | None = None) -> None:
    """Write a slice again with pydicom: changed, or in another transfer syntax that compresses no pixels."""
    slice_ = pydicom.dcmread(path)
    if change is not None:
        change(slice_)
    if syntax is not None:
        if not syntax.is_little_endian and "PixelData" in slice_:
            slice_.PixelData = np.frombuffer(slice_.PixelData, "<u2").astype(">u2").tobytes()
        slice_.file_meta.TransferSyntaxUID = syntax
    with warnings.catch_warnings(action="ignore"):
        if syntax is None:
            slice_.save_as(path)
        else:
            pydicom.dcmwrite(
                path, slice_, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian
            )


def write_volume(path: Path, voxels: NDArray[np.int16] = VOXELS) -> Path:
    """A scan in one file, of the format that its suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(np.ascontiguousarray(voxels.T)), str(path))
    return path
