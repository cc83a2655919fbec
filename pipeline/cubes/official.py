"""`--sampler official`: replays the corners drawn by the authors' generator (METHOD.md section 2).

Python's own generator is seeded once per subset, scans are taken in sorted file order, and the draws continue
from one scan to the next: a scan's corners depend on the number of attempts for all scans before it. A subset
is therefore drawn in order; its decisions (`passing_corners`) and its cubes need no order, and neither do the
subsets.
"""

import random

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.cubes.rule import Corners
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.rng import checked_seed

#: The seed of the released generator.
OFFICIAL_SEED = 1

_TRIES = 50  # most attempts per requested cube


class OfficialCorners:
    """The state of the authors' generator within a subset.

    An unreadable scan takes no draws: do not call `draw` for it. Neither does one too small for the bounds, a
    case that METHOD.md section 2 leaves open: it has no corner to draw, and later scans get the same cubes as
    in the subset without it.
    """

    def __init__(self, seed: int = OFFICIAL_SEED, used: int = 0) -> None:
        """Start a subset, or continue from the state of an earlier generator after `used` words.

        Raises:
            CallError: a number is out of range.
        """
        checked_seed(seed)
        if used < 0:
            raise CallError(
                f"The number of random words used is {used}, but it must be at least "
                "0 (the start of a subset)."
            )
        self._random = _Counted(seed)
        if used:
            self._random.getrandbits(32 * used)

    @property
    def used(self) -> int:
        """Return the number of 32-bit words drawn since the start of the subset, which fixes the state.

        Recorded with each scan, it lets an interrupted subset continue without repeating earlier scans.
        """
        return self._random.used

    def draw(self, corners: Corners, count: int) -> NDArray[np.int32]:
        """Draw the corners of the next scan: x, then y, then z, until `count` pass or the attempts run out.

        There are at most 50 attempts for each of `count` cubes. Unlike `rule.draw_corners` this may return a
        corner twice, like the authors' generator.

        Returns:
            int32 [corner, 3], the first voxel of each cube in x, y, z, in the order drawn; at most `count`.
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
    """Python's generator, which also counts the 32-bit words it returns.

    `randint` only calls `getrandbits`, for whole words of 32 bits or the upper bits of one, like the
    functions of the module `random`; so the draws are identical, bit for bit.
    """

    used = 0

    def getrandbits(self, k: int, /) -> int:
        """Return `k` random bits."""
        self.used += -(-k // 32)
        return super().getrandbits(k)
