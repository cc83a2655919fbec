"""Load trained weights: the whole network, or its encoder for your own task.

Accepted are the folder of a run, a checkpoint of this toolkit, a file in the format of the method's authors
(METHOD.md section 4: a dict with `state_dict`, every key begins with `module.`), and a state dict, from torch
or in safetensors. Prefixes that torch's wrappers add to the names are removed, in any order. Only plain
tensors and numbers are ever unpickled. `read_beginning` reads the initial weights of another network
(METHOD.md section 6), which may also be foreign ones, such as ImageNet weights for the encoder of the 2D
U-Net (EXCHANGE.md). They are never downloaded: the user names a file.
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

#: Prefix of every key in a file of the method's authors.
PREFIX = "module."

#: Prefixes of names: DataParallel writes `module.`, torch.compile `_orig_mod.`, Lightning `model.`.
_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.|model\.)+")
_FIRST = "conv1.weight"
_RESNET = (_FIRST, "layer1.0.conv1.weight")  # torchvision's names, which no network here has
_CLASSIFIER = "fc."  # torchvision's last layer
_COUNTER = "num_batches_tracked"  # files older than torch 0.4.1 have none
_KERNEL_AXES, _COLOURS = 4, 3


def load_network(path: str | Path) -> nn.Module:
    """Load the trained network, which maps a degraded cube to a restored one, ready for further training.

    Args:
        path: the folder of a run (its best checkpoint is used), a checkpoint, a file in the official format,
            or a state dict. Network and width follow from the weights.

    Returns:
        A module on the CPU, in training mode, from float32 `[batch, 1, x, y, z]` in [0, 1] to the same shape
        and range: `UNet3D`, or one of nnU-Net's networks; or `UNet2D`, for `[batch, 1, x, y]`.

    Raises:
        CallError: `path` does not exist, or nnU-Net's package is needed and not installed.
        DataError: the file is cut short, holds more than plain tensors and numbers, or does not match: the
            error names the tensor that is missing, left over or of another shape, with both shapes.
    """
    path = file_of(Path(path))
    return recognise(read_weights(path), path)[2]


def load_encoder(path: str | Path) -> nn.Module:
    """Load the trained encoder, for your own task.

    Args:
        path: as for `load_network`; or a file of the encoder only, with the names this module has.

    Returns:
        A module on the CPU, in training mode, from float32 `[batch, 1, x, y, z]` in [0, 1] to a list of
        features per level, float32 `[batch, channel, x, y, z]`. Its `output_channels` lists their channels:
        64, 128, 256, 512 at 1, 1/2, 1/4, 1/8 of the edges for the published network; nnU-Net's have six
        levels. For `UNet2D` it is a `ResNet18Encoder`, from `[batch, 1, x, y]` to levels of 64, 64, 128, 256,
        512 channels at 1/2 .. 1/32 of the edges, with torchvision's names for its weights.

    Raises:
        CallError, DataError: as `load_network`.
    """
    path = file_of(Path(path))
    weights = read_weights(path)
    return _encoder_alone(weights, path) or encoder_of(recognise(weights, path)[2])


def _encoder_alone(weights: Mapping[str, Tensor], path: Path) -> nn.Module | None:
    """Return the encoder if the file holds its tensors only, else None; see `load_network` for errors."""
    for kind in registry.ARCHITECTURES.values():
        first = weights.get(kind.first_weight.removeprefix("encoder."))
        if first is None or first.ndim == 0 or not 1 <= len(first) <= registry.MOST_WIDTH:
            continue
        with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten below
            encoder = encoder_of(registry.build_network(kind.name, len(first)))
        if encoder.state_dict().keys() >= weights.keys():
            files.load_weights(encoder, weights, path)
            return encoder
    return None


def encoder_of(network: nn.Module) -> nn.Module:
    """Return the encoder of a network from `load_network` or `build_network`; it shares its weights."""
    return Encoder(network) if isinstance(network, UNet3D) else network.get_submodule("encoder")


def file_of(path: Path) -> Path:
    """Return the checkpoint file that a path means: for the folder of a run, its best checkpoint."""
    if not path.exists():
        raise CallError(f"There are no weights at {path}: give the folder of a run, or a file of weights.")
    if not path.is_dir():
        return path
    best = Run(path).best
    if not best.is_file():
        raise CallError(
            f"There is no {best.name} in {path}: this folder is not a run, or no epoch has finished yet."
        )
    return best


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, in any accepted format, by their plain names.

    Raises:
        CallError: they belong to a fine-tuned network.
        DataError: the file is damaged, or holds no weights.
    """
    content = files.read_plain(path)
    if not isinstance(content, dict):
        content = {"": content}
    if content.get("format") == files.PRETRAINED.format:
        content = files.read_checkpoint(path)  # checks the version
    if content.get("format") == files.FINETUNED.format:
        raise CallError(
            f"{path} holds a fine-tuned network, but pre-trained weights are needed here: "
            "give a run of genesis-train pretrain or a file of weights, or extract the "
            "encoder with genesis-train export --part encoder."
        )
    weights = content.get("state_dict", content)
    if not is_state_dict(weights):
        raise DataError(
            f"{path} holds no weights that can be loaded here: the file must be a checkpoint "
            "of genesis-train, a file in the official format or a state dict."
        )
    return plain_names(weights, path)


