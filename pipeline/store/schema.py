"""The format of a store, version 1: the kinds of stores, their arrays, and the columns of their tables.

Whatever reads, writes, checks or describes a store takes names, dtypes, axes and meanings from here.
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

#: The kinds of stores.
CUBES = "genesis-cubes"
PAIRS = "genesis-pairs"
TARGETS = "genesis-targets"

AXES = ("x", "y", "z")
#: How many edges a cube may have: three, or two where it is a slice or an image.
EDGES = (2, 3)
#: How long the other second dimensions are.
WIDTH = {"axis": 3, "cosine": 9, "end": 2}
#: The dtypes that voxels may have; `Column.dtype` of voxels is the word `voxels`.
VOXELS = ("int16", "uint16", "uint8")
#: Rows in a chunk of a table.
TABLE_ROWS = 65536
_SCORE = "Score of the tissue rule, 0..1"
#: What became of a scan.
STATUSES = ("used", "skipped", "failed")
#: What the numbers of folds mean.
FOLDS = ("train", "validation", "test")
#: What the numbers of `scans/part` mean.
PARTS = (*FOLDS, "exclude")
#: A label that the table leaves empty.
UNKNOWN = 255

_Strings = NDArray[Any]


@dataclass(frozen=True)
class Column:
    """One array of a store: a column of a table, or voxels.

    Attributes:
        meaning: what it says, in few words; docs/reference/store-format.md says more.
        others: the names of its axes behind the rows. Of voxels all that there can be; a slice has no z.
        flat: what it says in stores of slices and images, where that differs.
        flags: what its bits mean, in the words of the CF conventions.
        dtype: as stored; `string`, or `voxels` for any of `VOXELS`.
        dimension: the name of its rows.
        optional: whether not every store has it; its table then holds None.
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
    """Rows of a store, one array a column; every column says what it is. One that it lacks is None."""

    def __len__(self) -> int:
        return len(getattr(self, next(iter(vars(self)))))


@dataclass(frozen=True)
class ScanTable(Table):
    """One row a scan, found, skipped or failed."""

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
    cubes: Annotated[NDArray[np.int32], Column("Cubes that it gave.")]
    stream: Annotated[NDArray[np.uint64], Column("Random stream key.")]
    patient: Annotated[
        NDArray[np.uint64] | None,
        Column("Which scans are of one patient, by a hash; for the split alone.", optional=True),
    ] = None
    part: Annotated[
        NDArray[np.uint8] | None,
        Column("0 train, 1 validation, 2 test, 3 exclude, by --split-file.", optional=True),
    ] = None
    window: Annotated[
        NDArray[np.float64] | None,
        Column("Own values that became the lowest and the highest; both 0: none.", ("end",), optional=True),
    ] = None
    inverted: Annotated[
        NDArray[np.uint8] | None,
        Column("1 where black and white were exchanged, as MONOCHROME1 asks for.", optional=True),
    ] = None

    @property
    def names(self) -> _Strings:
        """What to call each scan: its path; its identifier where the source itself is the scan's folder."""
        at_source = [path.partition("#")[0] == "." for path in self.path.tolist()]
        return np.where(at_source, self.identifier, self.path)


@dataclass(frozen=True)
class ImageTable(Table):
    """One row a row of `ScanTable`, of X-ray images: what the table beside the images says; else empty."""

    patient: Annotated[_Strings, Column("Whose image it is, or a pseudonym.")]
    view: Annotated[_Strings, Column("View position, such as PA or AP.")]
    labels: Annotated[_Strings, Column("Findings, joined by |.")]


@dataclass(frozen=True)
class _Rows(Table):
    scan: Annotated[NDArray[np.int32], Column("Row of the cube's scan in scans, from 0.")]
    number: Annotated[NDArray[np.int32], Column("The cube's number in its scan, from 0.")]
    corner: Annotated[
        NDArray[np.int32],
        Column(
            "First voxel of the cube in the scan's x, y, z; -1: not known.",
            ("axis",),
            flat="First pixel in the scan's x, y, z.",
        ),
    ]


@dataclass(frozen=True)
class CubeTable(_Rows):
    """One row a cube: `scan`, `number`, `corner` and `tissue` (METHOD.md section 2)."""

    tissue: Annotated[NDArray[np.float64], Column(f"{_SCORE}.", flat=f"{_SCORE}; images have none, and 0.")]


