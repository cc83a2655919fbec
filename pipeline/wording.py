"""Formats numbers, names and values for use in sentences."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

_MOST_NAMED = 5
_LONGEST_VALUE = 60
_MOST_HOURS = 72
#: Phrases for parameters whose names alone would be unclear.
_NAMES = {"cubes_sha256": "the cube store of sha256", "source_sha256": "the source of sha256"}


def counted(number: int, thing: str, several: str = "") -> str:
    """Return a number with its noun (`1 cube`, `2 cubes`); `several` is an irregular plural."""
    return f"{number:,} {thing if number == 1 else several or thing + 's'}"


def duration(seconds: float) -> str:
    """Return seconds in readable form: `40 s`, `12 min`, `3 h 20 min`, `12 days`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours >= _MOST_HOURS:
        return f"{round(seconds / 86400):,} days"
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"


def listed(names: Sequence[object], most: int = _MOST_NAMED, between: str = ", ") -> str:
    """Return the first few names and the number of the others: `a, b and 3 more`."""
    more = f"{between.rstrip(', ')} and {len(names) - most:,} more" if len(names) > most else ""
    return between.join(map(str, names[:most])) + more


def wrapped(text: str, width: int) -> str:
    """Wrap text at words, line by line; a word longer than a line, such as a path, stays whole."""

    def one(line: str) -> str:
        indent = line[: len(line) - len(line.lstrip())]
        return fill(line, width, subsequent_indent=2 * indent, break_long_words=False, break_on_hyphens=False)

    return "\n".join(map(one, text.split("\n")))


def size_words(size: Sequence[int]) -> str:
    """Return the edges of a cube, a slice or an image: `64 x 64 x 32 voxels`, `224 x 224 pixels`."""
    return f"{' x '.join(map(str, size))} {'voxels' if len(size) == 3 else 'pixels'}"


def value_words(value: Any) -> str:
    """Return a parameter's value as it would be given to an option."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def words_of(value: Any) -> str:
    """Return a foreign value as text, truncated if long."""
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 5]} ..."


def reason_of(error: Exception) -> str:
    """Return the reason of an error, in the system's words if available."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def first_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return the first parameter that differs (`seed 0 (requested: 1)`), or None if all are equal."""
    name, old, new = difference(before, now)
    return f"{name} {old} (requested: {new})" if name else None


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the first parameter that differs: its name and both values; empty strings if all are equal."""
    for name in sorted({*one, *other}):
        old, new = one.get(name), other.get(name)
        if isinstance(old, dict) and isinstance(new, dict) and old != new:
            return difference(old, new)
        if old != new:
            old, new = (value_words(side[name]) if name in side else "none" for side in (one, other))
            return _NAMES.get(name, name.replace("_", " ")), old, new
    return "", "", ""
