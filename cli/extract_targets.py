"""`genesis-prep extract-targets`: cut labelled cubes for the target tasks."""

import csv
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import genesis_toolkit as gt
from genesis_toolkit.cli import options, output
from genesis_toolkit.cli.errors import BAD_DATA
from genesis_toolkit.cli.further import after_store
from genesis_toolkit.pipeline.wording import counted
from genesis_toolkit.training.machine.options import option as option_name

if TYPE_CHECKING:
    from genesis_toolkit.pipeline.targets.parameters import TargetParameters

_COMMON = {"task", "workers", "scheduler", "dry_run", "overwrite", "source", "targets", "split_file"}


def _columns(text: str) -> tuple[str, ...]:
    """Split a list at its commas; a column name with a comma must be in double quotes (CSV rules)."""
    return tuple(column.strip() for column in next(csv.reader([text]), []))


def _negatives(text: str) -> int | None:
    """Return a whole number, or None for `all`."""
    try:
        return None if text == "all" else int(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is invalid: it must be a number per nodule, such as 10, or all."
        ) from None


@click.command(cls=options.Resumable, short_help="Extract labelled cubes for a target task.")
@click.argument("source", type=options.scans)
@click.argument("targets", type=options.path)
@options.grouped(
    "Task",
    options.option(
        "--task",
        "Target task. ncc: nodule or not, from LUNA16's candidates; segment: scans and masks; dxc: NIH's "
        "findings; classify: labels from columns of a table.",
        ["ncc", "segment", "dxc", "classify"],
    ),
)
@options.grouped(
    "Cubes",
    options.option(
        "--size",
        "Size of a cube in voxels, or of an image in pixels. [default: 64,64,32; images: 224,224]",
        options.Listed("X,Y[,Z]"),
    ),
    options.option(
        "--hu",
        "CT only: range in HU to which voxel values are clipped. [default: -1000,1000]",
        options.Listed("LOW,HIGH"),
    ),
    options.option(
        "--window",
        "segment, classify: MR only: the two values or percentiles of a scan that become "
        "-1000 and 1000, such as p0.5,p99.5.",
        options.window_ends,
        metavar="LOW,HIGH",
    ),
    options.option(
        "--cubes-per-scan",
        "segment, classify: number of cubes per scan. [default: 32; classify: the whole scan, averaged "
        "down to --size]",
        int,
    ),
    options.option(
        "--negatives",
        "ncc: number of non-nodule candidates per nodule, or all. [default: 10]",
        _negatives,
        metavar="N",
    ),
    options.option(
        "--seed", "ncc, segment, classify: random seed for drawing candidates or cubes. [default: 0]", int
    ),
)
@options.grouped(
    "Labels and masks",
    options.option(
        "--label-table",
        "classify: CSV table with one row per scan or image, with a column that identifies "
        "the scan or image.",
        options.path,
        metavar="CSV",
    ),
    options.option(
        "--label-columns",
        "classify: label columns, such as A,B or 'Patient Age>60'; empty cells count as unknown.",
        _columns,
        metavar="A,B",
    ),
    options.option(
        "--masks",
        "segment: folder of the masks, named like their scans. [default: LUNA16's seg-lungs-LUNA16]",
        options.path,
        metavar="DIR",
    ),
    options.option(
        "--foreground",
        "segment: mask values that count as foreground, such as 1,2. [default: all but 0]",
        options.Listed("LIST"),
    ),
)
@options.grouped(
    "Scans",
    options.option(
        "--layout",
        "segment, classify: organisation of SOURCE; see extract-cubes --help. [default: auto]",
        ["auto", "luna16", "files", "nih", "images"],
    ),
    options.split_file_option,
)
@options.work_options("Number of scans to process in parallel. [default: one per core]")
def extract_targets(source: Path, targets: Path, task: str | None, dry_run: bool, **given: Any) -> None:
    """Cut labelled cubes for one task from SOURCE into the target store TARGETS.

    ncc: one cube around each of LUNA16's nodule candidates (candidates_V2.csv); subsets 0-4 are for training,
    5-6 for validation, 7-9 for testing. segment: cubes of scans with the matching cubes of their masks. dxc:
    NIH's X-ray images with the fourteen findings of their table, split by NIH's lists. classify (implied by
    --label-table): scans or X-ray images with labels from columns of any table. Run the same command again
    to resume.

    \b
    Examples:
      genesis-prep extract-targets LUNA16 nodules.zarr --task ncc
      genesis-prep extract-targets LUNA16 lungs.zarr --task segment
      genesis-prep extract-targets scans organs.zarr --task segment \\
        --masks masks --foreground 1,2
      genesis-prep extract-targets ChestX-ray14 findings.zarr --task dxc
      genesis-prep extract-targets ChestX-ray14 views.zarr \\
        --label-table ChestX-ray14/Data_Entry_2017_v2020.csv \\
        --label-columns "View Position,Patient Age>60"
    """
    parameters = _parameters(source, task, options.given_options())
    work = options.work_of(given, dry_run, "split_file")
    if dry_run:
        _show_estimate(source, targets, parameters, work)
        return
    result = gt.extract_targets(source, targets, parameters, **work, progress=True)
    facts = gt.describe_store(result.store)
    failed = sum(row["status"] != "skipped" for row in facts["not_used"])  # or has candidates outside it
    more = {"done_before": result.done_before, "left_out": list(result.said), "failed": failed}
    output.print_json(facts | more, targets)
    output.say(*result.said, *_lacks(facts), err=True)
    output.show_folds(facts)
    noun, scans, cubes = output.target_noun(facts), facts["scans"], counted(facts["cubes"], "labelled cube")
    output.show_not_used(facts["not_used"], noun, targets)
    of = f"{scans.get('used', 0):,} of {counted(sum(scans.values()), noun)}"
    output.say(f"{targets}: {cubes} from {of}{output.said_of(result.done_before)}.")
    output.say_next(*after_store(targets, result.store))
    if failed:
        raise SystemExit(BAD_DATA)


