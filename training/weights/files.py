"""What both trainers carry from step to step, and their checkpoint files: plain tensors and numbers.

A file is a dict that `torch.load(..., weights_only=True)` reads. Of pre-training:

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

In `best.pt` the `state_dict` is what was validated: the moving average where there is one. Files of
fine-tuning have no parameters and no average, and their `best.pt` no optimiser. The learning rate is a pure
function of the position, and there is no state of a random generator, because the order and the degradations
are pure functions of seed and epoch.
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

_FOREIGN = re.compile(r"Unsupported global: GLOBAL ([\w.]+)")  # torch's message, of one class
_NAMES_SHOWN = 5
_LENGTH = 8  # bytes at the beginning of a safetensors file: the length of its header, which is JSON

#: The numbers that tell how far a run came, by their names in the file and in `TrainingState`.
POSITION = ("epoch", "step", "loss_sum", "loss_cubes", "best_epoch", "best_loss", "stale")


class CheckpointKind(NamedTuple):
    """What a command, the `maker`, writes, in which format and version.

    Such a file holds at least these keys, beside the position and the weights; `way_out` is said of one that
    cannot be read.
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
    way_out=" Repeat the genesis-train finetune that made it, with --overwrite.",
)


def checkpoint_bytes(kind: CheckpointKind, content: Mapping[str, Any]) -> bytes:
    """Return a checkpoint file of that kind; its format and version are added to the content."""
    return saved_bytes({"format": kind.format, "version": kind.version, **content})


def saved_bytes(content: Mapping[str, Any]) -> bytes:
    """Return the file that torch makes of tensors and numbers."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def safetensors_bytes(weights: Mapping[str, Tensor]) -> bytes:
    """Return a safetensors file of tensors by name.

    The format knows no tensor of two names, and nnU-Net's decoders name their encoder's again: the first name
    is kept, and `load_weights` knows the others from the network.

    Raises:
        CallError: the package safetensors is not installed.
    """
    kept: dict[int, str] = {}
    for key, tensor in weights.items():
        kept.setdefault(tensor.data_ptr(), key)
    # Of several entries of metadata the format's own writer shuffles the order, and the bytes with it.
    data: bytes = _safetensors().save(
        {key: weights[key].contiguous() for key in kept.values()}, {"format": "pt"}
    )
    return data


def _safetensors() -> Any:
    try:
        from safetensors import torch as package
    except ModuleNotFoundError:
        raise CallError(
            "Files of format safetensors need the package safetensors: install it with pip install "
            '"genesis-toolkit[train]".'
        ) from None
    return package


def read_plain(path: Path) -> Any:
    """Return what a file of torch or safetensors holds, on the CPU, without running anything in it.

    Raises:
        CallError: it is a safetensors file, and that package is not installed.
        DataError: the file is missing, cut short, damaged, or holds more than plain tensors and numbers; the
            classes of what else it holds are named.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    package = _safetensors() if data[_LENGTH : _LENGTH + 1] == b"{" else None
    try:
        return package.load(data) if package else _unpickled(io.BytesIO(data))
    except Exception as error:  # a torn or foreign file raises almost anything: pickle, zip and key errors
        foreign = [] if package else _foreign_classes(data, error)
    if foreign:
        more = f" and {len(foreign) - _NAMES_SHOWN} more" if len(foreign) > _NAMES_SHOWN else ""
        raise DataError(
            f"{path} holds objects of {', '.join(foreign[:_NAMES_SHOWN])}{more} besides tensors and numbers, "
            "and loading them could run code: in the program that wrote it, save the network's state_dict() "
            "alone."
        )
    raise DataError(
        f"{path} is cut short, damaged, or no checkpoint of plain tensors and numbers; nothing else is ever "
        "loaded."
    )


def _unpickled(file: io.BytesIO) -> Any:
    if zipfile.is_zipfile(file):  # the checksums of its members, which torch writes and never reads
        with zipfile.ZipFile(file) as archive:
            if archive.testzip() is not None:
                raise zipfile.BadZipFile
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch has to say about a foreign file, `read_plain` says
        return torch.load(file, map_location="cpu", weights_only=True)


def _foreign_classes(data: bytes, error: Exception) -> list[str]:
    """Return the classes in a file of torch that it refused to load, by dotted name."""
    first = _FOREIGN.search(str(error))
    if first is None:
        return []
    try:  # this knows them all, in torch's newer file format only
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data))) or [first[1]]
    except Exception:
        return [first[1]]


def read_checkpoint(path: Path, kind: CheckpointKind = PRETRAINED) -> dict[str, Any]:
    """Read a checkpoint of that kind onto the CPU: the dict of the module's docstring.

    Raises:
        DataError: the file is missing, cut short, of another version, or no checkpoint of this kind.
    """
    try:
        checkpoint = read_plain(path)
    except DataError as error:
        raise DataError(f"{error}{kind.way_out}") from None
    if not isinstance(checkpoint, dict) or checkpoint.get("format") != kind.format:
        raise DataError(f"{path} is no checkpoint of {kind.maker}.{kind.way_out}")
    needed = {*POSITION, "state_dict", *kind.keys}
    if checkpoint.get("version") != kind.version or not checkpoint.keys() >= needed:
        raise DataError(
            f"{path} is a checkpoint of format version {checkpoint.get('version')}, this program reads "
            f"version {kind.version}: use the version of genesis-toolkit that wrote it.{kind.way_out}"
        )
    return checkpoint


def check_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    """Check that no tensor that was read from `path` holds NaN or infinity, also as float32.

    Raises:
        DataError: one does; the first is named.
    """
    for key, tensor in weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
            count = int((~torch.isfinite(tensor.float())).sum())
            raise DataError(
                f"{path} has NaN or infinity in {key} ({count:,} of its {tensor.numel():,} values): the "
                "training that made it broke down, so take an earlier checkpoint."
            )


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load a state dict, read from `path`, that must fit exactly.

    Where the model has several names for one tensor, one of them is enough.

    Raises:
        DataError: a key is missing or left over, a shape differs, or a tensor holds NaN or infinity: the key
            is named, and both shapes.
    """
    own = model.state_dict()
    known = {own[key].data_ptr(): tensor for key, tensor in weights.items() if key in own}
    weights = {key: known[own[key].data_ptr()] for key in own if own[key].data_ptr() in known} | dict(weights)
    for key, tensor in own.items():
        if key not in weights:
            raise DataError(f"{path} has no {key}, which the network needs.")
        there, needed = tuple(weights[key].shape), tuple(tensor.shape)
        if there != needed:
            raise DataError(f"{path} has {key} of shape {there}, the network needs {needed}.")
    for key in weights:
        if key not in own:
            raise DataError(f"{path} has {key}, which the network does not know.")
    check_finite(weights, path)
    model.load_state_dict(weights)


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
            both = ([*network.parameters(), *network.buffers()] for network in (self.ema, self.model))
            with torch.no_grad():
                for ours, theirs in zip(*both, strict=True):
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
        """Return what a checkpoint file keeps of a run with these parameters.

        The `best` is to be used, not to go on from: its weights are those that were validated.
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
        """Take over what `read_checkpoint` gave, so that training goes on from there.

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
