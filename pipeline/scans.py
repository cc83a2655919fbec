"""What a scan is; the scans of a folder; reading one.

Two layouts: LUNA16 (`subset0` .. `subset9`, one `.mhd` with its `.raw` or `.zraw` a scan) and `files` (any
folder, searched to the bottom for `.mhd`, `.mha`, `.nii`, `.nii.gz`, `.nrrd` and DICOM series). Finding looks
at names only, and a header is read when a scan's turn comes; only DICOM tells its series in the headers.
"""

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.dicom import DICOM_SUFFIXES, Series, group_series, is_dicom, read_planes, stack
from pipeline.errors import CallError, DataError
from pipeline.files import NAMED_LIKE_A_SCAN, Aside, bad_name, check_file, listed, not_opened, shown, walk
from pipeline.formats import META_IMAGE, NIFTI, check_meta_image, check_nifti, files_of, inflate_meta_image
from pipeline.grid import Geometry as Geometry
from pipeline.grid import Scan as Scan
from pipeline.tables import NO_SUBSET

Layout = Literal["auto", "luna16", "files"]

#: What a scan's file may be called.
SUFFIXES = (".mhd", ".mha", ".nii", ".nii.gz", ".nrrd")
_NO_DICOM = (".raw", ".zraw")  # they lie beside headers by the hundred, so they are not looked into

#: The LUNA16 subsets that pre-training may see: 7-9 are the nodule task's test set (METHOD.md section 2).
PRETRAINING_SUBSETS = frozenset(range(7))

_SUBSET = re.compile(r"subset(\d)")
_BLOCK = 1 << 20
_INT16 = (-32768, 32767)


@dataclass(frozen=True)
class Source:
    """A scan that was found, not yet opened.

    Attributes:
        identifier: the SeriesInstanceUID in LUNA16 and DICOM, else the path without its suffix.
        subset: of LUNA16, -1 where there is none.
        path: relative to the folder searched, with `/`. Of a DICOM series its folder, followed by `#` and
            the end of its SeriesInstanceUID where the folder holds several.
        problem: why it cannot be taken though it should be, known from finding it already; else empty.
        skip: why it is passed over, as a DICOM localizer is, which is no failure; else empty.
    """

    identifier: str
    subset: int
    path: str
    problem: str = ""
    skip: str = ""


@dataclass(frozen=True)
class Found:
    """What a folder holds.

    Attributes:
        root: the folder that the paths are relative to.
        layout: how it is laid out.
        sources: the scans, by subset and path, and what is passed over by name.
        passed_over: LUNA16 subsets of the test set that hold scans and were left out by default.
    """

    root: Path
    layout: Literal["luna16", "files"]
    sources: tuple[Source, ...]
    passed_over: tuple[int, ...] = ()


def find_scans(source: Path, layout: Layout = "auto", subsets: Collection[int] | None = None) -> Found:
    """Find the scans of a folder (or take the one file given).

    Args:
        source: the folder.
        layout: `auto` takes LUNA16's where there is a folder `subset0` .. `subset9`.
        subsets: the LUNA16 subsets to take; None takes those for pre-training, 0-6.

    Raises:
        CallError: no such folder, no scan in it, subsets of a folder that has none, or a folder one level off
            from LUNA16's.
    """
    if not source.exists():
        raise CallError(f"There is no folder {source}: give the folder that holds the scans.")
    if source.is_file():
        return _found_files(source.parent, ([source], {}), subsets)
    folders = {int(match[1]): path for path, match in _subset_folders(source)}
    if layout == "luna16" and not folders:
        raise CallError(f"{source} holds no folder subset0 .. subset9, so it is not laid out as LUNA16.")
    if folders and layout != "files":
        return _found_luna16(source, folders, subsets)
    found = _found_files(source, walk(source, SUFFIXES), subsets)
    if layout == "auto":
        _check_no_subset(found)
    return found


def _check_no_subset(found: Found) -> None:
    """Refuse a folder one level off from LUNA16's: its test subsets would be taken without a word.

    Raises:
        CallError: a path leads through a folder `subset0` .. `subset9`.
    """
    for scan in found.sources:
        parts = [found.root.resolve(), *(found.root.resolve() / part for part in Path(scan.path).parents)]
        inside = next((part for part in parts if _SUBSET.fullmatch(part.name)), None)
        if inside is not None:
            raise CallError(
                f"{found.root} is not LUNA16's own folder, but {inside} looks like a subset of it: give "
                f"{inside.parent}, or --layout files to take all scans, those of the test subsets 7-9 too."
            )


