"""`genesis-prep`: practice data, cube stores, pair stores, and looks at them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.failures import BAD_DATA, GenesisGroup
from cli.look import explain
from cli.options import Millimetres, Numbers, Subsets, recipe_options, rule_options
from cli.progress import Progress
from cli.tables import counted, shortened, show_table

if TYPE_CHECKING:
    from pipeline.stores import CubeStore

_FOLDER = click.Path(path_type=Path)
_MOST_ROWS = 20


@click.group(
    cls=GenesisGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="genesis-toolkit", prog_name="genesis-prep")
def main() -> None:
    """Prepare the training data of Models Genesis: scan -> cube -> pair.

    \b
    Try it on practice scans:
      genesis-prep phantom scans --scans 10
      genesis-prep extract-cubes scans cubes.zarr
      genesis-prep degrade cubes.zarr pairs.zarr
      genesis-train pretrain pairs.zarr --out run
    """


@main.command(short_help="Write practice chest CT scans.")
@click.argument("folder", type=_FOLDER, metavar="DIR")
@click.option("--scans", type=int, default=10, show_default=True, help="How many, dealt to the ten subsets.")
@click.option(
    "--shape",
    type=Numbers("X,Y,Z"),
    default=(320, 320, 128),
    metavar="X,Y,Z",
    help="Voxels. [default: 320,320,128]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed gives other patients.")
def phantom(folder: Path, scans: int, shape: tuple[int, int, int], seed: int) -> None:
    """Write practice chest CT scans into DIR, laid out as LUNA16, with nodules and their tables.

    \b
    Example:
      genesis-prep phantom scans --scans 10
    """
    from pipeline.phantom import PhantomParameters, write_luna16
    from pipeline.place import PlaceRule

    with Progress() as progress:
        write_luna16(folder, PhantomParameters(scans=scans, shape=shape, seed=seed), report=progress)
    made = f"{counted(scans, 'scan')} of {' x '.join(map(str, shape))} voxels"
    click.echo(f"{made} {'is' if scans == 1 else 'are'} in {folder}.")
    if any(edge < least for edge, least in zip(shape, PlaceRule().least_shape, strict=True)):
        click.echo(
            "They are smaller than the published rule needs: extract with a smaller --border.", err=True
        )
    click.echo(f"Next: genesis-prep extract-cubes {folder} cubes.zarr")


@main.command(short_help="Scans -> cube store.")
@click.argument("source", type=_FOLDER)
@click.argument("cubes", type=_FOLDER)
@click.option(
    "--layout",
    type=click.Choice(["auto", "luna16", "files"]),
    default="auto",
    show_default=True,
    help="luna16: subset0 .. subset9; files: .mhd, .mha, .nii, .nii.gz, .nrrd in any folders.",
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
@click.option("--workers", type=click.IntRange(min=1), help="Processes at work. [default: one a core]")
@click.option("--overwrite", is_flag=True, help="Replace a store that is there; begin unfinished work again.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for programs.")
def extract_cubes(
    source: Path, cubes: Path, workers: int | None, overwrite: bool, as_json: bool, **options: Any
) -> None:
    """Cut cubes out of the scans in SOURCE, a folder or one file, into the cube store CUBES.

    A scan needs 265 x 265 x 96 voxels, or a smaller --border or --size. Interrupted, the same command goes
    on; finished, it does nothing.

    \b
    Example:
      genesis-prep extract-cubes LUNA16 cubes.zarr
    """
    from pipeline.extract import ExtractParameters
    from pipeline.extract import extract_cubes as extract

    with Progress() as progress:
        result = extract(
            source,
            cubes,
            ExtractParameters(**options),
            workers=workers,
            overwrite=overwrite,
            report=progress,
        )
    if result.passed_over and not result.done_before:
        click.echo(
            f"Subset {', '.join(map(str, result.passed_over))} not taken: 7-9 are the test set of the nodule "
            "task, and pre-training on a test set leaks. Choose with --subsets.",
            err=True,
        )
    rows = _scan_rows(result.store)
    failed = sum(row["status"] == "failed" for row in rows)
    if as_json:
        facts = {"store": str(cubes), "done_before": result.done_before, "cubes": len(result.store)}
        click.echo(json.dumps(facts | {"failed": failed, "passed_over": result.passed_over, "scans": rows}))
    else:
        _show_scans(rows)
        word = "; it was finished before, nothing done" if result.done_before else ""
        used = sum(row["status"] == "used" for row in rows)
        others = [f"{count} {what}" for what, count in _not_used(rows).items() if count]
        rest = f" ({', '.join(others)})" if others else ""
        of = f"{used} of {counted(len(rows), 'scan')}"
        click.echo(f"{cubes}: {counted(len(result.store), 'cube')} of {of}{rest}{word}.")
        _say_what_would_fit(result.store, rows)
        click.echo(f"Next: genesis-prep degrade {cubes} pairs.zarr")
    if failed:
        raise SystemExit(BAD_DATA)


@main.command(short_help="Cube store -> pair store.")
@click.argument("cubes", type=_FOLDER)
@click.argument("pairs", type=_FOLDER)
@click.option(
    "--recipe",
    default="genesis",
    show_default=True,
    metavar="NAME",
    help="genesis, official-2020, official-2019 or paper.",
)
@click.option("--variants", type=int, default=1, show_default=True, help="Degraded twins of every cube.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed draws other degradations.")
@click.option("--workers", type=click.IntRange(min=1), help="Threads at work. [default: one a core]")
@click.option("--overwrite", is_flag=True, help="Replace a store that is there; begin unfinished work again.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for programs.")
@recipe_options
def degrade(
    cubes: Path,
    pairs: Path,
    recipe: str,
    variants: int,
    seed: int,
    workers: int | None,
    overwrite: bool,
    as_json: bool,
    **changes: Any,
) -> None:
    """Give every cube of CUBES its degraded twins, in the pair store PAIRS.

    Interrupted, the same command goes on; finished, it does nothing. Recipes: genesis, official-2020,
    official-2019, paper; any parameter of one can be given in its place, as in --nonlinear-rate 0.5.

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
    with Progress() as progress:
        result = run(cubes, pairs, parameters, workers=workers, overwrite=overwrite, report=progress)
    facts = describe(result.store)
    if as_json:
        click.echo(json.dumps({"store": str(pairs), "done_before": result.done_before, **facts}))
        return
    show_table(["degradation", "pairs"], _shares(facts["degradations"], facts["pairs"]))
    word = "; it was finished before, nothing done" if result.done_before else ""
    of = f"{variants} for each of {counted(facts['cubes'], 'cube')}"
    click.echo(f"{pairs}: {counted(facts['pairs'], 'pair')}, {of}{word}.")
    click.echo(f"Next: genesis-train pretrain {pairs} --out run")


