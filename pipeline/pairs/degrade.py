"""Cube store -> pair store: `degrade` gives every cube its degraded twins, shard by shard.

Each task writes one whole shard. What is drawn for a pair depends on the seed, the scan, the cube and the
variant alone, so neither workers nor order nor an interruption show in the result.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.cluster import connect
from genesis_toolkit.pipeline.cubes.repair import Damage, find_damage, put_back
from genesis_toolkit.pipeline.degrade.compose import Degrader
from genesis_toolkit.pipeline.degrade.recipes import Recipe, check_size
from genesis_toolkit.pipeline.describe.facts import Contents
from genesis_toolkit.pipeline.describe.finish import finish
from genesis_toolkit.pipeline.engine import Report, cores, counting, run, silent
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import (
    Ledger,
    first_difference,
    hold,
    run_log,
    sha256_of,
)
from genesis_toolkit.pipeline.rng import checked_seed
from genesis_toolkit.pipeline.store.open import CubeStore, PairStore, open_cubes, open_store
from genesis_toolkit.pipeline.store.schema import PAIRS, PairTable
from genesis_toolkit.pipeline.store.shards import encode_cube, shard_length, shard_parts, shard_path
from genesis_toolkit.pipeline.store.storage import absolute, is_url
from genesis_toolkit.pipeline.store.write import check_target, write_pair_store

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
        done_before: the store was finished already, and nothing was made but what was damaged.
        repaired: how many damaged files of it were made again.
    """

    store: PairStore
    done_before: bool
    repaired: int = 0


def degrade(
    cubes: str | Path,
    target: Path,
    parameters: DegradeParameters,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    overwrite: bool = False,
    report: Report = silent,
) -> Degradation:
    """Degrade every cube of a store into a pair store of its own, which holds the originals too.

    Interrupted, it goes on when it is called again; finished, it makes damaged files again (`repair`), or
    does nothing.

    Args:
        cubes: the cube store: a folder, an archive or a URL.
        target: the pair store to make.
        parameters: how to degrade.
        workers: threads at work; None takes one a core.
        scheduler: of a dask.distributed cluster that does the work, as `cluster.connect` takes it.
        overwrite: replace a finished store, and begin again where other work was left.
        report: told as shards are finished.

    Raises:
        CallError: no cube store, something in the way, cubes too small for the recipe, other parameters.
        DataError: the cube store is damaged, or the finished pair store is and cannot be repaired.
    """
    started = datetime.now(UTC)
    workers = workers or cores()
    damage = None if overwrite else find_damage(target, PAIRS)
    repaired = _repair(damage, cubes, parameters, workers, report) if damage else 0
    store, job, present = check_job(cubes, target, parameters, overwrite=overwrite)
    if present:
        return Degradation(open_store(target, PairStore), done_before=True, repaired=repaired)
    with (
        connect(scheduler, None if is_url(cubes) else Path(cubes), target, report) as cluster,
        hold(target, job, overwrite=overwrite) as ledger,
    ):
        tasks = _tasks(ledger, store, parameters, job)
        done = ledger.names()
        left = [task for task in tasks if task.name not in done]
        if cluster is None:
            compile_kernels(store, parameters, report)
        finished = counting(report, "shards", len(tasks), len(tasks) - len(left))
        run(_make, left, finished=finished, workers=workers, pool="threads", cluster=cluster)
        _finish(ledger, store, parameters, job, run_log(started, cluster.workers if cluster else workers))
    return Degradation(open_store(target, PairStore), done_before=False)


def check_job(
    cubes: str | Path, target: Path, parameters: DegradeParameters, *, overwrite: bool
) -> tuple[CubeStore, dict[str, Any], bool]:
    """Find out what is to be done, doing none of it.

    Returns:
        The cube store, the parameters as they stand in the pair store, and whether that is there already.

    Raises:
        CallError: as `degrade`.
    """
    store = open_cubes(cubes)
    check_size(parameters.recipe, store.size)
    job = _job(store, parameters)
    present = check_target(target, PAIRS, overwrite=overwrite, inputs=[cubes])
    difference = first_difference(present["parameters"], job) if present is not None else None
    if difference:
        raise CallError(
            f"{target} was made with {difference}: choose another name, or give --overwrite to make it again."
        )
    return store, job, present is not None


