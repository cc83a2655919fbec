"""Shards as defined by zarr's `sharding_indexed` codec, written whole and read cube by cube.

A shard is one file: the encoded cubes one after another, then an index of (offset, length) pairs and the
index's checksum. Each cube is one inner chunk, encoded as blosc-lz4 bitshuffle followed by its crc32c, so a
damaged cube is detected before decoding (blosc alone decodes 58 of 60 flipped bits without complaint).

zarr-python remains the reference: it can read these shards, and tests compare the two. Our code exists for
speed: it writes whole shards at 2.4 times zarr's rate, and reads a random cube in a tenth of the time of
`array[i]`.
"""

import os
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import google_crc32c
import numcodecs.blosc
import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import write_whole
from genesis_toolkit.pipeline.store.storage import Storage
from genesis_toolkit.pipeline.wording import reason_of

# With blosc's own threads a call from the main thread takes a global lock; zarr disables them too.
numcodecs.blosc.use_threads = False

COMPRESSOR: Final = "lz4"
COMPRESSION_LEVEL = 5
CRC_BYTES: Final = 4
#: Checksum of any bytes followed by their own checksum: a constant, so checking needs no copy of a slice.
RESIDUE: Final = google_crc32c.value(bytes(CRC_BYTES))
BLOSC_HEADER: Final = 16
_BLOSC_LENGTHS = struct.Struct("<I4xI")  # bytes before and after compression, from byte 4 on
#: Entry in a shard's index for a cube that does not exist.
MISSING = np.uint64(2**64 - 1)
_LARGEST_SHARD = 2**26  # bytes before compression: memory per task, and a size that suits network disks
_MOST_CUBES = 512
_AT_ONCE = 16  # shards requested at the same time


def shard_length(size: Sequence[int], itemsize: int) -> int:
    """Return the number of cubes in a full shard: the largest power of two up to 512 within 64 MiB.

    256 for the published 64 x 64 x 32 voxels of 2 bytes each; 1 for a cube of 64 MiB or more.
    """
    length = _MOST_CUBES
    cube_bytes = int(np.prod(size)) * itemsize
    while length > 1 and length * cube_bytes > _LARGEST_SHARD:
        length //= 2
    return length


def shard_path(array: str, shard: int, axes: int) -> str:
    """Return the path of a shard of an array with `axes` axes: `cubes/c/5/0/0/0`, zarr's default keys."""
    return f"{array}/c/{shard}" + "/0" * (axes - 1)


def spread(counts: Sequence[int], length: int) -> Iterator[list[tuple[int, int, int]]]:
    """Distribute the cubes of several parts, stored one after another in one array, over its shards.

    Yields:
        For each shard, and each part with cubes in it: the part's index, the first of these cubes, their end.
    """
    ends = list(accumulate(counts))
    for start in range(0, ends[-1], length):
        stop = min(start + length, ends[-1])
        yield [
            (part, max(start - end + count, 0), min(stop - end, 0) + count)
            for part, (count, end) in enumerate(zip(counts, ends, strict=True))
            if end > start and end - count < stop
        ]


def encode_cube(cube: NDArray[Any]) -> bytes:
    """Return one inner chunk of C-contiguous integers: blosc-lz4 bitshuffle, then crc32c, like zarr."""
    how = COMPRESSOR.encode(), COMPRESSION_LEVEL, numcodecs.blosc.BITSHUFFLE, 0, cube.itemsize
    compressed: bytes = numcodecs.blosc.compress(cube, *how)
    return compressed + _crc32c(compressed)


def decode_chunk(chunk: bytes | memoryview, out: NDArray[Any]) -> None:
    """Undo `encode_cube`; also for chunks of tables. The GIL is free during decoding.

    Args:
        chunk: blosc, then crc32c.
        out: C-contiguous, filled.

    Raises:
        DataError: its checksum is wrong, or its size differs from `out`; the message follows its name.
    """
    packed = memoryview(chunk)[:-CRC_BYTES]
    if not fits_checksum(chunk):
        raise DataError("the checksum is wrong")
    # blosc trusts the lengths in a chunk, and would read past the end of one that is shorter.
    if len(packed) < BLOSC_HEADER or _BLOSC_LENGTHS.unpack_from(packed, 4) != (out.nbytes, len(packed)):
        raise DataError("the size in bytes does not match the array")
    try:
        numcodecs.blosc.decompress(packed, out)
    except (RuntimeError, ValueError):
        raise DataError("the data cannot be decoded") from None


