"""The tissue rule for all corners of a scan, computed by running box sums, and the drawing of corners.

Pure: arrays in, plain data out. METHOD.md section 2. A voxel's score is 1 if it is tissue, 1/2 if only the
voxel in the next slice is, else 0; a cube is refused if the sum of its scores exceeds `max_tissue` of its
voxels, or (not part of the published rule) falls below `min_tissue` of them. Counted in halves, a voxel gives
a + (a or b), where a: it is tissue, b: the next one is, so the whole rule uses whole numbers. (The rule's
third look, two slices on, always gives 0.)

No rule was published for slices. Ours counts everything that is not lung: a pixel's score is 1 if it is
tissue or air, that is, below `_AIR_HU`, else 0. The next slice is ignored, since a picture does not show it,
so a pixel gives two halves or none. The reasons, and the measurements behind `_AIR_HU` and `_PATCH_TISSUE`,
are in docs/explanation/placement.md.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.hounsfield import TISSUE_HU, Window
from genesis_toolkit.pipeline.jit import ONE, ZERO, kernel
from genesis_toolkit.pipeline.rng import Operation, draw_distinct, draw_words, stream_key
from genesis_toolkit.pipeline.scans.geometry import Voxels

Triple = tuple[int, int, int]

#: Orientation of a slice in the stored scan: across z, y or x. With `--orient` these are the patient's.
Plane = Literal["axial", "coronal", "sagittal"]

_PUBLISHED = Window()
_TRIES = 64  # random corners drawn per requested one

#: How far past the cube a scan must extend: the published bounds leave out one voxel in the plane and, for
#: the look at later slices, four in z; they are kept exactly.
_BEYOND: Triple = (1, 1, 4)

#: The default limit of the score: as published for a cube, our own for a patch.
_CUBE_TISSUE = 0.15
_PATCH_TISSUE = 0.7

#: Below this HU a pixel of a patch is air: outside the patient, or padding around the field of view.
_AIR_HU = -950

_ACROSS: dict[Plane, int] = {"axial": 2, "coronal": 1, "sagittal": 0}


@dataclass(frozen=True)
class CubeRule:
    """Conditions for cubes, or patches of slices: METHOD.md section 2, by default those for cubes.

    The attributes are those of `ExtractParameters`; a size of two edges is in the order of the axes.

    Raises:
        CallError: a value is out of range.
    """

    size: tuple[int, ...] = (64, 64, 32)
    border: Triple = (100, 100, 30)
    max_tissue: float | None = None
    min_tissue: float = 0.0
    plane: Plane | None = None

    def __post_init__(self) -> None:
        size, border = (",".join(map(str, numbers)) for numbers in (self.size, self.border))
        if len(self.size) not in (2, 3) or min(self.size) < 1:
            raise CallError(
                f"--size {size} is invalid: it must be three edges x,y,z of at least 1 for a "
                "cube, for example 64,64,32, or two for a patch of a slice, for example "
                "224,224."
            )
        if self.plane is not None and self.plane not in get_args(Plane):
            raise CallError(
                f"--plane {self.plane} is unknown: it must be one of {', '.join(get_args(Plane))}."
            )
        if len(self.size) == 2:
            object.__setattr__(self, "plane", self.plane or "axial")
        elif self.plane is not None:
            raise CallError(
                f"--plane {self.plane} is for patches of slices, but --size {size} means cubes: give two "
                "edges, for example --size 224,224, or omit --plane."
            )
        if len(self.border) != 3 or min(self.border) < 0:
            raise CallError(
                f"--border {border} is invalid: it must be three numbers x,y,z of at least 0, "
                "such as 100,100,30."
            )
        object.__setattr__(self, "max_tissue", self.most_tissue)
        if not 0 <= self.most_tissue <= 1:
            raise CallError(
                f"--max-tissue {self.most_tissue} is out of range: it must be between 0 and 1, such as 0.15."
            )
        if self.plane and self.min_tissue:
            raise CallError(
                f"--min-tissue {self.min_tissue} applies only to cubes. In patches of slices, air "
                "counts as tissue, so --max-tissue already excludes patches full of air. "
                "Omit --min-tissue."
            )
        if not 0 <= self.min_tissue <= self.most_tissue:
            raise CallError(
                f"--min-tissue {self.min_tissue} is out of range: it must be between 0 (no "
                f"tissue required) and --max-tissue, which is {self.most_tissue}."
            )

    @property
    def most_tissue(self) -> float:
        """Return `max_tissue`, or the default for cubes or patches."""
        if self.max_tissue is not None:
            return self.max_tissue
        return _CUBE_TISSUE if len(self.size) == 3 else _PATCH_TISSUE

    @property
    def box(self) -> Triple:
        """Return the edges of the box cut from the scan, in x, y, z: for a patch 1 across its plane."""
        edges = list(self.size)
        if self.plane is not None:
            edges.insert(_ACROSS[self.plane], 1)
        x, y, z = edges
        return x, y, z

    @property
    def look(self) -> int:
        """Return how many later slices a voxel's score depends on: 1 in cubes, 0 in patches."""
        return 0 if self.plane else 1

    @property
    def least_shape(self) -> Triple:
        """Return the smallest scan with a choice of corners: 265, 265, 96 with the published values.

        A patch may touch the border; a cube, by the published bounds, not quite.
        """
        beyond = (0, 0, 0) if self.plane else _BEYOND
        axes = zip(self.box, beyond, self.border, strict=True)
        x, y, z = (edge + more + 2 * border for edge, more, border in axes)
        return x, y, z

    @property
    def voxels(self) -> int:
        """Return the number of voxels of a cube."""
        return math.prod(self.size)

    @property
    def most_halves(self) -> int:
        """Return the largest sum of scores, counted in halves, that passes."""
        return math.floor(2 * (self.most_tissue * self.voxels))

    @property
    def least_halves(self) -> int:
        """Return the smallest sum of scores, counted in halves, that passes: 0 if no tissue is required."""
        return math.ceil(2 * (self.min_tissue * self.voxels))


