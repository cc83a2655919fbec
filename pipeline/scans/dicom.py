"""One DICOM file: what its header says of its series and its place, and its pixels.

The few header elements that are wanted are read here: SimpleITK takes five times as long for a header, and
opens nothing that is no image, so that it could not name an RT object or a report. The pixels, rescaled to
HU, are read by SimpleITK. Of the header nothing but the series' identifier, its geometry and the pixel
scaling goes any further. Source: DICOM PS3.3 (image plane module), PS3.5 (encoding).
"""

import math
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.scans.files import not_opened

#: What DICOM files are called where they have a suffix at all.
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")

_SOP_CLASS_OF_FILE, _SYNTAX, _IMAGE_TYPE, _MODALITY = 0x00020002, 0x00020010, 0x00080008, 0x00080060
_SERIES, _POSITION, _ORIENTATION = 0x0020000E, 0x00200032, 0x00200037
_SAMPLES, _FRAMES, _ROWS, _COLUMNS = 0x00280002, 0x00280008, 0x00280010, 0x00280011
_PIXEL_SPACING = 0x00280030  # the last one wanted
_WANTED = frozenset((
    _SOP_CLASS_OF_FILE, _SYNTAX, _IMAGE_TYPE, _MODALITY, _SERIES, _POSITION, _ORIENTATION,
    _SAMPLES, _FRAMES, _ROWS, _COLUMNS, _PIXEL_SPACING,
))  # fmt: skip
# By byte order: group, element, type and length of an element; a length of four bytes. Compiled, since a
# header holds a hundred elements.
_EXPLICIT = {order: struct.Struct(order + "HH2sH") for order in "<>"}
_LENGTH = {order: struct.Struct(order + "I") for order in "<>"}
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_LONG = frozenset((b"OB OD OF OL OV OW SQ SV UC UN UR UT UV").split())  # these have a length of four bytes
_IMPLICIT, _DEFLATED, _BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
_INDEX, _INDEX_NAME = "1.2.840.10008.1.3.10", "DICOMDIR"  # the SOP class of a disc's index, and its name
_HEAD_BYTES = (1 << 14, 1 << 22, -1)  # how much more of a file is read until its header is whole
_DEFLATED_BYTES = 1 << 24  # the most that a deflated header may inflate to
# How a file begins that lacks the preamble: with its meta group, or with group 8.
_BARE = (b"\x02\0\0\0", b"\x08\0\0\0", b"\x08\0\x01\0", b"\x08\0\x05\0", b"\x08\0\x08\0")


@dataclass(frozen=True)
class Slice:
    """What the header of one DICOM file says.

    Attributes:
        path: the file.
        series: its SeriesInstanceUID; empty where it was removed.
        skip: why it is no slice of a CT volume; empty for one that is.
        frames: images in the file.
        edges: columns and rows, so voxels in x and y.
        position: mm, the centre of the first voxel in the patient (left, posterior, superior).
        orientation: the cosines along x, then along y.
        spacing: mm between voxel centres in x and y. Of these three, empty is what the header lacks.
        state: the file as it was read, see `state_of`.
    """

    path: Path
    series: str
    skip: str
    frames: int
    edges: tuple[int, int]
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    state: tuple[int, int]


class _ShortError(Exception):
    """The bytes end before the header does."""


def state_of(status: os.stat_result) -> tuple[int, int]:
    """What tells that a file has changed: its bytes, and when it was last written, in ns."""
    return status.st_size, status.st_mtime_ns


def _is_dicom(head: bytes) -> bool:
    """Whether these are the first bytes of a DICOM file, with or without its preamble; 132 are enough."""
    return head[128:132] == b"DICM" or (len(head) >= 132 and head[:4] in _BARE)


def read_header(path: Path) -> Slice | None:
    """Read what a DICOM file's header says of its series and its place, opening the file once.

    Returns:
        None where the file's first bytes are not those of DICOM.

    Raises:
        DataError: it cannot be opened, or its header is damaged or cut short.
    """
    try:
        with path.open("rb", buffering=0) as file:
            state = state_of(os.fstat(file.fileno()))
            head = file.read(_HEAD_BYTES[0])
            if not _is_dicom(head):
                return None
            elements = _read_elements(file, head, state[0])
        numbers = {tag: _numbers(elements, tag) for tag in (_POSITION, _ORIENTATION, _PIXEL_SPACING)}
        samples, rows, columns = (_unsigned(elements, tag) for tag in (_SAMPLES, _ROWS, _COLUMNS))
        frames = int(_text(elements, _FRAMES) or 1)
    except OSError as error:
        raise DataError(not_opened(error)) from None
    except (_ShortError, ValueError, struct.error, zlib.error, RecursionError):
        raise DataError("its DICOM header cannot be read: it is damaged or cut short") from None
    spacing = numbers[_PIXEL_SPACING]
    return Slice(
        path=path,
        series=_text(elements, _SERIES) or (_INDEX_NAME if _is_index(elements) else ""),
        skip=_skip_file(elements, samples),
        frames=frames,
        edges=(columns, rows),
        position=numbers[_POSITION],
        orientation=numbers[_ORIENTATION],
        spacing=spacing[::-1],  # DICOM puts the distance of rows, so y, first
        state=state,
    )


