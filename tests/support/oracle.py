"""METHOD.md section 3 as its reader would write it: plain Python and NumPy, one window after another.

It is the oracle of the kernels' tests and the baseline of the benchmark. Its random choices come from an
object, so that it can be run with NumPy's own generator (`FreshDraws`) or with the kernels' draws
(`StreamDraws`, which derives them anew from a Philox of its own: nothing here calls the kernels).
"""

import random
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

MASK = 0xFFFFFFFF
SAMPLES = 100_000


def philox_words(key, counter_high, blocks):
    """Words of Philox4x32-10 for the given block numbers, [n, 4] as uint64, written from the publication."""
    c = [np.asarray(blocks, np.uint64), *(np.full(len(blocks), v, np.uint64) for v in counter_high)]
    k0, k1 = key
    mask, shift = np.uint64(MASK), np.uint64(32)
    for _ in range(10):
        p = np.uint64(0xD2511F53) * c[0]
        q = np.uint64(0xCD9E8D57) * c[2]
        c = [(q >> shift) ^ c[1] ^ np.uint64(k0), q & mask, (p >> shift) ^ c[3] ^ np.uint64(k1), p & mask]
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return np.stack(c, axis=1)


def rule(text, length):
    """'3L//7' of a length, '10' as it is."""
    if "L" not in text:
        return int(text)
    times, divisor = text.split("L//")
    return int(times or 1) * length // int(divisor)


