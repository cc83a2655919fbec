"""`genesis-train export`: write trained weights in other formats, with a model card."""

from dataclasses import asdict
from pathlib import Path

import click

import genesis_toolkit as gt
from genesis_toolkit.cli import options, output
from genesis_toolkit.cli.errors import check_installed
from genesis_toolkit.pipeline.absent import check_run


@click.command(cls=options.Command, short_help="Export the weights of a run to other formats.")
@click.argument("run", type=options.There(Path, check_run))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "kind",
    required=True,
    type=click.Choice(["official", "nnssl", "state-dict", "safetensors"]),
    help="File format. official: the format of the method's authors; nnssl: for nnU-Net v2; "
    "state-dict: torch tensors by name; safetensors: the same without pickle.",
)
@click.option(
    "--part",
    default="network",
    show_default=True,
    type=click.Choice(["network", "encoder"]),
    help="Part to export; encoder omits the decoder and the head (state-dict or safetensors only).",
)
@options.option(
    "--folder", "With --format nnssl: write OUT as a folder that also contains nnU-Net's plan.", bool
)
@options.option("--overwrite", "Replace an existing OUT and its model card.", bool)
@options.json_option
def export(run: Path, out: Path, kind: str, part: str, folder: bool, overwrite: bool) -> None:
    """Write the best weights of RUN to the file OUT, and a model card to OUT.md.

    RUN is the folder of a pre-training run or of a finished fine-tuning run. The card describes the store,
    the parameters, the losses or scores, and how to load the file. A fine-tuned network can be exported as
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
        ("part", "encoder only" if part == "encoder" else "whole network"),
        ("network", f"{written.network}, width {written.width}, {written.weights:,} parameters"),
        ("epoch", f"{written.epoch}{'' if written.task else ', the best'}"),
        ("validation loss", f"{written.validation_loss:.5f}"),
        ("sha256", written.sha256),
    ]
    output.show_table(("export", ""), rows)
    output.say(f"{written.card} describes how to load them.", err=True)
    if not written.task:  # of a fine-tuned run nothing is left to do
        output.say("Fine-tune them on labelled cubes next.", err=True)
        output.say_next("genesis-prep extract-targets --help")
