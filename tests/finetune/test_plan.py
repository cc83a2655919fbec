"""A dry run of fine-tuning: what it says is what the run then is, and nothing is written."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from support.target_stores import EACH, FOLDS, make_target_store

from genesis_toolkit.cli.train import main
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.training.finetune.loop import finetune
from genesis_toolkit.training.finetune.parameters import FinetuneParameters
from genesis_toolkit.training.finetune.plan import plan_finetuning

ONE = FinetuneParameters(epochs=1, batch_size=6)


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = (np.arange(EACH * len(FOLDS)) % 2 == 0)[:, None].astype(np.uint8)
    return make_target_store(tmp_path_factory.mktemp("stores") / "ncc.zarr", "ncc", labels=labels)


def test_the_plan_is_what_the_run_becomes(targets: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    plan = plan_finetuning(targets, out, ONE, width=2, device="cpu")
    assert not out.exists()
    assert plan.status == "new"
    outcome = finetune(targets, out, ONE, width=2, device="cpu")
    same = ("task", "kind", "network", "width", "weights", "beginning", "train_scans")
    same += ("train_cubes", "validation_cubes", "test_cubes")
    assert {name: getattr(plan, name) for name in same} == {name: getattr(outcome, name) for name in same}
    assert plan.steps == json.loads((out / "losses.jsonl").read_text().splitlines()[1])["steps"]
    assert plan.model_bytes == 16 * outcome.weights
    assert sorted([*plan.files, "lock"]) == sorted(path.name for path in out.iterdir())

    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert plan_finetuning(targets, out, ONE, width=2, device="cpu").status == "already finished"
    assert plan_finetuning(targets, out, ONE, width=2, device="cpu", overwrite=True).status == "new"
    with pytest.raises(CallError, match=r"started with --batch-size 6, but this call has --batch-size 5"):
        plan_finetuning(targets, out, FinetuneParameters(epochs=1, batch_size=5), width=2, device="cpu")
    assert before == {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    (out / "result.json").unlink()
    assert plan_finetuning(targets, out, ONE, width=2, device="cpu").status == "continues after epoch 1"


def test_the_command_says_so_and_writes_nothing(targets: Path, tmp_path: Path) -> None:
    words = ["finetune", str(targets), "--out", str(tmp_path / "run"), "--width", "2", "--dry-run"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert "dry run: nothing was written" in done.stdout
    assert "unet3d, width 2" in done.stdout
    assert "lr 0.001" in done.stdout
    shown = " ".join(done.stdout.split())
    assert "schedule cosine, augment, precision" in shown
    assert "no freeze encoder, seed 0" in shown
    command = f"genesis-train finetune {targets} --out {tmp_path / 'run'} --width 2"
    assert done.stderr == f"Next: {command}\n"
    told = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)
    assert (told["store"], told["status"], told["task"]) == (str(targets), "new", "ncc")
    assert told["parameters"]["lr"] == 0.001
    assert list(tmp_path.iterdir()) == []
