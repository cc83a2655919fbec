"""Measure training steps on a GPU, fed by the trainer's reader and by a straightforward generator.

    python benchmarks/bench_gpu.py [--seconds 240] [--batches 6,16,64] [--precisions float32,tf32,bf16]

Prints steps and cubes a second, the most memory of the device, and the share of time spent waiting for data,
for every batch size and precision, with the voxels channels last or first; compiled for the middle batch
size; and the same loop fed by a generator that reads a pair store item by item with zarr. The store is made
of practice scans first. Settings that no time is left for are named. Without a GPU it runs on the CPU, where
only `--width 2 --batches 2 --seconds 20` or so makes sense, to see that it works.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import zarr
from bench_pipeline import small_scans
from torch import Tensor
from torch.nn import functional

from genesis_toolkit.pipeline.cubes.extract import extract_cubes
from genesis_toolkit.pipeline.cubes.parameters import ExtractParameters
from genesis_toolkit.pipeline.pairs.degrade import DegradeParameters, degrade_cubes
from genesis_toolkit.pipeline.store.open import PairStore
from genesis_toolkit.training.feeding.feeds import feed_of
from genesis_toolkit.training.feeding.normalise import normalise
from genesis_toolkit.training.feeding.order import Work, epoch_works
from genesis_toolkit.training.feeding.ring import Batches
from genesis_toolkit.training.machine.devices import autocast, choose_device, steady
from genesis_toolkit.training.pretrain.call import new_state
from genesis_toolkit.training.pretrain.parameters import PretrainParameters

WARM_UP = 3  # steps that are not counted; compiling falls into the first
MOST = 300  # steps

Feed = Iterator[tuple[Tensor, Tensor]]


class Setting(NamedTuple):
    feed: str
    batch: int
    precision: str
    channels_last: bool = False
    compiled: bool = False
    fast: bool = False

    def __str__(self) -> str:
        switches = [name for name in ("channels_last", "compiled", "fast") if getattr(self, name)]
        return f"{self.feed:<10} {self.batch:>5}  {self.precision:<8}  {', '.join(switches) or '-':<24}"


def settings(batches: list[int], precisions: list[str]) -> list[Setting]:
    """All of them, what matters most first, for time may run out."""
    middle = batches[len(batches) // 2]
    return [
        *(Setting("ring", *one) for one in product(batches, precisions)),
        *(Setting("generator", *one) for one in product(batches, precisions)),
        *(Setting("ring", *one, channels_last=True) for one in product(batches, precisions)),
        *(Setting("ring", middle, one, fast=True) for one in precisions),
        *(Setting("ring", middle, one, True, fast=True) for one in precisions),
        *(Setting("ring", middle, one, compiled=True) for one in reversed(precisions)),
        *(Setting("ring", middle, one, True, True) for one in reversed(precisions)),
    ]


def endless(store: PairStore, batch: int) -> Iterator[Work]:
    cubes = np.arange(len(store.table))
    for epoch in range(10**9):
        works = epoch_works(0, epoch, cubes, store.table.scan, batch, 0)
        yield from (work for work in works if len(work.cubes) == batch)


def ring(store: PairStore, batch: int, device: torch.device) -> Feed:
    """As `pretrain` feeds itself."""
    batches = Batches(feed_of(store, None, 0), batch, device=device)
    rooms = [torch.empty(batch, 1, *store.size, device=device) for _ in range(2)]
    with closing(batches.stream(endless(store, batch))) as stream:
        for one in stream:
            whole = [cubes.to(device, non_blocking=True) for cubes in (one.original, one.degraded)]
            original, degraded = (
                normalise(cubes, store.window, room) for cubes, room in zip(whole, rooms, strict=True)
            )
            yield original, degraded


def generator(store: PairStore, batch: int, device: torch.device) -> Feed:
    """As one writes it at first: item by item, in float32, copied when it is there."""
    group, flips = zarr.open_group(store.path, mode="r"), store.pairs.flip
    for work in endless(store, batch):
        axes = [[axis for axis in range(3) if flips[cube] >> axis & 1] for cube in work.cubes]
        original = [np.flip(group["original"][c], own) for c, own in zip(work.cubes, axes, strict=True)]
        degraded = [group["degraded"][cube] for cube in work.cubes]
        both = (np.stack(cubes)[:, None].astype(np.float32) for cubes in (original, degraded))
        first, second = (torch.from_numpy((cubes + 1000) / 2000).to(device) for cubes in both)
        yield first, second


def measure(store: PairStore, one: Setting, width: int, device: torch.device, seconds: float) -> str:
    """The row of one setting."""
    given = PretrainParameters(precision=one.precision, network="unet3d", width=width, lr=0.01)
    state = new_state(given, device, one.channels_last)
    network: Callable[[Tensor], Tensor] = torch.compile(state.model) if one.compiled else state.model
    state.model.train()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    waited, steps, begin = 0.0, 0, time.perf_counter()
    make = ring if one.feed == "ring" else generator
    with (
        steady(fast=one.fast, tf32=one.precision == "tf32"),
        closing(make(store, one.batch, device)) as feed,
    ):
        for count in range(WARM_UP + MOST):
            if count == WARM_UP:
                waited, steps, begin = 0.0, 0, time.perf_counter()
            asked = time.perf_counter()
            original, degraded = next(feed)
            waited += time.perf_counter() - asked
            with autocast(device, one.precision):
                restored = network(degraded)
            loss = functional.mse_loss(restored.float(), original)
            state.optimiser.zero_grad()
            loss.backward()
            loss.item()  # the trainer waits here as well
            state.optimiser.step()
            steps += 1
            if count >= WARM_UP and time.perf_counter() - begin > seconds:
                break
        if device.type == "cuda":
            torch.cuda.synchronize()
    whole = time.perf_counter() - begin
    memory = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else float("nan")
    rate, share = steps / whole, 100 * waited / whole
    return f"{one} {rate:8.2f} {rate * one.batch:9.1f} {memory:11.0f} {share:10.1f}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seconds", type=float, default=240)
    options.add_argument("--batches", default="6,16,64")
    options.add_argument("--precisions", default="float32,tf32,bf16")
    options.add_argument("--width", type=int, default=32)
    options.add_argument("--each", type=float, default=3.0, help="seconds for which each setting is measured")
    options.add_argument("--no-compile", action="store_true")
    asked = options.parse_args()
    begin, device = time.perf_counter(), choose_device("auto")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "the CPU"
    batches, precisions = [int(one) for one in asked.batches.split(",")], asked.precisions.split(",")
    with tempfile.TemporaryDirectory() as folder:
        free = ExtractParameters(cubes_per_scan=64, border=(0, 0, 0), max_tissue=1.0)
        cubes = Path(folder) / "cubes.zarr"
        extract_cubes(small_scans(Path(folder) / "scans"), cubes, free)
        store = degrade_cubes(cubes, Path(folder) / "pairs.zarr", DegradeParameters()).store
        edges = " x ".join(map(str, store.size))
        print(f"width {asked.width}, cubes of {edges}, torch {torch.__version__}, {name}")
        print(
            "feed       batch  precision  switches                 steps/s   cubes/s     peak MiB  % waiting"
        )
        for one in settings(batches, precisions):
            if time.perf_counter() - begin > asked.seconds or (one.compiled and asked.no_compile):
                print(f"{one} not measured")
                continue
            try:
                print(measure(store, one, asked.width, device, asked.each), flush=True)
            except torch.cuda.OutOfMemoryError:
                print(f"{one} not enough memory")


if __name__ == "__main__":
    main()
