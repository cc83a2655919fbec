"""Staged scans -> the shards, tables and metadata of a cube store, in scan order.

Packing is copying, so it is done anew after an interruption, by one process, at the speed of the disk. Where
a store grows, its full shards are linked, and what is new comes behind its last cube.
"""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import accumulate, count, islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.cubes.parameters import Parameters
from genesis_toolkit.pipeline.cubes.pseudonyms import WITHHELD, Key
from genesis_toolkit.pipeline.cubes.update import Growth
from genesis_toolkit.pipeline.describe.facts import Contents
from genesis_toolkit.pipeline.describe.finish import finish
from genesis_toolkit.pipeline.engine import Report
from genesis_toolkit.pipeline.ledger import Ledger, read_manifest, write_whole
from genesis_toolkit.pipeline.rng import stream_key
from genesis_toolkit.pipeline.store.open import CubeStore
from genesis_toolkit.pipeline.store.schema import CubeTable, ImageTable, ScanTable
from genesis_toolkit.pipeline.store.shards import link_shard, shard_length, shard_parts, shard_path
from genesis_toolkit.pipeline.store.write import write_cube_store

#: A table with one row a scan.
_Table = TypeVar("_Table", ScanTable, ImageTable)


def pack(
    ledger: Ledger,
    job: dict[str, Any],
    parameters: Parameters,
    names: Sequence[str],
    growth: Growth | None,
    key: Key | None,
    report: Report,
) -> dict[str, str]:
    """Staged scans -> everything of a cube store but its manifest and its name.

    Args:
        ledger: holds the record and the staged cubes of every scan.
        job: the parameters, as they stand in the store.
        parameters: what was cut.
        names: of the records, in the order of the scans.
        growth: the store that these scans are added to; None makes one of them alone.
        key: what stands in the store tells whose a scan is only to who has it; None: to anyone.
        report: told as shards are finished.

    Returns:
        The sha256 of every shard by its path in the store.
    """
    size = parameters.size
    ledger.clear_store()  # packing is copying: cheaper to do again than to trust what a kill left
    records = [compact(ledger.recorded(name), key) for name in names]
    cubes, scans, images = _cube_table(records, growth), scan_table(records, growth), None
    if "patient" in records[0]:
        images = image_table(records, growth)
    attributes = attributes_of(parameters, job)
    write_cube_store(ledger.store, attributes, parameters.dtype, cubes, scans, images)
    finish(ledger.store, Contents(attributes, cubes, scans, None, images), parameters.dtype)
    length = shard_length(size, parameters.dtype.itemsize)
    hashes = _link_shards(ledger, growth.store, length) if growth else {}
    shards, first = -(-len(cubes) // length), len(hashes)
    report("shards", first, shards)
    chunks = _chunks(ledger, names, records, growth, first * length)
    for shard in count(first):
        parts = list(islice(chunks, length))
        if not parts:
            break
        path = shard_path(ledger.store / "cubes", shard, 1 + len(size))
        digest = write_whole(path, *shard_parts(parts, length))
        hashes[path.relative_to(ledger.store).as_posix()] = digest
        report("shards", shard + 1, shards)
    return hashes


def attributes_of(parameters: Parameters, job: dict[str, Any]) -> dict[str, Any]:
    """What a cube store says of itself, given what was cut and the parameters as they stand in the store."""
    window = [parameters.window.low, parameters.window.high]
    return {"window": window, "unit": parameters.unit, "size": list(parameters.size), "parameters": job}


def compact(record: dict[str, Any] | None, key: Key | None) -> dict[str, Any]:
    """A record as the store has it, its lists as arrays: those of 100,000 scans take 150 MB, as lists 700."""
    if record is None:
        raise RuntimeError("a scan was never finished")
    record["stream"] = stream_key(record["identifier"])  # of the true one, so that no draw changes
    if key:
        record |= _pseudonymous(record, key)
    corners = np.array(record["corners"], dtype=np.int32).reshape(-1, 3)
    tissue, chunks = np.array(record["tissue"], np.float64), np.array(record["chunks"], np.int64)
    return record | {"corners": corners, "tissue": tissue, "chunks": chunks}


def _pseudonymous(record: dict[str, Any], key: Key) -> dict[str, Any]:
    """What stands in the place of all that tells whose a scan is."""
    told = not record["reason"] or (record["status"] == "skipped" and any(record["shape"]))  # numbers alone
    of_images = {"patient": key.patient(record["patient"])} if "patient" in record else {}
    return of_images | {
        "identifier": key.name(record["identifier"]),
        "path": key.name(record["path"]),
        "bytes": 0,  # those of a public scan are known, and no two compressed ones have as many
        "sha256": key.digest(record["sha256"]),
        "reason": record["reason"] if told else WITHHELD,
    }


def _link_shards(ledger: Ledger, store: CubeStore, length: int) -> dict[str, str]:
    """Take the full shards of a store over, without copying where the file system has links; their sha256."""
    manifest, hashes = read_manifest(store.path), {}
    for shard in range(len(store) // length):
        source = shard_path(store.path / "cubes", shard, len(store.cubes.shape))
        name = source.relative_to(store.path).as_posix()
        link_shard(source, ledger.store / name)
        hashes[name] = manifest[name]
    return hashes


def _chunks(
    ledger: Ledger,
    names: Sequence[str],
    records: Sequence[dict[str, Any]],
    growth: Growth | None,
    first: int,
) -> Iterator[bytes]:
    """The encoded cubes from number `first` on: those of the store that grows, then the staged ones."""
    if growth:
        yield from (growth.store.cubes.encoded(position) for position in range(first, len(growth.store)))
    for name, record in zip(names, records, strict=True):
        if len(record["chunks"]):
            data = ledger.staged(name).read_bytes()
            for end, size in zip(accumulate(record["chunks"]), record["chunks"], strict=True):
                yield data[end - size : end]


def _cube_table(records: Sequence[dict[str, Any]], growth: Growth | None) -> CubeTable:
    counts = [len(record["chunks"]) for record in records]
    rows = growth.rows if growth else range(len(records))
    new = {
        "scan": np.repeat(np.array(rows, np.int32), counts),
        "number": np.concatenate([np.arange(cubes, dtype=np.int32) for cubes in counts]),
        "corner": np.concatenate([record["corners"] for record in records]),
        "tissue": np.concatenate([record["tissue"] for record in records]),
    }
    if growth is None:
        return CubeTable(**new)
    old = growth.store.table
    return CubeTable(**{name: np.concatenate([getattr(old, name), values]) for name, values in new.items()})


def scan_table(records: Sequence[dict[str, Any]], growth: Growth | None = None) -> ScanTable:
    """The table of scans, one row a record, behind those of the store that grows."""

    def column(name: str, dtype: Any) -> NDArray[Any]:
        return np.array([record[name] for record in records], dtype=dtype)

    new = ScanTable(
        identifier=column("identifier", object),
        subset=column("subset", np.int16),
        path=column("path", object),
        bytes=column("bytes", np.int64),
        sha256=column("sha256", object),
        shape=column("shape", np.int32),
        spacing=column("spacing", np.float64),
        origin=column("origin", np.float64),
        direction=column("direction", np.float64),
        status=column("status", object),
        reason=column("reason", object),
        cubes=np.array([len(record["chunks"]) for record in records], dtype=np.int32),
        stream=column("stream", np.uint64),
    )
    return _added(growth, growth.store.scans, new) if growth else new


def image_table(records: Sequence[dict[str, Any]], growth: Growth | None = None) -> ImageTable:
    """The table of images, one row a record, behind those of the store that grows."""
    columns = {
        field.name: np.array([record[field.name] for record in records], dtype=object)
        for field in fields(ImageTable)
    }
    new = ImageTable(**columns)
    before = growth.store.images if growth else None
    return new if growth is None or before is None else _added(growth, before, new)


def _added(growth: Growth, before: _Table, new: _Table) -> _Table:
    """A table of scans with new rows behind it, and those of scans that were cut again replaced."""
    again, columns = len(growth.again), {}
    for field in fields(new):
        values = getattr(new, field.name)
        column = np.concatenate([getattr(before, field.name).astype(values.dtype), values[again:]])
        column[list(growth.again)] = values[:again]
        columns[field.name] = column
    return type(new)(**columns)
