"""Finds the scans in a folder.

CT has two layouts: LUNA16 (`subset0` .. `subset9`, each scan a `.mhd` with its `.raw` or `.zraw`) and `files`
(any folder, searched recursively for `.mhd`, `.mha`, `.nii`, `.nii.gz`, `.nrrd` and DICOM series); `nih`
finds X-ray images. Only names are inspected here, and headers are read later, scan by scan; DICOM is the
exception, since a series is recognised only by its headers.
"""

import os
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, get_args

from genesis_toolkit.pipeline.absent import check_scans
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.ledger import AnyPath
from genesis_toolkit.pipeline.scans.dicom import INDEX_NAME
from genesis_toolkit.pipeline.scans.files import (
    HERE,
    NAMED_LIKE_A_SCAN,
    Aside,
    bad_name,
    is_folder,
    listed,
    shown,
    walk,
    within,
)
from genesis_toolkit.pipeline.scans.formats import IMAGE_SUFFIXES, SUFFIXES
from genesis_toolkit.pipeline.scans.gather import SAME, gather
from genesis_toolkit.pipeline.wording import counted

Layout = Literal["auto", "luna16", "files"]
ImageLayout = Literal["nih", "images"]
#: Possible layouts of X-ray images.
IMAGE_LAYOUTS = get_args(ImageLayout)

#: LUNA16 subsets for pre-training: 7-9 are the test set of the nodule task (METHOD.md section 2).
PRETRAINING_SUBSETS = frozenset(range(7))

_SUBSET = re.compile(r"subset(\d)")
_INSIDE_SUBSET = re.compile(r"(?:.*/)?subset\d(?=/|$)")

_ARCHIVE = re.compile(r"subset\d\.(zip|7z|rar|tar|tgz|tar\.gz)")
_NIH_IMAGE = re.compile(r"\d{8}_\d{3}\.png")

#: The table of NIH ChestX-ray14: the original, or the corrected `Data_Entry_2017_v2020.csv`.
NIH_TABLE = re.compile(r"Data_Entry_2017.*\.csv")


@dataclass(frozen=True)
class Source:
    """A scan that was found but not yet opened.

    Attributes:
        identifier: the SeriesInstanceUID in LUNA16 and DICOM, else the path without its suffix.
        subset: subset of LUNA16; -1 if there is none.
        path: relative to the folder searched, with `/`. For a DICOM series its folder, followed by `#` and
            the end of its SeriesInstanceUID if the folder holds several.
        problem: an error found during the search that keeps the scan from being read; else empty.
        skip: the reason for skipping it without an error, for example a DICOM localizer; else empty.
        whose: a hash shared by the scans of one patient; 0 if the source does not identify patients.
        known: for a DICOM series its folder, number and description, shown on terminals only; else empty.
        part: its index in `PARTS` from a split file; None without one.
    """

    identifier: str
    subset: int
    path: str
    problem: str = ""
    skip: str = ""
    whose: int = 0
    known: str = ""
    part: int | None = None


OfSource = TypeVar("OfSource", bound=Source)


@dataclass(frozen=True)
class Found:
    """The contents of a folder.

    Attributes:
        root: the folder that the paths are relative to.
        layout: its layout.
        sources: the scans by subset and path, including those to be skipped.
        passed_over: LUNA16 subsets of the test set that hold scans and were left out by default.
        other_list: number of NIH images found on the official list that was not selected.
        absent: number of NIH images on the list but not in the folder: most downloads are partial.
        beside: numbers of scouts, captures and similar objects next to the DICOM volumes, by kind.
    """

    root: Path
    layout: Literal["luna16", "files", "nih", "images"]
    sources: tuple[Source, ...]
    passed_over: tuple[int, ...] = ()
    other_list: int = 0
    absent: int = 0
    beside: tuple[tuple[str, int], ...] = ()

    def names(self) -> dict[str, str]:
        """Return display names of the scans, by path; after the source's path, each names its scan."""
        known = {
            one.path: f"{one.path.rpartition('/')[0]}/{one.identifier.rpartition('.')[2]}"
            if one.subset >= 0
            else one.known or one.path
            for one in self.sources
        }
        count = Counter(known.values())
        return {path: name if count[name] == 1 else path for path, name in known.items()}

    @property
    def said(self) -> tuple[str, ...]:
        """Return a sentence on the objects next to the volumes, if there are any."""
        kinds = ", ".join(f"{count} x {kind}" for kind, count in self.beside)
        count = sum(count for _, count in self.beside)
        return (f"{counted(count, 'DICOM object')} skipped next to the scans: {kinds}.",) if count else ()


