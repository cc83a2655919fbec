"""Gates: bounds that a benchmark's figures must keep, printed one a line in a form that run.py reads back."""

import re
import sys
from dataclasses import dataclass, field

#: "ok   WHAT: VALUE (at most BOUND)".
LINE = re.compile(r"^(ok|MISS) +(.+): ([\d.]+) \((at (?:least|most) [\d.]+)\)$")


@dataclass
class Gates:
    """The gates of one benchmark; `end` exits with status 1 if a figure missed its gate."""

    missed: list[str] = field(default_factory=list)

    def at_most(self, what: str, value: float, bound: float) -> None:
        self._check(what, value, f"at most {bound:g}", value <= bound)

    def at_least(self, what: str, value: float, bound: float) -> None:
        self._check(what, value, f"at least {bound:g}", value >= bound)

    def _check(self, what: str, value: float, bound: str, kept: bool) -> None:
        print(f"{'ok  ' if kept else 'MISS'} {what}: {value:.2f} ({bound})")
        self.missed += [] if kept else [what]

    def end(self) -> None:
        sys.exit(1 if self.missed else 0)
