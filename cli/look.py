"""`genesis-prep info` and `explain`: what a store holds, and why a scan gives the cubes it gives."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genesis_toolkit.cli.options import Store, rule_options
from genesis_toolkit.cli.output import shares, shortened, show_table
from genesis_toolkit.cli.progress import Progress
from genesis_toolkit.cli.targets import show_targets

if TYPE_CHECKING:
    from genesis_toolkit.pipeline.cubes.explain import Explanation
    from genesis_toolkit.pipeline.cubes.rule import Plane

_WANTED = 32  # the default of extract-cubes --cubes-per-scan
_MOST_ROWS = 20
_MOST_LABELS = 5


@click.command(short_help="What a store holds.")
@click.argument("store", type=Store())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for programs.")
def info(store: Path | str, as_json: bool) -> None:
    """Say what STORE holds, in one screen.

    \b
    Example:
      genesis-prep info pairs.zarr
    """
    from genesis_toolkit.pipeline.describe.facts import describe
    from genesis_toolkit.pipeline.store.attributes import read_attributes
    from genesis_toolkit.pipeline.store.open import CubeStore, PairStore, open_store
    from genesis_toolkit.pipeline.store.schema import TARGETS

    if read_attributes(store)["format"] == TARGETS:
        show_targets(store, as_json)
        return
    facts = describe(open_store(store, CubeStore, PairStore))
    if as_json:
        click.echo(json.dumps(facts))
        return
    show_table(["what", "value"], _facts_rows(facts))
    if "pairs" in facts:
        show_table(["combination", "pairs"], shares(facts["combinations"], facts["pairs"]))
    if facts["not_used"]:
        rows = [
            [shortened(row["path"]), row["status"], row["reason"]] for row in facts["not_used"][:_MOST_ROWS]
        ]
        show_table(["image" if "images" in facts else "scan", "status", "reason"], rows)
    click.echo(f"Next: genesis-prep preview {store} sheet.png")


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
    size: tuple[int, ...],
    border: tuple[int, int, int],
    max_tissue: float | None,
    min_tissue: float,
    hu: tuple[int, int],
    png: Path | None,
    as_json: bool,
    plane: "Plane | None" = None,
) -> None:
    """Say why SCAN gives the cubes it gives, and what other settings would give.

    SCAN is a file, the folder of a DICOM series, or folder#label as tables show it where a folder holds
    several series.

    \b
    Example:
      genesis-prep explain scan.mhd --png map.png
    """
    from dataclasses import asdict

    from genesis_toolkit.pipeline.cubes.explain import explain_scan
    from genesis_toolkit.pipeline.cubes.rule import PlaceRule
    from genesis_toolkit.pipeline.errors import CallError, DataError
    from genesis_toolkit.pipeline.hounsfield import Window
    from genesis_toolkit.pipeline.pictures.map import draw_map
    from genesis_toolkit.pipeline.scans.read import read_scan, scan_path

    if len(hu) != 2:
        raise CallError(f"--hu {','.join(map(str, hu))}: two numbers low,high are wanted, as in -1000,1000.")
    rule, window = PlaceRule(size, border, max_tissue, min_tissue, plane), Window(*hu)
    steps = "scan read, judged, drawn" if png else "scan read, judged"
    count = steps.count(",") + 1
    with Progress() as progress:
        progress(steps, 0, count)
        try:
            path = scan_path(scan)
            if path.suffix.lower() == ".png":
                raise CallError(
                    f"{scan} is an image, and images have neither border nor tissue rule: extract-cubes "
                    "itself says why one gives nothing. Give a CT scan."
                )
            read = read_scan(path)
        except DataError as error:
            raise DataError(f"{scan}: {error}.") from None
        progress(steps, 1, count)
        spacing = read.geometry.spacing
        found = explain_scan(read.voxels, spacing, rule, window)
        if png is not None:
            progress(steps, 2, count)
            title = f"{_name(path)}: {found.passing:,} of {found.candidates:,} places for {_one(found)} pass"
            draw_map(read.voxels, spacing, rule, png, title=title, window=window)
    if as_json:
        click.echo(json.dumps({"scan": str(path), **asdict(found), "map": str(png) if png else None}))
        return
    _show(path, found, hu, png)


def _facts_rows(facts: dict[str, Any]) -> list[list[str]]:
    ratio = facts["bytes_uncompressed"] / facts["bytes"]
    scans = ", ".join(f"{count} {status}" for status, count in facts["scans"].items())
    pairs = [["pairs", f"{facts['pairs']:,}, {facts['variants']} a cube"]] if "pairs" in facts else []
    points = "voxels" if len(facts["size"]) == 3 else "pixels"
    return [
        ["store", f"{facts['store']} ({facts['format']}, version {facts['version']})"],
        ["cubes", f"{facts['cubes']:,} of {' x '.join(map(str, facts['size']))} {points}"],
        *pairs,
        ["window", f"{facts['window'][0]} .. {facts['window'][1]} {facts['unit']}"],
        ["on disk", f"{facts['bytes'] / 2**20:,.1f} MiB, {ratio:.2f} times smaller than raw"],
        *(_image_rows(facts["images"], scans) if "images" in facts else _scan_rows(facts, scans)),
        *[[name.replace("_", " "), _value(value)] for name, value in _shown(facts["parameters"]).items()],
        ["made with", ", ".join(f"{name} {value}" for name, value in facts["run"].items())],
    ]


def _scan_rows(facts: dict[str, Any], scans: str) -> list[list[str]]:
    least, most = facts["spacing_mm"]["least"], facts["spacing_mm"]["most"]
    spacing = [
        f"{low:.3g}" if low == high else f"{low:.3g}-{high:.3g}"
        for low, high in zip(least, most, strict=True)
    ]
    tissue = facts["tissue"]
    subsets = ", ".join(f"{subset}: {count}" for subset, count in facts["cubes_by_subset"].items())
    return [
        ["scans", scans],
        ["cubes by subset", subsets],
        ["spacing x, y, z", f"{', '.join(spacing)} mm" if any(most) else "not known"],
        ["tissue score", f"{tissue['least']:.3f} .. {tissue['most']:.3f}, median {tissue['median']:.3f}"],
    ]


def _image_rows(images: dict[str, Any], scans: str) -> list[list[str]]:
    labels = list(images["labels"].items())
    more = f", and {len(labels) - _MOST_LABELS} more" if len(labels) > _MOST_LABELS else ""
    return [
        ["X-ray images", scans],
        ["patients", f"{images['patients']:,}"],
        ["views", ", ".join(f"{name or 'not told'}: {count:,}" for name, count in images["views"].items())],
        [
            "labels",
            ", ".join(f"{name or 'none told'}: {count:,}" for name, count in labels[:_MOST_LABELS]) + more,
        ],
    ]


def _shown(parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters for people: of a recipe its name and what differs from it, of a sha256 its beginning."""
    from genesis_toolkit.pipeline.degrade.recipes import RECIPES

    shown = {name: value[:12] if name.endswith("_sha256") else value for name, value in parameters.items()}
    if "recipe" in shown:
        named = RECIPES[shown["recipe"]["name"]].to_json()
        changes = {name: value for name, value in shown["recipe"].items() if value != named[name]}
        shown["recipe"] = shown["recipe"]["name"] + (f" with {_value(changes)}" if changes else "")
    return shown


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {_value(item)}" for name, item in value.items())
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _show(scan: Path, found: "Explanation", hu: tuple[int, int], png: Path | None) -> None:
    show_table(["what", "value"], _facts(scan, found))
    show_table([f"places for {_one(found)}'s first corner", "places", ""], _funnel(found))
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
        what = "patches" if found.plane else "cubes"
        click.echo(
            f"The map is {png}: dashed the border, coloured where {what} may be centred, green some {what}."
        )
    click.echo(_next(scan, found, hu))


