"""`genesis-prep extract-cubes` and `degrade`: the two commands that work through a whole data set."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genesis_toolkit.cli.extraction import (
    extraction_rows,
    noun_of,
    parameters_of,
    said_of,
    say_left_out,
    show_extraction,
)
from genesis_toolkit.cli.options import (
    Folder,
    Millimetres,
    Store,
    Subsets,
    given_options,
    recipe_options,
    rule_options,
    work_options,
)
from genesis_toolkit.cli.output import counted, duration, shares, show_table, size_of
from genesis_toolkit.cli.progress import Progress

if TYPE_CHECKING:
    from genesis_toolkit.pipeline.cubes.estimate import ExtractionPlan
    from genesis_toolkit.pipeline.pairs.estimate import DegradationPlan


@click.command(short_help="Scans -> cube store.")
@click.argument("source", type=Folder())
@click.argument("cubes", type=Folder())
@click.option(
    "--layout",
    type=click.Choice(["auto", "luna16", "files", "nih"]),
    default="auto",
    show_default=True,
    help="luna16: subset0 .. subset9; files: DICOM, .mhd, .mha, .nii, .nii.gz, .nrrd in any folders; nih: "
    "the X-ray images of NIH ChestX-ray14.",
)
@click.option("--subsets", type=Subsets(), help="LUNA16 subsets to take; 7-9 are a test set. [default: 0-6]")
@click.option(
    "--split",
    type=click.Choice(["train_val", "test", "all"]),
    help="NIH's official list to take. [default: train_val]",
)
@click.option(
    "--cubes-per-scan",
    type=int,
    help="Cubes drawn in every scan; crops of an X-ray image. [default: 32; nih: the whole image, resized]",
)
@rule_options
@click.option(
    "--sampler",
    type=click.Choice(["uniform", "official"]),
    default="uniform",
    show_default=True,
    help="official replays the authors' own draws, cube for cube.",
)
@click.option("--seed", type=int, help="Another seed draws other cubes. [default: 0; official: 1]")
@click.option("--spacing", type=Millimetres(), metavar="X,Y,Z", help="Resample to this spacing in mm first.")
@click.option("--orient", metavar="AXES", help="Turn to these axes first, as in LPS.")
@click.option(
    "--anonymize",
    type=Folder(),
    metavar="KEYFILE",
    help="Tell identifiers and paths as hashes under a key; KEYFILE is made if there is none.",
)
@click.option("--strict", is_flag=True, help="Stop at the first scan that fails.")
@work_options("Scans at a time. [default: one a core]")
def extract_cubes(
    source: Path,
    cubes: Path,
    anonymize: Path | None,
    strict: bool,
    workers: int | None,
    scheduler: str | None,
    dry_run: bool,
    overwrite: bool,
    as_json: bool,
    **_: Any,
) -> None:
    """Cut cubes out of the scans in SOURCE, a folder or one file, into the cube store CUBES.

    A scan needs 265 x 265 x 96 voxels, or a smaller --border or --size. With two edges in --size slices are
    cut. X-ray images of NIH's layout are taken whole, resized to 224 x 224 pixels or --size. Interrupted, the
    same command goes on; finished, it makes damaged files again, takes in scans that were added to SOURCE,
    and else does nothing.

    \b
    Examples:
      genesis-prep extract-cubes LUNA16 cubes.zarr
      genesis-prep extract-cubes ChestX-ray14 xray.zarr
    """
    from genesis_toolkit.pipeline.cubes.extract import extract_cubes as extract

    parameters = parameters_of(source, given_options())
    if dry_run:
        from genesis_toolkit.pipeline.cubes.estimate import plan_extraction

        with Progress() as progress:
            plan = plan_extraction(
                source,
                cubes,
                parameters,
                workers=at_work(workers, scheduler),
                anonymize=anonymize,
                overwrite=overwrite,
                report=progress,
            )
        say_left_out(plan, parameters)
        _show_plan(plan, extraction_rows(plan, noun_of(parameters)), as_json)
        return
    with Progress() as progress:
        result = extract(
            source,
            cubes,
            parameters,
            workers=workers,
            scheduler=scheduler,
            anonymize=anonymize,
            strict=strict,
            overwrite=overwrite,
            report=progress,
        )
    show_extraction(result, cubes, parameters, as_json)


@click.command(short_help="Cube store -> pair store.")
@click.argument("cubes", type=Store())
@click.argument("pairs", type=Folder())
@click.option(
    "--recipe",
    default="genesis",
    show_default=True,
    metavar="NAME",
    help="genesis, official-2020, official-2019 or paper.",
)
@click.option("--variants", type=int, default=1, show_default=True, help="Degraded cubes of every cube.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed draws other degradations.")
@work_options("Threads at work. [default: one a core]")
@recipe_options
def degrade(
    cubes: Path | str,
    pairs: Path,
    recipe: str,
    variants: int,
    seed: int,
    workers: int | None,
    scheduler: str | None,
    dry_run: bool,
    overwrite: bool,
    as_json: bool,
    **changes: Any,
) -> None:
    """Give every cube of CUBES its degraded cubes, in the pair store PAIRS.

    Interrupted, the same command goes on; finished, it makes damaged files again, and else does nothing.
    Recipes: genesis, official-2020, official-2019, paper; any parameter of one can be given in its place, as
    in --nonlinear-rate 0.5.

    \b
    Example:
      genesis-prep degrade cubes.zarr pairs.zarr --variants 4
    """
    from genesis_toolkit.pipeline.degrade.recipes import get_recipe
    from genesis_toolkit.pipeline.describe.facts import describe
    from genesis_toolkit.pipeline.pairs.degrade import DegradeParameters
    from genesis_toolkit.pipeline.pairs.degrade import degrade_cubes as run

    given = {name: value for name, value in changes.items() if value is not None}
    parameters = DegradeParameters(get_recipe(recipe, **given), variants, seed)
    if dry_run:
        from genesis_toolkit.pipeline.pairs.estimate import plan_degradation

        options: dict[str, Any] = {"workers": at_work(workers, scheduler), "overwrite": overwrite}
        with Progress() as progress:
            plan = plan_degradation(cubes, pairs, parameters, report=progress, **options)
        _show_plan(plan, _degradation_rows(plan), as_json)
        return
    with Progress() as progress:
        result = run(
            cubes,
            pairs,
            parameters,
            workers=workers,
            scheduler=scheduler,
            overwrite=overwrite,
            report=progress,
        )
    facts = describe(result.store)
    if as_json:
        done = {"done_before": result.done_before, "repaired": result.repaired}
        click.echo(json.dumps({"store": str(pairs), **done, **facts}))
        return
    show_table(["degradation", "pairs"], shares(facts["degradations"], facts["pairs"]))
    word = said_of(result.done_before, result.repaired)
    each = f"{counted(facts['pairs'], 'pair')}, {variants} for each of {counted(facts['cubes'], 'cube')}"
    click.echo(f"{pairs}: {each}{word}.")
    click.echo(f"Next: genesis-train pretrain {pairs} --out run")


def at_work(workers: int | None, scheduler: str | None) -> int:
    """How many tasks there will be at a time."""
    from genesis_toolkit.pipeline.engine import cores, workers_of

    return workers_of(scheduler) if scheduler else workers or cores()


def _show_plan(plan: "DegradationPlan | ExtractionPlan", rows: list[list[str]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(asdict(plan)))
        return
    show_table(["a dry run: nothing was written", ""], rows)
    click.echo("Next: the same command without --dry-run.")


def _degradation_rows(plan: "DegradationPlan") -> list[list[str]]:
    if not plan.pairs:
        return [["pairs to make", "none: the store is finished"]]
    return [
        ["cubes", f"{plan.cubes:,}"],
        ["pairs to make", f"{plan.pairs:,}"],
        ["store", f"about {size_of(plan.store_bytes)} in {counted(plan.files, 'shard')}"],
        ["time", f"about {duration(plan.seconds)} with {counted(plan.workers, 'worker')}"],
    ]
