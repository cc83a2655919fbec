"""Looks for damage in single files of a store: verifies each sha256, and every cube of a shard.

A shard is read once, in pieces that stay in the processor's cache while they are hashed, checked against
their checksums, decoded and compared with the window.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.pipeline.store.metadata import MOST_CHUNK, MOST_METADATA, Array
from genesis_toolkit.pipeline.store.schema import is_shard
from genesis_toolkit.pipeline.store.shards import MISSING, decode_chunk, read_index
from genesis_toolkit.pipeline.store.storage import Storage, not_as_written, read_within
from genesis_toolkit.pipeline.wording import listed, reason_of

_BLOCK = 2**20
_FAR_BLOCK = 2**24  # bytes, for a server, where every request takes time
_AT_ONCE = 8  # files requested at the same time
_MOST_PACKED = 64  # bytes by which an encoded cube may exceed its voxels


@dataclass(frozen=True)
class Examined:
    """Findings about one file; its sha256 is empty if it could not be read to its end.

    Problems concern its contents, each phrased to follow its name.
    """

    path: str
    bytes: int
    sha256: str
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class ShardPlace:
    """One shard of an array of voxels, by its number; `window` is None if unknown."""

    array: Array
    number: int
    window: Window | None

    @property
    def first(self) -> int:
        """Return the number of the first cube in it."""
        return self.number * self.array.chunk

    @property
    def count(self) -> int:
        """Return the number of cubes in it."""
        return min(self.array.chunk, len(self.array) - self.first)


def examine(storage: Storage, path: str, place: ShardPlace | None = None) -> Examined:
    """Read one file to its end; `place` identifies a shard, and any other file (None) is only hashed."""
    digest, size = hashlib.sha256(), 0
    try:
        size = storage.size(path)
        if place is not None:
            problems = _read_shard(storage, path, size, place, digest)
            return Examined(path, size, digest.hexdigest(), tuple(problems))
        for piece in _stretch(0, size, _step(storage)):
            digest.update(_bytes_of(storage, path, [piece])[0])
        return Examined(path, size, digest.hexdigest())
    except FileNotFoundError:
        return Examined(path, size, "", ("is missing",))
    except (OSError, DataError) as error:
        return Examined(path, size, "", (f"cannot be read: {reason_of(error)}",))


def verified(storage: Storage, manifest: Mapping[str, str]) -> dict[str, bytes]:
    """Return all files but the shards, by path, after verifying each.

    Raises:
        DataError: a file is missing or has changed.
    """
    tables = {path: digest for path, digest in manifest.items() if not is_shard(path)}
    shards = [path for path in manifest if is_shard(path)] if storage.near else []

    def read(path: str) -> bytes:
        try:
            data = read_within(storage, path, MOST_METADATA if path.endswith(".json") else MOST_CHUNK)
        except DataError as error:
            raise DataError(f"{storage.place}/{path} {error}." if storage.near else str(error)) from None
        except OSError as error:
            if storage.near or isinstance(error, FileNotFoundError):
                raise not_as_written(storage.place, path) from None
            raise DataError(f"{storage.place}/{path} cannot be read: {error.strerror}.") from None
        if hashlib.sha256(data).hexdigest() != tables[path]:
            raise not_as_written(storage.place, path)
        return data

    for path in shards:
        try:
            storage.size(path)
        except OSError:
            raise not_as_written(storage.place, path) from None
    with ThreadPoolExecutor(_AT_ONCE) as threads:  # sequential requests to a server take seconds
        return dict(zip(tables, threads.map(read, tables), strict=True))


def _read_shard(
    storage: Storage, path: str, size: int, place: ShardPlace, digest: "hashlib._Hash"
) -> list[str]:
    """Hash a shard and decode its cubes; return the problems."""
    step, broken, wrong = _step(storage), "", dict[str, list[int]]()
    try:
        index = read_index(storage, path, place.array.chunk)
        pieces = _pieces(index, place, size, step)
        absent = np.flatnonzero(index[: place.count, 0] == MISSING) + place.first
        if absent.size:
            wrong["missing from the shard, although the store lists it"] = absent.tolist()
    except DataError as error:
        broken, pieces = f"{error}, so the cubes of the shard cannot be located", _stretch(0, size, step)
    out = np.empty(place.array.shape[1:], place.array.dtype)
    for batch in _batches(pieces, step):
        for piece, data in zip(batch, _bytes_of(storage, path, batch), strict=True):
            digest.update(data)
            problem = "" if piece.number is None else _problem_of(data, out, place.window)
            if problem:
                wrong.setdefault(problem, []).append(place.first + (piece.number or 0))
    kind = "pair" if place.array.name == "degraded" else "cube"
    found = [f"{kind} {listed(numbers)}: {problem}" for problem, numbers in wrong.items()]
    return [broken, *found] if broken else found


class _Piece(NamedTuple):
    """A piece of a shard: one cube by its number in it, or the bytes between or after cubes."""

    start: int
    length: int
    number: int | None = None


def _pieces(index: NDArray[np.uint64], place: ShardPlace, size: int, step: int) -> list[_Piece]:
    """Split a shard in order; a DataError if its index contradicts the number of cubes in the store."""
    array = place.array
    most = math.prod(array.shape[1:]) * (array.dtype.itemsize if array.dtype else 1) + _MOST_PACKED
    there = [_Piece(int(offset), int(length), number) for number, (offset, length) in enumerate(index)]
    there = sorted(cube for cube in there if cube.start != int(MISSING))
    if any((cube.number or 0) >= place.count for cube in there):
        raise DataError(f"the shard holds more than the {place.count} cubes that the store lists for it")
    if any(cube.length > most for cube in there):
        raise DataError(f"the index assigns more than {most:,} bytes to one cube")
    pieces, end = list[_Piece](), 0
    for cube in there:
        if cube.start < end:
            raise DataError("the index makes cubes overlap")
        pieces += [*_stretch(end, cube.start, step), cube]
        end = cube.start + cube.length
    return pieces + _stretch(end, size, step)


def _stretch(start: int, stop: int, step: int) -> list[_Piece]:
    return [_Piece(begin, min(step, stop - begin)) for begin in range(start, stop, step)]


def _batches(pieces: list[_Piece], step: int) -> Iterator[list[_Piece]]:
    """Group pieces to request at once, of about `step` bytes together."""
    batch = list[_Piece]()
    for piece in pieces:
        batch.append(piece)
        if piece.start + piece.length - batch[0].start >= step:
            yield batch
            batch = []
    if batch:
        yield batch


def _step(storage: Storage) -> int:
    return _BLOCK if storage.near else _FAR_BLOCK


def _bytes_of(storage: Storage, path: str, pieces: list[_Piece]) -> list[bytes]:
    found = list(storage.read_ranges(path, [(piece.start, piece.length) for piece in pieces]))
    if any(len(data) < piece.length for data, piece in zip(found, pieces, strict=True)):
        raise OSError(5, "the file became shorter while it was read")
    return found


def _problem_of(chunk: bytes, out: NDArray[Any], window: Window | None) -> str:
    """Return what is wrong with one encoded cube; empty if nothing is."""
    try:
        decode_chunk(chunk, out)
    except DataError as error:
        return str(error)
    if window is not None and not (window.low <= int(out.min()) and int(out.max()) <= window.high):
        return f"values outside the window {window.low}..{window.high}"
    return ""
