"""A dry run: what it says is what the run then is, and nothing is written."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support.training_runs import SMALL, make_pair_store

from genesis_toolkit.cli.train import main
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.training.pretrain.call import pretrain
from genesis_toolkit.training.pretrain.parameters import Execution
from genesis_toolkit.training.pretrain.plan import PretrainPlan, plan_pretraining


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pair_store(tmp_path_factory.mktemp("stores"))


def planned(pairs: Path, out: Path, **change: Any) -> PretrainPlan:
    return plan_pretraining(pairs, out, replace(SMALL, **change), Execution())


def test_the_plan_is_what_the_run_becomes(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    plan = planned(pairs, out, epochs=1)
    assert not out.exists()
    assert (plan.status, plan.epochs, plan.steps, plan.processes) == ("new", 1, 6, 1)
    assert (plan.network, plan.width, plan.optimiser, plan.lr) == ("unet3d", 4, "sgd", 0.5)
    outcome = pretrain(pairs, out, replace(SMALL, epochs=1))
    assert plan.weights == outcome.weights
    assert (plan.train_cubes, plan.validation_cubes) == (outcome.train_cubes, outcome.validation_cubes)
    assert sorted([*plan.files, "lock"]) == sorted(path.name for path in out.iterdir())
    assert plan.checkpoint_bytes == pytest.approx((out / "last.pt").stat().st_size, rel=0.1)
    # Weights, gradients and SGD's momentum; Adam keeps two numbers a weight, and an average is one more.
    assert plan.model_bytes == 3 * 4 * plan.weights
    assert planned(pairs, tmp_path / "no", optimiser="adam", ema=0.9).model_bytes == 5 * 4 * plan.weights

    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert planned(pairs, out, epochs=1).status == "already finished"
    more = planned(pairs, out, epochs=3)
    assert (more.status, more.epochs) == ("continues after epoch 1", 2)
    again = plan_pretraining(pairs, out, replace(SMALL, lr=0.1), Execution(), overwrite=True)
    assert (again.status, again.epochs) == ("new", 3)
    assert before == {path.name: path.stat().st_mtime_ns for path in out.iterdir()}


def test_it_refuses_what_the_run_would(pairs: Path, tmp_path: Path) -> None:
    pretrain(pairs, tmp_path / "run", replace(SMALL, epochs=1))
    with pytest.raises(CallError, match=r"started with --lr 0\.5, but this call has --lr 0\.1"):
        planned(pairs, tmp_path / "run", lr=0.1)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CallError, match="is not a run of genesis-train pretrain"):
        planned(pairs, tmp_path)
    with pytest.raises(CallError, match="There is no store"):
        planned(tmp_path / "no.zarr", tmp_path / "other")


def test_a_batch_is_shared_by_processes(pairs: Path, tmp_path: Path) -> None:
    whole = plan_pretraining(pairs, tmp_path / "run", SMALL, Execution(device="cpu"))
    half = plan_pretraining(pairs, tmp_path / "run", SMALL, Execution(device="cpu", devices=2))
    assert (whole.processes, half.processes) == (1, 2)
    assert half.batch_bytes == pytest.approx(whole.batch_bytes / 2, rel=0.01)


def call(*words: object) -> Result:
    done = CliRunner().invoke(main, ["pretrain", *map(str, words), "--dry-run"])
    assert done.exit_code == 0, done.output
    return done


def test_the_command_says_so_and_writes_nothing(pairs: Path, tmp_path: Path) -> None:
    done = call(pairs, "--out", tmp_path / "run", "--width", 4)
    assert "dry run: nothing was written" in done.stdout
    assert "unet3d, width 4, 298,993 parameters" in done.stdout
    assert "sgd, learning rate 1, batches of 6" in done.stdout
    command = f"genesis-train pretrain {pairs} --out {tmp_path / 'run'} --width 4"
    assert done.stderr == f"Next: {command}\n"
    told = json.loads(call(pairs, "--out", tmp_path / "run", "--width", 4, "--json").stdout)
    assert (told["store"], told["run"], told["weights"]) == (str(pairs), str(tmp_path / "run"), 298_993)
    assert list(tmp_path.iterdir()) == []
