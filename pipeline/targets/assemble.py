"""Staged pieces -> the shards, tables and metadata of a target store, in the order of the scans.

As in `assemble`: copying, done anew after an interruption, by one process.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate, count, islice
from typing import Any

import numpy as np

from genesis_toolkit.pipeline.cubes.assemble import compact, image_table, scan_table
from genesis_toolkit.pipeline.engine import Report
from genesis_toolkit.pipeline.ledger import Ledger, write_whole
from genesis_toolkit.pipeline.store.schema import FOLDS, TargetTable
from genesis_toolkit.pipeline.store.shards import shard_length, shard_parts, shard_path
from genesis_toolkit.pipeline.store.write import write_target_store
from genesis_toolkit.pipeline.targets.parameters import MaskParameters, TargetParameters


def pack_targets(
    ledger: Ledger,
    description: dict[str, Any],
    parameters: TargetParameters,
    names: Sequence[str],
    report: Report,
) -> dict[str, str]:
    """Staged pieces -> everything of a target store but its manifest and its name.

    Args:
        ledger: holds the record and the staged cubes of every scan.
        description: the parameters, as they stand in the store.
        parameters: what was cut.
        names: of the records, in the order of the scans.
        report: told as shards are finished.

    Returns:
        The sha256 of every shard by its path in the store.
    """
    ledger.clear_store()
    records = [compact(ledger.recorded(name), None) for name in names]
    counts = [len(record["chunks"]) for record in records]
    labels = None
    if not isinstance(parameters, MaskParameters):
        rows = [row for record in records for row in record["targets"]]
        labels = np.array(rows, np.uint8).reshape(-1, len(parameters.classes))
    window = [parameters.window.low, parameters.window.high]
    attributes = {"window": window, "unit": parameters.unit, "size": list(parameters.size)}
    attributes |= {"task": parameters.task, "classes": list(parameters.classes), "folds": list(FOLDS)}
    table = TargetTable(
        scan=np.repeat(np.arange(len(records), dtype=np.int32), counts),
        number=np.concatenate([np.arange(cubes, dtype=np.int32) for cubes in counts]),
        corner=np.concatenate([record["corners"] for record in records]),
        fold=np.repeat(np.array([record["fold"] for record in records], np.uint8), counts),
    )
    images = image_table(records) if "patient" in records[0] else None
    write_target_store(
        ledger.store,
        attributes | {"parameters": description},
        parameters.dtype,
        table,
        labels,
        scan_table(records),
        images,
    )
    hashes = _write_shards(ledger, "cubes", names, records, parameters, report)
    if labels is None:
        hashes |= _write_shards(ledger, "masks", names, records, parameters, report)
    return hashes


def _write_shards(
    ledger: Ledger,
    array: str,
    names: Sequence[str],
    records: Sequence[dict[str, Any]],
    parameters: TargetParameters,
    report: Report,
) -> dict[str, str]:
    itemsize = parameters.dtype.itemsize if array == "cubes" else 1
    length = shard_length(parameters.size, itemsize)
    shards = -(-sum(len(record["chunks"]) for record in records) // length)
    chunks, hashes = _chunks(ledger, array, names, records), {}
    for shard in count():
        parts = list(islice(chunks, length))
        if not parts:
            break
        path = shard_path(ledger.store / array, shard, 1 + len(parameters.size))
        hashes[path.relative_to(ledger.store).as_posix()] = write_whole(path, *shard_parts(parts, length))
        report(f"shards of {array}", shard + 1, shards)
    return hashes


def _chunks(
    ledger: Ledger, array: str, names: Sequence[str], records: Sequence[dict[str, Any]]
) -> Iterator[bytes]:
    """The encoded cubes, or masks, in order; of a scan its masks are staged behind its cubes."""
    for name, record in zip(names, records, strict=True):
        if not len(record["chunks"]):
            continue
        data = ledger.staged(name).read_bytes()
        first, sizes = 0, record["chunks"]
        if array == "masks":
            first, sizes = int(sum(sizes)), record["mask_chunks"]
        for end, size in zip(accumulate(sizes), sizes, strict=True):
            yield data[first + end - size : first + end]
