"""Format version 1 of a store: the kinds of stores, their arrays, and the columns of their tables.

All code that reads, writes, checks or describes a store takes names, dtypes, axes and meanings from here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Annotated, Any, get_args, get_type_hints

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from genesis_toolkit.pipeline.store.shards import COMPRESSION_LEVEL, COMPRESSOR

#: Names of the kinds of stores.
CUBES = "genesis-cubes"
PAIRS = "genesis-pairs"
TARGETS = "genesis-targets"

AXES = ("x", "y", "z")
#: Possible numbers of edges of a cube: three, or two for a slice or an image.
EDGES = (2, 3)
#: Lengths of the other second dimensions.
WIDTH = {"axis": 3, "cosine": 9, "end": 2}
#: Possible dtypes of voxels, for which `Column.dtype` is the word `voxels`.
VOXELS = ("int16", "uint16", "uint8")
#: Rows per chunk of a table.
TABLE_ROWS = 65536
_SCORE = "Score of the tissue rule, 0..1"
#: Possible values of a scan's status.
STATUSES = ("used", "skipped", "failed")
#: Names of the folds, by number.
FOLDS = ("train", "validation", "test")
#: Names of the values of `scans/part`, by number.
PARTS = (*FOLDS, "exclude")
#: A label that is missing in the source table.
UNKNOWN = 255

_Strings = NDArray[Any]


@dataclass(frozen=True)
class Column:
    """One array of a store: a column of a table, or voxels.

    Attributes:
        meaning: a short description; docs/reference/store-format.md has more.
        others: names of the axes after the rows. For voxels the longest list; a slice has no z.
        flat: the description in stores of slices and images, if different.
        flags: meanings of its bits, in the terms of the CF conventions.
        dtype: as stored; `string`, or `voxels` for any of `VOXELS`.
        dimension: name of its rows.
        optional: whether some stores lack it; their table then holds None.
    """

    meaning: str
    others: tuple[str, ...] = ()
    flat: str = ""
    flags: str = ""
    dtype: str = ""
    dimension: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of a store, one array per column, each with a description. A missing column is None."""

    def __len__(self) -> int:
        return len(getattr(self, next(iter(vars(self)))))


@dataclass(frozen=True)
class ScanTable(Table):
    """One row per scan, whether used, skipped or failed."""

    identifier: Annotated[_Strings, Column("The scan's identifier, or a pseudonym.")]
    subset: Annotated[NDArray[np.int16], Column("LUNA16 subset, -1: none.")]
    path: Annotated[_Strings, Column("Path relative to the source, or a pseudonym.")]
    bytes: Annotated[NDArray[np.int64], Column("Bytes of the scan's files.")]
    sha256: Annotated[_Strings, Column("sha256 of the scan's files, or a pseudonym.")]
    shape: Annotated[NDArray[np.int32], Column("Voxels in x, y, z.", ("axis",))]
    spacing: Annotated[NDArray[np.float64], Column("Spacing in x, y, z, mm.", ("axis",))]
    origin: Annotated[NDArray[np.float64], Column("Origin in x, y, z, mm.", ("axis",))]
    direction: Annotated[NDArray[np.float64], Column("Direction cosines, row by row.", ("cosine",))]
    status: Annotated[_Strings, Column("used, skipped or failed.")]
    reason: Annotated[_Strings, Column("Why it was skipped or failed.")]
    cubes: Annotated[NDArray[np.int32], Column("Number of cubes cut from it.")]
    stream: Annotated[NDArray[np.uint64], Column("Random stream key.")]
    patient: Annotated[
        NDArray[np.uint64] | None,
        Column("Hash shared by the scans of one patient; used only for the split.", optional=True),
    ] = None
    part: Annotated[
        NDArray[np.uint8] | None,
        Column("0 train, 1 validation, 2 test, 3 exclude, by --split-file.", optional=True),
    ] = None
    window: Annotated[
        NDArray[np.float64] | None,
        Column("Own values mapped to the lowest and highest; both 0 if none.", ("end",), optional=True),
    ] = None
    inverted: Annotated[
        NDArray[np.uint8] | None,
        Column("1 if black and white were exchanged, as MONOCHROME1 requires.", optional=True),
    ] = None

    @property
    def names(self) -> _Strings:
        """Return each scan's display name: its path, or its identifier if the source is the scan's folder."""
        at_source = [path.partition("#")[0] == "." for path in self.path.tolist()]
        return np.where(at_source, self.identifier, self.path)


