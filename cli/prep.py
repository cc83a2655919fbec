"""`genesis-prep`: practice data, cube stores, pair stores, and looks at them."""

from operator import ge
from pathlib import Path
from typing import Any

import click

from genesis_toolkit.cli.errors import GenesisGroup
from genesis_toolkit.cli.look import explain, info
from genesis_toolkit.cli.options import Folder, Numbers, Store
from genesis_toolkit.cli.output import counted, size_of
from genesis_toolkit.cli.progress import Progress
from genesis_toolkit.cli.share import export_npy, import_npy, merge
from genesis_toolkit.cli.targets import draw_target_sheet, extract_targets
from genesis_toolkit.cli.verify import verify
from genesis_toolkit.cli.work import degrade, extract_cubes

# Cubes for practice scans that the published rule does not fit into, the largest first; all train.
_SMALLER = ((64, 64, 32), (32, 32, 16), (16, 16, 16))


@click.group(
    cls=GenesisGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="genesis-toolkit", prog_name="genesis-prep")
def main() -> None:
    """Prepare the training data of Models Genesis: scan -> cube -> pair.

    \b
    Try it on practice scans:
      genesis-prep phantom scans --scans 10
      genesis-prep extract-cubes scans cubes.zarr
      genesis-prep degrade cubes.zarr pairs.zarr
      genesis-train pretrain pairs.zarr --out run
    """


@main.command(short_help="Write practice chest CT scans or radiographs.")
@click.argument("folder", type=Folder(), metavar="DIR")
@click.option(
    "--layout",
    type=click.Choice(["luna16", "nih"]),
    default="luna16",
    show_default=True,
    help="luna16: CT scans; nih: radiographs, laid out as NIH ChestX-ray14.",
)
@click.option("--scans", type=int, help="How many scans or images. [default: 10; nih: 100]")
@click.option(
    "--shape",
    type=Numbers("X,Y[,Z]"),
    metavar="X,Y[,Z]",
    help="Voxels of a scan, pixels of an image. [default: 320,320,128; nih: 1024,1024]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed gives other patients.")
def phantom(folder: Path, layout: str, scans: int | None, shape: tuple[int, ...] | None, seed: int) -> None:
    """Write practice chest CT scans into DIR, laid out as LUNA16, with nodules and their tables.

    Beside the ten subsets lie masks on the scans' grids, 1 inside and 0 outside: seg-lungs-LUNA16 of the
    lungs, seg-nodules of the nodules.

    With --layout nih: chest radiographs of 3.4 images a patient, the table with the findings that were put
    in (seven of NIH's fourteen), and the lists of the two splits. The images are dealt to folders of 20.

    \b
    Examples:
      genesis-prep phantom scans --scans 10
      genesis-prep phantom xrays --layout nih
    """
    given = {"scans": scans, "shape": shape, "seed": seed}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if layout == "nih":
        _write_radiographs(folder, options)
    else:
        _write_scans(folder, options)


@main.command(short_help="A contact sheet or a report of a store.")
@click.argument("store", type=Store())
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--rows",
    type=click.IntRange(1, 50),
    default=6,
    show_default=True,
    help="How many cubes to show, taken evenly.",
)
def preview(store: Path | str, file: Path, rows: int) -> None:
    """Draw a contact sheet of STORE into FILE.png, or write a report, one page in itself, into FILE.html.

    Of pairs the sheet shows each degradation alone and their combination. The report shows it too, with the
    values and the substances that they name, the spacing, the tissue scores, where cubes were cut, scans that
    were not used, and all parameters. Of a target store the sheet shows labels, folds and the outlines of
    masks; there is no report.

    \b
    Examples:
      genesis-prep preview pairs.zarr sheet.png
      genesis-prep preview pairs.zarr report.html
    """
    from genesis_toolkit.pipeline.pictures.report import write_report
    from genesis_toolkit.pipeline.pictures.sheet import draw_sheet
    from genesis_toolkit.pipeline.store.attributes import read_attributes
    from genesis_toolkit.pipeline.store.open import CubeStore, PairStore, open_store
    from genesis_toolkit.pipeline.store.schema import PAIRS, TARGETS

    kind = read_attributes(store)["format"]
    if kind == TARGETS:
        draw_target_sheet(store, file, rows)
        return
    report = file.suffix.lower() == ".html"
    with Progress() as progress:
        progress("pages" if report else "sheets", 0, 1)
        (write_report if report else draw_sheet)(open_store(store, CubeStore, PairStore), file, rows)
    click.echo(f"The {'report' if report else 'contact sheet'} is {file}.")
    further = "genesis-train pretrain {} --out run" if kind == PAIRS else "genesis-prep degrade {} pairs.zarr"
    click.echo(f"Next: {further.format(store)}")


@main.command(short_help="A store in one file.")
@click.argument("store", type=Folder())
@click.argument("archive", type=Folder(), metavar="ARCHIVE.zip")
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
def pack(store: Path, archive: Path, overwrite: bool) -> None:
    """Put STORE into one archive, which every command reads as it reads the folder. Nothing is unpacked.

    \b
    Example:
      genesis-prep pack pairs.zarr pairs.zip
    """
    from genesis_toolkit.pipeline.exchange.archive import pack as run

    with Progress() as progress:
        size = run(store, archive, overwrite=overwrite, report=progress)
    click.echo(f"{archive} holds {store}, {size_of(size)}.")
    click.echo(f"Next: genesis-prep info {archive}")


for command in (
    extract_cubes,
    degrade,
    extract_targets,
    info,
    explain,
    verify,
    import_npy,
    export_npy,
    merge,
):
    main.add_command(command)


def _write_scans(folder: Path, options: dict[str, Any]) -> None:
    from genesis_toolkit.pipeline.cubes.rule import PlaceRule
    from genesis_toolkit.pipeline.practice.luna16 import PhantomParameters, write_luna16

    parameters = PhantomParameters(**options)
    with Progress() as progress:
        write_luna16(folder, parameters, report=progress)
    made = f"{counted(parameters.scans, 'scan')} of {' x '.join(map(str, parameters.shape))} voxels"
    click.echo(f"{made} {'is' if parameters.scans == 1 else 'are'} in {folder}.")
    rules = [PlaceRule(), *(PlaceRule(size, (0, 0, 0)) for size in _SMALLER)]
    fitting = [rule for rule in rules if all(map(ge, parameters.shape, rule.least_shape))]
    smaller = ""
    if fitting[:1] != rules[:1]:
        click.echo("They are smaller than the published rule needs.", err=True)
        size = fitting[0].size if fitting else rules[-1].size
        smaller = f" --size {','.join(map(str, size))} --border 0,0,0"
    click.echo(f"Next: genesis-prep extract-cubes {folder} cubes.zarr{smaller}")


def _write_radiographs(folder: Path, options: dict[str, Any]) -> None:
    from genesis_toolkit.pipeline.practice.nih import RadiographParameters, is_test, planned, write_nih

    parameters = RadiographParameters(**options)
    with Progress() as progress:
        write_nih(folder, parameters, report=progress)
    patients = list(planned(parameters))
    test = sum(one.images for one in patients if is_test(one.patient))
    made = f"{counted(parameters.scans, 'image')} of {' x '.join(map(str, parameters.shape))} pixels"
    click.echo(
        f"{made}, of {counted(len(patients), 'patient')}, {'is' if parameters.scans == 1 else 'are'} in "
        f"{folder}, {test} of them on the test list."
    )
    click.echo(f"Next: genesis-prep extract-cubes {folder} cubes.zarr --layout nih")


if __name__ == "__main__":
    main()
