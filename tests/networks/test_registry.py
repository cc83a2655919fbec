"""The networks that can be trained: what they are made of, what they take, and what they refuse."""

import sys
from pkgutil import resolve_name

import pytest
import torch
from torch import nn

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.training.networks import registry as architectures
from genesis_toolkit.training.networks.registry import ARCHITECTURES, begin_at, build_network, check_cubes
from genesis_toolkit.training.networks.unet3d import UNet3D

NNUNET = ("resenc-l", "plainconv")
STAGES = 6
KERNEL = [3, 3, 3]

#: EXCHANGE.md: the residual encoder U-Net L, and what it shares with nnU-Net's plain U-Net.
ARGUMENTS = {
    "n_stages": STAGES,
    "features_per_stage": [32, 64, 128, 256, 320, 320],
    "conv_op": nn.Conv3d,
    "kernel_sizes": [KERNEL] * STAGES,
    "strides": [[1, 1, 1]] + [[2, 2, 2]] * (STAGES - 1),
    "conv_bias": True,
    "norm_op": nn.InstanceNorm3d,
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": nn.LeakyReLU,
    "nonlin_kwargs": {"inplace": True},
}
DEPTHS = {
    "resenc-l": {"n_blocks_per_stage": [1, 3, 4, 6, 6, 6], "n_conv_per_stage_decoder": [1] * 5},
    "plainconv": {"n_conv_per_stage": [2] * 6, "n_conv_per_stage_decoder": [2] * 5},
}


@pytest.mark.parametrize("name", NNUNET)
def test_nnunets_networks_have_nnunets_arguments(name: str) -> None:
    arguments = ARCHITECTURES[name].arguments(32)
    for key in ("conv_op", "norm_op", "nonlin"):
        arguments[key] = resolve_name(arguments[key])
    assert arguments == ARGUMENTS | DEPTHS[name]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_network_restores_and_every_weight_that_learns_is_used(name: str) -> None:
    if name in NNUNET:
        pytest.importorskip("dynamic_network_architectures")
    torch.manual_seed(1)
    network = build_network(name, 2)
    begin_at(network, 0.07)
    edge = ARCHITECTURES[name].edge_multiple
    cubes = torch.rand(2, 1, *(2 * edge, edge, edge)[: ARCHITECTURES[name].axes])
    restored = network(cubes)
    assert restored.shape == cubes.shape
    assert 0 <= restored.min() < restored.max() <= 1
    restored.square().mean().backward()
    for key, weights in network.named_parameters():
        assert (weights.grad is not None) == weights.requires_grad, key
    assert ARCHITECTURES[name].first_weight in network.state_dict()
    assert len(network.state_dict()[ARCHITECTURES[name].first_weight]) == 2

    heads = [key for key in network.state_dict() if key.endswith(("final_conv.bias", "seg_layers.4.bias"))]
    assert torch.sigmoid(network.state_dict()[heads[0]]).item() == pytest.approx(0.07)
    begin_at(network, 0.0)
    assert torch.sigmoid(network.state_dict()[heads[0]]).item() == pytest.approx(0.001)


@pytest.mark.parametrize("name", NNUNET)
def test_cubes_that_a_network_cannot_take_are_refused(name: str) -> None:
    check_cubes(name, (64, 64, 32))
    with pytest.raises(CallError, match=rf"48 voxels along y; {name} .* multiple of 32, such as 64"):
        check_cubes(name, (64, 48, 32))
    with pytest.raises(CallError, match=r"32 x 32 x 32 voxels shrink to one voxel .* such as 32,32,64"):
        check_cubes(name, (32, 32, 32))
    pytest.importorskip("dynamic_network_architectures")
    build_network(name, 2)(torch.rand(1, 1, 32, 32, 64))
    with pytest.raises(ValueError, match="more than 1 spatial element"):  # so the refusal is right
        build_network(name, 2)(torch.rand(1, 1, 32, 32, 32))


def test_networks_that_cannot_be_built_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_cubes("unet3d", (8, 8, 16))
    with pytest.raises(CallError, match="12 voxels along z"):
        check_cubes("unet3d", (8, 8, 12))
    with pytest.raises(
        CallError, match="--network resnet is unknown; allowed: unet3d, unet2d, resenc-l, plainconv"
    ):
        build_network("resnet")
    for width in (0, 513):
        with pytest.raises(CallError, match=f"width {width} is out of range: it must be between 1 and 512"):
            build_network("plainconv", width)
    for module in [key for key in sys.modules if key.split(".")[0] == architectures.PACKAGE]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, architectures.PACKAGE, None)
    with pytest.raises(CallError, match=r'resenc-l needs .* pip install "genesis-toolkit\[nnunet\]"'):
        build_network("resenc-l")
    assert isinstance(build_network("unet3d", 1), UNet3D)
