"""Trained weights, loaded: the whole network, or its encoder for a task of your own.

What can be loaded: the folder of a run, a checkpoint of this toolkit, a file in the format of the method's
authors (METHOD.md section 4: a dict with `state_dict`, every key begins with `module.`), and a state dict, of
torch or as safetensors. What torch's wrappers put before the names, in whatever order, is taken away.
Nothing but plain tensors and numbers is ever unpickled. `read_beginning` reads what another network begins
with (METHOD.md section 6), which may also be weights of others, such as ImageNet's for the encoder of the 2D
U-Net (EXCHANGE.md). They are never downloaded: whoever wants them names a file.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import sha256_of
from genesis_toolkit.training.machine.run_folder import Run
from genesis_toolkit.training.networks import registry
from genesis_toolkit.training.networks.unet2d import UNet2D
from genesis_toolkit.training.networks.unet3d import Encoder, UNet3D
from genesis_toolkit.training.weights import files

#: Of every key in a file of the method's authors.
PREFIX = "module."

#: What stands before names: DataParallel writes `module.`, torch.compile `_orig_mod.`, Lightning `model.`.
_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.|model\.)+")
_FIRST = "conv1.weight"
_RESNET = (_FIRST, "layer1.0.conv1.weight")  # torchvision's names; no network here has these
_CLASSIFIER = "fc."  # torchvision's last layer
_COUNTER = "num_batches_tracked"  # files older than torch 0.4.1 have none
_KERNEL_AXES, _COLOURS = 4, 3


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
    return recognise(read_weights(path), path)[2]


def load_encoder(path: str | Path) -> nn.Module:
    """The trained encoder, for a task of your own.

    Args:
        path: as for `load_network`; or a file of an encoder alone, by the names that the module has.

    Returns:
        A module on the CPU, in training mode, from float32 `[batch, 1, x, y, z]` in [0, 1] to a list of
        features by level, float32 `[batch, channel, x, y, z]`. Its `output_channels` lists their channels:
        64, 128, 256, 512 at 1, 1/2, 1/4, 1/8 of the edges for the published network; nnU-Net's have six
        levels. Of `UNet2D` it is a `ResNet18Encoder`, from `[batch, 1, x, y]` to levels of 64, 64, 128, 256,
        512 channels at 1/2 .. 1/32 of the edges, whose weights carry torchvision's names.

    Raises:
        CallError, DataError: as `load_network`.
    """
    path = file_of(Path(path))
    weights = read_weights(path)
    return _encoder_alone(weights, path) or encoder_of(recognise(weights, path)[2])


def _encoder_alone(weights: Mapping[str, Tensor], path: Path) -> nn.Module | None:
    """Return the encoder if no tensors but its own are there, else None; see `load_network` for errors."""
    for kind in registry.ARCHITECTURES.values():
        first = weights.get(kind.first_weight.removeprefix("encoder."))
        if first is None or first.ndim == 0 or not 1 <= len(first) <= registry.MOST_WIDTH:
            continue
        with torch.random.fork_rng(devices=[]):  # its first weights are thrown away at once
            encoder = encoder_of(registry.build_network(kind.name, len(first)))
        if encoder.state_dict().keys() >= weights.keys():
            files.load_weights(encoder, weights, path)
            return encoder
    return None


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
    content = files.read_plain(path)
    if not isinstance(content, dict):
        content = {"": content}
    if content.get("format") == files.PRETRAINED.format:
        content = files.read_checkpoint(path)  # it knows the versions
    if content.get("format") == files.FINETUNED.format:
        raise CallError(
            f"{path} holds the network of a target task, and pre-trained weights are needed: name a run of "
            "genesis-train pretrain or a file of weights, or take the encoder out of it with genesis-train "
            "export --part encoder."
        )
    weights = content.get("state_dict", content)
    if not is_state_dict(weights):
        raise DataError(
            f"{path} holds no weights that can be loaded here: a checkpoint of genesis-train, a file in the "
            "official format or a state dict is wanted."
        )
    return plain_names(weights, path)


def plain_names(weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return tensors by their names in the network, without `module.`, `_orig_mod.` and `model.` before them.

    Raises:
        DataError: two of them then have one name.
    """
    names: dict[str, str] = {}
    for key in weights:
        first = names.setdefault(_WRAPPERS.sub("", key), key)
        if first != key:
            raise DataError(
                f"{path} holds two networks, or one twice: {first} and {key} are one name. Save one of them "
                "to a file of its own."
            )
    return {name: weights[key] for name, key in names.items()}


