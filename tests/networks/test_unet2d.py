"""The 2D U-Net: ResNet-18 under torchvision's names, weights of others for it, and runs on images."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from support.training_runs import assert_equal_weights, blobs, losses, make_cube_store, weights
from torch import Tensor, nn

from genesis_toolkit.cli.train import main
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import sha256_of
from genesis_toolkit.pipeline.pairs.degrade import DegradeParameters, degrade_cubes
from genesis_toolkit.training.networks.unet2d import ResNet18Encoder, UNet2D
from genesis_toolkit.training.pretrain.call import PretrainOutcome, pretrain
from genesis_toolkit.training.pretrain.parameters import Execution, PretrainParameters
from genesis_toolkit.training.weights.export import export_weights
from genesis_toolkit.training.weights.load import load_encoder, load_network, read_encoder

SMALL = PretrainParameters(width=4, epochs=8, batch_size=4, optimiser="adam", lr=0.01)
STATISTICS = ("weight", "bias", "running_mean", "running_var")


def resnet18(width: int, channels: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of ResNet-18 as torchvision publishes it (EXCHANGE.md), without its last layer."""

    def norm(name: str, features: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.{part}": (features,) for part in STATISTICS} | {f"{name}.num_batches_tracked": ()}

    table = {"conv1.weight": (width, channels, 7, 7)} | norm("bn1", width)
    before = width
    for level, after in enumerate((width, 2 * width, 4 * width, 8 * width), 1):
        for block in (0, 1):
            here = f"layer{level}.{block}"
            table[f"{here}.conv1.weight"] = (after, before if block == 0 else after, 3, 3)
            table[f"{here}.conv2.weight"] = (after, after, 3, 3)
            table |= norm(f"{here}.bn1", after) | norm(f"{here}.bn2", after)
        if level > 1:
            table[f"layer{level}.0.downsample.0.weight"] = (after, before, 1, 1)
            table |= norm(f"layer{level}.0.downsample.1", after)
        before = after
    return table


def published(width: int) -> dict[str, Tensor]:
    """A file of weights as torchvision publishes it: three colours, and a last layer of 1,000 classes."""
    random = torch.Generator().manual_seed(width)
    shapes = resnet18(width, 3) | {"fc.weight": (1000, 8 * width), "fc.bias": (1000,)}
    tensors = {name: torch.rand(shape, generator=random) + 0.5 for name, shape in shapes.items()}
    counters = {name: torch.tensor(7) for name in shapes if name.endswith("num_batches_tracked")}
    return tensors | counters


# ---------------------------------------------------------------------------------------------- the network


def test_the_encoder_is_resnet_18_under_torchvisions_names() -> None:
    network = UNet2D()
    encoder = network.encoder
    assert {key: tuple(value.shape) for key, value in encoder.state_dict().items()} == resnet18(64, 1)
    counted = sum(parameters.numel() for parameters in encoder.parameters())
    assert counted + 2 * 64 * 7 * 7 == 11_176_512  # torchvision's, which takes two channels more
    assert sum(parameters.numel() for parameters in network.parameters()) == 14_321_809
    assert {key.split(".")[0] for key in network.state_dict()} == {"encoder", "decoder", "out_tr"}
    assert list(UNet2D(1).state_dict()) == list(UNet2D(5).state_dict()) == list(network.state_dict())


def test_the_layers_compute_what_the_docstrings_say() -> None:
    """The same network written down in one piece, from plain functions and the weights by name."""
    torch.manual_seed(0)
    network = UNet2D(4).double()
    given = dict(network.state_dict())
    functional = nn.functional

    def unit(x: Tensor, convolution: str, norm: str, stride: int = 1) -> Tensor:
        kernel = given[f"{convolution}.weight"]
        x = functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
        scale, shift = (given[f"{norm}.{part}"].view(1, -1, 1, 1) for part in ("weight", "bias"))
        return (x - mean) / torch.sqrt(var + 1e-5) * scale + shift

    images = torch.rand(3, 1, 64, 32, dtype=torch.float64)
    x = unit(images, "encoder.conv1", "encoder.bn1", 2).relu()
    features = [x]
    x = functional.max_pool2d(x, 3, 2, 1)
    for level in (1, 2, 3, 4):
        for block in (0, 1):
            here = f"encoder.layer{level}.{block}"
            stride = 2 if level > 1 and block == 0 else 1
            way = unit(x, f"{here}.downsample.0", f"{here}.downsample.1", 2) if stride == 2 else x
            x = unit(x, f"{here}.conv1", f"{here}.bn1", stride).relu()
            x = (unit(x, f"{here}.conv2", f"{here}.bn2") + way).relu()
        features.append(x)
    for ours, theirs in zip(network.encoder(images), features, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert [(part.shape[1], *part.shape[2:]) for part in features] == [
        (4, 32, 16), (4, 16, 8), (8, 8, 4), (16, 4, 2), (32, 2, 1),
    ]  # fmt: skip

    for level, skip in enumerate([*features[-2::-1], None]):
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = x if skip is None else torch.cat((x, skip), 1)
        for number in (0, 1):
            here = f"decoder.{level}.ops.{number}"
            x = unit(x, f"{here}.conv1", f"{here}.bn1").relu()
    head = functional.conv2d(x, given["out_tr.final_conv.weight"], given["out_tr.final_conv.bias"])
    torch.testing.assert_close(network(images), torch.sigmoid(head))


@pytest.mark.parametrize(("size", "axis", "edge"), [((48, 32), "x", 48), ((32, 80), "y", 80)])
def test_an_edge_that_cannot_be_halved_five_times_is_named(
    size: tuple[int, int], axis: str, edge: int
) -> None:
    with pytest.raises(CallError, match=rf"{edge} pixels along {axis}; .* of 32, such as {edge + 16}\."):
        UNet2D(1)(torch.zeros(1, 1, *size))


# ---------------------------------------------------------------------------------- weights to begin with


@pytest.fixture
def torchvision() -> Any:
    """torchvision, whose networks need none of its compiled operators."""
    import support.torchvision_operators  # noqa: F401 # declares them

    return pytest.importorskip("torchvision")


@pytest.mark.full
def test_the_encoder_computes_what_torchvisions_resnet_18_does_with_grey(
    torchvision: Any, tmp_path: Path
) -> None:
    theirs = torchvision.models.resnet18()
    theirs.load_state_dict(published(64))
    theirs.double().eval()
    theirs.fc = theirs.avgpool = nn.Identity()
    torch.save(published(64), tmp_path / "resnet18-test.pth")
    network = UNet2D()
    read_encoder(tmp_path / "resnet18-test.pth").begin(network)
    network.double().eval()
    images = torch.rand(2, 1, 64, 32, dtype=torch.float64)
    ours = network.encoder(images)[-1]
    torch.testing.assert_close(ours.flatten(1), theirs(images.expand(-1, 3, -1, -1)))


def test_a_file_under_torchvisions_names_is_loaded_and_its_last_layer_left_aside(tmp_path: Path) -> None:
    given = published(4)
    torch.save(given, tmp_path / "resnet18-test.pth")
    network = UNet2D(4)
    decoder = {key: value.clone() for key, value in network.decoder.state_dict().items()}
    first = read_encoder(tmp_path / "resnet18-test.pth")
    first.begin(network)
    assert first.source() == {
        "file": "resnet18-test.pth",
        "sha256": sha256_of((tmp_path / "resnet18-test.pth").read_bytes()),
    }
    for key, value in network.encoder.state_dict().items():
        expected = given[key]
        if key == "conv1.weight":
            expected = expected[:, :1] + expected[:, 1:2] + expected[:, 2:]
            torch.testing.assert_close(value, expected)
        else:
            assert torch.equal(value, expected), key
    assert all(torch.equal(value, decoder[key]) for key, value in network.decoder.state_dict().items())
    # The oldest files have no counters.
    old = {key: value for key, value in given.items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")
    read_encoder(tmp_path / "old.pth").begin(UNet2D(4))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layer1.0.conv1.weight": None}, r"has no layer1\.0\.conv1\.weight"),
        ({"conv1.weight": None}, r"has no conv1\.weight"),
        ({"layer1.2.conv1.weight": torch.zeros(1)}, r"has layer1\.2\.conv1\.weight, which the network does"),
        ({"bn1.bias": torch.zeros(5)}, r"bn1\.bias of shape \(5,\), but the network needs \(4,\)"),
        ({"conv1.weight": torch.zeros(4, 2, 7, 7)}, r"\(4, 2, 7, 7\), but the network needs \(4, 1, 7, 7\)"),
        ({"bn1.bias": "text"}, "is not a state dict"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    content = {**published(4), **changes}
    torch.save({key: value for key, value in content.items() if value is not None}, tmp_path / "odd.pth")
    with pytest.raises(DataError, match=words):
        read_encoder(tmp_path / "odd.pth").begin(UNet2D(4))


# ------------------------------------------------------------------------------------------------ a run


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Steps of such small networks are over before other threads have begun."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cube store of X-ray images, twenty patients with three each."""
    grey = ((blobs(60, (32, 32)).astype(float) + 1000) / 2000 * 255).round().astype(np.uint8)
    patients = [f"{number // 3:08d}" for number in range(60)]
    return make_cube_store(tmp_path_factory.mktemp("stores") / "images.zarr", grey, 60, patients)


@pytest.fixture(scope="module")
def pairs(images: Path) -> Path:
    degrade_cubes(images, images.with_name("pairs.zarr"), DegradeParameters(variants=2, seed=0))
    return images.with_name("pairs.zarr")


@pytest.fixture(scope="module")
def run(pairs: Path) -> tuple[Path, PretrainOutcome]:
    return pairs.with_name("run"), pretrain(pairs, pairs.with_name("run"), SMALL)


def test_a_small_network_learns_from_images(run: tuple[Path, PretrainOutcome]) -> None:
    folder, outcome = run
    assert outcome.network == "unet2d"
    assert outcome.split == "one patient in 10 validates, by a hash of the patient"
    assert outcome.train_cubes + outcome.validation_cubes == 60
    assert outcome.validation_cubes % 3 == 0
    assert outcome.validation_loss < 0.2 * outcome.copy_loss
    told = [record["train_loss"] for record in losses(folder)]
    assert min(told) < 0.9 * told[0]
    described = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert (described["size"], described["window"]) == ([32, 32], [0, 255])
    # 48 images in batches of 4 are 12 steps an epoch: 1,000 steps of patience, 2,000 at the full rate.
    known = {"network": "unet2d", "patience": 84, "lr_step": 167}
    assert (outcome.train_cubes, described["parameters"]) == (48, SMALL.as_dict() | known)
    assert matplotlib.image.imread(folder / "restored.png").std() > 0.1
    assert "encoder.layer4.1.conv2.weight" in weights(folder / "best.pt")


def test_a_run_goes_on_to_the_bit_and_a_cube_store_gives_the_same_bits(
    images: Path, pairs: Path, tmp_path: Path
) -> None:
    """In one go from the pairs; in two from the cubes, degraded on the fly to the same variants 0 and 1."""
    pretrain(pairs, tmp_path / "whole", replace(SMALL, epochs=2))
    pretrain(images, tmp_path / "parts", replace(SMALL, epochs=1))
    pretrain(images, tmp_path / "parts", replace(SMALL, epochs=2))
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert_equal_weights(tmp_path / "parts" / "last.pt", tmp_path / "whole" / "last.pt")


def test_everything_of_the_trainer_takes_images(pairs: Path, tmp_path: Path) -> None:
    more = replace(SMALL, epochs=1, ema=0.5, precision="bf16", clip_norm=1.0, schedule="cosine", overfit=4)
    outcome = pretrain(pairs, tmp_path / "run", more, Execution(channels_last=False))
    assert np.isfinite(outcome.validation_loss)
    ema = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["ema_state_dict"]
    assert "encoder.layer1.0.bn1.running_var" in ema


@pytest.mark.full
def test_two_processes_train_as_one_does(pairs: Path, tmp_path: Path) -> None:
    """One norm over parts of 3 and 2 images: after a step all weights and statistics are equal.

    But for the order of sums, and a few steps later a batch norm over five values has made much of that.
    """
    step = replace(SMALL, epochs=1, batch_size=5, optimiser="sgd", lr=0.1, max_steps=1)
    pretrain(pairs, tmp_path / "one", step)
    pretrain(pairs, tmp_path / "two", step, Execution(device="cpu", devices=2))
    (ours,), (theirs,) = losses(tmp_path / "two"), losses(tmp_path / "one")
    assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-5)
    assert ours["validation_loss"] == pytest.approx(theirs["validation_loss"], rel=1e-4)
    together, alone = (weights(tmp_path / name / "last.pt") for name in ("two", "one"))
    for key, value in alone.items():
        torch.testing.assert_close(together[key], value, rtol=1e-4, atol=1e-5)


def test_a_run_begins_with_the_weights_of_a_file_and_says_which(images: Path, tmp_path: Path) -> None:
    torch.save(published(4), tmp_path / "resnet18-test.pth")
    still = replace(SMALL, epochs=1, lr=1e-30, ema=0.5)
    call = {"initial_encoder": tmp_path / "resnet18-test.pth"}
    pretrain(images, tmp_path / "run", still, **call)
    checkpoint = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    for name in ("state_dict", "ema_state_dict"):
        kernel = checkpoint[name]["encoder.layer3.0.conv2.weight"]
        assert torch.equal(kernel, published(4)["layer3.0.conv2.weight"])
    again = pretrain(images, tmp_path / "run", still, **call)
    assert again.status == "already finished"
    with pytest.raises(CallError, match=r"started with --initial-encoder resnet18-test\.pth, but this call"):
        pretrain(images, tmp_path / "run", still)
    torch.save(published(4) | {"bn1.bias": torch.ones(4)}, tmp_path / "resnet18-test.pth")
    with pytest.raises(CallError, match=r"with other content.*or with --overwrite"):
        pretrain(images, tmp_path / "run", still, **call)

    card = Path(export_weights(tmp_path / "run", tmp_path / "out.pt", "state-dict").card).read_text(
        encoding="utf-8"
    )
    assert "- initial encoder: `resnet18-test.pth`, sha256" in card
    assert str(tmp_path) not in card


def test_what_cannot_begin_is_refused_and_leaves_no_run(images: Path, tmp_path: Path) -> None:
    cubes = make_cube_store(tmp_path / "cubes.zarr", blobs(4, (16, 16, 16)), 2)
    odd = make_cube_store(tmp_path / "odd.zarr", blobs(4, (48, 32)), 2)
    torch.save(published(4), tmp_path / "resnet18-test.pth")
    begin = ["--initial-encoder", str(tmp_path / "resnet18-test.pth")]
    for store, options, words in (
        (odd, [], "48 pixels along x; the 2D U-Net halves every edge 5 times"),
        (images, ["--network", "unet3d"], "unet3d takes 3D cubes, but those in the store are 2D, 32 x 32"),
        (cubes, ["--network", "unet2d"], "unet2d takes 2D cubes, but those in the store are 3D"),
        (cubes, begin, "for the ResNet-18 in --network unet2d, but this run trains another network"),
        (images, [*begin, "--width", "8"], "use --width 4"),
        (images, ["--initial-encoder", str(tmp_path / "no.pth")], "no.pth: --initial-encoder must be a file"),
    ):
        call = ["pretrain", str(store), "--out", str(tmp_path / "run"), "--epochs", "1", "--device", "cpu"]
        result = CliRunner().invoke(main, [*call, *options])
        assert (result.exit_code, words in result.stderr) == (2, True), (words, result.output)
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------- the weights


def test_the_weights_come_back_and_the_encoder_is_torchvisions(
    run: tuple[Path, PretrainOutcome], tmp_path: Path
) -> None:
    folder, _ = run
    written = export_weights(folder, tmp_path / "out.pt", "state-dict")
    assert (written.network, written.width) == ("unet2d", 4)
    best = weights(folder / "best.pt")
    for path in (folder, tmp_path / "out.pt"):
        loaded = load_network(path)
        assert isinstance(loaded, UNet2D)
        assert all(torch.equal(value, best[key]) for key, value in loaded.state_dict().items())
    encoder = load_encoder(tmp_path / "out.pt")
    assert isinstance(encoder, ResNet18Encoder)
    assert set(encoder.state_dict()) == set(resnet18(4, 1))
    levels = encoder(torch.rand(2, 1, 64, 32))
    assert [level.shape[1] for level in levels] == encoder.output_channels == [4, 4, 8, 16, 32]
    assert [level.shape[2] for level in levels] == [32, 16, 8, 4, 2]
    card = Path(written.card).read_text(encoding="utf-8")
    for fact in (
        "2D U-Net with a ResNet-18 encoder, pre-trained on images from unlabelled scans",
        "float32 `[batch, 1, x, y]` in [0, 1]: voxels (HU for CT) clipped to [0, 255]",
        "every edge must be a multiple of 32",
        "images of 32 x 32 voxels",
    ):
        assert fact in card, fact


@pytest.mark.parametrize("kind", ["official", "nnssl"])
def test_formats_that_hold_no_2d_network_are_refused(
    run: tuple[Path, PretrainOutcome], tmp_path: Path, kind: str
) -> None:
    with pytest.raises(CallError, match=r"unet2d\)?: use --format state-dict\."):
        export_weights(run[0], tmp_path / "out.pt", kind)
    assert not list(tmp_path.iterdir())
