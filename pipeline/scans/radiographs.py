"""Reads any X-ray image as grey levels: PNG and JPEG with 8 or 16 bits, and DICOM of CR or DX.

8-bit values are kept. Deeper values are mapped linearly to 0..255: for DICOM by the first window in the
header (DICOM PS3.3, C.11.2), otherwise by the range of the image's own values. `Picture` records the mapping.
Colour becomes grey by the luma of ITU-R BT.601. SimpleITK decodes, since Pillow ignores complaints of
libjpeg; Pillow reads the headers of JPEGs, since SimpleITK mistakes four inks for three colours.
"""

import hashlib
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.pipeline.scans.dicom import QUIET, Slice, read_header
from genesis_toolkit.pipeline.scans.find import ImageLayout
from genesis_toolkit.pipeline.scans.gate import OUTSIDE, damaged, unsupported
from genesis_toolkit.pipeline.scans.images import (
    MOST_BYTES,
    Picture,
    first_bytes,
    read_image,
    read_image_size,
)
from genesis_toolkit.pipeline.scans.mapping import mapped
from genesis_toolkit.pipeline.scans.pixels import check_pixels, heard, read_planes
from genesis_toolkit.pipeline.scans.png import check_size, decode_png, luma, png_size

#: Modalities of X-ray images that are single pictures.
MODALITIES = ("CR", "DX")

_JPEG = (".jpg", ".jpeg")
_MODES = ("L", "RGB")
_GREY = Window(0, 255)
_TAGS = ["WindowCenter", "WindowWidth", "VOILUTFunction", "RescaleSlope", "RescaleIntercept"]
_EXPORT = "export the image as PNG"


@dataclass(frozen=True)
class _Told:
    """Further header values of a DICOM image: the ends of its window, and whether values are as stored."""

    ends: tuple[float, float] | None
    as_stored: bool


def picture_of(path: Path, layout: ImageLayout) -> Picture:
    """Read an X-ray image according to its layout; NIH's are 8-bit PNGs.

    Raises:
        DataError: see `read_image` and `read_radiograph`.
    """
    return read_image(path) if layout == "nih" else read_radiograph(path)


def picture_size(path: Path, layout: ImageLayout) -> tuple[int, int]:
    """Read the columns and rows of an X-ray image from its header.

    Raises:
        DataError: see `picture_of`, as far as the header reveals it.
    """
    if layout == "nih":
        return read_image_size(path)
    if path.suffix.lower() == ".png":
        return png_size(first_bytes(path, 33), deep=True)
    return _jpeg_size(path) if path.suffix.lower() in _JPEG else _dicom(path).edges


def read_radiograph(path: Path) -> Picture:
    """Read a PNG, a JPEG or DICOM of CR or DX.

    Raises:
        DataError: it is unsupported, damaged, or all its pixels are equal; the reason follows its name.
    """
    suffix = path.suffix.lower()
    if suffix == ".png" or suffix in _JPEG:
        data = _whole(path)
        values = decode_png(path, data, deep=True) if suffix == ".png" else _decode_jpeg(path)
        sha256 = hashlib.sha256(data).hexdigest()
        if values.dtype == np.uint8:
            return Picture(values.T, sha256)
        low, high = float(values.min()), float(values.max())
        return Picture(_mapped(values.astype(np.int32), low, high).T, sha256, (low, high))
    return _read_dicom(path)


def read_values(path: Path) -> NDArray[Any]:
    """Read the unchanged values [x, y] of a PNG, such as a mask: uint8, or uint16 if it has 16 bits.

    Raises:
        DataError: it cannot be read, or is damaged.
    """
    return decode_png(path, _whole(path), deep=True).T


