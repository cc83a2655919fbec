"""Trained weights on their way to others, and back: load them, take the encoder, write other formats.

What can be loaded: the folder of a run, a checkpoint of this toolkit, a file in the format of the method's
authors (METHOD.md section 4: a dict with `state_dict`, every key begins with `module.`), and a state dict.
Nothing but plain tensors and numbers is ever unpickled.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import sha256_of, write_whole
from genesis_toolkit.pipeline.store.write import check_place
from genesis_toolkit.training.machine.run_folder import Run
from genesis_toolkit.training.networks.registry import (
    ARCHITECTURES,
    MOST_WIDTH,
    OF_THE_PAPERS,
    Architecture,
    build_network,
)
from genesis_toolkit.training.networks.unet3d import UNet3D, check_size
from genesis_toolkit.training.weights.card import CardFacts, model_card
from genesis_toolkit.training.weights.files import (
    FINETUNED,
    FORMAT,
    load_weights,
    read_checkpoint,
    read_plain,
)
from genesis_toolkit.training.weights.nnssl import nnssl_checkpoint

#: What `export` writes.
FORMATS = ("official", "nnssl", "state-dict")

_PREFIX = "module."
_LEVELS = ("down_tr64", "down_tr128", "down_tr256", "down_tr512")


@dataclass(frozen=True)
class Export:
    """What `export` wrote.

    Attributes:
        file: the weights.
        card: the model card beside them.
        format: one of `FORMATS`.
        network: name of the architecture.
        width: channels of the first convolution.
        weights: parameters of the network, counted.
        epoch: of the run, counted from 1.
        validation_loss: mean squared error of values in [0, 1] after that epoch.
        sha256: of the file.
    """

    file: str
    card: str
    format: str
    network: str
    width: int
    weights: int
    epoch: int
    validation_loss: float
    sha256: str


class Encoder(nn.Module):
    """The way down of the 3D U-Net, with its weights, under their published names.

    Attributes:
        output_channels: features of every level; 64, 128, 256, 512 in the published network.
    """

    def __init__(self, network: UNet3D) -> None:
        super().__init__()
        for level in _LEVELS:
            self.add_module(level, network.get_submodule(level))
        width: int = network.out_tr.final_conv.in_channels
        self.output_channels = [width * 2**level for level in range(len(_LEVELS))]

    def forward(self, cubes: Tensor) -> list[Tensor]:
        """The features of every level, before pooling.

        Args:
            cubes: float32 `[batch, 1, x, y, z]` in [0, 1].

        Returns:
            float32 `[batch, channel, x, y, z]` at 1, 1/2, 1/4 and 1/8 of the edges.

        Raises:
            CallError: an edge is not divisible by 8.
        """
        check_size(tuple(cubes.shape[2:]))
        features: list[Tensor] = []
        for level in self.children():
            features.append(level(functional.max_pool3d(features[-1], 2) if features else cubes))
        return features


def load_network(path: str | Path) -> nn.Module:
    """The trained network, from a degraded cube to a restored one, ready to be trained further.

    Args:
        path: the folder of a run (its best checkpoint is taken), a checkpoint, a file in the official format,
            or a state dict. Which network it is and how wide, its weights tell.

    Returns:
        A module on the CPU, in training mode, from float32 `[batch, 1, x, y, z]` in [0, 1] to the same shape
        and range: `UNet3D`, or one of nnU-Net's networks; or `UNet2D`, for `[batch, 1, x, y]`.

    Raises:
        CallError: there is nothing at `path`, or nnU-Net's package is needed and not installed.
        DataError: the file is cut short, holds more than plain tensors and numbers, or does not fit: a tensor
            that is missing, left over or of another shape is named, with both shapes.
    """
    path = file_of(Path(path))
    weights = read_weights(path)
    kind, width = recognise(weights, path)
    return load_exactly(kind, width, weights, path)


def load_encoder(path: str | Path) -> nn.Module:
    """The trained encoder, for a task of your own.

    Args:
        path: as for `load_network`.

    Returns:
        A module on the CPU, in training mode, from float32 `[batch, 1, x, y, z]` in [0, 1] to a list of
        features by level, float32 `[batch, channel, x, y, z]`. Its `output_channels` lists their channels:
        64, 128, 256, 512 at 1, 1/2, 1/4, 1/8 of the edges for the published network; nnU-Net's have six
        levels. Of `UNet2D` it is a `ResNet18Encoder`, from `[batch, 1, x, y]` to levels of 64, 64, 128, 256,
        512 channels at 1/2 .. 1/32 of the edges, whose weights carry torchvision's names.

    Raises:
        CallError, DataError: as `load_network`.
    """
    return encoder_of(load_network(path))


def encoder_of(network: nn.Module) -> nn.Module:
    """The encoder of a network that `load_network` or `build_network` gave; its weights are shared."""
    return Encoder(network) if isinstance(network, UNet3D) else network.get_submodule("encoder")


def export(folder: Path, out: Path, kind: str, *, overwrite: bool = False) -> Export:
    """Write the best weights of a run in a format of others, and a model card beside them.

    Args:
        folder: of the run.
        out: the file to write; the card gets its name with `.md` after it.
        kind: `official` (METHOD.md section 4), `nnssl` (EXCHANGE.md), or `state-dict`: tensors by name.
        overwrite: replace what is there.

    Raises:
        CallError: there is no run or no finished epoch, something is in the way, or the format does not know
            the network; nothing is written.
        DataError: the checkpoint is damaged.
    """
    if kind not in FORMATS:
        raise CallError(f"--format {kind} is unknown; allowed: {', '.join(FORMATS)}.")
    card = out.with_name(f"{out.name}.md")
    _check_out(folder, out, card, overwrite=overwrite)
    run = _described(folder)
    best = file_of(folder)
    checkpoint = read_checkpoint(best)
    found, width = recognise(checkpoint["state_dict"], best)
    network = load_exactly(found, width, checkpoint["state_dict"], best)
    epochs = _told_epochs(Run(folder).losses, checkpoint["epoch"])
    if kind == "nnssl":
        content = nnssl_checkpoint(found, width, network, checkpoint, run, epochs)
    else:
        content = _official(found, checkpoint) if kind == "official" else dict(checkpoint["state_dict"])
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getvalue()
    facts = CardFacts(
        file=out.name,
        kind=kind,
        sha256=sha256_of(data),
        network=found.words,
        width=width,
        weights=sum(weights.numel() for weights in network.parameters()),
        edge_multiple=found.edge_multiple,
        epoch=checkpoint["epoch"],
        validation_loss=checkpoint["best_loss"],
    )
    text = model_card(facts, run, epochs[-1]["by_degradation"]).encode()
    write_whole(out, data)
    write_whole(card, text)
    return Export(
        file=str(out),
        card=str(card),
        format=kind,
        network=found.name,
        width=width,
        weights=facts.weights,
        epoch=facts.epoch,
        validation_loss=facts.validation_loss,
        sha256=facts.sha256,
    )


def _official(kind: Architecture, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The dict of the authors' file.

    Raises:
        CallError: it is no network of theirs.
    """
    if kind.name != OF_THE_PAPERS[3]:
        others = "--format nnssl or --format state-dict" if kind.class_name else "--format state-dict"
        raise CallError(
            f"The official format holds the 3D U-Net only, and this run trained {kind.name}: give {others}."
        )
    return {
        "epoch": checkpoint["epoch"],
        "state_dict": {_PREFIX + key: tensor for key, tensor in checkpoint["state_dict"].items()},
        "optimizer_state_dict": checkpoint["optimizer_state_dict"],
    }