@dataclass(frozen=True)
class Corners:
    """The decision for every candidate corner of one scan.

    Attributes:
        passing: bool [x, y, z] (z slowest in memory), True where a cube may start; the first entry is the
            corner `first`.
        by_slice: int64 [z], number of passing corners in each slice.
        first: the lowest candidate corner, which is the border.
    """

    passing: NDArray[np.bool_]
    by_slice: NDArray[np.int64]
    first: Triple

    @property
    def count(self) -> int:
        """Return the number of corners that pass."""
        return int(self.by_slice.sum())


def too_small(shape: Triple, rule: CubeRule) -> str | None:
    """Return why a scan of this many voxels in x, y, z has no corner at all; None if it has one."""
    (x, y, z), (least_x, least_y, least_z) = shape, rule.least_shape
    if rule.plane:
        fits = x >= least_x and y >= least_y and z >= least_z
        return None if fits else f"{x} x {y} x {z} voxels, {least_x} x {least_y} x {least_z} needed"
    if x < least_x or y < least_y:
        return f"{x} x {y} voxels in the plane, {least_x} x {least_y} needed"
    if z < least_z:
        return f"{z} slices, {least_z} needed"
    return None


def tissue_from(dtype: np.dtype[Any], window: Window) -> Any:
    """Return the smallest value of a dtype that is tissue, as a number of that dtype.

    For whole numbers it is -150. Real numbers are judged before any rounding to whole HU (-150.3 is not
    tissue, although it is stored as -150), and by METHOD.md section 2: scaled to [0, 1] in double
    precision, where a few values next to -150 map to the same number as -150, and so are tissue too. Scaling
    preserves order, so one threshold suffices, without a scaled copy of the scan. Clipping to the window has
    no effect here: it could change a decision only in a window that excludes -150, and there tissue means the
    same as for whole numbers.

    Args:
        dtype: dtype of the scan's voxels: a signed integer, float32 or float64.
        window: scales real numbers.
    """
    least = dtype.type(TISSUE_HU)
    if dtype.kind != "f":
        return least
    threshold = (float(TISSUE_HU) - window.low) / window.span
    while (float(below := np.nextafter(least, dtype.type(-np.inf))) - window.low) / window.span >= threshold:
        least = below
    return least


def air_below(dtype: np.dtype[Any], plane: Plane | None) -> Any:
    """Return the value of a dtype below which a pixel is air, as a number of that dtype.

    For patches it is -950; real numbers are compared directly, neither scaled nor rounded. In cubes, which
    have no plane, air does not count, so it is the lowest possible value.
    """
    if plane:
        return dtype.type(_AIR_HU)
    return dtype.type(-np.inf if dtype.kind == "f" else np.iinfo(dtype).min)


def passing_corners(voxels: Voxels, rule: CubeRule, window: Window = _PUBLISHED) -> Corners:
    """Apply the tissue rule to every corner of a scan, using 1 byte per corner and a ring of slices.

    Args:
        voxels: int16, float32 or float64 [x, y, z], HU, x fastest in memory (as from `read_scan`); at least
            `least_shape`. Real numbers not rounded.
        rule: conditions for a cube.
        window: scales real numbers, see `tissue_from`; whole numbers need none.
    """
    return _evaluated(voxels, rule, window, bins=0)[0]


def count_scores(voxels: Voxels, rule: CubeRule, window: Window = _PUBLISHED) -> NDArray[np.uint32]:
    """Count the candidate corners by score; for arguments see `passing_corners`.

    Returns:
        uint32 [2 * voxels of a cube + 1], the number of candidates by the sum of their scores in halves.
    """
    return _evaluated(voxels, rule, window, bins=2 * rule.voxels + 1)[1]