def plain_names(weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return tensors by their names in the network, without the prefixes `module.`, `_orig_mod.`, `model.`.

    Raises:
        DataError: two names become the same.
    """
    names: dict[str, str] = {}
    for key in weights:
        first = names.setdefault(_WRAPPERS.sub("", key), key)
        if first != key:
            raise DataError(
                f"{path} holds two networks, or the same network twice: {first} and {key} "
                "have the same name once their prefixes are removed. Save only one network to the file."
            )
    return {name: weights[key] for name, key in names.items()}


def is_state_dict(content: Any) -> TypeGuard[Mapping[str, Tensor]]:
    """Return whether `content` is a dict of tensors by name and nothing else."""
    return isinstance(content, Mapping) and all(
        isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in content.items()
    )


def recognise(weights: Mapping[str, Tensor], path: Path) -> tuple[registry.Architecture, int, nn.Module]:
    """Return architecture and width of weights, and the network with them; see `load_network` for errors."""
    for kind in registry.ARCHITECTURES.values():
        key = kind.first_weight
        if key not in weights:
            continue
        shape = tuple(weights[key].shape)
        if len(shape) < 1 or not 1 <= shape[0] <= registry.MOST_WIDTH:
            raise DataError(
                f"{path} has {key} of shape {shape}, but the network needs (width, 1, "
                f"{', '.join(map(str, kind.first_kernel))}), width at least 1 and at most "
                f"{registry.MOST_WIDTH}."
            )
        with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten below
            network = registry.build_network(kind.name, shape[0])
        files.load_weights(network, weights, path)
        return kind, shape[0], network
    firsts = ", ".join(f"{kind.first_weight} ({kind.name})" for kind in registry.ARCHITECTURES.values())
    raise DataError(
        f"{path} holds weights of an unknown network: a known network has one of the tensors {firsts}."
    )


@dataclass(frozen=True, eq=False)
class Beginning:
    """The initial weights of a network, and the network they are for.

    Attributes:
        network: its name in `registry`.
        width: channels of its first convolution.
        weights: on the CPU: of the whole network by published name, or of an encoder; None from scratch.
        of_encoder: whether they are for the encoder of `unet2d` only, by torchvision's names.
        file: name of the weights file, without its folder; None from scratch.
        sha256: hash of that file, in hexadecimal; None from scratch.
        window: lowest and highest value of the training data, in HU or grey levels, if the weights come from
            the folder of a run that records them; else None.
    """

    network: str
    width: int
    weights: Mapping[str, Tensor] | None = None
    of_encoder: bool = False
    file: str | None = None
    sha256: str | None = None
    window: tuple[int, int] | None = None

    def begin(self, network: nn.Module) -> None:
        """Load the weights into a network, in place; from scratch, leave it unchanged.

        Raises:
            CallError: the weights are for an encoder, and the network is not a `UNet2D` or has another width.
            DataError: a tensor is missing, left over or of another shape; the error names it and both shapes.
        """
        if self.weights is None:
            return
        path = Path(self.file or "")
        if not self.of_encoder:
            files.load_weights(network, self.weights, path)
            return
        if not isinstance(network, UNet2D):
            raise CallError(
                f"--initial-encoder {path} is for the ResNet-18 in --network unet2d, but this "
                "run trains another network: omit the option."
            )
        own = network.encoder.state_dict()
        if self.width and self.width != len(own[_FIRST]):
            raise CallError(
                f"{path} has {_FIRST} with {self.width} channels, but the network has "
                f"{len(own[_FIRST])}: use --width {self.width}."
            )
        counters = {key: tensor for key, tensor in own.items() if key.endswith(_COUNTER)}
        files.load_weights(network.encoder, {**counters, **self.weights}, path)

    def source(self) -> dict[str, str | None]:
        """Return name and hash of the file as a run records them: plain JSON values, without its folder."""
        return {"file": self.file, "sha256": self.sha256}

    def describe(self) -> dict[str, Any]:
        """Return everything but the weights as plain JSON values; `pretrained` says which part they fill."""
        part = "encoder" if self.of_encoder else "network"
        return {
            "network": self.network,
            "width": self.width,
            "pretrained": None if self.weights is None else part,
            **self.source(),
            "window": None if self.window is None else list(self.window),
        }


def read_beginning(weights: Path | None, network: str | None = None, width: int | None = None) -> Beginning:
    """Read the initial weights of a network.

    Args:
        weights: the folder of a run (its best checkpoint is used), a checkpoint, a file in the official
            format or a state dict, as `load.load_network` accepts them; or a ResNet-18 as torchvision
            publishes it, for the encoder of `unet2d`. None: from scratch.
        network: network to train from scratch, `unet3d` by default. With `weights`, which determine the
            network, only a check.
        width: likewise; the published width by default.

    Raises:
        CallError: `weights` does not exist, belongs to another network or width than requested, or the name
            or the width is out of range.
        DataError: the file is damaged, or holds weights of an unknown network.
    """
    kind = registry.architecture(network)
    if width is not None and not 1 <= width <= registry.MOST_WIDTH:
        most = f"between 1 and {registry.MOST_WIDTH} channels"
        raise CallError(f"--width {width} is out of range: it must be {most}.")
    if weights is None:
        return Beginning(kind.name, kind.published_width if width is None else width)
    path = file_of(weights)
    try:  # the window of the store, if this is the folder of a run
        window = (Run(weights).described() or {}).get("window", (0, 0))
    except (CallError, DataError, OSError):
        window = (0, 0)  # another program's folder, or an older run: its weights may still load
    found = _read(path, tuple(window) if window[0] < window[1] else None)
    for option, asked, there in (("--network", network, found.network), ("--width", width, found.width)):
        if asked is not None and asked != there:
            raise CallError(
                f"{weights} holds weights of {found.network} with width {found.width}, not "
                f"{option} {asked}: omit {option}, or give other weights."
            )
    return found


def _read(path: Path, window: tuple[int, int] | None) -> Beginning:
    """Return the initial weights in a file, after checking that they match their network."""
    weights = read_weights(path)
    if all(name in weights for name in _RESNET):
        shape = tuple(weights[_FIRST].shape)
        if len(shape) != _KERNEL_AXES or not 1 <= shape[0] <= registry.MOST_WIDTH:
            raise DataError(
                f"{path} has {_FIRST} of shape {shape}; a ResNet-18 needs (width, 3, 7, 7), width at least 1 "
                f"and at most {registry.MOST_WIDTH}."
            )
        found = read_encoder(path)
        found.begin(UNet2D(found.width))
        return found
    kind, width, _ = recognise(weights, path)
    return Beginning(kind.name, width, weights, False, path.name, sha256_of(path.read_bytes()), window)


def read_encoder(path: Path) -> Beginning:
    """Read a ResNet-18 state dict as torchvision publishes it: `resnet18-*.pth`.

    The kernels of the first convolution for red, green and blue are summed into one, which gives the same
    output as a grey image repeated in all three channels. The last layer, `fc`, is ignored.

    Raises:
        CallError: there is no file at `path`.
        DataError: the file is cut short, or not a state dict. `begin` checks that all tensors match.
    """
    if not path.is_file():
        raise CallError(
            f"There is no file {path}: --initial-encoder must be a file with the weights of a "
            "ResNet-18 under torchvision's names, such as resnet18-f37072fd.pth; weights are "
            "never downloaded."
        )
    content = files.read_plain(path)
    if not is_state_dict(content):
        raise DataError(
            f"{path} is not a state dict: the file must hold only the tensors of a ResNet-18 under "
            "torchvision's names. Save the network's state_dict() to it."
        )
    named = plain_names(content, path)
    weights = {key: tensor.detach() for key, tensor in named.items() if not key.startswith(_CLASSIFIER)}
    first = weights.get(_FIRST)
    if first is not None and first.ndim == _KERNEL_AXES and first.shape[1] == _COLOURS:
        weights[_FIRST] = first.sum(1, keepdim=True)  # over the input channels
    width = 0 if first is None else len(first)  # 0: `begin` will refuse the file
    return Beginning("unet2d", width, weights, True, path.name, sha256_of(path.read_bytes()))
