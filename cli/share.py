"""`genesis-prep import-npy`, `export-npy` and `merge`: stores from others, for others, and with others."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genesis_toolkit.cli.options import Folder, Store
from genesis_toolkit.cli.output import counted, show_table
from genesis_toolkit.cli.progress import Progress

if TYPE_CHECKING:
    from genesis_toolkit.pipeline.store.open import CubeStore

_MOST_ROWS = 20
_WORKERS = click.option(
    "--workers", type=click.IntRange(min=1), help="Threads at work. [default: one a core, 8 at most]"
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object for programs.")


@click.command(short_help="The authors' cube files -> cube store.")
@click.argument("files", type=Folder(), nargs=-1, required=True)
@click.argument("cubes", type=Folder())
@_WORKERS
@click.option("--overwrite", is_flag=True, help="Replace a store that is there; begin unfinished work again.")
@_JSON
def import_npy(
    files: tuple[Path, ...], cubes: Path, workers: int | None, overwrite: bool, as_json: bool
) -> None:
    """Make the cube store CUBES of FILES as the method's authors publish them, exactly.

    The files are named as bat_32_s_64x64x32_0.npy, the last number being the LUNA16 subset, and hold
    (HU + 1000) / 2000. Interrupted, the same command goes on.

    \b
    Example:
      genesis-prep import-npy bat_32_s_64x64x32_*.npy cubes.zarr
    """
    from genesis_toolkit.pipeline.exchange.npy_import import import_npy as take

    with Progress() as progress:
        result = take(files, cubes, workers=workers, overwrite=overwrite, report=progress)
    store = result.store
    rows = [
        {"identifier": str(name), "subset": int(subset), "cubes": int(count)}
        for name, subset, count in zip(
            store.scans.identifier, store.scans.subset, store.scans.cubes, strict=True
        )
    ]
    if as_json:
        facts = {"store": str(cubes), "done_before": result.done_before, "cubes": len(store), "files": rows}
        click.echo(json.dumps(facts))
        return
    _show(["file", "subset", "cubes"], [[row["identifier"], _subset(row), row["cubes"]] for row in rows])
    _say_made(cubes, store, counted(len(rows), "file"), result.done_before)


@click.command(short_help="Cube store -> the authors' cube files.")
@click.argument("cubes", type=Store())
@click.argument("folder", type=Folder(), metavar="DIR")
@click.option(
    "--dtype",
    type=click.Choice(["float64", "float32"]),
    default="float64",
    show_default=True,
    help="Of the values; float64 is what the authors publish.",
)
@click.option("--overwrite", is_flag=True, help="Replace files that hold something else.")
@_JSON
def export_npy(cubes: str | Path, folder: Path, dtype: Any, overwrite: bool, as_json: bool) -> None:
    """Write the cubes of CUBES into DIR as the method's authors publish theirs, one file a subset.

    The values are (HU + 1000) / 2000. A file that is there already with this content is left as it is.

    \b
    Example:
      genesis-prep export-npy cubes.zarr cubes-npy
    """
    from genesis_toolkit.pipeline.exchange.npy_export import export_npy as export

    with Progress() as progress:
        files = export(cubes, folder, dtype=dtype, overwrite=overwrite, report=progress)
    if as_json:
        rows = [asdict(one) | {"path": str(one.path)} for one in files]
        click.echo(json.dumps({"folder": str(folder), "files": rows}))
        return
    cells = [
        [one.path.name, one.cubes, "was there" if one.done_before else "written", one.sha256[:12]]
        for one in files
    ]
    _show(["file", "cubes", "", "sha256"], cells)
    made = sum(one.cubes for one in files)
    click.echo(f"{folder}: {counted(made, 'cube')} as {dtype} in {counted(len(files), 'file')}.")


@click.command(short_help="Cube stores made apart -> one.")
@click.argument("stores", type=Store(), nargs=-1, required=True, metavar="STORE...")
@click.argument("out", type=Folder())
@_WORKERS
@click.option("--overwrite", is_flag=True, help="Replace a store that is there; begin unfinished work again.")
@_JSON
def merge(
    stores: tuple[str | Path, ...], out: Path, workers: int | None, overwrite: bool, as_json: bool
) -> None:
    """Put the cube stores STORE... together into OUT, one after the other, decoding no voxel.

    They must have been made with the same parameters, and no scan may stand in two of them. Interrupted, the
    same command goes on.

    \b
    Example:
      genesis-prep merge node1.zarr node2.zarr cubes.zarr
    """
    from genesis_toolkit.pipeline.exchange.merge import merge_stores as run

    with Progress() as progress:
        result = run(stores, out, workers=workers, overwrite=overwrite, report=progress)
    store = result.store
    if as_json:
        facts = {"store": str(out), "done_before": result.done_before, "cubes": len(store)}
        click.echo(json.dumps(facts | {"scans": len(store.scans), "linked": result.linked}))
        return
    _say_made(out, store, counted(len(stores), "store"), result.done_before)


def _show(headings: list[str], rows: list[list[Any]]) -> None:
    show_table(headings, rows[:_MOST_ROWS])
    if len(rows) > _MOST_ROWS:
        click.echo(f"... and {len(rows) - _MOST_ROWS} more; --json lists all.")


def _subset(row: dict[str, Any]) -> str:
    return str(row["subset"]) if row["subset"] >= 0 else "-"


def _say_made(place: Path, store: "CubeStore", of: str, done_before: bool) -> None:
    word = "; it was finished before, nothing done" if done_before else ""
    click.echo(f"{place}: {counted(len(store), 'cube')} of {of}{word}.")
    click.echo(f"Next: genesis-prep degrade {place} pairs.zarr")
