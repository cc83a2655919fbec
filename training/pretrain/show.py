"""What people watch beside the losses: TensorBoard's events, and a profile of a few steps."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.ledger import write_whole
from genesis_toolkit.training.machine.run_folder import EpochRecord, Run

#: The loss of every so many steps is an event.
EVERY = 20

# Steps that a profile leaves out, for what is done once, and steps that it is of.
_BEFORE, _PROFILED = 2, 5
_ROWS = 15


class Events:
    """Writes the figures of a run where TensorBoard finds them. Made by `writing_events`.

    Args:
        writer: torch's SummaryWriter; None writes nothing.
    """

    def __init__(self, writer: Any = None) -> None:
        self._writer = writer

    def tell_step(self, step: int, loss: float, lr: float) -> None:
        """The loss and the learning rate of a step, counted from 1 over all epochs, now and then."""
        if self._writer is not None and step % EVERY == 0:
            self._writer.add_scalar("step/loss", loss, step)
            self._writer.add_scalar("step/lr", lr, step)

    def tell_epoch(self, record: EpochRecord) -> None:
        """The figures of a finished epoch."""
        if self._writer is None:
            return
        figures = {
            "loss/train": record.train_loss,
            "loss/validation": record.validation_loss,
            "loss/copying": record.copy_loss,
            "loss/mean_image": record.mean_image_loss,
            "lr": record.lr,
            "speed/cubes_per_second": record.cubes_per_second,
            "speed/waiting": record.waiting,
            **{
                f"degradation/{name.replace(', ', '_')}": loss for name, loss in record.by_degradation.items()
            },
        }
        for name, figure in figures.items():
            self._writer.add_scalar(name, figure, record.epoch)
        self._writer.flush()


def check_tensorboard() -> None:
    """See that events can be written, before anything is begun.

    Raises:
        CallError: TensorBoard is not installed.
    """
    if find_spec("tensorboard") is None:
        raise CallError(
            "--tensorboard needs the package tensorboard: install it with pip install "
            '"genesis-toolkit[tensorboard]", or leave --tensorboard out; losses.jsonl has the same figures.'
        )


@contextmanager
def writing_events(run: Run, wanted: bool) -> Iterator[Events]:
    """Events in the run's folder, where they are wanted. Only then is TensorBoard imported."""
    if not wanted:
        yield Events()
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(run.events)) as writer:
        yield Events(writer)


@contextmanager
def profiling(run: Run, wanted: bool, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Profile a few early steps, where that is wanted.

    Args:
        run: its `profile` gets the table, and the file beside it the trace that trace viewers open.
        wanted: or nothing is done.
        say: told the table.

    Yields:
        To be called after every step.
    """
    if not wanted:
        yield lambda: None
        return
    cuda = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]

    def write(finished: Any) -> None:
        by = "self_cuda_time_total" if cuda else "self_cpu_time_total"
        table = finished.key_averages().table(sort_by=by, row_limit=_ROWS, max_name_column_width=40)
        write_whole(run.profile, table.encode())
        finished.export_chrome_trace(str(run.profile.with_suffix(".json")))
        say(f"Profile of {_PROFILED} steps, also in {run.profile}:\n{table}")

    plan = schedule(wait=_BEFORE - 1, warmup=1, active=_PROFILED, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=write) as profiler:
        yield profiler.step