def layout_of(source: Path | str) -> Literal["luna16", "files", "nih"]:
    """Return a folder's layout, judged by the names in it; `files` if it is not a readable folder."""
    try:
        entries = listed(Path(source)) if source else []
    except CallError:
        return "files"
    if _subset_folders(entries):
        return "luna16"
    return "nih" if any(NIH_TABLE.fullmatch(entry.name) for entry in entries) else "files"


def find_scans(
    source: AnyPath, layout: Layout = "auto", subsets: Collection[int] | None = None, *, mr: bool = False
) -> Found:
    """Find the scans of a folder (or take the one file given).

    Args:
        source: the folder; an empty text is refused, not read as the current folder.
        layout: `auto` chooses LUNA16 if there is a folder `subset0` .. `subset9`.
        subsets: the LUNA16 subsets to take; None takes those for pre-training, 0-6.
        mr: whether DICOM series of MR are taken too instead of skipped.

    Raises:
        CallError: the folder does not exist, cannot be opened or holds no scan; subsets were given for
            another layout; or the folder is one level off from LUNA16's, or holds X-ray images.
    """
    source, alone = check_source(source)
    if alone:
        return _found_files(source.parent, {HERE: [source.name]}, {}, subsets, mr)
    entries = listed(source)
    folders = _subset_folders(entries)
    if layout == "luna16" and not folders:
        raise CallError(
            f"--layout luna16 does not fit {source}, which has no folder subset0 .. subset9: omit the option."
        )
    if folders and layout != "files":
        return _found_luna16(source, folders, subsets)
    if layout == "auto" and any(NIH_TABLE.fullmatch(entry.name) for entry in entries):
        raise CallError(
            f"{source} has the layout of NIH ChestX-ray14, whose images are not CT scans: "
            "extract them with ImageParameters, or use --layout files to use CT scans in "
            "this folder."
        )
    found = _found_files(source, *walk(source, SUFFIXES), subsets, mr)
    if layout == "auto":
        _check_no_subset(found)
    return found


def check_source(source: AnyPath) -> tuple[Path, bool]:
    """Return the folder or file to search, and whether it is a file.

    Raises:
        CallError: the path is empty, does not exist, or cannot be opened.
    """
    source = check_scans(source)
    return source, source.is_file()


def _subset_folders(entries: list[os.DirEntry[str]]) -> dict[int, os.DirEntry[str]]:
    """Return LUNA16's folders `subset0` .. `subset9`, by number."""
    named = {int(match[1]): entry for entry in entries if (match := _SUBSET.fullmatch(entry.name))}
    return {subset: entry for subset, entry in named.items() if is_folder(entry)}


def _check_no_subset(found: Found) -> None:
    """Refuse a folder one level off from LUNA16's, since its test subsets would be included silently.

    Raises:
        CallError: a path leads through a folder `subset0` .. `subset9`.
    """
    root = found.root.resolve()
    inside = root if _SUBSET.fullmatch(root.name) else None
    for folder in dict.fromkeys(scan.path.rpartition("/")[0] for scan in found.sources):
        match = _INSIDE_SUBSET.match(folder)
        if match and inside is None:
            inside = root / match[0]
    if inside is not None:
        raise CallError(
            f"{found.root} is not LUNA16's main folder, but {inside} looks like one of its "
            f"subsets: give {inside.parent}, or use --layout files to use all scans, "
            "including test subsets 7-9."
        )


def _found_luna16(
    source: Path, folders: dict[int, os.DirEntry[str]], subsets: Collection[int] | None
) -> Found:
    selected = PRETRAINING_SUBSETS if subsets is None else frozenset(subsets)
    missing = sorted(selected - folders.keys())
    if not selected & folders.keys():
        raise CallError(
            f"--subsets does not fit {source}, which has no subset "
            f"{', '.join(map(str, missing))}: choose from "
            f"{', '.join(map(str, sorted(folders)))}."
        )
    present = sorted(selected & folders.keys())
    sources = []
    for subset in present:
        folder = folders[subset].name
        for entry in sorted(_headers(folders[subset]), key=lambda entry: entry.name):
            name, skip = shown(entry.name), NAMED_LIKE_A_SCAN if is_folder(entry) else ""
            place = f"{folder}/{name}"
            sources.append(Source(name.removesuffix(".mhd"), subset, place, bad_name(entry.path), skip))
    if not sources:
        raise CallError(
            f"There is no scan (.mhd) in subset {', '.join(map(str, present))} of "
            f"{source}: unpack LUNA16's archives there, or choose other --subsets."
        )
    left_out = sorted(folders.keys() - selected) if subsets is None else []
    passed_over = tuple(subset for subset in left_out if _headers(folders[subset]))
    return Found(source, "luna16", tuple(sources), passed_over)


