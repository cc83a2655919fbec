"""What a run learns from: the scans that are labelled, and how much a label weighs."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support.target_stores import make_target_store

from genesis_toolkit.pipeline.store.open import open_targets
from genesis_toolkit.pipeline.store.schema import UNKNOWN
from genesis_toolkit.training.finetune.data import choose_scans, target_data
from genesis_toolkit.training.finetune.parameters import FinetuneParameters


def test_positive_labels_weigh_as_much_as_negative_ones(tmp_path: Path) -> None:
    labels = np.zeros((40, 1), np.uint8)
    labels[[0, 4, 30, 39]] = 1
    store = open_targets(make_target_store(tmp_path / "rare.zarr", "ncc", labels=labels))
    data = target_data(store, FinetuneParameters(batch_size=6))
    assert data.positive_weights().tolist() == [11.0]  # 22 of 24 training cubes : 2


def test_unknown_labels_weigh_nothing(tmp_path: Path) -> None:
    labels = np.zeros((40, 2), np.uint8)
    labels[[0, 4, 30, 39], 0] = 1
    labels[5:15, 0] = UNKNOWN
    labels[:, 1] = UNKNOWN
    labels[[1, 2, 3, 36], 1] = (1, 0, 0, 1)
    store = open_targets(make_target_store(tmp_path / "some.zarr", "classify", labels=labels))
    data = target_data(store, FinetuneParameters(batch_size=6))
    assert data.positive_weights().tolist() == [6.0, 2.0]  # 12 known negatives : 2, and 2 : 1


@given(st.integers(1, 40), st.integers(0, 2**63 - 1), st.data())
def test_fewer_labelled_scans_are_among_more(count: int, seed: int, data: st.DataObject) -> None:
    scans = np.arange(count) * 3
    streams = np.random.default_rng(count).integers(0, 2**63, count).astype(np.uint64)
    fewer, more = sorted(data.draw(st.tuples(st.integers(1, count), st.integers(1, count))))
    few, many = (choose_scans(scans, streams, n, seed).tolist() for n in (fewer, more))
    assert (len(few), len(many)) == (fewer, more)
    assert set(few) <= set(many) <= set(scans.tolist())
    # Whether a scan is before another depends on these two alone.
    order = np.random.default_rng(0).permutation(count)
    assert choose_scans(scans[order], streams[order], more, seed).tolist() == many


@given(st.integers(1, 60), st.integers(1, 4), st.integers(0, 2**63 - 1), st.data())
def test_every_kind_of_scan_has_its_share(count: int, most: int, seed: int, data: st.DataObject) -> None:
    scans = np.arange(count) * 3
    streams = np.random.default_rng(count).integers(0, 2**63, count).astype(np.uint64)
    kinds = np.array(data.draw(st.lists(st.integers(0, most), min_size=count, max_size=count)))
    fewer, more = sorted(data.draw(st.tuples(st.integers(1, count), st.integers(1, count))))
    few, many = (choose_scans(scans, streams, n, seed, kinds).tolist() for n in (fewer, more))
    assert (len(few), len(many)) == (fewer, more)
    assert set(few) <= set(many)
    for kind in np.unique(kinds):  # each stratum gets its share, give or take a scan for each boundary
        share = more * np.mean(kinds == kind)
        assert abs(np.sum(kinds[np.array(many) // 3] == kind) - share) <= len(np.unique(kinds))
    order = np.random.default_rng(0).permutation(count)
    assert choose_scans(scans[order], streams[order], more, seed, kinds[order]).tolist() == many


def test_few_labelled_scans_hold_both_kinds_of_a_rare_label(tmp_path: Path) -> None:
    scan = np.arange(400) // 4
    labels = (scan % 10 != 0).astype(np.uint8)[:, None]  # one scan in ten is negative
    folds = (0,) * 80 + (1,) * 10 + (2,) * 10
    store = open_targets(make_target_store(tmp_path / "rare.zarr", "ncc", labels=labels, folds=folds))
    for seed in range(20):
        data = target_data(store, FinetuneParameters(labels=20, seed=seed))
        assert data.train_scans == 20
        assert 4 <= np.sum(labels[data.train] == 0) <= 12  # two scans of four cubes, give or take one


def test_shares_are_rounded_and_seeds_draw_others() -> None:
    scans, streams = np.arange(25), np.arange(100, 125).astype(np.uint64)
    for share, count in ((0.1, 3), (0.01, 1), (0.02, 1), (0.5, 13), (1.0, 25)):
        assert len(choose_scans(scans, streams, share, 0)) == count
    drawn = {tuple(choose_scans(scans, streams, 5, seed)) for seed in range(20)}
    assert len(drawn) > 15
