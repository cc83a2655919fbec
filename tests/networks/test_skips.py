"""Skip connections that are dropped: which of them, by words drawn anew; and that nothing else changes."""

import copy

import numpy as np
import pytest
import torch
from support.oracle import StreamDraws
from torch import Tensor, nn

from genesis_toolkit.training.networks.registry import build_network
from genesis_toolkit.training.networks.skips import SkipDropper, draw_dropped

#: The name, a width, a small input, the features that the encoder hands across.
NETWORKS = [("unet3d", 2, (8, 8, 16), 3), ("unet2d", 4, (32, 64), 4)]
NNUNET = [("plainconv", 2, (32, 32, 64), 5), ("resenc-l", 2, (32, 32, 64), 5)]


def test_what_a_step_drops_is_what_its_words_say() -> None:
    for seed, epoch, step in ((0, 0, 0), (7, 3, 5), (2**63 - 1, 10_000, 2**31)):
        words = StreamDraws(seed, 0, step, epoch).words(13, 5)
        for rate in (0.0, 0.25, 0.5, 1.0):
            expected = [int(word) < rate * 2**32 for word in words]
            assert draw_dropped(seed, epoch, step, 5, rate).tolist() == expected


def test_each_skip_is_dropped_as_often_as_asked_whatever_the_others_do() -> None:
    drawn = np.stack([draw_dropped(1, epoch, step, 4, 0.3) for epoch in range(40) for step in range(100)])
    assert drawn.mean(0) == pytest.approx([0.3] * 4, abs=0.03)  # four standard deviations
    assert np.corrcoef(drawn.T)[np.triu_indices(4, 1)] == pytest.approx([0] * 6, abs=0.07)
    assert len({bytes(row) for row in drawn}) == 2**4


def joined(network: nn.Module, dropped: list[bool], cubes: Tensor) -> Tensor:
    """What a network gives whose decoder is fed by hand, with zeros for what is dropped, finest first."""
    if hasattr(network, "up_tr64"):
        levels = network.features(cubes)
    else:
        levels = network.get_submodule("encoder")(cubes)
    *skips, below = levels
    fed = [torch.zeros_like(one) if zero else one for one, zero in zip(skips, dropped, strict=True)]
    if hasattr(network, "up_tr64"):
        for level, skip in zip(("up_tr256", "up_tr128", "up_tr64"), reversed(fed), strict=True):
            below = network.get_submodule(level)(below, skip)
    elif hasattr(network, "out_tr"):
        for number, skip in enumerate([*reversed(fed), None]):
            below = network.get_submodule(f"decoder.{number}")(below, skip)
    else:
        given: Tensor = network.get_submodule("decoder")([*fed, below])
        return given
    restored: Tensor = network.get_submodule("out_tr")(below)
    return restored


@pytest.mark.parametrize(
    ("name", "width", "size", "count"),
    [*NETWORKS, *(pytest.param(*one, marks=pytest.mark.full) for one in NNUNET)],
)
def test_what_is_dropped_is_zero_for_the_decoder(
    name: str, width: int, size: tuple[int, ...], count: int
) -> None:
    if name in ("plainconv", "resenc-l"):
        pytest.importorskip("dynamic_network_architectures")
    torch.manual_seed(0)
    network = build_network(name, width)
    untouched, cubes = copy.deepcopy(network), torch.rand(3, 1, *size)
    skips, seen = SkipDropper(network, 0.5, 9), set()
    assert network.state_dict().keys() == untouched.state_dict().keys()
    for step in range(6):
        skips.draw(2, step)
        dropped = draw_dropped(9, 2, step, count, 0.5).tolist()
        seen.add(tuple(dropped))
        assert torch.equal(network(cubes), joined(untouched, dropped, cubes))
    assert len(seen) > 2
    network.eval()
    untouched.eval()
    assert torch.equal(network(cubes), untouched(cubes))


def test_gradients_of_what_is_dropped_are_those_of_zeros() -> None:
    torch.manual_seed(0)
    network = build_network("unet3d", 2)
    plain, cubes = copy.deepcopy(network), torch.rand(2, 1, 16, 16, 16)
    skips = SkipDropper(network, 1.0, 0)
    skips.draw(0, 0)
    network(cubes).square().mean().backward()
    joined(plain, [True] * 3, cubes).square().mean().backward()
    for ours, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.equal(ours.grad, theirs.grad)


def test_a_rate_of_0_leaves_the_network_alone() -> None:
    network = build_network("unet3d", 2)
    SkipDropper(network, 0.0, 0).draw(0, 0)
    assert not any(part._forward_pre_hooks for part in network.modules())


@pytest.mark.full  # torch's compiler is loaded
@pytest.mark.parametrize(("name", "width", "size", "count"), NETWORKS)
def test_a_compiled_network_is_one_graph_whatever_is_dropped(
    name: str, width: int, size: tuple[int, ...], count: int
) -> None:
    torch.manual_seed(0)
    network, graphs = build_network(name, width), list[int]()

    def counting(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(1)
        return graph

    plain, cubes = copy.deepcopy(network), torch.rand(2, 1, *size)
    skips = SkipDropper(network, 0.5, 9)
    compiled = torch.compile(network, backend=counting, fullgraph=True)
    for step in range(6):
        skips.draw(0, step)
        dropped = draw_dropped(9, 0, step, count, 0.5).tolist()
        torch.testing.assert_close(compiled(cubes), joined(plain, dropped, cubes))
    assert len(graphs) == 1
