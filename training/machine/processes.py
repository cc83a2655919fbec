"""One run in several processes: who takes part, and the few things they tell one another.

torchrun, or `launched` for `--devices`, starts the processes and names them in the environment (RANK,
WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT). The process of rank 0 leads: it alone holds the folder of
the run, writes and speaks.

Plain torch.distributed, for two reasons. DistributedDataParallel, by itself or inside Lightning Fabric, sorts
its buckets anew after the first step, so the gradients of a resumed run would be added up in another order
than those of one that went through; here they are added up in one order always, so that a kill does not show
in the bits. And Fabric 2.6 would save the sixty lines below at the price of ten packages, an HTTP client
among them, and 1.8 s at every start.

Python's own multiprocessing starts the others, also for two reasons. torch.distributed.launcher makes the
first process a child too: two processes took 10.2 s of processor time to meet in place of 6.8 s, every word
of progress would have to travel, and a Ctrl-C, which a terminal sends to all and the launcher sends on, would
count twice and lose the steps since the last checkpoint. torch.multiprocessing writes the traceback of an
error into a file that it leaves behind, in place of stderr.
"""

import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from genesis_toolkit.pipeline.errors import CallError, DataError

Result = TypeVar("Result")


@dataclass(frozen=True)
class Group:
    """The processes of one run, as one of them sees it. A run of one process is a group of one.

    That of rank 0 leads. There are `world` of them, `local` on this machine.
    """

    rank: int = 0
    world: int = 1
    local: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def in_turn(self, work: Callable[[], Result]) -> Result:
        """Do the same work in every process, first in the leading one: what fails there is said once."""
        if not self.leads:
            self.from_lead(work)
            return work()
        result = work()
        self._broadcast((True, None))
        return result

    def from_lead(self, work: Callable[[], Result]) -> Result:
        """Do work in the leading process only and give everyone its result, which must be picklable.

        Where it failed, the leading one raises what it raised, and the others end.
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
        """The pieces of all processes, by rank, in every process; picklable."""
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

    def add_gradients(self, model: nn.Module) -> None:
        """Sum every gradient over the processes: as one vector, so always in the same order."""
        if self.world == 1:
            return
        gradients = [weights.grad for weights in model.parameters() if weights.grad is not None]
        together = self.add_up(torch.cat([gradient.flatten() for gradient in gradients]))
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, summed in zip(gradients, torch.split(together, sizes), strict=True):
            gradient.copy_(summed.view_as(gradient))


@contextmanager
def _talking() -> Iterator[None]:
    """Say in a `DataError` that another process has ended while this one talked to it."""
    try:
        yield
    except RuntimeError as error:  # torch's own kinds of it, by backend
        if isinstance(error, DataError):
            raise
        raise DataError(
            "Another process of this run has ended; if it said why, it did so above. The same command goes "
            "on from the last checkpoint."
        ) from None


@contextmanager
def joined(device: torch.device) -> Iterator[Group]:
    """Take part in the run that the environment names; a group of one where it names none.

    gloo carries what is on the CPU, NCCL what is on CUDA.

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
            f"WORLD_SIZE is {world}, but {missing[0]} is not set: start the processes with torchrun, or take "
            "WORLD_SIZE out of the environment."
        )
    dist.init_process_group("gloo" if device.type == "cpu" else "nccl")
    try:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
        yield Group(dist.get_rank(), world, local)
    finally:
        dist.destroy_process_group()


@contextmanager
def launched(count: int, take_part: Callable[..., None], *call: Any) -> Iterator[None]:
    """Be the first of `count` processes on this machine, and start the others; 1 starts none.

    These call `take_part`, which is importable by name, with `call`, which is picklable.

    Raises:
        DataError: one of the others could not begin.
    """
    if count == 1 or "RANK" in os.environ:  # torchrun has started them all
        yield
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(count))
    names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if os.path.exists("/sys/class/net/lo"):  # noqa: PTH110 # gloo would look this machine's name up instead
        names["GLOO_SOCKET_IFNAME"] = "lo"
    spawn = multiprocessing.get_context("spawn")
    begun, begin = spawn.Pipe(duplex=False)
    given = [(rank, begin, take_part, call) for rank in range(1, count)]
    others = [spawn.Process(target=_begin, args=one, daemon=True) for one in given]
    with _environment(names):
        for other in others:
            other.start()
        try:
            for _ in others:  # torch would wait half an hour for one that never comes
                wait([begun, *(other.sentinel for other in others)])
                if not begun.poll():
                    raise DataError("A further process of this run could not begin; it said why above.")
                begun.recv()
            with _environment({"RANK": "0", "LOCAL_RANK": "0"}):
                yield
        finally:
            for other in others:
                other.join(_GRACE)
                other.kill()


def _begin(rank: int, begin: Connection, take_part: Callable[..., None], call: tuple[Any, ...]) -> None:
    """In one of the others: everything could be imported, so say so and take part."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    begin.send(None)
    take_part(*call)


_GRACE = 10.0  # seconds that the others have to end by themselves when the first one has


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
