"""Pairs for your own training code: the trainer's bits, whoever loads them, wherever it goes on."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from support.training_runs import blobs, make_cube_store
from torch import Tensor
from torch.utils.data import DataLoader

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.pairs.degrade import DegradeParameters, degrade_cubes
from genesis_toolkit.pipeline.store.open import open_store
from genesis_toolkit.training.feeding.dataset import PairDataset, PairLoader
from genesis_toolkit.training.pretrain.data import open_data
from genesis_toolkit.training.pretrain.parameters import PretrainParameters

SIZE, CUBES = (16, 16, 16), 30
PARAMETERS = PretrainParameters(batch_size=5, width=2, seed=3)


@pytest.fixture(scope="module")
def cubes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cube_store(tmp_path_factory.mktemp("stores") / "cubes.zarr", blobs(CUBES, SIZE), 5)


@pytest.fixture(scope="module")
def pairs(cubes: Path) -> Path:
    degrade_cubes(cubes, cubes.with_name("pairs.zarr"), DegradeParameters(variants=2, seed=3), workers=1)
    return cubes.with_name("pairs.zarr")


def scaled(voxels: np.ndarray) -> Tensor:
    """[0, 1] of HU, by the formula of METHOD.md in float64."""
    return torch.from_numpy(((voxels.astype(np.float64) + 1000) / 2000).astype(np.float32))


def read(store: Path, cube: int, variant: int) -> tuple[Tensor, Tensor]:
    """A pair read cube by cube, flipped by numpy."""
    opened = open_store(store)
    pair = variant * CUBES + cube
    degraded, original = np.empty(SIZE, np.int16), np.empty(SIZE, np.int16)
    opened.degraded.read(pair, degraded)  # type: ignore[union-attr]
    opened.original.read(cube, original)  # type: ignore[union-attr]
    bits = int(opened.pairs.flip[pair])  # type: ignore[union-attr]
    flipped = np.flip(original, [axis for axis in range(3) if bits >> axis & 1])
    return scaled(degraded)[None], scaled(flipped)[None]


def trained_on(store: Path, epoch: int) -> list[tuple[Tensor, Tensor]]:
    """The batches that `pretrain` would train on, scaled here."""
    data = open_data(store, PARAMETERS)
    batches = data.batches(torch.device("cpu"))
    return [
        (scaled(batch.degraded.numpy())[:, None], scaled(batch.original.numpy())[:, None])
        for batch in batches.stream(data.training(epoch))
    ]


def assert_same(ours: list[tuple[Tensor, Tensor]], theirs: list[tuple[Tensor, Tensor]]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one[0].dtype == one[1].dtype == torch.float32
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


# ------------------------------------------------------------------------------------------------ PairDataset


def test_an_item_is_a_degraded_cube_and_its_flipped_original(pairs: Path) -> None:
    dataset = PairDataset(pairs, split="all")
    assert len(dataset) == CUBES
    for epoch, variant in ((0, 0), (1, 1), (4, 0)):
        dataset.set_epoch(epoch)
        for cube in (0, 7, -1):
            assert_same([dataset[cube]], [read(pairs, cube % CUBES, variant)])
    with pytest.raises(IndexError):
        dataset[CUBES]


def test_the_splits_are_those_of_pretrain(pairs: Path) -> None:
    split = open_data(pairs, PARAMETERS).split
    train, validation = PairDataset(pairs), PairDataset(open_store(pairs), split="validation")
    assert (len(train), len(validation)) == (len(split.train), len(split.validation))
    assert_same(
        [train[i] for i in range(len(train))], [read(pairs, cube, 0) for cube in split.train.tolist()]
    )
    for epoch in (0, 1):  # validation is variant 0 always
        validation.set_epoch(epoch)
        assert_same(list(validation), [read(pairs, cube, 0) for cube in split.validation.tolist()])


def test_both_say_in_one_line_what_they_hold(pairs: Path) -> None:
    dataset, loader = PairDataset(pairs), PairLoader(pairs, split="validation", batch_size=2)
    assert repr(dataset) == f"<PairDataset {pairs}: train, {len(dataset)} pairs an epoch>"
    assert repr(loader) == f"<PairLoader {pairs}: validation, {len(loader)} batches of 2 an epoch>"


def test_a_cube_store_gives_the_pairs_of_its_pair_store(cubes: Path, pairs: Path) -> None:
    flying, stored = PairDataset(str(cubes), seed=3), PairDataset(pairs)
    for epoch in (0, 1):
        flying.set_epoch(epoch)
        stored.set_epoch(epoch)
        assert_same(list(flying), list(stored))


def test_a_pickled_dataset_is_the_same_and_in_the_same_epoch(cubes: Path) -> None:
    dataset = PairDataset(cubes, split="validation", recipe="paper", seed=5)
    dataset.set_epoch(1)
    assert_same(list(pickle.loads(pickle.dumps(dataset))), list(dataset))
    train = PairDataset(cubes, recipe="paper", seed=5)
    train.set_epoch(1)
    again = pickle.loads(pickle.dumps(train))
    assert_same([again[3]], [train[3]])
    again.set_epoch(0)  # on its own from here on
    assert not torch.equal(again[3][0], train[3][0])


@pytest.mark.full
def test_worker_processes_load_what_this_one_does(cubes: Path, pairs: Path) -> None:
    dataset = PairDataset(cubes, split="all", seed=3)
    loader = DataLoader(
        dataset, batch_size=8, num_workers=2, multiprocessing_context="spawn", persistent_workers=True
    )
    for epoch in (0, 1):  # the second one reaches workers that live already
        dataset.set_epoch(epoch)
        theirs = [pair for batch in loader for pair in zip(*batch, strict=True)]
        assert_same(theirs, [read(pairs, cube, epoch) for cube in range(CUBES)])


# ------------------------------------------------------------------------------------------------- PairLoader


@pytest.mark.parametrize("store", ["cubes", "pairs"])
def test_the_loader_gives_the_batches_of_pretrain(store: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(store)
    loader = PairLoader(path, 5, seed=3)
    for epoch in range(3):  # a pass that ends moves on
        assert loader.epoch == epoch
        ours = list(loader)
        assert len(ours) == len(loader)
        assert_same(ours, trained_on(path, epoch))
    loader.set_epoch(1)
    assert_same(list(loader), trained_on(path, 1))


def test_validation_comes_in_one_order_and_variant_0(pairs: Path) -> None:
    data = open_data(pairs, PARAMETERS)
    loader = PairLoader(pairs, 5, split="validation")
    cubes = [work.cubes.tolist() for work in data.validation]
    expected = [[read(pairs, cube, 0) for cube in work] for work in cubes]
    for _ in range(2):
        for (degraded, original), theirs in zip(loader, expected, strict=True):
            assert_same(list(zip(degraded, original, strict=True)), theirs)


@pytest.mark.parametrize("stop", [0, 1, 4, 5])
def test_a_resumed_loader_ends_as_one_that_went_through(pairs: Path, stop: int) -> None:
    """24 cubes train: five batches an epoch."""
    whole = [batch for epoch in range(2) for batch in trained_on(pairs, epoch)]
    first, seen = PairLoader(pairs, 5, seed=3), []
    state = first.state_dict()
    for number, batch in enumerate(first):
        if number == stop:
            break
        seen.append(batch)
        state = first.state_dict()
    assert len(seen) == stop

    second = PairLoader(pairs, 5, seed=3)
    second.load_state_dict(pickle.loads(pickle.dumps(state)))
    assert second.state_dict() == state
    for epoch in range(second.epoch, 2):
        second.set_epoch(epoch)
        seen += list(second)
    assert_same(seen, whole)


def test_a_pass_begins_anew_unless_it_is_resumed(pairs: Path) -> None:
    loader = PairLoader(pairs, 5, seed=3)
    for _ in loader:
        break
    assert loader.state_dict()["batch"] == 1
    assert_same(list(loader), trained_on(pairs, 0))
    loader.load_state_dict(loader.state_dict() | {"epoch": 0, "batch": 3})
    loader.set_epoch(1)  # another epoch than the one that was left
    assert_same(list(loader), trained_on(pairs, 1))


def test_batches_that_are_kept_stay_what_they_are(pairs: Path) -> None:
    """And two passes at once do not disturb one another."""
    loader = PairLoader(pairs, 2, seed=3)
    both = list(zip(loader, PairLoader(pairs, 2, seed=3), strict=True))
    again = list(loader.__class__(pairs, 2, seed=3))
    assert_same([one for one, _ in both], again)
    assert_same([other for _, other in both], again)


def test_what_makes_no_sense_is_refused(cubes: Path, pairs: Path) -> None:
    with pytest.raises(CallError, match="split 'test' is unknown; allowed: train, validation, all"):
        PairDataset(pairs, split="test")  # type: ignore[arg-type]
    with pytest.raises(CallError, match="--recipe paper applies to degrading on the fly"):
        PairLoader(pairs, recipe="paper")
    with pytest.raises(CallError, match="batch size 0 is out of range"):
        PairLoader(pairs, 0)
    for each in (PairDataset(pairs), PairLoader(pairs)):
        with pytest.raises(CallError, match="epoch -1 is out of range"):
            each.set_epoch(-1)
    state = PairLoader(pairs, 5, seed=3).state_dict()
    for other in (PairLoader(pairs, 6, seed=3), PairLoader(pairs, 5), PairLoader(cubes, 5, seed=3)):
        with pytest.raises(CallError, match=r"The state belongs to a loader with .* the same arguments"):
            other.load_state_dict(state)
