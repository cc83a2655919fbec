"""Evaluate a network on the validation and the test fold: its loss, and the metrics of its task.

The statistics of its batch norm are refreshed first (`norms.refresh_statistics`).
"""

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genesis_toolkit.pipeline.wording import listed
from genesis_toolkit.training.feeding.normalise import normalise
from genesis_toolkit.training.finetune.data import TargetBatch, TargetBatches, TargetData
from genesis_toolkit.training.finetune.heads import Classifier, TargetNetwork
from genesis_toolkit.training.finetune.losses import loss_of
from genesis_toolkit.training.finetune.metrics import count_overlaps, known_auc, mean_auc
from genesis_toolkit.training.finetune.parameters import SCORES
from genesis_toolkit.training.finetune.probe import fit_probe
from genesis_toolkit.training.machine.devices import autocast
from genesis_toolkit.training.machine.steps import Tick

#: Metrics by name; None if the data do not determine one.
Metrics = dict[str, float | None]

_NAMED = 6  # classes in one sentence


@dataclass
class Judge:
    """A network, and the batches to evaluate it on, on the device that trains."""

    network: TargetNetwork
    data: TargetData
    batches: TargetBatches
    device: torch.device

    def __post_init__(self) -> None:
        self.loss = loss_of(self.data, self.device)
        shape = (max(self.data.sizes), 1, *self.data.store.size)
        self.room = torch.empty(shape, device=self.device)

    def settle(self) -> None:
        """Fit what a frozen encoder needs before the first step."""
        self.network.to(self.device).settle(self._training_cubes())

    def fit_probe(self, works: Sequence[NDArray[np.int64]], tick: Tick) -> float:
        """Fit the linear probe to the cubes of these batches; return its mean loss on them."""
        assert isinstance(self.network, Classifier)
        standardise, linear = self.network.probe
        seen, labels = [], []
        for pooled, truth in self._run(works, self.network.features):
            seen.append(pooled)
            labels.append(truth)
            tick("computing features")
        features = torch.cat(seen)
        standardise.fit(features)
        weighting = torch.from_numpy(self.data.positive_weights())
        weight, bias, loss = fit_probe(standardise(features), torch.cat(labels), weighting)
        linear.load_state_dict({"weight": weight, "bias": bias})
        return loss

    def refresh(self) -> None:
        """Refresh the statistics of batch norm on training cubes without augmentation."""
        with autocast(self.device, self.data.parameters.precision):
            self.network.refresh(self._training_cubes())

    def validate(self, tick: Tick) -> float:
        """Return the mean loss of the validation cubes; not finite if the loss of a batch is not."""
        total, works = 0.0, self.data.validation
        for logits, truth in self.predict(works, tick, "validation"):
            total += self.loss(logits, truth).item() * len(truth)
        return total / sum(map(len, works))

    def evaluate(self, tick: Tick) -> tuple[Metrics, list[str]]:
        """Evaluate the network on the test fold: metrics by name, and notes on them."""
        predictions = self.predict(self.data.test, tick, "evaluating")
        if self.data.kind == "segment":
            counted = [
                count_overlaps(torch.sigmoid(logits[:, 0]).cpu().numpy(), truth[:, 0].cpu().numpy())
                for logits, truth in predictions
            ]
            overlaps = reduce(operator.add, counted)
            return {"dice": overlaps.dice, "iou": overlaps.iou, "iou_paper": overlaps.iou_paper}, []
        outputs = [(logits.cpu().numpy(), truth.cpu().numpy()) for logits, truth in predictions]
        scores, labels = (np.concatenate(parts) for parts in zip(*outputs, strict=True))
        store = self.data.store
        return evaluate_labels(scores, labels, store.classes, SCORES[store.task])

    def predict(
        self, works: Sequence[NDArray[np.int64]], tick: Tick, what: str
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the logits of every batch, float32, with its labels or masks, on the device that trains."""
        for logits, truth in self._run(works, self.network):
            yield logits, truth
            tick(what)

    def _run(
        self, works: Sequence[NDArray[np.int64]], part: Callable[[Tensor], Tensor]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the output of a part of the network for every batch, float32, with labels or masks."""
        self.network.eval()
        with torch.no_grad(), closing(self.batches.stream(works)) as stream:
            for batch in stream:
                cubes, truth = self.on_device(batch)
                with autocast(self.device, self.data.parameters.precision):
                    given = part(cubes)
                yield given.float(), truth

    def on_device(self, batch: TargetBatch) -> tuple[Tensor, Tensor]:
        """Return cubes, float32 `[cube, 1, x, y, z]` in [0, 1], and labels `[cube, class]` or masks.

        The cubes stay valid until the next batch.
        """
        whole = batch.cubes.to(self.device, non_blocking=True)
        cubes = normalise(whole, self.data.store.window, self.room[: len(whole)])
        truth = batch.targets.to(self.device, non_blocking=True).float()
        return cubes, truth if self.data.kind == "classify" else truth.unsqueeze(1)

    def _training_cubes(self) -> Iterable[Tensor]:
        """Yield training cubes without augmentation, batch by batch."""
        with closing(self.batches.stream(self.data.refreshing())) as stream:
            for batch in stream:
                yield self.on_device(batch)[0]


def evaluate_labels(
    scores: NDArray[np.float32], labels: NDArray[np.float32], classes: Sequence[str], called: str = "auc"
) -> tuple[Metrics, list[str]]:
    """Return AUCs of scores `[cube, class]`: for several classes their mean and each AUC."""
    each = {name: known_auc(scores[:, at], labels[:, at]).value for at, name in enumerate(classes)}
    named: dict[str, float] = {f"auc_{name}": value for name, value in each.items()}
    named = (
        {called: each[classes[0]]}
        if len(classes) == 1
        else {"mean_auc": mean_auc(scores, labels).value, **named}
    )
    without = [name for name, value in each.items() if math.isnan(value)]
    notes = []
    if without and len(classes) > 1:
        notes.append(
            f"{len(without)} of {len(classes)} AUCs are undefined, because the test fold has no "
            f"positive or no negative case: {listed(without, _NAMED)}. The mean is over the others."
        )
    return {name: None if math.isnan(value) else value for name, value in named.items()}, notes
