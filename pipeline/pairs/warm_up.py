"""Compiles every kernel and keeps it, for images and clusters on which nobody should wait for that later."""

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

#: What cubes may hold: HU, grey levels of 8 bits, and of 16.
_STORED: tuple[Any, ...] = (np.int16, np.uint8, np.uint16)

#: What scans are read as: whole HU, and real numbers before they are rounded.
_READ: tuple[Any, ...] = (np.int16, np.float32, np.float64)

_EDGES = (16, 16, 16)  # of a cube large enough for every degradation


@dataclass(frozen=True)
class WarmUp:
    """What `warm_up` did.

    Attributes:
        compiled: functions that were compiled now; 0 where an earlier call had compiled them all.
        seconds: that it took.
        kept_in: the folder below which they are kept.
    """

    compiled: int
    seconds: float
    kept_in: Path


def warm_up(more: Sequence[tuple[str, Callable[[], object]]] = (), *, progress: Progress = silent) -> WarmUp:
    """Compile every kernel for every kind of cube, or find it compiled.

    Args:
        more: names and calls of kernels that live outside the pipeline.
        progress: told after each step.

    Raises:
        CallError: no folder can be written in which compiled kernels could be kept.
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
            "The compiled kernels cannot be kept, since neither the folder of the package nor the cache "
            "folder of your home can be written: name one, as in NUMBA_CACHE_DIR=/scratch/numba."
        )
    return WarmUp(compiled, perf_counter() - begun, Path(os.path.commonpath(folders)))


def _steps() -> list[tuple[str, Callable[[], object]]]:
    """What to call so that all is compiled, in the order of the journey."""
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
    cube, bits = np.zeros((1, *_EDGES), dtype), np.zeros(1, np.uint8)
    degrader = Degrader(Recipe(), _EDGES, Window(0, 100), 0)
    degrader(cube, np.zeros(1, np.uint64), bits, 0, cube.copy(), bits.copy(), bits.copy())
    flip_into(cube[0], 0, cube[0].copy())
