"""`genesis-prep preview`: draw pictures of a store."""

from pathlib import Path

import click

import genesis_toolkit as gt
from genesis_toolkit.cli import options, output
from genesis_toolkit.cli.further import after_store
from genesis_toolkit.pipeline.progress import Bars


@click.command(cls=options.Command, short_help="Draw a contact sheet, or write a report, of a store.")
@click.argument("store", type=options.made_store)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@options.option("--rows", "Number of cubes to show, spread evenly over the store.", click.IntRange(1, 50), 6)
def preview(store: Path | str, file: Path, rows: int) -> None:
    """Draw a contact sheet of STORE into FILE.png, or write a self-contained report into FILE.html.

    For pairs, the sheet shows each degradation alone and their combination. The report adds the distribution
    of values with the matching substances, the spacing, the tissue scores, the positions of the cubes, unused
    scans, and all parameters. For a target store, the sheet shows labels, folds and the outlines of masks;
    there is no report.

    \b
    Examples:
      genesis-prep preview pairs.zarr sheet.png
      genesis-prep preview pairs.zarr report.html
    """
    from genesis_toolkit.pipeline.pictures.report import write_report
    from genesis_toolkit.pipeline.pictures.sheet import draw_sheet

    opened, report = gt.open_store(store), file.suffix.lower() == ".html"
    with Bars() as progress:
        progress("pages" if report else "sheets", 0, 1)
        if not report:
            draw_sheet(opened, file, rows)
        elif isinstance(opened, gt.TargetStore):
            raise gt.CallError(f"{file}: target stores have no report; give a name that ends in .png.")
        else:
            write_report(opened, file, rows)
    output.say(f"The {'report' if report else 'contact sheet'} is {file}.")
    line = after_store(store, opened)
    if "preview" not in line[0]:
        output.say_next(*line)
