"""Applies the degradations of METHOD.md section 3 in order to a cube, each with its own random stream.

Order: flip (of both members of the pair), then on the degraded cube local shuffling, the non-linear curve and
painting. The curve acts on each voxel alone, so it is applied where the result is written; out-painting keeps
under a third of a cube, so windows and look-ups that noise would cover are skipped. Neither changes a bit of
the result.

Two-dimensional cubes run through the same kernels as cubes of one layer, [1, x, y]: loops over them stay
contiguous. Only the plan differs: windows are one voxel thick along the leading axis, and no border is kept
free there.
"""

import threading
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.degrade import recipes
from genesis_toolkit.pipeline.degrade.flip import _flip_into, draw_flip
from genesis_toolkit.pipeline.degrade.nonlinear import draw_curve, fill_table, map_box
from genesis_toolkit.pipeline.degrade.paint import (
    Painting,
    draw_boxes,
    draw_constant,
    fill_constant_box,
    fill_noise,
    fill_noise_box,
)
from genesis_toolkit.pipeline.degrade.recipes import AXIS_BITS, MARGIN, Applied, Recipe
from genesis_toolkit.pipeline.degrade.shuffle import (
    Offsets,
    ShuffleScratch,
    shuffle,
    shuffle_offsets,
    shuffle_scratch,
)
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.pipeline.jit import LOW, ONE, ZERO, kernel
from genesis_toolkit.pipeline.rng import Operation, block, checked_seed, scan_key, threshold

_WHICH = np.uint64(Operation.WHICH)
_NONLINEAR, _SHUFFLE, _INPAINT, _OUTPAINT = (np.uint64(member) for member in Applied)


class _Plan(NamedTuple):
    """A recipe for one size and window in the form of the kernels: rates as thresholds, rules as voxels.

    Arrays over axes have three entries; for two-dimensional cubes the first has length 1.
    """

    seed: NDArray[np.uint64]
    flip_below: np.uint64
    flip_axes: NDArray[np.uint64]
    flip_shift: np.uint64
    margins: NDArray[np.uint64]
    shuffle_below: np.uint64
    windows: np.uint64
    shuffle_edges: NDArray[np.uint64]
    offsets: Offsets
    nonlinear_below: np.uint64
    invert_below: np.uint64
    paint_below: np.uint64
    inpaint_below: np.uint64
    inpaint: Painting
    outpaint: Painting
    low: int
    high: int


class _Scratch(NamedTuple):
    """Buffers of one thread for one dtype."""

    turned: NDArray[Any]
    mixed: NDArray[Any]
    table: NDArray[Any]
    start: NDArray[np.uint64]
    stop: NDArray[np.uint64]
    whole: NDArray[np.uint64]
    shuffle: ShuffleScratch


@kernel
def _draw_which(k0, k1, variant, cube, plan):  # type: ignore[no-untyped-def]
    """Draw the degradations of one pair: uint64, bits as `Applied`."""
    w0, w1, w2, w3 = block(ZERO, _WHICH, variant, cube, k0, k1)
    applied = ZERO
    if w0 < plan.shuffle_below:
        applied |= _SHUFFLE
    if w1 < plan.nonlinear_below:
        applied |= _NONLINEAR
    if w2 < plan.paint_below:
        applied |= _INPAINT if w3 < plan.inpaint_below else _OUTPAINT
    return applied


@kernel
def _copy_box(source, start, stop, out):  # type: ignore[no-untyped-def]
    """Copy one box, uint64 [3] in voxels."""
    for x in range(start[0], stop[0]):
        for y in range(start[1], stop[1]):
            for z in range(start[2], stop[2]):
                out[x, y, z] = source[x, y, z]


@kernel
def _keep_box(source, mapped, table, start, stop, out):  # type: ignore[no-untyped-def]
    """Write one box of the result, mapped by the curve or unchanged."""
    if mapped:
        map_box(source, table, start, stop, out)
    else:
        _copy_box(source, start, stop, out)


@kernel
def _paint(source, k0, k1, variant, cube, applied, boxes, plan, scratch, out):  # type: ignore[no-untyped-def]
    """Write the last step of a pair, curve and painting, from `source` to `out`."""
    low = np.uint64(plan.low)
    count = np.uint64(plan.high - plan.low + 1)
    mapped = (applied & _NONLINEAR) != ZERO
    start, stop = scratch.start, scratch.stop
    if applied & _OUTPAINT:
        if plan.outpaint.constant:
            value = draw_constant(k0, k1, variant, cube, ZERO, low, count)
            fill_constant_box(value, scratch.whole[ZERO], scratch.whole[ONE], out)
        else:
            fill_noise(k0, k1, variant, cube, low, count, out)
        for b in range(boxes):
            _keep_box(source, mapped, scratch.table, start[b], stop[b], out)
        return
    _keep_box(source, mapped, scratch.table, scratch.whole[ZERO], scratch.whole[ONE], out)
    if applied & _INPAINT:
        for b in range(boxes):
            if plan.inpaint.constant:
                value = draw_constant(k0, k1, variant, cube, b, low, count)
                fill_constant_box(value, start[b], stop[b], out)
            else:
                fill_noise_box(k0, k1, variant, cube, low, count, start[b], stop[b], out)


