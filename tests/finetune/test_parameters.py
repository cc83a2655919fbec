"""Parameters of fine-tuning: how labels are written, and what is out of range."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.training.finetune.parameters import (
    FinetuneParameters,
    labels_words,
    learning_rate,
    parse_labels,
)


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
        ({"batch_size": 5000}, "--batch-size 5000 is out of range: it must be at most 4096"),
        ({"lr": -1.0}, "--lr -1 is out of range"),
        ({"seed": -1}, "--seed -1 is out of range"),
        ({"steps": 0}, "--steps 0 is out of range"),
        ({"steps": 5, "epochs": 5}, "--steps 5 and --epochs 5 both set the length of the run: use only one"),
        ({"select": "first"}, "--select first is unknown; allowed: last, best"),
        ({"patience": 5}, "--patience 5 needs --select best"),
        ({"schedule": "step"}, "--schedule step is unknown; allowed: cosine, constant"),
        ({"warmup": -1}, "--warmup -1 is out of range"),
        ({"precision": "fp8"}, "--precision fp8 is unknown; allowed: float32, tf32, bf16, fp16"),
        ({"head": "none"}, "--head none is unknown; allowed: deepest, all"),
        ({"keep": "half"}, "--keep half is unknown; allowed: encoder, all-but-last, all"),
        ({"steps": 10, "at_steps": (5, 11)}, "--at-steps 11 is out of range: the run has steps 1 to 10"),
        ({"at_steps": (0,)}, "--at-steps 0 is out of range"),
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


def test_the_learning_rate_rises_in_a_line_and_falls_as_a_cosine() -> None:
    given = FinetuneParameters(steps=20, lr=0.5, warmup=4)
    rates = [learning_rate(given, step, 20) for step in range(20)]
    assert rates[:5] == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5])
    assert rates[12] == pytest.approx(0.25)  # half-way down
    assert 0 < rates[19] < 0.01
    assert rates[4:] == sorted(rates[4:], reverse=True)
    flat = replace(given, schedule="constant")
    assert [learning_rate(flat, step, 20) for step in (3, 4, 19)] == [0.5, 0.5, 0.5]
    for steps, warmup in ((9, 0), (40, 4), (5000, 50)):
        assert FinetuneParameters(steps=steps).warmup_of(steps) == warmup


def test_parameters_come_back_from_what_a_run_keeps_of_them() -> None:
    for one in (
        FinetuneParameters(steps=500, labels=0.1, at_steps=(20, 5)),
        FinetuneParameters(epochs=3, labels=7, select="best", patience=2, keep="encoder"),
    ):
        kept = json.loads(json.dumps(one.as_dict()))
        assert FinetuneParameters.from_dict(kept) == one
