"""Weights on their way to others and back: no bit changed, nothing foreign believed, nothing half written."""

import json
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from support.folders import ROOT
from support.scans import SMALL, lungs, write_scan
from torch import nn

from genesis_toolkit.cli.train import main
from genesis_toolkit.pipeline.cubes.extract import extract_cubes
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import MANIFEST, sha256_of
from genesis_toolkit.training.networks.registry import build_network
from genesis_toolkit.training.networks.unet3d import UNet3D
from genesis_toolkit.training.pretrain.call import new_state, pretrain
from genesis_toolkit.training.pretrain.loop import pack
from genesis_toolkit.training.pretrain.parameters import PretrainParameters
from genesis_toolkit.training.weights.export import FORMATS, export_weights
from genesis_toolkit.training.weights.load import load_encoder, load_network

NNUNET = ("resenc-l", "plainconv")
TRAINING = PretrainParameters(width=2, epochs=2, batch_size=4, lr=0.5, seed=7)

#: METHOD.md section 4: the convolutions of every level, channels in and out.
LEVELS = {
    "down_tr64": [(1, 32), (32, 64)],
    "down_tr128": [(64, 64), (64, 128)],
    "down_tr256": [(128, 128), (128, 256)],
    "down_tr512": [(256, 256), (256, 512)],
    "up_tr256": [(768, 256), (256, 256)],
    "up_tr128": [(384, 128), (128, 128)],
    "up_tr64": [(192, 64), (64, 64)],
}
UPWARDS = {"up_tr256": 512, "up_tr128": 256, "up_tr64": 128}


def published() -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the authors' file, its prefix with them."""
    table: dict[str, tuple[int, ...]] = {"out_tr.final_conv.weight": (1, 64, 1, 1, 1)}
    table["out_tr.final_conv.bias"] = (1,)
    for level, convolutions in LEVELS.items():
        for number, (before, after) in enumerate(convolutions):
            unit = f"{level}.ops.{number}"
            table[f"{unit}.conv1.weight"] = (after, before, 3, 3, 3)
            for name in ("conv1.bias", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var"):
                table[f"{unit}.{name}"] = (after,)
            table[f"{unit}.bn1.num_batches_tracked"] = ()
    for level, channels in UPWARDS.items():
        table[f"{level}.up_conv.weight"] = (channels, channels, 2, 2, 2)
        table[f"{level}.up_conv.bias"] = (channels,)
    return {f"module.{key}": shape for key, shape in table.items()}


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A run of this test's own."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run, from a cube store beside it."""
    folder = tmp_path_factory.mktemp("private-place")
    for number in range(2):
        write_scan(folder / "scans" / f"{number}.mha", lungs(number))
    extract_cubes(folder / "scans", folder / "lungs.zarr", SMALL, workers=1)
    pretrain(folder / "lungs.zarr", folder / "run", TRAINING)
    return folder / "run"


def describe(folder: Path, store: dict[str, Any], **changes: Any) -> None:
    """Change what `run.json` says of the run and of its store."""
    path = folder / "run.json"
    described = json.loads(path.read_bytes())
    path.write_text(json.dumps(described | changes | {"store": described["store"] | store}))


def put_weights(folder: Path, network: nn.Module) -> None:
    """Let other weights be the best of a run, as the trainer would write them."""
    parameters = PretrainParameters(width=2)
    state = new_state(parameters, torch.device("cpu"))
    state.epoch = state.best_epoch = 1
    state.best_loss = 0.5
    (folder / "best.pt").write_bytes(pack(state, parameters))
    checkpoint = torch.load(folder / "best.pt", weights_only=True)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for weights in network.parameters():
        weights.grad = torch.ones_like(weights)
    optimiser.step()
    checkpoint |= {"state_dict": network.state_dict(), "optimizer_state_dict": optimiser.state_dict()}
    torch.save(checkpoint, folder / "best.pt")


def best_weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(folder / "best.pt", weights_only=True)["state_dict"])


