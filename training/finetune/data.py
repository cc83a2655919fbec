"""The data of a fine-tuning run: an opened target store and its labelled scans, ready to stream.

Voxels travel as whole numbers, like those of pre-training (`ring`). Everything read in every epoch is kept
in memory if it fits, also as whole numbers; otherwise it is read from the store each time.
"""

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.rng import Operation, draw_words
from genesis_toolkit.pipeline.store.open import TargetStore
from genesis_toolkit.pipeline.store.schema import FOLDS
from genesis_toolkit.pipeline.targets.plan import TEST, TRAIN, VALIDATION
from genesis_toolkit.training.feeding.order import deal, epoch_order
from genesis_toolkit.training.feeding.ring import Ring
from genesis_toolkit.training.finetune.augment import Changes, draw_changes
from genesis_toolkit.training.finetune.heads import Kind
from genesis_toolkit.training.finetune.parameters import FinetuneParameters, labels_words

#: Largest number of bytes kept in memory, training and validation together.
MOST_HELD = 2 * 1024**3

_CPU = torch.device("cpu")

#: Limits of the weight of a positive label, in negatives per positive.
_WEIGHTS = (1.0, 100.0)

#: Seed of the validation and test batches, which never change.
_FIXED_SEED = 0

#: Largest number of batches for the statistics of batch norm.
_MOST_REFRESHING = 32

#: Default for the parts of pre-trained weights to keep; `heads` gives the reason.
_KEEP = {"classify": "encoder", "segment": "all-but-last"}


class TargetBatch(NamedTuple):
    """One filled batch, valid until the next one is requested: its arrays are reused.

    Attributes:
        cubes: the store's dtype, `[cube, x, y, z]` or `[cube, x, y]`.
        targets: uint8, 0 or 1: masks of the same shape, or labels `[cube, class]`, of which some may be
            `UNKNOWN`.
    """

    cubes: Tensor
    targets: Tensor


@dataclass(frozen=True)
class TargetData:
    """The labelled cubes of a store, as one run uses them: int64 [cube], indices into the store.

    Those of the train fold, ascending, and the batches of the other folds, the same in every epoch.
    """

    store: TargetStore
    parameters: FinetuneParameters
    train: NDArray[np.int64]
    validation: Sequence[NDArray[np.int64]]
    test: Sequence[NDArray[np.int64]]

    @property
    def kind(self) -> Kind:
        """`segment` if the store has masks, else `classify`."""
        return "classify" if self.store.masks is None else "segment"

    @property
    def probe(self) -> bool:
        """True if the run fits a linear probe: a classifier with a frozen encoder."""
        return self.kind == "classify" and self.parameters.freeze_encoder

    @property
    def train_scans(self) -> int:
        """Number of scans with labelled training cubes."""
        return len(np.unique(self.store.table.scan[self.train]))

    @property
    def steps(self) -> int:
        """Number of steps of the run."""
        return self.parameters.steps_of(len(self.training(0)))

    def training(self, epoch: int) -> list[NDArray[np.int64]]:
        """Return the batches of an epoch, counted from 0: every labelled cube once, in seeded order."""
        scan = self.store.table.scan[self.train]
        order = epoch_order(self.parameters.seed, epoch, self.train, scan)
        return deal(order, self.parameters.batch_size)

    def augmentation(self, cubes: NDArray[np.int64], epoch: int) -> Changes:
        """Return the changes of training cubes in an epoch, counted from 0."""
        table, size = self.store.table, self.store.size
        streams = self.store.scans.stream[table.scan[cubes]]
        return draw_changes(self.parameters.seed, epoch, streams, table.number[cubes], size)

    def refreshing(self) -> list[NDArray[np.int64]]:
        """Return the training batches, always the same, that the statistics of batch norm are computed on."""
        order = epoch_order(_FIXED_SEED, 0, self.train, self.store.table.scan[self.train])
        return deal(order, self.parameters.batch_size)[:_MOST_REFRESHING]

    @property
    def sizes(self) -> list[int]:
        """Return the sizes, in cubes, of all batches of an epoch and of the test."""
        return [len(work) for work in (*self.training(0), *self.validation, *self.test)]

    def positive_weights(self) -> NDArray[np.float32]:
        """Return the weight of a positive label relative to a negative one: float32 [class], in 1 .. 100.

        It is the number of negative labels per positive one, so both kinds have the same total weight. A
        class without positives has the largest weight, which then has no effect.
        """
        assert self.store.labels is not None
        labels = self.store.labels[self.train]
        positive, negative = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
        weights = np.clip(negative / np.maximum(positive, 1), *_WEIGHTS)
        return np.asarray(weights, np.float32)

    def describe(self) -> dict[str, Any]:
        """Return the record of the data in `run.json`, as plain JSON values."""
        store = self.store
        return {
            "store": {
                "path": store.storage.place,
                "format": store.attributes["format"],
                "fingerprint": store.manifest_sha256,
            },
            "task": store.task,
            "kind": self.kind,
            "classes": list(store.classes),
            "size": list(store.size),
            "window": [store.window.low, store.window.high],
            **({"mapped": ends} if (ends := store.attributes["parameters"].get("window")) else {}),
            "train_scans": self.train_scans,
            "train_cubes": len(self.train),
            "validation_cubes": sum(map(len, self.validation)),
            "test_cubes": sum(map(len, self.test)),
            "steps": self.steps,
        }


