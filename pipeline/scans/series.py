"""Finds a DICOM series by its path, and stacks it to a volume.

Reading a header means opening a file, so the headers of a folder are kept as long as it does not change.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.scans.dicom import Slice, state_of
from genesis_toolkit.pipeline.scans.files import HERE, not_opened, walk
from genesis_toolkit.pipeline.scans.formats import SUFFIXES
from genesis_toolkit.pipeline.scans.frames import unfolded
from genesis_toolkit.pipeline.scans.gate import MOST_SHEAR, damaged, no_scan, unsupported, upright
from genesis_toolkit.pipeline.scans.gather import Series, gather
from genesis_toolkit.pipeline.scans.geometry import Geometry
from genesis_toolkit.pipeline.scans.pixels import check_pixels, same_pixels

_SAME_COSINE = 1e-3  # scanners write cosines with three or more decimals
_SAME_PLACE = 1e-2  # mm; positions have two decimals
_SAME_SPACING = 1e-4  # relative
_NEVER_EVEN = 0.4  # share of the usual gap: any larger surplus is a missing slice, whatever the rounding


@dataclass(frozen=True)
class Stack:
    """A series with its slices in order.

    Attributes:
        slices: by position along z, in the direction of the normal.
        geometry: geometry of their voxels.
    """

    slices: tuple[Slice, ...]
    geometry: Geometry


def series_at(path: Path, mr: bool = False) -> Series | None:
    """Return the DICOM series at a path: a folder, or a folder and a label; None for any other path.

    With `mr` series of MR are accepted like those of CT.

    Raises:
        DataError: the folder holds no such series or cannot be opened, or the series is not a CT volume or
            has an unreadable slice.
    """
    folder, label = folder_and_label(path)
    if folder is None:
        return None
    series = series_of(folder, mr)
    if label in series and not _unchanged(series[label]):
        _read_folder.cache_clear()
        series = series_of(folder, mr)
    if label not in series:
        holds = ", ".join(folder.name + other for other in series) or "none"
        raise DataError(f"there is no DICOM series of this name; the folder holds {holds}")
    if series[label].skip:
        raise no_scan(series[label].skip)
    if series[label].problem:
        raise DataError(series[label].problem)
    return series[label]


def folder_and_label(path: Path) -> tuple[Path | None, str]:
    """Split the path of a series into folder and label; the folder is None if the path is not in one.

    Raises:
        DataError: a folder on the path cannot be opened, so the answer is unknown.
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


def series_of(folder: Path, mr: bool = False) -> dict[str, Series]:
    """Return, by label, the series whose slices are all in a folder and its subfolders, but in no single one.

    They are read again whenever a file in the folder is added, deleted or renamed.

    Raises:
        DataError: it cannot be opened.
    """
    try:
        return _read_folder(folder, folder.stat().st_mtime_ns, mr)
    except OSError as error:
        raise DataError(not_opened(error)) from None


@lru_cache(maxsize=2)
def _read_folder(folder: Path, _changed: int, mr: bool) -> dict[str, Series]:
    """Return the series of a folder, cached so that looking up its scans one by one takes linear time."""
    files, _ = walk(folder, SUFFIXES)
    others = {
        place: [name for name in names if not name.lower().endswith(SUFFIXES)]
        for place, names in files.items()
    }
    gathered = gather(folder, others, mr)
    return {label: one for (home, label), one in gathered.series.items() if home == HERE}


def _unchanged(series: Series) -> bool:
    try:
        return all(state_of(one.path.stat()) == one.state for one in series.slices) and all(
            folder.stat().st_mtime_ns == changed for folder, changed in series.folders
        )
    except OSError:
        return False


def stack(slices: tuple[Slice, ...]) -> Stack:
    """Put the slices of a series in order, and refuse those that do not form a complete, upright volume.

    Copies of a slice, which occur in copied folders, are left out.

    Raises:
        DataError: the slices differ in kind, size or orientation, have no position or the same one, are
            missing, sheared by a tilted gantry, or have unsupported pixels; it follows the scan's name.
    """
    slices = slices if any(one.skip for one in slices) else unfolded(slices)
    _check_alike(slices)
    first = slices[0]
    axes = np.reshape(np.array(first.orientation, dtype=np.float64), (2, 3))
    normal = np.cross(axes[0], axes[1])
    placed = sorted(slices, key=lambda one: float(np.dot(one.position, normal)))  # ties in file order
    slices = tuple(_told_apart(placed, normal))
    positions = np.array([one.position for one in slices], dtype=np.float64)
    heights = positions @ normal
    if len(slices) < 2:
        raise no_scan("a single slice, not a volume")
    _check_gaps(heights, _resolution(positions, normal))
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    length = float(np.linalg.norm(step))
    shape, (x_mm, y_mm) = (*first.edges, len(slices)), first.spacing
    upright(np.stack([*axes, step / length], axis=1), (x_mm, y_mm, length), shape)
    aside = positions - positions[0] - np.outer(np.arange(len(slices)), step)
    aside -= np.outer(aside @ normal, normal)
    farthest = float(np.linalg.norm(aside, axis=1).max())
    if farthest > MOST_SHEAR * min(first.spacing):
        raise unsupported(f"the slices are shifted sideways by up to {farthest:.2f} mm", "resample the scan")
    x, y, z = (float(value) for value in positions[0])
    geometry = Geometry(
        shape=shape,
        spacing=(x_mm, y_mm, float((heights[-1] - heights[0]) / (len(slices) - 1))),
        origin=(x, y, z),
        direction=tuple(np.stack([*axes, normal], axis=1).ravel().tolist()),
    )
    return Stack(slices, geometry)


