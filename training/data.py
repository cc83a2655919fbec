"""What one pre-training run learns from: an opened store, split, checked, and ready to be streamed."""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.degrade.recipes import named
from pipeline.errors import CallError
from pipeline.stores import CubeStore, PairStore, open_store
from training.batches import Batches, Work, epoch_works, smallest, validation_works
from training.feeds import RECIPE, Feed, feed_of
from training.networks import EDGE_MULTIPLE, check_size
from training.parameters import PretrainParameters
from training.split import Split, split_cubes


@dataclass(frozen=True)
class PretrainData:
    """The pairs of a store, as one run takes them.

    Attributes:
        feed: where they come from.
        split: which cubes train and which validate.
        validation: the validation batches, the same every epoch.
        store: path, format, recipe and fingerprint, which tells other data apart wherever they lie.
        parameters: of the run; batch size and seed are read.
    """

    feed: Feed
    split: Split
    validation: list[Work]
    store: dict[str, Any]
    parameters: PretrainParameters

    def training(self, epoch: int) -> list[Work]:
        """The training batches of one epoch, counted from 0."""
        batch_size, seed = self.parameters.batch_size, self.parameters.seed
        return epoch_works(self.feed, self.split.train, batch_size, seed, epoch)

    def batches(self, *, pin: bool) -> Batches:
        """Buffers and threads for both kinds of batches; `pin` for the way to a CUDA device."""
        return Batches(self.feed, self.parameters.batch_size, pin=pin)

    def describe(self) -> dict[str, Any]:
        """What a run keeps of its data, as plain JSON values."""
        return {
            "store": self.store,
            "size": list(self.feed.size),
            "window": [self.feed.window.low, self.feed.window.high],
            "split": self.split.rule,
            "train_cubes": len(self.split.train),
            "validation_cubes": len(self.split.validation),
        }


def open_data(path: str | Path, parameters: PretrainParameters) -> PretrainData:
    """Open a store and see whether the network can learn from it.

    Args:
        path: of a pair store, or of a cube store, whose cubes are then degraded on the fly.
        parameters: batch size and seed are read.

    Raises:
        CallError: there is no finished store, or its cubes do not fit the network.
        DataError: the store is damaged, or holds fewer than two cubes.
    """
    store = open_store(path)
    check_size(store.size)
    split = split_cubes(store.scans, store.table)
    validation = validation_works(split.validation, parameters.batch_size)
    feed = feed_of(store, parameters.recipe, parameters.seed)
    facts = _facts(store, parameters.recipe or RECIPE)
    data = PretrainData(feed, split, validation, facts, parameters)
    deepest = math.prod(edge // EDGE_MULTIPLE for edge in store.size)
    if deepest * min(smallest(data.training(0)), smallest(validation)) < 2:
        raise CallError(
            f"A batch of a single cube of {' x '.join(map(str, store.size))} voxels is one value at the "
            "deepest level, and batch norm needs two: extract larger cubes, or more and give a larger "
            "--batch-size."
        )
    return data


def _facts(store: CubeStore | PairStore, recipe: str) -> dict[str, Any]:
    digest = hashlib.sha256(json.dumps(store.attributes, sort_keys=True).encode())
    for column in (store.streams(), store.table.number, store.table.corner):
        digest.update(np.ascontiguousarray(column).tobytes())
    made_here = isinstance(store, CubeStore)
    return {
        "path": str(store.path),
        "format": store.attributes["format"],
        "recipe": named(recipe).to_json() if made_here else store.attributes["parameters"]["recipe"],
        "fingerprint": digest.hexdigest(),
    }
