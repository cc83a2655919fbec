"""Shows a store in a notebook: a small table, and a contact sheet of a few cubes.

Pure: text and voxels in, HTML out. All text is escaped, since the store may come from a stranger.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.hounsfield import Window

#: Most cubes on the contact sheet, and most pixels along an edge of each.
MOST_CUBES = 8
_MOST_EDGE = 96


def store_html(
    title: str, rows: Sequence[tuple[str, str]], cubes: Iterable[NDArray[Any]], window: Window
) -> str:
    """Return a table with a contact sheet below it, as HTML.

    Args:
        title: heading of the table.
        rows: names and values.
        cubes: integers [x, y, z], shown by their middle axial slice, or [x, y].
        window: lowest value black, highest white.
    """
    lines = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    slices = [cube if cube.ndim == 2 else cube[:, :, cube.shape[2] // 2] for cube in cubes]
    pictures = "".join(
        f'<img src="{grey_picture(one, window.low, window.high, _MOST_EDGE)}" alt="cube" height="96"> '
        for one in slices
    )
    return f"<table><caption>{escape(title)}</caption>{lines}</table><div>{pictures}</div>"


def grey_picture(values: NDArray[np.integer], low: int, high: int, most_edge: int) -> str:
    """Return a slice as a data URI of an 8-bit grey PNG: `data:image/png;base64,` and the picture.

    Args:
        values: any integer dtype [across, down].
        low, high: values shown as black and as white.
        most_edge: most pixels along an edge; larger slices are subsampled to every second, third .. voxel.
    """
    from PIL import Image  # late: who opens a store draws nothing, as a rule

    stride = ceil(max(values.shape) / most_edge)
    shown = np.clip(values[::stride, ::stride].T.astype(np.int64), low, high)
    grey = ((shown - low) * 255 // (high - low)).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(grey)).save(encoded, "PNG")
    return "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode()
