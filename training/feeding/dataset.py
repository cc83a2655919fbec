"""Pairs for training code of your own: a dataset for any DataLoader, and the trainer's own loader.

Both yield (degraded, original), the network's input and its target, float32 in [0, 1] with a channel axis and
the same bits that `pretrain` trains on; the original is flipped like the degraded cube. `split` selects the
cubes: those that `pretrain` trains on, those that it validates on, or all, which includes the test set of the
nodule task (LUNA16 subsets 7-9). Epochs are counted from 0. Each takes one variant of every cube: epoch e
takes variant e mod K from a pair store of K variants, and variant e from a cube store, degraded on the fly.
Validation cubes always have variant 0.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.store.open import CubeStore, PairStore, open_store
from genesis_toolkit.training.feeding.feeds import PairBuffer, feed_of
from genesis_toolkit.training.feeding.normalise import normalise
from genesis_toolkit.training.feeding.order import Work, epoch_works, validation_works
from genesis_toolkit.training.feeding.ring import Batches
from genesis_toolkit.training.feeding.split import split_cubes

AnyStore: TypeAlias = str | os.PathLike[str] | CubeStore | PairStore
Part: TypeAlias = Literal["train", "validation", "all"]
_PARTS = ("train", "validation", "all")


class _Pairs:
    """Some cubes of a store, and the feed that turns them into pairs."""

    def __init__(self, store: AnyStore, split: str, recipe: str | None, seed: int) -> None:
        if split not in _PARTS:
            raise CallError(f"The split {split!r} is unknown; allowed: {', '.join(_PARTS)}.")
        if not isinstance(store, CubeStore | PairStore):
            store = open_store(os.fspath(store), CubeStore, PairStore)
        self.place, self.manifest = store.storage.place, store.manifest_sha256
        self.feed = feed_of(store, recipe, seed)
        self.fixed = split == "validation"
        if split == "all":
            self.cubes = np.arange(len(store.table))
        else:
            self.cubes = getattr(split_cubes(store.scans, store.table, store.images), split)
        self.scan = store.table.scan[self.cubes]

    def variant(self, epoch: int) -> int:
        """Return the variant that an epoch takes of every cube."""
        return 0 if self.fixed else self.feed.variant(epoch)


class PairDataset(Dataset[tuple[Tensor, Tensor]]):
    """The pairs of a store as a map-style dataset, for any DataLoader, with workers or without.

    `dataset[i]` is (degraded, original), both float32 `[1, x, y, z]`, or `[1, x, y]` for images. It can be
    pickled: a worker process reopens the store. `set_epoch` also reaches persistent workers, from their next
    pass on::

        dataset = PairDataset("pairs.zarr")
        loader = DataLoader(dataset, batch_size=6, shuffle=True, num_workers=2)
        for epoch in range(100):
            dataset.set_epoch(epoch)
            for degraded, original in loader:
                ...

    Args:
        store: a pair store, or a cube store, which is degraded on the fly: an open store, or the path of a
            folder or archive, or a URL.
        split: `train`, `validation` or `all`.
        recipe: name of the recipe for degradations on the fly, `genesis` by default. None for a pair store.
        seed: seed of degradations on the fly, 0 .. 2^63 - 1.

    Raises:
        CallError: there is no such store, recipe or split.
        DataError: the store is damaged, or holds fewer than two cubes to split.
    """

    def __init__(
        self, store: AnyStore, *, split: Part = "train", recipe: str | None = None, seed: int = 0
    ) -> None:
        self._pairs = _Pairs(store, split, recipe, seed)
        self._again = (self._pairs.place, split, recipe, seed)
        # In shared memory, since persistent workers are never sent the dataset again.
        self._epoch = torch.zeros(1, dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call] # torch leaves it so

    def __repr__(self) -> str:
        place, split, *_ = self._again
        return f"<PairDataset {place}: {split}, {len(self):,} pairs an epoch>"

    def __len__(self) -> int:
        return len(self._pairs.cubes)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Return several pairs, read together; a DataLoader fetches batches this way.

        Raises:
            DataError: a cube cannot be read.
        """
        feed, cubes = self._pairs.feed, self._pairs.cubes[np.asarray(indices, np.int64)]
        shape = (len(cubes), *feed.size)
        room = PairBuffer.around(np.empty(shape, feed.dtype), np.empty(shape, feed.dtype))
        feed.fill(cubes, self._pairs.variant(int(self._epoch)), room)
        both = (normalise(torch.from_numpy(one), feed.window) for one in (room.degraded, room.original))
        return list(zip(*both, strict=True))

    def set_epoch(self, epoch: int) -> None:
        """Switch to the pairs of an epoch, counted from 0."""
        self._epoch[0] = _checked(epoch)

    def __getstate__(self) -> dict[str, Any]:
        return {"again": self._again, "epoch": self._epoch}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self._again, self._epoch = state["again"], state["epoch"]
        self._pairs = _Pairs(*self._again)


