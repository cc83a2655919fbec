"""The tables of a store: what is known of every scan, cube and pair, one array a column."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from genesis_toolkit.pipeline.store.shards import COMPRESSION_LEVEL, COMPRESSOR

#: Rows in a chunk of a table.
TABLE_ROWS = 65536


@dataclass(frozen=True)
class ScanTable:
    """One row a scan, found, skipped or failed.

    Attributes:
        identifier: of the scan, the SeriesInstanceUID in LUNA16.
        subset: int16 [scan], the LUNA16 subset, -1 where there is none.
        path: relative to the source.
        bytes: int64 [scan], of its files together.
        sha256: of the scan's files, in hexadecimal; empty where they were not read.
        shape: int32 [scan, 3], voxels in x, y, z.
        spacing: float64 [scan, 3], mm.
        origin: float64 [scan, 3], mm.
        direction: float64 [scan, 9], the direction cosines, row by row.
        status: `used`, `skipped` (the rule leaves nothing to cut) or `failed` (it cannot be read).
        reason: why it was skipped or failed, else empty.
        cubes: int32 [scan], how many cubes it gave.
        stream: uint64 [scan], made of the identifier; the random streams of its cubes hang on it.
    """

    identifier: NDArray[Any]
    subset: NDArray[np.int16]
    path: NDArray[Any]
    bytes: NDArray[np.int64]
    sha256: NDArray[Any]
    shape: NDArray[np.int32]
    spacing: NDArray[np.float64]
    origin: NDArray[np.float64]
    direction: NDArray[np.float64]
    status: NDArray[Any]
    reason: NDArray[Any]
    cubes: NDArray[np.int32]
    stream: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.identifier)


@dataclass(frozen=True)
class ImageTable:
    """One row a row of `ScanTable`, of stores of X-ray images: what the table beside the images says.

    Attributes:
        patient: whose image it is, as a string; empty where the table does not tell.
        view: the view position, such as PA or AP.
        labels: the findings, joined by `|` as in NIH's table (METHOD.md section 5).
    """

    patient: NDArray[Any]
    view: NDArray[Any]
    labels: NDArray[Any]

    def __len__(self) -> int:
        return len(self.patient)


@dataclass(frozen=True)
class CubeTable:
    """One row a cube.

    Attributes:
        scan: int32 [cube], its row in the scan table.
        number: int32 [cube], its number within its scan, from 0.
        corner: int32 [cube, 3], the first voxel in the scan's x, y, z.
        tissue: float64 [cube], the tissue rule's score in 0..1 (METHOD.md section 2).
    """

    scan: NDArray[np.int32]
    number: NDArray[np.int32]
    corner: NDArray[np.int32]
    tissue: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.scan)


@dataclass(frozen=True)
class PairTable:
    """One row a pair.

    Attributes:
        cube: int32 [pair], its original.
        variant: int32 [pair], which of the degradations of that cube.
        flip: uint8 [pair], bit 0 flips x, bit 1 y, bit 2 z, where there is one; both members of the pair.
        applied: uint8 [pair], bits of `compose.Applied`.
    """

    cube: NDArray[np.int32]
    variant: NDArray[np.int32]
    flip: NDArray[np.uint8]
    applied: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.cube)


@dataclass(frozen=True)
class TargetTable:
    """One row a labelled cube.

    Attributes:
        scan: int32 [cube], its row in the scan table.
        number: int32 [cube], its number within its scan, from 0.
        corner: int32 [cube, 3], the first voxel in the scan's x, y, z; below 0 where the scan is smaller than
            a cube, which then reaches beyond it on both sides.
        fold: uint8 [cube], 0 train, 1 validation, 2 test.
    """

    scan: NDArray[np.int32]
    number: NDArray[np.int32]
    corner: NDArray[np.int32]
    fold: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.scan)


#: Any of the tables of a store.
Table = ScanTable | ImageTable | CubeTable | PairTable | TargetTable

#: dtype and second dimension of every table column, as stored.
COLUMNS: dict[str, tuple[str, str | None]] = {
    "identifier": ("string", None),
    "subset": ("int16", None),
    "path": ("string", None),
    "bytes": ("int64", None),
    "sha256": ("string", None),
    "shape": ("int32", "axis"),
    "spacing": ("float64", "axis"),
    "origin": ("float64", "axis"),
    "direction": ("float64", "cosine"),
    "status": ("string", None),
    "reason": ("string", None),
    "cubes": ("int32", None),
    "stream": ("uint64", None),
    "patient": ("string", None),
    "view": ("string", None),
    "labels": ("string", None),
    "scan": ("int32", None),
    "number": ("int32", None),
    "corner": ("int32", "axis"),
    "tissue": ("float64", None),
    "cube": ("int32", None),
    "variant": ("int32", None),
    "flip": ("uint8", None),
    "applied": ("uint8", None),
    "fold": ("uint8", None),
}
#: How long a second dimension is.
WIDTH = {"axis": 3, "cosine": 9}

# What the bits mean, in the words of the CF conventions.
_FLAGS = {"flip": "x y z", "applied": "nonlinear shuffle inpaint outpaint"}


def write_table(group: zarr.Group, table: Table, dimension: str, edges: int = 3) -> None:
    """Write a table as one array a column.

    Args:
        group: where.
        table: the rows.
        dimension: the name of the row axis.
        edges: how many a cube of the store has; the bits of flips are told for so many axes.
    """
    for field in fields(table):
        values = getattr(table, field.name)
        kind, second = COLUMNS[field.name]
        width = (WIDTH[second],) if second else ()
        dtype = None if kind == "string" else np.dtype(kind)
        array = group.create_array(
            field.name,
            shape=(len(values), *width),
            chunks=(max(1, min(len(values), TABLE_ROWS)), *width),
            dtype=str if dtype is None else dtype,
            compressors=codecs(dtype),
            dimension_names=(dimension, second) if second else (dimension,),
            attributes=_flags(field.name, edges),
        )
        array[...] = np.asarray(values, dtype=object) if dtype is None else np.asarray(values, dtype=dtype)


def _flags(name: str, edges: int) -> dict[str, Any]:
    if name not in _FLAGS:
        return {}
    words = _FLAGS[name].split()[: edges if name == "flip" else None]
    return {"flag_masks": [1 << bit for bit in range(len(words))], "flag_meanings": " ".join(words)}


def read_table(group: zarr.Group, table: type[Table]) -> dict[str, Any]:
    """The columns of a table by name.

    Raises:
        KeyError, ValueError: a column is missing, or damaged.
    """
    return {field.name: np.asarray(array_of(group, field.name)[...]) for field in fields(table)}


def array_of(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """An array of a group.

    Raises:
        KeyError, ValueError: there is none of that name.
    """
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise ValueError(f"{name} is no array")
    return array


def codecs(dtype: np.dtype[Any] | None) -> tuple[BloscCodec, Crc32cCodec]:
    """How every array is encoded: blosc-lz4, bits shuffled where there are numbers, then crc32c."""
    blosc = BloscCodec(
        typesize=dtype.itemsize if dtype else 1,
        cname=COMPRESSOR,
        clevel=COMPRESSION_LEVEL,
        shuffle="bitshuffle" if dtype else "noshuffle",
    )
    return blosc, Crc32cCodec()
