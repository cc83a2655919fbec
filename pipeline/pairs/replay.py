"""Derives pairs of a store again from their originals, and compares them bit for bit."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.cubes.recut import UnknownError, drawn, needed
from genesis_toolkit.pipeline.degrade.compose import Degrader
from genesis_toolkit.pipeline.degrade.recipes import Recipe
from genesis_toolkit.pipeline.engine import Workers
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.pipeline.job import run_all
from genesis_toolkit.pipeline.store.salvage import Problem, Remains

_BLOCK = 32  # pairs derived at a time


def replay(remains: Remains, most: int, workers: Workers) -> tuple[int, list[Problem]]:
    """Derive `most` random pairs again from their originals, and compare them bit for bit.

    Returns:
        The number of pairs compared, and the problems, by array.

    Raises:
        UnknownError: required data are damaged.
    """
    attributes = remains.attributes
    columns = needed(remains, "scan", "number", "scans/stream", "flip", "applied")
    if attributes is None or remains.window is None or not {"original", "degraded"} <= set(remains.arrays):
        raise UnknownError("zarr.json cannot be read")
    try:
        made, size = attributes["parameters"], remains.arrays["original"].shape[1:]
        recipe, window = Recipe.from_json(made["recipe"]), Window(*attributes["window"])
        replayer = _Replayer(remains, Degrader(recipe, size, window, made["seed"]), *columns)
    except (CallError, DataError, LookupError, TypeError, ValueError, OverflowError) as error:
        raise UnknownError(f"the recipe cannot be used ({error})") from None
    pairs = drawn(np.arange(len(replayer.flip)), most)
    blocks = [pairs[start : start + _BLOCK] for start in range(0, len(pairs), _BLOCK)]
    found = list[tuple[int, list[Problem]]]()
    run_all(workers, "blocks of pairs", replayer.look, blocks, found.append)
    return sum(compared for compared, _ in found), [problem for _, wrong in found for problem in wrong]


@dataclass(frozen=True)
class _Replayer:
    """Derives pairs of one store; can be used by any number of threads."""

    remains: Remains
    degrader: Degrader
    scan: NDArray[np.int32]
    number: NDArray[np.int32]
    stream: NDArray[np.uint64]
    flip: NDArray[np.uint8]
    applied: NDArray[np.uint8]

    def look(self, pairs: NDArray[np.integer[Any]]) -> tuple[int, list[Problem]]:
        """Derive some pairs; return their number, and the problems."""
        original, degraded = (self.remains.reader(name) for name in ("original", "degraded"))
        cubes, stored = np.empty((2, len(pairs), *original.shape[1:]), original.dtype)
        variant, cube = np.divmod(pairs, len(self.scan))
        read = np.ones(len(pairs), bool)
        for row, (pair, one) in enumerate(zip(pairs.tolist(), cube.tolist(), strict=True)):
            try:
                original.read(one, cubes[row])
                degraded.read(pair, stored[row])
            except DataError:  # a damaged shard is reported separately
                read[row] = False
        pairs, variant, cube = pairs[read], variant[read], cube[read]
        again = np.empty_like(cubes[read])
        flip, applied = np.zeros((2, len(pairs)), np.uint8)
        streams = self.stream[self.scan[cube]]
        self.degrader(cubes[read], streams, self.number[cube], variant, again, flip, applied)
        same = (again == stored[read]).all(axis=tuple(range(1, again.ndim)))
        bits = (flip == self.flip[pairs]) & (applied == self.applied[pairs])
        wrong = [("degraded", f"pair {pair} differs from what its original yields") for pair in pairs[~same]]
        wrong += [("flip, applied", f"those of pair {pair} differ from the draws") for pair in pairs[~bits]]
        return len(pairs), wrong
