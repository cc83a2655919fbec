"""Several processes train as one: the same pairs, the same statistics, the same losses."""

import os
import signal
import socket
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.norm_process import norm_in_a_process
from support.training_runs import SMALL, losses, make_pair_store
from torch import distributed as dist
from torch import multiprocessing, nn

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.training.feeding.order import Work, deal, epoch_order, part_of
from genesis_toolkit.training.machine.devices import choose_device, steady
from genesis_toolkit.training.machine.processes import joined, launched
from genesis_toolkit.training.pretrain.call import pretrain
from genesis_toolkit.training.pretrain.parameters import Execution

TWO = Execution(device="cpu", devices=2)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pair_store(tmp_path_factory.mktemp("stores"), 29)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_every_batch_and_see_every_cube_once(world: int) -> None:
    cubes = np.arange(50, 97)
    for epoch in range(3):
        works = [Work(part, epoch) for part in deal(epoch_order(1, epoch, cubes, cubes % 5), 7)]
        parts = [list(part_of(works, rank, world)) for rank in range(world)]
        for number, work in enumerate(works):
            shares = [mine[number].cubes for mine in parts]
            assert np.concatenate(shares).tolist() == work.cubes.tolist()
            assert max(map(len, shares)) - min(map(len, shares)) <= 1
            assert {mine[number].variant for mine in parts} == {epoch}
        seen = np.concatenate([work.cubes for mine in parts for work in mine])
        assert sorted(seen.tolist()) == cubes.tolist()


@pytest.mark.full
def test_two_processes_train_as_one_does(pairs: Path, tmp_path: Path) -> None:
    """The same cubes in the same batches, one norm over both parts: equal but for the order of sums."""
    said: list[str] = []
    alone = pretrain(pairs, tmp_path / "one", SMALL)
    together = pretrain(pairs, tmp_path / "two", SMALL, TWO, say=said.append)
    assert len([line for line in said if line.startswith("epoch")]) == 3
    for ours, theirs in zip(losses(tmp_path / "two"), losses(tmp_path / "one"), strict=True):
        assert ours["variant"] == theirs["variant"]
        assert ours["steps"] == theirs["steps"]
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-3)
        assert ours["validation_loss"] == pytest.approx(theirs["validation_loss"], rel=1e-2)
    assert together.copy_loss == alone.copy_loss
    running = [
        torch.load(tmp_path / name / "last.pt", weights_only=True)["state_dict"][
            "down_tr64.ops.0.bn1.running_var"
        ]
        for name in ("one", "two")
    ]
    torch.testing.assert_close(*running, rtol=1e-2, atol=1e-6)


@pytest.mark.full
def test_one_process_goes_on_with_what_two_began(pairs: Path, tmp_path: Path) -> None:
    pretrain(pairs, tmp_path / "run", replace(SMALL, epochs=1), TWO)
    outcome = pretrain(pairs, tmp_path / "run", replace(SMALL, epochs=2))
    assert outcome.epochs == 2


