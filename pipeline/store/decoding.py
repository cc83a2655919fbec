"""Frames of 16-bit cubes taken apart by compiled code: what reading a store costs most.

numcodecs' blosc is the reference. Here the same frames are decoded without the GIL and without new memory, in
0.7 of the time: LZ4 takes 1.3 times as long as theirs, but planes of bits become numbers in 0.4 of the time,
since numcodecs' wheels are built for SSE2 and no later vectors. Frames of any other make are refused, and
left to the reference.

A frame of blosc (README_CHUNK_FORMAT.rst of c-blosc): 16 bytes that tell its lengths, the place of every
block, and the blocks. A block is one stream of LZ4 or two, of its halves; each stands behind its length, and
as it is where its length is that of its content. The content is 16 planes: plane b has bit b of every number
(bitshuffle). A stream of LZ4 (lz4_Block_format.md of lz4) is literals, bytes as they are, and matches, bytes
that were there up to 64 KiB before, in turn.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numpy.typing import NDArray

from genesis_toolkit.pipeline.jit import inlined, instructions, kernel

_HEADER_BYTES: Final = 16  # version, version of the codec, flags, bytes a number; three lengths of 32 bits
_VERSIONS: Final = (2, 1)  # of the frame and of LZ4's streams
_LZ4_BITSHUFFLE: Final = 0x24
_ONE_STREAM: Final = 0x10  # flag: blocks are not split
_SMALLEST: Final = 256  # bytes of 128 numbers: blocks are multiples, and a smaller one would not be split
_STEP: Final = 16  # bytes of eight numbers, and those that are copied at once
_LINE: Final = 64  # bytes of a line of the cache
_BYTES: Final = ir.VectorType(ir.IntType(8), _STEP)
_WORDS: Final = ir.VectorType(ir.IntType(16), _STEP)


class DecodeScratch(NamedTuple):
    """What a thread needs while it decodes, kept: new memory costs as much as the work."""

    #: uint8, the content of a block and one step more, since copies run over.
    planes: NDArray[np.uint8]
    #: uint8 [16 * _LINE], a line of the cache of each plane.
    tile: NDArray[np.uint8]


def decode_scratch(size: int) -> DecodeScratch:
    """Buffers of one thread for cubes of at most `size` bytes; no block is larger than its cube."""
    return DecodeScratch(np.zeros(size + _STEP, np.uint8), np.zeros(16 * _LINE, np.uint8))


@kernel
def decode_frame(frame, scratch, out):  # type: ignore[no-untyped-def]
    """One frame.

    Args:
        frame: uint8, all of it, without its checksum.
        scratch: `DecodeScratch` for at least the bytes of `out`.
        out: uint16, filled.

    Returns:
        Whether it was: the frame is of the make that is decoded here, whole and sound, and holds as many
        numbers. If not, some of `out` may be written.
    """
    size = 2 * out.size
    if frame.size < _HEADER_BYTES or frame[3] != 2:
        return False
    split = (frame[2] & _ONE_STREAM) == 0
    block = _word(frame, 8)
    if frame[0] != _VERSIONS[0] or frame[1] != _VERSIONS[1]:
        return False
    if frame[2] | _ONE_STREAM != _LZ4_BITSHUFFLE | _ONE_STREAM:
        return False
    if _word(frame, 4) != size or _word(frame, 12) != frame.size:
        return False
    if block <= 0 or block > size or block % _SMALLEST or size % _SMALLEST:
        return False
    blocks = (size + block - 1) // block
    if _HEADER_BYTES + 4 * blocks > frame.size:
        return False
    for number in range(blocks):
        begin = number * block
        length = min(block, size - begin)
        streams = 2 if split and length == block else 1
        if not _decode_block(
            frame, _word(frame, _HEADER_BYTES + 4 * number), length, streams, scratch.planes
        ):
            return False
        _unshuffle(scratch.planes[:length], scratch.tile, out[begin // 2 : (begin + length) // 2])
    return True


@kernel
def _decode_block(frame, at, length, streams, planes):  # type: ignore[no-untyped-def]
    """The block of `length` bytes, in so many streams, that begins at byte `at` of `frame`, into `planes`.

    Returns:
        Whether it is whole and sound.
    """
    part = length // streams
    for stream in range(streams):
        if at + 4 > frame.size:
            return False
        packed = _word(frame, at)
        at += 4
        if packed > frame.size - at:
            return False
        if packed == part:
            _copy(frame, at, planes, stream * part, part)
        elif not _lz4(frame, at, at + packed, planes, stream * part, (stream + 1) * part):
            return False
        at += packed
    return True


@inlined
def _word(data, at):  # type: ignore[no-untyped-def]
    """The unsigned 32-bit little-endian number that begins at byte `at`, as int64."""
    return (
        np.int64(data[at])
        | np.int64(data[at + 1]) << 8
        | np.int64(data[at + 2]) << 16
        | np.int64(data[at + 3]) << 24
    )


@instructions
def _copy_step(typing, to, source):  # type: ignore[no-untyped-def]  # noqa: ARG001
    """Copy `_STEP` bytes from one address to another, in one go; numba itself copies byte by byte."""

    def generate(context, builder, signature, addresses):  # type: ignore[no-untyped-def]  # noqa: ARG001
        vector = _BYTES.as_pointer()
        to, source = (builder.inttoptr(address, vector) for address in addresses)
        value = builder.load(source)
        value.align = 1
        builder.store(value, to).align = 1
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp), generate


@inlined
def _copy(data, begin, out, at, count):  # type: ignore[no-untyped-def]
    """Copy bytes; up to a step more is written, but nothing is read behind the end of `data`."""
    if begin + count + _STEP <= data.size:
        source, target = np.uintp(data.ctypes.data + begin), np.uintp(out.ctypes.data + at)
        for k in range(0, count, _STEP):
            _copy_step(target + np.uintp(k), source + np.uintp(k))
    else:
        for k in range(count):
            out[at + k] = data[begin + k]


@kernel
def _lz4(data, begin, end, out, start, stop):  # type: ignore[no-untyped-def]
    """One stream of LZ4, bytes `begin` to `end` of `data`, into bytes `start` to `stop` of `out`.

    Copies go in whole steps and run over what they shall fill, into what is filled next: `out` has a step
    more than is asked for. Of `data` nothing is read behind its end.

    Returns:
        Whether the stream is sound and fills its place.
    """
    targets = np.uintp(out.ctypes.data)
    at = start
    while begin < end:
        token = np.int64(data[begin])
        begin, count = _count(data, begin + 1, end, token >> 4)
        if count > end - begin or count > stop - at:
            return False
        _copy(data, begin, out, at, count)
        at += count
        begin += count
        if begin == end:
            return at == stop
        if end - begin < 2:
            return False
        back = np.int64(data[begin]) | np.int64(data[begin + 1]) << 8
        begin, count = _count(data, begin + 2, end, token & 15)
        count += 4
        if back == 0 or back > at - start or count > stop - at:
            return False
        after = at + count
        if back < _STEP:  # what is repeated is shorter than a step: repeat it until it is one
            period = back * ((_STEP + back - 1) // back)
            for k in range(min(count, period)):
                out[at + k] = out[at + k - back]
            at += period
            back = period
        while at < after:
            _copy_step(targets + np.uintp(at), targets + np.uintp(at - back))
            at += _STEP
        at = after
    return False


@inlined
def _count(data, begin, end, count):  # type: ignore[no-untyped-def]
    """A count of LZ4: four bits, and where they are all set, bytes to be added up to one that is not 255.

    Returns:
        Where the count ends, and the count; one that no place has room for, where it does not end.
    """
    if count < 15:
        return begin, count
    while begin < end:
        more = np.int64(data[begin])
        begin += 1
        count += more
        if more < 255:
            return begin, count
    return end, np.int64(2**62)


@kernel
def _unshuffle(planes, tile, out):  # type: ignore[no-untyped-def]
    """Numbers of their bits: 16 planes, one after the other, of bits of eight numbers a byte.

    The planes are a power of two apart, so one place of each is too much for a set of the nearest cache: a
    line of each is taken over first.

    Args:
        planes: uint8 [16 * n], n a multiple of 16.
        tile: uint8 [16 * _LINE].
        out: uint16 [8 * n], filled.
    """
    n = out.size // 8
    source, near, target = np.uintp(planes.ctypes.data), np.uintp(tile.ctypes.data), np.uintp(out.ctypes.data)
    for begin in range(0, n, _LINE):
        count = min(_LINE, n - begin)
        for plane in range(16):
            for k in range(0, count, _STEP):
                _copy_step(near + np.uintp(plane * _LINE + k), source + np.uintp(plane * n + begin + k))
        for k in range(0, count, _STEP):
            _turn_step(near + np.uintp(k), target + np.uintp(16 * (begin + k)))


@instructions
def _turn_step(typing, planes, out):  # type: ignore[no-untyped-def]  # noqa: ARG001
    """`_STEP` bytes of each of 16 planes, `_LINE` bytes apart, become 128 numbers.

    Byte i of the planes b and b + 8, as one uint16, has two bits of each of eight numbers. Eight such
    uint16, of b = 0 .. 7, are two squares of 8 x 8 bits: transposed, they are the eight numbers. Row k of
    `_STEP` uint16 has the k-th number of each eight then; weaving the rows brings them in order. All of it is
    written as vectors, which LLVM fits to any processor: of loops over numbers it makes code of half the
    speed, and takes longer to make it.
    """

    def generate(context, builder, signature, addresses):  # type: ignore[no-untyped-def]  # noqa: ARG001
        rows = [_joined(builder, addresses[0], b) for b in range(8)]
        for by, mask in ((1, 0x5555), (2, 0x3333), (4, 0x0F0F)):
            for first in (k for k in range(8) if not k & by):
                rows[first], rows[first + by] = _swapped(builder, rows[first], rows[first + by], by, mask)
        for _ in range(3):
            rows = [row for k in range(4) for row in _woven(builder, rows[k], rows[k + 4])]
        for half in range(2):
            for k, row in enumerate(rows):
                eight = builder.shuffle_vector(row, row, _lanes(range(8 * half, 8 * half + 8)))
                place = builder.add(addresses[1], ir.Constant(addresses[1].type, 16 * (8 * half + k)))
                builder.store(eight, builder.inttoptr(place, eight.type.as_pointer())).align = 1
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp), generate


def _joined(builder: ir.IRBuilder, planes: ir.Value, b: int) -> ir.Value:
    """A step of the planes b (low bytes) and b + 8 (high bytes), as uint16."""
    halves = []
    for plane in (b, b + 8):
        place = builder.add(planes, ir.Constant(planes.type, plane * _LINE))
        value = builder.load(builder.inttoptr(place, _BYTES.as_pointer()))
        value.align = 1
        halves.append(builder.zext(value, _WORDS))
    return builder.or_(halves[0], builder.shl(halves[1], _every(8)))


def _swapped(
    builder: ir.IRBuilder, first: ir.Value, second: ir.Value, by: int, mask: int
) -> tuple[ir.Value, ir.Value]:
    """The bits of `first` at `mask`, shifted by `by`, exchanged with those of `second` at `mask`."""
    both = builder.xor(builder.lshr(first, _every(by)), second)
    changed = builder.and_(both, _every(mask))
    return builder.xor(first, builder.shl(changed, _every(by))), builder.xor(second, changed)


def _woven(builder: ir.IRBuilder, first: ir.Value, second: ir.Value) -> list[ir.Value]:
    """Two rows in turn, in each half of the vector by itself: first the lower numbers, then the upper."""
    return [
        builder.shuffle_vector(
            first,
            second,
            _lanes(
                lane for begin in (part, part + 8) for k in range(begin, begin + 4) for lane in (k, k + _STEP)
            ),
        )
        for part in (0, 4)
    ]


def _lanes(numbers: Iterable[int]) -> ir.Constant:
    """Which numbers of two vectors a third takes."""
    chosen = list(numbers)
    return ir.Constant(ir.VectorType(ir.IntType(32), len(chosen)), chosen)


def _every(number: int) -> ir.Constant:
    """The same uint16 in every place of a vector."""
    return ir.Constant(_WORDS, [number] * _STEP)
