"""Reads everything in a store except its voxels, however damaged, and lists the problems.

It first checks whether this is a finished store of ours. `open_store` raises the first problem; `verify`
reports all. Most metadata exists twice, in each array's own `zarr.json` and in that of the store; the copy
that is unchanged is used.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.pipeline.ledger import LOG, MANIFEST, sha256_of
from genesis_toolkit.pipeline.store import metadata, schema
from genesis_toolkit.pipeline.store.examine import ShardPlace
from genesis_toolkit.pipeline.store.shards import ShardReader
from genesis_toolkit.pipeline.store.storage import Storage, not_as_written, read_within
from genesis_toolkit.pipeline.wording import listed, reason_of, words_of

ROOT = "zarr.json"

# Arrays that identify the kind of a store, checked in this order.
_MARKS = {schema.TARGETS: {"cubes", "fold"}, schema.CUBES: {"cubes"}, schema.PAIRS: {"original", "degraded"}}
_OF_MASKS = Window(0, 1)
_LONGEST_VERSION = 40
_ARE = {True: "exist", False: "are missing"}

Columns = Mapping[str, NDArray[Any]]
#: The name of a file, an array or an attribute, and its problem, phrased to follow the name.
Problem = tuple[str, str]
AnyTable = TypeVar("AnyTable", bound=schema.Table)


class Manifest(NamedTuple):
    """A parsed manifest: the sha256 of files, by path, and of itself, empty if it cannot be read.

    Its problems are phrased to follow its name.
    """

    files: dict[str, str]
    sha256: str
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Remains:
    """The readable parts of a store.

    Attributes:
        storage: storage of the store.
        manifest: the sha256 of its files by path.
        kind: `CUBES`, `PAIRS` or `TARGETS`; None if unknown.
        attributes: attributes of the store; None if its `zarr.json` is damaged.
        arrays: by name, those with readable metadata.
        columns: columns of the tables by name, those that could be read.
    """

    storage: Storage
    manifest: Mapping[str, str]
    kind: str | None
    attributes: dict[str, Any] | None
    arrays: Mapping[str, metadata.Array]
    columns: Columns

    @property
    def window(self) -> Window | None:
        """Return the range of voxel values, if known."""
        window = (self.attributes or {}).get("window")
        try:
            return Window(*window) if window else None
        except (TypeError, ValueError):
            return None

    @property
    def cutting(self) -> dict[str, Any]:
        """Return the extraction parameters, any JSON by name; empty if unknown."""
        made = (self.attributes or {}).get(schema.KINDS[self.kind].cutting) if self.kind else None
        return made if isinstance(made, dict) else {}

    @property
    def voxels(self) -> metadata.Array | None:
        """Return the array of the cubes cut from scans, if known."""
        return self.arrays.get(next(iter(schema.KINDS[self.kind].voxels))) if self.kind else None

    def count(self, name: str) -> int | None:
        """Return the number of rows of an array, if known."""
        return len(self.arrays[name]) if name in self.arrays else None

    def reader(self, name: str) -> ShardReader:
        """Return a reader for an array of voxels that is among `arrays`."""
        array = self.arrays[name]
        return ShardReader(self.storage, name, array.shape, np.dtype(array.dtype), array.chunk)

    def table(self, table: type[AnyTable], folder: str = "") -> AnyTable:
        """Return a table whose columns below `folder` are all readable; a KeyError if one is not."""
        there = schema.array_names(self.kind, self.manifest) if self.kind else ()
        columns = schema.columns_of(table).items()
        names = [name for name, column in columns if not column.optional or folder + name in there]
        return table(**{name: self.columns[folder + name] for name in names})

    def shard(self, path: str) -> ShardPlace | None:
        """Return which shard a file is; None if it is not a shard, or if that is unknown."""
        array = self.arrays.get(path.split("/")[0]) if schema.is_shard(path) else None
        number = array.place(path) if array else None
        window = _OF_MASKS if array and array.name == "masks" else self.window
        return ShardPlace(array, number, window) if array and number is not None else None


def attributes_of(storage: Storage, kinds: Sequence[str]) -> dict[str, Any]:
    """Return the attributes of a store of one of these kinds, after checking format and version.

    Raises:
        CallError: it is something else, or unfinished.
        DataError: its format version differs, or it is damaged.
    """
    place = storage.place
    try:
        root = metadata.parse_json(read_within(storage, ROOT, metadata.MOST_METADATA))
        attributes = root["attributes"]["genesis"]
        name, version, finalised = attributes["format"], attributes["version"], attributes["finalised"]
    except DataError as error:
        raise DataError(f"{place}/{ROOT} {error}." if storage.near else str(error)) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError) and not storage.near:
            raise DataError(f"{place} cannot be read: {error.strerror}.") from None
        if _is_there(storage, MANIFEST):
            raise not_as_written(place, ROOT) from None
        if isinstance(error, FileNotFoundError) and not storage.near:
            raise CallError(
                f"There is no store at {place}: the server has no zarr.json there (404)."
            ) from None
        raise CallError(
            f"{place} is not a store made by genesis-prep: the zarr.json there does not "
            "describe such a store."
        ) from None
    made = schema.KINDS.get(name) if isinstance(name, str) else None
    if made is None or name not in kinds or not isinstance(attributes, dict):
        allowed = (schema.KINDS[kind] for kind in kinds)
        needed = " or ".join(f"a {one.noun} (made by {one.maker})" for one in allowed)
        found = made.noun if made else f"{words_of(name)} store"
        raise CallError(f"{place} is a {found}, but this command needs {needed}.")
    if version != made.version:
        wrote = read_log(storage).get("genesis-toolkit")
        by = f" (version {wrote})" if isinstance(wrote, str) and len(wrote) < _LONGEST_VERSION else ""
        raise DataError(
            f"{place} has format version {version}, but this program reads version {made.version}: use the "
            f"genesis-toolkit that wrote it{by}, or a later one."
        )
    if not finalised:
        raise CallError(f"{place} is not finished: repeat the command that makes the store to finish it.")
    return dict(attributes)


def read_log(storage: Storage) -> dict[str, Any]:
    """Return the facts of the run that made a store, any JSON by name; empty if its log is unreadable."""
    try:
        return dict(metadata.parse_json(read_within(storage, LOG, metadata.MOST_METADATA)))
    except (OSError, DataError, ValueError, TypeError):
        return {}


def read_manifest(storage: Storage) -> Manifest:
    """Read the manifest of a store; if it is unreadable, no file is known."""
    try:
        data = read_within(storage, MANIFEST, metadata.MOST_MANIFEST)
    except (OSError, DataError) as error:
        return Manifest({}, "", (f"cannot be read, so no file can be verified: {reason_of(error)}",))
    files, problems = metadata.strict_manifest(data)
    return Manifest(files, sha256_of(data), tuple(problems))


def read_remains(
    storage: Storage,
    manifest: Mapping[str, str],
    strangers: Collection[str],
    sound: Callable[[str], bool],
    held: Mapping[str, bytes] | None = None,
) -> tuple[Remains, list[Problem]]:
    """Read everything in a store except its voxels, as far as possible.

    Args:
        storage: storage of the store.
        manifest: the sha256 of its files by path.
        strangers: files in the store that the manifest does not list.
        sound: checks whether a file exists unchanged; other files are not read.
        held: contents of files that were already read.
    """

    reading = _Reading(storage, manifest, sound, held or {})
    problems, root = reading.problems, reading.json_of(ROOT)
    attributes = _inner(root, "attributes", "genesis")
    if not isinstance((attributes or {}).get("format"), str):
        attributes = None
        problems += [(ROOT, "does not identify a store")] if root is not None else ()
    kind = (attributes or {}).get("format") or _kind_of(manifest)
    if kind not in schema.KINDS:
        return Remains(storage, manifest, None, attributes, {}, {}), problems
    problems += attribute_problems(kind, attributes, manifest) if attributes else ()
    consolidated = _inner(root, "consolidated_metadata", "metadata")
    if root is not None and consolidated is None:
        problems.append((ROOT, "has no consolidated metadata"))
    arrays, size = reading.arrays(kind, consolidated), (attributes or {}).get("size")
    for name, array in arrays.items():
        if schema.is_voxels(name) and size is not None and list(array.shape[1:]) != size:
            problems.append((name, f"the cubes are {words_of(array.shape[1:])}, not {words_of(size)}"))
    columns = reading.columns(arrays, [*manifest, *strangers])
    problems += _row_problems(columns, attributes or {})
    return Remains(storage, manifest, kind, attributes, arrays, columns), problems


@dataclass(frozen=True)
class _Reading:
    """Reads the undamaged files of a store, and collects problems instead of raising them."""

    storage: Storage
    manifest: Mapping[str, str]
    sound: Callable[[str], bool]
    held: Mapping[str, bytes]
    problems: list[Problem] = field(default_factory=list)

    def json_of(self, path: str) -> dict[str, Any] | None:
        """Return the JSON object in a file."""
        return self._attempt(path, self._parsed, path) if self.sound(path) else None

    def arrays(self, kind: str, consolidated: Mapping[str, Any] | None) -> dict[str, metadata.Array]:
        """Return the arrays by name, as described by their own `zarr.json` or else by that of the store."""
        found = {}
        for name in schema.array_names(kind, self.manifest):
            own, again = self.json_of(f"{name}/{ROOT}"), (consolidated or {}).get(name)
            if own is not None and consolidated is not None and own != again:
                self.problems.append(
                    (name, f"the array's zarr.json contradicts the store's zarr.json on {name}")
                )
            if own is not None or again is not None:
                chosen = again if own is None else own
                found[name] = self._attempt(name, metadata.described, kind, name, chosen)
            elif consolidated is not None:
                self.problems.append((name, "has no description"))
        return {name: array for name, array in found.items() if array is not None}

    def columns(self, arrays: Mapping[str, metadata.Array], files: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return columns of tables by name, of arrays with consistent lengths and undamaged chunks."""
        believed, wrong = metadata.check_lengths(arrays, files)
        self.problems.extend(wrong)
        found = {}
        for name in sorted(believed):
            mine = [path for path in files if path.startswith(f"{name}/c/")]
            odd = [path for path in mine if path in self.manifest and arrays[name].place(path) is None]
            self.problems.extend((path, "is not a chunk of the array") for path in odd)
            if not schema.is_voxels(name) and all(map(self.sound, mine)):
                found[name] = self._attempt(name, metadata.read_column, arrays[name], self._chunk)
        return {name: column for name, column in found.items() if column is not None}

    def _attempt(self, name: str, what: Callable[..., Any], *given: Any) -> Any:
        try:
            return what(*given)
        except (OSError, ValueError, DataError) as error:
            self.problems.append((name, reason_of(error)))

    def _read(self, path: str, most: int) -> bytes:
        return self.held[path] if path in self.held else read_within(self.storage, path, most)

    def _parsed(self, path: str) -> dict[str, Any]:
        parsed = metadata.parse_json(self._read(path, metadata.MOST_METADATA))
        if not isinstance(parsed, dict):
            raise ValueError("is not a JSON object")
        return parsed

    def _chunk(self, path: str) -> bytes | None:
        return self._read(path, metadata.MOST_CHUNK) if path in self.manifest else None


