"""Why a scan gives the cubes it gives: the rule's decisions counted, and drawn over the scan.

METHOD.md section 2 has two parts that refuse a cube, the border and the tissue rule; here each is told apart,
with what other settings would give.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from pipeline.degrade.seeds import Operation, draw_words, stream_key
from pipeline.hounsfield import Window
from pipeline.ledger import write_whole
from pipeline.place import (
    Corners,
    PlaceRule,
    Plane,
    Triple,
    Voxels,
    count_scores,
    draw_corners,
    passing_corners,
    too_small,
)

_PUBLISHED = Window()
_QUANTILES = {"least": 0.0, "5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95, "most": 1.0}
_CUBE_SHARES = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)  # the last is no bound at all
_PATCH_SHARES = (0.5, 0.6, 0.7, 0.8)
_EXAMPLES = 32  # cubes drawn as examples: what a scan gives by default
_OUTLINED = 6  # of these in one slice: more would hide it
_AXES = "xyz"


@dataclass(frozen=True)
class Shortage:
    """An axis along which a scan is too small for size and border together.

    Attributes:
        axis: x, y or z.
        found: voxels of the scan along it.
        needed: the fewest that have a place for a cube.
        largest_border: the largest border along this axis that leaves a place; None where the cube is too
            large for the scan with no border at all.
    """

    axis: str
    found: int
    needed: int
    largest_border: int | None


@dataclass(frozen=True)
class Alternative:
    """What another setting would give, all others as they are.

    Attributes:
        option: the setting, as typed.
        candidates: places inside the border.
        passing: how many of them the tissue rule lets pass.
    """

    option: str
    candidates: int
    passing: int


@dataclass(frozen=True)
class Explanation:
    """Why a scan gives the cubes it gives; plain data, fit for JSON by `dataclasses.asdict`.

    A place is a corner: the first voxel of a cube. Taken one after the other, the border along x, y and z and
    the two bounds of the tissue rule remove places, so places_whole is the sum of all that is lost and
    passing.

    Attributes:
        shape: voxels in x, y, z.
        spacing: mm between voxel centres in x, y, z.
        size: edges of a cube in voxels, or the two of a patch.
        plane: of the slices that patches are cut from; None for cubes.
        box: what is cut, edges in x, y, z: of a patch 1 across its plane.
        border: voxels at each side that no cube touches.
        max_tissue: the largest score a cube may have: its share of tissue, of a patch that of tissue and air.
        min_tissue: the smallest; 0 for patches.
        shortages: the axes along which the scan is too small, so that it has no candidate.
        places_whole: places where a cube lies inside the scan.
        lost_to_border: of these, those lost along x, then y, then z.
        candidates: what is left, and is judged by the tissue rule.
        lost_to_max_tissue: candidates with a score above max_tissue.
        lost_to_min_tissue: candidates with a score below min_tissue.
        passing: places a cube may be cut at.
        share: passing of candidates, 0..1; 0 without candidates.
        scores: the score of the candidates, 0..1, by quantile; empty without candidates.
        alternatives: what other settings would give.
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
    scores: dict[str, float]
    alternatives: tuple[Alternative, ...]


def explain_scan(
    voxels: Voxels, spacing: tuple[float, float, float], rule: PlaceRule, window: Window = _PUBLISHED
) -> Explanation:
    """Count what the border and the tissue rule do to a scan.

    Args:
        voxels: int16, float32 or float64 [x, y, z], HU, of any shape; real numbers not rounded.
        spacing: mm between voxel centres in x, y, z.
        rule: what a cube needs.
        window: what real numbers are scaled by, see `place.tissue_from`.
    """
    shape: Triple = (voxels.shape[0], voxels.shape[1], voxels.shape[2])
    whole = [max(edge - cube + 1, 0) for edge, cube in zip(shape, rule.box, strict=True)]
    inside = [max(edge - least + 1, 0) for edge, least in zip(shape, rule.least_shape, strict=True)]
    left = [int(np.prod(inside[:axis] + whole[axis:], dtype=np.int64)) for axis in range(4)]
    by_score = _scores(voxels, rule, window)
    candidates, passing = int(by_score.sum()), _between(by_score, rule)
    dense = int(by_score[rule.most_halves + 1 :].sum())
    return Explanation(
        shape=shape,
        spacing=spacing,
        size=rule.size,
        plane=rule.plane,
        box=rule.box,
        border=rule.border,
        max_tissue=rule.most_tissue,
        min_tissue=rule.min_tissue,
        shortages=_shortages(shape, rule),
        places_whole=left[0],
        lost_to_border=(left[0] - left[1], left[1] - left[2], left[2] - left[3]),
        candidates=candidates,
        lost_to_max_tissue=dense,
        lost_to_min_tissue=candidates - dense - passing,
        passing=passing,
        share=passing / candidates if candidates else 0.0,
        scores=_quantiles(by_score, rule),
        alternatives=_alternatives(voxels, rule, window, by_score),
    )


