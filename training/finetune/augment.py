"""Random changes of training cubes: flips, shifts, small rotations, grey values; pure functions.

The changes of a cube depend on the seed, the epoch and the cube only, so they are the same for every network,
batch and device. Masks follow voxel by voxel; labels stay.

Cubes rotate about the z axis only, because voxels are rarely as long along z as along x and y. Shifts are in
whole voxels, so a cube that is not rotated is not blurred either. Voxels from beyond a border repeat it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from genesis_toolkit.pipeline.rng import Operation, draw_words

#: Shifts up to an edge divided by this, rotations up to this many degrees, in this share of the cubes.
SHIFT, TURN, TURNED = 8, 10.0, 0.5
#: Contrast is scaled about the mean by 1 -+ this, brightness moved by at most this part of the window.
CONTRAST, BRIGHTNESS = 0.2, 0.1

_AXES = 3
_WORDS = 2 * _AXES + 4


class Changes(NamedTuple):
    """The changes of each cube of a batch, or image, whose axes are x, y and, for cubes, z.

    Attributes:
        flip: bool `[cube, axis]`: an image is flipped along x only, from left to right.
        shift: int64 `[cube, axis]`, in voxels towards the far end.
        turn: float64 `[cube]`, in radians, from x to y.
        contrast: float32 `[cube]`, a factor.
        brightness: float32 `[cube]`, in units of the window.
    """

    flip: NDArray[np.bool_]
    shift: NDArray[np.int64]
    turn: NDArray[np.float64]
    contrast: NDArray[np.float32]
    brightness: NDArray[np.float32]


def draw_changes(
    seed: int,
    epoch: int,
    streams: NDArray[np.uint64],
    numbers: Sequence[int] | NDArray[np.integer[Any]],
    size: tuple[int, ...],
) -> Changes:
    """Draw the changes of one epoch for cubes of these edges in voxels.

    Args:
        seed: seed of the run.
        epoch: counted from 0.
        streams: `[cube]`, the stream key of each cube's scan.
        numbers: `[cube]`, number of each cube within its scan.
        size: (x, y, z), or (x, y) for images.
    """
    drawn = [
        draw_words(seed, stream, int(number), epoch, Operation.AUGMENT, _WORDS)
        for stream, number in zip(streams, numbers, strict=True)
    ]
    uniform = np.array(drawn).reshape(-1, _WORDS) / 2.0**32  # in [0, 1), exact in float64
    axes = len(size)
    flip = uniform[:, :axes] < 0.5
    if axes < _AXES:
        flip[:, 1:] = False
    reach = np.array(size) // SHIFT
    shift = np.floor(uniform[:, _AXES : _AXES + axes] * (2 * reach + 1)).astype(np.int64) - reach
    turned, angle, contrast, brightness = uniform[:, 2 * _AXES :].T
    return Changes(
        flip,
        shift,
        np.where(turned < TURNED, np.radians(TURN) * (2 * angle - 1), 0.0),
        (1 + CONTRAST * (2 * contrast - 1)).astype(np.float32),
        (BRIGHTNESS * (2 * brightness - 1)).astype(np.float32),
    )


def move(voxels: Tensor, changes: Changes, *, nearest: bool = False) -> Tensor:
    """Return voxels flipped, then shifted, then rotated about the centre.

    Args:
        voxels: float32 `[cube, 1, x, y, z]`, or `[cube, 1, x, y]`.
        changes: changes of the same cubes.
        nearest: use the nearest voxel, for masks, instead of interpolating.
    """
    along_z = voxels.ndim == 2 + _AXES
    planes = voxels[:, 0].permute(0, 3, 1, 2) if along_z else voxels
    if along_z:
        deep = planes.shape[1]
        level = np.clip(np.arange(deep) - changes.shift[:, 2:], 0, deep - 1)
        level = np.where(changes.flip[:, 2:], deep - 1 - level, level)
        index = torch.from_numpy(level).to(voxels.device)[:, :, None, None]
        planes = planes.gather(1, index.expand_as(planes))
    grid = torch.from_numpy(_places(changes, (planes.shape[2], planes.shape[3]))).to(voxels.device)
    mode = "nearest" if nearest else "bilinear"
    moved = functional.grid_sample(planes, grid, mode, padding_mode="border", align_corners=True)
    return moved.permute(0, 2, 3, 1).unsqueeze(1).contiguous() if along_z else moved


def _places(changes: Changes, edges: tuple[int, int]) -> NDArray[np.float32]:
    """Return the source of each pixel of a moved plane: float32 `[cube, x, y, 2]`, y before x, in [-1, 1]."""
    x, y = (np.arange(edge) - (edge - 1) / 2 for edge in edges)
    cos, sin = (part(changes.turn)[:, None, None] for part in (np.cos, np.sin))
    from_x = cos * x[:, None] + sin * y - changes.shift[:, 0, None, None]
    from_y = cos * y - sin * x[:, None] - changes.shift[:, 1, None, None]
    signs = np.where(changes.flip[:, :2], -1.0, 1.0)
    places = [from_y * signs[:, 1, None, None], from_x * signs[:, 0, None, None]]
    halves = np.array([edges[1] - 1, edges[0] - 1]) / 2
    return (np.stack(places, axis=-1) / halves).astype(np.float32)


def tint(voxels: Tensor, changes: Changes) -> Tensor:
    """Return voxels, float32 `[cube, 1, ..]` in [0, 1], with contrast and brightness changed."""
    shape = (-1, *[1] * (voxels.ndim - 1))
    contrast, brightness = (
        torch.from_numpy(one).to(voxels.device).view(shape) for one in (changes.contrast, changes.brightness)
    )
    mean = voxels.flatten(1).mean(1).view(shape)
    return ((voxels - mean) * contrast + mean + brightness).clamp(0, 1)
