"""Counter-based random streams: each draw depends on its purpose, never on which process draws it or when.

The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): a block
of four 32-bit words is a pure function of a 64-bit key and a 128-bit counter. The key combines the seed and
the scan; the counter names the block, the operation, the variant and the cube of that scan:

    counter = (block, operation, variant, cube)    32 bits each

so two streams of a scan cannot overlap by construction, and word i of a stream is computed without the words
before it. Inside kernels every word is a uint64 holding 32 bits: mixing signed and unsigned yields floats.
"""

import hashlib
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.jit import FOUR, HALF, LOW, ONE, THREE, ZERO, inlined, kernel


class Operation(IntEnum):
    """The purpose of a stream. Every store depends on these numbers: never renumber, only append.

    Words are counted from 0 through the blocks of a stream, four words per block.
    """

    #: The key of (seed, scan) itself; no other stream uses it.
    KEY = 0
    #: Turn t = 0, 1, 2: word 2t decides, word 2t + 1 selects the axis.
    FLIP = 1
    #: Words 0..3: shuffling, non-linear, painting, in-painting rather than out-painting.
    WHICH = 2
    #: Words 0..3: P1x, P1y, P2x, P2y; word 4: inverted.
    CURVE = 3
    #: Block w is window w: words 0..2 give edge and start along x, y, z (in 2D, words 1 and 2 along x and y).
    SHUFFLE = 4
    #: The permutations, window after window, each starting a new block; one word serves two steps.
    PERMUTE = 5
    #: Block v is window v of in- or out-painting: words 0..2 as for SHUFFLE, word 3 decides if it is drawn.
    PAINT = 6
    #: Word i is the noise of voxel i in C order.
    NOISE = 7
    #: Word v is the constant that fills window v of in-painting; word 0 fills the surround of out-painting.
    CONSTANT = 8
    #: Corners of cubes in a scan.
    PLACE = 9
    #: The order of an epoch.
    ORDER = 10
    #: Words 2i, 2i + 1 rank candidate i of a scan; of a cube with a mask, 2t, 2t + 1 give corner try t.
    TARGET = 11
    #: Words 0, 1 rank a scan among those whose labels may be used.
    LABELS = 12
    #: Word i decides whether skip connection i is dropped for one step; the epoch takes the variant's place.
    SKIPS = 13
    #: Augmentation of a training cube, with the epoch as variant: words 0..2 flip, 3..5 shift along x, y, z;
    #: 6 and 7 rotate; 8 and 9 set contrast and brightness.
    AUGMENT = 14


_M0 = np.uint64(0xD2511F53)
_M1 = np.uint64(0xCD9E8D57)
_W0 = np.uint64(0x9E3779B9)
_W1 = np.uint64(0xBB67AE85)
_KEY = np.uint64(Operation.KEY)


