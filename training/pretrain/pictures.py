"""What a network restores, drawn: rows of original, degraded and restored cubes."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from numpy.typing import NDArray

from genesis_toolkit.pipeline.describe.facts import applied_words, flip_axes
from genesis_toolkit.pipeline.ledger import write_whole

# Inches: one image, the labels left of it, the titles above.
_EDGE, _LABEL, _MARGIN = 2.0, 1.1, 0.6


@dataclass(frozen=True)
class RestoredSlice:
    """The middle slice of one cube, or a whole image; arrays are float32 `[x, y]` in [0, 1].

    Attributes:
        original: what shall be restored.
        degraded: what the network saw.
        restored: what it made of it.
        label: which cube, and what was done to it.
    """

    original: NDArray[Any]
    degraded: NDArray[Any]
    restored: NDArray[Any]
    label: str


def describe_pair(flip: int, applied: int) -> str:
    """What was done to a pair, in words, a line each, in the order in which it was done.

    Args:
        flip: bit 0 = x, bit 1 = y, bit 2 = z.
        applied: bits of `Applied`.
    """
    axes = flip_axes(flip)
    return "\n".join(([f"flipped {axes}"] if axes else []) + (applied_words(applied) or ["unchanged"]))


def draw_restored(path: Path, slices: Sequence[RestoredSlice], title: str) -> None:
    """Draw a PNG: one row a cube, x to the right and y down, black 0 and white 1 of the window.

    Args:
        path: the picture to write.
        slices: one or more.
        title: above the picture.
    """
    across, down = slices[0].original.shape
    height = _MARGIN + _EDGE * down / across * len(slices)
    figure = Figure(figsize=(_LABEL + 3 * _EDGE, height), dpi=100)
    figure.suptitle(title, fontsize=10, y=1 - 0.15 / height, va="top")
    # Placed by hand: finding a layout takes longer than drawing, and a short epoch should not wait for it.
    figure.subplots_adjust(_LABEL / (_LABEL + 3 * _EDGE), 0.02, 0.99, 1 - _MARGIN / height, 0.04, 0.04)
    axes = figure.subplots(len(slices), 3, squeeze=False)
    for row, piece in zip(axes, slices, strict=True):
        for place, image in zip(row, (piece.original, piece.degraded, piece.restored), strict=True):
            place.imshow(image.T, cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
            place.set_axis_off()
        row[0].text(-0.05, 0.5, piece.label, transform=row[0].transAxes, ha="right", va="center", fontsize=8)
    for place, name in zip(axes[0], ("original", "degraded", "restored"), strict=True):
        place.set_title(name, fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", pil_kwargs={"compress_level": 1})
    write_whole(path, buffer.getvalue())
