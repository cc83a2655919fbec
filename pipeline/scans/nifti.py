"""Reads NIfTI headers: how a `.nii` or `.nii.gz` stores its voxels, and their positions.

SimpleITK silently reads a spacing of 0 or NaN as 1, and a slope of 0 or NaN as 1 with any intercept, whereas
nibabel, following the standard literally, ignores the intercept. Source: nifti1.h.
"""

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.scans.files import not_opened
from genesis_toolkit.pipeline.scans.gate import NO_HEADER, check_rescale, damaged, unsupported
from genesis_toolkit.pipeline.scans.stored import Stored

#: Suffixes of NIfTI files.
NIFTI = (".nii", ".nii.gz")

_NIFTI_1, _NIFTI_2 = 348, 540  # size of the header, which is also its first number
_BLOCK = 1 << 20
_FIRST_VOXEL = 352  # offset in a single file, after the header and four more bytes
_TYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
_OTHER_TYPES = {
    1: "single bits",
    32: "complex numbers",
    128: "colours",
    1536: "128-bit numbers",
    2304: "colours",
}
_MM = {1: 1e3, 3: 1e-3}  # for the units metre and micrometre
_TO_LPS = np.array([[-1.0], [-1.0], [1.0]])  # x and y of NIfTI point to the right and to the front

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class NiftiHeader:
    """The relevant parts of a NIfTI-1 header.

    Attributes:
        stored: storage of the voxels.
        shape: number of voxels along each existing axis.
        spacing: mm between voxel centres in x, y, z.
        axes: float64 [3, axis], mm from one voxel to the next in DICOM's axes, from the sform; None without
            an sform, and then the axes are perpendicular.
        origin: mm, the centre of the first voxel, from the sform.
    """

    stored: Stored
    shape: tuple[int, ...]
    spacing: Triple
    axes: NDArray[np.float64] | None
    origin: Triple


def read_nifti_header(path: Path) -> NiftiHeader:
    """Read a NIfTI header, and refuse one that is ambiguous about its voxels.

    Raises:
        DataError: it is not NIfTI, of an unsupported kind, or its type, spacing, scaling or first voxel is
            ambiguous.
    """
    head = _head(path)
    if head[:4] in (struct.pack("<i", _NIFTI_2), struct.pack(">i", _NIFTI_2)):
        raise unsupported("the file is NIfTI-2", "save the scan as NIfTI-1")
    order = next((order for order in "<>" if head[:4] == struct.pack(order + "i", _NIFTI_1)), "")
    if not order or len(head) < _NIFTI_1:
        raise damaged(NO_HEADER)
    if head[344:347] != b"n+1":
        raise unsupported(
            f"the header's magic is {head[344:348]!r}", "save the scan as a single NIfTI-1 file"
        )
    slope, intercept = struct.unpack_from(order + "2f", head, 112)
    spacing = tuple(float(f"{edge:g}") for edge in struct.unpack_from(order + "3f", head, 80))
    if not all(math.isfinite(edge) and edge > 0 for edge in spacing):
        raise damaged(f"the spacing {spacing} is not positive")
    kind, bits = struct.unpack_from(order + "2h", head, 70)
    if kind not in _TYPES:
        raise unsupported(f"the voxels are {_OTHER_TYPES.get(kind, f'of type {kind}')}", "save HU as int16")
    dtype = np.dtype(order + _TYPES[kind])
    (offset,) = struct.unpack_from(order + "f", head, 108)
    if bits != 8 * dtype.itemsize:
        raise damaged(f"the header gives {bits} bits per voxel, but the voxel type {dtype.name}")
    if not (offset >= _FIRST_VOXEL and offset == int(offset)):
        raise damaged(f"the vox_offset is {offset:g}, inside the header, which ends at {_FIRST_VOXEL}")
    packed = path.suffix.lower() == ".gz"
    if (slope == 0 or math.isnan(slope)) and (intercept == 0 or math.isnan(intercept)):
        slope, intercept = 1.0, 0.0  # the standard's rule for a header without scaling
    check_rescale(slope, intercept)
    stored = Stored(
        header=path,
        parts=((path, 0 if packed else int(offset)),),
        dtype=dtype,
        packing="packed" if packed else "plain",
        skip=int(offset) if packed else 0,
        exact=False,
        slope=slope,
        intercept=intercept,
    )
    count, *edges = struct.unpack_from(order + "8h", head, 40)
    return NiftiHeader(stored, tuple(edges[: max(count, 0)]), *_place(head, order))


def _place(head: bytes, order: str) -> tuple[Triple, NDArray[np.float64] | None, Triple]:
    """Return spacing, axes and origin from a header, in mm."""
    (form,) = struct.unpack_from(order + "h", head, 254)
    mm = _MM.get(head[123] & 7, 1.0)
    x, y, z = (mm * edge for edge in struct.unpack_from(order + "3f", head, 80))
    rows = np.array(struct.unpack_from(order + "12f", head, 280)).reshape(3, 4) * _TO_LPS * mm
    left, back, up = rows[:, 3].tolist()
    return (x, y, z), rows[:, :3] if form > 0 else None, (left, back, up)


def check_checksum(path: Path) -> None:
    """Refuse a compressed NIfTI file whose bytes do not match its checksum; others pass.

    Raises:
        DataError: they do not match.
    """
    if path.suffix.lower() != ".gz":
        return
    try:
        with gzip.open(path) as file:
            while file.read(_BLOCK):
                pass
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise damaged(NO_HEADER) from None
    except OSError as error:
        raise DataError(not_opened(error)) from None


def _head(path: Path) -> bytes:
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            return file.read(_NIFTI_2)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise damaged(NO_HEADER) from None
    except OSError as error:
        raise DataError(not_opened(error)) from None
