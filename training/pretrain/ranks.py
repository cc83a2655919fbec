"""Effective rank of each level's features: if it drops, a frozen encoder carries little information."""

import copy
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from genesis_toolkit.training.feeding.normalise import normalise
from genesis_toolkit.training.feeding.order import Work, validation_works
from genesis_toolkit.training.feeding.ring import Batches
from genesis_toolkit.training.machine.processes import Group
from genesis_toolkit.training.weights.load import encoder_of

#: Largest number of validation cubes used.
RANKED = 256

#: A level is warned about if its rank falls below this share of the rank with the initial weights.
LEAST_SHARE = 0.25

_ALONE = Group()


@dataclass(frozen=True)
class LevelRank:
    """The effective rank of one level's pooled features, see `effective_rank`.

    Attributes:
        level: level of the encoder, counted from 1, the finest.
        channels: its channels; no rank exceeds them, nor the number of validation cubes less one.
        first: rank with the initial weights.
        best: rank with the weights of the best epoch.
    """

    level: int
    channels: int
    first: float
    best: float


def effective_rank(features: NDArray[np.floating]) -> float:
    """Return the number of directions in which features vary, weighted by extent (Roy and Vetterli, 2007).

    The mean of every channel is subtracted first. For the singular values s of the rest,
    p = s / (s_1 + s_2 + ...), and the rank is exp(-(p_1 log p_1 + p_2 log p_2 + ...)): k if the features
    vary equally in k directions, 1 along a single one.

    Args:
        features: float `[cube, channel]`.

    Returns:
        A number from 1 to the lesser of channels and cubes less one; 0 if the features vary by no more than
        float32 rounding.
    """
    wide = np.asarray(features, np.float64)
    values = np.linalg.svd(wide - wide.mean(axis=0), compute_uv=False)
    values = values[values > np.finfo(np.float32).eps * np.linalg.norm(wide)]
    if not len(values):
        return 0.0
    shares = values / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def works_to_rank(validation: Sequence[Work], batch_size: int) -> list[Work]:
    """Return batches of at most `RANKED` validation cubes, evenly spread; none for a single cube."""
    cubes = np.concatenate([work.cubes for work in validation])
    if len(cubes) == 1:  # nothing varies
        return []
    some = np.linspace(0, len(cubes) - 1, min(len(cubes), RANKED)).astype(np.int64)
    return validation_works(cubes[some], batch_size)


@torch.no_grad()
def level_ranks(
    network: nn.Module, batches: Batches, works: Sequence[Work], group: Group = _ALONE
) -> list[float]:
    """Measure the effective rank of every level's features, each averaged over its voxels.

    The cubes are undegraded, as a target task uses them. Batch norm uses batch statistics, in 2D as well: the
    initial weights have no meaningful running statistics, so their ranks could not be compared. The network
    stays unchanged. The processes of a group take whole batches in turn, so the result is the same to the bit
    for any number of processes.

    Returns:
        One rank per level, the finest first; none without batches.
    """
    encoder = copy.deepcopy(encoder_of(network)).eval()
    for part in encoder.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean = part.running_var = None
    device, window = next(encoder.parameters()).device, batches.feed.window
    mine: list[list[NDArray[np.float32]]] = []
    with closing(batches.stream(works[group.rank :: group.world])) as stream:
        for batch in stream:
            levels = encoder(normalise(batch.original.to(device), window))
            mine.append([level.float().flatten(2).mean(-1).cpu().numpy() for level in levels])
    parts = group.gather(mine)
    ordered = [parts[number % group.world][number // group.world] for number in range(len(works))]
    return [effective_rank(np.concatenate(level)) for level in zip(*ordered, strict=True)]


def compare_ranks(network: nn.Module, first: Sequence[float], best: Sequence[float]) -> list[LevelRank]:
    """Return the ranks of all levels with those of the initial weights; none if either is unknown."""
    channels: list[int] = encoder_of(network).output_channels  # type: ignore[assignment] # whole numbers
    known = zip(channels, first, best, strict=True) if first and best else ()
    return [LevelRank(number, *each) for number, each in enumerate(known, 1)]


def collapse_words(ranks: Sequence[LevelRank], drop_skips: float) -> str | None:
    """Return the warning about levels below a quarter of their initial rank, or None.

    `drop_skips` is that of the run: what it already does is not recommended.
    """
    fallen = [rank for rank in ranks if rank.best < LEAST_SHARE * rank.first]
    if not fallen:
        return None
    listed = ", ".join(f"level {rank.level} from {rank.first:.1f} to {rank.best:.1f}" for rank in fallen)
    advice = (
        "compare it with random weights before you use it."
        if drop_skips
        else "--drop-skips 0.5 keeps deep levels in use."
    )
    return (
        "Warning: pre-training has reduced the number of directions in which the features vary (effective "
        f"rank: {listed}). A frozen encoder may work poorly; {advice}"
    )
