"""One DICOM file: what its header says of its series and its place, and its pixels.

pydicom reads the header: SimpleITK opens nothing that is no image, so that it could not name an RT object or
a report. The pixels, rescaled to HU, are read by SimpleITK. Of the header nothing but the series' identifier,
its geometry and the pixel scaling goes any further. Source: DICOM PS3.3 (image plane module).
"""

import math
import os
import threading
import warnings
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.scans.files import not_opened

#: What DICOM files are called where they have a suffix at all.
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")

_SOP_CLASS_OF_FILE, _SYNTAX, _IMAGE_TYPE, _MODALITY = 0x00020002, 0x00020010, 0x00080008, 0x00080060
_SERIES, _POSITION, _ORIENTATION = 0x0020000E, 0x00200032, 0x00200037
_SAMPLES, _FRAMES, _ROWS, _COLUMNS, _PIXEL_SPACING = (
    0x00280002,
    0x00280008,
    0x00280010,
    0x00280011,
    0x00280030,
)
_WANTED = (
    _SOP_CLASS_OF_FILE, _SYNTAX, _IMAGE_TYPE, _MODALITY, _SERIES, _POSITION, _ORIENTATION,
    _SAMPLES, _FRAMES, _ROWS, _COLUMNS, _PIXEL_SPACING,
)  # fmt: skip
_META_GROUPS, _GROUPS = (
    range(2, 3),
    range(0x0029),
)  # of the file itself; of the image, up to the last one wanted
_UNDEFINED = 0xFFFFFFFF
_DEFLATED, _BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
_INDEX, _INDEX_NAME = "1.2.840.10008.1.3.10", "DICOMDIR"  # the SOP class of a disc's index, and its name
_HEAD_BYTES = 132  # the preamble, and `DICM`
_DEFLATED_BYTES = 1 << 24  # the most that a deflated header may inflate to
# How a file begins that lacks the preamble: with its meta group, or with group 8.
_BARE = (b"\x02\0\0\0", b"\x08\0\0\0", b"\x08\0\x01\0", b"\x08\0\x05\0", b"\x08\0\x08\0")
_QUIET = threading.Lock()  # pydicom's warnings are not for the user, and are silenced for all threads at once


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


def state_of(status: os.stat_result) -> tuple[int, int]:
    """What tells that a file has changed: its bytes, and when it was last written, in ns."""
    return status.st_size, status.st_mtime_ns


def _is_dicom(head: bytes) -> bool:
    """Whether these are the first 132 bytes of a DICOM file, with or without its preamble."""
    return head[128:] == b"DICM" or (len(head) == _HEAD_BYTES and head[:4] in _BARE)


def read_header(path: Path) -> Slice | None:
    """Read what a DICOM file's header says of its series and its place, opening the file once.

    Returns:
        None where the file's first bytes are not those of DICOM.

    Raises:
        DataError: it cannot be opened, or its header is damaged or cut short.
    """
    try:
        with path.open("rb") as file:
            state = state_of(os.fstat(file.fileno()))
            if not _is_dicom(file.read(_HEAD_BYTES)):
                return None
            elements = _read_elements(file)
        numbers = {tag: _numbers(elements, tag) for tag in (_POSITION, _ORIENTATION, _PIXEL_SPACING)}
        samples, rows, columns = (_unsigned(elements, tag) for tag in (_SAMPLES, _ROWS, _COLUMNS))
        frames = int(_text(elements, _FRAMES) or 1)
    except OSError as error:
        raise DataError(not_opened(error)) from None
    except ValueError:
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


def _read_elements(file: BinaryIO) -> dict[int, bytes]:
    """The wanted elements at the top of a DICOM file, as they stand in it, but little endian.

    Not by pydicom's `dcmread`, which inflates without a limit and reads what has no pixels to its end.

    Raises:
        ValueError: the header is damaged or cut short.
        OSError: the file cannot be read.
    """
    from pydicom.filereader import read_preamble

    try:
        with _QUIET, warnings.catch_warnings(action="ignore"):
            file.seek(0)
            read_preamble(file, force=True)
            meta = _read_groups(file, _META_GROUPS)
            syntax = _text(meta, _SYNTAX)
            if syntax == _DEFLATED:
                inflater = zlib.decompressobj(-zlib.MAX_WBITS)
                inflated = inflater.decompress(file.read(), _DEFLATED_BYTES)
                if not inflater.eof and len(inflated) < _DEFLATED_BYTES:
                    raise ValueError("it ends within what is deflated")
                file = BytesIO(inflated)
            return meta | _read_groups(file, _GROUPS, little_endian=syntax != _BIG_ENDIAN)
    except OSError as error:
        if error.errno:
            raise
        raise ValueError("it ends within a sequence") from None
    except Exception as error:  # pydicom lets through whatever damaged bytes lead to
        raise ValueError(str(error)) from None


def _read_groups(file: BinaryIO, groups: range, little_endian: bool = True) -> dict[int, bytes]:
    """The wanted elements of some groups; the file is left where another group begins.

    Values are taken raw, since what is wrong with a value that nobody wants is no reason to refuse a file.

    Raises:
        ValueError: the file ends within an element, which pydicom takes for its end.
    """
    from pydicom.dataelem import RawDataElement
    from pydicom.filereader import read_dataset

    end, beyond = 0, False

    def is_beyond(tag: Any, _kind: str | None, length: int) -> bool:
        nonlocal end, beyond
        end, beyond = 0 if length == _UNDEFINED else file.tell() + length, tag.group not in groups
        return beyond

    # The type of values is found out: not every file keeps to what its syntax says.
    elements = read_dataset(
        file, False, little_endian, stop_when=is_beyond, specific_tags=[*_WANTED]
    ).values()
    end = end or file.tell()
    if not beyond and end != file.seek(0, os.SEEK_END):
        raise ValueError("it ends within an element")
    found = {}
    for one in elements:
        value = one.value or b""
        if not isinstance(one, RawDataElement) or len(value) != one.length:
            raise ValueError("it ends within a value, or has items for one")
        found[int(one.tag)] = value[::-1] if one.VR == "US" and not little_endian else value
    return found


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
