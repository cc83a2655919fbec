"""How good a network is: figures recomputed by hand, and the same bits however many processes share them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.training_runs import SMALL, make_cube_store, make_pair_store

from genesis_toolkit.training.machine.processes import Group
from genesis_toolkit.training.pretrain import validation
from genesis_toolkit.training.pretrain.call import new_state
from genesis_toolkit.training.pretrain.data import open_data
from genesis_toolkit.training.pretrain.parameters import PretrainParameters
from genesis_toolkit.training.pretrain.validation import (
    degradation_name,
    measure_baselines,
    validate,
    works_to_average,
)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pair_store(tmp_path_factory.mktemp("stores"), 40, scans=4, variants=1, seed=1)


def test_every_degradation_has_its_own_figures(pairs: Path) -> None:
    """Recomputed from the batches one cube at a time, in float64."""
    data = open_data(pairs, SMALL)
    batches = data.batches(torch.device("cpu"))
    model = new_state(SMALL, torch.device("cpu")).model
    found = validate(model, batches, data.validation, lambda _: None)
    training = [row for batch in batches.stream(data.training(0)) for row in batch.original.double().clone()]
    mean_image = (torch.stack(training).mean(0).numpy() + 1000) / 2000
    mean = validation.mean_image(batches, works_to_average(data.split.train, 3), lambda _: None)
    np.testing.assert_allclose((mean + 1000) / 2000, mean_image, rtol=1e-12)
    baselines = measure_baselines(batches, data.validation, mean, lambda _: None)
    errors: dict[str, list[tuple[float, float]]] = {}
    everything, originals = [], []
    for batch in batches.stream(data.validation):
        original, degraded = ((t.double() + 1000) / 2000 for t in (batch.original, batch.degraded))
        with torch.no_grad():
            restored = model(degraded.float().unsqueeze(1)).squeeze(1).double()
        for row in range(len(batch)):
            one = ((restored[row] - original[row]) ** 2).mean(), ((degraded[row] - original[row]) ** 2).mean()
            name = degradation_name(int(batch.applied[row]))
            errors.setdefault(name, []).append((one[0].item(), one[1].item()))
            everything.append(one[0].item())
            originals.append((name, original[row].numpy().copy()))
    assert len(errors) > 2
    assert baselines.constant == pytest.approx(np.var([cube for _, cube in originals]), rel=1e-9)
    assert found.loss == pytest.approx(np.mean(everything), rel=1e-5)
    assert set(found.by_degradation) == set(baselines.by_degradation) == set(errors)
    for name, both in errors.items():
        assert found.by_degradation[name] == pytest.approx(np.mean([one[0] for one in both]), rel=1e-4)
        baseline = baselines.by_degradation[name]
        assert baseline.pairs == len(both)
        assert baseline.copy == pytest.approx(np.mean([one[1] for one in both]), rel=1e-9)
        expected = np.mean([(cube - mean_image) ** 2 for its, cube in originals if its == name])
        assert baseline.mean_image == pytest.approx(expected, rel=1e-9)


def test_the_mean_image_is_of_so_many_cubes_spread_over_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "AVERAGED", 7)
    assert [work.cubes.tolist() for work in works_to_average(np.arange(5), 3)] == [[0, 1, 2], [3, 4]]
    many = works_to_average(np.arange(100, 200), 4)
    assert [work.cubes.tolist() for work in many] == [[100, 116, 133, 149], [166, 182, 199]]
    assert {work.variant for work in many} == {0}


def test_the_mean_image_of_images_on_the_fly(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (24, 32, 32), dtype=np.uint8)
    data = open_data(make_cube_store(tmp_path / "images.zarr", images, 12), PretrainParameters(batch_size=5))
    batches = data.batches(torch.device("cpu"))
    mean = validation.mean_image(batches, works_to_average(data.split.train, 3), lambda _: None)
    flipped = [row.clone() for batch in batches.stream(data.training(0)) for row in batch.original]
    np.testing.assert_allclose(mean, torch.stack(flipped).double().mean(0).numpy(), rtol=1e-12)
    baselines = measure_baselines(batches, data.validation, mean, lambda _: None)
    # Of voxels that are drawn alike, the mean image is hardly better than the best constant.
    assert baselines.constant == pytest.approx((256**2 - 1) / 12 / 255**2, rel=0.05)
    assert baselines.constant < baselines.mean_image < 1.2 * baselines.constant


def test_validation_is_the_same_to_the_bit_however_many_share_it(pairs: Path) -> None:
    data = open_data(pairs, SMALL)
    batches = data.batches(torch.device("cpu"))
    model = new_state(SMALL, torch.device("cpu")).model
    alone = validate(model, batches, data.validation, lambda _: None)
    pieces: list[list[object]] = []

    class Collecting(Group):
        def gather(self, piece):  # type: ignore[no-untyped-def]
            pieces.append(piece)
            return pieces if len(pieces) == self.world else [piece]

    for rank in range(2):
        together = validate(
            model, batches, data.validation, lambda _: None, "float32", Collecting(rank, 2, 2)
        )
    assert [len(piece) for piece in pieces] == [2, 1]
    assert (together.loss, together.by_degradation, together.spread) == (
        alone.loss,
        alone.by_degradation,
        alone.spread,
    )
    assert [row.label for row in together.slices] == [row.label for row in alone.slices]


def test_baselines_are_the_same_to_the_bit_however_many_share_them(pairs: Path) -> None:
    data = open_data(pairs, SMALL)
    batches, works = data.batches(torch.device("cpu")), works_to_average(data.split.train, 4)
    alone = validation.mean_image(batches, works, lambda _: None)
    baselines = measure_baselines(batches, data.validation, alone, lambda _: None)

    def together(act: Callable[[Group], Any]) -> Any:
        """What the last of three processes makes of what all of them have gathered."""
        pieces: list[object] = []

        class Collecting(Group):
            def gather(self, piece: Any) -> Any:
                pieces.append(piece)
                return pieces if len(pieces) == self.world else [piece] * self.world

        return [act(Collecting(rank, 3, 3)) for rank in range(3)][-1]

    mean = together(lambda group: validation.mean_image(batches, works, lambda _: None, group))
    assert np.array_equal(mean, alone)
    assert (
        together(lambda group: measure_baselines(batches, data.validation, alone, lambda _: None, group))
        == baselines
    )
