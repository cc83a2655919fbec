"""Degrades cubes in memory with one call; `compose.Degrader` does the work."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genesis_toolkit.pipeline.degrade.compose import Degrader
from genesis_toolkit.pipeline.degrade.recipes import Recipe, get_recipe
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.hounsfield import Window


class DegradedCubes(NamedTuple):
    """Result of `degrade_arrays`.

    Attributes:
        degraded: the degraded cubes, in the shape and dtype of the originals.
        flip: uint8 [cube], the axes along which a cube was flipped first: bit 0 is x, bit 1 is y, bit 2 is z.
            The network restores the original with the same flips.
        applied: uint8 [cube], the degradations applied to each cube, as bits of `Applied`.
    """

    degraded: NDArray[Any]
    flip: NDArray[np.uint8]
    applied: NDArray[np.uint8]


def degrade_arrays(
    cubes: NDArray[Any],
    recipe: Recipe | str = "genesis",
    *,
    seed: int = 0,
    variant: int = 0,
    window: Window | tuple[int, int] | None = None,
    streams: ArrayLike = 0,
    numbers: ArrayLike | None = None,
) -> DegradedCubes:
    """Degrade cubes in memory as `degrade_cubes` degrades those of a store (METHOD.md section 3).

    The result for a cube depends only on the seed, its stream, its number and the variant, not on the other
    cubes or their order. With the streams and numbers of a store, it equals the store's pairs bit for bit.

    Args:
        cubes: int16, uint8 or uint16, [cube, x, y, z] or [cube, x, y], whole numbers in the window.
        recipe: kinds, rates and sizes of degradations; or the name of a recipe.
        seed: seed of all random draws, 0 .. 2^63 - 1.
        variant: selects one of many degraded variants of each cube, 0 .. 2^32 - 1.
        window: lowest and highest value; None takes -1000 .. 1000 HU, or 0 .. 255 grey levels for uint8.
        streams: uint64 [cube], the stream key of each cube's scan (`CubeStore.streams`); or one for all.
        numbers: integers [cube], the number of each cube in its scan, 0 .. 2^32 - 1; None counts from 0.

    Raises:
        CallError: the cubes are too small for a degradation of the recipe, have another dtype, or hold values
            outside the window.
    """
    cubes = np.ascontiguousarray(cubes)
    if cubes.ndim not in (3, 4):
        raise CallError(
            f"The cubes have the shape {cubes.shape}, but it must be [cube, x, y, z] or [cube, x, y]: pass a "
            "single cube as cube[None]."
        )
    if window is None:
        window = Window(0, 255) if cubes.dtype == np.uint8 else Window()
    window = window if isinstance(window, Window) else Window(*window)
    recipe = get_recipe(recipe) if isinstance(recipe, str) else recipe
    degrader = Degrader(recipe, cubes.shape[1:], window, seed)
    if cubes.size and not window.low <= cubes.min() <= cubes.max() <= window.high:
        raise CallError(
            f"The cubes hold {cubes.min()} .. {cubes.max()}, but values must be within the window "
            f"{window.low} .. {window.high}: clip them with Window({window.low}, {window.high}).clip(cubes)."
        )
    count = len(cubes)
    stream = np.broadcast_to(np.asarray(streams, np.uint64), count)
    number = np.arange(count) if numbers is None else np.asarray(numbers)
    made = DegradedCubes(np.empty_like(cubes), np.zeros(count, np.uint8), np.zeros(count, np.uint8))
    degrader(cubes, stream, number, variant, *made)
    return made
