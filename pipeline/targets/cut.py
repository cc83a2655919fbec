"""Positions labelled cubes in a scan, by voxels or world coordinates, and cuts them. Pure.

A voxel v of a scan is at origin + D diag(spacing) v, in mm, where D are the direction cosines (`Geometry`). A
world position p is therefore in voxel inv(D diag(spacing)) (p - origin), whatever the directions of the axes.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genesis_toolkit.pipeline.cubes.rule import Triple
from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.pipeline.rng import Operation, draw_words
from genesis_toolkit.pipeline.scans.geometry import Geometry

_TRIES = 64  # random corners drawn per cube until one is new
_NEAR = 0.01  # share of a voxel: the largest deviation of masks whose geometry was written as float32


def corners_around(voxels: NDArray[np.integer[Any]], shape: Triple, size: Triple) -> NDArray[np.int32]:
    """Return corners of cubes centred on voxels [n, 3] of a scan and shifted inside it: int32 [n, 3].

    The centre of a cube is its voxel size // 2. A scan smaller than a cube is placed in the cube's middle,
    whatever the voxel, and the corner is negative.
    """
    room = np.asarray(shape) - np.asarray(size)
    moved = np.clip(voxels - np.asarray(size) // 2, 0, np.maximum(room, 0))
    return np.asarray(np.where(room < 0, room // 2, moved), np.int32)


def box_at(
    voxels: NDArray[Any], corner: NDArray[np.integer[Any]], size: Triple, outside: int
) -> NDArray[Any]:
    """Return the box of a scan at a corner, C-contiguous [x, y, z], filled with `outside` beyond the scan."""
    first, last = np.maximum(corner, 0), np.minimum(corner + np.asarray(size), voxels.shape)
    box = np.full(size, outside, voxels.dtype)
    to = tuple(slice(a - c, b - c) for a, b, c in zip(first, last, corner, strict=True))
    box[to] = voxels[tuple(slice(a, b) for a, b in zip(first, last, strict=True))]
    return box


def clipped_boxes(
    voxels: NDArray[Any], corners: NDArray[np.integer[Any]], size: Triple, window: Window
) -> list[NDArray[np.int16]]:
    """Return the cubes of a scan at known corners: int16, clipped; beyond the scan the lowest value."""
    return [np.ascontiguousarray(window.clip(box_at(voxels, corner, size, window.low))) for corner in corners]


def averaged(voxels: NDArray[Any], size: Triple, window: Window) -> NDArray[np.int16]:
    """Average a whole scan [x, y, z], clipped, down (or up) to `size`: int16, halves to even.

    As for images, a voxel of the result is the mean over the part of the scan that it covers, with voxels on
    its edge weighted by the covered share. All sums are whole numbers, so all machines give equal bytes.
    """
    columns = np.empty((size[0], size[1], voxels.shape[2]), np.int64)
    for z in range(voxels.shape[2]):
        plane = window.clip(voxels[:, :, z]).astype(np.int64)
        columns[:, :, z] = _areas(_areas(plane.T, size[0]).T, size[1])
    total = math.prod(voxels.shape)
    whole, rest = np.divmod(_areas(columns, size[2]), total)
    whole += (2 * rest > total) | ((2 * rest == total) & (whole % 2 == 1))
    return np.ascontiguousarray(whole, np.int16)


def _areas(values: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Sum over equal parts of the last axis, in units of one `count`-th of a value: int64 [..., count]."""
    length = values.shape[-1]
    none = np.zeros((*values.shape[:-1], 1), np.int64)
    before = np.concatenate([none, np.cumsum(values, axis=-1)], axis=-1)
    place, share = np.divmod(np.arange(count + 1) * length, count)
    edges = before[..., place] * count + share * np.concatenate([values, none], axis=-1)[..., place]
    return np.asarray(np.diff(edges, axis=-1))


