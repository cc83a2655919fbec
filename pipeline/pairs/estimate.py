"""What `degrade` would do, and how long it would take, without doing it: `--dry-run`.

Time and bytes come from degrading one block of cubes on this machine and throwing it away: estimates. The
counts are exact.
"""

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from genesis_toolkit.pipeline.degrade.compose import Degrader
from genesis_toolkit.pipeline.pairs.degrade import DegradeParameters, check_job, compile_kernels
from genesis_toolkit.pipeline.progress import Progress, silent
from genesis_toolkit.pipeline.store.shards import encode_cube, shard_length

_BLOCK = 32  # cubes degraded to see how long one takes


@dataclass(frozen=True)
class DegradationPlan:
    """What `degrade` would do.

    Attributes:
        cubes: of the cube store.
        pairs: to be made; 0 where the pair store is finished.
        store_bytes: of originals and degraded cubes, as the block that was tried was encoded.
        files: of shards.
        seconds: with `workers` at work.
        workers: shards at a time.
    """

    cubes: int
    pairs: int
    store_bytes: int
    files: int
    seconds: float
    workers: int


def plan_degradation(
    cubes: str | Path,
    target: Path,
    parameters: DegradeParameters,
    *,
    workers: int,
    overwrite: bool = False,
    report: Progress = silent,
) -> DegradationPlan:
    """Degrade a block of cubes, throw it away, and say what all would come to.

    Raises:
        CallError: as `degrade`.
    """
    store, _, present = check_job(cubes, target, parameters, overwrite=overwrite)
    compile_kernels(store, parameters, report)
    chosen = np.linspace(0, len(store) - 1, min(_BLOCK, len(store))).astype(int)
    originals = np.empty((len(chosen), *store.size), store.cubes.dtype)
    degraded, bits = np.empty_like(originals), np.zeros(len(chosen), np.uint8)
    degrader = Degrader(parameters.recipe, store.size, store.window, parameters.seed)
    begun = perf_counter()
    store.cubes.read_many(chosen, originals)
    degrader(originals, store.streams()[chosen], store.table.number[chosen], 0, degraded, bits, bits.copy())
    encoded = sum(len(encode_cube(cube)) for cube in degraded) / len(chosen)
    seconds = (perf_counter() - begun) / len(chosen)
    shards = range(-(-len(store) // store.cubes.length))
    copied = sum(store.storage.size(store.cubes.path(shard)) for shard in shards)
    pairs = 0 if present else len(store) * parameters.variants
    length = shard_length(store.size, store.cubes.dtype.itemsize)
    return DegradationPlan(
        cubes=len(store),
        pairs=pairs,
        store_bytes=copied + round(encoded * pairs) if pairs else 0,
        files=-(-len(store) // store.cubes.length) - (-pairs // length) if pairs else 0,
        seconds=seconds * pairs / workers,
        workers=workers,
    )
