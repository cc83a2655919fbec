"""Where a scan may be cut: the tissue rule for all corners by running box sums, and which corners are drawn.

Pure: arrays in, plain data out. METHOD.md section 2. A voxel's score is 1 where it is tissue, 1/2 where only
the slice after it is, else 0; a cube is refused when the sum of its scores exceeds `max_tissue` of its
voxels, or (no part of the published rule) falls below `min_tissue` of them. Counted in halves, a voxel gives
a + (a or b) with a: it is tissue, b: the one after is, so the whole rule runs in whole numbers. (The rule's
third look, two slices on, gives 0 whatever it finds.)

For slices no rule was published. Ours counts what is not lung: a pixel's score is 1 where it is tissue or
air, which is what lies below `_AIR_HU`, else 0. There is no look at the slice after, which a picture does
not show, so a pixel gives two halves or none. The reasons, and the numbers behind `_AIR_HU` and
`_PATCH_TISSUE`, are in docs/explanation/placement.md.
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

#: How a slice lies in the scan as it is stored: across z, y or x. `--orient` makes these the patient's.
Plane = Literal["axial", "coronal", "sagittal"]

_PUBLISHED = Window()
_TRIES = 64  # random corners drawn for each one wanted

#: How far past the cube a scan must reach: the published bounds leave one voxel in the plane and, for the
#: look at the slices after, four in z, and are kept to the letter.
_BEYOND: Triple = (1, 1, 4)

#: The largest score by default: of a cube as published, of a patch ours.
_CUBE_TISSUE = 0.15
_PATCH_TISSUE = 0.7

#: In a patch a pixel below this HU is air: outside the patient, or the padding around the field of view.
_AIR_HU = -950

_ACROSS: dict[Plane, int] = {"axial": 2, "coronal": 1, "sagittal": 0}


@dataclass(frozen=True)
class CubeRule:
    """Which cubes, or patches of slices, a scan may give: METHOD.md section 2, its cubes by default.

    The attributes are those of `ExtractParameters`; a size of two edges is in the order of the axes.

    Raises:
        CallError: a value out of range.
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
                f"--size {size}: a cube needs three edges x,y,z of 1 or more, as in --size 64,64,32, and a "
                "patch of a slice two, as in --size 224,224."
            )
        if self.plane is not None and self.plane not in get_args(Plane):
            raise CallError(f"--plane {self.plane}: {', '.join(get_args(Plane))} are known.")
        if len(self.size) == 2:
            object.__setattr__(self, "plane", self.plane or "axial")
        elif self.plane is not None:
            raise CallError(
                f"--plane {self.plane} is for patches of slices, and --size {size} asks for cubes: give two "
                "edges, as in --size 224,224, or leave --plane out."
            )
        if len(self.border) != 3 or min(self.border) < 0:
            raise CallError(
                f"--border {border}: must be three numbers x,y,z of at least 0, such as 100,100,30."
            )
        object.__setattr__(self, "max_tissue", self.most_tissue)
        if not 0 <= self.most_tissue <= 1:
            raise CallError(f"--max-tissue {self.most_tissue}: must be between 0 and 1, such as 0.15.")
        if self.plane and self.min_tissue:
            raise CallError(
                f"--min-tissue {self.min_tissue} is for cubes: in patches of slices air counts like tissue, "
                "so --max-tissue refuses those full of air as well. Leave --min-tissue out."
            )
        if not 0 <= self.min_tissue <= self.most_tissue:
            raise CallError(
                f"--min-tissue {self.min_tissue}: a share from 0 to --max-tissue, {self.most_tissue}, is "
                "wanted; 0 asks for no tissue at all."
            )

    @property
    def most_tissue(self) -> float:
        """`max_tissue`, with the default of cubes or patches where none was given."""
        if self.max_tissue is not None:
            return self.max_tissue
        return _CUBE_TISSUE if len(self.size) == 3 else _PATCH_TISSUE

    @property
    def box(self) -> Triple:
        """What is cut out of the scan, edges in x, y, z: of a patch 1 across its plane."""
        edges = list(self.size)
        if self.plane is not None:
            edges.insert(_ACROSS[self.plane], 1)
        x, y, z = edges
        return x, y, z

    @property
    def look(self) -> int:
        """How many slices after its own a voxel's score depends on: 1 in cubes, 0 in patches."""
        return 0 if self.plane else 1

    @property
    def least_shape(self) -> Triple:
        """The smallest scan with a corner to choose: 265, 265, 96 with the published values.

        A patch may lie at the border; a cube, by the published bounds, not quite.
        """
        beyond = (0, 0, 0) if self.plane else _BEYOND
        axes = zip(self.box, beyond, self.border, strict=True)
        x, y, z = (edge + more + 2 * border for edge, more, border in axes)
        return x, y, z

    @property
    def voxels(self) -> int:
        """The number of voxels of a cube."""
        return math.prod(self.size)

    @property
    def most_halves(self) -> int:
        """The largest sum of scores, counted in halves, that passes."""
        return math.floor(2 * (self.most_tissue * self.voxels))

    @property
    def least_halves(self) -> int:
        """The smallest sum of scores, counted in halves, that passes: 0 where no tissue is asked for."""
        return math.ceil(2 * (self.min_tissue * self.voxels))