def compile_kernels(store: CubeStore, parameters: DegradeParameters, report: Report) -> None:
    """Let the kernels be compiled before the first shard waits for them: some 20 s once, then under 1 s."""
    report("compiling", 0, 1)
    degrader = Degrader(parameters.recipe, store.size, store.window, parameters.seed)
    cube, bits = np.zeros((1, *store.size), store.cubes.dtype), np.zeros(1, np.uint8)
    degrader(cube, np.zeros(1, np.uint64), np.zeros(1, np.int32), 0, cube.copy(), bits, bits.copy())
    report("compiling", 1, 1)


@dataclass(frozen=True)
class _Task:
    """One shard to make, of `original` or `degraded`, which have so many axes."""

    ledger: Ledger
    cubes: str | Path
    manifest_sha256: str
    parameters: DegradeParameters
    axes: int
    array: Literal["original", "degraded"]
    shard: int

    @property
    def name(self) -> str:
        """Of its record in the ledger."""
        return f"{self.array}-{self.shard}"

    @property
    def path(self) -> str:
        """Of the shard in the store."""
        return shard_path(PurePosixPath(self.array), self.shard, self.axes).as_posix()


def _tasks(
    ledger: Ledger, store: CubeStore, parameters: DegradeParameters, job: dict[str, Any]
) -> list[_Task]:
    """A task for every shard of the pair store."""
    place, axes = absolute(store.storage.place), len(store.cubes.shape)
    task = partial(_Task, ledger, place, job["cubes_sha256"], parameters, axes)
    counts = _shards(store, parameters.variants)
    return [task(array, shard) for array, count in counts.items() for shard in range(count)]


