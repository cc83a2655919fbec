"""DICOM folders: which series lie in them, which of these is a volume, and where its slices lie.

The few header elements that decide this are read here: SimpleITK takes five times as long for a header, and
opens nothing that is no image, so that it could not name an RT object or a report. The pixels, rescaled to
HU, are read by SimpleITK. Of the header nothing but the series' identifier, its geometry and the pixel
scaling goes any further. Source: DICOM PS3.3 (image plane module), PS3.5 (encoding).
"""

import math
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.grid import Geometry

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
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_LONG = frozenset((b"OB OD OF OL OV OW SQ SV UC UN UR UT UV").split())  # these have a length of four bytes
_IMPLICIT, _DEFLATED, _BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
_INDEX, _INDEX_NAME = "1.2.840.10008.1.3.10", "DICOMDIR"  # the SOP class of a disc's index, and its name
_HEAD_BYTES = (1 << 16, 1 << 22, -1)  # how much of a file is read until its header is whole
_DEFLATED_BYTES = 1 << 24  # the most that a deflated header may inflate to
# How a file begins that lacks the preamble: with its meta group, or with group 8.
_BARE = (b"\x02\0\0\0", b"\x08\0\0\0", b"\x08\0\x01\0", b"\x08\0\x05\0", b"\x08\0\x08\0")

_SAME_COSINE = 1e-3  # scanners write cosines with three digits or more
_SAME_PLACE = 1e-2  # mm, and positions with two
_TILT = 0.1  # degrees; positions and cosines as written leave 0.06


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
    """

    path: Path
    series: str
    skip: str
    frames: int
    edges: tuple[int, int]
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]


@dataclass(frozen=True)
class Series:
    """The files of a folder that carry one SeriesInstanceUID.

    Attributes:
        identifier: the SeriesInstanceUID; empty where it was removed.
        slices: its files, by name.
        skip: why it is no CT volume, as in "a localizer, not a volume"; empty for one that is.
    """

    identifier: str
    slices: tuple[Slice, ...]
    skip: str


@dataclass(frozen=True)
class Stack:
    """A series whose slices are in order.

    Attributes:
        files: by position along z, in the direction of the normal.
        geometry: where their voxels lie.
    """

    files: tuple[Path, ...]
    geometry: Geometry


class _ShortError(Exception):
    """The bytes end before the header does."""


def is_dicom(path: Path) -> bool:
    """Whether a file's first bytes are those of DICOM, with or without its preamble.

    Raises:
        OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        head = file.read(132)
    return head[128:] == b"DICM" or (len(head) == 132 and head[:4] in _BARE)


def group_series(paths: Iterable[Path]) -> tuple[list[Series], dict[Path, str]]:
    """Read the headers of the DICOM files of a folder, and put them together by series.

    Returns:
        series: by identifier.
        damaged: why no header could be read, of the files where it could not.
    """
    together: dict[str, list[Slice]] = {}
    damaged = {}
    for path in sorted(paths):
        try:
            one = read_header(path)
        except DataError as error:
            damaged[path] = str(error)
        else:
            together.setdefault(one.series, []).append(one)
    return [Series(uid, tuple(ones), _skip_series(ones)) for uid, ones in sorted(together.items())], damaged


def read_header(path: Path) -> Slice:
    """Read what a DICOM file's header says of its series and its place.

    Raises:
        DataError: it cannot be opened, or its header is damaged or cut short.
    """
    try:
        elements = _read_elements(path)
        numbers = {tag: _numbers(elements, tag) for tag in (_POSITION, _ORIENTATION, _PIXEL_SPACING)}
        samples, rows, columns = (_unsigned(elements, tag) for tag in (_SAMPLES, _ROWS, _COLUMNS))
        frames = int(_text(elements, _FRAMES) or 1)
    except OSError as error:
        raise DataError(f"it cannot be opened: {error.strerror}") from None
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
    )


def stack(slices: tuple[Slice, ...]) -> Stack:
    """Put the slices of a series in order, and refuse those that make no whole, upright volume.

    Raises:
        DataError: slices of several kinds, sizes or orientations, without a place, twice at one place,
            missing, or sheared by a tilted gantry; the message goes after the scan's name.
    """
    _check_alike(slices)
    first = slices[0]
    positions = np.array([one.position for one in slices], dtype=np.float64)
    axes = np.reshape(np.array(first.orientation, dtype=np.float64), (2, 3))
    if np.abs(axes @ axes.T - np.eye(2)).max() > 2 * _SAME_COSINE:
        raise DataError("its rows and columns are not perpendicular, or their cosines are not of length 1")
    normal = np.cross(axes[0], axes[1])
    order = np.argsort(positions @ normal, kind="stable")  # equal places keep the order of the names
    positions = positions[order]
    heights = positions @ normal
    _check_gaps(heights)
    _check_upright(positions, heights, normal, min(first.spacing))
    x_mm, y_mm = first.spacing
    x, y, z = (float(value) for value in positions[0])
    geometry = Geometry(
        shape=(*first.edges, len(slices)),
        spacing=(x_mm, y_mm, float((heights[-1] - heights[0]) / (len(slices) - 1))),
        origin=(x, y, z),
        direction=tuple(np.stack([*axes, normal], axis=1).ravel().tolist()),
    )
    return Stack(tuple(slices[place].path for place in order), geometry)


