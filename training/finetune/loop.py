"""The fine-tuning loop: a pre-trained or new network learns a target task, and is evaluated on the test fold.

It follows METHOD.md section 6, but with a fixed number of steps: the network after the last one is evaluated,
unless the best epoch is requested. See `FineTuner.train` and `_train_steps`; `finetune` sets up everything.
Nothing in a run is left to chance: the labelled scans and the initial weights depend on the seed, order and
augmentation on (seed, epoch). So a killed run resumes from its last checkpoint as if nothing had happened.
"""

import math
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.amp import GradScaler

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.ledger import AnyPath
from genesis_toolkit.pipeline.progress import Progress, TrainingBars, callback, shows
from genesis_toolkit.pipeline.store.open import open_targets
from genesis_toolkit.pipeline.version import __version__
from genesis_toolkit.training.finetune.augment import move, tint
from genesis_toolkit.training.finetune.data import TargetBatches, TargetData, target_data
from genesis_toolkit.training.finetune.heads import TargetNetwork, build_target_network
from genesis_toolkit.training.finetune.judge import Judge, Metrics
from genesis_toolkit.training.finetune.parameters import SCORES, FinetuneParameters, learning_rate
from genesis_toolkit.training.finetune.run import FinetuneOutcome, FinetuneRecord, FinetuneRun
from genesis_toolkit.training.machine.devices import autocast, choose_device, steady
from genesis_toolkit.training.machine.interrupt import Stop, stop_on_signals
from genesis_toolkit.training.machine.run_folder import check_same, hold_run
from genesis_toolkit.training.machine.steps import Saving, Say, Tick, counting, diverged
from genesis_toolkit.training.networks.registry import OF_THE_PAPERS, check_batch
from genesis_toolkit.training.weights.files import FINETUNED, TrainingState, load_weights, read_checkpoint
from genesis_toolkit.training.weights.load import Beginning, read_beginning

#: If the last step is evaluated, validation and a checkpoint follow after about this many steps.
STRIDE = 100

_SAVE_SECONDS = 60.0
_LOTTERY = 200  # validation cubes: with fewer, chance mostly decides which epoch is the best


