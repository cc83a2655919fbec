"""Reads one DICOM file's header: its series, its geometry, and how its pixels are stored.

pydicom reads the header, since SimpleITK opens only images and could not identify an RT object or a report.
Of the header only the identifiers of series and slice, the geometry and what converts pixels to HU are passed
on. Source: DICOM PS3.3 (image plane module).
"""

import math
import os
import threading
import warnings
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.rng import stream_key
from genesis_toolkit.pipeline.scans.files import not_opened

#: Suffixes of DICOM files, if they have one.
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")

_SOP_CLASS_OF_FILE, _SYNTAX = 0x00020002, 0x00020010
_IMAGE_TYPE, _SOP_CLASS, _INSTANCE, _MODALITY = 0x00080008, 0x00080016, 0x00080018, 0x00080060
_PATIENT, _STUDY, _FRAME = 0x00100020, 0x0020000D, 0x00200052
_DESCRIPTION, _NUMBER = 0x0008103E, 0x00200011
_SERIES, _POSITION, _ORIENTATION = 0x0020000E, 0x00200032, 0x00200037
_SAMPLES, _PHOTOMETRIC, _FRAMES, _ROWS, _COLUMNS = 0x00280002, 0x00280004, 0x00280008, 0x00280010, 0x00280011
_PIXEL_SPACING, _ALLOCATED, _STORED, _HIGH, _SIGNED = (
    0x00280030,
    0x00280100,
    0x00280101,
    0x00280102,
    0x00280103,
)
_PADDING, _PADDING_LIMIT, _INTERCEPT, _SLOPE = 0x00280120, 0x00280121, 0x00281052, 0x00281053
_MODALITY_LUT = 0x00283000
_FIRST_PIXELS, _PIXELS = 0x7FE00008, 0x7FE00010  # pixels as float or double, and as whole numbers
_WANTED = (
    _SOP_CLASS_OF_FILE, _SYNTAX, _IMAGE_TYPE, _SOP_CLASS, _INSTANCE, _MODALITY, _DESCRIPTION, _PATIENT,
    _STUDY, _SERIES, _NUMBER, _POSITION, _ORIENTATION, _FRAME, _SAMPLES, _PHOTOMETRIC, _FRAMES, _ROWS,
    _COLUMNS, _PIXEL_SPACING, _ALLOCATED, _STORED, _HIGH, _SIGNED, _PADDING, _PADDING_LIMIT, _INTERCEPT,
    _SLOPE, _MODALITY_LUT,
)  # fmt: skip
_WHOLE_KINDS = ("US", "SS")  # value types in the byte order of the file
_UNDEFINED = 0xFFFFFFFF
#: Transfer syntaxes: deflated, and big endian.
DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
_INDEX = "1.2.840.10008.1.3.10"  # the SOP class of a disc's index
_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # the prefix of the SOP classes of captures
_BESIDE = (
    "the index",
    "a localizer",
    "a colour capture",
    "a screen capture",
    "a DICOM object without an image",
)
_MR = "MR"
_NOBODY = ("", "0", "ANON", "ANONYMOUS", "ANONYMIZED", "NONE", "UNKNOWN")  # PatientIDs that identify nobody
#: Series name of such an index.
INDEX_NAME = "DICOMDIR"
_HEAD_BYTES = 132  # the preamble, and `DICM`
_DEFLATED_BYTES = 1 << 24  # the most that a deflated header may inflate to
# First bytes of a file without the preamble: its meta group, or group 8.
_BARE = (b"\x02\0\0\0", b"\x08\0\0\0", b"\x08\0\x01\0", b"\x08\0\x05\0", b"\x08\0\x08\0")
_NOWHERE = (0, 0, 0)
#: pydicom's warnings are not for users; this silences them for all threads.
QUIET = threading.Lock()

# The tag of the pixels, the offset and number of their bytes, and the start of the data set.
Place = tuple[int, int, int, int]


