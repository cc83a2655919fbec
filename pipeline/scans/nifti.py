"""NIfTI: what a `.nii` or `.nii.gz` says of how its voxels are stored, and where they lie.

SimpleITK takes a spacing of 0 or NaN for 1 without a word, and a slope of 0 or NaN for 1 together with any
intercept, where nibabel, to the letter of the standard, leaves the intercept out. Source: nifti1.h.
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

#: What such a file is called.
NIFTI = (".nii", ".nii.gz")

_NIFTI_1, _NIFTI_2 = 348, 540  # bytes of a header, which it begins with
_BLOCK = 1 << 20
_FIRST_VOXEL = 352  # of a single file, after the header and four bytes more
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
_MM = {1: 1e3, 3: 1e-3}  # of the units metre and micrometre
_TO_LPS = np.array([[-1.0], [-1.0], [1.0]])  # x and y of NIfTI grow to the right and the front

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class NiftiHeader:
    """What is taken of a NIfTI-1 header.

    Attributes:
        stored: how the voxels lie.
        shape: voxels along each axis, as many as there are.
        spacing: mm between voxel centres in x, y, z.
        axes: float64 [3, axis], mm from one voxel to the next in DICOM's axes, as the sform says; None where
            there is none, and then the axes are perpendicular.
        origin: mm, the centre of the first voxel, as the sform says.
    """

    stored: Stored
    shape: tuple[int, ...]
    spacing: Triple
    axes: NDArray[np.float64] | None
    origin: Triple


def read_nifti_header(path: Path) -> NiftiHeader:
    """Read a NIfTI header, and refuse one that leaves open what its voxels are.

    Raises:
        DataError: it is no NIfTI, of a kind that is not read, or its type, spacing, scaling or first voxel
            is not certain.
    """
    head = _head(path)
    if head[:4] in (struct.pack("<i", _NIFTI_2), struct.pack(">i", _NIFTI_2)):
        raise unsupported("it is of NIfTI's second version", "write it as NIfTI-1")
    order = next((order for order in "<>" if head[:4] == struct.pack(order + "i", _NIFTI_1)), "")
    if not order or len(head) < _NIFTI_1:
        raise damaged(NO_HEADER)
    if head[344:347] != b"n+1":
        raise unsupported(f"its header's magic is {head[344:348]!r}", "write it as one file of NIfTI-1")
    slope, intercept = struct.unpack_from(order + "2f", head, 112)
    spacing = tuple(float(f"{edge:g}") for edge in struct.unpack_from(order + "3f", head, 80))
    if not all(math.isfinite(edge) and edge > 0 for edge in spacing):
        raise damaged(f"its spacing {spacing} is not positive")
    kind, bits = struct.unpack_from(order + "2h", head, 70)
    if kind not in _TYPES:
        raise unsupported(f"its voxels are {_OTHER_TYPES.get(kind, f'of type {kind}')}", "write HU as int16")
    dtype = np.dtype(order + _TYPES[kind])
    (offset,) = struct.unpack_from(order + "f", head, 108)
    if bits != 8 * dtype.itemsize:
        raise damaged(f"its header says {bits} bits a voxel and {dtype.name}")
    if not (offset >= _FIRST_VOXEL and offset == int(offset)):
        raise damaged(f"its vox_offset is {offset:g}, within its header, which ends at {_FIRST_VOXEL}")
    packed = path.suffix.lower() == ".gz"
    if (slope == 0 or math.isnan(slope)) and (intercept == 0 or math.isnan(intercept)):
        slope, intercept = 1.0, 0.0  # as the standard says of a header without scaling
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
    """Spacing, axes and origin as a header says them, in mm."""
    (form,) = struct.unpack_from(order + "h", head, 254)
    mm = _MM.get(head[123] & 7, 1.0)
    x, y, z = (mm * edge for edge in struct.unpack_from(order + "3f", head, 80))
    rows = np.array(struct.unpack_from(order + "12f", head, 280)).reshape(3, 4) * _TO_LPS * mm
    left, back, up = rows[:, 3].tolist()
    return (x, y, z), rows[:, :3] if form > 0 else None, (left, back, up)


def check_checksum(path: Path) -> None:
    """Refuse a compressed NIfTI file whose bytes are not those that its checksum is of; others pass.

    Raises:
        DataError: they are not.
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