def same_bits(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    return list(ours) == list(theirs) and all(
        ours[key].dtype == theirs[key].dtype and torch.equal(ours[key], theirs[key]) for key in ours
    )


# ----------------------------------------------------------------------------------------- what is written


def test_the_official_file_has_the_published_names_and_shapes(run: Path, tmp_path: Path) -> None:
    put_weights(run, UNet3D())
    written = export_weights(run, tmp_path / "Genesis.pt", "official")
    content = torch.load(tmp_path / "Genesis.pt", weights_only=True)
    assert set(content) == {"epoch", "state_dict", "optimizer_state_dict"}
    assert content["epoch"] == 1
    weights = content["state_dict"]
    assert {key: tuple(tensor.shape) for key, tensor in weights.items()} == published()
    learnt = [
        tensor.numel() for key, tensor in weights.items() if "running" not in key and "tracked" not in key
    ]
    assert sum(learnt) == written.weights == 19_073_665


@pytest.mark.parametrize("kind", ["official", "state-dict"])
def test_a_round_trip_changes_no_bit(run: Path, tmp_path: Path, kind: str) -> None:
    export_weights(run, tmp_path / "out.pt", kind)
    expected = best_weights(run)
    for path in (run, run / "best.pt", tmp_path / "out.pt"):
        assert same_bits(dict(load_network(path).state_dict()), expected), path
    content = torch.load(tmp_path / "out.pt", weights_only=True)
    if kind == "state-dict":
        assert same_bits(content, expected)
    else:
        optimiser = torch.load(run / "best.pt", weights_only=True)["optimizer_state_dict"]
        momentum = [state["momentum_buffer"] for state in content["optimizer_state_dict"]["state"].values()]
        assert len(momentum) == len(list(load_network(run).parameters()))
        for ours, theirs in zip(momentum, optimiser["state"].values(), strict=True):
            assert torch.equal(ours, theirs["momentum_buffer"])


def test_the_official_format_is_read_in_torchs_old_file_format_too(tmp_path: Path) -> None:
    weights = UNet3D(3).state_dict()
    content = {"epoch": 5, "state_dict": {f"module.{key}": tensor for key, tensor in weights.items()}}
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert same_bits(dict(load_network(tmp_path / "old.pt").state_dict()), dict(weights))


def test_loading_leaves_torchs_generator_alone(run: Path) -> None:
    before = torch.random.get_rng_state()
    assert load_network(run).training
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_encoder_gives_the_features_of_every_level(run: Path, tmp_path: Path) -> None:
    cubes = torch.rand(2, 1, 16, 24, 8)
    network, encoder = load_network(run), load_encoder(run)
    assert isinstance(network, UNet3D)
    features = encoder(cubes)
    assert isinstance(features, list)
    for ours, theirs in zip(features, network.features(cubes), strict=True):
        assert torch.equal(ours, theirs)
    downwards = {key for key in best_weights(run) if key.startswith("down")}
    assert set(encoder.state_dict()) == downwards
    with pytest.raises(CallError, match="12 voxels along y"):
        encoder(torch.zeros(1, 1, 16, 12, 16))

    torch.save(UNet3D().state_dict(), tmp_path / "published.pt")
    whole = load_encoder(tmp_path / "published.pt")
    levels = whole(torch.rand(1, 1, 16, 16, 16))
    shapes = [(1, 64, 16, 16, 16), (1, 128, 8, 8, 8), (1, 256, 4, 4, 4), (1, 512, 2, 2, 2)]
    assert [tuple(level.shape) for level in levels] == shapes
    assert whole.output_channels == [64, 128, 256, 512]


# ------------------------------------------------------------------------------------------ what is refused


def changed(weights: dict[str, Any], **by_name: Any) -> dict[str, Any]:
    """Other tensors under names whose dots are written as two underscores; None takes one away."""
    changes = {name.replace("__", "."): tensor for name, tensor in by_name.items()}
    return {key: tensor for key, tensor in {**weights, **changes}.items() if tensor is not None}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"up_tr64__ops__0__conv1__weight": torch.zeros(4, 13, 3, 3, 3)},
            r"up_tr64\.ops\.0\.conv1\.weight of shape \(4, 13, 3, 3, 3\).*needs \(4, 12, 3, 3, 3\)",
        ),
        ({"out_tr__final_conv__bias": None}, r"has no out_tr\.final_conv\.bias"),
        ({"out_tr__extra": torch.zeros(1)}, r"has out_tr\.extra, which the network does not know"),
        ({"down_tr64__ops__0__conv1__weight": None}, r"weights of no network .*down_tr64\.ops\.0"),
        (
            {"down_tr64__ops__0__conv1__weight": torch.zeros(1).expand(9999, 1, 3, 3, 3)},
            r"of shape \(9999, 1, 3, 3, 3\), .*\(width, 1, 3, 3, 3\), width at least 1 and at most 512",
        ),
        ({"down_tr64__ops__0__conv1__weight": torch.tensor(1.0)}, r"conv1\.weight of shape \(\)"),
        ({"out_tr__final_conv__bias": 3}, "holds no weights that can be loaded"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], words: str, prefix: str
) -> None:
    weights = changed(dict(UNet3D(2).state_dict()), **changes)
    content: dict[str, Any] = {prefix + key: tensor for key, tensor in weights.items()}
    torch.save({"epoch": 1, "state_dict": content} if prefix else content, tmp_path / "odd.pt")
    with pytest.raises(DataError, match=words):
        load_network(tmp_path / "odd.pt")


