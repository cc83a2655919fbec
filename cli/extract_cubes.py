"""`genesis-prep extract-cubes`: cut a cube store from a folder of scans."""

from collections.abc import Callable
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import genesis_toolkit as gt
from genesis_toolkit.cli import options, output
from genesis_toolkit.cli.errors import BAD_DATA
from genesis_toolkit.cli.further import after_store, explanation
from genesis_toolkit.pipeline.progress import Bars
from genesis_toolkit.pipeline.wording import counted
from genesis_toolkit.training.machine.options import option as option_name

if TYPE_CHECKING:
    from genesis_toolkit.pipeline.cubes.estimate import ExtractionPlan
    from genesis_toolkit.pipeline.cubes.parameters import Parameters

#: Options that do not apply to X-ray images, and why.
_OF_SCANS = {
    "subsets": "X-ray images have no subsets",
    "plane": "an X-ray image is already two-dimensional",
    "hu": "X-ray images are stored as grey levels 0..255",
    "window": "an X-ray image has its own window",
    "border": "X-ray images are used up to their edges",
    "max_tissue": "grey levels do not identify tissue",
    "min_tissue": "grey levels do not identify tissue",
    "sampler": "crops of X-ray images are drawn uniformly",
    "spacing": "X-ray images are resized to --size",
    "orient": "an X-ray image is not reoriented",
}


def _subsets(text: str) -> tuple[int, ...]:
    """Return the LUNA16 subsets of a list such as `0-6` or `0,3,8-9`, each once, in order."""
    subsets: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not (first.isdecimal() and (not dash or last.isdecimal())):
            raise click.BadParameter(
                f"{text!r} is invalid: it must be a list of subsets such as 0-6 or 0,3,8-9."
            )
        low, high = int(first), int(last if dash else first)
        if not low <= high <= 9:
            raise click.BadParameter(
                f"{text!r} is invalid: LUNA16's subsets are 0 to 9, and a range must go up, such as 0-6."
            )
        subsets.update(range(low, high + 1))
    return tuple(sorted(subsets))