@dataclass(frozen=True)
class ImageTable(Table):
    """One row per row of `ScanTable`, for X-ray images: the content of the table next to the images."""

    patient: Annotated[_Strings, Column("Number of the patient, or a pseudonym.")]
    view: Annotated[_Strings, Column("View position, such as PA or AP.")]
    labels: Annotated[_Strings, Column("Findings, joined by |.")]


@dataclass(frozen=True)
class _Rows(Table):
    scan: Annotated[NDArray[np.int32], Column("Row of the cube's scan in scans, from 0.")]
    number: Annotated[NDArray[np.int32], Column("The cube's number in its scan, from 0.")]
    corner: Annotated[
        NDArray[np.int32],
        Column(
            "First voxel of the cube in the scan's x, y, z; -1 if unknown.",
            ("axis",),
            flat="First pixel in the scan's x, y, z.",
        ),
    ]


@dataclass(frozen=True)
class CubeTable(_Rows):
    """One row per cube: `scan`, `number`, `corner` and `tissue` (METHOD.md section 2)."""

    tissue: Annotated[NDArray[np.float64], Column(f"{_SCORE}.", flat=f"{_SCORE}; 0 for images.")]


@dataclass(frozen=True)
class TargetTable(_Rows):
    """One row per labelled cube: `scan`, `number`, `corner` and `fold`.

    If a scan is smaller than a cube, its corner is negative: the cube extends beyond it on both sides.
    """

    fold: Annotated[NDArray[np.uint8], Column("0 train, 1 validation, 2 test.")]


@dataclass(frozen=True)
class PairTable(Table):
    """One row per pair."""

    cube: Annotated[NDArray[np.int32], Column("Row of the pair's cube in cubes, from 0.")]
    variant: Annotated[NDArray[np.int32], Column("Number of the cube's degraded variant, from 0.")]
    flip: Annotated[
        NDArray[np.uint8],
        Column(
            "Bits: flip the original along x (1), y (2), z (4).",
            flat="Bits: flip the original along its first axis (1), its second (2).",
            flags="x y z",
        ),
    ]
    applied: Annotated[
        NDArray[np.uint8],
        Column(
            "Bits: non-linear (1), shuffling (2), in-painting (4), out-painting (8).",
            flags="nonlinear shuffle inpaint outpaint",
        ),
    ]


def _voxels(meaning: str, flat: str, dimension: str = "cube") -> Column:
    return Column(meaning, AXES, flat, dtype="voxels", dimension=dimension)


_CUBES = _voxels("Voxels x, y, z of a cube.", "Pixels of a patch or an image, columns first.")
_TWIN = "of the degraded variant, flipped."
_TWINS = _voxels(f"Voxels x, y, z {_TWIN}", f"Pixels {_TWIN}", "pair")


@dataclass(frozen=True)
class Kind:
    """Properties that distinguish one kind of store from the others.

    Attributes:
        noun: its name in texts.
        maker: the genesis-prep command that makes it.
        voxels: its arrays of voxels; the first holds the cubes.
        tables: its tables besides those of scans and images, by the name of their rows.
        others: arrays that are neither.
        cutting: the attribute with the extraction parameters of the cubes.
        numbers: integer parameters, and the minimum of each.
        answers: the possible tasks, and the array that holds the answers of each.
        version: version of its format.
    """

    noun: str
    maker: str
    voxels: dict[str, Column]
    tables: dict[str, type[Table]]
    others: dict[str, Column] = field(default_factory=dict)
    cutting: str = "parameters"
    numbers: dict[str, int] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    version: int = 1


#: All kinds, by the name in a store's attributes.
KINDS = {
    CUBES: Kind("cube store", "extract-cubes", {"cubes": _CUBES}, {"cube": CubeTable}),
    PAIRS: Kind(
        "pair store",
        "degrade",
        {"original": _CUBES, "degraded": _TWINS},
        {"cube": CubeTable, "pair": PairTable},
        cutting="cubes",
        numbers={"variants": 1, "seed": 0},
    ),
    TARGETS: Kind(
        "target store",
        "extract-targets",
        {"cubes": _CUBES, "masks": _voxels("Mask of the cube, 0 or 1.", "Mask of the image, 0 or 1.")},
        {"cube": TargetTable},
        {"labels": Column("0 or 1 for each class.", ("class",), dtype="uint8", dimension="cube")},
        answers={"ncc": "labels", "segment": "masks", "dxc": "labels", "classify": "labels"},
    ),
}
_NOT_IN_ALL = ("images", "masks", "labels")  # first part of the paths of optional arrays
_ALL_VOXELS = {name for kind in KINDS.values() for name in kind.voxels}


