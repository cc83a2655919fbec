"""The grid a scan's voxels lie on: turning it to other axes, resampling it to another spacing. Pure.

Coordinates are DICOM's, as SimpleITK gives them for every format: x grows to the patient's left, y to the
back, z to the head, in mm.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.scans.hashing import Hashing

_LETTERS = "LRPASI"  # towards which an axis runs: the letters of +x, -x, +y, -y, +z, -z
_SLAB = 32  # slices resampled at a time, so that little memory is used beside the scan and its result

#: The voxels of a scan [x, y, z]: whole HU, or HU as real numbers, not rounded.
Voxels = NDArray[np.int16] | NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True)
class Geometry:
    """Where a scan's voxels lie in the patient.

    Attributes:
        shape: voxels in x, y, z.
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
    """A scan, read.

    Attributes:
        voxels: int16 [x, y, z], or float32 or float64 where some are not whole; HU, x fastest in memory; in
            the range of int16, not clipped to any window.
        geometry: where they lie.
        digest: the sha256 of its files, or what is working it out.
    """

    voxels: Voxels
    geometry: Geometry
    digest: str | Hashing

    @property
    def sha256(self) -> str:
        """The sha256 over the bytes of its files, header first, in hexadecimal."""
        return self.digest if isinstance(self.digest, str) else self.digest.hexdigest()


