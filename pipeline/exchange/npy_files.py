"""Reads and writes the cube files of the method's authors: `.npy` with values in [0, 1] for whole HU.

An array [cube, x, y, z] of float64, C order, value = (HU + 1000) / 2000 of HU clipped to -1000 .. 1000
(METHOD.md section 2). The authors' files have 3 GB each, so they are read in pieces of a cube, into a reused
buffer. They are not memory-mapped: mapped pages count as the process's own memory, and truncating a file
during reading would kill the process.
"""

import hashlib
import io
import os
import re
import tokenize
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.absent import check_cube_file
from genesis_toolkit.pipeline.engine import counting
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.pipeline.ledger import AnyPath, write_whole
from genesis_toolkit.pipeline.progress import Bars, Progress, callback, shows
from genesis_toolkit.pipeline.scans.files import bad_name, check_file
from genesis_toolkit.pipeline.scans.find import NO_SUBSET
from genesis_toolkit.pipeline.store.open import CubeStore, open_cubes
from genesis_toolkit.pipeline.store.storage import located
from genesis_toolkit.pipeline.store.write import check_place
from genesis_toolkit.pipeline.wording import size_words

#: The window of these files.
WINDOW = Window(-1000, 1000)

#: Largest distance from a whole HU. Rounding to float32 changes a value by at most 0.00012 HU.
TOLERANCE = 0.001

# bat_32_s_64x64x32_0.npy is the downloaded name, bat_32_64x64x32_0.npy that of the generator.
_NAME = re.compile(r"bat_\d+_(?:s_)?\d+x\d+x\d+_(\d)\.npy")
_PIECE = 1 << 18  # values read at a time: 2 MiB of float64
_MOST_VOXELS = 1 << 28  # voxels of a cube: 512 MiB of int16
_HEADS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_BLOCK_VOXELS = 1 << 22  # decoded at a time
_CUBES_PER_SCAN = 32  # in the authors' names, if the store does not record it
_BROKEN_HEAD = (
    ValueError, TypeError, KeyError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError
)  # fmt: skip


