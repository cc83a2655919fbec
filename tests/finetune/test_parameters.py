"""Parameters of fine-tuning: how labels are written, and what is out of range."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.training.finetune.parameters import FinetuneParameters, labels_words, parse_labels


@given(st.one_of(st.floats(1e-6, 1.0), st.integers(1, 10**6)))
def test_labels_are_read_as_they_are_written(labels: float | int) -> None:
    back = parse_labels(labels_words(labels))
    assert type(back) is type(labels)
    assert back == pytest.approx(labels, rel=1e-12)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"labels": 0}, "--labels 0 is out of range"),
        ({"labels": 0.0}, "--labels 0% is out of range"),
        ({"labels": 1.5}, "--labels 150% is out of range"),
        ({"labels": float("nan")}, "--labels nan is out of range"),
        ({"epochs": 0}, "--epochs 0 is out of range"),
        ({"batch_size": 5000}, "--batch-size 5000 is out of range: at most 4096"),
        ({"lr": -1.0}, "--lr -1 is out of range"),
        ({"seed": -1}, "--seed -1 is out of range"),
    ],
)
def test_parameters_out_of_range_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(CallError, match=words):
        FinetuneParameters(**values)


@pytest.mark.parametrize("text", ["0.1", "ten", "%", "-5%", ""])
def test_labels_that_are_neither_are_refused(text: str) -> None:
    with pytest.raises(CallError, match="neither a share nor a number of scans"):
        parse_labels(text)


@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan"), float("inf"), 1e300])
def test_a_learning_rate_that_is_none_is_refused(lr: float) -> None:
    with pytest.raises(CallError, match="above 0 and at most 1e"):
        FinetuneParameters(lr=lr)
