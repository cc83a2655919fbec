"""`genesis-prep explain`: show why a scan gives the cubes it gives."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

import genesis_toolkit as gt
from genesis_toolkit.cli import options, output
from genesis_toolkit.cli.further import free_name
from genesis_toolkit.pipeline.progress import Bars

_CUBES = 32  # the default of extract-cubes --cubes-per-scan


@click.command(cls=options.Command, short_help="Explain where cubes can be cut from a scan.")
@click.argument("scan", type=options.scan)
@options.rule_options
@options.option(
    "--png",
    "Also draw a map of the allowed cube positions over three slices into this PNG file.",
    click.Path(path_type=Path, dir_okay=False),
    metavar="MAP",
)
@options.json_option
def explain(scan: str, png: Path | None, **rule_of: Any) -> None:
    """Explain where cubes can be cut from SCAN, and what other settings would change.

    SCAN is a file, a folder with one scan (such as a DICOM series), or folder#label, as tables show it, if a
    folder holds several series. It is read in the same way as by extract-cubes.

    \b
    Example:
      genesis-prep explain scan.mhd --png map.png
    """
    from genesis_toolkit.pipeline.cubes.cut import mask_words
    from genesis_toolkit.pipeline.cubes.explain import find_scan
    from genesis_toolkit.pipeline.pictures.map import draw_map
    from genesis_toolkit.pipeline.scans.mapping import apply_window

    options.check_one_window(options.given_options())
    parameters = gt.ExtractParameters(**rule_of)
    rule, window = parameters.rule, parameters.store_window
    steps = "scan read, judged, drawn" if png else "scan read, judged"
    count = steps.count(",") + 1
    with Bars() as progress:
        progress(steps, 0, count)
        try:
            if scan.lower().endswith(".png"):
                raise gt.CallError(
                    f"{scan} is an image, so neither the border nor the tissue rule applies: "
                    "give a CT scan. extract-cubes reports why an image cannot be used."
                )
            path, only_files = find_scan(scan, parameters.mr)
            read = gt.read_scan(path, parameters.mr)
            mask = mask_words(read.voxels)
            read, _ = apply_window(read, parameters.window, window)
        except gt.DataError as error:
            raise gt.DataError(f"{scan}: {error}.") from None
        progress(steps, 1, count)
        spacing = read.geometry.spacing
        found = replace(gt.explain_scan(read.voxels, spacing, rule, window), mask=mask)
        found = replace(found, without_tissue=0) if parameters.mr else found
        if png is not None:
            progress(steps, 2, count)
            title = f"{_name(path)}: {found.passing:,} of {found.candidates:,} positions pass"
            draw_map(read.voxels, spacing, rule, png, title=title, window=window)
    output.print_json({"scan": str(path), **asdict(found), "map": str(png) if png else None})
    _show(path, found, png)
    given = Path(scan)  # or its folder, with the other series in it
    given = given if given.exists() else given.parent / given.name.rpartition("#")[0]
    _say_next(given, found, parameters, " --layout files" if only_files else "")


def _show(scan: Path, found: "gt.Explanation", png: Path | None) -> None:
    output.show_table(["what", "value"], _facts(scan, found))
    output.show_table([f"positions of {_one(found)}'s first corner", "positions", ""], _funnel(found))
    if found.scores:
        rows = [[name, f"{score:.3f}"] for name, score in found.scores.items()]
        output.show_table(["tissue score of the positions inside the border", "score"], rows)
    rows = [
        [other.option, f"{other.candidates:>12,}", *_share(other.passing, other.candidates)]
        for other in found.alternatives
    ]
    output.show_table(["another setting", "inside border", "of these pass", ""], rows)
    output.say(_verdict(found))
    if found.without_tissue:
        from genesis_toolkit.pipeline.describe.facts import LEAST_TISSUE

        share = found.without_tissue / found.passing
        output.say(
            f"{100 * share:.1f} % of the passing positions hold no tissue, only air: about "
            f"{_CUBES * share:.0f} of {_CUBES} cubes. --min-tissue {LEAST_TISSUE:g} excludes such cubes."
        )
    if png is not None:
        what = "patches" if found.plane else "cubes"
        output.say(f"Map in {png}: border dashed, possible centres of {what} coloured, some {what} in green.")


def _facts(scan: Path, found: "gt.Explanation") -> list[list[str]]:
    def millimetres(voxels: tuple[int, ...]) -> str:
        return output.edges([f"{edge * step:.0f}" for edge, step in zip(voxels, found.spacing, strict=True)])

    one = _one(found)
    rule = f"{found.min_tissue:g} .. {found.max_tissue:g} passes: the share of {one}'s voxels from -150 HU up"
    rule += " (soft tissue, bone), plus "
    rule += "those below -950 HU (air)" if found.plane else "half of those with such a voxel next in z"
    return [
        ["scan", _name(scan)],
        ["voxels x, y, z", f"{output.edges(found.shape)}, {millimetres(found.shape)} mm"],
        [one, f"{output.edges(found.box)} voxels, {millimetres(found.box)} mm"],
        ["border", f"{output.edges(found.border)} voxels on each side that no {one.split()[1]} may touch"],
        ["tissue score", rule],
    ]


def _funnel(found: "gt.Explanation") -> list[list[str]]:
    """Return what each part of the rule excludes, and its share of what was left before."""
    whole, inside = found.places_whole, found.candidates
    steps = [
        (f"less: in or near the border of {border} in {axis}", -lost, whole)
        for axis, border, lost in zip("xyz", found.border, found.lost_to_border, strict=True)
    ]
    steps.append(("inside the border", inside, whole))
    for side, bound, lost in (
        ("above", found.max_tissue, found.lost_to_max_tissue),
        ("below", found.min_tissue, found.lost_to_min_tissue),
    ):
        if bound or side == "above":
            steps.append((f"less: tissue score {side} {bound:g} (% of those inside)", -lost, inside))
    steps.append((f"{_one(found)} may be cut (% of those inside)", found.passing, inside))
    rows = [[words, *_share(count, of_these)] for words, count, of_these in steps]
    return [["inside the scan", f"{whole:>12,}", ""], *rows]


def _verdict(found: "gt.Explanation") -> str:
    what, several = ("patch", "patches") if found.plane else ("cube", "cubes")
    if found.mask:
        return f"This scan gives no {what}: {found.mask}."
    if found.shortages:
        words = []
        for short in found.shortages:
            most = f"the largest border that fits is {short.largest_border}"
            if short.largest_border is None:
                bare = short.needed - 2 * found.border["xyz".index(short.axis)]
                most = f"{bare} even without a border, for this --size"
            words.append(f"{short.axis} has {short.found} voxels and needs {short.needed} ({most})")
        return f"This scan gives no {what}, because it is too small: {'; '.join(words)}."
    if not found.passing:
        return (
            f"This scan gives no {what}: no position inside the border has a tissue score between "
            f"{found.min_tissue:g} and {found.max_tissue:g}; the scores range from "
            f"{found.scores['least']:.3f} to {found.scores['most']:.3f}."
        )
    if found.passing < _CUBES:
        return f"This scan gives at most {found.passing} {several}: no other positions pass."
    return f"Enough positions pass: {_CUBES} {several} are drawn from {found.passing:,}, all equally likely."


def _say_next(source: Path, found: "gt.Explanation", asked: "gt.ExtractParameters", layout: str) -> None:
    """Print the next command: with these settings if they give cubes, else with the first others that do."""
    replaced = ""
    if found.mask:
        output.say("Give the scan that the mask belongs to.", err=True)
        return
    if not found.passing:
        helpful = [other.option for other in found.alternatives if other.passing]
        if not helpful:
            one = _one(found)
            smaller = "Try a smaller --size with a smaller --border."
            output.say(f"None of these settings gives {one}. {smaller}", err=True)
            return
        replaced = f" {helpful[0]}"
    settings = layout + _given(found, asked, replaced) + replaced
    output.say_next("genesis-prep extract-cubes {} {}" + settings, source, free_name("cubes.zarr"))


def _given(found: "gt.Explanation", asked: "gt.ExtractParameters", replaced: str) -> str:
    """Return the settings that differ from the defaults, as options."""
    most = 1.0 if asked.mr else gt.CubeRule(found.size).most_tissue
    settings = {
        "--size": (",".join(map(str, found.size)), "64,64,32"),
        "--plane": (found.plane or "axial", "axial"),
        "--hu": (",".join(map(str, asked.hu)), "-1000,1000"),
        "--window": (",".join(map(str, asked.window or ())), ""),
        "--border": (",".join(map(str, found.border)), "100,100,30"),
        "--max-tissue": (f"{found.max_tissue:g}", f"{most:g}"),
        "--min-tissue": (f"{found.min_tissue:g}", "0"),
    }
    return "".join(
        f" {option} {value}"
        for option, (value, default) in settings.items()
        if value != default and option not in replaced
    )


def _one(found: "gt.Explanation") -> str:
    return "a patch" if found.plane else "a cube"


def _name(scan: Path) -> str:
    return scan.name or scan.resolve().name  # `.` has no name


def _share(part: int, whole: int) -> list[str]:
    """Return a number of positions, negative if excluded, and its share of the whole."""
    return [f"{part:>12,}", f"{100 * abs(part) / whole:6.2f} %" if whole else "-"]
