"""`--sampler official`: the corners that the authors' generator draws, by replaying it (METHOD.md section 2).

Python's own generator is seeded once a subset, the scans are taken in sorted file order, and the draws run on
from one scan to the next: which corners a scan gives depends on how many attempts the scans before it took.
So a subset is drawn in order; its decisions (`passing_corners`) and its cubes need no order, and subsets do
not depend on one another.
"""

import random

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.cubes.rule import Corners
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.rng import checked_seed

#: The seed of the released generator.
OFFICIAL_SEED = 1

_TRIES = 50  # attempts at most for each cube asked for


class OfficialCorners:
    """The authors' generator at one point of a subset.

    A scan that cannot be read takes no draws: do not call `draw` for it. Neither does one that is too small
    for the bounds, which METHOD.md section 2 leaves open: it has no corner to draw, and the cubes of the
    scans after it are those of the subset without it.
    """

    def __init__(self, seed: int = OFFICIAL_SEED, used: int = 0) -> None:
        """Begin a subset, or stand where an earlier generator of this seed stood, after `used` words.

        Raises:
            CallError: a number out of range.
        """
        checked_seed(seed)
        if used < 0:
            raise CallError(f"{used} random words used is no point of a subset: give 0 for its start.")
        self._random = _Counted(seed)
        if used:
            self._random.getrandbits(32 * used)

    @property
    def used(self) -> int:
        """How many 32-bit words were drawn since the start of the subset: all there is to know of the state.

        Kept with each scan, it lets an interrupted subset go on after that scan without those before.
        """
        return self._random.used

    def draw(self, corners: Corners, count: int) -> NDArray[np.int32]:
        """Draw the corners of the next scan: x, then y, then z, until `count` pass or the attempts run out.

        There are at most 50 attempts for each of `count` cubes. Unlike `rule.draw_corners` this may give a
        corner twice, as the authors' generator does.

        Returns:
            int32 [corner, 3], the first voxel of each cube in x, y, z, in the order drawn; `count` or fewer.
        """
        last = [first + edge - 1 for first, edge in zip(corners.first, corners.passing.shape, strict=True)]
        (first_x, first_y, first_z), (last_x, last_y, last_z) = corners.first, last
        found: list[tuple[int, int, int]] = []
        for _ in range(_TRIES * count):
            if len(found) == count:
                break
            x = self._random.randint(first_x, last_x)
            y = self._random.randint(first_y, last_y)
            z = self._random.randint(first_z, last_z)
            if corners.passing[x - first_x, y - first_y, z - first_z]:
                found.append((x, y, z))
        return np.array(found, dtype=np.int32).reshape(-1, 3)


class _Counted(random.Random):
    """Python's generator, counting the 32-bit words that it gives.

    `randint` asks `getrandbits` alone, for whole words of 32 bits or the upper bits of one, as the functions
    of the module `random` do; so the draws are theirs, bit for bit.
    """

    used = 0

    def getrandbits(self, k: int, /) -> int:
        """`k` random bits."""
        self.used += -(-k // 32)
        return super().getrandbits(k)
