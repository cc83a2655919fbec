"""Convert whole numbers to [0, 1], once, on the device that trains (METHOD.md section 2)."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.pipeline.jit import kernel


def normalise(cubes: Tensor, window: Window, out: Tensor | None = None) -> Tensor:
    """Scale whole numbers to [0, 1] on their device (METHOD.md section 2).

    Args:
        cubes: integers in the window, `[cube, x, y, z]`, contiguous.
        window: `low` becomes 0, `high` becomes 1.
        out: float32 `[cube, 1, x, y, z]` on the same device, to write to and return: on the CPU, freshly
            allocated memory costs as much as the work. Allocated by default.

    Returns:
        float32 `[cube, 1, x, y, z]`: the float32 nearest to (x - low) / span.
    """
    if out is None:
        out = torch.empty((len(cubes), 1, *cubes.shape[1:]), dtype=torch.float32, device=cubes.device)
    if cubes.device.type == "cpu":
        flat = cubes.numpy().reshape(-1), out.numpy().reshape(-1)
        _normalise(*flat, np.float32(window.low), np.float32(window.span))
        return out
    return normalise_by_torch(cubes, window, out)


def normalise_by_torch(cubes: Tensor, window: Window, out: Tensor) -> Tensor:
    """Do the same as `normalise` with torch operations, on any device and without waiting for it."""
    # Divided by a tensor on the device: dividing a CUDA tensor by a number multiplies by its float32
    # reciprocal, which is off by one bit for 1,181 of the 2,001 codes of the HU window. `torch.full` fills it
    # on the device; `torch.tensor` would copy it from the host and wait for all pending work.
    span = torch.full((), window.span, dtype=torch.float32, device=cubes.device)
    return out.copy_(cubes.unsqueeze(1)).sub_(window.low).div_(span)


def compile_normalise() -> None:
    """Let the kernel be compiled for every kind of cube."""
    for dtype in (torch.int16, torch.uint8, torch.uint16):
        normalise(torch.zeros((1, 1, 1, 1), dtype=dtype), Window(0, 1))


@kernel
def _normalise(
    cubes: NDArray[np.integer[Any]], out: NDArray[np.float32], low: np.float32, span: np.float32
) -> None:
    """Normalise in one pass over the voxels, in a quarter of the time of torch's three."""
    for voxel in range(cubes.size):
        out[voxel] = (np.float32(cubes[voxel]) - low) / span
