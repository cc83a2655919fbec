"""Degradation II, local pixel shuffling (METHOD.md section 3).

Thousands of small windows; each is read from the original, its voxels are permuted, and it is written to the
output, later windows over earlier ones. So the output is not a permutation of the cube.

Windows come in batches: all of a batch's windows are drawn, then all the random words they need, both in
loops that are vectorised, and only then are voxels moved.

Windows of which nothing can be seen in the result are skipped; their draws are theirs alone, so nothing else
changes. When only some boxes of the output are going to be kept (out-painting), those are windows that touch
none of them. Where windows lie many layers deep, as 10,000 do in two dimensions, most are buried under later
ones: which is found out beforehand, from the last window to the first.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.jit import FOUR, HALF, LOW, ONE, THREE, TWO, ZERO, inlined, kernel
from genesis_toolkit.pipeline.rng import Operation, extent, philox

_WINDOWS = np.uint64(Operation.SHUFFLE)
_PERMUTE = np.uint64(Operation.PERMUTE)
_SEVEN = np.uint64(7)
_WORD = np.uint64(6)  # 2^6 bits a word
_BITS = np.uint64(63)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)

# Random blocks made at a time: 64 KiB of words, so that words and voxels stay in the second-level cache.
_BLOCKS = 4096

# From so many layers of windows on, buried ones are looked for beforehand. 10,000 windows lie 26 deep in two
# dimensions, and 11 % of them (224 x 224) or 13 % (512 x 512) are seen: looking makes shuffling four times as
# fast. In 64 x 64 x 32 they lie 1.9 deep and 83 % are seen: looking costs a fifth more. Both ways cost the
# same at 2 layers in two dimensions, at 4 in three.
_LAYERS = 4.0

# Numbers of random blocks written at a time.
_RUN = np.uint64(8)


class Offsets(NamedTuple):
    """Where the voxels of a window lie, counted from its first voxel, for every shape of window.

    One list a (y, z) shape, long enough for the longest x: shorter windows are its beginning. Where all are
    one voxel thick in x, one list a z edge will do: in two dimensions windows are larger. One loop over
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
    #: One byte a window of the cube: 0 where nothing of it can be seen in the result.
    seen: NDArray[np.uint8]
    #: One bit a voxel, [rows of the cube, words]; no rows where windows are not looked for one by one.
    covered: NDArray[np.uint64]
    #: Of the windows that are seen, one after another: the first voxel, the number of voxels, where the
    #: offsets of its shape begin, and its first random block.
    at: NDArray[np.uint64]
    size: NDArray[np.uint64]
    where: NDArray[np.uint64]
    block: NDArray[np.uint64]
    blocks: NDArray[np.uint32]
    words: NDArray[np.uint32]


def shuffle_offsets(size: tuple[int, ...], edges: NDArray[np.uint64]) -> Offsets:
    """The offsets of every window shape in cubes of `size` (x, y, z), for `edges` as `shuffle` takes them."""
    _, ny, nz = size
    most_x, most_y, most_z = (int(high) for high in edges[:, 1])
    first = np.zeros((most_y + 1, most_z + 1), np.uint32)
    lists: list[NDArray[np.int64]] = []
    begin = 0
    # Where windows are one voxel thick in x, those shorter in y are the beginning of the longest too.
    least_y = 1 if most_x > 1 else most_y
    for z in range(1, most_z + 1):
        for y in range(most_y, least_y - 1, -1):
            x_, y_, z_ = np.ogrid[:most_x, :y, :z]
            lists.append(((x_ * ny + y_) * nz + z_).ravel())
            first[: y + 1, z] = begin
            begin += lists[-1].size
    return Offsets(np.concatenate(lists).astype(np.uint32), first)


def shuffle_scratch(size: tuple[int, ...], edges: NDArray[np.uint64], windows: int) -> ShuffleScratch:
    """Buffers for `windows` windows of at most the given edges (uint64 [3, 2]) in cubes of `size`."""
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
    """Windows begin .. begin + n - 1 of the cube into start, stop [3, batch]."""
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
    """Mark those of `n` windows that share a voxel with one of the first `boxes` boxes, or all if 0 boxes."""
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
    """The bits of one word of a row that stand for voxels z0 .. z1 - 1; some of them are in that word."""
    mask = _ALL
    if z0 >> _WORD == word:
        mask &= _ALL << (z0 & _BITS)
    if (z1 - ONE) >> _WORD == word:
        mask &= _ALL >> (_BITS - ((z1 - ONE) & _BITS))
    return mask


@inlined
def _cover(covered, ny, x0, x1, y0, y1, z0, z1):  # type: ignore[no-untyped-def]
    """Cover one window; which bits, of all its rows together, were not covered before (0: it is buried)."""
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
    """Mark the windows of which something is left when all later ones lie over them.

    With boxes, all around them counts as covered. Arguments as those of `shuffle`.
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
    """List the windows that are seen, of the first `n`; the blocks of the very first begin at `block`.

    Returns (number listed, block where the next batch begins). A window that is not seen is listed too, and
    the next one written over it: no branch on `seen`, because the processor cannot guess it.
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
    """The random blocks of the first `n` listed windows; returns how many.

    Every window writes whole runs, the next one over those too many: nor can the processor guess how many of
    1 to 14 blocks a window needs (one by one costs twice as much, runs of 16 a third more).
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
    """The words of the first `n` listed blocks, four a block."""
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
    64 x 64 x 32, whose windows have 108 voxels at most, and 0.002 in 512 x 512 with its 2,601.

    The window is built where it belongs, so a place of `out` may be read before this window wrote to it, but
    only to be written at once. A buffer that is copied afterwards costs a fifth more: its loop has an end of
    its own that the processor guesses wrong. For the same reason this loop must not be unrolled: as `range`
    over pairs it costs 7 % more, with the odd step behind the loop 40 %.
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
            listed = block - before  # all are seen: their blocks follow one another
            for b in range(listed):
                scratch.blocks[b] = before + b
        _draw_words(k0, k1, variant, cube, scratch.blocks, listed, words)
        first = ZERO
        for i in range(n):
            size = scratch.size[i]
            where = scratch.where[i]
            _permute(flat_source, scratch.at[i], size, offsets.voxels, where, words, first, flat_out)
            first += ((size + _SEVEN) >> THREE) * FOUR
