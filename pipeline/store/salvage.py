"""What can still be read of a store, however damaged: `open_store` refuses at the first damaged file.

Most of a store's metadata is there twice, in each array's own `zarr.json` and in that of the whole; the copy
that is as it was written is taken.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.pipeline.store.examine import reason_of
from genesis_toolkit.pipeline.store.metadata import (
    MOST_CHUNK,
    MOST_METADATA,
    Array,
    check_lengths,
    described,
    parse_json,
    read_column,
    words_of,
)
from genesis_toolkit.pipeline.store.schema import CUBES, KINDS, PAIRS, TARGETS, array_names
from genesis_toolkit.pipeline.store.shards import ShardReader
from genesis_toolkit.pipeline.store.storage import Storage

ROOT = "zarr.json"

# Arrays that tell what kind a store is, looked for in this order.
_MARKS = {TARGETS: {"cubes", "fold"}, CUBES: {"cubes"}, PAIRS: {"original", "degraded"}}

Problem = tuple[str, str]


@dataclass(frozen=True)
class Remains:
    """What was read of a store.

    Attributes:
        storage: of the store.
        manifest: the sha256 of its files by path.
        kind: `CUBES`, `PAIRS` or `TARGETS`; None where not even that is known.
        attributes: what it says of itself; None where its `zarr.json` is damaged.
        arrays: by name, those whose metadata could be read.
        columns: of the tables by name, those that could be read.
    """

    storage: Storage
    manifest: Mapping[str, str]
    kind: str | None
    attributes: dict[str, Any] | None
    arrays: Mapping[str, Array]
    columns: Mapping[str, NDArray[Any]]

    @property
    def window(self) -> Window | None:
        """The values that voxels may have, where they are known."""
        window = (self.attributes or {}).get("window")
        try:
            return Window(*window) if window else None
        except (TypeError, ValueError):
            return None

    @property
    def cutting(self) -> dict[str, Any]:
        """The parameters with which the cubes were cut, any JSON by name; empty where they are not known."""
        made = (self.attributes or {}).get("cubes" if self.kind == PAIRS else "parameters")
        return made if isinstance(made, dict) else {}

    def count(self, name: str) -> int | None:
        """How many rows an array has, where that is known."""
        return len(self.arrays[name]) if name in self.arrays else None

    def reader(self, name: str) -> ShardReader:
        """Reads the cubes of an array of voxels that is among `arrays`."""
        array = self.arrays[name]
        return ShardReader(self.storage, name, array.shape, np.dtype(array.dtype), array.chunk)


def read_remains(
    storage: Storage, manifest: Mapping[str, str], strangers: Collection[str], sound: Callable[[str], bool]
) -> tuple[Remains, list[Problem]]:
    """Read what can be read of a store but its voxels.

    Args:
        storage: of the store.
        manifest: the sha256 of its files by path.
        strangers: files that lie there as well.
        sound: whether a file is there, as it was written; of others nothing is read.

    Returns:
        What was read; and what is wrong with it, as the name of an array and a sentence to go after it.
    """
    problems = list[Problem]()
    root = _metadata(storage, ROOT, sound, problems)
    attributes = _genesis(root)
    if root is not None and attributes is None:
        problems.append((ROOT, "does not say what store it is"))
    kind = (attributes or {}).get("format") or _kind_of(manifest)
    if kind not in KINDS:
        return Remains(storage, manifest, None, attributes, {}, {}), problems
    arrays = _arrays(storage, kind, manifest, root, sound, problems)
    size = (attributes or {}).get("size")
    for name in KINDS[kind].voxels:
        if name in arrays and size is not None and list(arrays[name].shape[1:]) != size:
            problems.append((name, f"its cubes are {words_of(arrays[name].shape[1:])}, not {words_of(size)}"))
    files = [*manifest, *strangers]
    believed, wrong = check_lengths(arrays, files)
    problems += wrong
    columns = dict[str, NDArray[Any]]()
    for name in sorted(believed):
        mine = [path for path in files if path.startswith(f"{name}/c/")]
        odd = [path for path in mine if path in manifest and arrays[name].place(path) is None]
        problems += [(path, "is no chunk of its array") for path in odd]
        if name not in KINDS[kind].voxels and all(map(sound, mine)):
            try:
                columns[name] = read_column(arrays[name], _chunks(storage, manifest))
            except (DataError, OSError) as error:
                problems.append((name, reason_of(error)))
    return Remains(storage, manifest, kind, attributes, arrays, columns), problems


def _arrays(
    storage: Storage,
    kind: str,
    files: Collection[str],
    root: Any,
    sound: Callable[[str], bool],
    problems: list[Problem],
) -> dict[str, Array]:
    held = _consolidated(root)
    if root is not None and held is None:
        problems.append((ROOT, "holds no consolidated metadata"))
    arrays = {}
    for name in array_names(kind, files):
        own, again = _metadata(storage, f"{name}/{ROOT}", sound, problems), (held or {}).get(name)
        if own is not None and held is not None and own != again:
            problems.append((name, f"its zarr.json is not what that of the store says of {name}"))
        metadata = own if own is not None else again
        if metadata is None:
            continue
        try:
            arrays[name] = described(kind, name, metadata)
        except ValueError as error:
            problems.append((name, str(error)))
    return arrays


def _metadata(
    storage: Storage, path: str, sound: Callable[[str], bool], problems: list[Problem]
) -> dict[str, Any] | None:
    if not sound(path):
        return None
    try:
        if storage.size(path) > MOST_METADATA:
            raise ValueError(f"has {storage.size(path):,} bytes, and {MOST_METADATA:,} at most are read")
        parsed = parse_json(storage.read(path))
        if not isinstance(parsed, dict):
            raise ValueError("is no object of JSON")
    except (OSError, ValueError) as error:
        problems.append((path, reason_of(error)))
        return None
    return parsed


def _genesis(root: Any) -> dict[str, Any] | None:
    try:
        attributes = root["attributes"]["genesis"]
    except (LookupError, TypeError):
        return None
    return attributes if isinstance(attributes, dict) and isinstance(attributes.get("format"), str) else None


def _consolidated(root: Any) -> dict[str, Any] | None:
    try:
        held = root["consolidated_metadata"]["metadata"]
    except (LookupError, TypeError):
        return None
    return held if isinstance(held, dict) else None


def _kind_of(manifest: Mapping[str, str]) -> str | None:
    """The kind of a store whose attributes cannot be read, by the files it has."""
    there = {path.split("/")[0] for path in manifest}
    return next((kind for kind, names in _MARKS.items() if names <= there), None)


def _chunks(storage: Storage, manifest: Mapping[str, str]) -> Callable[[str], bytes | None]:
    def read(path: str) -> bytes | None:
        if path not in manifest:
            return None
        if storage.size(path) > MOST_CHUNK:
            raise DataError(f"{path} has {storage.size(path):,} bytes, and {MOST_CHUNK:,} at most are read")
        return storage.read(path)

    return read