def _facts(scan: Path, found: "Explanation") -> list[list[str]]:
    def millimetres(edges: tuple[int, ...]) -> str:
        lengths = (f"{edge * step:.0f}" for edge, step in zip(edges, found.spacing, strict=True))
        return " x ".join(lengths)

    one = _one(found)
    rule = f"{found.min_tissue:g} .. {found.max_tissue:g} passes: the share of {one}'s voxels from -150 HU on"
    rule += " (soft tissue, bone), and "
    rule += "below -950 HU (air)" if found.plane else "half of those that such a one follows in z"
    return [
        ["scan", _name(scan)],
        ["voxels x, y, z", f"{_by(found.shape)}, {millimetres(found.shape)} mm"],
        [one, f"{_by(found.box)} voxels, {millimetres(found.box)} mm"],
        ["border", f"{_by(found.border)} voxels at each side that no {one.split()[1]} touches"],
        ["tissue score", rule],
    ]


def _funnel(found: "Explanation") -> list[list[str]]:
    rows = [[f"where {_one(found)} lies inside the scan", f"{found.places_whole:>12,}", ""]]
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
            f"{_one(found)} may be cut (% of those inside)",
            f"{found.passing:>12,}",
            _share(found.passing, found.candidates),
        ]
    )
    return rows