class Hostile:
    """Unpickled, it would write a file."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.write_text, (self.victim, "owned")


def test_a_hostile_file_is_not_run(tmp_path: Path) -> None:
    hostile = Hostile(tmp_path / "victim")
    weights = {"state_dict": UNet3D(2).state_dict(), "epoch": hostile}
    torch.save(weights, tmp_path / "zip.pt")
    torch.save(weights, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(hostile))
    for name in ("zip.pt", "old.pt", "plain.pt"):
        with pytest.raises(DataError, match=f"{name} is cut short, damaged, or no checkpoint of plain"):
            load_network(tmp_path / name)
    assert not (tmp_path / "victim").exists()
    torch.load(tmp_path / "zip.pt", weights_only=False)  # what the refusal is for
    assert (tmp_path / "victim").exists()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("new", [True, False])
def test_a_file_cut_short_is_refused(tmp_path: Path, share: float, new: bool) -> None:
    path = tmp_path / "short.pt"
    torch.save(UNet3D(2).state_dict(), path, _use_new_zipfile_serialization=new)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataError, match=r"short\.pt is cut short"):
        load_network(path)


def test_what_is_no_weights_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CallError, match=r"no weights at .*nowhere"):
        load_network(tmp_path / "nowhere")
    with pytest.raises(CallError, match=r"no best\.pt in"):
        load_network(tmp_path)
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    with pytest.raises(DataError, match="weights of no network"):
        load_network(tmp_path / "tensor.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(DataError, match="holds no weights"):
        load_network(tmp_path / "list.pt")
    checkpoint = torch.load(run / "best.pt", weights_only=True)
    torch.save(checkpoint | {"version": 99}, run / "best.pt")
    with pytest.raises(DataError, match="format version 99"):
        load_network(run)


# --------------------------------------------------------------------------------------------- the command


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_command_writes_weights_and_card_and_says_so(run: Path, tmp_path: Path) -> None:
    call = ["export", str(run), str(tmp_path / "out.pt"), "--format", "official"]
    result = CliRunner().invoke(main, call)
    assert result.exit_code == 0, result.output
    assert "unet3d, width 2" in result.stdout
    assert "Next: read" in result.stderr
    assert files(tmp_path) >= {"out.pt", "out.pt.md"}

    again = CliRunner().invoke(main, [*call, "--overwrite", "--json"])
    written = json.loads(again.stdout)
    assert written["sha256"] == sha256_of((tmp_path / "out.pt").read_bytes())
    assert written["format"] == "official"
    assert written["epoch"] == torch.load(run / "best.pt", weights_only=True)["epoch"]


def test_a_wrong_call_leaves_with_2_and_writes_nothing(run: Path, tmp_path: Path) -> None:
    store = run.parent / "lungs.zarr"
    shutil.copytree(json.loads((run / "run.json").read_bytes())["store"]["path"], store)
    (tmp_path / "mine.pt").write_text("mine")
    (tmp_path / "noted.pt.md").write_text("mine")
    (tmp_path / "begun").mkdir()
    shutil.copy(run / "run.json", tmp_path / "begun")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "run.json").write_text("[]")
    before = files(tmp_path)
    for source, out, kind, words in (
        (run, "mine.pt", "official", "mine.pt exists: choose another name, or give --overwrite"),
        (run, "noted.pt", "official", "noted.pt.md exists"),
        (run, "foreign", "official", "foreign is a folder"),
        (run, "run/out.pt", "official", "lies inside the run"),
        (run, "lungs.zarr/out.pt", "official", "lies inside the store"),
        (run, "out.pt", "nnssl", "nnU-Net has no 3D U-Net of Models Genesis"),
        (run, "out.pt", "onnx", "'official', 'nnssl', 'state-dict'"),
        (tmp_path / "nothing", "out.pt", "official", "There is no run in"),
        (
            tmp_path / "mine.pt",
            "out.pt",
            "official",
            "holds no run of genesis-train pretrain that this version",
        ),
        (
            tmp_path / "foreign",
            "out.pt",
            "official",
            "holds no run of genesis-train pretrain that this version",
        ),
        (tmp_path / "begun", "out.pt", "official", "no epoch is finished yet"),
    ):
        result = CliRunner().invoke(main, ["export", str(source), str(tmp_path / out), "--format", kind])
        assert (result.exit_code, words in result.stderr) == (2, True), (out, kind, result.output)
        assert "Traceback" not in result.output
    assert files(tmp_path) == before
    assert (tmp_path / "mine.pt").read_text() == "mine"
    assert CliRunner().invoke(main, ["export", str(run), str(tmp_path / "out.pt")]).exit_code == 2


def test_a_damaged_checkpoint_leaves_with_1(run: Path, tmp_path: Path) -> None:
    data = (run / "best.pt").read_bytes()
    (run / "best.pt").write_bytes(data[: len(data) // 2])
    result = CliRunner().invoke(main, ["export", str(run), str(tmp_path / "out.pt"), "--format", "official"])
    assert result.exit_code == 1
    assert "best.pt is cut short" in result.stderr
    (run / "best.pt").write_bytes(data)
    for lost in ("", (run / "losses.jsonl").read_text().splitlines()[0] + "\n{"):
        (run / "losses.jsonl").write_text(lost)
        with pytest.raises(DataError, match=r"losses\.jsonl is damaged"):
            export_weights(run, tmp_path / "out.pt", "official")
    assert not files(tmp_path) & {"out.pt", "out.pt.md"}


def test_a_file_is_there_whole_or_as_it_was(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.pt"

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            export_weights(run, out, "official")
        assert files(tmp_path) == {"run"}
    export_weights(run, out, "official")
    before = {path: path.read_bytes() for path in tmp_path.glob("out*")}
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            export_weights(run, out, "state-dict", overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.glob("*out*")} == before


# ------------------------------------------------------------------------------------------------ the card


def test_the_card_tells_where_the_weights_come_from(run: Path, tmp_path: Path) -> None:
    written = export_weights(run, tmp_path / "out.pt", "official")
    card = (tmp_path / "out.pt.md").read_text(encoding="utf-8")
    described = json.loads((run / "run.json").read_bytes())
    manifest = Path(described["store"]["path"]) / MANIFEST
    checkpoint = torch.load(run / "best.pt", weights_only=True)
    baselines, of = described["baselines"], described["baselines"]["by_degradation"]
    told = json.loads((run / "losses.jsonl").read_text().splitlines()[checkpoint["epoch"]])
    assert told["by_degradation"]
    for fact in (
        "store: `lungs.zarr` (genesis-cubes)",
        f"`{sha256_of(manifest.read_bytes())}`",
        f"sha256: `{sha256_of((tmp_path / 'out.pt').read_bytes())}`",
        "cubes of 16 x 16 x 16 voxels",
        "scans: 2, of 0.7 x 0.7 x 1.5 mm",
        "- name: genesis",
        "- shuffle rate: 0.5",
        "- flip axes: x, y, z",
        "- seed: 7",
        "- lr: 0.5",
        f"width 2, {written.weights:,} parameters",
        f"the best epoch, {checkpoint['epoch']}",
        f"| all | {checkpoint['best_loss']:.6f} | {baselines['copy']:.6f} | {baselines['mean_image']:.6f} |",
        *(
            f"| {name} | {loss:.6f} | {of[name]['copy']:.6f} | {of[name]['mean_image']:.6f} |"
            for name, loss in told["by_degradation"].items()
        ),
    ):
        assert fact in card, fact


@pytest.mark.parametrize("kind", ["official", "state-dict"])
def test_no_path_of_the_machine_leaves_it(run: Path, tmp_path: Path, kind: str) -> None:
    export_weights(run, tmp_path / "out.pt", kind)
    for path in (tmp_path / "out.pt", tmp_path / "out.pt.md"):
        assert b"private-place" not in path.read_bytes()
        assert str(tmp_path).encode() not in path.read_bytes()
    assert b"private-place" in (run / "run.json").read_bytes()  # where it would come from


def test_the_card_says_of_licence_and_patent_what_the_notice_says(run: Path, tmp_path: Path) -> None:
    export_weights(run, tmp_path / "out.pt", "state-dict")
    card = " ".join((tmp_path / "out.pt.md").read_text(encoding="utf-8").split())
    notice = " ".join((ROOT / "NOTICE").read_text(encoding="utf-8").split())
    sentence = notice[notice.index("The authors' own program") :]
    assert sentence.endswith("grants no right under that patent.")
    assert sentence in card


@pytest.mark.full
def test_the_code_in_the_card_runs_beside_the_weights(run: Path, tmp_path: Path) -> None:
    export_weights(run, tmp_path / "out.pt", "official")
    code = re.findall(r"```python\n(.*?)```", (tmp_path / "out.pt.md").read_text(), re.DOTALL)
    assert len(code) == 1
    assert len(code[0].splitlines()) <= 5
    call = [sys.executable, "-W", "error", "-c", f"{code[0]}\nprint(encoder.output_channels)"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, encoding="utf-8", check=True)
    assert done.stdout == "[4, 8, 16, 32]\n"


# ------------------------------------------------------------------------------------- nnU-Net's networks

#: EXCHANGE.md, the page on the checkpoint of nnssl: every key, and what kind of value it has.
TEXT, WHOLE, REAL, MAPPING = str, int, float, dict
CHECKPOINT = {
    "network_weights": MAPPING,
    "optimizer_state": MAPPING,
    "grad_scaler_state": (MAPPING, type(None)),
    "logging": MAPPING,
    "_best_ema": REAL,
    "current_epoch": WHOLE,
    "init_args": MAPPING,
    "trainer_name": TEXT,
    "nnssl_adaptation_plan": MAPPING,
    "citations": list,
}
ADAPTATION = {
    "architecture_plans": MAPPING,
    "pretrain_plan": MAPPING,
    "pretrain_num_input_channels": WHOLE,
    "recommended_downstream_patchsize": list,
    "key_to_encoder": TEXT,
    "key_to_stem": TEXT,
    "keys_to_in_proj": tuple,
    "key_to_lpe": type(None),
}
ARCHITECTURE = {"arch_class_name": TEXT, "arch_kwargs": MAPPING, "arch_kwargs_requiring_import": list}
PRETRAIN = {
    "dataset_name": TEXT,
    "plans_name": TEXT,
    "original_median_spacing_after_transp": list,
    "image_reader_writer": TEXT,
    "transpose_forward": list,
    "transpose_backward": list,
    "experiment_planner_used": TEXT,
    "configurations": MAPPING,
}
CONFIGURATION = {
    "data_identifier": TEXT,
    "preprocessor_name": TEXT,
    "spacing_style": TEXT,
    "normalization_schemes": list,
    "use_mask_for_norm": list,
    "resampling_fn_data": TEXT,
    "resampling_fn_data_kwargs": MAPPING,
    "resampling_fn_mask": TEXT,
    "resampling_fn_mask_kwargs": MAPPING,
    "spacing": list,
    "patch_size": list,
}


def check_page(found: Any, page: dict[str, Any]) -> None:
    assert set(found) == set(page)
    for key, kind in page.items():
        assert isinstance(found[key], kind), key


def build_from_plan(plan: dict[str, Any]) -> nn.Module:
    """The network as a reader of the plan builds it, with the package alone."""
    unet = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    arguments = dict(plan["architecture_plans"]["arch_kwargs"])
    for name in plan["architecture_plans"]["arch_kwargs_requiring_import"]:
        arguments[name] = resolve_name(arguments[name]) if arguments[name] else None
    network: nn.Module = getattr(unet, plan["architecture_plans"]["arch_class_name"])(
        input_channels=plan["pretrain_num_input_channels"],
        num_classes=1,
        deep_supervision=False,
        **arguments,
    )
    return network


@pytest.fixture(params=NNUNET)
def nnunet_run(run: Path, request: pytest.FixtureRequest) -> tuple[Path, str, nn.Module]:
    """A run whose best network is one of nnU-Net's, two channels wide."""
    pytest.importorskip("dynamic_network_architectures")
    torch.manual_seed(0)
    network = build_network(request.param, 2)
    put_weights(run, network)
    describe(run, store={"spacing_mm": [0.7, 0.8, 2.5]}, size=[64, 32, 32])
    return run, request.param, network


