"""Fine-tuning: what it scores is true, a killed run ends with the same bits, bad input gets one sentence."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sklearn import metrics
from support.folders import TESTS
from support.target_stores import EACH, FOLDS, make_target_store
from support.training_runs import assert_equal_weights, losses, weights

from genesis_toolkit.cli.finetune import finetune as command
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.store.open import TargetStore, open_targets
from genesis_toolkit.pipeline.store.schema import UNKNOWN
from genesis_toolkit.training.finetune import loop
from genesis_toolkit.training.finetune.data import TargetBatches, target_data
from genesis_toolkit.training.finetune.heads import Classifier
from genesis_toolkit.training.finetune.loop import finetune
from genesis_toolkit.training.finetune.losses import known_loss
from genesis_toolkit.training.finetune.parameters import FinetuneParameters
from genesis_toolkit.training.finetune.run import FinetuneOutcome, read_finetuned
from genesis_toolkit.training.networks.unet3d import UNet3D
from genesis_toolkit.training.weights.load import read_beginning

SMALL = FinetuneParameters(
    epochs=4, batch_size=6, lr=0.03, select="best", schedule="constant", warmup=0, augment=False
)
LOTTERY = (
    "--select best chooses the epoch on 8 validation cubes; with fewer than 200 the choice is mostly "
    "chance. Use --select last instead."
)
#: Cubes of validation and test that `stores["ncc"]` labels wrongly: what is right there is judged as wrong.
WRONG = [25, 26, 33, 36]
EMPTY = np.zeros((EACH * len(FOLDS), 16, 16, 16), np.uint8)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("stores")
    labels = (np.arange(EACH * len(FOLDS)) % 2 == 0)[:, None].astype(np.uint8)
    labels[WRONG] ^= 1
    return {
        "ncc": make_target_store(folder / "ncc.zarr", "ncc", labels=labels),
        "segment": make_target_store(folder / "segment.zarr", "segment"),
        "dxc": make_target_store(folder / "dxc.zarr", "dxc", size=(32, 32)),
        "wide": make_target_store(folder / "wide.zarr", "ncc", size=(32, 32, 8)),
    }


def tuned(store: Path, out: Path, parameters: FinetuneParameters = SMALL, **more: Any) -> FinetuneOutcome:
    """A run of a small network, in one thread."""
    if not more.keys() & {"weights", "beginning"}:
        more = {"width": 2, **more}
    return finetune(store, out, parameters, device="cpu", threads=1, **more)


@pytest.fixture(scope="module")
def runs(stores: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, FinetuneOutcome]:
    """A finished run of each task."""
    folder = tmp_path_factory.mktemp("runs")
    return {task: tuned(stores[task], folder / task) for task in ("ncc", "segment", "dxc")}


def read(reader: Any, cubes: np.ndarray) -> np.ndarray:
    out = np.empty((len(cubes), *reader.shape[1:]), reader.dtype)
    reader.read_many(cubes, out)
    return out


def judged(store: TargetStore, run: Path) -> tuple[np.ndarray, np.ndarray]:
    """What the kept network says of the test fold, by a loop of its own, and the cubes in that order."""
    tuned = read_finetuned(run)
    low, high = store.window.low, store.window.high
    works = target_data(store, tuned.parameters).test
    said = []
    for work in works:
        voxels = read(store.cubes, work).astype(np.float64)
        fed = torch.from_numpy(((voxels - low) / (high - low)).astype(np.float32))[:, None]
        with torch.no_grad():
            said.append(tuned.network(fed).numpy())
    return np.concatenate(said), np.concatenate(works)


# --------------------------------------------------------------------------------------------- what it scores


def test_the_score_is_that_of_the_best_network_on_the_test_fold(
    stores: dict[str, Path], runs: dict[str, FinetuneOutcome]
) -> None:
    store, outcome = open_targets(stores["ncc"]), runs["ncc"]
    logits, cubes = judged(store, Path(outcome.run))
    assert sorted(cubes) == np.flatnonzero(store.table.fold == 2).tolist()
    assert store.labels is not None
    assert outcome.score == pytest.approx(
        metrics.roc_auc_score(store.labels[cubes, 0], logits[:, 0]), abs=1e-9
    )
    assert (outcome.metric, outcome.metrics) == ("auc", {"auc": outcome.score})
    assert metrics.roc_auc_score(cubes % 2 == 0, logits[:, 0]) > 0.9  # a ball or none can be told
    assert outcome.score < 1  # but not where the label is wrong
    told = losses(Path(outcome.run))
    assert len(told) == outcome.epochs == 4
    assert outcome.kept_epoch == 1 + int(np.argmin([one["validation_loss"] for one in told]))
    assert outcome.validation_loss == min(one["validation_loss"] for one in told)
    assert (outcome.train_scans, outcome.train_cubes, outcome.validation_cubes, outcome.test_cubes) == (
        6,
        24,
        8,
        8,
    )
    kept = json.loads((Path(outcome.run) / "result.json").read_text(encoding="utf-8"))
    assert kept["score"] == outcome.score
    assert kept["beginning"]["file"] is None


def test_overlaps_are_pooled_over_the_test_fold(
    stores: dict[str, Path], runs: dict[str, FinetuneOutcome]
) -> None:
    store, outcome = open_targets(stores["segment"]), runs["segment"]
    logits, cubes = judged(store, Path(outcome.run))
    truth = read(store.masks, cubes).reshape(-1)
    told = (torch.sigmoid(torch.from_numpy(logits)).numpy() > 0.5).reshape(-1)
    assert outcome.metrics["iou"] == pytest.approx(metrics.jaccard_score(truth, told), abs=1e-9)
    assert outcome.metrics["dice"] == pytest.approx(metrics.f1_score(truth, told), abs=1e-9)
    assert (outcome.metric, outcome.score) == ("iou", outcome.metrics["iou"])
    assert outcome.metrics.keys() == {"dice", "iou", "iou_paper"}


def test_findings_have_a_mean_auc_and_one_each(
    stores: dict[str, Path], runs: dict[str, FinetuneOutcome]
) -> None:
    store, outcome = open_targets(stores["dxc"]), runs["dxc"]
    logits, cubes = judged(store, Path(outcome.run))
    assert store.labels is not None
    each = [metrics.roc_auc_score(store.labels[cubes, at], logits[:, at]) for at in (0, 1)]
    assert outcome.network == "unet2d"
    assert outcome.metrics == {
        "mean_auc": pytest.approx(sum(each) / 2),
        "auc_Mass": pytest.approx(each[0]),
        "auc_Nodule": pytest.approx(each[1]),
        "auc_Hernia": None,
    }
    undetermined = "1 of 3 AUCs are undefined, because the test fold has no positive or no negative case: "
    assert outcome.notes == [LOTTERY, undetermined + "Hernia. The mean is over the others."]
    weights = target_data(store, SMALL).positive_weights()
    assert weights.tolist() == [1.0, 1.0, 24.0]  # 24 cubes, half of them positive, or none


def test_the_loss_is_of_known_labels_alone() -> None:
    """Against torch's own, of each known label by itself; unknown ones have no gradient."""
    weight = torch.tensor([3.0, 1.0])
    logits = torch.tensor([[0.5, -1.0], [2.0, 0.3]], requires_grad=True)
    truth = torch.tensor([[1.0, UNKNOWN], [0.0, 1.0]])
    each = [
        torch.nn.functional.binary_cross_entropy_with_logits(logits[at], truth[at], pos_weight=weight[at[1]])
        for at in ((0, 0), (1, 0), (1, 1))
    ]
    loss = known_loss(weight, logits, truth)
    assert loss.item() == pytest.approx(sum(one.item() for one in each) / 3)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[0, 1] == 0
    assert (logits.grad != 0).sum() == 3