@main.command(short_help="What a store holds.")
@click.argument("store", type=_FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for programs.")
def info(store: Path, as_json: bool) -> None:
    """Say what STORE holds, in one screen.

    \b
    Example:
      genesis-prep info pairs.zarr
    """
    from pipeline.info import describe
    from pipeline.stores import open_store

    facts = describe(open_store(store))
    if as_json:
        click.echo(json.dumps(facts))
        return
    show_table(["what", "value"], _facts_rows(facts))
    if "pairs" in facts:
        show_table(["combination", "pairs"], _shares(facts["combinations"], facts["pairs"]))
    if facts["not_used"]:
        rows = [
            [shortened(row["path"]), row["status"], row["reason"]] for row in facts["not_used"][:_MOST_ROWS]
        ]
        show_table(["scan", "status", "reason"], rows)
    click.echo(f"Next: genesis-prep preview {store} sheet.png")


@main.command(short_help="Draw a contact sheet of a store.")
@click.argument("store", type=_FOLDER)
@click.argument("png", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--rows",
    type=click.IntRange(1, 50),
    default=6,
    show_default=True,
    help="How many cubes to show, taken evenly.",
)
def preview(store: Path, png: Path, rows: int) -> None:
    """Draw a contact sheet of STORE into PNG: of pairs, each degradation alone and their combination.

    \b
    Example:
      genesis-prep preview pairs.zarr sheet.png
    """
    from pipeline.preview import draw_sheet
    from pipeline.stores import open_store

    draw_sheet(open_store(store), png, rows)
    click.echo(f"The contact sheet is {png}.")


main.add_command(explain)


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


def _shares(counts: dict[str, int], total: int) -> list[list[str]]:
    return [[name, f"{count:>7,}  {100 * count / total:5.1f} %"] for name, count in counts.items()]


def _facts_rows(facts: dict[str, Any]) -> list[list[str]]:
    least, most = facts["spacing_mm"]["least"], facts["spacing_mm"]["most"]
    spacing = [
        f"{low:.3g}" if low == high else f"{low:.3g}-{high:.3g}"
        for low, high in zip(least, most, strict=True)
    ]
    tissue = facts["tissue"]
    ratio = facts["bytes_uncompressed"] / facts["bytes"]
    scans = ", ".join(f"{count} {status}" for status, count in facts["scans"].items())
    subsets = ", ".join(f"{subset}: {count}" for subset, count in facts["cubes_by_subset"].items())
    pairs = [["pairs", f"{facts['pairs']:,}, {facts['variants']} a cube"]] if "pairs" in facts else []
    return [
        ["store", f"{facts['path']} ({facts['format']}, version {facts['version']})"],
        ["cubes", f"{facts['cubes']:,} of {' x '.join(map(str, facts['size']))} voxels"],
        *pairs,
        ["window", f"{facts['window'][0]} .. {facts['window'][1]} {facts['unit']}"],
        ["on disk", f"{facts['bytes'] / 2**20:,.1f} MiB, {ratio:.2f} times smaller than raw"],
        ["scans", scans],
        ["cubes by subset", subsets],
        ["spacing x, y, z", f"{', '.join(spacing)} mm"],
        ["tissue score", f"{tissue['least']:.3f} .. {tissue['most']:.3f}, median {tissue['median']:.3f}"],
        *[[name.replace("_", " "), _value(value)] for name, value in _shown(facts["parameters"]).items()],
        ["made with", ", ".join(f"{name} {value}" for name, value in facts["run"].items())],
    ]


def _shown(parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters for people: of a recipe its name and what differs from it, of a sha256 its beginning."""
    from pipeline.degrade.recipes import RECIPES

    shown = {name: value[:12] if name.endswith("_sha256") else value for name, value in parameters.items()}
    if "recipe" in shown:
        named = RECIPES[shown["recipe"]["name"]].to_json()
        changes = {name: value for name, value in shown["recipe"].items() if value != named[name]}
        shown["recipe"] = shown["recipe"]["name"] + (f" with {_value(changes)}" if changes else "")
    return shown


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {_value(item)}" for name, item in value.items())
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


if __name__ == "__main__":
    main()
