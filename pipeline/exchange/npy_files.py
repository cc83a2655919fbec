"""The files in which the method's authors keep their cubes: `.npy`, values in [0, 1] that stand for whole HU.

An array [cube, x, y, z] of float64, C order, value = (HU + 1000) / 2000 of HU clipped to -1000 .. 1000
(METHOD.md section 2). One of theirs has 3 GB, so it is read a piece of a cube at a time, into room that is
used again. It is not mapped into memory: the pages of a mapped file count as the process's own, and one that
is cut short while it is read would end the process.
"""

import io
import os
import re
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.pipeline.scans.files import bad_name, check_file
from genesis_toolkit.pipeline.scans.find import NO_SUBSET

#: The window of their files.
WINDOW = Window(-1000, 1000)

#: How far from a whole HU a value may lie. Rounding it to float32 moves it by 0.00012 HU at most.
TOLERANCE = 0.001

# bat_32_s_64x64x32_0.npy as it is downloaded, bat_32_64x64x32_0.npy as the generator names it.
_NAME = re.compile(r"bat_\d+_(?:s_)?\d+x\d+x\d+_(\d)\.npy")
_PIECE = 1 << 18  # values read at a time: 2 MiB of float64
_MOST_VOXELS = 1 << 28  # of a cube: 512 MiB of int16
_HEADS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_BROKEN_HEAD = (
    ValueError, TypeError, KeyError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError
)  # fmt: skip


@dataclass(frozen=True)
class NpyFile:
    """A file of cubes, its header read and found right.

    Attributes:
        subset: the LUNA16 subset that its name tells, -1 where it tells none.
        count, size: how many cubes, and the edges of one in voxels, x, y, z.
        dtype: of its values, float64 or float32 in either byte order.
        offset: where its values begin, in bytes.
        modified: when it was last written, in ns.
    """

    path: Path
    subset: int
    count: int
    size: tuple[int, int, int]
    dtype: np.dtype[Any]
    offset: int
    bytes: int
    modified: int

    @property
    def identifier(self) -> str:
        """Its name without the suffix."""
        return self.path.name.removesuffix(".npy")

    def check_same(self) -> None:
        """Raise a DataError if the file has been written since its header was read."""
        status = self.path.stat()
        if (status.st_size, status.st_mtime_ns) != (self.bytes, self.modified):
            raise DataError(f"{self.path} was written while it was read: give the command again.")


def read_head(path: Path) -> NpyFile:
    """Read the header of a file of cubes. Nothing in it is unpickled.

    Raises:
        CallError: there is no such file, or its name cannot be stored.
        DataError: it is no `.npy` file of cubes, or is shorter or longer than its header says.
    """
    if not path.exists():
        raise CallError(f"There is no file {path}: give the authors' cube files, as bat_32_s_64x64x32_0.npy.")
    if bad_name(path.name):
        raise CallError(f"{os.fsencode(path)!r}: {bad_name(path.name)}.")
    try:
        check_file(path)
    except DataError as error:
        raise DataError(f"{path}: {error}.") from None
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        shape, in_fortran_order, dtype = _parse(file, path)
        offset = file.tell()
    _check_array(path, shape, in_fortran_order, dtype)
    needed = offset + int(np.prod(shape, dtype=object)) * dtype.itemsize
    if needed != status.st_size:
        how = "cut short" if status.st_size < needed else "too long"
        raise DataError(f"{path} is {how}: {status.st_size} bytes, and its header tells of {needed}.")
    match = _NAME.fullmatch(path.name)
    count, x, y, z = shape
    subset = int(match[1]) if match else NO_SUBSET
    return NpyFile(path, subset, count, (x, y, z), dtype, offset, status.st_size, status.st_mtime_ns)


