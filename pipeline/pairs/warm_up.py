"""Compiles and caches every kernel, for machine images and clusters where nobody should wait for it later."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from genesis_toolkit.pipeline.cubes.rule import CubeRule, passing_corners
from genesis_toolkit.pipeline.degrade.compose import Degrader
from genesis_toolkit.pipeline.degrade.flip import flip_into
from genesis_toolkit.pipeline.degrade.recipes import Recipe
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.pipeline.jit import kept_in
from genesis_toolkit.pipeline.progress import Progress, silent
from genesis_toolkit.pipeline.rng import Operation, draw_words
from genesis_toolkit.pipeline.scans.images import resize
from genesis_toolkit.pipeline.store.reading import compile_reading

#: Possible dtypes of cubes: HU, and grey levels of 8 and 16 bits.
_STORED: tuple[Any, ...] = (np.int16, np.uint8, np.uint16)

#: Possible dtypes of scans: whole HU, and unrounded real numbers.
_READ: tuple[Any, ...] = (np.int16, np.float32, np.float64)

_EDGES = (16, 16, 16)  # edges of a cube large enough for every degradation


@dataclass(frozen=True)
class WarmUp:
    """Outcome of `warm_up`.

    Attributes:
        compiled: number of functions compiled in this call; 0 if all were cached.
        seconds: duration.
        kept_in: the folder of the cache.
    """

    compiled: int
    seconds: float
    kept_in: Path


def warm_up(more: Sequence[tuple[str, Callable[[], object]]] = (), *, progress: Progress = silent) -> WarmUp:
    """Compile every kernel for every kind of cube, unless it is cached.

    Args:
        more: names and calls of kernels outside the pipeline.
        progress: called after each step.

    Raises:
        CallError: no folder for the cache is writable.
    """
    begun = perf_counter()
    steps = [*_steps(), *more]
    for done, (what, compile_it) in enumerate(steps):
        progress(f"compiling: {what}", done, len(steps))
        compile_it()
    progress("compiling", len(steps), len(steps))
    compiled, folders = kept_in()
    if folders is None:
        raise CallError(
            "The compiled kernels cannot be cached: neither the package's folder nor the cache folder in "
            "your home is writable. Set a folder, for example NUMBA_CACHE_DIR=/scratch/numba."
        )
    return WarmUp(compiled, perf_counter() - begun, Path(os.path.commonpath(folders)))


def _steps() -> list[tuple[str, Callable[[], object]]]:
    """Return the calls that compile everything, in the order of the workflow."""
    return [
        ("random numbers", partial(draw_words, 0, np.uint64(0), 0, 0, Operation.PLACE, 1)),
        *((f"cubes of {one.__name__} scans", partial(_find_corners, one)) for one in _READ),
        ("X-ray images", partial(resize, np.zeros((1, 1), np.uint8), (1, 1))),
        *((f"degradation of {one.__name__} cubes", partial(_degrade, one)) for one in _STORED),
        ("reading", compile_reading),
    ]


def _find_corners(dtype: Any) -> None:
    rule = CubeRule((1, 1, 1), (0, 0, 0))
    passing_corners(np.zeros(rule.least_shape, dtype, order="F"), rule)


def _degrade(dtype: Any) -> None:
    Degrader(Recipe(), _EDGES, Window(0, 100), 0).compile(dtype)
    flip_into(np.zeros(_EDGES, dtype), 0, np.zeros(_EDGES, dtype))