@dataclass
class FineTuner:
    """The loop, and the objects it works with."""

    run: FinetuneRun
    state: TrainingState
    data: TargetData
    batches: TargetBatches
    stop: Stop
    report: Progress
    say: Say
    judge: Judge = field(init=False)

    def __post_init__(self) -> None:
        assert isinstance(self.state.model, TargetNetwork)
        self.judge = Judge(self.state.model, self.data, self.batches, self.state.device)
        self.per_epoch = len(self.data.training(0))

    @property
    def step(self) -> int:
        """Number of finished steps, in all finished epochs."""
        return min(self.state.epoch * self.per_epoch, self.data.steps)

    @property
    def stopped_by(self) -> str:
        """The rule that stops the run at its current position; empty if it continues."""
        given, state = self.data.parameters, self.state
        if self.step == self.data.steps:
            return "epochs" if given.epochs else "steps"
        return "patience" if given.patience and state.stale >= given.patience else ""

    def train(self) -> None:
        """Train epoch by epoch until a stopping rule applies; sometimes save all that resuming needs.

        Raises:
            DataError: the loss is no longer finite, or a cube cannot be read.
            KeyboardInterrupt: the run was asked to stop.
        """
        state, saving = self.state, Saving(None, _SAVE_SECONDS)
        if not state.epoch and self.data.parameters.freeze_encoder:
            self.judge.settle()
        while not self.stopped_by:
            started = perf_counter()
            due = self._validations(state.epoch + 1) > self._validations(state.epoch)
            works = self.data.training(state.epoch)[: self.data.steps - self.step]
            tick = self._counting_run(f"epoch {state.epoch + 1}: ")
            scores = self._fit_probe(works, tick) if self.data.probe else self._train_epoch(works, tick)
            train_loss = state.loss
            if due:
                self.judge.refresh()
            loss = self._finite(self.judge.validate(tick), "in validation") if due else None
            best = state.finish_epoch(math.inf if loss is None else loss)
            kept = best if self.data.parameters.select == "best" else bool(self.stopped_by)
            seconds = round(perf_counter() - started, 3)
            record = FinetuneRecord(state.epoch, len(works), train_loss, loss, kept, seconds, scores)
            self.run.append(record)
            if saving.due() or due:
                self.run.save(state, kept=kept)
                saving.saved()
            self.say(str(record))

    @property
    def _epochs(self) -> int:
        """Number of epochs of the whole run; the last may be cut short."""
        return math.ceil(self.data.steps / self.per_epoch)

    def _validations(self, epochs: int) -> int:
        """Return the number of validations in the first epochs: after the last, and any that may be best."""
        if self.data.parameters.select == "best":
            return epochs
        stride = max(1, STRIDE // self.per_epoch)
        return epochs // stride + (epochs == self._epochs and epochs % stride > 0)

    def _fit_probe(self, works: Sequence[NDArray[np.int64]], tick: Tick) -> dict[str, Metrics]:
        """Fit a linear probe to the labelled cubes, all at once."""
        self.state.finish_step(self.judge.fit_probe(works, tick), sum(map(len, works)))
        return {}

    def _train_epoch(self, works: Sequence[NDArray[np.int64]], tick: Tick) -> dict[str, Metrics]:
        """Train on these batches of the current epoch; return the metrics after the steps of `at_steps`."""
        begun, scores = self.step, {}
        marks = [at - begun for at in self.data.parameters.at_steps if begun < at < begun + len(works)]
        ends = [*marks, len(works)]
        for first, end in zip([0, *marks], ends, strict=True):
            self._train_steps(works[first:end], begun + first, tick)
            # After the very last step the network is evaluated anyway, unless the best one is selected.
            more = begun + end < self.data.steps or self.data.parameters.select == "best"
            if more and begun + end in self.data.parameters.at_steps:
                self.judge.refresh()
                tick_test = self._counting(f"step {begun + end}: ", len(self.data.test))
                scores[str(begun + end)], _ = self.judge.evaluate(tick_test)
        return scores

    def _train_steps(self, works: Sequence[NDArray[np.int64]], first: int, tick: Tick) -> None:
        """Train one step per batch; the first is the run's step `first`, counted from 0."""
        state, given, model = self.state, self.data.parameters, self.judge.network
        model.train()
        with closing(self.batches.stream(works)) as stream:
            for step, (work, batch) in enumerate(zip(works, stream, strict=True), first):
                state.set_learning_rate(learning_rate(given, step, self.data.steps))
                cubes, truth = self.judge.on_device(batch)
                if given.augment:
                    changes = self.data.augmentation(work, state.epoch)
                    cubes = tint(move(cubes, changes), changes)
                    if self.data.kind == "segment":
                        truth = move(truth, changes, nearest=True)
                with autocast(state.device, given.precision):
                    logits = model(cubes)
                loss = self.judge.loss(logits.float(), truth)
                state.optimiser.zero_grad()
                state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call] # torch leaves it so
                value = self._finite(loss.item(), "in training")
                state.scaler.step(state.optimiser)
                state.scaler.update()
                state.finish_step(value, len(work))
                tick(f"training, loss {state.loss:.4f}")

    def evaluate(self) -> tuple[Metrics, list[str]]:
        """Evaluate the network that was kept on the test fold: metrics by name, and notes on them."""
        kept = self.run.best
        load_weights(self.state.model, read_checkpoint(kept, FINETUNED)["state_dict"], kept)
        return self.judge.evaluate(self._counting("test: ", len(self.data.test)))

    def _counting_run(self, prefix: str) -> Tick:
        """Return a function that counts the steps and validation batches of the whole run."""
        batches = len(self.data.validation)
        total = self.data.steps + batches * self._validations(self._epochs)
        return self._counting(prefix, total, self.step + batches * self._validations(self.state.epoch))

    def _counting(self, prefix: str, total: int, done: int = 0) -> Tick:
        """Return a function that reports one more step, and stops the run if it was asked to stop."""
        count = counting(self.report, prefix, total, done)

        def tick(what: str) -> None:
            count(what)
            if self.stop.asked:
                raise KeyboardInterrupt

        return tick

    def _finite(self, loss: float, place: str) -> float:
        if math.isfinite(loss):
            return loss
        raise diverged(f"epoch {self.state.epoch + 1}, {place}", self.data.parameters.lr)


