"""How fast whole steps are beside their parts, in one interleaved run.

    python benchmarks/bench_pipeline.py [--rounds 5]

Degrading a store: the command's library call, with one worker and with one a core, beside each of its parts
alone on one core (read, degrade, encode, write). Placing: 32 cubes of a scan of 512 x 512 x 250 in memory,
beside SimpleITK reading that scan from `.raw`. Figures are medians over the rounds.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from bench_degrade import scan_like

from pipeline.degrade.compose import Degrader
from pipeline.degrade.pairs import DegradeParameters, degrade
from pipeline.degrade.recipes import named
from pipeline.engine import cores
from pipeline.extract import ExtractParameters, cut_cubes, extract_cubes, uniform
from pipeline.ledger import write_whole
from pipeline.scans import Geometry, Scan
from pipeline.shards import encode_cube, shard_parts
from pipeline.stores import open_cubes

VARIANTS = 8
SHARD = 256


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def chest(folder: Path) -> Path:
    """A scan of 512 x 512 x 250 that is a quarter tissue in large pieces, as `.mhd` and `.raw`."""
    rng = np.random.default_rng(0)
    coarse = (
        np.where(rng.random((8, 16, 16)) < 0.25, 40, -850).repeat(32, 0).repeat(32, 1).repeat(32, 2)[:250]
    )
    voxels = (coarse + rng.normal(0, 30, coarse.shape).astype(np.float32)).astype(np.int16)
    folder.mkdir(parents=True)
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(folder / "scan.mhd"))
    return folder / "scan.mhd"


def small_scans(folder: Path) -> Path:
    """Scans that are cubes of `scan_like` side by side, to make a store of 448 cubes from."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for number in range(7):
        cubes = scan_like(rng).reshape(8, 8, 64, 64, 32).transpose(0, 2, 1, 3, 4).reshape(512, 512, 32)
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
    degrader = Degrader(named("genesis"), store.size, store.window, 0)
    names = ["read", "degrade", "encode", "write", "all, 1 worker", f"all, {cores()} workers"]
    times: dict[str, list[float]] = {name: [] for name in names}
    parameters = DegradeParameters(variants=VARIANTS)

    def write(chunks: list[bytes]) -> None:
        for start in range(0, count, SHARD):
            write_whole(folder / "shard", *shard_parts(chunks[start : start + SHARD], SHARD))

    def whole(workers: int) -> float:
        shutil.rmtree(folder / "pairs.zarr", ignore_errors=True)
        return timed(
            lambda: degrade(folder / "cubes.zarr", folder / "pairs.zarr", parameters, workers=workers)
        )

    whole(1)
    for variant in range(rounds):
        times["read"].append(timed(lambda: store.cubes.read_many(range(count), cubes)) / count)
        call = (cubes, store.streams(), store.table.number, variant, twins, bits, bits.copy())
        times["degrade"].append(timed(lambda call=call: degrader(*call)) / count)
        chunks: list[bytes] = []
        times["encode"].append(timed(lambda c=chunks: c.extend(encode_cube(twin) for twin in twins)) / count)
        times["write"].append(timed(lambda c=chunks: write(c)) / count)
        for name, workers in (("all, 1 worker", 1), (f"all, {cores()} workers", cores())):
            times[name].append(whole(workers) / (count * VARIANTS))
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    slowest = max(names[:4], key=lambda name: medians[name])
    print(f"\ndegrading {count * VARIANTS} pairs of 64 x 64 x 32; the slowest part alone: {slowest}")
    for name, seconds in medians.items():
        print(f"  {name:<16} {seconds * 1e3:7.3f} ms a pair   {medians[slowest] / seconds:5.2f} of its speed")


def measure_placing(folder: Path, rounds: int) -> None:
    path = chest(folder / "chest")
    voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T
    scan = Scan(voxels, Geometry(voxels.shape, (1, 1, 1), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1)), "")
    parameters = ExtractParameters()
    draw = uniform("chest", 0)
    assert len(cut_cubes(scan, draw, parameters)[0]) == 32
    cutting, reading = [], []
    for _ in range(rounds * 3):
        cutting.append(timed(lambda: cut_cubes(scan, draw, parameters)))
        reading.append(timed(lambda: sitk.ReadImage(str(path))))
    cut, read = statistics.median(cutting), statistics.median(reading)
    print(f"\nplacing and cutting 32 cubes of 512 x 512 x 250: {cut * 1e3:.1f} ms")
    print(f"  SimpleITK reads that scan from .raw in {read * 1e3:.1f} ms: {cut / read:.2f} of it (aim 0.4)")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=5)
    rounds = options.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        measure_degrading(Path(folder), rounds)
        measure_placing(Path(folder), rounds)


if __name__ == "__main__":
    main()