@inlined
def philox(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
    """Compute one block of Philox4x32-10.

    Args:
        c0, c1, c2, c3: the counter, uint64 holding 32 bits each.
        k0, k1: the key, uint64 holding 32 bits each.

    Returns:
        Four words, uint64 holding 32 bits each.
    """
    for _ in range(10):
        p0 = _M0 * c0
        p1 = _M1 * c2
        c0 = (p1 >> HALF) ^ c1 ^ k0
        c1 = p1 & LOW
        c2 = (p0 >> HALF) ^ c3 ^ k1
        c3 = p0 & LOW
        k0 = (k0 + _W0) & LOW
        k1 = (k1 + _W1) & LOW
    return c0, c1, c2, c3


@kernel
def block(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
    """Call `philox` without inlining it, for single draws."""
    return philox(c0, c1, c2, c3, k0, k1)


@kernel
def scan_key(seed, stream):  # type: ignore[no-untyped-def]
    """Return the key (k0, k1) of one scan under one seed: a block of its own, so keys collide only by chance.

    Args:
        seed: uint64.
        stream: uint64, the scan's stream key.

    Returns:
        Two uint64 holding 32 bits each.
    """
    k0, k1, _, _ = block(stream & LOW, stream >> HALF, _KEY, ZERO, seed & LOW, seed >> HALF)
    return k0, k1


@inlined
def bounded(word, count):  # type: ignore[no-untyped-def]
    """Return a whole number in {0 .. count-1} and the leftover randomness of the word.

    The number is (word * count) >> 32, biased by at most count / 2^32, which no sample of this method can
    detect. The rest is again uniform and can give a second number; their joint bias is count1 * count2 /
    2^32.

    Args:
        word: uint64 holding 32 bits.
        count: uint64, 1 .. 2^32 - 1.

    Returns:
        (number, rest), uint64 each.
    """
    product = word * (count & LOW)  # the mask shows the vectoriser that 32 x 32 bits suffice
    return product >> HALF, product & LOW


@inlined
def extent(word, low, high, length, margin):  # type: ignore[no-untyped-def]
    """Draw a random window along one axis: its edge in {low .. high}, then its start.

    Args:
        word: uint64 holding 32 bits; its leftover bits after the edge give the start.
        low, high: the smallest and largest edge in voxels, uint64.
        length: the edge of the cube in voxels, uint64; at least high + 2 * margin.
        margin: voxels kept free at either border, uint64.

    Returns:
        (start, stop) in voxels, uint64; start uniform in {margin .. length - edge - margin}, both included.
    """
    edge, rest = bounded(word, high - low + ONE)
    edge += low
    start, _ = bounded(rest, length - edge - margin - margin + ONE)
    start += margin
    return start, start + edge


@kernel
def _fill_words(key, cube, variant, operation, out):  # type: ignore[no-untyped-def]
    """Write words 0 .. n-1 of a stream to `out` (uint32); the other arguments are uint64 arrays of 1 or 2."""
    k0, k1 = scan_key(key[0], key[1])
    n = np.uint64(out.size)
    for i in range(np.uint64((n + THREE) // FOUR)):
        at = i * FOUR
        for word in philox(i, operation[0], variant[0], cube[0], k0, k1):
            if at < n:
                out[at] = word
            at += ONE


def draw_words(
    seed: int, stream: np.uint64, cube: int, variant: int, operation: Operation, n: int
) -> NDArray[np.uint32]:
    """Return the first `n` words of one stream.

    Args:
        seed: 0 .. 2^63 - 1.
        stream: the scan's stream key, any 64 bits; see `stream_key`.
        cube: number of the cube within its scan, 0 .. 2^32 - 1.
        variant: 0 .. 2^32 - 1.
        operation: the purpose of the words.
        n: number of words, 0 .. 2^34.

    Returns:
        uint32 [n], each uniform over all 32-bit numbers.

    Raises:
        CallError: the seed is out of range.
    """
    out = np.empty(n, np.uint32)
    key = np.array([checked_seed(seed), stream], np.uint64)
    at = [np.array([v], np.uint64) for v in (cube, variant, int(operation))]
    _fill_words(key, at[0], at[1], at[2], out)
    return out


def draw_distinct(total: int, count: int, words: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Draw distinct whole numbers below `total`, uniformly.

    Args:
        total: number of values to draw from.
        count: number of values to draw; if `total` is no larger, all values are returned in order.
        words: random words, two per try; 64 tries per value are ample, since a try fails only on a value
            drawn before.

    Returns:
        int64 [number], in the order drawn.
    """
    drawn: dict[int, None] = dict.fromkeys(range(total)) if total <= count else {}
    for high, low in words.reshape(-1, 2).tolist():
        if len(drawn) == min(count, total):
            break
        drawn[((high << 32 | low) * total) >> 64] = None
    return np.fromiter(drawn, dtype=np.int64)


def checked_seed(seed: int) -> np.uint64:
    """Return the seed as the kernels take it.

    Raises:
        CallError: the seed is not in 0 .. 2^63 - 1.
    """
    if not 0 <= seed < 2**63:
        raise CallError(f"--seed {seed} is out of range: it must be a whole number from 0 to 2^63 - 1.")
    return np.uint64(seed)


def stream_key(identifier: str) -> np.uint64:
    """Return a scan's stream key: the first 8 bytes, little-endian, of the sha256 of its identifier in UTF-8.

    The key is stored with the scan, so renaming or anonymising it later changes no draw.
    """
    return np.uint64(int.from_bytes(hashlib.sha256(identifier.encode()).digest()[:8], "little"))


def threshold(rate: float) -> np.uint64:
    """Return the 32-bit bound of a decision `U < rate`: yes if a word is below it; rate 1 is always yes."""
    return np.uint64(round(rate * 2**32))
