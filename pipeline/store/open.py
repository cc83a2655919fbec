"""The three kinds of stores as Python sees them: opening one, and taking cubes, pairs or targets out of it.

All are Zarr v3 groups. Axis order is (cube, x, y, z) everywhere, voxels are whole numbers in the store's
window, and `attrs["genesis"]` says what the store is and every parameter that made it. A store of slices or
images has no z: `[cube, x, y]`. The table `images` is there in stores of X-ray images alone.

    cubes.zarr                         pairs.zarr                         targets.zarr
      cubes    [cube, x, y, z]           original  [cube, x, y, z]          cubes   [cube, x, y, z]
      scan     [cube]                    degraded  [pair, x, y, z]          masks   [cube, x, y, z], or
      number   [cube]                    cube, variant, flip,               labels  [cube, class]
      corner   [cube, 3]                 applied   [pair]                   scan, number, corner,
      tissue   [cube]                    scan, number, corner, tissue       fold    [cube]
      scans/, images/  [scan]            scans/, images/                    scans/, images/

The pair of cube c and variant v is number v * cubes + c, so one epoch lies together. The flip of a pair is
made again from its bits when the original is read.
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

#: A row of a store, or several: a slice, numbers in a list or an array, or one True or False a row.
Rows = int | np.integer[Any] | slice | Sequence[int] | NDArray[Any]
#: What one row of a store is.
Row = TypeVar("Row")


@dataclass(frozen=True, eq=False, repr=False)
class Store(Generic[Row]):
    """A store, opened: `len` counts its rows, `store[i]` reads one, `store[2:8]` and `store[[4, 1]]` several.

    Of several rows all arrays have the row as their first axis.

    Attributes:
        storage: where it lies.
        manifest: the sha256 of every file.
        manifest_sha256: of the manifest itself.
        attributes: what it says of itself.
        scans: one row a scan.
        images: one row a scan too, of X-ray images; else None.
        table: one row a cube.
    """

    storage: Storage
    manifest: Mapping[str, str]
    manifest_sha256: str
    attributes: dict[str, Any]
    scans: schema.ScanTable
    images: schema.ImageTable | None
    table: schema.CubeTable | schema.TargetTable

    #: What its rows are called, one and several.
    ROWS: ClassVar = ("cube", "cubes")

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, key: Rows) -> Row:
        """What one row holds, or several.

        Raises:
            IndexError: there is no such row.
            CallError: `key` is nothing of `Rows`.
            DataError: what lies there is damaged.
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
        try:  # from a server every cube would have to come first
            cubes = self._read(shown)[0] if self.storage.near else ()
        except DataError:
            cubes = ()
        return store_html(f"{type(self).__name__} {self.storage.place}", self._facts(), cubes, self.window)

    @property
    def window(self) -> Window:
        """The whole numbers a voxel may have: `low, high = store.window`."""
        return Window(*self.attributes["window"])

    @property
    def size(self) -> tuple[int, ...]:
        """The edges of a cube in voxels: x, y, z, or x, y of a slice or an image."""
        return tuple(self.attributes["size"])

    @property
    def frame(self) -> dict[str, Any]:
        """What a store made of this one says too: window, unit and size."""
        return {name: self.attributes[name] for name in ("window", "unit", "size")}

    @property
    def contents(self) -> str:
        """What it holds, in words: `12 cubes of 64 x 64 x 32 voxels`."""
        return f"{counted(len(self), *self.ROWS)} of {size_words(self.size)}"

    @property
    def values(self) -> str:
        """What its voxels are, in words: `-1000 .. 1000 HU`."""
        return "{} .. {} {}".format(*self.window, self.attributes["unit"])

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

    @classmethod
    def _parts(cls, remains: salvage.Remains) -> tuple[Any, ...]:
        """The fields that a kind has, from `table` on, of a store that is whole."""
        raise NotImplementedError

    def _read(self, rows: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        """What these rows hold."""
        raise NotImplementedError

    def _facts(self) -> list[tuple[str, str]]:
        """What it holds, as names and values."""
        noun = "scans" if self.images is None else "images"
        return [("holds", self.contents), ("values", self.values), (noun, statuses_words(self.scans))]


@dataclass(frozen=True, eq=False, repr=False)
class CubeStore(Store[NDArray[Any]]):
    """A cube store, opened; a row is a cube, int16 [x, y, z] in HU, or of images uint8 [x, y].

    Attributes:
        cubes: reads voxels into an array that is there already.
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
    """A pair store, opened; a row is a pair: a degraded cube, and its original flipped as that one is.

    Attributes:
        pairs: one row a pair.
        original, degraded: read voxels into an array that is there already; originals are not flipped.
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
        """How many degraded twins every cube has."""
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
        made = f"seed {self.seed}, {counted(self.variants, 'variant')} of every cube"
        return [*super()._facts(), ("degraded with", made)]


@dataclass(frozen=True, eq=False, repr=False)
class TargetStore(Store[tuple[NDArray[Any], NDArray[np.uint8]]]):
    """A target store, opened; a row is a cube with its mask, or with its labels.

    Attributes:
        labels: uint8 [cube, class], 0 or 1; None of segmentation.
        cubes: reads voxels, int16 [x, y, z] in HU, or uint8 [x, y] in grey levels.
        masks: reads masks, uint8 [x, y, z], 0 or 1; None but of segmentation.
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
        """The names of the columns of `labels`; of segmentation, what a mask marks."""
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
    """Open a finished store, once its tables and metadata are known to be those that were written.

    Every file but the shards is compared with the manifest, and the tables are taken from the very bytes that
    were compared; the shards are looked at when they are read.

    Args:
        place: a folder, an archive that `pack` made, or a URL of either's folder.
        kinds: what it may be, of `CubeStore`, `PairStore` and `TargetStore`; none stands for all.

    Raises:
        CallError: there is nothing at `place`, it is still being made, or it is something else.
        DataError: it is of another format version, or a part is missing or damaged.
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
    """Where a store of one of these kinds lies: a folder, an archive, or a server.

    Raises:
        CallError: there is nothing, it is still being made, or it is of a kind that is not read.
        DataError: an archive that cannot be read.
    """
    if is_url(place):
        from genesis_toolkit.pipeline.store.remote import Remote

        if str(place).rstrip("/").lower().endswith(ARCHIVE):
            raise CallError(
                f"{place} is an archive on a server, and only folders are read there: unpack it on the "
                "server and give the folder's address, or download it and give the file."
            )
        return Remote(str(place))
    path = Path(place)
    check_store(path, schema.KINDS[kinds[0]].maker)
    if path.is_file():
        if path.suffix.lower() != ARCHIVE:
            raise CallError(f"{path} is no store: a folder, a {ARCHIVE} archive or a URL is wanted.")
        return Archive(path)
    return Folder(path)


def open_cubes(place: AnyPath) -> CubeStore:
    """Open a finished cube store, as `open_store` does."""
    return open_store(place, CubeStore)


def open_targets(place: AnyPath) -> TargetStore:
    """Open a finished target store, as `open_store` does."""
    return open_store(place, TargetStore)


def row_numbers(key: Any, count: int) -> NDArray[np.int64]:
    """Which rows, of `count`, a key of `Rows` asks for; negative numbers count from the end.

    Raises:
        IndexError: there is no such row.
        CallError: `key` is nothing of the kind.
    """
    if isinstance(key, slice):
        return np.arange(*key.indices(count), dtype=np.int64)
    rows = np.asarray(None if isinstance(key, tuple) else key)
    if rows.size == 0:
        return np.empty(0, np.int64)
    if rows.ndim != 1 or rows.dtype.kind not in "biu":
        raise CallError(
            f"store[{words_of(key)}]: a store has one axis, its rows: store[3], store[2:8] or store[[4, 1]]."
        )
    if rows.dtype.kind == "b":
        if len(rows) != count:
            raise IndexError(f"{len(rows):,} times True or False, and the store has {count:,} rows")
        return np.flatnonzero(rows)
    outside = rows[(rows < -count) | (rows >= count)]
    if len(outside):
        raise IndexError(f"row {outside[0]} is out of range: the store has {count:,}")
    return np.where(rows < 0, rows + count, rows).astype(np.int64)


def statuses_words(scans: schema.ScanTable) -> str:
    """How many scans there are by what became of them: `9 used, 0 skipped, 1 failed`."""
    status = Counter(scans.status.tolist())
    return ", ".join(f"{status[word]:,} {word}" for word in schema.STATUSES)


def begun_at(store: CubeStore) -> int:
    """When the run that finished a store began, in ns; 0 where its log does not say: then all is hashed."""
    try:
        return int(datetime.fromisoformat(salvage.read_log(store.storage)["started"]).timestamp() * 10**9)
    except (ValueError, KeyError, TypeError):
        return 0


def _refuse(storage: Storage, problems: Sequence[salvage.Problem]) -> None:
    """Raise the first problem, if there is any."""
    for name, what in problems:
        raise DataError(f"The store {storage.place} is damaged: {name}: {what}.")


def _opened(remains: salvage.Remains, manifest_sha256: str) -> Store[Any]:
    """A store of which everything could be read."""
    attributes, files = dict(remains.attributes or {}), dict(remains.manifest)
    images = remains.table(schema.ImageTable, "images/") if schema.has_images(files) else None
    kind, scans = _STORES[attributes["format"]], remains.table(schema.ScanTable, "scans/")
    return kind(remains.storage, files, manifest_sha256, attributes, scans, images, *kind._parts(remains))
