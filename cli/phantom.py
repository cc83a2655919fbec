"""`genesis-prep phantom`: write practice scans and radiographs."""

from operator import ge
from pathlib import Path
from typing import Any

import click

from genesis_toolkit.cli import options, output
from genesis_toolkit.cli.further import free_name
from genesis_toolkit.pipeline.wording import counted

# Cube sizes for practice scans that the published rule does not fit, the largest first; all can train.
_SMALLER = ((64, 64, 32), (32, 32, 16), (16, 16, 16))


@click.command(cls=options.Resumable, short_help="Write practice chest CT scans or radiographs.")
@click.argument("folder", type=options.path, metavar="DIR")
@options.option(
    "--layout",
    "Kind of practice data. luna16: CT scans; nih: radiographs organised like NIH ChestX-ray14.",
    ["luna16", "nih"],
    "luna16",
)
@options.option("--scans", "Number of scans or images. [default: 10; nih: 100]", int)
@options.option(
    "--shape",
    "Size of a scan in voxels, or of an image in pixels. [default: 320,320,128; nih: 1024,1024]",
    options.Listed("X,Y[,Z]"),
)
@options.option("--seed", "Random seed for the simulated patients.", int, 0)
def phantom(folder: Path, layout: str, **given: Any) -> None:
    """Write practice chest CT scans into DIR, organised like LUNA16, with nodules and their tables.

    Next to the ten subsets, the command writes masks on the grids of the scans (1 inside, 0 outside):
    seg-lungs-LUNA16 for the lungs and seg-nodules for the nodules.

    With --layout nih it writes chest radiographs (3.4 images per patient on average, in folders of 20), the
    table of their simulated findings (seven of NIH's fourteen), and the lists of the two splits.

    \b
    Examples:
      genesis-prep phantom scans --scans 10
      genesis-prep phantom xrays --layout nih
    """
    given = {name: value for name, value in given.items() if value is not None}
    (_write_radiographs if layout == "nih" else _write_scans)(folder, given)


def _write_scans(folder: Path, given: dict[str, Any]) -> None:
    from genesis_toolkit.pipeline.cubes.rule import CubeRule
    from genesis_toolkit.pipeline.practice.luna16 import PhantomParameters, write_luna16

    parameters = PhantomParameters(**given)
    write_luna16(folder, parameters, progress=True)
    made = f"{counted(parameters.scans, 'scan')} of {output.edges(parameters.shape)} voxels"
    output.say(f"Wrote {made} to {folder}.")
    rules = [CubeRule(), *(CubeRule(size, (0, 0, 0)) for size in _SMALLER)]
    fitting = [rule for rule in rules if all(map(ge, parameters.shape, rule.least_shape))]
    smaller = ""
    if fitting[:1] != rules[:1]:
        click.echo("The scans are smaller than the published rule needs.", err=True)
        size = fitting[0].size if fitting else rules[-1].size
        smaller = f" --size {','.join(map(str, size))} --border 0,0,0"
    output.say_next("genesis-prep extract-cubes {} {}" + smaller, folder, free_name("cubes.zarr"))


def _write_radiographs(folder: Path, given: dict[str, Any]) -> None:
    from genesis_toolkit.pipeline.practice.nih import RadiographParameters, is_test, planned, write_nih

    parameters = RadiographParameters(**given)
    write_nih(folder, parameters, progress=True)
    patients = list(planned(parameters))
    test = sum(one.images for one in patients if is_test(one.patient))
    made = f"{counted(parameters.scans, 'image')} of {output.edges(parameters.shape)} pixels"
    output.say(
        f"Wrote {made}, of {counted(len(patients), 'patient')}, to {folder}; {test:,} of them are on the "
        "test list."
    )
    output.say_next("genesis-prep extract-cubes {} {} --layout nih", folder, free_name("cubes.zarr"))
