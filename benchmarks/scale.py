"""Whether every step stays linear up to 100,000 scans, a million cubes and all of NIH's images.

    python benchmarks/scale.py [--counts 10000,100000] [--images 11212,112120] [--folder DIR]

Scans of 20 x 20 x 14 voxels, ten cubes of 10 x 10 x 10 from each, and X-ray images of 20 x 20 pixels: so
small that only the cost of each scan, file, row and shard is measured. All voxels are random, since copies of
a scan are skipped. Commands run as processes of their own. A table has their CPU time and peak memory, and
how many times longer the larger store takes than if time grew with the number of scans. Takes some 40 minutes
and 8 GB. Exit 1 when a step takes more than twice as long as that.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gates import Gates
from PIL import Image

PREP = Path(sys.executable).with_name("genesis-prep")
SCAN, CUBE, CUBES = (20, 20, 14), (10, 10, 10), 10
FREE = "--border 0,0,0 --min-tissue 0 --max-tissue 1 --cubes-per-scan".split()

#: Seconds of each step of a program's own; imports are left out, and reading kernels from their cache.
IN_PYTHON = """
import json, sys, time
import numpy as np
import genesis_toolkit as gt
from genesis_toolkit.training.feeding.order import epoch_order
place, times = sys.argv[1], {}
epoch_order(0, 0, np.arange(2), np.arange(2))
gt.CubeStore
begin = time.process_time()
store = gt.open_store(place)
times["open"] = time.process_time() - begin
table, begin = store.table, time.process_time()
epoch_order(0, 0, np.arange(len(table)), table.scan)
times["epoch_order"] = time.process_time() - begin
next(iter(gt.PairLoader(place, batch_size=32)))
begin = time.process_time()
next(iter(gt.PairLoader(place, batch_size=32)))
times["first batch"] = time.process_time() - begin
print(json.dumps(times))
"""


@dataclass(frozen=True)
class Cost:
    """What a step took: seconds of the processor, and the peak memory of its process in MiB."""

    seconds: float
    memory: float


def carried_out(words: list[str]) -> tuple[Cost, str]:
    """Run a command; it must succeed."""
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(words, stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        cost = Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
        out.seek(0)
        said = out.read().decode()
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}: {said[-2000:]}")
    return cost, said


def write_scan(folder: Path, number: int) -> None:
    """One MetaImage of random HU, in one of the subfolders of a thousand scans."""
    place = folder / f"{number // 1000:03}"
    place.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(number).integers(-1000, 1000, SCAN[::-1], np.int16)
    (place / f"{number:06}.raw").write_bytes(voxels.tobytes())
    (place / f"{number:06}.mhd").write_text(
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementSpacing = 1 1 1\n"
        f"DimSize = {' '.join(map(str, SCAN))}\nElementType = MET_SHORT\nElementDataFile = {number:06}.raw\n"
    )


def write_image(folder: Path, number: int) -> None:
    """One PNG of random grey levels, in one of the subfolders of ten thousand images."""
    place = folder / f"images_{number // 10_000:03}"
    place.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (20, 20), np.uint8)
    Image.fromarray(pixels).save(place / f"{number:08}.png")


def measure(
    folder: Path, count: int, write: Callable[[Path, int], None], extract: list[str]
) -> dict[str, Cost]:
    """Measure all steps on a new source of `count` scans or images."""
    source, cubes, pairs = folder / f"source-{count}", folder / "cubes.zarr", folder / "pairs.zarr"
    for number in range(count):
        write(source, number)
    found: dict[str, Cost] = {}

    def step(name: str, *words: str | Path) -> None:
        found[name], _ = carried_out([str(PREP), *map(str, words)])
        print(
            f"{count:>8,} {name:<24}{found[name].seconds:>10.1f} s {found[name].memory:>8.0f} MiB", flush=True
        )

    step("extract", "extract-cubes", source, cubes, *extract, "--json")
    step("nothing to do", "extract-cubes", source, cubes, *extract, "--json")
    write(source, count)
    step("one scan more", "extract-cubes", source, cubes, *extract, "--json")
    step("info", "info", cubes, "--json")
    step("verify", "verify", cubes, "--json")
    step("degrade", "degrade", cubes, pairs, "--variants", "1", "--inpaint-share", "1", "--json")
    cost, said = carried_out([sys.executable, "-c", IN_PYTHON, str(pairs)])
    for name, seconds in json.loads(said).items():
        found[name] = Cost(seconds, cost.memory)
        print(f"{count:>8,} {name:<24}{seconds:>10.2f} s {cost.memory:>8.0f} MiB", flush=True)
    return found


def show(what: str, counts: list[int], found: list[dict[str, Cost]], gates: Gates) -> None:
    """Print all steps in Markdown, and check the largest against the smallest."""
    heads = "".join(f" {count:,} {what} |" for count in counts)
    print(f"\n| step |{heads} relative to linear | peak memory |\n| --- |{' --- |' * (len(counts) + 2)}")
    beyond = {}
    for name, last in found[-1].items():
        first = found[0][name].seconds
        beyond[name] = last.seconds / (first * counts[-1] / counts[0])
        cells = "".join(f" {costs[name].seconds:.2f} s |" for costs in found)
        print(f"| {name} |{cells} {beyond[name]:.2f} | {last.memory:.0f} MiB |")
    for name, value in beyond.items():
        gates.at_most(f"{counts[-1]:,} {what}, {name}: CPU time relative to linear growth", value, 2)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--counts", default="10000,100000", help="numbers of scans, ascending")
    options.add_argument("--images", default="11212,112120", help="numbers of images, ascending")
    options.add_argument("--folder", type=Path, help="where the scans are written; they are not kept")
    given, gates = options.parse_args(), Gates()
    size = ",".join(map(str, CUBE))
    of_scans = ["--layout", "files", "--size", size, *FREE, str(CUBES)]
    of_images = ["--layout", "images", "--size", "20,20"]
    for what, text, write, extract in (
        ("scans", given.counts, write_scan, of_scans),
        ("images", given.images, write_image, of_images),
    ):
        counts, found = [int(count) for count in text.split(",")], []
        with ExitStack() as stack:
            for count in counts:
                made = stack.enter_context(tempfile.TemporaryDirectory(dir=given.folder))
                found.append(measure(Path(made), count, write, extract))
        show(what, counts, found, gates)
    gates.end()


if __name__ == "__main__":
    main()