def _scores(voxels: Voxels, rule: PlaceRule, window: Window) -> NDArray[np.uint32]:
    """`count_scores`, with no candidates where the scan is too small."""
    if too_small((voxels.shape[0], voxels.shape[1], voxels.shape[2]), rule):
        return np.zeros(2 * rule.voxels + 1, dtype=np.uint32)
    return count_scores(voxels, rule, window)


def _between(by_score: NDArray[np.uint32], rule: PlaceRule) -> int:
    return int(by_score[rule.least_halves : rule.most_halves + 1].sum())


def _quantiles(by_score: NDArray[np.uint32], rule: PlaceRule) -> dict[str, float]:
    ends = np.cumsum(by_score, dtype=np.int64)
    if not ends[-1]:
        return {}
    ranks = [max(int(np.ceil(share * ends[-1])), 1) for share in _QUANTILES.values()]
    scores = np.searchsorted(ends, ranks) / (2 * rule.voxels)
    return dict(zip(_QUANTILES, scores.tolist(), strict=True))


def _shortages(shape: Triple, rule: PlaceRule) -> tuple[Shortage, ...]:
    short = []
    for axis, found, needed, border in zip(_AXES, shape, rule.least_shape, rule.border, strict=True):
        if found < needed:
            largest = (found - (needed - 2 * border)) // 2
            short.append(Shortage(axis, found, needed, largest if largest >= 0 else None))
    return tuple(short)


def _alternatives(
    voxels: Voxels, rule: PlaceRule, window: Window, by_score: NDArray[np.uint32]
) -> tuple[Alternative, ...]:
    """Other borders (the largest that fits a scan that is too small, half as much, none), other shares."""
    borders = [_halved(rule.border), (0, 0, 0)]
    short = {shortage.axis: shortage.largest_border for shortage in _shortages(_shape(voxels), rule)}
    if short and None not in short.values():
        x, y, z = (short.get(axis, edge) or 0 for axis, edge in zip(_AXES, rule.border, strict=True))
        borders.insert(0, (x, y, z))
    others = []
    for border in dict.fromkeys(border for border in borders if border != rule.border):
        other = replace(rule, border=border)
        counts = _scores(voxels, other, window)
        option = f"--border {','.join(map(str, border))}"
        others.append(Alternative(option, int(counts.sum()), _between(counts, other)))
    if not by_score.any():
        return tuple(others)
    if rule.min_tissue:
        passing = _between(by_score, replace(rule, min_tissue=0.0))
        others.append(Alternative("--min-tissue 0", int(by_score.sum()), passing))
    for share in _PATCH_SHARES if rule.plane else _CUBE_SHARES:
        if share != rule.most_tissue and share >= rule.min_tissue:
            passing = _between(by_score, replace(rule, max_tissue=share))
            others.append(Alternative(f"--max-tissue {share:g}", int(by_score.sum()), passing))
    return tuple(others)


def _halved(border: Triple) -> Triple:
    x, y, z = border
    return x // 2, y // 2, z // 2


def _shape(voxels: Voxels) -> Triple:
    return voxels.shape[0], voxels.shape[1], voxels.shape[2]


@dataclass(frozen=True)
class _View:
    """One slice: its name, the axis it lies across, the axes it shows across and down, and how to turn it."""

    name: str
    along: int
    across: int
    down: int
    upward: bool  # the patient's feet are at the first slice: turned over, they are at the picture's foot


_VIEWS = (
    _View("axial", 2, 0, 1, upward=False),
    _View("coronal", 1, 0, 2, upward=True),
    _View("sagittal", 0, 1, 2, upward=True),
)


def draw_map(
    voxels: Voxels,
    spacing: tuple[float, float, float],
    rule: PlaceRule,
    png: Path,
    *,
    title: str = "",
    window: Window = _PUBLISHED,
) -> None:
    """Draw where cubes may lie, over one axial, one coronal and one sagittal slice of the scan.

    The slices are those that the most cubes are centred on; the middle ones where there is no place at all.
    In the plane of patches it is the slice of an example.
    Colour: of the cubes that the slice cuts and whose centre lies there, the share that passes. Dashed: the
    border. Outlined: examples that the slice cuts, of cubes as `extract-cubes` would draw them. Patches of
    slices are boxes one voxel deep, and in two of the three pictures lines.

    Args:
        voxels: the scan, as for `explain_scan`.
        spacing: mm between voxel centres in x, y, z.
        rule: what a cube needs.
        png: the file to write.
        title: what stands above the picture.
        window: the grey levels, and what real numbers are scaled by.
    """
    reason = too_small(_shape(voxels), rule)
    corners = None if reason else passing_corners(voxels, rule, window)
    examples = np.empty((0, 3), dtype=np.int32)
    if corners is not None:
        words = draw_words(0, stream_key("examples"), 0, 0, Operation.PLACE, 2 * 64 * _EXAMPLES)
        examples = draw_corners(corners, _EXAMPLES, words)
    extents = [edge * step for edge, step in zip(voxels.shape, spacing, strict=True)]
    widths = [extents[view.across] for view in _VIEWS]
    heights = [extents[view.down] for view in _VIEWS]
    # 12 inches for three pictures on one scale, and room for the titles, the axes and the colour bar.
    tall = 12 * max(heights) / sum(widths) + 1.7
    figure = Figure(figsize=(13.5, min(max(tall, 4), 14)), dpi=110, layout="constrained")
    figure.suptitle(title + (f"\ntoo small: {reason}" if reason else ""), fontsize=10)
    one, many = ("patch", "patches") if rule.plane else ("cube", "cubes")
    figure.supxlabel(f"dashed: the border that no {one} crosses; green: some of the {many}", fontsize=8)
    panels = figure.subplots(1, 3, width_ratios=widths)
    for panel, view in zip(panels, _VIEWS, strict=True):
        heat = _draw_view(panel, view, voxels, spacing, rule, corners, examples, window)
    if corners is not None:
        bar = figure.colorbar(heat, ax=list(panels), shrink=0.8, pad=0.01)
        bar.set_label(f"of the {many} cut by this slice and centred here, share that passes", fontsize=8)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": None})
    write_whole(png, drawn.getvalue())


