"""The 3D U-Net against the numbers and names of METHOD.md section 4, written down here independently."""

import pytest
import torch
from torch import nn

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.training.networks.norms import BatchStatisticsNorm3d
from genesis_toolkit.training.networks.unet3d import UNet3D

# Convolutions of the published network: name -> shape of the weight.
CONVOLUTIONS = {
    "down_tr64.ops.0.conv1": (32, 1, 3, 3, 3),
    "down_tr64.ops.1.conv1": (64, 32, 3, 3, 3),
    "down_tr128.ops.0.conv1": (64, 64, 3, 3, 3),
    "down_tr128.ops.1.conv1": (128, 64, 3, 3, 3),
    "down_tr256.ops.0.conv1": (128, 128, 3, 3, 3),
    "down_tr256.ops.1.conv1": (256, 128, 3, 3, 3),
    "down_tr512.ops.0.conv1": (256, 256, 3, 3, 3),
    "down_tr512.ops.1.conv1": (512, 256, 3, 3, 3),
    "up_tr256.ops.0.conv1": (256, 768, 3, 3, 3),
    "up_tr256.ops.1.conv1": (256, 256, 3, 3, 3),
    "up_tr128.ops.0.conv1": (128, 384, 3, 3, 3),
    "up_tr128.ops.1.conv1": (128, 128, 3, 3, 3),
    "up_tr64.ops.0.conv1": (64, 192, 3, 3, 3),
    "up_tr64.ops.1.conv1": (64, 64, 3, 3, 3),
}
OTHERS = {
    "up_tr256.up_conv.weight": (512, 512, 2, 2, 2),
    "up_tr256.up_conv.bias": (512,),
    "up_tr128.up_conv.weight": (256, 256, 2, 2, 2),
    "up_tr128.up_conv.bias": (256,),
    "up_tr64.up_conv.weight": (128, 128, 2, 2, 2),
    "up_tr64.up_conv.bias": (128,),
    "out_tr.final_conv.weight": (1, 64, 1, 1, 1),
    "out_tr.final_conv.bias": (1,),
}


def published() -> dict[str, tuple[int, ...]]:
    table = dict(OTHERS)
    for name, shape in CONVOLUTIONS.items():
        table[f"{name}.weight"], table[f"{name}.bias"] = shape, shape[:1]
        norm = name.removesuffix("conv1") + "bn1"
        for part in ("weight", "bias", "running_mean", "running_var"):
            table[f"{norm}.{part}"] = shape[:1]
        table[f"{norm}.num_batches_tracked"] = ()
    return table


def test_the_published_network_has_its_parameters_names_and_shapes() -> None:
    network = UNet3D()
    assert sum(weights.numel() for weights in network.parameters()) == 19_073_665
    assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == published()


def test_other_widths_keep_the_names() -> None:
    assert list(UNet3D(4).state_dict()) == list(UNet3D(5).state_dict())
    assert set(UNet3D(4).state_dict()) == set(published())


def test_features_come_before_pooling_and_the_output_has_the_shape_of_the_input() -> None:
    network = UNet3D(2)
    cubes = torch.rand(2, 1, 16, 24, 8)
    shapes = [tuple(level.shape) for level in network.features(cubes)]
    assert shapes == [(2, 4, 16, 24, 8), (2, 8, 8, 12, 4), (2, 16, 4, 6, 2), (2, 32, 2, 3, 1)]
    restored = network(cubes)
    assert restored.shape == cubes.shape
    assert 0 < restored.min() < restored.max() < 1


def test_the_layers_compute_what_the_method_says() -> None:
    """The same network written down in one piece, from plain functions and the weights by name."""
    torch.manual_seed(0)
    network = UNet3D(2).double()
    weights = {name: value.double() for name, value in network.state_dict().items()}
    functional = nn.functional

    def units(x: torch.Tensor, level: str) -> torch.Tensor:
        for unit in (f"{level}.ops.0", f"{level}.ops.1"):
            x = functional.conv3d(
                x, weights[f"{unit}.conv1.weight"], weights[f"{unit}.conv1.bias"], padding=1
            )
            mean, var = x.mean((0, 2, 3, 4), keepdim=True), x.var((0, 2, 3, 4), keepdim=True, correction=0)
            scale, shift = (weights[f"{unit}.bn1.{part}"].view(1, -1, 1, 1, 1) for part in ("weight", "bias"))
            x = functional.relu((x - mean) / torch.sqrt(var + 1e-5) * scale + shift)
        return x

    cubes = torch.rand(2, 1, 8, 16, 8, dtype=torch.float64)
    x, skips = cubes, []
    for level in ("down_tr64", "down_tr128", "down_tr256"):
        skips.append(units(x, level))
        x = functional.max_pool3d(skips[-1], 2)
    x = units(x, "down_tr512")
    for level in ("up_tr256", "up_tr128", "up_tr64"):
        up = functional.conv_transpose3d(
            x, weights[f"{level}.up_conv.weight"], weights[f"{level}.up_conv.bias"], stride=2
        )
        x = units(torch.cat([up, skips.pop()], dim=1), level)
    x = torch.sigmoid(
        functional.conv3d(x, weights["out_tr.final_conv.weight"], weights["out_tr.final_conv.bias"])
    )
    torch.testing.assert_close(network(cubes), x)


def test_evaluation_uses_the_statistics_of_the_batch_and_changes_nothing() -> None:
    torch.manual_seed(0)
    network = UNet3D(2)
    cubes = torch.rand(3, 1, 16, 16, 16) * 5 + 3
    trained = network.train()(cubes)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    judged = network.eval()(cubes)
    assert torch.equal(judged, trained)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert before["down_tr64.ops.0.bn1.num_batches_tracked"] == 1
    assert not torch.equal(network(cubes[:1]), judged[:1])


def test_norm_learns_running_statistics_like_torch() -> None:
    ours, theirs = BatchStatisticsNorm3d(3), nn.BatchNorm3d(3)
    features = torch.rand(2, 3, 4, 4, 4)
    assert torch.equal(ours(features), theirs(features))
    assert torch.equal(ours.running_var, theirs.running_var)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "axis", "edge", "instead"), [((12, 16, 16), "x", 12, 16), ((16, 16, 4), "z", 4, 8)]
)
def test_an_edge_that_cannot_be_halved_is_named(
    size: tuple[int, int, int], axis: str, edge: int, instead: int
) -> None:
    with pytest.raises(CallError, match=rf"{edge} voxels along {axis}; .* such as {instead}\."):
        UNet3D(1)(torch.zeros(1, 1, *size))


def test_a_width_of_nothing_is_refused() -> None:
    with pytest.raises(CallError, match="width 0"):
        UNet3D(0)
