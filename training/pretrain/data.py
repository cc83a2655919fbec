"""The data of a pre-training run: an opened store, split, checked, and ready to stream."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genesis_toolkit.pipeline.degrade.recipes import get_recipe
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.store.open import CubeStore, PairStore, open_store
from genesis_toolkit.training.feeding.feeds import RECIPE, Feed, feed_of
from genesis_toolkit.training.feeding.order import Work, epoch_works, smallest, validation_works
from genesis_toolkit.training.feeding.ring import Batches
from genesis_toolkit.training.feeding.split import Split, split_cubes
from genesis_toolkit.training.networks.registry import OF_THE_PAPERS, architecture, check_batch, check_cubes
from genesis_toolkit.training.pretrain.parameters import PretrainParameters


@dataclass(frozen=True)
class PretrainData:
    """The pairs of a store, as a run uses them.

    Attributes:
        feed: the source of the pairs.
        split: the training and validation cubes.
        scan: [cube], the scan of every training cube.
        validation: the validation batches, the same in every epoch.
        store: see `store_facts`.
        parameters: parameters of the run, with network and width set.
        names: [cube], the path of its scan.
    """

    feed: Feed
    split: Split
    scan: NDArray[np.int32]
    validation: list[Work]
    store: dict[str, Any]
    parameters: PretrainParameters
    names: NDArray[np.object_]

    @property
    def steps(self) -> int:
        """Number of steps in a whole epoch."""
        return -(-len(self.split.train) // self.parameters.batch_size)

    def training(self, epoch: int) -> list[Work]:
        """Return the training batches of an epoch, counted from 0: every cube once, shuffled, in its variant.

        The epoch that reaches `max_steps` is cut short, and later ones are empty.
        """
        given = self.parameters
        variant = 0 if given.overfit else self.feed.variant(epoch)
        works = epoch_works(given.seed, epoch, self.split.train, self.scan, given.batch_size, variant)
        if given.max_steps is not None:
            works = works[: max(0, given.max_steps - epoch * self.steps)]
        return works

    def batches(self, device: torch.device) -> Batches:
        """Return the ring that fills both kinds of batches, for a network on that device."""
        return Batches(self.feed, self.parameters.batch_size, device=device)

    def describe(self) -> dict[str, Any]:
        """Return the record of the data in `run.json`, as plain JSON values."""
        return {
            "store": self.store,
            "size": list(self.feed.size),
            "window": [self.feed.window.low, self.feed.window.high],
            "split": self.split.rule,
            "train_cubes": len(self.split.train),
            "validation_cubes": len(self.split.validation),
        }


def open_data(path: str | Path, parameters: PretrainParameters, processes: int = 1) -> PretrainData:
    """Open a store and check that the network can learn from it in that many processes.

    The store's number of axes determines the default network and width.

    Raises:
        CallError: there is no finished store, or the network does not accept its cubes.
        DataError: the store is damaged, or holds fewer than two cubes.
    """
    store = open_store(path, CubeStore, PairStore)
    network = architecture(parameters.network or OF_THE_PAPERS[len(store.size)])
    check_cubes(network.name, store.size)
    parameters = parameters.of_network(network.name, parameters.width or network.published_width)
    split = split_cubes(store.scans, store.table, store.images)
    if parameters.overfit:
        split = _few(split, parameters.overfit)
    validation = validation_works(split.validation, parameters.batch_size)
    feed = feed_of(store, parameters.recipe, parameters.seed)
    facts = store_facts(store, parameters.recipe or RECIPE)
    names = store.scans.names[store.table.scan]
    data = PretrainData(feed, split, store.table.scan[split.train], validation, facts, parameters, names)
    data = replace(data, parameters=parameters.of_steps(data.steps))
    training = smallest(data.training(0))
    check_batch(network.name, store.size, min(training, smallest(validation)))
    if training < processes:
        raise CallError(
            f"The smallest batch has {training} cubes, too few for {processes} processes: use "
            "a larger --batch-size, or fewer --devices."
        )
    return data


def _few(split: Split, count: int) -> Split:
    """Use the same few cubes, spread over the training cubes, for both sides."""
    most = len(split.train)
    if count > most:
        raise CallError(f"--overfit {count} is out of range: only {most} cubes are used for training.")
    few = split.train[np.linspace(0, most - 1, count).astype(np.int64)]
    rule = f"{count} fixed cubes for both training and validation (--overfit)"
    return replace(split, train=few, validation=few, rule=rule, warning=None)


def store_facts(store: CubeStore | PairStore, recipe: str) -> dict[str, Any]:
    """Return the record of a store in `run.json`, for the model card and for programs that use the weights.

    Plain JSON values: `path`, `format` and `recipe`, the given one for degradations on the fly;
    `fingerprint`, the sha256 of its tables and parameters; `manifest`, the sha256 of its manifest, which
    covers every file; `scans`, the number of scans with cubes; `spacing_mm`, the median of their spacing in
    x, y, z, 0 if unknown; and for a pair store `variants` and `seed`.
    """
    digest = hashlib.sha256(json.dumps(store.attributes, sort_keys=True).encode())
    for column in (store.streams(), store.table.number, store.table.corner):
        digest.update(np.ascontiguousarray(column).tobytes())
    made_here = isinstance(store, CubeStore)
    used = store.scans.cubes > 0
    return {
        "path": store.storage.place,
        "format": store.attributes["format"],
        "recipe": get_recipe(recipe).to_json() if made_here else store.attributes["parameters"]["recipe"],
        "fingerprint": digest.hexdigest(),
        "manifest": store.manifest_sha256,
        "scans": int(used.sum()),
        "spacing_mm": np.median(store.scans.spacing[used], axis=0).tolist(),
        **({"variants": store.variants, "seed": store.seed} if isinstance(store, PairStore) else {}),
    }
