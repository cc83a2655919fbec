"""Measure how fast cubes are degraded, relative to memcpy and to a straightforward program.

    python benchmarks/bench_degrade.py [--rounds 30]

Three sizes: cubes of the published size with recipe genesis, and slices with the 10,000 windows of
official-2020, which cover each pixel 26 times. All programs take turns, so that other work on the machine
affects them equally; figures are medians over the rounds. The limit is memcpy of the pair in float32,
walking through the same number of pairs. Exit 1 when a gate is missed.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import numpy as np  # noqa: E402
from gates import Gates  # noqa: E402
from run import processor  # noqa: E402
from support import oracle  # noqa: E402

from genesis_toolkit.pipeline.degrade.compose import Degrader  # noqa: E402
from genesis_toolkit.pipeline.degrade.recipes import get_recipe, shuffle_windows  # noqa: E402
from genesis_toolkit.pipeline.hounsfield import Window  # noqa: E402

FIRST_CALL = """
import time, numpy as np
begin = time.perf_counter()
from genesis_toolkit.pipeline.degrade.compose import Degrader
from genesis_toolkit.pipeline.degrade.recipes import get_recipe
from genesis_toolkit.pipeline.hounsfield import Window
loaded = time.perf_counter()
degrader = Degrader(get_recipe("genesis"), (64, 64, 32), Window(), 0)
cubes = np.zeros((1, 64, 64, 32), np.int16)
bits = np.zeros(1, np.uint8)
degrader(cubes, np.zeros(1, np.uint64), np.zeros(1, np.int64), 0, np.zeros_like(cubes), bits, bits.copy())
print(loaded - begin, time.perf_counter() - loaded)
"""


@dataclass(frozen=True)
class Case:
    """One size of cubes, int16: how they are degraded, and what that has to come to.

    Attributes:
        size: edges in voxels.
        recipe: by name.
        pairs: a batch: enough to leave the caches, as a store does.
        straight: pairs of the straightforward program a round with shuffling, and as many without.
        faster: gate: times the straightforward program, at least.
        limits: gates: times memcpy, at most, by contestant.
    """

    size: tuple[int, ...]
    recipe: str
    pairs: int
    straight: int
    faster: float
    limits: dict[str, float]


CASES = (
    # On processors of two makers, quiet: 100 to 166 times the straightforward program. Relative to memcpy
    # 1.7 to 2.7, and 3.4 to 3.6 where memcpy moves 40 GB/s on one core.
    Case((64, 64, 32), "genesis", 64, 2, 95, {"full": 4, "plain": 2.5, "straight": 800}),
    Case((224, 224), "official-2020", 64, 1, 70, {}),
    Case((512, 512), "official-2020", 32, 1, 40, {}),
)

NAMES = {
    "memcpy": "memcpy of the pair in float32 (the limit)",
    "full": "a pair, full recipe",
    "plain": "a pair, --shuffle-rate 0",
    "straight": "the straightforward program",
    "two": "a pair, two threads",
}


def scan_like(rng: np.random.Generator, count: int, size: tuple[int, ...]) -> np.ndarray:
    """Cubes of lung (-850 HU) and soft tissue (40 HU) with smooth borders and the noise of a scan.

    Not white noise: np.interp is three times slower on that than on a scan, which would flatter us.
    """
    cubes = np.empty((count, *size), np.int16)
    for cube in cubes:
        angles = (np.linspace(0, 2 * np.pi, edge) + rng.uniform(0, 2 * np.pi) for edge in size)
        wave = sum(np.meshgrid(*map(np.sin, angles), indexing="ij", sparse=True))
        tissue = 1 / (1 + np.exp(-8 * (wave - 0.5)))
        cube[:] = np.clip(np.rint(-850 + 890 * tissue + rng.normal(0, 30, size)), -1000, 1000)
    return cubes


class Batch:
    """A batch of cubes and the buffers for what is made of them."""

    def __init__(self, case: Case) -> None:
        rng = np.random.default_rng(0)
        self.cubes = scan_like(rng, case.pairs, case.size)
        self.out = np.zeros_like(self.cubes)
        self.stream = rng.integers(0, 2**64, case.pairs, np.uint64)
        self.number = np.arange(case.pairs)
        self.flip = np.zeros(case.pairs, np.uint8)
        self.applied = np.zeros(case.pairs, np.uint8)

    def degrade(self, degrader: Degrader, variant: int) -> None:
        degrader(self.cubes, self.stream, self.number, variant, self.out, self.flip, self.applied)


def seconds(work: Callable[[], None]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def in_two_threads(batches: list[Batch], degrader: Degrader, variant: int) -> None:
    threads = [threading.Thread(target=batch.degrade, args=(degrader, variant)) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def measure(case: Case, rounds: int) -> dict[str, float]:
    """Return seconds per pair, as medians over the rounds, and the bytes of a thread's buffers."""
    recipe = get_recipe(case.recipe)
    full = Degrader(recipe, case.size, Window(), 0)
    plain = Degrader(replace(recipe, shuffle_rate=0.0), case.size, Window(), 0)
    batches = [Batch(case), Batch(case)]
    floats = np.ones((case.pairs, 2, *case.size), np.float32)
    copies = np.zeros_like(floats)
    draws = oracle.FreshDraws(0)
    windows = shuffle_windows(recipe, case.size)
    times: dict[str, list[float]] = {
        name: [] for name in ("memcpy", "full", "plain", "two", "with", "without")
    }

    def copy() -> None:
        for pair, into in zip(floats, copies, strict=True):
            np.copyto(into, pair)

    def straight(shuffle_rate: float) -> None:
        for cube in batches[0].cubes[: case.straight]:
            oracle.degrade(cube, replace(recipe, shuffle_rate=shuffle_rate), windows, -1000, 1000, draws)

    batches[0].degrade(full, 0)
    in_two_threads(batches, full, 0)
    batches[0].degrade(plain, 0)
    copy()
    for r in range(rounds):
        times["memcpy"].append(seconds(copy) / case.pairs)
        times["full"].append(seconds(lambda v=r: batches[0].degrade(full, v)) / case.pairs)
        times["plain"].append(seconds(lambda v=r: batches[0].degrade(plain, v)) / case.pairs)
        times["two"].append(seconds(lambda v=r: in_two_threads(batches, full, v)) / (2 * case.pairs))
        times["with"].append(seconds(lambda: straight(1.0)) / case.straight)
        times["without"].append(seconds(lambda: straight(0.0)) / case.straight)
    found = {name: statistics.median(values) for name, values in times.items()}
    # Its few pairs would be shuffled now more, now less often than the recipe says: so both are weighed.
    rate = recipe.shuffle_rate
    found["straight"] = rate * found["with"] + (1 - rate) * found["without"]
    buffers = full._scratch(np.dtype(np.int16))
    found["scratch"] = sum(buffer.nbytes for buffer in (*buffers[:-1], *buffers.shuffle))
    return found


