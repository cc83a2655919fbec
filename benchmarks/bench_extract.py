"""Measure how fast cubes are cut, relative to reading the scans and to plain loops. Linux only.

    python benchmarks/bench_extract.py [--rounds 5] [--scans 40] [--folder DIR]

Placing: 32 cubes of a scan of 512 x 512 x 250 in memory, beside SimpleITK reading that scan from `.raw`, and
beside the tissue rule as its reader would write it: draw a corner, judge the cube, at most 50 x 32 times. The
loops take seconds a scan, so they have their turn less often than the others.

The whole command: `genesis-prep extract-cubes` on 40 phantom scans of 512 x 512 x 160 in a folder laid out as
LUNA16, as a process, less its start-up, beside reading the same files with SimpleITK and hashing them, in as
many processes that are running already. Start-up is the same command on as many scans of one cube as there
are workers: the interpreter, the imports, the pool, opening and closing a store. Closing is no start-up, but
the pool is: so the same command on the finished store, which has neither, is measured beside it. The ratio
with either is shown, and the gate is on the first. Peak memory comes from one more run, which is not timed.

With `--workers-on DIR` only this: the command on 2, 9, 40 and 400 scans (`--counts`) made of the MetaImages
in DIR, which are linked under other names, with two workers and with one, start-up included.

Contestants take turns, so that whatever else the machine does meets them alike; figures are medians over the
rounds. Scans are read as the page cache has them, for both alike: after they were written, or after the
rounds before, they lie in memory where it has room for all. Exit 1 when a gate is missed.
"""

import argparse
import ctypes
import hashlib
import json
import math
import multiprocessing
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from bench_degrade import seconds
from gates import Gates
from numpy.typing import NDArray

from genesis_toolkit.pipeline.cubes.cut import cut_cubes, uniform
from genesis_toolkit.pipeline.cubes.parameters import ExtractParameters
from genesis_toolkit.pipeline.practice.luna16 import PhantomParameters, write_luna16
from genesis_toolkit.pipeline.scans.geometry import Geometry, Scan

Triple = tuple[int, int, int]
Voxels = NDArray[np.int16]

COMMAND = Path(sys.executable).with_name("genesis-prep")
WORKERS = len(os.sched_getaffinity(0))
SIZE = (64, 64, 32)
WANTED = 32
LARGE = (512, 512, 160)
ONE_CUBE = (65, 65, 36)  # the smallest scan with a corner, without a border
SCANS = 40
PATIENTS = 4  # phantoms drawn; the other scans are their copies under other names
PLACINGS = 3  # turns of placing and of reading a round
LOOPS = 5  # the loops have one turn in this many
PAUSE = 0.05  # seconds between two looks at the memory


def chest(folder: Path) -> Path:
    """A scan of 512 x 512 x 250 that is a quarter tissue in large pieces, as `.mhd` and `.raw`."""
    rng = np.random.default_rng(0)
    coarse = (
        np.where(rng.random((8, 16, 16)) < 0.25, 40, -850).repeat(32, 0).repeat(32, 1).repeat(32, 2)[:250]
    )
    voxels = (coarse + rng.normal(0, 30, coarse.shape).astype(np.float32)).astype(np.int16)
    folder.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(folder / "scan.mhd"))
    return folder / "scan.mhd"


def scan_of(voxels: Voxels) -> Scan:
    return Scan(voxels, Geometry(voxels.shape, (1, 1, 1), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1)), "")


def score_by_loops(voxels: Voxels, corner: Triple) -> float:
    """METHOD.md section 2, word for word."""
    total = 0.0
    for x in range(corner[0], corner[0] + SIZE[0]):
        for y in range(corner[1], corner[1] + SIZE[1]):
            for z in range(corner[2], corner[2] + SIZE[2]):
                first = 2
                for k in (0, 1, 2):
                    if voxels[x, y, z + k] >= -150:
                        first = k
                        break
                total += 1 - first / 2
    return total


def score_by_slices(voxels: Voxels, corner: Triple) -> float:
    """The same with numpy, a whole cube at a time; the third look gives 0 whatever it finds."""
    x, y, z = corner
    columns = voxels[x : x + SIZE[0], y : y + SIZE[1]]
    here, after = (columns[:, :, z + k : z + k + SIZE[2]] >= -150 for k in (0, 1))
    return float(np.where(here, 1.0, np.where(after, 0.5, 0.0)).sum())


