"""Lists the files in users' folders: which exist, which can be opened, and how they are displayed."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from genesis_toolkit.pipeline.errors import CallError, DataError

#: Reason given for a folder whose name has a scan's suffix.
NAMED_LIKE_A_SCAN = "a folder named like a scan; its contents are listed separately"

_LITTER = (".DS_Store", "Thumbs.db", "desktop.ini")
_APPLE_DOUBLE = b"\x00\x05\x16\x07"  # the first bytes of a `._name` file of macOS

#: The path of a folder relative to itself.
HERE = "."


@dataclass(frozen=True)
class Aside:
    """Reason why something in a folder is not searched.

    Attributes:
        problem: the error; empty if it is merely skipped.
        skip: the reason for skipping it; empty if there is a problem.
    """

    problem: str = ""
    skip: str = ""


def walk(root: Path, suffixes: tuple[str, ...]) -> tuple[dict[str, list[str]], dict[str, Aside]]:
    """List all files below a folder, except those that systems create, and folders that need a mention.

    Links to folders are followed last, and only to folders not yet searched, so none leads in a circle and
    no file is listed twice. A folder costs one listing and one status call, and a file nothing more, since
    the listing marks folders and links. Paths are text: `Path` objects cost ten times the listing.

    Args:
        root: the folder to start from.
        suffixes: suffixes of scans, in lower case.

    Returns:
        files: the names in each folder that holds any, by the folder's path relative to `root`, with `/`.
        aside: folders that cannot be opened, links to a folder that holds the root, and folders named like
            scans (which are searched), by their path relative to `root`.
    """
    files: dict[str, list[str]] = {}
    aside: dict[str, Aside] = {}
    base, waiting, links = os.fspath(root), [HERE], list[str]()
    seen, home = set[tuple[int, int]](), Path(os.path.realpath(root))
    while waiting or links:
        if waiting:
            folder = waiting.pop()
        else:
            links.sort()
            folder = links.pop(0)
            if Path(os.path.realpath(f"{base}/{folder}")) in (home, *home.parents):
                aside[folder] = Aside(skip="a link to one of its parent folders, which would create a loop")
                continue
        try:
            status = Path(base, folder).stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(f"{base}/{folder}") as entries:
                listing = [entry for entry in entries if not is_litter(entry)]
        except OSError as error:
            aside[folder] = Aside(problem=not_opened(error))
            continue
        names = []
        for entry in listing:
            if not is_folder(entry):
                names.append(entry.name)
                continue
            path = within(folder, entry.name)
            if entry.name.lower().endswith(suffixes):
                aside[path] = Aside(skip=NAMED_LIKE_A_SCAN)
            (links if entry.is_symlink() else waiting).append(path)
        if names:
            files[folder] = names
    return files, aside


def listed(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder, except those that systems create.

    Raises:
        CallError: it cannot be opened.
    """
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not is_litter(entry)]
    except OSError as error:
        raise CallError(f"{folder} cannot be opened: {error.strerror}.") from None


def is_litter(entry: os.DirEntry[str]) -> bool:
    """Return whether the system created an entry, such as macOS's companion files and thumbnail lists.

    First bytes are read only of files whose name starts like a macOS companion file.
    """
    if entry.name in _LITTER:
        return True
    if not entry.name.startswith("._"):
        return False
    try:
        if not entry.is_file():
            return False
        with Path(entry.path).open("rb") as file:
            return file.read(len(_APPLE_DOUBLE)) == _APPLE_DOUBLE
    except OSError:
        return False


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one; a circular link is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def within(folder: str, name: str) -> str:
    """Return the path of an entry of a folder, both relative to the same root."""
    return name if folder == HERE else f"{folder}/{name}"


def named(path: str, place: Path) -> str:
    """Return a scan's path for display; for `.` it is the name of the folder `place`."""
    if path != HERE and not path.startswith(f"{HERE}#"):
        return path
    return (place if path == HERE else place.parent).name + path[1:]


def check_regular(path: Path) -> None:
    """Refuse anything but a non-empty regular file, without opening it: opening a pipe would wait forever.

    Raises:
        DataError: the reason, to follow the scan's name.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(not_opened(error)) from None
    if not stat.S_ISREG(status.st_mode):
        raise DataError("the path is not a regular file")
    if status.st_size == 0:
        raise DataError("the file is empty")


def check_file(path: Path) -> None:
    """Refuse a file that cannot be read, and anything but a non-empty regular file.

    Raises:
        DataError: the reason, to follow the scan's name.
    """
    check_regular(path)
    try:
        path.open("rb").close()
    except OSError as error:
        raise DataError(not_opened(error)) from None


def not_opened(error: OSError) -> str:
    """Return the sentence for a file that the system does not open."""
    return f"the file cannot be opened: {error.strerror}"


def bad_name(path: str) -> str:
    """Return why a path cannot be stored as text; empty if it can."""
    sound = os.fsencode(path).decode("utf-8", errors="replace") == path
    return "" if sound else "the file name is not valid UTF-8: rename the file"


def shown(path: str) -> str:
    """Return a path in printable and storable form, with `\\xff` for a byte that is not UTF-8."""
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")
