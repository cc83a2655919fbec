"""Decodes 8-bit PNGs, detecting damage and missing pixels.

Source: W3C Recommendation, "Portable Network Graphics (PNG) Specification". SimpleITK decodes, in 1.3 to
1.45 of the time that zlib and our own kernels took. Pillow is as slow, ignores the checksums of pixels, and
reads missing ones as black. An image that holds more than header and pixels is first copied without the rest:
SimpleITK shifts grey levels by an sBIT chunk, does not support grey with transparency, and lets libpng print
warnings about profiles, texts and palettes on stderr.
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

#: Most pixels decoded: NIH's images have a million, the largest detectors 20 million.
MOST_PIXELS = 2**26
MOST_EDGE = 2**16

HEADER_BYTES = 33  # the signature and the first chunk

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FIRST_CHUNK = b"\0\0\0\rIHDR"  # its first bytes
_PIXELS, _END, _TIME = b"IDAT", b"IEND", b"tIME"
_KINDS = {0: "grey", 2: "colour", 3: "palette", 4: "grey with transparency", 6: "colour with transparency"}
_GREY, _GREY_AND_ALPHA = 0, 4
_TAKEN, _TAKEN_DEEP, _DEEP = (_GREY, 2, _GREY_AND_ALPHA, 6), (_GREY, 2), 16
_DAMAGED = "the pixels cannot be decoded: the file is damaged"


def png_size(data: bytes, deep: bool = False) -> tuple[int, int]:
    """Return columns and rows of a PNG that can be read: 8 bits per channel, no palette, not too large.

    With `deep` 16 bits, grey or with three colours, are accepted too.

    Args:
        data: the file, or its first 33 bytes.

    Raises:
        DataError: it cannot be read; the reason follows the image's name.
    """
    if not data.startswith(_SIGNATURE):
        raise DataError("the file is not a PNG")
    whole = len(data) >= HEADER_BYTES and data[8:16] == _FIRST_CHUNK
    if not whole or zlib.crc32(data[12:29]) != int.from_bytes(data[29:HEADER_BYTES], "big"):
        how = "damaged" if len(data) >= HEADER_BYTES else "cut short"
        raise DataError(f"the header cannot be read: the file is {how}")
    columns, rows, bits, kind, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    if not columns or not rows:
        raise DataError(f"the image has no pixels ({columns} x {rows})")
    check_size(columns, rows)
    if not ((bits == 8 and kind in _TAKEN) or (deep and bits == _DEEP and kind in _TAKEN_DEEP)):
        found, allowed = _KINDS.get(kind, f"kind {kind}"), "8 or 16" if deep else "8"
        raise DataError(
            f"the PNG has {bits} bits per channel, {found}; it must have {allowed} bits, grey or colour"
        )
    if interlaced:
        raise DataError("the PNG is interlaced, which is not supported: save the image without interlacing")
    return columns, rows


def check_size(columns: int, rows: int) -> None:
    """Refuse an image that is too large, before it is decoded.

    Raises:
        DataError: it is too large.
    """
    if columns * rows > MOST_PIXELS or max(columns, rows) > MOST_EDGE:
        most = f"at most {MOST_PIXELS:,} pixels and {MOST_EDGE:,} per side are allowed"
        raise DataError(f"the image has {columns:,} x {rows:,} pixels, but {most}")


def decode_png(path: Path, data: bytes, deep: bool = False) -> NDArray[Any]:
    """Decode the grey levels of a PNG.

    Colour becomes grey the way Pillow's `convert("L")` does it, by the luma of ITU-R BT.601 in whole numbers;
    transparency is dropped.

    Args:
        path: the file.
        data: its bytes.
        deep: whether 16 bits are accepted too.

    Returns:
        uint8 [y, x], C-contiguous, 0..255; with 16 bits uint16, 0..65535.

    Raises:
        DataError: it cannot be read, or is damaged; the reason follows the image's name.
    """
    columns, rows = png_size(data, deep)
    bits, kind = data[24], data[25]
    chunks = _chunks(data)
    if kind == _GREY_AND_ALPHA:  # stored and filtered with the same bytes as 16-bit grey
        values = _decode_copy(_header(columns, rows, 16, _GREY), chunks)
        return (values >> 8).astype(np.uint8)
    header = _header(columns, rows, bits, kind)
    plain = data.startswith(header) and all(_is_harmless(name, chunk) for name, chunk in chunks)
    values = _decode(path) if plain else _decode_copy(header, chunks)
    return luma(values)


def luma(values: NDArray[Any]) -> NDArray[Any]:
    """Return the grey of pixels [y, x, channel], by the luma of ITU-R BT.601; [y, x] is returned unchanged.

    Values are uint8 or uint16, and keep their type; channels beyond the third are dropped.
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
    """Decode a file of this header and the pixels only, like `_decode`: SimpleITK reads nothing but files."""
    parts: list[bytes | memoryview] = [header, *(chunk for name, chunk in chunks if name in (_PIXELS, _END))]
    try:
        with tempfile.NamedTemporaryFile(suffix=".png", buffering=0) as file:
            file.write(b"".join(parts))
            return _decode(Path(file.name))
    except OSError as error:
        raise DataError(f"the file cannot be copied to {tempfile.gettempdir()}: {error.strerror}") from None


def _header(columns: int, rows: int, bits: int, kind: int) -> bytes:
    body = struct.pack(">IIBBBBB", columns, rows, bits, kind, 0, 0, 0)
    return _SIGNATURE + _FIRST_CHUNK + body + struct.pack(">I", zlib.crc32(_FIRST_CHUNK[4:] + body))


def _is_harmless(name: bytes, chunk: memoryview) -> bool:
    """Return whether libpng ignores a chunk silently: pixels, or a valid date, which all NIH images have."""
    if name != _TIME:
        return name in (_PIXELS, _END)
    try:
        datetime(*struct.unpack(">H5B", chunk[8:-4]))
    except (ValueError, struct.error):
        return False
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _chunks(data: bytes) -> list[tuple[bytes, memoryview]]:
    """Return the chunks after the first, with name and bytes. SimpleITK verifies their checksums.

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
        raise DataError(f"the file is cut short: the image does not end within {len(data):,} bytes")
    if all(name != _PIXELS for name, _ in chunks):
        raise DataError(_DAMAGED)
    return chunks
