"""Training state and its checkpoint files, shared by both trainers: plain tensors and numbers.

A file is a dict that `torch.load(..., weights_only=True)` reads. For pre-training:

    format, version
    epoch, step             the position: finished epochs, and finished steps of the current one
    loss_sum, loss_cubes    for those steps: the sum of the losses of all cubes, and the number of cubes
    best_epoch, best_loss   the epoch with the lowest validation loss so far, counted from 1
    stale                   epochs since then
    parameters              parameters of the run
    state_dict              the weights, under the published names (METHOD.md section 4)
    ema_state_dict          their moving average; None without one
    optimizer_state_dict    state of the optimiser
    scaler_state_dict       state of the loss scaling for fp16; empty otherwise

In `best.pt` the `state_dict` holds the validated weights: the moving average if there is one. Fine-tuning
files have no parameters and no average, and their `best.pt` no optimiser. No learning rate and no random
generator state is stored: the rate is a pure function of the position, the order and the degradations are
pure functions of seed and epoch.
"""

import io
import math
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from genesis_toolkit.pipeline.errors import CallError, DataError

_FOREIGN = re.compile(r"Unsupported global: GLOBAL ([\w.]+)")  # torch's message names one class
_NAMES_SHOWN = 5
_LENGTH = 8  # bytes at the start of a safetensors file: the length of its JSON header

#: The numbers that give the position of a run, by their names in the file and in `TrainingState`.
POSITION = ("epoch", "step", "loss_sum", "loss_cubes", "best_epoch", "best_loss", "stale")


class CheckpointKind(NamedTuple):
    """The format and version of the checkpoints that a command, `maker`, writes.

    `keys` must be present, besides the position and the weights; `way_out` ends the error message about a
    file that cannot be read.
    """

    maker: str
    format: str
    version: int
    keys: tuple[str, ...] = ()
    way_out: str = ""


PRETRAINED = CheckpointKind(
    "genesis-train pretrain",
    "genesis-pretrain-checkpoint",
    2,
    ("parameters", "ema_state_dict", "optimizer_state_dict", "scaler_state_dict"),
)
FINETUNED = CheckpointKind(
    "genesis-train finetune",
    "genesis-finetune-checkpoint",
    1,
    way_out=" Repeat the genesis-train finetune command that made it, with --overwrite.",
)


def checkpoint_bytes(kind: CheckpointKind, content: Mapping[str, Any]) -> bytes:
    """Return a checkpoint file of that kind; its format and version are added to the content."""
    return saved_bytes({"format": kind.format, "version": kind.version, **content})


def saved_bytes(content: Mapping[str, Any]) -> bytes:
    """Return tensors and numbers as the bytes of a torch file."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def safetensors_bytes(weights: Mapping[str, Tensor]) -> bytes:
    """Return a safetensors file of tensors by name.

    The format cannot give one tensor two names, as nnU-Net's decoders do with their encoder's: the first name
    is kept, and `load_weights` finds the others from the network.

    Raises:
        CallError: the package safetensors is not installed.
    """
    kept: dict[int, str] = {}
    for key, tensor in weights.items():
        kept.setdefault(tensor.data_ptr(), key)
    # The format's own writer shuffles several entries of metadata, which would change the bytes.
    data: bytes = _safetensors().save(
        {key: weights[key].contiguous() for key in kept.values()}, {"format": "pt"}
    )
    return data


def _safetensors() -> Any:
    try:
        from safetensors import torch as package
    except ModuleNotFoundError:
        raise CallError(
            "Files in format safetensors need the package safetensors: install it with pip install "
            '"genesis-toolkit[train]".'
        ) from None
    return package


def read_plain(path: Path) -> Any:
    """Return the content of a torch or safetensors file, on the CPU, without running any code in it.

    Raises:
        CallError: it is a safetensors file, and that package is not installed.
        DataError: the file is missing, cut short, damaged, or holds anything besides plain tensors and
            numbers; the error names those classes.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    package = _safetensors() if data[_LENGTH : _LENGTH + 1] == b"{" else None
    try:
        return package.load(data) if package else _unpickled(io.BytesIO(data))
    except Exception as error:  # damaged or foreign files raise almost anything: pickle, zip, key errors
        foreign = [] if package else _foreign_classes(data, error)
    if foreign:
        more = f" and {len(foreign) - _NAMES_SHOWN} more" if len(foreign) > _NAMES_SHOWN else ""
        raise DataError(
            f"{path} holds objects of {', '.join(foreign[:_NAMES_SHOWN])}{more} besides "
            "tensors and numbers, and loading these could run arbitrary code: in the program "
            "that wrote the file, save only the network's state_dict()."
        )
    raise DataError(
        f"{path} is cut short, damaged, or not a checkpoint of plain tensors and numbers, the "
        "only kind that is loaded: copy the file again, or save only the network's state_dict()."
    )


def _unpickled(file: io.BytesIO) -> Any:
    if zipfile.is_zipfile(file):  # check its members' checksums, which torch writes but never reads
        with zipfile.ZipFile(file) as archive:
            if archive.testzip() is not None:
                raise zipfile.BadZipFile
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `read_plain` reports foreign files itself
        return torch.load(file, map_location="cpu", weights_only=True)


def _foreign_classes(data: bytes, error: Exception) -> list[str]:
    """Return the dotted names of the classes that torch refused to load from a file."""
    first = _FOREIGN.search(str(error))
    if first is None:
        return []
    try:  # lists all of them, but only for torch's newer file format
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data))) or [first[1]]
    except Exception:
        return [first[1]]