def _shards(store: CubeStore, variants: int) -> dict[Literal["original", "degraded"], int]:
    """How many shards each array has; the originals keep those of the cube store."""
    length = shard_length(store.size, store.cubes.dtype.itemsize)
    return {"original": -(-len(store) // store.cubes.length), "degraded": -(-len(store) * variants // length)}


def _make(task: _Task) -> None:
    """Make one shard, in whatever process this runs."""
    store = _opened(task.cubes, task.manifest_sha256)
    make = _copy if task.array == "original" else _degrade
    parts, facts = make(task, store)
    digest = task.ledger.write(task.ledger.store / task.path, *parts)
    task.ledger.record(task.name, {"sha256": digest, **facts})


@lru_cache(maxsize=1)
def _opened(cubes: str | Path, manifest_sha256: str) -> CubeStore:
    """A cube store, opened once in every process.

    Raises:
        DataError: it is not the store that the run began with.
    """
    store = open_cubes(cubes)
    if store.manifest_sha256 != manifest_sha256:
        raise DataError(f"{cubes} has been replaced since this run began: give the same command again.")
    return store


def _copy(task: _Task, store: CubeStore) -> tuple[list[bytes], dict[str, Any]]:
    """One shard of originals as it is, once its sha256 is known to be right."""
    path = store.cubes.path(task.shard)
    try:
        data = store.storage.read(path)
    except OSError as error:
        raise DataError(f"The shard {store.storage.place}/{path} cannot be read: {error.strerror}.") from None
    if store.manifest[path] != sha256_of(data):
        raise DataError(
            f"The shard {store.storage.place}/{path} is damaged: its sha256 is not the one in the manifest."
        )
    return [data], {}


def _degrade(task: _Task, store: CubeStore) -> tuple[list[bytes], dict[str, Any]]:
    """Read, degrade and encode one shard of degraded twins."""
    length = shard_length(store.size, store.cubes.dtype.itemsize)
    parameters = task.parameters
    pairs = np.arange(task.shard * length, min((task.shard + 1) * length, len(store) * parameters.variants))
    degrader = Degrader(parameters.recipe, store.size, store.window, parameters.seed)
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
    return shard_parts(chunks, length), {"flip": flip.tolist(), "applied": applied.tolist()}


def _finish(
    ledger: Ledger,
    store: CubeStore,
    parameters: DegradeParameters,
    job: dict[str, Any],
    log: dict[str, Any],
) -> None:
    """Tables, manifest, and the store's own name."""
    hashes, flip, applied = {}, list[int](), list[int]()
    for array, count in _shards(store, parameters.variants).items():
        for shard in range(count):
            record = ledger.recorded(f"{array}-{shard}")
            if record is None:
                raise RuntimeError(f"shard {shard} of {array} was never finished")
            path = shard_path(PurePosixPath(array), shard, len(store.cubes.shape))
            hashes[path.as_posix()] = record["sha256"]
            flip += record.get("flip", [])
            applied += record.get("applied", [])
    ledger.clear_store(keep=("original", "degraded"))  # the tables of a run that was killed
    _write_tables(ledger, store, job, np.array(flip, np.uint8), np.array(applied, np.uint8))
    ledger.finish(hashes, log)


def _write_tables(
    ledger: Ledger,
    store: CubeStore,
    job: dict[str, Any],
    flip: NDArray[np.uint8],
    applied: NDArray[np.uint8],
) -> None:
    """Everything of a pair store but its shards."""
    variant, cube = np.divmod(np.arange(len(flip)), len(store))
    pairs = PairTable(cube.astype(np.int32), variant.astype(np.int32), flip, applied)
    kept = {name: store.attributes[name] for name in ("window", "unit", "size")}
    attributes = {**kept, "parameters": job, "cubes": store.attributes["parameters"]}
    write_pair_store(ledger.store, attributes, store.cubes, store.table, pairs, store.scans, store.images)
    contents = Contents(attributes, store.table, store.scans, pairs, store.images)
    finish(ledger.store, contents, store.cubes.dtype)


def _repair(
    damage: Damage, cubes: str | Path, parameters: DegradeParameters, workers: int, report: Report
) -> int:
    """Make the damaged files of a finished store again; how many, none where it was made by another call.

    Originals come from the cube store as they are, twins are degraded again, and so are all of them where it
    is their bits that are damaged.

    Raises:
        DataError: a file cannot be made as it was; the store is left as it is.
    """
    store = open_cubes(cubes)
    job, said = _job(store, parameters), damage.remains.attributes
    if said is not None and said.get("parameters") != job:
        return 0  # `check_job` says what differs
    columns = damage.remains.columns
    bits = [columns[name] for name in ("flip", "applied") if name in columns]
    lost = bool(damage.others) and len(bits) < 2
    with hold(damage.target, job, overwrite=False) as ledger:
        ledger.clear_store()
        tasks = [
            task
            for task in _tasks(ledger, store, parameters, job)
            if task.path in damage.files or (lost and task.array == "degraded")
        ]
        try:
            finished = counting(report, "shards made again", len(tasks), 0)
            run(_make, tasks, finished=finished, workers=workers, pool="threads")
            if damage.others:
                flip, applied = _bits(ledger, tasks) if lost else bits
                _write_tables(ledger, store, job, flip, applied)
            put_back(damage, ledger)
        finally:
            ledger.abandon()
    return len(damage.files) + damage.log


def _bits(ledger: Ledger, tasks: Sequence[_Task]) -> list[NDArray[np.uint8]]:
    """The columns `flip` and `applied`, from the records of all shards of twins in order."""
    records = [ledger.recorded(task.name) or {} for task in tasks if task.array == "degraded"]
    columns = [[bit for record in records for bit in record[name]] for name in ("flip", "applied")]
    return [np.array(column, np.uint8) for column in columns]


def _job(store: CubeStore, parameters: DegradeParameters) -> dict[str, Any]:
    """The parameters as they stand in the store; the cube store goes in by its manifest's sha256."""
    return {
        "recipe": parameters.recipe.to_json(),
        "recipe_sha256": parameters.recipe.digest(),
        "variants": parameters.variants,
        "seed": parameters.seed,
        "cubes_sha256": store.manifest_sha256,
    }