@kernel
def _degrade(original, k0, k1, variant, cube, plan, scratch, out):  # type: ignore[no-untyped-def]
    """Write the degraded cube of `original` to `out`; return (flip bits, applied bits), uint64."""
    applied = _draw_which(k0, k1, variant, cube, plan)
    flip = draw_flip(k0, k1, variant, cube, plan.flip_below, plan.flip_axes)
    source = original
    if flip:
        _flip_into(original, flip, scratch.turned)
        source = scratch.turned
    if applied & _NONLINEAR:
        p1x, p1y, p2x, p2y, inverted = draw_curve(k0, k1, variant, cube, plan.invert_below)
        fill_table(p1x, p1y, p2x, p2y, inverted, plan.low, plan.high, scratch.table)
    boxes = ZERO
    if applied & (_INPAINT | _OUTPAINT):
        how = plan.inpaint if applied & _INPAINT else plan.outpaint
        start, stop = scratch.start, scratch.stop
        boxes = draw_boxes(k0, k1, variant, cube, out.shape, how, plan.margins, start, stop)
    kept = boxes if applied & _OUTPAINT else ZERO
    if applied & _SHUFFLE:
        shuffle(
            source, k0, k1, variant, cube, plan.windows, plan.shuffle_edges, plan.offsets,
            scratch.start, scratch.stop, kept, scratch.shuffle, scratch.mixed,
        )  # fmt: skip
        source = scratch.mixed
    _paint(source, k0, k1, variant, cube, applied, boxes, plan, scratch, out)
    return flip, applied


@kernel
def _degrade_all(cubes, streams, numbers, variants, plan, scratch, out, flip, applied):  # type: ignore[no-untyped-def]
    """Degrade all pairs of a batch, one after another."""
    for i in range(cubes.shape[0]):
        k0, k1 = scan_key(plan.seed[0], streams[i])
        variant, number = np.uint64(variants[i]) & LOW, np.uint64(numbers[i]) & LOW
        bits, applied[i] = _degrade(cubes[i], k0, k1, variant, number, plan, scratch, out[i])
        flip[i] = bits >> plan.flip_shift