def corner_ends(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """The lowest and the highest corner along x, y, z, both included (METHOD.md section 2)."""
    x, y, z = shape
    return [(100, x - 64 - 1 - 100), (100, y - 64 - 1 - 100), (30, z - 32 - 3 - 1 - 30)]


def by_rejection(
    voxels: Voxels, score: Callable[[Voxels, Triple], float], seed: int
) -> tuple[list[Voxels], int]:
    """32 cubes by drawing corners and judging each; also how many were judged."""
    draw = random.Random(seed)
    cubes: list[Voxels] = []
    attempts = 0
    while len(cubes) < WANTED and attempts < 50 * WANTED:
        x, y, z = (draw.randint(low, high) for low, high in corner_ends(voxels.shape))
        attempts += 1
        if score(voxels, (x, y, z)) <= 0.15 * math.prod(SIZE):
            cubes.append(np.clip(voxels[x : x + SIZE[0], y : y + SIZE[1], z : z + SIZE[2]], -1000, 1000))
    return cubes, attempts


def extra_memory(path: Path) -> tuple[int, int]:
    """In a process of its own: bytes by which placing and cutting raise the peak, and numpy's share of them.

    The kernels are warmed on the smallest scan there is: this one would leave memory to be used again.
    """
    voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T
    parameters = ExtractParameters()
    cut_cubes(scan_of(np.full((265, 265, 96), -1000, np.int16, order="F")), uniform("", 0), parameters)
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew at what is held
    before = memory("/proc/self/status", "VmHWM")
    cubes = cut_cubes(scan_of(voxels), uniform("chest", 0), parameters)
    grown = memory("/proc/self/status", "VmHWM") - before
    assert len(cubes[0]) == WANTED
    del cubes
    tracemalloc.start()
    cut_cubes(scan_of(voxels), uniform("chest", 0), parameters)
    return grown, tracemalloc.get_traced_memory()[1]


def memory(file: str, key: str) -> int:
    """Bytes that the system counts under a key; 0 where the process is gone."""
    try:
        lines = Path(file).read_text(encoding="ascii").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), 0)


def measure_placing(folder: Path, rounds: int, gates: Gates) -> None:
    path = chest(folder / "chest")
    voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T
    scan, parameters, draw = scan_of(voxels), ExtractParameters(), uniform("chest", 0)
    corners, tissue, _ = cut_cubes(scan, draw, parameters)
    assert len(corners) == WANTED
    for corner, share in list(zip(corners.tolist(), tissue, strict=True))[:2]:
        assert score_by_loops(voxels, corner) == score_by_slices(voxels, corner)
        assert math.isclose(score_by_loops(voxels, corner), share * math.prod(SIZE))
    times: dict[str, list[float]] = {"cut": [], "read": [], "slices": [], "loops": []}
    judged: dict[str, list[int]] = {"slices": [], "loops": []}

    def straightforward(name: str, score: Callable[[Voxels, Triple], float], seed: int) -> None:
        begin = time.perf_counter()
        cubes, attempts = by_rejection(voxels, score, seed)
        times[name].append(time.perf_counter() - begin)
        judged[name].append(attempts)
        assert len(cubes) == WANTED

    for turn in range(rounds * PLACINGS):
        times["cut"].append(seconds(lambda: cut_cubes(scan, draw, parameters)))
        times["read"].append(seconds(lambda: sitk.ReadImage(str(path))))
        straightforward("slices", score_by_slices, turn)
        if turn % LOOPS == 0:
            straightforward("loops", score_by_loops, turn)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        grown, arrays = pool.apply(extra_memory, (path,))
    median = {name: statistics.median(values) for name, values in times.items()}
    candidates = math.prod(high - low + 1 for low, high in corner_ends(voxels.shape))
    print(f"32 cubes of 512 x 512 x 250 in memory{'ms':>20}{'turns':>7}   cubes judged")
    rows = [
        ("cubes are placed and cut", "cut", f"all {candidates:,}"),
        ("SimpleITK reads the scan from .raw", "read", "-"),
        ("drawn and judged with numpy slices", "slices", f"{judged_in_words(judged['slices'])}"),
        ("drawn and judged with loops", "loops", f"{judged_in_words(judged['loops'])}"),
    ]
    for words, name, cubes in rows:
        print(f"  {words:<38}{median[name] * 1e3:15.1f}{len(times[name]):7}   {cubes}")
    for name in ("slices", "loops"):
        hours = sum(times[name]) / sum(judged[name]) * candidates / 3600
        print(f"  {name} over all {candidates:,} corners: {hours:.1f} h, EXTRAPOLATED from the cubes judged")
    print(f"  numpy's arrays take {arrays / 1e6:.1f} MB of the extra memory")
    gates.at_most("time to place and cut, relative to reading", median["cut"] / median["read"], 0.4)
    gates.at_least("speed of placing and cutting, relative to loops", median["loops"] / median["cut"], 300)
    gates.at_most("extra memory to place and cut, in MB", grown / 1e6, 32)


def judged_in_words(counts: list[int]) -> str:
    return f"{statistics.median(counts):.0f} ({min(counts)} to {max(counts)})"


