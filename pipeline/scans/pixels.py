"""Reads the pixels of DICOM slices, in HU.

Uncompressed pixels are read directly from the file: the number of bytes is checked, MONOCHROME1 is not
inverted, and slope, intercept and padding are those of the slice. GDCM, through SimpleITK, decompresses the
others. Source: DICOM PS3.5 (encoding), PS3.3 (image pixel module, Modality LUT module).
"""

import hashlib
import os
import re
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.pipeline.scans.dicom import BIG_ENDIAN, DEFLATED, Slice, inflated
from genesis_toolkit.pipeline.scans.files import not_opened
from genesis_toolkit.pipeline.scans.gate import (
    OUTSIDE,
    check_bytes,
    check_rescale,
    damaged,
    rescaled,
    unsupported,
)

_PIXELS = 0x7FE00010
_UIDS = "1.2.840.10008."  # prefix of every UID of the standard
_PLAIN = ("", f"{_UIDS}1.2", f"{_UIDS}1.2.1", DEFLATED, BIG_ENDIAN)
_PACKED = tuple(
    f"{_UIDS}1.2.{end}" for end in ("4.50", "4.51", "4.57", "4.70", "4.80", "4.81", "4.90", "4.91", "5")
)
_OTHER_PIXELS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData"}
_WIDTHS = (8, 16, 32)
_EXPORT = "export the scan as CT Image Storage with whole numbers, slope and intercept"
_DECOMPRESS = "decompress the file first"
_AIR = Window().low  # padding up to this value is below the window anyway
_COMPLAINT = re.compile(rb"Corrupt JPEG|Premature end|Inconsistent progress|Invalid SOS|\[(ERROR|WARNING)\]")
_ONE_EAR = threading.Lock()  # decoders complain on the process's stderr, so only one may run at a time


def check_pixels(one: Slice) -> None:
    """Refuse a slice whose pixels are stored in an unsupported way or cannot be converted to HU.

    Raises:
        DataError: the reason, to follow the scan's name.
    """
    name, pixels = one.path.name, one.pixels
    if not pixels.sop_class.startswith(_UIDS) and pixels.sop_class:
        raise unsupported(f"slice {name} is of the private SOP class {pixels.sop_class}", _EXPORT)
    if pixels.element in _OTHER_PIXELS:
        raise unsupported(f"slice {name} holds {_OTHER_PIXELS[pixels.element]}", _EXPORT)
    if pixels.element != _PIXELS:
        raise damaged(f"slice {name} holds no pixels")
    if pixels.syntax not in (*_PLAIN, *_PACKED):
        raise unsupported(f"slice {name} is compressed as {_syntax_name(pixels.syntax)}", _DECOMPRESS)
    if pixels.photometric not in ("MONOCHROME2", "MONOCHROME1", ""):
        raise unsupported(f"slice {name} has the photometric interpretation {pixels.photometric}", _EXPORT)
    if pixels.photometric == "MONOCHROME1" and pixels.syntax in _PACKED:
        raise unsupported(f"slice {name} is compressed and MONOCHROME1", _DECOMPRESS)
    if pixels.allocated not in _WIDTHS or not 0 < pixels.stored <= pixels.high + 1 <= pixels.allocated:
        raise unsupported(
            f"slice {name} stores {pixels.stored} of {pixels.allocated} bits, with "
            f"{pixels.high} as the highest bit",
            _EXPORT,
        )
    if pixels.lut:  # programs disagree on a LUT together with slope and intercept, which is forbidden
        raise unsupported(f"slice {name} has a Modality LUT", _EXPORT)
    check_rescale(pixels.slope, pixels.intercept, f"slice {name}")


def read_planes(slices: Iterable[Slice], digest: Any) -> Iterator[NDArray[Any]]:
    """Read slices one after the other.

    Args:
        slices: slices that passed `check_pixels`.
        digest: is updated with the bytes of each file, once.

    Yields:
        [y, x] in HU, slope and intercept applied: any integer type, or float64 if these are fractional;
        padding above air is set below every window.

    Raises:
        DataError: a slice is damaged or cut short, or cannot be opened.
    """
    seen, last, data = set[Path](), None, b""
    for one in slices:
        if one.path != last:  # a file of many frames is read once
            try:
                last, data = one.path, one.path.read_bytes()
            except OSError as error:
                raise DataError(not_opened(error)) from None
            if last not in seen:
                digest.update(data)
            seen.add(last)
        yield _unpacked(one) if one.pixels.syntax in _PACKED else _plain(one, data)


