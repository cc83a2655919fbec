"""Groups the DICOM files of a folder tree by series.

A series is one SeriesInstanceUID, even if its slices are in several folders; it is named after the innermost
folder that holds all of them.
"""

import filecmp
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.scans.dicom import DICOM_SUFFIXES, INDEX_NAME, Slice, is_beside, read_header
from genesis_toolkit.pipeline.scans.files import HERE, bad_name, check_regular, within
from genesis_toolkit.pipeline.scans.gate import no_scan

#: Start of the message about a copy of a scan, followed by the path of the original.
SAME = "the same scan as "

_NO_DICOM = (".raw", ".zraw")  # data files, often hundreds, that are never opened here
_ANOTHER_FORMAT = str(no_scan("the file has a DICOM file name but another format"))


@dataclass(frozen=True)
class Series:
    """The files below a folder with the same SeriesInstanceUID.

    Attributes:
        identifier: the SeriesInstanceUID; empty if it was removed, and then the files of one folder.
        slices: its files, by folder and name, without copies.
        skip: why it is not a CT volume, for example "a localizer, not a volume"; empty for a CT volume.
        problem: why it cannot be used, for example because a slice is unreadable; else empty.
        folders: the folders of its files, each with its last modification time in ns.
        beside: whether it merely accompanies the volumes of a study and deserves no row.
    """

    identifier: str
    slices: tuple[Slice, ...]
    skip: str
    problem: str
    folders: tuple[tuple[Path, int], ...]
    beside: bool


@dataclass(frozen=True)
class Gathered:
    """The DICOM files of a tree.

    Attributes:
        series: by the folder that holds all slices, and a label that distinguishes the series there: empty
            for a single one, else `#` and the end of its SeriesInstanceUID.
        problems: why supposed DICOM files are unusable, keyed by the first file with each reason.
        copies: folders that only hold copies of the slices of a series, with its folder and label.
    """

    series: dict[tuple[str, str], Series]
    problems: dict[str, str]
    copies: dict[str, str]


@dataclass(frozen=True)
class _Placed:
    """The files of one series: the folder of each, as found, and its header."""

    identifier: str
    found: list[tuple[str, Slice]]

    @property
    def folders(self) -> set[str]:
        return {folder for folder, _ in self.found}

    @property
    def beside(self) -> bool:
        return all(is_beside(one) for _, one in self.found)

    @property
    def skip(self) -> str:
        slices = [one for _, one in self.found]
        if all(one.skip for one in slices):
            return slices[0].skip
        return "a single slice, not a volume" if len(slices) == 1 and slices[0].frames == 1 else ""


def gather(root: Path, files: Mapping[str, Iterable[str]], mr: bool = False) -> Gathered:
    """Read the headers of the DICOM files of a tree, and group them by series.

    Files that are byte-for-byte copies of an earlier slice are left out.

    Args:
        root: the folder that all paths are relative to.
        files: names by folder; other formats may be included.
        mr: whether series of MR are accepted too.
    """
    placed, unread = _read(root, files, mr)
    placed = _whole_copies_apart(placed, unread)
    problems, broken = _settle_problems(placed, unread)
    kept = {key: _without_copies(one) for key, one in placed.items()}
    homes = {key: _common(one.folders) for key, one in kept.items()}
    crowds: dict[str, set[str]] = {}
    for one in placed.values():
        for place in _seen_alone(one.folders):
            crowds.setdefault(place, set()).add(one.identifier)
    for key, home in homes.items():
        crowds.setdefault(home, set()).add(kept[key].identifier)
    series: dict[tuple[str, str], Series] = {}
    copies: dict[str, str] = {}
    for key, home in sorted(homes.items()):
        times = tuple((root / folder, (root / folder).stat().st_mtime_ns) for folder in placed[key].folders)
        uid, slices = kept[key].identifier, tuple(one for _, one in kept[key].found)
        label = _label(uid, crowds[home])
        series[home, label] = Series(
            uid, slices, kept[key].skip, broken.get(key, ""), times, kept[key].beside
        )
        copies |= dict.fromkeys(placed[key].folders - kept[key].folders, home + label)
    return Gathered(series, problems, copies)


def _read(
    root: Path, files: Mapping[str, Iterable[str]], mr: bool
) -> tuple[dict[tuple[str, str], _Placed], dict[str, dict[str, str]]]:
    """Return the slices by series, and the reasons of unreadable files, by folder and name."""
    placed: dict[tuple[str, str], _Placed] = {}
    unread: dict[str, dict[str, str]] = {}
    for folder in sorted(files, key=lambda path: path.split("/")):
        for name in sorted(files[folder]):
            one = _read_slice(root / folder / name, name.lower(), mr)
            if isinstance(one, Slice):
                nameless = one.series in ("", INDEX_NAME)  # only the folder identifies its series
                key = one.series, folder if nameless else ""
                placed.setdefault(key, _Placed(one.series, [])).found.append((folder, one))
            elif one:
                unread.setdefault(folder, {})[name] = one
    return placed, unread


