"""Checkpoint files of both trainers: plain tensors and numbers, written whole or not at all.

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
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genesis_toolkit.pipeline.errors import DataError

#: The numbers that tell how far a run came, by their names in the file and in `TrainingState`.
POSITION = ("epoch", "step", "loss_sum", "loss_cubes", "best_epoch", "best_loss", "stale")


@dataclass(frozen=True)
class CheckpointKind:
    """What a command writes.

    Attributes:
        maker: the command.
        format: what stands in its files.
        version: of that format.
        keys: what such a file holds at least, beside the position and the weights.
    """

    maker: str
    format: str
    version: int
    keys: frozenset[str] = frozenset()


PRETRAINED = CheckpointKind(
    "genesis-train pretrain",
    "genesis-pretrain-checkpoint",
    2,
    frozenset(("parameters", "ema_state_dict", "optimizer_state_dict", "scaler_state_dict")),
)
FINETUNED = CheckpointKind("genesis-train finetune", "genesis-finetune-checkpoint", 1)


def checkpoint_bytes(kind: CheckpointKind, content: Mapping[str, Any]) -> bytes:
    """Return a checkpoint file.

    Args:
        kind: of checkpoint.
        content: see the module; its format and version are added.
    """
    return saved_bytes({"format": kind.format, "version": kind.version, **content})


def saved_bytes(content: Mapping[str, Any]) -> bytes:
    """Return the file that torch makes of tensors and numbers."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
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


def read_checkpoint(path: Path, kind: CheckpointKind = PRETRAINED) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Args:
        path: of the file.
        kind: of checkpoint that it must be.

    Returns:
        The dict of the module's docstring.

    Raises:
        DataError: the file is missing, cut short, of another version, or no checkpoint of this kind.
    """
    checkpoint = read_plain(path)
    if not isinstance(checkpoint, dict) or checkpoint.get("format") != kind.format:
        raise DataError(f"{path} is no checkpoint of {kind.maker}.")
    needed = {*POSITION, "state_dict", *kind.keys}
    if checkpoint.get("version") != kind.version or not checkpoint.keys() >= needed:
        raise DataError(
            f"{path} is a checkpoint of format version {checkpoint.get('version')}, this program reads "
            f"version {kind.version}: use the version of genesis-toolkit that wrote it."
        )
    return checkpoint


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
