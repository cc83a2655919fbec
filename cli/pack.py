"""`genesis-prep pack`: a store in one file."""

from pathlib import Path

import click

from genesis_toolkit.cli.options import Command, Folder, option
from genesis_toolkit.cli.output import Progress, say_next, size_of


@click.command(cls=Command, short_help="A store in one file.")
@click.argument("store", type=Folder())
@click.argument("archive", type=Folder(), metavar="ARCHIVE.zip")
@option("--overwrite", "Replace a file that is there.", bool)
def pack(store: Path, archive: Path, overwrite: bool) -> None:
    """Put STORE into one archive, which every command reads as it reads the folder. Nothing is unpacked.

    \b
    Example:
      genesis-prep pack pairs.zarr pairs.zip
    """
    from genesis_toolkit.pipeline.exchange.archive import pack_store as run

    with Progress() as progress:
        size = run(store, archive, overwrite=overwrite, report=progress)
    click.echo(f"{archive} holds {store}, {size_of(size)}.")
    say_next("genesis-prep info {}", archive)
