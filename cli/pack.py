"""`genesis-prep pack`: a store in one file."""

from pathlib import Path

import click

import genesis_toolkit as gt
from genesis_toolkit.cli.options import Command, Folder, option
from genesis_toolkit.cli.output import say, say_next, size_of


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
    size = gt.pack_store(store, archive, overwrite=overwrite, progress=True)
    say(f"{archive} holds {store}, {size_of(size)}.")
    say_next("genesis-prep info {}", archive)
