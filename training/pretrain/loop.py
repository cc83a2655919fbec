"""Pre-training: degraded cubes in, restored cubes out, mean squared error (METHOD.md section 4).

The loop is `Trainer.train` with `_train_epoch`. Nothing in it is random: the first weights depend on the
seed, the order and the degradations on (seed, epoch), the learning rate on the position. So a run that was
killed goes on from its last checkpoint, be it within an epoch, as if nothing had happened.
"""

import math
import signal
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from genesis_toolkit.pipeline.engine import Progress, silent
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import write_whole
from genesis_toolkit.pipeline.version import __version__
from genesis_toolkit.training.feeding.ring import Batch, Batches, Work, normalise, part_of
from genesis_toolkit.training.machine.devices import autocast, choose_device, steady
from genesis_toolkit.training.machine.interrupt import Saving, Stop, stop_on_signals
from genesis_toolkit.training.machine.processes import Group, joined, launched
from genesis_toolkit.training.machine.run_folder import EpochRecord, Run, hold_run
from genesis_toolkit.training.networks.norms import share_batches
from genesis_toolkit.training.pretrain.before import begun_before
from genesis_toolkit.training.pretrain.data import PretrainData, open_data
from genesis_toolkit.training.pretrain.optimisers import learning_rate
from genesis_toolkit.training.pretrain.outcome import PretrainOutcome, outcome_of, stopped_by
from genesis_toolkit.training.pretrain.parameters import Execution, PretrainParameters
from genesis_toolkit.training.pretrain.pictures import draw_restored
from genesis_toolkit.training.pretrain.show import Events, check_tensorboard, profiling, writing_events
from genesis_toolkit.training.pretrain.validation import (
    Baselines,
    Validation,
    mean_image,
    measure_baselines,
    validate,
    works_to_average,
)
from genesis_toolkit.training.weights.files import TrainingState, new_state, pack, restore, start_at
from genesis_toolkit.training.weights.initial import InitialEncoder, read_initial_encoder

#: Told in sentences what a person should know: an epoch's figures, a warning.
Say = Callable[[str], None]


def pretrain(
    store: str | Path,
    out: Path,
    parameters: PretrainParameters | None = None,
    execution: Execution | None = None,
    *,
    initial_encoder: Path | None = None,
    overwrite: bool = False,
    report: Progress = silent,
    say: Say = lambda _: None,
) -> PretrainOutcome:
    """Train a U-Net to restore degraded cubes, 3D or 2D, or go on with a run that was begun.

    Args:
        store: a pair store, or a cube store, whose cubes are then degraded on the fly.
        out: the folder of the run. A run that is there goes on; one that is finished is left as it is, unless
            `epochs` or `patience` ask for more.
        parameters: of the run; the published ones when left out.
        execution: how it is carried out.
        initial_encoder: a file of weights for the encoder of the 2D U-Net to begin with (`initial`).
        overwrite: begin again where a run is.
        report: told (what, done, total) after every step.
        say: told one sentence an epoch, and warnings.

    Raises:
        CallError: the store, the run folder or a parameter does not fit; the sentence says what to change.
        DataError: a cube or a checkpoint cannot be read, or the loss is no number any more.
        KeyboardInterrupt: when interrupted. Where SIGTERM or Ctrl-C asked for it, the position is on the disk
            to the step, otherwise the last checkpoint.
    """
    parameters, execution = parameters or PretrainParameters(), execution or Execution()
    if execution.tensorboard:
        check_tensorboard()
    call = _Call(store, out, parameters, execution, initial_encoder, overwrite)
    with launched(execution.devices, _join_in, call):
        return _take_part(call, report, say)


@dataclass(frozen=True)
class _Call:
    """What every process of a run is called with; see `pretrain`."""

    store: str | Path
    out: Path
    parameters: PretrainParameters
    execution: Execution
    initial_encoder: Path | None
    overwrite: bool


