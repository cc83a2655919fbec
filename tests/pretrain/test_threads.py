"""Small 2D networks compute in one thread, as was measured; all others, and whoever says so, in all."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.training_runs import SMALL, blobs, make_cube_store

from genesis_toolkit.training.pretrain.call import pretrain
from genesis_toolkit.training.pretrain.loop import Trainer
from genesis_toolkit.training.pretrain.threads import computing_threads


@pytest.mark.parametrize(
    ("network", "width", "size", "batch_size", "threads"),
    [
        ("unet2d", 8, (64, 64), 32, 1),
        ("unet2d", 16, (96, 96), 16, 4),
        ("unet2d", 64, (64, 64), 16, 4),
        ("unet2d", 64, (224, 224), 6, 4),
        ("unet3d", 4, (24, 24, 16), 8, 4),
        ("unet3d", 1, (16, 16, 16), 1, 4),
        ("plainconv", 2, (32, 32, 64), 2, 4),
    ],
)
def test_the_fastest_that_was_measured(
    network: str, width: int, size: tuple[int, ...], batch_size: int, threads: int
) -> None:
    assert computing_threads(network, width, size, batch_size, 4) == threads


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("told", [None, "2"])
def test_a_run_takes_one_thread_and_gives_the_others_back(
    told: str | None, two_threads: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genesis_toolkit.training.machine.devices.cores", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if told:
        monkeypatch.setenv("OMP_NUM_THREADS", told)
    seen, agree = list[int](), Trainer._agree

    def noting(self: Trainer, loss: torch.Tensor) -> tuple[float, bool]:
        seen.append(torch.get_num_threads())
        return agree(self, loss)

    monkeypatch.setattr(Trainer, "_agree", noting)
    store = make_cube_store(tmp_path / "cubes.zarr", blobs(6, (32, 32)), 2)
    pretrain(store, tmp_path / "run", replace(SMALL, epochs=1, width=4))
    assert set(seen) == {2 if told else 1}
    assert torch.get_num_threads() == 2
