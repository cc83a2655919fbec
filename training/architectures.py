"""The networks that can be trained, by name: the 3D U-Net of the papers, and two that nnU-Net builds.

All take one channel with values in [0, 1] and give one, through a sigmoid. The two of nnU-Net are classes of
the package dynamic-network-architectures, which only they need; their weights keep the names of that package.
"""

from dataclasses import dataclass
from math import prod
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import CallError
from training.networks import EDGE_MULTIPLE, UNet3D, check_size

PACKAGE = "dynamic_network_architectures"

#: Most channels of a first convolution.
MOST_WIDTH = 512

#: Arguments of nnU-Net's classes that are classes themselves, given by their dotted names.
CLASS_ARGUMENTS = ("conv_op", "norm_op", "dropout_op", "nonlin")

_STAGES = 6
_NORM_LEAST = 2  # instance norm cannot normalise a single voxel


@dataclass(frozen=True)
class Architecture:
    """A kind of network.

    Attributes:
        name: on the command line.
        words: for people.
        first_weight: the key of the first convolution's weight; the length of its first axis is the width.
        edge_multiple: every edge of a cube must be divisible by this, in voxels.
        class_name: the class of dynamic-network-architectures; empty for the network of the papers.
        depth: how many convolutions or residual blocks a stage has, as an argument of that class.
    """

    name: str
    words: str
    first_weight: str
    edge_multiple: int
    class_name: str = ""
    depth: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def arguments(self, width: int) -> dict[str, Any]:
        """The arguments of nnU-Net's class but the numbers of channels in and out, as plain JSON values.

        Classes are dotted names, as nnU-Net writes them into its plans. Features double from `width` on, to
        ten times `width` at most: 32, 64, 128, 256, 320, 320, which are nnU-Net's own. Six stages, kernels of
        3 voxels, halved at every stage but the first, instance norm, leaky ReLU (EXCHANGE.md).

        Args:
            width: channels of the first convolution.
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
            "resenc-l",
            "residual encoder U-Net L of nnU-Net",
            "encoder.stem.convs.0.conv.weight",
            2 ** (_STAGES - 1),
            "ResidualEncoderUNet",
            (("n_blocks_per_stage", (1, 3, 4, 6, 6, 6)), ("n_conv_per_stage_decoder", (1,) * 5)),
        ),
        Architecture(
            "plainconv",
            "plain U-Net of nnU-Net",
            "encoder.stages.0.0.convs.0.conv.weight",
            2 ** (_STAGES - 1),
            "PlainConvUNet",
            (("n_conv_per_stage", (2,) * 6), ("n_conv_per_stage_decoder", (2,) * 5)),
        ),
    )
}


class RestorationConvolution(nn.Conv3d):
    """A last convolution with the sigmoid after it, under the names of the convolution alone.

    A plain `nn.Conv3d` in its place gives logits.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return `[batch, 1, x, y, z]` in [0, 1] for features `[batch, channel, x, y, z]`."""
        return torch.sigmoid(super().forward(input))


def architecture(name: str) -> Architecture:
    """The architecture of that name.

    Raises:
        CallError: there is none; the sentence lists the names.
    """
    if name not in ARCHITECTURES:
        raise CallError(f"--network {name} is unknown; allowed: {', '.join(ARCHITECTURES)}.")
    return ARCHITECTURES[name]


def build_network(name: str, width: int = 32) -> nn.Module:
    """A network with first weights from torch's random generator.

    Args:
        name: `unet3d`, `resenc-l` or `plainconv`.
        width: channels of the first convolution. 32 gives the published 3D U-Net, and nnU-Net's own numbers.

    Returns:
        A module from float32 `[batch, 1, x, y, z]` in [0, 1] to the same shape and range.

    Raises:
        CallError: the name is unknown, the width out of range, or nnU-Net's package is not installed.
    """
    kind = architecture(name)
    if not 1 <= width <= MOST_WIDTH:
        raise CallError(f"The width {width} is out of range: it must be from 1 to {MOST_WIDTH} channels.")
    return _build_nnunet(kind, width) if kind.class_name else UNet3D(width)


def start_at(network: nn.Module, constant: float) -> None:
    """Let an untrained network of `build_network` give about one value (see `RestorationHead.start_at`).

    Args:
        network: changed in the bias of its last convolution only.
        constant: in [0, 1]; kept a thousandth away from both ends.
    """
    if isinstance(network, UNet3D):
        network.out_tr.start_at(constant)
    else:
        bias = network.get_parameter(f"decoder.seg_layers.{_STAGES - 2}.bias")
        nn.init.constant_(bias, torch.logit(torch.tensor(constant), eps=0.001).item())


def check_cubes(name: str, size: tuple[int, ...]) -> None:
    """Refuse cubes that a network cannot take.

    Args:
        name: of the architecture.
        size: edges of a cube in voxels, axis order (x, y, z).

    Raises:
        CallError: an edge is no multiple of 8 or 32, or the deepest level would be a single voxel.
    """
    kind = architecture(name)
    if not kind.class_name:
        check_size(size)
        return
    multiple = kind.edge_multiple
    for axis, edge in zip("xyz", size, strict=True):
        if edge < multiple or edge % multiple:
            raise CallError(
                f"The cubes have {edge} voxels along {axis}; {name} halves every edge {_STAGES - 1} times, "
                f"so it needs a multiple of {multiple}, such as {edge + -edge % multiple}."
            )
    if prod(edge // multiple for edge in size) < _NORM_LEAST:
        raise CallError(
            f"Cubes of {' x '.join(map(str, size))} voxels are one voxel at the deepest level of {name}, and "
            f"its instance norm needs two: extract cubes with a larger --size, such as {multiple},{multiple},"
            f"{2 * multiple}."
        )


def _build_nnunet(kind: Architecture, width: int) -> nn.Module:
    """One of nnU-Net's networks, begun as nnU-Net begins it, with our last convolution."""
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
    network.apply(network.initialize)  # type: ignore[arg-type] # a function of the package, which has no types
    # The other heads are of deep supervision. Nothing here uses them, and distributed training would wait for
    # their gradients.
    heads[:-1].requires_grad_(False)
    return network
