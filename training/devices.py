"""Where the network trains, and how the same call is kept to the same bits."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipeline.engine import cores
from pipeline.errors import CallError


def choose_device(name: str) -> torch.device:
    """The device by its name on the command line: `auto` (CUDA where there is one), `cpu` or `cuda`.

    Raises:
        CallError: another name, or `cuda` where torch finds none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise CallError(f"--device {name} is unknown; allowed: auto, cpu, cuda.")
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise CallError("torch finds no CUDA device: leave --device out, or install a CUDA build of torch.")
    return torch.device("cuda" if found and name != "cpu" else "cpu")


@contextmanager
def steady() -> Iterator[None]:
    """Let the same call give the same bits, on the cores this process may use; undone afterwards.

    On the CPU every operation of the networks here gives the same bits as long as the number of threads is
    the same, because sums are cut by threads. `torch.use_deterministic_algorithms` would add nothing to that,
    and loads torch's compiler for two seconds.
    """
    threads = torch.get_num_threads()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.set_num_threads(min(threads, cores()))  # a batch system may grant fewer cores than there are
    # Benchmarking picks kernels by their speed of the moment, and other kernels add up in other orders.
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
