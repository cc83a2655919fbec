"""Types of option values, options shared by several commands, and their groups in --help."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from genesis_toolkit.cli.output import AS_JSON
from genesis_toolkit.pipeline import absent
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.training.finetune.parameters import (
    DEFAULT_STEPS,
    HEADS,
    KEEPS,
    PRECISIONS,
    SCHEDULES,
    SELECTS,
    FinetuneParameters,
    labels_words,
)

Option = Callable[[Callable[..., Any]], Callable[..., Any]]


class Command(click.Command):
    """A command that shows its options in groups."""

    #: Whether an interrupted call keeps its work, and the same call continues it.
    resumable = False

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command after checking that every path that must exist does."""
        for parameter in self.params:
            if isinstance(parameter.type, There):
                given = ctx.params[str(parameter.name)]
                for value in given if parameter.nargs == -1 else (given,):
                    parameter.type.check(value)
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, those of a group under its heading."""
        groups: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record:
                groups.setdefault(vars(parameter).get("group", "Options"), []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


class Resumable(Command):
    """A command whose interrupted call keeps its work."""

    resumable = True


def grouped(title: str, *options: Option) -> Option:
    """Give a command these options, in this order, under a heading of their own."""

    def take(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        for parameter in vars(command)["__click_params__"][-len(options) :]:
            vars(parameter)["group"] = title
        return command

    return take


def option(name: str, text: str, kind: Any = None, default: Any = None, **more: Any) -> Option:
    """Return an option of a command.

    Args:
        name: the option as typed.
        text: its text in --help.
        kind: the type of its value; `bool` for a flag, or the allowed words.
        default: its default, which --help shows unless the text does.
        more: as for `click.option`.
    """
    if kind is bool:
        return click.option(name, is_flag=True, help=text, **more)
    kind = click.Choice(kind) if isinstance(kind, list | tuple) else kind
    if default is not None:  # for click an explicit None is a value, so no option would be missing
        more |= {"default": default, "show_default": "[default:" not in text}
    return click.option(name, type=kind, help=text, **more)


def setting(record: object, name: str, text: str, kind: Any = None) -> Option:
    """An option for the field `name` of a record of parameters, which holds its default."""
    return option(name, text, kind, getattr(record, name.removeprefix("--").replace("-", "_")))


def path(value: str) -> Path:
    """Return a file or folder on this machine; the type of an option's value."""
    if not value:
        raise click.BadParameter("the path is empty: give a path, such as . for the current folder.")
    if "://" in value:
        raise click.BadParameter(f"{value} is an address: give a path on this machine.")
    return Path(value)


def store(value: str) -> Path | str:
    """Return a store to read: a folder, an archive, or an address, which stays text."""
    return value if "://" in value else path(value)


class There(click.ParamType[Any]):
    """The type of a path that must exist, checked before anything slow is loaded.

    Args:
        kind: converts the text to a value.
        check: raises CallError, which ends the command, if nothing exists at that value.
    """

    name = "path"

    def __init__(self, kind: Callable[[str], Any], check: Callable[[Any], object]) -> None:
        self.kind, self.check = kind, check

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert the text to a value; it is checked after the whole call is parsed."""
        return self.kind(value)


scans, scan = There(path, absent.check_scans), There(str, absent.check_scan)
cube_file = There(path, absent.check_cube_file)
made_store, made_here = (
    There(kind, partial(absent.check_store, maker="extract-cubes")) for kind in (store, path)
)
made_targets = There(store, partial(absent.check_store, maker="extract-targets"))


class Listed(click.ParamType[tuple[Any, ...]]):
    """The type of values separated by commas, such as `64,64,32`; the library checks number and range.

    Args:
        name: how --help writes them.
        kind: converts a word to a value; raises ValueError if it cannot.
        allowed: the allowed values, in words.
    """

    def __init__(self, name: str, kind: Callable[[str], Any] = int, allowed: str = "whole numbers") -> None:
        self.name, self._kind, self._allowed = name, kind, allowed

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the values, in order."""
        try:
            return tuple(self._kind(word) for word in value.split(","))
        except ValueError:
            self.fail(
                f"{value!r} is invalid: it must be {self._allowed} separated by commas, {self.name}.",
                param,
                ctx,
            )


