"""The loop: a pre-trained or new network learns a target task, and the test fold evaluates it once.

METHOD.md section 6: Adam, best on validation. It is `FineTuner.train` with `_train_epoch`; `finetune` makes
everything that it works with. Nothing in a run is random: the labelled scans and the first weights depend on
the seed, the order on (seed, epoch). So a run that was killed goes on from its last finished epoch as if
nothing had happened.
"""

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.amp import GradScaler
from torch.nn import functional

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.pipeline.ledger import AnyPath
from genesis_toolkit.pipeline.progress import Progress, TrainingBars, callback, shows
from genesis_toolkit.pipeline.store.open import open_targets
from genesis_toolkit.pipeline.version import __version__
from genesis_toolkit.training.feeding.normalise import normalise
from genesis_toolkit.training.finetune.data import TargetBatch, TargetBatches, TargetData, target_data
from genesis_toolkit.training.finetune.heads import TargetNetwork, build_target_network
from genesis_toolkit.training.finetune.metrics import auc, count_overlaps, mean_auc
from genesis_toolkit.training.finetune.parameters import SCORES, FinetuneParameters
from genesis_toolkit.training.finetune.run import FinetuneOutcome, FinetuneRecord, FinetuneRun
from genesis_toolkit.training.machine.devices import choose_device, steady
from genesis_toolkit.training.machine.run_folder import check_same, hold_run
from genesis_toolkit.training.machine.steps import Say, Stop, Tick, counting, diverged, stop_on_signals
from genesis_toolkit.training.networks.registry import OF_THE_PAPERS, check_batch
from genesis_toolkit.training.weights.files import FINETUNED, TrainingState, load_weights, read_checkpoint
from genesis_toolkit.training.weights.load import Beginning, read_beginning

