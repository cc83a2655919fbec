"""Checkpoints: everything a run needs to go on, as plain tensors and numbers, written whole or not at all.

The file is a dict that `torch.load(..., weights_only=True)` reads: `format`, `version`, `epoch` (finished
epochs), `best_epoch`, `best_loss`, `stale` (epochs since the best), `parameters`, `state_dict` under the
published names (METHOD.md section 4), `optimizer_state_dict` and `schedule_state_dict`. There is no state of
a random generator in it, because the order and the degradations are pure functions of seed and epoch.
"""

import io
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

from pipeline.errors import DataError
from training.networks import UNet3D
from training.parameters import PretrainParameters

FORMAT = "genesis-pretrain-checkpoint"
VERSION = 1

_KEYS = {"epoch", "best_epoch", "best_loss", "stale", "parameters", "state_dict"} | {
    "optimizer_state_dict",
    "schedule_state_dict",
}


@dataclass
class TrainingState:
    """A network in training and how far it came.

    Attributes:
        model: the network, on the device that trains.
        optimiser: its SGD.
        schedule: of the learning rate, stepped once an epoch.
        epoch: how many epochs are finished.
        best_epoch: the epoch, counted from 1, with the lowest validation loss so far; 0 before the first.
        best_loss: that loss; infinite before the first.
        stale: finished epochs since the best.
    """

    model: UNet3D
    optimiser: SGD
    schedule: StepLR
    epoch: int = 0
    best_epoch: int = 0
    best_loss: float = math.inf
    stale: int = 0

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.model.parameters()).device

    def finish_epoch(self, validation_loss: float) -> bool:
        """Count one more finished epoch; True when its validation loss is the best so far."""
        self.schedule.step()
        self.epoch += 1
        self.stale += 1
        if validation_loss < self.best_loss:
            self.best_epoch, self.best_loss, self.stale = self.epoch, validation_loss, 0
        return self.stale == 0


def new_state(parameters: PretrainParameters, device: torch.device) -> TrainingState:
    """A network with its first weights, which depend on the seed only, not on the device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(parameters.seed)
        model = UNet3D(parameters.width)
    # On the CPU a step takes 0.7 of the time with channels last: convolutions backward are most of it.
    if device.type == "cpu":
        model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload] # torch leaves it out
    model.to(device)
    optimiser = SGD(model.parameters(), lr=parameters.lr, momentum=parameters.momentum)
    schedule = StepLR(optimiser, step_size=parameters.lr_step, gamma=parameters.lr_factor)
    return TrainingState(model, optimiser, schedule)


def pack(state: TrainingState, parameters: PretrainParameters) -> bytes:
    """The bytes of a checkpoint file."""
    buffer = io.BytesIO()
    torch.save(
        {
            "format": FORMAT,
            "version": VERSION,
            "epoch": state.epoch,
            "best_epoch": state.best_epoch,
            "best_loss": state.best_loss,
            "stale": state.stale,
            "parameters": parameters.as_dict(),
            "state_dict": state.model.state_dict(),
            "optimizer_state_dict": state.optimiser.state_dict(),
            "schedule_state_dict": state.schedule.state_dict(),
        },
        buffer,
    )
    return buffer.getvalue()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Returns:
        The dict of the module's docstring.

    Raises:
        DataError: the file is missing, cut short, or no checkpoint of this toolkit.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"The checkpoint {path} cannot be read: {error.strerror}.") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch has to say about a foreign file is said below
            checkpoint = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception:  # a torn or foreign file raises almost anything: pickle, zip and key errors
        raise DataError(f"{path} is cut short, damaged, or no checkpoint that torch can load.") from None
    if not isinstance(checkpoint, dict) or checkpoint.get("format") != FORMAT:
        raise DataError(f"{path} is no checkpoint of genesis-train pretrain.")
    if checkpoint.get("version") != VERSION or not checkpoint.keys() >= _KEYS:
        raise DataError(
            f"{path} is a checkpoint of format version {checkpoint.get('version')}, this program reads "
            f"version {VERSION}: use the version of genesis-toolkit that wrote it."
        )
    return checkpoint


def restore(state: TrainingState, checkpoint: Mapping[str, Any], path: Path) -> None:
    """Put what `read_checkpoint` gave into `state`, so that training goes on from there.

    Raises:
        DataError: a tensor is missing, left over or of another shape; the sentence names it.
    """
    load_weights(state.model, checkpoint["state_dict"], path)
    try:
        state.optimiser.load_state_dict(checkpoint["optimizer_state_dict"])
        state.schedule.load_state_dict(checkpoint["schedule_state_dict"])
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"The optimiser in {path} does not fit this network: {error}.") from None
    state.epoch = int(checkpoint["epoch"])
    state.best_epoch = int(checkpoint["best_epoch"])
    state.best_loss = float(checkpoint["best_loss"])
    state.stale = int(checkpoint["stale"])


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load a state dict that must fit exactly.

    Args:
        model: the network.
        weights: its tensors by published name.
        path: where they come from, for the sentence.

    Raises:
        DataError: a key is missing or left over, or a shape differs: the key and both shapes are named.
    """
    own = model.state_dict()
    for key, tensor in own.items():
        if key not in weights:
            raise DataError(f"{path} has no {key}, which the network needs.")
        there, needed = tuple(weights[key].shape), tuple(tensor.shape)
        if there != needed:
            raise DataError(f"{path} has {key} of shape {there}, the network needs {needed}.")
    for key in weights:
        if key not in own:
            raise DataError(f"{path} has {key}, which the network does not know.")
    model.load_state_dict(dict(weights))
