"""What the first version wrote opens for ever: stores of every kind, runs, and weights for others."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from click.testing import CliRunner
from support.damage import look
from support.folders import GOLDEN

import genesis_toolkit as gt
from genesis_toolkit.cli.train import main
from genesis_toolkit.training.finetune.run import read_finetuned


@pytest.mark.parametrize("name", ["cubes", "pairs", "images", "targets"])
def test_a_store_of_the_first_version_is_sound(name: str) -> None:
    found = look(GOLDEN / f"{name}.zarr")
    assert (found.findings, found.left_out) == ((), ())


@pytest.mark.parametrize(("name", "masks"), [("images", ""), ("targets", "masks")])
def test_its_rows_are_what_plain_zarr_reads(name: str, masks: str) -> None:
    plain = zarr.open_group(GOLDEN / f"{name}.zarr", mode="r")
    store = gt.open_store(GOLDEN / f"{name}.zarr")
    assert len(store) == plain["cubes"].shape[0]  # type: ignore[union-attr]
    for number, row in enumerate(store):
        cube, mask = row if masks else (row, None)
        np.testing.assert_array_equal(cube, plain["cubes"][number])  # type: ignore[index]
        if masks:
            np.testing.assert_array_equal(mask, plain[masks][number])  # type: ignore[index]


@pytest.mark.parametrize(
    "file", ["pretrained", "pretrained/best.pt", "exported/official.pt", "exported/tensors.pt"]
)
def test_weights_of_the_first_version_load(file: str) -> None:
    content = torch.load(GOLDEN / "pretrained" / "best.pt", weights_only=True)["state_dict"]
    loaded = gt.load_network(GOLDEN / file).state_dict()
    assert set(loaded) == set(content)
    assert all(torch.equal(loaded[key], content[key]) for key in content)


def test_a_finetuned_run_of_the_first_version_opens() -> None:
    content = torch.load(GOLDEN / "finetuned" / "best.pt", weights_only=True)["state_dict"]
    loaded = read_finetuned(GOLDEN / "finetuned").network.state_dict()
    assert all(torch.equal(loaded[key], content[key]) for key in content)


def test_a_run_of_the_first_version_is_exported_to_the_same_tensors(tmp_path: Path) -> None:
    run = shutil.copytree(GOLDEN / "pretrained", tmp_path / "run")
    done = CliRunner().invoke(main, ["export", str(run), str(tmp_path / "out.pt"), "--format", "state-dict"])
    assert done.exit_code == 0, done.output
    made = torch.load(tmp_path / "out.pt", weights_only=True)
    kept = torch.load(GOLDEN / "exported" / "tensors.pt", weights_only=True)
    assert all(torch.equal(made[key], kept[key]) for key in kept)


def test_an_exported_file_of_cubes_comes_back(tmp_path: Path) -> None:
    result = gt.import_npy(
        [GOLDEN / "exported" / "bat_3_s_16x16x16_0.npy"], tmp_path / "back.zarr", workers=1
    )
    np.testing.assert_array_equal(result.store[:], gt.open_store(GOLDEN / "cubes.zarr")[:3])