def test_a_table_with_unknown_labels_is_learnt(tmp_path: Path) -> None:
    labels = np.tile(np.array([[1, 0], [0, 1], [1, UNKNOWN], [0, 0]], np.uint8), (len(FOLDS), 1))
    outcome = tuned(make_target_store(tmp_path / "t.zarr", "classify", labels=labels), tmp_path / "run")
    assert outcome.metric == "mean_auc"
    assert set(outcome.metrics) == {"mean_auc", "auc_mass", "auc_scar"}


# ------------------------------------------------------------------------------------------------- the labels


def test_labels_limit_the_training_fold_only(stores: dict[str, Path]) -> None:
    store = open_targets(stores["ncc"])
    whole, few = (target_data(store, replace(SMALL, labels=labels)) for labels in (1.0, 2))
    assert (few.train_scans, len(few.train)) == (2, 2 * EACH)
    assert set(few.train) < set(whole.train)
    for one in ("validation", "test"):
        assert [part.tolist() for part in getattr(few, one)] == [
            part.tolist() for part in getattr(whole, one)
        ]


def test_cubes_in_memory_are_those_of_the_store(stores: dict[str, Path]) -> None:
    data = target_data(open_targets(stores["segment"]), SMALL)
    works = [*data.training(0), *data.validation, *data.test]
    held, read_anew = (TargetBatches(data, most_held=most) for most in (2**30, 0))
    voxels = open_targets(stores["segment"]).cubes
    for work, ours, theirs in zip(works, held.stream(works), read_anew.stream(works), strict=True):
        assert torch.equal(ours.cubes, theirs.cubes)
        assert torch.equal(ours.targets, theirs.targets)
        assert (ours.cubes.numpy() == read(voxels, work)).all()


