"""Metrics against loops over every pair and every voxel, and scikit-learn's."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.store.schema import UNKNOWN
from genesis_toolkit.training.finetune.metrics import (
    THRESHOLDS,
    Metric,
    auc,
    count_overlaps,
    known_auc,
    mean_auc,
)

#: Few different scores, so that ties are common.
CASES = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=25)
VOXELS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.3, 0.5, 0.51, 0.55, 0.7, 0.8, 0.95, 0.96, 1.0]), st.booleans()),
    min_size=1,
    max_size=40,
)


def arrays(cases: list[tuple[float, bool]]) -> tuple[Any, Any]:
    return np.array([one for one, _ in cases], float), np.array([label for _, label in cases])


@given(CASES)
def test_auc_counts_the_pairs_won(cases: list[tuple[int, bool]]) -> None:
    scores, labels = arrays([(float(score), label) for score, label in cases])
    pairs = [(one, other) for one in scores[labels] for other in scores[~labels]]
    found = auc(scores, labels)
    if not pairs:
        assert math.isnan(found.value)
        assert found.reason is not None
        return
    won = sum((one > other) + 0.5 * (one == other) for one, other in pairs)
    assert found.reason is None
    assert found.value == pytest.approx(won / len(pairs), abs=1e-12)
    assert auc(-scores, labels).value == pytest.approx(1 - found.value, abs=1e-12)
    assert auc(np.exp(scores), labels.astype(np.uint8)) == found  # any rising function, any kind of label


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16])
def test_metrics_are_those_of_scikit_learn(kind: type[np.floating]) -> None:
    rng = np.random.default_rng(5)
    for digits in range(12):  # many ties first, then none
        labels, scores = rng.random(200) < 0.2, rng.normal(size=200).round(digits // 2).astype(kind)
        assert auc(scores, labels).value == pytest.approx(metrics.roc_auc_score(labels, scores), abs=1e-12)
        told = rng.random(200).round(digits).astype(kind)
        counted, above = count_overlaps(told, labels), told.astype(np.float64) > 0.5
        assert counted.dice == pytest.approx(metrics.f1_score(labels, above), abs=1e-12)
        assert counted.iou == pytest.approx(metrics.jaccard_score(labels, above), abs=1e-12)
        both = [
            metrics.jaccard_score(labels, told.astype(np.float64) > at, average="macro") for at in THRESHOLDS
        ]
        assert counted.iou_paper == pytest.approx(np.mean(both), abs=1e-12)


def test_cases_without_a_known_label_do_not_count() -> None:
    rng = np.random.default_rng(4)
    scores, labels = rng.normal(size=(60, 2)), rng.integers(0, 2, (60, 2)).astype(np.uint8)
    labels[rng.random((60, 2)) < 0.3] = UNKNOWN
    each = [
        metrics.roc_auc_score(labels[known, at], scores[known, at])
        for at in range(2)
        for known in [labels[:, at] != UNKNOWN]
    ]
    assert mean_auc(scores, labels).value == pytest.approx(sum(each) / 2)
    assert known_auc(scores[:, 1], labels[:, 1]).value == pytest.approx(each[1])


def test_scores_that_differ_by_next_to_nothing_are_no_tie() -> None:
    close = np.array([1.0, np.nextafter(1.0, 2), 1e300, -1e300, -0.0, 0.0])
    labels = np.array([0, 1, 1, 0, 1, 0])
    assert auc(close, labels).value == pytest.approx(metrics.roc_auc_score(labels, close), abs=1e-12)
    assert auc(close, labels).value == pytest.approx(7.5 / 9)


def test_labels_without_both_kinds_are_left_out_and_counted() -> None:
    scores = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.2, 0.9, 0.1]])
    labels = np.array([[0, 0, 1], [1, 0, 1], [0, 0, 0]])
    found = mean_auc(scores, labels)
    assert found.value == 1.0
    assert found.reason == "1 of 3 labels lack positive or negative cases"
    assert mean_auc(scores[:, :1], labels[:, :1]) == Metric(1.0)
    assert math.isnan(mean_auc(scores[:, 1:2], labels[:, 1:2]).value)
    assert math.isnan(mean_auc(np.zeros((3, 0)), np.zeros((3, 0))).value)


@settings(max_examples=60)
@given(VOXELS, VOXELS)
def test_overlaps_are_those_of_a_loop_over_voxels(
    first: list[tuple[float, bool]], second: list[tuple[float, bool]]
) -> None:
    """Pooled over two cases, and nothing else than the two laid end to end."""
    pooled = count_overlaps(*arrays(first)) + count_overlaps(*arrays(second))
    voxels = first + second
    assert pooled == count_overlaps(*arrays(voxels))
    means = []
    for threshold in THRESHOLDS:
        for sign in (True, False):
            told = {number for number, (value, _) in enumerate(voxels) if (value > threshold) is sign}
            true = {number for number, (_, label) in enumerate(voxels) if label is sign}
            union = told | true
            means.append(len(told & true) / len(union) if union else 1.0)
            if sign and threshold == 0.5:
                assert pooled.iou == means[-1]
                assert pooled.dice == (2 * len(told & true) / (len(told) + len(true)) if union else 1.0)
    assert pooled.iou_paper == pytest.approx(sum(means) / 20)


def test_the_published_thresholds() -> None:
    assert THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


@pytest.mark.parametrize(
    ("prediction", "truth", "dice", "iou", "paper"),
    [
        (0.0, 0, 1.0, 1.0, 1.0),  # both empty
        (1.0, 1, 1.0, 1.0, 1.0),  # no background in either
        (1.0, 0, 0.0, 0.0, 0.0),
        (0.0, 1, 0.0, 0.0, 0.0),
        (0.5, 1, 0.0, 0.0, 0.0),  # 0.5 is not above 0.5
        (0.72, 1, 1.0, 1.0, 0.5),  # above five of the ten thresholds
    ],
)
def test_empty_and_full_masks(prediction: float, truth: int, dice: float, iou: float, paper: float) -> None:
    found = count_overlaps(np.full((3, 4, 5), prediction, np.float32), np.full((3, 4, 5), truth, np.uint8))
    assert (found.dice, found.iou, found.iou_paper) == (dice, iou, pytest.approx(paper))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: auc(np.zeros(3), np.zeros(4, bool)), CallError, "must be the same"),
        (lambda: auc(np.zeros((3, 2)), np.zeros((3, 2), bool)), CallError, r"must be \[case\]"),
        (lambda: auc(np.array([0, np.nan]), np.array([0, 1])), DataError, "NaN or infinite"),
        (lambda: auc(np.zeros(2), np.array([0, 2])), DataError, "neither 0 nor 1"),
        (lambda: auc(np.zeros(2), np.array([0, np.nan])), DataError, "neither 0 nor 1"),
        (lambda: mean_auc(np.zeros((3, 2)), np.zeros((2, 3), int)), CallError, r"\[case, label\]"),
        (lambda: count_overlaps(np.array([2.0]), np.array([1])), DataError, "from 2 to 2"),
        (lambda: count_overlaps(np.array([0.2, np.nan]), np.array([1, 1])), DataError, "nan"),
    ],
)
def test_what_cannot_be_judged_is_refused(
    call: Callable[[], object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        call()