def passing_share(
    corners: Corners, box: Triple, shape: Triple, axis: int, number: int
) -> NDArray[np.float64]:
    """Of the boxes that a slice of the scan cuts and that are centred at a place, the share that passes.

    Args:
        corners: the decision for the scan.
        box: edges in x, y, z of what is cut out.
        shape: voxels of the scan in x, y, z.
        axis: that the slice lies across, 0, 1 or 2.
        number: of the slice along it; one that some candidate cuts.

    Returns:
        float64 [the two other axes, in order], 0..1; NaN where no candidate has its centre.
    """
    first, edge = corners.first[axis], box[axis]
    cut = [slice(None)] * 3
    cut[axis] = slice(max(number - edge + 1 - first, 0), number + 1 - first)
    passing = corners.passing[tuple(cut)].mean(axis=axis)
    others = [other for other in range(3) if other != axis]
    share = np.full([shape[other] for other in others], np.nan)
    starts = [corners.first[other] + box[other] // 2 for other in others]
    places = tuple(slice(start, start + edge) for start, edge in zip(starts, passing.shape, strict=True))
    share[places] = passing
    return share


def _draw_view(
    panel: Axes,
    view: _View,
    voxels: Voxels,
    spacing: Sequence[float],
    rule: PlaceRule,
    corners: Corners | None,
    examples: NDArray[np.int32],
    window: Window,
) -> Any:
    """One slice with its heat, border and example cubes; gives the heat, for the colour bar."""
    number = _fullest(view.along, _shape(voxels), rule, corners)
    if view.name == rule.plane and len(examples):
        number = int(examples[0, view.along])
    grey = np.take(voxels, number, axis=view.along)
    panel.imshow(grey.T, cmap="gray", vmin=window.low, vmax=window.high, origin="upper")
    share = np.full(grey.shape, np.nan)
    if corners is not None:
        share = passing_share(corners, rule.box, _shape(voxels), view.along, number)
    share[share == 0] = np.nan
    heat = panel.imshow(share.T, cmap="plasma", vmin=0, vmax=1, alpha=0.55, interpolation="nearest")
    _outline(
        panel, view, rule.border, [_shape(voxels)[axis] - 2 * rule.border[axis] for axis in range(3)], "--"
    )
    past = number - examples[:, view.along]
    for corner in examples[(past >= 0) & (past < rule.box[view.along])][:_OUTLINED]:
        _outline(panel, view, corner, rule.box, "-")
    panel.set_aspect(spacing[view.down] / spacing[view.across])
    if view.upward:
        panel.invert_yaxis()
    panel.set_title(f"{view.name}, {_AXES[view.along]} = {number}", fontsize=9)
    panel.set_xlabel(f"{_AXES[view.across]}, voxels", fontsize=8)
    panel.set_ylabel(f"{_AXES[view.down]}, voxels", fontsize=8)
    panel.tick_params(labelsize=7)
    return heat


def _outline(panel: Axes, view: _View, corner: Any, edges: Sequence[int], style: str) -> None:
    """A box of the scan as a rectangle of the slice; none where the border leaves nothing."""
    width, height = edges[view.across], edges[view.down]
    if width > 0 and height > 0:
        at = (corner[view.across] - 0.5, corner[view.down] - 0.5)
        colour = "deepskyblue" if style == "--" else "lime"
        panel.add_patch(
            Rectangle(at, width, height, fill=False, color=colour, linestyle=style, linewidth=0.9)
        )


def _fullest(axis: int, shape: Triple, rule: PlaceRule, corners: Corners | None) -> int:
    """The slice across an axis that the most passing cubes are centred on; the middle one without any."""
    if corners is None or not corners.count:
        return shape[axis] // 2
    others = tuple(other for other in range(3) if other != axis)
    counts = np.count_nonzero(corners.passing, axis=others)
    return int(np.argmax(counts)) + corners.first[axis] + rule.box[axis] // 2