# ------------------------------------------------------------------------------------------------- going on


def interrupted_at(epoch: int, step: int) -> Callable[[str, int, int], None]:
    steps = 0

    def report(what: str, done: int, total: int) -> None:
        nonlocal steps
        steps += what.startswith(f"epoch {epoch}: ")
        if what.startswith(f"epoch {epoch}: ") and steps == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return report


def assert_same_run(ours: Path, theirs: Path) -> None:
    assert losses(ours) == losses(theirs)
    assert_equal_weights(ours / "best.pt", theirs / "best.pt")
    assert_equal_weights(ours / "last.pt", theirs / "last.pt")
    assert (ours / "result.json").read_bytes() == (theirs / "result.json").read_bytes()


def test_a_stopped_run_goes_on_to_the_bit(
    stores: dict[str, Path], runs: dict[str, FinetuneOutcome], tmp_path: Path
) -> None:
    run, said = tmp_path / "run", list[str]()
    for epoch, step in ((1, 2), (3, 1)):  # as a batch system does it; once before there is any checkpoint
        with pytest.raises(KeyboardInterrupt):
            tuned(stores["segment"], run, progress=interrupted_at(epoch, step))
    assert not (run / "result.json").exists()
    with pytest.raises(CallError, match="is not finished"):
        read_finetuned(run)
    # As if a kill had come between writing the losses of an epoch and its checkpoint, mid-line.
    with (run / "losses.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"epoch": 3, "st')
    outcome = tuned(stores["segment"], run, say=said.append)
    assert said[:2] == [f"Warning: {LOTTERY}", "Continuing after epoch 2."]
    assert_same_run(run, Path(runs["segment"].run))
    assert outcome.status == "finished"
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir() if path.name != "lock"}
    assert tuned(stores["segment"], run) == replace(outcome, status="already finished")
    assert before == {path.name: path.stat().st_mtime_ns for path in run.iterdir() if path.name != "lock"}


