"""Validation: the loss on a fixed set of pairs, and the baselines that need no network."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genesis_toolkit.pipeline.describe.facts import applied_words
from genesis_toolkit.pipeline.progress import Progress
from genesis_toolkit.training.feeding.normalise import normalise
from genesis_toolkit.training.feeding.order import Work, validation_works
from genesis_toolkit.training.feeding.ring import Batch, Batches
from genesis_toolkit.training.machine.devices import autocast
from genesis_toolkit.training.machine.processes import Group
from genesis_toolkit.training.machine.steps import Tick, counting
from genesis_toolkit.training.pretrain.baselines import Baselines, GroupBaselines
from genesis_toolkit.training.pretrain.data import PretrainData
from genesis_toolkit.training.pretrain.show import RestoredSlice, describe_pair

#: Rows in the picture of restored cubes.
SHOWN = 6

#: Largest number of training originals in the mean image; this many raise its error by a thousandth.
AVERAGED = 1024

# A collapsed network is no better than the best constant, and its output hardly varies.
_CONSTANT_LOSS = 0.99
_CONSTANT_SPREAD = 0.05

_ALONE = Group()

Item = TypeVar("Item")

_VOLUME = 5  # axes of a batch of cubes: cube, channel, x, y, z


@dataclass(frozen=True)
class Validation:
    """One pass over the validation pairs.

    Attributes:
        loss: mean squared error over all voxels, for values in [0, 1].
        by_degradation: the same for every combination of degradations, by `degradation_name`.
        spread: standard deviation of the network's output, averaged over batches; in [0, 1].
        slices: some of the cubes, to draw.
    """

    loss: float
    by_degradation: dict[str, float]
    spread: float
    slices: list[RestoredSlice]

    def collapsed(self, baselines: Baselines) -> bool:
        """Return whether the output is one value for any input: a known trap of learning rate 1.0."""
        flat = self.spread <= _CONSTANT_SPREAD * float(np.sqrt(baselines.constant))
        return flat and self.loss >= _CONSTANT_LOSS * baselines.constant

    def collapse_words(self, lr: float) -> str:
        """Return the warning about a collapsed network, trained at learning rate `lr`."""
        return (
            "Warning: the network's output is nearly the same value for any input (standard deviation "
            f"{self.spread:.4f}), no better than the best constant. If the next epochs do not change that, "
            f"start again with a lower learning rate, such as --lr {lr / 10:g}."
        )


def degradation_name(applied: int) -> str:
    """Return a combination of degradations, bits of `recipes.Applied`, in words, in order of application."""
    return ", ".join(applied_words(applied)) or "unchanged"


def works_to_average(cubes: NDArray[np.int64], batch_size: int) -> list[Work]:
    """Return batches of at most `AVERAGED` training cubes, evenly spread over the scans."""
    return validation_works(_evenly(cubes, AVERAGED), batch_size)


def mean_image(
    batches: Batches, works: Sequence[Work], tick: Tick, group: Group = _ALONE
) -> NDArray[np.float64]:
    """Return the mean of originals, voxel by voxel, flipped like the targets of the network.

    Summed in whole numbers, so without rounding: float64 `[x, y, z]`, or `[x, y]`, in the store's unit. The
    processes of a group take whole batches in turn.
    """
    total = np.zeros(batches.feed.size, np.int64)
    with closing(batches.stream(works[group.rank :: group.world])) as stream:
        for batch in stream:
            total += batch.original.numpy().sum(axis=0, dtype=np.int64)
            tick("mean image")
    whole: NDArray[np.int64] = np.sum(group.gather(total), axis=0)
    return whole / sum(len(work.cubes) for work in works)


def measure_baselines(
    batches: Batches, works: Sequence[Work], mean: NDArray[np.float64], tick: Tick, group: Group = _ALONE
) -> Baselines:
    """Measure the baselines on the validation pairs; `mean` is the result of `mean_image`.

    The processes of a group take whole batches in turn: if one did it all, a large store would make the
    others wait longer than they may, and the figures are the same to the bit.
    """
    # For each batch: the degradations of its pairs, and sums over the voxels of each in the store's unit, all
    # whole numbers but the last.
    mine: list[list[tuple[int, int, int, int, float]]] = []
    with closing(batches.stream(works[group.rank :: group.world])) as stream:
        for batch in stream:
            mine.append([])
            for row, applied in enumerate(batch.applied.tolist()):
                whole, degraded = batch.original[row].numpy().astype(np.int64), batch.degraded[row].numpy()
                copy, apart = np.square(degraded - whole).sum(), np.square(whole - mean).sum()
                squares = np.square(whole).sum()
                mine[-1].append((applied, int(whole.sum()), int(squares), int(copy), float(apart)))
            tick("baselines")
    measured = [one for batch in _in_order(group.gather(mine)) for one in batch]
    # Per voxel, in [0, 1] squared.
    scale = batches.feed.window.span**2 * mean.size

    def of(kind: int | None = None) -> GroupBaselines:
        pairs = [one for one in measured if kind in (None, one[0])]
        copy, mean_image = (sum(one[column] for one in pairs) for column in (3, 4))
        return GroupBaselines(len(pairs), copy / len(pairs) / scale, mean_image / len(pairs) / scale)

    everything, voxels = of(), len(measured) * mean.size
    total, squares = (sum(one[column] for one in measured) for column in (1, 2))
    constant = (squares * voxels - total**2) / voxels**2 / batches.feed.window.span**2
    groups = {degradation_name(kind): of(kind) for kind in sorted({one[0] for one in measured})}
    return Baselines(everything.copy, everything.mean_image, constant, groups)


def look_first(
    batches: Batches, data: PretrainData, report: Progress, group: Group
) -> tuple[Baselines, float]:
    """Return the baselines, and the mean voxel of training originals, in [0, 1], to start from."""
    works = works_to_average(data.split.train, data.parameters.batch_size)
    parts = sum(-(-len(some) // group.world) for some in (works, data.validation))
    tick = counting(report, "before epoch 1: ", parts)
    mean, window = mean_image(batches, works, tick, group), batches.feed.window
    baselines = measure_baselines(batches, data.validation, mean, tick, group)
    return baselines, (float(mean.mean()) - window.low) / window.span


@dataclass(frozen=True)
class _Evaluated:
    """The results of one validation batch: float32 and uint8 `[cube]`, and its share of the slices."""

    errors: NDArray[np.float32]
    applied: NDArray[np.uint8]
    spread: float
    slices: list[RestoredSlice]


@torch.inference_mode()
def validate(
    model: nn.Module,
    batches: Batches,
    works: Sequence[Work],
    tick: Tick,
    precision: str = "float32",
    group: Group = _ALONE,
) -> Validation:
    """Restore every validation pair once, in fixed batches (METHOD.md section 4).

    The network is left in evaluation mode. The processes of a group take whole batches in turn, so the
    result is the same to the bit for any number of processes.
    """
    model.eval()
    device = next(model.parameters()).device
    window = batches.feed.window
    shown = _evenly(np.concatenate([work.cubes for work in works]), SHOWN)
    evaluated: list[_Evaluated] = []
    with closing(batches.stream(works[group.rank :: group.world])) as stream:
        for batch in stream:
            original = normalise(batch.original.to(device), window)
            degraded = normalise(batch.degraded.to(device), window)
            with autocast(device, precision):
                restored = model(degraded)
            evaluated.append(_evaluate(batch, shown, original, degraded, restored.float()))
            tick("validation")
    return _summary(group.gather(evaluated))


def _evaluate(
    batch: Batch, shown: NDArray[np.int64], original: Tensor, degraded: Tensor, restored: Tensor
) -> _Evaluated:
    errors = (restored - original).square().mean(tuple(range(1, restored.ndim))).cpu().numpy()
    together = torch.cat((original, degraded, restored), dim=1)
    middle = together[..., restored.shape[-1] // 2] if restored.ndim == _VOLUME else together
    rows = np.flatnonzero(np.isin(batch.cubes, shown))
    slices = [_slice(batch, int(row), middle[row].cpu().numpy()) for row in rows]
    return _Evaluated(errors, batch.applied.copy(), restored.std().item(), slices)


def _summary(parts: list[list[_Evaluated]]) -> Validation:
    """Put the batches of all processes back into order, and sum in that order."""
    ordered = _in_order(parts)
    errors = np.concatenate([one.errors for one in ordered]).astype(np.float64)
    applied = np.concatenate([one.applied for one in ordered])
    groups = {
        degradation_name(kind): float(errors[applied == kind].mean()) for kind in np.unique(applied).tolist()
    }
    spread = sum(one.spread * len(one.errors) for one in ordered) / len(errors)
    return Validation(float(errors.mean()), groups, spread, [row for one in ordered for row in one.slices])


def _in_order(parts: Sequence[Sequence[Item]]) -> list[Item]:
    """Merge the results of processes that took works in turn, in the order of the works."""
    return [parts[number % len(parts)][number // len(parts)] for number in range(sum(map(len, parts)))]


def _evenly(cubes: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    return cubes[np.linspace(0, len(cubes) - 1, min(len(cubes), most)).astype(np.int64)]


def _slice(batch: Batch, row: int, middle: NDArray[np.float32]) -> RestoredSlice:
    done = describe_pair(int(batch.flip[row]), int(batch.applied[row]))
    original, degraded, restored = middle.copy()
    return RestoredSlice(original, degraded, restored, done, int(batch.cubes[row]))
