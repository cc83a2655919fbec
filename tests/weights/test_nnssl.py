"""Weights for nnU-Net: as the page on its checkpoint says, and as its own functions take them."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from support.scans import SMALL, lungs, write_scan
from support.trained_runs import describe, put_weights, same_bits
from torch import nn

from genesis_toolkit.cli.train import main
from genesis_toolkit.pipeline.cubes.extract import extract_cubes
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.training.networks.registry import build_network
from genesis_toolkit.training.weights.export import export_weights
from genesis_toolkit.training.weights.load import load_encoder, load_network

NNUNET = ("resenc-l", "plainconv")

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
    with pytest.raises(CallError, match=f"holds the 3D U-Net only, but this run trained {name}"):
        export_weights(run, tmp_path / "out.pt", "official")
    written = export_weights(run, tmp_path / "out.pt", "state-dict")
    assert (written.network, written.width) == (name, 2)
    export_weights(run, tmp_path / "out.safetensors", "safetensors")
    for path in (run, tmp_path / "out.pt", tmp_path / "out.safetensors"):
        assert same_bits(dict(load_network(path).state_dict()), dict(network.state_dict()))
    assert (tmp_path / "out.safetensors").stat().st_size < 0.6 * (run / "best.pt").stat().st_size
    cubes = torch.rand(1, 1, 64, 32, 32)
    encoder = load_encoder(run)
    levels = encoder(cubes)
    assert [level.shape[1] for level in levels] == encoder.output_channels == [2, 4, 8, 16, 20, 20]
    assert [level.shape[2] for level in levels] == [64, 32, 16, 8, 4, 2]
    theirs = network.get_submodule("encoder")(cubes)
    assert all(torch.equal(ours, other) for ours, other in zip(levels, theirs, strict=True))
    export_weights(run, tmp_path / "encoder", "safetensors", part="encoder")
    alone = load_encoder(tmp_path / "encoder")
    assert same_bits(dict(alone.state_dict()), dict(network.get_submodule("encoder").state_dict()))


def test_a_run_that_does_not_know_its_spacing_is_refused(
    nnunet_run: tuple[Path, str, nn.Module], tmp_path: Path
) -> None:
    run, _, _ = nnunet_run
    described = json.loads((run / "run.json").read_bytes())
    del described["store"]["spacing_mm"], described["store"]["manifest"]
    (run / "run.json").write_text(json.dumps(described))
    with pytest.raises(CallError, match="does not record the spacing"):
        export_weights(run, tmp_path / "out.pth", "nnssl")
    export_weights(run, tmp_path / "out.pt", "state-dict")


# ------------------------------------------------------------------------------------- nnU-Net as the judge

#: Tensors of its networks, counted in its own code: of the encoder, and of the decoder without the layers
#: that make the segmentation, which nnU-Net leaves as they begin.
TAKEN = {"resenc-l": (448, 50), "plainconv": (96, 90)}


def test_the_folder_holds_plan_weights_configuration_and_card(
    nnunet_run: tuple[Path, str, nn.Module], tmp_path: Path
) -> None:
    run, name, _ = nnunet_run
    call = ["export", str(run), str(tmp_path / "out"), "--format", "nnssl", "--folder"]
    result = CliRunner().invoke(main, call)
    assert result.exit_code == 0, result.output
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"checkpoint_final.pth", "adaptation_plan.json", "config.json", "README.md"}
    content = torch.load(tmp_path / "out" / "checkpoint_final.pth", weights_only=True)
    plan = json.loads((tmp_path / "out" / "adaptation_plan.json").read_bytes())
    architecture = plan.pop("architecture_kwargs")
    assert plan == json.loads(json.dumps(content["nnssl_adaptation_plan"]))
    config = json.loads((tmp_path / "out" / "config.json").read_bytes())
    assert (config["network"], config["width"], config["input_channels"]) == (name, 2, 1)
    assert config["nnunet_configuration"]["architecture"] == architecture
    assert config["nnunet_configuration"]["patch_size"] == [32, 32, 64]
    kind = resolve_name(architecture["network_class_name"])
    arguments = architecture["arch_kwargs"]
    for each in architecture["_kw_requires_import"]:
        arguments[each] = arguments[each] and resolve_name(arguments[each])
    theirs = kind(input_channels=1, num_classes=1, deep_supervision=True, **arguments)
    theirs.load_state_dict(content["network_weights"], strict=True)

    assert "checkpoint_final.pth exists" in CliRunner().invoke(main, call).stderr
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert CliRunner().invoke(main, [*call, "--overwrite"]).exit_code == 0
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    for path in (tmp_path / "out").iterdir():
        assert b"private-place" not in path.read_bytes()


def test_the_card_has_both_roads_into_nnunet(nnunet_run: tuple[Path, str, nn.Module], tmp_path: Path) -> None:
    run, name, _ = nnunet_run
    export_weights(run, tmp_path / "out.pth", "nnssl")
    card = (tmp_path / "out.pth.md").read_text(encoding="utf-8")
    encoder, decoder = TAKEN[name]
    assert f"takes {encoder} tensors of the encoder and {decoder} of the decoder" in card
    plans, planner = {
        "resenc-l": ("nnUNetResEncUNetLPlans", "nnUNetPlannerResEncL"),
        "plainconv": ("nnUNetPlans", "ExperimentPlanner"),
    }[name]
    for command in (
        f"nnUNetv2_plan_and_preprocess -d DATASET -c 3d_fullres -pl {planner}\n",
        f"nnUNetv2_train DATASET 3d_fullres 0 -p {plans} -pretrained_weights out.pth\n",
        f"nnUNetv2_preprocess_like_nnssl -d DATASET -n genesis -pc out.pth -pl {plans}\n",
        f"nnUNetv2_train_pretrained DATASET 3d_fullres 0 -p {plans}\n",
    ):
        assert command in card
    assert ("One input channel is possible here, too." in card) == (name == "plainconv")


def test_nnunets_own_function_takes_encoder_and_decoder(
    nnunet_run: tuple[Path, str, nn.Module], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = "nnU-Net is not installed (pip install nnunetv2), so it cannot judge"
    loading = pytest.importorskip("nnunetv2.run.load_pretrained_weights", reason=reason)
    building = pytest.importorskip("nnunetv2.utilities.get_network_from_plans", reason=reason)
    run, name, _ = nnunet_run
    export_weights(run, tmp_path / "out", "nnssl", as_folder=True)
    file = tmp_path / "out" / "checkpoint_final.pth"
    config = json.loads((tmp_path / "out" / "config.json").read_bytes())
    architecture = config["nnunet_configuration"]["architecture"]
    torch.manual_seed(1)
    network = building.get_network_from_plans(*architecture.values(), 1, 3, deep_supervision=True)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    loading.load_pretrained_weights(network, str(file), verbose=True)
    assert "Loading pretrained weights" in capsys.readouterr().out
    ours, after = torch.load(file, weights_only=True)["network_weights"], network.state_dict()
    heads = [key for key in after if ".seg_layers." in key]
    encoder = [key for key in after if key.startswith("encoder.")]
    decoder = [key for key in after if key.startswith("decoder.") and not key.startswith("decoder.encoder.")]
    assert (len(encoder), len(set(decoder) - set(heads))) == TAKEN[name]
    assert all(torch.equal(after[key], ours[key]) for key in after if key not in heads)
    assert all(torch.equal(after[key], before[key]) for key in heads)
