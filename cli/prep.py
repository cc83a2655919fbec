"""`genesis-prep`: from scans to cube stores, pair stores and target stores, in the order of the journey."""

import click

from genesis_toolkit.cli.card import card
from genesis_toolkit.cli.degrade import degrade
from genesis_toolkit.cli.demo import demo
from genesis_toolkit.cli.errors import GenesisGroup
from genesis_toolkit.cli.explain import explain
from genesis_toolkit.cli.export_npy import export_npy
from genesis_toolkit.cli.extract_cubes import extract_cubes
from genesis_toolkit.cli.extract_targets import extract_targets
from genesis_toolkit.cli.import_npy import import_npy
from genesis_toolkit.cli.info import info
from genesis_toolkit.cli.merge import merge
from genesis_toolkit.cli.pack import pack
from genesis_toolkit.cli.phantom import phantom
from genesis_toolkit.cli.preview import preview
from genesis_toolkit.cli.verify import verify
from genesis_toolkit.cli.warmup import warmup
from genesis_toolkit.pipeline.version import __version__


@click.group("genesis-prep", cls=GenesisGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="genesis-prep")
def main() -> None:
    """Prepare the training data of Models Genesis: scan -> cube -> pair.

    \b
    Try it on practice scans:
      genesis-prep phantom scans --scans 10
      genesis-prep extract-cubes scans cubes.zarr
      genesis-prep degrade cubes.zarr pairs.zarr
      genesis-train pretrain pairs.zarr --out pretrained
    """


_MADE = demo, phantom, extract_cubes, explain, degrade, preview, info, card, verify
for command in (*_MADE, pack, merge, import_npy, export_npy, extract_targets, warmup):
    main.add_command(command)


if __name__ == "__main__":
    main()
