"""`finetune` comes to the weights of a plain loop, and keeps those of the last step, or of the best epoch."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.plain_loops import State, finetuned
from support.target_stores import EACH, FOLDS, make_target_store
from support.training_runs import losses, weights

from genesis_toolkit.training.finetune import loop
from genesis_toolkit.training.finetune.loop import finetune
from genesis_toolkit.training.finetune.parameters import FinetuneParameters

#: The published way, and today's: of 10 steps the last two fall into an epoch that is cut short.
PUBLISHED = FinetuneParameters(
    epochs=4, batch_size=7, lr=0.01, select="best", schedule="constant", warmup=0, augment=False
)
GIVEN = FinetuneParameters(steps=10, batch_size=7, lr=0.001, warmup=3)


#: Biases before a norm change nothing, and Adam makes steps of their rounding.
FREE = ("conv1.bias", "running_mean")


def assert_close(ours: State, theirs: State) -> None:
    """Check that weights are equal but for rounding."""
    assert ours.keys() == theirs.keys()
    for name, one in ours.items():
        if name.endswith(FREE):
            continue
        # Adam makes whole steps of the smallest gradients too, so single weights may differ by more.
        distance = torch.linalg.vector_norm((one - theirs[name]).double())
        assert distance <= 0.01 * torch.linalg.vector_norm(theirs[name].double()) + 1e-4, name


def apart(ours: State, theirs: State) -> float:
    """Return how far two networks lie apart, as a share of the length of all their weights."""
    names = [name for name in ours if not name.endswith((*FREE, "running_var", "num_batches_tracked"))]
    one, other = (torch.cat([state[name].double().flatten() for name in names]) for state in (ours, theirs))
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("task", ["ncc", "segment"])
def test_finetuning_is_a_plain_loop(task: str, tmp_path: Path) -> None:
    # What validates is labelled at random, so it is best early, and what tests is best late.
    labels = (np.arange(EACH * len(FOLDS)) % 2 == 0)[:, None].astype(np.uint8)
    labels[[24, 25, 26, 28, 31]] ^= 1
    store = make_target_store(tmp_path / "store.zarr", task, labels=labels if task == "ncc" else None)
    plain = finetuned(store, PUBLISHED, 2)
    outcome = finetune(store, tmp_path / "run", PUBLISHED, width=2, device="cpu", threads=1)
    assert_close(weights(tmp_path / "run" / "last.pt"), plain.weights[-1])
    told = [record["validation_loss"] for record in losses(tmp_path / "run")]
    assert told == pytest.approx(plain.validated, rel=1e-2)
    best = int(np.argmin(plain.validated))
    assert outcome.kept_epoch == best + 1
    assert_close(weights(tmp_path / "run" / "best.pt"), plain.weights[best])
    if task == "ncc":
        assert best != int(np.argmin(plain.tested))  # so a test fold that chooses is found out


@pytest.mark.parametrize("task", ["ncc", "segment"])
def test_warmup_cosine_and_augmentation_are_those_of_a_plain_loop(task: str, tmp_path: Path) -> None:
    store = make_target_store(tmp_path / "store.zarr", task)
    plain = finetuned(store, GIVEN, 2)
    outcome = finetune(store, tmp_path / "run", GIVEN, width=2, device="cpu", threads=1)
    assert (outcome.steps, outcome.epochs, outcome.kept_epoch, outcome.stopped_by) == (10, 3, 3, "steps")
    for file in ("best.pt", "last.pt"):
        # The two ways to turn a cube differ by 1e-5, which Adam brings to 0.0004 (ncc) and 0.007 (segment).
        # Without augmentation it is 0.025 and 0.06, without warm-up 0.013 and 0.03, at a constant rate 0.017
        # and 0.02.
        assert apart(weights(tmp_path / "run" / file), plain.weights[-1]) < 0.01
    assert outcome.validation_loss == pytest.approx(plain.validated[-1], rel=1e-2)


def test_the_last_step_is_kept_where_an_earlier_epoch_validates_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "STRIDE", 1)  # every epoch is validated
    labels = (np.arange(EACH * len(FOLDS)) % 2 == 0)[:, None].astype(np.uint8)
    labels[24:32] ^= 1  # whatever is learnt is wrong there
    store = make_target_store(tmp_path / "store.zarr", "ncc", labels=labels)
    plain = finetuned(store, replace(PUBLISHED, select="last"), 2)
    assert int(np.argmin(plain.validated)) < 3
    given = replace(PUBLISHED, select="last")
    outcome = finetune(store, tmp_path / "run", given, width=2, device="cpu", threads=1)
    assert (outcome.kept_epoch, outcome.select) == (4, "last")
    assert_close(weights(tmp_path / "run" / "best.pt"), plain.weights[-1])
