"""The kinds of values that options take."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

RATE = click.FloatRange(0, 1)
COUNT = click.IntRange(min=1)
FILL = click.Choice(["noise", "constant"])


class Folder(click.ParamType[Path]):
    """A file or folder on this machine."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """A `Path`."""
        if isinstance(value, Path):
            return value
        if not value:
            self.fail("an empty name was given; '.' is the folder you are in.", param, ctx)
        if "://" in value:
            self.fail(f"{value} is an address; a path on this machine is wanted.", param, ctx)
        return Path(value)


class Store(Folder):
    """A store to read: a folder, an archive, or an address, which stays the text it is."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A `Path`, or a URL."""
        return value if isinstance(value, str) and "://" in value else super().convert(value, param, ctx)


class Words(click.ParamType[tuple[str, ...]]):
    """Words with commas between them, as in `x,y,z` or `L//6,L//3`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """The words, in order; what they may be is the library's to say."""
        return value if isinstance(value, tuple) else tuple(value.split(","))


#: Every parameter of a recipe that can be given in its place: option, kind, meaning (METHOD.md section 3).
RECIPE_OPTIONS: tuple[tuple[str, click.ParamType[Any], str], ...] = (
    ("--flip-rate", RATE, "How often a turn of the flip is taken, three turns at most."),
    ("--flip-axes", Words("AXES"), "Axes a turn draws from, as in x,y,z; the axis channel flips nothing."),
    ("--shuffle-rate", RATE, "Share of pairs with local shuffling."),
    ("--shuffle-windows", COUNT, "Windows in a cube of 64 x 64 x 32."),
    ("--shuffle-keeps", click.Choice(["coverage", "number"]), "What stays the same at other sizes."),
    ("--shuffle-edges", Words("RULES"), "Least and largest edge of a window, as in 1,L//10."),
    ("--nonlinear-rate", RATE, "Share of pairs with a non-linear curve."),
    ("--invert-rate", RATE, "Share of the curves that are inverted."),
    ("--paint-rate", RATE, "Share of pairs that are painted, in or out."),
    ("--inpaint-share", RATE, "Share of in-painting among the painted."),
    ("--inpaint-windows", COUNT, "Windows of in-painting, at most."),
    ("--inpaint-continue", RATE, "How often there is one more of them."),
    ("--inpaint-edges", Words("RULES"), "Least and largest edge of a window, as in L//6,L//3."),
    ("--inpaint-fill", FILL, "What a window of in-painting is filled with."),
    ("--outpaint-windows", COUNT, "Windows that out-painting keeps, at most."),
    ("--outpaint-continue", RATE, "How often there is one more of them."),
    ("--outpaint-margins", Words("RULES"), "A kept edge is L less r, r between these, as in 3L//7,4L//7."),
    ("--outpaint-fill", FILL, "What out-painting fills with."),
)


def rule_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command take what says where a scan may be cut (METHOD.md section 2)."""
    options = [
        click.option(
            "--size",
            type=Numbers("X,Y,Z"),
            default=(64, 64, 32),
            metavar="X,Y[,Z]",
            help="Edges of a cube in voxels, or of a slice. [default: 64,64,32]",
        ),
        click.option(
            "--plane",
            type=click.Choice(["axial", "coronal", "sagittal"]),
            help="Of slices, where --size has two edges. [default: axial]",
        ),
        click.option(
            "--hu",
            type=Numbers("LOW,HIGH"),
            default=(-1000, 1000),
            metavar="LOW,HIGH",
            help="HU window to clip to. [default: -1000,1000]",
        ),
        click.option(
            "--border",
            type=Numbers("X,Y,Z"),
            default=(100, 100, 30),
            metavar="X,Y,Z",
            help="Voxels at each side that no cube touches. [default: 100,100,30]",
        ),
        click.option(
            "--max-tissue",
            type=float,
            help="Highest tissue score, 0..1; in slices air counts too. [default: 0.15; slices: 0.7]",
        ),
        click.option(
            "--min-tissue", type=float, default=0.0, show_default=True, help="Lowest tissue score of a cube."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def work_options(workers: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Let a command take what says who does the work, and how it is told; `workers` is that option's help."""
    options = [
        click.option("--workers", type=click.IntRange(min=1), help=workers),
        click.option(
            "--scheduler",
            metavar="ADDRESS",
            help="Work on a dask cluster: its scheduler's address or scheduler file.",
        ),
        click.option("--dry-run", is_flag=True, help="Say what it would come to, and write nothing."),
        click.option(
            "--overwrite", is_flag=True, help="Replace a store that is there; begin unfinished work again."
        ),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object for programs."),
    ]

    def take(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return take


def given_options() -> dict[str, Any]:
    """The parameters of the command at work that were given, by name; none that stand at their default."""
    context = click.get_current_context()
    default = click.core.ParameterSource.DEFAULT
    return {
        name: value
        for name, value in context.params.items()
        if context.get_parameter_source(name) is not default
    }


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command take every parameter of a recipe; those not given are None."""
    for name, kind, meaning in reversed(RECIPE_OPTIONS):
        command = click.option(name, type=kind, help=meaning)(command)
    return command


class Numbers(click.ParamType[tuple[int, ...]]):
    """Whole numbers with commas between them, as in `64,64,32`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """The numbers, in order; how many there must be is the library's to say."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(number) for number in value.split(","))
        except ValueError:
            self.fail(
                f"{value!r}: whole numbers with commas between them are wanted, {self.name}.", param, ctx
            )


class Millimetres(click.ParamType[tuple[float, ...]]):
    """Lengths in mm with commas between them, as in `1,1,2.5`."""

    name = "X,Y,Z"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """The lengths, in order; what they may be is the library's to say."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(number) for number in value.split(","))
        except ValueError:
            self.fail(f"{value!r}: three lengths in mm are wanted, as in 1,1,2.5.", param, ctx)


class Subsets(click.ParamType[tuple[int, ...]]):
    """LUNA16 subsets, as in `0-6` or `0,3,8-9`."""

    name = "LIST"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """The subsets, each once, in order."""
        if isinstance(value, tuple):
            return value
        subsets: set[int] = set()
        for part in value.split(","):
            first, dash, last = part.partition("-")
            if not (first.isdecimal() and (not dash or last.isdecimal())):
                self.fail(f"{value!r}: subsets are given as in 0-6 or 0,3,8-9.", param, ctx)
            low, high = int(first), int(last if dash else first)
            if not low <= high <= 9:
                self.fail(f"{value!r}: LUNA16 has the subsets 0 to 9.", param, ctx)
            subsets.update(range(low, high + 1))
        return tuple(sorted(subsets))
