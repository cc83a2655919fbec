"""What a scan is, and reading one; the scans of a folder are found in `find`.

Voxels are HU. Where all of a scan's are whole they come as int16; otherwise as the real numbers they are,
since the tissue rule judges these before any rounding (METHOD.md section 2).
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import AnyPath
from genesis_toolkit.pipeline.scans.dicom import read_planes
from genesis_toolkit.pipeline.scans.files import check_file, not_opened
from genesis_toolkit.pipeline.scans.formats import (
    META_IMAGE,
    NIFTI,
    check_meta_image,
    check_nifti,
    check_nifti_header,
    files_of,
    inflate_meta_image,
    read_plain,
)
from genesis_toolkit.pipeline.scans.geometry import Geometry, Scan
from genesis_toolkit.pipeline.scans.series import Stack, folder_and_label, series_at, series_of, stack

_BLOCK = 1 << 20
_INT16 = np.iinfo(np.int16)


def scan_path(text: str) -> Path:
    """The path of one scan as a user gives it: a file, a DICOM folder, or `folder#label` as tables show it.

    Raises:
        CallError: there is nothing there, or a folder that is no single DICOM series.
        DataError: the folder cannot be opened.
    """
    if not text:
        raise CallError("'' is no path: give a scan.")
    path = Path(text)
    folder, label = folder_and_label(path)
    if folder is None:
        if not path.exists():
            raise CallError(f"There is no scan {path}: give a file, or the folder of a DICOM series.")
        return path
    series = series_of(folder)
    if label not in series:
        ways = ", ".join(f"{folder}{other}" for other in series)
        raise CallError(
            f"{path} is no DICOM series: "
            + (f"give {ways}." if series else f"{folder} holds none; give a file, or a folder that does.")
        )
    return path


def read_geometry(path: Path) -> Geometry:
    """Read a scan's header only; of a DICOM series, given as in `Source.path`, those of all its slices.

    Dimensions beyond the third that have one entry are dropped.

    Raises:
        DataError: it cannot be read, or is no volume of one number a voxel.
    """
    import SimpleITK as sitk

    series = series_at(path)
    if series:
        return stack(series.slices).geometry
    check_file(path)
    if path.suffix.lower() in META_IMAGE:
        check_meta_image(path)
    if path.name.lower().endswith(NIFTI):
        check_nifti_header(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        raise DataError("its header cannot be read: it is damaged or of another format") from None
    if path.name.lower().endswith(NIFTI):
        check_nifti(path, reader)
    dimensions, components = reader.GetDimension(), reader.GetNumberOfComponents()
    shape = tuple(int(edge) for edge in reader.GetSize())
    if dimensions < 3 or any(edge != 1 for edge in shape[3:]):
        raise DataError(f"it has {dimensions} dimensions ({' x '.join(map(str, shape))}), 3 wanted")
    if components != 1:
        raise DataError(f"it has {components} numbers a voxel (colour?), 1 wanted")
    if min(shape) < 1:
        raise DataError(f"it has no voxels ({' x '.join(map(str, shape))})")
    spacing = tuple(float(edge) for edge in reader.GetSpacing()[:3])
    if not all(np.isfinite(edge) and edge > 0 for edge in spacing):
        raise DataError(f"its spacing {spacing} is not positive")
    origin = tuple(float(edge) for edge in reader.GetOrigin()[:3])
    cosines = np.reshape(reader.GetDirection(), (dimensions, dimensions))[:3, :3]
    return Geometry(_three(shape[:3]), _three(spacing), _three(origin), tuple(cosines.ravel().tolist()))


def read_scan(path: AnyPath) -> Scan:
    """Read a scan whole.

    Values outside int16 are clipped to it. Voxels that are then all whole come as int16; others as float32
    where that holds every one of them exactly, else as float64. Memory: the voxels once, as they lie in the
    file, and once more where another type is made of them; of a DICOM series once, and a slice.

    Args:
        path: a file, or a DICOM series as `Found` lists it; a string is taken as a user gives it, see
            `scan_path`.

    Raises:
        CallError: there is nothing at `path`.
        DataError: it cannot be read; the message says why, to go after the scan's name.
    """
    path = path if isinstance(path, Path) else scan_path(os.fspath(path))
    series = series_at(path)
    if series:
        stacked = stack(series.slices)
        return Scan(_read_series(stacked).T, stacked.geometry, _sha256(stacked.files))
    geometry = read_geometry(path)
    plain = read_plain(path) if path.suffix.lower() == ".mhd" else None
    if plain is not None:
        return Scan(plain[0].reshape(geometry.shape[::-1]).T, geometry, plain[1])
    return Scan(_read_file(path, geometry).T, geometry, _sha256(files_of(path)))


def scan_files(path: Path) -> list[Path]:
    """The files that a scan is made of: header first, or the slices of a DICOM series by name.

    Raises:
        DataError: there is no such series, or the header points outside its own folder.
    """
    series = series_at(path)
    return [one.path for one in series.slices] if series else files_of(path)


def scan_sha256(path: Path) -> str:
    """The sha256 that `read_scan` gives of a scan, its voxels not decoded.

    Returns:
        Hexadecimal, over the bytes of its files: header first, or the slices as they are stacked.

    Raises:
        DataError: there is no such scan, it is a series that makes no volume, or it cannot be opened.
    """
    series = series_at(path)
    return _sha256(stack(series.slices).files if series else files_of(path))


def _read_file(path: Path, geometry: Geometry) -> NDArray[Any]:
    """The voxels [z, y, x] of one file."""
    import SimpleITK as sitk

    values = inflate_meta_image(path) if path.suffix.lower() in META_IMAGE else None
    if values is None:
        try:
            values = np.asarray(_Lent(sitk.ReadImage(str(path))))
        except RuntimeError:
            raise DataError("its voxels cannot be read: the file is damaged or cut short") from None
    return _settled(values.reshape(geometry.shape[::-1]))


class _Lent:
    """The voxels of a SimpleITK image, lent to NumPy: half the memory and two thirds of the time of a copy.

    The array made of it keeps it, and so the image, alive; nobody else has the image, so it may be written.
    """

    def __init__(self, image: Any) -> None:
        import SimpleITK as sitk

        self._image = image
        lent = sitk.GetArrayViewFromImage(image).__array_interface__
        self.__array_interface__ = lent | {"data": (lent["data"][0], False)}


def _read_series(stacked: Stack) -> NDArray[Any]:
    """The voxels [z, y, x] of a series, of a wider type from the first slice on that needs it."""
    columns, rows, count = stacked.geometry.shape
    voxels: NDArray[Any] = np.empty((count, rows, columns), np.int16)
    for z, plane in enumerate(read_planes(stacked.files, (columns, rows))):
        dtype = np.promote_types(voxels.dtype, _clip(plane))
        if dtype != voxels.dtype:
            wider = np.empty(voxels.shape, dtype)
            wider[:z] = voxels[:z]
            voxels = wider
        voxels[z] = plane
    return voxels


def _settled(values: NDArray[Any]) -> NDArray[Any]:
    """Voxels [z, y, x] of any type, clipped and of the type for them; changed in place where that will do."""
    if values.dtype == np.int16:
        return values
    if not values.flags.writeable:
        values = values.copy()
    dtype = np.dtype(np.int16)
    for plane in values:  # by slices, so that little memory is used beside them
        dtype = np.promote_types(dtype, _clip(plane))
    return values.astype(dtype, copy=False)


def _clip(plane: NDArray[Any]) -> np.dtype[Any]:
    """Clip values to int16 in place; the smallest of int16, float32 and float64 that holds them exactly.

    Raises:
        DataError: values that are no numbers, or of a type that is none of numbers.
    """
    if plane.dtype.kind in "iu":
        limits = np.iinfo(plane.dtype)
        np.clip(plane, max(_INT16.min, limits.min), min(_INT16.max, limits.max), out=plane)
        return np.dtype(np.int16)
    if plane.dtype not in (np.float32, np.float64):
        raise DataError(f"its voxels are {plane.dtype}, whole or real numbers wanted")
    if not np.isfinite(plane).all():
        raise DataError("it holds values that are no numbers (NaN or infinite)")
    np.clip(plane, _INT16.min, _INT16.max, out=plane)
    if (np.rint(plane) == plane).all():
        return np.dtype(np.int16)
    return np.dtype(np.float32 if (plane.astype(np.float32) == plane).all() else np.float64)


def _sha256(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    try:
        for path in paths:
            with path.open("rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
    except OSError as error:
        raise DataError(not_opened(error)) from None
    return digest.hexdigest()


def _three(values: tuple[Any, ...]) -> tuple[Any, Any, Any]:
    x, y, z = values
    return x, y, z
