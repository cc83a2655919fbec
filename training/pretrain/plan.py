"""A dry run: describe a pre-training run without starting it."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from genesis_toolkit.pipeline.ledger import AnyPath
from genesis_toolkit.training.machine.devices import choose_device, device_words, steady
from genesis_toolkit.training.machine.memory import FLOAT, batch_bytes, weights_of
from genesis_toolkit.training.machine.run_folder import Run, check_folder
from genesis_toolkit.training.pretrain.call import Call, describe, open_call, read_earlier
from genesis_toolkit.training.pretrain.loop import position_words, stopped_by
from genesis_toolkit.training.pretrain.outlook import epochs_left
from genesis_toolkit.training.pretrain.parameters import Execution, PretrainParameters

_STATES = {"sgd": 1, "adam": 2, "adamw": 2}  # numbers that an optimiser stores per weight


@dataclass(frozen=True)
class PretrainPlan:
    """Description of what a call of `pretrain` would do.

    Attributes:
        run: the run folder.
        status: `new`, `continues after epoch 3` or `already finished`.
        device: the device in words.
        processes: number of processes that share each batch.
        network, width, weights: its name, channels of the first convolution, number of parameters.
        optimiser, lr, batch_size: those of the run.
        steps: steps per epoch.
        epochs: largest number of epochs left.
        train_cubes, validation_cubes, split, warning: see `PretrainOutcome`.
        model_bytes: memory for weights, gradients, optimiser state and the moving average.
        batch_bytes: memory that one process keeps from a batch until its backward pass, in float32. Mixed
            precision needs less; running kernels need more.
        checkpoint_bytes: size of `last.pt`.
        files: files that the run would write.
    """

    run: str
    status: str
    device: str
    processes: int
    network: str
    width: int
    weights: int
    optimiser: str
    lr: float
    batch_size: int
    steps: int
    epochs: int
    train_cubes: int
    validation_cubes: int
    split: str
    warning: str | None
    model_bytes: int
    batch_bytes: int
    checkpoint_bytes: int
    files: list[str]


def plan_pretraining(
    store: AnyPath,
    out: AnyPath,
    parameters: PretrainParameters,
    execution: Execution,
    *,
    initial_encoder: AnyPath | None = None,
    overwrite: bool = False,
) -> PretrainPlan:
    """Describe what `pretrain` would do with the same arguments, without writing anything.

    Raises:
        CallError, DataError: the errors `pretrain` would raise before its first step.
    """
    device = choose_device(execution.device, execution.devices)
    encoder = Path(initial_encoder) if initial_encoder is not None else None
    call = Call(os.fspath(store), Path(out), parameters, execution, encoder, overwrite)
    run = Run(call.out)
    check_folder(run)
    data, state, beginning = open_call(call, torch.device("cpu"), execution.devices)
    status, given = "new", data.parameters
    earlier = None if overwrite else read_earlier(run, describe(data, beginning), data, overwrite=False)
    if earlier is not None:
        state.restore(earlier[-1], run.last)
        finished = stopped_by(state, data)
        status = "already finished" if finished else f"continues after {position_words(state)}"
    with steady(execution.devices):
        where = device_words(device)
    weights, written = weights_of(state.model), (run.best, run.last, run.losses, run.curves, run.picture)
    kept = FLOAT * weights * (1 + _STATES[given.optimiser] + bool(given.ema))
    cubes = -(-given.batch_size // execution.devices)
    shape = (cubes, 1, *data.feed.size)
    return PretrainPlan(
        run=str(run.folder),
        status=status,
        device=where,
        processes=execution.devices,
        network=str(given.network),
        width=given.width or 0,
        weights=weights,
        optimiser=given.optimiser,
        lr=given.lr,
        batch_size=given.batch_size,
        steps=data.steps,
        epochs=epochs_left(state, data),
        train_cubes=len(data.split.train),
        validation_cubes=len(data.split.validation),
        split=data.split.rule,
        warning=data.split.warning,
        model_bytes=kept + FLOAT * weights,
        batch_bytes=batch_bytes(state.model, shape),
        checkpoint_bytes=kept,
        files=[path.name for path in (*written, run.description)],
    )