def columns_of(table: type[Table]) -> dict[str, Column]:
    """Return the columns of a table by name, in order."""
    hints, found = get_type_hints(table, include_extras=True), {}
    for one in fields(table):
        array, column = get_args(hints[one.name])
        if column.optional:
            array = get_args(array)[0]
        (number,) = get_args(get_args(array)[1])
        found[one.name] = replace(column, dtype="string" if number is Any else np.dtype(number).name)
    return found


@cache
def columns_of_kind(kind: str) -> dict[str, Column]:
    """Return all arrays that a store of this kind can have, by their paths in it."""
    made = KINDS[kind]
    tables = [("", dimension, table) for dimension, table in made.tables.items()]
    tables[1:1] = [("scans/", "scan", ScanTable), ("images/", "scan", ImageTable)]
    found = dict(made.voxels)
    for prefix, dimension, table in tables:
        for name, column in columns_of(table).items():
            found[prefix + name] = replace(column, dimension=dimension)
    return found | made.others


def has_images(files: Iterable[str]) -> bool:
    """Return whether a store, given its file names, has the table of images, as X-ray stores do."""
    return any(path.startswith("images/") for path in files)


def array_names(kind: str, files: Iterable[str] = ()) -> tuple[str, ...]:
    """Return all arrays of a store of this kind, by their paths in it.

    Its files show which optional parts it has: the table of images, masks or labels, and some columns.
    """
    files = list(files)
    there = {path.split("/")[0] for path in files} | {path.rpartition("/")[0] for path in files}
    found = []
    for name, column in columns_of_kind(kind).items():
        top = name.split("/")[0]
        if (top not in _NOT_IN_ALL or top in there) and (not column.optional or name in there):
            found.append(name)
    return tuple(found)


def is_voxels(name: str) -> bool:
    """Return whether an array holds voxels, in shards."""
    return name in _ALL_VOXELS


def is_shard(path: str) -> bool:
    """Return whether a file of a store, by its path in it, is a shard of voxels."""
    return is_voxels(path.split("/")[0]) and "/c/" in path


def write_table(group: zarr.Group, table: Table, dimension: str, edges: int = 3) -> None:
    """Write a table as one array per column; flip bits are described for the edges that a cube has."""
    for name, column in columns_of(type(table)).items():
        if column.optional and getattr(table, name) is None:
            continue
        numbers = column.dtype != "string"
        values = np.asarray(getattr(table, name), dtype=column.dtype if numbers else object)
        flags = column.flags.split()[: edges if name == "flip" else None]
        meanings = {"flag_masks": [1 << bit for bit in range(len(flags))], "flag_meanings": " ".join(flags)}
        write_column(group, name, values, (dimension, *column.others), meanings if flags else {})


def write_column(
    group: zarr.Group,
    name: str,
    values: NDArray[Any],
    dimensions: Sequence[str],
    attributes: dict[str, Any] | None = None,
) -> None:
    """Write one array without voxels; one of strings if `values` are objects."""
    dtype = None if values.dtype == object else values.dtype
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=(max(1, min(len(values), TABLE_ROWS)), *values.shape[1:]),
        dtype=str if dtype is None else dtype,
        compressors=codecs(dtype),
        dimension_names=dimensions,
        attributes=attributes or {},
    )
    array[...] = values


def codecs(dtype: np.dtype[Any] | None) -> tuple[BloscCodec, Crc32cCodec]:
    """Return the encoding of every array: blosc-lz4, with bitshuffle for numbers, then crc32c."""
    blosc = BloscCodec(
        typesize=dtype.itemsize if dtype else 1,
        cname=COMPRESSOR,
        clevel=COMPRESSION_LEVEL,
        shuffle="bitshuffle" if dtype else "noshuffle",
    )
    return blosc, Crc32cCodec()
