"""Files as people's folders hold them: which there are, which can be opened, what they are called."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from genesis_toolkit.pipeline.errors import CallError, DataError

#: Said of a folder that has a scan's suffix.
NAMED_LIKE_A_SCAN = "a folder named like a scan; what lies in it is taken by itself"

_LITTER = (".DS_Store", "Thumbs.db", "desktop.ini")
_APPLE_DOUBLE = b"\x00\x05\x16\x07"  # with which a `._name` of macOS begins

#: The path of a folder relative to itself.
HERE = "."


@dataclass(frozen=True)
class Aside:
    """Why something in a folder is not looked into.

    Attributes:
        problem: why it cannot be; empty where it is only passed over.
        skip: why it is passed over; empty where there is a problem.
    """

    problem: str = ""
    skip: str = ""


def walk(root: Path, suffixes: tuple[str, ...]) -> tuple[dict[str, list[str]], dict[str, Aside]]:
    """All files below a folder but for what systems leave there by themselves, and the folders to be named.

    Links to folders are followed, after all else, to folders that were not looked into yet, so none leads in
    a circle and no file comes twice. A folder costs one listing and its status, and a file nothing more: what
    is a folder and what is a link stands in the listing. Paths are text, since `Path` objects cost ten times
    what listing a file does.

    Args:
        root: where to begin.
        suffixes: of scans, small letters.

    Returns:
        files: the names in each folder that holds any, by the folder's path relative to `root`, with `/`.
        aside: folders that cannot be opened, links to a folder that holds the root, and folders named like
            scans (which are looked into), by their path relative to `root`.
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
                aside[folder] = Aside(skip="a link to a folder that holds this one, which leads in a circle")
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
    """What lies in a folder, but for what systems leave there by themselves.

    Raises:
        CallError: it cannot be opened.
    """
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not is_litter(entry)]
    except OSError as error:
        raise CallError(f"{folder} cannot be opened: {error.strerror}.") from None


def is_litter(entry: os.DirEntry[str]) -> bool:
    """Whether a system left it there by itself: what macOS puts beside every file, and lists of pictures.

    Only of files whose name begins as macOS has it are the first bytes looked at.
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
    """Whether it is a folder or a link to one; a link that leads in a circle is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def within(folder: str, name: str) -> str:
    """The path of what lies in a folder, both relative to the same root."""
    return name if folder == HERE else f"{folder}/{name}"


def named(path: str, place: Path) -> str:
    """The path of a scan, which lies at `place`, for people: never `.`, but the name of that folder."""
    if path != HERE and not path.startswith(f"{HERE}#"):
        return path
    return (place if path == HERE else place.parent).name + path[1:]


def check_regular(path: Path) -> None:
    """Refuse what is no file with something in it, without opening it: a pipe would wait for ever.

    Raises:
        DataError: why, to go after the scan's name.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(not_opened(error)) from None
    if not stat.S_ISREG(status.st_mode):
        raise DataError("it is no regular file")
    if status.st_size == 0:
        raise DataError("it is an empty file")


def check_file(path: Path) -> None:
    """Refuse what may not be read, and what is no file with something in it.

    Raises:
        DataError: why, to go after the scan's name.
    """
    check_regular(path)
    try:
        path.open("rb").close()
    except OSError as error:
        raise DataError(not_opened(error)) from None


def not_opened(error: OSError) -> str:
    """The sentence for a file that the system does not open."""
    return f"it cannot be opened: {error.strerror}"


def bad_name(path: str) -> str:
    """Why a path cannot be stored as text; empty where it can."""
    sound = os.fsencode(path).decode("utf-8", errors="replace") == path
    return "" if sound else "its name is not valid UTF-8: rename it"


def shown(path: str) -> str:
    """A path as it can be printed and stored, with `\\xff` for a byte that is not UTF-8."""
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")