@click.command(cls=options.Resumable, short_help="Extract cubes from scans or X-ray images.")
@click.argument("source", type=options.scans)
@click.argument("cubes", type=options.path)
@options.grouped(
    "Scans",
    options.option(
        "--layout",
        "Organisation of SOURCE. luna16: subset0 .. subset9; files: DICOM, .mhd, .mha, .nii, .nii.gz, "
        ".nrrd in any folders; nih: NIH ChestX-ray14; images: X-rays as PNG, JPEG or DICOM in any folders.",
        ["auto", "luna16", "files", "nih", "images"],
        "auto",
    ),
    options.option(
        "--subsets",
        "LUNA16 subsets to use; 7-9 are reserved for testing. [default: 0-6]",
        _subsets,
        metavar="LIST",
    ),
    options.option(
        "--split", "Official NIH list of images to use. [default: train_val]", ["train_val", "test", "all"]
    ),
    options.split_file_option,
    options.option(
        "--part",
        "Process only part K of N of the scans, such as 1/8, in an array job; join the "
        "stores with genesis-prep merge afterwards.",
        metavar="K/N",
    ),
    options.option(
        "--strict", "Stop at the first scan that fails instead of reporting it and continuing.", bool
    ),
)
@options.rule_options
@options.grouped(
    "Cubes",
    options.option(
        "--cubes-per-scan",
        "Number of cubes per scan, or crops per X-ray image. [default: 32; images: the whole image, resized]",
        int,
    ),
    options.option(
        "--sampler",
        "How to draw cubes; official repeats the random draws of the original Models Genesis program.",
        ["uniform", "official"],
        "uniform",
    ),
    options.option("--seed", "Random seed for drawing cubes. [default: 0; official: 1]", int),
    options.option(
        "--spacing",
        "Resample scans to this voxel spacing in mm before cutting.",
        options.Listed("X,Y,Z", float, "lengths in mm"),
    ),
    options.option("--orient", "Reorient scans to these axes, such as LPS, before cutting.", metavar="AXES"),
    options.option(
        "--anonymize",
        "Replace identifiers and paths with hashes made with the key in KEYFILE, which is "
        "created if missing.",
        options.path,
        metavar="KEYFILE",
    ),
)
@options.card_options
@options.work_options("Number of scans to process in parallel. [default: one per core]")
def extract_cubes(source: Path, cubes: Path, dry_run: bool, **given: Any) -> None:
    """Cut cubes from the scans in SOURCE, a folder or a single file, into the cube store CUBES.

    A scan must have at least 265 x 265 x 96 voxels unless you lower --border or --size. If --size has two
    numbers, the command cuts slices. X-ray images (--layout nih or images) are used whole, resized to
    224 x 224 pixels or --size. Run the same command again to resume. On a finished store it repairs damaged
    files and adds new scans from SOURCE; otherwise it does nothing, but it still updates the card if you give
    facts for it.

    \b
    Examples:
      genesis-prep extract-cubes LUNA16 cubes.zarr
      genesis-prep extract-cubes ChestX-ray14 xray.zarr
    """
    from genesis_toolkit.cli.cautions import cautions_of_size
    from genesis_toolkit.pipeline.describe.publish import Publication, publish

    facts = [field.name for field in fields(Publication)]
    said = {name: text for name in facts if (text := given.pop(name)) is not None}
    publication = Publication(**said)  # a text that is too long is refused before anything is cut
    parameters = _parameters(source, options.given_options())
    output.say(*cautions_of_size(parameters.size), err=True)
    work = options.work_of(given, dry_run, "anonymize", "split_file", "part")
    if dry_run:
        from genesis_toolkit.pipeline.cubes.estimate import plan_extraction

        with Bars() as progress:
            plan = plan_extraction(source, cubes, parameters, report=progress, **work)
        if not work["split_file"]:
            _say_left_out(plan, parameters)
        output.show_plan(cubes, asdict(plan), _plan_rows(plan, _noun(parameters)))
        _say_next(plan, source, cubes, parameters)
        return
    result = gt.extract_cubes(source, cubes, parameters, strict=given["strict"], progress=True, **work)
    if said:
        publish(cubes, publication)
    if not (result.done_before or work["split_file"]):
        _say_left_out(result.found, parameters)
    _show(result, cubes, parameters)


def _parameters(source: Path, given: dict[str, Any]) -> "Parameters":
    """Return the parameters for what was typed and the layout of SOURCE; refuse options that do not apply."""
    from genesis_toolkit.pipeline.scans.find import layout_of

    own = {"layout", "size", "cubes_per_scan", "seed", "split", *_OF_SCANS}
    typed = {name: value for name, value in given.items() if name in own}
    for name in {"subsets", "split"} & typed.keys() if "split_file" in given else ():
        raise gt.CallError(f"--split-file replaces {option_name(name)}: omit one of the two options.")
    if typed.get("layout", "auto") == "auto":
        typed["layout"] = "nih" if layout_of(source) == "nih" else "auto"
    options.check_one_window(typed)
    if typed["layout"] not in ("nih", "images"):
        if "split" in typed:
            raise gt.CallError(
                "--split selects among the lists of NIH ChestX-ray14, but these are CT "
                "scans: omit --split; select LUNA16's subsets with --subsets."
            )
        return gt.ExtractParameters(**typed)
    for name, why in _OF_SCANS.items():
        if name in typed:
            raise gt.CallError(f"{option_name(name)} is for CT scans; {why}: omit the option.")
    return gt.ImageParameters(**typed)


