"""The networks by name: the U-Nets of the papers, 3D and 2D, and two of nnU-Net's.

All take one channel with values in [0, 1] and return one, through a sigmoid. Those of nnU-Net are classes of
the package dynamic-network-architectures, which only they need; their weights keep that package's names.
"""

from dataclasses import dataclass
from math import prod
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Tensor, nn

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.training.networks.unet2d import EDGE_MULTIPLE_2D, UNet2D, check_image
from genesis_toolkit.training.networks.unet3d import EDGE_MULTIPLE, UNet3D, check_edges, check_size

PACKAGE = "dynamic_network_architectures"

#: Largest number of channels of a first convolution.
MOST_WIDTH = 512

#: Arguments of nnU-Net's classes that are themselves classes, given by their dotted names.
CLASS_ARGUMENTS = ("conv_op", "norm_op", "dropout_op", "nonlin")

_STAGES = 6
_NORM_LEAST = 2  # neither norm can normalise a single value


@dataclass(frozen=True)
class Architecture:
    """A kind of network.

    Attributes:
        name: name on the command line.
        words: description for people.
        first_weight: the key of the first convolution's weight; the length of its first axis is the width.
        edge_multiple: every edge of a cube must be divisible by this, in voxels.
        published_width: width in the papers, or in nnU-Net.
        first_kernel: edges of the first convolution's kernel, one per axis of a cube.
        class_name: class in dynamic-network-architectures; empty for the networks of the papers.
        depth: convolutions or residual blocks per stage, as an argument of that class.
    """

    name: str
    words: str
    first_weight: str
    edge_multiple: int
    published_width: int = 32
    first_kernel: tuple[int, ...] = (3, 3, 3)
    class_name: str = ""
    depth: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def axes(self) -> int:
        """Number of axes of a cube: 3, or 2 for images."""
        return len(self.first_kernel)

    @property
    def memory_format(self) -> torch.memory_format:
        """The memory order that torch calls channels last."""
        return torch.channels_last if self.axes == 2 else torch.channels_last_3d

    def arguments(self, width: int) -> dict[str, Any]:
        """Return the arguments of nnU-Net's class except the channels in and out, as plain JSON values.

        Classes are dotted names, as nnU-Net writes them into its plans. Features double from `width` to at
        most ten times `width`: 32, 64, 128, 256, 320, 320 are nnU-Net's own. Six stages, kernels of 3 voxels,
        halved at every stage but the first, instance norm, leaky ReLU (EXCHANGE.md).
        """
        return {
            "n_stages": _STAGES,
            "features_per_stage": [min(width * 2**stage, 10 * width) for stage in range(_STAGES)],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3] for _ in range(_STAGES)],
            "strides": [[1, 1, 1]] + [[2, 2, 2] for _ in range(_STAGES - 1)],
            **{name: list(counts) for name, counts in self.depth},
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.modules.activation.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        }


#: Every architecture by its name.
ARCHITECTURES = {
    each.name: each
    for each in (
        Architecture("unet3d", "3D U-Net of Models Genesis", "down_tr64.ops.0.conv1.weight", EDGE_MULTIPLE),
        Architecture(
            "unet2d",
            "2D U-Net with a ResNet-18 encoder",
            "encoder.conv1.weight",
            EDGE_MULTIPLE_2D,
            published_width=64,
            first_kernel=(7, 7),
        ),
        Architecture(
            "resenc-l",
            "residual encoder U-Net L of nnU-Net",
            "encoder.stem.convs.0.conv.weight",
            2 ** (_STAGES - 1),
            class_name="ResidualEncoderUNet",
            depth=(("n_blocks_per_stage", (1, 3, 4, 6, 6, 6)), ("n_conv_per_stage_decoder", (1,) * 5)),
        ),
        Architecture(
            "plainconv",
            "plain U-Net of nnU-Net",
            "encoder.stages.0.0.convs.0.conv.weight",
            2 ** (_STAGES - 1),
            class_name="PlainConvUNet",
            depth=(("n_conv_per_stage", (2,) * 6), ("n_conv_per_stage_decoder", (2,) * 5)),
        ),
    )
}


class RestorationConvolution(nn.Conv3d):
    """A last convolution followed by a sigmoid, with the same names; a plain convolution gives logits."""

    def forward(self, input: Tensor) -> Tensor:
        """Return `[batch, 1, x, y, z]` in [0, 1] for features `[batch, channel, x, y, z]`."""
        return torch.sigmoid(super().forward(input))


#: Default network by the number of axes of a cube.
OF_THE_PAPERS = {3: "unet3d", 2: "unet2d"}


def architecture(name: str | None) -> Architecture:
    """Return the architecture of that name, or the 3D U-Net for None; raise `CallError` for other names."""
    name = name or OF_THE_PAPERS[3]
    if name not in ARCHITECTURES:
        raise CallError(f"--network {name} is unknown; allowed: {', '.join(ARCHITECTURES)}.")
    return ARCHITECTURES[name]


