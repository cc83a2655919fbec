"""A table of scans for stores that tests make by hand."""

from collections.abc import Sequence

import numpy as np

from genesis_toolkit.pipeline.store.schema import ScanTable


def scan_rows(cubes: Sequence[int], stream: Sequence[int], subset: Sequence[int] | None = None) -> ScanTable:
    """Scans named scan-0, scan-1 .. with so many cubes each, their stream keys, and subsets or none."""
    count = len(cubes)
    words, threes = np.array([f"scan-{i}" for i in range(count)], dtype=object), np.ones((count, 3))
    return ScanTable(
        identifier=words,
        subset=np.array([-1] * count if subset is None else subset, np.int16),
        path=words,
        bytes=np.zeros(count, np.int64),
        sha256=words,
        shape=threes.astype(np.int32),
        spacing=threes,
        origin=threes,
        direction=np.ones((count, 9)),
        status=np.full(count, "used", dtype=object),
        reason=np.full(count, "", dtype=object),
        cubes=np.array(cubes, np.int32),
        stream=np.array(stream, np.uint64),
    )
