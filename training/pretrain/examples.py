"""Select the validation pairs that a network restores best, to look at them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genesis_toolkit.pipeline.ledger import AnyPath
from genesis_toolkit.pipeline.store.open import PairStore, open_store
from genesis_toolkit.training.feeding.split import split_cubes
from genesis_toolkit.training.pretrain.show import RestoredSlice, describe_pair
from genesis_toolkit.training.weights.load import load_network

_TINY = 1e-9  # avoids division by zero for a constant slice


@torch.inference_mode()
def best_restored(run: AnyPath, place: AnyPath, count: int) -> tuple[Sequence[RestoredSlice], int]:
    """Restore the validation pairs of a pair store, those with variant 0, and return the best.

    The score is the share of an original's variance that the network explains, in the slice across z where it
    is largest, among the more varied half of the slices whose degradation is larger than the network's error.
    So neither air, which is easy, nor barely degraded slices come first.

    Args:
        run: folder of a pre-training run on cubes.
        place: the pair store that it was trained on.
        count: number of pairs to return.

    Returns:
        That slice of each pair, the best first; and the number of pairs they were selected from.

    Raises:
        CallError, DataError: as `load_network` and `open_store`.
    """
    store, network = open_store(place, PairStore), load_network(Path(run)).eval()
    cubes = split_cubes(store.scans, store.table, store.images).validation
    shown: list[tuple[float, RestoredSlice]] = []
    least = float(np.median([_variances(_scaled(store[cube][1], store)) for cube in cubes.tolist()]))
    for cube in cubes.tolist():
        degraded, original = (_scaled(voxels, store) for voxels in store[cube])
        restored = network(torch.from_numpy(degraded)[None, None])[0, 0].numpy()
        error, varies = np.square(restored - original).mean(axis=(0, 1)), _variances(original)
        changed = np.square(degraded - original).mean(axis=(0, 1))
        explained = np.where((varies >= least) & (changed > error), 1 - error / (varies + _TINY), -np.inf)
        z = int(explained.argmax())
        done = describe_pair(int(store.pairs.flip[cube]), int(store.pairs.applied[cube]))
        before, after, made = (voxels[..., z].copy() for voxels in (original, degraded, restored))
        shown.append((float(explained[z]), RestoredSlice(before, after, made, done, cube)))
    shown.sort(key=lambda one: -one[0])
    return [piece for _, piece in shown[:count]], len(shown)


def _scaled(voxels: NDArray[Any], store: PairStore) -> NDArray[np.float32]:
    """Scale voxels from the store's window to [0, 1]."""
    scaled = (voxels.astype(np.float32) - store.window.low) / store.window.span
    return scaled.astype(np.float32, copy=False)


def _variances(original: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the variance of each slice across z: float32 [z]."""
    return np.asarray(original.var(axis=(0, 1)), np.float32)
