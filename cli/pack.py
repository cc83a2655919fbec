"""`genesis-prep pack`: pack a store into one file."""

from pathlib import Path

import click

import genesis_toolkit as gt
from genesis_toolkit.cli import options, output


@click.command(cls=options.Command, short_help="Pack a store into one archive file.")
@click.argument("store", type=options.made_here)
@click.argument("archive", type=options.path, metavar="ARCHIVE.zip")
@options.option("--overwrite", "Replace an existing archive.", bool)
def pack(store: Path, archive: Path, overwrite: bool) -> None:
    """Pack STORE into a single archive, which every command can read without unpacking it.

    \b
    Example:
      genesis-prep pack pairs.zarr pairs.zip
    """
    size = gt.pack_store(store, archive, overwrite=overwrite, progress=True)
    output.say(f"Packed {store} into {archive}, {output.size_of(size)}.")
    output.say_next("genesis-prep info {}", archive)
