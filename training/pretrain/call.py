"""Prepare a pre-training run: set up processes, store, network and earlier state, and return the outcome.

Nothing in a run is left to chance: the initial weights depend on the seed, the order and the degradations on
(seed, epoch), the learning rate on the position. So a killed run resumes from its last checkpoint, even in
the middle of an epoch, as if nothing had happened.
"""

import copy
import os
import signal
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import SGD, Adam, AdamW, Optimizer

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.ledger import AnyPath
from genesis_toolkit.pipeline.progress import Progress, TrainingBars, callback, shows, silent
from genesis_toolkit.pipeline.version import __version__
from genesis_toolkit.training.machine.devices import choose_device, steady
from genesis_toolkit.training.machine.interrupt import stop_on_signals
from genesis_toolkit.training.machine.memory import weights_of
from genesis_toolkit.training.machine.processes import joined, launched
from genesis_toolkit.training.machine.run_folder import Run, check_same, hold_run
from genesis_toolkit.training.machine.steps import Say
from genesis_toolkit.training.networks.norms import share_batches
from genesis_toolkit.training.networks.registry import architecture, begin_at, build_network
from genesis_toolkit.training.pretrain.baselines import Baselines
from genesis_toolkit.training.pretrain.data import PretrainData, open_data
from genesis_toolkit.training.pretrain.loop import Trainer, position_words, stopped_by
from genesis_toolkit.training.pretrain.outlook import look_ahead
from genesis_toolkit.training.pretrain.parameters import Execution, PretrainParameters
from genesis_toolkit.training.pretrain.ranks import (
    LevelRank,
    collapse_words,
    compare_ranks,
    level_ranks,
    works_to_rank,
)
from genesis_toolkit.training.pretrain.show import check_tensorboard, profiling, writing_events
from genesis_toolkit.training.pretrain.threads import computing_threads
from genesis_toolkit.training.pretrain.validation import look_first
from genesis_toolkit.training.weights.files import TrainingState, read_checkpoint
from genesis_toolkit.training.weights.load import Beginning, read_encoder


@dataclass(frozen=True)
class PretrainOutcome:
    """The outcome of a `pretrain` call. Losses are mean squared errors of values in [0, 1].

    Attributes:
        run: the run folder.
        status: `finished`, or `already finished` if there was nothing left to do.
        stopped_by: `epochs`, `patience` or `max_steps`.
        epochs: number of finished epochs.
        best_epoch: counted from 1.
        validation_loss: loss of the best epoch.
        copy_loss: loss of the degraded cube taken as its restoration.
        mean_image_loss: loss of the mean of training originals, voxel by voxel.
        constant_loss: loss of the best single value for all voxels.
        lowest_baseline: the lowest of these three, which a useful network must beat: `copying`, `mean image`
            or `best constant`.
        by_degradation: for every combination of degradations that occurs, `pairs`, the `loss` of the best
            epoch, `copy` and `mean_image`.
        train_cubes: number of training cubes.
        validation_cubes: number of validation cubes.
        split: the rule that split them.
        effective_rank: rank of every level's pooled features, with the weights of the best epoch and with
            the initial ones (`ranks.level_ranks`); empty if a single cube validates.
        warning: a caution about the figures; None without one.
        network: name of the network.
        weights: number of its parameters.
        checkpoint: the best checkpoint.
        losses: the file with the losses of every epoch.
        curves: plot of the losses of all epochs.
        picture: picture of restored validation cubes.
    """

    run: str
    status: str
    stopped_by: str
    epochs: int
    best_epoch: int
    validation_loss: float
    copy_loss: float
    mean_image_loss: float
    constant_loss: float
    lowest_baseline: str
    by_degradation: dict[str, dict[str, float]]
    train_cubes: int
    validation_cubes: int
    split: str
    effective_rank: list[LevelRank]
    warning: str | None
    network: str
    weights: int
    checkpoint: str
    losses: str
    curves: str
    picture: str


@shows(TrainingBars)
def pretrain(
    store: AnyPath,
    out: AnyPath,
    parameters: PretrainParameters | None = None,
    execution: Execution | None = None,
    *,
    initial_encoder: AnyPath | None = None,
    overwrite: bool = False,
    progress: Progress | bool = False,
    say: Say = lambda _: None,
) -> PretrainOutcome:
    """Train a U-Net to restore degraded cubes, 3D or 2D, or resume an earlier run.

    Args:
        store: a pair store, or a cube store, whose cubes are then degraded on the fly.
        out: the run folder. An existing run is resumed; a finished one is left unchanged, unless `epochs` or
            `patience` allow more.
        parameters: parameters of the run; the published ones by default.
        execution: how to carry it out.
        initial_encoder: a file with initial weights for the encoder of the 2D U-Net
            (`load.read_encoder`).
        overwrite: start again if `out` holds a run.
        progress: True shows bars on stderr; a callback is called as the work advances.
        say: called with one sentence per epoch, and with warnings.

    Raises:
        CallError: the store, the run folder or a parameter is not suitable; the error says what to change.
        DataError: a cube or a checkpoint cannot be read, or the loss is no longer finite.
        KeyboardInterrupt: when interrupted. After SIGTERM or Ctrl-C the position is saved to the step,
            otherwise the last checkpoint holds.
    """
    report = callback(progress)
    parameters, execution = parameters or PretrainParameters(), execution or Execution()
    if execution.tensorboard:
        check_tensorboard()
    encoder = Path(initial_encoder) if initial_encoder is not None else None
    call = Call(os.fspath(store), Path(out), parameters, execution, encoder, overwrite)
    with launched(execution.devices, _join_in, call):
        return _take_part(call, report, say)


