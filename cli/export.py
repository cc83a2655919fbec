"""`genesis-train export`: trained weights in the formats of others, with a model card."""

from dataclasses import asdict
from pathlib import Path

import click

import genesis_toolkit as gt
from genesis_toolkit.cli import options, output
from genesis_toolkit.cli.errors import check_installed
from genesis_toolkit.pipeline.absent import check_run


@click.command(cls=options.Command, short_help="A run -> weights in formats of others.")
@click.argument("run", type=options.There(Path, check_run))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "kind",
    required=True,
    type=click.Choice(["official", "nnssl", "state-dict", "safetensors"]),
    help="official: as the method's authors publish; nnssl: for nnU-Net v2; state-dict: torch's tensors by "
    "name; safetensors: the same, without pickle.",
)
@click.option(
    "--part",
    default="network",
    show_default=True,
    type=click.Choice(["network", "encoder"]),
    help="encoder: without decoder and head, as state-dict or safetensors.",
)
@options.option("--folder", "Make OUT a folder that also holds nnU-Net's plan (--format nnssl).", bool)
@options.option("--overwrite", "Replace OUT and its card.", bool)
@options.json_option
def export(run: Path, out: Path, kind: str, part: str, folder: bool, overwrite: bool) -> None:
    """Write the best weights of RUN to the file OUT, and a model card to OUT.md.

    RUN is a folder that pretrain made, or a finished one that finetune made. The card describes the store,
    the parameters, the losses or scores, and how to load the file. A fine-tuned network is written as
    state-dict or safetensors.

    \b
    Examples:
      genesis-train export pretrained genesis.pt --format official
      genesis-train export pretrained genesis-nnunet --format nnssl --folder
      genesis-train export finetuned encoder.pt --format state-dict --part encoder
    """
    check_installed("Exporting", "train", "torch")
    written = gt.export_weights(run, out, kind, part=part, as_folder=folder, overwrite=overwrite)
    output.print_json(asdict(written))
    rows = [
        ("weights", f"{written.file} ({written.format})"),
        ("model card", written.card),
        ("part", "the encoder alone" if part == "encoder" else "the whole network"),
        ("network", f"{written.network}, width {written.width}, {written.weights:,} parameters"),
        ("epoch", f"{written.epoch}{'' if written.task else ', the best'}"),
        ("validation loss", f"{written.validation_loss:.5f}"),
        ("sha256", written.sha256),
    ]
    output.show_table(("export", ""), rows)
    output.say(f"{written.card} says how to load them. Labelled cubes show what they are worth.", err=True)
    output.say_next("genesis-prep extract-targets --help")
