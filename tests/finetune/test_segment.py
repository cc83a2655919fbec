"""Whole scans segmented: every voxel where it belongs, on the scan's own grid, read by other programs."""

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from click.testing import CliRunner
from support.dicom import write_series
from support.scans import lungs, write_scan
from support.target_stores import make_target_store
from torch import Tensor, nn

from genesis_toolkit.cli.train import main
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.pipeline.scans.geometry import Geometry
from genesis_toolkit.pipeline.scans.read import read_geometry
from genesis_toolkit.training.finetune.heads import build_target_network
from genesis_toolkit.training.finetune.loop import finetune
from genesis_toolkit.training.finetune.parameters import FinetuneParameters
from genesis_toolkit.training.finetune.run import read_finetuned
from genesis_toolkit.training.finetune.segment import (
    count_windows,
    segment_scan,
    segment_voxels,
    voxel_millilitres,
    write_mask,
)
from genesis_toolkit.training.networks.norms import go_by_running
from genesis_toolkit.training.weights.load import read_beginning

CPU, WINDOW, SIZE = torch.device("cpu"), Window(-1000, 1000), (16, 16, 8)
SCAN = lungs(3, (21, 19, 11))

#: Directions, column by column where an axis of voxels runs: DICOM's own, flipped, turned, oblique.
OBLIQUE = sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.7).GetMatrix()
DIRECTIONS = {
    "LPS": (1, 0, 0, 0, 1, 0, 0, 0, 1),
    "flipped": (-1, 0, 0, 0, -1, 0, 0, 0, 1),
    "left-handed": (1, 0, 0, 0, 1, 0, 0, 0, -1),
    "turned": (0, 0, 1, 1, 0, 0, 0, 1, 0),
    "oblique": OBLIQUE,
}


