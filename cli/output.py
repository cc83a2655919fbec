"""Output of the commands: results on stdout, at most 80 columns wide; progress and the Next line on stderr.

With --json, `print_json` prints one object for programs and everything else here prints nothing; without it,
it is the other way round. So a command calls both, one after the other.
"""

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import genesis_toolkit as gt
from genesis_toolkit.pipeline.wording import counted, duration, wrapped
from genesis_toolkit.training.machine.options import option

if TYPE_CHECKING:
    from genesis_toolkit.pipeline.cubes.estimate import Estimate

WIDTH = 80
MOST_ROWS = 20
#: Key in a command's context that says whether --json was given.
AS_JSON = f"{__name__}.as_json"
#: Key in the program's context for the arguments after its name.
WORDS = f"{__name__}.words"
#: First words that are highlighted on a terminal, and their colours.
_WEIGHTS = {"Next": "green", "Warning": "yellow", "Error": "red", "Note": "cyan"}
_NAME = 24  # columns of a name on a terminal, next to four columns and a reason
_SHORTEST_NAME, _LONG_REASON = 14, 36  # columns: names are shortened to leave this much for a reason
_REASON = 16  # least columns of the last column next to unshortened names
_MOST_FAILED = 100
_MOST_ALIKE = 3  # skipped scans with one reason that are all listed; if there are more, two examples are
_EXAMPLES = 2
_NUMBER = re.compile(r"(\d+)")
_OTHER = re.compile(r"(?<=the same scan as ).*")  # a name, which does not count when reasons are grouped


