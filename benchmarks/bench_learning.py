"""Test whether a small network learns to undo each degradation alone, in minutes on two cores.

    python benchmarks/bench_learning.py [--epochs 4] [--picture restored.png]

The phantom's cubes of 32 x 32 x 16, 8 variants degraded in one way only, `--width 8`, everything else as
published. The validation loss is held against half of what copying the input gives; for shuffling, which
copies well, against a mean filter of 5 x 5 x 5 voxels. Exit 1 when a gate is missed.
"""

import argparse
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as genesis-train does, before torch is loaded

import numpy as np
import torch
from gates import Gates
from scipy.ndimage import uniform_filter

from genesis_toolkit.pipeline.cubes.extract import extract_cubes
from genesis_toolkit.pipeline.cubes.parameters import ExtractParameters
from genesis_toolkit.pipeline.degrade.recipes import get_recipe
from genesis_toolkit.pipeline.pairs.degrade import DegradeParameters, degrade_cubes
from genesis_toolkit.pipeline.practice.luna16 import PhantomParameters, write_luna16
from genesis_toolkit.training.machine.devices import choose_device
from genesis_toolkit.training.pretrain.call import new_state, pretrain
from genesis_toolkit.training.pretrain.data import PretrainData, open_data
from genesis_toolkit.training.pretrain.parameters import PretrainParameters
from genesis_toolkit.training.pretrain.show import RestoredSlice, draw_restored
from genesis_toolkit.training.pretrain.validation import validate
from genesis_toolkit.training.weights.files import load_weights, read_checkpoint

ONLY = {
    "non-linear": {"nonlinear_rate": 1.0, "shuffle_rate": 0.0, "paint_rate": 0.0},
    "shuffling": {"nonlinear_rate": 0.0, "shuffle_rate": 1.0, "paint_rate": 0.0},
    "in-painting": {"nonlinear_rate": 0.0, "shuffle_rate": 0.0, "paint_rate": 1.0, "inpaint_share": 1.0},
    "out-painting": {"nonlinear_rate": 0.0, "shuffle_rate": 0.0, "paint_rate": 1.0, "inpaint_share": 0.0},
}


def mean_filtered(data: PretrainData) -> float:
    """The mean squared error of a mean filter of 5 x 5 x 5 voxels on the validation pairs."""
    window, errors = data.feed.window, []
    for batch in data.batches(torch.device("cpu")).stream(data.validation):
        both = (batch.original.numpy(), batch.degraded.numpy())
        originals, degraded = ((cubes - float(window.low)) / window.span for cubes in both)
        pairs = zip(originals, degraded, strict=True)
        errors += [np.square(uniform_filter(twin, 5) - cube).mean() for cube, twin in pairs]
    return float(np.mean(errors))


def restored(checkpoint: Path, data: PretrainData) -> RestoredSlice:
    """One validation cube as the trained network restores it."""
    state = new_state(data.parameters, choose_device("auto"))
    load_weights(state.model, read_checkpoint(checkpoint)["state_dict"], checkpoint)
    return validate(state.model, data.batches(torch.device("cpu")), data.validation, lambda _: None).slices[2]


def learn(folder: Path, epochs: int, picture: Path | None, gates: Gates) -> None:
    """Train all four and print their figures."""
    write_luna16(folder / "scans", PhantomParameters(scans=7, shape=(300, 300, 112)))
    extract_cubes(folder / "scans", folder / "cubes.zarr", ExtractParameters(size=(32, 32, 16)))
    rows = []
    for name, rates in ONLY.items():
        pairs, run = folder / f"{name}.zarr", folder / name
        degrade_cubes(
            folder / "cubes.zarr", pairs, DegradeParameters(replace(get_recipe("genesis"), **rates), 8)
        )
        parameters = PretrainParameters(width=8, epochs=epochs)
        outcome = pretrain(pairs, run, parameters, say=lambda line: print(f"  {line}", file=sys.stderr))
        data = open_data(pairs, parameters)
        filtered, loss, copying = mean_filtered(data), outcome.validation_loss, outcome.copy_loss
        print(f"{name:<13} network {loss:.5f}   copying {copying:.5f}   mean filter {filtered:.5f}   "
              f"mean image {outcome.mean_image_loss:.5f}", flush=True)  # fmt: skip
        if name == "shuffling":
            gates.at_most(f"{name}: loss relative to a mean filter", loss / filtered, 1)
        else:
            gates.at_most(f"{name}: loss relative to copying", loss / copying, 0.5)
        rows.append(restored(run / "best.pt", data))
    if picture:
        draw_restored(picture, rows, f"validation cubes after {epochs} epochs on one degradation, --width 8")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--epochs", type=int, default=4)
    options.add_argument("--picture", type=Path)
    given = options.parse_args()
    gates = Gates()
    with tempfile.TemporaryDirectory() as folder:
        learn(Path(folder), given.epochs, given.picture, gates)
    gates.end()


if __name__ == "__main__":
    main()
