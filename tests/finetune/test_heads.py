"""What target networks begin with, and their heads: published shapes, no weight lost, slice by slice."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.training.finetune.heads import Classifier, Segmenter, TargetNetwork, build_target_network
from genesis_toolkit.training.machine.run_folder import Run
from genesis_toolkit.training.networks.registry import build_network
from genesis_toolkit.training.networks.unet2d import ResNet18Encoder
from genesis_toolkit.training.networks.unet3d import UNet3D
from genesis_toolkit.training.pretrain.call import new_state
from genesis_toolkit.training.pretrain.loop import pack
from genesis_toolkit.training.pretrain.parameters import PretrainParameters
from genesis_toolkit.training.weights.load import Beginning, read_beginning

CUBES_3D = (16, 24, 8)


def cubes(*shape: int) -> Tensor:
    return torch.rand((2, 1, *shape), generator=torch.Generator().manual_seed(1))


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def saved(network: nn.Module, path: Path) -> Path:
    torch.save(network.state_dict(), path)
    return path


def test_the_published_heads_have_the_published_sizes() -> None:
    scratch = read_beginning(None)
    assert (scratch.network, scratch.width) == ("unet3d", 32)
    network = build_target_network(scratch, "classify", 1, 3, 0)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.head.state_dict().items()}
    assert shapes == {"0.weight": (1024, 512), "0.bias": (1024,), "2.weight": (1, 1024), "2.bias": (1,)}
    assert isinstance(network.head[1], nn.ReLU)
    flat = build_target_network(read_beginning(None, "unet2d"), "classify", 14, 2, 0)
    assert isinstance(flat, Classifier)
    assert [tuple(one.shape) for one in flat.head.parameters()] == [(1024, 512), (1024,), (14, 1024), (14,)]
    whole = build_target_network(scratch, "segment", 1, 3, 0)
    assert sum(one.numel() for one in whole.parameters()) == 19_073_665


@pytest.mark.parametrize(
    ("network", "axes", "shape"),
    [
        ("unet3d", 3, CUBES_3D),
        ("unet2d", 2, (32, 64)),
        ("unet2d", 3, (32, 64, 5)),
        ("plainconv", 3, (32, 32, 64)),
        ("resenc-l", 3, (32, 32, 64)),
    ],
)
def test_every_network_gives_logits_for_both_kinds(network: str, axes: int, shape: tuple[int, ...]) -> None:
    scratch = read_beginning(None, network, 2)
    classify = build_target_network(scratch, "classify", 3, axes, 0)
    segment = build_target_network(scratch, "segment", 1, axes, 0)
    for built in (classify, segment):
        built.check_size(shape)
        with pytest.raises(CallError, match="31"):
            built.check_size((31, *shape[1:]))
        with pytest.raises(CallError):
            built.check_size((*shape, 8))
    with torch.no_grad():
        assert classify(cubes(*shape)).shape == (2, 3)
        logits = segment(cubes(*shape))
        segment.load_state_dict({name: tensor * 40 for name, tensor in segment.state_dict().items()})
        assert logits.shape == (2, 1, *shape)
        assert segment(cubes(*shape)).abs().max() > 1  # no sigmoid is left
    owned = {id(one) for one in classify.parameters()} - {id(one) for one in classify.head.parameters()}
    assert {id(one) for one in classify.encoder().parameters()} == owned
    inside = list(segment.encoder().parameters())
    assert len(inside) == len(owned)
    assert {id(one) for one in inside} < {id(one) for one in segment.parameters()}


def test_classification_is_the_mean_of_the_deepest_features_through_the_head() -> None:
    body = build_network("unet3d", 2)
    assert isinstance(body, UNet3D)
    network = build_target_network(Beginning("unet3d", 2, body.state_dict(), file="w"), "classify", 2, 3, 0)
    x = cubes(*CUBES_3D)
    deepest = body.features(x)[-1]
    pooled = torch.stack([torch.stack([channel.mean() for channel in cube]) for cube in deepest])
    first, _, last = network.head
    expected = last(first(pooled).clamp(min=0))
    torch.testing.assert_close(network(x), expected)


def test_segmentation_is_the_whole_network_under_its_own_last_convolution() -> None:
    body = build_network("unet3d", 2)
    network = build_target_network(Beginning("unet3d", 2, body.state_dict(), file="w"), "segment", 1, 3, 0)
    last = network.network.out_tr.final_conv
    body.out_tr.final_conv.load_state_dict(last.state_dict())
    torch.testing.assert_close(torch.sigmoid(network(cubes(*CUBES_3D))), body(cubes(*CUBES_3D)))


def test_a_2d_network_takes_each_slice_of_a_cube_by_itself() -> None:
    scratch, x = read_beginning(None, "unet2d", 2), cubes(32, 64, 5)
    flat, deep = (build_target_network(scratch, "segment", 1, axes, 3).eval() for axes in (2, 3))
    assert equal(state(flat), state(deep))
    with torch.no_grad():
        by_hand = torch.stack([flat(x[..., z]) for z in range(5)], dim=-1)
        torch.testing.assert_close(deep(x), by_hand)
        judge = build_target_network(scratch, "classify", 2, 3, 3).eval()
        levels = [judge.encoder()(x[..., z])[-1].mean((2, 3)) for z in range(5)]
        torch.testing.assert_close(judge(x), judge.head(torch.stack(levels).mean(0)))


@pytest.mark.parametrize("kind", ["classify", "segment"])
def test_first_weights_depend_on_the_seed_only(kind: Any) -> None:
    scratch = read_beginning(None, "unet3d", 2)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = build_target_network(scratch, kind, 1, 3, 7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert equal(state(one), state(build_target_network(scratch, kind, 1, 3, 7)))
    other = state(build_target_network(scratch, kind, 1, 3, 8))
    weights = [name for name in other if name.endswith("conv1.weight") or "final_conv" in name]
    assert not any(torch.equal(one.state_dict()[name], other[name]) for name in weights)
    with_weights = replace(scratch, weights=build_network("unet3d", 2).state_dict(), file="w")
    given = build_target_network(with_weights, kind, 1, 3, 7)
    head = [name for name in state(one) if name.startswith(("head.", "network.out_tr."))]
    assert head
    assert all(torch.equal(state(given)[name], state(one)[name]) for name in head)


@pytest.mark.parametrize("network", ["unet3d", "unet2d"])
@pytest.mark.parametrize("kind", ["classify", "segment"])
def test_a_frozen_encoder_does_not_change(network: str, kind: Any) -> None:
    axes = 3 if network == "unet3d" else 2
    x = cubes(*(CUBES_3D if axes == 3 else (64, 64)))
    built = build_target_network(read_beginning(None, network, 2), kind, 1, axes, 0)
    built.freeze_encoder()
    built.train()
    before, encoder = state(built), state(built.encoder())
    learning = [one for one in built.parameters() if one.requires_grad]
    optimiser = torch.optim.Adam(learning, lr=0.1)
    deepest = built.encoder()(x)[-1]
    built(x).square().mean().backward()
    optimiser.step()
    after = state(built.encoder())
    assert equal(after, encoder)
    assert torch.equal(built.encoder()(x)[-1], deepest)
    torch.testing.assert_close(built.encoder()(x[:1])[-1], deepest[:1])  # whatever is beside it
    assert not equal(state(built), before)


@pytest.mark.parametrize("form", ["run", "checkpoint", "official", "state dict"])
def test_weights_are_read_from_every_form_without_a_bit_changed(form: str, tmp_path: Path) -> None:
    trained = new_state(PretrainParameters(network="unet3d", width=2, seed=9), torch.device("cpu"))
    weights, path, window = state(trained.model), tmp_path / "weights.pt", None
    if form in ("run", "checkpoint"):
        path.write_bytes(pack(trained, PretrainParameters(network="unet3d", width=2), best=True))
    elif form == "official":
        torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in weights.items()}}, path)
    else:
        torch.save(weights, path)
    given = path
    if form == "run":
        run, window = Run(tmp_path / "run"), (-900, 500)
        run.folder.mkdir()
        path.rename(run.best)
        run.begin({"parameters": {}, "store": {}, "baselines": {}, "window": list(window)}, 0)
        given = run.folder
    beginning = read_beginning(given)
    assert (beginning.network, beginning.width, beginning.window) == ("unet3d", 2, window)
    assert beginning.weights is not None
    assert equal(dict(beginning.weights), weights)
    told = beginning.describe()
    assert told["pretrained"] == "network"
    assert str(tmp_path) not in str(told)
    network = build_target_network(beginning, "segment", 1, 3, 0, keep="all")
    assert isinstance(network, Segmenter)
    assert all(
        torch.equal(tensor, weights[name])
        for name, tensor in network.network.state_dict().items()
        if not name.startswith("out_tr.")
    )
    with pytest.raises(CallError, match="not --width 4: omit --width"):
        read_beginning(given, width=4)
    with pytest.raises(CallError, match="not --network unet2d: omit --network"):
        read_beginning(given, "unet2d")
    assert read_beginning(given, "unet3d", 2).width == 2


@pytest.mark.parametrize("network", ["unet3d", "unet2d", "plainconv", "resenc-l"])
def test_parts_of_weights_are_handed_over(network: str) -> None:
    torch.manual_seed(4)
    given = state(build_network(network, 2))
    beginning = Beginning(network, 2, {name: one + 1 for name, one in given.items()}, file="w")
    axes = 2 if network == "unet2d" else 3
    fresh = state(build_target_network(read_beginning(None, network, 2), "segment", 1, axes, 5))
    changed = {}
    for keep in ("encoder", "all-but-last", "all"):
        built = state(build_target_network(beginning, "segment", 1, axes, 5, keep=keep))
        changed[keep] = {name for name in built if not torch.equal(built[name], fresh[name])}
        for name in changed[keep]:
            assert torch.equal(built[name], given[name.removeprefix("network.")] + 1), name
    names = {name.removeprefix("network.") for name in fresh}
    last = {
        "unet3d": ("up_tr64.",),
        "unet2d": ("decoder.4.",),
    }.get(network, ("decoder.stages.4.", "decoder.transpconvs.4."))
    inside = {name for name in names if name.startswith(("encoder.", "decoder.encoder.", "down_tr"))}
    heads = {name for name in names if name.startswith(("out_tr.", "decoder.seg_layers.4."))}
    kept = {keep: {name.removeprefix("network.") for name in found} for keep, found in changed.items()}
    assert kept["encoder"] == inside
    assert kept["all-but-last"] == {one for one in names - heads if not one.startswith(last)}
    assert kept["all"] == names - heads


def resnet18(path: Path, **more: Tensor) -> Path:
    """A file as torchvision publishes it: three colours, and a last layer."""
    weights = {
        name: torch.rand_like(tensor.float()) for name, tensor in ResNet18Encoder(4).state_dict().items()
    }
    colours = torch.rand(4, 3, 7, 7)
    last = {"fc.weight": torch.rand(1000, 32), "fc.bias": torch.rand(1000)}
    torch.save({**weights, "conv1.weight": colours, **last, **more}, path)
    return path


@pytest.mark.parametrize("kind", ["classify", "segment"])
def test_a_resnet18_begins_the_encoder(kind: Any, tmp_path: Path) -> None:
    beginning = read_beginning(resnet18(tmp_path / "resnet18.pth"))
    assert (beginning.network, beginning.width) == ("unet2d", 4)
    assert beginning.describe()["pretrained"] == "encoder"
    assert beginning.describe()["file"] == "resnet18.pth"
    network = build_target_network(beginning, kind, 1, 3, 0)
    network.check_size((64, 64, 3))
    there = torch.load(tmp_path / "resnet18.pth")
    there["conv1.weight"] = there["conv1.weight"].sum(1, keepdim=True)
    ours = state(network.encoder())
    assert equal(ours, {name: there[name].to(ours[name].dtype) for name in ours})
    scratch = state(build_target_network(read_beginning(None, "unet2d", 4), kind, 1, 3, 0))
    encoder = ("way_down.", "network.encoder.")
    assert all(
        torch.equal(tensor, scratch[name])
        for name, tensor in state(network).items()
        if not name.startswith(encoder)
    )


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    short = build_network("unet3d", 2).state_dict()
    del short["up_tr64.up_conv.bias"]
    torch.save(short, tmp_path / "short.pt")
    with pytest.raises(DataError, match=r"short\.pt has no up_tr64\.up_conv\.bias"):
        read_beginning(tmp_path / "short.pt")
    with pytest.raises(CallError, match="no weights at"):
        read_beginning(tmp_path / "nothing.pt")
    with pytest.raises(CallError, match="--network nonet is unknown"):
        read_beginning(None, "nonet")
    with pytest.raises(CallError, match="--width 0 is out of range"):
        read_beginning(None, width=0)
    deeper = resnet18(tmp_path / "resnet34.pth", **{"layer1.2.conv1.weight": torch.rand(4, 4, 3, 3)})
    with pytest.raises(DataError, match=r"resnet34\.pth has layer1\.2\.conv1\.weight"):
        read_beginning(deeper)
    flat = resnet18(tmp_path / "flat.pth", **{"conv1.weight": torch.rand(4)})
    with pytest.raises(DataError, match=r"conv1\.weight of shape \(4,\)"):
        read_beginning(flat)
    with pytest.raises(CallError, match="2D images: give --network unet2d"):
        build_target_network(read_beginning(None, width=2), "classify", 1, 2, 0)


def test_torch_saves_and_loads_a_target_network_as_plain_tensors(tmp_path: Path) -> None:
    scratch = read_beginning(None, "plainconv", 2)
    built: list[TargetNetwork] = [build_target_network(scratch, "segment", 1, 3, seed) for seed in (0, 1)]
    weights = torch.load(saved(built[0], tmp_path / "w.pt"), weights_only=True)
    built[1].load_state_dict(weights)
    assert equal(state(built[0]), state(built[1]))