def test_the_nnssl_checkpoint_is_as_the_page_says(
    nnunet_run: tuple[Path, str, nn.Module], tmp_path: Path
) -> None:
    run, name, network = nnunet_run
    export_weights(run, tmp_path / "out.pth", "nnssl")
    content = torch.load(tmp_path / "out.pth", weights_only=True)
    check_page(content, CHECKPOINT)
    assert all(isinstance(tensor, torch.Tensor) for tensor in content["network_weights"].values())
    assert list(content["network_weights"]) == list(network.state_dict())
    assert content["current_epoch"] == 1
    assert [len(values) for values in content["logging"].values()] == [1, 1, 1]

    plan = content["nnssl_adaptation_plan"]
    check_page(plan, ADAPTATION)
    check_page(plan["architecture_plans"], ARCHITECTURE)
    check_page(plan["pretrain_plan"], PRETRAIN)
    (configuration,) = plan["pretrain_plan"]["configurations"].values()
    check_page(configuration, CONFIGURATION)
    # nnU-Net's arrays are z, y, x.
    assert configuration["patch_size"] == plan["recommended_downstream_patchsize"] == [32, 32, 64]
    assert configuration["spacing"] == [2.5, 0.8, 0.7]
    assert plan["pretrain_plan"]["original_median_spacing_after_transp"] == [2.5, 0.8, 0.7]
    assert plan["pretrain_plan"]["transpose_forward"] == [0, 1, 2]
    assert plan["pretrain_plan"]["dataset_name"] == "lungs.zarr"
    if name == "resenc-l":
        assert (plan["key_to_encoder"], plan["key_to_stem"]) == ("encoder.stages", "encoder.stem")
        projections = ("encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0")
        assert plan["keys_to_in_proj"] == projections
    for key in plan["keys_to_in_proj"]:
        assert tuple(content["network_weights"][f"{key}.weight"].shape) == (2, 1, 3, 3, 3)
    assert any(key.startswith(f"{plan['key_to_encoder']}.") for key in content["network_weights"])
    for path in (tmp_path / "out.pth", tmp_path / "out.pth.md"):
        assert b"private-place" not in path.read_bytes()