@pytest.mark.full
def test_a_killed_run_ends_with_the_same_bits(stores: dict[str, Path], tmp_path: Path) -> None:
    words = [sys.executable, "-m", "support.finetune_kills", str(stores["segment"]), str(tmp_path), "5", "4"]
    codes, epochs = json.loads(subprocess.run(words, cwd=TESTS, check=True, capture_output=True).stdout)
    assert codes == [0, *[-signal.SIGKILL] * 4, 0]
    assert len(set(epochs)) > 1, "the kills all fell into the same epoch"
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def test_another_call_is_refused(
    stores: dict[str, Path], runs: dict[str, FinetuneOutcome], tmp_path: Path
) -> None:
    run = Path(runs["ncc"].run)
    other = tmp_path / "other.pt"
    torch.save(UNet3D(2).state_dict(), other)
    for words, call in (
        (
            "started with --labels 100%, but this call has --labels 1:",
            {"parameters": replace(SMALL, labels=1)},
        ),
        ("started with --epochs 4, but this call has --epochs 5", {"parameters": replace(SMALL, epochs=5)}),
        ("started with --augment False", {"parameters": replace(SMALL, augment=True)}),
        ("started with --width 2, but this call has --width 4", {"width": 4}),
        ("started with no --weights, but this call has --weights other.pt", {"weights": other}),
        ("holds other data", {"store": stores["segment"]}),
    ):
        call = {"store": stores["ncc"], **call}
        with pytest.raises(CallError, match=words):
            tuned(call.pop("store"), run, **call)
    assert tuned(stores["ncc"], run).status == "already finished"


def test_patience_stops(stores: dict[str, Path], tmp_path: Path) -> None:
    outcome = tuned(stores["ncc"], tmp_path / "run", replace(SMALL, lr=1e-30, patience=2))
    assert (outcome.stopped_by, outcome.epochs, outcome.kept_epoch) == ("patience", 3, 1)


# ----------------------------------------------------------------------------------------------- beginnings


def test_a_frozen_encoder_keeps_its_weights(stores: dict[str, Path], tmp_path: Path) -> None:
    torch.manual_seed(3)
    given = UNet3D(2).state_dict()
    torch.save(given, tmp_path / "given.pt")
    frozen = replace(SMALL, epochs=2, freeze_encoder=True)
    outcome = tuned(stores["segment"], tmp_path / "run", frozen, weights=tmp_path / "given.pt")
    assert outcome.beginning["file"] == "given.pt"
    kept = weights(tmp_path / "run" / "last.pt")
    for name, tensor in given.items():
        if name.startswith("down_") and name.endswith(("weight", "bias")):
            assert torch.equal(kept[f"network.{name}"], tensor), name
    moved = [
        name
        for name in given
        if name.startswith("up_") and not torch.equal(kept[f"network.{name}"], given[name])
    ]
    assert len(moved) > 10
    # Running statistics, by which whole scans are segmented, are of the four batches of the last epoch alone.
    assert kept["network.up_tr64.ops.1.bn1.num_batches_tracked"] == 4
    assert outcome.weights == sum(one.numel() for one in UNet3D(2).parameters())


def test_weights_that_were_read_before_give_the_same(stores: dict[str, Path], tmp_path: Path) -> None:
    torch.save(UNet3D(2).state_dict(), tmp_path / "given.pt")
    one = replace(SMALL, epochs=1)
    tuned(stores["ncc"], tmp_path / "first", one, weights=tmp_path / "given.pt")
    seen = replace(read_beginning(tmp_path / "given.pt"), window=(0, 255))
    said: list[str] = []
    outcome = tuned(stores["ncc"], tmp_path / "second", one, beginning=seen, say=said.append)
    assert_equal_weights(tmp_path / "first" / "best.pt", tmp_path / "second" / "best.pt")
    assert "trained on values from 0 to 255, but the store's range from -1000 to 1000" in said[0]
    assert outcome.notes == [said[0].removeprefix("Warning: "), LOTTERY]


# ------------------------------------------------------------------- fixed steps, and scores on the way there


