"""Staged scans -> a finished cube store: shards in scan order, tables, manifest, name.

Packing is copying, so it is done anew after an interruption, by one process, at the speed of the disk.
"""

from collections.abc import Sequence
from datetime import datetime
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.degrade.seeds import stream_key
from pipeline.engine import Report
from pipeline.hounsfield import Window
from pipeline.ledger import Ledger, run_log, write_whole
from pipeline.place import Triple
from pipeline.shards import shard_length, shard_parts, shard_path
from pipeline.stores import write_cube_store
from pipeline.tables import CubeTable, ScanTable

_DTYPE = np.dtype(np.int16)


def pack(
    ledger: Ledger,
    job: dict[str, Any],
    window: Window,
    size: Triple,
    records: Sequence[dict[str, Any]],
    workers: int,
    report: Report,
    started: datetime,
) -> None:
    """Staged scans -> shards, tables, manifest, and the store's own name.

    Args:
        ledger: holds the staged cubes of every record.
        job: the parameters, as they stand in the store.
        window: of the voxels.
        size: edges of a cube.
        records: one a scan, in the order of the scans.
        workers: for the log.
        report: told as shards are finished.
        started: for the log.
    """
    ledger.clear_store()  # packing is copying: cheaper to do again than to trust what a kill left
    attributes = {
        "window": [window.low, window.high],
        "unit": "HU",
        "size": list(size),
        "parameters": job,
    }
    write_cube_store(ledger.store, attributes, _DTYPE, _cube_table(records), _scan_table(records))
    where = [
        (record["name"], offset - size, size)
        for record in records
        for offset, size in zip(accumulate(record["chunks"]), record["chunks"], strict=True)
    ]
    length = shard_length(size, _DTYPE.itemsize)
    hashes = {}
    shards = -(-len(where) // length)
    report("shards", 0, shards)
    for shard in range(shards):
        chunks = _staged_chunks(ledger, where[shard * length : (shard + 1) * length])
        path = shard_path(ledger.store / "cubes", shard, 1 + len(size))
        digest = write_whole(path, *shard_parts(chunks, length))
        hashes[path.relative_to(ledger.store).as_posix()] = digest
        report("shards", shard + 1, shards)
    ledger.finish(hashes, run_log(started, workers))


def _staged_chunks(ledger: Ledger, where: Sequence[tuple[str, int, int]]) -> list[bytes]:
    chunks, open_name, data = [], "", b""
    for name, offset, size in where:
        if name != open_name:
            open_name, data = name, ledger.staged(name).read_bytes()
        chunks.append(data[offset : offset + size])
    return chunks


def _cube_table(records: Sequence[dict[str, Any]]) -> CubeTable:
    counts = [len(record["chunks"]) for record in records]
    return CubeTable(
        scan=np.repeat(np.arange(len(records), dtype=np.int32), counts),
        number=np.concatenate([np.arange(count, dtype=np.int32) for count in counts]),
        corner=np.array([corner for record in records for corner in record["corners"]], dtype=np.int32),
        tissue=np.array([score for record in records for score in record["tissue"]], dtype=np.float64),
    )


def _scan_table(records: Sequence[dict[str, Any]]) -> ScanTable:
    def column(name: str, dtype: Any) -> NDArray[Any]:
        return np.array([record[name] for record in records], dtype=dtype)

    return ScanTable(
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
        stream=np.array([stream_key(record["identifier"]) for record in records], dtype=np.uint64),
    )
