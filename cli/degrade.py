"""`genesis-prep degrade`: make a pair store from a cube store."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import genesis_toolkit as gt
from genesis_toolkit.cli import options, output
from genesis_toolkit.cli.further import after_store
from genesis_toolkit.pipeline.progress import Bars
from genesis_toolkit.pipeline.wording import counted, duration

if TYPE_CHECKING:
    from genesis_toolkit.pipeline.pairs.degrade import DegradationPlan

_RATE = click.FloatRange(0, 1)
_FILL = click.Choice(["noise", "constant"])
_RULES = options.Listed("RULES", str, "rules")

#: Every parameter of a recipe that an option can override: option, help text, type (METHOD.md section 3).
RECIPE_OPTIONS: tuple[tuple[str, str, click.ParamType[Any]], ...] = (
    (
        "--flip-rate",
        "Probability of a flip, and after each flip of another one, up to three.",
        _RATE,
    ),
    (
        "--flip-axes",
        "Axes from which each flip picks one at random, such as x,y,z; picking channel "
        "leaves the cube as it is.",
        options.Listed("AXES", str, "axes"),
    ),
    ("--shuffle-rate", "Probability that voxels of a cube are shuffled locally.", _RATE),
    (
        "--shuffle-windows",
        "Number of shuffling windows (boxes whose voxels are shuffled) in a cube of 64 x 64 x 32 voxels.",
        options.at_least_1,
    ),
    (
        "--shuffle-keeps",
        "What stays constant at other cube sizes: the share of voxels that the shuffling "
        "windows cover, or their number.",
        click.Choice(["coverage", "number"]),
    ),
    (
        "--shuffle-edges",
        "Smallest and largest edge of a shuffling window in voxels, such as 1,L//10 (L: edge of the cube).",
        _RULES,
    ),
    ("--nonlinear-rate", "Probability that a non-linear intensity curve is applied to a cube.", _RATE),
    ("--invert-rate", "Probability that an applied intensity curve is inverted.", _RATE),
    ("--paint-rate", "Probability that a cube is in-painted or out-painted.", _RATE),
    ("--inpaint-share", "Probability that a painted cube is in-painted rather than out-painted.", _RATE),
    (
        "--inpaint-windows",
        "Maximum number of in-painting windows (boxes whose voxels are replaced).",
        options.at_least_1,
    ),
    (
        "--inpaint-continue",
        "Probability of each next in-painting window, up to --inpaint-windows.",
        _RATE,
    ),
    (
        "--inpaint-edges",
        "Smallest and largest edge of an in-painting window in voxels, such as L//6,L//3.",
        _RULES,
    ),
    ("--inpaint-fill", "Content that replaces the voxels of an in-painting window.", _FILL),
    (
        "--outpaint-windows",
        "Maximum number of windows (boxes) that out-painting leaves unchanged.",
        options.at_least_1,
    ),
    (
        "--outpaint-continue",
        "Probability of each further unchanged window after the first, up to --outpaint-windows.",
        _RATE,
    ),
    (
        "--outpaint-margins",
        "Smallest and largest number of voxels subtracted from the cube edge L to give the edge of a window "
        "that out-painting leaves unchanged, such as 3L//7,4L//7.",
        _RULES,
    ),
    (
        "--outpaint-fill",
        "Content that replaces everything outside the windows that out-painting leaves unchanged.",
        _FILL,
    ),
)


@click.command(cls=options.Resumable, short_help="Degrade cubes into pairs for pre-training.")
@click.argument("cubes", type=options.made_store)
@click.argument("pairs", type=options.path)
@options.option(
    "--recipe",
    "Degradation recipe: genesis, official-2020, official-2019 or paper.",
    str,
    "genesis",
    metavar="NAME",
)
@options.option("--variants", "Number of degraded copies per cube, 1 to 10000.", int, 1)
@options.option("--seed", "Random seed for drawing degradations.", int, 0)
@options.grouped(
    "Single recipe parameters (default: the value in --recipe)",
    *(options.option(*one) for one in RECIPE_OPTIONS),
)
@options.work_options("Number of threads. [default: one per core]")
def degrade(
    cubes: Path | str, pairs: Path, recipe: str, variants: int, seed: int, dry_run: bool, **given: Any
) -> None:
    """Degrade every cube of CUBES, once per variant, into the pair store PAIRS.

    Run the same command again to resume. On a finished store it repairs damaged files; otherwise it does
    nothing. Choose a recipe (genesis, official-2020, official-2019 or paper) and override any of its
    parameters, for example with --nonlinear-rate 0.5.

    \b
    Example:
      genesis-prep degrade cubes.zarr pairs.zarr --variants 4
    """
    work = options.work_of(given, dry_run)
    changes = {name: value for name, value in given.items() if value is not None}
    parameters = gt.DegradeParameters(gt.get_recipe(recipe, **changes), variants, seed)
    if dry_run:
        from genesis_toolkit.pipeline.pairs.degrade import plan_degradation

        with Bars() as progress:
            plan = plan_degradation(cubes, pairs, parameters, report=progress, **work)
        output.show_plan(pairs, asdict(plan), _plan_rows(plan))
        if plan.pairs:
            output.say_the_same_without("--dry-run")
        else:
            output.say_next(*after_store(pairs, gt.open_store(pairs)))
        return
    result = gt.degrade_cubes(cubes, pairs, parameters, progress=True, **work)
    facts = gt.describe_store(result.store)
    output.print_json({"done_before": result.done_before, "repaired": result.repaired, **facts}, pairs)
    output.show_table(["degradation", "pairs"], output.shares(facts["degradations"], facts["pairs"]))
    each = f"{counted(facts['pairs'], 'pair')}, {variants} for each of {counted(facts['cubes'], 'cube')}"
    output.say(f"{pairs}: {each}{output.said_of(result.done_before, result.repaired)}.")
    output.say_next(*after_store(pairs, result.store))


def _plan_rows(plan: "DegradationPlan") -> list[list[str]]:
    if not plan.pairs:
        return [["pairs to make", "none: the store is finished"]]
    return [
        ["cubes", f"{plan.cubes:,}"],
        ["pairs to make", f"{plan.pairs:,}"],
        ["store", f"about {output.size_of(plan.store_bytes)} in {counted(plan.files, 'shard')}"],
        ["time", f"about {duration(plan.seconds)} with {counted(plan.workers, 'worker')}"],
    ]
