"""Decodes 8-bit PNGs: damage is noticed, and every pixel must be there.

Source: W3C Recommendation, "Portable Network Graphics (PNG) Specification". SimpleITK decodes, in 1.3 to
1.45 of the time that zlib and kernels of our own took. Pillow needs as long, reads pixels without their
checksums, and takes those that are missing for black. An image that holds more than header and pixels
is copied without the rest first: SimpleITK shifts grey levels by an sBIT chunk, does not know grey with
transparency, and lets libpng write to stderr what it thinks of profiles, texts and palettes.
"""

import struct
import tempfile
import zlib
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import DataError

#: Pixels that are decoded at most: those of NIH's images are a million, of the largest detectors 20 million.
MOST_PIXELS = 2**26
MOST_EDGE = 2**16

HEADER_BYTES = 33  # the signature and the first chunk

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FIRST_CHUNK = b"\0\0\0\rIHDR"  # as it begins
_PIXELS, _END, _TIME = b"IDAT", b"IEND", b"tIME"
_KINDS = {0: "grey", 2: "colour", 3: "palette", 4: "grey with transparency", 6: "colour with transparency"}
_GREY, _GREY_AND_ALPHA = 0, 4
_TAKEN, _TAKEN_DEEP, _DEEP = (_GREY, 2, _GREY_AND_ALPHA, 6), (_GREY, 2), 16
_DAMAGED = "its pixels cannot be decoded: the file is damaged"


def png_size(data: bytes, deep: bool = False) -> tuple[int, int]:
    """Columns and rows of a PNG that can be taken: 8 bits a channel, no palette, not gigantic.

    With `deep` also one of 16 bits, grey or of three colours.

    Args:
        data: the file, or its first 33 bytes.

    Raises:
        DataError: it cannot be taken; why, to go after the image's name.
    """
    if not data.startswith(_SIGNATURE):
        raise DataError("it is no PNG")
    whole = len(data) >= HEADER_BYTES and data[8:16] == _FIRST_CHUNK
    if not whole or zlib.crc32(data[12:29]) != int.from_bytes(data[29:HEADER_BYTES], "big"):
        how = "damaged" if len(data) >= HEADER_BYTES else "cut short"
        raise DataError(f"its header cannot be read: the file is {how}")
    columns, rows, bits, kind, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    if not columns or not rows:
        raise DataError(f"it has no pixels ({columns} x {rows})")
    check_size(columns, rows)
    if not ((bits == 8 and kind in _TAKEN) or (deep and bits == _DEEP and kind in _TAKEN_DEEP)):
        found, wanted = _KINDS.get(kind, f"kind {kind}"), "8 or 16 bits" if deep else "8 bits"
        raise DataError(f"it is a PNG of {bits} bits a channel, {found}; {wanted} of grey or colour wanted")
    if interlaced:
        raise DataError("it is interlaced, which is not read: save it without")
    return columns, rows


def check_size(columns: int, rows: int) -> None:
    """Refuse an image that is gigantic, before it is decoded.

    Raises:
        DataError: it is.
    """
    if columns * rows > MOST_PIXELS or max(columns, rows) > MOST_EDGE:
        most = f"{MOST_PIXELS:,} at most, {MOST_EDGE:,} a side, are decoded"
        raise DataError(f"it has {columns:,} x {rows:,} pixels, and {most}")


def decode_png(path: Path, data: bytes, deep: bool = False) -> NDArray[Any]:
    """The grey levels of a PNG.

    Colour becomes grey as Pillow's `convert("L")` makes it, by the luma of ITU-R BT.601 in whole numbers;
    transparency is dropped, as there.

    Args:
        path: the file.
        data: its bytes.
        deep: whether one of 16 bits is taken too.

    Returns:
        uint8 [y, x], C-contiguous, 0..255; of 16 bits uint16, 0..65535.

    Raises:
        DataError: it cannot be taken, or is damaged; why, to go after the image's name.
    """
    columns, rows = png_size(data, deep)
    bits, kind = data[24], data[25]
    chunks = _chunks(data)
    if kind == _GREY_AND_ALPHA:  # whose bytes lie, and are filtered, as those of 16-bit grey
        values = _decode_copy(_header(columns, rows, 16, _GREY), chunks)
        return (values >> 8).astype(np.uint8)
    header = _header(columns, rows, bits, kind)
    plain = data.startswith(header) and all(_is_harmless(name, chunk) for name, chunk in chunks)
    values = _decode(path) if plain else _decode_copy(header, chunks)
    return luma(values)


def luma(values: NDArray[Any]) -> NDArray[Any]:
    """The grey of pixels [y, x, channel], by the luma of ITU-R BT.601 in whole numbers; [y, x] as they are.

    They are uint8 or uint16, and stay so; channels beyond the third are dropped.
    """
    if values.ndim == 2:
        return values
    red, green, blue = (values[..., channel].astype(np.uint32) for channel in range(3))
    return ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).astype(values.dtype)


def _decode(path: Path) -> NDArray[Any]:
    """Decode a file with SimpleITK: [y, x], or [y, x, channel]."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetImageIO("PNGImageIO")
    reader.SetFileName(str(path))
    try:
        image = reader.Execute()
    except RuntimeError:
        raise DataError(_DAMAGED) from None
    values: NDArray[Any] = sitk.GetArrayFromImage(image)
    return values


def _decode_copy(header: bytes, chunks: list[tuple[bytes, memoryview]]) -> NDArray[Any]:
    """As `_decode`, of a file with this header, the pixels and nothing else: SimpleITK reads files only."""
    parts: list[bytes | memoryview] = [header, *(chunk for name, chunk in chunks if name in (_PIXELS, _END))]
    try:
        with tempfile.NamedTemporaryFile(suffix=".png", buffering=0) as file:
            file.write(b"".join(parts))
            return _decode(Path(file.name))
    except OSError as error:
        raise DataError(f"it cannot be copied to {tempfile.gettempdir()}: {error.strerror}") from None


def _header(columns: int, rows: int, bits: int, kind: int) -> bytes:
    body = struct.pack(">IIBBBBB", columns, rows, bits, kind, 0, 0, 0)
    return _SIGNATURE + _FIRST_CHUNK + body + struct.pack(">I", zlib.crc32(_FIRST_CHUNK[4:] + body))


def _is_harmless(name: bytes, chunk: memoryview) -> bool:
    """Whether libpng says nothing of a chunk: of pixels, or a sound date, which every image of NIH's has."""
    if name != _TIME:
        return name in (_PIXELS, _END)
    try:
        datetime(*struct.unpack(">H5B", chunk[8:-4]))
    except (ValueError, struct.error):
        return False
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _chunks(data: bytes) -> list[tuple[bytes, memoryview]]:
    """The chunks after the first: the name of each, and its bytes. SimpleITK looks at their checksums.

    Raises:
        DataError: the file ends before the image does, or holds no pixels.
    """
    view, chunks = memoryview(data), []
    at = HEADER_BYTES
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        chunks.append((name, view[at : at + 12 + length]))
        at += 12 + length
        if name == _END and at <= len(data):
            break
    else:
        raise DataError(f"it is cut short: {len(data):,} bytes, and the image goes on")
    if all(name != _PIXELS for name, _ in chunks):
        raise DataError(_DAMAGED)
    return chunks
