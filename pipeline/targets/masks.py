"""Segmentation: cubes of scans with the same boxes of their masks (METHOD.md section 6)."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.rng import stream_key
from genesis_toolkit.pipeline.scans.read import read_geometry, read_scan
from genesis_toolkit.pipeline.targets.cut import box_at, draw_mask_corners
from genesis_toolkit.pipeline.targets.parameters import MaskParameters
from genesis_toolkit.pipeline.targets.plan import Cut, Piece
from genesis_toolkit.pipeline.targets.world import grid_words, same_grid


def cut_masks(path: Path, mask_path: Path, piece: Piece, parameters: MaskParameters) -> Cut:
    """Cut cubes of a scan and of its mask.

    Args:
        path: of the scan.
        mask_path: of its mask.
        piece: says the scan's identifier.
        parameters: what to cut.

    Returns:
        Its facts hold `foreground`, how many voxels of the scan are.

    Raises:
        DataError: either cannot be read, or they do not lie on one grid: nothing is resampled.
    """
    geometry = read_geometry(path)
    try:
        lies = read_geometry(mask_path)
        if not same_grid(geometry, lies):
            raise DataError(
                f"it lies on another grid ({grid_words(lies)}) than the scan ({grid_words(geometry)}): "
                "resample it to the scan's, by nearest neighbour"
            )
        foreground = _foreground(read_scan(mask_path).voxels, parameters.labels)
    except DataError as error:
        raise DataError(f"its mask {mask_path.name}: {error}") from None
    scan = read_scan(path)
    stream = stream_key(piece.source.identifier)
    corners = draw_mask_corners(
        foreground, parameters.size, parameters.cubes_per_scan, parameters.seed, stream
    )
    window, size = parameters.window, parameters.size
    cubes = [
        np.ascontiguousarray(window.clip(box_at(scan.voxels, corner, size, window.low))) for corner in corners
    ]
    masks = [box_at(foreground, corner, size, 0).astype(np.uint8) for corner in corners]
    facts = {**asdict(scan.geometry), "foreground": int(np.count_nonzero(foreground))}
    return Cut(scan.sha256, facts, corners, cubes, masks=masks)


def _foreground(voxels: NDArray[Any], labels: tuple[int, ...] | None) -> NDArray[np.bool_]:
    if voxels.dtype != np.int16:
        raise DataError("it holds values that are not whole numbers")
    return voxels != 0 if labels is None else np.isin(voxels, labels)
