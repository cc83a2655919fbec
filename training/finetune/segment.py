"""Segment a whole scan with a sliding window, on the scan's own grid (METHOD.md section 6).

Windows of the training size overlap by half in x, y and z. Their probabilities are averaged with Gaussian
weights that fall off from the centre of a window, as in MONAI, and a voxel above 0.5 is foreground. A scan
smaller than a window is padded with the lowest value, centred. Nothing is resampled: a network learns voxels,
not millimetres, so give it scans with about the spacing of the training data.

The 3D U-Net is trained and evaluated with the statistics of its batches (METHOD.md section 4). Here it uses
those of its training cubes: unlike the cubes of a target store, most windows of a whole scan have no
foreground, but with their own statistics they are segmented as if part of them were. A network of width 4
segmented a phantom's lungs with Dice 0.97 this way; with the statistics of batches of 1, 8 or 64 neighbouring
windows Dice was 0.37, 0.41, 0.48; of 8 or 64 windows from all over the scan 0.54, 0.58. This also makes the
result of a window independent of the others.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.pipeline.ledger import AnyPath, write_whole
from genesis_toolkit.pipeline.progress import Bars, Progress, callback, shows, silent
from genesis_toolkit.pipeline.scans.geometry import Geometry, Voxels
from genesis_toolkit.pipeline.scans.mapping import apply_window
from genesis_toolkit.pipeline.scans.read import read_geometry, read_scan, scan_path
from genesis_toolkit.pipeline.targets.cut import grid_words, same_grid
from genesis_toolkit.training.feeding.normalise import normalise
from genesis_toolkit.training.finetune.run import read_finetuned
from genesis_toolkit.training.machine.devices import choose_device, steady
from genesis_toolkit.training.machine.run_folder import check_file
from genesis_toolkit.training.networks.norms import go_by_running

#: Allowed suffixes of a mask.
SUFFIXES = (".nii.gz", ".nii", ".mha", ".nrrd")

#: A voxel is foreground above this probability.
THRESHOLD = 0.5

_BATCH = 8  # windows; the batch size does not affect the result
_OVERLAP = 0.5  # overlap of neighbouring windows, as a share of their edges


@dataclass(frozen=True)
class Segmented:
    """The result of `segment_scan`: the mask file, its scan and the run used.

    Attributes:
        shape: voxels of mask and scan in x, y, z.
        spacing: mm between voxel centres in x, y, z.
        windows: number of windows.
        foreground: voxels with value 1.
        millilitres: their volume.
        sha256: hash of the file, in hexadecimal.
    """

    mask: str
    scan: str
    run: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    windows: int
    foreground: int
    millilitres: float
    sha256: str

    @property
    def voxels(self) -> int:
        """Number of voxels in the scan."""
        return prod(self.shape)


@shows(Bars)
def segment_scan(
    run: AnyPath,
    scan: AnyPath,
    out: AnyPath,
    *,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress | bool = False,
) -> Segmented:
    """Segment a scan with the network of a fine-tuning run.

    The same call on the same machine gives the same bytes.

    Args:
        run: folder of a finished `finetune` run on a segmentation task.
        scan: a file, the folder of a DICOM series, or `folder#label` as tables show it.
        out: the mask to write: `.nii.gz`, `.nii`, `.mha` or `.nrrd`; uint8, 0 or 1, on the scan's grid.
        device: `auto` (CUDA if available), `cpu` or `cuda`.
        overwrite: replace an existing file.
        progress: True shows bars on stderr; a callback is called as the work advances.

    Raises:
        CallError: there is no such run or scan, the run is for another kind of task, or `out` exists or has
            an unknown format; nothing is written.
        DataError: the scan or the run is damaged, or the format cannot store the scan's grid.
    """
    report, run, out = callback(progress), Path(run), Path(out)
    path = scan_path(str(scan))
    _check_out(run, path, out, overwrite=overwrite)
    finetuned = read_finetuned(run)
    if finetuned.kind != "segment" or len(finetuned.size) != 3:
        raise CallError(
            f"{run} was trained on the task {finetuned.task}, which has no masks: give a run "
            "of genesis-train finetune on a store of the task segment."
        )
    chosen = choose_device(device)
    try:
        read = read_scan(path, mr=finetuned.ends is not None)
        read, _ = apply_window(read, finetuned.ends, finetuned.window)
        mask = segment_voxels(
            finetuned.network, read.voxels, finetuned.window, finetuned.size, chosen, report
        )
        sha256 = write_mask(mask, read.geometry, out)
    except DataError as error:
        raise DataError(f"{scan}: {error}.") from None
    foreground = int(np.count_nonzero(mask))
    return Segmented(
        mask=str(out),
        scan=str(scan),
        run=str(run),
        shape=read.geometry.shape,
        spacing=read.geometry.spacing,
        windows=count_windows(read.geometry.shape, finetuned.size),
        foreground=foreground,
        millilitres=foreground * voxel_millilitres(read.geometry),
        sha256=sha256,
    )


def segment_voxels(
    network: nn.Module,
    voxels: Voxels,
    window: Window,
    size: tuple[int, ...],
    device: torch.device,
    report: Progress = silent,
) -> NDArray[np.uint8]:
    """Segment the voxels of a scan, [x, y, z] in HU, of any size; the scan stays in memory.

    The network is moved to the device, set to evaluation mode, and switched to its training statistics.
    Voxels are clipped to `window`, which is mapped to [0, 1]; `size` is that of the sliding window in voxels,
    (x, y, z), the size of the training cubes. Returns uint8 [x, y, z]: 1 where the mean probability is above
    0.5.
    """
    from monai.inferers import sliding_window_inference  # takes seconds to import

    whole = torch.from_numpy(np.ascontiguousarray(window.clip(voxels)))
    image = normalise(whole.unsqueeze(0), window)
    total, done = count_windows(whole.shape, size), 0

    def predict(windows: Tensor) -> Tensor:
        nonlocal done
        probabilities = torch.sigmoid(network(windows))
        done += len(windows)
        report("windows", done, total)
        return probabilities

    go_by_running(network)
    network.to(device).eval()
    with steady(), torch.inference_mode():
        where: Any = {"sw_device": device, "device": torch.device("cpu")}
        # Padded with 0, the window's lowest value.
        mean = sliding_window_inference(
            image, size, _BATCH, predict, overlap=_OVERLAP, mode="gaussian", **where
        )
    assert isinstance(mean, Tensor)
    return (mean[0, 0] > THRESHOLD).numpy().astype(np.uint8)


def count_windows(shape: Sequence[int], size: Sequence[int]) -> int:
    """Return the number of windows: half a window apart along x, y and z, the last one flush with the end."""
    steps = (max(1, int(length * (1 - _OVERLAP))) for length in size)
    rooms = (max(0, edge - length) for edge, length in zip(shape, size, strict=True))
    return prod(-(-room // step) + 1 for room, step in zip(rooms, steps, strict=True))


def voxel_millilitres(geometry: Geometry) -> float:
    """Return the volume of a voxel in ml, also for oblique grids."""
    cosines = np.reshape(geometry.direction, (3, 3))
    return float(abs(np.linalg.det(cosines)) * prod(geometry.spacing) / 1000)


def write_mask(mask: NDArray[np.uint8], geometry: Geometry, out: Path) -> str:
    """Write a mask, uint8 [x, y, z], on a scan's grid, atomically; compressed if the format allows it.

    Returns:
        The sha256 of the file, in hexadecimal.

    Raises:
        DataError: the format cannot store the grid; nothing is written.
    """
    import SimpleITK as sitk

    image: Any = sitk.GetImageFromArray(np.ascontiguousarray(mask.T))
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / out.name
        try:
            sitk.WriteImage(image, str(written), useCompression=True)
            grid = read_geometry(written)
        except (RuntimeError, DataError):
            grid = None
        # NIfTI stores the grid in single precision.
        if grid is None or not same_grid(grid, geometry):
            raise DataError(
                f"the grid of the scan ({grid_words(geometry)}) cannot be written as "
                f"{out.name} without moving voxels: give a name that ends in .mha or .nrrd"
            )
        return write_whole(out, written.read_bytes())


def _check_out(run: Path, scan: Path, out: Path, *, overwrite: bool) -> None:
    """Check that `out` may be written: the format, the place, and nothing there unless `overwrite`."""
    if not out.name.endswith(SUFFIXES):
        raise CallError(f"{out} must end in one of {', '.join(SUFFIXES)}, the formats of masks.")
    if out.is_file() and scan.exists() and out.samefile(scan):
        raise CallError(f"{out} is the scan itself, which is never replaced: choose another name.")
    check_file(out, run, overwrite=overwrite)
