"""Writing a store: its group, arrays and tables, around shards that lie there already."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.ledger import MANIFEST, settle
from genesis_toolkit.pipeline.store.attributes import read_attributes
from genesis_toolkit.pipeline.store.schema import (
    AXES,
    CUBES,
    KINDS,
    PAIRS,
    TARGETS,
    CubeTable,
    ImageTable,
    PairTable,
    ScanTable,
    Table,
    TargetTable,
    codecs,
    write_column,
    write_table,
)
from genesis_toolkit.pipeline.store.shards import ShardReader, shard_length
from genesis_toolkit.pipeline.store.storage import is_url


def write_cube_store(
    folder: Path,
    attributes: Mapping[str, Any],
    dtype: np.dtype[Any],
    table: CubeTable,
    scans: ScanTable,
    images: ImageTable | None = None,
) -> None:
    """Write everything of a cube store but the shards of `cubes`, which lie in `folder` already.

    Args:
        folder: the store under construction.
        attributes: what `attrs["genesis"]` says; needs `size` and `window`.
        dtype: of the voxels.
        table: one row a cube.
        scans: one row a scan.
        images: one row a scan too, where the scans are X-ray images.
    """
    _write(folder, CUBES, attributes, {"cubes": (len(table), dtype)}, [table], scans, images)


def write_pair_store(
    folder: Path,
    attributes: Mapping[str, Any],
    cubes: ShardReader,
    table: CubeTable,
    pairs: PairTable,
    scans: ScanTable,
    images: ImageTable | None = None,
) -> None:
    """Write everything of a pair store but the shards, which lie in `folder` already.

    Args:
        folder: the store under construction.
        attributes: what `attrs["genesis"]` says; needs `size` and `window`.
        cubes: the cubes of the cube store, whose shards were taken over as they are.
        table: one row a cube.
        pairs: one row a pair.
        scans: one row a scan.
        images: one row a scan too, where the scans are X-ray images.
    """
    voxels = {"original": (len(table), cubes.dtype), "degraded": (len(pairs), cubes.dtype)}
    lengths = {"original": cubes.length}
    _write(folder, PAIRS, attributes, voxels, [table, pairs], scans, images, lengths=lengths)


def write_target_store(
    folder: Path,
    attributes: Mapping[str, Any],
    dtype: np.dtype[Any],
    table: TargetTable,
    labels: NDArray[np.uint8] | None,
    scans: ScanTable,
    images: ImageTable | None = None,
) -> None:
    """Write everything of a target store but the shards of `cubes` and `masks`.

    Args:
        folder: the store under construction, in which the shards lie already.
        attributes: what `attrs["genesis"]` says; needs `size` and `window`.
        dtype: of the voxels.
        table: one row a labelled cube.
        labels: uint8 [cube, class]; None where every cube has a mask.
        scans: one row a scan.
        images: one row a scan too, where the scans are X-ray images.
    """
    voxels = {"cubes": (len(table), dtype)}
    if labels is None:
        voxels["masks"] = (len(table), np.dtype(np.uint8))
    _write(folder, TARGETS, attributes, voxels, [table], scans, images, labels)


def _write(
    folder: Path,
    kind: str,
    attributes: Mapping[str, Any],
    voxels: Mapping[str, tuple[int, np.dtype[Any]]],
    tables: Sequence[Table],
    scans: ScanTable,
    images: ImageTable | None,
    labels: NDArray[np.uint8] | None = None,
    lengths: Mapping[str, int] | None = None,
) -> None:
    """Write a store of any kind: rows and dtype of its voxels, its tables in the order of its kind.

    `lengths` says how many cubes a shard of an array holds where that is not as usual.
    """
    made, size = KINDS[kind], attributes["size"]
    genesis = {"format": kind, "version": made.version, "finalised": True, **attributes}
    group = zarr.open_group(folder, mode="a", zarr_format=3, attributes={"genesis": genesis})
    for name, (count, dtype) in voxels.items():
        length = (lengths or {}).get(name) or shard_length(size, dtype.itemsize)
        group.create_array(
            name,
            shape=(count, *size),
            chunks=(1, *size),
            shards=(length, *size),
            dtype=dtype,
            fill_value=-32768 if dtype == np.int16 else 0,
            compressors=codecs(dtype),
            dimension_names=(made.voxels[name].dimension, *AXES[: len(size)]),
        )
    if labels is not None:
        write_column(group, "labels", labels.astype(np.uint8, copy=False), ("cube", "class"))
    for dimension, table in zip(made.tables, tables, strict=True):
        write_table(group, table, dimension, len(size))
    write_table(group.create_group("scans"), scans, "scan")
    if images is not None:
        write_table(group.create_group("images"), images, "scan")
    with warnings.catch_warnings():  # zarr warns that the v3 specification lacks it so far; xarray needs it
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(str(folder))


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