def show_table(headings: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """Print a table on stdout; the last column takes the remaining width and wraps.

    If stdout is not a terminal, the table is as wide as its unshortened names need.
    """
    if is_json():
        return
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table

    if is_terminal() and headings[-1] == "reason":
        rows = _giving_way(headings, rows)
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    console = Console(highlight=False, markup=False)
    cells = [[str(cell) for cell in row] for row in rows]
    for number, heading in enumerate(headings):
        last = number + 1 == len(headings)
        widest = max(cell_len(line) for row in [headings, *cells] for line in row[number].split("\n"))
        if last:  # it wraps between words, and a name is a single word
            widest = max(
                len(word)
                for row in cells or [[""]]
                for word in ("x" * min(_REASON, widest), *row[-1].split())
            )
        least = None if is_terminal() else widest
        table.add_column(heading, overflow="fold", no_wrap=not last, min_width=least)
    for row in cells:
        table.add_row(*row)
    if is_terminal():
        console.width = min(WIDTH, console.width)
    else:
        console.width = 10_000  # while measuring; for a file rich assumes 80 columns
        console.width = max(WIDTH, console.measure(table).minimum)
    with console.capture() as drawn:  # where the reader has left, rich itself would end with exit code 1
        console.print(table)
    click.echo(drawn.get(), nl=False)


def _giving_way(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> list[list[object]]:
    """Shorten the first cell of each row, a name, to leave the last, a reason, its width where possible."""
    longest = [max(map(len, map(str, column))) for column in zip(headings, *rows, strict=True)]
    gaps = 3 * (len(headings) - 1)
    room = min(WIDTH, shutil.get_terminal_size().columns) - sum(longest[1:-1]) - gaps
    least = max(_SHORTEST_NAME, room - min(longest[-1], _LONG_REASON))
    names = [str(row[0]) for row in rows]
    widths = range(least, max(least, _NAME) + 1)
    # A little wider where different names would look alike.
    name = next((one for one in widths if len({shortened(n, one) for n in names}) == len(set(names))), least)
    return [[shortened(str(row[0]), name), *row[1:]] for row in rows]


def is_json() -> bool:
    """Return whether the running command was given --json."""
    context = click.get_current_context(silent=True)
    if context is None:
        return False
    # The command line shows it even if an invalid option comes first.
    return bool(context.meta.get(AS_JSON, "--json" in context.meta.get(WORDS, ())))


def is_terminal() -> bool:
    """Return whether stdout is a terminal."""
    return sys.stdout.isatty()


def show_list(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print the first of many rows, and how many more there are; nothing without rows."""
    if rows:
        show_table(headings, rows[:MOST_ROWS])
    if len(rows) > MOST_ROWS:
        say(f"... and {len(rows) - MOST_ROWS:,} more; --json lists all.")


def print_json(facts: Mapping[str, Any], store: object = None) -> None:
    """Print the result as one JSON object, which starts with the `store` it describes."""
    if is_json():
        click.echo(json.dumps(({} if store is None else {"store": str(store)}) | dict(facts)))


def say(*sentences: str, err: bool = False) -> None:
    """Print sentences for people, one per line, on stdout or stderr; on a terminal they wrap at words."""
    for sentence in sentences if not is_json() else ():
        click.echo(weighted(fitted(sentence, err)), err=err)


def say_next(line: str, *words: object) -> None:
    """Print the Next line on stderr: a command to paste, with `words`, quoted, in place of its `{}`."""
    if not is_json():  # never wrapped, so that it can be copied
        click.echo(weighted(f"Next: {line.format(*(shlex.quote(str(word)) for word in words))}"), err=True)


def say_the_same_without(flag: str) -> None:
    """Print the running command, as typed but without this flag, as the Next line."""
    root = click.get_current_context().find_root()
    words = [word for word in root.meta[WORDS] if word != flag]
    say_next(" ".join(["{}"] * (1 + len(words))), root.command.name, *words)


def weighted(sentence: str) -> str:
    """Highlight the first word of a sentence if it is a label; click drops the style off a terminal."""
    name, colon, rest = sentence.partition(":")
    if not colon or name not in _WEIGHTS:
        return sentence
    colour = None if os.environ.get("NO_COLOR") else _WEIGHTS[name]
    return click.style(name + colon, fg=colour, bold=True) + rest


def fitted(sentence: str, err: bool) -> str:
    """Wrap a sentence to the width of the terminal, if there is one, which would break within words."""
    if not (sys.stderr if err else sys.stdout).isatty():
        return sentence
    return wrapped(sentence, shutil.get_terminal_size().columns)


def show_plan(store: Path, facts: Mapping[str, Any], rows: Sequence[Sequence[str]]) -> None:
    """Print the result of a dry run."""
    print_json(facts, store)
    show_table(["dry run: nothing was written", ""], rows)


def estimate_rows(plan: "Estimate", none: str) -> list[list[str]]:
    """Return the rows of a plan on store size and time; `none` replaces them if no scan gave a cube."""
    if plan.store_bytes is None or plan.seconds is None or plan.example_seconds is None:
        return [["store", none], ["time", "-"]]
    example = f"{shortened(plan.example)} took {plan.example_seconds:.2f} s"
    time = f"about {duration(plan.seconds)} with {counted(plan.workers, 'worker')} ({example})"
    store = f"about {size_of(plan.store_bytes)} in {counted(plan.files, 'shard')}"
    return [["store", store], ["time", time]]


def said_of(done_before: bool, repaired: int = 0) -> str:
    """Return words about repairs or a store that was already finished, to append to its counts."""
    if repaired:
        return f"; {counted(repaired, 'damaged file')} rewritten"
    return "; already finished, nothing done" if done_before else ""


def target_noun(facts: Mapping[str, Any]) -> str:
    """Return the noun for the sources of a target store's cubes."""
    return "scan" if len(facts["size"]) == 3 else "image"


def show_folds(facts: Mapping[str, Any]) -> None:
    """Print the number of cubes in each fold of a target store, and of those that show each class."""
    folds = facts["folds"]
    classes = next(iter(folds.values()))["classes"]
    if len(classes) > 1:  # one row per class, since fourteen columns do not fit
        rows = [[one, *(f"{fold['classes'][one]:,}" for fold in folds.values())] for one in classes]
        rows.insert(0, ["all images", *(f"{fold['cubes']:,}" for fold in folds.values())])
        show_table(["images with", *folds], rows)
        return
    rows = [
        [name, f"{fold['scans']:,}", f"{fold['cubes']:,}", *(f"{n:,}" for n in fold["classes"].values())]
        for name, fold in folds.items()
    ]
    show_table(["fold", f"{target_noun(facts)}s", "cubes", *(f"with {one}" for one in classes)], rows)


def show_not_used(not_used: Sequence[Mapping[str, Any]], noun: str, store: object) -> None:
    """Print the scans of a store that gave no cubes, or not all, with `show_scans`."""
    rows = [
        {noun: shortened(row["scan"]), "status": row["status"], "reason": row["reason"]} for row in not_used
    ]
    show_scans(rows, noun, store)


def show_scans(rows: Sequence[Mapping[str, object]], noun: str, store: object) -> None:
    """Print the outcome of scans: failed ones first, skipped ones last, grouped by reason if there are many.

    Used scans are listed only if there are few rows. A sentence says how many are not listed.

    Args:
        rows: the cells of each scan by heading, starting with its name, and with `status` and `reason`.
        noun: noun for a scan.
        store: store to name in that sentence.
    """
    of: dict[object, list[Mapping[str, object]]] = {"failed": [], "used": [], "skipped": []}
    for row in rows:
        of[row["status"]].append(row)
    listed = of["failed"][:_MOST_FAILED] + (of["used"] if len(rows) <= MOST_ROWS else [])
    left = len(of["failed"][_MOST_FAILED:])
    kinds = groupby(sorted(of["skipped"], key=_kind_of), key=_kind_of)
    for alike in sorted((list(group) for _, group in kinds), key=len):
        examples = alike
        if len(alike) > _MOST_ALIKE:
            examples = alike[:_EXAMPLES]
            summary = {"status": "skipped", "reason": _summary(str(row["reason"]) for row in alike)}
            first = {next(iter(alike[0])): f"{len(alike):,} {noun}s, {_EXAMPLES} shown:"}
            listed.append(dict.fromkeys(alike[0], "") | first | summary)
        listed += examples
        left += len(alike) - len(examples)
    if listed:
        show_table(list(listed[0]), [list(row.values()) for row in listed])
    if left:
        writes = f"list them with genesis-prep info {shlex.quote(str(store))} --csv scans.csv"
        say(f"{counted(left, noun)} not shown: {writes}.")


def _kind_of(row: Mapping[str, object]) -> str:
    """Return the reason of a scan without its numbers and without the name of another scan."""
    return _OTHER.sub("", _NUMBER.sub("0", str(row["reason"])))


def _summary(reasons: Iterable[str]) -> str:
    """Merge several reasons of one kind into one: `16..40 slices, 96 needed`."""
    reasons = [_OTHER.sub("another", reason) for reason in reasons]
    words = []
    for place, pieces in enumerate(zip(*map(_NUMBER.split, reasons), strict=True)):
        numbers = sorted(set(pieces), key=int) if place % 2 else pieces[:1]
        words.append("..".join(dict.fromkeys((numbers[0], numbers[-1]))))
    return "".join(words)


def show_run(
    title: str, outcome: "gt.PretrainOutcome | gt.FinetuneOutcome", rows: Sequence[tuple[str, object]]
) -> None:
    """Print the outcome of a training run, its status first; say on stderr if there was nothing to do."""
    stopped = f"after {counted(outcome.epochs, 'epoch')} (by {option(outcome.stopped_by)})"
    show_table((title, ""), [("status", f"{outcome.status}, {stopped}"), *rows])
    if outcome.status == "already finished":
        say(f"{outcome.run} is finished; there was nothing left to do.", err=True)


def edges(lengths: Sequence[object]) -> str:
    """Join lengths along the axes: `64 x 64 x 32`."""
    return " x ".join(map(str, lengths))


def shortened(text: str, width: int = _NAME) -> str:
    """Cut the middle out of a long name for a table on a terminal; elsewhere keep it whole."""
    if len(text) <= width or not is_terminal():
        return text
    return f"{text[: (width - 1) // 2]}…{text[-(width // 2) :]}"


def shares(counts: Mapping[str, int], total: int) -> list[list[str]]:
    """Return rows of counts by name, each with its share of the total."""
    return [[name, f"{count:>7,}  {100 * count / total:5.1f} %"] for name, count in counts.items()]


def size_of(count: int) -> str:
    """Return a number of bytes in the largest unit that gives at least one: `1.2 GiB`."""
    from rich.filesize import pick_unit_and_suffix

    unit, name = pick_unit_and_suffix(count, ["bytes", "KiB", "MiB", "GiB", "TiB"], 1024)
    return f"{count / unit:,.1f} {name}" if unit > 1 else f"{count} bytes"
