"""The loop: a pre-trained or new network learns a target task, and the test fold evaluates it once.

METHOD.md section 6: Adam, best on validation. It is `FineTuner.train` with `_train_epoch`; `call` has made
everything that it works with.
"""

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import reduce
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from genesis_toolkit.pipeline.progress import Progress
from genesis_toolkit.training.feeding.normalise import normalise
from genesis_toolkit.training.finetune.data import TargetBatch, TargetBatches, TargetData
from genesis_toolkit.training.finetune.heads import TargetNetwork
from genesis_toolkit.training.finetune.metrics import Metric, auc, count_overlaps, mean_auc
from genesis_toolkit.training.finetune.run import FinetuneRecord, FinetuneRun
from genesis_toolkit.training.machine.steps import Say, Stop, Tick, counting, diverged
from genesis_toolkit.training.weights.files import FINETUNED, TrainingState, load_weights, read_checkpoint

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
                value = self._finite(loss.item(), "in training")
                state.optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call] # torch leaves it so
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
        """Evaluate the best network on the test fold, once.

        Returns:
            The metrics by name, None where the data do not determine one, and what is to be said of them.
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
    return lambda logits, labels: functional.binary_cross_entropy_with_logits(
        logits, labels, pos_weight=weight
    )


def _evaluate_labels(
    scores: NDArray[np.float32], labels: NDArray[np.float32], classes: Sequence[str]
) -> tuple[dict[str, float | None], list[str]]:
    """Return AUCs of scores `[cube, class]`: of one class `auc`, of several their mean and each."""
    if len(classes) == 1:
        return {"auc": _value(auc(scores[:, 0], labels[:, 0]))}, []
    mean = mean_auc(scores, labels)
    each = {f"auc_{name}": auc(scores[:, at], labels[:, at]) for at, name in enumerate(classes)}
    notes = [f"{name} is not determined: {one.reason}." for name, one in each.items() if one.reason]
    return {"mean_auc": _value(mean), **{name: _value(one) for name, one in each.items()}}, notes


def _value(metric: Metric) -> float | None:
    return None if math.isnan(metric.value) else metric.value