def draw_corners(corners: Corners, count: int, words: NDArray[np.uint32]) -> NDArray[np.int32]:
    """Draw distinct corners, uniformly among those that pass.

    Drawing among the passing corners, counted slice by slice and row by row, has the same distribution as
    drawing among all and rejecting, without the rejections; each corner is taken once, since equal cubes
    teach nothing.

    Args:
        corners: the decision for the scan.
        count: number of corners; fewer are returned if fewer pass.
        words: see `place_words`.

    Returns:
        int32 [corner, 3], the first voxel of each cube in x, y, z, in the order drawn.
    """
    ranks, ends = draw_distinct(corners.count, count, words), np.cumsum(corners.by_slice)
    found = np.empty((len(ranks), 3), dtype=np.int32)
    slices = np.searchsorted(ends, ranks, side="right")
    for z in np.unique(slices):
        within, here = np.flatnonzero(corners.passing[:, :, z].T), slices == z
        y, x = np.divmod(within[ranks[here] - (ends[z] - corners.by_slice[z])], corners.passing.shape[0])
        found[here] = np.stack([x, y, np.full_like(x, z)], axis=1)
    return found + np.array(corners.first, dtype=np.int32)


def tissue_score(
    voxels: Voxels,
    corner: NDArray[np.integer[Any]],
    size: tuple[int, ...],
    window: Window = _PUBLISHED,
    plane: Plane | None = None,
) -> float:
    """Return the tissue rule's score of one cube or patch, as a share of its voxels in 0..1.

    For a patch it is the share of pixels that are tissue or air, and so cannot be lung.

    Args:
        voxels, window: see `passing_corners`.
        corner: the first voxel of the cube.
        size, plane: see `CubeRule`.
    """
    rule = CubeRule(tuple(size), plane=plane)
    x, y, z = (int(number) for number in corner)
    edge_x, edge_y, edge_z = rule.box
    box = voxels.T[z : z + edge_z + rule.look, y : y + edge_y, x : x + edge_x]
    tissue: NDArray[np.bool_] = box >= tissue_from(voxels.dtype, window)
    counted = tissue | (box < air_below(voxels.dtype, plane)) if plane else tissue
    here, after = counted[:edge_z], tissue[rule.look :]
    halves = int(np.count_nonzero(here)) + int(np.count_nonzero(here | after))
    return halves / (2 * here.size)


def place_words(seed: int, identifier: str, count: int) -> NDArray[np.uint32]:
    """Return random words for drawing `count` positions in a scan, 64 tries each: see `draw_distinct`."""
    return draw_words(seed, stream_key(identifier), 0, 0, Operation.PLACE, 2 * _TRIES * count)


def _evaluated(
    voxels: Voxels, rule: CubeRule, window: Window, bins: int
) -> tuple[Corners, NDArray[np.uint32]]:
    """Return the decisions, and the number of candidates by score if `bins` has room for every score."""
    counts = [edge - least + 1 for edge, least in zip(voxels.shape, rule.least_shape, strict=True)]
    passing, by_slice = np.empty(counts[::-1], dtype=np.bool_), np.zeros(counts[2], dtype=np.int64)
    by_score = np.zeros(bins, dtype=np.uint32)
    least, most = rule.least_halves, rule.most_halves
    if least > most:  # no sum is within the limits: use one that no cube reaches
        least = most = 2 * rule.voxels + 1
    border, box = (tuple(map(np.uint64, edges)) for edges in (rule.border, rule.box))
    numbers = (np.uint64(rule.look), np.int32(least), np.uint32(most - least))
    bounds = (tissue_from(voxels.dtype, window), air_below(voxels.dtype, rule.plane))
    out = (passing, by_slice, by_score)
    _evaluate_corners(np.ascontiguousarray(voxels.T), *bounds, border, box, *numbers, *out)
    return Corners(passing.T, by_slice, rule.border), by_score


@kernel
def _evaluate_corners(voxels, tissue, air, border, size, look, least, span, passing, by_slice, by_score):  # type: ignore[no-untyped-def]
    """Compute running box sums over z, then y, then x: a few additions per corner, all but one in SIMD.

    voxels [z, y, x], `tissue` the least of these that is tissue; those below `air` count like tissue in their
    own slice, and never as the next voxel; `look`, 1 or 0, is the distance to the voxel that may add a half:
    0 is the voxel itself, which adds only its own two; passing [z, y, x]; by_score [halves], counted unless
    empty. A score passes from `least` to `least + span`: one unsigned comparison covers both limits. Indices
    are unsigned: with signed ones numba checks for negative indices at every step, which took four times as
    long.
    """
    edge_x, edge_y, depth = size
    first_x, first_y, first_z = border
    corners_z, corners_x = np.uint64(passing.shape[0]), np.uint64(passing.shape[2])
    width, height = corners_x + edge_x - ONE, np.uint64(passing.shape[1]) + edge_y - ONE
    ring = np.zeros((depth, height, width), np.uint8)  # scores in halves of the slices in the box
    along_z, along_y = np.zeros((height, width), np.uint16), np.zeros(width, np.int32)  # running sums
    along_x = np.zeros(width + ONE, np.int32)
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
