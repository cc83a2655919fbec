"""The metrics of target tasks: AUC, Dice, IoU, the published "IoU" (METHOD.md section 6).

Overlaps are pooled over the test set: count every case with `count_overlaps`, add the counts, and compute the
metrics from the sum. A metric that the data do not determine is nan, with its reason; it is never 0 or 1 by
accident.
"""

import math
import operator
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.store.schema import UNKNOWN

#: Thresholds of the published "IoU"; predictions above are foreground. Dice and IoU use the first.
THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))


@dataclass(frozen=True)
class Metric:
    """A metric on a test set.

    Attributes:
        value: in 0 .. 1; nan if the data do not determine it.
        reason: why it is nan, or what it leaves out; None if neither.
    """

    value: float
    reason: str | None = None


@dataclass(frozen=True)
class Overlaps:
    """The overlap of predicted and true masks, in voxels at each of `THRESHOLDS`; counts can be added.

    Attributes:
        both: foreground in both.
        predicted: foreground in the prediction only.
        missed: foreground in the truth only.
        neither: background in both.
    """

    both: tuple[int, ...]
    predicted: tuple[int, ...]
    missed: tuple[int, ...]
    neither: tuple[int, ...]

    def __add__(self, other: "Overlaps") -> "Overlaps":
        both = zip(astuple(self), astuple(other), strict=True)
        return Overlaps(*(tuple(map(operator.add, *counts)) for counts in both))

    @property
    def dice(self) -> float:
        """Dice of the foreground at 0.5, in 0 .. 1; 1 if both masks are empty, 0 if only one is."""
        return _share(2 * self.both[0], self.predicted[0] + self.missed[0])

    @property
    def iou(self) -> float:
        """Intersection over union of the foreground at 0.5; 1 if both masks are empty."""
        return _share(self.both[0], self.predicted[0] + self.missed[0])

    @property
    def iou_paper(self) -> float:
        """The published "IoU": the mean of foreground and background, averaged over `THRESHOLDS`.

        For one model the authors' notebook prints an IoU of 59.22 and one of these of 77.14: do not compare
        the two.
        """
        wrong = list(map(operator.add, self.predicted, self.missed))
        shares = [*map(_share, self.both, wrong), *map(_share, self.neither, wrong)]
        return math.fsum(shares) / len(shares)


def count_overlaps(prediction: NDArray[np.floating], truth: NDArray[np.generic]) -> Overlaps:
    """Count the overlaps of one case.

    Args:
        prediction: float `[...]` in [0, 1], the probability of foreground; compared with the thresholds as
            float64.
        truth: bool or integer `[...]` of 0 and 1, of the same shape.

    Raises:
        CallError: the shapes differ.
        DataError: a prediction is nan or outside [0, 1], or a label is neither 0 nor 1.
    """
    mask = _checked_labels(truth, prediction.shape)
    values = np.asarray(prediction, np.float64).reshape(-1)
    if values.size and not (values.min() >= 0 and values.max() <= 1):  # nan fails both
        raise DataError(
            f"Predictions range from {values.min():g} to {values.max():g}, but they must be "
            "probabilities in [0, 1]: apply the sigmoid or the softmax first."
        )
    above = np.searchsorted(np.array(THRESHOLDS), values, side="left")  # number of thresholds below it
    steps = len(THRESHOLDS) + 1
    counts = np.bincount(2 * above + mask.reshape(-1), minlength=2 * steps).reshape(steps, 2)
    above_each = counts[::-1].cumsum(axis=0)[::-1][1:]  # [threshold, label], in voxels
    below_each = counts.sum(axis=0) - above_each
    columns = (above_each[:, 1], above_each[:, 0], below_each[:, 1], below_each[:, 0])
    return Overlaps(*(tuple(column.tolist()) for column in columns))


def auc(scores: NDArray[np.floating], labels: NDArray[np.generic]) -> Metric:
    """Return the area under the ROC curve: how often a positive case outscores a negative one, ties half.

    Args:
        scores: float `[case]`, any finite numbers.
        labels: bool or integer `[case]` of 0 and 1.

    Returns:
        nan without positive or without negative cases.

    Raises:
        CallError: the shapes differ, or are not `[case]`.
        DataError: a score is not finite, or a label is neither 0 nor 1.
    """
    positive = _checked_labels(labels, scores.shape)
    if scores.ndim != 1:
        raise CallError(
            f"Scores have shape {scores.shape}, but they must be [case]: give one label at a time."
        )
    if not np.isfinite(scores).all():
        raise DataError("A score is NaN or infinite: the network diverged, or the input was wrong.")
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return Metric(math.nan, f"there are {positives} positive and {negatives} negative cases")
    values = scores.astype(np.float64)  # a narrower dtype could not count the pairs won
    won = stats.mannwhitneyu(values[positive], values[~positive], method="asymptotic").statistic
    return Metric(float(won) / (positives * negatives))


def known_auc(scores: NDArray[np.floating], labels: NDArray[np.generic]) -> Metric:
    """Return the `auc` of the cases with a known label, not `UNKNOWN`."""
    known = labels != UNKNOWN if labels.shape == scores.shape else slice(None)
    return auc(scores[known], labels[known])


def mean_auc(scores: NDArray[np.floating], labels: NDArray[np.generic]) -> Metric:
    """Return the mean of the AUCs of several labels, the score of DXC.

    Args:
        scores: float `[case, label]`.
        labels: bool or integer `[case, label]` of 0 and 1; `UNKNOWN` is ignored.

    Returns:
        The mean over the labels that have both positive and negative cases; `reason` counts the others.

    Raises:
        CallError: the shapes differ, or are not `[case, label]`.
        DataError: as `auc`.
    """
    if scores.ndim != 2 or scores.shape != labels.shape:
        raise CallError(
            f"Scores of shape {scores.shape} and labels of shape {labels.shape}: both must be [case, label]."
        )
    values = [known_auc(scores[:, label], labels[:, label]).value for label in range(scores.shape[1])]
    known = [value for value in values if not math.isnan(value)]
    lacking = len(values) - len(known)
    reason = f"{lacking} of {len(values)} labels lack positive or negative cases" if lacking else None
    if not known:
        return Metric(math.nan, reason or "there are no labels")
    return Metric(math.fsum(known) / len(known), reason)


def _share(right: int, wrong: int) -> float:
    return right / (right + wrong) if right + wrong else 1.0


def _checked_labels(labels: NDArray[np.generic], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return labels of 0 and 1 as bool, after checking their shape."""
    if labels.shape != shape:
        raise CallError(f"Predictions have shape {shape} and labels {labels.shape}: they must be the same.")
    positive = labels == 1
    if not np.logical_or(positive, labels == 0).all():
        raise DataError("A label is neither 0 nor 1: give one mask, or one column, for each class.")
    return np.asarray(positive, np.bool_)
