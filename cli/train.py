"""`genesis-train`: from a finished store to a network, and to evidence for its value."""

import os

import click

from genesis_toolkit.cli.compare import compare
from genesis_toolkit.cli.errors import GenesisGroup
from genesis_toolkit.cli.export import export
from genesis_toolkit.cli.finetune import finetune
from genesis_toolkit.cli.pretrain import pretrain
from genesis_toolkit.cli.run_info import run_info
from genesis_toolkit.cli.segment import segment
from genesis_toolkit.pipeline.version import __version__
from genesis_toolkit.training.machine.interrupt import process_may_end


@click.group("genesis-train", cls=GenesisGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="genesis-train")
@click.pass_context
def main(context: click.Context) -> None:
    """Train networks from the stores that genesis-prep makes.

    \b
    Example:
      genesis-prep extract-cubes LUNA16 cubes.zarr
      genesis-prep degrade cubes.zarr pairs.zarr
      genesis-train pretrain pairs.zarr --out pretrained
      genesis-train finetune nodules.zarr --out finetuned --weights pretrained
    """
    # torch's threads spin while waiting, which slows everything down on shared cores: epochs took ten times
    # as long with two other busy processes. Must be set before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    context.with_resource(process_may_end())


for command in (pretrain, export, finetune, segment, compare, run_info):
    main.add_command(command)


if __name__ == "__main__":
    main()