def _whole(path: Path) -> bytes:
    data = first_bytes(path, MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise DataError(f"the file has more than {MOST_BYTES:,} bytes, the limit for an image")
    return data


def _mapped(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Map values [y, x] to grey levels, `low` and below to 0, `high` and above to 255, halves to even."""
    if low < high:
        grey: NDArray[np.uint8] = mapped(values, low, high, _GREY).astype(np.uint8)
        if grey.min() < grey.max():
            return grey
    raise DataError(
        f"the image is blank: all pixels have the same grey level when {low:g} is black and {high:g} is white"
    )


def _jpeg_size(path: Path) -> tuple[int, int]:
    """Read the columns and rows of an 8-bit JPEG, grey or with three colours."""
    from PIL import Image, UnidentifiedImageError

    first_bytes(path, 1)
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=["JPEG"]) as image:
            (columns, rows), mode = image.size, image.mode
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError):
        raise damaged("the JPEG header cannot be read") from None
    if mode not in _MODES:
        raise unsupported(f"the JPEG has colour mode {mode}", "save the image in grey, or as PNG")
    check_size(columns, rows)
    return columns, rows


def _decode_jpeg(path: Path) -> NDArray[np.uint8]:
    """Decode the grey levels [y, x] of a JPEG; any complaint of libjpeg counts as damage."""
    import SimpleITK as sitk

    columns, rows = _jpeg_size(path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("JPEGImageIO")
    reader.SetFileName(str(path))
    with heard(1) as complaints:  # SimpleITK prints them on stdout
        try:
            values: NDArray[np.uint8] = sitk.GetArrayFromImage(reader.Execute())
        except RuntimeError:
            values = np.empty((0, 0), np.uint8)
    if complaints or values.shape[:2] != (rows, columns):
        why = f" ({complaints[0]})" if complaints else ""
        raise damaged(f"decoding the JPEG gave an error{why}")
    return luma(values)


def _dicom(path: Path) -> Slice:
    """Read the header of a DICOM file that is one X-ray image."""
    one = read_header(path)
    if one is None:
        raise unsupported("the file is neither PNG, JPEG nor DICOM", _EXPORT)
    if one.modality not in MODALITIES:
        raise DataError(
            f"the DICOM modality is {one.modality or 'not given'}; only {' or '.join(MODALITIES)} is read"
        )
    if one.frames != 1:
        raise unsupported(f"the image has {one.frames} frames", "export each frame as a separate image")
    check_size(*one.edges)
    return one


def _read_dicom(path: Path) -> Picture:
    one, said = _dicom(path), _told(path)
    if said.as_stored:
        one = replace(one, pixels=replace(one.pixels, slope=1.0, intercept=0.0))
    check_pixels(one)
    digest = hashlib.sha256()
    (values,) = read_planes((one,), digest)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise damaged("some pixels are NaN or infinite")
    padding = values == OUTSIDE
    own = values[~padding]
    if not own.size:
        raise DataError("all pixels are padding")
    low, high = said.ends or (float(own.min()), float(own.max()))
    grey = _mapped(values, low, high)
    inverted = one.pixels.photometric == "MONOCHROME1"
    if inverted:
        grey = np.uint8(255) - grey
    grey[padding] = 0
    return Picture(grey.T, digest.hexdigest(), (low, high), inverted)


def _told(path: Path) -> _Told:
    """Read the window ends of a DICOM image, after slope and intercept; None without a window."""
    import pydicom

    try:
        with QUIET, warnings.catch_warnings(action="ignore"):
            header = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=_TAGS)
            centre, width = (_first(header.get(name)) for name in ("WindowCenter", "WindowWidth"))
            function = str(header.get("VOILUTFunction") or "LINEAR")
    except Exception:  # pydicom does not catch all effects of damaged bytes
        raise damaged("the DICOM window cannot be read") from None
    as_stored = "RescaleSlope" not in header and "RescaleIntercept" not in header
    ends = None
    if centre is not None and width is not None and function in ("LINEAR", "LINEAR_EXACT"):
        exact = function == "LINEAR_EXACT"
        middle, half = (centre, width / 2) if exact else (centre - 0.5, (width - 1) / 2)
        ends = (middle - half, middle + half) if half > 0 else None
    return _Told(ends, as_stored)


def _first(value: Any) -> float | None:
    """Return a number, or the first of several; None if there is none."""
    values = value if isinstance(value, list | tuple) or hasattr(value, "__iter__") else [value]
    return next((float(one) for one in values if one not in (None, "")), None)