def first_calls() -> tuple[list[float], list[float]]:
    """(import, first call) in seconds: with an empty compile cache, then with the one that this left."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder, "PYTHONPATH": str(ROOT)}
        runs = []
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, "-c", FIRST_CALL],
                env=environment,
                check=True,
                capture_output=True,
                encoding="utf-8",
            )
            runs.append([float(v) for v in done.stdout.split()])
    return runs[0], runs[1]


def report(case: Case, found: dict[str, float], gates: Gates) -> None:
    """Print the figures for one size."""
    limit = found["memcpy"]
    size = " x ".join(map(str, case.size))
    windows = shuffle_windows(get_recipe(case.recipe), case.size)
    head = f"{size}, int16, {case.recipe}, {windows:,} windows"
    print(f"{head:54}{'ms per pair':>12}{'x memcpy':>10}{'pairs/s':>10}")
    for name, words in NAMES.items():
        print(f"{words:54}{found[name] * 1e3:12.3f}{found[name] / limit:10.2f}{1 / found[name]:10.0f}")
    gates.at_least(
        f"{size}: speed relative to the straightforward program",
        found["straight"] / found["full"],
        case.faster,
    )
    for name, most in case.limits.items():
        gates.at_most(f"{size}: time of {NAMES[name]}, relative to memcpy", found[name] / limit, most)
    print(f"     speed of two threads relative to one: {found['full'] / found['two']:.2f} (no gate)")
    print(f"     buffers per thread: {found['scratch'] / 1024:.0f} KiB\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    print(f"{processor()}, {os.cpu_count()} cores\n")
    gates = Gates()
    for case in CASES:
        report(case, measure(case, rounds), gates)
    cold, cached = first_calls()
    print(f"first call: {cold[1]:.1f} s if it compiles, {cached[1]:.2f} s if the compiled code is cached")
    print(f"import: {cached[0]:.2f} s")
    gates.end()


if __name__ == "__main__":
    main()
