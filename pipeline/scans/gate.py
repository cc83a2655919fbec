"""Checks that every scan must pass, whatever its format, so that each check exists once.

Values that are not numbers, missing bytes, data outside the scan's folder, axes that are not upright, and
values that cannot be converted to HU are refused here. A refusal is one sentence that follows the scan's
name, and states one of three cases: the scan is damaged, it is not supported, or it is not a CT scan.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import DataError

#: Shear up to which a scan counts as upright: the displacement of any voxel, in voxels.
MOST_SHEAR = 0.5

#: Value of voxels outside the image: below every window, so it is clipped to the window's low end.
OUTSIDE = -32768

#: Reason given for a header without enough information for a more specific one.
NO_HEADER = "the header cannot be read, or the file has another format"

_INT16 = np.iinfo(np.int16)
_AS_WRITTEN = 1e-4  # cosines are kept as written if they deviate by no more
_SINGULAR = 1e-6
_RESCALE = "export the scan with the slope and intercept that convert values to HU"
_MOST_WHOLE = 2**14  # slopes and intercepts up to this leave 16-bit values within int32


def damaged(why: str) -> DataError:
    """Return the error for a scan whose files have changed since they were written."""
    return DataError(f"the file is damaged: {why}; copy or export the scan again")


def unsupported(why: str, way_out: str) -> DataError:
    """Return the error for a valid scan in an unsupported form."""
    return DataError(f"the file is not supported: {why}; {way_out}")


def no_scan(why: str) -> DataError:
    """Return the error for a valid file that is not a scan."""
    return DataError(f"the file is not a CT scan: {why}")


def check_bytes(found: int, needed: int, what: str, exact: bool = False) -> None:
    """Refuse voxel data of another size than the header requires.

    Args:
        found: number of bytes of voxels.
        needed: number of bytes that the header requires.
        what: noun for the data, for example "the data file s.raw".
        exact: whether surplus bytes are an error as well.

    Raises:
        DataError: there are too few bytes, or too many.
    """
    if found < needed:
        raise DataError(f"{what} is cut short: {found} bytes, but {needed} are needed")
    if exact and found > needed:
        raise damaged(f"{what} holds {found} bytes of voxels, but the header requires {needed}")


def check_rescale(slope: float | None, intercept: float | None, whose: str = "the header") -> None:
    """Refuse a slope and intercept that do not convert values to HU.

    Raises:
        DataError: one of them is missing or not a number, or the slope is 0, which makes all values equal.
    """
    if slope is None or intercept is None or not (math.isfinite(slope) and math.isfinite(intercept)):
        said = " and ".join(
            f"no valid {name}" if value is None else f"{value:g} as {name}"
            for name, value in (("slope", slope), ("intercept", intercept))
            if value is None or not math.isfinite(value)
        )
        raise unsupported(f"{whose} has {said}, so the values cannot be converted to HU", _RESCALE)
    if slope == 0:
        raise unsupported(
            f"{whose} has slope 0 and intercept {intercept:g}, which makes all values equal", _RESCALE
        )


def rescaled(stored: NDArray[Any], slope: float, intercept: float) -> NDArray[Any]:
    """Return stored values x slope + intercept: whole numbers if all three are whole, else float64.

    Args:
        stored: any numbers, any shape.
        slope: finite, not 0.
        intercept: finite.

    Returns:
        int32, int64 or float64.
    """
    whole = stored.dtype.kind in "iu" and slope == int(slope) and intercept == int(intercept)
    if not whole or max(abs(slope), abs(intercept)) > _MOST_WHOLE:
        return stored * np.float64(slope) + np.float64(intercept)
    values: NDArray[Any] = stored.astype(np.int64 if stored.dtype.itemsize > 2 else np.int32)
    if slope != 1:
        values = values * int(slope)
    return values + int(intercept)


def clip(values: NDArray[Any]) -> np.dtype[Any]:
    """Clip values to int16 in place; return the smallest of int16, float32 and float64 that is exact.

    Raises:
        DataError: values are NaN or infinite, or their type is not numeric.
    """
    if values.dtype.kind in "iu":
        limits = np.iinfo(values.dtype)
        np.clip(values, max(_INT16.min, limits.min), min(_INT16.max, limits.max), out=values)
        return np.dtype(np.int16)
    if values.dtype not in (np.float32, np.float64):
        raise unsupported(f"the voxels are {values.dtype}", "save the voxels as whole or real numbers")
    if not np.isfinite(values).all():
        raise unsupported("some voxels are NaN or infinite", "replace them with values in HU")
    np.clip(values, _INT16.min, _INT16.max, out=values)
    if (np.rint(values) == values).all():
        return np.dtype(np.int16)
    return np.dtype(np.float32 if (values.astype(np.float32) == values).all() else np.float64)


def settled(values: NDArray[Any]) -> NDArray[Any]:
    """Clip voxels [z, y, x] of any type and convert them to the type they need; in place if possible."""
    if values.dtype == np.int16:
        return values
    if not values.flags.writeable:
        values = values.copy()
    dtype = np.dtype(np.int16)
    for plane in values:  # slice by slice, to save memory
        dtype = np.promote_types(dtype, clip(plane))
    return values.astype(dtype, copy=False)


def data_file(header: Path, name: str) -> Path:
    """Return the data file that a header names.

    Args:
        header: path of the header.
        name: the name in it.

    Raises:
        DataError: it is outside the header's folder, directly or through a link.
    """
    path = header.parent / name
    if Path(name).name != name:  # otherwise the check is free
        home, place = header.parent.resolve(), path.parent.resolve()
        if place != home and home not in place.parents:
            raise unsupported(
                f"the header points to {name}, outside the header's folder",
                "move the data file next to the header",
            )
    return path


def upright(
    cosines: NDArray[np.float64], spacing: tuple[float, ...], shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """Return the direction cosines of an upright grid, correcting slight shear of the axes.

    All formats share this rule: shear that moves no voxel by more than half a voxel across the whole volume
    counts as upright. The first axis is kept, and the second stays in the plane of the first two.

    Args:
        cosines: float64 [3, axis], one column per axis.
        spacing: mm from one voxel to the next along each axis.
        shape: number of voxels along each axis.

    Returns:
        float64 [3, axis]: `cosines` unchanged if they are perpendicular to within their written precision,
        else perpendicular ones.

    Raises:
        DataError: a shape or spacing is not positive, or the axes do not span space, have no unit length, or
            are sheared too far.
    """
    if min(shape) < 1:
        raise damaged(f"the scan has no voxels ({' x '.join(map(str, shape))})")
    if not all(math.isfinite(edge) and edge > 0 for edge in spacing):
        raise damaged(f"the spacing {spacing} is not positive")
    lengths = np.linalg.norm(cosines, axis=0)
    units = cosines / np.where(lengths > 0, lengths, 1)
    if not np.isfinite(cosines).all() or lengths.min() <= 0 or abs(np.linalg.det(units)) < _SINGULAR:
        raise damaged("the axes lie in one plane")
    far = np.array(shape) - 1
    if (np.abs(lengths - 1) * far).max() > MOST_SHEAR:
        said = ", ".join(f"{length:g}" for length in lengths)
        raise unsupported(f"the direction cosines have lengths {said}", "save them with length 1")
    straight, lean = np.linalg.qr(units * spacing)
    signs = np.sign(np.diag(lean))
    straight, lean = straight * signs, lean * signs[:, np.newaxis]
    moved = float(np.linalg.norm(np.abs(np.triu(lean, 1)) @ far / np.diag(lean)))
    crossed = float(np.abs(np.triu(units.T @ units, 1)).max())
    if moved > MOST_SHEAR:
        angle = math.degrees(math.asin(min(crossed, 1.0)))
        raise unsupported(
            f"the axes are tilted by {angle:.2g} degrees, which moves voxels by up to "
            f"{moved:.1f} voxels; at most {MOST_SHEAR} is allowed",
            "resample the scan to an upright grid",
        )
    return cosines if crossed <= _AS_WRITTEN else straight