def test_the_package_loads_the_nnssl_weights_and_computes_the_same_on_turned_axes(
    nnunet_run: tuple[Path, str, nn.Module], tmp_path: Path
) -> None:
    run, _, network = nnunet_run
    export_weights(run, tmp_path / "out.pth", "nnssl")
    content = torch.load(tmp_path / "out.pth", weights_only=True)
    theirs = build_from_plan(content["nnssl_adaptation_plan"])
    theirs.load_state_dict(content["network_weights"], strict=True)
    cubes = torch.rand(1, 1, 64, 32, 32, dtype=torch.float64)

    def turned(voxels: torch.Tensor) -> torch.Tensor:
        return voxels.permute(0, 1, 4, 3, 2)

    with torch.no_grad():
        restored = network.double()(cubes)
        torch.testing.assert_close(turned(torch.sigmoid(theirs.double()(turned(cubes)))), restored)
        assert not torch.allclose(torch.sigmoid(theirs(cubes)), restored)  # it matters
    momentum = [state["momentum_buffer"] for state in content["optimizer_state"]["state"].values()]
    shapes = [tuple(weights.shape) for weights in theirs.parameters()]
    assert [tuple(tensor.shape) for tensor in momentum] == shapes


@pytest.mark.full
@pytest.mark.parametrize("name", NNUNET)
def test_the_command_trains_nnunets_networks_and_exports_them(tmp_path: Path, name: str) -> None:
    pytest.importorskip("dynamic_network_architectures")
    for number in range(2):
        write_scan(tmp_path / "scans" / f"{number}.mha", lungs(number, (72, 40, 40)))
    cuts = replace(SMALL, cubes_per_scan=2, size=(64, 32, 32))
    extract_cubes(tmp_path / "scans", tmp_path / "large.zarr", cuts, workers=1)
    run, out = tmp_path / "run", tmp_path / "out.pth"
    call = ["pretrain", str(tmp_path / "large.zarr"), "--out", str(run), "--network", name]
    result = CliRunner().invoke(main, [*call, "--width", "2", "--epochs", "1", "--lr", "0.1"])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(main, ["export", str(run), str(out), "--format", "nnssl"])
    assert result.exit_code == 0, result.output
    content = torch.load(out, weights_only=True)
    build_from_plan(content["nnssl_adaptation_plan"]).load_state_dict(content["network_weights"])
    assert content["init_args"]["network"] == name


