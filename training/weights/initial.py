"""Weights of others for the encoder of the 2D U-Net to begin with, such as ImageNet's (EXCHANGE.md).

Nothing is ever downloaded: whoever wants such weights names a file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import sha256_of
from genesis_toolkit.training.networks.unet2d import UNet2D
from genesis_toolkit.training.weights.files import load_weights, read_plain

_CLASSIFIER = "fc."  # torchvision's last layer
_FIRST = "conv1.weight"
_COUNTER = "num_batches_tracked"  # files older than torch 0.4.1 have none
_CHANNEL = 1  # the axis of a kernel that is as long as its input has channels
_KERNEL_AXES, _COLOURS = 4, 3


@dataclass(frozen=True)
class InitialEncoder:
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


def read_initial_encoder(path: Path) -> InitialEncoder:
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
    return InitialEncoder(path, sha256_of(path.read_bytes()), weights)