def _verdict(found: "Explanation") -> str:
    what, several = ("patch", "patches") if found.plane else ("cube", "cubes")
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
        return f"This scan gives no {what}, because it is too small: {'; '.join(words)}."
    if not found.passing:
        return (
            f"This scan gives no {what}: no place inside the border has a tissue score from "
            f"{found.min_tissue:g} to {found.max_tissue:g}; the scores run from "
            f"{found.scores['least']:.3f} to {found.scores['most']:.3f}."
        )
    if found.passing < _WANTED:
        return f"This scan gives {found.passing} {several} at most: no more places pass."
    return (
        f"This scan has places enough: {_WANTED} {several} are drawn among {found.passing:,}, all equally "
        "likely."
    )


def _next(scan: Path, found: "Explanation", hu: tuple[int, int]) -> str:
    """The command to go on with: these settings where they give cubes, else the first others that do."""
    options = ""
    if not found.passing:
        helpful = [other.option for other in found.alternatives if other.passing]
        if not helpful:
            return (
                f"Next: none of these settings gives {_one(found)}; try a smaller --size with a smaller "
                "--border."
            )
        options = f" {helpful[0]}"
    source = scan if scan.exists() else scan.parent / scan.name.rpartition("#")[0]  # with its other series
    return f"Next: genesis-prep extract-cubes {source} cubes.zarr{_given(found, hu, options)}{options}"


def _given(found: "Explanation", hu: tuple[int, int], replaced: str) -> str:
    """The settings that differ from the defaults, as typed."""
    from genesis_toolkit.pipeline.cubes.rule import PlaceRule

    most = PlaceRule(found.size).most_tissue
    settings = {
        "--size": (",".join(map(str, found.size)), "64,64,32"),
        "--plane": (found.plane or "axial", "axial"),
        "--hu": (",".join(map(str, hu)), "-1000,1000"),
        "--border": (",".join(map(str, found.border)), "100,100,30"),
        "--max-tissue": (f"{found.max_tissue:g}", f"{most:g}"),
        "--min-tissue": (f"{found.min_tissue:g}", "0"),
    }
    return "".join(
        f" {option} {value}"
        for option, (value, default) in settings.items()
        if value != default and option not in replaced
    )


def _one(found: "Explanation") -> str:
    return "a patch" if found.plane else "a cube"


def _name(scan: Path) -> str:
    return scan.name or scan.resolve().name  # the folder at work in has no name as given


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:6.2f} %" if whole else "-"


def _by(edges: tuple[int, ...]) -> str:
    return " x ".join(map(str, edges))
