"""The learning rate against plain formulas and torch's schedules; the optimisers by name."""

import math

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.training.pretrain.call import make_optimiser
from genesis_toolkit.training.pretrain.parameters import (
    Execution,
    PretrainParameters,
    ema_decay,
    learning_rate,
)


def rates(parameters: PretrainParameters, steps: int, steps_per_epoch: int) -> list[float]:
    return [learning_rate(parameters, step, steps_per_epoch) for step in range(steps)]


def test_the_published_schedule_is_torchs_step_lr() -> None:
    parameters = PretrainParameters(network="unet3d")
    optimiser = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = StepLR(optimiser, 40, 0.5)
    for epoch in range(130):
        assert rates(parameters, 3 * 131, 3)[3 * epoch : 3 * epoch + 3] == schedule.get_last_lr() * 3
        optimiser.step()
        schedule.step()


@pytest.mark.parametrize("limit", [{"epochs": 5}, {"epochs": 999, "max_steps": 20}])
def test_the_cosine_is_torchs_and_zero_at_the_last_step(limit: dict[str, int]) -> None:
    parameters = PretrainParameters(schedule="cosine", lr=0.3, **limit)
    optimiser = SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule = CosineAnnealingLR(optimiser, T_max=19)
    assert learning_rate(parameters, 19, 4) == 0
    for step in range(20):
        assert learning_rate(parameters, step, 4) == pytest.approx(schedule.get_last_lr()[0], abs=1e-12)
        optimiser.step()
        schedule.step()


def test_warming_up_rises_evenly_to_the_first_value() -> None:
    step = PretrainParameters(network="unet3d", lr=0.8, warmup=4)
    assert rates(step, 6, 3) == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])
    cosine = PretrainParameters(lr=0.8, warmup=4, schedule="cosine", epochs=4)
    assert rates(cosine, 12, 3)[3:5] == pytest.approx([0.8, 0.8])
    assert rates(cosine, 12, 3)[8] == pytest.approx(0.4 * (1 + math.cos(math.pi * 4 / 7)))
    assert rates(cosine, 12, 3)[-1] == 0


def test_the_moving_average_warms_up_to_its_decay() -> None:
    parameters = PretrainParameters(ema=0.99)
    decays = [ema_decay(parameters, step) for step in range(2000)]
    assert decays[:3] == [0.1, 2 / 11, 3 / 12]
    assert decays == sorted(decays)
    assert decays[889] < 0.99 == decays[890] == decays[-1]
    assert ema_decay(PretrainParameters(ema=0.05), 0) == 0.05


@pytest.mark.parametrize(("name", "lr"), [("sgd", 1.0), ("adam", 0.001), ("adamw", 0.001)])
def test_each_optimiser_has_its_learning_rate(name: str, lr: float) -> None:
    parameters = PretrainParameters(optimiser=name)
    assert parameters.lr == lr
    made = make_optimiser([nn.Parameter(torch.zeros(1))], parameters)
    assert type(made).__name__.lower() == name
    assert made.param_groups[0]["lr"] == lr
    assert made.param_groups[0].get("momentum", 0.9) == 0.9
    assert made.param_groups[0]["weight_decay"] == (0.01 if name == "adamw" else 0)


@pytest.mark.parametrize(
    ("network", "optimiser", "lr"),
    [("unet3d", "sgd", 1.0), ("resenc-l", "sgd", 1.0), ("plainconv", "sgd", 1.0), ("unet2d", "adam", 0.001)],
)
def test_the_network_decides_what_was_left_out_and_nothing_else(
    network: str, optimiser: str, lr: float
) -> None:
    unknown = PretrainParameters()
    assert (unknown.optimiser, unknown.lr) == (None, None)
    known = unknown.of_network(network, 8)
    assert (known.network, known.width, known.optimiser, known.lr) == (network, 8, optimiser, lr)
    assert known == PretrainParameters(network=network, width=8)
    assert PretrainParameters(lr=0.3).of_network(network, 64).lr == 0.3
    chosen = PretrainParameters(optimiser="adamw").of_network(network, 8)
    assert (chosen.optimiser, chosen.lr) == ("adamw", 0.001)
    chosen = PretrainParameters(optimiser="sgd").of_network(network, 8)
    assert (chosen.optimiser, chosen.lr) == ("sgd", 1.0)