@dataclass(frozen=True)
class NpyFile:
    """A file of cubes whose header has been read and checked.

    Attributes:
        subset: the LUNA16 subset in its name, -1 if there is none.
        count, size: number of cubes, and the edges of one in voxels, x, y, z.
        dtype: dtype of its values, float64 or float32 in either byte order.
        offset: start of its values, in bytes.
        modified: modification time, in ns.
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
        """Return its name without the suffix."""
        return self.path.name.removesuffix(".npy")

    def check_same(self) -> None:
        """Raise a DataError if the file has been written to since its header was read."""
        status = self.path.stat()
        if (status.st_size, status.st_mtime_ns) != (self.bytes, self.modified):
            raise DataError(f"{self.path} was modified while it was read: run the command again.")


def read_head(path: Path) -> NpyFile:
    """Read the header of a file of cubes. Nothing in it is unpickled.

    Raises:
        CallError: the file does not exist, or its name cannot be stored.
        DataError: it is not a `.npy` file of cubes, or its size contradicts its header.
    """
    check_cube_file(path)
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
        raise DataError(f"{path} is {how}: {status.st_size} bytes, but the header requires {needed}.")
    match = _NAME.fullmatch(path.name)
    count, x, y, z = shape
    subset = int(match[1]) if match else NO_SUBSET
    return NpyFile(path, subset, count, (x, y, z), dtype, offset, status.st_size, status.st_mtime_ns)


def _parse(file: BinaryIO, path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(file)
    except ValueError:
        raise DataError(f"{path} is not a .npy file: its first bytes differ.") from None
    if version not in _HEADS:
        raise DataError(f"{path} has .npy version {version[0]}.{version[1]}; only 1.0 and 2.0 are supported.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy warns of headers written by Python 2, but reads them
            shape, in_fortran_order, dtype = _HEADS[version](file)
    except _BROKEN_HEAD:
        raise DataError(f"{path} has an unreadable header: the file is damaged or malicious.") from None
    return shape, in_fortran_order, dtype


def _check_array(path: Path, shape: tuple[int, ...], in_fortran_order: bool, dtype: np.dtype[Any]) -> None:
    edges = " x ".join(map(str, shape))
    if dtype.hasobject:
        raise DataError(
            f"{path} holds Python objects, which could run arbitrary code: only numbers are read."
        )
    if dtype.kind != "f" or dtype.itemsize not in (4, 8):
        raise DataError(f"{path} holds {dtype} values, but it must hold float64 or float32 values in [0, 1].")
    if len(shape) != 4:
        raise DataError(
            f"{path} has the shape {edges or '()'}, but it must have four dimensions, cubes x X x Y x Z."
        )
    if min(shape) < 1:
        raise DataError(f"{path} holds no values: its shape is {edges}.")
    if in_fortran_order and sum(edge > 1 for edge in shape) > 1:
        raise DataError(
            f"{path} is in Fortran order, so its cubes are scattered over the file: load the "
            "array and save numpy.ascontiguousarray of it."
        )
    if int(np.prod(shape[1:], dtype=object)) > _MOST_VOXELS:
        cube = edges.partition(" x ")[2]
        raise DataError(f"{path} has cubes of {cube} voxels, but at most {_MOST_VOXELS} voxels are allowed.")


def read_cubes(source: NpyFile, numbers: range, out: NDArray[np.int16]) -> Iterator[int]:
    """Read consecutive cubes as whole HU, each into `out`, and yield its number once it is there.

    Args:
        source: the file.
        numbers: numbers of the cubes.
        out: [x, y, z], C-contiguous.

    Raises:
        DataError: a value is not a whole number of HU in the window, or the file ends early; and where.
    """
    flat, room = out.reshape(-1), np.empty(min(_PIECE, out.size), source.dtype)
    with source.path.open("rb") as file:
        file.seek(source.offset + numbers.start * out.size * source.dtype.itemsize)
        for number in numbers:
            for start in range(0, out.size, len(room)):
                values = room[: out.size - start]
                if file.readinto(values.view(np.uint8)) != values.nbytes:  # type: ignore[arg-type]
                    raise DataError(
                        f"{source.path} ends within cube {number}: the file was truncated while it was read."
                    )
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
        f"{found}, which is {hu:.4f} HU, {abs(hu - round(hu)):.4f} from a whole number; rounding explains at "
        f"most {TOLERANCE:g}: values must be (HU + 1000) / 2000 of whole HU, not resampled afterwards."
    )


def hu_of(values: NDArray[Any]) -> tuple[NDArray[np.int16], int | None]:
    """Convert values in [0, 1] to whole HU, and find the first that is not one. Pure.

    Args:
        values: float64 or float32 [n].

    Returns:
        hu : int16 [n], -1000 .. 1000; invalid if there is a bad value.
        bad : index of the first bad value; None if all are within `TOLERANCE` of a whole HU in the window.
    """
    with np.errstate(all="ignore"):  # infinite values and NaN are reported as bad, without warnings
        exact = values.astype(np.float64)
        exact *= WINDOW.span
        exact += WINDOW.low
        whole = np.rint(exact)
        exact -= whole
        good = (np.abs(exact) <= TOLERANCE) & (whole >= WINDOW.low) & (whole <= WINDOW.high)
        return whole.astype(np.int16), None if good.all() else int(np.argmin(good))


def values_of(hu: NDArray[np.int16], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Convert whole HU of the window to values in [0, 1]: (HU + 1000) / 2000, of `dtype`. Pure."""
    values: NDArray[Any] = (hu.astype(np.float64) - WINDOW.low) / WINDOW.span
    return values.astype(dtype, copy=False)


@dataclass(frozen=True)
class ExportResult:
    """One file of `export_npy`.

    Attributes:
        path: the file.
        subset: the subset of its cubes, -1 for cubes without one.
        cubes: number of cubes.
        sha256: sha256 of the file.
        done_before: it already existed with this content.
    """

    path: Path
    subset: int
    cubes: int
    sha256: str
    done_before: bool


