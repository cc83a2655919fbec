"""Where a scan may be cut: the tissue rule for all corners by running box sums, and which corners are drawn.

Pure: arrays in, plain data out. METHOD.md section 2. A voxel's score is 1 where it is tissue, 1/2 where only
the slice after it is, else 0; a cube is refused when the sum of its scores exceeds `max_tissue` of its
voxels, or (no part of the published rule) falls below `min_tissue` of them. Counted in halves, a voxel gives
a + (a or b) with a: it is tissue, b: the one after is, so the whole rule runs in whole numbers. (The rule's
third look, two slices on, gives 0 whatever it finds.)
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.degrade.compiling import kernel
from pipeline.errors import CallError
from pipeline.hounsfield import TISSUE_HU, Window

Triple = tuple[int, int, int]

#: A scan's voxels as they may be judged: whole HU, or HU as real numbers, not rounded.
Voxels = NDArray[np.int16] | NDArray[np.float32] | NDArray[np.float64]

_PUBLISHED = Window()
_ZERO = np.uint64(0)
_ONE = np.uint64(1)

#: How far past the cube a scan must reach: the published bounds leave one voxel in the plane and, for the
#: look at the slices after, four in z, and are kept to the letter.
_BEYOND: Triple = (1, 1, 4)


@dataclass(frozen=True)
class PlaceRule:
    """Which cubes a scan may give (METHOD.md section 2, the published values as defaults).

    Attributes:
        size: edges of a cube in voxels, x, y, z.
        border: voxels in x, y, z that no cube may touch, on either side.
        max_tissue: a cube is refused when its score exceeds this share of its voxels.
        min_tissue: a cube is refused when its score is below this share of its voxels; the published rule has
            no such bound, so 0.

    Raises:
        CallError: a value out of range.
    """

    size: Triple = (64, 64, 32)
    border: Triple = (100, 100, 30)
    max_tissue: float = 0.15
    min_tissue: float = 0.0

    def __post_init__(self) -> None:
        if len(self.size) != 3 or min(self.size) < 1:
            raise CallError(
                f"--size {','.join(map(str, self.size))}: a cube needs three edges x,y,z of 1 or more, as "
                "in --size 64,64,32."
            )
        if len(self.border) != 3 or min(self.border) < 0:
            raise CallError(
                f"--border {','.join(map(str, self.border))}: three numbers x,y,z from 0 on, as in "
                "--border 100,100,30."
            )
        if not 0 <= self.max_tissue <= 1:
            raise CallError(f"--max-tissue {self.max_tissue}: a share from 0 to 1 is wanted, as in 0.15.")
        if not 0 <= self.min_tissue <= self.max_tissue:
            raise CallError(
                f"--min-tissue {self.min_tissue}: a share from 0 to --max-tissue, {self.max_tissue}, is "
                "wanted; 0 asks for no tissue at all."
            )

    @property
    def least_shape(self) -> Triple:
        """The smallest scan with a corner to choose: 265, 265, 96 with the published values."""
        x, y, z = (
            edge + beyond + 2 * border
            for edge, beyond, border in zip(self.size, _BEYOND, self.border, strict=True)
        )
        return x, y, z

    @property
    def voxels(self) -> int:
        """The number of voxels of a cube."""
        return self.size[0] * self.size[1] * self.size[2]

    @property
    def most_halves(self) -> int:
        """The largest sum of scores, counted in halves, that passes."""
        halves = int(2 * self.max_tissue * self.voxels) + 1
        while halves / 2 > self.max_tissue * self.voxels:
            halves -= 1
        return halves

    @property
    def least_halves(self) -> int:
        """The smallest sum of scores, counted in halves, that passes: 0 where no tissue is asked for."""
        halves = max(int(2 * self.min_tissue * self.voxels) - 1, 0)
        while halves / 2 < self.min_tissue * self.voxels:
            halves += 1
        return halves


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
    def candidates(self) -> int:
        """The number of corners that were judged."""
        return self.passing.size

    @property
    def count(self) -> int:
        """The number of corners that pass."""
        return int(self.by_slice.sum())


def too_small(shape: Triple, rule: PlaceRule) -> str | None:
    """Why a scan of this shape has no corner at all, with the numbers; None where it has one.

    Args:
        shape: voxels in x, y, z.
        rule: what a cube needs.
    """
    (x, y, z), (least_x, least_y, least_z) = shape, rule.least_shape
    if x < least_x or y < least_y:
        return f"{x} x {y} voxels in the plane, {least_x} x {least_y} needed"
    if z < least_z:
        return f"{z} slices, {least_z} needed"
    return None


def tissue_from(dtype: np.dtype[Any], window: Window) -> Any:
    """The smallest value of a dtype that is tissue, as a number of that dtype.

    Of whole numbers it is -150. Real numbers are judged before any rounding to whole HU (-150.3 is no tissue,
    though it is stored as -150), and as METHOD.md section 2 says: scaled to [0, 1] in double precision, where
    a few values next to -150 fall on the very number that -150 becomes, and so are tissue too. Scaling never
    reverses an order, so one number tells tissue from the rest, and no scaled copy of the scan is needed.
    Clipping to the window comes to nothing here: it can change a decision only in a window that leaves -150
    out, and there tissue means what it means in scans of whole numbers.

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


