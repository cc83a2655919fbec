"""The state of a run: its first weights, what an earlier call left to go on with, and when it ends."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import SGD, Adam, AdamW, Optimizer

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.training.machine.run_folder import Run, check_same
from genesis_toolkit.training.networks.registry import architecture, begin_at, build_network
from genesis_toolkit.training.pretrain.data import PretrainData
from genesis_toolkit.training.pretrain.parameters import PretrainParameters
from genesis_toolkit.training.pretrain.validation import Baselines
from genesis_toolkit.training.weights.beginning import Beginning, read_encoder
from genesis_toolkit.training.weights.files import PRETRAINED, checkpoint_bytes, read_checkpoint
from genesis_toolkit.training.weights.state import TrainingState


def make_optimiser(weights: Iterable[nn.Parameter], parameters: PretrainParameters) -> Optimizer:
    """Return the optimiser that the parameters name, over `weights`."""
    if parameters.optimiser == "sgd":
        return SGD(weights, lr=parameters.lr, momentum=parameters.momentum)
    return (Adam if parameters.optimiser == "adam" else AdamW)(weights, lr=parameters.lr)


def new_state(
    parameters: PretrainParameters, device: torch.device, channels_last: bool | None = None
) -> TrainingState:
    """Return a network with its first weights, which depend on the seed only, not on the device.

    Args:
        parameters: of the run.
        device: that trains.
        channels_last: the order of the voxels in memory. None takes it on the CPU only, where a step takes
            0.7 of the time: convolutions backward are most of it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(parameters.seed)
        model = build_network(parameters.network, parameters.width)
    if channels_last or (channels_last is None and device.type == "cpu"):
        order = architecture(parameters.network).memory_format
        model.to(memory_format=order)  # type: ignore[call-overload] # torch leaves it out
    model.to(device)
    return TrainingState(
        model,
        make_optimiser(model.parameters(), parameters),
        GradScaler(device.type, enabled=parameters.precision == "fp16"),
        copy.deepcopy(model) if parameters.ema else None,
        parameters.ema or 0.0,
    )


def begin_encoder(state: TrainingState, path: Path | None) -> Beginning | None:
    """Let the encoder, and its average, begin with the weights of a file, where there is one.

    Raises:
        CallError, DataError: as `read_encoder` and `Beginning.begin`.
    """
    if path is None:
        return None
    beginning = read_encoder(path)
    for network in state.networks:
        beginning.begin(network)
    return beginning


def begin_output(state: TrainingState, constant: float) -> None:
    """Let the untrained network, and its average, give about one value, in [0, 1]."""
    for network in state.networks:
        begin_at(network, constant)


def pack(state: TrainingState, parameters: PretrainParameters, *, best: bool = False) -> bytes:
    """Return a checkpoint file.

    Args:
        state: of the run.
        parameters: of the run.
        best: to be used, not to go on from: its weights are those that were validated.
    """
    return checkpoint_bytes(PRETRAINED, state.content(parameters.as_dict(), best=best))


def position_words(state: TrainingState) -> str:
    """Return how far a run came: `step 7 of epoch 2`, or `epoch 1` where that is finished."""
    return f"step {state.step} of epoch {state.epoch + 1}" if state.step else f"epoch {state.epoch}"


def stopped_by(state: TrainingState, data: PretrainData) -> str | None:
    """Return the rule that ends a run here: `epochs`, `patience`, `max_steps`; None while it goes on."""
    parameters = data.parameters
    if state.step:
        return None
    if parameters.max_steps is not None and state.epoch * data.steps >= parameters.max_steps:
        return "max_steps"
    if state.epoch >= parameters.epochs:
        return "epochs"
    if state.stale >= parameters.patience:
        return "patience"
    return None


@dataclass(frozen=True)
class Earlier:
    """What an earlier call left in the folder of a run.

    Attributes:
        baselines: that it measured.
        checkpoint: to go on from.
    """

    baselines: Baselines
    checkpoint: dict[str, Any]


def read_earlier(
    run: Run, described: Mapping[str, Any], data: PretrainData, overwrite: bool
) -> Earlier | None:
    """Read what an earlier call left, and check that this one may go on from there.

    Args:
        run: the folder, held.
        described: what this call would write of the run.
        data: of this call.
        overwrite: throw away what is there.

    Returns:
        None where there is nothing to go on from.

    Raises:
        CallError: the run was begun with other parameters, weights or data.
        DataError: a file of it is gone or damaged.
    """
    if overwrite:
        run.clear()
    told = run.described()
    if told is None:
        return None
    check_same(run, told, described, data.parameters.stopping_rules)
    if not run.last.exists():
        if run.epochs_told() > 1:  # the first may be told and its checkpoint not yet written
            raise DataError(
                f"{run.last}, from which the run would go on, is gone: give --overwrite to begin again."
            )
        return None
    earlier = Earlier(Baselines.from_json(told["baselines"]), read_checkpoint(run.last))
    if earlier.checkpoint["best_epoch"]:
        _check_best(run, earlier.baselines, earlier.checkpoint["best_epoch"])
    return earlier


def _check_best(run: Run, baselines: Baselines, epoch: int) -> None:
    """Check that what a run has of its best epoch is there, before more is built on it.

    Raises:
        DataError: a file of it is gone or damaged.
    """
    try:
        read_checkpoint(run.best)
    except DataError as error:
        raise DataError(
            f"The network of epoch {epoch}, the best so far, is lost: {error} Put a copy of it back, or give "
            "--overwrite to begin again."
        ) from None
    told = run.record_of(epoch).get("by_degradation")
    if not isinstance(told, dict) or not told.keys() <= baselines.by_degradation.keys():
        raise DataError(
            f"{run.description} and {run.losses} tell of other degradations, so one of them is damaged: put "
            "a copy of it back, or give --overwrite to begin again."
        )