def _check_out(folder: Path, out: Path, card: Path, *, overwrite: bool) -> None:
    """Refuse to write over anything that is not to be replaced."""
    check_place(out)
    if folder.resolve() in (out.resolve(), *out.resolve().parents):
        raise CallError(
            f"{out} lies inside the run {folder}, which keeps its own files: choose another place."
        )
    for path in (out, card):
        if path.is_dir():
            raise CallError(f"{path} is a folder, and a file is to be written there: choose another name.")
        if path.exists() and not overwrite:
            raise CallError(f"{path} exists: choose another name, or give --overwrite to replace it.")


def _described(folder: Path) -> dict[str, Any]:
    """What `run.json` says."""
    try:
        described = Run(folder).described()
    except (CallError, DataError, NotADirectoryError):
        raise CallError(
            f"{folder} holds no run of genesis-train pretrain that this version of genesis-toolkit can read, "
            "going by its run.json: name the folder of one."
        ) from None
    if described is None:
        raise CallError(f"There is no run in {folder}: make one with genesis-train pretrain.")
    return described


def _told_epochs(losses: Path, count: int) -> list[dict[str, Any]]:
    """The first epochs in `losses.jsonl`, `count` of them."""
    try:
        lines = losses.read_text(encoding="utf-8").splitlines()[1 : 1 + count]
        epochs: list[dict[str, Any]] = [json.loads(line) for line in lines]
    except (OSError, ValueError):
        epochs = []
    if len(epochs) < count or not count:
        raise DataError(f"{losses} is damaged: it does not tell of the {count} epochs that the weights had.")
    return epochs


