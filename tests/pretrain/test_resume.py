"""A run that was stopped at any step goes on as if nothing had happened, to the bit."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.folders import TESTS
from support.training_runs import (
    SMALL,
    assert_equal_weights,
    losses,
    make_pair_store,
    position,
)

from genesis_toolkit.training.pretrain.call import pretrain
from genesis_toolkit.training.pretrain.loop import Trainer
from genesis_toolkit.training.pretrain.parameters import Execution, PretrainParameters

RUN = replace(SMALL, epochs=2)
STEPS = 12  # of both epochs: 24 training cubes in batches of 4
DROPPING = replace(RUN, drop_skips=0.5)
HARD = replace(
    DROPPING, optimiser="adamw", schedule="cosine", warmup=5, clip_norm=0.1, ema=0.8, precision="fp16"
)

Steps = dict[tuple[int, int], float]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("stores")
    return {"pairs": make_pair_store(folder), "cubes": folder / "cubes.zarr"}


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """The loss of every step by (epoch, step), filled as runs go; a step done twice must give it twice."""
    seen: Steps = {}
    agree = Trainer._agree

    def noting(self: Trainer, loss: torch.Tensor) -> tuple[float, bool]:
        value, stopping = agree(self, loss)
        assert seen.setdefault((self.state.epoch, self.state.step), value) == value
        return value, stopping

    monkeypatch.setattr(Trainer, "_agree", noting)
    return seen


def at_step(step: int, act: Callable[[], None]) -> Callable[[str, int, int], None]:
    """A report that acts once, after training step number `step` of the run, counted from 1."""
    count = 0

    def report(what: str, done: int, total: int) -> None:
        nonlocal count
        count += "training" in what
        if count == step and "training" in what:
            act()

    return report


def killed() -> None:
    """As far as the files go the same as SIGKILL: nothing is written any more."""
    raise KeyboardInterrupt


def go_through_twice(
    store: Path, folder: Path, parameters: PretrainParameters, at: list[int], every: int, steps: Steps
) -> None:
    """Run once without and once with kills, at so many steps after each start, and compare all there is."""
    pretrain(store, folder / "whole", parameters)
    whole = dict(steps)
    assert len(whole) == STEPS
    execution = Execution(save_steps=every)
    for step in at:
        with pytest.raises(KeyboardInterrupt):
            pretrain(store, folder / "killed", parameters, execution, progress=at_step(step, killed))
    pretrain(store, folder / "killed", parameters, execution)
    assert steps == whole
    assert losses(folder / "killed") == losses(folder / "whole")
    for name in ("last.pt", "best.pt"):
        assert_equal_weights(folder / "killed" / name, folder / "whole" / name)


def test_a_run_killed_in_the_middle_of_an_epoch(
    stores: dict[str, Path], tmp_path: Path, steps: Steps
) -> None:
    go_through_twice(stores["pairs"], tmp_path, DROPPING, [4, 5], 3, steps)


@pytest.mark.full
def test_every_option_has_its_state_in_the_checkpoint(
    stores: dict[str, Path], tmp_path: Path, steps: Steps
) -> None:
    go_through_twice(stores["pairs"], tmp_path, HARD, [4, 5], 2, steps)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["pairs", "cubes"])
def test_sigkill_at_ten_random_moments(kind: str, stores: dict[str, Path], tmp_path: Path) -> None:
    """Whatever was going on then: a step, the writing of a checkpoint, validation."""
    call = [sys.executable, "-m", "support.kills", stores[kind], tmp_path, kind, "10"]
    done = subprocess.run(list(map(str, call)), cwd=TESTS, check=True, capture_output=True, encoding="utf-8")
    told = json.loads(done.stdout)
    assert told["codes"] == [0, *[-signal.SIGKILL] * 10, 0]
    assert told["positions"] == sorted(told["positions"])
    assert len({tuple(position) for position in told["positions"]}) >= 5
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    for name in ("last.pt", "best.pt"):
        assert_equal_weights(tmp_path / "killed" / name, tmp_path / "whole" / name)
    # Some steps were taken twice, with the same loss to the bit.
    whole, killed = (
        [line.rsplit(" ", 1) for line in (tmp_path / f"{name}.steps").read_text().splitlines()]
        for name in ("whole", "killed")
    )
    assert len(killed) > len(whole) == 30
    assert {(step, loss) for step, loss in killed} == {(step, loss) for step, loss in whole}


@pytest.mark.parametrize("sent", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.full)])
def test_a_signal_saves_the_position_to_the_step(
    sent: signal.Signals, stores: dict[str, Path], tmp_path: Path, steps: Steps
) -> None:
    pretrain(stores["pairs"], tmp_path / "whole", RUN)
    report = at_step(8, lambda: signal.raise_signal(sent))
    before = signal.getsignal(sent)
    with pytest.raises(KeyboardInterrupt):
        pretrain(stores["pairs"], tmp_path / "run", RUN, progress=report)
    assert signal.getsignal(sent) == before
    checkpoint = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    # The signal came after step 8 was taken; the processes agree on it in the next one.
    assert (checkpoint["epoch"], checkpoint["step"]) == (1, 3)
    said: list[str] = []
    pretrain(stores["pairs"], tmp_path / "run", RUN, say=said.append)
    assert said[0] == "Continuing after step 3 of epoch 2."
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert_equal_weights(tmp_path / "run" / "last.pt", tmp_path / "whole" / "last.pt")


@pytest.mark.full
def test_a_signal_during_validation_is_answered_there(stores: dict[str, Path], tmp_path: Path) -> None:
    def report(what: str, done: int, total: int) -> None:
        if what.startswith("epoch 2") and "validation" in what:
            signal.raise_signal(signal.SIGTERM)

    pretrain(stores["pairs"], tmp_path / "whole", RUN)
    with pytest.raises(KeyboardInterrupt):
        pretrain(stores["pairs"], tmp_path / "run", RUN, progress=report)
    checkpoint = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert (checkpoint["epoch"], checkpoint["step"]) == (1, 6)
    pretrain(stores["pairs"], tmp_path / "run", RUN)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_the_second_signal_interrupts_at_once(stores: dict[str, Path], tmp_path: Path) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        pretrain(stores["pairs"], tmp_path / "run", RUN, progress=at_step(8, twice))
    checkpoint = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert (checkpoint["epoch"], checkpoint["step"]) == (1, 0)


def command(store: Path, folder: Path, *more: str) -> list[str]:
    code = "from genesis_toolkit.cli.train import main; main()"
    options = "--width 4 --epochs 4 --batch-size 4 --lr 0.5 --save-steps 1".split()
    return [sys.executable, "-c", code, "pretrain", str(store), "--out", str(folder), *options, *more]


@pytest.mark.full
def test_sigkill_of_two_processes(stores: dict[str, Path], tmp_path: Path) -> None:
    """SIGKILL of the leading one whenever two more steps or so are on the disk, then the same command."""
    kind, more = "pairs", ("--devices", "2", "--drop-skips", "0.5")
    subprocess.run(command(stores[kind], tmp_path / "whole", *more), check=True, capture_output=True)
    folder = tmp_path / "killed"
    for _ in range(3):
        begun = position(folder)
        process = subprocess.Popen(
            command(stores[kind], folder, *more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and position(folder) <= (begun[0], begun[1] + 1):
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert position(folder) > begun
    subprocess.run(command(stores[kind], folder, *more), check=True, capture_output=True)
    assert losses(folder) == losses(tmp_path / "whole")
    assert_equal_weights(folder / "last.pt", tmp_path / "whole" / "last.pt")
    assert_equal_weights(folder / "best.pt", tmp_path / "whole" / "best.pt")
