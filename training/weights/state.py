"""A network in training, and how far it came: what both trainers carry from step to step."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.training.weights.files import POSITION, load_weights


@dataclass
class TrainingState:
    """A network in training and how far it came.

    Attributes:
        model: the network, on the device that trains.
        optimiser: its optimiser.
        scaler: of the loss; does nothing but in fp16.
        ema: the moving average of the weights, as a network; None without one.
        decay: of the moving average.
        epoch: how many epochs are finished.
        step: how many steps of the next epoch are finished.
        loss_sum: the loss of every cube in those steps, added up.
        loss_cubes: how many cubes that were.
        best_epoch: the epoch, counted from 1, with the lowest validation loss so far; 0 before the first.
        best_loss: that loss; infinite before the first.
        stale: finished epochs since the best.
    """

    model: nn.Module
    optimiser: Optimizer
    scaler: GradScaler
    ema: nn.Module | None = None
    decay: float = 0.0
    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    loss_cubes: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    stale: int = 0

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.model.parameters()).device

    @property
    def evaluated(self) -> nn.Module:
        """The network that validates: the moving average where there is one."""
        return self.ema or self.model

    @property
    def networks(self) -> list[nn.Module]:
        """The network, and its average where there is one."""
        return [self.model] if self.ema is None else [self.model, self.ema]

    @property
    def loss(self) -> float:
        """The mean loss of the epoch's cubes so far, each as it was when its batch came."""
        return self.loss_sum / self.loss_cubes

    def set_learning_rate(self, lr: float) -> None:
        """For the steps to come."""
        for group in self.optimiser.param_groups:
            group["lr"] = lr

    def finish_step(self, loss: float, cubes: int) -> None:
        """Count one more finished step, of so many cubes with this mean loss; the average follows."""
        self.step += 1
        self.loss_sum += loss * cubes
        self.loss_cubes += cubes
        if self.ema is not None:
            # Not by the state dict, which names one tensor several times in nnU-Net's networks.
            with torch.no_grad():
                for ours, theirs in zip(_tensors(self.ema), _tensors(self.model), strict=True):
                    if ours.is_floating_point():
                        ours.lerp_(theirs, 1 - self.decay)
                    else:
                        ours.copy_(theirs)

    def finish_epoch(self, validation_loss: float) -> bool:
        """Count one more finished epoch; True when its validation loss is the best so far."""
        self.epoch += 1
        self.step, self.loss_sum, self.loss_cubes = 0, 0.0, 0
        self.stale += 1
        if validation_loss < self.best_loss:
            self.best_epoch, self.best_loss, self.stale = self.epoch, validation_loss, 0
        return self.stale == 0

    def content(self, parameters: Mapping[str, Any], *, best: bool = False) -> dict[str, Any]:
        """Return what a checkpoint file keeps (`files`).

        Args:
            parameters: of the run.
            best: to be used, not to go on from: the weights are those that were validated, and no average.
        """
        return {
            **{name: getattr(self, name) for name in POSITION},
            "parameters": dict(parameters),
            "state_dict": (self.evaluated if best else self.model).state_dict(),
            "ema_state_dict": self.ema.state_dict() if self.ema and not best else None,
            "optimizer_state_dict": self.optimiser.state_dict(),
            "scaler_state_dict": self.scaler.state_dict(),
        }

    def restore(self, checkpoint: Mapping[str, Any], path: Path) -> None:
        """Take over what `read_checkpoint` gave, so that training goes on from there.

        Args:
            checkpoint: what was read.
            path: where it was read, for the sentence.

        Raises:
            DataError: a tensor is missing, left over or of another shape; the sentence names it.
        """
        load_weights(self.model, checkpoint["state_dict"], path)
        if self.ema is not None:
            load_weights(self.ema, checkpoint["ema_state_dict"] or {}, path)
        try:
            self.optimiser.load_state_dict(checkpoint["optimizer_state_dict"])
            if self.scaler.is_enabled():
                self.scaler.load_state_dict(checkpoint["scaler_state_dict"])
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise DataError(f"The optimiser in {path} does not fit this network: {error}.") from None
        for name in POSITION:
            setattr(self, name, type(getattr(self, name))(checkpoint[name]))


def _tensors(network: nn.Module) -> list[torch.Tensor]:
    """Every weight and every buffer of a network, each once."""
    return [*network.parameters(), *network.buffers()]
