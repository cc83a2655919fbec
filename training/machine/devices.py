"""Where the network trains, in which precision, and how the same call is kept to the same bits."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from genesis_toolkit.pipeline.engine import cores
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.wording import counted

_AUTOCAST = {"float32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str, devices: int = 1) -> torch.device:
    """The device by its name on the command line: `auto` (CUDA where there is one), `cpu` or `cuda`.

    As many processes of this run as `devices` are on this machine, each of which needs a GPU of its own: the
    one that LOCAL_RANK names, be it torchrun or srun that has set it.

    Raises:
        CallError: another name, or `cuda` where torch finds none, or fewer GPUs than processes.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise CallError(f"--device {name} is unknown; allowed: auto, cpu, cuda.")
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise CallError("torch finds no CUDA device: leave --device out, or install a CUDA build of torch.")
    if name == "cpu" or not found:
        return torch.device("cpu")
    devices = max(devices, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if devices > torch.cuda.device_count():
        raise CallError(
            f"{devices} processes were asked for, but this machine has {torch.cuda.device_count()} GPUs: "
            "give fewer --devices, or --device cpu."
        )
    if devices == 1 and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return torch.device("cuda")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= torch.cuda.device_count():
        raise CallError(
            f"LOCAL_RANK is {local}, but this process sees {torch.cuda.device_count()} GPUs: let it see all "
            "of its machine, or set LOCAL_RANK to 0 where each process sees only its own."
        )
    device = torch.device("cuda", local)
    torch.cuda.set_device(device)  # NCCL asks for the current one
    return device


def device_words(device: torch.device) -> str:
    """`the CPU with 2 threads`, or the GPU's name."""
    if device.type == "cpu":
        return f"the CPU with {counted(torch.get_num_threads(), 'thread')}"
    return f"{device}, {torch.cuda.get_device_name(device)}"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which the network runs: as it is for float32 and tf32, else torch's mixed precision."""
    return torch.autocast(device.type, _AUTOCAST[precision], enabled=_AUTOCAST[precision] is not None)


@contextmanager
def steady(
    processes: int = 1, threads: int | None = None, *, fast: bool = False, tf32: bool = False
) -> Iterator[None]:
    """Let the same call give the same bits, on the cores this process may use; undone afterwards.

    On CUDA cuDNN takes kernels that always add up in one order, unless it shall be `fast`. Float32 is float32
    unless `tf32` is asked for: torch by itself takes TF32, 10 bits in place of 23, for convolutions.

    On the CPU every operation of the networks here gives the same bits as long as the number of threads is
    the same, because sums are cut by threads. `torch.use_deterministic_algorithms` would add nothing to that,
    and loads torch's compiler for two seconds. Processes of this run on this machine share its cores; torch
    takes as many threads as each of them has cores, where no number is given.
    """
    before = torch.get_num_threads()
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    flags = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, products.allow_tf32
    # A batch system may grant fewer cores than there are.
    torch.set_num_threads(threads or max(1, min(before, cores() // processes)))
    # Benchmarking picks kernels by their speed of the moment, and other kernels add up in other orders.
    cudnn.deterministic, cudnn.benchmark = not fast, fast
    cudnn.allow_tf32 = products.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.set_num_threads(before)
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, products.allow_tf32 = flags
