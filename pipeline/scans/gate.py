"""The gate that every scan passes, whatever its format, so that each check exists once.

Values that are no numbers, bytes that are missing, data outside the scan's folder, axes that are not upright,
and values that cannot be told in HU are refused here. A refusal is one sentence that goes after the scan's
name, and it says which of three is true: the scan is damaged, it is not supported, or it is no CT scan.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import DataError

#: How far shear may move a voxel, in voxels, for a scan to be read as upright.
MOST_SHEAR = 0.5

#: What voxels become that are no part of the image: below every window, so its low end.
OUTSIDE = -32768

#: Of a header that says too little to tell what is wrong with it.
NO_HEADER = "its header cannot be read, or it is of another format"

_INT16 = np.iinfo(np.int16)
_AS_WRITTEN = 1e-4  # cosines that are off by no more are kept as they are written
_SINGULAR = 1e-6
_RESCALE = "export it with the slope and intercept that make HU of them"
_MOST_WHOLE = 2**14  # slopes and intercepts up to this leave 16-bit values within int32


def damaged(why: str) -> DataError:
    """The refusal of a scan whose files are not what they were when they were written."""
    return DataError(f"it is damaged: {why}; copy or export it again")


def unsupported(why: str, way_out: str) -> DataError:
    """The refusal of a sound scan that is stored in a way that is not read."""
    return DataError(f"it is not supported: {why}; {way_out}")


def no_scan(why: str) -> DataError:
    """The refusal of a sound file that holds something else."""
    return DataError(f"it is not a CT scan: {why}")


def check_bytes(found: int, needed: int, what: str, exact: bool = False) -> None:
    """Refuse voxels of fewer bytes than the header asks for.

    Args:
        found: bytes of voxels that are there.
        needed: bytes of voxels that the header asks for.
        what: holds them, as in "its data file s.raw".
        exact: whether more is wrong as well.

    Raises:
        DataError: they are too few, or too many.
    """
    if found < needed:
        raise DataError(f"{what} is cut short: {found} bytes, {needed} needed")
    if exact and found > needed:
        raise damaged(f"{what} holds {found} bytes of voxels, its header asks for {needed}")


def check_rescale(slope: float | None, intercept: float | None, whose: str = "its header") -> None:
    """Refuse values that do not become HU by a slope and an intercept.

    Raises:
        DataError: one of them is missing or no number, or the slope is 0, which makes all values one.
    """
    if slope is None or intercept is None or not (math.isfinite(slope) and math.isfinite(intercept)):
        said = " and ".join(
            f"no {name} that is a number" if value is None else f"{value:g} as {name}"
            for name, value in (("slope", slope), ("intercept", intercept))
            if value is None or not math.isfinite(value)
        )
        raise unsupported(f"{whose} has {said}, so that its values cannot be told in HU", _RESCALE)
    if slope == 0:
        raise unsupported(
            f"{whose} has slope 0 and intercept {intercept:g}, which make all its values one", _RESCALE
        )


def rescaled(stored: NDArray[Any], slope: float, intercept: float) -> NDArray[Any]:
    """Stored values x slope + intercept: whole numbers where all three are whole, else float64.

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
    """Clip values to int16 in place; the smallest of int16, float32 and float64 that holds them exactly.

    Raises:
        DataError: values that are no numbers, or of a type that is none of numbers.
    """
    if values.dtype.kind in "iu":
        limits = np.iinfo(values.dtype)
        np.clip(values, max(_INT16.min, limits.min), min(_INT16.max, limits.max), out=values)
        return np.dtype(np.int16)
    if values.dtype not in (np.float32, np.float64):
        raise unsupported(f"its voxels are {values.dtype}", "write them as whole or real numbers")
    if not np.isfinite(values).all():
        raise unsupported("it holds values that are no numbers (NaN or infinite)", "replace them by HU")
    np.clip(values, _INT16.min, _INT16.max, out=values)
    if (np.rint(values) == values).all():
        return np.dtype(np.int16)
    return np.dtype(np.float32 if (values.astype(np.float32) == values).all() else np.float64)


def settled(values: NDArray[Any]) -> NDArray[Any]:
    """Voxels [z, y, x] of any type, clipped and of the type for them; changed in place where that will do."""
    if values.dtype == np.int16:
        return values
    if not values.flags.writeable:
        values = values.copy()
    dtype = np.dtype(np.int16)
    for plane in values:  # by slices, so that little memory is used beside them
        dtype = np.promote_types(dtype, clip(plane))
    return values.astype(dtype, copy=False)


def data_file(header: Path, name: str) -> Path:
    """The file that a header names as that of its voxels.

    Args:
        header: the header's file.
        name: as it says.

    Raises:
        DataError: it leads out of the header's folder, by itself or by a link of folders.
    """
    path = header.parent / name
    if Path(name).name != name:  # else it costs nothing
        home, place = header.parent.resolve(), path.parent.resolve()
        if place != home and home not in place.parents:
            raise unsupported(
                f"its header points to {name}, outside its own folder", "move the data beside the header"
            )
    return path


def upright(
    cosines: NDArray[np.float64], spacing: tuple[float, ...], shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """The direction cosines of an upright grid, for axes that may be sheared a little.

    The one rule for every format: shear that moves no voxel by more than half a voxel across the whole volume
    is read as upright. The first axis stays, the second stays in their plane.

    Args:
        cosines: float64 [3, axis], a column an axis.
        spacing: mm from one voxel to the next along each.
        shape: voxels along each.

    Returns:
        float64 [3, axis]: `cosines` as they are where they are perpendicular as precisely as they are
        written, else perpendicular ones.

    Raises:
        DataError: a shape or spacing that is not positive; axes that do not span space, are no cosines, or
            lean by more.
    """
    if min(shape) < 1:
        raise damaged(f"it has no voxels ({' x '.join(map(str, shape))})")
    if not all(math.isfinite(edge) and edge > 0 for edge in spacing):
        raise damaged(f"its spacing {spacing} is not positive")
    lengths = np.linalg.norm(cosines, axis=0)
    units = cosines / np.where(lengths > 0, lengths, 1)
    if not np.isfinite(cosines).all() or lengths.min() <= 0 or abs(np.linalg.det(units)) < _SINGULAR:
        raise damaged("its axes do not span space")
    far = np.array(shape) - 1
    if (np.abs(lengths - 1) * far).max() > MOST_SHEAR:
        said = ", ".join(f"{length:g}" for length in lengths)
        raise unsupported(f"its direction cosines are of lengths {said}", "write them of length 1")
    straight, lean = np.linalg.qr(units * spacing)
    signs = np.sign(np.diag(lean))
    straight, lean = straight * signs, lean * signs[:, np.newaxis]
    moved = float(np.linalg.norm(np.abs(np.triu(lean, 1)) @ far / np.diag(lean)))
    crossed = float(np.abs(np.triu(units.T @ units, 1)).max())
    if moved > MOST_SHEAR:
        angle = math.degrees(math.asin(min(crossed, 1.0)))
        raise unsupported(
            f"its axes are tilted by {angle:.2g} degrees, which moves voxels by up to {moved:.1f} voxels, "
            f"{MOST_SHEAR} allowed",
            "resample it to an upright grid",
        )
    return cosines if crossed <= _AS_WRITTEN else straight
