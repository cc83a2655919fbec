"""The 3D U-Net of Models Genesis, under the names its weights were published with (METHOD.md section 4)."""

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.training.networks.norms import BatchStatisticsNorm3d, SharedBatchNorm2d

#: Every edge of an input must be divisible by this: three poolings halve it three times.
EDGE_MULTIPLE = 8


def check_edges(size: tuple[int, ...], multiple: int, network: str, what: str) -> None:
    """Check that a network can halve every edge, (x, y, z), or (x, y) of an image, as often as it does.

    They must be divisible by `multiple`, a power of two. The error names `network` and the input, with `what`
    as a template such as `The cubes have {} voxels`.
    """
    for axis, edge in zip("xyz", size, strict=False):
        if edge < multiple or edge % multiple:
            raise CallError(
                f"{what.format(edge)} along {axis}; {network} halves every edge {multiple.bit_length() - 1} "
                f"times, so it needs a multiple of {multiple}, such as {edge + -edge % multiple}."
            )


def check_size(size: tuple[int, ...]) -> None:
    """Check that the 3D U-Net accepts cubes; see `check_edges`."""
    check_edges(size, EDGE_MULTIPLE, "the 3D U-Net", "The cubes have {} voxels")


class ConvolutionUnit(nn.Module):
    """One convolution of 3 voxels along every axis with padding 1, batch norm, ReLU; bias only in 3D."""

    def __init__(self, channels_in: int, channels_out: int, axes: int = 3) -> None:
        super().__init__()
        if axes == 3:
            self.conv1: nn.Module = nn.Conv3d(channels_in, channels_out, kernel_size=3, padding=1)
            self.bn1: nn.Module = BatchStatisticsNorm3d(channels_out)
        else:
            self.conv1 = nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=False)
            self.bn1 = SharedBatchNorm2d(channels_out)

    def forward(self, features: Tensor) -> Tensor:
        """Return `[batch, channels_out, x, y, z]` for features `[batch, channel, x, y, z]`, or without z."""
        return functional.relu(self.bn1(self.conv1(features)))


def _down_level(channels_in: int, channels_middle: int, channels_out: int) -> nn.Module:
    """Return one level of the encoder: two convolutions; the pooling follows it."""
    first = ConvolutionUnit(channels_in, channels_middle)
    return nn.Sequential(
        OrderedDict(ops=nn.Sequential(first, ConvolutionUnit(channels_middle, channels_out)))
    )


class UpLevel(nn.Module):
    """One level of the decoder: double the edges, concatenate the skipped features, convolve twice."""

    def __init__(self, channels_below: int, channels_skip: int) -> None:
        super().__init__()
        self.up_conv = nn.ConvTranspose3d(channels_below, channels_below, kernel_size=2, stride=2)
        self.ops = nn.Sequential(
            ConvolutionUnit(channels_below + channels_skip, channels_skip),
            ConvolutionUnit(channels_skip, channels_skip),
        )

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """Join `below` `[batch, channel, x/2, y/2, z/2]` and `skip` `[batch, channel, x, y, z]`."""
        out: Tensor = self.ops(torch.cat((self.up_conv(below), skip), dim=1))
        return out


class RestorationHead(nn.Module):
    """A convolution of single voxels, in 3D or 2D, to one channel and a sigmoid: values in [0, 1]."""

    def __init__(self, channels_in: int, convolution: type[nn.Conv2d | nn.Conv3d] = nn.Conv3d) -> None:
        super().__init__()
        self.final_conv = convolution(channels_in, 1, kernel_size=1)

    def begin_at(self, constant: float) -> None:
        """Make the untrained head return roughly one value: set the bias to the logit of `constant`.

        With torch's initial weights the output is near 0.5, while lung cubes average about 0.07. At the
        published learning rate of 1.0 the first steps then overshoot, and the sigmoid saturates at 0: on a
        real scan the validation loss stayed above the best constant for 14 epochs; with this start, it was
        below after 6.

        Args:
            constant: in [0, 1]; kept a thousandth away from both ends.
        """
        inside = min(max(constant, 0.001), 0.999)
        nn.init.constant_(self.final_conv.bias, math.log(inside / (1 - inside)))  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """Return `[batch, 1, x, y, z]`, or `[batch, 1, x, y]`, in [0, 1]."""
        return torch.sigmoid(self.final_conv(features))


class Encoder(nn.Module):
    """The encoder of the 3D U-Net, under the published names of its weights.

    Attributes:
        output_channels: features of every level; 64, 128, 256, 512 in the published network.
    """

    LEVELS = ("down_tr64", "down_tr128", "down_tr256", "down_tr512")

    def __init__(self, network: "UNet3D") -> None:
        super().__init__()
        for level in self.LEVELS:
            self.add_module(level, network.get_submodule(level))
        width: int = network.out_tr.final_conv.in_channels
        self.output_channels = [width * 2**level for level in range(len(self.LEVELS))]

    def forward(self, cubes: Tensor) -> list[Tensor]:
        """Return the features of every level, before pooling.

        Args:
            cubes: float32 `[batch, 1, x, y, z]` in [0, 1].

        Returns:
            float32 `[batch, channel, x, y, z]` at 1, 1/2, 1/4 and 1/8 of the edges.

        Raises:
            CallError: an edge is not divisible by 8.
        """
        return _features(self, cubes)


class UNet3D(nn.Module):
    """The encoder-decoder of Models Genesis: maps a degraded cube to its restoration (METHOD.md section 4).

    Args:
        width: channels of the first convolution. 32 is the published network, with 19,073,665 parameters;
            other widths scale every level and keep the published names.

    Raises:
        CallError: `width` is below 1.
    """

    def __init__(self, width: int = 32) -> None:
        if width < 1:
            raise CallError(f"The width {width} is out of range: it must be at least 1 channel.")
        super().__init__()
        self.down_tr64 = _down_level(1, width, 2 * width)
        self.down_tr128 = _down_level(2 * width, 2 * width, 4 * width)
        self.down_tr256 = _down_level(4 * width, 4 * width, 8 * width)
        self.down_tr512 = _down_level(8 * width, 8 * width, 16 * width)
        self.up_tr256 = UpLevel(16 * width, 8 * width)
        self.up_tr128 = UpLevel(8 * width, 4 * width)
        self.up_tr64 = UpLevel(4 * width, 2 * width)
        self.out_tr = RestorationHead(2 * width)

    def features(self, cubes: Tensor) -> list[Tensor]:
        """Return the encoder's features by level, see `Encoder.forward`."""
        return _features(self, cubes)

    def forward(self, cubes: Tensor) -> Tensor:
        """Restore `cubes`, float32 `[batch, 1, x, y, z]` in [0, 1]; the same shape and range.

        Raises:
            CallError: an edge is not divisible by 8.
        """
        level1, level2, level3, level4 = self.features(cubes)
        up = self.up_tr64(self.up_tr128(self.up_tr256(level4, level3), level2), level1)
        restored: Tensor = self.out_tr(up)
        return restored


def _features(network: Encoder | UNet3D, cubes: Tensor) -> list[Tensor]:
    """See `Encoder.forward`."""
    check_size(tuple(cubes.shape[2:]))
    features: list[Tensor] = []
    for level in Encoder.LEVELS:
        taken = functional.max_pool3d(features[-1], 2) if features else cubes
        features.append(network.get_submodule(level)(taken))
    return features
