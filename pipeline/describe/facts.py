"""What a store holds, as plain data: the facts that `genesis-prep info` shows."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.degrade.recipes import Applied
from genesis_toolkit.pipeline.ledger import LOG
from genesis_toolkit.pipeline.scans.find import NO_SUBSET
from genesis_toolkit.pipeline.store.open import CubeStore, PairStore, TargetStore
from genesis_toolkit.pipeline.store.schema import AXES, FOLDS, ImageTable, ScanTable
from genesis_toolkit.pipeline.store.storage import Storage

# What each degradation makes of a cube, in the order in which they are done.
_WORDS = {
    Applied.SHUFFLE: "shuffled",
    Applied.NONLINEAR: "non-linear",
    Applied.INPAINT: "in-painted",
    Applied.OUTPAINT: "out-painted",
}


def describe(store: CubeStore | PairStore) -> dict[str, Any]:
    """What a store is, in one object of plain JSON values.

    Returns:
        format, version, counts, window, size, bytes on disk and before compression, the scans by status and
        by subset, the range of their spacing in mm, the tissue scores, or of X-ray images their patients,
        views and labels, the parameters, and for a pair store how many pairs each degradation, combination
        and flip touches.
    """
    scans, table = store.scans, store.table
    used = scans.cubes > 0
    voxels = len(table) if isinstance(store, CubeStore) else len(table) + len(store)
    raw = voxels * int(np.prod(store.size)) * _voxel_bytes(store)
    facts: dict[str, Any] = {
        "path": store.storage.place,
        "format": store.attributes["format"],
        "version": store.attributes["version"],
        "cubes": len(table),
        "size": list(store.size),
        "window": [store.window.low, store.window.high],
        "unit": store.attributes["unit"],
        "bytes": sum(store.storage.size(path) for path in store.manifest),
        "bytes_uncompressed": raw,
        "scans": dict(sorted(Counter(scans.status.tolist()).items())),
        "cubes_by_subset": _by_subset(store),
        "spacing_mm": {
            "least": scans.spacing[used].min(axis=0).tolist(),
            "most": scans.spacing[used].max(axis=0).tolist(),
        },
        **_tissue_or_images(store),
        "not_used": [
            {"path": path, "status": status, "reason": reason}
            for path, status, reason in zip(
                scans.path.tolist(), scans.status.tolist(), scans.reason.tolist(), strict=True
            )
            if status != "used"
        ],
        "parameters": store.attributes["parameters"],
        "run": _log(store.storage),
    }
    return facts | (_pairs(store) if isinstance(store, PairStore) else {})


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


def image_counts(images: ImageTable, scans: ScanTable) -> dict[str, Any]:
    """The X-ray images that were used: how many patients, and how many images of every view and label.

    Returns:
        `patients`, `views` and `labels`, the most common first; an image counts for each of its labels.
    """
    used = scans.cubes > 0
    labels = Counter(label for joined in images.labels[used].tolist() for label in joined.split("|"))
    return {
        "patients": len(set(images.patient[used].tolist())),
        "views": _ordered(Counter(images.view[used].tolist())),
        "labels": _ordered(labels),
    }


def applied_words(applied: int) -> list[str]:
    """What these bits did to a cube, in the order in which it was done: `shuffled`, `out-painted`."""
    return [word for member, word in _WORDS.items() if applied & member]


def flip_axes(flip: int) -> str:
    """The axes that these bits flip: `x, z`; empty for none."""
    return ", ".join(axis for bit, axis in enumerate(AXES) if flip >> bit & 1)


def _pairs(store: PairStore) -> dict[str, Any]:
    pairs = store.pairs
    combinations = Counter(", ".join(applied_words(bits)) or "none" for bits in pairs.applied.tolist())
    return {
        "pairs": len(store),
        "variants": store.variants,
        "degradations": {
            word: int(np.count_nonzero(pairs.applied & member)) for member, word in _WORDS.items()
        },
        "combinations": dict(combinations.most_common()),
        "flips": dict(Counter(flip_axes(bits) or "none" for bits in pairs.flip.tolist()).most_common()),
    }


def _tissue_or_images(store: CubeStore | PairStore) -> dict[str, Any]:
    if store.images is not None:
        return {"images": image_counts(store.images, store.scans)}
    tissue = store.table.tissue
    median = float(np.median(tissue))
    return {"tissue": {"least": float(tissue.min()), "median": median, "most": float(tissue.max())}}


def _ordered(counts: Counter[str]) -> dict[str, int]:
    """The most common first, those of one count by name."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _by_subset(store: CubeStore | PairStore) -> dict[str, int]:
    subsets = store.scans.subset[store.table.scan]
    return {
        "none" if subset == NO_SUBSET else str(subset): int(count)
        for subset, count in zip(*np.unique(subsets, return_counts=True), strict=True)
    }


def _voxel_bytes(store: CubeStore | PairStore) -> int:
    reader = store.cubes if isinstance(store, CubeStore) else store.original
    return reader.dtype.itemsize


def _log(storage: Storage) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(storage.read(LOG))
    except (OSError, ValueError):
        return {}
    return facts
