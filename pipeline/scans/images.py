"""Reads X-ray images, and resizes them by area averaging."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.jit import inlined, kernel
from genesis_toolkit.pipeline.scans.files import check_regular, not_opened
from genesis_toolkit.pipeline.scans.png import HEADER_BYTES, MOST_PIXELS, decode_png, png_size

#: Largest file read, in bytes: four channels that do not compress at all.
MOST_BYTES = 4 * MOST_PIXELS + 2**20

_ZERO, _ONE, _TWO = np.uint64(0), np.uint64(1), np.uint64(2)


@dataclass(frozen=True)
class Picture:
    """An image with its pixels.

    Attributes:
        pixels: uint8 [x, y], x the column from the left and y the row from the top; grey levels 0..255.
        sha256: sha256 of the file, in hexadecimal.
        window: the values in the file that became 0 and 255.
        inverted: whether black and white were exchanged, as MONOCHROME1 requires.
    """

    pixels: NDArray[np.uint8]
    sha256: str
    window: tuple[float, float] = (0.0, 255.0)
    inverted: bool = False


def read_image(path: Path) -> Picture:
    """Read an 8-bit PNG, see `png.decode_png`.

    Raises:
        DataError: it is not such an image, or damaged; the reason follows the image's name.
    """
    data = first_bytes(path, MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise DataError(f"the file has more than {MOST_BYTES:,} bytes, the limit for an image")
    return Picture(decode_png(path, data).T, hashlib.sha256(data).hexdigest())


def read_image_size(path: Path) -> tuple[int, int]:
    """Read the columns and rows of an 8-bit PNG from its first bytes.

    Raises:
        DataError: see `read_image`, as far as these bytes reveal it.
    """
    return png_size(first_bytes(path, HEADER_BYTES))


def first_bytes(path: Path, most: int) -> bytes:
    """Read up to `most` bytes from the start of a file.

    Raises:
        DataError: it is not a file, or cannot be opened.
    """
    check_regular(path)
    try:
        with path.open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise DataError(not_opened(error)) from None


def resize(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize an image by area averaging, in whole numbers.

    A pixel of the result is the mean over the area of the image that it covers, with pixels on its edge
    weighted by the covered share; halves are rounded to even. Both axes are scaled independently. When
    enlarging, a pixel of the result covers part of one or a few pixels.

    Args:
        pixels: uint8 [x, y]; edges up to 2^16. Fastest if rows are contiguous in memory.
        size: edges of the result, x, y.

    Returns:
        uint8 [x, y], C-contiguous.
    """
    out = np.empty(size, np.uint8)
    _resize(np.ascontiguousarray(pixels.T), out)
    return out


@kernel
def _resize(rows, out):  # type: ignore[no-untyped-def]
    """Write area averages of `rows` (uint8 [y, x]) to `out` (uint8 [x, y]).

    In units of 1/n of a pixel an edge of N pixels has length N x n, a pixel of the image n and one of the
    result N, so all overlaps are whole. Rows are summed first; sums are at most 255 times the number of rows,
    so 32 bits suffice, which doubles the numbers added at a time compared with 64. Along x, cumulative sums
    up to each edge of the result include a share of the pixel at that edge.
    """
    height, width = np.uint64(rows.shape[0]), np.uint64(rows.shape[1])
    columns, lines = np.uint64(out.shape[0]), np.uint64(out.shape[1])
    sums = np.zeros(width + _ONE, np.uint32)  # and one beyond, of which the last edge takes a share of 0
    total = height * width
    for line in range(lines):
        sums[:] = 0
        top, bottom = line * height, (line + _ONE) * height
        for y in range(top // lines, (bottom - _ONE) // lines + _ONE):
            weight = np.uint32(min(bottom, (y + _ONE) * lines) - max(top, y * lines))
            _add_row(sums, weight, rows[y])
        x, share, before, area = _ZERO, _ZERO, _ZERO, _ZERO
        for column in range(columns):
            share += width
            while share >= columns:
                before += np.uint64(sums[x])
                x += _ONE
                share -= columns
            edge = before * columns + share * np.uint64(sums[x])
            out[column, line] = _rounded(edge - area, total)
            area = edge


@inlined
def _add_row(sums, weight, row):  # type: ignore[no-untyped-def]
    """Add a row (uint8) times a weight (uint32) to sums (uint32)."""
    for x in range(np.uint64(row.size)):
        sums[x] += np.uint32(weight * np.uint32(row[x]))


@inlined
def _rounded(area, total):  # type: ignore[no-untyped-def]
    """Return area / total, rounded, halves to even; uint64."""
    whole = area // total
    rest = _TWO * (area - whole * total)
    up = rest > total or (rest == total and whole % _TWO == _ONE)
    return whole + _ONE if up else whole
