"""Weights on their way to others and back: no bit changed, nothing foreign believed, nothing half written."""

import json
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from support.folders import ROOT
from support.target_stores import make_target_store
from support.trained_runs import best_weights, put_weights, same_bits
from torch import nn

from genesis_toolkit.cli.train import main
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import MANIFEST, sha256_of
from genesis_toolkit.training.finetune.loop import finetune
from genesis_toolkit.training.finetune.parameters import FinetuneParameters
from genesis_toolkit.training.finetune.run import read_finetuned
from genesis_toolkit.training.networks.registry import build_network
from genesis_toolkit.training.networks.unet3d import UNet3D
from genesis_toolkit.training.weights.export import FORMATS, PARTS, export_weights
from genesis_toolkit.training.weights.load import load_encoder, load_network, read_weights

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


@pytest.mark.parametrize("kind", ["official", "state-dict", "safetensors"])
def test_a_round_trip_changes_no_bit(run: Path, tmp_path: Path, kind: str) -> None:
    export_weights(run, tmp_path / "out.pt", kind)
    expected = best_weights(run)
    for path in (run, run / "best.pt", tmp_path / "out.pt"):
        assert same_bits(dict(load_network(path).state_dict()), expected), path
    if kind == "safetensors":
        content = safetensors.torch.load_file(tmp_path / "out.pt")
        assert same_bits({key: content[key] for key in expected}, expected)
        assert len(content) == len(expected)
        return
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


@pytest.mark.parametrize(
    "before", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "_orig_mod.model."]
)
def test_what_wrappers_put_before_the_names_is_taken_away(tmp_path: Path, before: str) -> None:
    weights = UNet3D(2).state_dict()
    torch.save({"state_dict": {before + key: weights[key] for key in weights}}, tmp_path / "wrapped.pt")
    assert same_bits(dict(load_network(tmp_path / "wrapped.pt").state_dict()), dict(weights))


def test_a_network_that_torch_wrapped_is_read(tmp_path: Path) -> None:
    network = UNet3D(2)
    wrapped = torch.compile(nn.DataParallel(network), backend="eager")
    torch.save(wrapped.state_dict(), tmp_path / "wrapped.pt")
    assert next(iter(torch.load(tmp_path / "wrapped.pt"))).startswith("_orig_mod.module.")
    assert same_bits(dict(load_network(tmp_path / "wrapped.pt").state_dict()), dict(network.state_dict()))


def test_two_networks_in_one_file_are_refused(tmp_path: Path) -> None:
    weights = UNet3D(2).state_dict()
    both = {before + key: weights[key] for before in ("model.", "module.") for key in weights}
    torch.save(both, tmp_path / "both.pt")
    with pytest.raises(DataError, match=r"model\.down_tr64\S+ and module\.down_tr64\S+ have the same name"):
        load_network(tmp_path / "both.pt")


@pytest.mark.parametrize("network", ["unet3d", "unet2d"])
@pytest.mark.parametrize("kind", ["state-dict", "safetensors"])
def test_the_encoder_goes_out_alone_and_comes_back(
    run: Path, tmp_path: Path, network: str, kind: str
) -> None:
    whole = build_network(network, 2)
    put_weights(run, whole)
    written = export_weights(run, tmp_path / "encoder", kind, part="encoder")
    encoder = load_encoder(tmp_path / "encoder")
    assert (written.part, written.task) == ("encoder", None)
    assert written.weights == sum(weights.numel() for weights in encoder.parameters())
    assert same_bits(dict(encoder.state_dict()), dict(load_encoder(run).state_dict()))
    cubes = torch.rand(2, 1, *(16, 16, 16) if network == "unet3d" else (64, 64))
    for ours, theirs in zip(encoder(cubes), load_encoder(run)(cubes), strict=True):
        assert torch.equal(ours, theirs)
    assert "The encoder of a" in (tmp_path / "encoder.md").read_text()
    with pytest.raises(DataError, match=r"has no \S+, which the network needs|weights of an unknown network"):
        load_network(tmp_path / "encoder")