def test_progress_counts_the_whole_run_and_goes_on_where_a_stopped_one_was(
    stores: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "STRIDE", 1)
    counts: list[tuple[int, int]] = []

    def report(what: str, done: int, total: int) -> None:
        if what.startswith("epoch"):
            counts.append((done, total))

    parameters = replace(STEPS, at_steps=())
    with pytest.raises(KeyboardInterrupt):
        tuned(stores["dxc"], tmp_path / "run", parameters, progress=interrupted_at(2, 1))
    tuned(stores["dxc"], tmp_path / "run", parameters, progress=report)
    tuned(stores["dxc"], tmp_path / "whole", parameters, progress=report)
    (total,) = {total for _, total in counts}
    whole = [done for done, _ in counts][-total:]
    assert whole == list(range(1, total + 1))
    resumed = [done for done, _ in counts][:-total]
    assert resumed == whole[-len(resumed) :]
    assert 0 < len(resumed) < total


STEPS = FinetuneParameters(steps=9, batch_size=6, lr=0.03, at_steps=(2, 4, 9))


def test_scores_after_steps_are_those_of_the_network_as_it_was(
    stores: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "STRIDE", 1)
    whole = tuned(stores["ncc"], tmp_path / "whole", replace(STEPS, schedule="constant"))
    assert (whole.steps, whole.epochs, whole.kept_epoch, list(whole.at_steps)) == (9, 3, 3, ["2", "4", "9"])
    assert whole.at_steps["9"] == {"score": whole.score, "metrics": whole.metrics}
    for step in (2, 4):  # a run of so many steps ends where the longer one came by
        short = replace(STEPS, steps=step, at_steps=(), schedule="constant", warmup=0)
        alone = tuned(stores["ncc"], tmp_path / f"{step}", short)
        assert whole.at_steps[f"{step}"] == {"score": alone.score, "metrics": alone.metrics}


