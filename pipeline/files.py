"""Files as people's folders hold them: which there are, which can be opened, what they are called."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import CallError, DataError

#: Said of a folder that has a scan's suffix.
NAMED_LIKE_A_SCAN = "a folder named like a scan; what lies in it is taken by itself"


@dataclass(frozen=True)
class Aside:
    """Why something in a folder is not looked into.

    Attributes:
        problem: why it cannot be; empty where it is only passed over.
        skip: why it is passed over; empty where there is a problem.
    """

    problem: str = ""
    skip: str = ""


def walk(folder: Path, suffixes: tuple[str, ...]) -> tuple[list[Path], dict[Path, Aside]]:
    """All files below a folder, and the folders to be named.

    Links to folders are not followed, so none can lead in a circle.

    Args:
        folder: where to begin.
        suffixes: of scans, small letters.

    Returns:
        files: sorted.
        aside: folders that cannot be opened, links to folders, and folders named like scans (which are
            looked into).
    """
    files: list[Path] = []
    aside: dict[Path, Aside] = {}

    def closed(error: OSError) -> None:
        aside[Path(error.filename)] = Aside(problem=not_opened(error))

    for parent, folders, names in os.walk(folder, onerror=closed):
        files += (Path(parent, name) for name in names)
        for path in (Path(parent, name) for name in folders):
            if path.is_symlink():
                aside[path] = Aside(skip="a link to a folder, which is not followed: it may lead in a circle")
            elif path.name.lower().endswith(suffixes):
                aside[path] = Aside(skip=NAMED_LIKE_A_SCAN)
    return sorted(files), aside


def listed(folder: Path) -> list[Path]:
    """What lies in a folder.

    Raises:
        CallError: it cannot be opened.
    """
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise CallError(f"{folder} cannot be opened: {error.strerror}.") from None


def check_file(path: Path) -> None:
    """Refuse what may not be read, and what is no file with something in it: a pipe would wait for ever.

    Raises:
        DataError: why, to go after the scan's name.
    """
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            path.open("rb").close()
    except OSError as error:
        raise DataError(not_opened(error)) from None
    if not stat.S_ISREG(status.st_mode):
        raise DataError("it is no regular file")
    if status.st_size == 0:
        raise DataError("it is an empty file")


def not_opened(error: OSError) -> str:
    """The sentence for a file that the system does not open."""
    return f"it cannot be opened: {error.strerror}"


def bad_name(path: Path) -> str:
    """Why a path cannot be stored as text; empty where it can."""
    sound = os.fsencode(path).decode("utf-8", errors="replace") == str(path)
    return "" if sound else "its name is not valid UTF-8: rename it"


def shown(path: Path) -> str:
    """A path as it can be printed and stored, with `/`, and `\\xff` for a byte that is not UTF-8."""
    return os.fsencode(path.as_posix()).decode("utf-8", errors="backslashreplace")