def _parameters(source: Path, task: str | None, given: dict[str, Any]) -> "TargetParameters":
    """Return the parameters of the task, from what was typed; refuse options of other tasks."""
    from genesis_toolkit.pipeline.scans.find import layout_of
    from genesis_toolkit.pipeline.targets.parameters import kind_of

    task = task or ("classify" if "label_table" in given else None)
    if task is None:
        raise gt.CallError(
            "Missing option '--task'. Give ncc, segment, dxc or classify, for example --task segment."
        )
    layout = given.get("layout", "auto")
    if layout == "auto" and task == "classify" and layout_of(source) == "nih":
        layout = given["layout"] = "nih"
    kind = kind_of(task, images=task == "dxc" or layout in ("nih", "images"))
    own = {field.name for field in fields(kind)} - {"classes"}
    typed = {name: value for name, value in given.items() if name not in _COMMON}
    options.check_one_window(typed)
    for name in typed:
        if name not in own:
            allowed = ", ".join(map(option_name, sorted(own)))
            raise gt.CallError(
                f"{option_name(name)} does not apply to --task {task}, which takes {allowed}: "
                "omit the option."
            )
    return kind(**typed)


def _show_estimate(source: Path, targets: Path, parameters: "TargetParameters", work: dict[str, Any]) -> None:
    """Print the result of a dry run."""
    from genesis_toolkit.pipeline.targets.extract import estimate_targets

    found = estimate_targets(source, targets, parameters, **work)
    facts = asdict(found) | {"size": parameters.size}
    output.say(*found.said, *_lacks(facts), err=True)
    output.show_folds(facts)
    noun = output.target_noun(facts)
    rows = [
        [f"{noun}s to cut", f"{found.scans:,}, {output.size_of(found.bytes)}"],
        ["skipped or unusable", f"{found.set_aside:,}"],
        ["cubes, at most", f"{found.cubes:,}"],
        *output.estimate_rows(found, f"none of the {noun}s tried gives a cube"),
    ]
    if found.finished:
        rows = [[f"{noun}s to cut", "none: the store is finished"]]
    output.show_plan(targets, facts, rows)
    if found.finished:
        output.say_next(*after_store(targets, gt.open_store(targets)))
    elif found.store_bytes is not None:
        output.say_the_same_without("--dry-run")


def _lacks(facts: dict[str, Any]) -> list[str]:
    """Return a sentence if a fold is empty, since training then cannot be evaluated."""
    empty = [name for name, fold in facts["folds"].items() if not fold["cubes"]]
    more = f"more {output.target_noun(facts)}s are needed to train and test"
    return [f"The fold {', '.join(empty)} has no cubes: {more}."] if empty else []
