"""The voxel grid of a scan: reorienting and resampling it. Pure.

Coordinates are DICOM's, which SimpleITK returns for every format: x grows to the patient's left, y to the
back, z to the head, in mm.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.scans.hashing import Hashing

_LETTERS = "LRPASI"  # the directions of +x, -x, +y, -y, +z, -z
_SLAB = 32  # slices resampled at a time, to save memory

#: The voxels of a scan [x, y, z]: HU, as whole numbers or unrounded real numbers.
Voxels = NDArray[np.int16] | NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True)
class Geometry:
    """The position of a scan's voxels in the patient.

    Attributes:
        shape: number of voxels in x, y, z.
        spacing: mm between voxel centres in x, y, z.
        origin: mm, the centre of voxel (0, 0, 0).
        direction: the direction cosines, row by row, nine numbers.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]


@dataclass(frozen=True)
class Scan:
    """A scan with its voxels.

    Attributes:
        voxels: int16 [x, y, z], or float32 or float64 if some are not whole; HU, x fastest in memory; within
            the range of int16, not clipped to any window.
        geometry: geometry of the voxels.
        digest: the sha256 of its files, or the object that computes it.
    """

    voxels: Voxels
    geometry: Geometry
    digest: str | Hashing

    @property
    def sha256(self) -> str:
        """Return the sha256 over the bytes of its files, header first, in hexadecimal."""
        return self.digest if isinstance(self.digest, str) else self.digest.hexdigest()


