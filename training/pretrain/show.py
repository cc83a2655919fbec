"""Output of a run: the figures of each epoch, restored cubes, TensorBoard events, a profile."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray
from torch.profiler import ProfilerActivity, profile, schedule

from genesis_toolkit.pipeline.describe.facts import applied_words, flip_axes
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.ledger import write_whole
from genesis_toolkit.training.machine.run_folder import Run
from genesis_toolkit.training.pretrain.baselines import Baselines

#: An event is written every this many steps.
EVERY = 20

# Inches in the picture of restored cubes: one image, the labels left of it, the titles above.
_EDGE, _LABEL, _MARGIN = 2.0, 1.1, 0.75
_LETTERS = 18  # that fit in a label

# The plot of losses: name, key in `losses.jsonl` and colour of each curve, and the dashes of the baselines.
_CURVES = (("train", "train_loss", "#56b4e9"), ("validation", "validation_loss", "#0072b2"))
_DASHES = ("-", "--", ":")
_DOTTED = 40  # epochs up to which each has its own dot

# Steps that a profile skips, for one-off work, and steps that it covers.
_BEFORE, _PROFILED = 2, 5
_ROWS = 15


@dataclass(frozen=True)
class EpochRecord:
    """One finished epoch: a line of `losses.jsonl`. Losses are mean squared errors of values in [0, 1].

    Attributes:
        epoch: counted from 1; `steps` steps, all with one variant.
        lr: learning rate of its last step.
        train_loss: mean over the training cubes, each taken at its own step.
        validation_loss: mean over the validation pairs, after the epoch. `by_degradation` is that for every
            combination; `copy_loss`, `mean_image_loss` and `constant_loss` are those of the baselines
            (`Baselines`).
        best: whether the validation loss is lower than in all earlier epochs.
        seconds: duration of the epoch, or of the part after the run was resumed, with validation.
        cubes_per_second: in training.
        waiting: the share of the training time spent waiting for batches, in 0 .. 1.
        effective_rank: rank of every level's pooled features, the finest first (`ranks.level_ranks`); empty
            if a single cube validates.
    """

    epoch: int
    variant: int
    steps: int
    lr: float
    train_loss: float
    validation_loss: float
    copy_loss: float
    mean_image_loss: float
    constant_loss: float
    by_degradation: dict[str, float]
    best: bool
    seconds: float
    cubes_per_second: float
    waiting: float
    effective_rank: list[float]

    def __str__(self) -> str:
        baselines = Baselines(self.copy_loss, self.mean_image_loss, self.constant_loss, {})
        return (
            f"epoch {self.epoch}: train {self.train_loss:.4f}, validation {self.validation_loss:.4f}, "
            f"{baselines.compare(self.validation_loss)}, lr {self.lr:g}, "
            f"{self.seconds:.1f} s, {self.cubes_per_second:.1f} cubes/s, {100 * self.waiting:.1f} % waiting"
            f"{', best' if self.best else ''}"
        )


class Events:
    """Writes the figures of a run for TensorBoard, with torch's SummaryWriter; without `writer`, nothing."""

    def __init__(self, writer: Any = None) -> None:
        self._writer = writer

    def tell_step(self, step: int, loss: float, lr: float) -> None:
        """Write loss and learning rate of a step, counted from 1 over all epochs, every so many steps."""
        if self._writer is not None and step % EVERY == 0:
            self._writer.add_scalar("step/loss", loss, step)
            self._writer.add_scalar("step/lr", lr, step)

    def tell_epoch(self, record: EpochRecord) -> None:
        """Write the figures of a finished epoch."""
        if self._writer is None:
            return
        figures = {
            "loss/train": record.train_loss,
            "loss/validation": record.validation_loss,
            "loss/copying": record.copy_loss,
            "loss/mean_image": record.mean_image_loss,
            "loss/constant": record.constant_loss,
            "lr": record.lr,
            "speed/cubes_per_second": record.cubes_per_second,
            "speed/waiting": record.waiting,
        }
        for name, loss in record.by_degradation.items():
            figures[f"degradation/{name.replace(', ', '_')}"] = loss
        for name, figure in figures.items():
            self._writer.add_scalar(name, figure, record.epoch)
        self._writer.flush()


def check_tensorboard() -> None:
    """Check that TensorBoard is installed, before anything starts."""
    if find_spec("tensorboard") is None:
        raise CallError(
            "--tensorboard needs the package tensorboard: install it with pip install "
            '"genesis-toolkit[tensorboard]", or omit --tensorboard; losses.jsonl has the same figures.'
        )