def read_planes(stacked: Stack) -> Iterator[NDArray[Any]]:
    """Read the slices in order: [y, x] in HU, slope and intercept applied, whole or real numbers.

    Raises:
        DataError: a slice is damaged, cut short, or of another size than its header said.
    """
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.LoadPrivateTagsOff()
    columns, rows, _ = stacked.geometry.shape
    for path in stacked.files:
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


def _skip_series(slices: list[Slice]) -> str:
    if all(one.skip for one in slices):
        return slices[0].skip
    return "a single slice, not a volume" if len(slices) == 1 and slices[0].frames == 1 else ""


def _check_alike(slices: tuple[Slice, ...]) -> None:
    first = slices[0]
    odd = Counter(one.skip for one in slices if one.skip)
    if odd:
        kind, count = odd.most_common(1)[0]
        raise DataError(f"its series mixes slices of a volume with {count} of another kind ({kind})")
    if any(one.frames > 1 for one in slices):
        raise DataError("it is a DICOM file of many frames, which is not read: export it as single slices")
    sizes = sorted({one.edges for one in slices})
    if len(sizes) > 1:
        raise DataError(f"its slices have {len(sizes)} sizes ({', '.join(f'{x} x {y}' for x, y in sizes)})")
    for one in slices:
        if (len(one.position), len(one.orientation), len(one.spacing)) != (3, 6, 2):
            raise DataError(f"its slice {one.path.name} does not say where it lies")
        if min(one.spacing) <= 0:
            raise DataError(f"its slice {one.path.name} has spacing {one.spacing}, which is not positive")
        if not np.allclose(one.orientation, first.orientation, rtol=0, atol=_SAME_COSINE):
            raise DataError(
                f"its slices have several orientations: {one.path.name} is turned against {first.path.name}"
            )
        if not np.allclose(one.spacing, first.spacing, rtol=1e-4, atol=0):
            raise DataError(f"its slices have several spacings: {one.path.name} and {first.path.name} differ")


def _check_gaps(heights: NDArray[np.float64]) -> None:
    gaps = np.diff(heights)
    twice = int(np.count_nonzero(gaps < _SAME_PLACE))
    if twice:
        raise DataError(
            f"it holds {heights.size} slices at {heights.size - twice} positions: {twice} too many"
        )
    usual = float(np.median(gaps))
    worst = int(np.argmax(np.abs(gaps - usual)))
    # Positions written to hundredths of a mm leave twice that between two gaps of thin slices.
    if abs(gaps[worst] - usual) > max(0.01 * usual, 2 * _SAME_PLACE):
        raise DataError(
            f"its slices at {heights[worst]:.2f} and {heights[worst + 1]:.2f} mm are {gaps[worst]:.2f} mm "
            f"apart, {usual:.2f} is usual: slices are missing or irregular"
        )


def _check_upright(
    positions: NDArray[np.float64], heights: NDArray[np.float64], normal: NDArray[np.float64], fine: float
) -> None:
    """Refuse slices whose stack leans: its voxels would not lie on a rectangular grid."""
    aside = positions - positions[0] - np.outer(heights - heights[0], normal)
    tilt = float(np.degrees(np.arctan2(np.linalg.norm(aside[-1]), heights[-1] - heights[0])))
    if tilt > _TILT:
        raise DataError(f"its gantry is tilted by {tilt:.1f} degrees: its slices are not stacked upright")
    farthest = float(np.linalg.norm(aside, axis=1).max())
    if farthest > fine / 2:
        raise DataError(f"its slices are shifted aside by up to {farthest:.2f} mm")


def _read_elements(path: Path) -> dict[int, bytes]:
    for count in _HEAD_BYTES:
        with path.open("rb") as file:
            data = file.read(count)
        whole = count < 0 or len(data) < count
        try:
            return _parse(data, whole)
        except _ShortError:
            if whole:
                raise
    raise AssertionError("the last count reads the whole file")


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
    group, element = struct.unpack_from(order + "HH", data, at)
    tag = group << 16 | element
    if explicit and group != _ITEM >> 16:
        kind = data[at + 4 : at + 6]
        if not (kind.isalpha() and kind.isupper()):
            raise ValueError("no type of value")
        if kind in _LONG:
            if at + 12 > len(data):
                raise _ShortError
            return tag, kind, at + 12, struct.unpack_from(order + "I", data, at + 8)[0]
        return tag, kind, at + 8, struct.unpack_from(order + "H", data, at + 6)[0]
    return tag, b"", at + 8, struct.unpack_from(order + "I", data, at + 4)[0]


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
