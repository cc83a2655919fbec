"""Assembles staged scans into the shards, tables and metadata of a cube store, in scan order.

Assembling is mere copying, so after an interruption one process repeats it at the speed of the disk. When a
store is extended, its full shards are linked, and new cubes follow its last one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.cubes.parameters import Parameters
from genesis_toolkit.pipeline.cubes.pseudonyms import WITHHELD, Key
from genesis_toolkit.pipeline.cubes.update import Update
from genesis_toolkit.pipeline.describe.croissant import finish
from genesis_toolkit.pipeline.describe.facts import Contents
from genesis_toolkit.pipeline.engine import counting
from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.job import Facts
from genesis_toolkit.pipeline.ledger import Ledger, sha256_of, write_whole
from genesis_toolkit.pipeline.progress import Progress
from genesis_toolkit.pipeline.rng import stream_key
from genesis_toolkit.pipeline.scans.gather import SAME
from genesis_toolkit.pipeline.store.open import CubeStore
from genesis_toolkit.pipeline.store.schema import CUBES, CubeTable, ImageTable, ScanTable, columns_of
from genesis_toolkit.pipeline.store.shards import (
    link_shard,
    not_read,
    shard_length,
    shard_parts,
    shard_path,
)
from genesis_toolkit.pipeline.store.write import write_store

#: A table with one row per scan.
_Table = TypeVar("_Table", ScanTable, ImageTable)


def assemble(
    ledger: Ledger,
    job: dict[str, Any],
    parameters: Parameters,
    names: Sequence[str],
    changes: Mapping[str, Facts],
    update: Update | None,
    key: Key | None,
    report: Progress,
) -> dict[str, str]:
    """Write everything of a cube store but its manifest and its name; return the sha256 of its shards.

    Args:
        ledger: holds the record and the staged cubes of every scan.
        job: the parameters, as written to the store.
        parameters: parameters of the extraction.
        names: names of the records, in the order of the scans.
        changes: overriding entries of records, from `changes_of`.
        update: the store to be extended by these scans; None makes a new one.
        key: key of the pseudonyms in the store; None keeps names.
        report: called as shards are finished.
    """
    ledger.clear_store()  # repeating the copy is cheaper than checking what a killed run left
    records = list(compact(ledger, names, changes, key))
    cubes, (scans, images) = _cube_table(records, update), scan_tables(records, update)
    attributes = attributes_of(parameters, job)
    write_tables(ledger.store, attributes, parameters.dtype, cubes, scans, images)
    length, hashes = shard_length(parameters.size, parameters.dtype.itemsize), dict[str, str]()
    chunks = staged_chunks(ledger, names, records)
    if update:
        hashes, store = _link_shards(ledger, update.store, length), update.store
        chunks = chain(map(store.cubes.encoded, range(len(hashes) * length, len(store))), chunks)
    array = ("cubes", parameters.size, parameters.dtype.itemsize, len(cubes))
    return hashes | write_shards(ledger, *array, chunks, report, len(hashes))


def write_shards(
    ledger: Ledger,
    name: str,
    size: Sequence[int],
    itemsize: int,
    cubes: int,
    chunks: Iterator[bytes],
    report: Progress,
    first: int = 0,
) -> dict[str, str]:
    """Write the encoded cubes of an array to its shards; return each sha256 by path in the store.

    Args:
        ledger: ledger of the store.
        name: name of the array.
        size, itemsize: edges of a cube in voxels, and bytes per voxel.
        cubes: total number.
        chunks: those that are not in the first shards.
        report: called as shards are finished.
        first: number of shards that already exist.
    """
    length, hashes = shard_length(size, itemsize), dict[str, str]()
    shards = range(first, -(-cubes // length))
    count = counting(report, "shards" if name == "cubes" else f"shards of {name}", shards.stop, first)
    for shard in shards:
        path = shard_path(name, shard, 1 + len(size))
        hashes[path] = write_whole(ledger.store / path, shard_parts(list(islice(chunks, length)), length))
        count(shard)
    return hashes


def attributes_of(parameters: Any, job: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a store's attributes, given the extraction parameters and their form in the store."""
    own = {"window": list(parameters.store_window), "unit": parameters.unit, "size": list(parameters.size)}
    return own | more | {"parameters": job}


def compact(
    ledger: Ledger, names: Sequence[str], changes: Mapping[str, Facts], key: Key | None = None
) -> Iterator[Facts]:
    """Convert lists in records to arrays, as stored: records of 100,000 scans then take 150 MB, not 700."""
    for name, record in zip(names, ledger.records(names), strict=True):
        record["stream"] = stream_key(record["identifier"])  # key of the true name, so no draw changes
        record |= changes.get(name, {})
        if key:
            record |= _pseudonymous(record, key)
        corners = np.array(record["corners"], dtype=np.int32).reshape(-1, 3)
        tissue, chunks = np.array(record["tissue"], np.float64), np.array(record["chunks"], np.int64)
        yield record | {"corners": corners, "tissue": tissue, "chunks": chunks, "cubes": len(chunks)}


def staged_chunks(
    ledger: Ledger, names: Sequence[str], records: Sequence[Facts], masks: bool = False
) -> Iterator[bytes]:
    """Yield the encoded cubes of scans, or their masks, which are staged after the cubes of their scan."""
    for name, record in zip(names, records, strict=True):
        if not len(record["chunks"]):
            continue
        data = ledger.staged(name).read_bytes()
        sizes, end = (record["mask_chunks"], int(sum(record["chunks"]))) if masks else (record["chunks"], 0)
        for size in sizes:
            yield data[end : (end := end + size)]


