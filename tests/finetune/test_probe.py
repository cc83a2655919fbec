"""The linear probe is the logistic regression that scikit-learn fits, and a run holds exactly that."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from support.target_stores import make_target_store

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.store.open import open_targets
from genesis_toolkit.pipeline.store.schema import UNKNOWN
from genesis_toolkit.training.finetune.data import target_data
from genesis_toolkit.training.finetune.heads import Classifier
from genesis_toolkit.training.finetune.loop import finetune
from genesis_toolkit.training.finetune.parameters import FinetuneParameters
from genesis_toolkit.training.finetune.probe import LOGIT_VARIANCE, fit_probe
from genesis_toolkit.training.finetune.run import read_finetuned

FOLDS = (0,) * 24 + (1,) * 4 + (2,) * 12


def regression(features: np.ndarray, labels: np.ndarray, weight: float) -> tuple[np.ndarray, float]:
    """What scikit-learn fits to the same objective."""
    fitted = LogisticRegression(
        C=LOGIT_VARIANCE / features.shape[1], class_weight={0: 1.0, 1: weight}, tol=1e-10, max_iter=10_000
    ).fit(features, labels)
    return fitted.coef_[0], float(fitted.intercept_[0])


@pytest.mark.parametrize(("cubes", "width"), [(20, 100), (300, 12)])
def test_each_class_is_scikit_learns_regression_of_its_known_labels(cubes: int, width: int) -> None:
    draw = np.random.default_rng(7)
    features = draw.normal(size=(cubes, width)).astype(np.float32)
    labels = (features @ draw.normal(size=(width, 2)) + draw.normal(size=(cubes, 2)) > 0).astype(np.float32)
    labels[::5, 1] = UNKNOWN
    weight, bias, loss = fit_probe(
        torch.from_numpy(features), torch.from_numpy(labels), torch.tensor([1.0, 3.0])
    )
    for at, positive in enumerate((1.0, 3.0)):
        known = labels[:, at] != UNKNOWN
        coefficients, intercept = regression(features[known], labels[known, at], positive)
        np.testing.assert_allclose(weight[at], coefficients, atol=2e-4)
        assert float(bias[at]) == pytest.approx(intercept, abs=2e-4)
    assert 0 < loss < 1


def test_separable_labels_give_a_finite_probe() -> None:
    features = torch.tensor([[-1.0], [1.0]])
    weight, bias, loss = fit_probe(features, torch.tensor([[0.0], [1.0]]), torch.ones(1))
    # By hand: the derivative of 2 log(1 + exp(-w)) + w^2 / (2 C) is zero at C = 10.
    assert float(weight) / LOGIT_VARIANCE == pytest.approx(2 / (1 + np.exp(float(weight))), abs=1e-5)
    assert float(bias) == pytest.approx(0, abs=1e-6)
    assert loss == pytest.approx(np.log1p(np.exp(-float(weight))), rel=1e-5)


def test_a_run_on_a_frozen_encoder_is_that_regression_of_its_features(tmp_path: Path) -> None:
    store = make_target_store(tmp_path / "images.zarr", "dxc", size=(32, 32), folds=FOLDS)
    given = FinetuneParameters(batch_size=5, freeze_encoder=True, head="all")
    outcome = finetune(store, tmp_path / "run", given, width=2, device="cpu", threads=1)
    assert (outcome.epochs, outcome.stopped_by) == (1, "epochs")
    network = read_finetuned(tmp_path / "run").network
    assert isinstance(network, Classifier)
    opened = open_targets(store)
    data = target_data(opened, given)
    images = np.empty((len(data.train), 32, 32), np.uint8)
    opened.cubes.read_many(data.train, images)
    with torch.no_grad():
        seen = network.features(torch.from_numpy(images / np.float32(255))[:, None])
    features = (seen - seen.mean(0)) / seen.std(0, correction=0)
    assert opened.labels is not None
    linear = network.head[-1]  # type: ignore[index]
    assert isinstance(linear, torch.nn.Linear)
    labels = opened.labels[data.train, 0]
    coefficients, intercept = regression(features.numpy(), labels, float(data.positive_weights()[0]))
    np.testing.assert_allclose(linear.weight.detach()[0], coefficients, atol=2e-3)
    assert float(linear.bias.detach()[0]) == pytest.approx(intercept, abs=2e-3)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"steps": 20}, "--steps 20 does not apply to --freeze-encoder"),
        ({"lr": 0.01}, "--lr 0.01 does not apply to --freeze-encoder"),
        ({"select": "best"}, "--select best does not apply to --freeze-encoder"),
    ],
)
def test_options_of_training_by_steps_are_refused(
    tmp_path: Path, more: dict[str, object], words: str
) -> None:
    store = make_target_store(tmp_path / "images.zarr", "dxc", size=(32, 32))
    with pytest.raises(CallError, match=words):
        target_data(open_targets(store), FinetuneParameters(freeze_encoder=True, **more))  # type: ignore[arg-type]
    segment = make_target_store(tmp_path / "masks.zarr", "segment", size=(16, 16, 16))
    target_data(open_targets(segment), FinetuneParameters(freeze_encoder=True, **more))  # type: ignore[arg-type]
