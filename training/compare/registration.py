"""A pre-registration: what is compared and which outcome counts, fixed before any test fold is read.

OUT/registration.json is written once, before the first trial, and its sha256 is noted in OUT/trials.json and
in the results. A later call may add trials, arms or tasks; the results then say what the registration did not
foresee. A file that was changed or removed is refused.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import sha256_of
from genesis_toolkit.pipeline.version import __version__
from genesis_toolkit.training.compare.statistics import DEFAULT_TEST

FORMAT, VERSION = "genesis-registration", 1
FILE = "registration.json"


@dataclass(frozen=True)
class Primary:
    """The one outcome that was to decide: two arms on one task, or on one point of its curve."""

    task: str
    first: str
    second: str


@dataclass(frozen=True)
class Registration:
    """What was registered.

    Attributes:
        sha256: of the file.
        primary: the outcome that was to decide; None where none was named.
        differs: what of this call the file did not foresee, in words.
    """

    sha256: str
    primary: Primary | None
    differs: tuple[str, ...] = ()


def parse_primary(text: str) -> Primary:
    """Read `TASK,FIRST:SECOND`, where the task of a curve has a point behind it: `nodules, 20 labels,a:b`."""
    task, comma, pair = text.rpartition(",")
    first, colon, second = pair.partition(":")
    if not (comma and colon and task.strip() and first.strip() and second.strip()):
        raise CallError(
            f"--primary {text} names no outcome: write the task and two arms, as in "
            '--primary "nodules,scratch-3d:genesis-ct-3d", and of a curve the point as well, as in '
            '--primary "nodules, 20 labels,scratch-3d:genesis-ct-3d".'
        )
    return Primary(task.strip(), first.strip(), second.strip())


def check_primary(primary: Primary, outcomes: Sequence[Primary]) -> None:
    """Refuse a primary outcome that the comparison does not have."""
    if primary not in outcomes:
        known = "; ".join(f"{one.task},{one.first}:{one.second}" for one in outcomes[:4])
        raise CallError(
            f"--primary {primary.task},{primary.first}:{primary.second} is no outcome of this comparison; "
            f"allowed: {known}{' ..' if len(outcomes) > 4 else ''}."
        )


def content_of(
    settings: Mapping[str, Any], outcomes: Sequence[Primary], primary: Primary | None
) -> dict[str, Any]:
    """What a registration holds, as plain JSON values: no time and no path.

    A comparison that has one outcome alone needs no choice of the primary one.
    """
    chosen = primary or (outcomes[0] if len(outcomes) == 1 else None)
    return {
        "format": FORMAT,
        "version": VERSION,
        "genesis_toolkit": __version__,
        **settings,
        "test": DEFAULT_TEST,
        "outcomes": [asdict(one) for one in outcomes],
        "primary": None if chosen is None else asdict(chosen),
    }


def bytes_of(content: Mapping[str, Any]) -> bytes:
    """The file."""
    return f"{json.dumps(content, indent=1)}\n".encode()


def read(out: Path, noted: str, now: Mapping[str, Any]) -> Registration:
    """Read the registration of the comparison in `out`, whose sha256 was `noted`, and hold a call against it.

    Raises:
        DataError: the file is gone, or not the one that was written.
    """
    path = out / FILE
    data = path.read_bytes() if path.exists() else b""
    found = sha256_of(data)
    if found != noted:
        what = "was changed" if data else "is gone"
        raise DataError(
            f"{path} {what} since the comparison began (its sha256 was {noted[:12]}..): put the first one "
            "back, or give --overwrite to begin again."
        )
    before = json.loads(data)
    differs = tuple(
        name for name in now if name not in ("genesis_toolkit", "primary") and before.get(name) != now[name]
    )
    primary = before["primary"]
    return Registration(found, None if primary is None else Primary(**primary), differs)
