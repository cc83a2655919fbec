"""Reads a user's own split: a table of scans and the parts they belong to."""

import csv
import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.ledger import sha256_of
from genesis_toolkit.pipeline.scans.files import not_opened
from genesis_toolkit.pipeline.scans.find import OfSource
from genesis_toolkit.pipeline.store.schema import PARTS
from genesis_toolkit.pipeline.wording import listed

_COLUMNS = ("scan", "part")
#: The part whose scans are left out.
EXCLUDE = PARTS.index("exclude")


@dataclass(frozen=True)
class SplitFile:
    """Assigns every scan to a part, a number in `PARTS`, by its path or its identifier.

    `path` is that of the table; empty if the parts come from a store. A scan without a row belongs to
    `otherwise`; if that is None, every scan must have one.
    """

    path: Path
    parts: dict[str, int]
    otherwise: int | None = None

    @property
    def sha256(self) -> str:
        """Return the sha256 of its contents, independent of the order of its rows."""
        return sha256_of(json.dumps(self.parts, sort_keys=True).encode())

    def deal(self, sources: tuple[OfSource, ...]) -> tuple[OfSource, ...]:
        """Return the scans with their parts; those of `exclude` are marked to be skipped.

        Raises:
            CallError: a scan has no row, or is in two parts.
        """
        dealt, missing = [], []
        for one in sources:
            found = {self.parts[name] for name in (one.path, one.identifier) if name in self.parts}
            if len(found) > 1:
                raise CallError(f"--split-file {self.path} puts {one.path} into two parts: keep one row.")
            if not found and not one.skip and self.otherwise is None:
                missing.append(one.path)
            part = found.pop() if found else EXCLUDE if self.otherwise is None else self.otherwise
            skip = one.skip or ("excluded by the split file" if part == EXCLUDE else "")
            dealt.append(replace(one, part=part, skip=skip))
        if missing:
            raise CallError(
                f"--split-file {self.path} has no row for {listed(missing)}: add a row for each scan, with "
                f"its path or identifier and {', '.join(PARTS[:-1])} or {PARTS[-1]}."
            )
        return tuple(dealt)


def dealt_by(split: SplitFile | None, sources: tuple[OfSource, ...]) -> tuple[OfSource, ...]:
    """Return the scans with the parts of a split file, or unchanged without one."""
    return split.deal(sources) if split else sources


def read_split_file(path: Path) -> SplitFile:
    """Read a CSV table with the columns `scan` and `part`.

    Raises:
        CallError: it cannot be read, lacks a column, or has an invalid row.
    """
    given = f"--split-file {path}"
    try:
        lines = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))
    except OSError as error:
        raise CallError(f"{given}: {not_opened(error)}.") from None
    except (UnicodeDecodeError, csv.Error):
        raise CallError(
            f"{given} is not a CSV table in UTF-8: write one with the columns scan,part."
        ) from None
    header = [name.strip() for name in lines[0]] if lines else []
    if not set(_COLUMNS) <= set(header):
        raise CallError(f"{given} has the columns {','.join(header) or 'none'}, but it needs scan,part.")
    scan, part = map(header.index, _COLUMNS)
    parts: dict[str, int] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not any(line):
            continue
        name, word = (line[at].strip() if at < len(line) else "" for at in (scan, part))
        if not name or word not in PARTS:
            raise CallError(
                f"{given}, row {number}: {','.join(line)!r} is invalid: a row must be a scan "
                f"and {', '.join(PARTS[:-1])} or {PARTS[-1]}."
            )
        if parts.setdefault(name, PARTS.index(word)) != PARTS.index(word):
            raise CallError(f"{given}, row {number}: {name} is in two parts: keep one row.")
    return SplitFile(path, parts)


def recorded(split: SplitFile | None, name: Any = str) -> dict[str, Any]:
    """Return the entry for a store's parameters; `name` makes its sha256 a pseudonym."""
    return {"split_file": name(split.sha256)} if split else {}
