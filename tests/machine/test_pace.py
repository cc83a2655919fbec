"""How long a run will take, by a clock that the test sets, and which width fits."""

from collections.abc import Callable

import pytest

from genesis_toolkit.training.machine import pace
from genesis_toolkit.training.machine.pace import Pace, narrower, network_words


def paced(
    monkeypatch: pytest.MonkeyPatch,
    ends: list[float],
    epochs: int,
    advise: Callable[[float], str] = lambda _: "",
) -> list[str]:
    """What is said of a run whose steps end at these seconds: 30 steps an epoch, 6 batches validate."""
    clock, said = iter(ends), list[str]()
    monkeypatch.setattr(pace, "perf_counter", lambda: next(clock))
    told = Pace(said.append, 30, 6, epochs, advise)
    for number in range(len(ends) + 3):  # the clock is read for two of them
        told.step()
        assert len(said) == 0 or number >= 1
    return said


def test_after_two_steps_the_time_of_an_epoch_and_of_the_run_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    # 32 steps' worth: 30, and 6 batches without their backward pass. The first step, of 100 s, tells nothing.
    assert paced(monkeypatch, [100.0, 144.0], 10_000) == [
        "A step takes 44 s, an epoch with validation about 23 min, 10,000 epochs 163 days at most."
    ]
    assert paced(monkeypatch, [0.0, 0.25], 1) == [
        "A step takes 0.25 s, an epoch with validation about 8 s, 1 epoch 8 s at most."
    ]


def test_advice_is_of_the_seconds_of_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert paced(monkeypatch, [0.0, 2.0], 1, lambda seconds: f"{seconds:.0f}")[1:] == ["64"]


@pytest.mark.parametrize(
    ("width", "axes", "seconds", "smaller", "factor"),
    [
        (32, 3, 0.0, 8, 3.4**2),  # nobody knows
        (32, 3, 500.0, 32, 1.0),
        (32, 3, 2000.0, 16, 3.4),
        (32, 3, 3000.0, 8, 3.4**2),
        (32, 3, 1e9, 8, 3.4**2),
        (64, 2, 2800.0, 16, 2.2**2),
        (8, 3, 1e9, 8, 1.0),
        (12, 3, 1e9, 12, 1.0),
    ],
)
def test_the_widest_that_fits(width: int, axes: int, seconds: float, smaller: int, factor: float) -> None:
    assert narrower(width, axes, seconds) == (smaller, pytest.approx(factor))


def test_words_for_a_network() -> None:
    assert network_words("unet3d", 32, 19_073_665) == "unet3d of width 32 (19,073,665 parameters, 72.8 MiB)"


def test_epochs_of_one_step_are_announced_after_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, said = iter([0.0, 0.5]), list[str]()
    monkeypatch.setattr(pace, "perf_counter", lambda: next(clock))
    told = Pace(said.append, 1, 0, 4, lambda _: "")
    for _ in range(4):
        told.step()
    assert said == ["A step takes 0.5 s, an epoch with validation about 1 s, 4 epochs 2 s at most."]
