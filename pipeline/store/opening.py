"""Opening a store: what it says of itself, and whether its files are those that were written.

What kind of store it is matters little here: `stores` and `targets.store` make theirs of what is opened.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.pipeline.ledger import LOG, MANIFEST, sha256_of, unfinished
from genesis_toolkit.pipeline.store.metadata import (
    MOST_CHUNK,
    MOST_MANIFEST,
    MOST_METADATA,
    check_arrays,
    parse_json,
    strict_manifest,
)
from genesis_toolkit.pipeline.store.schema import (
    CUBES,
    EDGES,
    KINDS,
    PAIRS,
    ImageTable,
    ScanTable,
    array_of,
    has_images,
    is_shard,
    read_table,
)
from genesis_toolkit.pipeline.store.shards import ShardReader
from genesis_toolkit.pipeline.store.storage import Storage, is_url, open_storage

#: What metadata and tables that are not ours lead to.
DAMAGE = (LookupError, ValueError, TypeError, RuntimeError, OSError)

#: The kinds of stores that are pre-trained from.
FOR_PRETRAINING = (CUBES, PAIRS)

_AT_ONCE = 8  # files asked for at the same time
_LONGEST_VERSION = 40


@dataclass(frozen=True)
class Opened:
    """What every opened store has.

    Attributes:
        storage: where it lies.
        manifest: the sha256 of every file.
        manifest_sha256: of the manifest itself.
        attributes: what it says of itself.
    """

    storage: Storage
    manifest: dict[str, str]
    manifest_sha256: str
    attributes: dict[str, Any]

    @property
    def window(self) -> Window:
        """The whole numbers a voxel may have."""
        return Window(*self.attributes["window"])

    @property
    def size(self) -> tuple[int, ...]:
        """The edges of a cube in voxels: x, y, z, or x, y of a slice or an image."""
        return tuple(self.attributes["size"])


@dataclass(frozen=True)
class Checked:
    """A finished store whose files but the shards are those that were written.

    Attributes:
        storage: where it lies.
        attributes: what it says of itself.
        manifest: the sha256 of every file.
        manifest_sha256: of the manifest itself.
        group: its tables and metadata, in memory, from the very bytes that were compared.
    """

    storage: Storage
    attributes: dict[str, Any]
    manifest: dict[str, str]
    manifest_sha256: str
    group: zarr.Group

    def scans(self) -> ScanTable:
        """The table of scans."""
        return ScanTable(**read_table(_subgroup(self.group, "scans"), ScanTable))

    def images(self) -> ImageTable | None:
        """The table of images; None where there is none."""
        if not has_images(self.manifest):
            return None
        return ImageTable(**read_table(_subgroup(self.group, "images"), ImageTable))


def open_checked(place: str | Path, kinds: Sequence[str]) -> Checked:
    """Look at a finished store of one of these kinds, as `open_store` does.

    Raises:
        CallError, DataError: as `open_store`.
    """
    storage = _storage(place, kinds)
    attributes = _attributes(storage, kinds)
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
        return Checked(storage, attributes, manifest, sha256_of(data), _group(files))
    except DAMAGE as error:
        raise damage_of(storage, error) from None


def damage_of(storage: Storage, error: BaseException) -> DataError:
    """What is said of a store whose metadata or tables led to one of `DAMAGE`."""
    return DataError(f"The store {storage.place} is damaged: {_first_line(error)}.")


def read_attributes(place: str | Path, kinds: Sequence[str] = FOR_PRETRAINING) -> dict[str, Any]:
    """What a store says of itself, `attrs["genesis"]`, once format and version are known to be ours.

    Args:
        place: as in `open_store`.
        kinds: those that it may be of.

    Raises:
        CallError: nothing there, still being made, or something else.
        DataError: another format version.
    """
    return _attributes(_storage(place, kinds), kinds)


def reader(storage: Storage, group: zarr.Group, name: str) -> ShardReader:
    """Reads the voxels of an array of a store."""
    array = array_of(group, name)
    if not array.shards:
        raise ValueError(f"{name} has no shards")
    return ShardReader(storage, name, array.shape, np.dtype(array.dtype), array.shards[0])


def _storage(place: str | Path, kinds: Sequence[str]) -> Storage:
    if not is_url(place) and not Path(place).exists():
        if unfinished(Path(place)).exists():
            raise CallError(f"{place} is not finished: repeat the command that makes it, and it goes on.")
        command = "extract-cubes" if CUBES in kinds else "extract-targets"
        raise CallError(f"There is no store at {place}: make one with genesis-prep {command}.")
    return open_storage(place)


def _attributes(storage: Storage, kinds: Sequence[str]) -> dict[str, Any]:
    place = storage.place
    try:
        attributes = parse_json(_read(storage, "zarr.json", MOST_METADATA))["attributes"]["genesis"]
        name, version, finalised = attributes["format"], attributes["version"], attributes["finalised"]
    except (OSError, ValueError, KeyError, TypeError):
        if _is_there(storage, MANIFEST):
            raise DataError(
                f"The store {place} is damaged: zarr.json is missing or not as it was written. genesis-prep "
                "verify says more."
            ) from None
        raise CallError(
            f"{place} is no store of this toolkit, which genesis-prep makes: no zarr.json in it says so."
        ) from None
    if name not in kinds or not isinstance(attributes, dict):
        raise CallError(f"{place} is a {name} store; allowed here: {', '.join(kinds)}.")
    if version != (ours := KINDS[name].version):
        raise DataError(
            f"{place} is of format version {version}, this program reads version {ours}: use the "
            f"genesis-toolkit that wrote it{_written_by(storage)}, or a later one."
        )
    if not finalised:
        raise CallError(f"{place} is not finished: repeat the command that makes it.")
    return dict(attributes)


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


def _is_there(storage: Storage, path: str) -> bool:
    try:
        storage.size(path)
    except (OSError, DataError):
        return False
    return True


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
    if not whole or len(window) != 2 or len(size) not in EDGES or min(size) < 1 or window[0] >= window[1]:
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


def _first_line(error: BaseException) -> str:
    return str(error).strip("'\"").splitlines()[0].rstrip(".") if str(error) else type(error).__name__