@dataclass(frozen=True)
class Call:
    """The arguments that every process of a run is called with; see `pretrain`."""

    store: str | Path
    out: Path
    parameters: PretrainParameters
    execution: Execution
    initial_encoder: Path | None
    overwrite: bool


def _join_in(call: Call) -> None:
    """Take part as one of the further processes, silently."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process passes a Ctrl-C on
    _take_part(call, silent, lambda _: None)


def _take_part(call: Call, report: Progress, say: Say) -> PretrainOutcome:
    """Carry out a call in one of its processes; only the leading one writes and prints."""
    device = choose_device(call.execution.device, call.execution.devices)
    with ExitStack() as stack:
        group = stack.enter_context(joined(device))
        precision, fast = call.parameters.precision, call.execution.fast
        stack.enter_context(steady(group.local, fast=fast, tf32=precision == "tf32"))
        if not group.leads:
            report, say = silent, lambda _: None
        data, state, beginning = group.in_turn(lambda: open_call(call, device, group.world))
        described = describe(data, beginning)
        run = group.from_lead(lambda: stack.enter_context(hold_run(call.out, Run)))
        earlier = group.from_lead(lambda: read_earlier(run, described, data, call.overwrite))
        share_batches(state.model, group)
        if data.split.warning:
            say(f"Warning: {data.split.warning}")
        if device.type == "cpu" and data.parameters.precision == "fp16":
            say("Warning: on a CPU, --precision fp16 is many times slower than float32.")
        if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(_threads(data))  # `steady` restores the number
        batches = data.batches(device)
        ranks = earlier[1] if earlier is not None else None  # with the initial weights
        if ranks is None:
            ranked = works_to_rank(data.validation, data.parameters.batch_size)
            ranks = level_ranks(state.model, batches, ranked, group)
        if earlier is not None:
            baselines, _, checkpoint = earlier
            group.in_turn(lambda: state.restore(checkpoint, run.last))
        else:
            baselines, mean = look_first(batches, data, report, group)
            for network in state.networks:
                begin_at(network, mean)
        status = "already finished"
        if not stopped_by(state, data):
            status = "finished"
            if earlier is not None:
                say(f"Continuing after {position_words(state)}.")
            described |= {"baselines": asdict(baselines), "effective_rank": ranks}
            group.from_lead(lambda: run.begin(described, state.epoch))
            execution, leads = call.execution, group.leads
            events = stack.enter_context(writing_events(run, execution.tensorboard and leads))
            stop = stack.enter_context(stop_on_signals(say))
            profiled = stack.enter_context(profiling(run, execution.profile and leads, say))
            after_step = (profiled, look_ahead(state, data, device, group, say).step)
            trainer = Trainer(
                run, state, data, batches, baselines, group, execution, events, stop, after_step, report, say
            )
            trainer.train()
        outcome = group.from_lead(lambda: _outcome(run, state, data, baselines, ranks, status))
        if warning := collapse_words(outcome.effective_rank, call.parameters.drop_skips):
            say(warning)
        return outcome


def open_call(
    call: Call, device: torch.device, processes: int
) -> tuple[PretrainData, TrainingState, Beginning | None]:
    """Open the store, and build the network with its initial weights."""
    data = open_data(call.store, call.parameters, processes)
    state = new_state(data.parameters, device, call.execution.channels_last)
    if call.initial_encoder is None:
        return data, state, None
    beginning = read_encoder(call.initial_encoder)
    for network in state.networks:
        beginning.begin(network)
    return data, state, beginning


def _threads(data: PretrainData) -> int:
    """Return the fastest number of threads for the network, out of those available now."""
    given, kind = data.parameters, architecture(data.parameters.network)
    width, available = given.width or kind.published_width, torch.get_num_threads()
    return computing_threads(kind.name, width, data.feed.size, given.batch_size, available)


def describe(data: PretrainData, beginning: Beginning | None) -> dict[str, Any]:
    """Return the content of `run.json` except the baselines, as plain JSON values."""
    first = beginning.source() if beginning else None
    own = {"parameters": data.parameters.as_dict(), "initial_encoder": first}
    return {"genesis_toolkit": __version__, **own, **data.describe()}


def make_optimiser(weights: Iterable[nn.Parameter], parameters: PretrainParameters) -> Optimizer:
    """Return the optimiser that the parameters name, for `weights`."""
    if parameters.optimiser == "sgd":
        return SGD(weights, lr=parameters.lr, momentum=parameters.momentum)
    return (Adam if parameters.optimiser == "adam" else AdamW)(weights, lr=parameters.lr)


def new_state(
    parameters: PretrainParameters, device: torch.device, channels_last: bool | None = None
) -> TrainingState:
    """Return a network on a device with its initial weights, which depend on the seed only.

    Its memory order is channels last; with None, only on the CPU, where it cuts a step to 0.7 of the time,
    mostly in the backward convolutions.
    """
    kind = architecture(parameters.network)
    parameters = parameters.of_network(kind.name, parameters.width or kind.published_width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(parameters.seed)
        model = build_network(parameters.network, parameters.width)
    if channels_last or (channels_last is None and device.type == "cpu"):
        order = kind.memory_format
        model.to(memory_format=order)  # type: ignore[call-overload] # torch leaves it out
    model.to(device)
    return TrainingState(
        model,
        make_optimiser(model.parameters(), parameters),
        GradScaler(device.type, enabled=parameters.precision == "fp16"),
        copy.deepcopy(model) if parameters.ema else None,
        parameters.ema or 0.0,
    )


def read_earlier(
    run: Run, described: Mapping[str, Any], data: PretrainData, overwrite: bool
) -> tuple[Baselines, list[float] | None, dict[str, Any]] | None:
    """Read the measurements and the checkpoint of an earlier call, and check that this one may resume it.

    The measurements are the baselines and the effective ranks of the initial weights, which older runs lack.
    With `overwrite` the earlier run is deleted.

    Raises:
        CallError: the run was started with other parameters, weights or data.
        DataError: one of its files is missing or damaged.
    """
    if overwrite:
        run.clear()
    earlier = run.described()
    if earlier is None:
        return None
    check_same(run, earlier, described, data.parameters.stopping_rules)
    if not run.last.exists():
        if len(run.lines()) > 1:  # the first epoch may be recorded before its checkpoint is written
            raise DataError(
                f"{run.last}, the checkpoint to resume from, is missing: use --overwrite to start again."
            )
        return None
    baselines, checkpoint = Baselines.from_json(earlier["baselines"]), read_checkpoint(run.last)
    if checkpoint["best_epoch"]:
        _check_best(run, baselines, checkpoint["best_epoch"])
    return baselines, earlier.get("effective_rank"), checkpoint


def _check_best(run: Run, baselines: Baselines, epoch: int) -> None:
    """Check that the checkpoint and the record of the best epoch are intact, before training continues."""
    try:
        read_checkpoint(run.best)
    except DataError as error:
        raise DataError(
            f"The network of epoch {epoch}, the best so far, is lost: {error} Restore the "
            "file from a copy, or use --overwrite to start again."
        ) from None
    recorded = run.records([epoch])[0].get("by_degradation")
    if not isinstance(recorded, dict) or not recorded.keys() <= baselines.by_degradation.keys():
        raise DataError(
            f"{run.description} and {run.losses} list different degradations, so one of the "
            "two files is damaged: restore it from a copy, or use --overwrite to start "
            "again."
        )


def _outcome(
    run: Run,
    state: TrainingState,
    data: PretrainData,
    baselines: Baselines,
    first: Sequence[float],
    status: str,
) -> PretrainOutcome:
    """Return the outcome of a run, from its state, its losses, and the `first` ranks, of initial weights."""
    record = run.records([state.best_epoch])[0] if state.best_epoch else {}
    losses = record.get("by_degradation", {})
    return PretrainOutcome(
        run=str(run.folder),
        status=status,
        stopped_by=stopped_by(state, data) or "",
        epochs=state.epoch,
        best_epoch=state.best_epoch,
        validation_loss=state.best_loss,
        copy_loss=baselines.copy,
        mean_image_loss=baselines.mean_image,
        constant_loss=baselines.constant,
        lowest_baseline=next(iter(baselines.named())),
        by_degradation={
            name: {**asdict(baselines.by_degradation[name]), "loss": loss} for name, loss in losses.items()
        },
        train_cubes=len(data.split.train),
        validation_cubes=len(data.split.validation),
        split=data.split.rule,
        effective_rank=compare_ranks(state.model, first, record.get("effective_rank", [])),
        warning=data.split.warning,
        network=str(data.parameters.network),
        weights=weights_of(state.model),
        checkpoint=str(run.best),
        losses=str(run.losses),
        curves=str(run.curves),
        picture=str(run.picture),
    )