def _join_in(call: _Call) -> None:
    """Be one of the further processes: without a word, unless it fails by itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a Ctrl-C the first process tells the others
    try:
        _take_part(call, silent, lambda _: None)
    except (CallError, DataError) as error:
        raise SystemExit(f"Error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _take_part(call: _Call, report: Progress, say: Say) -> PretrainOutcome:
    """From the store to the outcome, in each of the processes; the leading one writes and speaks."""
    execution = call.execution
    device = choose_device(execution.device, execution.devices)
    with ExitStack() as stack:
        group = stack.enter_context(joined(device))
        stack.enter_context(steady(group.local))
        if not group.leads:
            report, say = silent, lambda _: None
        data = group.in_turn(lambda: open_data(call.store, call.parameters, group.world))
        state = new_state(data.parameters, device, execution.channels_last)
        first = group.in_turn(lambda: _begin_with(state, call.initial_encoder))
        run = group.from_lead(lambda: stack.enter_context(hold_run(call.out, Run)))
        described = _described(data, first)
        begun, checkpoint = group.from_lead(lambda: begun_before(run, described, data, call.overwrite))
        share_batches(state.model, group)
        if checkpoint is not None:
            group.in_turn(lambda: restore(state, checkpoint, run.last))
        if data.split.warning:
            say(f"Warning: {data.split.warning}")
        if device.type == "cpu" and data.parameters.precision == "fp16":
            say("Warning: on a processor --precision fp16 takes many times as long as float32.")
        finished = stopped_by(state, data) is not None
        if checkpoint is not None and not finished:
            say(f"Continuing after {_position(state)}.")
        batches = data.batches(pin=device.type == "cuda")
        if begun is not None and checkpoint is not None:
            baselines = Baselines.from_json(begun["baselines"])
        else:
            baselines, mean = group.from_lead(lambda: _first_look(batches, data, report))
            start_at(state, mean)
        if not finished:
            described["baselines"] = asdict(baselines)
            group.from_lead(lambda: run.begin(described, state.epoch))
            wanted = execution.tensorboard and group.leads
            events = stack.enter_context(writing_events(run, wanted))
            stop = stack.enter_context(stop_on_signals())
            at_step = stack.enter_context(profiling(run, execution.profile and group.leads, say))
            trainer = Trainer(
                run, state, data, batches, baselines, group, execution, events, stop, at_step, report, say
            )
            trainer.train()
        status = "already finished" if finished else "finished"
        return group.from_lead(lambda: outcome_of(run, state, data, baselines, status))


def _begin_with(state: TrainingState, path: Path | None) -> InitialEncoder | None:
    """Let the encoder begin with the weights of a file, where there is one."""
    if path is None:
        return None
    first = read_initial_encoder(path)
    for network in (state.model, state.ema):
        if network is not None:
            first.begin(network)
    return first


def _first_look(batches: Batches, data: PretrainData, report: Progress) -> tuple[Baselines, float]:
    """The baselines, and the mean voxel of training originals, in [0, 1], from which the network starts."""
    works = works_to_average(data.split.train, data.parameters.batch_size)
    tick = _counter(report, "before epoch 1: ", len(works) + len(data.validation))
    mean, window = mean_image(batches, works, tick), batches.feed.window
    baselines = measure_baselines(batches, data.validation, mean, tick)
    return baselines, (float(mean.mean()) - window.low) / window.span


def _described(data: PretrainData, first: InitialEncoder | None) -> dict[str, Any]:
    """What `run.json` says of the run, but for the baselines."""
    begun = {"parameters": data.parameters.as_dict(), "initial_encoder": first.describe() if first else None}
    return {"genesis_toolkit": __version__, **begun, **data.describe()}


@dataclass
class Trainer:
    """The loop, and what it works with."""

    run: Run
    state: TrainingState
    data: PretrainData
    batches: Batches
    baselines: Baselines
    group: Group
    execution: Execution
    events: Events
    stop: Stop
    at_step: Callable[[], None]
    report: Progress
    say: Say

    def __post_init__(self) -> None:
        self.saving = Saving(self.execution)
        self.saved = _position(self.state)
        shape = (self.data.parameters.batch_size, 1, *self.batches.feed.size)
        self.rooms = [torch.empty(shape, device=self.state.device) for _ in range(2)]
        self.network: nn.Module = self.state.model
        if self.execution.compile:
            self.network = cast(nn.Module, torch.compile(self.network))

    def train(self) -> None:
        """Epoch after epoch until a rule of stopping holds; after each, all it takes to go on is on the disk.

        Raises:
            DataError: the loss is no number any more, or a cube cannot be read.
            KeyboardInterrupt: the run was asked to stop; it has written where it is.
        """
        state = self.state
        while not stopped_by(state, self.data):
            works = self.data.training(state.epoch)
            parts = -(-len(self.data.validation) // self.group.world)
            tick = _counter(self.report, f"epoch {state.epoch + 1}: ", len(works) + parts, state.step)
            begun, waited, before = perf_counter(), self.batches.waited, state.loss_cubes
            try:
                self._train_epoch(works, tick)
                trained, waited = perf_counter() - begun, self.batches.waited - waited
                validation = self._validate(tick)
                _check_finite(validation.loss, "in validation")
            except FloatingPointError as error:
                raise DataError(self._no_number(str(error))) from None
            train_loss, cubes = state.loss, state.loss_cubes - before
            best = state.finish_epoch(validation.loss)
            record = EpochRecord(
                epoch=state.epoch,
                variant=works[0].variant,
                steps=len(works),
                lr=self._learning_rate(state.epoch - 1, len(works) - 1),
                train_loss=train_loss,
                validation_loss=validation.loss,
                copy_loss=self.baselines.copy,
                mean_image_loss=self.baselines.mean_image,
                by_degradation=validation.by_degradation,
                best=best,
                seconds=round(perf_counter() - begun, 3),
                cubes_per_second=round(cubes / trained, 3),
                waiting=round(waited / trained, 4),
            )
            if self.group.leads:
                self._keep(record, validation)

    def _train_epoch(self, works: list[Work], tick: Callable[[str], None]) -> None:
        """The steps of one epoch that are left.

        Raises:
            FloatingPointError: the loss is no finite number; that step has not touched the weights.
        """
        state, given = self.state, self.data.parameters
        left, begun, waited, seen = works[state.step :], perf_counter(), self.batches.waited, 0
        self.network.train()
        with closing(self.batches.stream(part_of(left, self.group.rank, self.group.world))) as stream:
            for work, batch in zip(left, stream, strict=True):
                lr = self._learning_rate(state.epoch, state.step)
                state.set_learning_rate(lr)
                original, degraded = self._on_device(batch)
                with autocast(state.device, given.precision):
                    restored = self.network(degraded)
                # The mean over the whole batch, of which this process may have a part only.
                loss = functional.mse_loss(restored.float(), original) * (len(batch) / len(work.cubes))
                value, stopping = self._agree(loss)
                _check_finite(value, f"in step {state.step + 1}")
                state.optimiser.zero_grad()
                state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call] # torch leaves it so
                self.group.add_gradients(state.model)
                state.scaler.unscale_(state.optimiser)
                if given.clip_norm is not None:
                    torch.nn.utils.clip_grad_norm_(state.model.parameters(), given.clip_norm)
                state.scaler.step(state.optimiser)
                state.scaler.update()
                state.finish_step(value, len(work.cubes))
                self.events.tell_step(state.epoch * self.data.steps + state.step, value, lr)
                self.at_step()
                seen, seconds = seen + len(work.cubes), perf_counter() - begun
                waiting = 100 * (self.batches.waited - waited) / seconds
                tick(
                    f"training, loss {state.loss:.4f}, {seen / seconds:.1f} cubes/s, {waiting:.1f} % waiting"
                )
                if stopping:
                    self._leave()
                if self.saving.due():
                    self._save()

    def _on_device(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Original and degraded cubes, float32 `[cube, 1, x, y, z]` in [0, 1], good until the next batch."""
        window, n = self.batches.feed.window, len(batch)
        whole = [cubes.to(self.state.device, non_blocking=True) for cubes in (batch.original, batch.degraded)]
        original, degraded = (
            normalise(cubes, window, room[:n]) for cubes, room in zip(whole, self.rooms, strict=True)
        )
        return original, degraded

    def _validate(self, tick: Callable[[str], None]) -> Validation:
        network = self.state.ema or self.network
        data, batches = self.data, self.batches

        def told(what: str) -> None:
            tick(what)
            # Several processes are not in step here, so they go on to the end.
            if self.stop.asked and self.group.world == 1:
                self._leave()

        return validate(network, batches, data.validation, told, data.parameters.precision, self.group)

    def _learning_rate(self, epoch: int, step: int) -> float:
        return learning_rate(self.data.parameters, epoch * self.data.steps + step, self.data.steps)

    def _agree(self, loss: torch.Tensor) -> tuple[float, bool]:
        """The loss of the whole batch, and whether anyone was asked to stop: the same in every process."""
        told = torch.stack((loss.detach().double(), loss.new_tensor(self.stop.asked, dtype=torch.float64)))
        value, asked = self.group.add_up(told).tolist()
        return value, asked > 0

    def _leave(self) -> None:
        """Write where the run is, to the step, and end it."""
        self._save()
        raise KeyboardInterrupt

    def _save(self) -> None:
        if self.group.leads:
            write_whole(self.run.last, pack(self.state, self.data.parameters))
        self.saving.saved()
        self.saved = _position(self.state)

    def _keep(self, record: EpochRecord, validation: Validation) -> None:
        """Write and tell a finished epoch, the checkpoint to go on from last of all."""
        self.run.append(record)
        if record.best:
            write_whole(self.run.best, pack(self.state, self.data.parameters, best=True))
            title = f"epoch {record.epoch}, validation loss {validation.loss:.4f}"
            draw_restored(self.run.picture, validation.slices, title)
        self._save()
        self.events.tell_epoch(record)
        self.say(str(record))
        if validation.collapsed(self.baselines):
            self.say(_collapse(validation, record.lr))

    def _no_number(self, place: str) -> str:
        kept = (
            f"{self.run.last} keeps {self.saved}" if self.run.last.exists() else "there is no checkpoint yet"
        )
        return (
            f"The loss is no number any more in epoch {self.state.epoch + 1}, {place}; {kept}. Begin again "
            f"with a lower learning rate, such as --lr {self.data.parameters.lr / 10:g}, and another --out "
            "or --overwrite."
        )


def _counter(report: Progress, prefix: str, total: int, done: int = 0) -> Callable[[str], None]:
    def tick(what: str) -> None:
        nonlocal done
        done += 1
        report(prefix + what, done, total)

    return tick


def _position(state: TrainingState) -> str:
    return f"step {state.step} of epoch {state.epoch + 1}" if state.step else f"epoch {state.epoch}"


def _check_finite(loss: float, place: str) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(place)


def _collapse(validation: Validation, lr: float) -> str:
    return (
        "Warning: the network gives nearly one value whatever it sees (standard deviation "
        f"{validation.spread:.4f}), no better than the best constant. If the next epochs do not change that, "
        f"begin again with a lower learning rate, such as --lr {lr / 10:g}."
    )
