"""`genesis-prep extract-targets`: labelled cubes for the target tasks, and what a target store holds."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genesis_toolkit.cli.errors import BAD_DATA
from genesis_toolkit.cli.options import Folder, Numbers, given_options, work_options
from genesis_toolkit.cli.output import counted, duration, shortened, show_table, size_of
from genesis_toolkit.cli.progress import Progress
from genesis_toolkit.cli.work import at_work

if TYPE_CHECKING:
    from genesis_toolkit.pipeline.targets.parameters import TargetParameters

_MOST_ROWS = 20
_SHOWN = {"task", "size", "hu"}  # of the parameters, in rows of their own
_COMMON = {"task", "workers", "scheduler", "dry_run", "overwrite", "as_json", "source", "targets"}


class _Negatives(click.ParamType[int | None]):
    """A whole number, or `all`, which is None."""

    name = "N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """The number."""
        if value == "all" or value is None:
            return None
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r}: a number for each nodule is wanted, as in 10, or all.", param, ctx)


@click.command(short_help="Scans -> labelled cubes.")
@click.argument("source", type=Folder())
@click.argument("targets", type=Folder())
@click.option(
    "--task",
    type=click.Choice(["ncc", "segment", "dxc"]),
    required=True,
    help="ncc: nodule or not, of LUNA16's candidates; segment: scans and masks; dxc: NIH's findings.",
)
@click.option(
    "--size",
    type=Numbers("X,Y[,Z]"),
    metavar="X,Y[,Z]",
    help="Edges of a cube in voxels, of an image in pixels. [default: 64,64,32; dxc: 224,224]",
)
@click.option(
    "--hu",
    type=Numbers("LOW,HIGH"),
    metavar="LOW,HIGH",
    help="HU window to clip to. [default: -1000,1000]",
)
@click.option(
    "--negatives",
    type=_Negatives(),
    help="ncc: candidates that are no nodule, for each that is; or all. [default: 10]",
)
@click.option(
    "--masks",
    type=Folder(),
    metavar="DIR",
    help="segment: masks, named as their scans. [default: LUNA16's seg-lungs-LUNA16]",
)
@click.option(
    "--labels",
    type=Numbers("LIST"),
    metavar="LIST",
    help="segment: values of a mask that are foreground, as in 1,2. [default: all but 0]",
)
@click.option("--cubes-per-scan", type=int, help="segment: cubes drawn in every scan. [default: 32]")
@click.option(
    "--layout",
    type=click.Choice(["auto", "luna16", "files"]),
    help="segment: how SOURCE is laid out, as for extract-cubes. [default: auto]",
)
@click.option("--seed", type=int, help="ncc, segment: another seed draws others. [default: 0]")
@work_options("Processes at work. [default: one a core]")
def extract_targets(
    source: Path,
    targets: Path,
    task: str,
    workers: int | None,
    scheduler: str | None,
    dry_run: bool,
    overwrite: bool,
    as_json: bool,
    **_: Any,
) -> None:
    """Cut labelled cubes of one task out of SOURCE into the target store TARGETS.

    ncc: a cube around each of LUNA16's nodule candidates (candidates_V2.csv), subsets 0-4 train, 5-6
    validate, 7-9 test. segment: cubes of scans with the same boxes of their masks. dxc: NIH's X-ray images
    with the fourteen findings of their table, split by NIH's lists. Interrupted, the same command goes on.

    \b
    Examples:
      genesis-prep extract-targets LUNA16 nodules.zarr --task ncc
      genesis-prep extract-targets LUNA16 lungs.zarr --task segment
      genesis-prep extract-targets scans organs.zarr --task segment --masks masks --labels 1,2
      genesis-prep extract-targets ChestX-ray14 findings.zarr --task dxc
    """
    from genesis_toolkit.pipeline.describe.facts import describe
    from genesis_toolkit.pipeline.targets.extract import extract_targets as extract

    parameters = _parameters(task, given_options())
    if dry_run:
        _show_estimate(source, targets, parameters, at_work(workers, scheduler), overwrite, as_json)
        return
    with Progress() as progress:
        result = extract(
            source,
            targets,
            parameters,
            workers=workers,
            scheduler=scheduler,
            overwrite=overwrite,
            report=progress,
        )
    facts = describe(result.store)
    failed = _failed(facts)
    if as_json:
        said = {"done_before": result.done_before, "left_out": list(result.said), "failed": len(failed)}
        click.echo(json.dumps(facts | said))
    else:
        for sentence in (*result.said, *_lacks(facts)):
            click.echo(sentence, err=True)
        _show_folds(facts)
        _show_unused(facts)
        word = "; it was finished before, nothing done" if result.done_before else ""
        of = f"{facts['scans'].get('used', 0)} of {counted(sum(facts['scans'].values()), _noun(facts))}"
        click.echo(f"{targets}: {counted(facts['cubes'], 'labelled cube')} of {of}{word}.")
        click.echo(f"Next: genesis-prep info {targets}")
    if failed:
        raise SystemExit(BAD_DATA)


def show_targets(store: Path | str, as_json: bool) -> None:
    """Say what a target store holds, as `genesis-prep info` does."""
    from genesis_toolkit.pipeline.describe.facts import describe
    from genesis_toolkit.pipeline.store.open import open_targets

    facts = describe(open_targets(store))
    if as_json:
        click.echo(json.dumps(facts))
        return
    asked = facts["parameters"].items()
    size, (low, high) = " x ".join(map(str, facts["size"])), facts["window"]
    rows = [
        ["store", f"{facts['store']} ({facts['format']}, version {facts['version']})"],
        ["task", f"{facts['task']}, {', '.join(facts['classes'])}"],
        ["cubes", f"{facts['cubes']:,} of {size} {'voxels' if len(facts['size']) == 3 else 'pixels'}"],
        ["window", f"{low} .. {high} {facts['unit']}"],
        [f"{_noun(facts)}s", ", ".join(f"{count} {status}" for status, count in facts["scans"].items())],
        *([name.replace("_", " "), _value(value)] for name, value in asked if name not in _SHOWN),
    ]
    show_table(["what", "value"], rows)
    _show_folds(facts)
    _show_unused(facts)
    click.echo(f"Next: genesis-train finetune {store} --out run")


def draw_target_sheet(store: Path | str, file: Path, rows: int) -> None:
    """Draw a contact sheet of a target store, as `genesis-prep preview` does.

    Raises:
        CallError: it is no file for a picture.
    """
    from genesis_toolkit.pipeline.errors import CallError
    from genesis_toolkit.pipeline.pictures.sheet import draw_sheet
    from genesis_toolkit.pipeline.store.open import open_targets

    if file.suffix.lower() == ".html":
        raise CallError(f"{file}: there are reports of cubes and pairs alone; give a name that ends in .png.")
    draw_sheet(open_targets(store), file, rows)
    click.echo(f"The contact sheet is {file}.")
    click.echo(f"Next: genesis-train finetune {store} --out run")


def _parameters(task: str, given: dict[str, Any]) -> "TargetParameters":
    """What is asked of the task, by what was typed.

    Raises:
        CallError: an option of another task was typed, or a value is out of range.
    """
    from dataclasses import fields

    from genesis_toolkit.pipeline.errors import CallError
    from genesis_toolkit.pipeline.targets.parameters import TASKS

    kind = TASKS[task]
    own = {field.name for field in fields(kind)}
    typed = {name: value for name, value in given.items() if name not in _COMMON}
    for name in typed:
        if name not in own:
            allowed = ", ".join(f"--{known.replace('_', '-')}" for known in sorted(own))
            raise CallError(
                f"--{name.replace('_', '-')} means nothing to --task {task}, which takes {allowed}: leave it "
                "out."
            )
    return kind(**typed)


def _show_estimate(
    source: Path,
    targets: Path,
    parameters: "TargetParameters",
    workers: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Say what a dry run comes to."""
    from genesis_toolkit.pipeline.targets.estimate import estimate_targets

    found = estimate_targets(source, targets, parameters, workers=workers, overwrite=overwrite)
    facts = asdict(found) | {"size": parameters.size}
    if as_json:
        click.echo(json.dumps(facts))
        return
    for sentence in (*found.said, *_lacks(facts)):
        click.echo(sentence, err=True)
    _show_folds(facts)
    noun = _noun(facts)
    store, time = f"no {noun} that was tried gives a cube", "-"
    if found.store_bytes is not None and found.seconds is not None:
        store = f"about {size_of(found.store_bytes)} in {counted(found.files, 'shard')}"
        time = f"about {duration(found.seconds)} with {counted(found.workers, 'worker')}"
        time += f" ({shortened(found.example)} took {found.example_seconds:.2f} s)"
    rows = [
        [f"{noun}s to cut", f"{found.scans:,}, {size_of(found.bytes)}"],
        ["unusable, or nothing wanted of them", f"{found.set_aside:,}"],
        ["cubes, at most", f"{found.cubes:,}"],
        ["store", store],
        ["time", time],
    ]
    if found.finished:
        rows = [[f"{noun}s to cut", "none: the store is finished"]]
    show_table(["a dry run: nothing was written", ""], rows)
    click.echo("Next: the same command without --dry-run.")


