"""Measure how fast whole steps are, relative to their parts, in one interleaved run.

    python benchmarks/bench_pipeline.py [--rounds 5]

Degrading a store: the command's library call, with one worker and with one per core, and each of its parts
alone on one core (read, degrade, encode, write). Figures are medians over the rounds.
"""

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from bench_degrade import scan_like, seconds

from genesis_toolkit.pipeline.cubes.extract import extract_cubes
from genesis_toolkit.pipeline.cubes.parameters import ExtractParameters
from genesis_toolkit.pipeline.degrade.compose import Degrader
from genesis_toolkit.pipeline.degrade.recipes import get_recipe
from genesis_toolkit.pipeline.engine import cores
from genesis_toolkit.pipeline.ledger import write_whole
from genesis_toolkit.pipeline.pairs.degrade import DegradeParameters, degrade_cubes
from genesis_toolkit.pipeline.store.open import open_cubes
from genesis_toolkit.pipeline.store.shards import encode_cube, shard_parts

VARIANTS = 8
SHARD = 256


def small_scans(folder: Path) -> Path:
    """Scans that are cubes of `scan_like` side by side, to make a store of 448 cubes from."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for number in range(7):
        cubes = (
            scan_like(rng, 64, (64, 64, 32))
            .reshape(8, 8, 64, 64, 32)
            .transpose(0, 2, 1, 3, 4)
            .reshape(512, 512, 32)
        )
        voxels = np.concatenate([cubes, cubes[:, :, ::-1]], axis=2)
        sitk.WriteImage(sitk.GetImageFromArray(np.ascontiguousarray(voxels.T)), str(folder / f"{number}.mhd"))
    return folder


def measure_degrading(folder: Path, rounds: int) -> None:
    free = ExtractParameters(cubes_per_scan=64, border=(0, 0, 0), max_tissue=1.0)
    extract_cubes(small_scans(folder / "scans"), folder / "cubes.zarr", free)
    store = open_cubes(folder / "cubes.zarr")
    count = len(store)
    cubes = np.zeros((count, *store.size), np.int16)
    twins = np.zeros_like(cubes)
    bits = np.zeros(count, np.uint8)
    degrader = Degrader(get_recipe("genesis"), store.size, store.window, 0)
    names = ["read", "degrade", "encode", "write", "all, 1 worker", f"all, {cores()} workers"]
    times: dict[str, list[float]] = {name: [] for name in names}
    parameters = DegradeParameters(variants=VARIANTS)

    def write(chunks: list[bytes]) -> None:
        for start in range(0, count, SHARD):
            write_whole(folder / "shard", shard_parts(chunks[start : start + SHARD], SHARD))

    def whole(workers: int) -> float:
        shutil.rmtree(folder / "pairs.zarr", ignore_errors=True)
        return seconds(
            lambda: degrade_cubes(folder / "cubes.zarr", folder / "pairs.zarr", parameters, workers=workers)
        )

    whole(1)
    for variant in range(rounds):
        times["read"].append(seconds(lambda: store.cubes.read_many(range(count), cubes)) / count)
        call = (cubes, store.streams(), store.table.number, variant, twins, bits, bits.copy())
        times["degrade"].append(seconds(lambda call=call: degrader(*call)) / count)
        chunks: list[bytes] = []
        times["encode"].append(
            seconds(lambda c=chunks: c.extend(encode_cube(twin) for twin in twins)) / count
        )
        times["write"].append(seconds(lambda c=chunks: write(c)) / count)
        for name, workers in (("all, 1 worker", 1), (f"all, {cores()} workers", cores())):
            times[name].append(whole(workers) / (count * VARIANTS))
    medians = {name: statistics.median(values) for name, values in times.items()}
    slowest = max(names[:4], key=lambda name: medians[name])
    print(
        f"\ndegrading {count * VARIANTS} pairs of 64 x 64 x 32; speed relative to the slowest part, {slowest}"
    )
    for name, value in medians.items():
        print(f"  {name:<16} {value * 1e3:7.3f} ms per pair   speed {medians[slowest] / value:5.2f}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=5)
    rounds = options.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        measure_degrading(Path(folder), rounds)


if __name__ == "__main__":
    main()
