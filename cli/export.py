"""`genesis-train export`: trained weights in the formats of others, with a model card."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from genesis_toolkit.cli.packages import check_installed


@click.command(short_help="A run -> weights in formats of others.")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "kind",
    required=True,
    type=click.Choice(["official", "nnssl", "state-dict"]),
    help="official: as the method's authors publish; nnssl: for nnU-Net v2; state-dict: tensors alone.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUT and its card.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def export(run: Path, out: Path, kind: str, overwrite: bool, as_json: bool) -> None:
    """Write the best weights of RUN to the file OUT, and a model card to OUT.md.

    RUN is a folder that pretrain made. The card tells of the store, the degradations, the parameters, the
    losses, and how to load the file.

    \b
    Example:
      genesis-train export run genesis.pt --format official
    """
    check_installed("Exporting", "train", "torch")
    from genesis_toolkit.training.weights.export import export as write

    written = write(run, out, kind, overwrite=overwrite)
    if as_json:
        click.echo(json.dumps(asdict(written)))
        return
    from genesis_toolkit.cli.output import show_table

    rows = [
        ("weights", f"{written.file} ({written.format})"),
        ("model card", written.card),
        ("network", f"{written.network}, width {written.width}, {written.weights:,} parameters"),
        ("epoch", f"{written.epoch}, the best"),
        ("validation loss", f"{written.validation_loss:.5f}"),
        ("sha256", written.sha256),
    ]
    show_table(("export", ""), rows)
    click.echo(f"Next: read {written.card}; it says how to load the weights.", err=True)