def mask_corners(
    foreground: NDArray[np.bool_], size: Triple, count: int, seed: int, stream: np.uint64
) -> NDArray[np.int32]:
    """Draw the corners of cubes of a scan with a mask: half around foreground, half anywhere.

    Cubes 0, 2, 4 .. are centred on a voxel drawn uniformly from the foreground (`corners_around`); the others
    have any corner inside the scan, drawn uniformly, as do all cubes if there is no foreground. A repeated
    corner is redrawn.

    Args:
        foreground: [x, y, z] of the scan.
        size: edges of a cube.
        count: number of cubes.
        seed, stream: seed of the draws, and stream key of the scan.

    Returns:
        int32 [cube, 3], distinct, in the order drawn; fewer if a small scan, or little foreground, has no
        more positions.
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


def to_world(voxels: ArrayLike, geometry: Geometry) -> NDArray[np.float64]:
    """Return the positions of voxels [n, 3] in x, y, z, float64 [n, 3] in mm; fractions are allowed."""
    return np.asarray(voxels, np.float64) @ _steps(geometry).T + np.asarray(geometry.origin, np.float64)


def to_voxels(world: ArrayLike, geometry: Geometry) -> NDArray[np.float64]:
    """Convert world positions, [n, 3] in mm, to voxel coordinates; whole numbers are voxels' centres.

    Returns:
        float64 [n, 3] in x, y, z; outside the scan below -0.5, or at least shape - 0.5.

    Raises:
        DataError: the scan's directions are in one plane, so the conversion cannot be inverted.
    """
    try:
        back = np.linalg.inv(_steps(geometry))
    except np.linalg.LinAlgError:
        raise DataError(
            f"the axes of the scan {geometry.direction} lie in one plane, so positions in mm cannot be "
            "converted to voxels: export the scan again"
        ) from None
    return np.asarray((np.asarray(world, np.float64) - np.asarray(geometry.origin)) @ back.T)


def nearest_voxels(world: ArrayLike, geometry: Geometry) -> NDArray[np.int64]:
    """Return the voxel nearest to each world position, halves rounded up like ITK; may be outside the scan.

    The positions are finite, [n, 3] in mm; the voxels int64 [n, 3] in x, y, z.

    Raises:
        DataError: see `to_voxels`.
    """
    # A distant position may overflow: it is outside in any case.
    return np.floor(np.clip(to_voxels(world, geometry), -(2.0**31), 2.0**31) + 0.5).astype(np.int64)


def inside(voxels: NDArray[np.integer[Any]], shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Return which voxels, [n, 3], are inside a scan of this shape: bool [n]."""
    return np.asarray(((voxels >= 0) & (voxels < np.asarray(shape))).all(axis=1))


def same_grid(one: Geometry, other: Geometry) -> bool:
    """Return whether two scans have equal shapes, and voxels within a hundredth of a voxel of each other.

    The grids are affine, so comparing their corners suffices.
    """
    if one.shape != other.shape:
        return False
    corners = np.array(np.meshgrid(*([0, edge - 1] for edge in one.shape))).reshape(3, 8).T
    apart = np.abs(to_world(corners, one) - to_world(corners, other)).max()
    return bool(apart <= _NEAR * min(one.spacing))


def grid_words(geometry: Geometry) -> str:
    """Return a description of a grid for a sentence."""
    shape = " x ".join(map(str, geometry.shape))
    spacing, origin, direction = (
        " ".join(f"{number:.6g}" for number in numbers)
        for numbers in (geometry.spacing, geometry.origin, geometry.direction)
    )
    return f"{shape} voxels, spacing {spacing}, origin {origin}, direction {direction}"


def _steps(geometry: Geometry) -> NDArray[np.float64]:
    """Return the world vectors of one voxel along each axis: float64 [3, 3], one column per axis."""
    return np.reshape(geometry.direction, (3, 3)) * np.asarray(geometry.spacing, np.float64)
