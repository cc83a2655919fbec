"""A map of a scan: where cubes may lie and where some were drawn, over three slices through it."""

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
_EXAMPLES = 32  # cubes drawn as examples: what a scan gives by default
_OUTLINED = 6  # of these in one slice: more would hide it
_AXES = "xyz"


class _View(NamedTuple):
    """One slice: its name, the axis it lies across, the axes it shows across and down, and how to turn it."""

    name: str
    along: int
    across: int
    down: int
    upward: bool  # the patient's feet are at the first slice: turned over, they are at the picture's foot


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
    """Draw where cubes may lie, over one axial, one coronal and one sagittal slice of the scan.

    The slices are those that the most cubes are centred on; the middle ones where there is no place at all.
    In the plane of patches it is the slice of an example.
    Colour: of the cubes that the slice cuts and whose centre lies there, the share that passes. Dashed: the
    border. Outlined: examples that the slice cuts, of cubes as `extract-cubes` would draw them. Patches of
    slices are boxes one voxel deep, and in two of the three pictures lines.

    Args:
        voxels, spacing, rule: the scan and what a cube needs, as for `explain_scan`.
        png: the file to write.
        title: what stands above the picture.
        window: the grey levels, and what real numbers are scaled by.
    """
    reason = rules.too_small(voxels.shape, rule)
    corners = None if reason else rules.passing_corners(voxels, rule, window)
    examples = np.empty((0, 3), dtype=np.int32)
    if corners is not None:
        examples = rules.draw_corners(corners, _EXAMPLES, rules.place_words(0, "examples", _EXAMPLES))
    extents = [edge * step for edge, step in zip(voxels.shape, spacing, strict=True)]
    widths, heights = [extents[view.across] for view in _VIEWS], [extents[view.down] for view in _VIEWS]
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
    """One slice with its heat, border and example cubes; gives the heat, for the colour bar."""
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
    """A box of the scan as a rectangle of the slice; none where the border leaves nothing."""
    width, height = edges[view.across], edges[view.down]
    if width > 0 and height > 0:
        at = (corner[view.across] - 0.5, corner[view.down] - 0.5)
        colour = "deepskyblue" if style == "--" else "lime"
        look: Any = {"fill": False, "color": colour, "linestyle": style, "linewidth": 0.9}
        panel.add_patch(Rectangle(at, width, height, **look))


def passing_share(
    corners: rules.Corners, box: rules.Triple, shape: rules.Triple, axis: int, number: int
) -> NDArray[np.float64]:
    """Of the boxes that a slice of the scan cuts and that are centred at a place, the share that passes.

    Args:
        corners: the decision for the scan.
        box, shape: edges of what is cut out, and voxels of the scan, in x, y, z.
        axis, number: that the slice lies across, 0, 1 or 2, and its own along it; some candidate cuts it.

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
