"""`genesis-train export`: trained weights in the formats of others, with a model card."""

from dataclasses import asdict
from pathlib import Path

import click

import genesis_toolkit as gt
from genesis_toolkit.cli import options, output
from genesis_toolkit.cli.errors import check_installed


@click.command(cls=options.Command, short_help="A run -> weights in formats of others.")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "kind",
    required=True,
    type=click.Choice(["official", "nnssl", "state-dict"]),
    help="official: as the method's authors publish; nnssl: for nnU-Net v2; state-dict: tensors alone.",
)
@options.option("--overwrite", "Replace OUT and its card.", bool)
@options.json_option
def export(run: Path, out: Path, kind: str, overwrite: bool) -> None:
    """Write the best weights of RUN to the file OUT, and a model card to OUT.md.

    RUN is a folder that pretrain made. The card tells of the store, the degradations, the parameters, the
    losses, and how to load the file.

    \b
    Example:
      genesis-train export run genesis.pt --format official
    """
    check_installed("Exporting", "train", "torch")
    written = gt.export_weights(run, out, kind, overwrite=overwrite)
    output.print_json(asdict(written))
    rows = [
        ("weights", f"{written.file} ({written.format})"),
        ("model card", written.card),
        ("network", f"{written.network}, width {written.width}, {written.weights:,} parameters"),
        ("epoch", f"{written.epoch}, the best"),
        ("validation loss", f"{written.validation_loss:.5f}"),
        ("sha256", written.sha256),
    ]
    output.show_table(("export", ""), rows)
    output.say_next("read {}; it says how to load the weights.", written.card)