def read_planes(paths: Iterable[Path], edges: tuple[int, int]) -> Iterator[NDArray[Any]]:
    """Read slices one after the other.

    Args:
        paths: the files.
        edges: columns and rows that each must have.

    Yields:
        [y, x] in HU, slope and intercept applied: of any integer type, or float64 where these have a part.

    Raises:
        DataError: a slice is damaged, cut short, or of another size than its header said.
    """
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.LoadPrivateTagsOff()
    columns, rows = edges
    for path in paths:
        reader.SetFileName(str(path))
        try:
            plane = sitk.GetArrayFromImage(reader.Execute())
        except RuntimeError:
            raise DataError(f"its slice {path.name} cannot be read: it is damaged or cut short") from None
        if plane.size != rows * columns:
            raise DataError(f"its slice {path.name} holds {plane.size} voxels, {rows * columns} wanted")
        yield plane.reshape(rows, columns)


def _skip_file(elements: dict[int, bytes], samples: int) -> str:
    kinds = _text(elements, _IMAGE_TYPE).upper().split("\\")
    modality = _text(elements, _MODALITY)
    if _is_index(elements):
        return "the index of a disc, not a volume"
    if modality != "CT":
        return f"its DICOM modality is {modality or 'not said'}, CT wanted"
    if "LOCALIZER" in kinds or "SCOUT" in kinds:
        return "a localizer, not a volume"
    if samples > 1:
        return "a colour capture, not a volume"
    return "" if _ROWS in elements else "a DICOM object without an image, not a volume"


def _is_index(elements: dict[int, bytes]) -> bool:
    return _text(elements, _SOP_CLASS_OF_FILE) == _INDEX


def _read_elements(file: FileIO, data: bytes, size: int) -> dict[int, bytes]:
    """The wanted elements of a file of `size` bytes, of which `data` has been read; more only as needed."""
    for count in _HEAD_BYTES[1:]:
        if len(data) >= size:
            break
        with suppress(_ShortError):
            return _parse(data, whole=False)
        data += file.read(count)
    return _parse(data, whole=True)


def _parse(data: bytes, whole: bool) -> dict[int, bytes]:
    """The wanted elements at the top of a data set, as they stand in the file, little endian.

    Raises:
        _ShortError: more of the file is needed, or there is no more.
        ValueError: these bytes are no DICOM.
    """
    found: dict[int, bytes] = {}
    at, explicit, order = (132, True, "<") if data[128:132] == b"DICM" else (0, data[4:6].isalpha(), "<")
    in_meta = True
    while at < len(data) or not whole:
        if in_meta and data[at : at + 2] != b"\x02\0":
            in_meta = False
            syntax = _text(found, _SYNTAX)
            if syntax:
                explicit, order = syntax != _IMPLICIT, ">" if syntax == _BIG_ENDIAN else "<"
            if syntax == _DEFLATED:
                data, at = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[at:], _DEFLATED_BYTES), 0
        tag, kind, start, length = _element(data, at, explicit, order)
        if tag > _PIXEL_SPACING:
            break
        at = _end(data, start, length, kind, explicit, order)
        if tag in _WANTED:
            if at > len(data):
                raise _ShortError
            value = data[start:at]
            found[tag] = value[::-1] if order == ">" and kind == b"US" else value
    else:
        if at > len(data):
            raise _ShortError
    return found


def _element(data: bytes, at: int, explicit: bool, order: str) -> tuple[int, bytes, int, int]:
    """The element at an offset: its tag, its type, the offset of its value, its length."""
    if at + 8 > len(data):
        raise _ShortError
    group, element, kind, length = _EXPLICIT[order].unpack_from(data, at)
    tag = group << 16 | element
    if not explicit or group == _ITEM >> 16:
        return tag, b"", at + 8, _LENGTH[order].unpack_from(data, at + 4)[0]
    if kind in _LONG:
        if at + 12 > len(data):
            raise _ShortError
        return tag, kind, at + 12, _LENGTH[order].unpack_from(data, at + 8)[0]
    if not (kind.isalpha() and kind.isupper()):
        raise ValueError("no type of value")
    return tag, kind, at + 8, length


def _end(data: bytes, start: int, length: int, kind: bytes, explicit: bool, order: str) -> int:
    """Where a value ends; a sequence of undefined length is walked to its end, items within items too."""
    if length != _UNDEFINED:
        return start + length
    explicit = explicit and kind != b"UN"
    at = start
    while True:
        tag, _, at, length = _element(data, at, explicit, order)
        if tag == _SEQUENCE_END:
            return at
        if tag != _ITEM:
            raise ValueError("no item")
        if length != _UNDEFINED:
            at += length
            continue
        while True:
            tag, kind, at, length = _element(data, at, explicit, order)
            if tag == _ITEM_END:
                break
            at = _end(data, at, length, kind, explicit, order)


def _text(elements: dict[int, bytes], tag: int) -> str:
    return elements.get(tag, b"").decode("ascii", errors="replace").strip(" \0")


def _unsigned(elements: dict[int, bytes], tag: int) -> int:
    return int.from_bytes(elements.get(tag, b"")[:2], "little")


def _numbers(elements: dict[int, bytes], tag: int) -> tuple[float, ...]:
    text = _text(elements, tag)
    numbers = tuple(float(number) for number in text.split("\\")) if text else ()
    if not all(map(math.isfinite, numbers)):
        raise ValueError("no number")
    return numbers
