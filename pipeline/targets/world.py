"""World coordinates <-> voxels. Pure.

A voxel v of a scan lies at origin + D diag(spacing) v, in mm, D the direction cosines (`grid.Geometry`). So a
place p in the world falls on voxel inv(D diag(spacing)) (p - origin), whichever way the axes run.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.scans.geometry import Geometry

_NEAR = 0.01  # of a voxel: masks written as float32 lie so far off their scan, and no farther


def to_world(voxels: ArrayLike, geometry: Geometry) -> NDArray[np.float64]:
    """Where voxels [n, 3] in x, y, z lie, float64 [n, 3] in mm; real numbers lie between voxels."""
    world: NDArray[np.float64] = np.asarray(voxels, np.float64) @ _steps(geometry).T
    return world + np.asarray(geometry.origin, np.float64)


def to_voxels(world: ArrayLike, geometry: Geometry) -> NDArray[np.float64]:
    """Where places in the world, [n, 3] in mm, lie among the voxels; whole numbers are voxels' centres.

    Returns:
        float64 [n, 3] in x, y, z; outside the scan below -0.5, or shape - 0.5 and above.

    Raises:
        DataError: the scan's directions lie in one plane, so that there is no way back.
    """
    try:
        back = np.linalg.inv(_steps(geometry))
    except np.linalg.LinAlgError:
        raise DataError(f"its directions {geometry.direction} lie in one plane") from None
    voxels: NDArray[np.float64] = (np.asarray(world, np.float64) - np.asarray(geometry.origin)) @ back.T
    return voxels


def nearest_voxels(world: ArrayLike, geometry: Geometry) -> NDArray[np.int64]:
    """The voxel that each place in the world falls on, halves rounded up as ITK does; maybe outside the scan.

    The places are finite, [n, 3] in mm; the voxels int64 [n, 3] in x, y, z.

    Raises:
        DataError: as `to_voxels`.
    """
    # A place may be so far off that it falls on no number: it is outside all the same.
    return np.floor(np.clip(to_voxels(world, geometry), -(2.0**31), 2.0**31) + 0.5).astype(np.int64)


def inside(voxels: NDArray[np.integer[Any]], shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Which voxels, [n, 3], lie in a scan of this shape: bool [n]."""
    within: NDArray[np.bool_] = np.all((voxels >= 0) & (voxels < np.asarray(shape)), axis=1)
    return within


def same_grid(one: Geometry, other: Geometry) -> bool:
    """Whether two scans have as many voxels, each within a hundredth of a voxel of the other's.

    The grids are affine, so it is enough that their corners lie together.
    """
    if one.shape != other.shape:
        return False
    corners = np.array(np.meshgrid(*([0, edge - 1] for edge in one.shape))).reshape(3, 8).T
    apart = np.abs(to_world(corners, one) - to_world(corners, other)).max()
    return bool(apart <= _NEAR * min(one.spacing))


def grid_words(geometry: Geometry) -> str:
    """A grid in words, for a sentence."""
    shape = " x ".join(map(str, geometry.shape))
    spacing, origin, direction = (
        " ".join(f"{number:.6g}" for number in numbers)
        for numbers in (geometry.spacing, geometry.origin, geometry.direction)
    )
    return f"{shape} voxels, spacing {spacing}, origin {origin}, direction {direction}"


def _steps(geometry: Geometry) -> NDArray[np.float64]:
    """What one voxel along each axis is in the world: float64 [3, 3], one column an axis."""
    return np.reshape(geometry.direction, (3, 3)) * np.asarray(geometry.spacing, np.float64)
