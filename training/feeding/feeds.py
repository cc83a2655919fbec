"""Sources of pairs: a pair store as it is, or a cube store degraded on the fly.

Both give the same bits for the same recipe and seed: what is drawn for a cube depends only on (seed, the
scan's stream key, cube number, variant, operation), and an epoch is one variant of every cube.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.degrade.compose import Degrader
from genesis_toolkit.pipeline.degrade.flip import flip_into
from genesis_toolkit.pipeline.degrade.recipes import Recipe, get_recipe
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.store.open import CubeStore, PairStore
from genesis_toolkit.pipeline.store.reading import read_cubes

#: Default recipe for cube stores; a pair store has its own.
RECIPE = "genesis"


@dataclass(frozen=True)
class PairBuffer:
    """Memory for one batch of pairs, reused for every batch; the arrays are those of `ring.Batch`.

    `original` and `degraded` are C-contiguous; `scratch` is one cube.
    """

    original: NDArray[Any]
    degraded: NDArray[Any]
    flip: NDArray[np.uint8]
    applied: NDArray[np.uint8]
    scratch: NDArray[Any]

    @classmethod
    def around(cls, original: NDArray[Any], degraded: NDArray[Any]) -> "PairBuffer":
        """Return a buffer that wraps these arrays, both `[cube, x, y, z]`."""
        flip, applied = (np.zeros(len(original), np.uint8) for _ in range(2))
        return cls(original, degraded, flip, applied, np.zeros_like(original[0]))


class PairFeed:
    """Pairs from a pair store: epoch e takes variant e mod K of its K variants.

    Attributes:
        window: the voxel values that become 0 and 1.
        size: edges of a cube in voxels, (x, y, z), or of an image in pixels, (x, y).
        dtype: dtype of the voxels.
    """

    def __init__(self, store: PairStore) -> None:
        self.store = store
        self.window, self.size, self.dtype = store.window, store.size, store.original.dtype

    def variant(self, epoch: int) -> int:
        """Return the variant of every cube in epoch `epoch`, counted from 0."""
        return epoch % self.store.variants

    def fill(self, cubes: NDArray[np.int64], variant: int, room: PairBuffer) -> None:
        """Write the pairs of `cubes` into the first rows of `room`; several threads may call this at once.

        The store keeps each original once and unflipped, so it is flipped here.

        Raises:
            DataError: a cube cannot be read.
        """
        pairs = variant * len(self.store.table) + cubes
        n = len(cubes)
        room.flip[:n] = self.store.pairs.flip[pairs]
        room.applied[:n] = self.store.pairs.applied[pairs]
        read_cubes(self.store.degraded, pairs, room.degraded[:n])
        read_cubes(self.store.original, cubes, room.original[:n])
        _flip_originals(room, n)


class CubeFeed:
    """Pairs degraded on the fly from a cube store. Same attributes as `PairFeed`; epoch e takes variant e.

    The recipe and the seed of a pair store give the same bits as that store.
    """

    def __init__(self, store: CubeStore, recipe: Recipe, seed: int) -> None:
        self.store = store
        self.window, self.size, self.dtype = store.window, store.size, store.cubes.dtype
        self._degrade = Degrader(recipe, store.size, store.window, seed)
        self._stream = store.streams()

    def variant(self, epoch: int) -> int:
        """See `PairFeed`."""
        return epoch

    def fill(self, cubes: NDArray[np.int64], variant: int, room: PairBuffer) -> None:
        """See `PairFeed`. The degradation flips its output, so the original is flipped to match."""
        n = len(cubes)
        read_cubes(self.store.cubes, cubes, room.original[:n])
        out = room.degraded[:n], room.flip[:n], room.applied[:n]
        self._degrade(room.original[:n], self._stream[cubes], self.store.table.number[cubes], variant, *out)
        _flip_originals(room, n)


#: A source of batches.
Feed: TypeAlias = PairFeed | CubeFeed


def _flip_originals(room: PairBuffer, count: int) -> None:
    """Flip the first `count` originals like their degraded cubes, through the scratch cube."""
    for row in np.flatnonzero(room.flip[:count]).tolist():
        room.scratch[...] = room.original[row]
        flip_into(room.scratch, int(room.flip[row]), room.original[row])


def feed_of(store: CubeStore | PairStore, recipe: str | None, seed: int) -> Feed:
    """Return the feed for a store; `recipe` (a name) and `seed` apply to degradations on the fly.

    Raises:
        CallError: the recipe is unknown, or given for a pair store.
    """
    if isinstance(store, CubeStore):
        return CubeFeed(store, get_recipe(recipe or RECIPE), seed)
    if recipe is not None:
        its_own = store.attributes["parameters"]["recipe"]["name"]
        raise CallError(
            f"--recipe {recipe} applies to degrading on the fly, but {store.storage.place} is "
            f"a pair store, degraded by recipe {its_own}: omit --recipe, or give the cube "
            "store instead."
        )
    return PairFeed(store)