@shows(TrainingBars)
def finetune(
    targets: AnyPath,
    out: AnyPath,
    parameters: FinetuneParameters | None = None,
    *,
    weights: AnyPath | None = None,
    network: str | None = None,
    width: int | None = None,
    beginning: Beginning | None = None,
    device: str = "auto",
    threads: int | None = None,
    overwrite: bool = False,
    progress: Progress | bool = False,
    say: Say = lambda _: None,
) -> FinetuneOutcome:
    """Fine-tune a network on a target task and evaluate it on the test fold, or resume an earlier run.

    Args:
        targets: a target store, of cubes or images; it also determines the task.
        out: the run folder. An existing run is resumed; a finished one is left unchanged.
        parameters: parameters of the run; the defaults if omitted.
        weights: initial weights, as `load.read_beginning` accepts them; None: from scratch.
        network: network from scratch; by default `unet3d` for cubes and `unet2d` for images.
        width: channels of its first convolution from scratch; by default the published number.
        beginning: initial weights read before, instead of these three.
        device: `auto` (CUDA if available), `cpu` or `cuda`.
        threads: torch's threads on the CPU; None for one per core. Another number rounds differently.
        overwrite: start again if `out` holds a run.
        progress: True shows bars on stderr; a callback is called as the work advances.
        say: called with one sentence per epoch, and with warnings.

    Raises:
        CallError: the store, the run folder, the weights or a parameter is not suitable; the error says what
            to change.
        DataError: a fold lacks cubes or one kind of label, a cube or a checkpoint cannot be read, or the loss
            is no longer finite.
        KeyboardInterrupt: when interrupted, by Ctrl-C or SIGTERM. All finished epochs are saved.
    """
    report, out = callback(progress), Path(out)
    weights = Path(weights) if weights is not None else None
    store = open_targets(targets)
    if beginning is None:
        scratch = OF_THE_PAPERS[len(store.size)] if weights is None else None
        beginning = read_beginning(weights, network or scratch, width)
    elif (weights, network, width) != (None, None, None):
        raise CallError("Pass either beginning, or weights, network and width, but not both.")
    data = target_data(store, parameters or FinetuneParameters())
    with ExitStack() as stack:
        stack.enter_context(steady(threads=threads, tf32=data.parameters.precision == "tf32"))
        run = stack.enter_context(hold_run(out, FinetuneRun))
        described = describe_run(data, beginning)
        if overwrite:
            run.clear()
        earlier = run.described()
        if earlier is not None:
            check_same(run, earlier, described, (), "weights")
        done = run.outcome("already finished")
        if done is not None:
            read_checkpoint(run.best, FINETUNED)  # the purpose of a finished run
            return done
        state = new_state(beginning, data, choose_device(device))
        batches = TargetBatches(data, state.device)
        batches.check_foreground()
        warnings = _warnings(data, beginning)
        for warning in warnings:
            say(f"Warning: {warning}")
        if earlier is not None and run.last.exists():
            state.restore(read_checkpoint(run.last, FINETUNED), run.last)
            if data.parameters.select == "best" and state.best_epoch:
                read_checkpoint(run.best, FINETUNED)
            say(f"Continuing after epoch {state.epoch}.")
        run.begin(described, state.epoch)
        stop = stack.enter_context(stop_on_signals(say))
        tuner = FineTuner(run, state, data, batches, stop, report, say)
        tuner.train()
        metrics, notes = tuner.evaluate()
        outcome = _outcome(tuner, beginning, metrics, [*warnings, *notes])
        run.finish(outcome)
        return outcome


