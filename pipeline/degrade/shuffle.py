"""Degradation II, local pixel shuffling (METHOD.md section 3).

Thousands of small windows are read from the original, permuted, and written to the output, later ones over
earlier ones, so the output is not a permutation of the cube.

Windows are processed in batches: all windows of a batch are drawn, then all random words for them, both in
vectorised loops, and only then are voxels moved.

Windows that leave no trace in the result are skipped; every window has its own draws, so nothing else
changes. If only some boxes of the output are kept (out-painting), windows outside of them are skipped. Where
windows are many layers deep, like 10,000 in two dimensions, most are buried under later ones, which is
determined first, from the last window to the first.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.jit import FOUR, HALF, LOW, ONE, THREE, TWO, ZERO, inlined, kernel
from genesis_toolkit.pipeline.rng import Operation, extent, philox

_WINDOWS = np.uint64(Operation.SHUFFLE)
_PERMUTE = np.uint64(Operation.PERMUTE)
_SEVEN = np.uint64(7)
_WORD = np.uint64(6)  # 2^6 bits per word
_BITS = np.uint64(63)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)

# Random blocks made at a time: 64 KiB of words, so words and voxels stay in the second-level cache.
_BLOCKS = 4096

# Layers of windows above which buried ones are searched first. In two dimensions 10,000 windows are 26 deep,
# and 11 % of them (224 x 224) or 13 % (512 x 512) are visible: the search makes shuffling four times as fast.
# In 64 x 64 x 32 they are 1.9 deep and 83 % visible: the search costs a fifth more. Both ways cost the same
# at 2 layers in two dimensions, at 4 in three.
_LAYERS = 4.0

# Numbers of random blocks written at a time.
_RUN = np.uint64(8)


class Offsets(NamedTuple):
    """The offsets of a window's voxels from its first voxel, for every shape of window.

    There is one list per (y, z) shape for the longest x; shorter windows use its beginning. If all are one
    voxel thick in x, one list per z edge suffices, since windows are larger in two dimensions. One loop over
    such a list is twice as fast as three nested loops over edges of 1 to 6 voxels (0.66 and 1.3 ms a cube).
    """

    #: uint32, all lists one after another.
    voxels: NDArray[np.uint32]
    #: uint32 [y edge, z edge], where the list of that shape starts.
    first: NDArray[np.uint32]


class ShuffleScratch(NamedTuple):
    """Buffers of one thread."""

    start: NDArray[np.uint64]
    stop: NDArray[np.uint64]
    #: One byte per window of the cube: 0 if it leaves no trace in the result.
    seen: NDArray[np.uint8]
    #: One bit per voxel, [rows of the cube, words]; no rows if buried windows are not searched.
    covered: NDArray[np.uint64]
    #: For visible windows, one after another: the first voxel, the number of voxels, where the offsets of its
    #: shape start, and its first random block.
    at: NDArray[np.uint64]
    size: NDArray[np.uint64]
    where: NDArray[np.uint64]
    block: NDArray[np.uint64]
    blocks: NDArray[np.uint32]
    words: NDArray[np.uint32]


def shuffle_offsets(size: tuple[int, ...], edges: NDArray[np.uint64]) -> Offsets:
    """Return the offsets of every window shape in cubes of `size` (x, y, z), for the `edges` of `shuffle`."""
    _, ny, nz = size
    most_x, most_y, most_z = (int(high) for high in edges[:, 1])
    first = np.zeros((most_y + 1, most_z + 1), np.uint32)
    lists: list[NDArray[np.int64]] = []
    begin = 0
    # If windows are one voxel thick in x, those shorter in y are the beginning of the longest too.
    least_y = 1 if most_x > 1 else most_y
    for z in range(1, most_z + 1):
        for y in range(most_y, least_y - 1, -1):
            x_, y_, z_ = np.ogrid[:most_x, :y, :z]
            lists.append(((x_ * ny + y_) * nz + z_).ravel())
            first[: y + 1, z] = begin
            begin += lists[-1].size
    return Offsets(np.concatenate(lists).astype(np.uint32), first)


def shuffle_scratch(size: tuple[int, ...], edges: NDArray[np.uint64], windows: int) -> ShuffleScratch:
    """Return buffers for `windows` windows of at most the given edges (uint64 [3, 2]) in cubes of `size`."""
    most = -(-int(np.prod(edges[:, 1])) // 8)
    capacity = max(_BLOCKS, most)
    batch = capacity // most
    nx, ny, nz = size
    layers = windows * np.prod(edges.mean(axis=1)) / np.prod(size)  # windows over a voxel, on average
    buried = layers > _LAYERS
    return ShuffleScratch(
        start=np.zeros((3, batch), np.uint64),
        stop=np.zeros((3, batch), np.uint64),
        seen=np.zeros(windows, np.uint8),
        covered=np.zeros((nx * ny if buried else 0, -(-nz // 64)), np.uint64),
        at=np.zeros(batch, np.uint64),
        size=np.zeros(batch, np.uint64),
        where=np.zeros(batch, np.uint64),
        block=np.zeros(batch, np.uint64),
        blocks=np.zeros(capacity + _RUN, np.uint32),
        words=np.zeros(4 * capacity, np.uint32),
    )


@kernel
def _draw_windows(k0, k1, variant, cube, begin, n, shape, edges, start, stop):  # type: ignore[no-untyped-def]
    """Draw windows begin .. begin + n - 1 of the cube into start, stop [3, batch]."""
    nx = np.uint64(shape[0])
    ny = np.uint64(shape[1])
    nz = np.uint64(shape[2])
    low_x, low_y, low_z = edges[0, 0], edges[1, 0], edges[2, 0]
    high_x, high_y, high_z = edges[0, 1], edges[1, 1], edges[2, 1]
    for i in range(n):
        w0, w1, w2, _ = philox(begin + i, _WINDOWS, variant, cube, k0, k1)
        start[ZERO, i], stop[ZERO, i] = extent(w0, low_x, high_x, nx, ZERO)
        start[ONE, i], stop[ONE, i] = extent(w1, low_y, high_y, ny, ZERO)
        start[TWO, i], stop[TWO, i] = extent(w2, low_z, high_z, nz, ZERO)


@kernel
def _find_touching(start, stop, n, box_start, box_stop, boxes, seen):  # type: ignore[no-untyped-def]
    """Mark those of `n` windows that overlap one of the first `boxes` boxes, or all if there are 0 boxes."""
    for i in range(n):
        seen[i] = 0 if boxes else 1
    for b in range(boxes):
        x0, y0, z0 = box_start[b, 0], box_start[b, 1], box_start[b, 2]
        x1, y1, z1 = box_stop[b, 0], box_stop[b, 1], box_stop[b, 2]
        for i in range(n):
            seen[i] |= (
                (start[ZERO, i] < x1)
                & (x0 < stop[ZERO, i])
                & (start[ONE, i] < y1)
                & (y0 < stop[ONE, i])
                & (start[TWO, i] < z1)
                & (z0 < stop[TWO, i])
            )


@inlined
def _word_mask(word, z0, z1):  # type: ignore[no-untyped-def]
    """Return the bits in one word of a row for voxels z0 .. z1 - 1, at least one of which is in that word."""
    mask = _ALL
    if z0 >> _WORD == word:
        mask &= _ALL << (z0 & _BITS)
    if (z1 - ONE) >> _WORD == word:
        mask &= _ALL >> (_BITS - ((z1 - ONE) & _BITS))
    return mask


@inlined
def _cover(covered, ny, x0, x1, y0, y1, z0, z1):  # type: ignore[no-untyped-def]
    """Cover one window; return which bits, over all its rows, were not covered before (0: it is buried)."""
    fresh = ZERO
    for word in range(z0 >> _WORD, ((z1 - ONE) >> _WORD) + ONE):
        mask = _word_mask(word, z0, z1)
        for x in range(x0, x1):
            for row in range(x * ny + y0, x * ny + y1):
                before = covered[row, word]
                fresh |= mask & ~before
                covered[row, word] = before | mask
    return fresh


@kernel
def _find_visible(k0, k1, variant, cube, windows, shape, edges, box_start, box_stop, boxes, scratch):  # type: ignore[no-untyped-def]
    """Mark the windows that later ones do not cover completely.

    With boxes, everything around them counts as covered. For arguments see `shuffle`.
    """
    start, stop, covered = scratch.start, scratch.stop, scratch.covered
    ny = np.uint64(shape[1])
    batch = np.uint64(scratch.at.size)
    flat = covered.reshape(covered.size)
    for i in range(np.uint64(flat.size)):
        flat[i] = _ALL if boxes else ZERO
    for b in range(boxes):
        z0, z1 = box_start[b, 2], box_stop[b, 2]
        for x in range(box_start[b, 0], box_stop[b, 0]):
            for row in range(x * ny + box_start[b, 1], x * ny + box_stop[b, 1]):
                for word in range(z0 >> _WORD, ((z1 - ONE) >> _WORD) + ONE):
                    covered[row, word] &= ~_word_mask(word, z0, z1)
    end = windows
    while end > ZERO:
        n = min(batch, end)
        end -= n
        _draw_windows(k0, k1, variant, cube, end, n, shape, edges, start, stop)
        for back in range(n):
            i = n - ONE - back
            scratch.seen[end + i] = (
                _cover(
                    covered, ny, start[ZERO, i], stop[ZERO, i], start[ONE, i], stop[ONE, i],
                    start[TWO, i], stop[TWO, i],
                ) != ZERO
            )  # fmt: skip


@kernel
def _list_seen(start, stop, seen, n, shape, first, block, scratch):  # type: ignore[no-untyped-def]
    """List the visible windows among the first `n`; the blocks of the very first start at `block`.

    Returns (number listed, first block of the next batch). An invisible window is listed too, and overwritten
    by the next one: this avoids a branch on `seen`, which the processor cannot predict.
    """
    ny = np.uint64(shape[1])
    nz = np.uint64(shape[2])
    listed = ZERO
    for i in range(n):
        y = stop[ONE, i] - start[ONE, i]
        z = stop[TWO, i] - start[TWO, i]
        size = (stop[ZERO, i] - start[ZERO, i]) * y * z
        scratch.at[listed] = (start[ZERO, i] * ny + start[ONE, i]) * nz + start[TWO, i]
        scratch.size[listed] = size
        scratch.where[listed] = first[y, z]
        scratch.block[listed] = block
        block += (size + _SEVEN) >> THREE
        listed += np.uint64(seen[i])
    return listed, block


@kernel
def _list_blocks(size, block, n, blocks):  # type: ignore[no-untyped-def]
    """List the random blocks of the first `n` listed windows; return their number.

    Every window writes whole runs, and the next one overwrites the surplus: the processor cannot predict how
    many of 1 to 14 blocks a window needs either (one by one costs twice as much, runs of 16 a third more).
    """
    listed = ZERO
    for i in range(n):
        need = (size[i] + _SEVEN) >> THREE
        for begin in range(ZERO, need, _RUN):
            for j in range(_RUN):
                blocks[listed + begin + j] = block[i] + begin + j
        listed += need
    return listed


@kernel
def _draw_words(k0, k1, variant, cube, blocks, n, words):  # type: ignore[no-untyped-def]
    """Compute the words of the first `n` listed blocks, four per block."""
    for b in range(n):
        w0, w1, w2, w3 = philox(np.uint64(blocks[b]), _PERMUTE, variant, cube, k0, k1)
        i = b * FOUR
        words[i] = w0
        words[i + ONE] = w1
        words[i + TWO] = w2
        words[i + THREE] = w3


@inlined
def _permute(source, at, size, offsets, where, words, first, out):  # type: ignore[no-untyped-def]
    """Permute one window, Fisher-Yates inside out: step k puts voxel k at one of the first k + 1 places.

    A word gives the places of two steps, biased by at most (k + 1)(k + 2) / 2^32: 3e-6 in a cube of
    64 x 64 x 32, whose windows have at most 108 voxels, and 0.002 in 512 x 512 with its 2,601.

    The window is built in place, so a voxel of `out` may be read before this window wrote to it, but only to
    be overwritten at once. A buffer that is copied afterwards takes a fifth longer, since the processor
    mispredicts the end of its loop. For the same reason this loop must not be unrolled: as `range` over pairs
    it takes 7 % longer, with the odd step after the loop 40 %.
    """
    k = ZERO
    while True:
        product = np.uint64(words[first + (k >> ONE)]) * ((k + ONE) & LOW)
        here = at + np.uint64(offsets[where + k])
        there = at + np.uint64(offsets[where + (product >> HALF)])
        voxel = source[here]
        out[here] = out[there]
        out[there] = voxel
        k += ONE
        if k >= size:
            break
        place = ((product & LOW) * (k + ONE)) >> HALF
        here = at + np.uint64(offsets[where + k])
        there = at + np.uint64(offsets[where + place])
        voxel = source[here]
        out[here] = out[there]
        out[there] = voxel
        k += ONE
        if k >= size:
            break


@kernel
def shuffle(source, k0, k1, variant, cube, windows, edges, offsets, box_start, box_stop, boxes, scratch, out):  # type: ignore[no-untyped-def]
    """Shuffle one cube.

    Args:
        source: the cube, [x, y, z], C-contiguous.
        k0, k1, variant, cube: the scan's key and the rest of the counter, uint64.
        windows: number of windows, uint64.
        edges: uint64 [3, 2], the smallest and largest window edge per axis.
        offsets: `Offsets` for this size.
        box_start, box_stop: uint64 [.., 3]; with boxes > 0 only these boxes of `out` must be correct.
        boxes: number of boxes, uint64.
        scratch: `ShuffleScratch` of this thread.
        out: the shuffled cube, same shape and dtype, not `source` itself.
    """
    flat_source = source.reshape(source.size)
    flat_out = out.reshape(out.size)
    for i in range(np.uint64(source.size)):
        flat_out[i] = flat_source[i]
    batch = np.uint64(scratch.at.size)
    start, stop, words = scratch.start, scratch.stop, scratch.words
    buried = scratch.covered.size > 0
    if buried:
        _find_visible(
            k0, k1, variant, cube, windows, source.shape, edges, box_start, box_stop, boxes, scratch
        )
    block = ZERO
    for begin in range(ZERO, windows, batch):
        n = min(batch, windows - begin)
        _draw_windows(k0, k1, variant, cube, begin, n, source.shape, edges, start, stop)
        seen = scratch.seen[np.int64(begin) :]
        if not buried:
            _find_touching(start, stop, n, box_start, box_stop, boxes, seen)
        before = block
        n, block = _list_seen(start, stop, seen, n, source.shape, offsets.first, block, scratch)
        if boxes or buried:
            listed = _list_blocks(scratch.size, scratch.block, n, scratch.blocks)
        else:
            listed = block - before  # all are visible: their blocks are consecutive
            for b in range(listed):
                scratch.blocks[b] = before + b
        _draw_words(k0, k1, variant, cube, scratch.blocks, listed, words)
        first = ZERO
        for i in range(n):
            size = scratch.size[i]
            where = scratch.where[i]
            _permute(flat_source, scratch.at[i], size, offsets.voxels, where, words, first, flat_out)
            first += ((size + _SEVEN) >> THREE) * FOUR
