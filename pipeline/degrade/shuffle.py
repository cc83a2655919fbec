"""Degradation II, local pixel shuffling (METHOD.md section 3).

Thousands of small windows; each is read from the original, its voxels are permuted, and it is written to the
output, later windows over earlier ones. So the output is not a permutation of the cube.

Windows come in batches: all of a batch's windows are drawn, then all the random words they need, both in
loops that are vectorised, and only then are voxels moved. When only some boxes of the output are going to be
kept (out-painting), windows that touch none of them are skipped; their draws are theirs alone, so nothing
else changes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.degrade.compiling import inlined, kernel
from pipeline.degrade.seeds import HALF, LOW, Operation, extent, philox

_WINDOWS = np.uint64(Operation.SHUFFLE)
_PERMUTE = np.uint64(Operation.PERMUTE)
_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_TWO = np.uint64(2)
_THREE = np.uint64(3)
_FOUR = np.uint64(4)
_SEVEN = np.uint64(7)
_EIGHT = np.uint64(8)

# Random blocks made at a time: 64 KiB of words, so that words and voxels stay in the second-level cache.
_BLOCKS = 4096


class Offsets(NamedTuple):
    """Where the voxels of a window lie, counted from its first voxel, for every shape of window.

    One list a (y, z) shape, long enough for the longest x: shorter windows are its beginning. One loop over
    such a list beats three nested loops over edges of 1 to 6 voxels by two (0.66 against 1.3 ms a cube).
    """

    #: uint32, all lists one after another.
    voxels: NDArray[np.uint32]
    #: uint32 [y edge, z edge], where the list of that shape begins.
    first: NDArray[np.uint32]


class ShuffleScratch(NamedTuple):
    """Buffers of one thread."""

    start: NDArray[np.uint64]
    stop: NDArray[np.uint64]
    touched: NDArray[np.uint8]
    first: NDArray[np.uint64]
    blocks: NDArray[np.uint32]
    words: NDArray[np.uint32]
    voxels: NDArray[np.generic]


def shuffle_offsets(size: tuple[int, ...], edges: NDArray[np.uint64]) -> Offsets:
    """The offsets of every window shape.

    Args:
        size: the cube's edges x, y, z in voxels.
        edges: uint64 [3, 2], the smallest and largest window edge an axis.
    """
    _, ny, nz = size
    most_x, most_y, most_z = (int(high) for high in edges[:, 1])
    first = np.zeros((most_y + 1, most_z + 1), np.uint32)
    lists = []
    begin = 0
    for y in range(1, most_y + 1):
        for z in range(1, most_z + 1):
            x_, y_, z_ = np.ogrid[:most_x, :y, :z]
            lists.append(((x_ * ny + y_) * nz + z_).ravel())
            first[y, z] = begin
            begin += lists[-1].size
    return Offsets(np.concatenate(lists).astype(np.uint32), first)


def shuffle_scratch(edges: NDArray[np.uint64], dtype: np.dtype[np.generic]) -> ShuffleScratch:
    """Buffers for windows of at most the given edges (uint64 [3, 2]) in cubes of `dtype`."""
    voxels = int(np.prod(edges[:, 1]))
    most = -(-voxels // 8)
    capacity = max(_BLOCKS, most)
    batch = capacity // most
    return ShuffleScratch(
        start=np.zeros((3, batch), np.uint64),
        stop=np.zeros((3, batch), np.uint64),
        touched=np.zeros(batch, np.uint8),
        first=np.zeros(batch, np.uint64),
        blocks=np.zeros(capacity + most, np.uint32),
        words=np.zeros(4 * capacity, np.uint32),
        voxels=np.zeros(voxels, dtype),
    )


@kernel
def _draw_windows(k0, k1, variant, cube, begin, n, shape, edges, start, stop):  # type: ignore[no-untyped-def]
    """Windows begin .. begin + n - 1 of the cube into start, stop [3, batch]."""
    nx = np.uint64(shape[0])
    ny = np.uint64(shape[1])
    nz = np.uint64(shape[2])
    low_x, low_y, low_z = edges[0, 0], edges[1, 0], edges[2, 0]
    high_x, high_y, high_z = edges[0, 1], edges[1, 1], edges[2, 1]
    for i in range(n):
        w0, w1, w2, _ = philox(begin + i, _WINDOWS, variant, cube, k0, k1)
        start[_ZERO, i], stop[_ZERO, i] = extent(w0, low_x, high_x, nx, _ZERO)
        start[_ONE, i], stop[_ONE, i] = extent(w1, low_y, high_y, ny, _ZERO)
        start[_TWO, i], stop[_TWO, i] = extent(w2, low_z, high_z, nz, _ZERO)


@kernel
def _touch(start, stop, n, box_start, box_stop, boxes, touched):  # type: ignore[no-untyped-def]
    """Mark those of `n` windows that share a voxel with one of the first `boxes` boxes, or all if 0 boxes."""
    for i in range(n):
        touched[i] = 0 if boxes else 1
    for b in range(boxes):
        x0, y0, z0 = box_start[b, 0], box_start[b, 1], box_start[b, 2]
        x1, y1, z1 = box_stop[b, 0], box_stop[b, 1], box_stop[b, 2]
        for i in range(n):
            touched[i] |= (
                (start[_ZERO, i] < x1)
                & (x0 < stop[_ZERO, i])
                & (start[_ONE, i] < y1)
                & (y0 < stop[_ONE, i])
                & (start[_TWO, i] < z1)
                & (z0 < stop[_TWO, i])
            )


@kernel
def _list_blocks(start, stop, touched, n, most, block, first, blocks):  # type: ignore[no-untyped-def]
    """The random blocks of the touched windows.

    Returns (number listed, block where the next batch begins); `first[i]` is where window i's blocks lie.
    Every window writes `most` numbers, the next one over those too many: a loop of fixed length and no
    branch on `touched`, because the processor cannot guess either.
    """
    listed = _ZERO
    for i in range(n):
        size = (
            (stop[_ZERO, i] - start[_ZERO, i])
            * (stop[_ONE, i] - start[_ONE, i])
            * (stop[_TWO, i] - start[_TWO, i])
        )
        need = (size + _SEVEN) // _EIGHT
        first[i] = listed * _FOUR
        for j in range(most):
            blocks[listed + j] = block + j
        listed += need * np.uint64(touched[i])
        block += need
    return listed, block


@kernel
def _draw_words(k0, k1, variant, cube, blocks, n, words):  # type: ignore[no-untyped-def]
    """The words of the first `n` listed blocks, word j of a block in row j: four plain vector stores."""
    for b in range(n):
        w0, w1, w2, w3 = philox(np.uint64(blocks[b]), _PERMUTE, variant, cube, k0, k1)
        i = b * _FOUR
        words[i] = w0
        words[i + _ONE] = w1
        words[i + _TWO] = w2
        words[i + _THREE] = w3


@inlined
def _permute(source, at, size, offsets, where, words, first, voxels, out):  # type: ignore[no-untyped-def]
    """Permute one window, Fisher-Yates inside out: step k puts voxel k at one of the first k + 1 places.

    A word gives the places of two steps, biased by at most (k + 1)(k + 2) / 2^32: 3e-6 in a cube of
    64 x 64 x 32, whose windows have 108 voxels at most.
    """
    for k in range(_ZERO, size, _TWO):
        product = np.uint64(words[first + (k >> _ONE)]) * ((k + _ONE) & LOW)
        place = product >> HALF
        voxels[k] = voxels[place]
        voxels[place] = source[at + np.uint64(offsets[where + k])]
        odd = k + _ONE
        if odd < size:
            place = ((product & LOW) * (odd + _ONE)) >> HALF
            voxels[odd] = voxels[place]
            voxels[place] = source[at + np.uint64(offsets[where + odd])]
    for k in range(size):
        out[at + np.uint64(offsets[where + k])] = voxels[k]


@kernel
def shuffle(source, k0, k1, variant, cube, windows, edges, offsets, box_start, box_stop, boxes, scratch, out):  # type: ignore[no-untyped-def]
    """Shuffle one cube.

    Args:
        source: the cube, [x, y, z], C-contiguous.
        k0, k1: the scan's key, uint64; variant, cube: the rest of the counter, uint64.
        windows: how many, uint64.
        edges: uint64 [3, 2], the smallest and largest window edge an axis.
        offsets: `Offsets` of this size.
        box_start, box_stop: uint64 [.., 3]; with boxes > 0 only these boxes of `out` have to be right.
        boxes: how many of them, uint64.
        scratch: `ShuffleScratch` of this thread.
        out: the shuffled cube, same shape and dtype, not `source` itself.
    """
    flat_source = source.reshape(source.size)
    flat_out = out.reshape(out.size)
    ny = np.uint64(source.shape[1])
    nz = np.uint64(source.shape[2])
    for i in range(np.uint64(source.size)):
        flat_out[i] = flat_source[i]
    batch = np.uint64(scratch.first.size)
    most = np.uint64((scratch.voxels.size + 7) // 8)
    start, stop, touched, first = scratch.start, scratch.stop, scratch.touched, scratch.first
    lists, words, voxels = offsets.voxels, scratch.words, scratch.voxels
    block = _ZERO
    for begin in range(_ZERO, windows, batch):
        n = min(batch, windows - begin)
        _draw_windows(k0, k1, variant, cube, begin, n, source.shape, edges, start, stop)
        _touch(start, stop, n, box_start, box_stop, boxes, touched)
        listed, block = _list_blocks(start, stop, touched, n, most, block, first, scratch.blocks)
        _draw_words(k0, k1, variant, cube, scratch.blocks, listed, words)
        for i in range(n):
            if touched[i]:
                y = stop[_ONE, i] - start[_ONE, i]
                z = stop[_TWO, i] - start[_TWO, i]
                at = (start[_ZERO, i] * ny + start[_ONE, i]) * nz + start[_TWO, i]
                size = (stop[_ZERO, i] - start[_ZERO, i]) * y * z
                where = np.uint64(offsets.first[y, z])
                _permute(flat_source, at, size, lists, where, words, first[i], voxels, flat_out)