def passing_corners(voxels: Voxels, rule: PlaceRule, window: Window = _PUBLISHED) -> Corners:
    """Judge every corner of a scan by the tissue rule.

    Takes 1 byte for each candidate and a ring of as many slices as the cube has.

    Args:
        voxels: int16, float32 or float64 [x, y, z], HU, x fastest in memory (as `read_scan` gives it); at
            least `least_shape`. Real numbers not rounded.
        rule: what a cube needs.
        window: what real numbers are scaled by, see `tissue_from`; whole numbers need none.
    """
    corners, _ = _judged(voxels, rule, window, bins=0)
    return corners


def count_scores(voxels: Voxels, rule: PlaceRule, window: Window = _PUBLISHED) -> NDArray[np.uint32]:
    """How many candidate corners have which score: the whole distribution, exactly.

    Args:
        voxels: the scan, as for `passing_corners`.
        rule: size and border are used; which scores would pass is the caller's to sum.
        window: as for `passing_corners`.

    Returns:
        uint32 [2 * voxels of a cube + 1], the number of candidates by the sum of their scores in halves.
    """
    _, counts = _judged(voxels, rule, window, bins=2 * rule.voxels + 1)
    return counts


def draw_corners(corners: Corners, count: int, words: NDArray[np.uint32]) -> NDArray[np.int32]:
    """Draw distinct corners, uniformly among those that pass.

    Drawing among the passing corners gives the distribution of drawing among all and refusing, without the
    refusals; two equal cubes teach nothing, so a corner is taken once.

    Args:
        corners: the decision for the scan.
        count: how many are wanted; fewer are given where fewer pass.
        words: random words, two a try; 64 tries a wanted corner are ample, since a try fails only on a
            corner that was drawn before.

    Returns:
        int32 [corner, 3], the first voxel of each cube in x, y, z, in the order drawn.
    """
    total = corners.count
    drawn: dict[int, None] = {}
    if total <= count:
        drawn = dict.fromkeys(range(total))
    for high, low in words.reshape(-1, 2).tolist():
        if len(drawn) == min(count, total):
            break
        drawn[((high << 32 | low) * total) >> 64] = None
    return _nth_passing(corners, np.fromiter(drawn, dtype=np.int64))


def tissue_score(
    voxels: Voxels,
    corner: NDArray[np.integer[Any]],
    size: Triple,
    window: Window = _PUBLISHED,
) -> float:
    """The tissue rule's score of one cube, as a share of its voxels in 0..1.

    Args:
        voxels: int16, float32 or float64 [x, y, z], HU, the whole scan; real numbers not rounded.
        corner: the first voxel of the cube.
        size: edges of the cube.
        window: what real numbers are scaled by, see `tissue_from`.
    """
    x, y, z = (int(number) for number in corner)
    box = voxels[x : x + size[0], y : y + size[1], z : z + size[2] + 1]
    tissue: NDArray[np.bool_] = box >= tissue_from(voxels.dtype, window)
    here, after = tissue[:, :, :-1], tissue[:, :, 1:]
    halves = int(np.count_nonzero(here)) + int(np.count_nonzero(here | after))
    return halves / (2 * here.size)