def shard_parts(chunks: Sequence[bytes], length: int) -> list[bytes]:
    """Return the bytes of one shard file, in parts to be written one after another.

    Args:
        chunks: encoded cubes in order, at most `length`; the last shard of an array may hold fewer.
        length: number of cubes in a full shard of this array.
    """
    index = np.full((length, 2), MISSING, dtype="<u8")
    lengths = np.array([len(chunk) for chunk in chunks], "<u8")
    index[: len(chunks)] = np.stack([np.cumsum(lengths) - lengths, lengths], axis=1)
    table = index.tobytes()
    return [*chunks, table, _crc32c(table)]


class ShardReader:
    """Reads single cubes of one sharded array of a store, from any number of threads.

    Each shard's index is read and checked once, then kept.

    Args:
        storage: storage of the store.
        array: the array's path in the store; its shape has the cube axis first.
        shape, dtype: shape and dtype of the array.
        length: number of cubes in a full shard.
    """

    def __init__(
        self, storage: Storage, array: str, shape: Sequence[int], dtype: np.dtype[Any], length: int
    ) -> None:
        self.storage, self.array = storage, array
        self.shape, self.dtype, self.length = tuple(shape), dtype, length
        self._indices: dict[int, NDArray[np.uint64]] = {}

    def __len__(self) -> int:
        return self.shape[0]

    def path(self, shard: int) -> str:
        """Return the path of a shard in the store."""
        return shard_path(self.array, shard, len(self.shape))

    def read(self, position: int, out: NDArray[Any]) -> None:
        """Decode cube number `position` into `out`; the GIL is free during decoding.

        Args:
            position: 0 .. len - 1.
            out: the store's dtype, C-contiguous, the shape of one cube (axes x, y, z).

        Raises:
            CallError: `out` has another dtype, shape or memory order.
            DataError: the shard is missing or cut short, or the cube's checksum is wrong.
        """
        self.check(out, self.shape[1:])
        self.read_many((position,), out[np.newaxis])

    def read_many(self, positions: Sequence[int] | NDArray[np.integer[Any]], out: NDArray[Any]) -> None:
        """Decode several cubes, in the order given, into the rows of `out` [cube, x, y, z].

        Cubes of one shard are requested together, which takes a server one response, and in storage order.
        Each is decoded while its bytes are in the cache: this takes 0.93 of the processor time of reading all
        of them first. From a server several shards are requested at once, to hide its latency.
        `reading.read_cubes` does the same in compiled code.

        Raises:
            CallError, DataError: see `read`.
        """
        self.check(out, (len(positions), *self.shape[1:]))
        shards: dict[int, list[tuple[int, int]]] = {}
        for row, position in enumerate(positions):
            shards.setdefault(int(position) // self.length, []).append((row, int(position)))

        def fill(shard: int) -> None:
            requested = sorted(shards[shard], key=itemgetter(1))
            parts = [self.part(position) for _, position in requested]
            for (row, position), chunk in zip(requested, self._get(shard, parts), strict=True):
                try:
                    decode_chunk(chunk, out[row])
                except DataError as error:
                    raise self._damaged(position, str(error)) from None

        if self.storage.near or len(shards) <= 1:
            for shard in shards:
                fill(shard)
        else:
            with ThreadPoolExecutor(min(len(shards), _AT_ONCE)) as threads:
                deque(threads.map(fill, shards), 0)

    def check(self, out: NDArray[Any], shape: tuple[int, ...]) -> None:
        """Refuse an output array with another dtype, shape or memory order.

        Raises:
            CallError: names its properties, and the line that creates a suitable one.
        """
        found, also = (getattr(out, "dtype", type(out).__name__), getattr(out, "shape", ())), ""
        if found == (self.dtype, shape):
            if out.flags.c_contiguous and out.flags.writeable:
                return
            also = ", read-only" if out.flags.c_contiguous else ", not in C order"
        raise CallError(
            f"The array to read into is {found[0]} {list(found[1])}{also}; {self.array} needs "
            f'out = np.empty({shape}, "{self.dtype}").'
        )

    def rows(self, positions: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[Any]:
        """Return several cubes, in the order given, in a new array [cube, x, y, z]; raises as `read`."""
        out = np.empty((len(positions), *self.shape[1:]), self.dtype)
        self.read_many(positions, out)
        return out

    def encoded(self, position: int) -> bytes:
        """Return cube `position` as encoded by `encode_cube`, after verifying it; raises as `read`."""
        shard = position // self.length
        (chunk,) = self._get(shard, [self.part(position)])
        if not fits_checksum(chunk):
            raise self._damaged(position, "the checksum is wrong")
        return chunk

    def part(self, position: int) -> tuple[int, int]:
        """Return offset and length in bytes of cube number `position` in its shard.

        Raises:
            DataError: the shard or its index cannot be read, or the cube is missing from it.
        """
        shard = position // self.length
        if not 0 <= position < len(self):
            raise IndexError(f"cube {position} of {len(self)}")
        offset, size = (int(number) for number in self._index(shard)[position % self.length])
        if offset == int(MISSING):
            raise DataError(f"Cube {position} is missing from {self._name(shard)}, where it should be.")
        return offset, size

    def _damaged(self, position: int, why: str) -> DataError:
        return DataError(f"Cube {position} in {self._name(position // self.length)} is damaged: {why}.")

    def _index(self, shard: int) -> NDArray[np.uint64]:
        index = self._indices.get(shard)
        if index is None:
            try:
                # Two threads may both get here; they set the same value.
                index = self._indices[shard] = read_index(self.storage, self.path(shard), self.length)
            except OSError as error:
                raise not_read(self._name(shard), error) from None
            except DataError as error:
                raise DataError(f"The shard {self._name(shard)} is damaged: {error}.") from None
        return index

    def _get(self, shard: int, parts: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        try:
            yield from self.storage.read_ranges(self.path(shard), parts)
        except OSError as error:
            raise not_read(self._name(shard), error) from None

    def _name(self, shard: int) -> str:
        return f"{self.storage.place}/{self.path(shard)}"


def not_read(shard: str, error: OSError) -> DataError:
    """Return the error for a shard that cannot be read, named by its store and its path."""
    return DataError(f"The shard {shard} cannot be read: {reason_of(error)}.")


def read_index(storage: Storage, path: str, length: int) -> NDArray[np.uint64]:
    """Read where each cube of a shard is stored; a full shard holds `length` cubes.

    Returns:
        uint64 [length, 2], offset and length in bytes; both 2^64 - 1 if the cube does not exist.

    Raises:
        OSError: the shard cannot be read.
        DataError: the index is damaged; the message follows the shard's name.
    """
    end, count = storage.size(path), 16 * length + CRC_BYTES
    table = storage.read_range(path, max(0, end - count), count)
    if len(table) < count or not fits_checksum(table):
        raise DataError("the checksum of the index is wrong")
    index = np.frombuffer(table[:-CRC_BYTES], "<u8").reshape(length, 2)
    present = index[index[:, 0] != MISSING]
    # Compared separately, since the sum of untrusted numbers may overflow.
    if (present > end).any() or (present.sum(axis=1) > end).any():
        raise DataError("the index points past the end of the file")
    return index


def fits_checksum(chunk: bytes | memoryview) -> bool:
    """Return whether bytes end with the crc32c of those before."""
    return len(chunk) >= CRC_BYTES and google_crc32c.value(bytes(chunk)) == RESIDUE


def _crc32c(data: bytes) -> bytes:
    return int(google_crc32c.value(data)).to_bytes(CRC_BYTES, "little")


def link_shard(source: Path, path: Path) -> None:
    """Reuse a shard of a finished store, without copying if the file system supports links."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    try:
        os.link(source, path)
    except OSError:
        write_whole(path, source.read_bytes())