def check_orientation(code: str) -> str:
    """A code of three letters, as in `LPS`, in capitals.

    Each letter says towards which side of the patient an axis runs: left or right, posterior or anterior,
    superior or inferior, one of each pair, in any order. `LPS` is DICOM's own: its direction is the identity.

    Raises:
        CallError: it is none of the 48.
    """
    code = code.upper()
    if len(code) != 3 or any(letter not in _LETTERS for letter in code):
        raise CallError(f"--orient {code}: must be three letters out of L/R, P/A and S/I, such as LPS.")
    if len({_LETTERS.index(letter) // 2 for letter in code}) != 3:
        raise CallError(f"--orient {code}: must have one letter from each of L/R, P/A and S/I, such as LPS.")
    return code


def check_spacing(spacing: tuple[float, float, float]) -> tuple[float, float, float]:
    """A spacing in mm, each edge positive.

    Raises:
        CallError: an edge is not.
    """
    if not all(np.isfinite(edge) and edge > 0 for edge in spacing):
        raise CallError(f"--spacing {','.join(f'{edge:g}' for edge in spacing)}: positive mm, as in 1,1,1.")
    return spacing


def reorient(scan: Scan, code: str) -> Scan:
    """Turn a scan so that its axes run towards the sides that a code names; no value changes.

    Axes are permuted and flipped, and the geometry with them, so that every voxel keeps its place in the
    patient. An oblique scan goes to the nearest axes and stays as oblique as it was.

    Args:
        scan: the scan.
        code: as in `check_orientation`.

    Returns:
        The scan, x fastest in memory; the very same one where it lies so already.

    Raises:
        CallError: no such code.
        DataError: two of its axes are one, or one is nothing.
    """
    axes, flipped = _turn(scan.geometry, code)
    if axes == (0, 1, 2) and not any(flipped):
        return scan
    flips = tuple(slice(None, None, -1 if flip else 1) for flip in flipped)
    turned: NDArray[Any] = scan.voxels.transpose(axes)[flips]
    return Scan(np.asfortranarray(turned), reoriented(scan.geometry, code), scan.digest)


def reoriented(geometry: Geometry, code: str) -> Geometry:
    """What `reorient` makes of a geometry.

    Raises:
        CallError: no such code.
        DataError: two of its axes are one, or one is nothing.
    """
    axes, flipped = _turn(geometry, code)
    directions = np.reshape(geometry.direction, (3, 3))
    origin = np.array(geometry.origin, dtype=np.float64)
    for axis, flip in zip(axes, flipped, strict=True):
        if flip:
            origin += directions[:, axis] * geometry.spacing[axis] * (geometry.shape[axis] - 1)
    signs = np.where(flipped, -1.0, 1.0)
    turned = directions[:, axes] * signs + 0.0  # no negative zeros
    i, j, k = axes
    return Geometry(
        shape=(geometry.shape[i], geometry.shape[j], geometry.shape[k]),
        spacing=(geometry.spacing[i], geometry.spacing[j], geometry.spacing[k]),
        origin=(float(origin[0]), float(origin[1]), float(origin[2])),
        direction=tuple(turned.ravel().tolist()),
    )


def resample(scan: Scan, spacing: tuple[float, float, float]) -> Scan:
    """Resample a scan to another spacing, linearly in HU; int16 is rounded to whole HU, halves to even.

    Real numbers stay what they come out as, in their own type. The first voxel stays where it is; the last
    lies at or before the last one of old, so nothing outside the scan is ever asked for. One core works on
    it, on slabs, so that the memory beside the scan and the result is a copy of the scan and 32 slices.

    Args:
        scan: the scan.
        spacing: mm between voxel centres in x, y, z.

    Returns:
        The scan, x fastest in memory; the very same one where it has that spacing already.

    Raises:
        CallError: a spacing that is not positive.
    """
    import SimpleITK as sitk

    geometry = resampled(scan.geometry, spacing)
    if geometry == scan.geometry:
        return scan
    image = sitk.GetImageFromArray(scan.voxels.T)
    image.SetSpacing(
        scan.geometry.spacing
    )  # and no direction: the grid itself is resampled, wherever it lies
    sampler = sitk.ResampleImageFilter()
    sampler.SetNumberOfThreads(1)
    sampler.SetInterpolator(sitk.sitkLinear)
    whole, double = scan.voxels.dtype == np.int16, scan.voxels.dtype == np.float64
    sampler.SetOutputPixelType(sitk.sitkFloat64 if double else sitk.sitkFloat32)  # int16 would be cut off
    sampler.SetOutputSpacing(geometry.spacing)
    x, y, z = geometry.shape
    values: NDArray[Any] = np.empty((z, y, x), scan.voxels.dtype)
    for start in range(0, z, _SLAB):
        slab = values[start : start + _SLAB]
        sampler.SetSize((x, y, len(slab)))
        sampler.SetOutputOrigin((0.0, 0.0, start * geometry.spacing[2]))
        part = sampler.Execute(image)  # the view below does not keep its image alive
        found = sitk.GetArrayViewFromImage(part)
        slab[...] = np.rint(found) if whole else found
    return Scan(values.T, geometry, scan.digest)


def resampled(geometry: Geometry, spacing: tuple[float, float, float]) -> Geometry:
    """What `resample` makes of a geometry: floor((n - 1) x old / new) + 1 voxels along each axis.

    Raises:
        CallError: a spacing that is not positive.
    """
    check_spacing(spacing)
    # The small addend is for quotients such as 0.7 x 10 / 0.1, which are whole but for rounding.
    x, y, z = (
        int((edge - 1) * old / new + 1e-6) + 1
        for edge, old, new in zip(geometry.shape, geometry.spacing, spacing, strict=True)
    )
    return Geometry((x, y, z), spacing, geometry.origin, geometry.direction)


def _turn(geometry: Geometry, code: str) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Which axis goes to each place, and whether it is flipped there.

    SimpleITK is asked about a single voxel: to turn the whole scan with it took five times as long as with
    NumPy, and the memory of two more copies.
    """
    import SimpleITK as sitk

    voxel = sitk.Image([1, 1, 1], sitk.sitkUInt8)
    try:
        voxel.SetDirection(geometry.direction)
    except RuntimeError:
        raise DataError("its axes do not span space, so that it cannot be turned") from None
    turner = sitk.DICOMOrientImageFilter()
    turner.SetDesiredCoordinateOrientation(check_orientation(code))
    turner.Execute(voxel)
    return turner.GetPermuteOrder(), turner.GetFlipAxes()