def _noun(facts: dict[str, Any]) -> str:
    return "scan" if len(facts["size"]) == 3 else "image"


def _failed(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """The scans that failed, or some of whose candidates lie outside them."""
    return [row for row in facts["not_used"] if row["status"] != "skipped"]


def _lacks(facts: dict[str, Any]) -> list[str]:
    """A sentence where a fold is empty, without which nothing can be told of a training."""
    empty = [name for name, fold in facts["folds"].items() if not fold["cubes"]]
    if not empty:
        return []
    return [f"No cube is in the fold {', '.join(empty)}: more {_noun(facts)}s are needed to train and test."]


def _show_folds(facts: dict[str, Any]) -> None:
    classes = next(iter(facts["folds"].values()))["classes"]
    if len(classes) > 1:  # one row a class, since fourteen columns have no room
        rows = [[one, *(f"{fold['classes'][one]:,}" for fold in facts["folds"].values())] for one in classes]
        rows.insert(0, ["all images", *(f"{fold['cubes']:,}" for fold in facts["folds"].values())])
        show_table(["images with", *facts["folds"]], rows)
        return
    rows = [
        [name, f"{fold['scans']:,}", f"{fold['cubes']:,}", *(f"{n:,}" for n in fold["classes"].values())]
        for name, fold in facts["folds"].items()
    ]
    show_table(["fold", f"{_noun(facts)}s", "cubes", *(f"with {one}" for one in classes)], rows)


def _show_unused(facts: dict[str, Any]) -> None:
    """Scans that failed first, then those passed over."""
    rows = sorted(facts["not_used"], key=lambda row: row["status"] == "skipped")
    if rows:
        cells = [[shortened(row["path"]), row["status"], row["reason"]] for row in rows[:_MOST_ROWS]]
        show_table([_noun(facts), "status", "reason"], cells)
    if len(rows) > _MOST_ROWS:
        click.echo(f"... and {len(rows) - _MOST_ROWS:,} more; --json lists all.")


def _value(value: Any) -> str:
    if value is None:
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
