"""Reads one scan; `find` lists the scans of a folder.

Voxels are in HU. If all voxels of a scan are whole numbers they are returned as int16, otherwise as real
numbers, since the tissue rule judges them before any rounding (METHOD.md section 2).
"""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline import absent
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import AnyPath
from genesis_toolkit.pipeline.scans.files import check_regular, not_opened
from genesis_toolkit.pipeline.scans.find import find_scans, layout_of
from genesis_toolkit.pipeline.scans.formats import META_IMAGE, NRRD, files_of, stored_at
from genesis_toolkit.pipeline.scans.gate import NO_HEADER, clip, damaged, no_scan, upright
from genesis_toolkit.pipeline.scans.geometry import Geometry, Scan
from genesis_toolkit.pipeline.scans.hashing import Hashing, Room
from genesis_toolkit.pipeline.scans.nifti import NIFTI, NiftiHeader, check_checksum, read_nifti_header
from genesis_toolkit.pipeline.scans.pixels import read_planes
from genesis_toolkit.pipeline.scans.series import Stack, folder_and_label, series_at, series_of, stack
from genesis_toolkit.pipeline.scans.stored import Stored, check_present, check_sizes, read_stored

_BLOCK = 1 << 20
_SIMPLE_ITK = {"MetaImageIO": META_IMAGE, "NiftiImageIO": NIFTI, "NrrdImageIO": NRRD}


def scan_path(text: str) -> Path:
    """Return the path of one scan from user input: a file, a DICOM folder, or `folder#label` from a table.

    Raises:
        CallError: it does not exist, or is a folder that is not a single DICOM series.
        DataError: the folder cannot be opened.
    """
    if not text:
        raise CallError("The path of the scan is empty: give a file, or the folder of a DICOM series.")
    path = Path(text)
    folder, label = folder_and_label(path)
    if folder is None:
        if not path.exists():
            if known := _known(path):
                return known
            raise absent.no_scan(path)
        return path
    series = series_of(folder)
    if label not in series:
        if known := _known(path):
            return known
        ways = ", ".join(f"{folder}{other}" for other in series)
        raise CallError(
            f"{path} is not a DICOM series: "
            + (
                f"give {ways}."
                if series
                else f"{folder} holds no series; give a file, or a folder with a series."
            )
        )
    return path


def _known(path: Path) -> Path | None:
    """Return the scan listed in a table under this name, perhaps shortened, after its source; else None."""
    base = next((parent for parent in path.parents if parent.is_dir()), path)
    if layout_of(base.parent) == "luna16":
        base = base.parent
    elif "#" not in path.name and "…" not in str(path):
        return None  # no table uses such a name, and searching for it takes time
    requested, _, end = path.relative_to(base).as_posix().partition("…")
    try:
        names = find_scans(base, subsets=range(10) if layout_of(base) == "luna16" else None).names()
    except CallError:
        return None
    alike = [
        own
        for own, name in names.items()
        if name == requested or (end and name.startswith(requested) and name.endswith(end))
    ]
    return base / alike[0] if len(alike) == 1 else None


@dataclass(frozen=True)
class Opened:
    """A scan of which only the header has been read.

    Attributes:
        geometry: position of its voxels in the patient.
        inside: location of the voxels in its files, or the slices of the series.
    """

    geometry: Geometry
    inside: Stored | Stack

    def read(self, room: Room | None = None) -> Scan:
        """Read the voxels.

        Args:
            room: reusable memory for voxels that need no conversion; the scan is valid until the next one is
                read into it, and must not be changed before its `sha256` is known. None allocates memory.

        Raises:
            DataError: they cannot be read; the message follows the scan's name.
        """
        if isinstance(self.inside, Stack):
            voxels, digest = _read_series(self.inside)
        else:
            voxels, digest = read_stored(self.inside, self.geometry.shape, room)
        return Scan(voxels.T, self.geometry, digest)


def open_scan(path: Path, mr: bool = False) -> Opened:
    """Read a scan's header only; for a DICOM series, given by its `Source.path`, those of all its slices.

    Dimensions beyond the third that have one entry are dropped; for `mr` see `read_scan`.

    Raises:
        DataError: it cannot be read, or is not an upright volume with one number per voxel.
    """
    if series := series_at(path, mr):
        stacked = stack(series.slices)
        return Opened(stacked.geometry, stacked)
    return Opened(*_read_header(path))


def read_geometry(path: Path, mr: bool = False) -> Geometry:
    """Return the geometry of a scan from its header, as read by `open_scan`."""
    return open_scan(path, mr).geometry


