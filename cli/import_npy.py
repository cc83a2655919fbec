"""`genesis-prep import-npy`: make a cube store from the authors' cube files."""

from pathlib import Path

import click

import genesis_toolkit as gt
from genesis_toolkit.cli import options, output
from genesis_toolkit.cli.further import after_store
from genesis_toolkit.pipeline.wording import counted


@click.command(cls=options.Resumable, short_help="Convert the authors' cube files to a cube store.")
@click.argument("files", type=options.cube_file, nargs=-1, required=True)
@click.argument("cubes", type=options.path)
@options.threads_option
@options.overwrite_store
@options.json_option
def import_npy(files: tuple[Path, ...], cubes: Path, workers: int | None, overwrite: bool) -> None:
    """Convert FILES in the authors' own format into the cube store CUBES without any loss.

    The files have names such as bat_32_s_64x64x32_0.npy, where the last number is the LUNA16 subset, and hold
    (HU + 1000) / 2000. Run the same command again to resume.

    \b
    Example:
      genesis-prep import-npy bat_32_s_64x64x32_*.npy cubes.zarr
    """
    result = gt.import_npy(files, cubes, workers=workers, overwrite=overwrite, progress=True)
    store, scans = result.store, result.store.scans
    columns = (scans.identifier.tolist(), scans.subset.tolist(), scans.cubes.tolist())
    rows = list(zip(*columns, strict=True))
    listed = [dict(zip(("identifier", "subset", "cubes"), row, strict=True)) for row in rows]
    output.print_json({"done_before": result.done_before, "cubes": len(store), "files": listed}, cubes)
    cells = [[name, subset if subset >= 0 else "-", count] for name, subset, count in rows]
    output.show_list(["file", "subset", "cubes"], cells)
    of = f"{counted(len(store), 'cube')} from {counted(len(rows), 'file')}"
    output.say(f"{cubes}: {of}{output.said_of(result.done_before)}.")
    output.say_next(*after_store(cubes, store))
