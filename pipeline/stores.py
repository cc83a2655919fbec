"""The store formats, version 1: what a cube store and a pair store hold, how they are written and opened.

Both are Zarr v3 groups. Axis order is (cube, x, y, z) everywhere, voxels are whole numbers in the store's
window, and `attrs["genesis"]` says what the store is and every parameter that made it:

    cubes.zarr                                    pairs.zarr
      cubes     [cube, x, y, z]  voxels             original  [cube, x, y, z]  the cubes themselves
      scan      [cube]     row in scans             degraded  [pair, x, y, z]  their degraded twins
      number    [cube]     number in its scan       cube, variant, flip, applied  [pair]
      corner    [cube, 3]  first voxel              scan, number, corner, tissue  [cube]
      tissue    [cube]     the rule's score
      scans/    one row a scan                      scans/

The pair of cube c and variant v is number v * cubes + c, so one epoch lies together. The flip of a pair is
made again from its bits when the original is read.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype

from pipeline.errors import CallError, DataError
from pipeline.hounsfield import Window
from pipeline.layout import AXES as AXES
from pipeline.layout import CUBES as CUBES
from pipeline.layout import (
    MOST_CHUNK,
    MOST_MANIFEST,
    MOST_METADATA,
    VERSION,
    check_arrays,
    parse_json,
    strict_manifest,
)
from pipeline.layout import PAIRS as PAIRS
from pipeline.ledger import LOG, MANIFEST, settle, sha256_of, unfinished
from pipeline.shards import ShardReader
from pipeline.storage import Folder, Storage, is_url, open_storage
from pipeline.tables import CubeTable, PairTable, ScanTable, array_of, read_table
from pipeline.writing import write_cube_store as write_cube_store
from pipeline.writing import write_pair_store as write_pair_store

_AT_ONCE = 8  # files asked for at the same time
_LONGEST_VERSION = 40
_SHARDED = ("cubes", "original", "degraded")


@dataclass(frozen=True)
class _Store:
    storage: Storage
    manifest: dict[str, str]
    manifest_sha256: str
    attributes: dict[str, Any]
    table: CubeTable
    scans: ScanTable

    @property
    def path(self) -> Path:
        """The store's folder, for what is done to it on the disk.

        Raises:
            CallError: it lies in an archive or on a server.
        """
        if not isinstance(self.storage, Folder):
            raise CallError(f"{self.storage.place} is no folder: unpack or fetch it first.")
        return Path(self.storage.place)

    @property
    def window(self) -> Window:
        """The whole numbers a voxel may have."""
        return Window(*self.attributes["window"])

    @property
    def size(self) -> tuple[int, ...]:
        """The edges of a cube in voxels, x, y, z."""
        return tuple(self.attributes["size"])

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
    storage = _storage(place)
    attributes = _attributes(storage)
    try:
        data = _read(storage, MANIFEST, MOST_MANIFEST)
    except OSError:
        raise DataError(f"The store {place} is damaged: it has no {MANIFEST} that can be read.") from None
    manifest, problems = strict_manifest(data)
    for problem in problems:
        raise DataError(f"The store {place} is damaged: in its {MANIFEST} {problem}.")
    files = _verified(storage, manifest)
    try:
        _check_attributes(attributes)
        check_arrays(attributes, files["zarr.json"], manifest)
        held = (storage, manifest, sha256_of(data))
        group = _group(files)
        table = CubeTable(**read_table(group, CubeTable))
        scans = ScanTable(**read_table(_subgroup(group, "scans"), ScanTable))
        if attributes["format"] == CUBES:
            return CubeStore(*held, attributes, table, scans, _reader(storage, group, "cubes"))
        pairs = PairTable(**read_table(group, PairTable))
        voxels = (_reader(storage, group, "original"), _reader(storage, group, "degraded"))
        return PairStore(*held, attributes, table, scans, *voxels, pairs)
    except (LookupError, ValueError, TypeError, RuntimeError, OSError) as error:
        raise DataError(f"The store {storage.place} is damaged: {_first_line(error)}.") from None


def open_cubes(place: str | Path) -> CubeStore:
    """Open a finished cube store; a pair store is a CallError."""
    store = open_store(place)
    if not isinstance(store, CubeStore):
        raise CallError(f"{place} is a pair store; a cube store is wanted, as extract-cubes writes it.")
    return store


def read_attributes(place: str | Path) -> dict[str, Any]:
    """What a store says of itself, `attrs["genesis"]`, once format and version are known to be ours.

    Raises:
        CallError: nothing there, still being made, or something else.
        DataError: another format version.
    """
    return _attributes(_storage(place))


def _storage(place: str | Path) -> Storage:
    if not is_url(place) and not Path(place).exists():
        if unfinished(Path(place)).exists():
            raise CallError(f"{place} is not finished: repeat the command that makes it, and it goes on.")
        raise CallError(f"There is no store at {place}: make one with genesis-prep extract-cubes.")
    return open_storage(place)


def _attributes(storage: Storage) -> dict[str, Any]:
    place = storage.place
    try:
        attributes = parse_json(_read(storage, "zarr.json", MOST_METADATA))["attributes"]["genesis"]
        name, version, finalised = attributes["format"], attributes["version"], attributes["finalised"]
    except (OSError, ValueError, KeyError, TypeError):
        raise CallError(f"{place} is no store of this toolkit (its zarr.json does not say so).") from None
    if name not in (CUBES, PAIRS) or not isinstance(attributes, dict):
        raise CallError(f"{place} is a {name} store; allowed here: {CUBES}, {PAIRS}.")
    if version != VERSION:
        raise DataError(
            f"{place} is of format version {version}, this program reads version {VERSION}: use the "
            f"genesis-toolkit that wrote it{_written_by(storage)}, or a later one."
        )
    if not finalised:
        raise CallError(f"{place} is not finished: repeat the command that makes it.")
    return dict(attributes)


def check_target(
    path: Path, kind: str, *, overwrite: bool, inputs: Sequence[str | Path]
) -> dict[str, Any] | None:
    """Whether a store may be written at `path`.

    Args:
        path: where it is to lie.
        kind: `CUBES` or `PAIRS`.
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
        attributes = read_attributes(path)
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


