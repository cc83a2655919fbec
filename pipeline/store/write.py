"""Writes a store's group, arrays and tables around its existing shards."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.ledger import MANIFEST, settle
from genesis_toolkit.pipeline.store import schema
from genesis_toolkit.pipeline.store.open import finished_storage
from genesis_toolkit.pipeline.store.salvage import attributes_of
from genesis_toolkit.pipeline.store.shards import shard_length
from genesis_toolkit.pipeline.store.storage import is_url


def write_store(
    folder: Path,
    kind: str,
    attributes: Mapping[str, Any],
    dtype: np.dtype[Any],
    tables: Sequence[schema.Table],
    scans: schema.ScanTable,
    images: schema.ImageTable | None = None,
    *,
    labels: NDArray[np.uint8] | None = None,
    lengths: Mapping[str, int] | None = None,
) -> None:
    """Write everything of a store but the shards of its voxels, which exist already or are added later.

    Args:
        folder: the store under construction.
        kind: `CUBES`, `PAIRS` or `TARGETS`.
        attributes: contents of `attrs["genesis"]`; must include `size` and `window`.
        dtype: dtype of the voxels.
        tables: those of its kind, in the order of `KINDS`.
        scans: one row per scan.
        images: also one row per scan, if the scans are X-ray images.
        labels: uint8 [cube, class] of a target store; None if every cube has a mask.
        lengths: number of cubes in a shard, for arrays that deviate from the default.
    """
    made, size = schema.KINDS[kind], attributes["size"]
    genesis = {"format": kind, "version": made.version, "finalised": True, **attributes}
    group = zarr.open_group(folder, mode="a", zarr_format=3, attributes={"genesis": genesis})
    own = dict(zip(made.tables, tables, strict=True))
    for name, column in made.voxels.items():
        if name == "masks" and labels is not None:
            continue
        held = np.dtype(np.uint8) if name == "masks" else dtype
        length = (lengths or {}).get(name) or shard_length(size, held.itemsize)
        group.create_array(
            name,
            shape=(len(own[column.dimension]), *size),
            chunks=(1, *size),
            shards=(length, *size),
            dtype=held,
            fill_value=-32768 if held == np.int16 else 0,
            compressors=schema.codecs(held),
            dimension_names=(column.dimension, *schema.AXES[: len(size)]),
        )
    if labels is not None:
        schema.write_column(group, "labels", labels.astype(np.uint8, copy=False), ("cube", "class"))
    for dimension, table in own.items():
        schema.write_table(group, table, dimension, len(size))
    schema.write_table(group.create_group("scans"), scans, "scan")
    if images is not None:
        schema.write_table(group.create_group("images"), images, "scan")
    with warnings.catch_warnings():  # zarr warns that the v3 specification lacks it; xarray needs it
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(str(folder))


def check_target(
    path: Path, kind: str, *, overwrite: bool, inputs: Sequence[str | Path]
) -> dict[str, Any] | None:
    """Check that a store may be written at `path` from `inputs`; neither may be inside the other.

    With `overwrite` a finished store of that kind may be replaced, but never anything else.

    Returns:
        The attributes of an existing finished store that is kept; None if there is none.

    Raises:
        CallError: something else is in the way, or the store would be inside its input or another store.
    """
    check_place(path)
    settle(path)
    for source in inputs:
        if not is_url(source) and path.resolve() in Path(source).resolve().parents:
            raise CallError(f"{source} is inside {path}, which would be replaced: choose another name.")
    if not path.exists() and not path.is_symlink():
        return None
    try:
        attributes = attributes_of(finished_storage(path), (kind,))
    except CallError:
        left = f"{path} exists and is not a {kind} store, so it is left untouched"
        raise CallError(f"{left}: choose another name.") from None
    return None if overwrite else attributes


def check_place(path: Path) -> None:
    """Refuse, with a CallError, to write inside a finished store, whose manifest would become wrong."""
    for parent in path.resolve().parents:
        if (parent / MANIFEST).is_file() and (parent / "zarr.json").is_file():
            raise CallError(f"{path} is inside the store {parent}: choose another location.")
