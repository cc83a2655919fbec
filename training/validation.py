"""How good a network is: its loss on pairs that never change, beside what needs no network at all."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from training.batches import Batch, Batches, Work, normalise
from training.pictures import RestoredSlice, describe_pair

#: Rows in the picture of restored cubes.
SHOWN = 6

# A network that gives one value is no better than the best constant, and what it gives hardly varies.
_CONSTANT_LOSS = 0.99
_CONSTANT_SPREAD = 0.05


@dataclass(frozen=True)
class Baselines:
    """Mean squared errors on the validation pairs that a network must beat; values in [0, 1], squared.

    Attributes:
        copy: of the degraded cube itself, taken for its restoration.
        constant: of the best single value for all voxels, the mean of the originals: their variance.
    """

    copy: float
    constant: float


@dataclass(frozen=True)
class Validation:
    """One pass over the validation pairs.

    Attributes:
        loss: mean squared error over all voxels; values in [0, 1], squared.
        spread: standard deviation of what the network gives, the mean over batches; in [0, 1].
        slices: some of the cubes, to be drawn.
    """

    loss: float
    spread: float
    slices: list[RestoredSlice]

    def collapsed(self, baselines: Baselines) -> bool:
        """Whether the network gives one value whatever it sees: a known trap of learning rate 1.0."""
        flat = self.spread <= _CONSTANT_SPREAD * float(np.sqrt(baselines.constant))
        return flat and self.loss >= _CONSTANT_LOSS * baselines.constant


def measure_baselines(batches: Batches, works: Sequence[Work], tick: Callable[[str], None]) -> Baselines:
    """Both baselines, in whole numbers and so without rounding.

    Args:
        batches: where the pairs come from.
        works: the validation batches.
        tick: told after every batch.
    """
    voxels = total = squares = errors = 0
    with closing(batches.stream(works)) as stream:
        for batch in stream:
            original = batch.original.numpy().astype(np.int64)
            error = batch.degraded.numpy() - original
            voxels += original.size
            total += int(original.sum())
            squares += int(np.square(original, out=original).sum())
            errors += int(np.square(error, out=error).sum())
            tick("baselines")
    span = batches.feed.window.span
    variance = (voxels * squares - total**2) / voxels**2
    return Baselines(copy=errors / voxels / span**2, constant=variance / span**2)


def mean_original(batches: Batches, works: Sequence[Work]) -> float:
    """The mean voxel of the originals, in [0, 1]: the best constant for them."""
    voxels = total = 0
    with closing(batches.stream(works)) as stream:
        for batch in stream:
            voxels += batch.original.numel()
            total += int(batch.original.sum(dtype=torch.int64))
    window = batches.feed.window
    return (total / voxels - window.low) / window.span


@torch.inference_mode()
def validate(
    model: nn.Module,
    batches: Batches,
    works: Sequence[Work],
    tick: Callable[[str], None],
) -> Validation:
    """Restore every validation pair once, in batches that never change (METHOD.md section 4).

    Args:
        model: the network; left in evaluation mode.
        batches: where the pairs come from.
        works: the validation batches.
        tick: told after every batch.
    """
    model.eval()
    device = next(model.parameters()).device
    window = batches.feed.window
    shown = _evenly(np.concatenate([work.cubes for work in works]))
    loss = spread = 0.0
    seen = 0
    slices: list[RestoredSlice] = []
    with closing(batches.stream(works)) as stream:
        for batch in stream:
            original = normalise(batch.original.to(device), window)
            degraded = normalise(batch.degraded.to(device), window)
            restored = model(degraded)
            loss += functional.mse_loss(restored, original).item() * len(batch)
            spread += restored.std().item() * len(batch)
            seen += len(batch)
            middle = (
                torch.cat((original, degraded, restored), dim=1)[..., restored.shape[-1] // 2].cpu().numpy()
            )
            slices += [
                _slice(batch, int(row), middle[row]) for row in np.flatnonzero(np.isin(batch.cubes, shown))
            ]
            tick(f"validation, loss {loss / seen:.4f}")
    return Validation(loss / seen, spread / seen, slices)


def _evenly(cubes: NDArray[np.int64]) -> NDArray[np.int64]:
    return cubes[np.linspace(0, len(cubes) - 1, min(len(cubes), SHOWN)).astype(np.int64)]


def _slice(batch: Batch, row: int, middle: NDArray[np.float32]) -> RestoredSlice:
    done = describe_pair(int(batch.flip[row]), int(batch.applied[row]))
    original, degraded, restored = middle.copy()
    return RestoredSlice(original, degraded, restored, f"cube {batch.cubes[row]}\n{done}")
