"""Checkpoints: whole or not at all, back to the bit, and refused with a sentence where they do not fit."""

import copy
import math
import re
import sys
import zipfile
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.amp import GradScaler

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import write_whole
from genesis_toolkit.training.pretrain.call import new_state
from genesis_toolkit.training.pretrain.loop import pack
from genesis_toolkit.training.pretrain.parameters import PretrainParameters, learning_rate
from genesis_toolkit.training.weights.files import (
    PRETRAINED,
    TrainingState,
    load_weights,
    read_checkpoint,
    read_plain,
    safetensors_bytes,
)

PARAMETERS = PretrainParameters(width=2, lr=0.5, lr_step=2, seed=3)


def step(state: TrainingState) -> float:
    cubes = torch.rand(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(state.epoch))
    state.set_learning_rate(learning_rate(PARAMETERS, state.epoch, 1))
    loss = (state.model(cubes) - cubes).square().mean()
    state.optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    state.optimiser.step()
    state.finish_step(loss.item(), 2)
    state.finish_epoch(loss.item())
    return loss.item()


def trained(epochs: int) -> TrainingState:
    state = new_state(PARAMETERS, torch.device("cpu"))
    for _ in range(epochs):
        step(state)
    return state


def test_a_state_goes_on_from_its_checkpoint_to_the_bit(tmp_path: Path) -> None:
    state = trained(3)
    write_whole(tmp_path / "last.pt", pack(state, PARAMETERS))
    ahead = [step(state) for _ in range(3)]

    again = new_state(PretrainParameters(width=2, seed=99), torch.device("cpu"))
    again.restore(read_checkpoint(tmp_path / "last.pt"), tmp_path / "last.pt")
    assert again.epoch == 3
    assert again.optimiser.param_groups[0]["lr"] == 0.25
    assert [step(again) for _ in range(3)] == ahead
    for ours, theirs in zip(
        again.model.state_dict().values(), state.model.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_the_file_is_plain_tensors_and_numbers(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    write_whole(path, pack(trained(1), PARAMETERS))
    assert [each.name for each in tmp_path.iterdir()] == ["last.pt"]
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["parameters"] == PARAMETERS.as_dict()
    assert checkpoint["epoch"] == 1
    assert "down_tr64.ops.0.conv1.weight" in checkpoint["state_dict"]


def test_the_best_loss_and_the_epochs_since_are_counted() -> None:
    state = new_state(PARAMETERS, torch.device("cpu"))
    assert (state.best_epoch, state.best_loss, state.stale) == (0, math.inf, 0)
    step(state)
    best = state.best_loss
    assert [state.finish_epoch(loss) for loss in (best, best / 2, best)] == [False, True, False]
    assert (state.epoch, state.best_epoch, state.best_loss, state.stale) == (4, 3, best / 2, 1)


def test_the_moving_average_follows_every_step() -> None:
    state = new_state(replace(PARAMETERS, ema=0.75), torch.device("cpu"))
    assert state.ema is not None
    expected = {key: value.clone() for key, value in state.model.state_dict().items()}
    for _ in range(3):
        step(state)
        for key, value in state.model.state_dict().items():
            whole = not value.is_floating_point()
            expected[key] = value.clone() if whole else 0.75 * expected[key] + 0.25 * value
    best = state.content({}, best=True)["state_dict"]
    for key, value in state.ema.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-7)
        assert torch.equal(best[key], value)


class Shared(nn.Module):
    """One layer under two names, as nnU-Net's decoders hold their encoder once more."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 2)
        self.decoder = nn.ModuleDict({"encoder": self.encoder, "head": nn.BatchNorm1d(2)})


def test_the_moving_average_takes_a_shared_tensor_once(tmp_path: Path) -> None:
    def shared() -> TrainingState:
        model = Shared()
        optimiser = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
        return TrainingState(model, optimiser, GradScaler("cpu", enabled=False), copy.deepcopy(model), 0.75)

    state = shared()
    assert state.ema is not None
    before = {key: value.clone() for key, value in state.model.state_dict().items()}
    assert before.keys() >= {"encoder.weight", "decoder.encoder.weight"}
    with torch.no_grad():
        for tensor in [*state.model.parameters(), *state.model.buffers()]:
            tensor.add_(1)
    state.finish_step(0.5, 2)
    for key, value in state.ema.state_dict().items():
        moved = 0.25 if value.is_floating_point() else 1
        torch.testing.assert_close(value, before[key] + moved)
    again = shared()
    (tmp_path / "last.pt").write_bytes(pack(state, PARAMETERS))
    again.restore(read_checkpoint(tmp_path / "last.pt"), tmp_path / "last.pt")
    assert again.ema is not None
    for ours, theirs in ((again.model, state.model), (again.ema, state.ema)):
        for key, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[key], value), key


def test_first_weights_depend_on_the_seed_and_leave_torchs_generator_alone() -> None:
    def first(seed: int) -> torch.Tensor:
        state = new_state(PretrainParameters(width=2, seed=seed), torch.device("cpu"))
        return state.model.down_tr64.ops[0].conv1.weight  # type: ignore[union-attr, return-value]

    before = torch.random.get_rng_state()
    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_failed_write_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    write_whole(path, pack(trained(1), PARAMETERS))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, pack(trained(2), PARAMETERS))
    assert [each.name for each in tmp_path.iterdir()] == ["last.pt"]
    assert read_checkpoint(path)["epoch"] == 1


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_checkpoint_cut_short_is_named(tmp_path: Path, share: float) -> None:
    data = pack(trained(1), PARAMETERS)
    path = tmp_path / "last.pt"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataError, match=r"last\.pt is cut short"):
        read_checkpoint(path)


def test_a_flipped_bit_of_a_weight_is_seen(tmp_path: Path) -> None:
    """torch writes checksums and does not look at them: unseen, it would be trained on."""
    path = tmp_path / "last.pt"
    path.write_bytes(pack(trained(1), PARAMETERS))
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    data = bytearray(path.read_bytes())
    header = data[largest.header_offset : largest.header_offset + 30]
    begin = largest.header_offset + 30 + sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    data[begin + largest.file_size // 2] ^= 0x40
    path.write_bytes(data)
    torch.load(path, weights_only=True)
    with pytest.raises(DataError, match=r"last\.pt is cut short, damaged"):
        read_checkpoint(path)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    with pytest.raises(DataError, match="No such file"):
        read_checkpoint(path)
    path.write_text("hello")
    with pytest.raises(DataError, match="not a checkpoint"):
        read_checkpoint(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(DataError, match="not a checkpoint of genesis-train"):
        read_checkpoint(path)
    torch.save({"format": PRETRAINED.format, "version": 3}, path)
    with pytest.raises(DataError, match="version 3, but this program reads version 2"):
        read_checkpoint(path)


class Settings:
    """What other programs save beside their weights."""


@pytest.mark.parametrize("new", [True, False])
def test_foreign_objects_are_refused_by_their_classes(tmp_path: Path, new: bool) -> None:
    content = {"state_dict": nn.Linear(2, 1).state_dict(), "config": Namespace(lr=0.1), "own": Settings()}
    torch.save(content, tmp_path / "other.ckpt", _use_new_zipfile_serialization=new)
    named = rf"argparse\.Namespace, {re.escape(__name__)}\.Settings besides" if new else "argparse.Namespace"
    with pytest.raises(DataError, match=rf"holds objects of {named}.*state_dict\(\)"):
        read_plain(tmp_path / "other.ckpt")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_numbers_that_are_none_are_refused_by_name(value: float) -> None:
    model = nn.Linear(3, 2)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    weights = {key: tensor.double() for key, tensor in before.items()}
    weights["weight"][1, 2] = weights["bias"][0] = value
    with pytest.raises(DataError, match=r"NaN or infinity in weight \(1 of its 6 values\)"):
        load_weights(model, weights, Path("odd.pt"))
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def test_safetensors_are_written_for_their_own_reader(tmp_path: Path) -> None:
    path, model = tmp_path / "out.safetensors", Shared()
    weights = model.state_dict()
    data = safetensors_bytes(weights)
    assert all(safetensors_bytes(weights) == data for _ in range(3))
    path.write_bytes(data)
    once = [key for key in weights if not key.startswith("decoder.encoder.")]
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert sorted(file.keys()) == sorted(once)
        assert all(torch.equal(file.get_tensor(key), weights[key]) for key in once)
    theirs, ours = Shared(), Shared()
    safetensors.torch.load_model(theirs, path, strict=True)
    load_weights(ours, read_plain(path), path)
    for other in (theirs, ours):
        assert all(torch.equal(weights[key], tensor) for key, tensor in other.state_dict().items())


def test_safetensors_of_others_are_read_and_torn_ones_refused(tmp_path: Path) -> None:
    path, weights = tmp_path / "theirs.safetensors", nn.Conv3d(2, 3, 3).state_dict()
    safetensors.torch.save_file({f"model.{key}": tensor for key, tensor in weights.items()}, path)
    read = read_plain(path)
    assert {key: tensor.tolist() for key, tensor in read.items()} == {
        f"model.{key}": tensor.tolist() for key, tensor in weights.items()
    }
    data = path.read_bytes()
    for share in (0.05, 0.5, 0.99):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(DataError, match=r"theirs\.safetensors is cut short"):
            read_plain(path)


def test_without_its_package_safetensors_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.safetensors"
    path.write_bytes(safetensors_bytes(nn.Linear(2, 1).state_dict()))
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for call in (lambda: read_plain(path), lambda: safetensors_bytes({})):
        with pytest.raises(CallError, match=r'need the package safetensors: .*"genesis-toolkit\[train\]"'):
            call()


def test_weights_that_do_not_fit_are_refused_by_name() -> None:
    model = new_state(PARAMETERS, torch.device("cpu")).model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    wide = new_state(PretrainParameters(width=4), torch.device("cpu")).model.state_dict()
    where = Path("run/best.pt")
    with pytest.raises(
        DataError, match=r"down_tr64\.ops\.0\.conv1\.weight of shape \(4, 1, 3, 3, 3\).* \(2, 1, 3, 3, 3\)"
    ):
        load_weights(model, wide, where)
    short = {key: value for key, value in before.items() if key != "out_tr.final_conv.bias"}
    with pytest.raises(DataError, match=r"has no out_tr\.final_conv\.bias"):
        load_weights(model, short, where)
    with pytest.raises(DataError, match=r"best\.pt has extra\.weight"):
        load_weights(model, {**before, "extra.weight": torch.zeros(1)}, where)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
