"""The networks of target tasks: a pre-trained or new network with a head of its own (METHOD.md section 6).

Classification is encoder -> global average pool of the deepest level -> linear 1024 -> ReLU -> linear.
Segmentation is the whole network with a new last convolution. Both give logits.

A 2D network does a 3D task slice by slice: the slices of a cube along z are its images. Classification pools
the features over x, y and all slices, then one head classifies the cube. Segmentation takes each slice by
itself.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from typing import Literal, Self

import torch
from torch import Tensor, nn

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.training.networks.norms import BatchStatisticsNorm3d
from genesis_toolkit.training.networks.registry import Architecture, architecture, build_network, check_cubes
from genesis_toolkit.training.networks.unet2d import ResNet18Encoder, UNet2D, check_image
from genesis_toolkit.training.networks.unet3d import UNet3D
from genesis_toolkit.training.weights.load import Beginning, encoder_of

#: Of what a target network tells: labels of a cube, or of each of its voxels.
Kind = Literal["classify", "segment"]

_HIDDEN = 1024  # features of the published head


class TargetNetwork(nn.Module, ABC):
    """What both kinds have in common. Made by `build_target_network`.

    Attributes:
        axes: of what is fed, 3 or 2.
        by_slice: a 2D network, fed with cubes.
        memory_format: the order in memory that torch calls channels last, for `.to(memory_format=...)`.
    """

    kind: Kind

    def __init__(self, plan: Architecture, axes: int) -> None:
        super().__init__()
        self._plan = plan
        self._frozen = False
        self.axes = axes
        self.by_slice = plan.axes < axes
        self.memory_format = plan.memory_format

    @abstractmethod
    def encoder(self) -> nn.Module:
        """The part that pre-training has given to every kind of task; its weights are shared."""

    def freeze_encoder(self) -> None:
        """Keep the encoder as it is: no gradients, and a 2D one normalises by the statistics that it has."""
        self._frozen = True
        self.encoder().requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As torch does, but a frozen 2D encoder stays in evaluation."""
        super().train(mode)
        if self._frozen and isinstance(self.encoder(), ResNet18Encoder):
            self.encoder().eval()
        return self

    def begin_epoch(self) -> None:
        """Let the running statistics of the 3D U-Net be those of the coming epoch's batches alone.

        Training and evaluation go by the statistics of each batch and never look at them; `segment`
        does. Followed as torch does it they would still hold a share of their first values after few steps.
        """
        for part in self.modules():
            if isinstance(part, BatchStatisticsNorm3d):
                part.reset_running_stats()
                part.momentum = None  # all batches weigh the same

    def check_size(self, size: tuple[int, ...]) -> None:
        """Refuse cubes of these edges in voxels, (x, y, z), or images, that the network cannot take.

        Raises:
            CallError: another number of axes, or an edge that cannot be halved as often as the network does.
        """
        if len(size) != self.axes:
            given = " x ".join(map(str, size))
            raise CallError(f"The network was made for {self.axes}D input, and {given} was given.")
        if self.by_slice:
            check_image(size[:2], "slices of the cubes")
        else:
            check_cubes(self._plan.name, size)

    def _images(self, cubes: Tensor) -> Tensor:
        """What the network takes; for a 2D one the slices of cubes, `[batch * z, 1, x, y]`."""
        return cubes.permute(0, 4, 1, 2, 3).flatten(0, 1) if self.by_slice else cubes


class Classifier(TargetNetwork):
    """An encoder and the published head."""

    kind = "classify"

    def __init__(self, plan: Architecture, axes: int, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__(plan, axes)
        self.way_down = encoder  # the name of its weights in finished runs
        self.head = head

    def encoder(self) -> nn.Module:
        """The encoder."""
        return self.way_down

    def forward(self, cubes: Tensor) -> Tensor:
        """Return logits `[batch, class]` of cubes, float32 `[batch, 1, x, y, z]` in [0, 1], or of images."""
        deepest = self.way_down(self._images(cubes))[-1]
        pooled = deepest.flatten(2).mean(2)
        if self.by_slice:
            pooled = pooled.reshape(len(cubes), -1, pooled.shape[1]).mean(1)
        logits: Tensor = self.head(pooled)
        return logits


class Segmenter(TargetNetwork):
    """A whole network whose last convolution is new."""

    kind = "segment"

    def __init__(self, plan: Architecture, axes: int, network: nn.Module) -> None:
        super().__init__(plan, axes)
        self.network = network

    def encoder(self) -> nn.Module:
        """The encoder."""
        return encoder_of(self.network)

    def forward(self, cubes: Tensor) -> Tensor:
        """Return logits of every voxel, `[batch, class, x, y, z]`; see `Classifier.forward`."""
        logits: Tensor = self.network(self._images(cubes))
        if self.by_slice:
            logits = logits.reshape(len(cubes), -1, *logits.shape[1:]).permute(0, 2, 3, 4, 1)
        return logits


def build_target_network(
    beginning: Beginning, kind: Kind, classes: int, axes: int, seed: int
) -> TargetNetwork:
    """The network of a target task as it is before its first step: on the CPU, in training mode.

    The first weights of the head, and from scratch of everything, depend on the seed, the network and its
    width; weights that were read change nothing in those of the head. torch's random generator is left as it
    was.

    It is a `Classifier` or a `Segmenter`, gives logits of so many classes, and is fed with cubes of 3 axes or
    images of 2.

    Raises:
        CallError: a 3D network for images, or nnU-Net's package is needed and not installed.
        DataError: the weights do not fit.
    """
    plan = architecture(beginning.network)
    if axes < plan.axes:
        raise CallError(
            f"The network {plan.name} takes cubes, and the store holds 2D images: "
            + ("give --network unet2d." if beginning.file is None else "name weights of unet2d.")
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(plan.name, beginning.width)
        head = _published_head(network, classes) if kind == "classify" else _last(network, classes)
    beginning.begin(network)
    if kind == "classify":
        return Classifier(plan, axes, encoder_of(network), head)
    if isinstance(network, UNet3D | UNet2D):
        network.add_module("out_tr", head)
    else:
        _seg_layers(network)[-1] = head
    return Segmenter(plan, axes, network)


def _published_head(network: nn.Module, classes: int) -> nn.Module:
    """Linear 1024, ReLU, linear (METHOD.md section 6): from the deepest features to a logit a class."""
    channels = encoder_of(network).output_channels
    assert isinstance(channels, list)
    return nn.Sequential(nn.Linear(channels[-1], _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, classes))


def _last(network: nn.Module, classes: int) -> nn.Module:
    """A new last convolution in the place of the one that restores."""
    if isinstance(network, UNet3D | UNet2D):
        old = network.out_tr.final_conv
        return nn.Sequential(OrderedDict(final_conv=type(old)(old.in_channels, classes, kernel_size=1)))
    last = _seg_layers(network)[-1]
    assert isinstance(last, nn.Conv3d)
    return nn.Conv3d(last.in_channels, classes, kernel_size=1)


def _seg_layers(network: nn.Module) -> nn.ModuleList:
    """The last convolutions of one of nnU-Net's networks; only the last of them is used here."""
    layers = network.get_submodule("decoder.seg_layers")
    assert isinstance(layers, nn.ModuleList)
    return layers
