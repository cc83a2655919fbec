"""`genesis-prep verify`: check that a store is unchanged since it was made."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

import genesis_toolkit as gt
from genesis_toolkit.cli import options, output
from genesis_toolkit.cli.errors import BAD_DATA
from genesis_toolkit.pipeline.wording import counted


@click.command(cls=options.Command, short_help="Check a store for damage.")
@click.argument("store", type=options.made_store)
@options.option(
    "--source",
    "Also compare the store with its original scans, which are in DIR.",
    options.path,
    metavar="DIR",
)
@options.option(
    "--cubes",
    "With --source: number of random cubes to cut again and compare. [default: 32]",
    click.IntRange(min=0),
    metavar="K",
)
@options.option(
    "--anonymize",
    "With --source: key file of a store made with --anonymize.",
    options.path,
    metavar="KEYFILE",
)
@options.option(
    "--replay",
    "Number of random cubes to degrade again and compare with the stored degraded copies.",
    click.IntRange(min=0),
    0,
    metavar="K",
)
@options.json_option
def verify(store: Path | str, cubes: int | None, replay: int, **given: Any) -> None:
    """Check STORE for damage: every file, every cube and every row of its tables.

    Exit code 0 means that the store is sound; 1 means that it is damaged, and every finding is listed. To
    repair a store from extract-cubes or degrade, run its original command again; only the damaged files are
    rewritten. Rebuild a damaged target store with --overwrite.

    \b
    Example:
      genesis-prep verify pairs.zarr --replay 100
    """
    from genesis_toolkit.pipeline.cubes.repair import write_note

    if given["source"] is None and (cubes is not None or given["anonymize"] is not None):
        raise click.UsageError("--cubes and --anonymize need --source DIR, the scans to compare with.")
    given |= {} if cubes is None else {"cubes": cubes}
    found = gt.verify_store(store, **given, pairs=replay, progress=True)
    mended = isinstance(store, Path) and store.is_dir() and found.maker != "extract-targets"
    note = write_note(Path(store), found.damaged) if mended else None
    output.print_json(_facts(found, note), found.place)
    _show(found, note)
    if found.findings:
        raise SystemExit(BAD_DATA)


def _facts(found: "gt.Verification", note: Path | None) -> dict[str, Any]:
    facts = {"sound": not found.findings, **asdict(found)}
    del facts["place"]
    facts["findings"] = [
        {"name": one.name, "what": one.what} | ({one.counted: list(one.rows)} if one.rows else {})
        for one in found.findings
    ]
    return facts | {"note": str(note) if note else None}


def _show(found: "gt.Verification", note: Path | None) -> None:
    rows = [
        [one.name, f"{one.counted} {one.rows[0]}-{one.rows[1]}" if one.rows else "", one.what]
        for one in found.findings
    ]
    if rows:
        output.show_table(["file or table", "rows", "problem"], rows)
    counts = [(found.cubes, "cube"), (found.pairs, "pair")]
    held = [counted(number, what) for number, what in counts if number]
    read = [counted(found.files, "file"), output.size_of(found.bytes), *held]
    verdict = f"damaged: {counted(len(rows), 'finding')}" if rows else "sound"
    output.say(f"{found.place} is {verdict} ({', '.join(read)}).")
    if found.scans:
        again = counted(found.cut_again, "cube")
        output.say(f"Compared with the sha256 of {counted(found.scans, 'scan')}; {again} cut again.")
    if found.replayed:
        output.say(f"Degraded again and compared: {counted(found.replayed, 'pair')}.")
    for what in found.left_out:
        output.say(f"Not checked: {what}.")
    if found.damaged and found.maker in ("import-npy", "extract-targets"):
        output.say(f"To repair the store, run genesis-prep {found.maker} again with --overwrite.", err=True)
    elif note:
        output.say(
            f"To repair the store, run the same genesis-prep {found.maker} command again. "
            f"Only the damaged files, listed in {note.name} next to the store, are rewritten.",
            err=True,
        )
    elif found.damaged and Path(found.place).is_dir():
        output.say(
            "The list of damaged files could not be written next to the store. Delete the damaged files, and "
            "the command that made the store will rewrite them."
        )