def _headers(folder: os.DirEntry[str]) -> list[os.DirEntry[str]]:
    return [entry for entry in listed(Path(folder.path)) if entry.name.endswith(".mhd")]


def _found_files(
    root: Path,
    files: dict[str, list[str]],
    aside: dict[str, Aside],
    subsets: Collection[int] | None,
    mr: bool,
) -> Found:
    if subsets is not None:
        raise CallError(
            f"--subsets selects subsets of LUNA16, but {root} has no folder subset0 .. "
            "subset9: omit --subsets."
        )
    sources: list[Source] = []
    bad_root = bad_name(str(root))
    others: dict[str, list[str]] = {}
    for folder, names in files.items():
        for name in names:
            if name.lower().endswith(SUFFIXES):
                path = within(folder, name)
                place = shown(path)
                problem = bad_root or bad_name(path)
                sources.append(Source(_without_suffix(place), NO_SUBSET, place, problem))
            else:
                others.setdefault(folder, []).append(name)
    series, beside = _found_dicom(root, others, mr)
    sources += series
    taken = {source.path for source in sources}
    for path, why in aside.items():
        place = shown(path)
        if place not in taken:
            sources.append(Source(place, NO_SUBSET, place, why.problem, why.skip))
    if not sources:  # without any volume, the other objects get a row each
        sources, beside = beside, []
    if not sources:
        looked = f"searched for {', '.join(SUFFIXES)} and DICOM, including subfolders"
        raise CallError(f"There is no scan in {root}: {looked}.{_what_is_there(files)}")
    kinds = Counter(_KIND.sub("", one.skip) for one in beside)
    ordered = sorted(sources, key=lambda source: source.path.split("/"))
    return Found(root, "files", tuple(ordered), beside=tuple(kinds.items()))


def _found_dicom(root: Path, files: dict[str, list[str]], mr: bool) -> tuple[list[Source], list[Source]]:
    """Return a tree's DICOM series with those that should be DICOM but are unreadable; and other objects."""
    gathered = gather(root, files, mr)
    sources, beside = list[Source](), list[Source]()
    for (folder, label), one in gathered.series.items():
        place = shown(folder) + label
        if one.identifier == INDEX_NAME:
            place = shown(within(folder, one.slices[0].path.name))
        identifier = one.identifier or (place if folder != HERE else shown(root.resolve().name) + label)
        problem = bad_name(str(root / folder)) or one.problem
        whose = next((part.whose for part in one.slices if part.whose), 0)
        kind = beside if one.beside else sources
        known = shown(root.resolve().name if folder == HERE else folder)
        known += f"#{one.slices[0].title}" if one.slices[0].title else label
        problem = "" if one.skip else problem
        kind.append(Source(identifier, NO_SUBSET, place, problem, one.skip, whose, known))
    for name, problem in gathered.problems.items():
        sources.append(Source(shown(name), NO_SUBSET, shown(name), problem))
    taken = {source.path for source in sources}
    for folder, home in gathered.copies.items():
        if shown(folder) not in taken:
            sources.append(Source(shown(folder), NO_SUBSET, shown(folder), skip=SAME + shown(home)))
    return sources, beside


def _what_is_there(files: dict[str, list[str]]) -> str:
    """Return a hint, after a space, if a folder without scans holds files that could be used; else empty."""
    names = [name for there in files.values() for name in there]
    if archives := sorted(name for name in names if _ARCHIVE.fullmatch(name)):
        return f" It holds {archives[0]}: unpack LUNA16's archives there first."
    if images := sorted(name for name in names if _NIH_IMAGE.fullmatch(name)):
        return (
            f" It holds images named like those of NIH ChestX-ray14, such as {images[0]}: add the download's "
            "table Data_Entry_2017*.csv and its lists of images, or give --layout images to use them without."
        )
    if pictures := sorted(name for name in names if name.lower().endswith(IMAGE_SUFFIXES)):
        return f" It holds pictures such as {pictures[0]}: if they are X-ray images, use --layout images."
    return ""


def _without_suffix(path: str) -> str:
    return path[: -len(".nii.gz")] if path.lower().endswith(".nii.gz") else path.rpartition(".")[0]


#: Parts to strip from a series' reason to obtain its kind.
_KIND = re.compile(r"^the DICOM | is(?= \w+; only)|; only CT is read$|, not a volume$")
NO_SUBSET = -1
