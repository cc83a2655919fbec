"""One run in several processes: the group they form, and what they exchange.

torchrun, or `launched` for `--devices`, starts the processes and identifies them in the environment (RANK,
WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT). The process of rank 0 leads: only it holds the run folder,
writes files and prints.

This is plain torch.distributed. DistributedDataParallel would work too: with `find_unused_parameters=True`,
three gloo processes gave the same bits, and it sums gradients while others are still being computed. But it
averages over processes where parts of unequal size must be summed, and with the few lines of `add_gradients`
the loss and the request to stop travel with the gradients, so a step needs one exchange. Lightning Fabric 2.6
would save these lines but adds ten packages, an HTTP client among them, and 1.8 s to every start.

A process that dies must end the others. gloo notices at once. NCCL makes them wait for ten minutes where no
exception reaches them, so processes started here watch one another (`_watching`); torchrun's agent watches
those it started, and srun those started with `--kill-on-bad-exit`.

Python's multiprocessing starts the others, for two reasons. torch.distributed.launcher makes the first
process a child too: two processes took 10.2 s of processor time to connect instead of 6.8 s, all progress
output would have to be forwarded, and a Ctrl-C, which a terminal sends to all processes and the launcher
sends again, would count twice and lose the steps since the last checkpoint. torch.multiprocessing writes the
traceback of an error into a file that it leaves on disk, not to stderr.
"""

import multiprocessing
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from time import monotonic
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from genesis_toolkit.pipeline.errors import CallError, DataError

Result = TypeVar("Result")


@dataclass(frozen=True)
class Group:
    """The processes of one run, as seen by one of them. A run of one process is a group of one.

    Rank 0 leads. There are `world` processes, `local` of them on this machine.
    """

    rank: int = 0
    world: int = 1
    local: int = 1

    @property
    def leads(self) -> bool:
        """Return whether this process writes and prints."""
        return self.rank == 0

    def in_turn(self, work: Callable[[], Result]) -> Result:
        """Run `work` in every process, first in the leading one, so that a failure is reported only once."""
        if not self.leads:
            self.from_lead(work)
            return work()
        result = work()
        self._broadcast((True, None))
        return result

    def from_lead(self, work: Callable[[], Result]) -> Result:
        """Run `work` in the leading process only and return its result, which must be picklable, everywhere.

        If it fails, the leading process raises its error, and the others end.
        """
        if not self.leads:
            good, result = self._broadcast(None)
            if not good:
                raise SystemExit(1)
            return result  # type: ignore[no-any-return]
        try:
            result = work()
        except BaseException:
            self._broadcast((False, None))
            raise
        self._broadcast((True, result))
        return result

    def _broadcast(self, message: Any) -> Any:
        if self.world == 1:
            return message
        box = [message]
        with _talking():
            dist.broadcast_object_list(box)
        return box[0]

    def gather(self, piece: Result) -> list[Result]:
        """Return the pieces of all processes, which must be picklable, by rank, in every process."""
        if self.world == 1:
            return [piece]
        pieces: list[Any] = [None] * self.world
        with _talking():
            dist.all_gather_object(pieces, piece)
        return pieces

    def add_up(self, numbers: Tensor) -> Tensor:
        """Sum a tensor over the processes, in place."""
        if self.world > 1:
            with _talking():
                dist.all_reduce(numbers)
        return numbers

    def add_gradients(self, model: nn.Module, extra: Tensor) -> Tensor:
        """Sum every gradient over the processes, in place, and return the sum of `extra`.

        All travels as one vector, so the order of summation is fixed.
        """
        if self.world == 1:
            return extra
        parts = [weights.grad for weights in model.parameters() if weights.grad is not None] + [extra]
        together = self.add_up(torch.cat([part.flatten() for part in parts]))
        sizes = [part.numel() for part in parts]
        for part, summed in zip(parts, torch.split(together, sizes), strict=True):
            part.copy_(summed.view_as(part))
        return extra


class OtherEndedError(DataError):
    """Another process of this run has died."""

    def __init__(self) -> None:
        super().__init__(
            "Another process of this run has ended; its error, if any, is shown above. Run "
            "the same command again to continue from the last checkpoint."
        )


@contextmanager
def _talking() -> Iterator[None]:
    """Raise `OtherEndedError` if another process ends during an exchange."""
    try:
        yield
    except RuntimeError as error:  # torch raises subclasses of it, depending on the backend
        if isinstance(error, DataError):
            raise
        raise OtherEndedError from None