def choose_scans(
    scans: NDArray[np.integer[Any]],
    streams: NDArray[np.uint64],
    labels: float | int,
    seed: int,
    kinds: NDArray[np.integer[Any]] | None = None,
) -> NDArray[np.integer[Any]]:
    """Choose the scans to label, stratified by kind; a smaller choice is part of every larger one.

    Without strata, 20 X-rays drawn where 88 % are positive contain no negative in one draw of thirteen.

    Args:
        scans: distinct rows of scans.
        streams: uint64, the stream key of each, which gives it a random rank.
        labels: a share in (0, 1] as a float, rounded to the nearest number of scans and at least one, or a
            number of scans as an int.
        seed: seed of the draw.
        kinds: a number for the combination of labels of each scan; scans of each kind are spread evenly over
            the order of the draw, from a random start. None: all are alike.

    Returns:
        Some of `scans`, ascending.
    """
    count = labels if isinstance(labels, int) else max(1, math.floor(labels * len(scans) + 0.5))
    if count > len(scans):
        raise CallError(
            f"--labels {labels_words(labels)} is out of range: only {len(scans):,} scans of the train fold "
            "have cubes. Give at most that number, or a share such as 10%."
        )
    words = np.array([draw_words(seed, stream, 0, 0, Operation.LABELS, 2) for stream in streams], np.uint64)
    rank = words[:, 0] << np.uint64(32) | words[:, 1]
    place = np.empty(len(scans))
    kinds = np.zeros(len(scans), np.int64) if kinds is None else kinds
    for kind in np.unique(kinds):
        among = np.flatnonzero(kinds == kind)
        among = among[np.argsort(rank[among], kind="stable")]
        place[among] = (np.arange(len(among)) + words[among[0], 1] / 2**32) / len(among)
    return np.sort(scans[np.lexsort((rank, place))[:count]])


def _kinds(store: TargetStore, scans: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]] | None:
    """Return a number per scan for the classes of its positive cubes; None for masks."""
    if store.labels is None:
        return None
    positive = np.zeros((len(store.scans), len(store.classes)), bool)
    np.logical_or.at(positive, store.table.scan, store.labels == 1)
    kinds: NDArray[np.integer[Any]] = np.unique(positive[scans], axis=0, return_inverse=True)[1]
    return kinds.reshape(-1)


def target_data(store: TargetStore, parameters: FinetuneParameters) -> TargetData:
    """Select the labelled part of a store, and check that training and evaluation are possible.

    Raises:
        CallError: `labels` exceeds the number of scans, or the task is segmentation and MONAI is not
            installed.
        DataError: a fold has no cubes, or the labels to train or test on are all of one kind.
    """
    if store.masks is not None and find_spec("monai") is None:
        raise CallError(
            "Segmentation needs MONAI, for its Dice loss: install it with "
            'pip install "genesis-toolkit[finetune]".'
        )
    table = store.table
    folds = [np.flatnonzero(table.fold == fold) for fold in range(len(FOLDS))]
    for name, cubes in zip(FOLDS, folds, strict=True):
        if not cubes.size:
            raise DataError(
                f"{store.storage.place} has no cubes in the fold {name}, but fine-tuning trains, validates "
                "and tests: extract targets from more scans."
            )
    scans = np.unique(table.scan[folds[TRAIN]])
    streams = store.scans.stream[scans]
    chosen = choose_scans(scans, streams, parameters.labels, parameters.seed, _kinds(store, scans))
    train = folds[TRAIN][np.isin(table.scan[folds[TRAIN]], chosen)]
    if store.labels is not None:
        _check_labels(store.labels[train], "train on", "give more --labels, or another --seed")
        _check_labels(store.labels[folds[TEST]], "test on", "extract targets from more scans")
    validation, test = (
        deal(epoch_order(_FIXED_SEED, 0, folds[fold], table.scan[folds[fold]]), parameters.batch_size)
        for fold in (VALIDATION, TEST)
    )
    kind: Kind = "classify" if store.masks is None else "segment"
    if kind == "segment" and parameters.head != "deepest":
        raise CallError(
            f"--head {parameters.head} applies to classification, but the task is {store.task}: omit it."
        )
    # A classifier only has an encoder to initialise.
    keep = parameters.keep if kind == "segment" and parameters.keep else _KEEP[kind]
    if kind == "classify" and parameters.freeze_encoder:
        parameters = parameters.of_probe()
    data = TargetData(store, replace(parameters, keep=keep), train, validation, test)
    parameters.check_at_steps(data.steps)
    return data


