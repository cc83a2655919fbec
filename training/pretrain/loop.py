"""The training loop: degraded cubes in, restored cubes out, mean squared error (METHOD.md section 4).

See `Trainer.train` and `_train_epoch`; `call` sets up everything that they use.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from time import perf_counter
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from genesis_toolkit.pipeline.ledger import write_whole
from genesis_toolkit.pipeline.progress import Progress
from genesis_toolkit.training.feeding.normalise import normalise
from genesis_toolkit.training.feeding.order import Work, part_of
from genesis_toolkit.training.feeding.ring import Batch, Batches
from genesis_toolkit.training.machine.devices import autocast
from genesis_toolkit.training.machine.interrupt import Stop
from genesis_toolkit.training.machine.processes import Group
from genesis_toolkit.training.machine.run_folder import Run
from genesis_toolkit.training.machine.steps import Saving, Say, Tick, counting, diverged
from genesis_toolkit.training.networks.skips import SkipDropper
from genesis_toolkit.training.pretrain.baselines import Baselines
from genesis_toolkit.training.pretrain.data import PretrainData
from genesis_toolkit.training.pretrain.parameters import (
    Execution,
    PretrainParameters,
    ema_decay,
    learning_rate,
)
from genesis_toolkit.training.pretrain.ranks import level_ranks, works_to_rank
from genesis_toolkit.training.pretrain.show import EpochRecord, Events, draw_losses, draw_restored
from genesis_toolkit.training.pretrain.validation import Validation, validate
from genesis_toolkit.training.weights.files import PRETRAINED, TrainingState, checkpoint_bytes


@dataclass
class Trainer:
    """The loop, and the objects it works with."""

    run: Run
    state: TrainingState
    data: PretrainData
    batches: Batches
    baselines: Baselines
    group: Group
    execution: Execution
    events: Events
    stop: Stop
    after_step: Sequence[Callable[[], None]]
    report: Progress
    say: Say

    def __post_init__(self) -> None:
        self.saving = Saving(self.execution.save_steps, self.execution.save_seconds)
        self.saved = position_words(self.state)
        self.drawn, self.draw_from = 0, 0.0
        shape = (self.data.parameters.batch_size, 1, *self.batches.feed.size)
        self.rooms = [torch.empty(shape, device=self.state.device) for _ in range(2)]
        given = self.data.parameters
        self.ranked = works_to_rank(self.data.validation, given.batch_size)
        self.skips = SkipDropper(self.state.model, given.drop_skips, given.seed)
        self.network: nn.Module = self.state.model
        if self.execution.compile:
            self.network = cast(nn.Module, torch.compile(self.network))

    def train(self) -> None:
        """Train epoch by epoch until a stopping rule applies; after each, save all that resuming needs.

        Raises:
            DataError: the loss is no longer finite, or a cube cannot be read.
            KeyboardInterrupt: the run was asked to stop; it has saved its position.
        """
        state = self.state
        while not stopped_by(state, self.data):
            works = self.data.training(state.epoch)
            parts = -(-len(self.data.validation) // self.group.world)
            epoch, total = f"epoch {state.epoch + 1}: ", len(works) + parts
            self.report(f"{epoch}first step", state.step, total)  # which may take a minute
            tick = counting(self.report, epoch, total, state.step)
            started, waited, before = perf_counter(), self.batches.waited, state.loss_cubes
            self._train_epoch(works, tick)
            trained, waited = perf_counter() - started, self.batches.waited - waited
            validation = self._validate(tick)
            self._check_finite(validation.loss, "in validation")
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
                constant_loss=self.baselines.constant,
                by_degradation=validation.by_degradation,
                best=best,
                seconds=round(perf_counter() - started, 3),
                cubes_per_second=round(cubes / trained, 3),
                waiting=round(waited / trained, 4),
                effective_rank=level_ranks(state.ema or state.model, self.batches, self.ranked, self.group),
            )
            if self.group.leads:
                self._keep(record, validation)
        self._draw_losses()

    def _train_epoch(self, works: list[Work], tick: Tick) -> None:
        """Run the remaining steps of an epoch; a step with a non-finite loss leaves the weights unchanged."""
        state, given = self.state, self.data.parameters
        left, started, waited, seen = works[state.step :], perf_counter(), self.batches.waited, 0
        self.network.train()
        with closing(self.batches.stream(part_of(left, self.group.rank, self.group.world))) as stream:
            for work, batch in zip(left, stream, strict=True):
                lr = self._learning_rate(state.epoch, state.step)
                state.set_learning_rate(lr)
                self.skips.draw(state.epoch, state.step)
                original, degraded = self._on_device(batch)
                with autocast(state.device, given.precision):
                    restored = self.network(degraded)
                # The mean over the whole batch, of which this process may hold only a part.
                loss = functional.mse_loss(restored.float(), original) * (len(batch) / len(work.cubes))
                state.optimiser.zero_grad()
                state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call] # torch leaves it so
                # The only point where the step waits for the device, when nearly all its work is queued.
                value, stopping = self._agree(loss)
                self._check_finite(value, f"in step {state.step + 1}")
                state.scaler.unscale_(state.optimiser)
                if given.clip_norm is not None:
                    torch.nn.utils.clip_grad_norm_(state.model.parameters(), given.clip_norm)
                state.scaler.step(state.optimiser)
                state.scaler.update()
                state.decay = ema_decay(given, state.epoch * self.data.steps + state.step)
                state.finish_step(value, len(work.cubes))
                self.events.tell_step(state.epoch * self.data.steps + state.step, value, lr)
                for call in self.after_step:
                    call()
                seen, seconds = seen + len(work.cubes), perf_counter() - started
                waiting = 100 * (self.batches.waited - waited) / seconds
                tick(
                    f"training, loss {state.loss:.4f}, {seen / seconds:.1f} cubes/s, {waiting:.1f} % waiting"
                )
                if stopping:
                    self._leave()
                if self.saving.due():
                    self._save()

    def _on_device(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return original and degraded cubes, float32 `[cube, 1, x, y, z]` in [0, 1]; see `Ring.stream`."""
        window, n = self.batches.feed.window, len(batch)
        whole = [cubes.to(self.state.device, non_blocking=True) for cubes in (batch.original, batch.degraded)]
        original, degraded = (
            normalise(cubes, window, room[:n]) for cubes, room in zip(whole, self.rooms, strict=True)
        )
        return original, degraded

    def _validate(self, tick: Tick) -> Validation:
        network = self.state.ema or self.network
        data, batches = self.data, self.batches

        def step(what: str) -> None:
            tick(what)
            # Several processes are not in step here, so they finish validating.
            if self.stop.asked and self.group.world == 1:
                self._leave()

        return validate(network, batches, data.validation, step, data.parameters.precision, self.group)

    def _learning_rate(self, epoch: int, step: int) -> float:
        return learning_rate(self.data.parameters, epoch * self.data.steps + step, self.data.steps)

    def _agree(self, loss: torch.Tensor) -> tuple[float, bool]:
        """Sum the gradients over the processes, so that they cover the whole batch.

        Return its loss, and whether any process was asked to stop: the same in every process.
        """
        asked = torch.full_like(loss, float(self.stop.asked), requires_grad=False)
        value, asked_by = self.group.add_gradients(
            self.state.model, torch.stack((loss.detach(), asked))
        ).tolist()
        return value, asked_by > 0

    def _leave(self) -> None:
        """Save the position of the run, to the step, and stop."""
        self._save()
        self._draw_losses()
        raise KeyboardInterrupt

    def _save(self) -> None:
        if self.group.leads:
            write_whole(self.run.last, pack(self.state, self.data.parameters))
        self.saving.saved()
        self.saved = position_words(self.state)

    def _keep(self, record: EpochRecord, validation: Validation) -> None:
        """Write and report a finished epoch; the checkpoint to resume from comes last."""
        self.run.append(record)
        if record.best:
            write_whole(self.run.best, pack(self.state, self.data.parameters, best=True))
            title = f"epoch {record.epoch}, validation loss {validation.loss:.4f},\n"
            title += self.baselines.compare(validation.loss)
            slices = [piece.named(str(self.data.names[piece.cube])) for piece in validation.slices]
            draw_restored(self.run.picture, slices, title)
        self._save()
        if perf_counter() >= self.draw_from:
            self._draw_losses()
        self.events.tell_epoch(record)
        self.say(str(record))
        if validation.collapsed(self.baselines):
            self.say(validation.collapse_words(record.lr))

    def _draw_losses(self) -> None:
        """Draw the losses of all epochs, unless less than 20 times the drawing time has passed since."""
        epoch, started = self.state.epoch, perf_counter()
        if self.group.leads and epoch != self.drawn:
            draw_losses(self.run.curves, self.run.records(range(1, epoch + 1)), self.baselines)
            self.drawn, self.draw_from = epoch, 21 * perf_counter() - 20 * started

    def _check_finite(self, loss: float, place: str) -> None:
        if math.isfinite(loss):
            return
        last = self.run.last
        kept = f"{last} keeps {self.saved}" if last.exists() else "there is no checkpoint yet"
        raise diverged(f"epoch {self.state.epoch + 1}, {place}; {kept}", self.data.parameters.lr)


def pack(state: TrainingState, parameters: PretrainParameters, *, best: bool = False) -> bytes:
    """Return the bytes of a checkpoint; the `best` is not for resuming (`TrainingState.content`)."""
    return checkpoint_bytes(PRETRAINED, state.content(parameters.as_dict(), best=best))


def position_words(state: TrainingState) -> str:
    """Return the position of a run: `step 7 of epoch 2`, or `epoch 1` after a finished epoch."""
    return f"step {state.step} of epoch {state.epoch + 1}" if state.step else f"epoch {state.epoch}"


def stopped_by(state: TrainingState, data: PretrainData) -> str | None:
    """Return the rule that stops a run here: `epochs`, `patience`, `max_steps`; None if it continues."""
    given = data.parameters
    if state.step:
        return None
    if given.max_steps is not None and state.epoch * data.steps >= given.max_steps:
        return "max_steps"
    if state.epoch >= given.epochs:
        return "epochs"
    return "patience" if state.stale >= given.patience else None
