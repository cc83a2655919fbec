"""One part of a source for each task of an array job: which scans it has, by their identifiers alone."""

import hashlib
import re
from dataclasses import replace
from typing import Any

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.scans.find import Found

#: Where a store tells it: `1/8`.
PART = "part"
MOST_PARTS = 10_000
_SEVERAL = "several"  # where a whole source is among them

_WORDS = re.compile(r"(\d+)/(\d+)")


def parse_part(text: str) -> tuple[int, int]:
    """The number of a part, counted from 1, and how many there are, of `1/8`.

    Raises:
        CallError: it is something else.
    """
    match = _WORDS.fullmatch(text.strip())
    if match and 1 <= int(match[1]) <= int(match[2]) <= MOST_PARTS:
        return int(match[1]), int(match[2])
    raise CallError(
        f"--part {text} is no part: write its number and how many there are, {MOST_PARTS:,} at most, as in "
        "1/8."
    )


def part_of(identifier: str, parts: int) -> int:
    """Which part a scan is in, counted from 1, by its identifier's sha256: copies of a series share one.

    Not the stream key, whose remainder by ten says which scans validate.
    """
    return int.from_bytes(hashlib.sha256(identifier.encode()).digest()[:8], "big") % parts + 1


def taken(found: Found, part: str | None, sampler: str | None) -> Found:
    """What was found, with the scans of one part alone; all where there is no part.

    Raises:
        CallError: the part is none, it has no scan, or the official draws run on from scan to scan.
    """
    if part is None:
        return found
    number, parts = parse_part(part)
    if sampler == "official":
        raise CallError(
            "--part cuts a source apart, and the draws of --sampler official run on through a subset: leave "
            "one of them out, or take parts by --subsets."
        )
    sources = tuple(one for one in found.sources if part_of(one.identifier, parts) == number)
    if not sources:
        raise CallError(
            f"--part {part}: none of the {len(found.sources):,} scans falls into this part, so there is "
            "nothing to do in it; merge the others."
        )
    return replace(found, sources=sources)


def recorded_part(part: str | None) -> dict[str, Any]:
    """What the store is to tell of it."""
    return {} if part is None else {PART: "{}/{}".format(*parse_part(part))}


def together(parts: list[str | None]) -> str | None:
    """What stores of these parts are, put together: all of them make up the whole, which is no part.

    None among them is a store of a whole source, and a text may name several parts: what this returned.
    """
    if set(parts) == {None}:
        return None
    if None in parts or _SEVERAL in parts:
        return _SEVERAL
    numbers = sorted(parse_part(one) for part in parts if part is not None for one in part.split(","))
    wholes = {count for _, count in numbers}
    if len(wholes) == 1 and [number for number, _ in numbers] == list(range(1, wholes.pop() + 1)):
        return None
    return ", ".join(f"{number}/{count}" for number, count in numbers)