@pytest.mark.full
def test_what_is_wrong_is_said_once_and_nobody_is_left(pairs: Path, tmp_path: Path) -> None:
    code = "from genesis_toolkit.cli.train import main; main()"
    call = [sys.executable, "-c", code, "pretrain", str(pairs), "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [*call, "--width", "4", "--batch-size", "1", "--devices", "2", "--device", "cpu"],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("too few for 2 processes") == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


#: One of three processes ends in its second epoch; the others train on, or hang where no exception comes.
DYING = """
import os, signal, time
import genesis_toolkit.training.pretrain.call as library
from genesis_toolkit.pipeline.errors import DataError

dying, end, hang = int(os.environ["DYING"]), os.environ["END"], os.environ["HANG"]
step = library.Trainer._agree

def agree(self, loss):
    if self.state.epoch == 1:
        if self.group.rank == dying and end == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.group.rank == dying:
            raise DataError("Cube 13 is damaged.")
        if hang:
            time.sleep(10_000)
    return step(self, loss)

library.Trainer._agree = agree
if __name__ == "__main__":
    from genesis_toolkit.cli.train import main
    main()
"""


@pytest.mark.full
@pytest.mark.parametrize(
    ("dying", "end", "hang"),
    [
        (2, "killed", ""),
        (2, "killed", "hang"),
        (0, "killed", ""),
        (0, "killed", "hang"),
        (1, "damaged", "hang"),
    ],
)
def test_a_process_that_ends_alone_ends_the_others_in_a_sentence(
    dying: int, end: str, hang: str, pairs: Path, tmp_path: Path
) -> None:
    """In which hanging stands for NCCL, that lets the others wait where no exception reaches them."""
    (tmp_path / "program.py").write_text(DYING, encoding="utf-8")
    options = "--width 4 --batch-size 4 --lr 0.5 --epochs 3 --devices 3 --device cpu".split()
    done = subprocess.run(
        [sys.executable, "program.py", "pretrain", str(pairs), "--out", "run", *options],
        cwd=tmp_path,
        env={**os.environ, "DYING": str(dying), "END": end, "HANG": hang},
        capture_output=True,  # until all of them have closed their ends
        encoding="utf-8",
        check=False,
        timeout=500,  # torch would wait for half an hour
    )
    assert done.returncode == (-signal.SIGKILL if dying == 0 else 1)
    assert done.stderr.count("Another process of this run has ended") == 1
    assert done.stderr.count("Cube 13 is damaged") == (end == "damaged")
    assert "Traceback" not in done.stderr
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["epoch"] == 1


@pytest.mark.full
def test_a_process_that_cannot_begin_ends_the_run_before_it_waits(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its part is of a module that only this process has, so what it shall do cannot be imported there."""
    here_only = types.ModuleType("here_only")
    exec("def take_part(): pass", vars(here_only))
    monkeypatch.setitem(sys.modules, "here_only", here_only)
    with pytest.raises(DataError, match="could not start"), launched(2, here_only.take_part):
        pytest.fail("it went on, and would wait for the other one")
    assert "No module named 'here_only'" in capfd.readouterr().err
    assert not multiprocessing.active_children()


@pytest.mark.full
def test_a_program_without_a_main_guard_ends_and_says_why(pairs: Path, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\nfrom genesis_toolkit.training.pretrain.call import pretrain\n"
        "from genesis_toolkit.training.pretrain.parameters import Execution\n"
        f"pretrain({str(pairs)!r}, Path('run'), execution=Execution(device='cpu', devices=2))\n"
    )
    (tmp_path / "program.py").write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 1
    assert "if __name__ == '__main__':" in done.stderr  # Python's own words, from the other process
    assert "could not start" in done.stderr


@pytest.mark.full
def test_torchrun_starts_the_processes(pairs: Path, tmp_path: Path) -> None:
    call = "-m torch.distributed.run --standalone --nproc-per-node 2 -m genesis_toolkit.cli.train".split()
    call += f"pretrain {pairs} --out run --width 4 --batch-size 4 --lr 0.5 --epochs 1 --device cpu".split()
    done = subprocess.run(
        [sys.executable, *call, "--json"],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"status": "finished"') == 1


def test_an_incomplete_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with (
        pytest.raises(CallError, match=r"WORLD_SIZE is 2, but RANK is not set.*torchrun"),
        joined(torch.device("cpu")),
    ):
        pass


@pytest.mark.full
def test_devices_are_started_where_the_environment_names_one_process(pairs: Path, tmp_path: Path) -> None:
    code = "from genesis_toolkit.cli.train import main; main()"
    call = [sys.executable, "-c", code, "pretrain", str(pairs), "--out", str(tmp_path / "run")]
    call += "--width 4 --batch-size 1 --devices 2 --device cpu".split()
    done = subprocess.run(
        call,
        env={**os.environ, "RANK": "0", "WORLD_SIZE": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert "too few for 2 processes" in done.stderr  # so there are two


def test_devices_are_refused_where_processes_have_been_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "0")
    words = r"--devices 2 .*according to WORLD_SIZE 4 are already running"
    with pytest.raises(CallError, match=words), launched(2, pytest.fail):
        pass


def test_srun_alone_tells_each_process_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    for name, value in (("RANK", "6"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "2")):
        monkeypatch.setenv(name, value)
    assert choose_device("auto") == torch.device("cuda:2")
    assert chosen == [torch.device("cuda:2")]
    monkeypatch.setenv("LOCAL_RANK", "4")
    with pytest.raises(CallError, match="LOCAL_RANK is 4, but this process sees 4 GPUs"):
        choose_device("cuda")


def test_the_group_is_told_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[Any, ...]] = []
    names = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(dist, "init_process_group", lambda kind, device_id: told.append((kind, device_id)))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: told.append(("destroyed",)))
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    for name in ("cpu", "cuda:1"):
        with pytest.raises(ZeroDivisionError), joined(torch.device(name)):
            raise ZeroDivisionError
    assert told == [("gloo", None), ("destroyed",), ("nccl", torch.device("cuda:1"))]


def test_the_same_bits_unless_speed_or_tf32_is_asked_for() -> None:
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul

    def flags() -> tuple[bool, ...]:
        return cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, products.allow_tf32

    before = flags()
    for call, expected in (
        ({}, (True, False, False, False)),
        ({"fast": True}, (False, True, False, False)),
        ({"tf32": True}, (True, False, True, True)),
    ):
        with steady(**call):
            assert flags() == expected
        assert flags() == before


def test_every_process_wants_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(CallError, match="2 processes need a GPU each, but this machine has 1 GPUs"):
        choose_device("auto", 2)
    assert choose_device("cpu", 2) == torch.device("cpu")


# ---------------------------------------------------------------------------------------------- the norm


@pytest.mark.full
def test_a_shared_norm_is_torchs_norm_over_the_whole_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = nn.BatchNorm3d(4)
    nn.init.normal_(theirs.weight)
    nn.init.normal_(theirs.bias)
    input = (torch.randn(5, 4, 3, 4, 5) * 2 + 30).requires_grad_()
    weights = torch.randn(5, 4, 3, 4, 5)
    torch.save(
        {"norm": theirs.state_dict(), "input": input.detach(), "weights": weights}, tmp_path / "case.pt"
    )
    output = theirs(input)
    (output * weights).sum().backward()  # type: ignore[no-untyped-call]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(norm_in_a_process, (port, str(tmp_path)), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert [one["talks"] for one in found] == [(1, 2)] * 2  # one forward, and one more backward
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(torch.cat([one["output"] for one in found]), output.detach(), **close)
    torch.testing.assert_close(torch.cat([one["input"] for one in found]), input.grad, **close)
    for name in ("weight", "bias"):
        summed = found[0][name] + found[1][name]
        torch.testing.assert_close(summed, getattr(theirs, name).grad, rtol=1e-4, atol=1e-4)
    for key, value in theirs.state_dict().items():
        for one in found:
            torch.testing.assert_close(one["norm"][key], value, **close)
