"""`genesis-prep explain`: a look at one scan, and at what the rule for cubes makes of it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.options import rule_options

if TYPE_CHECKING:
    from pipeline.explain import Explanation

_WANTED = 32  # the default of extract-cubes --cubes-per-scan


@click.command(short_help="Why a scan gives the cubes it gives.")
@click.argument("scan", type=click.Path())
@rule_options
@click.option(
    "--png",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="MAP",
    help="Also draw where cubes may lie, over three slices.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for programs.")
def explain(
    scan: str,
    size: tuple[int, int, int],
    border: tuple[int, int, int],
    max_tissue: float,
    min_tissue: float,
    hu: tuple[int, int],
    png: Path | None,
    as_json: bool,
) -> None:
    """Say why SCAN gives the cubes it gives, and what other settings would give.

    SCAN is a file, the folder of a DICOM series, or folder#label as tables show it where a folder holds
    several series.

    \b
    Example:
      genesis-prep explain scan.mhd --png map.png
    """
    from dataclasses import asdict

    from pipeline.errors import CallError, DataError
    from pipeline.explain import draw_map, explain_scan
    from pipeline.hounsfield import Window
    from pipeline.place import PlaceRule
    from pipeline.scans import read_scan, scan_path

    if len(hu) != 2:
        raise CallError(f"--hu {','.join(map(str, hu))}: two numbers low,high are wanted, as in -1000,1000.")
    rule, window = PlaceRule(size, border, max_tissue, min_tissue), Window(*hu)
    try:
        path = scan_path(scan)
        read = read_scan(path)
    except DataError as error:
        raise DataError(f"{scan}: {error}.") from None
    spacing = read.geometry.spacing
    found = explain_scan(read.voxels, spacing, rule, window)
    if png is not None:
        title = f"{_name(path)}: {found.passing:,} of {found.candidates:,} places for a cube pass"
        draw_map(read.voxels, spacing, rule, png, title=title, window=window)
    if as_json:
        click.echo(json.dumps({"scan": str(path), **asdict(found), "map": str(png) if png else None}))
        return
    _show(path, found, hu, png)


def _show(scan: Path, found: "Explanation", hu: tuple[int, int], png: Path | None) -> None:
    from cli.tables import show_table

    show_table(["what", "value"], _facts(scan, found))
    show_table(["places for a cube's first corner", "places", ""], _funnel(found))
    if found.scores:
        rows = [[name, f"{score:.3f}"] for name, score in found.scores.items()]
        show_table(["tissue score of the places inside the border", "score"], rows)
    rows = [
        [
            other.option,
            f"{other.candidates:>12,}",
            f"{other.passing:>12,}",
            _share(other.passing, other.candidates),
        ]
        for other in found.alternatives
    ]
    show_table(["another setting", "inside border", "of these pass", ""], rows)
    click.echo(_verdict(found))
    if png is not None:
        click.echo(
            f"The map is {png}: dashed the border, coloured where cubes may be centred, green some cubes."
        )
    click.echo(_next(scan, found, hu))


def _facts(scan: Path, found: "Explanation") -> list[list[str]]:
    def millimetres(edges: tuple[int, int, int]) -> str:
        lengths = (f"{edge * step:.0f}" for edge, step in zip(edges, found.spacing, strict=True))
        return " x ".join(lengths)

    return [
        ["scan", _name(scan)],
        ["voxels x, y, z", f"{_by(found.shape)}, {millimetres(found.shape)} mm"],
        ["a cube", f"{_by(found.size)} voxels, {millimetres(found.size)} mm"],
        ["border", f"{_by(found.border)} voxels at each side that no cube touches"],
        [
            "tissue score",
            f"{found.min_tissue:g} .. {found.max_tissue:g} passes: the share of a cube's voxels from -150 HU "
            "on (soft tissue, bone), and half of those that such a one follows in z",
        ],
    ]


def _funnel(found: "Explanation") -> list[list[str]]:
    rows = [["where a cube lies inside the scan", f"{found.places_whole:>12,}", ""]]
    for axis, border, lost in zip("xyz", found.border, found.lost_to_border, strict=True):
        words = f"less: in or near the border of {border} in {axis}"
        rows.append([words, f"{-lost:>12,}", _share(lost, found.places_whole)])
    rows.append(
        ["inside the border", f"{found.candidates:>12,}", _share(found.candidates, found.places_whole)]
    )
    rows.append(
        [
            f"less: tissue score above {found.max_tissue:g} (% of those inside)",
            f"{-found.lost_to_max_tissue:>12,}",
            _share(found.lost_to_max_tissue, found.candidates),
        ]
    )
    if found.min_tissue:
        rows.append(
            [
                f"less: tissue score below {found.min_tissue:g} (% of those inside)",
                f"{-found.lost_to_min_tissue:>12,}",
                _share(found.lost_to_min_tissue, found.candidates),
            ]
        )
    rows.append(
        [
            "a cube may be cut (% of those inside)",
            f"{found.passing:>12,}",
            _share(found.passing, found.candidates),
        ]
    )
    return rows


def _verdict(found: "Explanation") -> str:
    if found.shortages:
        words = [
            f"{short.axis} has {short.found} voxels and needs {short.needed} ("
            + (
                "even without a border it is too short for this --size"
                if short.largest_border is None
                else f"the largest border that fits is {short.largest_border}"
            )
            + ")"
            for short in found.shortages
        ]
        return f"This scan gives no cube, because it is too small: {'; '.join(words)}."
    if not found.passing:
        return (
            "This scan gives no cube: no place inside the border has a tissue score from "
            f"{found.min_tissue:g} to {found.max_tissue:g}; the scores run from "
            f"{found.scores['least']:.3f} to {found.scores['most']:.3f}."
        )
    if found.passing < _WANTED:
        return f"This scan gives {found.passing} cubes at most: no more places pass."
    return (
        f"This scan has places enough: {_WANTED} cubes are drawn among {found.passing:,}, all equally likely."
    )


def _next(scan: Path, found: "Explanation", hu: tuple[int, int]) -> str:
    """The command to go on with: these settings where they give cubes, else the first others that do."""
    options = ""
    if not found.passing:
        helpful = [other.option for other in found.alternatives if other.passing]
        if not helpful:
            return "Next: none of these settings gives a cube; try a smaller --size with a smaller --border."
        options = f" {helpful[0]}"
    source = scan if scan.exists() else scan.parent / scan.name.rpartition("#")[0]  # with its other series
    return f"Next: genesis-prep extract-cubes {source} cubes.zarr{_given(found, hu, options)}{options}"


def _given(found: "Explanation", hu: tuple[int, int], replaced: str) -> str:
    """The settings that differ from the defaults, as typed."""
    settings = {
        "--size": (",".join(map(str, found.size)), "64,64,32"),
        "--hu": (",".join(map(str, hu)), "-1000,1000"),
        "--border": (",".join(map(str, found.border)), "100,100,30"),
        "--max-tissue": (f"{found.max_tissue:g}", "0.15"),
        "--min-tissue": (f"{found.min_tissue:g}", "0"),
    }
    return "".join(
        f" {option} {value}"
        for option, (value, default) in settings.items()
        if value != default and option not in replaced
    )


def _name(scan: Path) -> str:
    return scan.name or scan.resolve().name  # the folder at work in has no name as given


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:6.2f} %" if whole else "-"


def _by(edges: tuple[int, int, int]) -> str:
    return " x ".join(map(str, edges))