@dataclass(frozen=True)
class TargetTable(_Rows):
    """One row a labelled cube: `scan`, `number`, `corner` and `fold`.

    Where a scan is smaller than a cube, its corner is below 0: the cube reaches beyond it on both sides.
    """

    fold: Annotated[NDArray[np.uint8], Column("0 train, 1 validation, 2 test.")]


@dataclass(frozen=True)
class PairTable(Table):
    """One row a pair."""

    cube: Annotated[NDArray[np.int32], Column("Row of the pair's cube in cubes, from 0.")]
    variant: Annotated[NDArray[np.int32], Column("Which of the cube's degraded twins, from 0.")]
    flip: Annotated[
        NDArray[np.uint8],
        Column(
            "Bits: the original is to be flipped along x (1), y (2), z (4).",
            flat="Bits: the original is to be flipped along its first axis (1), its second (2).",
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
_TWIN = "of the degraded twin, flipped."
_TWINS = _voxels(f"Voxels x, y, z {_TWIN}", f"Pixels {_TWIN}", "pair")


@dataclass(frozen=True)
class Kind:
    """What sets one kind of store apart from the others.

    Attributes:
        noun: what people call it.
        maker: the command of genesis-prep that makes it.
        voxels: its arrays of voxels; the first holds the cubes.
        tables: its tables besides those of scans and images, by the name of their rows.
        others: arrays that are neither.
        cutting: the attribute that holds the parameters with which the cubes were cut.
        numbers: whole numbers among its parameters, and the least that each may be.
        answers: the tasks that there are, and the array that holds the answers of each.
        version: of its format.
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


#: All kinds, by the name that stands in a store's attributes.
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
_NOT_IN_ALL = ("images", "masks", "labels")  # by the first part of an array's path
_ALL_VOXELS = {name for kind in KINDS.values() for name in kind.voxels}


def columns_of(table: type[Table]) -> dict[str, Column]:
    """The columns of a table by name, in order."""
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
    """All arrays that a store of this kind can have, by their paths in it."""
    made = KINDS[kind]
    tables = [("", dimension, table) for dimension, table in made.tables.items()]
    tables[1:1] = [("scans/", "scan", ScanTable), ("images/", "scan", ImageTable)]
    found = dict(made.voxels)
    for prefix, dimension, table in tables:
        for name, column in columns_of(table).items():
            found[prefix + name] = replace(column, dimension=dimension)
    return found | made.others


def has_images(files: Iterable[str]) -> bool:
    """Whether a store has the table of images, as those of X-ray images do, by the names of its files."""
    return any(path.startswith("images/") for path in files)


def array_names(kind: str, files: Iterable[str] = ()) -> tuple[str, ...]:
    """All arrays of a store of this kind, by their paths in it.

    Its files tell what it has of that not every store has: the table of images, masks or labels, and the
    columns of some tables.
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
    """Whether an array holds voxels, in shards."""
    return name in _ALL_VOXELS


def is_shard(path: str) -> bool:
    """Whether a file of a store, by its path in it, is a shard of voxels."""
    return is_voxels(path.split("/")[0]) and "/c/" in path


def write_table(group: zarr.Group, table: Table, dimension: str, edges: int = 3) -> None:
    """Write a table as one array a column; the bits of flips are told for the edges that a cube has."""
    for name, column in columns_of(type(table)).items():
        if column.optional and getattr(table, name) is None:
            continue
        numbers = column.dtype != "string"
        values = np.asarray(getattr(table, name), dtype=column.dtype if numbers else object)
        flags = column.flags.split()[: edges if name == "flip" else None]
        told = {"flag_masks": [1 << bit for bit in range(len(flags))], "flag_meanings": " ".join(flags)}
        write_column(group, name, values, (dimension, *column.others), told if flags else {})


def write_column(
    group: zarr.Group,
    name: str,
    values: NDArray[Any],
    dimensions: Sequence[str],
    attributes: dict[str, Any] | None = None,
) -> None:
    """Write one array that holds no voxels; one of strings where `values` are objects."""
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
    """How every array is encoded: blosc-lz4, bits shuffled where there are numbers, then crc32c."""
    blosc = BloscCodec(
        typesize=dtype.itemsize if dtype else 1,
        cname=COMPRESSOR,
        clevel=COMPRESSION_LEVEL,
        shuffle="bitshuffle" if dtype else "noshuffle",
    )
    return blosc, Crc32cCodec()
