"""`genesis-prep card`: the dataset card of a store."""

from pathlib import Path

import click

import genesis_toolkit as gt
from genesis_toolkit.cli import options


@click.command(cls=options.Command, short_help="The dataset card of a store.")
@click.argument("store", type=options.made_store)
def card(store: Path | str) -> None:
    """Print the dataset card of STORE, the README.md in it, as Markdown.

    \b
    Example:
      genesis-prep card pairs.zarr > README.md
    """
    from genesis_toolkit.pipeline.describe.card import CARD

    click.echo(gt.open_store(store).storage.read(CARD), nl=False)
