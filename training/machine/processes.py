"""One run in several processes: who takes part, and the few things they tell one another.

torchrun, or `launched` for `--devices`, starts the processes and names them in the environment (RANK,
WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT). The process of rank 0 leads: it alone holds the folder of
the run, writes and speaks.

Plain torch.distributed. DistributedDataParallel would do as well: with `find_unused_parameters=True`, three
gloo processes went on to the bit, and it adds gradients up while others are still being computed. But it
takes the mean over processes where parts of unequal size must be summed, and with the few lines of
`add_gradients` the loss and the wish to stop travel with the gradients, so a step talks once. Lightning
Fabric 2.6 would save these lines at the price of ten packages, an HTTP client among them, and 1.8 s at every
start.

A process that ends before its time must end the others. gloo tells them at once. NCCL lets them wait for ten
minutes, in a place that no exception reaches, so those started here watch one another (`_watching`); those of
torchrun are watched by its agent, those of srun by `--kill-on-bad-exit`.

Python's own multiprocessing starts the others, also for two reasons. torch.distributed.launcher makes the
first process a child too: two processes took 10.2 s of processor time to meet in place of 6.8 s, every word
of progress would have to travel, and a Ctrl-C, which a terminal sends to all and the launcher sends on, would
count twice and lose the steps since the last checkpoint. torch.multiprocessing writes the traceback of an
error into a file that it leaves behind, in place of stderr.
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

    def add_gradients(self, model: nn.Module, told: Tensor) -> Tensor:
        """Sum every gradient over the processes, in place, and what is told with them, which comes back.

        All of it as one vector, so always in the same order.
        """
        if self.world == 1:
            return told
        parts = [weights.grad for weights in model.parameters() if weights.grad is not None] + [told]
        together = self.add_up(torch.cat([part.flatten() for part in parts]))
        sizes = [part.numel() for part in parts]
        for part, summed in zip(parts, torch.split(together, sizes), strict=True):
            part.copy_(summed.view_as(part))
        return told


class OtherEndedError(DataError):
    """Another process of this run has ended before its time."""

    def __init__(self) -> None:
        super().__init__(
            "Another process of this run has ended; if it said why, it did so above. The same command goes "
            "on from the last checkpoint."
        )


@contextmanager
def _talking() -> Iterator[None]:
    """Raise `OtherEndedError` where another process has ended while this one talked to it."""
    try:
        yield
    except RuntimeError as error:  # torch's own kinds of it, by backend
        if isinstance(error, DataError):
            raise
        raise OtherEndedError from None


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
    on_cpu = device.type == "cpu"
    dist.init_process_group("gloo" if on_cpu else "nccl", device_id=None if on_cpu else device)
    done = False
    try:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
        yield Group(dist.get_rank(), world, local)
        done = True
    finally:
        if done or on_cpu:  # NCCL would wait here for what the others will never answer
            dist.destroy_process_group()


@contextmanager
def launched(count: int, take_part: Callable[..., None], *call: Any) -> Iterator[None]:
    """Be the first of `count` processes on this machine, and start the others; 1 starts none.

    These call `take_part`, which is importable by name, with `call`, which is picklable.

    Raises:
        CallError: the environment tells that they have been started already.
        DataError: one of the others could not begin.
    """
    if count == 1:
        yield
        return
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started > 1 and "RANK" in os.environ:
        raise CallError(
            f"--devices {count} starts processes, and WORLD_SIZE says that {started} have been started, as "
            "torchrun does: leave --devices out, or take WORLD_SIZE out of the environment."
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(count))
    names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    names["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # that of a torchrun which has started this one alone
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
            with _environment({"RANK": "0", "LOCAL_RANK": "0"}), _watching(others):
                yield
        finally:
            wait_until = monotonic() + _GRACE
            for other in others:
                other.join(max(0.0, wait_until - monotonic()))
                other.kill()


@contextmanager
def _watching(others: Sequence[BaseProcess], speaks: bool = True) -> Iterator[None]:
    """End this process when one of the others has died and it does not notice by itself.

    Ends of the agreed kind, with an interruption or none, are left alone.
    """
    over = threading.Event()

    def watch() -> None:
        left = list(others)
        while left and not over.is_set():
            for gone in wait([one.sentinel for one in left], 0.2):
                one = next(one for one in left if one.sentinel == gone)
                left.remove(one)
                # Of a parent no code is known, and it ends after all others unless it has died.
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
    """In one of the others: everything could be imported, so say so and take part.

    Of what they say by themselves, the end of the others is known to whoever leads. Where it has died, the
    next one says so.
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


_GRACE = 5.0  # seconds that the others have to end by themselves when the first one has
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
