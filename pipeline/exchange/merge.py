"""Merges cube stores made separately, for example on several nodes or in several hospitals.

No voxel is decoded. A shard that fits as a whole into the new store is linked; otherwise the encoded cubes
are copied. All data are first compared with the manifest of their store.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.cubes.assemble import whole_shard, with_patients, write_tables
from genesis_toolkit.pipeline.cubes.parts import PART, together
from genesis_toolkit.pipeline.engine import Workers, cores
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.job import Facts, run_missing
from genesis_toolkit.pipeline.ledger import AnyPath, Ledger, hold, run_log
from genesis_toolkit.pipeline.progress import Bars, Progress, callback, shows
from genesis_toolkit.pipeline.store.open import CubeStore, begun_at, open_cubes
from genesis_toolkit.pipeline.store.schema import CUBES, CubeTable, ImageTable, ScanTable, Table
from genesis_toolkit.pipeline.store.shards import link_shard, shard_length, shard_parts, shard_path, spread
from genesis_toolkit.pipeline.store.storage import Folder, located
from genesis_toolkit.pipeline.store.write import check_target
from genesis_toolkit.pipeline.wording import difference, listed

_MOST_WORKERS = 8  # each holds a shard, and more are no faster on one disk
_Table = TypeVar("_Table", CubeTable, ScanTable, ImageTable)
_Tables = tuple[CubeTable, ScanTable, ImageTable | None]


@dataclass(frozen=True)
class MergeResult:
    """Outcome of `merge_stores`.

    Attributes:
        store: the finished store.
        linked: number of shards that were linked unchanged; 0 for a store that was already finished.
        done_before: the store was already finished, and nothing was done.
    """

    store: CubeStore
    linked: int
    done_before: bool


@shows(Bars)
def merge_stores(
    places: Sequence[AnyPath],
    target: AnyPath,
    *,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | bool = False,
) -> MergeResult:
    """Merge cube stores that were made separately with equal parameters.

    Their cubes and scans follow one another in the order of the stores. LUNA16 subsets that were cut
    separately and merged in order give the same bytes as one store cut at once; so do all parts of a source
    (`extract_cubes`, part), in any order, unless they have pseudonyms. Call it again to resume.

    Args:
        places: the cube stores: folders, archives or URLs.
        target: the store to make.
        workers: shards at a time; None means one per core, at most 8.
        overwrite: replace a finished store, and start again if other unfinished work exists.
        progress: True shows bars on stderr; a callback receives the progress.

    Raises:
        CallError: there are fewer than two stores, their parameters differ, two share a scan, or something is
            in the way.
        DataError: a store is damaged; the message names the shard.
    """
    report, target = callback(progress), Path(target)
    stores = _opened(list(map(located, places)), target)
    attributes = _attributes(stores)
    _check_scans(stores)
    cubes, scans, images = _tables(stores)
    order = np.arange(len(cubes))
    if _is_whole(stores, attributes):
        cubes, scans, images, order = _as_undivided(cubes, scans, images)
    inputs = [Path(store.storage.place) for store in stores if isinstance(store.storage, Folder)]
    if check_target(target, CUBES, overwrite=overwrite, inputs=inputs) is not None:
        return MergeResult(_made_of(target, attributes, (cubes, scans, images)), linked=0, done_before=True)
    crew = Workers(workers or min(cores(), _MOST_WORKERS), progress=report)
    with hold(target, {"merge": [store.manifest_sha256 for store in stores]}, overwrite=overwrite) as ledger:
        for what, tasks in (("shards checked", _checks(stores)), ("shards", _shards(ledger, stores, order))):
            run_missing(crew, ledger, what, tasks, lambda make: make())
        shards = list(ledger.records(tasks))
        ledger.clear_store(keep=("cubes",))  # removes tables of a run that was killed
        write_tables(ledger.store, attributes, stores[0].cubes.dtype, cubes, scans, images)
        hashes = {record["path"]: record["sha256"] for record in shards}
        # The start of the earliest store's run, so that scans that changed since are detected.
        started = datetime.fromtimestamp(min(map(begun_at, stores)) / 10**9, UTC)
        ledger.finish(hashes, run_log(started, crew.count))
    return MergeResult(open_cubes(target), sum(record["linked"] for record in shards), done_before=False)


def _opened(places: Sequence[str | Path], target: Path) -> list[CubeStore]:
    if len(places) < 2:
        raise CallError("Merging needs two or more stores, followed by the name of the new store.")
    for place in places:
        if isinstance(place, Path) and place.resolve() == target.resolve():
            raise CallError(f"{target} is one of the stores to merge: choose another name for the new one.")
    stores = [open_cubes(place) for place in places]
    first: dict[str, str] = {}
    for store in stores:
        other = first.setdefault(store.manifest_sha256, store.storage.place)
        if other is not store.storage.place:
            raise CallError(
                f"{other} and {store.storage.place} are the same store: give the store only once."
            )
    return stores


def _attributes(stores: Sequence[CubeStore]) -> dict[str, Any]:
    """Return the attributes of the new store; a CallError if those of the stores disagree."""
    first = stores[0]
    for other in stores[1:]:
        name, one, own = difference(_fixed(other), _fixed(first))
        if name:
            raise CallError(
                f"{other.storage.place} cannot be merged with {first.storage.place}: {name} "
                f"is {one} in the former and {own} in the latter. Their parameters must be "
                "equal: extract one of the stores again."
            )
    parameters = {}
    for name, value in first.attributes["parameters"].items():
        given = [store.attributes["parameters"].get(name) for store in stores]
        parameters[name] = _FREE[name](given) if name in _FREE else value
    for name in ("anonymized_with", PART):
        if parameters.get(name, "") is None:
            del parameters[name]
    return {**first.frame, "parameters": parameters}


def _fixed(store: CubeStore) -> dict[str, Any]:
    """Return the attributes that must be equal in all stores."""
    parameters = store.attributes["parameters"]
    own = {name: value for name, value in parameters.items() if name not in _FREE}
    own["--split-file"] = "split_file" in parameters
    return {**store.frame, "dtype": store.cubes.dtype.name, **own}


def _common(values: Sequence[str | None], otherwise: str) -> str | None:
    return values[0] if len(set(values)) == 1 else otherwise


def _subsets(values: Sequence[list[int] | None]) -> list[int] | None:
    """Return all subsets that were requested; None if no store has any."""
    together = {subset for value in values for subset in value or ()}
    return sorted(together) if together else None


# How parameters that may differ are combined: they select and name scans without affecting how these are cut.
# If one store has the scans' own names, so does the new one.
_FREE: dict[str, Callable[[Sequence[Any]], Any]] = {
    "layout": partial(_common, otherwise="mixed"),
    "subsets": _subsets,
    "split_file": partial(_common, otherwise="several files"),
    PART: lambda values: together(list(values)),
    "anonymized_with": lambda values: None if None in values else _common(values, "several keys"),
}


def _check_scans(stores: Sequence[CubeStore]) -> None:
    """Refuse a scan that gave cubes to two stores, even if one of them has a pseudonym for it."""
    held: dict[int, tuple[str, str]] = {}
    drawn: dict[int, str] = {}
    twice = []
    for store in stores:
        place, scans = store.storage.place, store.scans
        for row in np.flatnonzero(scans.cubes):
            here = (str(scans.identifier[row]), place)
            other = held.setdefault(int(scans.stream[row]), here)
            if other is not here:
                names = " or ".join(dict.fromkeys((other[0], here[0])))
                twice.append(f"{names} in {other[1]} and {place}")
        if store.attributes["parameters"].get("sampler") == "official":
            for subset in np.unique(scans.subset[scans.cubes > 0]).tolist():
                other_place = drawn.setdefault(subset, place)
                if other_place is not place:
                    raise CallError(
                        f"{other_place} and {place} both hold cubes of subset {subset}, but "
                        "the official draws continue through a whole subset: extract the "
                        "whole subset in one run."
                    )
    if twice:
        raise CallError(
            f"Stores must not share a scan: {listed(twice, between='; ')}. Leave the scan out "
            "of one of the stores; if different scans merely have the same name, rename one "
            "and extract it again."
        )


def _tables(stores: Sequence[CubeStore]) -> _Tables:
    """Concatenate the tables of all stores, with cubes referring to the new rows of their scans."""
    rows = [0, *accumulate(len(store.scans) for store in stores)]
    cubes = _joined([store.table for store in stores])
    scan = [store.table.scan + np.int32(first) for store, first in zip(stores, rows, strict=False)]
    images = [store.images for store in stores if store.images is not None]
    together = _joined(images) if len(images) == len(stores) else None
    scans = _joined(with_patients([store.scans for store in stores]))
    return replace(cubes, scan=np.concatenate(scan)), scans, together


def _is_whole(stores: Sequence[CubeStore], attributes: Mapping[str, Any]) -> bool:
    """Return whether the stores are all parts of one source, and have the paths that order its scans."""
    parts = [PART in store.attributes["parameters"] for store in stores]
    parameters = attributes["parameters"]
    return all(parts) and PART not in parameters and "anonymized_with" not in parameters


def _as_undivided(
    cubes: CubeTable, scans: ScanTable, images: ImageTable | None
) -> tuple[CubeTable, ScanTable, ImageTable | None, NDArray[np.int64]]:
    """Return the tables of one extraction of the whole source, and the cubes' order: int64 [cube].

    The scans of a folder are ordered by path, images by name.
    """
    paths = scans.path.tolist()
    keys = [path.split("/") if images is None else path.rpartition("/")[::-1] for path in paths]
    rows = np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
    place = np.empty(len(rows), np.int32)
    place[rows] = np.arange(len(rows), dtype=np.int32)
    cubes = replace(cubes, scan=place[cubes.scan])
    order = np.argsort(cubes.scan, kind="stable")
    return _rows_of(cubes, order), _rows_of(scans, rows), images and _rows_of(images, rows), order


def _rows_of(table: _Table, rows: NDArray[np.int64]) -> _Table:
    """Return these rows of a table."""
    return replace(
        table, **{name: column[rows] for name, column in vars(table).items() if column is not None}
    )


def _joined(tables: Sequence[_Table]) -> _Table:
    """Concatenate the rows of tables of one kind."""
    names = [name for name, values in vars(tables[0]).items() if values is not None]
    columns = {name: np.concatenate([getattr(table, name) for table in tables]) for name in names}
    return type(tables[0])(**columns)


def _made_of(target: Path, attributes: Mapping[str, Any], tables: _Tables) -> CubeStore:
    """Return the finished store; a CallError if it holds something else than would be made."""
    store = open_cubes(target)
    same = all(store.attributes[name] == value for name, value in attributes.items())
    pairs = zip((store.table, store.scans, store.images), tables, strict=True)
    if not same or not all(_same_rows(held, expected) for held, expected in pairs):
        way_out = "choose another name, or rebuild it with --overwrite."
        raise CallError(f"{target} exists and was not built from these stores: {way_out}")
    return store


def _same_rows(held: Table | None, expected: Table | None) -> bool:
    if held is None or expected is None:
        return held is expected
    return all(map(np.array_equal, vars(held).values(), vars(expected).values()))


def _checks(stores: Sequence[CubeStore]) -> dict[str, Callable[[], Facts]]:
    """Return a task for every shard of every store that compares it with the store's manifest."""
    return {
        f"checked-{number}-{shard}": partial(_check, store, shard)
        for number, store in enumerate(stores)
        for shard in range(-(-len(store) // store.cubes.length))
    }


def _check(store: CubeStore, shard: int) -> Facts:
    whole_shard(store, shard)
    return {}


def _shards(
    ledger: Ledger, stores: Sequence[CubeStore], order: NDArray[np.int64]
) -> dict[str, Callable[[], Facts]]:
    """Return a task for every shard of the new store; `order` numbers the cubes through all stores."""
    first = np.array([0, *accumulate(map(len, stores))])
    breaks = np.flatnonzero((np.diff(order) != 1) | np.isin(order[1:], first)) + 1
    pieces = []
    for run in np.split(order, breaks):
        number = int(np.searchsorted(first, run[0], "right")) - 1
        begin = int(run[0] - first[number])
        pieces.append((stores[number], range(begin, begin + len(run))))
    length = shard_length(stores[0].size, stores[0].cubes.dtype.itemsize)
    tasks = dict[str, Callable[[], Facts]]()
    for shard, parts in enumerate(spread([len(numbers) for _, numbers in pieces], length)):
        spans = [(pieces[part][0], pieces[part][1][slice(*span)]) for part, *span in parts]
        tasks[f"shard-{shard}"] = partial(_make_shard, ledger, shard, length, spans)
    return tasks


def _make_shard(ledger: Ledger, shard: int, length: int, spans: Sequence[tuple[CubeStore, range]]) -> Facts:
    """Make one shard from cubes of the stores: linked if it is already a shard."""
    store, cubes = spans[0]
    path = shard_path("cubes", shard, len(store.cubes.shape))
    source = store.cubes.path(cubes.start // length)
    as_it_is = (
        len(spans) == 1
        and store.cubes.length == length
        and cubes.start % length == 0
        and cubes.stop in (cubes.start + length, len(store))
        and isinstance(store.storage, Folder)
    )
    if as_it_is:
        link_shard(Path(store.storage.place, source), ledger.store / path)
        return {"path": path, "sha256": store.manifest[source], "linked": True}
    chunks = [one.cubes.encoded(cube) for one, numbers in spans for cube in numbers]
    digest = ledger.write(ledger.store / path, shard_parts(chunks, length))
    return {"path": path, "sha256": digest, "linked": False}