@dataclass(frozen=True)
class Pixels:
    """Storage of the pixels in one DICOM file.

    Attributes:
        sop_class: UID of the kind of object.
        syntax: UID of the transfer syntax.
        element: tag of the pixels; 0 if there are none.
        offset: bytes before the pixels, in the inflated file if its syntax is deflated.
        length: bytes of the pixels according to the header; None if not given, as for compressed pixels.
        begin: start of the data set in the file, after its meta group.
        photometric: the photometric interpretation, for example MONOCHROME2.
        allocated: bits allocated per value.
        stored: bits of each value in use.
        high: the highest bit in use.
        signed: whether values are signed.
        slope, intercept: conversion to HU; None if the header has no valid number.
        lut: whether the header has a lookup table to HU instead.
        padding: lowest and highest stored value of pixels outside the image; None if there is no padding.
    """

    sop_class: str
    syntax: str
    element: int
    offset: int
    length: int | None
    begin: int
    photometric: str
    allocated: int
    stored: int
    high: int
    signed: bool
    slope: float | None
    intercept: float | None
    lut: bool
    padding: tuple[int, int] | None


@dataclass(frozen=True)
class Slice:
    """The header of one DICOM file.

    Attributes:
        path: the file.
        series: its SeriesInstanceUID; empty if it was removed.
        skip: why it is not a slice of a CT volume; empty if it is.
        frames: number of images in the file.
        edges: columns and rows, that is, voxels in x and y.
        position: mm, the centre of the first voxel in the patient (left, posterior, superior).
        orientation: the cosines along x, then along y.
        spacing: mm between voxel centres in x and y. Of these three, any that the header lacks is empty.
        state: size and time of the file when read, see `state_of`.
        instance: its SOPInstanceUID, shared by copies; empty if it was removed.
        pixels: how they are stored.
        title: number and description of its series, for terminals only.
        modality: type of equipment, for example CT or DX.
        whose: a hash of its PatientID or, if that identifies nobody, of its study and frame of reference; 0
            if these are missing too.
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
    instance: str
    pixels: Pixels
    whose: int
    title: str
    modality: str = ""


def is_beside(one: Slice) -> bool:
    """Return whether a file merely accompanies volumes: an index, a scout, a capture, or no image."""
    capture = one.pixels.sop_class.startswith(_CAPTURE)
    return bool(one.skip) and (one.skip.startswith(_BESIDE) or capture or 0 in one.edges)


def state_of(status: os.stat_result) -> tuple[int, int]:
    """Return what reveals a change of a file: its size, and its modification time in ns."""
    return status.st_size, status.st_mtime_ns


def _is_dicom(head: bytes) -> bool:
    """Return whether these are the first 132 bytes of a DICOM file, with or without its preamble."""
    return head[128:] == b"DICM" or (len(head) == _HEAD_BYTES and head[:4] in _BARE)


def read_header(path: Path, mr: bool = False) -> Slice | None:
    """Read a DICOM file's header, opening the file once.

    With `mr` a slice of MR is accepted like one of CT; if it has neither slope nor intercept, its values are
    taken as stored.

    Returns:
        None if the file does not start like DICOM.

    Raises:
        DataError: it cannot be opened, or its header is damaged or cut short.
    """
    try:
        with path.open("rb") as file:
            state = state_of(os.fstat(file.fileno()))
            if not _is_dicom(file.read(_HEAD_BYTES)):
                return None
            elements, place = _read_elements(file)
        numbers = {tag: _numbers(elements, tag) for tag in (_POSITION, _ORIENTATION, _PIXEL_SPACING)}
        samples, rows, columns = (_unsigned(elements, tag) for tag in (_SAMPLES, _ROWS, _COLUMNS))
        frames = int(_text(elements, _FRAMES) or 1)
    except OSError as error:
        raise DataError(not_opened(error)) from None
    except ValueError:
        raise DataError("the DICOM header cannot be read: the file is damaged") from None
    spacing = numbers[_PIXEL_SPACING]
    return Slice(
        path=path,
        series=_text(elements, _SERIES) or (INDEX_NAME if _is_index(elements) else ""),
        skip=_skip_file(elements, samples, mr),
        frames=frames,
        edges=(columns, rows),
        position=numbers[_POSITION],
        orientation=numbers[_ORIENTATION],
        spacing=spacing[::-1],  # DICOM gives the distance between rows (y) first
        state=state,
        instance=_text(elements, _INSTANCE),
        pixels=_pixels(elements, place, mr),
        whose=_whose(elements),
        title=" ".join(f"{_text(elements, _NUMBER)} {_text(elements, _DESCRIPTION)}".split()),
        modality=_text(elements, _MODALITY),
    )


def _whose(elements: dict[int, bytes]) -> int:
    patient, *place = (
        elements.get(tag, b"").strip(b" \0").decode("latin-1") for tag in (_PATIENT, _STUDY, _FRAME)
    )
    if patient.upper() not in _NOBODY:
        return int(stream_key(f"patient {patient}"))
    return int(stream_key(f"study {' '.join(place)}")) if any(place) else 0


def _skip_file(elements: dict[int, bytes], samples: int, mr: bool) -> str:
    kinds = _text(elements, _IMAGE_TYPE).upper().split("\\")
    modality = _text(elements, _MODALITY)
    if _is_index(elements):
        return "the index of a disc, not a volume"
    if modality != "CT" and not (mr and modality == _MR):
        return f"the DICOM modality is {modality or 'not given'}; only CT is read"
    if "LOCALIZER" in kinds or "SCOUT" in kinds:
        return "a localizer, not a volume"
    if samples > 1:
        return "a colour capture, not a volume"
    many = _text(elements, _FRAMES) not in ("", "1")
    if not many and _POSITION not in elements and _text(elements, _SOP_CLASS).startswith(_CAPTURE):
        return "a screen capture, not a volume"
    return "" if _ROWS in elements else "a DICOM object without an image, not a volume"


def _is_index(elements: dict[int, bytes]) -> bool:
    return _text(elements, _SOP_CLASS_OF_FILE) == _INDEX


def _pixels(elements: dict[int, bytes], place: Place, mr: bool) -> Pixels:
    element, offset, length, begin = place
    as_stored = mr and _text(elements, _MODALITY) == _MR and not {_SLOPE, _INTERCEPT} & elements.keys()
    signed = bool(_unsigned(elements, _SIGNED))
    ends = [
        int.from_bytes(elements[tag][:2], "little", signed=signed)
        for tag in (_PADDING, _PADDING_LIMIT)
        if len(elements.get(tag, b"")) >= 2
    ]
    return Pixels(
        sop_class=_text(elements, _SOP_CLASS) or _text(elements, _SOP_CLASS_OF_FILE),
        syntax=_text(elements, _SYNTAX),
        element=element,
        offset=offset,
        length=None if length == _UNDEFINED else length,
        begin=begin,
        photometric=_text(elements, _PHOTOMETRIC).upper(),
        allocated=_unsigned(elements, _ALLOCATED),
        stored=_unsigned(elements, _STORED),
        high=_unsigned(elements, _HIGH),
        signed=signed,
        slope=1.0 if as_stored else _number(elements, _SLOPE),
        intercept=0.0 if as_stored else _number(elements, _INTERCEPT),
        lut=_MODALITY_LUT in elements,
        padding=(min(ends), max(ends)) if _PADDING in elements and ends else None,
    )


def _read_elements(file: BinaryIO) -> tuple[dict[int, bytes], Place]:
    """Read the required elements at the start of a DICOM file, as little endian, and locate its pixels.

    pydicom's `dcmread` is not used: it inflates without a limit and reads files without pixels to the end.

    Raises:
        ValueError: the header is damaged or cut short.
        OSError: the file cannot be read.
    """
    from pydicom.filereader import read_preamble

    try:
        with QUIET, warnings.catch_warnings(action="ignore"):
            file.seek(0)
            read_preamble(file, force=True)
            meta, _ = _read_groups(file, meta=True)
            syntax = _text(meta, _SYNTAX)
            begin = file.tell()
            if syntax == DEFLATED:
                file = BytesIO(inflated(file.read(), _DEFLATED_BYTES))
            start, little_endian = file.tell(), syntax != BIG_ENDIAN
            try:
                elements, place = _read_groups(file, little_endian=little_endian)
            except ValueError:
                elements, place = {}, _NOWHERE
            if not place[0]:  # pydicom reads a type of two NULs as a missing type, GDCM as an unknown one
                again, found = _read_unknown_types(file, start, little_endian)
                if found[0] or not elements:
                    elements, place = again, found
            return meta | elements, (*place, begin)
    except OSError as error:
        if error.errno:
            raise
        raise ValueError("the file ends within a sequence") from None
    except Exception as error:  # pydicom does not catch all effects of damaged bytes
        raise ValueError(str(error)) from None


def _read_unknown_types(
    file: BinaryIO, start: int, little_endian: bool
) -> tuple[dict[int, bytes], tuple[int, int, int]]:
    """Read like `_read_groups`, with a 2-byte length after an invalid value type."""
    from pydicom import config

    file.seek(start)
    config.assume_implicit_vr_switch = False
    try:
        return _read_groups(file, little_endian=little_endian)
    finally:
        config.assume_implicit_vr_switch = True


def inflated(data: bytes, most: int) -> bytes:
    """Inflate the data after the meta group of a deflated file, up to `most` bytes.

    Raises:
        ValueError: it is damaged or cut short.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        found = inflater.decompress(data, most)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not inflater.eof and len(found) < most:
        raise ValueError("the deflated data are cut short")
    return found