def read_geometry(path: Path) -> Geometry:
    """Read a scan's header only; of a DICOM series, given as in `Source.path`, those of all its slices.

    Raises:
        DataError: it cannot be read, or is no volume of one number a voxel.
    """
    import SimpleITK as sitk

    series = _series_at(path)
    if series:
        return stack(series.slices).geometry
    check_file(path)
    if path.suffix.lower() in META_IMAGE:
        check_meta_image(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        raise DataError("its header cannot be read: it is damaged or of another format") from None
    if path.name.lower().endswith(NIFTI):
        check_nifti(path, reader)
    dimensions, components = reader.GetDimension(), reader.GetNumberOfComponents()
    shape = tuple(int(edge) for edge in reader.GetSize())
    if dimensions != 3:
        raise DataError(f"it has {dimensions} dimensions ({' x '.join(map(str, shape))}), 3 wanted")
    if components != 1:
        raise DataError(f"it has {components} numbers a voxel (colour?), 1 wanted")
    if min(shape) < 1:
        raise DataError(f"it has no voxels ({' x '.join(map(str, shape))})")
    spacing = tuple(float(edge) for edge in reader.GetSpacing())
    if not all(np.isfinite(edge) and edge > 0 for edge in spacing):
        raise DataError(f"its spacing {spacing} is not positive")
    origin = tuple(float(edge) for edge in reader.GetOrigin())
    direction = tuple(float(cosine) for cosine in reader.GetDirection())
    return Geometry(_three(shape), _three(spacing), _three(origin), direction)


def read_scan(path: Path) -> Scan:
    """Read a scan whole.

    Values that are not whole are rounded, halves to even; those outside int16 are clipped to it.

    Raises:
        DataError: it cannot be read; the message says why, to go after the scan's name.
    """
    import SimpleITK as sitk

    series = _series_at(path)
    if series:
        return _read_series(series)
    geometry = read_geometry(path)
    values = inflate_meta_image(path) if path.suffix.lower() in META_IMAGE else None
    if values is None:
        try:
            values = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        except RuntimeError:
            raise DataError("its voxels cannot be read: the file is damaged or cut short") from None
    return Scan(_as_int16(values).T, geometry, _hash_files(files_of(path)))


def scan_files(path: Path) -> list[Path]:
    """The files that a scan is made of: header first, or the slices of a DICOM series by name.

    Raises:
        DataError: there is no such series, or the header points outside its own folder.
    """
    series = _series_at(path)
    return [one.path for one in series.slices] if series else files_of(path)


def _subset_folders(source: Path) -> Iterator[tuple[Path, re.Match[str]]]:
    for path in listed(source):
        match = _SUBSET.fullmatch(path.name)
        if match and path.is_dir():
            yield path, match


def _found_luna16(source: Path, folders: dict[int, Path], subsets: Collection[int] | None) -> Found:
    wanted = PRETRAINING_SUBSETS if subsets is None else frozenset(subsets)
    missing = sorted(wanted - folders.keys())
    if not wanted & folders.keys():
        raise CallError(
            f"{source} has no subset {', '.join(map(str, missing))}; there are "
            f"{', '.join(map(str, sorted(folders)))}: choose with --subsets."
        )
    present = sorted(wanted & folders.keys())
    sources = []
    for subset in present:
        for path in _headers(folders[subset]):
            name, skip = shown(Path(path.name)), NAMED_LIKE_A_SCAN if path.is_dir() else ""
            place = f"{folders[subset].name}/{name}"
            sources.append(Source(name.removesuffix(".mhd"), subset, place, bad_name(path), skip))
    if not sources:
        raise CallError(f"No scan (.mhd) lies in subset {', '.join(map(str, present))} of {source}.")
    left_out = sorted(folders.keys() - wanted) if subsets is None else []
    passed_over = tuple(subset for subset in left_out if _headers(folders[subset]))
    return Found(source, "luna16", _told_apart(sources), passed_over)


def _headers(folder: Path) -> list[Path]:
    return sorted(path for path in listed(folder) if path.suffix == ".mhd")


def _found_files(
    root: Path, walked: tuple[list[Path], dict[Path, Aside]], subsets: Collection[int] | None
) -> Found:
    if subsets is not None:
        raise CallError(
            f"--subsets chooses among the subsets of LUNA16, but {root} has no folder subset0 .. 9."
        )
    paths, aside = walked
    sources: list[Source] = []
    others: dict[Path, list[Path]] = {}
    for path in paths:
        if path.name.lower().endswith(SUFFIXES):
            name = shown(path.relative_to(root))
            sources.append(Source(_without_suffix(name), NO_SUBSET, name, bad_name(path)))
        else:
            others.setdefault(path.parent, []).append(path)
    for folder, files in others.items():
        sources += _found_dicom(root, folder, files)
    taken = {source.path for source in sources}
    for path, why in aside.items():
        name = shown(path.relative_to(root))
        if name not in taken:
            sources.append(Source(name, NO_SUBSET, name, why.problem, why.skip))
    if not sources:
        raise CallError(
            f"No scan lies in {root}: looked for {', '.join(SUFFIXES)} and DICOM, in all its folders."
        )
    return Found(root, "files", _told_apart(sorted(sources, key=lambda source: source.path.split("/"))))


def _found_dicom(root: Path, folder: Path, files: list[Path]) -> list[Source]:
    """The DICOM series of a folder, and the files that should be DICOM but cannot be taken."""
    chosen, problems = _dicom_among(files)
    series, damaged = group_series(chosen)
    sources = []
    for label, one in _labelled(series).items():
        name = shown(folder.relative_to(root)) + label
        identifier = one.identifier or (name if folder != root else shown(Path(root.resolve().name)) + label)
        sources.append(Source(identifier, NO_SUBSET, name, bad_name(folder), one.skip))
    for path, problem in (problems | damaged).items():
        name = shown(path.relative_to(root))
        sources.append(Source(name, NO_SUBSET, name, problem))
    return sources


def _dicom_among(files: list[Path]) -> tuple[list[Path], dict[Path, str]]:
    """Which files are DICOM by their first bytes, and why others that should be cannot be taken."""
    chosen, problems = [], {}
    for path in files:
        if path.name.lower().endswith(_NO_DICOM):
            continue
        named = path.name.lower().endswith(DICOM_SUFFIXES)
        try:
            check_file(path)
        except DataError as error:
            if named or (path.is_file() and not os.access(path, os.R_OK)):
                problems[path] = str(error)
            continue
        begins = is_dicom(path)
        if begins and not bad_name(path):
            chosen.append(path)
        elif begins or named:
            problems[path] = bad_name(path) or "it is named as DICOM but is of another format"
    return chosen, problems


def _labelled(series: list[Series]) -> dict[str, Series]:
    """The series of a folder by what is put after the folder's name, so that each has a path of its own."""
    if len(series) == 1:
        return {"": series[0]}
    ends = [one.identifier[-8:] for one in series]
    if len(set(ends)) < len(ends):
        ends = [one.identifier for one in series]
    return {f"#{end}": one for end, one in zip(ends, series, strict=True)}


def _series_at(path: Path) -> Series | None:
    """The DICOM series that a path names: a folder, or a folder, `#` and a label; None where it is a file."""
    folder, label = path, ""
    if not path.is_dir():
        name, mark, end = path.name.rpartition("#")
        folder, label = path.parent / name, mark + end
        if not mark or path.exists() or not folder.is_dir():
            return None
    states = []
    try:
        for entry in os.scandir(folder):
            if not entry.name.lower().endswith(SUFFIXES) and entry.is_file():
                status = entry.stat()
                states.append((entry.name, status.st_size, status.st_mtime_ns))
    except OSError as error:
        raise DataError(not_opened(error)) from None
    series = _series_in(folder, tuple(sorted(states)))
    if label not in series:
        holds = ", ".join(folder.name + other for other in series) or "none"
        raise DataError(f"there is no such DICOM series; the folder holds {holds}")
    if series[label].skip:
        raise DataError(f"it cannot be taken: {series[label].skip}")
    return series[label]


@lru_cache(maxsize=2)
def _series_in(folder: Path, states: tuple[tuple[str, int, int], ...]) -> dict[str, Series]:
    """The series of a folder, kept while no file changes: a folder of many is read once, not once each."""
    return _labelled(group_series(_dicom_among([folder / name for name, _, _ in states])[0])[0])


def _read_series(series: Series) -> Scan:
    stacked = stack(series.slices)
    voxels = np.empty(stacked.geometry.shape[::-1], np.int16)
    for plane, values in zip(voxels, read_planes(stacked), strict=True):
        plane[...] = _as_int16(values)
    return Scan(voxels.T, stacked.geometry, _hash_files(stacked.files))


def _told_apart(sources: list[Source]) -> tuple[Source, ...]:
    """Mark scans that carry the identifier of an earlier one: their cubes would share random streams."""
    first: dict[str, str] = {}
    marked = []
    for source in sources:
        if not source.problem and not source.skip:
            other = first.setdefault(source.identifier, source.path)
            if other != source.path:
                source = replace(source, problem=f"its identifier is that of {other} as well")
        marked.append(source)
    return tuple(marked)


def _without_suffix(path: str) -> str:
    suffix = max((suffix for suffix in SUFFIXES if path.lower().endswith(suffix)), key=len)
    return path[: -len(suffix)]


def _as_int16(values: NDArray[Any]) -> NDArray[np.int16]:
    if values.dtype == np.int16:
        return values
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError("it holds values that are no numbers (NaN or infinite)")
    if values.dtype.kind not in "iuf":
        raise DataError(f"its voxels are {values.dtype}, whole or real numbers wanted")
    clipped = np.clip(values, *_INT16) if values.dtype.itemsize > 1 else values
    return (np.rint(clipped) if clipped.dtype.kind == "f" else clipped).astype(np.int16)


def _hash_files(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def _three(values: tuple[Any, ...]) -> tuple[Any, Any, Any]:
    x, y, z = values
    return x, y, z
