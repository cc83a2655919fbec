"""Divides a source into parts for the tasks of an array job, by the identifiers of its scans alone."""

import hashlib
import re
from dataclasses import replace
from typing import Any

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.scans.find import Found

#: The parameter that records a part: `1/8`.
PART = "part"
MOST_PARTS = 10_000
_SEVERAL = "several"  # if a whole source is among them

_WORDS = re.compile(r"(\d+)/(\d+)")


def parse_part(text: str) -> tuple[int, int]:
    """Return the number of a part, counted from 1, and the number of parts, from a text such as `1/8`.

    Raises:
        CallError: the text is something else.
    """
    match = _WORDS.fullmatch(text.strip())
    if match and 1 <= int(match[1]) <= int(match[2]) <= MOST_PARTS:
        return int(match[1]), int(match[2])
    raise CallError(
        f"--part {text} is invalid: it must be the number of a part, a slash and the number "
        f"of parts (at most {MOST_PARTS:,}), for example 1/8."
    )


def part_of(identifier: str, parts: int) -> int:
    """Return the part of a scan, counted from 1, by its identifier's sha256: copies share a part.

    The stream key is not used, since its remainder modulo ten decides which scans validate.
    """
    return int.from_bytes(hashlib.sha256(identifier.encode()).digest()[:8], "big") % parts + 1


def taken(found: Found, part: str | None, sampler: str | None) -> Found:
    """Return what was found, restricted to the scans of one part; unchanged without a part.

    Raises:
        CallError: the part is invalid or empty, or the official draws continue from scan to scan.
    """
    if part is None:
        return found
    number, parts = parse_part(part)
    if sampler == "official":
        raise CallError(
            "--part splits the scans of a subset, but --sampler official draws continuously "
            "through a whole subset: omit one of the two options, or divide the work with "
            "--subsets."
        )
    sources = tuple(one for one in found.sources if part_of(one.identifier, parts) == number)
    if not sources:
        raise CallError(
            f"--part {part}: none of the {len(found.sources):,} scans belongs to this part, so there is "
            "nothing to do; merge the other parts."
        )
    return replace(found, sources=sources)


def recorded_part(part: str | None) -> dict[str, Any]:
    """Return the entry for the store's parameters."""
    return {} if part is None else {PART: "{}/{}".format(*parse_part(part))}


def together(parts: list[str | None]) -> str | None:
    """Return the part that several stores make up together; None if they are the whole source.

    None among the inputs is the store of a whole source; a text may name several parts, as returned here.
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