def _settle_problems(
    placed: Mapping[tuple[str, str], _Placed], unread: Mapping[str, Mapping[str, str]]
) -> tuple[dict[str, str], dict[tuple[str, str], str]]:
    """Assign unreadable files next to a single series to that series; give others a row per reason."""
    problems: dict[str, str] = {}
    broken: dict[tuple[str, str], str] = {}
    beside: dict[str, list[tuple[str, str]]] = {}
    for key, one in placed.items():
        for folder in one.folders if unread and not one.skip else ():
            beside.setdefault(folder, []).append(key)
    for folder, reasons in unread.items():
        alike: dict[str, list[str]] = {}
        for name, reason in reasons.items():
            alike.setdefault(reason, []).append(name)
        for reason, names in alike.items():
            more = f" (and {len(names) - 1:,} more files in the same folder)" if len(names) > 1 else ""
            keys = beside.get(folder, [])
            if len(keys) == 1 and reason != _ANOTHER_FORMAT:
                broken.setdefault(keys[0], f"slice {names[0]} cannot be read: {reason}{more}")
            else:
                problems[within(folder, names[0])] = reason + more
    return problems, broken


def _whole_copies_apart(
    placed: dict[tuple[str, str], _Placed], unread: Mapping[str, Mapping[str, str]]
) -> dict[tuple[str, str], _Placed]:
    """Group slices by series, and by folder if one holds all slices of the others but with other bytes.

    Thus an unreadable copy hides no good one, and a copy cannot hide that it differs.
    """
    apart: dict[tuple[str, str], _Placed] = {}
    for key, one in placed.items():
        by_folder: dict[str, list[tuple[str, Slice]]] = {}
        for folder, slice_ in one.found:
            by_folder.setdefault(folder, []).append((folder, slice_))
        names, copied = {slice_.instance for _, slice_ in one.found}, set[str]()
        if "" in names or len(by_folder) == 1 or len(names) == one.found[0][1].frames == 1:
            apart[key] = one
            continue
        for folder in reversed(by_folder):
            mine, lost = by_folder[folder], len(unread.get(folder, {}))
            if len(mine) + lost < len(names):
                continue
            kept = by_folder.keys() - copied - {folder}
            others = {slice_.instance: slice_ for place, slice_ in one.found if place in kept}
            same = (_same_bytes(others[slice_.instance], slice_) for _, slice_ in mine)
            if all(slice_.instance in others for _, slice_ in mine) and (lost or not all(same)):
                copied.add(folder)
        copied.discard(_common(by_folder.keys() - copied))  # a folder has one series of a given name
        apart |= {(key[0], folder): _Placed(one.identifier, by_folder[folder]) for folder in copied}
        apart[key] = _Placed(one.identifier, [pair for pair in one.found if pair[0] not in copied])
    return apart


def _same_bytes(one: Slice, other: Slice) -> bool:
    try:
        return filecmp.cmp(one.path, other.path, shallow=False)
    except OSError:  # reported when it is read
        return False


def _without_copies(placed: _Placed) -> _Placed:
    """Drop slices that are copies of an earlier one."""
    first: dict[str, Slice] = {}
    kept = []
    for folder, one in placed.found:
        other = first.setdefault(one.instance, one)
        if not one.instance or other is one or not _same_bytes(other, one):
            kept.append((folder, one))
    return _Placed(placed.identifier, kept)


def _common(folders: Iterable[str]) -> str:
    """Return the innermost folder that holds all given folders."""
    return os.path.commonpath(list(folders)) or HERE


def _parts(folder: str) -> list[str]:
    return [] if folder == HERE else folder.split("/")


def _seen_alone(folders: set[str]) -> set[str]:
    """Return the folders that could name a series if only part of the tree were searched.

    Labels account for these, so a path has the same meaning whether the whole tree or one folder is searched.
    """
    if len(folders) == 1:
        return folders
    inside: dict[str, set[str]] = {}
    for folder in folders:
        parts = _parts(folder)
        for depth in range(len(parts) + 1):
            inside.setdefault("/".join(parts[:depth]) or HERE, set()).add(folder)
    return {place for place, ones in inside.items() if _common(ones) == place}


def _label(uid: str, crowd: set[str]) -> str:
    if len(crowd) == 1:
        return ""
    if not uid:
        return "#unnamed"
    return f"#{uid[-8:]}" if len({other[-8:] for other in crowd}) == len(crowd) else f"#{uid}"


def _read_slice(path: Path, name: str, mr: bool) -> Slice | str:
    """Return a file's header; else the reason why supposed DICOM is unusable, or empty for other formats."""
    if name.endswith(_NO_DICOM):
        return ""
    named = name.endswith(DICOM_SUFFIXES)
    try:
        check_regular(path)
    except DataError as error:
        return str(error) if named or not os.access(path.parent, os.X_OK) else ""
    bad = bad_name(str(path))
    try:
        one = read_header(path, mr)
    except DataError as error:
        return bad or str(error)
    if one is not None:
        return bad or one
    return (bad or _ANOTHER_FORMAT) if named else ""
