"""The store formats, version 1: what a cube store and a pair store hold, how they are written and opened.

Both are Zarr v3 groups. Axis order is (cube, x, y, z) everywhere, voxels are whole numbers in the store's
window, and `attrs["genesis"]` says what the store is and every parameter that made it. A store of slices or
images has no z: `[cube, x, y]`. The table `images` is there in stores of X-ray images alone.

    cubes.zarr                                    pairs.zarr
      cubes     [cube, x, y, z]  voxels             original  [cube, x, y, z]  the cubes themselves
      scan      [cube]     row in scans             degraded  [pair, x, y, z]  their degraded twins
      number    [cube]     number in its scan       cube, variant, flip, applied  [pair]
      corner    [cube, 3]  first voxel              scan, number, corner, tissue  [cube]
      tissue    [cube]     the rule's score
      scans/    one row a scan                      scans/
      images/   patient, view, labels [scan]        images/

The pair of cube c and variant v is number v * cubes + c, so one epoch lies together. The flip of a pair is
made again from its bits when the original is read.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.ledger import LOG, MANIFEST, settle
from genesis_toolkit.pipeline.store.opening import (
    DAMAGE,
    FOR_PRETRAINING,
    Opened,
    damage_of,
    open_checked,
    read_attributes,
    reader,
)
from genesis_toolkit.pipeline.store.schema import (
    CUBES,
    CubeTable,
    ImageTable,
    PairTable,
    ScanTable,
    read_table,
)
from genesis_toolkit.pipeline.store.shards import ShardReader
from genesis_toolkit.pipeline.store.storage import Folder, is_url


@dataclass(frozen=True)
class _Store(Opened):
    table: CubeTable
    scans: ScanTable
    images: ImageTable | None

    @property
    def path(self) -> Path:
        """The store's folder, for what is done to it on the disk.

        Raises:
            CallError: it lies in an archive or on a server.
        """
        if not isinstance(self.storage, Folder):
            raise CallError(f"{self.storage.place} is no folder: unpack or fetch it first.")
        return Path(self.storage.place)

    def streams(self) -> NDArray[np.uint64]:
        """The random stream key of every cube: uint64 [cube]."""
        return self.scans.stream[self.table.scan]


@dataclass(frozen=True)
class CubeStore(_Store):
    """A cube store, opened. `cubes` reads its voxels; `len` counts its cubes."""

    cubes: ShardReader

    def __len__(self) -> int:
        return len(self.table)


@dataclass(frozen=True)
class PairStore(_Store):
    """A pair store, opened. `original` and `degraded` read its voxels; `len` counts its pairs."""

    original: ShardReader
    degraded: ShardReader
    pairs: PairTable

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def variants(self) -> int:
        """How many degraded twins every cube has."""
        return int(self.attributes["parameters"]["variants"])

    @property
    def seed(self) -> int:
        """The seed of the degradations."""
        return int(self.attributes["parameters"]["seed"])


def open_store(place: str | Path) -> CubeStore | PairStore:
    """Open a finished store, once its tables and metadata are known to be those that were written.

    Every file but the shards is compared with the manifest, and the tables are taken from the very bytes that
    were compared; the shards are looked at when they are read.

    Args:
        place: a folder, an archive that `pack` made, or a URL of either's folder.

    Raises:
        CallError: there is nothing at `place`, it is still being made, or it is something else.
        DataError: it is of another format version, or a part is missing or damaged.
    """
    checked = open_checked(place, FOR_PRETRAINING)
    storage, attributes, group = checked.storage, checked.attributes, checked.group
    try:
        table = CubeTable(**read_table(group, CubeTable))
        told = (storage, checked.manifest, checked.manifest_sha256, attributes)
        held = (*told, table, checked.scans(), checked.images())
        if attributes["format"] == CUBES:
            return CubeStore(*held, reader(storage, group, "cubes"))
        pairs = PairTable(**read_table(group, PairTable))
        return PairStore(*held, reader(storage, group, "original"), reader(storage, group, "degraded"), pairs)
    except DAMAGE as error:
        raise damage_of(storage, error) from None


def open_cubes(place: str | Path) -> CubeStore:
    """Open a finished cube store; a pair store is a CallError."""
    store = open_store(place)
    if not isinstance(store, CubeStore):
        raise CallError(f"{place} is a pair store; a cube store is wanted, as extract-cubes writes it.")
    return store


def check_target(
    path: Path, kind: str, *, overwrite: bool, inputs: Sequence[str | Path]
) -> dict[str, Any] | None:
    """Whether a store may be written at `path`.

    Args:
        path: where it is to lie.
        kind: `CUBES`, `PAIRS` or `TARGETS`.
        overwrite: whether a finished store of that kind may be replaced; anything else never is.
        inputs: what it is made from; neither may lie in the other.

    Returns:
        The attributes of the finished store that is there and is to stay; None where there is none.

    Raises:
        CallError: something else is in the way, or the store would lie in its input or in another store.
    """
    check_place(path)
    settle(path)
    for source in inputs:
        if not is_url(source) and path.resolve() in Path(source).resolve().parents:
            raise CallError(f"{source} lies inside {path}, which would be replaced: choose another name.")
    if not path.exists() and not path.is_symlink():
        return None
    try:
        attributes = read_attributes(path, (kind,))
    except CallError:
        attributes = {"format": "something else"}
    if attributes["format"] != kind:
        raise CallError(f"{path} exists and is no {kind} store, so it is left alone: choose another name.")
    return None if overwrite else attributes


def check_place(path: Path) -> None:
    """Refuse to write anything inside a finished store, whose manifest would no longer be true.

    Raises:
        CallError: `path` lies inside a store.
    """
    for parent in path.resolve().parents:
        if (parent / MANIFEST).is_file() and (parent / "zarr.json").is_file():
            raise CallError(f"{path} lies inside the store {parent}: choose another place.")


def begun_at(store: CubeStore) -> int:
    """When the run that finished a store began, in ns; 0 where its log does not say: then all is hashed."""
    try:
        log: dict[str, Any] = json.loads(store.storage.read(LOG))
        return int(datetime.fromisoformat(log["started"]).timestamp() * 10**9)
    except (OSError, ValueError, KeyError, TypeError):
        return 0