def same_pixels(one: Slice, other: Slice) -> bool:
    """Return whether two slices hold the same HU.

    Raises:
        DataError: one of them cannot be read.
    """
    first, second = read_planes((one, other), hashlib.sha256())
    return np.array_equal(first, second)


def _plain(one: Slice, data: bytes) -> NDArray[Any]:
    """Read a plane of uncompressed pixels."""
    pixels, (columns, rows) = one.pixels, one.edges
    width = pixels.allocated // 8
    needed = rows * columns * width
    if pixels.syntax == DEFLATED:
        data = _inflated(one, data, pixels.offset + needed)
    found = len(data) - pixels.offset
    check_bytes(max(min(found, found if pixels.length is None else pixels.length), 0), needed, _named(one))
    order = ">" if pixels.syntax == BIG_ENDIAN and width > 1 else "<"
    values: NDArray[Any] = np.frombuffer(
        data, f"{order}{'i' if pixels.signed else 'u'}{width}", rows * columns, pixels.offset
    )
    if pixels.syntax == BIG_ENDIAN and width == 1:
        raise unsupported(f"{_named(one)} stores 8 bits big endian", _DECOMPRESS)
    values = _counting(values.astype(values.dtype.newbyteorder("="), copy=False), one)
    slope, intercept = _scale(one)
    plane = rescaled(values, slope, intercept)
    if pixels.padding is not None:
        low, high = (int(_counting(np.array([end]).astype(values.dtype), one)[0]) for end in pixels.padding)
        if max(low * slope, high * slope) + intercept > _AIR:
            plane[(values >= min(low, high)) & (values <= max(low, high)) & (plane > _AIR)] = OUTSIDE
    return plane.reshape(rows, columns)


def _scale(one: Slice) -> tuple[float, float]:
    """Return slope and intercept, which `check_pixels` has verified."""
    slope, intercept = one.pixels.slope, one.pixels.intercept
    assert slope is not None
    assert intercept is not None
    return slope, intercept


def _named(one: Slice) -> str:
    return f"slice {one.path.name}"


def _syntax_name(uid: str) -> str:
    from pydicom.uid import UID

    return UID(uid).name


def _counting(values: NDArray[Any], one: Slice) -> NDArray[Any]:
    """Keep only the stored bits of each value, including its sign."""
    pixels = one.pixels
    unused, above = pixels.allocated - pixels.stored, pixels.allocated - 1 - pixels.high
    return (values << above) >> unused if unused else values


def _inflated(one: Slice, data: bytes, needed: int) -> bytes:
    """Inflate the data set of a deflated file up to its last pixel."""
    try:
        return inflated(data[one.pixels.begin :], needed)
    except ValueError:
        raise damaged(f"{_named(one)} cannot be inflated") from None


@contextmanager
def heard(stream: int = 2) -> Iterator[list[str]]:
    """Collect complaints of decoders, which libjpeg writes directly to the process's stderr or stdout.

    Other lines are passed on to their destination. `stream` selects stdout (1) or stderr (2).
    """
    complaints: list[str] = []
    with _ONE_EAR, tempfile.TemporaryFile() as file:
        try:
            own = os.dup(stream)
        except OSError:  # the process has no such stream
            yield complaints
            return
        os.dup2(file.fileno(), stream)
        try:
            yield complaints
        finally:
            os.dup2(own, stream)
            os.close(own)
            file.seek(0)
            for line in file:
                if _COMPLAINT.match(line):
                    complaints.append(line.decode("ascii", errors="replace").strip())
                else:
                    os.write(stream, line)


def _unpacked(one: Slice) -> NDArray[Any]:
    """Decompress a plane with GDCM, already in HU; any complaint of a decoder counts as damage."""
    import SimpleITK as sitk

    pixels, (columns, rows) = one.pixels, one.edges
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.LoadPrivateTagsOff()
    reader.SetFileName(str(one.path))
    with heard() as complaints:
        try:
            plane = sitk.GetArrayFromImage(reader.Execute())
        except RuntimeError:
            plane = np.empty(0)
    if complaints:
        raise damaged(f"decompressing {_named(one)} gave an error ({complaints[0]})")
    if plane.size != rows * columns:
        raise damaged(f"{_named(one)} does not decompress to {columns} x {rows} pixels")
    if pixels.padding is not None:
        slope, intercept = _scale(one)
        low, high = sorted(end * slope + intercept for end in pixels.padding)
        plane = plane.astype(np.int64) if plane.dtype.kind in "iu" else plane  # some cannot hold OUTSIDE
        plane[(plane >= low) & (plane <= high) & (plane > _AIR)] = OUTSIDE
    return plane.reshape(rows, columns)
