"""Measure how fast batches are read, relative to slicing arrays and to a plain DataLoader.

    python benchmarks/bench_train.py [--rounds 5]

Float32 pairs of 64 x 64 x 32 per second in batches of 32, checksums, flips and normalisation included. The
limit is `torch.from_numpy(a[idx])` of two float32 arrays in RAM; the straightforward way is a DataLoader with
two workers that reads a zarr.Array item by item. Then the share of time spent waiting for data where a step
takes as long as on a large GPU: 20 ms for a batch of 6, slept. All contestants take turns; figures are
medians over the rounds. Exit 1 when a gate is missed.
"""

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import zarr
from bench_pipeline import small_scans
from gates import Gates
from torch.utils.data import DataLoader, Dataset

from genesis_toolkit.pipeline.cubes.extract import extract_cubes
from genesis_toolkit.pipeline.cubes.parameters import ExtractParameters
from genesis_toolkit.pipeline.pairs.degrade import DegradeParameters, degrade_cubes
from genesis_toolkit.pipeline.store.open import CubeStore, PairStore, open_cubes
from genesis_toolkit.training.feeding.feeds import feed_of
from genesis_toolkit.training.feeding.normalise import normalise
from genesis_toolkit.training.feeding.order import Work, deal, epoch_order
from genesis_toolkit.training.feeding.ring import Batches

BATCH, SMALL_BATCH, STEP = 32, 6, 0.020
EPOCHS = 4  # that one turn of ours takes


class ItemByItem(Dataset):
    """A pair store as one reads it with zarr alone."""

    def __init__(self, store: PairStore) -> None:
        self.path, self.flip, self.count = store.path, store.pairs.flip, len(store)
        self.low, self.span = store.window.low, store.window.span

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, pair: int) -> tuple[torch.Tensor, torch.Tensor]:
        if not hasattr(self, "group"):  # each worker opens its own
            self.group = zarr.open_group(self.path, mode="r")
        axes = [axis for axis in range(3) if self.flip[pair] >> axis & 1]
        both = np.flip(self.group["original"][pair], axes), self.group["degraded"][pair]
        original, degraded = ((cube.astype(np.float32) - self.low) / self.span for cube in both)
        return torch.from_numpy(original), torch.from_numpy(degraded)


def orders(store: CubeStore | PairStore, batch_size: int) -> Iterator[Work]:
    """The batches of one epoch after the other, without end; a new variant each where they are made."""
    cubes, variants = np.arange(len(store.table)), 1 if isinstance(store, PairStore) else 1000
    for epoch in range(10**9):
        order = epoch_order(0, epoch, cubes, store.table.scan)
        yield from (Work(part, epoch % variants) for part in deal(order, batch_size))


def streamed(store: CubeStore | PairStore, batches: Batches, works: list[Work]) -> float:
    """Pairs a second."""
    rooms = [torch.empty(BATCH, 1, *store.size) for _ in range(2)]
    count, begin = 0, time.perf_counter()
    for batch in batches.stream(works):
        for cubes, room in zip((batch.original, batch.degraded), rooms, strict=True):
            normalise(cubes, store.window, room[: len(batch)])
        count += len(batch)
    return count / (time.perf_counter() - begin)


def sliced(arrays: tuple[np.ndarray, np.ndarray], works: list[Work]) -> float:
    """Pairs a second."""
    count, begin = 0, time.perf_counter()
    for work in works:
        tensors = [torch.from_numpy(array[work.cubes]) for array in arrays]
        count += len(tensors[0])
    return count / (time.perf_counter() - begin)


def loaded(loader: DataLoader) -> float:
    """Pairs a second, from the second batch on: the workers are running then."""
    batches = iter(loader)
    next(batches)
    count, begin = 0, time.perf_counter()
    for original, _ in batches:
        count += len(original)
    return count / (time.perf_counter() - begin)


def waiting(batches: Batches, works: list[Work]) -> float:
    """The share of time spent waiting for data, the first batch included."""
    before, begin = batches.waited, time.perf_counter()
    for _ in batches.stream(works):
        time.sleep(STEP)
    return (batches.waited - before) / (time.perf_counter() - begin)