def build_network(name: str | None = None, width: int | None = None) -> nn.Module:
    """Return a network with initial weights from torch's random generator.

    Args:
        name: `unet3d` (the default), `unet2d`, `resenc-l` or `plainconv`.
        width: channels of the first convolution; by default 32, which gives the published 3D U-Net and
            nnU-Net's own numbers, or 64 for `unet2d`, which gives ResNet-18.

    Returns:
        A module from float32 `[batch, 1, x, y, z]` in [0, 1], or `[batch, 1, x, y]` for `unet2d`, to the same
        shape and range.

    Raises:
        CallError: the name is unknown, the width out of range, or nnU-Net's package is not installed.
    """
    kind = architecture(name)
    width = kind.published_width if width is None else width
    if not 1 <= width <= MOST_WIDTH:
        raise CallError(f"The width {width} is out of range: it must be between 1 and {MOST_WIDTH} channels.")
    if kind.class_name:
        return _build_nnunet(kind, width)
    return UNet2D(width) if kind.name == "unet2d" else UNet3D(width)


def begin_at(network: nn.Module, constant: float) -> None:
    """Make an untrained network return roughly one value in [0, 1]; see `RestorationHead.begin_at`."""
    if isinstance(network, UNet3D | UNet2D):
        network.out_tr.begin_at(constant)
    else:
        bias = network.get_parameter(f"decoder.seg_layers.{_STAGES - 2}.bias")
        nn.init.constant_(bias, torch.logit(torch.tensor(constant), eps=0.001).item())


def check_cubes(name: str, size: tuple[int, ...]) -> None:
    """Check that a network accepts cubes of these edges in voxels, (x, y, z), or images in pixels.

    Raises:
        CallError: the network needs another number of axes, an edge is not a multiple of 8 or 32, or the
            deepest level would be a single voxel.
    """
    kind = architecture(name)
    if len(size) != kind.axes:
        raise CallError(
            f"--network {name} takes {kind.axes}D cubes, but those in the store are "
            f"{len(size)}D, {' x '.join(map(str, size))}: omit --network to train "
            f"{OF_THE_PAPERS[len(size)]}."
        )
    if not kind.class_name:
        (check_image if kind.name == "unet2d" else check_size)(size)
        return
    multiple = kind.edge_multiple
    check_edges(size, multiple, name, "The cubes have {} voxels")
    if prod(edge // multiple for edge in size) < _NORM_LEAST:
        raise CallError(
            f"Cubes of {' x '.join(map(str, size))} voxels shrink to one voxel at the deepest "
            f"level of {name}, but instance norm needs two: extract cubes with a larger "
            f"--size, such as {multiple},{multiple},{2 * multiple}."
        )


def check_batch(name: str, size: tuple[int, ...], cubes: int) -> None:
    """Check that the deepest level of a batch has more than the single value that batch norm cannot use.

    `size` is the edges of a cube, also for a 2D network, which takes it slice by slice, or of an image;
    `cubes` is the size of the smallest batch.
    """
    kind = architecture(name)
    deepest = prod(edge // kind.edge_multiple for edge in size[: kind.axes])
    if deepest * prod(size[kind.axes :]) * cubes < _NORM_LEAST:
        raise CallError(
            f"A batch with a single cube of {' x '.join(map(str, size))} voxels has a single "
            "value at the deepest level, but batch norm needs two: extract larger cubes, or "
            "extract more cubes and use a larger --batch-size."
        )


def _build_nnunet(kind: Architecture, width: int) -> nn.Module:
    """Return one of nnU-Net's networks, initialised by its own rule, with our last convolution."""
    try:
        from dynamic_network_architectures.architectures import unet
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != PACKAGE:
            raise
        raise CallError(
            f"The network {kind.name} needs the package {PACKAGE.replace('_', '-')}: install it with pip "
            'install "genesis-toolkit[nnunet]".'
        ) from None
    arguments = kind.arguments(width)
    for name in CLASS_ARGUMENTS:
        arguments[name] = resolve_name(arguments[name]) if arguments[name] else None
    network: nn.Module = getattr(unet, kind.class_name)(
        input_channels=1, num_classes=1, deep_supervision=False, **arguments
    )
    heads = network.get_submodule("decoder.seg_layers")
    assert isinstance(heads, nn.ModuleList)
    heads[-1] = RestorationConvolution(width, 1, kernel_size=1)
    network.apply(network.initialize)  # type: ignore[arg-type] # the package has no types
    # The other heads serve deep supervision. Nothing here uses them, and distributed training would wait for
    # their gradients.
    heads[:-1].requires_grad_(False)
    return network
