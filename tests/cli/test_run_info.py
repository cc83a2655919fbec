"""`genesis-train info`: the last table of a run, while it is at work and afterwards."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.folders import TESTS
from support.training_runs import SMALL, make_pair_store

from genesis_toolkit.cli.train import main
from genesis_toolkit.training.machine.run_folder import Run, hold_run
from genesis_toolkit.training.pretrain.call import PretrainOutcome, pretrain

GOLDEN = TESTS / "golden"


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> PretrainOutcome:
    folder = tmp_path_factory.mktemp("runs")
    return pretrain(make_pair_store(folder), folder / "run", replace(SMALL, epochs=2))


def info(*words: object) -> Result:
    done = CliRunner().invoke(main, ["info", *map(str, words)])
    assert done.exit_code == 0, done.output
    return done


def test_programs_get_what_the_run_told_at_its_end(outcome: PretrainOutcome) -> None:
    told = json.loads(info(outcome.run, "--json").stdout)
    same = set(told) & set(asdict(outcome))
    assert len(same) >= 18
    assert {name: told[name] for name in same} == {name: asdict(outcome)[name] for name in same}
    assert told["command"] == "genesis-train pretrain"
    assert told["parameters"]["batch_size"] == SMALL.batch_size
    assert told["last_epoch"]["epoch"] == 2


def test_people_get_the_last_table(outcome: PretrainOutcome) -> None:
    shown = info(outcome.run).stdout
    baselines = {
        "copying the input": outcome.copy_loss,
        "the mean image": outcome.mean_image_loss,
        "the best constant": outcome.constant_loss,
    }
    for words in (
        "finished, after 2 epochs (by --epochs)",
        f"{outcome.validation_loss:.5f} (epoch {outcome.best_epoch}, the best)",
        "drawn in losses.png",
        *(f"{name} " for name in baselines),
        *(f"{loss:.5f}" for loss in baselines.values()),
        *outcome.by_degradation,
    ):
        assert words in shown
    lowest = min(baselines, key=lambda name: baselines[name])
    (line,) = (line for line in shown.splitlines() if "(the lowest" in line)
    assert lowest in line
    assert ("not reached yet" in line) == (outcome.validation_loss >= min(baselines.values()))


def test_a_run_at_work_says_how_far_it_is(outcome: PretrainOutcome) -> None:
    with hold_run(Path(outcome.run), Run):
        assert "running, 2 epochs finished of at most 2" in info(outcome.run).stdout


def test_a_run_that_has_no_epoch_yet(outcome: PretrainOutcome, tmp_path: Path) -> None:
    described = (Path(outcome.run) / "run.json").read_bytes()
    (tmp_path / "run.json").write_bytes(described)
    shown = " ".join(info(tmp_path).stdout.split())
    assert "stopped, 0 epochs finished of at most 2; the same command resumes it" in shown
    assert json.loads(info(tmp_path, "--json").stdout)["validation_loss"] is None


def test_runs_of_earlier_versions(tmp_path: Path) -> None:
    """Of pre-training, when no losses were drawn, and of fine-tuning."""
    shown = info(GOLDEN / "pretrained").stdout
    assert "losses.png" not in shown
    assert "(the lowest" in shown
    shown = info(GOLDEN / "finetuned").stdout
    told = json.loads(info(GOLDEN / "finetuned", "--json").stdout)
    assert "best.pt" in shown
    assert f"{told['result']['metrics']['iou']:.4f}" in shown
    assert (told["status"], told["stopped_by"]) == ("finished", "epochs")
    for name in ("run.json", "losses.jsonl"):
        (tmp_path / name).write_bytes((GOLDEN / "finetuned" / name).read_bytes())
    shown = " ".join(info(tmp_path).stdout.split())
    assert "stopped, 1 epoch finished of at most 1; the same command resumes it" in shown


def test_no_run_leaves_with_2_and_torch_is_not_needed(outcome: PretrainOutcome, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["info", str(tmp_path)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "for a store, use genesis-prep info" in done.stderr
    code = (
        "import sys; sys.modules['torch'] = None\nfrom genesis_toolkit.cli.train import main\n"
        f"main(['info', {outcome.run!r}])"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