@pytest.mark.full
def test_the_code_in_the_nnssl_card_runs(nnunet_run: tuple[Path, str, nn.Module], tmp_path: Path) -> None:
    run, _, network = nnunet_run
    export_weights(run, tmp_path / "out.pth", "nnssl")
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "out.pth.md").read_text(), re.DOTALL)
    call = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, encoding="utf-8", check=True)
    assert str(len(network.state_dict())) in done.stdout


def test_nnunets_networks_come_back_from_a_state_dict_but_not_in_the_official_format(
    nnunet_run: tuple[Path, str, nn.Module], tmp_path: Path
) -> None:
    run, name, network = nnunet_run
    with pytest.raises(CallError, match=f"holds the 3D U-Net only, and this run trained {name}"):
        export_weights(run, tmp_path / "out.pt", "official")
    written = export_weights(run, tmp_path / "out.pt", "state-dict")
    assert (written.network, written.width) == (name, 2)
    for path in (run, tmp_path / "out.pt"):
        assert same_bits(dict(load_network(path).state_dict()), dict(network.state_dict()))
    cubes = torch.rand(1, 1, 64, 32, 32)
    encoder = load_encoder(run)
    levels = encoder(cubes)
    assert [level.shape[1] for level in levels] == encoder.output_channels == [2, 4, 8, 16, 20, 20]
    assert [level.shape[2] for level in levels] == [64, 32, 16, 8, 4, 2]
    theirs = network.get_submodule("encoder")(cubes)
    assert all(torch.equal(ours, other) for ours, other in zip(levels, theirs, strict=True))


def test_a_run_that_does_not_know_its_spacing_is_refused(
    nnunet_run: tuple[Path, str, nn.Module], tmp_path: Path
) -> None:
    run, _, _ = nnunet_run
    described = json.loads((run / "run.json").read_bytes())
    del described["store"]["spacing_mm"], described["store"]["manifest"]
    (run / "run.json").write_text(json.dumps(described))
    with pytest.raises(CallError, match="does not know the spacing"):
        export_weights(run, tmp_path / "out.pth", "nnssl")
    export_weights(run, tmp_path / "out.pt", "state-dict")


def test_every_format_of_the_library_is_offered() -> None:
    options = {option.name: option for option in main.commands["export"].params}
    assert tuple(options["kind"].type.choices) == FORMATS  # type: ignore[attr-defined]
