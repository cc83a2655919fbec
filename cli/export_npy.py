"""`genesis-prep export-npy`: the authors' cube files of a cube store."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from genesis_toolkit.cli.options import Command, Folder, Store, json_option, option
from genesis_toolkit.cli.output import Progress, counted, print_json, show_list


@click.command(cls=Command, short_help="Cube store -> the authors' cube files.")
@click.argument("cubes", type=Store())
@click.argument("folder", type=Folder(), metavar="DIR")
@option("--dtype", "Of the values; the authors publish float64.", ["float64", "float32"], "float64")
@option("--overwrite", "Replace files that hold something else.", bool)
@json_option
def export_npy(cubes: str | Path, folder: Path, dtype: Any, overwrite: bool, as_json: bool) -> None:
    """Write the cubes of CUBES into DIR as the method's authors publish theirs, one file a subset.

    The values are (HU + 1000) / 2000. A file that is there already with this content is left as it is.

    \b
    Example:
      genesis-prep export-npy cubes.zarr cubes-npy
    """
    from genesis_toolkit.pipeline.exchange.npy_export import export_npy as run

    with Progress() as progress:
        files = run(cubes, folder, dtype=dtype, overwrite=overwrite, report=progress)
    if as_json:
        rows = [asdict(one) | {"path": str(one.path)} for one in files]
        print_json({"folder": str(folder), "files": rows}, cubes)
        return
    show_list(
        ["file", "cubes", "", "sha256"],
        [
            [one.path.name, one.cubes, "was there" if one.done_before else "written", one.sha256[:12]]
            for one in files
        ],
    )
    made = sum(one.cubes for one in files)
    click.echo(f"{folder}: {counted(made, 'cube')} as {dtype} in {counted(len(files), 'file')}.")
