"""How fast cubes are degraded, beside the limit and beside the straightforward program, in one run.

    python benchmarks/bench_degrade.py [--rounds 30]

All contestants take turns, so that whatever else the machine does meets them alike; figures are medians over
the rounds. The limit is memcpy of the pair in float32, 2 x 512 KiB, walking through the same number of pairs.
Exit 1 when a gate is missed.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import oracle  # noqa: E402

from pipeline.degrade.compose import Degrader  # noqa: E402
from pipeline.degrade.recipes import named  # noqa: E402
from pipeline.hounsfield import Window  # noqa: E402

SIZE = (64, 64, 32)
PAIRS = 64  # enough to leave the caches, as a store does
STRAIGHT = 4  # pairs of the straightforward program a round

FIRST_CALL = """
import time, numpy as np
begin = time.perf_counter()
from pipeline.degrade.compose import Degrader
from pipeline.degrade.recipes import named
from pipeline.hounsfield import Window
loaded = time.perf_counter()
degrader = Degrader(named("genesis"), (64, 64, 32), Window(), 0)
cubes = np.zeros((1, 64, 64, 32), np.int16)
bits = np.zeros(1, np.uint8)
degrader(cubes, np.zeros(1, np.uint64), np.zeros(1, np.int64), 0, np.zeros_like(cubes), bits, bits.copy())
print(loaded - begin, time.perf_counter() - loaded)
"""


def scan_like(rng: np.random.Generator) -> np.ndarray:
    """Cubes of lung (-850 HU) and soft tissue (40 HU) with smooth borders and the noise of a scan.

    Not white noise: np.interp is three times slower on that than on a scan, which would flatter us.
    """
    x, y, z = (np.linspace(0, 2 * np.pi, edge) for edge in SIZE)
    cubes = np.empty((PAIRS, *SIZE), np.int16)
    for cube in cubes:
        a, b, c = rng.uniform(0, 2 * np.pi, 3)
        wave = np.sin(x + a)[:, None, None] + np.sin(y + b)[:, None] + np.sin(z + c)
        tissue = 1 / (1 + np.exp(-8 * (wave - 0.5)))
        cube[:] = np.clip(np.rint(-850 + 890 * tissue + rng.normal(0, 30, SIZE)), -1000, 1000)
    return cubes


class Batch:
    """A batch of cubes and the buffers for what is made of them."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.cubes = scan_like(rng)
        self.out = np.zeros_like(self.cubes)
        self.stream = rng.integers(0, 2**64, PAIRS, np.uint64)
        self.number = np.arange(PAIRS)
        self.flip = np.zeros(PAIRS, np.uint8)
        self.applied = np.zeros(PAIRS, np.uint8)

    def degrade(self, degrader: Degrader, variant: int) -> None:
        degrader(self.cubes, self.stream, self.number, variant, self.out, self.flip, self.applied)


def seconds(work) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def in_two_threads(batches, degrader, variant) -> None:
    threads = [threading.Thread(target=batch.degrade, args=(degrader, variant)) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def measure(rounds: int) -> dict[str, float]:
    """Medians over the rounds, seconds a pair."""
    recipe = named("genesis")
    full = Degrader(recipe, SIZE, Window(), 0)
    plain = Degrader(named("genesis", shuffle_rate=0.0), SIZE, Window(), 0)
    batches = [Batch(), Batch()]
    floats = np.ones((PAIRS, 2, *SIZE), np.float32)
    copies = np.zeros_like(floats)
    draws = oracle.FreshDraws(0)
    times: dict[str, list[float]] = {"memcpy": [], "full": [], "plain": [], "straight": [], "two": []}

    def copy() -> None:
        for pair, into in zip(floats, copies, strict=True):
            np.copyto(into, pair)

    def straight() -> None:
        for cube in batches[0].cubes[:STRAIGHT]:
            oracle.degrade(cube, recipe, recipe.shuffle_windows, -1000, 1000, draws)

    batches[0].degrade(full, 0)
    in_two_threads(batches, full, 0)
    batches[0].degrade(plain, 0)
    copy()
    for r in range(rounds):
        times["memcpy"].append(seconds(copy) / PAIRS)
        times["full"].append(seconds(lambda v=r: batches[0].degrade(full, v)) / PAIRS)
        times["plain"].append(seconds(lambda v=r: batches[0].degrade(plain, v)) / PAIRS)
        times["two"].append(seconds(lambda v=r: in_two_threads(batches, full, v)) / (2 * PAIRS))
        times["straight"].append(seconds(straight) / STRAIGHT)
    found = {name: statistics.median(values) for name, values in times.items()}
    # A few pairs a round shuffle more or less often than half: a mean is the honest price of one.
    found["straight"] = statistics.fmean(times["straight"])
    found["scratch"] = full.scratch_bytes()
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    found = measure(parser.parse_args().rounds)
    limit = found["memcpy"]
    rows = [
        ("memcpy of the pair in float32 (the limit)", limit),
        ("a pair, full recipe", found["full"]),
        ("a pair, --shuffle-rate 0", found["plain"]),
        ("the straightforward program", found["straight"]),
        ("a pair, two threads", found["two"]),
    ]
    print(f"{'64 x 64 x 32, int16, genesis':44}{'ms a pair':>12}{'x memcpy':>10}{'pairs/s':>10}")
    for name, value in rows:
        print(f"{name:44}{value * 1e3:12.3f}{value / limit:10.2f}{1 / value:10.0f}")
    gates = [
        ("times the straightforward program", found["straight"] / found["full"], 120, True),
        ("full recipe, times memcpy", found["full"] / limit, 5, False),
        ("without shuffling, times memcpy", found["plain"] / limit, 3, False),
        ("straightforward program, times memcpy", found["straight"] / limit, 800, False),
    ]
    missed = 0
    for name, value, bound, at_least in gates:
        kept = value >= bound if at_least else value <= bound
        missed += not kept
        word = "at least" if at_least else "at most"
        print(f"{'ok  ' if kept else 'MISS'} {name}: {value:.2f} ({word} {bound})")
    print(f"     two threads, times one: {found['full'] / found['two']:.2f} (no gate)")
    cold, cached = first_calls()
    print(f"     first call: {cold[1]:.1f} s with a cold compile cache, {cached[1]:.2f} s with a warm one")
    print(f"     import: {cached[0]:.2f} s")
    print(f"     buffers a thread: {found['scratch'] / 1024:.0f} KiB")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