def check_orientation(code: str) -> str:
    """Return an orientation code of three letters, such as `LPS`, in capitals.

    Each letter gives the direction of an axis in the patient: left or right, posterior or anterior, superior
    or inferior, one of each pair, in any order. `LPS` is DICOM's own, with the identity as direction.

    Raises:
        CallError: it is not one of the 48 codes.
    """
    code = code.upper()
    if len(code) != 3 or any(letter not in _LETTERS for letter in code):
        raise CallError(
            f"--orient {code} is invalid: it must be three letters, one each from "
            "L/R, P/A and S/I, such as LPS."
        )
    if len({_LETTERS.index(letter) // 2 for letter in code}) != 3:
        raise CallError(
            f"--orient {code} is invalid: it must have one letter from each of L/R, P/A and S/I, such as LPS."
        )
    return code


def check_spacing(spacing: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return a spacing in mm after checking that every edge is positive.

    Raises:
        CallError: an edge is not positive.
    """
    if not all(np.isfinite(edge) and edge > 0 for edge in spacing):
        found = ",".join(f"{edge:g}" for edge in spacing)
        raise CallError(
            f"--spacing {found} is invalid: all three numbers must be above 0 mm, for example 1,1,1."
        )
    return spacing


def reorient(scan: Scan, code: str) -> Scan:
    """Turn a scan so that its axes run in the directions of a code; no value changes.

    Axes are permuted and flipped together with the geometry, so every voxel keeps its position in the
    patient. An oblique scan is turned to the nearest axes and stays equally oblique.

    Args:
        scan: the scan.
        code: see `check_orientation`.

    Returns:
        The scan, x fastest in memory; the same object if it has this orientation already.

    Raises:
        CallError: the code is invalid.
        DataError: two of its axes coincide, or one is zero.
    """
    axes, flipped = _turn(scan.geometry, code)
    if axes == (0, 1, 2) and not any(flipped):
        return scan
    flips = tuple(slice(None, None, -1 if flip else 1) for flip in flipped)
    turned: NDArray[Any] = scan.voxels.transpose(axes)[flips]
    return Scan(np.asfortranarray(turned), reoriented(scan.geometry, code), scan.digest)


def reoriented(geometry: Geometry, code: str) -> Geometry:
    """Return the geometry after `reorient`.

    Raises:
        CallError: the code is invalid.
        DataError: two of its axes coincide, or one is zero.
    """
    axes, flipped = _turn(geometry, code)
    directions = np.reshape(geometry.direction, (3, 3))
    origin = np.array(geometry.origin, dtype=np.float64)
    for axis, flip in zip(axes, flipped, strict=True):
        if flip:
            origin += directions[:, axis] * geometry.spacing[axis] * (geometry.shape[axis] - 1)
    signs = np.where(flipped, -1.0, 1.0)
    turned = directions[:, axes] * signs + 0.0  # avoids negative zeros
    i, j, k = axes
    return Geometry(
        shape=(geometry.shape[i], geometry.shape[j], geometry.shape[k]),
        spacing=(geometry.spacing[i], geometry.spacing[j], geometry.spacing[k]),
        origin=(float(origin[0]), float(origin[1]), float(origin[2])),
        direction=tuple(turned.ravel().tolist()),
    )


def resample(scan: Scan, spacing: tuple[float, float, float]) -> Scan:
    """Resample a scan to another spacing, linearly in HU; int16 is rounded to whole HU, halves to even.

    Real numbers keep their type and are not rounded. The first voxel keeps its position; the last one is at
    or before the old last one, so no value outside the scan is needed. One core works on slabs, so memory
    besides the scan and the result is one copy of the scan and 32 slices.

    Args:
        scan: the scan.
        spacing: mm between voxel centres in x, y, z.

    Returns:
        The scan, x fastest in memory; the same object if it has that spacing already.

    Raises:
        CallError: a spacing is not positive.
    """
    import SimpleITK as sitk

    geometry = resampled(scan.geometry, spacing)
    if geometry == scan.geometry:
        return scan
    image = sitk.GetImageFromArray(scan.voxels.T)
    image.SetSpacing(
        scan.geometry.spacing
    )  # without direction: the grid itself is resampled, whatever its position
    sampler = sitk.ResampleImageFilter()
    sampler.SetNumberOfThreads(1)
    sampler.SetInterpolator(sitk.sitkLinear)
    whole, double = scan.voxels.dtype == np.int16, scan.voxels.dtype == np.float64
    sampler.SetOutputPixelType(sitk.sitkFloat64 if double else sitk.sitkFloat32)  # int16 would truncate
    sampler.SetOutputSpacing(geometry.spacing)
    x, y, z = geometry.shape
    values: NDArray[Any] = np.empty((z, y, x), scan.voxels.dtype)
    for start in range(0, z, _SLAB):
        slab = values[start : start + _SLAB]
        sampler.SetSize((x, y, len(slab)))
        sampler.SetOutputOrigin((0.0, 0.0, start * geometry.spacing[2]))
        part = sampler.Execute(image)  # keeps the image alive for the view below
        found = sitk.GetArrayViewFromImage(part)
        slab[...] = np.rint(found) if whole else found
    return Scan(values.T, geometry, scan.digest)


def resampled(geometry: Geometry, spacing: tuple[float, float, float]) -> Geometry:
    """Return the geometry after `resample`: floor((n - 1) x old / new) + 1 voxels along each axis.

    Raises:
        CallError: a spacing is not positive.
    """
    check_spacing(spacing)
    # The small addend corrects quotients such as 0.7 x 10 / 0.1, which are whole except for rounding.
    x, y, z = (
        int((edge - 1) * old / new + 1e-6) + 1
        for edge, old, new in zip(geometry.shape, geometry.spacing, spacing, strict=True)
    )
    return Geometry((x, y, z), spacing, geometry.origin, geometry.direction)


def _turn(geometry: Geometry, code: str) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Return which axis goes to each place, and whether it is flipped there.

    SimpleITK turns only a single voxel here: turning the whole scan with it took five times as long as with
    NumPy, and memory for two more copies.
    """
    import SimpleITK as sitk

    voxel = sitk.Image([1, 1, 1], sitk.sitkUInt8)
    try:
        voxel.SetDirection(geometry.direction)
    except RuntimeError:
        raise DataError("the axes lie in one plane, so the scan cannot be reoriented") from None
    turner = sitk.DICOMOrientImageFilter()
    turner.SetDesiredCoordinateOrientation(check_orientation(code))
    turner.Execute(voxel)
    return turner.GetPermuteOrder(), turner.GetFlipAxes()