class PairLoader:
    """The batches of `pretrain`, which threads fill while the network works: a fast feed for your own loop.

    Iterating yields (degraded, original), both float32 `[cube, 1, x, y, z]` in [0, 1], or `[cube, 1, x, y]`
    for images, on `device`. Cubes are shuffled by (seed, epoch) so that every batch mixes scans, and split
    into batches whose sizes differ by at most one; validation cubes have a fixed order. A finished pass moves
    on to the next epoch::

        loader = PairLoader("pairs.zarr", batch_size=6, device="cuda")
        loader.load_state_dict(torch.load("loader.pt"))  # resume in the middle of an epoch
        for epoch in range(loader.epoch, 100):
            loader.set_epoch(epoch)
            for degraded, original in loader:
                ...
                torch.save(loader.state_dict(), "loader.pt")

    Args:
        store: see `PairDataset`.
        batch_size: cubes per batch, at most.
        split: `train`, `validation` or `all`.
        recipe: see `PairDataset`.
        seed: seed of the order and of degradations on the fly, 0 .. 2^63 - 1.
        device: device of the batches.

    Attributes:
        epoch: epoch of the current pass, or of the next one.

    Raises:
        CallError: the store, recipe or split does not exist, or a number is out of range.
        DataError: the store is damaged, or holds fewer than two cubes to split.
    """

    def __init__(
        self,
        store: AnyStore,
        batch_size: int = 6,
        *,
        split: Part = "train",
        recipe: str | None = None,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        if batch_size < 1:
            raise CallError(f"The batch size {batch_size} is out of range: it must be at least 1.")
        self._pairs = _Pairs(store, split, recipe, seed)
        self._seed, self._batch_size, self._device = seed, batch_size, torch.device(device)
        self._same = {"store": self._pairs.manifest, "split": split, "batch_size": batch_size, "seed": seed}
        self.epoch = 0
        self._given = 0  # batches of the epoch that were yielded
        self._left_out = 0  # batches that the next pass skips

    def __repr__(self) -> str:
        batches = f"{len(self):,} batches of {self._batch_size} an epoch"
        return f"<PairLoader {self._pairs.place}: {self._same['split']}, {batches}>"

    def __len__(self) -> int:
        """Number of batches in a whole epoch."""
        return -(-len(self._pairs.cubes) // self._batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of `epoch`, or the rest of them after `load_state_dict`.

        Raises:
            DataError: a cube cannot be read.
        """
        self._given, self._left_out = self._left_out, 0
        # Each pass has its own buffers: two at once would overwrite each other's.
        batches = Batches(self._pairs.feed, self._batch_size, device=self._device)
        with closing(batches.stream(self._works()[self._given :])) as stream:
            for batch in stream:
                self._given += 1
                # On the CPU too in this thread, as a third stage beside the two threads that fill: there it
                # took 1.07 to 1.12 of the processor's time of a pair, since four batches of floats are then
                # in memory at once, and the fill, 0.27 ms beside 0.15 here, became the longer stage still.
                both = (one.to(self._device) for one in (batch.degraded, batch.original))
                degraded, original = (normalise(one, self._pairs.feed.window) for one in both)
                yield degraded, original
        self.epoch, self._given = self.epoch + 1, 0

    def _works(self) -> list[Work]:
        pairs = self._pairs
        if pairs.fixed:
            return validation_works(pairs.cubes, self._batch_size)
        variant = pairs.variant(self.epoch)
        return epoch_works(self._seed, self.epoch, pairs.cubes, pairs.scan, self._batch_size, variant)

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass that of an epoch, counted from 0.

        If `load_state_dict` restored a position in the middle of this epoch, the pass continues from there.
        """
        if _checked(epoch) != self.epoch:
            self.epoch, self._given, self._left_out = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the last batch yielded, as plain values by name."""
        over = self._given == len(self)
        return {"epoch": self.epoch + over, "batch": 0 if over else self._given, **self._same}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the position of another loader in the next pass.

        Raises:
            CallError: that loader had other cubes, another batch size or another seed.
        """
        for name, own in self._same.items():
            if state.get(name) != own:
                raise CallError(
                    f"The state belongs to a loader with {name} {state.get(name)}, but this one has {own}: "
                    "create the loader with the same arguments on the same store."
                )
        self.epoch, self._given = int(state["epoch"]), int(state["batch"])
        self._left_out = self._given


def _checked(epoch: int) -> int:
    if epoch < 0:
        raise CallError(f"The epoch {epoch} is out of range: epochs are counted from 0.")
    return epoch