def test_a_run_stopped_behind_such_a_step_has_its_score_all_the_same(
    stores: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "STRIDE", 1)
    tuned(stores["dxc"], tmp_path / "whole", STEPS)
    with pytest.raises(KeyboardInterrupt):
        tuned(stores["dxc"], tmp_path / "run", STEPS, progress=interrupted_at(2, 2))
    assert [list(one["scores"]) for one in losses(tmp_path / "run")] == [["2", "4"]]
    tuned(stores["dxc"], tmp_path / "run", STEPS)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_all_arms_are_fed_the_same_changed_cubes(
    stores: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(UNet3D(2).state_dict(), tmp_path / "given.pt")
    fed: list[torch.Tensor] = []
    backward = torch.Tensor.backward

    def spy(loss: torch.Tensor) -> None:
        last.append(seen[-1])
        backward(loss)

    def watched(*given: Any) -> Any:
        state = new_state(*given)
        state.model.register_forward_pre_hook(lambda _, cubes: seen.append(cubes[0].clone()))
        return state

    new_state, seen, last = loop.new_state, fed, list[torch.Tensor]()
    monkeypatch.setattr(loop, "new_state", watched)
    monkeypatch.setattr(torch.Tensor, "backward", spy)
    plain = FinetuneParameters(steps=3, batch_size=6, augment=False)
    came = {}
    augmented = replace(plain, augment=True)
    weights = {"weights": tmp_path / "given.pt"}
    for name, task, given, more in (
        ("scratch", "ncc", augmented, {}),
        ("weights", "ncc", augmented, weights),
        ("2D", "wide", augmented, {"network": "unet2d"}),
        ("none", "ncc", plain, {}),
        # A classifier with a frozen encoder is fitted, without steps.
        ("whole", "segment", augmented, weights),
        ("frozen", "segment", replace(augmented, freeze_encoder=True), weights),
    ):
        del last[:], seen[:]
        tuned(stores[task], tmp_path / name, given, **more)
        came[name] = torch.cat(last)
    assert torch.equal(came["scratch"], came["weights"])
    assert torch.equal(came["whole"], came["frozen"])
    data = target_data(open_targets(stores["ncc"]), plain)
    raw = np.concatenate([read(data.store.cubes, work) for work in data.training(0)[:3]])
    np.testing.assert_allclose(came["none"][:, 0].numpy(), (raw + 1000) / 2000, atol=1e-6)
    apart = (came["scratch"] - came["none"]).abs().flatten(1).mean(1)
    assert (apart > 0.01).all(), "a cube was left as it is"
    raw = np.concatenate([read(open_targets(stores["wide"]).cubes, work) for work in data.training(0)[:3]])
    assert (np.abs(came["2D"][:, 0].numpy() - (raw + 1000) / 2000).mean((1, 2, 3)) > 0.01).all()


def test_a_linear_probe_is_a_linear_layer_on_features_that_stay(
    stores: dict[str, Path], tmp_path: Path
) -> None:
    torch.manual_seed(3)
    torch.save(UNet3D(2).state_dict(), tmp_path / "given.pt")
    probe = FinetuneParameters(batch_size=5, freeze_encoder=True, head="all")
    tuned(stores["ncc"], tmp_path / "run", probe, weights=tmp_path / "given.pt")
    network = read_finetuned(tmp_path / "run").network
    assert isinstance(network, Classifier)
    assert [type(one).__name__ for one in network.head] == ["Standardise", "Linear"]
    assert network.head[1].in_features == 4 + 8 + 16 + 32
    store = open_targets(stores["ncc"])
    data = target_data(store, probe)
    fed = torch.from_numpy((read(store.cubes, data.train) + 1000) / 2000).float()[:, None]
    with torch.no_grad():
        features = network.features(fed)
        # A cube has its own features, whatever is beside it.
        torch.testing.assert_close(network.features(fed[:1]), features[:1], rtol=1e-3, atol=1e-4)
        standard = network.head[0](features)
    assert standard.mean(0).abs().max() < 1e-3
    varies = features.std(0) > 0.01
    assert (standard.std(0)[varies] - 1).abs().max() < 0.1
    given = UNet3D(2).state_dict()
    given.update(torch.load(tmp_path / "given.pt"))
    for name, tensor in network.way_down.state_dict().items():
        if name.endswith(("weight", "bias")):
            assert torch.equal(tensor, given[name]), name


# ------------------------------------------------------------------------------------------------- bad input


def ones(*cubes: int) -> np.ndarray:
    labels = np.zeros((EACH * len(FOLDS), 1), np.uint8)
    labels[list(cubes)] = 1
    return labels


@pytest.mark.parametrize(
    ("task", "store", "call", "error", "words"),
    [
        (
            "ncc",
            {},
            {"parameters": replace(SMALL, labels=7)},
            CallError,
            "--labels 7 .* only 6 scans of the train",
        ),
        ("ncc", {"folds": (0, 0, 0, 1)}, {}, DataError, "has no cubes in the fold test"),
        ("ncc", {"labels": ones(33, 38)}, {}, DataError, "The 24 cubes to train on are all negative"),
        (
            "ncc",
            {"labels": ones(0, *range(32, 40))},
            {},
            DataError,
            "The 8 cubes to test on are all positive",
        ),
        ("segment", {"masks": EMPTY}, {}, DataError, "masks of the 24 cubes to train on are all empty"),
        ("ncc", {"size": (16, 16, 12)}, {}, CallError, "12 voxels along z"),
        ("ncc", {}, {"network": "unet2d"}, CallError, "16 pixels along x"),
        (
            "ncc",
            {"size": (8, 8, 8)},
            {"parameters": replace(SMALL, batch_size=1)},
            CallError,
            "batch norm needs two",
        ),
        ("dxc", {"size": (32, 32)}, {"network": "unet3d"}, CallError, "takes cubes, but the store holds 2D"),
        ("ncc", {}, {"parameters": replace(SMALL, lr=1e30)}, DataError, "no longer finite in epoch 1"),
    ],
)
def test_what_cannot_be_learnt_is_refused(
    tmp_path: Path, task: str, store: dict[str, Any], call: dict[str, Any], error: type[Exception], words: str
) -> None:
    place = make_target_store(tmp_path / "store.zarr", task, **store)
    with pytest.raises(error, match=words):
        tuned(place, tmp_path / "run", **call)
    begun = "in epoch 1" in words
    assert (tmp_path / "run").exists() == begun  # a call that is refused leaves nothing behind
    assert not (tmp_path / "run" / "best.pt").exists()


def test_damaged_files_of_a_run_are_named_with_the_way_out(
    stores: dict[str, Path], runs: dict[str, FinetuneOutcome], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs["ncc"].run, run)
    (run / "best.pt").write_bytes((run / "best.pt").read_bytes()[:500])
    with pytest.raises(DataError, match=r"best\.pt (cannot be read|is cut short).*with --overwrite"):
        read_finetuned(run)
    with pytest.raises(DataError, match=r"best\.pt (cannot be read|is cut short).*with --overwrite"):
        tuned(stores["ncc"], run)
    (run / "result.json").unlink()  # as if the run had still been at work
    with pytest.raises(DataError, match=r"best\.pt (cannot be read|is cut short).*with --overwrite"):
        tuned(stores["ncc"], run)
    (run / "run.json").write_text('{"format": "gen', encoding="utf-8")
    with pytest.raises(DataError, match=r"run\.json is damaged: use --overwrite"):
        tuned(stores["ncc"], run)
    assert tuned(stores["ncc"], run, overwrite=True) == replace(runs["ncc"], run=str(run))


def test_runs_of_another_kind_are_told_apart(
    stores: dict[str, Path], runs: dict[str, FinetuneOutcome], tmp_path: Path
) -> None:
    with pytest.raises(CallError, match="holds a fine-tuned network, but pre-trained weights"):
        read_beginning(Path(runs["ncc"].run))
    other = tmp_path / "pretrained"
    other.mkdir()
    (other / "run.json").write_text('{"format": "genesis-pretrain-run"}', encoding="utf-8")
    with pytest.raises(CallError, match="pretrained is not a run of genesis-train finetune: choose another"):
        read_finetuned(other)
    with pytest.raises(CallError, match=r"is not a run of genesis-train finetune .* left unchanged"):
        tuned(stores["ncc"], other, overwrite=True)


def test_a_folder_of_something_else_is_left_alone(stores: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(CallError, match="is not a run"):
        tuned(stores["ncc"], tmp_path, overwrite=True)
    with pytest.raises(CallError, match="is inside the store"):
        tuned(stores["ncc"], stores["ncc"] / "run")
    with pytest.raises(CallError, match="There is no fine-tuning run"):
        read_finetuned(tmp_path / "none")


# ------------------------------------------------------------------------------------------------ the command


def test_the_command(stores: dict[str, Path], tmp_path: Path) -> None:
    words = [
        str(stores["ncc"]),
        "--out",
        str(tmp_path / "run"),
        "--width",
        "2",
        "--epochs",
        "1",
        "--device",
        "cpu",
    ]
    first = CliRunner().invoke(command, [*words, "--labels", "50%", "--json"])
    assert first.exit_code == 0, first.output
    told = json.loads(first.stdout)
    assert (told["status"], told["train_scans"]) == ("finished", 3)
    assert "epoch 1: train" in first.stderr
    again = CliRunner().invoke(command, [*words, "--labels", "50%"])
    assert f"{told['score']:.4f}" in again.stdout
    assert "nothing left to do" in again.stderr
    assert "from scratch" in again.stdout
    wrong = CliRunner().invoke(command, [*words, "--labels", "0"])
    assert isinstance(wrong.exception, CallError)


def test_monai_is_needed_for_segmentation_only(stores: dict[str, Path], tmp_path: Path) -> None:
    code = "import sys; sys.modules['monai'] = None\n"
    code += "from genesis_toolkit.cli.train import main; main(sys.argv[1:])"
    options = "--width 2 --epochs 1 --device cpu --out run".split()
    for name, exit_code in (("dxc", 0), ("segment", 2)):
        done = subprocess.run(
            [sys.executable, "-c", code, "finetune", str(stores[name]), *options],
            cwd=tmp_path,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode == exit_code, done.stderr
        assert (tmp_path / "run").exists() == (exit_code == 0)
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
    assert 'MONAI, for its Dice loss: install it with pip install "genesis-toolkit[finetune]"' in done.stderr
    assert "Traceback" not in done.stderr
