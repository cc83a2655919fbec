"""What a forward pass keeps, against counts by hand and against what torch keeps on a real device."""

import pytest
import torch
from torch import nn

from genesis_toolkit.training.machine.memory import batch_bytes, weights_of
from genesis_toolkit.training.networks.registry import build_network


def test_kept_tensors_are_counted_once_and_weights_never() -> None:
    # The convolution keeps its input, 1 x 8^3, and the sigmoid its output, 4 x 8^3, for each of 3 cubes.
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.Sigmoid())
    assert batch_bytes(network, (3, 1, 8, 8, 8)) == 4 * 3 * (1 + 4) * 8**3
    assert weights_of(network) == 4 * 27 + 4
    twice = nn.Sequential(nn.Sigmoid(), nn.Conv3d(1, 1, 1))  # one tensor, kept by both
    assert batch_bytes(twice, (3, 1, 8, 8, 8)) == 4 * 3 * 8**3


@pytest.mark.parametrize(("name", "shape"), [("unet3d", (2, 1, 16, 16, 16)), ("unet2d", (2, 1, 32, 32))])
def test_the_networks_keep_as_much_as_torch_does_on_the_cpu(name: str, shape: tuple[int, ...]) -> None:
    network = build_network(name, 4)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    counted = batch_bytes(network, shape)
    after = network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)  # nor did a norm learn of it
    kept: dict[int, torch.Tensor] = {}
    weights = {one.untyped_storage().data_ptr() for one in (*network.parameters(), *network.buffers())}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        restored = network(torch.rand(shape))
    real = sum(one.untyped_storage().nbytes() for key, one in kept.items() if key not in weights)
    assert restored.shape == shape
    assert counted == pytest.approx(real, rel=0.02)