@pytest.fixture(scope="module")
def tuned(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run that classifies, from the pre-trained weights, and one that segments, from scratch."""
    folder = tmp_path_factory.mktemp("tuned")
    runs = {}
    for task, more in (("ncc", {"weights": trained}), ("segment", {"network": "unet3d", "width": 2})):
        make_target_store(folder / f"{task}.zarr", task)
        probe = task == "ncc"
        parameters = FinetuneParameters(epochs=None if probe else 1, batch_size=6, freeze_encoder=probe)
        finetune(folder / f"{task}.zarr", folder / task, parameters, device="cpu", threads=1, **more)
        runs[task] = folder / task
    return runs


@pytest.mark.parametrize("kind", ["state-dict", "safetensors"])
@pytest.mark.parametrize("task", ["ncc", "segment"])
def test_a_fine_tuned_network_goes_out_whole_and_its_encoder(
    tuned: dict[str, Path], tmp_path: Path, task: str, kind: str
) -> None:
    run = tuned[task]
    written = export_weights(run, tmp_path / "whole", kind)
    result = json.loads((run / "result.json").read_bytes())
    assert (written.task, written.part, written.epoch) == (task, "network", 1)
    assert written.weights == result["weights"]
    assert written.validation_loss == result["validation_loss"]
    expected = best_weights(run)
    read = read_weights(tmp_path / "whole")
    assert same_bits({key: read[key] for key in expected}, expected)
    network = read_finetuned(run).network

    card = (tmp_path / "whole.md").read_text(encoding="utf-8")
    assert f"fine-tuned for the task `{task}`" in card
    assert "fine-tuned, not pre-trained, weights" in card
    assert f"{result['metric'].replace('_', ' ')} | {result['score']:.4f}" in card
    begun = "- initial weights of the network: `best.pt`" if task == "ncc" else "- trained from scratch"
    assert begun in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("whole", str(tmp_path / "whole")), names)
    cubes = torch.rand(2, 1, 16, 16, 16)
    assert torch.equal(names["network"](cubes), network(cubes))

    export_weights(run, tmp_path / "encoder", kind, part="encoder")
    encoder = load_encoder(tmp_path / "encoder")
    # The tensors, for a frozen encoder goes by other statistics within its network.
    assert same_bits(dict(encoder.state_dict()), dict(network.encoder().state_dict()))


def test_what_a_fine_tuned_run_cannot_give_is_refused(tuned: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(
        CallError, match=r"official is for pre-trained networks, but .*ncc holds a fine-tuned"
    ):
        export_weights(tuned["ncc"], tmp_path / "out.pt", "official")
    run = Path(shutil.copytree(tuned["ncc"], tmp_path / "run"))
    (run / "result.json").write_text("[]")
    with pytest.raises(DataError, match=r"result\.json is damaged"):
        export_weights(run, tmp_path / "out.pt", "state-dict")
    (run / "result.json").unlink()
    with pytest.raises(CallError, match="run is not finished: repeat the command"):
        export_weights(run, tmp_path / "out.pt", "state-dict")
    assert not (tmp_path / "out.pt").exists()


def test_weights_of_a_training_that_broke_down_are_not_handed_on(run: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(run / "best.pt", weights_only=True)
    checkpoint["state_dict"]["up_tr128.ops.0.conv1.bias"][1] = torch.nan
    checkpoint["state_dict"]["out_tr.final_conv.bias"][0] = torch.inf
    torch.save(checkpoint, run / "best.pt")
    for call in (
        load_network,
        load_encoder,
        lambda path: export_weights(path, tmp_path / "o.pt", "official"),
    ):
        with pytest.raises(
            DataError, match=r"best\.pt has NaN or infinity in up_tr128\.ops\.0\.conv1\.bias "
        ):
            call(run)
    assert not (tmp_path / "o.pt").exists()


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
        ({"out_tr__extra": torch.zeros(1)}, r"has out_tr\.extra, which the network does not have"),
        ({"down_tr64__ops__0__conv1__weight": None}, r"weights of an unknown network: .*down_tr64\.ops\.0"),
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
    for name, words in (
        ("zip.pt", r"holds objects of builtins\.getattr, pathlib\.Path, pathlib\.PosixPath besides"),
        ("old.pt", "holds objects of getattr besides"),
        ("plain.pt", "is cut short, damaged, or not a checkpoint of plain"),
    ):
        with pytest.raises(DataError, match=rf"{name} {words}"):
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
    with pytest.raises(DataError, match="weights of an unknown network"):
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


def test_a_fine_tuned_network_is_not_to_be_fine_tuned(tuned: dict[str, Path], tmp_path: Path) -> None:
    call = ["export", str(tuned["ncc"]), str(tmp_path / "out.pt"), "--format", "state-dict"]
    result = CliRunner().invoke(main, call)
    assert result.stderr == f"{tmp_path / 'out.pt.md'} describes how to load them.\n"


def test_the_command_writes_weights_and_card_and_says_so(run: Path, tmp_path: Path) -> None:
    call = ["export", str(run), str(tmp_path / "out.pt"), "--format", "official"]
    result = CliRunner().invoke(main, call)
    assert result.exit_code == 0, result.output
    assert "unet3d, width 2" in result.stdout
    assert f"{tmp_path / 'out.pt.md'} describes how to load them." in result.stderr
    assert result.stderr.endswith("Next: genesis-prep extract-targets --help\n")
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
        (run, "mine.pt", "official", "mine.pt exists: choose another name, or use --overwrite"),
        (run, "noted.pt", "official", "noted.pt.md exists"),
        (run, "foreign", "official", "foreign is a folder"),
        (run, "run/out.pt", "official", "is inside the run"),
        (run, "lungs.zarr/out.pt", "official", "is inside the store"),
        (run, "out.pt", "nnssl", "nnU-Net has no 3D U-Net of Models Genesis"),
        (run, "out.pt", "onnx", "'official', 'nnssl', 'state-dict', 'safetensors'"),
        (
            run,
            "out.pt",
            "official --part encoder",
            "holds whole networks, so it does not allow --part encoder",
        ),
        (run, "out.pt", "official --folder", "--folder needs --format nnssl"),
        (run, "mine.pt", "nnssl --folder", "mine.pt is a file, but --folder writes a folder"),
        (tmp_path / "nothing", "out.pt", "official", "There is no run in"),
        (
            tmp_path / "mine.pt",
            "out.pt",
            "official",
            "not a run of genesis-train pretrain that this version",
        ),
        (
            tmp_path / "foreign",
            "out.pt",
            "official",
            "not a run of genesis-train pretrain that this version",
        ),
        (tmp_path / "begun", "out.pt", "official", "no epoch has finished yet"),
    ):
        result = CliRunner().invoke(
            main, ["export", str(source), str(tmp_path / out), "--format", *kind.split()]
        )
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


@pytest.mark.parametrize(
    ("kind", "part"), [("official", "network"), ("safetensors", "network"), ("state-dict", "encoder")]
)
def test_hubs_read_the_head_of_the_card(run: Path, tmp_path: Path, kind: str, part: str) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="the library of a hub reads the head of the card")
    export_weights(run, tmp_path / "out", kind, part=part)
    head = hub.ModelCard.load(tmp_path / "out.md").data
    assert head.license == "unknown"
    assert head.library_name == "genesis-toolkit"
    assert head.datasets == ["lungs.zarr"]
    assert head.tags[:4] == ["models-genesis", "self-supervised-learning", "medical", "3d"]
    assert ("pytorch" in head.tags) == (kind != "safetensors")


@pytest.mark.parametrize("kind", ["official", "state-dict", "safetensors"])
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


def test_every_format_and_part_of_the_library_is_offered() -> None:
    options = {option.name: option for option in main.commands["export"].params}
    assert tuple(options["kind"].type.choices) == FORMATS  # type: ignore[attr-defined]
    assert tuple(options["part"].type.choices) == PARTS  # type: ignore[attr-defined]
