"""Cube store -> pair store: `degrade` gives every cube its degraded twins, shard by shard.

Each task writes one whole shard. What is drawn for a pair depends on the seed, the scan, the cube and the
variant alone, so neither workers nor order nor an interruption show in the result.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.degrade.compose import Degrader
from pipeline.degrade.recipes import Recipe, check_size
from pipeline.degrade.seeds import checked_seed
from pipeline.engine import Report, cores, counting, run, silent
from pipeline.errors import CallError, DataError
from pipeline.ledger import (
    MANIFEST,
    Ledger,
    first_difference,
    hold,
    read_manifest,
    run_log,
    sha256_of,
    sweep,
    write_whole,
)
from pipeline.shards import encode_cube, shard_length, shard_parts, shard_path
from pipeline.stores import (
    PAIRS,
    CubeStore,
    PairStore,
    check_target,
    open_cubes,
    open_store,
    write_pair_store,
)
from pipeline.tables import PairTable

_MOST_VARIANTS = 10_000
_BLOCK = 32  # cubes degraded at a time: 16 MiB of voxels in a worker


@dataclass(frozen=True)
class DegradeParameters:
    """How cubes are degraded (METHOD.md section 3).

    Attributes:
        recipe: which degradations, how often, how large.
        variants: degraded twins of every cube.
        seed: of all that is drawn.

    Raises:
        CallError: a value out of range.
    """

    recipe: Recipe = field(default_factory=Recipe)
    variants: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.variants <= _MOST_VARIANTS:
            raise CallError(
                f"--variants {self.variants}: a number from 1 to {_MOST_VARIANTS} is wanted; without a limit "
                "are those that genesis-train pretrain makes on the fly from the cube store."
            )
        checked_seed(self.seed)


@dataclass(frozen=True)
class Degradation:
    """What came of `degrade`.

    Attributes:
        store: the finished store.
        done_before: the store was finished already, and nothing was done.
    """

    store: PairStore
    done_before: bool


def degrade(
    cubes: Path,
    target: Path,
    parameters: DegradeParameters,
    *,
    workers: int | None = None,
    overwrite: bool = False,
    report: Report = silent,
) -> Degradation:
    """Degrade every cube of a store into a pair store of its own, which holds the originals too.

    Interrupted, it goes on when it is called again; finished, it does nothing.

    Args:
        cubes: the cube store.
        target: the pair store to make.
        parameters: how to degrade.
        workers: threads at work; None takes one a core.
        overwrite: replace a finished store, and begin again where other work was left.
        report: told as shards are finished.

    Raises:
        CallError: no cube store, something in the way, cubes too small for the recipe, other parameters.
        DataError: the cube store is damaged.
    """
    store = open_cubes(cubes)
    check_size(parameters.recipe, store.size)
    job = _job(store, parameters)
    present = check_target(target, PAIRS, overwrite=overwrite, inputs=[cubes])
    if present is not None:
        difference = first_difference(present["parameters"], job)
        if difference:
            raise CallError(
                f"{target} was made with {difference}: choose another name, or give --overwrite to make it "
                "again."
            )
        sweep(target)
        return Degradation(_open_pairs(target), done_before=True)
    started = datetime.now(UTC)
    workers = workers or cores()
    with hold(target, job, overwrite=overwrite) as ledger:
        degrader = Degrader(parameters.recipe, store.size, store.window, parameters.seed)
        _compile(store, degrader, report)
        _write_shards(ledger, store, degrader, parameters.variants, workers, report)
        _finish(ledger, store, parameters, job, run_log(started, workers))
    return Degradation(_open_pairs(target), done_before=False)


def _compile(store: CubeStore, degrader: Degrader, report: Report) -> None:
    """Let the kernels be compiled before the first shard waits for them: some 20 s once, then under 1 s."""
    report("compiling", 0, 1)
    cube, bits = np.zeros((1, *store.size), store.cubes.dtype), np.zeros(1, np.uint8)
    degrader(cube, np.zeros(1, np.uint64), np.zeros(1, np.int32), 0, cube.copy(), bits, bits.copy())
    report("compiling", 1, 1)


def _write_shards(
    ledger: Ledger, store: CubeStore, degrader: Degrader, variants: int, workers: int, report: Report
) -> None:
    """Run a task for every shard that an earlier run has not finished."""
    manifest = read_manifest(store.path)
    length = shard_length(store.size, store.cubes.dtype.itemsize)
    tasks: dict[str, Callable[[], None]] = {}
    for shard in range(-(-len(store) // store.cubes.length)):
        name = f"original-{shard}"
        tasks[name] = partial(_copy, ledger, name, store, shard, manifest)
    for shard in range(-(-len(store) * variants // length)):
        name = f"degraded-{shard}"
        tasks[name] = partial(_degrade_shard, ledger, name, store, degrader, variants, shard, length)
    left = [task for name, task in tasks.items() if ledger.recorded(name) is None]
    finished = counting(report, "shards", len(tasks), len(tasks) - len(left))
    run(_call, left, workers=workers, pool="threads", finished=finished)


def _call(task: Callable[[], None]) -> None:
    task()


def _copy(ledger: Ledger, name: str, store: CubeStore, shard: int, manifest: dict[str, str]) -> None:
    """Take one shard of originals over as it is, once its sha256 is known to be right."""
    source = shard_path(store.path / "cubes", shard, len(store.cubes.shape))
    path = source.relative_to(store.path).as_posix()
    try:
        data = source.read_bytes()
    except OSError as error:
        raise DataError(f"The shard {source} cannot be read: {error.strerror}.") from None
    digest = sha256_of(data)
    if manifest.get(path) != digest:
        raise DataError(f"The shard {source} is damaged: its sha256 is not the one in the manifest.")
    write_whole(shard_path(ledger.store / "original", shard, len(store.cubes.shape)), data)
    ledger.record(name, {"sha256": digest})


def _degrade_shard(
    ledger: Ledger, name: str, store: CubeStore, degrader: Degrader, variants: int, shard: int, length: int
) -> None:
    """Read, degrade, encode and write one shard of degraded twins."""
    pairs = np.arange(shard * length, min((shard + 1) * length, len(store) * variants))
    flip = np.zeros(len(pairs), dtype=np.uint8)
    applied = np.zeros(len(pairs), dtype=np.uint8)
    originals = np.empty((_BLOCK, *store.size), dtype=store.cubes.dtype)
    degraded = np.empty_like(originals)
    streams = store.streams()
    chunks = []
    for start in range(0, len(pairs), _BLOCK):
        block = slice(start, start + _BLOCK)
        variant, cube = np.divmod(pairs[block], len(store))
        count = len(cube)
        store.cubes.read_many(cube, originals[:count])
        degrader(
            originals[:count],
            streams[cube],
            store.table.number[cube],
            variant,
            degraded[:count],
            flip[block],
            applied[block],
        )
        chunks += [encode_cube(twin) for twin in degraded[:count]]
    path = shard_path(ledger.store / "degraded", shard, degraded.ndim)
    digest = write_whole(path, *shard_parts(chunks, length))
    ledger.record(name, {"sha256": digest, "flip": flip.tolist(), "applied": applied.tolist()})


def _finish(
    ledger: Ledger,
    store: CubeStore,
    parameters: DegradeParameters,
    job: dict[str, Any],
    log: dict[str, Any],
) -> None:
    """Tables, manifest, and the store's own name."""
    hashes, flip, applied = {}, [], []
    length = shard_length(store.size, store.cubes.dtype.itemsize)
    shards = {
        "original": -(-len(store) // store.cubes.length),
        "degraded": -(-len(store) * parameters.variants // length),
    }
    for array, count in shards.items():
        for shard in range(count):
            record = ledger.recorded(f"{array}-{shard}")
            if record is None:
                raise RuntimeError(f"shard {shard} of {array} was never finished")
            path = shard_path(Path(array), shard, len(store.cubes.shape))
            hashes[path.as_posix()] = record["sha256"]
            flip += record.get("flip", [])
            applied += record.get("applied", [])
    variant, cube = np.divmod(np.arange(len(flip)), len(store))
    pairs = PairTable(
        cube.astype(np.int32), variant.astype(np.int32), np.array(flip, np.uint8), np.array(applied, np.uint8)
    )
    kept = {name: store.attributes[name] for name in ("window", "unit", "size")}
    attributes = {**kept, "parameters": job, "cubes": store.attributes["parameters"]}
    _clear_but_shards(ledger.store)
    write_pair_store(ledger.store, attributes, store.cubes, store.table, pairs, store.scans)
    ledger.finish(hashes, log)


def _clear_but_shards(folder: Path) -> None:
    """Remove the tables and metadata that a run began before it was killed."""
    for part in folder.iterdir():
        if part.name in ("original", "degraded"):
            (part / "zarr.json").unlink(missing_ok=True)
        elif part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink()


def _job(store: CubeStore, parameters: DegradeParameters) -> dict[str, Any]:
    """The parameters as they stand in the store; the cube store goes in by its manifest's sha256."""
    return {
        "recipe": parameters.recipe.to_json(),
        "recipe_sha256": parameters.recipe.digest(),
        "variants": parameters.variants,
        "seed": parameters.seed,
        "cubes_sha256": sha256_of((store.path / MANIFEST).read_bytes()),
    }


def _open_pairs(path: Path) -> PairStore:
    store = open_store(path)
    if not isinstance(store, PairStore):
        raise CallError(f"{path} is a cube store; a pair store is wanted, as genesis-prep degrade writes it.")
    return store
