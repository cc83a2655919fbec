"""A pre-registration: what is compared and which outcome counts, fixed before any test fold is read.

OUT/registration.json is written once, before the first trial, and its sha256 is recorded in OUT/trials.json
and in the results. A later call may add trials, arms or tasks; the results then list what was not registered.
A changed or missing file is an error.
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
    """The outcome registered as primary: two arms on one task, or on one point of its curve."""

    task: str
    first: str
    second: str


@dataclass(frozen=True)
class Registration:
    """The registration of a comparison.

    Attributes:
        sha256: hash of the file.
        primary: the primary outcome; None if none was named.
        differs: what this call does beyond the file, in words.
    """

    sha256: str
    primary: Primary | None
    differs: tuple[str, ...] = ()


def parse_primary(text: str) -> Primary:
    """Read `TASK,FIRST:SECOND`, where the task may be followed by a point: `nodules, 20 labels,a:b`."""
    task, comma, pair = text.rpartition(",")
    first, colon, second = pair.partition(":")
    if not (comma and colon and task.strip() and first.strip() and second.strip()):
        raise CallError(
            f"--primary {text} is not an outcome: give the task and two arms, such as "
            '--primary "nodules,scratch-3d:genesis-ct-3d", and for a curve also the point, such as '
            '--primary "nodules, 20 labels,scratch-3d:genesis-ct-3d".'
        )
    return Primary(task.strip(), first.strip(), second.strip())


def check_primary(primary: Primary, outcomes: Sequence[Primary]) -> None:
    """Check that the comparison includes the primary outcome."""
    if primary not in outcomes:
        known = "; ".join(f"{one.task},{one.first}:{one.second}" for one in outcomes[:4])
        raise CallError(
            f"--primary {primary.task},{primary.first}:{primary.second} is not an outcome here; "
            f"allowed: {known}{' ..' if len(outcomes) > 4 else ''}."
        )


def content_of(
    settings: Mapping[str, Any], outcomes: Sequence[Primary], primary: Primary | None
) -> dict[str, Any]:
    """Return the content of a registration as plain JSON values: no time and no path.

    If a comparison has a single outcome, it is the primary one.
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
    """Return the file."""
    return f"{json.dumps(content, indent=1)}\n".encode()


def read(out: Path, noted: str, now: Mapping[str, Any]) -> Registration:
    """Read the registration of the comparison in `out`, whose sha256 was `noted`, and compare it with a call.

    Raises:
        DataError: the file is missing or was changed.
    """
    path = out / FILE
    data = path.read_bytes() if path.exists() else b""
    found = sha256_of(data)
    if found != noted:
        what = "was changed" if data else "is missing"
        raise DataError(
            f"{path} {what} since the comparison started (its sha256 was {noted[:12]}..): restore the "
            "original, or use --overwrite to start again."
        )
    before = json.loads(data)
    differs = tuple(
        name for name in now if name not in ("genesis_toolkit", "primary") and before.get(name) != now[name]
    )
    primary = before["primary"]
    return Registration(found, None if primary is None else Primary(**primary), differs)