@pytest.mark.parametrize(("width", "lr"), [(1, 0.001), (63, 0.001), (64, 0.0003), (128, 0.0003)])
def test_the_wide_2d_network_has_a_lower_rate_unless_its_optimiser_was_given(width: int, lr: float) -> None:
    unknown = PretrainParameters(network="unet2d")
    assert (unknown.optimiser, unknown.lr) == (None, None)
    assert unknown.of_network("unet2d", width) == PretrainParameters(network="unet2d", width=width)
    known = unknown.of_network("unet2d", width)
    assert (known.optimiser, known.lr) == ("adam", lr)
    for name, own in (("adam", 0.001), ("adamw", 0.001), ("sgd", 1.0)):
        assert PretrainParameters(optimiser=name).of_network("unet2d", width).lr == own


@pytest.mark.parametrize(
    ("network", "steps", "patience", "lr_step"),
    [
        ("unet2d", 4, 250, 500),
        ("unet2d", 3, 334, 667),
        ("unet2d", 20, 50, 100),
        ("unet2d", 50, 50, 40),
        ("unet2d", 10_000, 50, 40),
        ("unet3d", 1, 50, 40),
        ("resenc-l", 4, 50, 40),
    ],
)
def test_in_2d_small_data_get_their_steps(network: str, steps: int, patience: int, lr_step: int) -> None:
    """At least 1,000 steps without a better loss and 2,000 at the full rate; or the published epochs."""
    assert (PretrainParameters().patience, PretrainParameters().lr_step) == (None, None)
    known = PretrainParameters().of_network(network, 8).of_steps(steps)
    assert (known.patience, known.lr_step) == (patience, lr_step)
    assert known.of_steps(steps + 1) == known
    full = rates(known, lr_step * min(steps, 50) + 1, min(steps, 50))
    assert (full[:-1], full[-1]) == ([known.lr] * (len(full) - 1), 0.5 * known.lr)


def test_a_patience_or_a_schedule_that_was_given_stays() -> None:
    given = PretrainParameters(network="unet2d", patience=3, lr_step=7).of_steps(1)
    assert (given.patience, given.lr_step) == (3, 7)
    with pytest.raises(CallError, match="--patience 0"):
        PretrainParameters(network="unet3d", patience=0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"optimiser": "lion"}, r"--optimiser lion is unknown; allowed: sgd, adam, adamw"),
        ({"schedule": "linear"}, "--schedule linear is unknown"),
        ({"precision": "int8"}, "--precision int8 is unknown"),
        ({"network": "vit"}, "--network vit is unknown"),
        ({"warmup": -1}, "--warmup -1"),
        ({"clip_norm": 0.0}, "--clip-norm 0"),
        ({"ema": 1.0}, "--ema 1 is"),
        ({"drop_skips": 1.5}, "--drop-skips 1.5 is out of range: it must be between 0 and 1, such as 0.5"),
        ({"drop_skips": math.nan}, "--drop-skips nan is"),
        ({"max_steps": 0}, "--max-steps 0"),
        ({"overfit": 0}, "--overfit 0"),
    ],
)
def test_parameters_out_of_range(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(CallError, match=words):
        PretrainParameters(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"devices": 0}, "--devices 0"),
        ({"save_steps": 0}, "--save-steps 0"),
        ({"save_seconds": 0}, "--save-seconds 0"),
    ],
)
def test_execution_out_of_range(wrong: dict[str, int], words: str) -> None:
    with pytest.raises(CallError, match=words):
        Execution(**wrong)  # type: ignore[arg-type]


def test_the_names_of_the_networks_are_those_that_can_be_built() -> None:
    from genesis_toolkit.training.networks.registry import ARCHITECTURES
    from genesis_toolkit.training.pretrain.parameters import NETWORKS

    assert tuple(ARCHITECTURES) == NETWORKS