def is_shard(path: str) -> bool:
    """Whether a file of a store, by its path in it, is a shard of voxels."""
    return path.split("/")[0] in _SHARDED and "/c/" in path


def _verified(storage: Storage, manifest: Mapping[str, str]) -> dict[str, bytes]:
    """All files but the shards, by path, once each is known to be as it was written.

    Raises:
        DataError: a file is missing, or is not as it was written.
    """
    tables = {path: digest for path, digest in manifest.items() if not is_shard(path)}
    shards = [path for path in manifest if is_shard(path)] if storage.near else []

    def read(path: str) -> bytes:
        try:
            data = _read(storage, path, MOST_METADATA if path.endswith(".json") else MOST_CHUNK)
        except OSError as error:
            if storage.near or isinstance(error, FileNotFoundError):
                raise damaged(path) from None
            raise DataError(f"{storage.place}/{path} cannot be read: {error.strerror}.") from None
        if sha256_of(data) != tables[path]:
            raise damaged(path)
        return data

    def damaged(path: str) -> DataError:
        return DataError(
            f"The store {storage.place} is damaged: {path} is missing or not as it was written. genesis-prep "
            "verify says more."
        )

    for path in shards:
        try:
            storage.size(path)
        except OSError:
            raise damaged(path) from None
    with ThreadPoolExecutor(_AT_ONCE) as threads:  # of a server, one after the other takes seconds
        return dict(zip(tables, threads.map(read, tables), strict=True))


def _read(storage: Storage, path: str, most: int) -> bytes:
    """A whole file of metadata or of a table.

    Raises:
        OSError: it cannot be read.
        DataError: it has more bytes than one of ours can have.
    """
    size = storage.size(path) if storage.near else 0  # a server's answer is measured as it comes
    if size > most:
        raise DataError(f"{storage.place}/{path} has {size:,} bytes, and no store's has more than {most:,}.")
    return storage.read(path)


def _written_by(storage: Storage) -> str:
    """The version of this toolkit that wrote a store, in brackets, where its log tells."""
    try:
        version = parse_json(_read(storage, LOG, MOST_METADATA))["genesis-toolkit"]
    except (OSError, DataError, ValueError, LookupError, TypeError):
        return ""
    return f" (version {version})" if isinstance(version, str) and len(version) < _LONGEST_VERSION else ""


def _group(files: Mapping[str, bytes]) -> zarr.Group:
    """The group that these files are, in memory."""
    buffer = default_buffer_prototype().buffer
    held = {path: buffer.from_bytes(data) for path, data in files.items()}
    return zarr.open_group(zarr.storage.MemoryStore(held, read_only=True), mode="r")


def _check_attributes(attributes: Mapping[str, Any]) -> None:
    """Refuse attributes that no store of ours has.

    Raises:
        ValueError: which one, and what it is.
    """
    window, size = attributes["window"], attributes["size"]
    whole = all(isinstance(number, int) for number in [*window, *size])
    if not whole or len(window) != 2 or len(size) != len(AXES) or min(size) < 1 or window[0] >= window[1]:
        raise ValueError(f"its window is {window}, its size {size}")
    if not isinstance(attributes["parameters"], dict) or not isinstance(attributes["unit"], str):
        raise ValueError("its parameters are not readable")
    if attributes["format"] == PAIRS:
        for name in ("variants", "seed"):
            if type(attributes["parameters"][name]) is not int:
                raise ValueError(f"its {name} is {attributes['parameters'][name]!r}")


def _subgroup(group: zarr.Group, name: str) -> zarr.Group:
    found = group[name]
    if not isinstance(found, zarr.Group):
        raise ValueError(f"{name} is no group")
    return found


def _reader(storage: Storage, group: zarr.Group, name: str) -> ShardReader:
    array = array_of(group, name)
    if not array.shards:
        raise ValueError(f"{name} has no shards")
    return ShardReader(storage, name, array.shape, np.dtype(array.dtype), array.shards[0])


def _first_line(error: BaseException) -> str:
    return str(error).strip("'\"").splitlines()[0].rstrip(".") if str(error) else type(error).__name__
