"""Compares a source with a finished store: new scans, and failed scans that have been repaired.

These are added after the existing cubes, which keep their bytes and their numbers. A scan that gave cubes and
has changed would contradict the store, so it is refused by name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.cubes.parameters import maps_values
from genesis_toolkit.pipeline.cubes.pseudonyms import Key
from genesis_toolkit.pipeline.cubes.records import file_state
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.scans.find import Found, Source
from genesis_toolkit.pipeline.scans.read import scan_sha256
from genesis_toolkit.pipeline.store.open import CubeStore, begun_at
from genesis_toolkit.pipeline.store.schema import ScanTable
from genesis_toolkit.pipeline.wording import listed


@dataclass(frozen=True)
class Update:
    """The scans to add to a finished store.

    Attributes:
        store: the store.
        again: scans that gave no cube and have changed since, by their row in the store's table.
        new: scans that are not in the store, in order.
        places: paths of all scans of the source.
        patient: uint64, of each scan of the store; None if no patient is known.
    """

    store: CubeStore
    again: dict[int, Source]
    new: tuple[Source, ...]
    places: tuple[tuple[Source, Path], ...]
    patient: NDArray[np.uint64] | None

    @property
    def sources(self) -> tuple[Source, ...]:
        """Return all scans to cut: repaired ones by row, then new ones."""
        return (*self.again.values(), *self.new)

    @property
    def rows(self) -> list[int]:
        """Return the row of each of `sources` in the table of the extended store."""
        first = len(self.store.scans)
        return [*self.again, *range(first, first + len(self.new))]


def compare(store: CubeStore, found: Found, key: Key | None = None) -> Update:
    """Compare the scans found with those that a finished store was made from.

    A scan counts as unchanged if its size is the same, and either no file was modified since the store was
    made or the sha256 of its files is the same. A store made with `key` does not record sizes; there, a file
    must not have been moved into place since either.

    Raises:
        CallError: a scan that gave cubes is missing or has changed, or new scans would change the cubes of
            others; the message names them.
    """
    name, mr = key.name if key else str, maps_values(store.attributes["parameters"])
    here = {name(source.path): source for source in found.sources}
    scans = store.scans
    rows = {str(path): row for row, path in enumerate(scans.path.tolist())}
    way_out = f"since {store.path} was built from it: choose another name, or rebuild it with --overwrite."
    gone = [path for path, row in rows.items() if path not in here and scans.cubes[row]]
    _refuse(gone, f"missing from the source {way_out}")
    known, rows = set(rows), {path: row for path, row in rows.items() if path in here}
    begun, there = begun_at(store), {row: found.root / here[path].path for path, row in rows.items()}
    changed = [row for row, place in there.items() if _has_changed(store, row, place, begun, key, mr)]
    _refuse(
        (str(scans.path[row]) for row in changed if scans.cubes[row]), f"changed {way_out}", "has", "have"
    )
    if scans.part is not None:
        others = [path for path, row in rows.items() if here[path].part != scans.part[row]]
        _refuse(others, f"in another part than before {way_out}")
    again = {row: here[str(scans.path[row])] for row in changed}
    new = tuple(source for path, source in here.items() if path not in known)
    places = tuple((source, found.root / source.path) for source in here.values())
    update = Update(store, again, new, places, _patients(scans, here, key))
    if store.attributes["parameters"].get("sampler") == "official":
        drawn = set(scans.subset.tolist())
        _refuse(
            (source.path for source in update.sources if source.subset in drawn),
            "new in a subset whose cubes are already drawn, and the official draws continue "
            "from scan to scan: choose another name, or draw the subset again with "
            "--overwrite.",
        )
    return update


def _patients(scans: ScanTable, here: Mapping[str, Source], key: Key | None) -> NDArray[np.uint64] | None:
    """Return the patients of a store's scans; if the store does not record them, those of its source."""
    if scans.patient is not None:
        return scans.patient
    whose = [here[path].whose if path in here else 0 for path in map(str, scans.path)]
    now = np.array([key.number(one) if key else one for one in whose], np.uint64)
    return np.where(now > 0, now, scans.stream) if now.any() else None


def _has_changed(store: CubeStore, row: int, path: Path, begun: int, key: Key | None, mr: bool) -> bool:
    size, when = file_state(path, came=key is not None, mr=mr)
    known = str(store.scans.sha256[row])
    if key is None and size != int(store.scans.bytes[row]):
        return True
    if key is not None and size == 0:  # unreadable
        return bool(known)
    if when <= begun or not known:
        return when > begun
    try:
        found = scan_sha256(path, mr)
    except (DataError, OSError):
        return True
    return (key.digest(found) if key else found) != known


def _refuse(paths: Iterable[str], why: str, one: str = "is", several: str = "are") -> None:
    names = list(paths)
    if names:
        raise CallError(f"{listed(names)} {one if len(names) == 1 else several} {why}")