def read_scan(path: AnyPath, mr: bool = False) -> Scan:
    """Read a whole scan.

    Values are clipped to the range of int16. Voxels that are then all whole are returned as int16; others as
    float32 if that holds each of them exactly, else as float64. Memory: the voxels once as stored in the
    file, and once more if they are converted; for a DICOM series once, plus one slice.

    Args:
        path: a file, or a DICOM series as `Found` lists it; a string is interpreted as user input, see
            `scan_path`.
        mr: whether DICOM of MR is accepted too; its values have no unit, so map them with a window.

    Raises:
        CallError: `path` does not exist.
        DataError: it cannot be read; the message gives the reason and follows the scan's name.
    """
    path = path if isinstance(path, Path) else scan_path(os.fspath(path))
    scan = open_scan(path, mr).read()
    return replace(scan, digest=scan.sha256)  # the hash is known now, so voxels may be changed


def scan_files(path: Path, mr: bool = False) -> list[Path]:
    """Return the files of a scan: header first, or the slices of a DICOM series by name.

    For `mr` see `read_scan`.

    Raises:
        DataError: there is no such series, or the header does not name its data files clearly.
    """
    series = series_at(path, mr)
    return [one.path for one in series.slices] if series else files_of(path)


def scan_sha256(path: Path, mr: bool = False) -> str:
    """Return the sha256 that `read_scan` gives a scan, without decoding its voxels; for `mr` see there.

    Returns:
        Hexadecimal, over the bytes of its files: header first, or the slices in stacking order.

    Raises:
        DataError: there is no such scan, the series is not a volume, or it cannot be opened.
    """
    series = series_at(path, mr)
    return _sha256(
        dict.fromkeys(one.path for one in stack(series.slices).slices) if series else files_of(path)
    )


def _read_header(path: Path) -> tuple[Geometry, Stored]:
    """Read a file's header: the geometry in the patient, and the location of the voxels in the files."""
    check_regular(path)
    if path.name.lower().endswith(NIFTI):
        try:
            header = read_nifti_header(path)
            geometry, stored = _of_nifti(path, header), header.stored
        except DataError:
            check_checksum(path)  # a bit error in compressed data may show up as an odd header
            raise
    else:
        stored = stored_at(path)
        check_present(stored)
        geometry = _read_itk(path)
    check_sizes(stored, geometry.shape)
    return geometry, stored


def _of_nifti(path: Path, header: NiftiHeader) -> Geometry:
    """Return the geometry of a NIfTI file: SimpleITK's, or ours if SimpleITK refuses slight shear."""
    if header.axes is None:
        return _read_itk(path)
    geometry = _of_simple_itk(path)
    lengths = np.linalg.norm(header.axes, axis=0)
    units = header.axes / np.where(lengths > 0, lengths, 1)
    own = _checked(header.shape, header.spacing, header.origin, units)
    return own if geometry is None else geometry


def _read_itk(path: Path) -> Geometry:
    geometry = _of_simple_itk(path)
    if geometry is None:
        raise damaged(NO_HEADER)
    return geometry


def _of_simple_itk(path: Path) -> Geometry | None:
    """Return the geometry that SimpleITK reads from a file's header; None if it cannot read it."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(_reader_of(path))  # otherwise each of its readers opens the file
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    dimensions, components = reader.GetDimension(), reader.GetNumberOfComponents()
    if components != 1:
        raise no_scan(f"each voxel has {components} numbers (colour?) instead of 1")
    spacing = tuple(float(edge) for edge in reader.GetSpacing()[:3])
    origin = tuple(float(edge) for edge in reader.GetOrigin()[:3])
    cosines = np.reshape(reader.GetDirection(), (dimensions, dimensions))[:3, :3]
    return _checked(tuple(int(edge) for edge in reader.GetSize()), spacing, origin, cosines)


def _reader_of(path: Path) -> str:
    """Return SimpleITK's name of its reader for a format."""
    return next(name for name, suffixes in _SIMPLE_ITK.items() if path.name.lower().endswith(suffixes))


def _checked(
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    origin: tuple[float, ...],
    cosines: NDArray[np.float64],
) -> Geometry:
    """Check that a geometry is a volume, and return it upright."""
    if len(shape) < 3 or any(edge != 1 for edge in shape[3:]):
        raise no_scan(f"the scan has {len(shape)} dimensions ({' x '.join(map(str, shape))}) instead of 3")
    cosines = upright(cosines, spacing, shape[:3])
    return Geometry(_three(shape[:3]), _three(spacing), _three(origin), tuple(cosines.ravel().tolist()))


def _read_series(stacked: Stack) -> tuple[NDArray[Any], Hashing]:
    """Read the voxels [z, y, x] of a series, widening the type from the slice that needs it; and hash it."""
    columns, rows, count = stacked.geometry.shape
    voxels: NDArray[Any] = np.empty((count, rows, columns), np.int16)
    digest = Hashing()
    try:
        for z, plane in enumerate(read_planes(stacked.slices, digest)):
            dtype = np.promote_types(voxels.dtype, clip(plane))
            if dtype != voxels.dtype:
                wider = np.empty(voxels.shape, dtype)
                wider[:z] = voxels[:z]
                voxels = wider
            voxels[z] = plane
    finally:
        digest.close()
    return voxels, digest


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