def _parse(file: BinaryIO, path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(file)
    except ValueError:
        raise DataError(f"{path} is no .npy file: it does not begin as one does.") from None
    if version not in _HEADS:
        raise DataError(f"{path} is of .npy version {version[0]}.{version[1]}; 1.0 and 2.0 are read.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy tells of headers that Python 2 wrote, and reads them
            shape, in_fortran_order, dtype = _HEADS[version](file)
    except _BROKEN_HEAD:
        raise DataError(f"{path} has a header that cannot be read: it is damaged, or hostile.") from None
    return shape, in_fortran_order, dtype


def _check_array(path: Path, shape: tuple[int, ...], in_fortran_order: bool, dtype: np.dtype[Any]) -> None:
    edges = " x ".join(map(str, shape))
    if dtype.hasobject:
        raise DataError(f"{path} holds Python objects, which could run anything: numbers alone are read.")
    if dtype.kind != "f" or dtype.itemsize not in (4, 8):
        raise DataError(f"{path} holds {dtype} values; float64 or float32 in [0, 1] are wanted.")
    if len(shape) != 4:
        raise DataError(f"{path} has the shape {edges or '()'}; cubes x X x Y x Z is wanted, four numbers.")
    if min(shape) < 1:
        raise DataError(f"{path} holds nothing: its shape is {edges}.")
    if in_fortran_order and sum(edge > 1 for edge in shape) > 1:
        raise DataError(
            f"{path} is in Fortran order, so its cubes lie scattered over the file: load it and save "
            "numpy.ascontiguousarray of it."
        )
    if int(np.prod(shape[1:], dtype=object)) > _MOST_VOXELS:
        cube = edges.partition(" x ")[2]
        raise DataError(f"{path} has cubes of {cube} voxels; {_MOST_VOXELS} voxels are the most.")


def read_cubes(source: NpyFile, numbers: range, out: NDArray[np.int16]) -> Iterator[int]:
    """Read cubes that follow one another as whole HU, each into `out`, and give its number once it is there.

    Args:
        source: the file.
        numbers: of the cubes.
        out: [x, y, z], C-contiguous.

    Raises:
        DataError: a value stands for no whole HU in the window, or the file ends early; which, and where.
    """
    flat, room = out.reshape(-1), np.empty(min(_PIECE, out.size), source.dtype)
    with source.path.open("rb") as file:
        file.seek(source.offset + numbers.start * out.size * source.dtype.itemsize)
        for number in numbers:
            for start in range(0, out.size, len(room)):
                values = room[: out.size - start]
                if file.readinto(values.view(np.uint8)) != values.nbytes:  # type: ignore[arg-type]
                    raise DataError(f"{source.path} ends within cube {number}: it was cut short just now.")
                hu, bad = hu_of(values)
                if bad is not None:
                    place = tuple(int(edge) for edge in np.unravel_index(start + bad, source.size))
                    raise DataError(_refusal(source.path, number, place, float(values[bad])))
                flat[start : start + len(values)] = hu
            yield number


def _refusal(path: Path, cube: int, place: tuple[int, ...], value: float) -> str:
    found = f"{path}: cube {cube} has {value!r} at voxel {','.join(map(str, place))}"
    if not 0 <= value <= 1:
        return f"{found}, outside 0 .. 1: values are (HU + 1000) / 2000 of whole HU from -1000 to 1000."
    hu = value * WINDOW.span + WINDOW.low
    return (
        f"{found}, which is {hu:.4f} HU, {abs(hu - round(hu)):.4f} from a whole number and more than the "
        f"{TOLERANCE:g} of rounding: values are (HU + 1000) / 2000 of whole HU, not resampled afterwards."
    )


def hu_of(values: NDArray[Any]) -> tuple[NDArray[np.int16], int | None]:
    """Whole HU of values in [0, 1], and the index of the first that stands for none. Pure.

    Args:
        values: float64 or float32 [n].

    Returns:
        hu : int16 [n], -1000 .. 1000; not to be used where there is a bad one.
        bad : None where every value lies within `TOLERANCE` of a whole HU of the window.
    """
    with np.errstate(all="ignore"):  # infinite values and those that are no numbers are bad, not noisy
        exact = values.astype(np.float64)
        exact *= WINDOW.span
        exact += WINDOW.low
        whole = np.rint(exact)
        exact -= whole
        good = (np.abs(exact) <= TOLERANCE) & (whole >= WINDOW.low) & (whole <= WINDOW.high)
        return whole.astype(np.int16), None if good.all() else int(np.argmin(good))


def values_of(hu: NDArray[np.int16], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The values in [0, 1] that stand for whole HU of the window: (HU + 1000) / 2000, of `dtype`. Pure."""
    values: NDArray[Any] = (hu.astype(np.float64) - WINDOW.low) / WINDOW.span
    return values.astype(dtype, copy=False)


def head_of(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """What a `.npy` file of an array in C order begins with, as `numpy.save` writes it."""
    head = io.BytesIO()
    facts = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(head, facts)
    return head.getvalue()