@dataclass
class StreamDraws:
    """The choices for one pair, from the pair's own streams."""

    seed: int
    stream: int
    cube: int
    variant: int
    blocks_used: int = field(default=0)

    @cached_property
    def key(self):
        first = philox_words(
            (self.seed & MASK, self.seed >> 32), (self.stream >> 32, 0, 0), [self.stream & MASK]
        )[0]
        return int(first[0]), int(first[1])

    def words(self, operation, n, first_block=0):
        blocks = np.arange(first_block, first_block - (-n // 4), dtype=np.uint64)
        return philox_words(self.key, (operation, self.variant, self.cube), blocks).ravel()[:n]

    def flips(self, rate, axes):
        words = [int(w) for w in self.words(1, 6)]
        turned = []
        for t in range(3):
            if words[2 * t] / 2**32 >= rate:
                break
            turned.append(axes[words[2 * t + 1] * len(axes) >> 32])
        return turned

    def decisions(self):
        return [int(w) / 2**32 for w in self.words(2, 4)]

    def curve(self):
        return [int(w) / 2**32 for w in self.words(3, 5)]

    @staticmethod
    def extent(word, low, high, length, margin):
        product = int(word) * (high - low + 1)
        edge = low + (product >> 32)
        return margin + ((product & MASK) * (length - edge - 2 * margin + 1) >> 32), edge

    def shuffle_windows(self, number, edges, shape):
        words = self.words(4, 4 * number).reshape(number, 4)
        for row in words:
            row = row[3 - len(shape) : 3]
            yield [self.extent(w, *e, length, 0) for w, e, length in zip(row, edges, shape, strict=True)]

    def permutation(self, n):
        words = self.words(5, (n + 1) // 2, self.blocks_used)
        self.blocks_used += -(-n // 8)
        order = [0] * n
        rest = 0
        for k in range(n):
            product = (int(words[k // 2]) if k % 2 == 0 else rest) * (k + 1)
            place, rest = product >> 32, product & MASK
            order[k] = order[place]
            order[place] = k
        return np.array(order)

    def paint_windows(self, sure, most, more, edges, shape):
        for w, row in enumerate(self.words(6, 4 * most).reshape(most, 4)):
            if w >= sure and int(row[3]) / 2**32 >= more:
                return
            row = row[3 - len(shape) : 3]
            yield [self.extent(v, *e, length, 3) for v, e, length in zip(row, edges, shape, strict=True)]

    def noise(self, shape, low, high):
        words = self.words(7, int(np.prod(shape)))
        return (low + (words * np.uint64(high - low + 1) >> np.uint64(32)).astype(np.int64)).reshape(shape)

    def constant(self, window, low, high):
        return low + (int(self.words(8, window + 1)[window]) * (high - low + 1) >> 32)


class FreshDraws:
    """The same choices from the generators that NumPy and Python bring along."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.random = random.Random(seed)

    def flips(self, rate, axes):
        turned = []
        while len(turned) < 3 and self.random.random() < rate:
            turned.append(self.random.choice(axes))
        return turned

    def decisions(self):
        return [self.random.random() for _ in range(4)]

    def curve(self):
        return [self.random.random() for _ in range(5)]

    def window(self, edges, shape, margin):
        window = []
        for (low, high), length in zip(edges, shape, strict=False):
            edge = self.random.randint(low, high)
            window.append((self.random.randint(margin, length - edge - margin), edge))
        return window

    def shuffle_windows(self, number, edges, shape):
        axes = []
        for (low, high), length in zip(edges, shape, strict=True):
            edge = self.rng.integers(low, high + 1, number)
            start = self.rng.integers(0, length - edge + 1)
            axes.append(list(zip(start.tolist(), edge.tolist(), strict=True)))
        return zip(*axes, strict=True)

    def permutation(self, n):
        return self.rng.permutation(n)

    def paint_windows(self, sure, most, more, edges, shape):
        for w in range(most):
            if w >= sure and self.random.random() >= more:
                return
            yield self.window(edges, shape, 3)

    def noise(self, shape, low, high):
        return self.rng.integers(low, high + 1, shape)

    def constant(self, _window, low, high):
        return self.random.randint(low, high)


def box(window):
    return tuple(slice(start, start + edge) for start, edge in window)


def flip(cube, turned):
    for axis in turned:
        if axis != "channel":
            cube = np.flip(cube, "xyz".index(axis))
    return cube


def bezier(points, samples=SAMPLES):
    """X and Y of the curve at uniform s."""
    s = np.linspace(0, 1, samples)
    x1, y1, x2, y2 = points
    x = 3 * (1 - s) ** 2 * s * x1 + 3 * (1 - s) * s**2 * x2 + s**3
    y = 3 * (1 - s) ** 2 * s * y1 + 3 * (1 - s) * s**2 * y2 + s**3
    return x, y


def nonlinear(cube, points, inverted, low, high):
    x, y = bezier(points)
    value = np.interp((cube - low) / (high - low), x, y[::-1] if inverted else y)
    return np.rint(value * (high - low)).astype(np.int64) + low


def shuffle(cube, number, edges, draws):
    out = cube.copy()
    for window in draws.shuffle_windows(number, edges, cube.shape):
        where = box(window)
        voxels = cube[where]
        out[where] = voxels.ravel()[draws.permutation(voxels.size)].reshape(voxels.shape)
    return out


def edges_of(recipe, kind, shape):
    if kind == "outpaint":
        least, most = recipe.outpaint_margins
        return [(length - rule(most, length), length - rule(least, length)) for length in shape]
    low, high = getattr(recipe, f"{kind}_edges")
    return [(rule(low, length), rule(high, length)) for length in shape]


def inpaint(cube, recipe, low, high, draws):
    edges = edges_of(recipe, "inpaint", cube.shape)
    windows = draws.paint_windows(0, recipe.inpaint_windows, recipe.inpaint_continue, edges, cube.shape)
    out = cube.copy()
    noise = draws.noise(cube.shape, low, high) if recipe.inpaint_fill == "noise" else None
    for w, window in enumerate(windows):
        out[box(window)] = draws.constant(w, low, high) if noise is None else noise[box(window)]
    return out


def outpaint(cube, recipe, low, high, draws):
    edges = edges_of(recipe, "outpaint", cube.shape)
    if recipe.outpaint_fill == "noise":
        out = draws.noise(cube.shape, low, high)
    else:
        out = np.full(cube.shape, draws.constant(0, low, high))
    more = recipe.outpaint_continue
    for window in draws.paint_windows(1, recipe.outpaint_windows, more, edges, cube.shape):
        out[box(window)] = cube[box(window)]
    return out


def degrade(cube, recipe, windows, low, high, draws):
    """One pair: (degraded twin as int64, axes turned, names of the degradations applied)."""
    axes = [axis for axis in recipe.flip_axes if axis in ("channel", *"xyz"[: cube.ndim])]
    turned = draws.flips(recipe.flip_rate, axes)
    cube = flip(cube, turned).astype(np.int64)
    u_shuffle, u_nonlinear, u_paint, u_inside = draws.decisions()
    applied = []
    if u_shuffle < recipe.shuffle_rate:
        cube = shuffle(cube, windows, edges_of(recipe, "shuffle", cube.shape), draws)
        applied.append("SHUFFLE")
    if u_nonlinear < recipe.nonlinear_rate:
        *points, u_invert = draws.curve()
        cube = nonlinear(cube, points, u_invert < recipe.invert_rate, low, high)
        applied.append("NONLINEAR")
    if u_paint < recipe.paint_rate:
        inside = u_inside < recipe.inpaint_share
        cube = (inpaint if inside else outpaint)(cube, recipe, low, high, draws)
        applied.append("INPAINT" if inside else "OUTPAINT")
    return cube, turned, applied
