"""Where labelled cubes lie in a scan, and cutting them. Pure."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.cubes.rule import Triple
from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.pipeline.rng import Operation, draw_words

_TRIES = 64  # random corners drawn for a cube, until one is new


def corners_around(voxels: NDArray[np.integer[Any]], shape: Triple, size: Triple) -> NDArray[np.int32]:
    """The corners of cubes with voxels [n, 3] of the scan in their middle, moved inside it: int32 [n, 3].

    The middle of a cube is its voxel size // 2. Where a scan is smaller than a cube it lies in the cube's
    middle, whatever the voxel, and the corner is negative.
    """
    room = np.asarray(shape) - np.asarray(size)
    moved = np.clip(voxels - np.asarray(size) // 2, 0, np.maximum(room, 0))
    corners: NDArray[np.int32] = np.where(room < 0, room // 2, moved).astype(np.int32)
    return corners


def box_at(
    voxels: NDArray[Any], corner: NDArray[np.integer[Any]], size: Triple, outside: int
) -> NDArray[Any]:
    """The box of a scan at a corner, C-contiguous [x, y, z]; `outside` where it reaches beyond the scan."""
    first, last = np.maximum(corner, 0), np.minimum(corner + np.asarray(size), voxels.shape)
    box = np.full(size, outside, voxels.dtype)
    to = tuple(slice(a - c, b - c) for a, b, c in zip(first, last, corner, strict=True))
    box[to] = voxels[tuple(slice(a, b) for a, b in zip(first, last, strict=True))]
    return box


def clipped_boxes(
    voxels: NDArray[Any], corners: NDArray[np.integer[Any]], size: Triple, window: Window
) -> list[NDArray[np.int16]]:
    """The cubes of a scan at known corners: int16, clipped; beyond the scan the window's lowest value."""
    return [np.ascontiguousarray(window.clip(box_at(voxels, corner, size, window.low))) for corner in corners]


def draw_mask_corners(
    foreground: NDArray[np.bool_], size: Triple, count: int, seed: int, stream: np.uint64
) -> NDArray[np.int32]:
    """Draw the corners of cubes of a scan with a mask: half around foreground, half anywhere.

    Cubes 0, 2, 4 .. have a voxel drawn uniformly from the foreground in their middle (`corners_around`), the
    others any corner inside the scan, drawn uniformly; all of them where there is no foreground. A corner
    that was drawn before is drawn again.

    Args:
        foreground: [x, y, z] of the scan.
        size: edges of a cube.
        count: how many are wanted.
        seed, stream: of the draws, and the scan's stream key.

    Returns:
        int32 [cube, 3], distinct, in the order drawn; fewer where a small scan, or little foreground, has no
        more places.
    """
    shape: Triple = foreground.shape
    inner = np.flatnonzero(foreground.ravel(order="F"))
    room = np.asarray(shape) - np.asarray(size)
    places = tuple((np.maximum(room, 0) + 1).tolist())
    total = math.prod(places)
    drawn: dict[tuple[int, ...], None] = {}
    for cube in range(count):
        words = draw_words(seed, stream, cube, 0, Operation.TARGET, 2 * _TRIES).reshape(-1, 2).tolist()
        for high, low in words:
            word = high << 32 | low
            if cube % 2 == 0 and inner.size:
                place = inner[word * inner.size >> 64]
                voxel = np.array(np.unravel_index(place, shape, order="F"))
                corner = corners_around(voxel[np.newaxis], shape, size)[0]
            else:
                place = np.array(np.unravel_index(word * total >> 64, places, order="F"))
                corner = np.where(room < 0, room // 2, place)
            if (key := tuple(corner.tolist())) not in drawn:
                drawn[key] = None
                break
    return np.array(list(drawn), np.int32).reshape(-1, 3)