def is_state_dict(content: Any) -> TypeGuard[Mapping[str, Tensor]]:
    """Whether something is tensors by name, and nothing else."""
    return isinstance(content, Mapping) and all(
        isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in content.items()
    )


def recognise(weights: Mapping[str, Tensor], path: Path) -> tuple[registry.Architecture, int, nn.Module]:
    """Which network weights are of, its width, and the network with them; see `load_network` for errors."""
    for kind in registry.ARCHITECTURES.values():
        key = kind.first_weight
        if key not in weights:
            continue
        shape = tuple(weights[key].shape)
        if len(shape) < 1 or not 1 <= shape[0] <= registry.MOST_WIDTH:
            raise DataError(
                f"{path} has {key} of shape {shape}, the network needs (width, 1, "
                f"{', '.join(map(str, kind.first_kernel))}), width at least 1 and at most "
                f"{registry.MOST_WIDTH}."
            )
        with torch.random.fork_rng(devices=[]):  # its first weights are thrown away at once
            network = registry.build_network(kind.name, shape[0])
        files.load_weights(network, weights, path)
        return kind, shape[0], network
    firsts = ", ".join(f"{kind.first_weight} ({kind.name})" for kind in registry.ARCHITECTURES.values())
    raise DataError(f"{path} holds weights of no network that is known here: it would have one of {firsts}.")


@dataclass(frozen=True, eq=False)
class Beginning:
    """What a network begins with.

    Attributes:
        network: its name in `registry`.
        width: channels of its first convolution.
        weights: on the CPU, of the whole network by published name, or of an encoder; None from scratch.
        of_encoder: whether they are of the encoder of `unet2d` alone, by torchvision's names.
        file: the name of the file of weights, without its folder; None from scratch.
        sha256: of that file, in hexadecimal; None from scratch.
        window: lowest and highest value that the weights were trained on, in HU or grey levels, where the
            folder of a run tells; else None.
    """

    network: str
    width: int
    weights: Mapping[str, Tensor] | None = None
    of_encoder: bool = False
    file: str | None = None
    sha256: str | None = None
    window: tuple[int, int] | None = None

    def begin(self, network: nn.Module) -> None:
        """Put the weights into a network, in place; from scratch it stays as it is.

        Raises:
            CallError: the weights are of an encoder, and the network is no `UNet2D` or of another width.
            DataError: a tensor is missing, left over or of another shape; it is named, with both shapes.
        """
        if self.weights is None:
            return
        path = Path(self.file or "")
        if not self.of_encoder:
            files.load_weights(network, self.weights, path)
            return
        if not isinstance(network, UNet2D):
            raise CallError(
                f"--initial-encoder {path} is for the ResNet-18 in --network unet2d, and another network is "
                "to be trained: leave it out."
            )
        own = network.encoder.state_dict()
        if self.width and self.width != len(own[_FIRST]):
            raise CallError(
                f"{path} has {_FIRST} of {self.width} channels, and the network was asked to have "
                f"{len(own[_FIRST])}: give --width {self.width}."
            )
        counters = {key: tensor for key, tensor in own.items() if key.endswith(_COUNTER)}
        files.load_weights(network.encoder, {**counters, **self.weights}, path)

    def source(self) -> dict[str, str | None]:
        """Return the file as a run keeps it: plain JSON values, and no folder of this machine."""
        return {"file": self.file, "sha256": self.sha256}

    def describe(self) -> dict[str, Any]:
        """Return all but the weights, in the same way; `pretrained` says which part they are of."""
        part = "encoder" if self.of_encoder else "network"
        return {
            "network": self.network,
            "width": self.width,
            "pretrained": None if self.weights is None else part,
            **self.source(),
            "window": None if self.window is None else list(self.window),
        }


