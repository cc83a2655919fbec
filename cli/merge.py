"""`genesis-prep merge`: join cube stores that were made separately."""

from pathlib import Path

import click

import genesis_toolkit as gt
from genesis_toolkit.cli import options, output
from genesis_toolkit.cli.further import after_store
from genesis_toolkit.pipeline.wording import counted


@click.command(cls=options.Resumable, short_help="Merge several cube stores into one.")
@click.argument("stores", type=options.made_store, nargs=-1, required=True, metavar="STORE...")
@click.argument("out", type=options.path)
@options.threads_option
@options.overwrite_store
@options.json_option
def merge(stores: tuple[str | Path, ...], out: Path, workers: int | None, overwrite: bool) -> None:
    """Join the cube stores STORE... into OUT, one after the other, without decoding any voxel.

    All stores must have been made with the same parameters, and no scan may occur in two of them. Run the
    same command again to resume.

    \b
    Example:
      genesis-prep merge node1.zarr node2.zarr cubes.zarr
    """
    result = gt.merge_stores(stores, out, workers=workers, overwrite=overwrite, progress=True)
    store = result.store
    facts = {"done_before": result.done_before, "cubes": len(store), "scans": len(store.scans)}
    output.print_json(facts | {"linked": result.linked}, out)
    of = f"{counted(len(store), 'cube')} from {counted(len(stores), 'store')}"
    output.say(f"{out}: {of}{output.said_of(result.done_before)}.")
    output.say_next(*after_store(out, store))
