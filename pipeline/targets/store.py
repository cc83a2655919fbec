"""The target store, version 1: labelled cubes or images, how it is opened, what it says of itself.

A Zarr v3 group as the other stores are (`stores`), with the same shards, tables and manifest:

    targets.zarr
      cubes    [cube, x, y, z]  voxels; of images [cube, x, y]
      labels   uint8 [cube, class]    0 or 1 for each of `classes`, of the tasks ncc and dxc
      masks    uint8 [cube, x, y, z]  0 or 1, of the task segment
      scan, number, corner, fold      [cube]
      scans/   one row a scan: shape, spacing, origin and direction give every cube its place in the world
      images/  one row a scan, of X-ray images

`attrs["genesis"]` has besides what every store has `task`, `classes` and `folds`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.store.opening import DAMAGE, Opened, damage_of, open_checked, reader
from genesis_toolkit.pipeline.store.schema import (
    FOLDS,
    TARGETS,
    ImageTable,
    ScanTable,
    TargetTable,
    array_of,
    read_table,
)
from genesis_toolkit.pipeline.store.shards import ShardReader
from genesis_toolkit.pipeline.targets.parameters import TASKS, MaskParameters


@dataclass(frozen=True)
class TargetStore(Opened):
    """A target store, opened; `len` counts its cubes.

    Attributes:
        table: one row a cube.
        scans: one row a scan.
        images: one row a scan, of X-ray images; else None.
        labels: uint8 [cube, class], 0 or 1; None of segmentation.
        cubes: reads voxels, int16 [x, y, z] in HU, or uint8 [x, y] in grey levels.
        masks: reads masks, uint8 [x, y, z], 0 or 1; None but of segmentation.
    """

    table: TargetTable
    scans: ScanTable
    images: ImageTable | None
    labels: NDArray[np.uint8] | None
    cubes: ShardReader
    masks: ShardReader | None

    def __len__(self) -> int:
        return len(self.table)

    @property
    def task(self) -> str:
        """`ncc`, `segment` or `dxc`."""
        return str(self.attributes["task"])

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the columns of `labels`; of segmentation, what a mask marks."""
        return tuple(self.attributes["classes"])


def open_targets(place: str | Path) -> TargetStore:
    """Open a finished target store, once its tables and metadata are known to be those that were written.

    Args:
        place: a folder, an archive, or a URL.

    Raises:
        CallError: there is nothing at `place`, it is still being made, or it is something else.
        DataError: it is of another format version, or a part is missing or damaged.
    """
    checked = open_checked(place, [TARGETS])
    storage, group, attributes = checked.storage, checked.group, checked.attributes
    try:
        _check_task(attributes, checked.manifest)
        table = TargetTable(**read_table(group, TargetTable))
        labels = masks = None
        if attributes["task"] == MaskParameters.task:
            masks = reader(storage, group, "masks")
        else:
            labels = np.asarray(array_of(group, "labels")[...], np.uint8)
        scans = checked.scans()
        _check_rows(table, labels, attributes, len(scans))
        told = (storage, checked.manifest, checked.manifest_sha256, attributes)
        tables = (table, scans, checked.images())
        return TargetStore(*told, *tables, labels, reader(storage, group, "cubes"), masks)
    except DAMAGE as error:
        raise damage_of(storage, error) from None


def describe_targets(store: TargetStore) -> dict[str, Any]:
    """What a target store holds, as plain JSON values.

    Returns:
        `folds` says of each fold how many cubes it has, of how many scans, and how many cubes show each
        class; of segmentation these are left out, since masks are not read.
    """
    folds = count_folds(store.table.fold, store.table.scan, store.labels, store.classes)
    attributes = store.attributes
    told = {name: attributes[name] for name in ("task", "classes", "size", "window", "unit", "parameters")}
    return {
        "store": str(store.storage.place),
        "format": attributes["format"],
        "version": attributes["version"],
        **told,
        "cubes": len(store),
        "folds": folds,
        "scans": dict(Counter(store.scans.status.tolist())),
        "not_used": [
            {"path": str(path), "status": str(status), "reason": str(reason)}
            for path, status, reason in zip(
                store.scans.path, store.scans.status, store.scans.reason, strict=True
            )
            if reason
        ],
    }


def count_folds(
    fold: NDArray[np.uint8], scan: NDArray[np.int32], labels: NDArray[np.uint8] | None, classes: Sequence[str]
) -> dict[str, Any]:
    """How many cubes each fold has, of how many scans, and how many of them show each class.

    Args:
        fold: uint8 [cube], 0 train, 1 validation, 2 test.
        scan: int32 [cube], the row of its scan.
        labels: uint8 [cube, class], 0 or 1; None of segmentation, where classes are not counted.
        classes: the names of the columns of `labels`.

    Returns:
        `cubes`, `scans` and `classes` by the name of the fold.
    """
    folds = {}
    for number, name in enumerate(FOLDS):
        mine = fold == number
        shown: dict[str, int] = {}
        if labels is not None:
            shown = dict(zip(classes, labels[mine].sum(axis=0).tolist(), strict=True))
        folds[name] = {"cubes": int(mine.sum()), "scans": len(np.unique(scan[mine])), "classes": shown}
    return folds


def _check_task(attributes: dict[str, Any], manifest: dict[str, str]) -> None:
    """Refuse a task that is none, or without its labels or masks.

    Raises:
        ValueError: which.
    """
    task, classes = attributes["task"], attributes["classes"]
    if task not in TASKS or not isinstance(classes, list) or not all(isinstance(one, str) for one in classes):
        raise ValueError(f"its task is {task!r}, its classes {classes!r}")
    wanted = "masks" if task == MaskParameters.task else "labels"
    if f"{wanted}/zarr.json" not in manifest:
        raise ValueError(f"it has no {wanted}")


def _check_rows(
    table: TargetTable, labels: NDArray[np.uint8] | None, attributes: dict[str, Any], scans: int
) -> None:
    """Refuse rows that no store of ours has.

    Raises:
        ValueError: what is wrong.
    """
    if table.scan.size and not 0 <= int(table.scan.min()) <= int(table.scan.max()) < scans:
        raise ValueError(f"a cube is of no scan of its {scans:,}")
    if table.fold.size and int(table.fold.max()) >= len(FOLDS):
        raise ValueError(f"a cube is in fold {int(table.fold.max())}")
    if labels is not None and labels.shape != (len(table), len(attributes["classes"])):
        raise ValueError(f"its labels are {labels.shape}")
    if labels is not None and labels.size and int(labels.max()) > 1:
        raise ValueError(f"a label is {int(labels.max())}")