@dataclass(frozen=True)
class Corners:
    """The decision for every candidate corner of one scan.

    Attributes:
        passing: bool [x, y, z] (z slowest in memory), True where a cube may begin; the first entry is the
            corner `first`.
        by_slice: int64 [z], how many pass in each slice.
        first: the lowest candidate corner, which is the border.
    """

    passing: NDArray[np.bool_]
    by_slice: NDArray[np.int64]
    first: Triple

    @property
    def count(self) -> int:
        """The number of corners that pass."""
        return int(self.by_slice.sum())


def too_small(shape: Triple, rule: CubeRule) -> str | None:
    """Why a scan of so many voxels in x, y, z has no corner at all; None where it has one."""
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
    """The smallest value of a dtype that is tissue, as a number of that dtype.

    Of whole numbers it is -150. Real numbers are looked at before any rounding to whole HU (-150.3 is no
    tissue, though it is stored as -150), and as METHOD.md section 2 says: scaled to [0, 1] in double
    precision, where a few values next to -150 fall on the very number that -150 becomes, and so
    are tissue too. Scaling never reverses an order, so one number tells tissue from the rest, and no
    scaled copy of the scan is needed. Clipping to the window comes to nothing here: it can change a decision
    only in a window that leaves -150 out, and there tissue means what it means in scans of whole numbers.

    Args:
        dtype: of the scan's voxels: a signed integer, float32 or float64.
        window: what real numbers are scaled by.
    """
    least = dtype.type(TISSUE_HU)
    if dtype.kind != "f":
        return least
    threshold = (float(TISSUE_HU) - window.low) / window.span
    while (float(below := np.nextafter(least, dtype.type(-np.inf))) - window.low) / window.span >= threshold:
        least = below
    return least


def air_below(dtype: np.dtype[Any], plane: Plane | None) -> Any:
    """The value of a dtype below which a pixel is air, as a number of that dtype.

    Of patches it is -950; real numbers are compared as they are, neither scaled nor rounded. In cubes, which
    have no plane, air does not count, so it is the lowest value that there is.
    """
    if plane:
        return dtype.type(_AIR_HU)
    return dtype.type(-np.inf if dtype.kind == "f" else np.iinfo(dtype).min)


def passing_corners(voxels: Voxels, rule: CubeRule, window: Window = _PUBLISHED) -> Corners:
    """Evaluate every corner of a scan by the tissue rule, in 1 byte a corner and a ring of a cube's slices.

    Args:
        voxels: int16, float32 or float64 [x, y, z], HU, x fastest in memory (as `read_scan` gives it); at
            least `least_shape`. Real numbers not rounded.
        rule: what a cube needs.
        window: what real numbers are scaled by, see `tissue_from`; whole numbers need none.
    """
    return _evaluated(voxels, rule, window, bins=0)[0]


