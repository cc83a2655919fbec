"""The kinds of values that options take."""

from typing import Any

import click


class Numbers(click.ParamType[tuple[int, ...]]):
    """Whole numbers with commas between them, as in `64,64,32`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """The numbers, in order; how many there must be is the library's to say."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(number) for number in value.split(","))
        except ValueError:
            self.fail(
                f"{value!r}: whole numbers with commas between them are wanted, {self.name}.", param, ctx
            )


class Subsets(click.ParamType[tuple[int, ...]]):
    """LUNA16 subsets, as in `0-6` or `0,3,8-9`."""

    name = "LIST"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """The subsets, each once, in order."""
        if isinstance(value, tuple):
            return value
        subsets: set[int] = set()
        for part in value.split(","):
            first, dash, last = part.partition("-")
            if not (first.isdecimal() and (not dash or last.isdecimal())):
                self.fail(f"{value!r}: subsets are given as in 0-6 or 0,3,8-9.", param, ctx)
            subsets.update(range(int(first), int(last if dash else first) + 1))
        if not subsets or max(subsets) > 9:
            self.fail(f"{value!r}: LUNA16 has the subsets 0 to 9.", param, ctx)
        return tuple(sorted(subsets))
