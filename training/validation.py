"""How good a network is: its loss on pairs that never change, beside what needs no network at all."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.info import applied_words
from training.batches import Batch, Batches, Work, normalise
from training.devices import autocast
from training.pictures import RestoredSlice, describe_pair
from training.processes import Group

#: Rows in the picture of restored cubes.
SHOWN = 6

# A network that gives one value is no better than the best constant, and what it gives hardly varies.
_CONSTANT_LOSS = 0.99
_CONSTANT_SPREAD = 0.05

_VOXELS = (1, 2, 3, 4)


@dataclass(frozen=True)
class GroupBaselines:
    """The baselines of the validation pairs that were degraded in one way.

    Attributes:
        pairs: how many there are.
        copy: see `Baselines`.
        constant: of the value that is best for all pairs together.
    """

    pairs: int
    copy: float
    constant: float


@dataclass(frozen=True)
class Baselines:
    """Mean squared errors on the validation pairs that a network must beat; values in [0, 1], squared.

    Attributes:
        copy: of the degraded cube itself, taken for its restoration.
        constant: of the best single value for all voxels, the mean of the originals: their variance.
        by_degradation: the same of every combination of degradations that there is, by `degradation_name`.
    """

    copy: float
    constant: float
    by_degradation: dict[str, GroupBaselines]

    @classmethod
    def from_json(cls, described: dict[str, Any]) -> "Baselines":
        """What `dataclasses.asdict` gave."""
        groups = {name: GroupBaselines(**group) for name, group in described["by_degradation"].items()}
        return cls(described["copy"], described["constant"], groups)


@dataclass(frozen=True)
class Validation:
    """One pass over the validation pairs.

    Attributes:
        loss: mean squared error over all voxels; values in [0, 1], squared.
        by_degradation: the same of every combination of degradations, by `degradation_name`.
        spread: standard deviation of what the network gives, the mean over batches; in [0, 1].
        slices: some of the cubes, to be drawn.
    """

    loss: float
    by_degradation: dict[str, float]
    spread: float
    slices: list[RestoredSlice]

    def collapsed(self, baselines: Baselines) -> bool:
        """Whether the network gives one value whatever it sees: a known trap of learning rate 1.0."""
        flat = self.spread <= _CONSTANT_SPREAD * float(np.sqrt(baselines.constant))
        return flat and self.loss >= _CONSTANT_LOSS * baselines.constant


def degradation_name(applied: int) -> str:
    """A combination of degradations in words, in the order in which they are done.

    Args:
        applied: bits of `pipeline.degrade.recipes.Applied`.
    """
    return ", ".join(applied_words(applied)) or "unchanged"


def measure_baselines(batches: Batches, works: Sequence[Work], tick: Callable[[str], None]) -> Baselines:
    """Both baselines, in whole numbers and so without rounding.

    Args:
        batches: where the pairs come from.
        works: the validation batches.
        tick: told after every batch.
    """
    applied, sums = [], []
    with closing(batches.stream(works)) as stream:
        for batch in stream:
            original = batch.original.numpy().astype(np.int64).reshape(len(batch), -1)
            error = batch.degraded.numpy().reshape(len(batch), -1) - original
            both = np.square(error, out=error).sum(axis=1), np.square(original).sum(axis=1)
            sums.append(np.stack((original.sum(axis=1), *both), axis=1))
            applied.append(batch.applied.copy())
            tick("baselines")
    table, kinds = np.concatenate(sums), np.concatenate(applied)
    span = batches.feed.window.span
    voxels = int(np.prod(batches.feed.size))
    mean = int(table[:, 0].sum()) / (len(table) * voxels)

    def baselines(rows: NDArray[np.int64]) -> GroupBaselines:
        total, errors, squares = (int(number) for number in rows.sum(axis=0))
        count = len(rows) * voxels
        constant = squares / count - 2 * mean * (total / count) + mean * mean
        return GroupBaselines(len(rows), errors / count / span**2, constant / span**2)

    everything = baselines(table)
    groups = {degradation_name(kind): baselines(table[kinds == kind]) for kind in np.unique(kinds).tolist()}
    return Baselines(everything.copy, everything.constant, groups)


def mean_original(batches: Batches, works: Sequence[Work]) -> float:
    """The mean voxel of the originals, in [0, 1]: the best constant for them."""
    voxels = total = 0
    with closing(batches.stream(works)) as stream:
        for batch in stream:
            voxels += batch.original.numel()
            total += int(batch.original.sum(dtype=torch.int64))
    window = batches.feed.window
    return (total / voxels - window.low) / window.span


@dataclass(frozen=True)
class _Judged:
    """What came of one validation batch: float32 and uint8 `[cube]`, and its share of the slices."""

    errors: NDArray[np.float32]
    applied: NDArray[np.uint8]
    spread: float
    slices: list[RestoredSlice]


@torch.inference_mode()
def validate(
    model: nn.Module,
    batches: Batches,
    works: Sequence[Work],
    tick: Callable[[str], None],
    precision: str = "float32",
    group: Group | None = None,
) -> Validation:
    """Restore every validation pair once, in batches that never change (METHOD.md section 4).

    Args:
        model: the network; left in evaluation mode.
        batches: where the pairs come from.
        works: the validation batches.
        tick: told after every batch of this process.
        precision: of the network's products.
        group: the processes that take whole batches in turn, so that the result is the same to the bit
            however many there are.
    """
    group = group or Group()
    model.eval()
    device = next(model.parameters()).device
    window = batches.feed.window
    shown = _evenly(np.concatenate([work.cubes for work in works]))
    judged: list[_Judged] = []
    with closing(batches.stream(works[group.rank :: group.world])) as stream:
        for batch in stream:
            original = normalise(batch.original.to(device), window)
            degraded = normalise(batch.degraded.to(device), window)
            with autocast(device, precision):
                restored = model(degraded)
            judged.append(_judge(batch, shown, original, degraded, restored.float()))
            tick("validation")
    return _summary(group.gather(judged))


def _judge(
    batch: Batch, shown: NDArray[np.int64], original: Tensor, degraded: Tensor, restored: Tensor
) -> _Judged:
    errors = (restored - original).square().mean(_VOXELS).cpu().numpy()
    middle = torch.cat((original, degraded, restored), dim=1)[..., restored.shape[-1] // 2].cpu().numpy()
    rows = np.flatnonzero(np.isin(batch.cubes, shown))
    slices = [_slice(batch, int(row), middle[row]) for row in rows]
    return _Judged(errors, batch.applied.copy(), restored.std().item(), slices)


def _summary(parts: list[list[_Judged]]) -> Validation:
    """Put the batches of all processes back into their order, and add up in it."""
    ordered = [parts[number % len(parts)][number // len(parts)] for number in range(sum(map(len, parts)))]
    errors = np.concatenate([one.errors for one in ordered]).astype(np.float64)
    applied = np.concatenate([one.applied for one in ordered])
    groups = {
        degradation_name(kind): float(errors[applied == kind].mean()) for kind in np.unique(applied).tolist()
    }
    spread = sum(one.spread * len(one.errors) for one in ordered) / len(errors)
    return Validation(float(errors.mean()), groups, spread, [row for one in ordered for row in one.slices])


def _evenly(cubes: NDArray[np.int64]) -> NDArray[np.int64]:
    return cubes[np.linspace(0, len(cubes) - 1, min(len(cubes), SHOWN)).astype(np.int64)]


def _slice(batch: Batch, row: int, middle: NDArray[np.float32]) -> RestoredSlice:
    done = describe_pair(int(batch.flip[row]), int(batch.applied[row]))
    original, degraded, restored = middle.copy()
    return RestoredSlice(original, degraded, restored, f"cube {batch.cubes[row]}\n{done}")
