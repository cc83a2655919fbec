"""Reads labels from any columns of any table, and matches rows with scans. Pure.

A column of 0 and 1 is one class; one of two words is one, where the second word in order means 1; one of
three to sixteen words is one class per word. Numbers need a threshold, `Patient Age>60`, or a value,
`Grade=3`. Empty cells are unknown. Classes are those of the whole table, even if scans are missing.
"""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.scans.files import not_opened
from genesis_toolkit.pipeline.scans.find import Source
from genesis_toolkit.pipeline.scans.formats import stem_of
from genesis_toolkit.pipeline.store.schema import UNKNOWN
from genesis_toolkit.pipeline.wording import listed

_TWO, _MOST_WORDS = 2, 16
_ASKED = re.compile(r"(.+?)\s*(>=|<=|>|<|=)\s*(.+)")
_COMPARED: dict[str, Callable[[float, float], bool]] = {
    ">": lambda one, other: one > other,
    ">=": lambda one, other: one >= other,
    "<": lambda one, other: one < other,
    "<=": lambda one, other: one <= other,
}
_AGE = re.compile(r"(\d{3})([DWMY])")  # the format of DICOM, and of NIH's first edition
_A_YEAR = {"D": 365.25, "W": 365.25 / 7, "M": 12.0, "Y": 1.0}
_BINARY = {0.0, 1.0}


@dataclass(frozen=True)
class Labels:
    """The contents of a table, row by row.

    Attributes:
        classes: names of the labels.
        header: names of the columns.
        rows: the cells of each row.
        labels: those of each row: 0 or 1 per class, or `UNKNOWN`.
    """

    classes: tuple[str, ...]
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    labels: tuple[tuple[int, ...], ...]


def read_labels(path: Path, columns: Sequence[str]) -> Labels:
    """Read labels from the requested columns of a CSV table.

    Raises:
        CallError: it cannot be read, a column is missing or yields no classes, or a row is invalid.
    """
    given = f"--label-table {path}"
    try:
        lines = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))
    except OSError as error:
        raise CallError(f"{given}: {not_opened(error)}.") from None
    except (UnicodeDecodeError, csv.Error):
        raise CallError(
            f"{given} is not a CSV table in UTF-8: write one with a row of column names."
        ) from None
    header = tuple(name.strip() for name in lines[0]) if lines else ()
    rows = [tuple(cell.strip() for cell in line) for line in lines[1:] if any(line)]
    if not rows:
        raise CallError(f"{given} has no rows below the column names: add one row per scan or image.")
    made = [_class_of(given, text, header, rows) for text in columns]
    classes = tuple(name for names, _ in made for name in names)
    if len(set(classes)) < len(classes):
        raise CallError(f"--label-columns lists {', '.join(classes)}: name each class once.")
    labels = tuple(tuple(number for _, known in made for number in known[at]) for at in range(len(rows)))
    return Labels(classes, header, tuple(rows), labels)


def labels_by_source(given: str, table: Labels, sources: Iterable[Source]) -> dict[str, list[int]]:
    """Return the labels of each scan with a row, by the scan's path.

    Rows name scans in the column with the most matches: by path or identifier, with or without the part up to
    the last slash and the suffix, if this is unambiguous.

    Raises:
        CallError: no row names a scan, or two rows of one scan differ.
    """
    by_name = _names(sources)
    found = [
        [by_name.get(row[at]) if at < len(row) else None for row in table.rows]
        for at in range(len(table.header))
    ]
    best = max(found, key=lambda paths: sum(path is not None for path in paths), default=[])
    labels: dict[str, list[int]] = {}
    for path, row in zip(best, table.labels, strict=True):
        if path is not None and labels.setdefault(path, list(row)) != list(row):
            raise CallError(f"{given} has two rows for {path} that differ: keep the correct one.")
    if not labels:
        some = listed([path for path in dict.fromkeys(by_name.values()) if path], most=2)
        raise CallError(
            f"{given} has no column that identifies a scan, for example {some}: use the scans' file names."
        )
    return labels


def _names(sources: Iterable[Source]) -> dict[str, str | None]:
    """Return the path of a scan by each of its names; None if several scans share one."""
    whole, short = dict[str, str](), defaultdict[str, set[str]](set)
    for one in sources:
        whole |= {one.identifier: one.path, one.path: one.path}
        for name in (one.path, one.identifier):
            last = name.rpartition("/")[2]
            for text in (last, stem_of(name), stem_of(last)):
                short[text].add(one.path)
    return {name: next(iter(paths)) if len(paths) == 1 else None for name, paths in short.items()} | whole


def _class_of(
    given: str, text: str, header: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[int]]]:
    """Return the classes of one entry of `--label-columns`, and their labels in each row."""
    asked = None if text in header else _ASKED.fullmatch(text)
    name = asked[1] if asked else text
    if header.count(name) != 1:
        how = "has no column" if name not in header else f"has {header.count(name)} columns"
        raise CallError(f"{given} {how} {name!r}; its columns are {', '.join(header)}.")
    at = header.index(name)
    cells = [row[at] if at < len(row) else "" for row in rows]
    if asked:
        is_so = _question(given, name, asked[2], asked[3])
        return [text], [[int(is_so(cell))] if cell else [UNKNOWN] for cell in cells]
    words = sorted({cell for cell in cells if cell})
    numbers = [_number(word) for word in words]
    if words and set(numbers) <= _BINARY:
        return [text], [[int(float(cell))] if cell else [UNKNOWN] for cell in cells]
    example = words[-1] if words else "1"
    if words and None not in numbers:
        raise CallError(
            f"{given}: {name!r} holds numbers such as {example}, which are not classes: give a threshold, "
            f"for example --label-columns '{name}>{example}', or a value, '{name}={example}'."
        )
    if not 1 < len(words) <= _MOST_WORDS:
        raise CallError(
            f"{given}: {name!r} has {len(words)} different values, but classes need 2 to "
            f"{_MOST_WORDS}: give one value, for example --label-columns '{name}={example}'."
        )
    chosen = words[1:] if len(words) == _TWO else words
    labels_of = [[int(cell == word) if cell else UNKNOWN for word in chosen] for cell in cells]
    return [f"{name}={word}" for word in chosen], labels_of


def _question(given: str, name: str, sign: str, value: str) -> Callable[[str], bool]:
    """Return a test for cells: a comparison with a number, or equality with a word."""
    if sign == "=":
        number = _number(value)
        return lambda cell: cell == value or (number is not None and _number(cell) == number)
    bound = _number(value)
    if bound is None:
        raise CallError(
            f"--label-columns '{name}{sign}{value}' is invalid: {value!r} is not a number; use for example "
            f"'{name}{sign}60'."
        )

    def is_so(cell: str) -> bool:
        number = _number(cell)
        if number is None:
            raise CallError(
                f"{given}: {name!r} holds {cell!r}, which is not a number and cannot be compared with "
                f"{value}: leave unknown cells empty."
            )
        return _COMPARED[sign](number, bound)

    return is_so


def _number(cell: str) -> float | None:
    """Return the number in a cell, for an age such as `058Y` in years; None if there is none."""
    if age := _AGE.fullmatch(cell):
        return int(age[1]) / _A_YEAR[age[2]]
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if number == number else None  # excludes nan
