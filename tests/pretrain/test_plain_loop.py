"""`pretrain` comes to the weights of a plain loop: one process, and two that share every batch."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.plain_loops import State, pretrained
from support.training_runs import SMALL, losses, make_pair_store, weights

from genesis_toolkit.training.pretrain.call import pretrain
from genesis_toolkit.training.pretrain.parameters import Execution
from genesis_toolkit.training.weights.files import read_checkpoint

#: 24 cubes train, in four batches of five and one of four: two processes have parts of unequal size.
PLAIN = replace(SMALL, batch_size=5, epochs=3, lr=0.4, lr_step=1, warmup=3)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pair_store(tmp_path_factory.mktemp("stores"))


def assert_close(ours: State, theirs: State) -> None:
    """Equal but for rounding, the running statistics and their counts included."""
    assert ours.keys() == theirs.keys()
    for name, one in ours.items():
        assert torch.allclose(one.float(), theirs[name].float(), rtol=1e-2, atol=1e-4), name


def test_pretraining_is_a_plain_loop_with_everything_on(pairs: Path, tmp_path: Path) -> None:
    given = replace(PLAIN, clip_norm=0.02, ema=0.4)
    plain = pretrained(pairs, given)
    assert min(plain.lengths) < 0.02 < max(plain.lengths)  # some gradients are clipped, and some are not
    assert min(abs(one - other) for one, other in zip(plain.raw, plain.validated, strict=True)) > 1e-5
    pretrain(pairs, tmp_path / "run", given)
    last = read_checkpoint(tmp_path / "run" / "last.pt")
    assert_close(last["state_dict"], plain.weights)
    assert_close(last["ema_state_dict"], plain.average)
    told = [record["validation_loss"] for record in losses(tmp_path / "run")]
    assert told == pytest.approx(plain.validated, rel=1e-4)
    assert [record["lr"] for record in losses(tmp_path / "run")] == pytest.approx([0.4, 0.2, 0.1])


def test_pretraining_is_a_plain_loop_with_the_published_settings(pairs: Path, tmp_path: Path) -> None:
    plain = pretrained(pairs, PLAIN)
    pretrain(pairs, tmp_path / "run", PLAIN)
    assert_close(weights(tmp_path / "run" / "last.pt"), plain.weights)
    told = [record["validation_loss"] for record in losses(tmp_path / "run")]
    assert told == pytest.approx(plain.validated, rel=1e-4)


def test_pretraining_that_drops_skips_is_a_plain_loop_with_zeros(pairs: Path, tmp_path: Path) -> None:
    given = replace(PLAIN, drop_skips=0.5)
    plain = pretrained(pairs, given)
    pretrain(pairs, tmp_path / "run", given)
    assert_close(weights(tmp_path / "run" / "last.pt"), plain.weights)
    told = [record["validation_loss"] for record in losses(tmp_path / "run")]
    assert told == pytest.approx(plain.validated, rel=1e-4)
    with pytest.raises(AssertionError):
        assert_close(plain.weights, pretrained(pairs, PLAIN).weights)


def test_a_step_of_two_processes_is_that_of_a_plain_loop(pairs: Path, tmp_path: Path) -> None:
    """In which one has three cubes of the batch and the other two, and no clipping hides a factor."""
    one = replace(PLAIN, epochs=1, max_steps=1, warmup=0, drop_skips=0.5)
    plain = pretrained(pairs, one)
    pretrain(pairs, tmp_path / "run", one, Execution(device="cpu", devices=2))
    assert_close(weights(tmp_path / "run" / "last.pt"), plain.weights)
