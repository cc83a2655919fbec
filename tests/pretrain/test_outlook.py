"""What is said before the first step and after the second: device, network, and a width that fits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.training_runs import SMALL, make_pair_store

from genesis_toolkit.training.machine import pace
from genesis_toolkit.training.machine.processes import Group
from genesis_toolkit.training.pretrain.call import new_state, pretrain
from genesis_toolkit.training.pretrain.data import open_data
from genesis_toolkit.training.pretrain.outlook import epochs_left, look_ahead
from genesis_toolkit.training.pretrain.parameters import PretrainParameters

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pair_store(tmp_path_factory.mktemp("stores"))


def test_device_network_and_size_are_said_before_the_first_step(pairs: Path, tmp_path: Path) -> None:
    heard: list[str] = []
    pretrain(
        pairs, tmp_path / "run", replace(SMALL, epochs=2),
        say=heard.append, progress=lambda what, done, total: heard.append(f"{what} {done} {total}"),
    )  # fmt: skip
    threads = f"{torch.get_num_threads()} thread"
    first = next(line for line in heard if not line.startswith("before"))
    assert first.startswith(
        f"Training unet3d of width 4 (298,993 parameters, 1.1 MiB) on the CPU with {threads}"
    )
    assert first.endswith(": 6 steps an epoch, 2 epochs at most.")
    steps = [line for line in heard if line.startswith("epoch 1: ") and ", validation" not in line]
    assert heard.index(first) < heard.index(steps[0])
    assert steps[0] == "epoch 1: first step 0 8"  # so that no bar of what came before stands there, finished
    told = [line for line in heard if line.startswith("A step takes ")]
    assert len(told) == 1
    assert heard.index(steps[1]) < heard.index(told[0]) < heard.index(steps[3])
    assert "2 epochs" in told[0]
    assert not any("Warning" in line for line in heard)  # a small network may train on a CPU


def looked_ahead(
    pairs: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, end: float = 0.0, **change: int
) -> tuple[list[str], Callable[[], None]]:
    clock, said = iter((0.0, seconds, end)), list[str]()
    monkeypatch.setattr(pace, "perf_counter", lambda: next(clock))
    data = open_data(pairs, replace(PretrainParameters(), **change))
    state = new_state(data.parameters, CPU)
    return said, look_ahead(state, data, CPU, Group(), said.append).step


def test_the_published_width_on_a_cpu_is_warned_of_and_one_that_fits_is_named(
    pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, step = looked_ahead(pairs, monkeypatch, 400.0)
    assert said[0].startswith("Training unet3d of width 32 (19,073,665 parameters, 72.8 MiB) on the CPU")
    assert said[0].endswith("4 steps an epoch, 10,000 epochs at most.")
    assert said[1:] == [
        "Warning: the published width 32 is meant for a GPU; on a CPU the first step may take a minute. "
        "With --width 8 a step is about 12 times as fast."
    ]
    step()
    step()
    assert said[2].startswith("A step takes 7 min, an epoch with validation about 29 min, 10,000 epochs ")
    # 4 steps and one validation batch, 3.4 times as fast.
    assert said[3].startswith("Warning: with --width 16 an epoch would take about 8 min. ")
    assert "--width 16 --overwrite" in said[3]
    assert len(said) == 4


def test_a_short_epoch_and_a_small_network_are_not_warned_of(
    pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, step = looked_ahead(pairs, monkeypatch, 400.0, width=16)
    step()
    step()
    assert [line.split()[0] for line in said] == ["Training", "A"]
    said, step = looked_ahead(pairs, monkeypatch, 2.0)
    step()
    step()
    assert [line.split()[0] for line in said] == ["Training", "Warning:", "A"]


@pytest.mark.parametrize(("end", "corrected"), [(24.0, True), (8.0, False), (4.5, False), (1.5, True)])
def test_an_announcement_far_off_is_corrected_after_an_epoch(
    pairs: Path, monkeypatch: pytest.MonkeyPatch, end: float, corrected: bool
) -> None:
    said, step = looked_ahead(pairs, monkeypatch, 2.0, end, width=8, batch_size=6)
    for _ in range(8):  # two epochs of 4 steps
        step()
    told = [line for line in said if line.startswith("Over the first epoch, a step took")]
    assert len(told) == corrected
    assert not corrected or f"took {end / 3:.2g} s, an epoch with validation about" in told[0]


@pytest.mark.parametrize(("steps", "left"), [(None, 7), (1, 0), (18, 2), (19, 3), (999, 7)])
def test_epochs_that_are_left(pairs: Path, steps: int | None, left: int) -> None:
    data = open_data(pairs, replace(SMALL, epochs=8, max_steps=steps))
    state = new_state(data.parameters, CPU)
    state.epoch = 1
    assert data.steps == 6
    assert epochs_left(state, data) == left