def phantom_scans(folder: Path, count: int) -> Path:
    """A source of `count` scans in subset0: a few phantoms and copies of them under other names."""
    patients = folder / "phantoms"
    if not patients.exists():
        write_luna16(patients, PhantomParameters(PATIENTS, LARGE), workers=WORKERS)
    headers = sorted(patients.glob("subset*/*.mhd"))
    source = folder / f"scans-{count}"
    (source / "subset0").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        header = headers[number % len(headers)]
        raw, copy = header.with_suffix(".raw"), source / "subset0" / f"{header.stem}.{number}.raw"
        if not copy.exists() or copy.stat().st_size != raw.stat().st_size:
            shutil.copyfile(raw, copy)
        text = header.read_text(encoding="ascii").replace(raw.name, copy.name)
        copy.with_suffix(".mhd").write_text(text, encoding="ascii")
    os.sync()  # or the disk would still be writing them while the first round is timed
    return source


def single_cubes(folder: Path) -> Path:
    """A source of one scan a worker, each with a single cube of air."""
    source = folder / "single"
    (source / "subset0").mkdir(parents=True, exist_ok=True)
    air = sitk.GetImageFromArray(np.full(ONE_CUBE[::-1], -1000, np.int16))
    for number in range(WORKERS):
        sitk.WriteImage(air, str(source / "subset0" / f"{number}.mhd"))
    return source


def started(source: Path, target: Path, *options: str, workers: int = WORKERS) -> "subprocess.Popen[str]":
    """The command on its way, in a session of its own, so that its processes are known."""
    call = [COMMAND, "extract-cubes", source, target, "--workers", workers, "--json", *options]
    words = [str(word) for word in call]
    return subprocess.Popen(words, stdout=subprocess.PIPE, encoding="utf-8", start_new_session=True)


def cubes_made(process: "subprocess.Popen[str]") -> int:
    said: dict[str, Any] = json.loads(process.communicate()[0])
    assert process.returncode == 0
    return int(said["cubes"])


def read_and_hash(path: Path) -> str:
    """What any program would have to do with a scan: its voxels as an array, its files' sha256."""
    image = sitk.ReadImage(str(path))
    voxels = sitk.GetArrayViewFromImage(image)
    digest = hashlib.sha256(path.read_bytes())
    with path.with_suffix(".raw").open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f"{voxels.shape} {digest.hexdigest()}"


def wait_for_all(number: int) -> int:
    time.sleep(1)  # so that no worker takes two
    return number


def measure_command(folder: Path, rounds: int, count: int, gates: Gates) -> None:
    source, single = phantom_scans(folder, count), single_cubes(folder)
    target, small = folder / "cubes.zarr", folder / "small.zarr"
    paths = sorted((source / "subset0").glob("*.mhd"))
    times: dict[str, list[float]] = {"start-up": [], "command": [], "finished": [], "reading": []}

    def start_up() -> None:
        assert cubes_made(started(single, small, "--border", "0,0,0")) == WORKERS

    def command() -> None:
        assert cubes_made(started(source, target)) == count * WANTED

    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        pool.map(wait_for_all, range(WORKERS), chunksize=1)

        def reading() -> None:
            assert len(list(pool.imap_unordered(read_and_hash, paths))) == count

        def clear() -> None:
            for store in (target, small):
                shutil.rmtree(store, ignore_errors=True)

        clear()
        reading()
        start_up()
        for _ in range(rounds):
            clear()
            times["start-up"].append(seconds(start_up))
            times["command"].append(seconds(command))
            times["finished"].append(seconds(command))
            times["reading"].append(seconds(reading))
    median = {name: statistics.median(values) for name, values in times.items()}
    gigabytes = count * math.prod(LARGE) * 2 / 1e9
    print(f"\nextract-cubes on {count} scans of 512 x 512 x 160, {gigabytes:.1f} GB, {WORKERS} workers")
    rows = [
        ("the whole command", "command"),
        ("its start-up: the command on one cube per worker", "start-up"),
        ("the command on the finished store, with nothing to do", "finished"),
        ("reading with SimpleITK and hashing", "reading"),
    ]
    for words, name in rows:
        print(f"  {words:<50}{median[name]:9.2f} s{median[name] / count * 1e3:9.1f} ms per scan")
    show_peak(source, target)
    harder = ratio_after(times["command"], times["finished"], times["reading"])
    print(f"     time of the command minus idle time, relative to reading and hashing: {harder:.2f}")
    after = ratio_after(times["command"], times["start-up"], times["reading"])
    words = "time of the command after start-up, relative to reading and hashing"
    if count < SCANS:
        print(f"     {words}: {after:.2f} (no gate below {SCANS} scans)")
    else:
        gates.at_most(words, after, 1.5)


