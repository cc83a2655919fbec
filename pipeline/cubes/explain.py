"""Explains how many cubes a scan gives: counts what the border and the tissue rule each refuse."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.absent import no_scan
from genesis_toolkit.pipeline.cubes.cut import mask_words
from genesis_toolkit.pipeline.cubes.rule import CubeRule, Plane, Triple, count_scores, too_small
from genesis_toolkit.pipeline.describe.facts import LEAST_TISSUE
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.pipeline.scans.files import HERE
from genesis_toolkit.pipeline.scans.find import find_scans
from genesis_toolkit.pipeline.scans.geometry import Voxels
from genesis_toolkit.pipeline.scans.series import folder_and_label
from genesis_toolkit.pipeline.store.schema import AXES

_PUBLISHED = Window()
_QUANTILES = {"least": 0.0, "5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95, "most": 1.0}
_OF_RULE = ("size", "plane", "box", "border", "max_tissue", "min_tissue")
_MOST_NAMED = 3
_CUBE_SHARES = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)  # the last is no limit
_PATCH_SHARES = (0.5, 0.6, 0.7, 0.8)


@dataclass(frozen=True)
class Shortage:
    """An axis along which a scan is too small for size and border together.

    Attributes:
        axis: x, y or z.
        found: voxels of the scan along it.
        needed: the smallest number with a position for a cube.
        largest_border: the largest border along this axis that leaves a position; None if the cube is too
            large for the scan even without a border.
    """

    axis: str
    found: int
    needed: int
    largest_border: int | None


@dataclass(frozen=True)
class Alternative:
    """The outcome of another setting, with all others unchanged.

    Attributes:
        option: the setting, as typed.
        candidates: positions inside the border.
        passing: how many of them pass the tissue rule.
    """

    option: str
    candidates: int
    passing: int


@dataclass(frozen=True)
class Explanation:
    """The number of cubes that a scan gives, and the reasons; plain data, for `dataclasses.asdict` and JSON.

    A position is a corner: the first voxel of a cube. The border along x, y and z and the two limits of the
    tissue rule remove positions one after another, so places_whole is the sum of all these and passing.

    Attributes:
        shape, spacing: voxels, and mm between their centres, in x, y, z.
        size, plane, border, max_tissue, min_tissue: settings of the rule, see `ExtractParameters`.
        box: edges of the box that is cut, in x, y, z: for a patch 1 across its plane.
        shortages: the axes along which the scan is too small, if it has no candidate for that reason.
        places_whole: positions at which a cube is inside the scan.
        lost_to_border: how many of these are lost along x, then y, then z.
        candidates: the remaining ones, to which the tissue rule applies.
        lost_to_max_tissue, lost_to_min_tissue: candidates with a score above and below these limits.
        passing: positions at which a cube may be cut.
        share: passing / candidates, 0..1; 0 without candidates.
        without_tissue: passing positions with a score of 0, where a cube holds only air; 0 for patches,
            whose score does not reveal air.
        mask: why the scan looks like a mask, see `cut.mask_words`; empty if it does not.
        scores: quantiles of the candidates' scores, 0..1; empty without candidates.
        alternatives: outcomes of other settings.
    """

    shape: Triple
    spacing: tuple[float, float, float]
    size: tuple[int, ...]
    plane: Plane | None
    box: Triple
    border: Triple
    max_tissue: float
    min_tissue: float
    shortages: tuple[Shortage, ...]
    places_whole: int
    lost_to_border: Triple
    candidates: int
    lost_to_max_tissue: int
    lost_to_min_tissue: int
    passing: int
    share: float
    without_tissue: int
    mask: str
    scores: dict[str, float]
    alternatives: tuple[Alternative, ...]


def find_scan(text: str, mr: bool = False) -> tuple[Path, bool]:
    """Find the one scan that a user names, like `extract_cubes`.

    Args:
        text: a file, a folder that holds one scan, or `folder#label` from a table.
        mr: see `read_scan`.

    Returns:
        Its path for `read_scan`, and whether `extract_cubes` needs `--layout files` for its folder.

    Raises:
        CallError: the path does not exist, or holds no scan or several.
        DataError: `extract_cubes` would skip the scan or report it as failed, for this reason.
    """
    if not text:
        raise CallError("The path of the scan is empty: give a file, or a folder with one scan.")
    path = Path(text)
    home, label = folder_and_label(path)
    if home is None and not path.exists():
        raise no_scan(path)
    only_files, place = False, home if home else path
    try:
        found = find_scans(place, mr=mr)
    except CallError:
        found, only_files = find_scans(place, "files", mr=mr), True
    sources = [one for one in found.sources if not label or one.path == f"{HERE}{label}"]
    sound = [one for one in sources if not (one.problem or one.skip)]
    if not sources or len(sound) > 1:
        some = sound or found.sources
        ways = ", ".join(_named(found.root, one.path) for one in some[:_MOST_NAMED])
        raise CallError(
            f"{path} matches {len(sound) or 'none'} of the scans in {place}: give one, such as {ways}."
        )
    if not sound:
        first = min(sources, key=lambda one: not one.problem)
        raise DataError(first.problem or first.skip)
    return found.root / sound[0].path, only_files


def _named(root: Path, place: str) -> str:
    """Return the path of a scan as user input: `folder#label` for a series in the folder itself."""
    return f"{root}{place.removeprefix(HERE)}" if place.startswith(f"{HERE}#") else str(root / place)


def explain_scan(
    voxels: Voxels, spacing: tuple[float, float, float], rule: CubeRule, window: Window = _PUBLISHED
) -> Explanation:
    """Count the positions in a scan that the border and the tissue rule remove.

    Args:
        voxels: int16, float32 or float64 [x, y, z], HU, of any shape; real numbers not rounded.
        spacing: mm between voxel centres in x, y, z.
        rule: conditions for a cube.
        window: scales real numbers, see `rule.tissue_from`.
    """
    shape: Triple = voxels.shape
    whole = [max(edge - cube + 1, 0) for edge, cube in zip(shape, rule.box, strict=True)]
    inside = [max(edge - least + 1, 0) for edge, least in zip(shape, rule.least_shape, strict=True)]
    left = [int(np.prod(inside[:axis] + whole[axis:], dtype=np.int64)) for axis in range(4)]
    by_score = _scores(voxels, rule, window)
    candidates, passing = int(by_score.sum()), _between(by_score, rule)
    dense = int(by_score[rule.most_halves + 1 :].sum())
    return Explanation(
        shape=shape,
        spacing=spacing,
        **{name: getattr(rule, name) for name in _OF_RULE},
        shortages=_shortages(shape, rule),
        places_whole=left[0],
        lost_to_border=(left[0] - left[1], left[1] - left[2], left[2] - left[3]),
        candidates=candidates,
        lost_to_max_tissue=dense,
        lost_to_min_tissue=candidates - dense - passing,
        passing=passing,
        share=passing / candidates if candidates else 0.0,
        without_tissue=0 if rule.plane or rule.least_halves else int(by_score[0]),
        mask=mask_words(voxels),
        scores=_quantiles(by_score, rule),
        alternatives=_alternatives(voxels, rule, window, by_score),
    )


def _scores(voxels: Voxels, rule: CubeRule, window: Window) -> NDArray[np.uint32]:
    """Return `count_scores`, or no candidates if the scan is too small."""
    if too_small(voxels.shape, rule):
        return np.zeros(2 * rule.voxels + 1, dtype=np.uint32)
    return count_scores(voxels, rule, window)


def _between(by_score: NDArray[np.uint32], rule: CubeRule) -> int:
    return int(by_score[rule.least_halves : rule.most_halves + 1].sum())


def _quantiles(by_score: NDArray[np.uint32], rule: CubeRule) -> dict[str, float]:
    ends = np.cumsum(by_score, dtype=np.int64)
    if not ends[-1]:
        return {}
    ranks = [max(int(np.ceil(share * ends[-1])), 1) for share in _QUANTILES.values()]
    scores = np.searchsorted(ends, ranks) / (2 * rule.voxels)
    return dict(zip(_QUANTILES, scores.tolist(), strict=True))


def _shortages(shape: Triple, rule: CubeRule) -> tuple[Shortage, ...]:
    short = []
    for axis, found, needed, border in zip(AXES, shape, rule.least_shape, rule.border, strict=True):
        largest = (found - needed + 2 * border) // 2
        if found < needed:
            short.append(Shortage(axis, found, needed, largest if largest >= 0 else None))
    return tuple(short)


def _alternatives(
    voxels: Voxels, rule: CubeRule, window: Window, by_score: NDArray[np.uint32]
) -> tuple[Alternative, ...]:
    """Try other borders (the largest that fits a small scan, half the current one, none) and other limits."""
    borders = [tuple(edge // 2 for edge in rule.border), (0, 0, 0)]
    short = {shortage.axis: shortage.largest_border for shortage in _shortages(voxels.shape, rule)}
    if short and None not in short.values():
        fitting = (short.get(axis, edge) or 0 for axis, edge in zip(AXES, rule.border, strict=True))
        borders.insert(0, tuple(fitting))
    others: dict[str, dict[str, Any]] = {
        f"--border {','.join(map(str, one))}": {"border": one} for one in borders if one != rule.border
    }
    if by_score.any():
        if rule.min_tissue:
            others["--min-tissue 0"] = {"min_tissue": 0.0}
        elif by_score[0] and not rule.plane and rule.most_tissue >= LEAST_TISSUE:
            others[f"--min-tissue {LEAST_TISSUE:g}"] = {"min_tissue": LEAST_TISSUE}
        for share in _PATCH_SHARES if rule.plane else _CUBE_SHARES:
            if share != rule.most_tissue and share >= rule.min_tissue:
                others[f"--max-tissue {share:g}"] = {"max_tissue": share}
    found = []
    for option, changed in others.items():
        other = replace(rule, **changed)
        counts = _scores(voxels, other, window) if "border" in changed else by_score
        found.append(Alternative(option, int(counts.sum()), _between(counts, other)))
    return tuple(found)
