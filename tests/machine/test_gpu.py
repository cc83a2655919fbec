"""What only a GPU can show: the step of the CPU, the same bits after a kill, right batches at speed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.training_runs import (
    SMALL,
    assert_equal_weights,
    losses,
    make_pair_store,
    weights,
)

from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.training.feeding.feeds import PairBuffer
from genesis_toolkit.training.feeding.normalise import normalise
from genesis_toolkit.training.feeding.order import Work
from genesis_toolkit.training.feeding.ring import Batches
from genesis_toolkit.training.pretrain.call import pretrain
from genesis_toolkit.training.pretrain.parameters import Execution

pytestmark = pytest.mark.gpu
ONE = replace(SMALL, epochs=1)
CUDA = Execution(device="cuda")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pair_store(tmp_path_factory.mktemp("stores"))


def test_normalise_is_exact_for_every_code() -> None:
    codes = np.arange(-1000, 1001, dtype=np.int16)
    got = normalise(torch.from_numpy(codes.reshape(-1, 1, 1, 1)).cuda(), Window()).cpu().numpy()
    assert np.array_equal(got.ravel(), ((codes.astype(np.float64) + 1000) / 2000).astype(np.float32))


def test_a_step_is_that_of_the_cpu(pairs: Path, tmp_path: Path) -> None:
    step = replace(SMALL, epochs=1, max_steps=1, lr=0.1)
    pretrain(pairs, tmp_path / "cpu", step, Execution(device="cpu"))
    pretrain(pairs, tmp_path / "cuda", step, CUDA)
    ours, theirs = (weights(tmp_path / name / "last.pt") for name in ("cuda", "cpu"))
    for name, one in theirs.items():
        assert torch.allclose(ours[name].float(), one.float(), rtol=1e-3, atol=1e-4), name


@pytest.mark.parametrize("execution", [CUDA, replace(CUDA, channels_last=True), replace(CUDA, fast=True)])
@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
def test_other_precisions_learn_the_same_less_exactly(
    precision: str, execution: Execution, pairs: Path, tmp_path: Path
) -> None:
    pretrain(pairs, tmp_path / "float32", ONE, CUDA)
    pretrain(pairs, tmp_path / "other", replace(ONE, precision=precision), execution)
    ours, theirs = (losses(tmp_path / name)[0] for name in ("other", "float32"))
    assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=0.05)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_stopped_run_goes_on_to_the_bit(precision: str, pairs: Path, tmp_path: Path) -> None:
    given, steps = replace(SMALL, epochs=2, ema=0.5, precision=precision), iter(range(99))

    def stop(what: str, done: int, total: int) -> None:
        if "training" in what and next(steps) == 8:
            raise KeyboardInterrupt

    pretrain(pairs, tmp_path / "whole", given, CUDA)
    with pytest.raises(KeyboardInterrupt):
        pretrain(pairs, tmp_path / "parts", given, replace(CUDA, save_steps=1), progress=stop)
    pretrain(pairs, tmp_path / "parts", given, CUDA)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert_equal_weights(tmp_path / "parts" / "last.pt", tmp_path / "whole" / "last.pt")


class Numbers:
    """Cubes full of their own number, large enough that a copy takes its time."""

    window, size, dtype = Window(), (64, 64, 64), np.dtype(np.int16)

    def variant(self, epoch: int) -> int:
        return epoch

    def fill(self, cubes: np.ndarray, variant: int, room: PairBuffer) -> None:
        room.original[...] = cubes[0]
        room.degraded[...] = cubes[0]


def test_no_room_is_filled_while_the_device_reads_it() -> None:
    """The device is kept busy, and nothing but the ring's events waits for it."""
    device, copies = torch.device("cuda"), list[torch.Tensor]()
    busy = torch.rand(4096, 4096, device=device)
    for batch in Batches(Numbers(), 16, device=device).stream(
        [Work(np.array([n] * 16), 0) for n in range(40)]
    ):
        busy = busy @ busy
        copies.append(batch.original.to(device, non_blocking=True))
    assert [(int(copy.min()), int(copy.max())) for copy in copies] == [(n, n) for n in range(40)]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="this needs two GPUs")
def test_two_gpus_train_as_one_does(pairs: Path, tmp_path: Path) -> None:
    pretrain(pairs, tmp_path / "one", ONE, CUDA)
    pretrain(pairs, tmp_path / "two", ONE, replace(CUDA, devices=2))
    ours, theirs = (losses(tmp_path / name)[0] for name in ("two", "one"))
    assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-3)
    assert ours["validation_loss"] == pytest.approx(theirs["validation_loss"], rel=1e-2)