@shows(Bars)
def export_npy(
    cubes: AnyPath,
    folder: AnyPath,
    *,
    dtype: Literal["float64", "float32"] = "float64",
    overwrite: bool = False,
    progress: Progress | bool = False,
) -> list[ExportResult]:
    """Write the cubes of a store as the authors' cube files, one per subset, like `numpy.save`.

    The cubes of a subset keep the order of the store. A file appears only once it is complete; an existing
    one with the same content is left unchanged.

    Args:
        cubes: the cube store, with the published HU window.
        folder: folder for the files, created if needed.
        dtype: dtype of the values, (HU + 1000) / 2000.
        overwrite: replace files with other content.
        progress: True shows bars on stderr; a callback receives the progress.

    Raises:
        CallError: there is no cube store, it holds patches or images or has another window, or a file with
            other content is in the way.
        DataError: the store is damaged.
    """
    report = callback(progress)
    cubes, folder = located(cubes), Path(folder)
    store = open_cubes(cubes)
    if len(store.size) != 3:
        raise CallError(
            f"{cubes} holds patches or images of {size_words(store.size)}, but the original Models Genesis "
            "format holds only cubes: read the store with zarr, as the store's README.md shows."
        )
    if (store.window, store.attributes["unit"]) != (WINDOW, "HU"):
        raise CallError(
            f"{cubes} holds {store.window.low} .. {store.window.high} {store.attributes['unit']}, but the "
            "authors' files hold -1000 .. 1000 HU: extract the cubes with --hu -1000,1000."
        )
    check_place(folder / "cubes.npy")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CallError(f"{folder} cannot be created ({error.strerror}): choose another location.") from None
    subsets = store.scans.subset[store.table.scan]
    chosen = {int(subset): np.flatnonzero(subsets == subset) for subset in np.unique(subsets)}
    paths = {subset: folder / _file_name(store, subset) for subset in chosen}
    there: dict[int, str] = {}
    for subset, positions in chosen.items():
        if paths[subset].exists() and not overwrite:
            there[subset] = _checked(paths[subset], _parts(store, positions, np.dtype(dtype)))
    written, exported = counting(report, "cubes", len(store), 0), []
    for subset, positions in chosen.items():
        path, parts = paths[subset], _parts(store, positions, np.dtype(dtype), written)
        for left in folder.glob(f".{path.name}.*.part"):  # left by a run that was killed
            left.unlink()
        digest = there.get(subset) or write_whole(path, parts)
        exported.append(ExportResult(path, subset, len(positions), digest, subset in there))
    return exported


def _file_name(store: CubeStore, subset: int) -> str:
    """Return the name that the released trainer reads, `bat_32_s_64x64x32_0.npy`; no number if unknown."""
    each = store.attributes["parameters"].get("cubes_per_scan", _CUBES_PER_SCAN)
    number = "" if subset == NO_SUBSET else f"_{subset}"
    return f"bat_{each}_s_{'x'.join(map(str, store.size))}{number}.npy"


def _parts(
    store: CubeStore,
    positions: NDArray[np.int64],
    dtype: np.dtype[Any],
    written: Callable[[object], None] = lambda _: None,
) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a file, a few cubes at a time, after the header as written by `numpy.save`."""
    head, shape = io.BytesIO(), (len(positions), *store.size)
    facts = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(head, facts)
    yield head.getvalue()
    step = max(1, _BLOCK_VOXELS // int(np.prod(store.size)))
    room = np.empty((min(step, len(positions)), *store.size), store.cubes.dtype)
    for start in range(0, len(positions), step):
        block = positions[start : start + step]
        hu = room[: len(block)]
        store.cubes.read_many(block, hu)
        if hu.min() < WINDOW.low or hu.max() > WINDOW.high:
            raise DataError(
                f"{store.storage.place} is damaged: it holds values from {hu.min()} to {hu.max()}, outside "
                f"its HU window of {WINDOW.low} to {WINDOW.high}. Extract the cubes again."
            )
        yield values_of(hu, dtype).data.cast("B")
        for cube in block:
            written(cube)


def _checked(path: Path, parts: Iterator[bytes | memoryview]) -> str:
    """Return the sha256 of an existing file; a CallError if its content differs from these parts."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for part in parts:
            if file.read(len(part)) != part:
                break
            digest.update(part)
        else:
            if not file.read(1):
                return digest.hexdigest()
    raise CallError(
        f"{path} already exists with different content: choose another folder, or use --overwrite to replace "
        "the file."
    )
