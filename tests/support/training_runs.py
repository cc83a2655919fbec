"""Small stores to train from, a small run, and what runs are held against."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from support.scan_rows import scan_rows

from genesis_toolkit.pipeline.ledger import hold
from genesis_toolkit.pipeline.pairs.degrade import DegradeParameters, degrade_cubes
from genesis_toolkit.pipeline.store.schema import CUBES, CubeTable, ImageTable
from genesis_toolkit.pipeline.store.shards import encode_cube, shard_length, shard_parts, shard_path
from genesis_toolkit.pipeline.store.write import write_store
from genesis_toolkit.training.pretrain.parameters import PretrainParameters

SMALL = PretrainParameters(width=4, epochs=3, batch_size=4, lr=0.5)
TIMES = ("seconds", "cubes_per_second", "waiting")


def blobs(count: int, size: tuple[int, ...]) -> NDArray[np.int16]:
    """Smooth blobs of tissue in air, in 2D or 3D: something a small network can learn to restore."""
    rng = np.random.default_rng(2)
    grid = np.stack(np.meshgrid(*(np.arange(edge) for edge in size), indexing="ij"), -1)
    cubes = np.full((count, *size), -900.0)
    for cube in cubes:
        for _ in range(4):
            distance = np.square(grid - rng.uniform(0, size, len(size))).sum(-1)
            cube += rng.uniform(300, 900) * np.exp(-distance / rng.uniform(10, 60))
    return np.clip(np.rint(cubes), -1000, 1000).astype(np.int16)


def make_cube_store(
    path: Path, cubes: NDArray[np.integer[Any]], scans: int, patients: Sequence[str] | None = None
) -> Path:
    """A finished cube store, written by the library's own pieces; of X-ray images where it has patients."""
    scan = np.sort(np.arange(len(cubes)) % scans).astype(np.int32)
    number = np.concatenate([np.arange(count) for count in np.bincount(scan)]).astype(np.int32)
    table = CubeTable(scan, number, np.zeros((len(cubes), 3), np.int32), np.zeros(len(cubes)))
    rows = scan_rows(np.bincount(scan).tolist(), range(10, 10 + scans))
    length = shard_length(cubes.shape[1:], cubes.dtype.itemsize)
    is_image = cubes.dtype == np.uint8
    images = None
    if patients is not None:
        empty = np.full(scans, "", dtype=object)
        images = ImageTable(np.array(patients, dtype=object), empty, empty)
    attributes = {
        "window": [0, 255] if is_image else [-1000, 1000],
        "unit": "grey level" if is_image else "HU",
        "size": list(cubes.shape[1:]),
        "parameters": {"seed": 0},
    }
    with hold(path, {}, overwrite=False) as ledger:
        shard = ledger.store / shard_path("cubes", 0, cubes.ndim)
        shard.parent.mkdir(parents=True)
        shard.write_bytes(b"".join(shard_parts([encode_cube(cube) for cube in cubes], length)))
        write_store(ledger.store, CUBES, attributes, cubes.dtype, [table], rows, images)
        ledger.finish({}, {})
    return path


def make_pair_store(folder: Path, count: int = 30, scans: int = 5, variants: int = 2, seed: int = 0) -> Path:
    """A finished pair store of small blobs, beside its `cubes.zarr`."""
    cubes = make_cube_store(folder / "cubes.zarr", blobs(count, (16, 16, 16)), scans)
    degrade_cubes(cubes, folder / "pairs.zarr", DegradeParameters(variants=variants, seed=seed))
    return folder / "pairs.zarr"


def losses(folder: Path) -> list[dict[str, Any]]:
    """The epochs of a run, without what the clock decides."""
    records = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()][1:]
    return [{key: value for key, value in record.items() if key not in TIMES} for record in records]


def weights(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def assert_equal_weights(ours: Path, theirs: Path) -> None:
    ours_state, theirs_state = weights(ours), weights(theirs)
    assert ours_state.keys() == theirs_state.keys()
    assert all(torch.equal(ours_state[key], theirs_state[key]) for key in ours_state)


def position(folder: Path) -> tuple[int, int]:
    """Epoch and step of a run's last checkpoint; it is there whole whenever it is read."""
    try:
        checkpoint: dict[str, Any] = torch.load(folder / "last.pt", weights_only=True)
    except FileNotFoundError:
        return (0, 0)
    return checkpoint["epoch"], checkpoint["step"]