def read_checkpoint(path: Path, kind: CheckpointKind = PRETRAINED) -> dict[str, Any]:
    """Read a checkpoint of that kind onto the CPU, as the dict in the module docstring.

    Raises:
        DataError: the file is missing, cut short, of another version, or not a checkpoint of this kind.
    """
    try:
        checkpoint = read_plain(path)
    except DataError as error:
        raise DataError(f"{error}{kind.way_out}") from None
    if not isinstance(checkpoint, dict) or checkpoint.get("format") != kind.format:
        raise DataError(f"{path} is not a checkpoint of {kind.maker}.{kind.way_out}")
    needed = {*POSITION, "state_dict", *kind.keys}
    if checkpoint.get("version") != kind.version or not checkpoint.keys() >= needed:
        raise DataError(
            f"{path} has checkpoint format version {checkpoint.get('version')}, but this "
            f"program reads version {kind.version}: use the version of genesis-toolkit that "
            f"wrote the file.{kind.way_out}"
        )
    return checkpoint


def check_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    """Check that no tensor read from `path` holds NaN or infinity, even as float32.

    Raises:
        DataError: a tensor does; the error names the first.
    """
    for key, tensor in weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
            count = int((~torch.isfinite(tensor.float())).sum())
            raise DataError(
                f"{path} has NaN or infinity in {key} ({count:,} of its {tensor.numel():,} values): the "
                "training that wrote it diverged, so use an earlier checkpoint."
            )


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load a state dict, read from `path`, that must match exactly.

    If the model has several names for one tensor, the file needs only one of them.

    Raises:
        DataError: a key is missing or left over, a shape differs, or a tensor holds NaN or infinity; the
            error names the key and both shapes.
    """
    own = model.state_dict()
    known = {own[key].data_ptr(): tensor for key, tensor in weights.items() if key in own}
    weights = {key: known[own[key].data_ptr()] for key in own if own[key].data_ptr() in known} | dict(weights)
    for key, tensor in own.items():
        if key not in weights:
            raise DataError(f"{path} has no {key}, which the network needs.")
        there, needed = tuple(weights[key].shape), tuple(tensor.shape)
        if there != needed:
            raise DataError(f"{path} has {key} of shape {there}, but the network needs {needed}.")
    for key in weights:
        if key not in own:
            raise DataError(f"{path} has {key}, which the network does not have.")
    check_finite(weights, path)
    model.load_state_dict(weights)


@dataclass
class TrainingState:
    """A network in training, with its position in the run.

    Attributes:
        model: the network, on the device that trains.
        optimiser: its optimiser.
        scaler: loss scaling; does nothing except in fp16.
        ema: the moving average of the weights, as a network; None without one.
        decay: decay of the moving average.
        epoch: number of finished epochs.
        step: number of finished steps of the next epoch.
        loss_sum: sum of the losses of all cubes in those steps.
        loss_cubes: number of those cubes.
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
        """The device of the network."""
        return next(self.model.parameters()).device

    @property
    def networks(self) -> list[nn.Module]:
        """The network, and its moving average if there is one."""
        return [self.model] if self.ema is None else [self.model, self.ema]

    @property
    def loss(self) -> float:
        """Mean loss of the epoch's cubes so far, each taken at its own step."""
        return self.loss_sum / self.loss_cubes

    def set_learning_rate(self, lr: float) -> None:
        """Set the learning rate of the next steps."""
        for group in self.optimiser.param_groups:
            group["lr"] = lr

    def finish_step(self, loss: float, cubes: int) -> None:
        """Count a finished step on `cubes` cubes with mean loss `loss`, and update the moving average."""
        self.step += 1
        self.loss_sum += loss * cubes
        self.loss_cubes += cubes
        if self.ema is not None:
            # Not through the state dict, which names some tensors of nnU-Net's networks several times.
            both = ([*network.parameters(), *network.buffers()] for network in (self.ema, self.model))
            with torch.no_grad():
                for ours, theirs in zip(*both, strict=True):
                    if ours.is_floating_point():
                        ours.lerp_(theirs, 1 - self.decay)
                    else:
                        ours.copy_(theirs)

    def finish_epoch(self, validation_loss: float) -> bool:
        """Count a finished epoch; return True if its validation loss is the best so far."""
        self.epoch += 1
        self.step, self.loss_sum, self.loss_cubes = 0, 0.0, 0
        self.stale += 1
        if validation_loss < self.best_loss:
            self.best_epoch, self.best_loss, self.stale = self.epoch, validation_loss, 0
        return self.stale == 0

    def content(self, parameters: Mapping[str, Any], *, best: bool = False) -> dict[str, Any]:
        """Return the content of a checkpoint file for a run with these parameters.

        With `best`, the validated weights only: such a file is for use, not for resuming.
        """
        return {
            **{name: getattr(self, name) for name in POSITION},
            "parameters": dict(parameters),
            "state_dict": ((best and self.ema) or self.model).state_dict(),
            "ema_state_dict": self.ema.state_dict() if self.ema and not best else None,
            "optimizer_state_dict": self.optimiser.state_dict(),
            "scaler_state_dict": self.scaler.state_dict(),
        }

    def restore(self, checkpoint: Mapping[str, Any], path: Path) -> None:
        """Restore the state from a checkpoint returned by `read_checkpoint`, so that training resumes there.

        Raises:
            DataError: a tensor is missing, left over or of another shape; the error names it.
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