def _check_alike(slices: tuple[Slice, ...]) -> None:
    first = slices[0]
    odd = Counter(one.skip for one in slices if one.skip)
    if odd:
        kind, count = odd.most_common(1)[0]
        raise unsupported(
            f"the series mixes slices of a volume with {count} of another kind ({kind})",
            "put them into separate folders",
        )
    sizes = sorted({one.edges for one in slices})
    if len(sizes) > 1:
        said = ", ".join(f"{x} x {y}" for x, y in sizes)
        raise unsupported(f"the slices have {len(sizes)} sizes ({said})", "put them into separate folders")
    for one in slices:
        if (len(one.position), len(one.orientation), len(one.spacing)) != (3, 6, 2):
            raise damaged(f"slice {one.path.name} has no position")
        if min(one.spacing) <= 0:
            raise damaged(f"slice {one.path.name} has spacing {one.spacing}, which is not positive")
        if any(abs(a - b) > _SAME_COSINE for a, b in zip(one.orientation, first.orientation, strict=True)):
            raise unsupported(
                f"the slices have several orientations: {one.path.name} is rotated against {first.path.name}",
                "put them into separate folders",
            )
        if any(abs(a - b) > _SAME_SPACING * b for a, b in zip(one.spacing, first.spacing, strict=True)):
            raise unsupported(
                f"the slices have several spacings: {one.path.name} and {first.path.name} differ",
                "put them into separate folders",
            )
        check_pixels(one)


def _told_apart(slices: list[Slice], normal: NDArray[np.float64]) -> Iterator[Slice]:
    """Yield the slices, by position, without pixel-identical duplicates at the same position.

    Raises:
        DataError: two at one position differ.
    """
    last: Slice | None = None
    twice = []
    for one in slices:
        height = float(np.dot(one.position, normal))
        if last is not None and height - float(np.dot(last.position, normal)) < _SAME_PLACE:
            if not same_pixels(last, one):
                twice.append((last, one))
            continue
        last = one
        yield one
    if twice:
        path, other = (pair.path for pair in twice[0])
        raise damaged(
            f"{len(twice)} of the slices have the position of another slice but differ from "
            f"it, for example {path.name} in {path.parent.name} and {other.name} in "
            f"{other.parent.name}"
        )


def _resolution(positions: NDArray[np.float64], normal: NDArray[np.float64]) -> float:
    """Return the precision of written positions in mm: a tenth if all are tenths, else a hundredth."""
    moving = positions[:, np.abs(normal) > _SAME_COSINE]
    tenths = np.abs(10 * moving - np.rint(10 * moving)).max() < _SAME_COSINE
    return 0.1 * float(np.abs(normal).sum()) if tenths else _SAME_PLACE


def _check_gaps(heights: NDArray[np.float64], resolution: float) -> None:
    """Refuse slices that are not evenly spaced, within the precision of their written positions."""
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    # Rounding both positions changes the difference of two gaps by up to one unit of the last decimal.
    most = min(max(0.01 * usual, 2 * _SAME_PLACE, 1.001 * resolution), _NEVER_EVEN * usual)
    worst = int(np.argmax(np.abs(gaps - usual)))
    even = heights[0] + (heights[-1] - heights[0]) / (heights.size - 1) * np.arange(heights.size)
    if abs(gaps[worst] - usual) > most or (resolution > _SAME_PLACE and np.abs(heights - even).max() > most):
        raise unsupported(
            f"the slices at {heights[worst]:.2f} and {heights[worst + 1]:.2f} mm are "
            f"{gaps[worst]:.2f} mm apart, but usually {usual:.2f} mm: slices are missing or "
            "irregular",
            "add the missing slices or resample the scan",
        )
