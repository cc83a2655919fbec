"""Makes a pair store: `degrade_cubes` degrades every cube, shard by shard.

Each task writes one whole shard. The random draws for a pair depend only on the seed, the scan, the cube and
the variant, so neither the workers, nor their order, nor an interruption affects the result.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.cubes.assemble import whole_shard
from genesis_toolkit.pipeline.cubes.repair import Damage, find_damage, repair
from genesis_toolkit.pipeline.degrade.compose import Degrader
from genesis_toolkit.pipeline.degrade.recipes import Recipe, check_size
from genesis_toolkit.pipeline.describe.croissant import finish
from genesis_toolkit.pipeline.describe.facts import Contents
from genesis_toolkit.pipeline.engine import Workers, connect, cores
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.job import Facts, run_all, run_missing
from genesis_toolkit.pipeline.ledger import AnyPath, Ledger, check_same_parameters, hold, run_log
from genesis_toolkit.pipeline.progress import Bars, Progress, callback, shows, silent
from genesis_toolkit.pipeline.rng import checked_seed
from genesis_toolkit.pipeline.store.open import CubeStore, PairStore, open_cubes, open_store
from genesis_toolkit.pipeline.store.reading import compile_reading, read_cubes
from genesis_toolkit.pipeline.store.schema import PAIRS, PairTable
from genesis_toolkit.pipeline.store.shards import encode_cube, shard_length, shard_parts, shard_path
from genesis_toolkit.pipeline.store.storage import located
from genesis_toolkit.pipeline.store.write import check_target, write_store

_MOST_VARIANTS = 10_000
_SECONDS_A_VOXEL = 7e-9  # to read, degrade and encode one: 0.95 ms per pair of the published size
_BLOCK = 32  # cubes degraded at a time, also to measure the time: 16 MiB of voxels per worker


@dataclass(frozen=True)
class DegradeParameters:
    """How cubes are degraded (METHOD.md section 3).

    Attributes:
        recipe: kinds, rates and sizes of degradations.
        variants: number of degraded variants per cube.
        seed: of all random draws.

    Raises:
        CallError: a value is out of range.
    """

    recipe: Recipe = field(default_factory=Recipe)
    variants: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.variants <= _MOST_VARIANTS:
            raise CallError(
                f"--variants {self.variants} is out of range: it must be between 1 and {_MOST_VARIANTS} "
                "degraded copies of each cube. For an unlimited number, run genesis-train pretrain on the "
                "cube store; it degrades on the fly."
            )
        checked_seed(self.seed)


@dataclass(frozen=True)
class DegradationResult:
    """Outcome of `degrade_cubes`.

    Attributes:
        store: the finished store.
        done_before: the store was already finished, and at most damaged files were rebuilt.
        repaired: number of damaged files that were rebuilt.
    """

    store: PairStore
    done_before: bool
    repaired: int = 0


@shows(Bars)
def degrade_cubes(
    cubes: AnyPath,
    target: AnyPath,
    parameters: DegradeParameters | None = None,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    overwrite: bool = False,
    progress: Progress | bool = False,
) -> DegradationResult:
    """Degrade every cube of a store into a separate pair store, which also holds the originals.

    Call it again to resume an interrupted run. On a finished store it rebuilds damaged files (see `repair`),
    or does nothing.

    Args:
        cubes: the cube store: a folder, an archive or a URL.
        target: the pair store to make.
        parameters: how to degrade.
        workers: number of threads; None means one per core.
        scheduler: of a dask.distributed cluster that does the work, see `engine.connect`.
        overwrite: replace a finished store, and start again if other unfinished work exists.
        progress: True shows bars on stderr; a callback receives the progress.

    Raises:
        CallError: there is no cube store, something is in the way, cubes are too small for the recipe, or the
            parameters differ from the store's.
        DataError: the cube store is damaged, or the finished pair store is and cannot be repaired.
    """
    report, parameters = callback(progress), parameters or DegradeParameters()
    started = datetime.now(UTC)
    cubes, target = located(cubes), Path(target)
    source = cubes if isinstance(cubes, Path) else None
    damage = None if overwrite else find_damage(target, PAIRS)
    repaired = 0
    if damage:
        store, crew = open_cubes(cubes), Workers(workers or cores(), progress=report)
        make_again = partial(_make_again, damage, store, parameters, crew)
        repaired = repair(damage, _job(store, parameters), make_again)
    store, job, present = check_job(cubes, target, parameters, overwrite=overwrite)
    if present:
        return DegradationResult(open_store(target, PairStore), done_before=True, repaired=repaired)
    with (
        connect(scheduler, workers, source, target, report) as crew,
        hold(target, job, overwrite=overwrite) as ledger,
    ):
        if crew.client is None:
            compile_kernels(store, parameters, report)
        tasks = _tasks(ledger, store, parameters, job)
        run_missing(crew, ledger, "shards", tasks, _make, suited=partial(_suited, store))
        records = dict(zip(tasks.values(), ledger.records(tasks), strict=True))
        ledger.clear_store(keep=("original", "degraded"))  # removes tables of a run that was killed
        _write_tables(ledger, store, job, *_bits(records))
        hashes = {task.path: record["sha256"] for task, record in records.items()}
        ledger.finish(hashes, run_log(started, crew.count))
    return DegradationResult(open_store(target, PairStore), done_before=False)


def check_job(
    cubes: str | Path, target: Path, parameters: DegradeParameters, *, overwrite: bool
) -> tuple[CubeStore, dict[str, Any], bool]:
    """Return the cube store, the parameters as written to the pair store, and whether that exists already.

    Raises:
        CallError: see `degrade_cubes`.
    """
    store = open_cubes(cubes)
    check_size(parameters.recipe, store.size)
    job = _job(store, parameters)
    present = check_target(target, PAIRS, overwrite=overwrite, inputs=[cubes])
    if present is not None:
        check_same_parameters(target, present["parameters"], job)
    return store, job, present is not None


def compile_kernels(store: CubeStore, parameters: DegradeParameters, report: Progress) -> None:
    """Compile the kernels before the first shard needs them: some 20 s once, then under 1 s."""
    report("compiling", 0, 1)
    compile_reading()
    Degrader(parameters.recipe, store.size, store.window, parameters.seed).compile(store.cubes.dtype)
    report("compiling", 1, 1)


@dataclass(frozen=True)
class _Task:
    """One shard to make, of `original` or `degraded`, and its path in the store."""

    ledger: Ledger
    cubes: str | Path
    manifest_sha256: str
    parameters: DegradeParameters
    array: str
    shard: int
    path: str


def _tasks(
    ledger: Ledger, store: CubeStore, parameters: DegradeParameters, job: dict[str, Any]
) -> dict[str, _Task]:
    """Return a task for every shard of the pair store; originals use the shards of the cube store."""
    place = located(store.storage.place)
    place = place.resolve() if isinstance(place, Path) else place  # workers have another working directory
    task = partial(_Task, ledger, place, job["cubes_sha256"], parameters)
    length = shard_length(store.size, store.cubes.dtype.itemsize)
    originals, degraded = -(-len(store) // store.cubes.length), -(-len(store) * parameters.variants // length)
    return {
        f"{array}-{shard}": task(array, shard, shard_path(array, shard, len(store.cubes.shape)))
        for array, shards in (("original", originals), ("degraded", degraded))
        for shard in range(shards)
    }


def _suited(store: CubeStore, crew: Workers, left: Sequence[_Task]) -> Workers:
    """Return threads, or one worker if starting threads would take longer than the remaining shards."""
    pairs = shard_length(store.size, store.cubes.dtype.itemsize) * len(left)
    pairs = min(pairs, len(store) * left[0].parameters.variants) if left else 0
    return crew.for_free_seconds(pairs * math.prod(store.size) * _SECONDS_A_VOXEL)


def _make(task: _Task) -> Facts:
    """Make one shard, in any process."""
    store = _opened(task.cubes, task.manifest_sha256)
    path = task.ledger.store / task.path
    if task.array == "original":
        data, known = whole_shard(store, task.shard), store.manifest[store.cubes.path(task.shard)]
        return {"sha256": task.ledger.write(path, data, sha256=known)}
    parts, facts = _degrade(task, store)
    return {"sha256": task.ledger.write(path, parts), **facts}


@lru_cache(maxsize=1)
def _opened(cubes: str | Path, manifest_sha256: str) -> CubeStore:
    """Open a cube store once per process; a DataError if it was replaced since the run started."""
    store = open_cubes(cubes)
    if store.manifest_sha256 != manifest_sha256:
        raise DataError(f"{cubes} was replaced during this run: run the same command again.")
    return store


def _degrade(task: _Task, store: CubeStore) -> tuple[list[bytes], dict[str, Any]]:
    """Read, degrade and encode one shard of degraded cubes."""
    length = shard_length(store.size, store.cubes.dtype.itemsize)
    parameters = task.parameters
    pairs = np.arange(task.shard * length, min((task.shard + 1) * length, len(store) * parameters.variants))
    degrader = Degrader(parameters.recipe, store.size, store.window, parameters.seed)
    flip, applied = np.zeros((2, len(pairs)), np.uint8)
    original, degraded = np.empty((2, _BLOCK, *store.size), store.cubes.dtype)
    streams, chunks = store.streams(), list[bytes]()
    for start in range(0, len(pairs), _BLOCK):
        block = slice(start, start + _BLOCK)
        variant, cube = np.divmod(pairs[block], len(store))
        ones, others = original[: len(cube)], degraded[: len(cube)]
        read_cubes(store.cubes, cube, ones)
        degrader(ones, streams[cube], store.table.number[cube], variant, others, flip[block], applied[block])
        chunks += map(encode_cube, others)
    return shard_parts(chunks, length), {"flip": flip.tolist(), "applied": applied.tolist()}


def _write_tables(
    ledger: Ledger,
    store: CubeStore,
    job: dict[str, Any],
    flip: NDArray[np.uint8],
    applied: NDArray[np.uint8],
) -> None:
    """Write everything of a pair store but its shards."""
    variant, cube = np.divmod(np.arange(len(flip)), len(store))
    pairs = PairTable(cube.astype(np.int32), variant.astype(np.int32), flip, applied)
    attributes = {**store.frame, "parameters": job, "cubes": store.attributes["parameters"]}
    tables, lengths = [store.table, pairs], {"original": store.cubes.length}
    scans = store.scans, store.images
    write_store(ledger.store, PAIRS, attributes, store.cubes.dtype, tables, *scans, lengths=lengths)
    contents = Contents(attributes, store.table, store.scans, pairs, store.images)
    finish(ledger.store, contents, store.cubes.dtype)


def _make_again(
    damage: Damage, store: CubeStore, parameters: DegradeParameters, workers: Workers, ledger: Ledger
) -> None:
    """Rebuild damaged files of a finished store: all degraded cubes if the columns of bits are damaged."""
    job, columns = _job(store, parameters), damage.remains.columns
    bits = [columns[name] for name in ("flip", "applied") if name in columns]
    lost = bool(damage.others) and len(bits) < 2
    tasks = [
        task
        for task in _tasks(ledger, store, parameters, job).values()
        if task.path in damage.files or (lost and task.array == "degraded")
    ]
    made = list[tuple[_Task, Facts]]()
    run_all(workers, "shards rebuilt", lambda task: (task, _make(task)), tasks, made.append)
    records = dict(made)
    if damage.others:
        _write_tables(ledger, store, job, *(_bits(records) if lost else bits))


def _bits(records: Mapping[_Task, Facts]) -> Iterator[NDArray[np.uint8]]:
    """Return the columns `flip` and `applied`, from the records of all shards of degraded cubes."""
    degraded = sorted((task.shard, facts) for task, facts in records.items() if task.array == "degraded")
    for name in ("flip", "applied"):
        yield np.array([bit for _, facts in degraded for bit in facts[name]], np.uint8)


def _job(store: CubeStore, parameters: DegradeParameters) -> dict[str, Any]:
    """Return the parameters as written to the store; the manifest's sha256 identifies the cube store."""
    return {
        "recipe": parameters.recipe.to_json(),
        "recipe_sha256": parameters.recipe.digest(),
        "variants": parameters.variants,
        "seed": parameters.seed,
        "cubes_sha256": store.manifest_sha256,
    }


@dataclass(frozen=True)
class DegradationPlan:
    """Estimated outcome of `degrade_cubes`: `--dry-run`.

    Attributes:
        cubes: number in the cube store.
        pairs: number to be made; 0 if the pair store is finished.
        store_bytes: of originals and degraded cubes, extrapolated from an encoded sample block.
        files: number of shards.
        seconds: with `workers` at work, extrapolated from the block.
        workers: number of shards at a time.
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
    """Degrade a sample block of cubes, discard it, and extrapolate to all; raises as `degrade_cubes`."""
    store, _, present = check_job(cubes, target, parameters, overwrite=overwrite)
    compile_kernels(store, parameters, report)
    chosen = np.linspace(0, len(store) - 1, min(_BLOCK, len(store))).astype(int)
    originals = np.empty((len(chosen), *store.size), store.cubes.dtype)
    degraded, bits = np.empty_like(originals), np.zeros(len(chosen), np.uint8)
    degrader = Degrader(parameters.recipe, store.size, store.window, parameters.seed)
    begun = perf_counter()
    read_cubes(store.cubes, chosen, originals)
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
        files=len(shards) - (-pairs // length) if pairs else 0,
        seconds=seconds * pairs / workers,
        workers=workers,
    )
