"""Networks are judged by statistics of batch norm that fit their weights; one note tells what is missing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics
from support.target_stores import make_target_store

from genesis_toolkit.pipeline.store.open import open_targets
from genesis_toolkit.training.finetune import loop
from genesis_toolkit.training.finetune.data import TargetBatches, target_data
from genesis_toolkit.training.finetune.heads import TargetNetwork
from genesis_toolkit.training.finetune.judge import Judge, evaluate_labels
from genesis_toolkit.training.finetune.loop import finetune
from genesis_toolkit.training.finetune.parameters import FinetuneParameters
from genesis_toolkit.training.finetune.run import read_finetuned

FOLDS = (0,) * 40 + (1,) * 4 + (2,) * 40


def test_scratch_after_20_steps_scores_the_same_by_fresh_and_by_batch_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_target_store(tmp_path / "images.zarr", "dxc", size=(64, 64), folds=FOLDS)
    given = FinetuneParameters(steps=20, batch_size=16)
    outcome = finetune(store, tmp_path / "run", given, width=8, device="cpu", threads=1)
    opened = open_targets(store)
    data = target_data(opened, given)
    network = read_finetuned(tmp_path / "run").network
    test = np.flatnonzero(opened.table.fold == 2)
    images = np.empty((len(test), 64, 64), np.uint8)
    opened.cubes.read_many(test, images)
    assert opened.labels is not None
    truth = opened.labels[test, 0]
    with torch.no_grad():
        logits = network.train()(torch.from_numpy(images / np.float32(255))[:, None])[:, 0]
    by_batch = metrics.roc_auc_score(truth, logits)
    assert by_batch > 0.8
    assert outcome.metrics["auc_Mass"] == pytest.approx(by_batch, abs=0.02)
    # As torch follows the statistics a share of 0.9 ** 20 is still that of no training at all.
    monkeypatch.setattr(Judge, "refresh", lambda _: None)
    stale = finetune(store, tmp_path / "stale", given, width=8, device="cpu", threads=1)
    assert abs(float(stale.metrics["auc_Mass"] or 0) - by_batch) > 0.02
    assert data.steps == 20


@pytest.mark.parametrize("frozen", [False, True])
def test_statistics_are_the_mean_over_batches_of_training_cubes_as_they_are(
    frozen: bool, tmp_path: Path
) -> None:
    store = open_targets(make_target_store(tmp_path / "store.zarr", "dxc", size=(32, 32)))
    data = target_data(store, FinetuneParameters(batch_size=7, freeze_encoder=frozen))
    state = loop.new_state(loop.read_beginning(None, "unet2d", 2), data, torch.device("cpu"))
    network = state.model
    assert isinstance(network, TargetNetwork)
    judge = Judge(network, data, TargetBatches(data), state.device)
    first = network.encoder().bn1
    seen = []
    for work in data.refreshing():
        images = np.empty((len(work), 32, 32), np.uint8)
        store.cubes.read_many(work, images)
        with torch.no_grad():
            maps = network.encoder().conv1(torch.from_numpy(images / np.float32(255))[:, None])
        seen.append(maps.transpose(0, 1).flatten(1))
    assert sorted(np.concatenate(data.refreshing())) == data.train.tolist()
    if frozen:
        judge.settle()
        before = {name: one.clone() for name, one in network.encoder().state_dict().items()}
    judge.refresh()
    torch.testing.assert_close(first.running_mean, torch.stack([one.mean(1) for one in seen]).mean(0))
    torch.testing.assert_close(first.running_var, torch.stack([one.var(1) for one in seen]).mean(0))
    assert first.momentum == 0.1
    if frozen:  # what a probe was fitted to does not move under it
        assert all(torch.equal(one, before[name]) for name, one in network.encoder().state_dict().items())


def test_one_note_tells_of_all_classes_that_cannot_be_judged() -> None:
    labels = np.array([[0, 1, 0, 1], [1, 1, 0, 0]], np.float32)
    scores = np.array([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]], np.float32)
    found, notes = evaluate_labels(scores, labels, ("a", "b", "c", "d"))
    assert found == {"mean_auc": 1.0, "auc_a": 1.0, "auc_b": None, "auc_c": None, "auc_d": 1.0}
    assert len(notes) == 1
    assert "2 of 4 AUCs are undefined" in notes[0]
    assert "b, c" in notes[0]