def _judged(voxels: Voxels, rule: PlaceRule, window: Window, bins: int) -> tuple[Corners, NDArray[np.uint32]]:
    """The decisions, and the number of candidates by score where `bins` has room for every score."""
    counts = [edge - least + 1 for edge, least in zip(voxels.shape, rule.least_shape, strict=True)]
    passing = np.empty(counts[::-1], dtype=np.bool_)
    by_slice = np.zeros(counts[2], dtype=np.int64)
    by_score = np.zeros(bins, dtype=np.uint32)
    least, most = rule.least_halves, rule.most_halves
    if least > most:  # no sum of scores lies between the bounds: take one that no cube reaches
        least = most = 2 * rule.voxels + 1
    width, height = counts[0] + rule.size[0] - 1, counts[1] + rule.size[1] - 1
    _judge(
        np.ascontiguousarray(voxels.T),
        tissue_from(voxels.dtype, window),
        tuple(np.uint64(edge) for edge in rule.border),
        tuple(np.uint64(edge) for edge in rule.size),
        np.int32(least),
        np.uint32(most - least),
        np.zeros((rule.size[2], height, width), dtype=np.uint8),
        np.zeros((height, width), dtype=np.uint16),
        np.zeros(width, dtype=np.int32),
        np.zeros(width + 1, dtype=np.int32),
        passing,
        by_slice,
        by_score,
    )
    return Corners(passing.T, by_slice, rule.border), by_score


def _nth_passing(corners: Corners, ranks: NDArray[np.int64]) -> NDArray[np.int32]:
    """The corners with these ranks among the passing ones, counted slice by slice, row by row."""
    ends = np.cumsum(corners.by_slice)
    found = np.empty((len(ranks), 3), dtype=np.int32)
    slices = np.searchsorted(ends, ranks, side="right")
    width = corners.passing.shape[0]
    for z in np.unique(slices):
        within = np.flatnonzero(corners.passing[:, :, z].T)
        here = slices == z
        flat = within[ranks[here] - (ends[z] - corners.by_slice[z])]
        found[here] = np.stack([flat % width, flat // width, np.full_like(flat, z)], axis=1)
    return found + np.array(corners.first, dtype=np.int32)


@kernel
def _judge(
    voxels: NDArray[Any],
    tissue: Any,
    border: tuple[np.uint64, ...],
    size: tuple[np.uint64, ...],
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

    voxels [z, y, x], `tissue` the least of these that is tissue; ring [slice of the cube, y, x]: scores in
    halves of the slices now in the box; along_z [y, x], along_y [x], along_x [x + 1]: the sums so far;
    passing [z, y, x]; by_score [halves], counted unless empty. A score passes from `least` to `least + span`:
    one unsigned comparison does for both bounds. Indices are unsigned: with signed ones numba looks for
    negative indices at every step, which cost four times the time.
    """
    depth, height, width = np.uint64(ring.shape[0]), np.uint64(ring.shape[1]), np.uint64(ring.shape[2])
    corners_z, corners_x = np.uint64(passing.shape[0]), np.uint64(passing.shape[2])
    first_x, first_y, first_z = border
    edge_x, edge_y, _ = size
    for step in range(_ZERO, corners_z + depth - _ONE):
        z = first_z + step
        slot = step % depth
        for y in range(_ZERO, height):
            here = voxels[z, first_y + y, first_x : first_x + width]
            after = voxels[z + _ONE, first_y + y, first_x : first_x + width]
            sums, kept = along_z[y], ring[slot, y]
            for x in range(_ZERO, width):
                a = np.uint8(here[x] >= tissue)
                b = np.uint8(after[x] >= tissue)
                score = np.uint8(a + (a | b))
                sums[x] = np.uint16(sums[x] + np.uint16(score) - np.uint16(kept[x]))
                kept[x] = score
        if step + _ONE < depth:
            continue
        corner_z = step + _ONE - depth
        count = np.int64(0)
        for x in range(_ZERO, width):
            along_y[x] = 0
        for y in range(_ZERO, height):
            new = along_z[y]
            for x in range(_ZERO, width):
                along_y[x] += new[x]
            if y >= edge_y:
                old = along_z[y - edge_y]
                for x in range(_ZERO, width):
                    along_y[x] -= old[x]
            if y + _ONE < edge_y:
                continue
            total = np.int32(0)
            for x in range(_ZERO, width):
                total += along_y[x]
                along_x[x + _ONE] = total
            row = passing[corner_z, y + _ONE - edge_y]
            passed = np.uint32(0)
            for x in range(_ZERO, corners_x):
                passes = np.uint32(along_x[x + edge_x] - along_x[x] - least) <= span
                row[x] = passes
                passed += np.uint32(passes)
            count += passed
            if by_score.size:
                for x in range(_ZERO, corners_x):
                    by_score[np.uint64(along_x[x + edge_x] - along_x[x])] += np.uint32(1)
        by_slice[corner_z] = count
