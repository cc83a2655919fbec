"""Trained weights, loaded: the whole network, or its encoder for a task of your own.

What can be loaded: the folder of a run, a checkpoint of this toolkit, a file in the format of the method's
authors (METHOD.md section 4: a dict with `state_dict`, every key begins with `module.`), and a state dict.
Nothing but plain tensors and numbers is ever unpickled.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.training.machine.run_folder import Run
from genesis_toolkit.training.networks.registry import ARCHITECTURES, MOST_WIDTH, Architecture, build_network
from genesis_toolkit.training.networks.unet3d import Encoder, UNet3D
from genesis_toolkit.training.weights.files import (
    FINETUNED,
    PRETRAINED,
    load_weights,
    read_checkpoint,
    read_plain,
)

#: Of every key in a file of the method's authors.
PREFIX = "module."


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


def file_of(path: Path) -> Path:
    """The checkpoint file that a path means: the best one where it is the folder of a run."""
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
    if content.get("format") == PRETRAINED.format:
        content = read_checkpoint(path)  # it knows the versions
    if content.get("format") == FINETUNED.format:
        raise CallError(
            f"{path} holds the network of a target task, and pre-trained weights are wanted: name a run of "
            "genesis-train pretrain, or a file of weights."
        )
    weights = content.get("state_dict", content)
    if not is_state_dict(weights):
        raise DataError(
            f"{path} holds no weights that can be loaded here: a checkpoint of genesis-train, a file in the "
            "official format or a state dict is wanted."
        )
    return {key.removeprefix(PREFIX): tensor for key, tensor in weights.items()}


def is_state_dict(content: Any) -> TypeGuard[Mapping[str, Tensor]]:
    """Whether something is tensors by name, and nothing else."""
    return isinstance(content, Mapping) and all(
        isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in content.items()
    )


def recognise(weights: Mapping[str, Tensor], path: Path) -> tuple[Architecture, int]:
    """Which network the weights are of, and how wide it is; or a `DataError` that names all."""
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
    """A network with these weights; see `load_network` for errors."""
    with torch.random.fork_rng(devices=[]):  # its first weights are thrown away at once
        network = build_network(kind.name, width)
    load_weights(network, weights, path)
    return network