def file_of(path: Path) -> Path:
    """The checkpoint file that a path means: the best one where it is the folder of a run.

    Raises:
        CallError: there is nothing, or a folder without a best checkpoint.
    """
    if not path.exists():
        raise CallError(f"There are no weights at {path}: name the folder of a run, or a file of weights.")
    if not path.is_dir():
        return path
    best = Run(path).best
    if not best.is_file():
        raise CallError(
            f"There is no {best.name} in {path}: it is not the folder of a run, or no epoch is finished yet."
        )
    return best


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by their plain names, in whatever of the known formats it is.

    Raises:
        CallError: they are of a target task.
        DataError: the file is damaged, or holds no weights.
    """
    content = read_plain(path)
    if not isinstance(content, dict):
        content = {"": content}
    if content.get("format") == FORMAT:
        content = read_checkpoint(path)  # it knows the versions
    if content.get("format") == FINETUNED:
        raise CallError(
            f"{path} holds the network of a target task, and pre-trained weights are wanted: name a run of "
            "genesis-train pretrain, or a file of weights."
        )
    weights = content.get("state_dict", content)
    if not isinstance(weights, Mapping) or not all(
        isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in weights.items()
    ):
        raise DataError(
            f"{path} holds no weights that can be loaded here: a checkpoint of genesis-train, a file in the "
            "official format or a state dict is wanted."
        )
    return {key.removeprefix(_PREFIX): tensor for key, tensor in weights.items()}


def recognise(weights: Mapping[str, Tensor], path: Path) -> tuple[Architecture, int]:
    """Which network the weights are of, and how wide it is.

    Raises:
        DataError: of none that is known here.
    """
    for kind in ARCHITECTURES.values():
        key = kind.first_weight
        if key not in weights:
            continue
        shape = tuple(weights[key].shape)
        if len(shape) < 1 or not 1 <= shape[0] <= MOST_WIDTH:
            raise DataError(
                f"{path} has {key} of shape {shape}, the network needs (width, 1, "
                f"{', '.join(map(str, kind.first_kernel))}), width at least 1 and at most {MOST_WIDTH}."
            )
        return kind, shape[0]
    firsts = ", ".join(f"{kind.first_weight} ({kind.name})" for kind in ARCHITECTURES.values())
    raise DataError(f"{path} holds weights of no network that is known here: it would have one of {firsts}.")


def load_exactly(kind: Architecture, width: int, weights: Mapping[str, Tensor], path: Path) -> nn.Module:
    """A network with these weights.

    Raises:
        CallError: nnU-Net's package is needed and not installed.
        DataError: a tensor is missing, left over or of another shape; it is named, with both shapes.
    """
    with torch.random.fork_rng(devices=[]):  # its first weights are thrown away at once
        network = build_network(kind.name, width)
    load_weights(network, weights, path)
    return network
