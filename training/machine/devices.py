"""Choose the device and the precision for training, and make repeated calls give the same bits."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from genesis_toolkit.pipeline.engine import cores
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.wording import counted

_AUTOCAST = {"float32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str, devices: int = 1) -> torch.device:
    """Return the device named on the command line: `auto` (CUDA if available), `cpu` or `cuda`.

    Of the run's processes, `devices` are on this machine. Each needs its own GPU: the one in LOCAL_RANK,
    which torchrun or srun sets.

    Raises:
        CallError: unknown name, `cuda` without a CUDA device, or fewer GPUs than processes.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise CallError(f"--device {name} is unknown; allowed: auto, cpu, cuda.")
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise CallError("torch finds no CUDA device: omit --device, or install a CUDA build of torch.")
    if name == "cpu" or not found:
        return torch.device("cpu")
    devices = max(devices, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if devices > torch.cuda.device_count():
        raise CallError(
            f"{devices} processes need a GPU each, but this machine has {torch.cuda.device_count()} GPUs: "
            "use fewer --devices, or --device cpu."
        )
    if devices == 1 and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return torch.device("cuda")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= torch.cuda.device_count():
        raise CallError(
            f"LOCAL_RANK is {local}, but this process sees {torch.cuda.device_count()} GPUs: make all "
            "GPUs of the machine visible to it, or set LOCAL_RANK to 0 if each process sees only its own."
        )
    device = torch.device("cuda", local)
    torch.cuda.set_device(device)  # NCCL uses the current device
    return device


def device_words(device: torch.device) -> str:
    """Return the device in words: `the CPU with 2 threads`, or the GPU's name."""
    if device.type == "cpu":
        return f"the CPU with {counted(torch.get_num_threads(), 'thread')}"
    return f"{device}, {torch.cuda.get_device_name(device)}"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context to run the network in: torch's mixed precision, or none for float32 and tf32."""
    return torch.autocast(device.type, _AUTOCAST[precision], enabled=_AUTOCAST[precision] is not None)


@contextmanager
def steady(
    processes: int = 1, threads: int | None = None, *, fast: bool = False, tf32: bool = False
) -> Iterator[None]:
    """Make the same call give the same bits, on the cores this process may use; restore torch on exit.

    On CUDA, cuDNN uses kernels with a fixed order of summation, unless `fast`. Float32 stays float32 unless
    `tf32`: by default torch uses TF32, with 10 bits instead of 23, for convolutions.

    On the CPU, every operation of the networks here gives the same bits for the same number of threads,
    which determines how sums are split. `torch.use_deterministic_algorithms` would add nothing and spends two
    seconds loading torch's compiler. The run's `processes` on this machine share its cores; without
    `threads`, torch gets as many threads as each process has cores.
    """
    before = torch.get_num_threads()
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    flags = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, products.allow_tf32
    # A batch system may grant fewer cores than there are.
    torch.set_num_threads(threads or max(1, min(before, cores() // processes)))
    # Benchmarking picks the kernels that happen to be fastest, and other kernels sum in another order.
    cudnn.deterministic, cudnn.benchmark = not fast, fast
    cudnn.allow_tf32 = products.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.set_num_threads(before)
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, products.allow_tf32 = flags