def _read_groups(
    file: BinaryIO, meta: bool = False, little_endian: bool = True
) -> tuple[dict[int, bytes], tuple[int, int, int]]:
    """Read the required elements of the meta group, or those before the pixels, and locate the pixels.

    Values are read raw, since an invalid value that is never used is no reason to refuse a file. Without
    rows, reading stops after the groups of an image: contours and reports are long.

    Raises:
        ValueError: the file ends within an element, which pydicom would accept as its end.
    """
    from pydicom.dataelem import RawDataElement
    from pydicom.filereader import read_dataset

    end, beyond, rows, place = 0, False, False, _NOWHERE

    def is_beyond(tag: Any, _kind: str | None, length: int) -> bool:
        nonlocal end, beyond, rows, place
        end = 0 if length == _UNDEFINED else file.tell() + length
        rows = rows or tag == _ROWS
        beyond = tag.group != 2 if meta else tag >= _FIRST_PIXELS or (tag.group > 0x28 and not rows)
        if beyond and not meta and tag.group == _FIRST_PIXELS >> 16:
            place = int(tag), file.tell(), length
        return beyond

    # The value encoding is detected, since some files violate their transfer syntax.
    elements = read_dataset(
        file, False, little_endian, stop_when=is_beyond, specific_tags=[*_WANTED]
    ).values()
    end = end or file.tell()
    if not beyond and end != file.seek(0, os.SEEK_END):
        raise ValueError("the file ends within an element")
    found = {}
    for one in elements:
        if int(one.tag) == _MODALITY_LUT:
            found[_MODALITY_LUT] = b""
            continue
        value = one.value or b""
        if not isinstance(one, RawDataElement) or len(value) != one.length:
            raise ValueError("the file ends within a value, or contains a sequence in place of a value")
        swapped = not little_endian and one.VR in _WHOLE_KINDS
        found[int(one.tag)] = value[::-1] if swapped else value
    return found, place


def _text(elements: dict[int, bytes], tag: int) -> str:
    return elements.get(tag, b"").decode("ascii", errors="replace").strip(" \0")


def _unsigned(elements: dict[int, bytes], tag: int) -> int:
    return int.from_bytes(elements.get(tag, b"")[:2], "little")


def _number(elements: dict[int, bytes], tag: int) -> float | None:
    """Return the number in an element; None if it is missing, empty, or not a number."""
    try:
        return float(_text(elements, tag))
    except ValueError:
        return None


def _numbers(elements: dict[int, bytes], tag: int) -> tuple[float, ...]:
    """Return the numbers in an element; a comma, which some programs write, can only be a decimal point."""
    text = _text(elements, tag).replace(",", ".")
    numbers = tuple(float(number) for number in text.split("\\")) if text else ()
    if not all(map(math.isfinite, numbers)):
        raise ValueError("not a number")
    return numbers
