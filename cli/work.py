"""`genesis-prep extract-cubes` and `degrade`: the two commands that work through a whole data set."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.failures import BAD_DATA
from cli.options import Folder, Millimetres, Store, Subsets, recipe_options, rule_options, work_options
from cli.progress import Progress
from cli.tables import counted, duration, shares, shortened, show_table, size_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.cut import Outcome
    from pipeline.plan import DegradationPlan, ExtractionPlan
    from pipeline.stores import CubeStore

_MOST_ROWS = 20


@click.command(short_help="Scans -> cube store.")
@click.argument("source", type=Folder())
@click.argument("cubes", type=Folder())
@click.option(
    "--layout",
    type=click.Choice(["auto", "luna16", "files"]),
    default="auto",
    show_default=True,
    help="luna16: subset0 .. subset9; files: DICOM, .mhd, .mha, .nii, .nii.gz, .nrrd in any folders.",
)
@click.option("--subsets", type=Subsets(), help="LUNA16 subsets to take; 7-9 are a test set. [default: 0-6]")
@click.option("--cubes-per-scan", type=int, default=32, show_default=True, help="Cubes drawn in every scan.")
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
@work_options("Processes at work. [default: one a core]")
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
    **options: Any,
) -> None:
    """Cut cubes out of the scans in SOURCE, a folder or one file, into the cube store CUBES.

    A scan needs 265 x 265 x 96 voxels, or a smaller --border or --size. Interrupted, the same command goes
    on; finished, it makes damaged files again, takes in scans that were added to SOURCE, and else does
    nothing.

    \b
    Example:
      genesis-prep extract-cubes LUNA16 cubes.zarr
    """
    from pipeline.extract import ExtractParameters
    from pipeline.extract import extract_cubes as extract

    parameters = ExtractParameters(**options)
    if dry_run:
        _plan_extraction(source, cubes, parameters, workers, scheduler, anonymize, overwrite, as_json)
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
    if not result.done_before:
        _say_passed_over(result.passed_over)
    if anonymize:
        _say_unused(result.unused)
    rows = _scan_rows(result.store)
    failed = sum(row["status"] == "failed" for row in rows)
    if as_json:
        facts = {"store": str(cubes), "done_before": result.done_before, "taken_in": result.taken_in}
        facts |= {"repaired": result.repaired, "cubes": len(result.store), "failed": failed}
        facts |= {"passed_over": result.passed_over}
        click.echo(json.dumps(facts | {"scans": rows}))
    else:
        _show_scans(rows)
        word = _said_of(result.done_before, result.repaired)
        if result.taken_in:
            word += f"; {counted(result.taken_in, 'scan')} taken in behind what was there"
        used = sum(row["status"] == "used" for row in rows)
        others = [f"{count} {what}" for what, count in _not_used(rows).items() if count]
        rest = f" ({', '.join(others)})" if others else ""
        of = f"{used} of {counted(len(rows), 'scan')}"
        click.echo(f"{cubes}: {counted(len(result.store), 'cube')} of {of}{rest}{word}.")
        _say_what_would_fit(result.store, rows)
        click.echo(f"Next: genesis-prep degrade {cubes} pairs.zarr")
    if failed:
        raise SystemExit(BAD_DATA)


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
@click.option("--variants", type=int, default=1, show_default=True, help="Degraded twins of every cube.")
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
    """Give every cube of CUBES its degraded twins, in the pair store PAIRS.

    Interrupted, the same command goes on; finished, it makes damaged files again, and else does nothing.
    Recipes: genesis, official-2020, official-2019, paper; any parameter of one can be given in its place, as
    in --nonlinear-rate 0.5.

    \b
    Example:
      genesis-prep degrade cubes.zarr pairs.zarr --variants 4
    """
    from pipeline.degrade.pairs import DegradeParameters
    from pipeline.degrade.pairs import degrade as run
    from pipeline.degrade.recipes import named
    from pipeline.info import describe

    given = {name: value for name, value in changes.items() if value is not None}
    parameters = DegradeParameters(named(recipe, **given), variants, seed)
    if dry_run:
        _plan_degradation(cubes, pairs, parameters, workers, scheduler, overwrite, as_json)
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
    word = _said_of(result.done_before, result.repaired)
    of = f"{variants} for each of {counted(facts['cubes'], 'cube')}"
    click.echo(f"{pairs}: {counted(facts['pairs'], 'pair')}, {of}{word}.")
    click.echo(f"Next: genesis-train pretrain {pairs} --out run")


def _said_of(done_before: bool, repaired: int) -> str:
    """What a command did with a store that was finished already, to go after its counts."""
    if repaired:
        return f"; {counted(repaired, 'damaged file')} made again"
    return "; it was finished before, nothing done" if done_before else ""


def _plan_extraction(
    source: Path,
    cubes: Path,
    parameters: Any,
    workers: int | None,
    scheduler: str | None,
    anonymize: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    from pipeline.cluster import workers_of
    from pipeline.engine import cores
    from pipeline.plan import plan_extraction

    at_work = workers_of(scheduler) if scheduler else workers or cores()
    with Progress() as progress:
        plan = plan_extraction(
            source,
            cubes,
            parameters,
            workers=at_work,
            anonymize=anonymize,
            overwrite=overwrite,
            report=progress,
        )
    _say_passed_over(plan.passed_over)
    if as_json:
        click.echo(json.dumps(asdict(plan)))
        return
    show_table(["a dry run: nothing was written", ""], _extraction_rows(plan))
    click.echo("Next: the same command without --dry-run.")


def _extraction_rows(plan: "ExtractionPlan") -> list[list[str]]:
    known = [["scans in the store already", f"{plan.known:,}"]] if plan.known else []
    aside = [["passed over or unusable", f"{plan.set_aside:,}"]] if plan.set_aside else []
    looked = "" if plan.headers == plan.scans else f" of {plan.headers:,} looked at"
    unfit = [["too small or unreadable", f"{plan.unfit:,}{looked}"]] if plan.unfit else []
    store = "no scan that was tried gives a cube: genesis-prep explain SCAN says why"
    time = "-"
    if plan.store_bytes is not None and plan.seconds is not None and plan.example_seconds is not None:
        store = f"about {size_of(plan.store_bytes)} in {counted(plan.files, 'shard')}"
        time = f"about {duration(plan.seconds)} with {counted(plan.workers, 'worker')}"
        time += f" ({shortened(plan.example)} took {plan.example_seconds:.2f} s)"
    return [
        *known,
        ["scans to cut", f"{plan.scans:,}, {size_of(plan.bytes)}"],
        *aside,
        *unfit,
        ["cubes, at most", f"{plan.cubes:,}"],
        ["store", store],
        ["time", time],
    ]


def _plan_degradation(
    cubes: Path | str,
    pairs: Path,
    parameters: Any,
    workers: int | None,
    scheduler: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    from pipeline.cluster import workers_of
    from pipeline.engine import cores
    from pipeline.plan import plan_degradation

    at_work = workers_of(scheduler) if scheduler else workers or cores()
    with Progress() as progress:
        plan = plan_degradation(
            cubes, pairs, parameters, workers=at_work, overwrite=overwrite, report=progress
        )
    if as_json:
        click.echo(json.dumps(asdict(plan)))
        return
    show_table(["a dry run: nothing was written", ""], _degradation_rows(plan))
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


def _say_passed_over(subsets: tuple[int, ...]) -> None:
    """Why LUNA16's test subsets were left out; nothing where none were."""
    if subsets:
        click.echo(
            f"Subset {', '.join(map(str, subsets))} not taken: 7-9 are the test set of the nodule task, and "
            "pre-training on a test set leaks. Choose with --subsets.",
            err=True,
        )


