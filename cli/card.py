"""`genesis-prep card`: print the dataset card of a store, or complete it for publication."""

from pathlib import Path

import click

import genesis_toolkit as gt
from genesis_toolkit.cli import options, output


@click.command(cls=options.Command, short_help="Print or complete the dataset card of a store.")
@click.argument("store", type=options.made_store)
@options.card_options
def card(store: Path | str, **said: str | None) -> None:
    """Print the dataset card of STORE (its README.md) as Markdown.

    Given a title, a licence, a citation or a contact, write them into the card and the Croissant file instead
    and update the manifest; STORE must then be a folder. Facts from earlier calls are kept. Do this before
    you degrade, because a pair store records the sha256 of the manifest of its cube store.

    \b
    Examples:
      genesis-prep card pairs.zarr > README.md
      genesis-prep card pairs.zarr --title "Lung cubes" --licence CC-BY-4.0
    """
    from genesis_toolkit.pipeline.describe.card import CARD
    from genesis_toolkit.pipeline.describe.publish import Publication, publish

    given = {name: text for name, text in said.items() if text is not None}
    if given:
        manifest = publish(store, Publication(**given))
        output.say(f"{store}: updated the card and the Croissant file. sha256 of the manifest: {manifest}")
        output.say_next("genesis-prep verify {}", store)
        return
    opened = gt.open_store(store)
    if isinstance(opened, gt.TargetStore):
        raise gt.CallError(f"{store} is a target store, which has no card: use genesis-prep info instead.")
    click.echo(opened.storage.read(CARD), nl=False)
