"""The networks of target tasks: a pre-trained or new network with its own head (METHOD.md section 6).

Classification is encoder -> global average pool of the deepest level -> linear 1024 -> ReLU -> linear; the
head may also see all levels, and on a frozen encoder it is a linear probe. Segmentation is the whole network
with a new last convolution. Both return logits.

A 2D network processes a 3D task slice by slice: the slices of a cube along z are its images. Classification
pools the features over x, y and all slices, then one head classifies the cube. Segmentation treats each slice
separately.
"""

import re
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable
from typing import Literal, Self

import torch
from torch import Tensor, nn

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.training.networks.norms import go_by_running, refresh_statistics
from genesis_toolkit.training.networks.registry import Architecture, architecture, build_network, check_cubes
from genesis_toolkit.training.networks.unet2d import UNet2D, check_image
from genesis_toolkit.training.networks.unet3d import UNet3D
from genesis_toolkit.training.weights.load import Beginning, encoder_of

#: The kind of output: labels of a cube, or of each of its voxels.
Kind = Literal["classify", "segment"]

# The level of a decoder's weights. The last is called 64 in the 3D U-Net; other networks count from 0.
_DECODER = re.compile(r"(?:up_tr|decoder\.(?:(?:stages|transpconvs|seg_layers)\.)?)(\d+)\.")
_LAST = ("64", "4")
_HIDDEN = 1024  # features of the published head
_LEAST_VARIANCE = 1e-6  # of a pooled feature; features of a trained encoder have 1e-3 and more


class TargetNetwork(nn.Module, ABC):
    """The common part of both kinds. Made by `build_target_network`.

    Attributes:
        axes: axes of the input, 3 or 2.
        by_slice: whether it is a 2D network for cubes.
        memory_format: the channels-last memory order, for `.to(memory_format=...)`.
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
        """The part that every kind of task takes from pre-training; its weights are shared."""

    def freeze_encoder(self) -> None:
        """Freeze the encoder: without gradients, always in evaluation mode, with running statistics.

        So the features of a cube do not depend on the other cubes. `settle` computes those statistics.
        """
        self._frozen = True
        self.encoder().requires_grad_(False)
        go_by_running(self.encoder())
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode as torch does, but keep a frozen encoder in evaluation mode."""
        super().train(mode)
        if self._frozen:
            self.encoder().eval()
        return self

    def settle(self, batches: Iterable[Tensor]) -> None:
        """Set the running statistics of a frozen encoder's norms to those of the training cubes.

        Weights from scratch have none, and pre-trained ones have those of other data.
        """
        encoder = self.encoder().train()
        refresh_statistics(encoder, lambda cubes: encoder(self._images(cubes)), batches)
        encoder.eval()

    def refresh(self, batches: Iterable[Tensor]) -> None:
        """Update the running statistics of all trainable norms to the current weights."""
        self.train()
        refresh_statistics(self, self, batches)

    def check_size(self, size: tuple[int, ...]) -> None:
        """Check that the network accepts cubes of these edges in voxels, (x, y, z), or images.

        Raises:
            CallError: another number of axes, or an edge that cannot be halved as often as the network does.
        """
        if len(size) != self.axes:
            given = " x ".join(map(str, size))
            raise CallError(
                f"The network takes {self.axes}D cubes, but the cubes given are {len(size)}D, {given}: give "
                f"a store with {self.axes}D cubes, or a network for {len(size)}D."
            )
        if self.by_slice:
            check_image(size[:2], "slices of the cubes")
        else:
            check_cubes(self._plan.name, size)

    def _images(self, cubes: Tensor) -> Tensor:
        """Return the network's input; for a 2D network the slices of cubes, `[batch * z, 1, x, y]`."""
        return cubes.permute(0, 4, 1, 2, 3).flatten(0, 1) if self.by_slice else cubes


class Standardise(nn.Module):
    """Standardises features to mean 0 and standard deviation 1 over the cubes it was fitted to."""

    mean: Tensor
    sd: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("sd", torch.ones(features))

    def fit(self, features: Tensor) -> None:
        """Compute mean and spread of features `[cube, feature]`; near-constant ones are not scaled up."""
        variance, mean = torch.var_mean(features, 0, correction=0)
        self.mean.copy_(mean)
        self.sd.copy_((variance + _LEAST_VARIANCE).sqrt())

    def forward(self, features: Tensor) -> Tensor:
        """Return features `[cube, feature]`, standardised."""
        return (features - self.mean) / self.sd