def window_ends(value: str) -> tuple[float | str, ...]:
    """Return the ends of a window: numbers, or text such as `p0.5` for the library to check."""
    return tuple(_number_or_text(word.strip()) for word in value.split(","))


def _number_or_text(word: str) -> float | str:
    try:
        number = float(word)
    except ValueError:
        return word
    return int(number) if number.is_integer() else number


def check_one_window(typed: dict[str, Any]) -> None:
    """Refuse `--hu` together with `--window`, whatever their values."""
    if {"hu", "window"} <= typed.keys():
        raise CallError(
            "--hu is for CT, --window for scans without HU, such as MR: give only one of the two options."
        )


at_least_1 = click.IntRange(min=1)

json_option = option(
    "--json",
    "Print the result as one JSON object, for use by programs.",
    bool,
    expose_value=False,
    callback=lambda context, _, given: context.meta.update({AS_JSON: given}),
)
overwrite_store = option(
    "--overwrite", "Replace an existing store and restart unfinished work from scratch.", bool
)
split_file_option = option(
    "--split-file",
    "CSV table with columns scan,part (train, validation, test or exclude) that overrides all other splits.",
    path,
    metavar="CSV",
)
overwrite_run = option("--overwrite", "Discard an earlier run in --out and start again.", bool)
dry_run_training = option(
    "--dry-run", "Show what would be trained, and the memory needed, without writing anything.", bool
)
out_option = option(
    "--out", "Folder of the run; it is created if needed.", path, metavar="RUN", required=True
)
threads_option = option("--workers", "Number of threads. [default: one per core, at most 8]", at_least_1)
device_option = option(
    "--device",
    "Device that runs the network; auto uses CUDA if available.",
    ["auto", "cpu", "cuda"],
    "auto",
)

#: Options that determine where a scan may be cut (METHOD.md section 2).
rule_options = grouped(
    "Cube size and placement",
    option(
        "--size",
        "Cube size in voxels; two numbers cut 2D slices. [default: 64,64,32]",
        Listed("X,Y[,Z]"),
        "64,64,32",
    ),
    option(
        "--plane",
        "Plane of 2D slices, used if --size has two numbers. [default: axial]",
        ["axial", "coronal", "sagittal"],
    ),
    option(
        "--hu",
        "CT only: range in HU to which voxel values are clipped. [default: -1000,1000]",
        Listed("LOW,HIGH"),
        "-1000,1000",
    ),
    option(
        "--window",
        "MR only: the two values or percentiles of a scan that become -1000 and 1000, such as p0.5,p99.5.",
        window_ends,
        metavar="LOW,HIGH",
    ),
    option(
        "--border",
        "Margin in voxels on each side of a scan that cubes must not touch. [default: 100,100,30]",
        Listed("X,Y,Z"),
        "100,100,30",
    ),
    option(
        "--max-tissue",
        "Maximum fraction of tissue (0 to 1) in a cube that is kept; in patches of slices, air also "
        "counts as tissue. [default: 0.15; slices: 0.7; MR: 1]",
        float,
    ),
    option(
        "--min-tissue",
        "Minimum fraction of tissue (0 to 1) in a cube that is kept; raise it to exclude cubes of air.",
        float,
        0.0,
    ),
)


def work_options(workers: str) -> Option:
    """Return the options for workers and output; `workers` is the help text of that option."""
    return grouped(
        "Work and output",
        option("--workers", workers, at_least_1),
        option(
            "--scheduler",
            "Address or scheduler file of a dask cluster to use instead of this machine.",
            metavar="ADDRESS",
        ),
        option("--dry-run", "Estimate the output, disk space and time without writing anything.", bool),
        overwrite_store,
        json_option,
    )