def count_scores(voxels: Voxels, rule: CubeRule, window: Window = _PUBLISHED) -> NDArray[np.uint32]:
    """How many candidate corners have which score, with arguments as for `passing_corners`.

    Returns:
        uint32 [2 * voxels of a cube + 1], the number of candidates by the sum of their scores in halves.
    """
    return _evaluated(voxels, rule, window, bins=2 * rule.voxels + 1)[1]


def draw_corners(corners: Corners, count: int, words: NDArray[np.uint32]) -> NDArray[np.int32]:
    """Draw distinct corners, uniformly among those that pass.

    Drawing among the passing corners, counted slice by slice and row by row, gives the distribution of
    drawing among all and refusing, without the refusals; two equal cubes teach nothing, so a corner is taken
    once.

    Args:
        corners: the decision for the scan.
        count: how many are wanted; fewer are given where fewer pass.
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
    """The tissue rule's score of one cube or patch, as a share of its voxels in 0..1.

    Of a patch it is the share of the pixels that are tissue or air, and so cannot be lung.

    Args:
        voxels, window: as for `passing_corners`.
        corner: the first voxel of the cube.
        size, plane: as for `CubeRule`.
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
    """Words of a scan's random stream to draw `count` places with, 64 tries each: see `draw_distinct`."""
    return draw_words(seed, stream_key(identifier), 0, 0, Operation.PLACE, 2 * _TRIES * count)


def _evaluated(
    voxels: Voxels, rule: CubeRule, window: Window, bins: int
) -> tuple[Corners, NDArray[np.uint32]]:
    """The decisions, and the number of candidates by score where `bins` has room for every score."""
    counts = [edge - least + 1 for edge, least in zip(voxels.shape, rule.least_shape, strict=True)]
    passing, by_slice = np.empty(counts[::-1], dtype=np.bool_), np.zeros(counts[2], dtype=np.int64)
    by_score = np.zeros(bins, dtype=np.uint32)
    least, most = rule.least_halves, rule.most_halves
    if least > most:  # no sum of scores lies between the bounds: take one that no cube reaches
        least = most = 2 * rule.voxels + 1
    border, box = (tuple(map(np.uint64, edges)) for edges in (rule.border, rule.box))
    numbers = (np.uint64(rule.look), np.int32(least), np.uint32(most - least))
    bounds = (tissue_from(voxels.dtype, window), air_below(voxels.dtype, rule.plane))
    out = (passing, by_slice, by_score)
    _evaluate_corners(np.ascontiguousarray(voxels.T), *bounds, border, box, *numbers, *out)
    return Corners(passing.T, by_slice, rule.border), by_score


@kernel
def _evaluate_corners(voxels, tissue, air, border, size, look, least, span, passing, by_slice, by_score):  # type: ignore[no-untyped-def]
    """Box sums over z, then y, then x, each running: a few additions a corner, all but one of them in SIMD.

    voxels [z, y, x], `tissue` the least of these that is tissue; those below `air` count like tissue in their
    own slice, and never as the voxel after; `look` slices on, 1 or 0, is the voxel that may give a half: 0,
    which is the voxel itself, gives none but its own two; passing [z, y, x]; by_score [halves], counted
    unless empty. A score passes from `least` to `least + span`: one unsigned comparison does for both bounds.
    Indices are unsigned: with signed ones numba looks for negative indices at every step, which cost four
    times the time.
    """
    edge_x, edge_y, depth = size
    first_x, first_y, first_z = border
    corners_z, corners_x = np.uint64(passing.shape[0]), np.uint64(passing.shape[2])
    width, height = corners_x + edge_x - ONE, np.uint64(passing.shape[1]) + edge_y - ONE
    ring = np.zeros((depth, height, width), np.uint8)  # scores in halves of the slices now in the box
    along_z, along_y = np.zeros((height, width), np.uint16), np.zeros(width, np.int32)  # the sums so far
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