def attribute_problems(kind: str, attributes: Mapping[str, Any], files: Collection[str]) -> Iterator[Problem]:
    """Yield the problems of attributes, any JSON by name, that a store cannot be used without."""
    said: Callable[[str], Any] = attributes.get
    made = schema.KINDS[kind]
    finalised, window, size, unit = map(said, ("finalised", "window", "size", "unit"))
    if finalised is not True:
        yield "finalised", f"is {words_of(finalised)}, but must be true"
    if not _whole_numbers(window, 2) or window[0] >= window[1]:
        yield "window", f"is {words_of(window)}, but must be the lowest and the highest value"
    if not any(_whole_numbers(size, edges) for edges in schema.EDGES) or min(size) < 1:
        yield "size", f"is {words_of(size)}, but must be two or three edges in voxels"
    if not isinstance(unit, str):
        yield "unit", f"is {words_of(unit)}, but must be a name"
    for name in dict.fromkeys(("parameters", made.cutting)):
        if not isinstance(said(name), dict):
            yield name, f"is {words_of(said(name))}, but must be parameters by name"
            return
    for name, least in made.numbers.items():
        value = attributes["parameters"].get(name)
        if type(value) is not int or value < least:
            yield f"parameters.{name}", f"is {words_of(value)}, but must be a whole number"
    if made.answers:
        task, classes = said("task"), said("classes")
        if not isinstance(task, str) or task not in made.answers:
            yield "task", f"is {words_of(task)}, but must be one of {', '.join(made.answers)}"
            return
        if not isinstance(classes, list) or not all(isinstance(one, str) for one in classes):
            yield "classes", f"are {words_of(classes)}, but must be names"
        for name in sorted({*made.answers.values()}):
            there = any(path.startswith(f"{name}/") for path in files)
            if there != (made.answers[task] == name):
                yield name, f"{_ARE[there]}, but the task {'has none' if there else 'needs them'}"


