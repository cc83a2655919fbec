"""The tissue rule for all corners of a scan by running box sums: the loops, compiled. METHOD.md section 2."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.jit import ONE, ZERO, kernel


@kernel
def evaluate_corners(
    voxels: NDArray[Any],
    tissue: Any,
    air: Any,
    border: tuple[np.uint64, ...],
    size: tuple[np.uint64, ...],
    look: np.uint64,
    least: np.int32,
    span: np.uint32,
    ring: NDArray[np.uint8],
    along_z: NDArray[np.uint16],
    along_y: NDArray[np.int32],
    along_x: NDArray[np.int32],
    passing: NDArray[np.bool_],
    by_slice: NDArray[np.int64],
    by_score: NDArray[np.uint32],
) -> None:
    """Box sums over z, then y, then x, each running: a few additions a corner, all but one of them in SIMD.

    voxels [z, y, x], `tissue` the least of these that is tissue; those below `air` count like tissue in their
    own slice, and never as the voxel after; `look` slices on, 1 or 0, is the voxel that may give a half: 0,
    which is the voxel itself, gives none but its own two; ring [slice of the cube, y, x]:
    scores in halves of the slices now in the box; along_z [y, x], along_y [x], along_x [x + 1]: the sums so
    far; passing [z, y, x]; by_score [halves], counted unless empty. A score passes from `least` to `least +
    span`: one unsigned comparison does for both bounds. Indices are unsigned: with signed ones numba looks
    for negative indices at every step, which cost four times the time.
    """
    depth, height, width = np.uint64(ring.shape[0]), np.uint64(ring.shape[1]), np.uint64(ring.shape[2])
    corners_z, corners_x = np.uint64(passing.shape[0]), np.uint64(passing.shape[2])
    first_x, first_y, first_z = border
    edge_x, edge_y, _ = size
    for step in range(ZERO, corners_z + depth - ONE):
        z = first_z + step
        slot = step % depth
        for y in range(ZERO, height):
            here = voxels[z, first_y + y, first_x : first_x + width]
            after = voxels[z + look, first_y + y, first_x : first_x + width]
            sums, kept = along_z[y], ring[slot, y]
            for x in range(ZERO, width):
                a = np.uint8((here[x] >= tissue) | (here[x] < air))
                b = np.uint8(after[x] >= tissue)
                score = np.uint8(a + (a | b))
                sums[x] = np.uint16(sums[x] + np.uint16(score) - np.uint16(kept[x]))
                kept[x] = score
        if step + ONE < depth:
            continue
        corner_z = step + ONE - depth
        count = np.int64(0)
        for x in range(ZERO, width):
            along_y[x] = 0
        for y in range(ZERO, height):
            new = along_z[y]
            for x in range(ZERO, width):
                along_y[x] += new[x]
            if y >= edge_y:
                old = along_z[y - edge_y]
                for x in range(ZERO, width):
                    along_y[x] -= old[x]
            if y + ONE < edge_y:
                continue
            total = np.int32(0)
            for x in range(ZERO, width):
                total += along_y[x]
                along_x[x + ONE] = total
            row = passing[corner_z, y + ONE - edge_y]
            passed = np.uint32(0)
            for x in range(ZERO, corners_x):
                passes = np.uint32(along_x[x + edge_x] - along_x[x] - least) <= span
                row[x] = passes
                passed += np.uint32(passes)
            count += passed
            if by_score.size:
                for x in range(ZERO, corners_x):
                    by_score[np.uint64(along_x[x + edge_x] - along_x[x])] += np.uint32(1)
        by_slice[corner_z] = count