def describe_run(data: TargetData, beginning: Beginning) -> dict[str, Any]:
    """Return the content of `run.json`."""
    network = {"network": beginning.network, "width": beginning.width}
    return {
        "genesis_toolkit": __version__,
        "parameters": {**data.parameters.as_dict(), **network},
        "weights": beginning.source() if beginning.file else None,
        "beginning": beginning.describe(),
        **data.describe(),
    }


def _warnings(data: TargetData, beginning: Beginning) -> list[str]:
    """Return warnings: the weights are from other values than the store's, or chance selects the epoch."""
    window, known, warnings = data.store.window, beginning.window, []
    if known not in (None, (window.low, window.high)):
        warnings.append(
            f"the weights were trained on values from {known[0]} to {known[1]}, but the store's range from "
            f"{window.low} to {window.high}: both are mapped to [0, 1], so the same value looks different "
            "to the network."
        )
    cubes = sum(map(len, data.validation))
    if data.parameters.select == "best" and cubes < _LOTTERY:
        warnings.append(
            f"--select best chooses the epoch on {cubes} validation cubes; with fewer than "
            f"{_LOTTERY} the choice is mostly chance. Use --select last instead."
        )
    return warnings


def new_state(beginning: Beginning, data: TargetData, device: torch.device) -> TrainingState:
    """Return Adam and the network with its initial weights, which depend on the seed, not on the device.

    Raises:
        CallError: the network does not accept the store's cubes.
        DataError: the weights do not match the network.
    """
    store, given = data.store, data.parameters
    classes, axes = len(store.classes), len(store.size)
    network = build_target_network(
        beginning,
        data.kind,
        classes,
        axes,
        given.seed,
        all_levels=given.head == "all",
        probe=given.freeze_encoder,
        keep=given.keep or "all",
    )
    network.check_size(store.size)
    check_batch(beginning.network, store.size, min(data.sizes))
    if given.freeze_encoder:
        network.freeze_encoder()
    if device.type == "cpu":  # cuts a step to 0.7 of the time (`pretrain.call.new_state`)
        network.to(memory_format=network.memory_format)  # type: ignore[call-overload] # torch leaves it out
    network.to(device)
    learnt = [one for one in network.parameters() if one.requires_grad]
    scaler = GradScaler(device.type, enabled=given.precision == "fp16")
    return TrainingState(network, torch.optim.Adam(learnt, lr=given.lr), scaler)


def _outcome(
    tuner: FineTuner, beginning: Beginning, metrics: dict[str, float | None], notes: list[str]
) -> FinetuneOutcome:
    """Return the outcome of a finished run."""
    state, data = tuner.state, tuner.data
    name = SCORES[data.store.task]
    score = metrics[name]
    assert score is not None  # ensured by `target_data` and `check_foreground`
    described = data.describe()
    same = ("task", "kind", "train_scans", "train_cubes", "validation_cubes", "test_cubes")
    records = tuner.run.records(range(1, state.epoch + 1))
    kept = max(record["epoch"] for record in records if record["kept"])
    after = {step: metrics for record in records for step, metrics in record["scores"].items()}
    if data.parameters.select == "last" and data.steps in data.parameters.at_steps:
        after[str(data.steps)] = metrics
    return FinetuneOutcome(
        run=str(tuner.run.folder),
        status="finished",
        metric=name,
        score=score,
        metrics=metrics,
        notes=notes,
        stopped_by=tuner.stopped_by,
        steps=tuner.step,
        epochs=state.epoch,
        select=data.parameters.select,
        kept_epoch=kept,
        validation_loss=records[kept - 1]["validation_loss"],
        at_steps={step: {"score": scored[name], "metrics": scored} for step, scored in after.items()},
        network=beginning.network,
        width=beginning.width,
        weights=sum(weights.numel() for weights in state.model.parameters()),
        beginning=beginning.describe(),
        **{key: described[key] for key in same},
    )
