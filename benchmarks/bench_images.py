"""Measure how fast X-ray images are read and resized, relative to Pillow, which only decodes them.

    python benchmarks/bench_images.py [--rounds 7] [--images FOLDER]

In each round, one after the other, files in memory already, with as many processes as cores: Pillow opens
and decodes each image; then each is read as `extract-cubes` reads it (bytes, sha256, checksums, decoding) and
resized to 224 x 224 by area averaging. Then the whole command, after its start-up. Without --images the
images are made: 1024 x 1024 pixels, and about as many bytes as NIH's.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from genesis_toolkit.pipeline.cubes.extract import extract_cubes
from genesis_toolkit.pipeline.cubes.parameters import ImageParameters
from genesis_toolkit.pipeline.engine import cores
from genesis_toolkit.pipeline.scans.images import read_image, resize

IMAGES = 96
FEW = 8  # images of a run that shows what starting up takes
HEADER = "Image Index,Finding Labels,Patient ID,View Position"


def make_images(folder: Path) -> list[Path]:
    """Bright blobs under film grain, 0.4 MB each."""
    y, x = np.mgrid[:1024, :1024] / 1024
    paths = []
    for number in range(IMAGES):
        rng = np.random.default_rng(number)
        waves = sum(np.sin(rng.uniform(2, 12) * x + rng.uniform(2, 12) * y) for _ in range(4))
        grey = 128 + 25 * waves + rng.normal(0, 1.1, x.shape)
        path = folder / f"{number:08d}_000.png"
        Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(path)
        paths.append(path)
    return paths


def decode(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def read(path: Path) -> None:
    read_image(path)


def read_and_resize(path: Path) -> None:
    resize(read_image(path).pixels, (224, 224))


def lay_out(folder: Path, paths: list[Path]) -> Path:
    """The images in NIH's layout."""
    (folder / "images").mkdir(parents=True)
    for path in paths:
        (folder / "images" / path.name).symlink_to(path)
    rows = "\n".join(f"{path.name},No Finding,{path.name[:8]},PA" for path in paths)
    (folder / "Data_Entry_2017.csv").write_text(f"{HEADER}\n{rows}\n", encoding="utf-8")
    (folder / "train_val_list.txt").write_text("\n".join(path.name for path in paths), encoding="utf-8")
    (folder / "test_list.txt").write_text("", encoding="utf-8")
    return folder


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=Path, help="folder of PNGs to use instead of generated images")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(cores(), get_context("spawn")) as pool:
        folder = Path(name)
        made = sorted(options.images.glob("*.png")) if options.images else make_images(folder)
        paths = (made * IMAGES)[:IMAGES]
        tasks = {"Pillow decodes": decode, "read": read, "read and resized": read_and_resize}
        times: dict[str, list[float]] = {name: [] for name in tasks}
        for number in range(options.rounds + 1):
            for name, task in tasks.items():
                took = seconds(lambda task=task: list(pool.map(task, paths, chunksize=4)))  # type: ignore[misc]
                times[name] += [took] if number else []  # the first compiles
        size = sum(path.stat().st_size for path in paths) / len(paths) / 1e6
        print(f"\n{len(paths)} images of {size:.2f} MB, {cores()} cores")
        for name, values in times.items():
            beside = statistics.median(a / b for a, b in zip(times["Pillow decodes"], values, strict=True))
            each = statistics.median(values) / len(paths) * 1e3
            print(f"  {name:<18} {each:6.2f} ms per image   {beside:5.2f} of the speed of Pillow")
        command = partial(extract_cubes, parameters=ImageParameters(), workers=cores(), overwrite=True)
        few, all_of_them = lay_out(folder / "few", made[:FEW]), lay_out(folder / "all", made)
        ratios = []
        for _ in range(min(3, options.rounds)):
            alone = seconds(lambda: list(pool.map(decode, made, chunksize=4)))
            start = seconds(lambda: command(few, folder / "few.zarr"))
            whole = seconds(lambda: command(all_of_them, folder / "all.zarr")) - start
            ratios.append(alone / len(made) / (whole / (len(made) - FEW)))
        print(f"  the whole command, without its start: {statistics.median(ratios):5.2f} of that speed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