#: Logits and labels or masks -> the mean loss of a batch.
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass
class FineTuner:
    """The loop, and what it works with."""

    run: FinetuneRun
    state: TrainingState
    data: TargetData
    batches: TargetBatches
    stop: Stop
    report: Progress
    say: Say

    def __post_init__(self) -> None:
        self.loss = _loss_of(self.data, self.state.device)
        shape = (max(self.data.sizes), 1, *self.data.store.size)
        self.room = torch.empty(shape, device=self.state.device)

    def train(self) -> None:
        """Epoch after epoch until a rule of stopping holds; after each, all it takes to go on is on the disk.

        Raises:
            DataError: the loss is no number any more, or a cube cannot be read.
            KeyboardInterrupt: the run was asked to stop.
        """
        state, data = self.state, self.data
        while not self.stopped_by:
            started, works = perf_counter(), data.training(state.epoch)
            tick = self._counting(f"epoch {state.epoch + 1}: ", len(works) + len(data.validation))
            self._train_epoch(works, tick)
            train_loss, validation_loss = state.loss, self._validate(tick)
            best = state.finish_epoch(validation_loss)
            seconds = round(perf_counter() - started, 3)
            record = FinetuneRecord(state.epoch, len(works), train_loss, validation_loss, best, seconds)
            self.run.append(record)
            self.run.save(state, best=best)
            self.say(str(record))

    @property
    def stopped_by(self) -> str:
        """The rule by which the run stops where it is; empty while it goes on."""
        state, given = self.state, self.data.parameters
        if state.epoch >= given.epochs:
            return "epochs"
        return "patience" if state.stale >= given.patience else ""

    def _train_epoch(self, works: Sequence[NDArray[np.int64]], tick: Tick) -> None:
        """One pass over the labelled cubes."""
        state, model = self.state, self.state.model
        assert isinstance(model, TargetNetwork)
        model.train()
        model.begin_epoch()
        with closing(self.batches.stream(works)) as stream:
            for batch in stream:
                cubes, truth = self._on_device(batch)
                loss = self.loss(model(cubes), truth)
                state.optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call] # torch leaves it so
                value = self._finite(loss.item(), "in training")
                state.optimiser.step()
                state.finish_step(value, len(batch.cubes))
                tick(f"training, loss {state.loss:.4f}")

    def _validate(self, tick: Tick) -> float:
        """Return the mean loss of the validation cubes."""
        total = 0.0
        for logits, truth in self._predict(self.data.validation, tick, "validation"):
            total += self._finite(self.loss(logits, truth).item(), "in validation") * len(truth)
        return total / sum(map(len, self.data.validation))

    def evaluate(self) -> tuple[dict[str, float | None], list[str]]:
        """Evaluate the best network on the test fold, once: metrics by name, and what is to be said of them.

        A metric is None where the data do not determine it.
        """
        data, best = self.data, self.run.best
        load_weights(self.state.model, read_checkpoint(best, FINETUNED)["state_dict"], best)
        predictions = self._predict(data.test, self._counting("test: ", len(data.test)), "evaluating")
        if data.kind == "segment":
            counted = [
                count_overlaps(torch.sigmoid(logits[:, 0]).cpu().numpy(), truth[:, 0].cpu().numpy())
                for logits, truth in predictions
            ]
            overlaps = reduce(operator.add, counted)
            return {"dice": overlaps.dice, "iou": overlaps.iou, "iou_paper": overlaps.iou_paper}, []
        told = [(logits.cpu().numpy(), truth.cpu().numpy()) for logits, truth in predictions]
        scores, labels = (np.concatenate(parts) for parts in zip(*told, strict=True))
        return _evaluate_labels(scores, labels, data.store.classes)

    def _predict(
        self, works: Sequence[NDArray[np.int64]], tick: Tick, what: str
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The logits of every batch, float32, with its labels or masks, on the device that trains."""
        self.state.model.eval()
        with torch.no_grad(), closing(self.batches.stream(works)) as stream:
            for batch in stream:
                cubes, truth = self._on_device(batch)
                yield self.state.model(cubes), truth
                tick(what)

    def _on_device(self, batch: TargetBatch) -> tuple[Tensor, Tensor]:
        """Cubes, float32 `[cube, 1, x, y, z]` in [0, 1], and labels `[cube, class]` or masks as the cubes."""
        device = self.state.device
        whole = batch.cubes.to(device, non_blocking=True)
        cubes = normalise(whole, self.data.store.window, self.room[: len(whole)])
        truth = batch.targets.to(device, non_blocking=True).float()
        return cubes, truth if self.data.kind == "classify" else truth.unsqueeze(1)

    def _counting(self, prefix: str, total: int) -> Tick:
        """Return what tells of one more step, and ends the run where it was asked to stop."""
        count = counting(self.report, prefix, total)

        def tick(what: str) -> None:
            count(what)
            if self.stop.asked:
                raise KeyboardInterrupt

        return tick

    def _finite(self, loss: float, place: str) -> float:
        if math.isfinite(loss):
            return loss
        raise diverged(f"epoch {self.state.epoch + 1}, {place}", self.data.parameters.lr)


def _loss_of(data: TargetData, device: torch.device) -> Loss:
    """Binary cross entropy, positives weighted; Dice where there are masks (METHOD.md section 6).

    Dice is that of the whole batch: a cube without foreground has none of its own.
    """
    if data.kind == "segment":
        from monai.losses import DiceLoss  # MONAI takes seconds to load

        dice: Loss = DiceLoss(sigmoid=True, batch=True)
        return dice
    weight = torch.from_numpy(data.positive_weights()).to(device)
    return partial(functional.binary_cross_entropy_with_logits, pos_weight=weight)


def _evaluate_labels(
    scores: NDArray[np.float32], labels: NDArray[np.float32], classes: Sequence[str]
) -> tuple[dict[str, float | None], list[str]]:
    """Return AUCs of scores `[cube, class]`: of one class `auc`, of several their mean and each."""
    each = {f"auc_{name}": auc(scores[:, at], labels[:, at]) for at, name in enumerate(classes)}
    notes = [f"{name} is not determined: {one.reason}." for name, one in each.items() if one.reason]
    if len(classes) == 1:
        each, notes = {"auc": each[f"auc_{classes[0]}"]}, []
    else:
        each = {"mean_auc": mean_auc(scores, labels), **each}
    return {name: None if math.isnan(one.value) else one.value for name, one in each.items()}, notes


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
    """Fine-tune a network on a target task and evaluate it on the test fold, or go on with what was begun.

    Args:
        targets: a target store, of cubes or images; it tells the task.
        out: the folder of the run. A run that is there goes on; one that is finished is left as it is.
        parameters: of the run; the defaults when left out.
        weights: to begin with, as `load.read_beginning` takes them; None: from scratch.
        network: of scratch: `unet3d` for cubes and `unet2d` for images when left out.
        width: of scratch: channels of the first convolution, the published ones when left out.
        beginning: in place of these three, what was read before.
        device: `auto` (CUDA where there is one), `cpu` or `cuda`.
        threads: of torch on the CPU; None takes as many as there are cores. Another number, other rounding.
        overwrite: begin again where a run is.
        progress: True shows bars on stderr; a callback is told as the work goes on.
        say: told one sentence an epoch, and warnings.

    Raises:
        CallError: the store, the run folder, the weights or a parameter does not fit; the sentence says what
            to change.
        DataError: a fold lacks cubes or one kind of label, a cube or a checkpoint cannot be read, or the loss
            is no number any more.
        KeyboardInterrupt: when interrupted, by Ctrl-C or SIGTERM. All finished epochs are on the disk.
    """
    report, out = callback(progress), Path(out)
    weights = Path(weights) if weights is not None else None
    store = open_targets(targets)
    if beginning is None:
        scratch = OF_THE_PAPERS[len(store.size)] if weights is None else None
        beginning = read_beginning(weights, network or scratch, width)
    elif (weights, network, width) != (None, None, None):
        raise CallError("A beginning was given, and weights, network or width beside it: give one of both.")
    data = target_data(store, parameters or FinetuneParameters())
    with ExitStack() as stack:
        stack.enter_context(steady(threads=threads))
        run = stack.enter_context(hold_run(out, FinetuneRun))
        described = _description(data, beginning)
        if overwrite:
            run.clear()
        earlier = run.described()
        if earlier is not None:
            check_same(run, earlier, described, (), "weights")
        done = run.outcome("already finished")
        if done is not None:
            read_checkpoint(run.best, FINETUNED)  # what a finished run is for
            return done
        state = new_state(beginning, data, choose_device(device))
        batches = TargetBatches(data, state.device)
        batches.check_foreground()
        warnings = _warnings(store.window, beginning)
        for warning in warnings:
            say(f"Warning: {warning}")
        if earlier is not None and run.last.exists():
            state.restore(read_checkpoint(run.last, FINETUNED), run.last)
            if state.best_epoch:
                read_checkpoint(run.best, FINETUNED)
            say(f"Continuing after epoch {state.epoch}.")
        run.begin(described, state.epoch)
        stop = stack.enter_context(stop_on_signals())
        tuner = FineTuner(run, state, data, batches, stop, report, say)
        tuner.train()
        metrics, notes = tuner.evaluate()
        outcome = _outcome(tuner, beginning, metrics, [*warnings, *notes])
        run.finish(outcome)
        return outcome


def _description(data: TargetData, beginning: Beginning) -> dict[str, Any]:
    """Return what the description of a run says of it."""
    network = {"network": beginning.network, "width": beginning.width}
    return {
        "genesis_toolkit": __version__,
        "parameters": {**data.parameters.as_dict(), **network},
        "weights": beginning.source() if beginning.file else None,
        "beginning": beginning.describe(),
        **data.describe(),
    }


def _warnings(window: Window, beginning: Beginning) -> list[str]:
    """Return a sentence where the weights know other values than the store holds."""
    known = beginning.window
    if known in (None, (window.low, window.high)):
        return []
    return [
        f"the weights were trained on values from {known[0]} to {known[1]}, and the store's run from "
        f"{window.low} to {window.high}: both become [0, 1], so one and the same value looks different to "
        "the network."
    ]


def new_state(beginning: Beginning, data: TargetData, device: torch.device) -> TrainingState:
    """Return the network with its first weights, which depend on the seed and not on the device, and Adam.

    Raises:
        CallError: the network cannot take the store's cubes.
        DataError: the weights do not fit.
    """
    store, given = data.store, data.parameters
    classes, axes = len(store.classes), len(store.size)
    network = build_target_network(beginning, data.kind, classes, axes, given.seed)
    network.check_size(store.size)
    check_batch(beginning.network, store.size, min(data.sizes))
    if given.freeze_encoder:
        network.freeze_encoder()
    if device.type == "cpu":  # there a step takes 0.7 of the time (`pretrain.call.new_state`)
        network.to(memory_format=network.memory_format)  # type: ignore[call-overload] # torch leaves it out
    network.to(device)
    learnt = [one for one in network.parameters() if one.requires_grad]
    return TrainingState(network, torch.optim.Adam(learnt, lr=given.lr), GradScaler(enabled=False))


def _outcome(
    tuner: FineTuner, beginning: Beginning, metrics: dict[str, float | None], notes: list[str]
) -> FinetuneOutcome:
    """Return what a finished run came to."""
    state, data = tuner.state, tuner.data
    name = SCORES[data.store.task]
    score = metrics[name]
    assert score is not None  # `target_data` and `check_foreground` have seen to it
    described = data.describe()
    same = ("task", "kind", "train_scans", "train_cubes", "validation_cubes", "test_cubes")
    return FinetuneOutcome(
        run=str(tuner.run.folder),
        status="finished",
        metric=name,
        score=score,
        metrics=metrics,
        notes=notes,
        stopped_by=tuner.stopped_by,
        epochs=state.epoch,
        best_epoch=state.best_epoch,
        validation_loss=state.best_loss,
        network=beginning.network,
        width=beginning.width,
        weights=sum(weights.numel() for weights in state.model.parameters()),
        beginning=beginning.describe(),
        **{key: described[key] for key in same},
    )
