"""The DICOM series of a folder: told apart, found again by a path, and put together as volumes.

Reading a header costs an open file, so a folder's are read once and kept while it does not change.
"""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.scans.dicom import DICOM_SUFFIXES, Slice, read_header, state_of
from genesis_toolkit.pipeline.scans.files import bad_name, check_regular, is_folder, not_opened
from genesis_toolkit.pipeline.scans.formats import SUFFIXES
from genesis_toolkit.pipeline.scans.geometry import Geometry

_NO_DICOM = (".raw", ".zraw")  # they lie beside headers by the hundred, so they are not looked into

_SAME_COSINE = 1e-3  # scanners write cosines with three digits or more
_SAME_PLACE = 1e-2  # mm, and positions with two
_SAME_SPACING = 1e-4  # as a share
_TILT = 0.1  # degrees; positions and cosines as written leave 0.06


@dataclass(frozen=True)
class Series:
    """The files of a folder that carry one SeriesInstanceUID.

    Attributes:
        identifier: the SeriesInstanceUID; empty where it was removed.
        slices: its files, by name.
        skip: why it is no CT volume, as in "a localizer, not a volume"; empty for one that is.
    """

    identifier: str
    slices: tuple[Slice, ...]
    skip: str


@dataclass(frozen=True)
class Stack:
    """A series whose slices are in order.

    Attributes:
        files: by position along z, in the direction of the normal.
        geometry: where their voxels lie.
    """

    files: tuple[Path, ...]
    geometry: Geometry


def read_series(folder: Path, names: Iterable[str]) -> tuple[dict[str, Series], dict[str, str]]:
    """Read the headers of the DICOM files among the files of a folder, and put them together by series.

    Args:
        folder: where they lie.
        names: of the files; those of other formats need not be left out.

    Returns:
        series: by label, which is what is put after the folder's path so that each has a path of its own:
            nothing where there is one series, else `#` and the end of its SeriesInstanceUID.
        problems: why a file that should be DICOM cannot be taken, by name.
    """
    together: dict[str, list[Slice]] = {}
    problems = {}
    for name in sorted(names):
        one = _read_slice(folder / name, name.lower())
        if isinstance(one, Slice):
            together.setdefault(one.series, []).append(one)
        elif one:
            problems[name] = one
    return _labelled(
        [Series(uid, tuple(ones), _skip(ones)) for uid, ones in sorted(together.items())]
    ), problems


def series_at(path: Path) -> Series | None:
    """The DICOM series that a path names: a folder, or a folder and a label; None for any other path.

    Raises:
        DataError: there is no such series in the folder, it is no CT volume, or the folder cannot be opened.
    """
    folder, label = folder_and_label(path)
    if folder is None:
        return None
    series = series_of(folder)
    if label in series and not _unchanged(series[label]):
        _read_folder.cache_clear()
        series = series_of(folder)
    if label not in series:
        holds = ", ".join(folder.name + other for other in series) or "none"
        raise DataError(f"there is no such DICOM series; the folder holds {holds}")
    if series[label].skip:
        raise DataError(f"it cannot be taken: {series[label].skip}")
    return series[label]


def folder_and_label(path: Path) -> tuple[Path | None, str]:
    """A path of a series taken apart; no folder where it names a file or nothing.

    Raises:
        DataError: it cannot be told, because a folder that leads there is closed.
    """
    try:
        if path.is_dir():
            return path, ""
        name, mark, end = path.name.rpartition("#")
        if mark and not path.exists() and (folder := path.parent / name).is_dir():
            return folder, mark + end
    except OSError as error:
        raise DataError(not_opened(error)) from None
    return None, ""


def series_of(folder: Path) -> dict[str, Series]:
    """The series of a folder, by label; read anew when a file has come, gone or been renamed.

    Raises:
        DataError: it cannot be opened.
    """
    try:
        return _read_folder(folder, folder.stat().st_mtime_ns)
    except OSError as error:
        raise DataError(not_opened(error)) from None


@lru_cache(maxsize=2)
def _read_folder(folder: Path, _changed: int) -> dict[str, Series]:
    """The series of a folder, kept for the scans in it: looked up one by one, their cost stays linear."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not is_folder(entry)]
    return read_series(folder, (name for name in names if not name.lower().endswith(SUFFIXES)))[0]


def _unchanged(series: Series) -> bool:
    try:
        return all(state_of(one.path.stat()) == one.state for one in series.slices)
    except OSError:
        return False


def _read_slice(path: Path, name: str) -> Slice | str:
    """A file's header; if none, why it cannot be taken though it should be, or nothing for other formats."""
    if name.endswith(_NO_DICOM):
        return ""
    named = name.endswith(DICOM_SUFFIXES)
    try:
        check_regular(path)
    except DataError as error:
        return str(error) if named or not os.access(path.parent, os.X_OK) else ""
    bad = bad_name(str(path))
    try:
        one = read_header(path)
    except DataError as error:
        return bad or str(error)
    if one is not None:
        return bad or one
    return (bad or "it is named as DICOM but is of another format") if named else ""


