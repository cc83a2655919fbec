"""One scan that is cut and thrown away, to see what all of a source would take (`--dry-run`)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Generic, TypeVar

from genesis_toolkit.pipeline.errors import DataError

_TRIED = 5  # scans, until one gives cubes

Scan = TypeVar("Scan")


@dataclass(frozen=True)
class Example(Generic[Scan]):
    """One scan that was cut to see what it takes.

    Attributes:
        scan: which.
        seconds: that it took.
        cube_bytes: of a cube as it is stored, the mean of those that it gave.
    """

    scan: Scan
    seconds: float
    cube_bytes: float


def cut_example(scans: Sequence[Scan], encoded: Callable[[Scan], Sequence[int]]) -> Example[Scan] | None:
    """Cut the scan in the middle, or the next ones where it gives no cube.

    Args:
        scans: to be cut, all of them.
        encoded: cuts one, and says how many bytes each of its cubes takes.

    Returns:
        None where no scan that was tried gave a cube, or could be read.
    """
    for scan in scans[len(scans) // 2 :][:_TRIED]:
        begun = perf_counter()
        try:
            sizes = encoded(scan)
        except (DataError, OSError, ValueError, MemoryError):  # said of it by the extraction itself
            continue
        if sizes:
            return Example(scan, perf_counter() - begun, sum(sizes) / len(sizes))
    return None
