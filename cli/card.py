"""`genesis-prep card`: the dataset card of a store, shown or made ready to be published."""

from pathlib import Path

import click

import genesis_toolkit as gt
from genesis_toolkit.cli import options, output


@click.command(cls=options.Command, short_help="The dataset card of a store.")
@click.argument("store", type=options.made_store)
@options.grouped(
    "Say what the software cannot know",
    options.option("--title", "Title of the data set.", metavar="TEXT"),
    options.option("--licence", "Its licence: an SPDX name, as CC-BY-4.0, or a sentence.", metavar="TEXT"),
    options.option("--citation", "What to cite.", metavar="TEXT"),
    options.option("--contact", "Whom to ask: a name, an address.", metavar="TEXT"),
)
def card(store: Path | str, **said: str | None) -> None:
    """Print the dataset card of STORE, the README.md in it, as Markdown.

    With a title, a licence, a citation or a contact, write them into the card and into the Croissant file
    of STORE, a folder, instead; the manifest then has their new sha256. What an earlier call said stays. Do
    so before you degrade: a pair store keeps the sha256 of the manifest of its cubes.

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
        output.say(f"{store}: the card and the Croissant file say so. sha256 of the manifest: {manifest}")
        output.say_next("genesis-prep verify {}", store)
        return
    opened = gt.open_store(store)
    if isinstance(opened, gt.TargetStore):
        raise gt.CallError(f"{store} is a target store, which has no card: genesis-prep info tells of it.")
    click.echo(opened.storage.read(CARD), nl=False)
