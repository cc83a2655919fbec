"""Detects duplicate scans: one is used, and the others are recorded as copies.

Two files are the same scan if they share an identifier, or if their bytes are equal. This is known only after
they have been cut, so it changes what is made of their records, not the records themselves.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.cubes.pseudonyms import Key
from genesis_toolkit.pipeline.cubes.records import UNREADABLE, CutTask
from genesis_toolkit.pipeline.cubes.update import Update
from genesis_toolkit.pipeline.hounsfield import GreyLevels, HounsfieldValues
from genesis_toolkit.pipeline.job import Facts
from genesis_toolkit.pipeline.ledger import Ledger
from genesis_toolkit.pipeline.scans.gather import SAME
from genesis_toolkit.pipeline.scans.radiographs import picture_of
from genesis_toolkit.pipeline.scans.read import read_scan


@dataclass(frozen=True)
class Twin:
    """Properties that show whether two scans are the same.

    Attributes:
        name: name of its record; empty for a scan of a finished store, which is left unchanged.
        path: its own, relative to the source.
        place: location of the file.
        identifier, sha256: as recorded in the store.
        used: whether it gave cubes.
        read: whether it was readable, even if too small or dense to be used.
    """

    name: str
    path: str
    place: Path
    identifier: str
    sha256: str
    used: bool
    read: bool = True


def changes_of(
    ledger: Ledger, tasks: Sequence[CutTask[Any]], update: Update | None = None, key: Key | None = None
) -> dict[str, Facts]:
    """Return the changed records of scans that turned out to be copies.

    Args:
        ledger, tasks: hold the records, and name them.
        update: identifies the scans of the store to be extended.
        key: key of the pseudonyms in the store; None if it has the scans' own names.
    """
    name, digest = (key.name, key.digest) if key else (str, str)
    twins = list(_held(update, key)) if update else []
    for task, record in zip(tasks, ledger.records(task.name for task in tasks), strict=True):
        used, read = record["status"] == "used", record["status"] != "failed" and any(record["shape"])
        as_stored = record["path"], task.path, name(record["identifier"]), digest(record["sha256"])
        twins.append(Twin(task.name, *as_stored, used, read))
    same = partial(same_voxels, parameters=tasks[0].parameters) if tasks else _never
    nothing: Facts = {field: [] for field in ("corners", "tissue", "targets", "chunks", "mask_chunks")}
    return {
        name: nothing | {"status": status, "reason": reason}
        for name, (status, reason) in settle(twins, same).items()
    }


def _never(_one: Path, _other: Path) -> bool:
    return False


def settle(twins: Iterable[Twin], same: Callable[[Path, Path], bool]) -> dict[str, tuple[str, str]]:
    """Return status and reason of scans that are copies, or share the identifier of a different scan.

    Args:
        twins: the scans in their order.
        same: whether two hold the same voxels; called only for those that share an identifier.
    """
    changes: dict[str, tuple[str, str]] = {}
    named, first = defaultdict[str, list[Twin]](list), dict[str, Twin]()
    twins = list(twins)
    for twin in twins:
        if twin.read:
            named[twin.identifier].append(twin)
    for group in named.values():
        leader = next((twin for twin in group if twin.used), None)
        others = [twin for twin in group if twin is not leader]
        if leader is None or not others:
            continue
        odd = [one for one in others if one.sha256 != leader.sha256 and not same(leader.place, one.place)]
        both = " and ".join(twin.path for twin in (leader, *odd))
        both = (
            f"{both} have the same identifier but different voxels: rename or remove all but one"
            if odd
            else ""
        )
        for twin in filter(lambda twin: twin.name, group if odd else others):
            changes[twin.name] = ("failed", both) if both else ("skipped", SAME + leader.path)
    for twin in twins:
        if twin.used and twin.name not in changes:
            other = first.setdefault(twin.sha256, twin)
            if other is not twin:
                changes[twin.name] = ("skipped", SAME + other.path)
    return changes


def same_voxels(one: Path, other: Path, parameters: HounsfieldValues | GreyLevels) -> bool:
    """Return whether two scans or images hold the same voxels; False if one of them is unreadable."""
    try:
        return np.array_equal(_voxels(one, parameters), _voxels(other, parameters))
    except UNREADABLE:
        return False


def _voxels(path: Path, parameters: HounsfieldValues | GreyLevels) -> NDArray[Any]:
    if isinstance(parameters, GreyLevels):
        return picture_of(path, "images" if parameters.maps else "nih").pixels
    return read_scan(path, parameters.mr).voxels


def _held(update: Update, key: Key | None) -> Iterable[Twin]:
    """Yield the scans of a finished store that gave cubes."""
    scans, name = update.store.scans, key.name if key else str
    places = {name(source.path): (source.path, place) for source, place in update.places}
    for row in np.flatnonzero(scans.cubes).tolist():
        yield Twin(
            "", *places[str(scans.path[row])], str(scans.identifier[row]), str(scans.sha256[row]), True
        )