#: What only the publisher of a store knows; the fields of `publish.Publication`.
card_options = grouped(
    "Facts for the dataset card",
    option("--title", "Title of the dataset.", metavar="TEXT"),
    option(
        "--licence", "Licence of the dataset: an SPDX name, such as CC-BY-4.0, or a sentence.", metavar="TEXT"
    ),
    option("--citation", "Reference to cite for the dataset.", metavar="TEXT"),
    option("--contact", "Contact for questions: a name or an address.", metavar="TEXT"),
)

_DEFAULT = FinetuneParameters()

#: Options that `FinetuneParameters.from_dict` takes, and `--device`.
finetuning_options = grouped(
    "Fine-tuning",
    option(
        "--labels",
        "Share (10%) or number (20) of the training scans or images to train on.",
        str,
        labels_words(_DEFAULT.labels),
        metavar="10%|N",
    ),
    option("--steps", f"Number of training steps. [default: {DEFAULT_STEPS}]", int),
    option("--epochs", "Number of passes over the labelled cubes, as an alternative to --steps.", int),
    setting(
        _DEFAULT,
        "--select",
        "Network to evaluate: the network of the last step, or of the epoch with the lowest validation loss.",
        SELECTS,
    ),
    option("--patience", "With --select best: stop after this many epochs without improvement.", int),
    option(
        "--at-steps",
        "Step numbers after which the network is also evaluated on the test data.",
        Listed("N,.."),
        metavar="N,..",
    ),
    setting(_DEFAULT, "--batch-size", "Maximum number of cubes per batch; lower it if memory runs out."),
    setting(_DEFAULT, "--lr", "Peak learning rate of Adam."),
    setting(_DEFAULT, "--schedule", "Decay of the learning rate after the warm-up.", SCHEDULES),
    option(
        "--warmup",
        "Number of warm-up steps for the learning rate. [default: a tenth of all steps, at most 50]",
        int,
    ),
    option(
        "--augment/--no-augment",
        "Randomly flip, shift and rotate the training cubes and rescale their intensities. "
        "[default: augment]",
        default=True,
    ),
    setting(_DEFAULT, "--head", "Encoder levels that a classifier uses: only the deepest, or all.", HEADS),
    option(
        "--keep",
        "Pre-trained parts that a segmentation network keeps; all-but-last omits the last "
        "level of the decoder. [default: all-but-last]",
        KEEPS,
    ),
    option(
        "--freeze-encoder",
        "Freeze the encoder; fit a linear probe (classification) or train only the decoder (segmentation).",
        bool,
    ),
    setting(
        _DEFAULT,
        "--precision",
        "Precision of the arithmetic: tf32 rounds the inputs of matrix products and convolutions; bf16 and "
        "fp16 are mixed precision.",
        PRECISIONS,
    ),
    setting(
        _DEFAULT,
        "--seed",
        "Random seed for choosing labelled scans, initial weights, order and augmentation.",
    ),
    device_option,
)


def given_options() -> dict[str, Any]:
    """Return the parameters of the running command that were typed, by name; no defaults."""
    context, default = click.get_current_context(), click.core.ParameterSource.DEFAULT
    typed = (name for name in context.params if context.get_parameter_source(name) is not default)
    return {name: context.params[name] for name in typed}


def work_of(options: dict[str, Any], dry_run: bool, *more: str) -> dict[str, Any]:
    """Remove the options of `work_options`, and `more`, from `options`, and return them for the job.

    A dry run only plans the job, for which it needs the number of parallel tasks.
    """
    work = {name: options.pop(name) for name in ("workers", "scheduler", "overwrite", *more)}
    if dry_run:
        from genesis_toolkit.pipeline.engine import cores, workers_of

        scheduler = work.pop("scheduler")
        work["workers"] = workers_of(scheduler) if scheduler else work["workers"] or cores()
    return work
