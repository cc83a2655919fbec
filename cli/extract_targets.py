"""`genesis-prep extract-targets`: labelled cubes for the target tasks."""

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


def _negatives(text: str) -> int | None:
    """A whole number, or None for `all`."""
    try:
        return None if text == "all" else int(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} must be a number for each nodule, as in 10, or all.") from None


@click.command(cls=options.Resumable, short_help="Scans -> labelled cubes.")
@click.argument("source", type=options.scans)
@click.argument("targets", type=options.path)
@options.option(
    "--task",
    "ncc: nodule or not, of LUNA16's candidates; segment: scans and masks; dxc: NIH's findings.",
    ["ncc", "segment", "dxc"],
    required=True,
)
@options.option(
    "--size",
    "Edges of a cube in voxels, of an image in pixels. [default: 64,64,32; dxc: 224,224]",
    options.Listed("X,Y[,Z]"),
)
@options.option("--hu", "HU window to clip to. [default: -1000,1000]", options.Listed("LOW,HIGH"))
@options.option(
    "--negatives",
    "ncc: candidates that are no nodule, for each that is; or all. [default: 10]",
    _negatives,
    metavar="N",
)
@options.option(
    "--masks",
    "segment: masks, named as their scans. [default: LUNA16's seg-lungs-LUNA16]",
    options.path,
    metavar="DIR",
)
@options.option(
    "--labels",
    "segment: values of a mask that are foreground, as in 1,2. [default: all but 0]",
    options.Listed("LIST"),
)
@options.option("--cubes-per-scan", "segment: cubes drawn in every scan. [default: 32]", int)
@options.option(
    "--layout",
    "segment: how SOURCE is laid out, as for extract-cubes. [default: auto]",
    ["auto", "luna16", "files"],
)
@options.option("--seed", "ncc, segment: another seed draws others. [default: 0]", int)
@options.split_file_option
@options.work_options("Scans at a time. [default: one a core]")
def extract_targets(source: Path, targets: Path, task: str, dry_run: bool, **given: Any) -> None:
    """Cut labelled cubes of one task out of SOURCE into the target store TARGETS.

    ncc: a cube around each of LUNA16's nodule candidates (candidates_V2.csv), subsets 0-4 train, 5-6
    validate, 7-9 test. segment: cubes of scans with the same boxes of their masks. dxc: NIH's X-ray images
    with the fourteen findings of their table, split by NIH's lists. Interrupted, the same command goes on.

    \b
    Examples:
      genesis-prep extract-targets LUNA16 nodules.zarr --task ncc
      genesis-prep extract-targets LUNA16 lungs.zarr --task segment
      genesis-prep extract-targets scans organs.zarr --task segment \\
        --masks masks --labels 1,2
      genesis-prep extract-targets ChestX-ray14 findings.zarr --task dxc
    """
    parameters = _parameters(task, options.given_options())
    work = options.work_of(given, dry_run, "split_file")
    if dry_run:
        _show_estimate(source, targets, parameters, work)
        return
    result = gt.extract_targets(source, targets, parameters, **work, progress=True)
    facts = gt.describe_store(result.store)
    failed = sum(row["status"] != "skipped" for row in facts["not_used"])  # or has candidates outside it
    told = {"done_before": result.done_before, "left_out": list(result.said), "failed": failed}
    output.print_json(facts | told, targets)
    output.say(*result.said, *_lacks(facts), err=True)
    output.show_folds(facts)
    noun, scans, cubes = output.target_noun(facts), facts["scans"], counted(facts["cubes"], "labelled cube")
    output.show_not_used(facts["not_used"], noun, targets)
    of = f"{scans.get('used', 0)} of {counted(sum(scans.values()), noun)}"
    output.say(f"{targets}: {cubes} of {of}{output.said_of(result.done_before)}.")
    output.say_next(*after_store(targets, result.store))
    if failed:
        raise SystemExit(BAD_DATA)


def _parameters(task: str, given: dict[str, Any]) -> "TargetParameters":
    """What is asked of the task, by what was typed; options of other tasks are refused."""
    from genesis_toolkit.pipeline.targets.parameters import TASKS

    kind = TASKS[task]
    own = {field.name for field in fields(kind)}
    typed = {name: value for name, value in given.items() if name not in _COMMON}
    for name in typed:
        if name not in own:
            allowed = ", ".join(map(option_name, sorted(own)))
            raise gt.CallError(
                f"{option_name(name)} means nothing to --task {task}, which takes {allowed}: leave it out."
            )
    return kind(**typed)


def _show_estimate(source: Path, targets: Path, parameters: "TargetParameters", work: dict[str, Any]) -> None:
    """Say what a dry run comes to."""
    from genesis_toolkit.pipeline.targets.extract import estimate_targets

    found = estimate_targets(source, targets, parameters, **work)
    facts = asdict(found) | {"size": parameters.size}
    output.say(*found.said, *_lacks(facts), err=True)
    output.show_folds(facts)
    noun = output.target_noun(facts)
    rows = [
        [f"{noun}s to cut", f"{found.scans:,}, {output.size_of(found.bytes)}"],
        ["unusable, or nothing wanted of them", f"{found.set_aside:,}"],
        ["cubes, at most", f"{found.cubes:,}"],
        *output.estimate_rows(found, f"no {noun} that was tried gives a cube"),
    ]
    if found.finished:
        rows = [[f"{noun}s to cut", "none: the store is finished"]]
    output.show_plan(targets, facts, rows)
    if found.finished:
        output.say_next(*after_store(targets, gt.open_store(targets)))
    elif found.store_bytes is not None:
        output.say_the_same_without("--dry-run")


def _lacks(facts: dict[str, Any]) -> list[str]:
    """A sentence where a fold is empty, without which nothing can be told of a training."""
    empty = [name for name, fold in facts["folds"].items() if not fold["cubes"]]
    more = f"more {output.target_noun(facts)}s are needed to train and test"
    return [f"No cube is in the fold {', '.join(empty)}: {more}."] if empty else []