@contextmanager
def joined(device: torch.device) -> Iterator[Group]:
    """Join the run that the environment describes; yield a group of one if it describes none.

    gloo exchanges CPU tensors, NCCL CUDA tensors.

    Raises:
        CallError: the environment is incomplete.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Group()
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise CallError(
            f"WORLD_SIZE is {world}, but {missing[0]} is not set: start the processes with torchrun, or "
            "remove WORLD_SIZE from the environment."
        )
    on_cpu = device.type == "cpu"
    dist.init_process_group("gloo" if on_cpu else "nccl", device_id=None if on_cpu else device)
    done = False
    try:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
        yield Group(dist.get_rank(), world, local)
        done = True
    finally:
        if done or on_cpu:  # after an error, NCCL would wait here for the others forever
            dist.destroy_process_group()


@contextmanager
def launched(count: int, take_part: Callable[..., None], *call: Any) -> Iterator[None]:
    """Make this the first of `count` processes on this machine, and start the others; 1 starts none.

    The others call `take_part`, which must be importable by name, with `call`, which must be picklable.

    Raises:
        CallError: according to the environment, the processes have already been started.
        DataError: one of the others could not start.
    """
    if count == 1:
        yield
        return
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started > 1 and "RANK" in os.environ:
        raise CallError(
            f"--devices {count} starts processes, but according to WORLD_SIZE {started} are "
            "already running, for example by torchrun: omit --devices, or remove WORLD_SIZE "
            "from the environment."
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(count))
    names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    names["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # the store of a torchrun that started only this process
    if os.path.exists("/sys/class/net/lo"):  # noqa: PTH110 # gloo would look up this machine's name instead
        names["GLOO_SOCKET_IFNAME"] = "lo"
    spawn = multiprocessing.get_context("spawn")
    begun, begin = spawn.Pipe(duplex=False)
    given = [(rank, begin, take_part, call) for rank in range(1, count)]
    others = [spawn.Process(target=_begin, args=one, daemon=True) for one in given]
    with _environment(names):
        for other in others:
            other.start()
        try:
            for _ in others:  # torch would wait half an hour for a missing process
                wait([begun, *(other.sentinel for other in others)])
                if not begun.poll():
                    raise DataError("Another process of this run could not start; its error is shown above.")
                begun.recv()
            with _environment({"RANK": "0", "LOCAL_RANK": "0"}), _watching(others):
                yield
        finally:
            wait_until = monotonic() + _GRACE
            for other in others:
                other.join(max(0.0, wait_until - monotonic()))
                other.kill()


@contextmanager
def _watching(others: Sequence[BaseProcess], speaks: bool = True) -> Iterator[None]:
    """End this process if another one has died and this one does not notice.

    A normal end or an interruption of another process does not count.
    """
    over = threading.Event()

    def watch() -> None:
        left = list(others)
        while left and not over.is_set():
            for gone in wait([one.sentinel for one in left], 0.2):
                one = next(one for one in left if one.sentinel == gone)
                left.remove(one)
                # The exit code of a parent is unknown, but unless it dies it ends after all others.
                if one.exitcode not in (0, _INTERRUPTED) and not over.wait(_NOTICE):
                    for other in left:
                        other.kill()
                    if speaks:
                        sys.stderr.write(f"Error: {OtherEndedError()}\n")
                        sys.stderr.flush()
                    os._exit(1)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _begin(rank: int, begin: Connection, take_part: Callable[..., None], call: tuple[Any, ...]) -> None:
    """Report to the leading process that everything could be imported, then take part; runs in the others.

    They stay silent, since the leading process reports for them. If it has died, rank 1 reports.
    """
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    lead = multiprocessing.parent_process()
    assert lead is not None
    begin.send(None)
    try:
        with _watching([lead], speaks=rank == 1):
            take_part(*call)
    except OtherEndedError as error:
        raise SystemExit(f"Error: {error}" if rank == 1 and wait([lead.sentinel], 0.5) else 1) from None
    except (CallError, DataError) as error:
        raise SystemExit(f"Error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(_INTERRUPTED) from None


_GRACE = 5.0  # seconds for the others to end by themselves after the first one has
_NOTICE = 4.0  # seconds in which a process notices by itself that another has died
_INTERRUPTED = 130


@contextmanager
def _environment(names: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ[name] for name in names if name in os.environ}
    os.environ.update(names)
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)
