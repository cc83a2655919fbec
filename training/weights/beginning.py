"""What a network begins with: weights of a whole network, of an encoder, or none (METHOD.md section 6).

Weights of others, such as ImageNet's for the encoder of the 2D U-Net (EXCHANGE.md), are never downloaded:
whoever wants them names a file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import sha256_of
from genesis_toolkit.training.machine.run_folder import Run
from genesis_toolkit.training.networks.registry import MOST_WIDTH, architecture
from genesis_toolkit.training.networks.unet2d import UNet2D
from genesis_toolkit.training.weights.files import load_weights, read_plain
from genesis_toolkit.training.weights.load import file_of, load_exactly, read_weights, recognise

_FIRST = "conv1.weight"
_RESNET = (_FIRST, "layer1.0.conv1.weight")  # torchvision's names; no network here has these
_CLASSIFIER = "fc."  # torchvision's last layer
_COUNTER = "num_batches_tracked"  # files older than torch 0.4.1 have none
_CHANNEL = 1  # the axis of a kernel that is as long as its input has channels
_KERNEL_AXES, _COLOURS = 4, 3


@dataclass(frozen=True)
class EncoderWeights:
    """The weights of a ResNet-18, read from a file.

    Attributes:
        path: of the file, as it was given.
        sha256: of its content, in hexadecimal.
        weights: by torchvision's names, without those of the last layer; the first convolution has one
            channel.
    """

    path: Path
    sha256: str
    weights: Mapping[str, Tensor]

    def describe(self) -> dict[str, str]:
        """What a run keeps of it, and no folder of this machine."""
        return {"file": self.path.name, "sha256": self.sha256}

    def begin(self, network: nn.Module) -> None:
        """Put the weights into the encoder of a network, in place.

        Raises:
            CallError: the network is no `UNet2D`.
            DataError: a tensor is missing, left over or of another shape; it is named, with both shapes.
        """
        if not isinstance(network, UNet2D):
            raise CallError(
                f"--initial-encoder {self.path} is for the ResNet-18 in --network unet2d, and another "
                "network is to be trained: leave it out."
            )
        own = network.encoder.state_dict()
        counters = {key: tensor for key, tensor in own.items() if key.endswith(_COUNTER)}
        width = len(self.weights[_FIRST]) if _FIRST in self.weights else 0
        if width and width != len(own[_FIRST]):
            raise CallError(
                f"{self.path} has {_FIRST} of {width} channels, and the network was asked to have "
                f"{len(own[_FIRST])}: give --width {width}."
            )
        load_weights(network.encoder, {**counters, **self.weights}, self.path)


@dataclass(frozen=True, eq=False)
class Beginning:
    """What a network begins with.

    Attributes:
        network: its name in `registry`.
        width: channels of its first convolution.
        weights: of the whole network, by published name, on the CPU; None where there are none.
        encoder: weights of a ResNet-18 for the encoder of `unet2d`; None where there are none. Of `weights`
            and `encoder` one is None at least; from scratch both are.
        file: the name of the file of weights, without its folder; None from scratch.
        sha256: of that file, in hexadecimal; None from scratch.
        window: lowest and highest value that the weights were trained on, in HU or grey levels, where the
            folder of a run tells; else None.
    """

    network: str
    width: int
    weights: Mapping[str, Tensor] | None = None
    encoder: EncoderWeights | None = None
    file: str | None = None
    sha256: str | None = None
    window: tuple[int, int] | None = None

    def begin(self, network: nn.Module) -> None:
        """Put the weights into a network of this kind and width, in place; from scratch it stays as it is.

        Raises:
            DataError: they do not fit.
        """
        if self.weights is not None:
            load_weights(network, self.weights, Path(self.file or ""))
        if self.encoder is not None:
            self.encoder.begin(network)

    def describe(self) -> dict[str, Any]:
        """Plain JSON values, and no folder of this machine; `pretrained` says which part has weights."""
        part = "network" if self.weights is not None else "encoder" if self.encoder is not None else None
        return {
            "network": self.network,
            "width": self.width,
            "pretrained": part,
            "file": self.file,
            "sha256": self.sha256,
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
    kind = architecture(network)
    if width is not None and not 1 <= width <= MOST_WIDTH:
        raise CallError(f"--width {width} is out of range: it must be from 1 to {MOST_WIDTH} channels.")
    if weights is None:
        return Beginning(kind.name, kind.published_width if width is None else width)
    path = file_of(weights)
    found = _read(path, _window(weights))
    for option, asked, there in (("--network", network, found.network), ("--width", width, found.width)):
        if asked is not None and asked != there:
            raise CallError(
                f"{weights} holds weights of {found.network} of width {found.width}, and {option} {asked} "
                f"was asked for: leave {option} out, or name other weights."
            )
    return found


def _read(path: Path, window: tuple[int, int] | None) -> Beginning:
    """What lies in a file of weights, once it is known to fit."""
    sha256 = sha256_of(path.read_bytes())
    weights = read_weights(path)
    if all(name in weights for name in _RESNET):
        encoder = read_encoder(path)
        shape = tuple(encoder.weights[_RESNET[0]].shape)
        if len(shape) != _KERNEL_AXES or not 1 <= shape[0] <= MOST_WIDTH:
            raise DataError(
                f"{path} has {_RESNET[0]} of shape {shape}, a ResNet-18 needs (width, 3, 7, 7), width at "
                f"least 1 and at most {MOST_WIDTH}."
            )
        width = shape[0]
        encoder.begin(UNet2D(width))
        return Beginning("unet2d", width, None, encoder, path.name, sha256)
    kind, width = recognise(weights, path)
    load_exactly(kind, width, weights, path)
    return Beginning(kind.name, width, weights, None, path.name, sha256, window)


def _window(weights: Path) -> tuple[int, int] | None:
    """The window of the store that a run was trained from, where the folder of that run was given."""
    try:
        described = Run(weights).described()
    except (CallError, DataError, OSError):
        return None  # another program's folder, or an older run: its weights may do all the same
    low, high = (described or {}).get("window", (0, 0))
    return (low, high) if low < high else None


def read_encoder(path: Path) -> EncoderWeights:
    """Read a state dict of ResNet-18 as torchvision publishes it: `resnet18-*.pth`.

    The kernels of the first convolution, for red, green and blue, are added up to one: that is what an image
    of grey gives that is put into all three channels. The last layer, `fc`, is left aside.

    Args:
        path: of the file. Nothing but plain tensors is ever unpickled.

    Raises:
        CallError: there is no file at `path`.
        DataError: it is cut short, or no state dict. Whether all tensors fit, `begin` tells.
    """
    if not path.is_file():
        raise CallError(
            f"There is no file {path}: --initial-encoder wants the weights of a ResNet-18 under "
            "torchvision's names, such as resnet18-f37072fd.pth; they are never downloaded."
        )
    content = read_plain(path)
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in content.items()
    ):
        raise DataError(
            f"{path} is no state dict: the tensors of a ResNet-18 by torchvision's names are wanted, and "
            "nothing else in the file."
        )
    weights = {key: tensor.detach() for key, tensor in content.items() if not key.startswith(_CLASSIFIER)}
    first = weights.get(_FIRST)
    if first is not None and first.ndim == _KERNEL_AXES and first.shape[_CHANNEL] == _COLOURS:
        weights[_FIRST] = first.sum(_CHANNEL, keepdim=True)
    return EncoderWeights(path, sha256_of(path.read_bytes()), weights)