def where(wrong: NDArray[np.bool_], name: str, what: str, row: str) -> list[Problem]:
    """Return the problem `what` of a column, with the marked rows (`row` is their noun); empty if none."""
    numbers = np.flatnonzero(wrong).tolist()
    return [(name, f"{what}: {row} {listed(numbers)}")] if numbers else []


def _row_problems(columns: Columns, attributes: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield problems of numbers in tables that refer to nothing."""
    scan, scans, labels = columns.get("scan"), columns.get("scans/cubes"), columns.get("labels")
    if scan is not None and scans is not None:
        outside = (scan < 0) | (scan >= len(scans))
        yield from where(outside, "scan", f"is not one of the {len(scans):,} rows of scans", "cube")
    if "fold" in columns:
        strange = columns["fold"] >= len(schema.FOLDS)
        yield from where(strange, "fold", f"is none of {', '.join(schema.FOLDS)}", "cube")
    if labels is not None:
        unknown = (labels == schema.UNKNOWN) & (attributes.get("task") == "classify")
        yield from where(np.any((labels > 1) & ~unknown, axis=1), "labels", "is neither 0 nor 1", "cube")
        classes = attributes.get("classes")
        if isinstance(classes, list) and labels.shape[1] != len(classes):
            yield "labels", f"has {labels.shape[1]} columns, but the task has {len(classes)} classes"


def _whole_numbers(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(type(number) is int for number in value)


def _inner(root: Any, *names: str) -> dict[str, Any] | None:
    """Return an object inside parsed JSON; None if it does not exist."""
    for name in names:
        root = root.get(name) if isinstance(root, dict) else None
    return root if isinstance(root, dict) else None


def _kind_of(manifest: Mapping[str, str]) -> str | None:
    """Return the kind of a store with unreadable attributes, judged by its files."""
    there = {path.split("/")[0] for path in manifest}
    return next((kind for kind, names in _MARKS.items() if names <= there), None)


def _is_there(storage: Storage, path: str) -> bool:
    try:
        storage.size(path)
    except (OSError, DataError):
        return False
    return True
