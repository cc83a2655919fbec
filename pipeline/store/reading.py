"""Many cubes of a store on the disk in one call of compiled code: what feeds a training.

`ShardReader.read_many` is the reference, and goes from cube to cube in Python. Here one kernel reads the
bytes of every cube, holds them against their checksum and decodes them. That takes 0.75 of the processor's
time, and leaves the GIL alone in between, so that two threads read 1.9 times as much as one (1.65 times, from
cube to cube). Memory mapping would save one copy more, but a file that is cut short under it ends the
process. Whatever is damaged, or of another make, is left to the reference, which tells what it is.
"""

import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Final, NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray

from genesis_toolkit.pipeline.jit import kernel
from genesis_toolkit.pipeline.store.crc32c import behind_zeros, crc32c, has_instruction
from genesis_toolkit.pipeline.store.decoding import DecodeScratch, decode_frame, decode_scratch
from genesis_toolkit.pipeline.store.shards import CRC_BYTES, RESIDUE, ShardReader
from genesis_toolkit.pipeline.store.storage import Archive, Folder

_OPEN: Final = 64  # shards at once in a thread: far within any limit of open files
_FRAME: Final = 64  # bytes: a chunk is never longer than its cube by so much

_HAS_KERNEL: Final = has_instruction() and hasattr(os, "pread")

_RESIDUE: Final = np.uint64(RESIDUE)

#: `pread` of the C library: descriptor, address, bytes, place in the file; returns the number of bytes read.
_pread: Any = types.ExternalFunction("pread", types.intp(types.intc, types.uintp, types.uintp, types.int64))


class _Scratch(NamedTuple):
    """Buffers of one thread, for cubes of one size: new memory costs as much as the work."""

    #: uint8, a chunk as it lies in its shard.
    packed: NDArray[np.uint8]
    decode: DecodeScratch
    #: See `crc32c.behind_zeros`.
    zeros: NDArray[np.uint64]


class _Threads(threading.local):
    scratch: _Scratch | None = None


_threads = _Threads()


def read_cubes(
    reader: ShardReader, positions: Sequence[int] | NDArray[np.integer[Any]], out: NDArray[Any]
) -> None:
    """Do what `reader.read_many(positions, out)` does, faster where that can be.

    That is: 16-bit cubes of a store in a folder or an archive, on an x86 with SSE 4.2, and not on Windows.

    Args:
        reader: of an array of the store.
        positions: [cube], 0 .. len - 1.
        out: the store's dtype, `[cube, x, y, z]` or `[cube, x, y]`, C-contiguous: filled.

    Raises:
        CallError, DataError: as `read_many`.
    """
    reader.check(out, (len(positions), *reader.shape[1:]))
    storage = reader.storage
    suits = _HAS_KERNEL and out.itemsize == 2
    if not (suits and isinstance(storage, Folder | Archive)):
        return reader.read_many(positions, out)
    wanted = np.asarray(positions, np.int64)
    shards, place = np.unique(wanted // reader.length, return_inverse=True)
    for first in range(0, len(shards), _OPEN):
        rows = np.flatnonzero((place >= first) & (place < first + _OPEN))
        rows = rows[np.argsort(wanted[rows])]  # as they lie in their shards
        done = _read(reader, storage, wanted[rows], rows, out.reshape(len(out), -1).view(np.uint16))
        for row in rows[~done]:
            reader.read(int(wanted[row]), out[row])
    return None


def _read(
    reader: ShardReader,
    storage: Folder | Archive,
    positions: NDArray[np.int64],
    rows: NDArray[np.int64],
    out: NDArray[np.uint16],
) -> NDArray[np.bool_]:
    """Read cubes `positions` into `rows` of `out` [cube, voxel]; which of them are there now."""
    done = np.zeros(len(rows), np.bool_)
    files: dict[int, tuple[int, int]] = {}
    spans = np.empty((len(rows), 3), np.int64)
    # All of it before any shard is held open: an index that is new is read from its shard, opened for that.
    parts = [reader.part(position) for position in positions.tolist()]
    with ExitStack() as stack:
        for i, (shard, (start, length)) in enumerate(
            zip((positions // reader.length).tolist(), parts, strict=True)
        ):
            if shard not in files:
                try:
                    files[shard] = stack.enter_context(storage.opened(reader.path(shard)))
                except OSError:  # it was there for its index: the reference tells what is the matter now
                    return done
            descriptor, begin = files[shard]
            spans[i] = descriptor, begin + start, length
        _read_all(spans, rows, _scratch(2 * out.shape[1]), out, done)
    return done


def _scratch(size: int) -> _Scratch:
    """The buffers of this thread, for cubes of `size` bytes."""
    scratch = _threads.scratch
    if scratch is None or len(scratch.packed) != size + _FRAME:
        scratch = _Scratch(np.zeros(size + _FRAME, np.uint8), decode_scratch(size), behind_zeros())
        _threads.scratch = scratch
    return scratch


@kernel
def _read_all(spans, rows, scratch, out, done):  # type: ignore[no-untyped-def]
    """Read, check and decode chunk after chunk.

    Args:
        spans: int64 [chunk, 3], descriptor of its file, place in it, bytes.
        rows: int64 [chunk], where in `out` each belongs.
        scratch: `_Scratch` of this thread.
        out: uint16 [cube, voxel].
        done: bool [chunk], set where all went well.
    """
    packed = scratch.packed
    for i in range(rows.size):
        length = spans[i, 2]
        if length < CRC_BYTES or length > packed.size:
            continue
        got = _pread(
            np.int32(spans[i, 0]), np.uintp(packed.ctypes.data), np.uintp(length), np.int64(spans[i, 1])
        )
        if got == length and crc32c(packed[:length], scratch.zeros) == _RESIDUE:
            done[i] = decode_frame(packed[: length - CRC_BYTES], scratch.decode, out[rows[i]])
