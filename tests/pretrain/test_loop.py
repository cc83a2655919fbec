"""The trainer, from outside: it learns, it goes on to the bit after a kill, and it refuses in sentences."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from support.training_runs import SMALL, assert_equal_weights, blobs, losses, make_cube_store

from genesis_toolkit.cli.train import main
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.pairs.degrade import DegradeParameters, degrade_cubes
from genesis_toolkit.training.feeding.order import validation_works
from genesis_toolkit.training.feeding.ring import Batches
from genesis_toolkit.training.machine.run_folder import Run, hold_run
from genesis_toolkit.training.pretrain.baselines import Baselines
from genesis_toolkit.training.pretrain.call import PretrainOutcome, pretrain
from genesis_toolkit.training.pretrain.data import open_data
from genesis_toolkit.training.pretrain.loop import Trainer
from genesis_toolkit.training.pretrain.parameters import Execution, PretrainParameters
from genesis_toolkit.training.pretrain.show import describe_pair
from genesis_toolkit.training.pretrain.validation import Validation, measure_baselines
from genesis_toolkit.training.weights.files import TrainingState


@pytest.fixture(scope="module")
def cubes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cube_store(tmp_path_factory.mktemp("stores") / "cubes.zarr", blobs(30, (16, 16, 16)), 5)


@pytest.fixture(scope="module")
def pairs(cubes: Path) -> Path:
    path = cubes.with_name("pairs.zarr")
    degrade_cubes(cubes, path, DegradeParameters(variants=2, seed=0))
    return path


@pytest.fixture(scope="module")
def run(pairs: Path) -> tuple[Path, PretrainOutcome, list[str]]:
    folder, said = pairs.with_name("run"), list[str]()
    return folder, pretrain(pairs, folder, SMALL, say=said.append), said


# ---------------------------------------------------------------------------------------------- a run


def test_a_small_network_learns(run: tuple[Path, PretrainOutcome, list[str]]) -> None:
    folder, outcome, said = run
    records = losses(folder)
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert [record["variant"] for record in records] == [0, 1, 0]
    assert [record["lr"] for record in records] == [0.5] * 3
    assert records[-1]["train_loss"] < records[0]["train_loss"]
    assert outcome.validation_loss == min(record["validation_loss"] for record in records)
    assert outcome.validation_loss < outcome.copy_loss
    assert outcome.status == "finished"
    assert outcome.stopped_by == "epochs"
    assert (outcome.train_cubes, outcome.validation_cubes) == (24, 6)
    assert len([line for line in said if line.startswith("epoch")]) == 3


def test_the_folder_holds_what_a_run_is_made_of(run: tuple[Path, PretrainOutcome, list[str]]) -> None:
    folder, outcome, _ = run
    assert sorted(path.name for path in folder.iterdir()) == [
        "best.pt", "last.pt", "lock", "losses.jsonl", "losses.png", "restored.png", "run.json",
    ]  # fmt: skip
    described = json.loads((folder / "run.json").read_text())
    known = {"network": "unet3d", "optimiser": "sgd", "patience": 50, "lr_step": 40}
    assert described["parameters"] == SMALL.as_dict() | known
    assert described["split"] == outcome.split
    assert described["store"]["recipe"]["name"] == "genesis"
    assert json.loads((folder / "losses.jsonl").read_text().splitlines()[0]) == described
    assert torch.load(folder / "best.pt", weights_only=True)["epoch"] == outcome.best_epoch
    picture = matplotlib.image.imread(folder / "restored.png")
    assert picture.shape[0] > 6 * 150
    assert picture.std() > 0.1


def test_a_finished_run_is_left_as_it_is(pairs: Path, run: tuple[Path, PretrainOutcome, list[str]]) -> None:
    folder, before, _ = run
    stamps = {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != "lock"}
    outcome = pretrain(pairs, folder, SMALL)
    assert outcome == replace(before, status="already finished")
    assert stamps == {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != "lock"}


def test_more_epochs_continue_a_finished_run_to_the_bit(pairs: Path, tmp_path: Path) -> None:
    pretrain(pairs, tmp_path / "parts", replace(SMALL, epochs=1, lr_step=1))
    pretrain(pairs, tmp_path / "parts", replace(SMALL, epochs=2, lr_step=1))
    pretrain(pairs, tmp_path / "whole", replace(SMALL, epochs=2, lr_step=1))
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert [record["lr"] for record in losses(tmp_path / "whole")] == [0.5, 0.25]
    assert_equal_weights(tmp_path / "parts" / "last.pt", tmp_path / "whole" / "last.pt")
    described = json.loads((tmp_path / "parts" / "run.json").read_text())
    assert described["parameters"]["epochs"] == 2


def test_a_cube_store_trains_to_the_same_bits(cubes: Path, pairs: Path, tmp_path: Path) -> None:
    two = replace(SMALL, epochs=2)
    pretrain(cubes, tmp_path / "fly", two)
    pretrain(pairs, tmp_path / "stored", two)
    assert losses(tmp_path / "fly") == losses(tmp_path / "stored")
    assert_equal_weights(tmp_path / "fly" / "last.pt", tmp_path / "stored" / "last.pt")


def test_patience_stops(pairs: Path, tmp_path: Path) -> None:
    """At such a small learning rate the running batch statistics are all that moves: nothing gets better."""
    outcome = pretrain(pairs, tmp_path / "run", replace(SMALL, lr=1e-30, epochs=9, patience=2))
    assert outcome.stopped_by == "patience"
    assert (outcome.epochs, outcome.best_epoch) == (3, 1)


def test_progress_counts_every_step(pairs: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    pretrain(pairs, tmp_path / "run", replace(SMALL, epochs=1), progress=lambda *step: seen.append(step))
    steps = [(done, total) for what, done, total in seen if what.startswith("epoch 1")]
    assert steps == [(done, 8) for done in range(9)]  # before the first one, too
    assert any("training, loss 0." in what for what, _, _ in seen)


# ---------------------------------------------------------------------------------------------- killed


def interrupted_at(step: int) -> Any:
    def report(what: str, done: int, total: int) -> None:
        if what.startswith("epoch 2") and done == step:
            raise KeyboardInterrupt

    return report


def test_an_interrupted_run_goes_on_to_the_bit(
    pairs: Path, tmp_path: Path, run: tuple[Path, PretrainOutcome, list[str]]
) -> None:
    folder, said = tmp_path / "run", list[str]()
    with pytest.raises(KeyboardInterrupt):
        pretrain(pairs, folder, SMALL, progress=interrupted_at(3))
    assert len(losses(folder)) == 1
    # As if the kill had come between writing the losses of an epoch and its checkpoint, mid-line.
    with (folder / "losses.jsonl").open("a") as file:
        file.write('{"epoch": 2, "varia')
    pretrain(pairs, folder, SMALL, say=said.append)
    assert said[0] == "Continuing after epoch 1."
    assert losses(folder) == losses(run[0])
    assert_equal_weights(folder / "last.pt", run[0] / "last.pt")
    assert_equal_weights(folder / "best.pt", run[0] / "best.pt")


def test_interrupted_before_the_first_checkpoint(
    pairs: Path, tmp_path: Path, run: tuple[Path, PretrainOutcome, list[str]]
) -> None:
    def at_once(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(pairs, tmp_path / "run", SMALL, progress=at_once)
    pretrain(pairs, tmp_path / "run", SMALL)
    assert losses(tmp_path / "run") == losses(run[0])


def command(store: Path, folder: Path, *more: str) -> list[str]:
    code = "from genesis_toolkit.cli.train import main; main()"
    options = ["--width", "4", "--epochs", "6", "--batch-size", "4", "--lr", "0.5", *more]
    return [sys.executable, "-c", code, "pretrain", str(store), "--out", str(folder), *options]


def wait_for_epoch(folder: Path, epoch: int, process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        if (folder / "losses.jsonl").exists() and len(losses_so_far(folder)) > epoch:
            return
        time.sleep(0.01)
    pytest.fail(f"epoch {epoch} never came: {process.communicate()[1]}")


def losses_so_far(folder: Path) -> list[str]:
    return (folder / "losses.jsonl").read_text().splitlines()


@pytest.mark.full
def test_a_killed_run_goes_on_to_the_bit(pairs: Path, tmp_path: Path) -> None:
    subprocess.run(command(pairs, tmp_path / "whole"), check=True, capture_output=True)
    for epoch in (1, 4):
        process = subprocess.Popen(
            command(pairs, tmp_path / "killed"), stderr=subprocess.PIPE, encoding="utf-8"
        )
        wait_for_epoch(tmp_path / "killed", epoch, process)
        time.sleep(0.05)
        process.kill()
        process.communicate()
    subprocess.run(command(pairs, tmp_path / "killed"), check=True, capture_output=True)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert_equal_weights(tmp_path / "killed" / "last.pt", tmp_path / "whole" / "last.pt")
    assert_equal_weights(tmp_path / "killed" / "best.pt", tmp_path / "whole" / "best.pt")


@pytest.mark.parametrize("sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.full)])
def test_a_signal_stops_the_command_in_a_sentence(pairs: Path, tmp_path: Path, sent: signal.Signals) -> None:
    call = command(pairs, tmp_path / "run", "--epochs", "9999", "--patience", "9999")
    process = subprocess.Popen(call, stderr=subprocess.PIPE, encoding="utf-8")
    wait_for_epoch(tmp_path / "run", 2, process)  # then the checkpoint of epoch 1 is there
    second = CliRunner().invoke(main, call[3:])
    assert second.exit_code == 2
    assert "Another process is training" in second.stderr
    os.kill(process.pid, sent)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "the same command continues" in errors.splitlines()[-1]
    again = "; Ctrl-C again ends now" if sent == signal.SIGINT else ""
    assert errors.splitlines().count(f"Stopping after this step{again}.") == 1
    assert "Traceback" not in errors
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["epoch"] >= 1


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lr": 0.1}, "started with --lr 0.5, but this call has --lr 0.1"),
        ({"batch_size": 5}, "started with --batch-size 4, but this call has --batch-size 5"),
        ({"seed": 1}, "started with --seed 0, but this call has --seed 1"),
        ({"width": 2, "epochs": 9}, "started with --width 4, but this call has --width 2"),
    ],
)
def test_another_parameter_is_refused(
    pairs: Path, run: tuple[Path, PretrainOutcome, list[str]], change: dict[str, Any], words: str
) -> None:
    before = (run[0] / "last.pt").read_bytes()
    with pytest.raises(CallError, match=words) as caught:
        pretrain(pairs, run[0], replace(SMALL, **change))
    assert "--overwrite" in str(caught.value)
    assert (run[0] / "last.pt").read_bytes() == before


def test_another_store_is_refused_and_overwrite_begins_again(
    pairs: Path, cubes: Path, tmp_path: Path
) -> None:
    one = replace(SMALL, epochs=1)
    pretrain(pairs, tmp_path / "run", one)
    with pytest.raises(CallError, match="holds other data"):
        pretrain(cubes, tmp_path / "run", one)
    (tmp_path / "run" / "notes.txt").write_text("mine")
    outcome = pretrain(cubes, tmp_path / "run", replace(one, seed=1), overwrite=True)
    assert outcome.status == "finished"
    assert len(losses(tmp_path / "run")) == 1
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_a_folder_of_something_else_is_left_alone(pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CallError, match=r"is not a run of genesis-train pretrain \(it holds notes.txt\)"):
        pretrain(pairs, tmp_path, SMALL, overwrite=True)
    with pytest.raises(CallError, match="is a file"):
        pretrain(pairs, tmp_path / "notes.txt", SMALL)


def test_a_run_in_use_is_refused(pairs: Path, tmp_path: Path) -> None:
    with hold_run(tmp_path / "run", Run), pytest.raises(CallError, match="Another process is training"):
        pretrain(pairs, tmp_path / "run", SMALL)


def test_a_torn_checkpoint_is_named(pairs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    pretrain(pairs, folder, replace(SMALL, epochs=1))
    data = (folder / "last.pt").read_bytes()
    (folder / "last.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"last\.pt is cut short"):
        pretrain(pairs, folder, replace(SMALL, epochs=2))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"epochs": 0}, "--epochs 0"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"lr": 0.0}, "--lr 0"),
        ({"lr": float("nan")}, "--lr nan"),
        ({"momentum": 1.0}, "momentum 1"),
        ({"lr_factor": 0.0}, "factor 0"),
        ({"seed": -1}, "--seed -1"),
    ],
)
def test_parameters_out_of_range(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(CallError, match=words):
        PretrainParameters(**wrong)


def test_the_published_values_are_the_defaults(pairs: Path) -> None:
    published = open_data(pairs, PretrainParameters()).parameters
    assert (published.epochs, published.patience, published.batch_size) == (10_000, 50, 6)
    assert published.optimiser == "sgd"
    assert (published.lr, published.momentum, published.lr_step, published.lr_factor) == (1.0, 0.9, 40, 0.5)
    assert (published.network, published.width) == ("unet3d", 32)


def test_cubes_that_do_not_fit_the_network_leave_no_run(tmp_path: Path) -> None:
    odd = make_cube_store(tmp_path / "odd.zarr", blobs(4, (16, 20, 16)), 2)
    with pytest.raises(CallError, match="20 voxels along y"):
        pretrain(odd, tmp_path / "run", SMALL)
    assert not (tmp_path / "run").exists()


def test_stores_that_cannot_be_trained_from_leave_no_run(pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "half.zarr.unfinished").mkdir()
    with pytest.raises(CallError, match="not finished: repeat the command that makes the store"):
        pretrain(tmp_path / "half.zarr", tmp_path / "run", SMALL)
    newer = Path(shutil.copytree(pairs, tmp_path / "newer.zarr"))
    described = json.loads((newer / "zarr.json").read_text(encoding="utf-8"))
    described["attributes"]["genesis"]["version"] = 99
    (newer / "zarr.json").write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(DataError, match="format version 99, but this program reads version 1"):
        pretrain(newer, tmp_path / "run", SMALL)
    assert not (tmp_path / "run").exists()


def test_devices_that_are_not_there(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device, words in (("cuda", "no CUDA device"), ("tpu", "unknown")):
        with pytest.raises(CallError, match=words):
            pretrain(pairs, tmp_path / "run", SMALL, Execution(device=device))


# ---------------------------------------------------------------------------------------------- judging


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    pretrain(pairs, folder, replace(SMALL, epochs=1))
    before = (folder / "last.pt").read_bytes()
    loss, calls = torch.nn.functional.mse_loss, iter(range(99))

    def spoiled(*given: torch.Tensor) -> torch.Tensor:
        return loss(*given) * (float("nan") if next(calls) == 2 else 1.0)

    monkeypatch.setattr("genesis_toolkit.training.pretrain.loop.functional.mse_loss", spoiled)
    agree, seen = Trainer._agree, dict[int, tuple[TrainingState, list[torch.Tensor]]]()

    def noting(self: Trainer, loss: torch.Tensor) -> tuple[float, bool]:
        seen[self.state.step] = (
            self.state,
            [weight.detach().clone() for weight in self.state.model.parameters()],
        )
        return agree(self, loss)

    monkeypatch.setattr(Trainer, "_agree", noting)
    with pytest.raises(DataError, match=r"epoch 2, in step 3; .*last\.pt keeps epoch 1\. .*--lr 0\.05"):
        pretrain(pairs, folder, replace(SMALL, epochs=2))
    assert (folder / "last.pt").read_bytes() == before
    assert len(losses(folder)) == 1
    state, weights = seen[2]
    assert all(weight.grad is not None and weight.grad.isnan().any() for weight in state.model.parameters())
    assert all(map(torch.equal, state.model.parameters(), weights))  # though all gradients were there


def test_baselines_against_plain_numpy(pairs: Path) -> None:
    data = open_data(pairs, SMALL)
    batches = Batches(data.feed, 4)
    works = validation_works(data.split.validation, 4)
    both = [(b.original.numpy().copy(), b.degraded.numpy().copy()) for b in batches.stream(works)]
    original, degraded = (np.concatenate(part).astype(float) / 2000 for part in zip(*both, strict=True))
    mean = np.random.default_rng(0).integers(-1000, 1001, batches.feed.size).astype(float)
    baselines = measure_baselines(batches, works, mean, lambda _: None)
    assert baselines.copy == pytest.approx(np.mean((original - degraded) ** 2), rel=1e-12)
    assert baselines.mean_image == pytest.approx(np.mean((original - mean / 2000) ** 2), rel=1e-12)
    assert baselines.constant == pytest.approx(np.var(original), rel=1e-9)


def test_a_collapse_is_named(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    baselines = Baselines(copy=0.3, mean_image=0.09, constant=0.1, by_degradation={})
    assert Validation(0.0995, {}, 0.001, []).collapsed(baselines)
    assert Validation(0.4, {}, 0.0, []).collapsed(baselines)
    assert not Validation(0.0995, {}, 0.2, []).collapsed(baselines)
    assert not Validation(0.05, {}, 0.001, []).collapsed(baselines)

    said: list[str] = []
    monkeypatch.setattr("genesis_toolkit.training.networks.unet3d.RestorationHead.forward", _flat)
    pretrain(pairs, tmp_path / "run", replace(SMALL, epochs=1), say=said.append)
    assert "nearly the same value for any input" in said[-1]
    assert "--lr 0.05" in said[-1]


def _flat(self: Any, features: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(self.final_conv(features) * 0 - 2)


def test_words_for_what_was_done() -> None:
    assert describe_pair(0, 0) == "unchanged"
    assert describe_pair(5, 11) == "flipped x, z\nshuffled\nnon-linear\nout-painted"


# ---------------------------------------------------------------------------------------------- the command


def test_the_command_prints_the_result_on_stdout_and_the_rest_on_stderr(cubes: Path, tmp_path: Path) -> None:
    single = make_cube_store(tmp_path / "single.zarr", blobs(12, (16, 16, 16)), 1)
    call = ["pretrain", str(single), "--out", str(tmp_path / "run"), "--epochs", "1", "--width", "2"]
    result = CliRunner().invoke(main, call)
    assert result.exit_code == 0, result.output
    assert "10 train, 2 validate" in result.stdout
    assert "Warning: All cubes are from one scan" in result.stderr
    assert "epoch 1: train" in result.stderr
    assert "Next: genesis-train export" in result.stderr

    again = CliRunner().invoke(main, [*call, "--json"])
    assert again.exit_code == 0
    assert json.loads(again.stdout)["status"] == "already finished"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--lr", "0"], "--lr 0"),
        (["--batch-size", "4", "--lr", "0.5", "--width", "3"], "--width 4, but this call has --width 3"),
        (["--device", "tpu"], "--device"),
    ],
)
def test_a_wrong_call_leaves_with_2(
    pairs: Path, run: tuple[Path, PretrainOutcome, list[str]], change: list[str], words: str
) -> None:
    result = CliRunner().invoke(main, ["pretrain", str(pairs), "--out", str(run[0]), *change])
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.output


def test_no_store_leaves_with_2(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["pretrain", str(tmp_path / "no.zarr"), "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert "There is no store" in result.stderr


def test_without_torch_the_command_says_what_to_install(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        f"from genesis_toolkit.cli.train import main\n"
        f"main(['pretrain', {str(pairs)!r}, '--out', {str(tmp_path / 'run')!r}])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert result.returncode == 2
    assert 'pip install "genesis-toolkit[train]"' in result.stderr
    assert "Traceback" not in result.stderr


def test_help_needs_no_heavy_library() -> None:
    code = (
        "import sys\nfrom genesis_toolkit.cli.train import main\n"
        "for call in (['--help'], ['pretrain', '--help'], ['--version']):\n"
        "    try: main(call)\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'zarr', 'numba', 'numpy', 'rich'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert "genesis-train pretrain pairs.zarr --out pretrained" in result.stdout


def test_a_lost_checkpoint_does_not_begin_the_run_again(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    pretrain(pairs, out, PretrainParameters(epochs=2, batch_size=4, lr=0.5, width=4))
    (out / "last.pt").unlink()
    losses = (out / "losses.jsonl").read_bytes()
    with pytest.raises(DataError, match=r"last\.pt, the checkpoint to resume from, is missing"):
        pretrain(pairs, out, PretrainParameters(epochs=3, batch_size=4, lr=0.5, width=4))
    assert (out / "losses.jsonl").read_bytes() == losses


def nothing_of(path: Path) -> None:
    path.unlink()


def noise_in(path: Path) -> None:
    path.write_bytes(bytes(range(1, 256)) * 20)


def other_degradations(path: Path) -> None:
    described = json.loads(path.read_text(encoding="utf-8"))
    groups = described["baselines"]["by_degradation"]
    groups["nothing like it"] = groups.pop(next(iter(groups)))
    path.write_text(json.dumps(described), encoding="utf-8")


def no_baselines(path: Path) -> None:
    described = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**described, "baselines": {"copy": 1.0}}), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "harm", "words"),
    [
        ("best.pt", nothing_of, r"The network of epoch \d, the best so far, is lost: .*No such file"),
        ("best.pt", noise_in, r"The network of epoch \d, the best so far, is lost: .*damaged"),
        ("losses.jsonl", noise_in, r"losses\.jsonl lacks epochs|losses\.jsonl is damaged in line \d"),
        ("run.json", other_degradations, r"run\.json and .*losses\.jsonl list different degradations"),
        ("run.json", no_baselines, r"The baselines in run\.json are damaged"),
    ],
)
@pytest.mark.parametrize("epochs", [3, 4])
def test_a_damaged_run_is_neither_finished_nor_continued(
    pairs: Path,
    run: tuple[Path, PretrainOutcome, list[str]],
    tmp_path: Path,
    name: str,
    harm: Callable[[Path], None],
    words: str,
    epochs: int,
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run[0], folder)
    harm(folder / name)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(DataError, match=rf"(?s){words}.*--overwrite"):
        pretrain(pairs, folder, replace(SMALL, epochs=epochs))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