def read_beginning(weights: Path | None, network: str | None = None, width: int | None = None) -> Beginning:
    """Read what a network begins with.

    Args:
        weights: the folder of a run (its best checkpoint is taken), a checkpoint, a file in the official
            format or a state dict, as `load.load_network` takes them; or a ResNet-18 as
            torchvision publishes it, for the encoder of `unet2d`. None: from scratch.
        network: of scratch; `unet3d` when left out. The weights tell theirs, so beside weights it only says
            what is expected.
        width: likewise; the published width when left out.

    Raises:
        CallError: there is nothing at `weights`, they are of another network or width than was asked for, or
            the name or the width is out of range.
        DataError: the file is damaged, or holds weights of no network that is known here.
    """
    kind = registry.architecture(network)
    if width is not None and not 1 <= width <= registry.MOST_WIDTH:
        most = f"from 1 to {registry.MOST_WIDTH} channels"
        raise CallError(f"--width {width} is out of range: it must be {most}.")
    if weights is None:
        return Beginning(kind.name, kind.published_width if width is None else width)
    path = file_of(weights)
    try:  # the store's window, where the folder of a run was given
        window = (Run(weights).described() or {}).get("window", (0, 0))
    except (CallError, DataError, OSError):
        window = (0, 0)  # another program's folder, or an older run: its weights may do all the same
    found = _read(path, tuple(window) if window[0] < window[1] else None)
    for option, asked, there in (("--network", network, found.network), ("--width", width, found.width)):
        if asked is not None and asked != there:
            raise CallError(
                f"{weights} holds weights of {found.network} of width {found.width}, and {option} {asked} "
                f"was asked for: leave {option} out, or name other weights."
            )
    return found


def _read(path: Path, window: tuple[int, int] | None) -> Beginning:
    """Return what lies in a file of weights, once it is known to fit."""
    weights = read_weights(path)
    if all(name in weights for name in _RESNET):
        shape = tuple(weights[_FIRST].shape)
        if len(shape) != _KERNEL_AXES or not 1 <= shape[0] <= registry.MOST_WIDTH:
            raise DataError(
                f"{path} has {_FIRST} of shape {shape}, a ResNet-18 needs (width, 3, 7, 7), width at least 1 "
                f"and at most {registry.MOST_WIDTH}."
            )
        found = read_encoder(path)
        found.begin(UNet2D(found.width))
        return found
    kind, width, _ = recognise(weights, path)
    return Beginning(kind.name, width, weights, False, path.name, sha256_of(path.read_bytes()), window)


def read_encoder(path: Path) -> Beginning:
    """Read a state dict of ResNet-18 as torchvision publishes it: `resnet18-*.pth`.

    The kernels of the first convolution, for red, green and blue, are added up to one: that is what an image
    of grey gives that is put into all three channels. The last layer, `fc`, is left aside.

    Raises:
        CallError: there is no file at `path`.
        DataError: it is cut short, or no state dict. Whether all tensors fit, `begin` tells.
    """
    if not path.is_file():
        raise CallError(
            f"There is no file {path}: --initial-encoder wants the weights of a ResNet-18 under "
            "torchvision's names, such as resnet18-f37072fd.pth; they are never downloaded."
        )
    content = files.read_plain(path)
    if not is_state_dict(content):
        raise DataError(
            f"{path} is no state dict: the tensors of a ResNet-18 by torchvision's names are wanted, and "
            "nothing else in the file."
        )
    named = plain_names(content, path)
    weights = {key: tensor.detach() for key, tensor in named.items() if not key.startswith(_CLASSIFIER)}
    first = weights.get(_FIRST)
    if first is not None and first.ndim == _KERNEL_AXES and first.shape[1] == _COLOURS:
        weights[_FIRST] = first.sum(1, keepdim=True)  # over the channels that go in
    width = 0 if first is None else len(first)  # 0 of a file that `begin` will refuse
    return Beginning("unet2d", width, weights, True, path.name, sha256_of(path.read_bytes()))
