"""`genesis-prep info`: show what a store contains."""

from pathlib import Path
from typing import Any

import click

import genesis_toolkit as gt
from genesis_toolkit.cli import options, output
from genesis_toolkit.cli.further import after_store
from genesis_toolkit.pipeline.ledger import SEAL
from genesis_toolkit.pipeline.wording import counted

_MOST_LABELS = 5
_SHOWN = {"task", "size", "hu"}  # parameters of a target store that have their own rows


@click.command(cls=options.Command, short_help="Show what a store contains.")
@click.argument("store", type=options.made_store)
@options.option(
    "--csv",
    "Also write the complete table of scans, used or not, to this file.",
    click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.csv",
)
@options.json_option
def info(store: Path | str, csv: Path | None) -> None:
    """Show what STORE contains, on one screen.

    \b
    Examples:
      genesis-prep info pairs.zarr
      genesis-prep info cubes.zarr --csv scans.csv
    """
    if csv and csv.suffix.lower() != ".csv":
        raise gt.CallError(f"--csv {csv}: the name of the table must end in .csv, such as scans.csv.")
    opened = gt.open_store(store)
    targets, facts = isinstance(opened, gt.TargetStore), gt.describe_store(opened)
    if csv:
        from genesis_toolkit.pipeline.describe.facts import scans_csv
        from genesis_toolkit.pipeline.ledger import write_whole

        write_whole(csv, scans_csv(opened.scans, opened.images).encode())
    output.print_json(facts)
    output.show_table(["what", "value"], _rows(facts))
    if targets:
        output.show_folds(facts)
    if "pairs" in facts:
        output.show_table(["combination", "pairs"], output.shares(facts["combinations"], facts["pairs"]))
    noun = output.target_noun(facts) if targets else "image" if "images" in facts else "scan"
    output.show_not_used(facts["not_used"], noun, store)
    used = facts["scans"].get("used", 0)
    if csv:
        output.say(f"Wrote the complete table of {noun}s to {csv}.")
    else:
        was = "was used is" if used == 1 else "were used are"
        output.say(f"{counted(used, noun)} that {was} not listed here; --csv FILE.csv writes all.")
    look = ("genesis-prep preview {} sheet.png", store)
    output.say_next(*(after_store(store, opened) if targets else look))


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the facts about a store of any kind."""
    from genesis_toolkit.pipeline.describe.facts import parameter_rows

    points = "voxels" if len(facts["size"]) == 3 else "pixels"
    rows = [("store", f"{facts['store']} ({facts['format']}, version {facts['version']})")]
    if "task" in facts:
        rows.append(("task", f"{facts['task']}, {', '.join(facts['classes'])}"))
    rows.append(("cubes", f"{facts['cubes']:,} of {output.edges(facts['size'])} {points}"))
    if "pairs" in facts:
        rows.append(("pairs", f"{facts['pairs']:,}, {facts['variants']} per cube"))
    rows.append(("window", "{} .. {} {}".format(*facts["window"], facts["unit"])))
    if "task" in facts:
        asked = {name: value for name, value in facts["parameters"].items() if name not in _SHOWN}
        return [*rows, (f"{output.target_noun(facts)}s", _statuses(facts)), *parameter_rows(asked)]
    ratio = facts["bytes_uncompressed"] / facts["bytes"]
    return [
        *rows,
        ("on disk", f"{facts['bytes'] / 2**20:,.1f} MiB, {ratio:.2f} times smaller than raw"),
        *(_image_rows(facts) if "images" in facts else _scan_rows(facts)),
        *parameter_rows(_shown_parameters(facts["parameters"])),
        *_run_rows(facts["run"]),
    ]


def _run_rows(run: dict[str, Any]) -> list[tuple[str, str]]:
    """Return when and with what a store was made; without its log's checksum and unknown values."""
    shown = {name: value for name, value in run.items() if name != SEAL and value is not None}
    times = [shown.pop(name, None) for name in ("started", "finished")]
    days = [str(time)[:19].replace("T", " ") for time in times if time]
    rows = [("made", f"{' to '.join(days)} UTC")] if days else []
    return [*rows, ("made with", ", ".join(f"{name} {value}" for name, value in shown.items()))]


def _statuses(facts: dict[str, Any]) -> str:
    return ", ".join(f"{count:,} {status}" for status, count in facts["scans"].items())


def _scan_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    least, most = facts["spacing_mm"]["least"], facts["spacing_mm"]["most"]
    ends = zip(least, most, strict=True)
    spacing = [f"{low:.3g}" if low == high else f"{low:.3g}-{high:.3g}" for low, high in ends]
    subsets = ", ".join(f"{subset}: {count:,}" for subset, count in facts["cubes_by_subset"].items())
    return [
        ("scans", _statuses(facts)),
        *([] if list(facts["cubes_by_subset"]) == ["none"] else [("cubes by subset", subsets)]),
        ("spacing x, y, z", f"{', '.join(spacing)} mm" if any(most) else "unknown"),
        ("tissue score", "{least:.3f} .. {most:.3f}, median {median:.3f}".format(**facts["tissue"])),
    ]


def _image_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    images = facts["images"]
    labels = list(images["labels"].items())
    shown = ", ".join(f"{name or 'unlabelled'}: {count:,}" for name, count in labels[:_MOST_LABELS])
    shown += f", and {len(labels) - _MOST_LABELS} more" if len(labels) > _MOST_LABELS else ""
    views = ", ".join(f"{name or 'unknown'}: {count:,}" for name, count in images["views"].items())
    return [
        ("X-ray images", _statuses(facts)),
        ("patients", f"{images['patients']:,}" if images["patients"] else "unknown"),
        ("views", views),
        ("labels", shown),
    ]


def _shown_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters for people: a recipe by its name and changes, a sha256 by its first digits."""
    from genesis_toolkit.pipeline.describe.facts import parameter_rows

    shown = {name: value[:12] if name.endswith("_sha256") else value for name, value in parameters.items()}
    if "recipe" in shown:
        named = gt.get_recipe(shown["recipe"]["name"]).to_json()
        changes = {name: value for name, value in shown["recipe"].items() if value != named[name]}
        words = ", ".join(f"{name} {value}" for name, value in parameter_rows(changes))
        shown["recipe"] = shown["recipe"]["name"] + (f" with {words}" if words else "")
    return shown