@contextmanager
def writing_events(run: Run, enabled: bool) -> Iterator[Events]:
    """Yield the events of the run folder; TensorBoard is imported only if they are enabled."""
    if not enabled:
        yield Events()
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(run.events)) as writer:
        yield Events(writer)


@contextmanager
def profiling(run: Run, enabled: bool, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Profile a few early steps, if enabled; yield a function to call after every step.

    The table goes to the run's `profile`, and the trace, for trace viewers, to a file next to it.
    """
    if not enabled:
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


@dataclass(frozen=True)
class RestoredSlice:
    """The middle slice of a cube, or a whole image, float32 `[x, y]` in [0, 1], with its degradations."""

    original: NDArray[Any]
    degraded: NDArray[Any]
    restored: NDArray[Any]
    label: str
    cube: int

    def named(self, scan: str) -> "RestoredSlice":
        """Return the slice with the scan's name in its label; of a long name, the end."""
        name = scan if len(scan) <= _LETTERS else f"\u2026{scan[1 - _LETTERS :]}"
        return replace(self, label=f"{name}\ncube {self.cube}\n{self.label}")


def describe_pair(flip: int, applied: int) -> str:
    """Describe the degradations of a pair in words, one per line, in the order of application.

    Of `flip` bit 0 is x, bit 1 y, bit 2 z; `applied` has bits of `Applied`.
    """
    axes = flip_axes(flip)
    return "\n".join(([f"flipped {axes}"] if axes else []) + (applied_words(applied) or ["unchanged"]))


def draw_losses(path: Path, records: Sequence[Mapping[str, Any]], baselines: Baselines) -> None:
    """Draw a PNG of the losses of all epochs so far, on a logarithmic scale, with the three baselines.

    Args:
        path: path of the picture.
        records: the finished epochs, lines of `losses.jsonl`; at least one.
        baselines: drawn as horizontal lines.
    """
    epochs = [record["epoch"] for record in records]
    best = min(records, key=lambda record: record["validation_loss"])
    figure = Figure(figsize=(7.2, 4.2), dpi=100)
    axes = figure.subplots()
    figure.subplots_adjust(0.1, 0.12, 0.7, 0.86)  # by hand, as below; the names of the lines are on the right
    for (name, loss), dashes in zip(baselines.named().items(), _DASHES, strict=True):
        axes.axhline(loss, color="0.45", linewidth=1, linestyle=dashes, label=f"{name} {loss:.4f}")
    for name, key, colour in _CURVES:
        losses = [record[key] for record in records]
        axes.plot(epochs, losses, color=colour, marker="." if len(epochs) < _DOTTED else None,
                  label=f"{name} {losses[-1]:.4f}")  # fmt: skip
    axes.plot(best["epoch"], best["validation_loss"], "o", color=_CURVES[1][2], markersize=8,
              fillstyle="none", label=f"best: epoch {best['epoch']}")  # fmt: skip
    axes.set(xlabel="epoch", ylabel="mean squared error, values in [0, 1]", yscale="log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:.4g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False, fontsize=9)
    loss = best["validation_loss"]
    figure.suptitle(f"best validation loss {loss:.4f},\n{baselines.compare(loss)}", fontsize=10)
    _save(figure, path)


def draw_restored(path: Path, slices: Sequence[RestoredSlice], title: str) -> None:
    """Draw a PNG: one row per cube, x to the right and y down, black 0 and white 1 of the window."""
    across, down = slices[0].original.shape
    height = _MARGIN + _EDGE * down / across * len(slices)
    figure = Figure(figsize=(_LABEL + 3 * _EDGE, height), dpi=100)
    figure.suptitle(title, fontsize=10, y=1 - 0.15 / height, va="top")
    # Placed by hand: an automatic layout takes longer than drawing, and would delay short epochs.
    figure.subplots_adjust(_LABEL / (_LABEL + 3 * _EDGE), 0.02, 0.99, 1 - _MARGIN / height, 0.04, 0.04)
    axes = figure.subplots(len(slices), 3, squeeze=False)
    for row, piece in zip(axes, slices, strict=True):
        for place, image in zip(row, (piece.original, piece.degraded, piece.restored), strict=True):
            place.imshow(image.T, cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
            place.set_axis_off()
        row[0].text(-0.05, 0.5, piece.label, transform=row[0].transAxes, ha="right", va="center", fontsize=8)
    for place, name in zip(axes[0], ("original", "degraded", "restored"), strict=True):
        place.set_title(name, fontsize=10)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", pil_kwargs={"compress_level": 1})
    write_whole(path, buffer.getvalue())
