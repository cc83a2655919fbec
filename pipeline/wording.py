"""How numbers, names and values stand in a sentence."""

from collections.abc import Sequence
from typing import Any

_MOST_NAMED = 5
_LONGEST_VALUE = 60


def counted(number: int, thing: str, several: str = "") -> str:
    """`1 cube`, `2 cubes`; `several` is the plural where it is not the word with an s."""
    return f"{number:,} {thing if number == 1 else several or thing + 's'}"


def listed(names: Sequence[object], most: int = _MOST_NAMED, between: str = ", ") -> str:
    """The first few names, and how many more there are: `a, b and 3 more`."""
    more = f"{between.rstrip(', ')} and {len(names) - most:,} more" if len(names) > most else ""
    return between.join(map(str, names[:most])) + more


def value_words(value: Any) -> str:
    """A parameter's value, as an option takes it."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def words_of(value: Any) -> str:
    """A value that a stranger wrote, cut off where it is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 5]} ..."


def reason_of(error: Exception) -> str:
    """Why, in the words of the system where it has any."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