def _say_unused(unused: "Sequence[Outcome]") -> None:
    """The scans that gave no cube, by their own names, which a store of pseudonyms does not tell."""
    for outcome in unused[:_MOST_ROWS]:
        click.echo(f"{outcome.path}: {outcome.status}, {outcome.reason}", err=True)
    if len(unused) > _MOST_ROWS:
        click.echo(f"... and {len(unused) - _MOST_ROWS} more scans that gave no cube.", err=True)


def _scan_rows(store: "CubeStore") -> list[dict[str, Any]]:
    scans = store.scans
    return [
        {
            "identifier": str(scans.identifier[row]),
            "subset": int(scans.subset[row]),
            "path": str(scans.path[row]),
            "shape": scans.shape[row].tolist(),
            "status": str(scans.status[row]),
            "cubes": int(scans.cubes[row]),
            "reason": str(scans.reason[row]),
        }
        for row in range(len(scans))
    ]


def _say_what_would_fit(store: "CubeStore", rows: list[dict[str, Any]]) -> None:
    """The way out for scans that were too small or too dense, once for all of them."""
    from pipeline.place import PlaceRule

    reasons = [row["reason"] for row in rows if row["status"] == "skipped"]
    asked = store.attributes["parameters"]
    if any("needed" in reason for reason in reasons):
        least = PlaceRule(tuple(asked["size"]), tuple(asked["border"]), asked["max_tissue"]).least_shape
        border = ",".join(map(str, asked["border"]))
        click.echo(
            f"With --border {border} a scan needs {' x '.join(map(str, least))} voxels; a smaller --border "
            "or --size takes smaller scans."
        )
    if any("tissue score" in reason for reason in reasons):
        click.echo("A larger --max-tissue takes denser scans; the rule is meant for lungs.")


def _not_used(rows: list[dict[str, Any]]) -> dict[str, int]:
    """How many scans gave nothing, by why."""
    statuses = [row["status"] for row in rows]
    return {"skipped": statuses.count("skipped"), "could not be read": statuses.count("failed")}


def _show_scans(rows: list[dict[str, Any]]) -> None:
    """All scans where they are few, else only those that gave nothing."""
    shown = rows if len(rows) <= _MOST_ROWS else [row for row in rows if row["status"] != "used"]
    if shown:
        cells = [
            [
                shortened(row["path"]),
                " x ".join(map(str, row["shape"])) if any(row["shape"]) else "-",
                row["status"],
                row["cubes"],
                row["reason"],
            ]
            for row in shown[:_MOST_ROWS]
        ]
        show_table(["scan", "shape", "status", "cubes", "reason"], cells)
    if len(shown) > _MOST_ROWS:
        click.echo(f"... and {len(shown) - _MOST_ROWS} more scans that gave no cube; --json lists all.")