def numbered(records: Sequence[Facts]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return for every cube the row of its scan and its number in it: int32 [cube] each."""
    counts = [record["cubes"] for record in records]
    rows = np.repeat(np.arange(len(records), dtype=np.int32), counts)
    return rows, np.concatenate([np.arange(cubes, dtype=np.int32) for cubes in counts])


def write_tables(
    folder: Path,
    attributes: dict[str, Any],
    dtype: np.dtype[Any],
    cubes: CubeTable,
    scans: ScanTable,
    images: ImageTable | None = None,
) -> None:
    """Write everything of a cube store but its shards and its manifest, through `write_store`."""
    write_store(folder, CUBES, attributes, dtype, [cubes], scans, images)
    finish(folder, Contents(attributes, cubes, scans, None, images), dtype)


def whole_shard(store: CubeStore, shard: int) -> bytes:
    """Return the bytes of a shard of cubes after verifying its sha256.

    Raises:
        DataError: it cannot be read, or is damaged.
    """
    path = store.cubes.path(shard)
    place = f"{store.storage.place}/{path}"
    try:
        data = store.storage.read(path)
    except OSError as error:
        raise not_read(place, error) from None
    if store.manifest.get(path) != sha256_of(data):
        raise DataError(
            f"The shard {place} is damaged: the sha256 differs from the one in the manifest. "
            "Run genesis-prep verify on its store for details."
        )
    return data


def _pseudonymous(record: Facts, key: Key) -> Facts:
    """Return a record with pseudonyms for everything that identifies its scan."""
    reason = record["reason"]
    harmless = not reason or (record["status"] == "skipped" and any(record["shape"]))  # numbers alone
    twin = SAME + key.name(reason.removeprefix(SAME)) if reason.startswith(SAME) else ""
    of_images = {"patient": key.patient(record["patient"])} if "patient" in record else {}
    return of_images | {
        "whose": key.number(record.get("whose", 0)),
        "identifier": key.name(record["identifier"]),
        "path": key.name(record["path"]),
        "bytes": 0,  # sizes of public scans are known, and differ between compressed ones
        "sha256": key.digest(record["sha256"]),
        "reason": twin if twin else reason if harmless else WITHHELD,
    }


def _link_shards(ledger: Ledger, store: CubeStore, length: int) -> dict[str, str]:
    """Reuse the full shards of a store, by links if the file system has them; return their sha256."""
    paths = [store.cubes.path(shard) for shard in range(len(store) // length)]
    for path in paths:
        link_shard(store.path / path, ledger.store / path)
    return {path: store.manifest[path] for path in paths}


def _cube_table(records: Sequence[Facts], update: Update | None) -> CubeTable:
    rows, number = numbered(records)
    new = {
        "scan": np.array(update.rows, np.int32)[rows] if update else rows,
        "number": number,
        "corner": np.concatenate([record["corners"] for record in records]),
        "tissue": np.concatenate([record["tissue"] for record in records]),
    }
    if update:
        old = update.store.table
        new = {name: np.concatenate([getattr(old, name), values]) for name, values in new.items()}
    return CubeTable(**new)


def scan_tables(
    records: Sequence[Facts], update: Update | None = None
) -> tuple[ScanTable, ImageTable | None]:
    """Return the table of scans and, for X-ray images, of images: a store's rows, then one per record."""
    scans = _dealt(_table_of(ScanTable, records), records)
    images = _table_of(ImageTable, records) if "patient" in records[0] else None
    if update:
        before = update.store.scans
        scans = _added(update, *with_patients([replace(before, patient=update.patient), scans]))
        if images is not None and update.store.images is not None:
            images = _added(update, update.store.images, images)
    return scans, images


def with_patients(tables: Sequence[ScanTable]) -> list[ScanTable]:
    """Give all tables a patient column if one has it; elsewhere each scan counts as a patient of its own."""
    if all(table.patient is None for table in tables):
        return list(tables)
    return [table if table.patient is not None else replace(table, patient=table.stream) for table in tables]


def _table_of(kind: type[_Table], records: Sequence[Facts]) -> _Table:
    dtypes = {
        name: object if column.dtype == "string" else column.dtype
        for name, column in columns_of(kind).items()
        if not column.optional
    }
    return kind(**{name: np.array([one[name] for one in records], dtype) for name, dtype in dtypes.items()})


def _dealt(scans: ScanTable, records: Sequence[Facts]) -> ScanTable:
    """Return the table with the columns that decide the split, as far as they are known."""
    whose = np.array([record.get("whose", 0) for record in records], np.uint64)
    parts = [record.get("part") for record in records]
    patient = np.where(whose > 0, whose, scans.stream) if whose.any() else None
    part = None if None in parts else np.array(parts, np.uint8)
    mapped = "window" in records[0]
    windows = np.array([record["window"] for record in records], np.float64) if mapped else None
    mono1 = "inverted" in records[0]
    inverted = np.array([record["inverted"] for record in records], np.uint8) if mono1 else None
    return replace(scans, patient=patient, part=part, window=windows, inverted=inverted)


def _added(update: Update, before: _Table, new: _Table) -> _Table:
    """Append new rows to a table of scans, and replace those of scans that were cut again."""
    again, columns = len(update.again), {}
    for name, values in vars(new).items():
        if values is None:
            continue
        columns[name] = np.concatenate([getattr(before, name).astype(values.dtype), values[again:]])
        columns[name][list(update.again)] = values[:again]
    return type(new)(**columns)