class Degrader:
    """Degrades cubes of one size, for one recipe, HU window and seed (METHOD.md section 3).

    The result for a pair depends only on (seed, stream, number, variant), not on the batch, the order or the
    thread. One object serves any number of threads at once; each has its own buffers, and the work runs
    without the GIL.

    Args:
        recipe: kinds, rates and sizes; see `recipes.get_recipe`, or `recipes.only` to force degradations.
        size: the edges of the cubes in voxels, x, y, z or x, y.
        window: the whole numbers that the cubes hold.
        seed: 0 .. 2^63 - 1.

    Raises:
        CallError: the cubes are too small for a degradation of the recipe or lack an axis that it flips, or
            the seed is out of range.
    """

    def __init__(self, recipe: Recipe, size: tuple[int, ...], window: Window, seed: int) -> None:
        if len(size) not in (2, 3):
            raise CallError(
                f"The size {size} has {len(size)} edges, but must have three (x, y, z) for a cube or two "
                "(x, y) for a patch."
            )
        recipes.check_size(recipe, size)
        self.recipe, self.size, self.window, self.seed = recipe, size, window, seed
        self._shape = (1,) * (3 - len(size)) + size
        self._plan = _plan(recipe, size, self._shape, window, seed)
        self._threads = threading.local()

    def __call__(
        self,
        cubes: NDArray[Any],
        stream: NDArray[np.uint64],
        number: NDArray[Any],
        variant: int | NDArray[Any],
        out: NDArray[Any],
        flip: NDArray[np.uint8],
        applied: NDArray[np.uint8],
    ) -> None:
        """Degrade a batch.

        Args:
            cubes: [n, x, y, z] or [n, x, y], int16, uint8 or uint16, C-contiguous, whole numbers of the
                window.
            stream: uint64 [n], the stream key of each cube's scan.
            number: integers [n], the cube's number within its scan, 0 .. 2^32 - 1.
            variant: 0 .. 2^32 - 1, one for all or integers [n].
            out: the shape and dtype of `cubes`, C-contiguous, not overlapping: filled with degraded cubes.
            flip: uint8 [n], filled with the net flip: bit 0 is x, bit 1 is y, bit 2 is z.
            applied: uint8 [n], filled with the bits of `Applied`.

        Raises:
            CallError: shapes or dtypes do not match, or the dtype cannot hold the window.
        """
        n = len(cubes)
        # Copies, since the kernels would be compiled once more for an array that is read-only.
        streams, numbers = np.array(stream, np.uint64, order="C"), np.array(number, np.int64, order="C")
        variants = np.array(np.broadcast_to(variant, (n,)), np.int64, order="C")
        self._check(cubes, out, {"stream": streams, "number": numbers, "flip": flip, "applied": applied})
        with_layer, degraded = (each.reshape(n, *self._shape) for each in (cubes, out))
        how = (self._plan, self._scratch(cubes.dtype))
        _degrade_all(with_layer, streams, numbers, variants, *how, degraded, flip, applied)

    def compile(self, dtype: Any) -> None:
        """Compile the kernels for cubes of a dtype, unless they are cached: degrade one cube of zeros."""
        cube, bits = np.zeros((1, *self.size), dtype), np.zeros(1, np.uint8)
        self(cube, np.zeros(1, np.uint64), bits, 0, cube.copy(), bits.copy(), bits.copy())

    def _check(self, cubes: NDArray[Any], out: NDArray[Any], rows: dict[str, NDArray[Any]]) -> None:
        """Refuse arrays that would lead kernels out of bounds or overflow."""
        axes = ", ".join("xyz"[: len(self.size)])
        if cubes.shape[1:] != self.size or out.shape != cubes.shape or out.dtype != cubes.dtype:
            raise CallError(
                f"The cubes are {cubes.dtype} {cubes.shape} and the output buffer is "
                f"{out.dtype} {out.shape}, but both must have the shape [n, {axes}] and the "
                f"same dtype, with {axes} = {self.size}."
            )
        if not (cubes.flags.c_contiguous and out.flags.c_contiguous):
            strided = "The cubes or the output buffer are strided"
            raise CallError(f"{strided}: pass C-contiguous arrays.")
        for name, row in rows.items():
            if row.shape != (len(cubes),):
                raise CallError(f"{name} has shape {row.shape}, but {len(cubes)} cubes need ({len(cubes)},).")
        dtype = cubes.dtype
        if dtype not in (np.int16, np.uint8, np.uint16):
            raise CallError(f"The cubes are {dtype}, but they must be int16, uint8 or uint16.")
        holds = np.iinfo(dtype)
        if not holds.min <= self.window.low < self.window.high <= holds.max:
            raise CallError(
                f"--hu {self.window.low},{self.window.high} does not fit into {dtype}, which holds "
                f"{holds.min} to {holds.max}: choose another window."
            )

    def _scratch(self, dtype: np.dtype[Any]) -> _Scratch:
        """Return this thread's buffers for cubes of `dtype`, allocated once."""
        kept: dict[str, _Scratch] = self._threads.__dict__
        if dtype.str not in kept:
            plan, shape, limits = self._plan, self._shape, np.iinfo(dtype)
            boxes = int(max(plan.inpaint.windows, plan.outpaint.windows))
            kept[dtype.str] = _Scratch(
                turned=np.zeros(shape, dtype),
                mixed=np.zeros(shape, dtype),
                table=np.arange(limits.max - limits.min + 1).astype(dtype),  # identity outside the window
                start=np.zeros((boxes, 3), np.uint64),
                stop=np.zeros((boxes, 3), np.uint64),
                whole=np.array([(0, 0, 0), shape], np.uint64),
                shuffle=shuffle_scratch(shape, plan.shuffle_edges, int(plan.windows)),
            )
        return kept[dtype.str]


def _plan(recipe: Recipe, size: tuple[int, ...], shape: tuple[int, ...], window: Window, seed: int) -> _Plan:
    """Return the recipe for one size in the form of the kernels: for cubes of three edges, `shape`.

    A degradation that never happens gets edges of 1.
    """
    layer = 3 - len(size)  # axes of the kernels that the cubes lack

    def edges(degradation: Applied) -> NDArray[np.uint64]:
        found = [recipes.window_edges(recipe, degradation, length) for length in size]
        usable = min(size) >= recipes.smallest_edges(recipe)[degradation]
        return np.array([(1, 1)] * layer + found if usable else [(1, 1)] * 3, np.uint64)

    def painting(name: str, sure: np.uint64, degradation: Applied) -> Painting:
        windows, more, fill = (getattr(recipe, f"{name}_{what}") for what in ("windows", "continue", "fill"))
        return Painting(sure, np.uint64(windows), threshold(more), edges(degradation), fill == "constant")

    shuffle_edges = edges(Applied.SHUFFLE)
    return _Plan(
        seed=np.array([checked_seed(seed)], np.uint64),
        flip_below=threshold(recipe.flip_rate),
        flip_axes=np.array([AXIS_BITS[axis] << layer for axis in recipes.flip_axes(recipe, size)], np.uint64),
        flip_shift=np.uint64(layer),
        margins=np.array([0] * layer + [MARGIN] * len(size), np.uint64),
        shuffle_below=threshold(recipe.shuffle_rate),
        windows=np.uint64(recipes.shuffle_windows(recipe, size) if recipe.shuffle_rate else 0),
        shuffle_edges=shuffle_edges,
        offsets=shuffle_offsets(shape, shuffle_edges),
        nonlinear_below=threshold(recipe.nonlinear_rate),
        invert_below=threshold(recipe.invert_rate),
        paint_below=threshold(recipe.paint_rate),
        inpaint_below=threshold(recipe.inpaint_share),
        inpaint=painting("inpaint", ZERO, Applied.INPAINT),
        outpaint=painting("outpaint", ONE, Applied.OUTPAINT),
        low=window.low,
        high=window.high,
    )
