"""A short run of pre-training, once a test file, and a copy for every test."""

import shutil
from pathlib import Path

import pytest
from support.scans import SMALL, lungs, write_scan

from genesis_toolkit.pipeline.cubes.extract import extract_cubes
from genesis_toolkit.training.pretrain.call import pretrain
from genesis_toolkit.training.pretrain.parameters import PretrainParameters

TRAINING = PretrainParameters(width=2, epochs=2, batch_size=4, lr=0.5, seed=7)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A run of this test's own."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run, from a cube store beside it."""
    folder = tmp_path_factory.mktemp("private-place")
    for number in range(2):
        write_scan(folder / "scans" / f"{number}.mha", lungs(number))
    extract_cubes(folder / "scans", folder / "lungs.zarr", SMALL, workers=1)
    pretrain(folder / "lungs.zarr", folder / "run", TRAINING)
    return folder / "run"