class Classifier(TargetNetwork):
    """An encoder with a head on its pooled features, from the deepest level or from `all_levels`."""

    kind = "classify"

    def __init__(
        self, plan: Architecture, axes: int, encoder: nn.Module, head: nn.Module, *, all_levels: bool = False
    ) -> None:
        super().__init__(plan, axes)
        self.way_down = encoder  # the name of its weights in finished runs
        self.head = head
        self._all_levels = all_levels

    def encoder(self) -> nn.Module:
        """The encoder."""
        return self.way_down

    @property
    def probe(self) -> tuple[Standardise, nn.Linear]:
        """The two layers of a linear probe, which are fitted, not trained."""
        assert isinstance(self.head, nn.Sequential)
        standardise, linear = self.head
        assert isinstance(standardise, Standardise)
        assert isinstance(linear, nn.Linear)
        return standardise, linear

    def features(self, cubes: Tensor) -> Tensor:
        """Return the input of the head, `[batch, feature]`: means over space, from the first level down."""
        levels = self.way_down(self._images(cubes))
        pooled = torch.cat(
            [level.flatten(2).mean(2) for level in (levels if self._all_levels else levels[-1:])], dim=1
        )
        return pooled.reshape(len(cubes), -1, pooled.shape[1]).mean(1) if self.by_slice else pooled

    def forward(self, cubes: Tensor) -> Tensor:
        """Return logits `[batch, class]` of cubes, float32 `[batch, 1, x, y, z]` in [0, 1], or of images."""
        logits: Tensor = self.head(self.features(cubes))
        return logits


class Segmenter(TargetNetwork):
    """A whole network with a new last convolution."""

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
    beginning: Beginning,
    kind: Kind,
    classes: int,
    axes: int,
    seed: int,
    *,
    all_levels: bool = False,
    probe: bool = False,
    keep: str = "all",
) -> TargetNetwork:
    """Return the network of a target task before its first step, on the CPU and in training mode.

    The initial weights of the head, and from scratch of everything, depend on the seed, the network and its
    width; pre-trained weights do not change those of the head. torch's random generator is left unchanged.

    The result is a `Classifier` or a `Segmenter` that returns logits of `classes` classes for cubes with 3
    `axes` or images with 2. For `keep` see `FinetuneParameters`; a classifier's head may see all levels, or
    be a linear probe instead of the published head.

    Raises:
        CallError: a 3D network for images, or nnU-Net's package is needed and not installed.
        DataError: the weights do not match the network.
    """
    plan = architecture(beginning.network)
    if axes < plan.axes:
        raise CallError(
            f"The network {plan.name} takes cubes, but the store holds 2D images: "
            + ("give --network unet2d." if beginning.file is None else "give weights for unet2d instead.")
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(plan.name, beginning.width)
        channels = encoder_of(network).output_channels
        assert isinstance(channels, list)
        seen = sum(channels) if all_levels else channels[-1]
        head = _head(seen, classes, probe) if kind == "classify" else _last(network, classes)
    fresh = {name: one.clone() for name, one in network.state_dict().items() if not _kept(name, keep)}
    beginning.begin(network)
    network.load_state_dict(fresh, strict=False)
    if kind == "classify":
        return Classifier(plan, axes, encoder_of(network), head, all_levels=all_levels)
    if isinstance(network, UNet3D | UNet2D):
        network.add_module("out_tr", head)
    else:
        _seg_layers(network)[-1] = head
    return Segmenter(plan, axes, network)


def _kept(name: str, keep: str) -> bool:
    """Return True if a segmenter keeps the pre-trained tensor of that name.

    By default it drops the last level of the decoder, which has learnt to restore voxels, not masks. For
    vessels in 3D with two labelled scans, Dice was 0.51 from scratch, 0.36 with the whole network kept, 0.47
    without the last level, and 0.475 with the encoder only.
    """
    level = _DECODER.match(name)
    return keep == "all" or level is None or (keep == "all-but-last" and level[1] not in _LAST)


def _head(features: int, classes: int, probe: bool) -> nn.Module:
    """Return the published head, linear 1024, ReLU, linear (METHOD.md section 6), or a linear probe."""
    if probe:
        return nn.Sequential(Standardise(features), nn.Linear(features, classes))
    return nn.Sequential(nn.Linear(features, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, classes))


def _last(network: nn.Module, classes: int) -> nn.Module:
    """Replace the last convolution, which restores voxels, with a new one, and return it."""
    if isinstance(network, UNet3D | UNet2D):
        old = network.out_tr.final_conv
        return nn.Sequential(OrderedDict(final_conv=type(old)(old.in_channels, classes, kernel_size=1)))
    last = _seg_layers(network)[-1]
    assert isinstance(last, nn.Conv3d)
    return nn.Conv3d(last.in_channels, classes, kernel_size=1)


def _seg_layers(network: nn.Module) -> nn.ModuleList:
    """Return the last convolutions of one of nnU-Net's networks; only the last of them is used here."""
    layers = network.get_submodule("decoder.seg_layers")
    assert isinstance(layers, nn.ModuleList)
    return layers
