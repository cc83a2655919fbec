"""`genesis-prep export-npy`: write a cube store as the authors' cube files."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

import genesis_toolkit as gt
from genesis_toolkit.cli import options, output
from genesis_toolkit.pipeline.wording import counted


@click.command(cls=options.Command, short_help="Convert a cube store to the authors' cube files.")
@click.argument("cubes", type=options.made_store)
@click.argument("folder", type=options.path, metavar="DIR")
@options.option(
    "--dtype",
    "Type of the values; the original Models Genesis files hold float64.",
    ["float64", "float32"],
    "float64",
)
@options.option("--overwrite", "Replace existing files whose content differs.", bool)
@options.json_option
def export_npy(cubes: str | Path, folder: Path, dtype: Any, overwrite: bool) -> None:
    """Write the cubes of CUBES into DIR in the authors' own format, one file per subset.

    The values are (HU + 1000) / 2000. A file that already has the right content is left unchanged.

    \b
    Example:
      genesis-prep export-npy cubes.zarr cubes-npy
    """
    files = gt.export_npy(cubes, folder, dtype=dtype, overwrite=overwrite, progress=True)
    listed = [asdict(one) | {"path": str(one.path)} for one in files]
    output.print_json({"folder": str(folder), "files": listed}, cubes)
    rows = [
        [one.path.name, one.cubes, "unchanged" if one.done_before else "written", one.sha256[:12]]
        for one in files
    ]
    output.show_list(["file", "cubes", "", "sha256"], rows)
    made = sum(one.cubes for one in files)
    output.say(f"{folder}: {counted(made, 'cube')} as {dtype} in {counted(len(files), 'file')}.")