def _labelled(series: list[Series]) -> dict[str, Series]:
    if len(series) == 1:
        return {"": series[0]}
    ends = [one.identifier[-8:] for one in series]
    if len(set(ends)) < len(ends):
        ends = [one.identifier for one in series]
    return {f"#{end}": one for end, one in zip(ends, series, strict=True)}


def _skip(slices: list[Slice]) -> str:
    if all(one.skip for one in slices):
        return slices[0].skip
    return "a single slice, not a volume" if len(slices) == 1 and slices[0].frames == 1 else ""


def stack(slices: tuple[Slice, ...]) -> Stack:
    """Put the slices of a series in order, and refuse those that make no whole, upright volume.

    Raises:
        DataError: slices of several kinds, sizes or orientations, without a place, twice at one place,
            missing, or sheared by a tilted gantry; the message goes after the scan's name.
    """
    _check_alike(slices)
    first = slices[0]
    positions = np.array([one.position for one in slices], dtype=np.float64)
    axes = np.reshape(np.array(first.orientation, dtype=np.float64), (2, 3))
    if np.abs(axes @ axes.T - np.eye(2)).max() > 2 * _SAME_COSINE:
        raise DataError("its rows and columns are not perpendicular, or their cosines are not of length 1")
    normal = np.cross(axes[0], axes[1])
    order = np.argsort(positions @ normal, kind="stable")  # equal places keep the order of the names
    positions = positions[order]
    heights = positions @ normal
    _check_gaps(heights)
    _check_upright(positions, heights, normal, min(first.spacing))
    x_mm, y_mm = first.spacing
    x, y, z = (float(value) for value in positions[0])
    geometry = Geometry(
        shape=(*first.edges, len(slices)),
        spacing=(x_mm, y_mm, float((heights[-1] - heights[0]) / (len(slices) - 1))),
        origin=(x, y, z),
        direction=tuple(np.stack([*axes, normal], axis=1).ravel().tolist()),
    )
    return Stack(tuple(slices[place].path for place in order), geometry)


def _check_alike(slices: tuple[Slice, ...]) -> None:
    first = slices[0]
    odd = Counter(one.skip for one in slices if one.skip)
    if odd:
        kind, count = odd.most_common(1)[0]
        raise DataError(f"its series mixes slices of a volume with {count} of another kind ({kind})")
    if any(one.frames > 1 for one in slices):
        raise DataError("it is a DICOM file of many frames, which is not read: export it as single slices")
    sizes = sorted({one.edges for one in slices})
    if len(sizes) > 1:
        raise DataError(f"its slices have {len(sizes)} sizes ({', '.join(f'{x} x {y}' for x, y in sizes)})")
    for one in slices:
        if (len(one.position), len(one.orientation), len(one.spacing)) != (3, 6, 2):
            raise DataError(f"its slice {one.path.name} does not say where it lies")
        if min(one.spacing) <= 0:
            raise DataError(f"its slice {one.path.name} has spacing {one.spacing}, which is not positive")
        if any(abs(a - b) > _SAME_COSINE for a, b in zip(one.orientation, first.orientation, strict=True)):
            raise DataError(
                f"its slices have several orientations: {one.path.name} is turned against {first.path.name}"
            )
        if any(abs(a - b) > _SAME_SPACING * b for a, b in zip(one.spacing, first.spacing, strict=True)):
            raise DataError(f"its slices have several spacings: {one.path.name} and {first.path.name} differ")


def _check_gaps(heights: NDArray[np.float64]) -> None:
    gaps = np.diff(heights)
    twice = int(np.count_nonzero(gaps < _SAME_PLACE))
    if twice:
        raise DataError(
            f"it holds {heights.size} slices at {heights.size - twice} positions: {twice} too many"
        )
    usual = float(np.median(gaps))
    worst = int(np.argmax(np.abs(gaps - usual)))
    # Positions written to hundredths of a mm leave twice that between two gaps of thin slices.
    if abs(gaps[worst] - usual) > max(0.01 * usual, 2 * _SAME_PLACE):
        raise DataError(
            f"its slices at {heights[worst]:.2f} and {heights[worst + 1]:.2f} mm are {gaps[worst]:.2f} mm "
            f"apart, {usual:.2f} is usual: slices are missing or irregular"
        )


def _check_upright(
    positions: NDArray[np.float64], heights: NDArray[np.float64], normal: NDArray[np.float64], fine: float
) -> None:
    """Refuse slices whose stack leans: its voxels would not lie on a rectangular grid."""
    aside = positions - positions[0] - np.outer(heights - heights[0], normal)
    tilt = float(np.degrees(np.arctan2(np.linalg.norm(aside[-1]), heights[-1] - heights[0])))
    if tilt > _TILT:
        raise DataError(f"its gantry is tilted by {tilt:.1f} degrees: its slices are not stacked upright")
    farthest = float(np.linalg.norm(aside, axis=1).max())
    if farthest > fine / 2:
        raise DataError(f"its slices are shifted aside by up to {farthest:.2f} mm")
