"""Decodes 8-bit PNGs, strictly: every checksum is looked at, and every pixel must be there.

Source: W3C Recommendation, "Portable Network Graphics (PNG) Specification". zlib inflates and the kernels
here undo the filters, which takes 0.7 of Pillow's time; and Pillow reads pixels without their checksums, and
takes those that are missing for black. Only the header and the pixels are unpacked, no text, profile or
animation that a stranger put into the file.
"""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.jit import inlined, kernel

#: Pixels that are decoded at most: those of NIH's images are a million, of the largest detectors 20 million.
MOST_PIXELS = 2**26
MOST_EDGE = 2**16

HEADER_BYTES = 33  # the signature and the first chunk

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KINDS = {0: "grey", 2: "colour", 3: "palette", 4: "grey with transparency", 6: "colour with transparency"}
_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # what is taken

_DAMAGED = "its pixels cannot be decoded: the file is damaged"

#: Filters of a row, by their number in the file.
_NONE, _SUB, _UP, _AVERAGE = 0, 1, 2, 3
_PAETH = 4


def png_size(data: bytes) -> tuple[int, int]:
    """Columns and rows of a PNG that can be taken: 8 bits a channel, no palette, not gigantic.

    Args:
        data: the file, or its first 33 bytes.

    Raises:
        DataError: it cannot be taken; why, to go after the image's name.
    """
    if not data.startswith(_SIGNATURE):
        raise DataError("it is no PNG")
    if len(data) < HEADER_BYTES or data[12:16] != b"IHDR":
        raise DataError("its header cannot be read: the file is damaged or cut short")
    columns, rows, bits, kind, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    if not columns or not rows:
        raise DataError(f"it has no pixels ({columns} x {rows})")
    if columns * rows > MOST_PIXELS or max(columns, rows) > MOST_EDGE:
        most = f"{MOST_PIXELS:,} at most, {MOST_EDGE:,} a side, are decoded"
        raise DataError(f"it has {columns:,} x {rows:,} pixels, and {most}")
    if bits != 8 or kind not in _CHANNELS:
        found = _KINDS.get(kind, f"kind {kind}")
        raise DataError(f"it is a PNG of {bits} bits a channel, {found}; 8 bits of grey or colour wanted")
    if interlaced:
        raise DataError("it is interlaced, which is not read: save it without")
    return columns, rows


def decode_png(data: bytes) -> NDArray[np.uint8]:
    """The grey levels of a PNG.

    Colour becomes grey as Pillow's `convert("L")` makes it, by the luma of ITU-R BT.601 in whole numbers;
    transparency is dropped, as there.

    Args:
        data: the file.

    Returns:
        uint8 [y, x], C-contiguous, 0..255.

    Raises:
        DataError: it cannot be taken, or is damaged; why, to go after the image's name.
    """
    columns, rows = png_size(data)
    channels = _CHANNELS[data[25]]
    packed = _pixel_bytes(data)
    length = rows * (1 + columns * channels)
    inflate = zlib.decompressobj()
    try:
        raw = inflate.decompress(packed, length + 1)
    except zlib.error:
        raise DataError(_DAMAGED) from None
    if len(raw) != length or not inflate.eof:
        raise DataError(_DAMAGED)
    values = np.empty((rows, columns * channels), np.uint8)
    if not _unfilter(np.frombuffer(raw, np.uint8).reshape(rows, -1), channels, values):
        raise DataError(_DAMAGED)
    if channels == 1:
        return values
    grey = np.empty((rows, columns), np.uint8)
    _to_grey(values, channels, grey)
    return grey


def _pixel_bytes(data: bytes) -> bytes:
    """The deflated pixels, each part of them known to fit its checksum.

    Raises:
        DataError: the file is damaged, or ends before the image does.
    """
    view, parts = memoryview(data), []
    at = len(_SIGNATURE)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            break
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            raise DataError("its bytes do not fit their checksum: the file is damaged")
        if kind == b"IDAT":
            parts.append(view[at + 8 : end - 4])
        if kind == b"IEND":
            return b"".join(parts)
        at = end
    raise DataError(f"it is cut short: {len(data):,} bytes, and the image goes on")


@kernel
def _unfilter(raw, channels, out):  # type: ignore[no-untyped-def]
    """Undo the filters of `raw` (uint8 [y, 1 + x], the filter first) into `out` (uint8 [y, x]).

    Returns:
        Whether all filters are known.
    """
    nothing = np.zeros(out.shape[1], np.uint8)
    for y in range(out.shape[0]):
        kind = raw[y, 0]
        if kind > _PAETH:
            return False
        above = out[y - 1] if y else nothing
        if kind in (_NONE, _UP):
            _undo_up(raw[y, 1:], above if kind == _UP else nothing, out[y])
        else:
            for channel in range(channels):
                _undo_left(kind, raw[y, 1:], above, np.uint64(channel), np.uint64(channels), out[y])
    return True


@inlined
def _undo_up(line, above, row):  # type: ignore[no-untyped-def]
    """Each byte was stored less the one above."""
    for x in range(np.uint64(row.size)):
        row[x] = np.uint8(line[x] + above[x])


@inlined
def _undo_left(kind, line, above, first, step, row):  # type: ignore[no-untyped-def]
    """Bytes of one channel, each stored less what was expected of that to the left, above, and above that."""
    width = np.uint64(row.size)
    left, corner = np.int32(0), np.int32(0)
    if kind == _SUB:
        for x in range(first, width, step):
            left = (left + np.int32(line[x])) & 255
            row[x] = left
    elif kind == _AVERAGE:
        for x in range(first, width, step):
            left = (((left + np.int32(above[x])) >> 1) + np.int32(line[x])) & 255
            row[x] = left
    else:
        for x in range(first, width, step):
            up = np.int32(above[x])
            by_left, by_up, by_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
            nearest = up if by_up <= by_corner else corner
            if by_left <= by_up and by_left <= by_corner:
                nearest = left
            corner = up
            left = (nearest + np.int32(line[x])) & 255
            row[x] = left


@kernel
def _to_grey(values, channels, grey):  # type: ignore[no-untyped-def]
    """The luma of colours, or the grey beside a transparency."""
    for y in range(grey.shape[0]):
        for x in range(grey.shape[1]):
            at = x * channels
            if channels < 3:
                grey[y, x] = values[y, at]
            else:
                red, green, blue = values[y, at], values[y, at + 1], values[y, at + 2]
                grey[y, x] = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
