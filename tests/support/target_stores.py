"""Small target stores to fine-tune on, whose labels can be learnt."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support.scan_rows import scan_rows

from genesis_toolkit.pipeline.ledger import hold
from genesis_toolkit.pipeline.store.schema import TARGETS, TargetTable
from genesis_toolkit.pipeline.store.shards import encode_cube, shard_length, shard_parts, shard_path
from genesis_toolkit.pipeline.store.write import write_store

#: Fold of each scan; every scan has four cubes.
FOLDS = (0, 0, 0, 0, 0, 0, 1, 1, 2, 2)
EACH = 4
CLASSES = {
    "ncc": ("nodule",),
    "classify": ("mass", "scar"),
    "segment": ("foreground",),
    "dxc": ("Mass", "Nodule", "Hernia"),
}


def spheres(size: tuple[int, ...], count: int, image: bool) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Noise with a bright ball in every other cube, and the balls' masks."""
    rng = np.random.default_rng(3)
    grid = np.stack(np.meshgrid(*(np.arange(edge) for edge in size), indexing="ij"), -1)
    masks = np.zeros((count, *size), np.uint8)
    for mask in masks[::2]:
        middle = rng.uniform(4, np.array(size) - 4)
        mask[...] = np.square(grid - middle).sum(-1) < rng.uniform(9, 20)
    cubes = rng.normal(60, 15, masks.shape) + 90 * masks
    if image:
        return np.clip(cubes, 0, 255).astype(np.uint8), masks
    return np.clip(cubes * 7 - 1100, -1000, 1000).astype(np.int16), masks


def make_target_store(
    path: Path,
    task: str,
    *,
    size: tuple[int, ...] = (16, 16, 16),
    folds: tuple[int, ...] = FOLDS,
    labels: NDArray[np.uint8] | None = None,
    masks: NDArray[np.uint8] | None = None,
) -> Path:
    """A finished target store, written by the library's own pieces; its labels or masks may be given."""
    scans, count = len(folds), EACH * len(folds)
    cubes, balls = spheres(size, count, task == "dxc")
    if task == "segment":
        masks = balls if masks is None else masks
    elif labels is None:
        positive = balls.any(axis=tuple(range(1, balls.ndim)))
        labels = np.stack([positive] + [~positive, np.zeros_like(positive)] * (task == "dxc"), 1).astype(
            np.uint8
        )
    keys = np.random.default_rng(7).integers(0, 2**63, scans)
    rows = scan_rows([EACH] * scans, keys.tolist())
    table = TargetTable(
        scan=np.repeat(np.arange(scans, dtype=np.int32), EACH),
        number=np.tile(np.arange(EACH, dtype=np.int32), scans),
        corner=np.zeros((count, 3), np.int32),
        fold=np.repeat(np.array(folds, np.uint8), EACH),
    )
    image = task == "dxc"
    attributes = {
        "window": [0, 255] if image else [-1000, 1000],
        "unit": "grey level" if image else "HU",
        "size": list(size),
        "task": task,
        "classes": list(CLASSES[task]),
        "folds": ["train", "validation", "test"],
        "parameters": {},
    }
    with hold(path, {}, overwrite=False) as ledger:
        for name, voxels in (("cubes", cubes), ("masks", masks)):
            if voxels is not None:
                shard = ledger.store / shard_path(name, 0, voxels.ndim)
                shard.parent.mkdir(parents=True)
                length = shard_length(size, voxels.dtype.itemsize)
                shard.write_bytes(b"".join(shard_parts([encode_cube(cube) for cube in voxels], length)))
        write_store(ledger.store, TARGETS, attributes, cubes.dtype, [table], rows, labels=labels)
        ledger.finish({}, {})
    return path
