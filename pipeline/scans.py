"""What a scan is; the scans of a folder; reading one.

Two layouts: LUNA16 (`subset0` .. `subset9`, one `.mhd` with its `.raw` or `.zraw` a scan) and `files` (any
folder, searched to the bottom for `.mhd`, `.mha`, `.nii`, `.nii.gz` and `.nrrd`). Finding looks at names
only; a header is read when a scan's turn comes.
"""

import hashlib
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import CallError, DataError
from pipeline.formats import META_IMAGE, NIFTI, check_meta_image, check_nifti, files_of, inflate_meta_image
from pipeline.tables import NO_SUBSET

Layout = Literal["auto", "luna16", "files"]

#: What a scan's file may be called.
SUFFIXES = (".mhd", ".mha", ".nii", ".nii.gz", ".nrrd")

#: The LUNA16 subsets that pre-training may see: 7-9 are the nodule task's test set (METHOD.md section 2).
PRETRAINING_SUBSETS = frozenset(range(7))

_SUBSET = re.compile(r"subset(\d)")
_BLOCK = 1 << 20
_INT16 = (-32768, 32767)


@dataclass(frozen=True)
class Source:
    """A scan that was found, not yet opened.

    Attributes:
        identifier: the SeriesInstanceUID in LUNA16, else the path without its suffix.
        subset: of LUNA16, -1 where there is none.
        path: relative to the folder searched, with `/`.
        problem: why it cannot be taken, known from its name already; else empty.
    """

    identifier: str
    subset: int
    path: str
    problem: str = ""


@dataclass(frozen=True)
class Found:
    """What a folder holds.

    Attributes:
        root: the folder that the paths are relative to.
        layout: how it is laid out.
        sources: the scans, by subset and identifier.
        passed_over: LUNA16 subsets of the test set that hold scans and were left out by default.
    """

    root: Path
    layout: Literal["luna16", "files"]
    sources: tuple[Source, ...]
    passed_over: tuple[int, ...] = ()


@dataclass(frozen=True)
class Geometry:
    """Where a scan's voxels lie in the patient.

    Attributes:
        shape: voxels in x, y, z.
        spacing: mm between voxel centres in x, y, z.
        origin: mm, the centre of voxel (0, 0, 0).
        direction: the direction cosines, row by row, nine numbers.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]


@dataclass(frozen=True)
class Scan:
    """A scan, read.

    Attributes:
        voxels: int16 [x, y, z], HU, x fastest in memory; not clipped to any window.
        geometry: where they lie.
        sha256: over the bytes of its files, header first, in hexadecimal.
    """

    voxels: NDArray[np.int16]
    geometry: Geometry
    sha256: str


def find_scans(source: Path, layout: Layout = "auto", subsets: Collection[int] | None = None) -> Found:
    """Find the scans of a folder (or take the one file given).

    Args:
        source: the folder.
        layout: `auto` takes LUNA16's where there is a folder `subset0` .. `subset9`.
        subsets: the LUNA16 subsets to take; None takes those for pre-training, 0-6.

    Raises:
        CallError: no such folder, no scan in it, or subsets of a folder that has none.
    """
    if not source.exists():
        raise CallError(f"There is no folder {source}: give the folder that holds the scans.")
    if source.is_file():
        return _found_files(source.parent, [source], subsets)
    folders = {int(match[1]): path for path, match in _subset_folders(source)}
    if layout == "luna16" and not folders:
        raise CallError(f"{source} holds no folder subset0 .. subset9, so it is not laid out as LUNA16.")
    if folders and layout != "files":
        return _found_luna16(source, folders, subsets)
    return _found_files(source, sorted(_walk(source)), subsets)


def read_geometry(path: Path) -> Geometry:
    """Read a scan's header only.

    Raises:
        DataError: it cannot be read, or is no volume of one number a voxel.
    """
    import SimpleITK as sitk

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

    geometry = read_geometry(path)
    values = inflate_meta_image(path) if path.suffix.lower() in META_IMAGE else None
    if values is None:
        try:
            values = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        except RuntimeError:
            raise DataError("its voxels cannot be read: the file is damaged or cut short") from None
    return Scan(_as_int16(values).T, geometry, _hash_files(files_of(path)))


def _subset_folders(source: Path) -> Iterator[tuple[Path, re.Match[str]]]:
    for path in source.iterdir():
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
    sources = [
        Source(path.stem, subset, f"{folders[subset].name}/{path.name}")
        for subset in present
        for path in _headers(folders[subset])
    ]
    if not sources:
        raise CallError(f"No scan (.mhd) lies in subset {', '.join(map(str, present))} of {source}.")
    left_out = sorted(folders.keys() - wanted) if subsets is None else []
    passed_over = tuple(subset for subset in left_out if _headers(folders[subset]))
    return Found(source, "luna16", _told_apart(sources), passed_over)


def _headers(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix == ".mhd" and path.is_file())


def _found_files(root: Path, paths: list[Path], subsets: Collection[int] | None) -> Found:
    if subsets is not None:
        raise CallError(
            f"--subsets chooses among the subsets of LUNA16, but {root} has no folder subset0 .. 9."
        )
    paths = [path for path in paths if path.name.lower().endswith(SUFFIXES)]
    if not paths:
        raise CallError(f"No scan lies in {root}: looked for {', '.join(SUFFIXES)}, in all its folders.")
    sources = []
    for path in paths:
        relative = path.relative_to(root).as_posix()
        sources.append(Source(_without_suffix(relative), NO_SUBSET, relative))
    return Found(root, "files", _told_apart(sources))


def _told_apart(sources: list[Source]) -> tuple[Source, ...]:
    """Mark scans that carry the identifier of an earlier one: their cubes would share random streams."""
    first: dict[str, str] = {}
    marked = []
    for source in sources:
        other = first.setdefault(source.identifier, source.path)
        problem = "" if other == source.path else f"its identifier is that of {other} as well"
        marked.append(Source(source.identifier, source.subset, source.path, problem))
    return tuple(marked)


def _walk(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)


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


def _hash_files(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def _three(values: tuple[Any, ...]) -> tuple[Any, Any, Any]:
    x, y, z = values
    return x, y, z