def _show(result: "gt.ExtractionResult", cubes: Path, parameters: "Parameters") -> None:
    """Print the result of an extraction; exit with code 1 if a scan failed."""
    from genesis_toolkit.cli.cautions import cautions_of_cubes
    from genesis_toolkit.pipeline.describe.facts import contents_of, without_tissue, without_tissue_words

    found = result.found
    if "anonymized_with" in result.store.attributes["parameters"]:  # then the table holds no names
        for outcome in result.unused[: output.MOST_ROWS]:
            words = output.fitted(f"{outcome.path}: {outcome.status}, {outcome.reason}", err=True)
            click.echo(words, err=True)  # with --json too
        if len(result.unused) > output.MOST_ROWS:
            more = len(result.unused) - output.MOST_ROWS
            click.echo(f"... and {more:,} more that gave no cube.", err=True)
    if not result.done_before:
        output.say(*found.said, err=True)
    names = ("identifier", "subset", "path", "shape", "status", "cubes", "reason")
    columns = (getattr(result.store.scans, name).tolist() for name in names)
    rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    failed = sum(row["status"] == "failed" for row in rows)
    facts: dict[str, Any] = {"done_before": result.done_before, "taken_in": result.taken_in}
    facts |= {"repaired": result.repaired, "cubes": len(result.store), "failed": failed}
    air = without_tissue(contents_of(result.store))
    facts |= {"without_tissue": air}
    facts |= {"passed_over": found.passed_over, "other_list": found.other_list, "absent": found.absent}
    facts["beside"] = dict(found.beside)
    output.print_json(facts | {"scans": rows}, cubes)
    noun = _noun(parameters)
    name_of = _naming(found)
    _show_scans(rows, noun, cubes, name_of)
    word = output.said_of(result.done_before, result.repaired)
    if result.taken_in:
        word += f"; {counted(result.taken_in, noun)} added"
    used = sum(row["status"] == "used" for row in rows)
    counts = {"skipped": len(rows) - used - failed, "could not be read": failed}
    others = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    rest = f" ({others})" if others else ""
    of = f"{used:,} of {counted(len(rows), noun)}"
    output.say(f"{cubes}: {counted(len(result.store), 'cube')} from {of}{rest}{word}.")
    _say_what_would_fit(result.store, rows)
    air = [one | {"scan": name_of(one["path"])} for one in air]
    output.say(*filter(None, [without_tissue_words(air, len(result.store))]))
    if part := result.store.attributes["parameters"].get("part"):
        output.say(f"This is part {part}: join the stores of all parts with genesis-prep merge.", err=True)
        output.say_next("genesis-prep merge --help")
    else:
        output.say(*cautions_of_cubes(result.store), err=True)
        output.say_next(*after_store(cubes, result.store))
    if failed:
        raise SystemExit(BAD_DATA)


def _noun(parameters: "Parameters") -> str:
    """Return the noun for what is cut."""
    return "image" if isinstance(parameters, gt.ImageParameters) else "scan"


def _plan_rows(plan: "ExtractionPlan", noun: str) -> list[list[str]]:
    """Return the estimate of an extraction as rows of two cells; `noun` is the noun for a source."""
    looked = "" if plan.headers == plan.scans else f" of {plan.headers:,} examined"
    none = f"none of the {noun}s tried gives a cube"
    none += ": genesis-prep explain SCAN shows why" if noun == "scan" else ""
    rows = [
        (plan.known, f"{noun}s already in the store", f"{plan.known:,}"),
        (True, f"{noun}s to examine", f"{plan.scans:,}, {output.size_of(plan.bytes)}"),
        (plan.set_aside, "skipped or unusable", f"{plan.set_aside:,}"),
        (plan.small, "too small", f"{plan.small:,}{looked}"),
        (plan.unreadable, "unreadable", f"{plan.unreadable:,}{looked}"),
        (True, "cubes, at most", f"{plan.cubes:,}"),
    ]
    shown = [*([name, text] for said, name, text in rows if said), *output.estimate_rows(plan, none)]
    if plan.example_without_tissue:
        from genesis_toolkit.pipeline.describe.facts import LEAST_TISSUE

        of = f"{plan.example_without_tissue:,} of {plan.example_cubes:,} "
        of += f"in {output.shortened(plan.example)} (air only); --min-tissue {LEAST_TISSUE:g} excludes them"
        shown.append(["cubes without tissue", of])
    return shown