def first_batch(store: CubeStore | PairStore) -> float:
    """How many later batches' time the first takes, buffers and threads included, kernels compiled."""
    begin = time.perf_counter()
    stream = Batches(feed_of(store, None, 0), BATCH).stream(islice(orders(store, BATCH), 42))
    next(stream)
    first = time.perf_counter()
    for _ in stream:
        pass
    return (first - begin) / ((time.perf_counter() - first) / 41)


def peak() -> float:
    """The most memory this process ever had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=5)
    rounds = options.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        free = ExtractParameters(cubes_per_scan=64, border=(0, 0, 0), max_tissue=1.0)
        extract_cubes(small_scans(folder / "scans"), folder / "cubes.zarr", free)
        pairs = degrade_cubes(folder / "cubes.zarr", folder / "pairs.zarr", DegradeParameters()).store
        measure(open_cubes(folder / "cubes.zarr"), pairs, rounds)


def measure(cubes: CubeStore, pairs: PairStore, rounds: int) -> None:
    stored, made = (Batches(feed_of(store, None, 0), BATCH) for store in (pairs, cubes))
    small = Batches(feed_of(pairs, None, 0), SMALL_BATCH), Batches(feed_of(cubes, None, 0), SMALL_BATCH)
    epoch = -(-len(pairs) // BATCH)
    stored_works = list(islice(orders(pairs, BATCH), EPOCHS * epoch))
    made_works = list(islice(orders(cubes, BATCH), EPOCHS * epoch))
    small_works = list(islice(orders(pairs, SMALL_BATCH), 400))
    for _ in range(2):  # caches warm, kernels compiled
        streamed(pairs, stored, stored_works[:epoch])
        streamed(cubes, made, made_works[:epoch])
    before = peak()
    streamed(pairs, stored, stored_works)
    streamed(cubes, made, made_works)
    grown = peak() - before
    arrays = (
        np.zeros((len(pairs), *pairs.size), np.float32),
        np.zeros((len(pairs), *pairs.size), np.float32),
    )
    for array, reader in zip(arrays, (pairs.original, pairs.degraded), strict=True):
        whole = np.empty(pairs.size, np.int16)
        for row in range(len(pairs)):
            reader.read(row, whole)
            array[row] = (whole + 1000) / 2000  # so that every page is really there
    loader = DataLoader(
        ItemByItem(pairs),
        BATCH,
        shuffle=True,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context="spawn",
    )
    turns: dict[str, Callable[[], float]] = {
        "slicing float32 arrays in RAM (the limit)": lambda: sliced(arrays, stored_works),
        "pair store": lambda: streamed(pairs, stored, stored_works),
        "cube store, degraded on the fly": lambda: streamed(cubes, made, made_works),
        "DataLoader over zarr, item by item": lambda: loaded(loader),
        "waiting, pair store": lambda: waiting(small[0], small_works),
        "waiting, on the fly": lambda: waiting(small[1], small_works),
        "first batch, pair store": lambda: first_batch(pairs),
        "first batch, on the fly": lambda: first_batch(cubes),
    }
    figures: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            figures[name].append(turn())
    show({name: statistics.median(values) for name, values in figures.items()}, before, grown)


def show(medians: dict[str, float], before: float, grown: float) -> None:
    rates = list(medians.items())[:4]
    limit, ours, made, straight = (rate for _, rate in rates)
    print("\nfloat32 pairs of 64 x 64 x 32 per second, batches of 32")
    for name, rate in rates:
        print(f"  {name:<42} {rate:8.0f}   {rate / limit:5.2f} of the limit")
    gates = Gates()
    gates.at_least("pairs per second from a pair store, relative to slicing arrays in RAM", ours / limit, 0.4)
    gates.at_least(
        "pairs per second from a pair store, relative to a DataLoader over zarr", ours / straight, 8
    )
    gates.at_least("pairs per second degraded on the fly, relative to a pair store", made / ours, 0.5)
    for name, share in list(medians.items())[4:6]:
        gates.at_most(f"{name}: % of the time, steps of 6 pairs and 20 ms", 100 * share, 2)
    for name, count in list(medians.items())[6:]:
        gates.at_most(f"{name}: time relative to a later batch", count, 20)
    print(f"     peak memory {before:.0f} MiB, grown by {grown:.0f} MiB over {2 * EPOCHS} epochs")
    gates.end()


if __name__ == "__main__":
    main()
