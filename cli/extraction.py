"""What `genesis-prep extract-cubes` is asked, and what it says of scans and images."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genesis_toolkit.cli.errors import BAD_DATA
from genesis_toolkit.cli.output import counted, duration, shortened, show_table, size_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from genesis_toolkit.pipeline.cubes.estimate import ExtractionPlan
    from genesis_toolkit.pipeline.cubes.extract import ExtractionResult
    from genesis_toolkit.pipeline.cubes.parameters import Parameters
    from genesis_toolkit.pipeline.cubes.records import Outcome
    from genesis_toolkit.pipeline.scans.find import Found
    from genesis_toolkit.pipeline.store.open import CubeStore

_MOST_ROWS = 20

#: Options that X-ray images have no use for, and why.
_OF_SCANS = {
    "subsets": "NIH's images are chosen with --split",
    "plane": "an X-ray image is one picture as it is",
    "hu": "NIH's images are stored as grey levels 0..255",
    "border": "an X-ray image is taken up to its edge",
    "max_tissue": "grey levels do not tell tissue",
    "min_tissue": "grey levels do not tell tissue",
    "sampler": "crops of X-ray images are drawn uniformly",
    "spacing": "NIH's images are resized to --size",
    "orient": "an X-ray image has no axes to turn",
}


def parameters_of(source: Path, given: dict[str, Any]) -> "Parameters":
    """What is to be cut, by what was typed and how SOURCE is laid out.

    Raises:
        CallError: an option of the other kind of source was typed, or a value is out of range.
    """
    from genesis_toolkit.pipeline.cubes.parameters import ExtractParameters, ImageParameters
    from genesis_toolkit.pipeline.errors import CallError
    from genesis_toolkit.pipeline.scans.find import layout_of

    own = {"layout", "size", "cubes_per_scan", "seed", "split", *_OF_SCANS}
    typed = {name: value for name, value in given.items() if name in own}
    if typed.get("layout", "auto") == "auto":
        typed["layout"] = "nih" if layout_of(source) == "nih" else "auto"
    if typed["layout"] != "nih":
        if "split" in typed:
            raise CallError(
                "--split chooses among the lists of NIH ChestX-ray14, and these are CT scans: leave it out; "
                "LUNA16's subsets are chosen with --subsets."
            )
        return ExtractParameters(**typed)
    for name, why in _OF_SCANS.items():
        if name in typed:
            raise CallError(f"--{name.replace('_', '-')} is for CT scans; {why}: leave it out.")
    return ImageParameters(**typed)


def show_extraction(result: "ExtractionResult", cubes: Path, parameters: "Parameters", as_json: bool) -> None:
    """Say what came of an extraction; ends with exit code 1 where a scan failed."""
    found = result.found
    if not result.done_before:
        say_left_out(found, parameters)
    if "anonymized_with" in result.store.attributes["parameters"]:
        _say_unused(result.unused)
    rows = _scan_rows(result.store)
    failed = sum(row["status"] == "failed" for row in rows)
    if as_json:
        facts = {"store": str(cubes), "done_before": result.done_before, "taken_in": result.taken_in}
        facts |= {"repaired": result.repaired, "cubes": len(result.store), "failed": failed}
        facts |= {"passed_over": found.passed_over, "other_list": found.other_list, "absent": found.absent}
        click.echo(json.dumps(facts | {"scans": rows}))
    else:
        noun = noun_of(parameters)
        _show_scans(rows, noun)
        word = said_of(result.done_before, result.repaired)
        if result.taken_in:
            word += f"; {counted(result.taken_in, noun)} taken in behind what was there"
        used = sum(row["status"] == "used" for row in rows)
        others = [f"{count} {what}" for what, count in _not_used(rows).items() if count]
        rest = f" ({', '.join(others)})" if others else ""
        of = f"{used} of {counted(len(rows), noun)}"
        click.echo(f"{cubes}: {counted(len(result.store), 'cube')} of {of}{rest}{word}.")
        _say_what_would_fit(result.store, rows)
        click.echo(f"Next: genesis-prep degrade {cubes} pairs.zarr")
    if failed:
        raise SystemExit(BAD_DATA)


def noun_of(parameters: "Parameters") -> str:
    """What is cut, in a word."""
    return "image" if parameters.layout == "nih" else "scan"


def extraction_rows(plan: "ExtractionPlan", noun: str) -> list[list[str]]:
    """What an extraction would come to, as rows of two cells; `noun` is what is cut."""
    known = [[f"{noun}s in the store already", f"{plan.known:,}"]] if plan.known else []
    aside = [["passed over or unusable", f"{plan.set_aside:,}"]] if plan.set_aside else []
    looked = "" if plan.headers == plan.scans else f" of {plan.headers:,} looked at"
    unfit = [["too small or unreadable", f"{plan.unfit:,}{looked}"]] if plan.unfit else []
    store = f"no {noun} that was tried gives a cube"
    store += ": genesis-prep explain SCAN says why" if noun == "scan" else ""
    time = "-"
    if plan.store_bytes is not None and plan.seconds is not None and plan.example_seconds is not None:
        store = f"about {size_of(plan.store_bytes)} in {counted(plan.files, 'shard')}"
        time = f"about {duration(plan.seconds)} with {counted(plan.workers, 'worker')}"
        time += f" ({shortened(plan.example)} took {plan.example_seconds:.2f} s)"
    return [
        *known,
        [f"{noun}s to cut", f"{plan.scans:,}, {size_of(plan.bytes)}"],
        *aside,
        *unfit,
        ["cubes, at most", f"{plan.cubes:,}"],
        ["store", store],
        ["time", time],
    ]


def say_left_out(found: "Found | ExtractionPlan", parameters: "Parameters") -> None:
    """What a source holds and was not asked for, and what it lacks; nothing where it is all there."""
    said = []
    if found.passed_over:
        said.append(
            f"Subset {', '.join(map(str, found.passed_over))} not taken: 7-9 are the test set of the nodule "
            "task, and pre-training on a test set leaks. Choose with --subsets."
        )
    split = getattr(parameters, "split", "")
    if found.other_list and split == "train_val":
        said.append(
            f"{counted(found.other_list, 'image')} of the test list not taken: pre-training on a test set "
            "leaks. Choose with --split."
        )
    if split == "all":
        said.append(
            "NIH's test list is not kept apart: its images are among these, and pre-training on a test set "
            "leaks. --split train_val leaves them out."
        )
    if found.absent:
        of = "the table" if split == "all" else f"the {split.replace('_', '-')} list"
        said.append(
            f"{counted(found.absent, 'image')} of {of} not there, as in a part of the download: the same "
            "command takes them in once they are."
        )
    for sentence in said:
        click.echo(sentence, err=True)


def _say_unused(unused: "Sequence[Outcome]") -> None:
    """The scans that gave no cube, by their own names, which a store of pseudonyms does not tell."""
    for outcome in unused[:_MOST_ROWS]:
        click.echo(f"{outcome.path}: {outcome.status}, {outcome.reason}", err=True)
    if len(unused) > _MOST_ROWS:
        click.echo(f"... and {len(unused) - _MOST_ROWS} more that gave no cube.", err=True)


def _scan_rows(store: "CubeStore") -> list[dict[str, Any]]:
    scans = store.scans
    return [
        {
            "identifier": str(scans.identifier[row]),
            "subset": int(scans.subset[row]),
            "path": str(scans.path[row]),
            "shape": scans.shape[row].tolist(),
            "status": str(scans.status[row]),
            "cubes": int(scans.cubes[row]),
            "reason": str(scans.reason[row]),
        }
        for row in range(len(scans))
    ]


def _say_what_would_fit(store: "CubeStore", rows: list[dict[str, Any]]) -> None:
    """The way out for scans that were too small or too dense, once for all of them."""
    from genesis_toolkit.pipeline.cubes.rule import CubeRule

    reasons = [row["reason"] for row in rows if row["status"] == "skipped"]
    asked = store.attributes["parameters"]
    if any("needed" in reason for reason in reasons) and "border" not in asked:
        click.echo("A smaller --size takes smaller images, and without --cubes-per-scan any is taken whole.")
    elif any("needed" in reason for reason in reasons):
        size, edges = tuple(asked["size"]), tuple(asked["border"])
        least = CubeRule(size, edges, asked["max_tissue"], plane=asked.get("plane")).least_shape
        border = ",".join(map(str, asked["border"]))
        click.echo(
            f"With --border {border} a scan needs {' x '.join(map(str, least))} voxels; a smaller --border "
            "or --size takes smaller scans."
        )
    if any("tissue score" in reason for reason in reasons):
        what = "scans with less lung" if asked.get("plane") else "denser scans"
        click.echo(f"A larger --max-tissue takes {what}; the rule is meant for lungs.")


def _not_used(rows: list[dict[str, Any]]) -> dict[str, int]:
    """How many scans gave nothing, by why."""
    statuses = [row["status"] for row in rows]
    return {"skipped": statuses.count("skipped"), "could not be read": statuses.count("failed")}


def _show_scans(rows: list[dict[str, Any]], noun: str) -> None:
    """All scans where they are few, else only those that gave nothing."""
    shown = rows if len(rows) <= _MOST_ROWS else [row for row in rows if row["status"] != "used"]
    if shown:
        edges = 2 if noun == "image" else 3
        cells = [
            [
                shortened(row["path"]),
                " x ".join(map(str, row["shape"][:edges])) if any(row["shape"]) else "-",
                row["status"],
                row["cubes"],
                row["reason"],
            ]
            for row in shown[:_MOST_ROWS]
        ]
        show_table([noun, "shape", "status", "cubes", "reason"], cells)
    if len(shown) > _MOST_ROWS:
        click.echo(f"... and {len(shown) - _MOST_ROWS} more {noun}s that gave no cube; --json lists all.")


def said_of(done_before: bool, repaired: int) -> str:
    """What a command did with a store that was finished already, to go after its counts."""
    if repaired:
        return f"; {counted(repaired, 'damaged file')} made again"
    return "; it was finished before, nothing done" if done_before else ""
