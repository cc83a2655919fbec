"""Measure how fast `verify` reads a store, relative to programs that only read and hash it.

    python benchmarks/bench_verify.py [--rounds 5] [--folder FOLDER]

In each round, one after the other, files in memory already: `verify`; `cat FILES | sha256sum` and, where
there is an openssl, `cat FILES | openssl sha256`, one pipe a core; threads of Python that read and hash and
do nothing else. And what the parts take that hashing has not: checksums, decoding, the window.
"""

import argparse
import hashlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from bench_degrade import seconds
from bench_pipeline import small_scans

from genesis_toolkit.pipeline.cubes.extract import extract_cubes
from genesis_toolkit.pipeline.cubes.parameters import ExtractParameters
from genesis_toolkit.pipeline.engine import cores
from genesis_toolkit.pipeline.ledger import read_manifest
from genesis_toolkit.pipeline.pairs.degrade import DegradeParameters, degrade_cubes
from genesis_toolkit.pipeline.store.open import open_store
from genesis_toolkit.pipeline.store.shards import decode_chunk, fits_checksum
from genesis_toolkit.pipeline.verify.verify import verify_store

VARIANTS = 4
BLOCK = 1 << 20
CUBES = 64  # whose parts are timed


def make_store(folder: Path) -> Path:
    """448 cubes of 64 x 64 x 32 and 1,792 twins."""
    store = folder / "pairs.zarr"
    if not store.exists():
        free = ExtractParameters(cubes_per_scan=64, border=(0, 0, 0), max_tissue=1.0)
        extract_cubes(small_scans(folder / "scans"), folder / "cubes.zarr", free)
        degrade_cubes(folder / "cubes.zarr", store, DegradeParameters(variants=VARIANTS))
    return store


def piped(paths: list[Path], program: str) -> None:
    """`cat FILES | PROGRAM`, one such pipe a core, each with its share of the bytes."""
    shares: list[list[Path]] = [[] for _ in range(cores())]
    for path in sorted(paths, key=lambda path: path.stat().st_size, reverse=True):
        min(shares, key=lambda share: sum(path.stat().st_size for path in share)).append(path)
    words = [["sh", "-c", f'cat "$@" | {program} > /dev/null', "sh", *map(str, share)] for share in shares]
    pipes = [subprocess.Popen(each) for each in words]
    assert not any(pipe.wait() for pipe in pipes)


def hashed(paths: list[Path]) -> None:
    """Read and hash in threads, nothing else."""

    def one(path: Path) -> str:
        digest, buffer = hashlib.sha256(), bytearray(BLOCK)
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                digest.update(memoryview(buffer)[:count])
        return digest.hexdigest()

    with ThreadPoolExecutor(cores()) as threads:
        assert all(threads.map(one, paths))


def parts(store: Path) -> dict[str, float]:
    """Microseconds a cube that each part takes on one core."""
    reader = open_store(store).degraded  # type: ignore[union-attr]
    chunks = [reader.encoded(number) for number in range(CUBES)]
    out = np.empty(reader.shape[1:], reader.dtype)
    times = {
        "sha256": lambda: [hashlib.sha256(chunk).digest() for chunk in chunks],
        "crc32c": lambda: [fits_checksum(chunk) for chunk in chunks],
        "crc32c and decoding": lambda: [decode_chunk(chunk, out) for chunk in chunks],
        "the window": lambda: [(out.min(), out.max()) for _ in chunks],
    }
    return {name: min(seconds(work) for _ in range(9)) / CUBES * 1e6 for name, work in times.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="keep the store here for the next run")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store = make_store(folder)
        paths = [store / name for name in read_manifest(store)]
        size = sum(path.stat().st_size for path in paths)
        work = {"verify": lambda: verify_store(store), "cat | sha256sum": lambda: piped(paths, "sha256sum")}
        if shutil.which("openssl"):
            work["cat | openssl sha256"] = lambda: piped(paths, "openssl sha256")
        work["threads that read and hash"] = lambda: hashed(paths)
        assert verify_store(store).findings == ()
        times: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(options.rounds):
            for name, call in work.items():
                begin = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - begin)
        print(f"\na pair store of {size / 1e9:.2f} GB in {len(paths)} files, {cores()} cores")
        for name, values in times.items():
            beside = statistics.median(a / b for a, b in zip(values, times["verify"], strict=True))
            speed = size / statistics.median(values) / 1e9
            print(f"  {name:<28} {speed:6.2f} GB/s   verify reaches {beside:5.2f} of this")
        print("  microseconds on one core for one encoded cube:")
        print("   ", ", ".join(f"{name} {value:.0f}" for name, value in parts(store).items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