def _say_next(plan: "ExtractionPlan", source: Path, cubes: Path, parameters: "Parameters") -> None:
    """Print the next command after a dry run; none if images give nothing, which the tables explain."""
    given = options.given_options()
    if plan.store_bytes is not None:
        output.say_the_same_without("--dry-run")
    elif plan.known:
        output.say_next(*after_store(cubes, gt.open_store(cubes)))
    elif plan.tried and parameters.layout != "nih" and not given.keys() & {"spacing", "orient"}:
        output.say_next(*explanation(source, plan.tried, given))


def _say_left_out(found: "gt.Found | ExtractionPlan", parameters: "Parameters") -> None:
    """Report what a source holds but was not used, and what it lacks; nothing if it is complete."""
    echo, split = partial(click.echo, err=True), getattr(parameters, "split", "")
    if found.passed_over:
        echo(
            f"Subset {', '.join(map(str, found.passed_over))} not used: 7-9 are the test set "
            "of the nodule task, and pre-training on a test set leaks information. Choose "
            "other subsets with --subsets."
        )
    if found.other_list and split == "train_val":
        echo(
            f"{counted(found.other_list, 'image')} of the test list not used: pre-training on "
            "a test set leaks information. Choose another list with --split."
        )
    if split == "all":
        echo(
            "The images of NIH's test list are included, and pre-training on a test set "
            "leaks information. Exclude them with --split train_val."
        )
    if found.absent:
        of = "the table" if split == "all" else f"the {split.replace('_', '-')} list"
        echo(
            f"{counted(found.absent, 'image')} of {of} not found, perhaps because the "
            "download was partial: run the same command again to add them later."
        )


def _say_what_would_fit(store: "gt.CubeStore", rows: list[dict[str, Any]]) -> None:
    """Say once how to use scans that were too small or too dense."""
    reasons = [row["reason"] for row in rows if row["status"] == "skipped"]
    asked = store.attributes["parameters"]
    if any("needed" in reason for reason in reasons) and "border" not in asked:
        output.say("A smaller --size accepts smaller images; without --cubes-per-scan every image fits.")
    elif any("needed" in reason for reason in reasons):
        size, border = tuple(asked["size"]), tuple(asked["border"])
        least = gt.CubeRule(size, border, asked["max_tissue"], plane=asked.get("plane")).least_shape
        output.say(
            f"With --border {','.join(map(str, border))} a scan needs {output.edges(least)} voxels; a "
            "smaller --border or --size accepts smaller scans."
        )
    if any("tissue score" in reason for reason in reasons):
        what = "scans with less lung" if asked.get("plane") else "denser scans"
        output.say(f"A larger --max-tissue accepts {what}; the rule is meant for lungs.")


def _naming(found: "gt.Found") -> Callable[[str], str]:
    """Return a function that names a scan by its path for people: never `.`, and short on a terminal."""
    from genesis_toolkit.pipeline.scans.files import named

    names, root = found.names() if output.is_terminal() else {}, found.root.resolve()
    return lambda path: names.get(path) or named(path, root / path)


def _show_scans(rows: list[dict[str, Any]], noun: str, store: Path, name_of: Callable[[str], str]) -> None:
    """Print the outcome of every scan, with subsets for LUNA16."""
    from genesis_toolkit.pipeline.scans.gather import SAME

    cells, of_subsets = [], any(row["subset"] >= 0 for row in rows)
    for row in rows:
        shape = output.edges(row["shape"][: 2 if noun == "image" else 3]) if any(row["shape"]) else "-"
        cell = {noun: output.shortened(name_of(row["path"]))} | (
            {"subset": row["subset"]} if of_subsets else {}
        )
        cell |= {"shape": shape} | {one: row[one] for one in ("status", "cubes", "reason")}
        if row["reason"].startswith(SAME):
            cell["reason"] = SAME + name_of(row["reason"].removeprefix(SAME))
        cells.append(cell)
    output.show_scans(cells, noun, store)
