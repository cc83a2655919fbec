"""The 2D U-Net: a ResNet-18 encoder under torchvision's names, and a decoder (METHOD.md section 5).

The 2D networks of the papers were never released, and "U-Net with a ResNet-18 encoder" is all that is known
about them. The encoder here is exactly the ResNet-18 of He et al. (2016), so that published weights fit. The
decoder is the usual one for such encoders: double the edges, concatenate the encoder's features, convolve
twice; 4, 2, 1, 1/2 and 1/4 times the width in channels, starting at the deepest level.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.training.networks.norms import SharedBatchNorm2d
from genesis_toolkit.training.networks.unet3d import ConvolutionUnit, RestorationHead, check_edges

#: Every edge of an image must be divisible by this: the encoder halves it five times.
EDGE_MULTIPLE_2D = 32

_HALVINGS = 5
_LEAST = 8  # channels per decoder level: with one or two, a ReLU cuts off parts of the image


def check_image(size: tuple[int, ...], what: str = "images") -> None:
    """Check that the 2D U-Net accepts images, or what `what` names; see `check_edges`."""
    check_edges(size, EDGE_MULTIPLE_2D, "the 2D U-Net", f"The {what} have {{}} pixels")


class Projection(nn.Conv2d):
    """A 1x1 convolution with a stride that selects its points first and then convolves.

    It gives the same values as torch's own. But on the CPU, channels last and with few channels, that one
    gave different bits in 14 of 30 calls on equal input, and crashed (torch 2.13, oneDNN).
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__(channels_in, channels_out, kernel_size=1, bias=False)
        self.step = stride

    def forward(self, input: Tensor) -> Tensor:
        """Return `[batch, channels_out, x / stride, y / stride]`."""
        return super().forward(input[:, :, :: self.step, :: self.step])


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and a shortcut around them: float `[batch, channel, x, y]`.

    Where edges are halved or channels change, a 1x1 convolution adapts the shortcut.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = SharedBatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = SharedBatchNorm2d(channels_out)
        self.downsample = (
            nn.Sequential(Projection(channels_in, channels_out, stride), SharedBatchNorm2d(channels_out))
            if stride > 1 or channels_in != channels_out
            else None
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return `[batch, channels_out, x / stride, y / stride]`."""
        shortcut = features if self.downsample is None else self.downsample(features)
        out = functional.relu(self.bn1(self.conv1(features)))
        return functional.relu(self.bn2(self.conv2(out)) + shortcut)


class ResNet18Encoder(nn.Module):
    """ResNet-18 without its last layer, under torchvision's names, for images of one channel (EXCHANGE.md).

    Args:
        width: channels of the first convolution; 64 is ResNet-18, with 11,170,240 parameters (torchvision's
            has 11,176,512 before its last layer: its first convolution takes three channels).

    Attributes:
        output_channels: features of every level; 64, 64, 128, 256, 512 for a width of 64.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = SharedBatchNorm2d(width)
        for level, stride in enumerate((1, 2, 2, 2)):
            before, after = max(width, width * 2**level // 2), width * 2**level
            blocks = nn.Sequential(BasicBlock(before, after, stride), BasicBlock(after, after, 1))
            self.add_module(f"layer{level + 1}", blocks)
        self.output_channels = [width, *(width * 2**level for level in range(4))]
        for part in self.modules():
            if isinstance(part, nn.Conv2d):  # initialised by the rule of He et al.
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the features of every level.

        Args:
            images: float32 `[batch, 1, x, y]` in [0, 1].

        Returns:
            float32 `[batch, channel, x, y]` at 1/2, 1/4, 1/8, 1/16 and 1/32 of the edges, with
            `output_channels`.

        Raises:
            CallError: an edge is not divisible by 32.
        """
        check_image(tuple(images.shape[2:]))
        features = [functional.relu(self.bn1(self.conv1(images)))]
        below = functional.max_pool2d(features[0], 3, stride=2, padding=1)
        for level in range(1, _HALVINGS):
            below = self.get_submodule(f"layer{level}")(below)
            features.append(below)
        return features


class UpLevel2D(nn.Module):
    """One level of the decoder: double the edges, concatenate the skipped features, convolve twice."""

    def __init__(self, channels_below: int, channels_skip: int, channels_out: int) -> None:
        super().__init__()
        self.ops = nn.Sequential(
            ConvolutionUnit(channels_below + channels_skip, channels_out, axes=2),
            ConvolutionUnit(channels_out, channels_out, axes=2),
        )

    def forward(self, below: Tensor, skip: Tensor | None) -> Tensor:
        """Join `below` `[batch, channel, x/2, y/2]` and `skip` `[batch, channel, x, y]`, or None."""
        up = functional.interpolate(below, scale_factor=2, mode="nearest")
        out: Tensor = self.ops(up if skip is None else torch.cat((up, skip), dim=1))
        return out


class UNet2D(nn.Module):
    """The encoder-decoder for images: maps a degraded image to its restoration (METHOD.md section 5).

    Args:
        width: channels of the first convolution. 64 gives ResNet-18 and 14,321,809 parameters in all; other
            widths scale every level, with at least 8 channels in the decoder, and keep the names.

    Raises:
        CallError: `width` is below 1.
    """

    def __init__(self, width: int = 64) -> None:
        if width < 1:
            raise CallError(f"The width {width} is out of range: it must be at least 1 channel.")
        super().__init__()
        self.encoder = ResNet18Encoder(width)
        *skips, below = self.encoder.output_channels
        levels = []
        # The encoder has no features at full resolution; as is usual, the last level works without.
        for level, skip in enumerate([*reversed(skips), 0]):
            after = max(_LEAST, 4 * width >> level)
            levels.append(UpLevel2D(below, skip, after))
            below = after
        self.decoder = nn.ModuleList(levels)
        self.out_tr = RestorationHead(below, nn.Conv2d)

    def forward(self, images: Tensor) -> Tensor:
        """Restore `images`, float32 `[batch, 1, x, y]` in [0, 1]; the same shape and range.

        Raises:
            CallError: an edge is not divisible by 32.
        """
        *skips, below = self.encoder(images)
        for level, skip in zip(self.decoder, [*reversed(skips), None], strict=True):
            below = level(below, skip)
        restored: Tensor = self.out_tr(below)
        return restored
