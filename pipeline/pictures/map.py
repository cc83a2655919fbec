"""Draws a map of a scan: allowed positions of cubes, and some examples, over three slices."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from genesis_toolkit.pipeline.cubes import rule as rules
from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.pipeline.pictures.charts import save_png
from genesis_toolkit.pipeline.scans.geometry import Voxels

_PUBLISHED = Window()
_EXAMPLES = 32  # cubes drawn as examples: the default number per scan
_OUTLINED = 6  # the most outlined in one slice: more would hide it
_AXES = "xyz"


class _View(NamedTuple):
    """One slice: its name, the axis across it, the axes shown across and down, and its orientation."""

    name: str
    along: int
    across: int
    down: int
    upward: bool  # the first slice is at the patient's feet, so the picture is flipped to show them below


_VIEWS = tuple(
    map(_View._make, [("axial", 2, 0, 1, False), ("coronal", 1, 0, 2, True), ("sagittal", 0, 1, 2, True)])
)


def draw_map(
    voxels: Voxels,
    spacing: tuple[float, float, float],
    rule: rules.CubeRule,
    png: Path,
    *,
    title: str = "",
    window: Window = _PUBLISHED,
) -> None:
    """Draw the allowed positions of cubes over one axial, one coronal and one sagittal slice of the scan.

    The slices are those on which the most cubes are centred, or the middle ones if there is no position at
    all. In the plane of patches it is the slice of an example. Colour: among the cubes that the slice cuts
    and whose centre is there, the share that passes. Dashed: the border. Outlined: examples that the slice
    cuts, drawn as `extract-cubes` would. Patches of slices are boxes one voxel deep, so they appear as lines
    in two of the three pictures.

    Args:
        voxels, spacing, rule: the scan and the conditions for a cube, see `explain_scan`.
        png: the file to write.
        title: text above the picture.
        window: range of grey levels, and scale of real numbers.
    """
    reason = rules.too_small(voxels.shape, rule)
    corners = None if reason else rules.passing_corners(voxels, rule, window)
    examples = np.empty((0, 3), dtype=np.int32)
    if corners is not None:
        examples = rules.draw_corners(corners, _EXAMPLES, rules.place_words(0, "examples", _EXAMPLES))
    extents = [edge * step for edge, step in zip(voxels.shape, spacing, strict=True)]
    widths, heights = [extents[view.across] for view in _VIEWS], [extents[view.down] for view in _VIEWS]
    # 12 inches for three pictures on one scale, with titles, axes and colour bar.
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
        bar.set_label(f"share of the {many} cut by this slice and centred here that passes", fontsize=8)
    save_png(figure, png)


def _draw_view(
    panel: Axes,
    view: _View,
    voxels: Voxels,
    spacing: Sequence[float],
    rule: rules.CubeRule,
    corners: rules.Corners | None,
    examples: NDArray[np.int32],
    window: Window,
) -> Any:
    """Draw one slice with its heat map, border and examples; return the heat map, for the colour bar."""
    number = voxels.shape[view.along] // 2
    if corners is not None and corners.count:
        counts = np.count_nonzero(np.moveaxis(corners.passing, view.along, 0), axis=(1, 2))
        number = int(np.argmax(counts)) + corners.first[view.along] + rule.box[view.along] // 2
    if view.name == rule.plane and len(examples):
        number = int(examples[0, view.along])
    grey = np.take(voxels, number, axis=view.along)
    panel.imshow(grey.T, cmap="gray", vmin=window.low, vmax=window.high, origin="upper")
    share = np.full(grey.shape, np.nan)
    if corners is not None:
        share = passing_share(corners, rule.box, voxels.shape, view.along, number)
    share[share == 0] = np.nan
    heat = panel.imshow(share.T, cmap="plasma", vmin=0, vmax=1, alpha=0.55, interpolation="nearest")
    free = [edge - 2 * border for edge, border in zip(voxels.shape, rule.border, strict=True)]
    _outline(panel, view, rule.border, free, "--")
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
    """Draw a box of the scan as a rectangle in the slice; nothing if the border leaves no room."""
    width, height = edges[view.across], edges[view.down]
    if width > 0 and height > 0:
        at = (corner[view.across] - 0.5, corner[view.down] - 0.5)
        colour = "deepskyblue" if style == "--" else "lime"
        look: Any = {"fill": False, "color": colour, "linestyle": style, "linewidth": 0.9}
        panel.add_patch(Rectangle(at, width, height, **look))


def passing_share(
    corners: rules.Corners, box: rules.Triple, shape: rules.Triple, axis: int, number: int
) -> NDArray[np.float64]:
    """Return, for each position in a slice, the share of passing boxes among those cut and centred there.

    Args:
        corners: the decision for the scan.
        box, shape: edges of the box, and voxels of the scan, in x, y, z.
        axis, number: the axis across the slice, 0, 1 or 2, and its index; some candidate cuts it.

    Returns:
        float64 [the two other axes, in order], 0..1; NaN where no candidate is centred.
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