def _check_labels(labels: NDArray[np.uint8], what: str, way_out: str) -> None:
    """Check that at least one class of the labels [cube, class] has both kinds."""
    positive, negative = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
    if ((positive == 0) | (negative == 0)).all():
        raise DataError(
            f"The {len(labels):,} cubes to {what} are all {'positive' if positive.any() else 'negative'}, "
            f"but both kinds are needed: {way_out}."
        )


class TargetBatches(Ring[NDArray[np.int64], TargetBatch, TargetBatch]):
    """Batches of cubes from a ring of two buffers, and those of every epoch in memory, if they fit.

    Memory is limited to `most_held` bytes besides the buffers, which are page-locked for a CUDA device.
    """

    def __init__(self, data: TargetData, device: torch.device = _CPU, *, most_held: int = MOST_HELD) -> None:
        self.data, pin = data, device.type == "cuda"
        store, size = data.store, data.store.size
        self._labels = store.labels
        self._readers = [store.cubes, *([store.masks] if store.masks is not None else [])]
        self._often = np.sort(np.concatenate([data.train, *data.validation]))
        self._held: list[NDArray[Any]] = []
        bytes_a_voxel = sum(reader.dtype.itemsize for reader in self._readers)
        if math.prod(size) * len(self._often) * bytes_a_voxel <= most_held:
            for reader in self._readers:
                self._held.append(np.empty((len(self._often), *size), reader.dtype))
                reader.read_many(self._often, self._held[-1])
        most, kind = max(data.sizes), torch.from_numpy(np.empty(0, store.cubes.dtype)).dtype
        target = (len(store.classes),) if self._labels is not None else size

        def make() -> TargetBatch:
            return TargetBatch(
                torch.zeros((most, *size), dtype=kind, pin_memory=pin),
                torch.zeros((most, *target), dtype=torch.uint8, pin_memory=pin),
            )

        super().__init__(make, self._fill_targets, threads=1, waiting=0, device=device)

    def _fill_targets(self, cubes: NDArray[np.int64], room: TargetBatch) -> TargetBatch:
        batch = TargetBatch(*(tensor[: len(cubes)] for tensor in room))
        voxels, targets = (tensor.numpy() for tensor in batch)
        if self._labels is not None:
            targets[...] = self._labels[cubes]
        # Labels are in memory already, so only cubes are read.
        if self._held and np.isin(cubes, self._often).all():
            rows = np.searchsorted(self._often, cubes)
            for held, out in zip(self._held, (voxels, targets), strict=False):
                np.take(held, rows, axis=0, out=out, mode="clip")
        else:
            for reader, out in zip(self._readers, (voxels, targets), strict=False):
                reader.read_many(cubes, out)
        return batch

    def check_foreground(self) -> None:
        """Check that masks have some foreground to train and evaluate on; stop reading at the first."""
        if self.data.kind != "segment":
            return
        more_scans = "extract targets from more scans"
        for what, works, way_out in (
            ("train on", self.data.training(0), "give more --labels, or another --seed"),
            ("validate on", self.data.validation, more_scans),
            ("test on", self.data.test, more_scans),
        ):
            with closing(self.stream(works)) as stream:
                if not any(bool(batch.targets.any()) for batch in stream):
                    raise DataError(
                        f"The masks of the {sum(map(len, works)):,} cubes to {what} are all empty, but some "
                        f"foreground is needed: {way_out}."
                    )