def window_corners(shape: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """Where the windows of a scan lie: half a window apart, the last one flush with the scan's end."""
    starts = [
        [*range(0, edge - length, length // 2), max(0, edge - length)]
        for edge, length in zip(shape, size, strict=True)
    ]
    return np.array(list(product(*starts)))


class Above(nn.Module):
    """Logits that are above 0 where a value is above 0.6, wherever it lies in its window."""

    def forward(self, cubes: Tensor) -> Tensor:
        assert cubes.shape[1:] == (1, *SIZE)
        return 100 * (cubes - 0.6)


class Middle(nn.Module):
    """The middle half of a window says yes, the rest no, with the same certainty."""

    def forward(self, cubes: Tensor) -> Tensor:
        logits = torch.full_like(cubes, -5.0)
        logits[..., 4:12, 4:12, 2:6] = 5.0
        return logits


@pytest.mark.parametrize("shape", [(37, 41, 23), (16, 16, 8), (17, 9, 5), (3, 50, 8)])
def test_every_voxel_is_judged_where_it_lies(shape: tuple[int, int, int]) -> None:
    voxels = lungs(1, (60, 60, 60))[tuple(slice(0, edge) for edge in shape)]
    told: list[tuple[str, int, int]] = []
    mask = segment_voxels(Above(), voxels, WINDOW, SIZE, CPU, lambda *step: told.append(step))
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, voxels > 200)
    count = len(window_corners(shape, SIZE))
    assert told[-1] == ("windows", count, count)


def test_windows_overlap_by_half_and_reach_both_ends() -> None:
    corners = window_corners((37, 16, 9), SIZE)
    assert [sorted(set(axis.tolist())) for axis in corners.T] == [[0, 8, 16, 21], [0], [0, 1]]
    assert len(corners) == len(np.unique(corners, axis=0)) == count_windows((37, 16, 9), SIZE) == 8


def test_the_middle_of_a_window_weighs_more() -> None:
    shape = (40, 40, 20)
    mask = segment_voxels(Middle(), np.zeros(shape, np.int16), WINDOW, SIZE, CPU)
    weight = [np.exp(-0.5 * ((np.arange(edge) - (edge - 1) / 2) / (edge / 8)) ** 2) for edge in SIZE]
    gaussian = np.maximum(weight[0][:, None, None] * weight[1][:, None] * weight[2], 1e-3)
    yes, total = np.zeros(shape), np.zeros(shape)
    middle = Middle()(torch.zeros(1, 1, *SIZE))[0, 0].sigmoid().numpy()
    for corner in window_corners(shape, SIZE):
        place = tuple(slice(c, c + edge) for c, edge in zip(corner, SIZE, strict=True))
        yes[place] += gaussian * middle
        total[place] += gaussian
    expected = yes / total
    sure = np.abs(expected - 0.5) > 0.01
    assert sure.mean() > 0.9
    np.testing.assert_array_equal(mask[sure], expected[sure] > 0.5)
    assert 0.2 < mask.mean() < 0.95


def test_windows_go_by_the_statistics_of_training_and_not_by_their_own() -> None:
    network = build_target_network(read_beginning(None, width=2), "segment", 1, 3, 0)
    cubes = torch.rand(6, 1, *SIZE, generator=torch.Generator().manual_seed(0))
    first = next(one for one in network.modules() if isinstance(one, nn.Conv3d))
    for _ in range(2):  # what was refreshed before must not count
        network.refresh([cubes[:3], cubes[3:]])
    norm = network.get_submodule("network.down_tr64.ops.0.bn1")
    with torch.no_grad():
        maps = [first(part).transpose(0, 1).flatten(1) for part in (cubes[:3], cubes[3:])]
    torch.testing.assert_close(norm.running_mean, (maps[0].mean(1) + maps[1].mean(1)) / 2)
    torch.testing.assert_close(norm.running_var, (maps[0].var(1) + maps[1].var(1)) / 2)
    assert not torch.allclose(network.eval()(cubes[:1]), network(cubes[:3])[:1])  # judged by the batch
    go_by_running(network)
    torch.testing.assert_close(network(cubes)[:1], network(cubes[:1]))
    mean, variance = (part.view(-1, 1, 1, 1) for part in (norm.running_mean, norm.running_var))
    with torch.no_grad():
        by_hand = (first(cubes) - mean) / (variance + 1e-5).sqrt()
        torch.testing.assert_close(network.get_submodule("network.down_tr64.ops.0")(cubes), by_hand.relu())


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha", ".nrrd"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_mask_lies_on_the_grid_of_its_scan(suffix: str, direction: str, tmp_path: Path) -> None:
    shape = (13, 7, 5)
    geometry = Geometry(shape, (0.703125, 0.9, 2.37), (-170.3, 81.25, -12.5), DIRECTIONS[direction])
    mask = (np.random.default_rng(0).random(shape) < 0.3).astype(np.uint8)
    out = tmp_path / f"mask{suffix}"
    sha256 = write_mask(mask, geometry, out)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    image = sitk.ReadImage(str(out))
    assert image.GetPixelID() == sitk.sitkUInt8
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, mask)
    scan = sitk.Image(shape, sitk.sitkInt16)
    scan.SetSpacing(geometry.spacing)
    scan.SetOrigin(geometry.origin)
    scan.SetDirection(geometry.direction)
    corners = np.array(np.meshgrid(*([0, edge - 1] for edge in shape))).reshape(3, 8).T
    expected = [scan.TransformIndexToPhysicalPoint(corner.tolist()) for corner in corners]
    found = [image.TransformIndexToPhysicalPoint(corner.tolist()) for corner in corners]
    if suffix == ".mha":
        assert read_geometry(out) == geometry
    elif suffix == ".nrrd":  # it holds directions times spacing
        np.testing.assert_allclose(found, expected, atol=1e-12)
    else:  # NIfTI is single precision, and its world runs to the right and to the front
        np.testing.assert_allclose(found, expected, atol=1e-4)
        theirs = nibabel.load(out)
        np.testing.assert_array_equal(np.asanyarray(theirs.dataobj), mask)
        assert theirs.get_data_dtype() == np.uint8
        assert theirs.header.get_xyzt_units()[0] == "mm"
        for affine in (theirs.get_sform(coded=True), theirs.get_qform(coded=True)):
            assert affine[1] > 0
            world = nibabel.affines.apply_affine(affine[0], corners) * (-1, -1, 1)
            np.testing.assert_allclose(world, expected, atol=1e-4)
    write_mask(mask, geometry, tmp_path / f"again{suffix}")
    assert (tmp_path / f"again{suffix}").read_bytes() == out.read_bytes()
    assert len(sha256) == 64


def test_a_grid_that_a_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    far = Geometry((5, 4, 3), (1.0, 1.0, 2.0), (123456789.3, 0.0, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    mask = np.ones((5, 4, 3), np.uint8)
    with pytest.raises(DataError, match=r"cannot be written as mask\.nii\.gz without moving voxels"):
        write_mask(mask, far, tmp_path / "mask.nii.gz")  # it holds single precision
    assert not list(tmp_path.iterdir())
    write_mask(mask, far, tmp_path / "mask.mha")
    assert sitk.ReadImage(str(tmp_path / "mask.mha")).GetOrigin() == far.origin
    sheared = Geometry((5, 4, 3), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0), (1, 0, 0.2, 0, 1, 0, 0, 0, 0.98))
    assert voxel_millilitres(sheared) == pytest.approx(2 * 0.98 / 1000)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of fine-tuning of each kind, of one epoch."""
    folder = tmp_path_factory.mktemp("runs")
    for task in ("segment", "ncc"):
        store = make_target_store(folder / f"{task}.zarr", task, size=SIZE)
        finetune(store, folder / task, FinetuneParameters(epochs=1), width=2, device="cpu", threads=1)
    tuned, best = read_finetuned(folder / "segment"), folder / "segment" / "best.pt"
    go_by_running(tuned.network)
    window = torch.from_numpy(SCAN[:16, :16, :8].clip(-1000, 1000) / np.float32(2000) + np.float32(0.5))
    with torch.no_grad():
        middle = tuned.network(window[None, None]).median()
    kept = torch.load(best)  # after one epoch it may find nothing; half of a window is worth a look
    kept["state_dict"]["network.out_tr.final_conv.bias"] -= middle
    torch.save(kept, best)
    return {task: folder / task for task in ("segment", "ncc")}


def call(*arguments: object) -> Any:
    return CliRunner().invoke(main, ["segment", *map(str, arguments)])


def test_the_command_segments_a_scan_of_any_format(runs: dict[str, Path], tmp_path: Path) -> None:
    run, voxels = runs["segment"], SCAN
    scan = write_scan(tmp_path / "scan.mhd", voxels)
    ended = call(run, scan, tmp_path / "mask.nii.gz", "--json")
    assert ended.exit_code == 0, ended.output
    told = json.loads(ended.stdout)
    image = sitk.ReadImage(str(tmp_path / "mask.nii.gz"))
    mask = sitk.GetArrayFromImage(image).T
    assert set(np.unique(mask)) == {0, 1}
    tuned = read_finetuned(run)
    again = segment_voxels(tuned.network, voxels, tuned.window, SIZE, CPU)
    np.testing.assert_array_equal(mask, again)
    assert told["foreground"] == mask.sum()
    assert told["millilitres"] == pytest.approx(mask.sum() * 0.7 * 0.7 * 1.5 / 1000)
    assert told["windows"] == len(window_corners(voxels.shape, SIZE))
    first = (tmp_path / "mask.nii.gz").read_bytes()
    ended = call(run, scan, tmp_path / "mask.nii.gz", "--overwrite")
    assert ended.exit_code == 0, ended.output
    assert f"To check {tmp_path / 'mask.nii.gz'}, overlay it on the scan in a viewer" in ended.stderr
    assert (tmp_path / "mask.nii.gz").read_bytes() == first
    write_series(tmp_path / "series", voxels)
    series = tmp_path / "series"
    ended = call(run, series, tmp_path / "mask.nrrd")
    assert ended.exit_code == 0, ended.output
    assert read_geometry(tmp_path / "mask.nrrd") == read_geometry(series)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "mask.nrrd"))).T, mask)


def test_what_cannot_be_done_is_one_sentence_and_leaves_nothing(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    run, scan = runs["segment"], write_scan(tmp_path / "scan.nii.gz", lungs(0, (20, 20, 10)))
    (tmp_path / "there.mha").write_bytes(b"mine")
    (tmp_path / "broken.mha").write_bytes(b"ObjectType = Image\n")
    before = sorted(path.name for path in tmp_path.iterdir())
    for arguments, code, words in (
        ((run, scan, tmp_path / "mask.png"), 2, "must end in one of .nii.gz"),
        ((run, scan, tmp_path / "there.mha"), 2, "exists"),
        ((run, scan, scan, "--overwrite"), 2, "is the scan itself"),
        ((run, scan, run / "mask.mha"), 2, "inside the run"),
        ((run, tmp_path / "gone.mha", tmp_path / "mask.mha"), 2, "no scan"),
        ((tmp_path / "norun", scan, tmp_path / "mask.mha"), 2, "norun"),
        ((run, tmp_path / "broken.mha", tmp_path / "mask.mha"), 1, "broken.mha"),
    ):
        ended = call(*arguments)
        assert (ended.exit_code, ended.stderr.count("\n")) == (code, 1), ended.output
        assert words in ended.stderr
        assert ended.stderr.startswith("Error: ")
    assert (tmp_path / "there.mha").read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    with pytest.raises(CallError, match="has no masks"):
        segment_scan(runs["ncc"], scan, tmp_path / "mask.mha")
