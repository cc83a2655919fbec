"""`genesis-prep degrade`: a pair store of a cube store."""

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

#: Every parameter of a recipe that can be given in its place: option, meaning, kind (METHOD.md section 3).
RECIPE_OPTIONS: tuple[tuple[str, str, click.ParamType[Any]], ...] = (
    ("--flip-rate", "How often a turn of the flip is taken, three turns at most.", _RATE),
    (
        "--flip-axes",
        "Axes a turn draws from, as in x,y,z; the axis channel flips nothing.",
        options.Listed("AXES", str, "axes"),
    ),
    ("--shuffle-rate", "Share of pairs with local shuffling.", _RATE),
    ("--shuffle-windows", "Windows in a cube of 64 x 64 x 32.", options.at_least_1),
    ("--shuffle-keeps", "What stays the same at other sizes.", click.Choice(["coverage", "number"])),
    ("--shuffle-edges", "Least and largest edge of a window, as in 1,L//10.", _RULES),
    ("--nonlinear-rate", "Share of pairs with a non-linear curve.", _RATE),
    ("--invert-rate", "Share of the curves that are inverted.", _RATE),
    ("--paint-rate", "Share of pairs that are painted, in or out.", _RATE),
    ("--inpaint-share", "Share of in-painting among the painted.", _RATE),
    ("--inpaint-windows", "Windows of in-painting, at most.", options.at_least_1),
    ("--inpaint-continue", "How often there is one more of them.", _RATE),
    ("--inpaint-edges", "Least and largest edge of a window, as in L//6,L//3.", _RULES),
    ("--inpaint-fill", "What a window of in-painting is filled with.", _FILL),
    ("--outpaint-windows", "Windows that out-painting keeps, at most.", options.at_least_1),
    ("--outpaint-continue", "How often there is one more of them.", _RATE),
    ("--outpaint-margins", "A kept edge is L less r, r between these, as in 3L//7,4L//7.", _RULES),
    ("--outpaint-fill", "What out-painting fills with.", _FILL),
)


@click.command(cls=options.Resumable, short_help="Cube store -> pair store.")
@click.argument("cubes", type=options.made_store)
@click.argument("pairs", type=options.path)
@options.option("--recipe", "genesis, official-2020, official-2019 or paper.", str, "genesis", metavar="NAME")
@options.option("--variants", "Degraded copies of every cube.", int, 1)
@options.option("--seed", "Another seed draws other degradations.", int, 0)
@options.grouped("Recipe, parameter by parameter", *(options.option(*one) for one in RECIPE_OPTIONS))
@options.work_options("Threads at work. [default: one a core]")
def degrade(
    cubes: Path | str, pairs: Path, recipe: str, variants: int, seed: int, dry_run: bool, **given: Any
) -> None:
    """Degrade every cube of CUBES, once a variant, into the pair store PAIRS.

    Interrupted, the same command goes on; finished, it makes damaged files again, and else does nothing.
    Recipes: genesis, official-2020, official-2019, paper; any parameter of one can be given in its place, as
    in --nonlinear-rate 0.5.

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
