"""`genesis-prep`: practice data, cube stores, pair stores, and looks at them."""

import json
from pathlib import Path
from typing import Any

import click

from cli.check import verify
from cli.failures import GenesisGroup
from cli.look import explain
from cli.options import Folder, Numbers, Store
from cli.progress import Progress
from cli.share import export_npy, import_npy, merge
from cli.tables import counted, shares, shortened, show_table, size_of
from cli.work import degrade, extract_cubes

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
@click.argument("folder", type=Folder(), metavar="DIR")
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


@main.command(short_help="What a store holds.")
@click.argument("store", type=Store())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for programs.")
def info(store: Path | str, as_json: bool) -> None:
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
        show_table(["combination", "pairs"], shares(facts["combinations"], facts["pairs"]))
    if facts["not_used"]:
        rows = [
            [shortened(row["path"]), row["status"], row["reason"]] for row in facts["not_used"][:_MOST_ROWS]
        ]
        show_table(["scan", "status", "reason"], rows)
    click.echo(f"Next: genesis-prep preview {store} sheet.png")


@main.command(short_help="A contact sheet or a report of a store.")
@click.argument("store", type=Store())
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--rows",
    type=click.IntRange(1, 50),
    default=6,
    show_default=True,
    help="How many cubes to show, taken evenly.",
)
def preview(store: Path | str, file: Path, rows: int) -> None:
    """Draw a contact sheet of STORE into FILE.png, or write a report, one page in itself, into FILE.html.

    Of pairs the sheet shows each degradation alone and their combination. The report shows it too, with the
    values and the substances that they name, the spacing, the tissue scores, where cubes were cut, scans that
    were not used, and all parameters.

    \b
    Examples:
      genesis-prep preview pairs.zarr sheet.png
      genesis-prep preview pairs.zarr report.html
    """
    from pipeline.stores import open_store

    if file.suffix.lower() == ".html":
        from pipeline.report import write_report

        write_report(open_store(store), file, rows)
        click.echo(f"The report is {file}.")
    else:
        from pipeline.preview import draw_sheet

        draw_sheet(open_store(store), file, rows)
        click.echo(f"The contact sheet is {file}.")


@main.command(short_help="A store in one file.")
@click.argument("store", type=Folder())
@click.argument("archive", type=Folder(), metavar="ARCHIVE.zip")
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
def pack(store: Path, archive: Path, overwrite: bool) -> None:
    """Put STORE into one archive, which every command reads as it reads the folder. Nothing is unpacked.

    \b
    Example:
      genesis-prep pack pairs.zarr pairs.zip
    """
    from pipeline.archive import pack as run

    with Progress() as progress:
        size = run(store, archive, overwrite=overwrite, report=progress)
    click.echo(f"{archive} holds {store}, {size_of(size)}.")
    click.echo(f"Next: genesis-prep info {archive}")


for command in (extract_cubes, degrade, explain, verify, import_npy, export_npy, merge):
    main.add_command(command)


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
        ["spacing x, y, z", f"{', '.join(spacing)} mm" if any(most) else "not known"],
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
