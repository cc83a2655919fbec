"""Skip connections that are dropped at random in training: in each step, each is either zeroed or kept.

The restored cube must then sometimes come from the deepest level, which otherwise idles, since the finer
levels can restore local content on their own (docs/explanation/evidence.md).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genesis_toolkit.pipeline.rng import Operation, draw_words, threshold
from genesis_toolkit.training.networks.unet2d import UNet2D
from genesis_toolkit.training.networks.unet3d import UNet3D


def draw_dropped(seed: int, epoch: int, step: int, count: int, rate: float) -> NDArray[np.bool_]:
    """Draw the skip connections that one step drops: each with probability `rate`, independently.

    Args:
        seed: seed of the run, 0 .. 2^63 - 1.
        epoch: counted from 0.
        step: step in the epoch, counted from 0.
        count: number of skip connections of the network.
        rate: in [0, 1].

    Returns:
        bool [skip], from the finest level to the deepest that has a skip connection.
    """
    words = draw_words(seed, np.uint64(0), step, epoch, Operation.SKIPS, count)
    dropped: NDArray[np.bool_] = words < threshold(rate)
    return dropped


class SkipDropper:
    """Drops skip connections of a network, in training mode only, without renaming its weights.

    Every skip connection is multiplied by a number on the network's device, 0 or 1, which `draw` sets: a
    compiled network is then compiled once, not once per combination.

    Args:
        network: a network from `registry.build_network`. Copies made before, such as a moving average, are
            unaffected; with a rate of 0 so is the network.
        rate: probability of dropping each skip connection in a step, in [0, 1].
        seed: seed of the run.
    """

    def __init__(self, network: nn.Module, rate: float, seed: int) -> None:
        self.rate, self.seed = rate, seed
        self._kept = torch.ones(0)
        if not rate:
            return
        joins = _joins(network)
        count = len(joins) or len(network.get_submodule("decoder.stages"))  # type: ignore[arg-type] # a list
        self._kept = torch.ones(count, device=next(network.parameters()).device)
        for level, join in enumerate(joins):
            join.register_forward_pre_hook(_scaling(self._kept, level))
        if not joins:
            network.get_submodule("decoder").register_forward_pre_hook(_scaling_all(self._kept))

    def draw(self, epoch: int, step: int) -> None:
        """Set the skip connections that the next step drops, both counted from 0: see `draw_dropped`."""
        if self.rate:
            dropped = draw_dropped(self.seed, epoch, step, len(self._kept), self.rate)
            self._kept.copy_(torch.from_numpy(~dropped), non_blocking=True)


def _joins(network: nn.Module) -> list[nn.Module]:
    """Return the modules that join a skip connection to the level below, finest first; none for nnU-Net's."""
    if isinstance(network, UNet3D):
        return [network.up_tr64, network.up_tr128, network.up_tr256]
    return list(network.decoder)[-2::-1] if isinstance(network, UNet2D) else []  # its last level has none


def _scaling(kept: Tensor, level: int) -> Callable[[nn.Module, Any], Any]:
    """Return the hook that scales the skip connection into a level of our decoders."""

    def scale(join: nn.Module, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor] | None:
        below, skip = inputs
        return (below, skip * kept[level]) if join.training else None

    return scale


def _scaling_all(kept: Tensor) -> Callable[[nn.Module, Any], Any]:
    """Return the hook that scales all inputs of nnU-Net's decoder, finest first, except the deepest level."""

    def scale(decoder: nn.Module, inputs: tuple[list[Tensor]]) -> tuple[list[Tensor]] | None:
        *skips, deepest = inputs[0]
        if not decoder.training:
            return None
        return ([*(skip * kept[level] for level, skip in enumerate(skips)), deepest],)

    return scale
