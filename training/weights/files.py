"""Checkpoints: everything a run needs to go on, as plain tensors and numbers, written whole or not at all.

The file is a dict that `torch.load(..., weights_only=True)` reads:

    format, version
    epoch, step             the position: finished epochs, and finished steps of the one begun
    loss_sum, loss_cubes    of those steps: the loss of every cube added up, and how many cubes
    best_epoch, best_loss   the epoch with the lowest validation loss so far, counted from 1
    stale                   epochs since then
    parameters              of the run
    state_dict              the weights, under the published names (METHOD.md section 4)
    ema_state_dict          their moving average; None without one
    optimizer_state_dict    of the optimiser
    scaler_state_dict       of the loss scaling that fp16 needs; empty otherwise

In `best.pt` the `state_dict` is what was validated: the moving average where there is one. The learning rate
is a pure function of the position, and there is no state of a random generator, because the order and the
degradations are pure functions of seed and epoch.
"""

import copy
import io
import math
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.training.networks import registry as architectures
from genesis_toolkit.training.pretrain.optimisers import make_optimiser
from genesis_toolkit.training.pretrain.parameters import PretrainParameters

FORMAT = "genesis-pretrain-checkpoint"
#: Of the checkpoints of fine-tuning (`run`).
FINETUNED = "genesis-finetune-checkpoint"
VERSION = 2

_POSITION = ("epoch", "step", "loss_sum", "loss_cubes", "best_epoch", "best_loss", "stale")
_KEYS = {*_POSITION, "parameters", "state_dict", "ema_state_dict"} | {
    "optimizer_state_dict",
    "scaler_state_dict",
}


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
    def judged(self) -> nn.Module:
        """The network that validates: the moving average where there is one."""
        return self.ema or self.model

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


def _tensors(network: nn.Module) -> list[torch.Tensor]:
    """Every weight and every buffer of a network, each once."""
    return [*network.parameters(), *network.buffers()]


def new_state(
    parameters: PretrainParameters, device: torch.device, channels_last: bool | None = None
) -> TrainingState:
    """A network with its first weights, which depend on the seed only, not on the device.

    Args:
        parameters: of the run.
        device: that trains.
        channels_last: the order of the voxels in memory. None takes it on the CPU only, where a step takes
            0.7 of the time: convolutions backward are most of it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(parameters.seed)
        model = architectures.build_network(parameters.network, parameters.width)
    if channels_last or (channels_last is None and device.type == "cpu"):
        order = architectures.architecture(parameters.network).memory_format
        model.to(memory_format=order)  # type: ignore[call-overload] # torch leaves it out
    model.to(device)
    return TrainingState(
        model,
        make_optimiser(model.parameters(), parameters),
        GradScaler(device.type, enabled=parameters.precision == "fp16"),
        copy.deepcopy(model) if parameters.ema else None,
        parameters.ema or 0.0,
    )


def start_at(state: TrainingState, constant: float) -> None:
    """Let the untrained network, and its average, give about one value, in [0, 1]."""
    for network in (state.model, state.ema):
        if network is not None:
            architectures.start_at(network, constant)


def pack(state: TrainingState, parameters: PretrainParameters, *, best: bool = False) -> bytes:
    """The bytes of a checkpoint file.

    Args:
        state: of the run.
        parameters: of the run.
        best: to be used, not to go on from: its weights are those that were validated.
    """
    judged = state.judged if best else state.model
    buffer = io.BytesIO()
    torch.save(
        {
            "format": FORMAT,
            "version": VERSION,
            **{name: getattr(state, name) for name in _POSITION},
            "parameters": parameters.as_dict(),
            "state_dict": judged.state_dict(),
            "ema_state_dict": state.ema.state_dict() if state.ema and not best else None,
            "optimizer_state_dict": state.optimiser.state_dict(),
            "scaler_state_dict": state.scaler.state_dict(),
        },
        buffer,
    )
    return buffer.getvalue()


def read_plain(path: Path) -> Any:
    """What a file of torch holds, of any version, on the CPU, without running anything of what is in it.

    Raises:
        DataError: the file is missing, cut short, damaged, or holds more than plain tensors and numbers.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    file = io.BytesIO(data)
    try:
        if zipfile.is_zipfile(file):  # the checksums of its members, which torch writes and never reads
            with zipfile.ZipFile(file) as archive:
                if archive.testzip() is not None:
                    raise zipfile.BadZipFile
        file.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch has to say about a foreign file is said below
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # a torn or foreign file raises almost anything: pickle, zip and key errors
        raise DataError(
            f"{path} is cut short, damaged, or no checkpoint of plain tensors and numbers; nothing else is "
            "ever loaded."
        ) from None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Returns:
        The dict of the module's docstring.

    Raises:
        DataError: the file is missing, cut short, or no checkpoint of this toolkit.
    """
    checkpoint = read_plain(path)
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
    if state.ema is not None:
        load_weights(state.ema, checkpoint["ema_state_dict"] or {}, path)
    try:
        state.optimiser.load_state_dict(checkpoint["optimizer_state_dict"])
        if state.scaler.is_enabled():
            state.scaler.load_state_dict(checkpoint["scaler_state_dict"])
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"The optimiser in {path} does not fit this network: {error}.") from None
    for name in _POSITION:
        setattr(state, name, type(getattr(state, name))(checkpoint[name]))


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
