"""Opens the three kinds of stores in Python, and reads cubes, pairs or targets from them.

All are Zarr v3 groups. Axis order is (cube, x, y, z) everywhere, voxels are whole numbers in the store's
window, and `attrs["genesis"]` holds the kind of store and every parameter that made it. A store of slices or
images has no z: `[cube, x, y]`. Only stores of X-ray images have the table `images`.

    cubes.zarr                         pairs.zarr                         targets.zarr
      cubes    [cube, x, y, z]           original  [cube, x, y, z]          cubes   [cube, x, y, z]
      scan     [cube]                    degraded  [pair, x, y, z]          masks   [cube, x, y, z], or
      number   [cube]                    cube, variant, flip,               labels  [cube, class]
      corner   [cube, 3]                 applied   [pair]                   scan, number, corner,
      tissue   [cube]                    scan, number, corner, tissue       fold    [cube]
      scans/, images/  [scan]            scans/, images/                    scans/, images/

The pair of cube c and variant v has number v * cubes + c, so each epoch is contiguous. The original of a pair
is flipped according to its bits when it is read.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.absent import check_store
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.pipeline.ledger import MANIFEST, AnyPath
from genesis_toolkit.pipeline.store import salvage, schema
from genesis_toolkit.pipeline.store.examine import verified
from genesis_toolkit.pipeline.store.notebook import MOST_CUBES, store_html
from genesis_toolkit.pipeline.store.shards import ShardReader
from genesis_toolkit.pipeline.store.storage import ARCHIVE, Archive, Folder, Storage, is_url
from genesis_toolkit.pipeline.wording import counted, listed, size_words, words_of

#: One or more rows of a store: a slice, numbers in a list or an array, or a boolean per row.
Rows = int | np.integer[Any] | slice | Sequence[int] | NDArray[Any]
#: Type of one row of a store.
Row = TypeVar("Row")


@dataclass(frozen=True, eq=False, repr=False)
class Store(Generic[Row]):
    """An open store: `len` counts its rows, `store[i]` reads one, `store[2:8]` and `store[[4, 1]]` several.

    When several rows are read, the first axis of every array is the row.

    Attributes:
        storage: access to its files.
        manifest: the sha256 of every file.
        manifest_sha256: sha256 of the manifest itself.
        attributes: its description and parameters.
        scans: one row per scan.
        images: one row per scan too, for X-ray images; else None.
        table: one row per cube.
    """

    storage: Storage
    manifest: Mapping[str, str]
    manifest_sha256: str
    attributes: dict[str, Any]
    scans: schema.ScanTable
    images: schema.ImageTable | None
    table: schema.CubeTable | schema.TargetTable

    #: Noun for its rows, singular and plural.
    ROWS: ClassVar = ("cube", "cubes")

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, key: Rows) -> Row:
        """Return one row, or several.

        Raises:
            IndexError: there is no such row.
            CallError: `key` is none of the types of `Rows`.
            DataError: the data are damaged.
        """
        one = isinstance(key, int | np.integer)
        found = self._read(row_numbers([key] if one else key, len(self)))
        parts: Any = tuple(part[0] for part in found) if one else found
        return parts if len(parts) > 1 else parts[0]  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[Row]:
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.storage.place}: {self.contents}, {self.values}>"

    def _repr_html_(self) -> str:
        shown = np.arange(0, len(self), max(1, -(-len(self) // MOST_CUBES)))
        try:  # on a server, every cube would have to be downloaded first
            cubes = self._read(shown)[0] if self.storage.near else ()
        except DataError:
            cubes = ()
        return store_html(f"{type(self).__name__} {self.storage.place}", self._facts(), cubes, self.window)

    @property
    def window(self) -> Window:
        """The range of whole numbers that a voxel may have: `low, high = store.window`."""
        return Window(*self.attributes["window"])

    @property
    def size(self) -> tuple[int, ...]:
        """The edges of a cube in voxels: x, y, z, or x, y for a slice or an image."""
        return tuple(self.attributes["size"])

    @property
    def frame(self) -> dict[str, Any]:
        """Properties that a store made from this one inherits: window, unit and size."""
        return {name: self.attributes[name] for name in ("window", "unit", "size")}

    @property
    def contents(self) -> str:
        """Description of its contents: `12 cubes of 64 x 64 x 32 voxels`."""
        return f"{counted(len(self), *self.ROWS)} of {size_words(self.size)}"

    @property
    def values(self) -> str:
        """Description of its voxel values: `-1000 .. 1000 HU`."""
        return "{} .. {} {}".format(*self.window, self.attributes["unit"])

    @property
    def path(self) -> Path:
        """The store's folder, for operations on disk.

        Raises:
            CallError: it is in an archive or on a server.
        """
        if not isinstance(self.storage, Folder):
            raise CallError(f"{self.storage.place} is not a folder: unpack or download the store first.")
        return Path(self.storage.place)

    def streams(self) -> NDArray[np.uint64]:
        """The random stream key of every cube: uint64 [cube]."""
        return self.scans.stream[self.table.scan]

    @classmethod
    def _parts(cls, remains: salvage.Remains) -> tuple[Any, ...]:
        """Return the fields of a kind, from `table` on, for an undamaged store."""
        raise NotImplementedError

    def _read(self, rows: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        """Read these rows."""
        raise NotImplementedError

    def _facts(self) -> list[tuple[str, str]]:
        """Return the properties of the store as names and values."""
        noun = "scans" if self.images is None else "images"
        return [("holds", self.contents), ("values", self.values), (noun, statuses_words(self.scans))]


@dataclass(frozen=True, eq=False, repr=False)
class CubeStore(Store[NDArray[Any]]):
    """An open cube store; a row is a cube, int16 [x, y, z] in HU, or for images uint8 [x, y].

    Attributes:
        cubes: reads voxels into an existing array.
    """

    table: schema.CubeTable
    cubes: ShardReader

    @classmethod
    def _parts(cls, remains: salvage.Remains) -> tuple[Any, ...]:
        return (remains.table(schema.CubeTable), remains.reader("cubes"))

    def _read(self, rows: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        return (self.cubes.rows(rows),)


@dataclass(frozen=True, eq=False, repr=False)
class PairStore(Store[tuple[NDArray[Any], NDArray[Any]]]):
    """An open pair store; a row is a pair: a degraded cube, and its original with the same flips.

    Attributes:
        pairs: one row per pair.
        original, degraded: read voxels into an existing array; originals are not flipped.
    """

    table: schema.CubeTable
    pairs: schema.PairTable
    original: ShardReader
    degraded: ShardReader

    ROWS: ClassVar = ("pair", "pairs")

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def variants(self) -> int:
        """Number of degraded variants per cube."""
        return int(self.attributes["parameters"]["variants"])

    @property
    def seed(self) -> int:
        """The seed of the degradations."""
        return int(self.attributes["parameters"]["seed"])

    @classmethod
    def _parts(cls, remains: salvage.Remains) -> tuple[Any, ...]:
        readers = remains.reader("original"), remains.reader("degraded")
        return (remains.table(schema.CubeTable), remains.table(schema.PairTable), *readers)

    def _read(self, rows: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        original = self.original.rows(self.pairs.cube[rows])
        for cube, bits in zip(original, self.pairs.flip[rows].tolist(), strict=True):
            cube[...] = np.flip(cube, tuple(axis for axis in range(cube.ndim) if bits >> axis & 1)).copy()
        return self.degraded.rows(rows), original

    def _facts(self) -> list[tuple[str, str]]:
        made = f"seed {self.seed}, {counted(self.variants, 'variant')} per cube"
        return [*super()._facts(), ("degraded with", made)]


@dataclass(frozen=True, eq=False, repr=False)
class TargetStore(Store[tuple[NDArray[Any], NDArray[np.uint8]]]):
    """An open target store; a row is a cube with its mask, or with its labels.

    Attributes:
        labels: uint8 [cube, class], 0 or 1, and 255 if unknown; None for segmentation.
        cubes: reads voxels, int16 [x, y, z] in HU, or uint8 [x, y] in grey levels.
        masks: reads masks, uint8 [x, y, z], 0 or 1; None except for segmentation.
    """

    table: schema.TargetTable
    labels: NDArray[np.uint8] | None
    cubes: ShardReader
    masks: ShardReader | None

    ROWS: ClassVar = ("labelled cube", "labelled cubes")

    @property
    def task(self) -> str:
        """`ncc`, `segment` or `dxc`."""
        return str(self.attributes["task"])

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the columns of `labels`; for segmentation, what a mask marks."""
        return tuple(self.attributes["classes"])

    @classmethod
    def _parts(cls, remains: salvage.Remains) -> tuple[Any, ...]:
        masks = remains.reader("masks") if "masks" in remains.arrays else None
        labels = remains.columns.get("labels")
        return (remains.table(schema.TargetTable), labels, remains.reader("cubes"), masks)

    def _read(self, rows: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        answers = self.masks.rows(rows) if self.masks else np.asarray(self.labels)[rows]
        return self.cubes.rows(rows), answers

    def _facts(self) -> list[tuple[str, str]]:
        count = np.bincount(self.table.fold, minlength=len(schema.FOLDS)).tolist()
        folds = ", ".join(f"{number:,} {name}" for name, number in zip(schema.FOLDS, count, strict=True))
        return [*super()._facts(), ("task", f"{self.task}: {listed(self.classes)}"), ("folds", folds)]


_STORES: dict[str, type[Store[Any]]] = {
    schema.CUBES: CubeStore,
    schema.PAIRS: PairStore,
    schema.TARGETS: TargetStore,
}

AnyStore = CubeStore | PairStore | TargetStore
_A = TypeVar("_A", bound=Store[Any])
_B = TypeVar("_B", bound=Store[Any])


@overload
def open_store(place: AnyPath) -> AnyStore: ...
@overload
def open_store(place: AnyPath, kind: type[_A], /) -> _A: ...
@overload
def open_store(place: AnyPath, kind: type[_A], other: type[_B], /) -> _A | _B: ...
def open_store(place: AnyPath, *kinds: type[Store[Any]]) -> Any:
    """Open a finished store, after verifying its tables and metadata.

    Every file but the shards is compared with its sha256 in the manifest, and the tables are parsed from the
    bytes that were compared; shards are checked when they are read.

    Args:
        place: a folder, an archive made by `pack`, or the URL of a store's folder.
        kinds: accepted kinds, among `CubeStore`, `PairStore` and `TargetStore`; none means all.

    Raises:
        CallError: there is nothing at `place`, the store is unfinished, or it is something else.
        DataError: its format version differs, or a part is missing or damaged.
    """
    allowed = tuple(name for name, kind in _STORES.items() if not kinds or kind in kinds)
    storage = finished_storage(place, allowed)
    salvage.attributes_of(storage, allowed)
    manifest = salvage.read_manifest(storage)
    _refuse(storage, [(MANIFEST, problem) for problem in manifest.problems])
    held = verified(storage, manifest.files)
    remains, problems = salvage.read_remains(storage, manifest.files, (), held.__contains__, held)
    _refuse(storage, problems)
    if remains.attributes is None:
        _refuse(storage, [(MANIFEST, f"no line names {salvage.ROOT}")])
    return _opened(remains, manifest.sha256)


def finished_storage(place: AnyPath, kinds: Sequence[str] = tuple(schema.KINDS)) -> Storage:
    """Return access to the files of a store of one of these kinds: a folder, an archive, or a server.

    Raises:
        CallError: there is nothing, the store is unfinished, or it is of another kind.
        DataError: an archive cannot be read.
    """
    if is_url(place):
        from genesis_toolkit.pipeline.store.remote import Remote

        if str(place).rstrip("/").lower().endswith(ARCHIVE):
            raise CallError(
                f"{place} is an archive on a server, where only folders can be read: unpack "
                "the archive on the server and give the folder's address, or download the "
                "archive and give the file."
            )
        return Remote(str(place))
    path = Path(place)
    check_store(path, schema.KINDS[kinds[0]].maker)
    if path.is_file():
        if path.suffix.lower() != ARCHIVE:
            raise CallError(f"{path} is not a store: a store must be a folder, a {ARCHIVE} archive or a URL.")
        return Archive(path)
    return Folder(path)


def open_cubes(place: AnyPath) -> CubeStore:
    """Open a finished cube store, see `open_store`."""
    return open_store(place, CubeStore)


def open_targets(place: AnyPath) -> TargetStore:
    """Open a finished target store, see `open_store`."""
    return open_store(place, TargetStore)


def row_numbers(key: Any, count: int) -> NDArray[np.int64]:
    """Return the rows, out of `count`, that a key of type `Rows` selects; negative ones count from the end.

    Raises:
        IndexError: there is no such row.
        CallError: `key` has another type.
    """
    if isinstance(key, slice):
        return np.arange(*key.indices(count), dtype=np.int64)
    rows = np.asarray(None if isinstance(key, tuple) else key)
    if rows.size == 0:
        return np.empty(0, np.int64)
    if rows.ndim != 1 or rows.dtype.kind not in "biu":
        raise CallError(
            f"store[{words_of(key)}]: a store has one axis, its rows: use store[3], "
            "store[2:8] or store[[4, 1]]."
        )
    if rows.dtype.kind == "b":
        if len(rows) != count:
            raise IndexError(f"{len(rows):,} times True or False, but the store has {count:,} rows")
        return np.flatnonzero(rows)
    outside = rows[(rows < -count) | (rows >= count)]
    if len(outside):
        raise IndexError(f"row {outside[0]} is out of range: the store has {count:,}")
    return np.where(rows < 0, rows + count, rows).astype(np.int64)


def statuses_words(scans: schema.ScanTable) -> str:
    """Return the number of scans by status: `9 used, 0 skipped, 1 failed`."""
    status = Counter(scans.status.tolist())
    return ", ".join(f"{status[word]:,} {word}" for word in schema.STATUSES)


def begun_at(store: CubeStore) -> int:
    """Return when the run that finished a store started, in ns; 0 if unknown, and then all is hashed."""
    try:
        return int(datetime.fromisoformat(salvage.read_log(store.storage)["started"]).timestamp() * 10**9)
    except (ValueError, KeyError, TypeError):
        return 0


def _refuse(storage: Storage, problems: Sequence[salvage.Problem]) -> None:
    """Raise the first problem, if there is any."""
    for name, what in problems:
        raise DataError(f"The store {storage.place} is damaged: {name}: {what}.")


def _opened(remains: salvage.Remains, manifest_sha256: str) -> Store[Any]:
    """Return an open store, all of whose parts could be read."""
    attributes, files = dict(remains.attributes or {}), dict(remains.manifest)
    images = remains.table(schema.ImageTable, "images/") if schema.has_images(files) else None
    kind, scans = _STORES[attributes["format"]], remains.table(schema.ScanTable, "scans/")
    return kind(remains.storage, files, manifest_sha256, attributes, scans, images, *kind._parts(remains))