def ratio_after(whole: list[float], before: list[float], reading: list[float]) -> float:
    """Each difference and ratio within a round, since the load may change between rounds; their median."""
    rounds = zip(whole, before, reading, strict=True)
    return statistics.median((long - short) / other for long, short, other in rounds)


def show_peak(source: Path, target: Path) -> None:
    """Peak memory of a run of the command that is not timed, since looking takes time."""
    shutil.rmtree(target)
    process = started(source, target)
    largest, peaks = 0, dict[int, int]()
    while process.poll() is None:
        shares = 0
        for number in session(process.pid):
            shares += memory(f"/proc/{number}/smaps_rollup", "Pss")
            peaks[number] = max(peaks.get(number, 0), memory(f"/proc/{number}/status", "VmHWM"))
        largest = max(largest, shares)
        time.sleep(PAUSE)
    cubes_made(process)
    each = ", ".join(f"{peak / 1e6:.0f}" for _, peak in sorted(peaks.items()))
    print(f"  peak memory, all processes at one time: {largest / 1e6:.0f} MB (sum of Pss, every {PAUSE} s)")
    print(f"  peak memory of each process by itself: {each} MB (VmHWM)")


def linked_scans(folder: Path, origin: Path, count: int) -> Path:
    """A source of so many scans: those of another folder, again and again, their voxels linked."""
    headers = sorted(origin.rglob("*.mhd"))
    source = folder / f"linked-{count}"
    source.mkdir(parents=True)
    for number in range(count):
        header = headers[number % len(headers)]
        data = next(path for path in header.parent.glob(f"{header.stem}.*raw"))
        first = folder / data.name
        if not first.exists():
            shutil.copyfile(data, first)
        name = f"{number:04}{data.suffix}"
        os.link(first, source / name)
        text = header.read_text(encoding="ascii").replace(data.name, name)
        (source / name).with_suffix(".mhd").write_text(text, encoding="ascii")
    return source


def measure_workers(folder: Path, origin: Path, counts: list[int], rounds: int, gates: Gates) -> None:
    options, target = ("--border", "0,0,0", "--size", "64,64,8"), folder / "cubes.zarr"
    print(f"{'scans':>6}{'one worker, s':>16}{'two':>8}{'ratio':>8}{'CPU, s':>10}{'two':>8}")
    for count in counts:
        source = linked_scans(folder, origin, count)
        wall: dict[int, list[float]] = {1: [], 2: []}
        work: dict[int, list[float]] = {1: [], 2: []}
        for turn in range(rounds + 1):
            for workers in (1, 2):
                shutil.rmtree(target, ignore_errors=True)
                begin, before = time.perf_counter(), os.times()
                assert cubes_made(started(source, target, *options, workers=workers)) > 0
                after = os.times()
                if turn:  # the first fills the page cache
                    wall[workers].append(time.perf_counter() - begin)
                    work[workers].append(sum(after[2:4]) - sum(before[2:4]))
        one, two = (statistics.median(wall[workers]) for workers in (1, 2))
        cpu_one, cpu_two = (min(work[workers]) for workers in (1, 2))
        print(f"{count:>6}{one:>16.2f}{two:>8.2f}{one / two:>8.2f}{cpu_one:>10.2f}{cpu_two:>8.2f}")
        gates.at_most(f"time of two workers on {count} scans, relative to one", two / one, 1.05)


def session(leader: int) -> Iterator[int]:
    """The processes of a session."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                after_name = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            except OSError:
                continue
            if int(after_name[3]) == leader:
                yield int(folder.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scans", type=int, default=SCANS, help="number of scans, 84 MB each")
    parser.add_argument("--folder", type=Path, help="folder that keeps the scans")
    parser.add_argument("--workers-on", type=Path, metavar="DIR", help="compare two workers with one")
    parser.add_argument("--counts", default="2,9,40,400", help="numbers of scans for --workers-on")
    options, gates = parser.parse_args(), Gates()
    if options.workers_on:
        with tempfile.TemporaryDirectory(dir=options.folder) as made:
            counts = [int(count) for count in options.counts.split(",")]
            measure_workers(Path(made), options.workers_on, counts, options.rounds, gates)
        gates.end()
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        needed, free = (options.scans + PATIENTS + 4) * math.prod(LARGE) * 2, shutil.disk_usage(folder).free
        if not options.folder and free < needed:
            space = f"{free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed"
            parser.error(f"{folder} has {space}: use fewer --scans.")
        begin = os.getloadavg()[0]
        measure_placing(folder, options.rounds, gates)
        measure_command(folder, options.rounds, options.scans, gates)
        print(f"     load of the machine: {begin:.1f} at the beginning, {os.getloadavg()[0]:.1f} at the end")
    gates.end()


if __name__ == "__main__":
    main()
