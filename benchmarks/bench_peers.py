"""How fast pairs come from a pair store, beside other libraries that stream training data from disk.

    pip install mosaicml-streaming webdataset tensorstore datasets monai
    python benchmarks/bench_peers.py [--rounds 3]

Float32 pairs of 64 x 64 x 32 a second, in shuffled batches of 32. Each library stores the same 1,792 pairs as
whole numbers, in its own format and as its documentation advises, and reads them with as much help as we use:
two processes or two threads. tensorstore reads the pair store itself. MONAI's CacheDataset keeps all pairs in
memory. Every library's first pass is checked to hold every pair once. One that is not installed is left out.

Contestants take turns; figures are medians over the rounds, from the second batch on, when all processes are
running. Files lie in the page cache, for all alike. Exit 1 when a gate is missed.
"""

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_pipeline import small_scans
from gates import Gates
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset

import genesis_toolkit as gt

BATCH, VARIANTS, WORKERS = 32, 4, 2
LOW, SPAN = -1000, 2000
SIZE = (64, 64, 32)

Pair = tuple[torch.Tensor, torch.Tensor]
Pairs = NDArray[np.int16]


def batch_of(pairs: Sequence[Pairs]) -> Pair:
    """A batch, float32 `[pair, 1, x, y, z]` in [0, 1], of pairs that are int16 `[2, x, y, z]`."""
    both = torch.from_numpy(np.stack(pairs)).float().sub_(LOW).div_(SPAN)
    return both[:, 0:1], both[:, 1:2]


def loader(dataset: Any, collate: Callable[[list[Any]], Pair], **more: Any) -> Iterable[Pair]:
    """torch's loader with two processes that stay."""
    return DataLoader(
        dataset,
        BATCH,
        num_workers=WORKERS,
        collate_fn=collate,
        persistent_workers=True,
        multiprocessing_context="spawn",
        **more,
    )


class OfStore:
    """Our own: as many epochs as there are variants, so that a pass has every pair once."""

    def __init__(self, place: Path) -> None:
        self.loader = gt.PairLoader(place, BATCH, split="all")

    def __iter__(self) -> Iterator[Pair]:
        for epoch in range(VARIANTS):
            self.loader.set_epoch(epoch)
            yield from self.loader


def write_mosaic(pairs: Pairs, folder: Path) -> None:
    from streaming import MDSWriter

    with MDSWriter(
        out=str(folder), columns={"pair": f"ndarray:int16:{','.join(map(str, (2, *SIZE)))}"}
    ) as out:
        for pair in pairs:
            out.write({"pair": pair})


def _column(rows: list[dict[str, Any]]) -> Pair:
    return batch_of([row["pair"] for row in rows])


def read_mosaic(folder: Path) -> Iterable[Pair]:
    from streaming import StreamingDataset

    return loader(StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH), _column)


def write_webdataset(pairs: Pairs, folder: Path) -> None:
    from webdataset import ShardWriter

    folder.mkdir()
    with ShardWriter(f"{folder}/%04d.tar", maxcount=256, verbose=0) as out:
        for number, pair in enumerate(pairs):
            voxels = io.BytesIO()
            np.save(voxels, pair)
            out.write({"__key__": f"{number:06}", "npy": voxels.getvalue()})


def _first(rows: list[tuple[Pairs]]) -> Pair:
    return batch_of([pair for (pair,) in rows])


def read_webdataset(folder: Path) -> Iterable[Pair]:
    from webdataset import WebDataset

    shards = sorted(map(str, folder.glob("*.tar")))
    stream: IterableDataset[Any] = WebDataset(shards, shardshuffle=len(shards)).shuffle(256)
    return loader(stream.decode().to_tuple("npy"), _first)


def write_datasets(pairs: Pairs, folder: Path) -> None:
    from datasets import Dataset, Features, Value

    rows = {"pair": [pair.tobytes() for pair in pairs]}
    Dataset.from_dict(rows, features=Features({"pair": Value("binary")})).save_to_disk(folder)


def _bytes(rows: list[dict[str, bytes]]) -> Pair:
    return batch_of([np.frombuffer(row["pair"], np.int16).reshape(2, *SIZE) for row in rows])


def read_datasets(folder: Path) -> Iterable[Pair]:
    from datasets import load_from_disk

    return loader(load_from_disk(folder), _bytes, shuffle=True)


class OfTensorstore:
    """The arrays of the pair store, read by tensorstore's threads; the next batch while one is used."""

    def __init__(self, place: Path) -> None:
        import tensorstore

        limits = {"data_copy_concurrency": {"limit": WORKERS}, "file_io_concurrency": {"limit": WORKERS}}
        self.arrays = [
            tensorstore.open(
                {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{place}/{name}/"}},
                context=tensorstore.Context(limits),
                read=True,
            ).result()
            for name in ("degraded", "original")
        ]
        table = gt.open_store(place).pairs
        self.cube, self.flip = table.cube, table.flip
        self.shuffled = np.random.default_rng(0)

    def begin(self, rows: NDArray[np.int64]) -> Any:
        return rows, [self.arrays[0][rows].read(), self.arrays[1][self.cube[rows]].read()]

    def end(self, begun: Any) -> Pair:
        rows, both = begun
        pairs = np.stack([one.result() for one in both], axis=1)
        for pair, bits in zip(pairs, self.flip[rows].tolist(), strict=True):
            axes = [axis for axis in range(3) if bits >> axis & 1]
            pair[1] = np.flip(pair[1], axes)
        return batch_of(pairs)

    def __iter__(self) -> Iterator[Pair]:
        order = self.shuffled.permutation(len(self.cube))
        begun = self.begin(order[:BATCH])
        for first in range(BATCH, len(order) + BATCH, BATCH):
            now, begun = begun, self.begin(order[first : first + BATCH]) if first < len(order) else None
            yield self.end(now)


def write_files(pairs: Pairs, folder: Path) -> None:
    folder.mkdir()
    for number, pair in enumerate(pairs):
        np.save(folder / f"{number:06}.npy", pair)


def read_monai(folder: Path) -> Iterable[Pair]:
    from monai.data import CacheDataset, ThreadDataLoader

    kept = CacheDataset(sorted(folder.glob("*.npy")), np.load, progress=False)
    return ThreadDataLoader(kept, batch_size=BATCH, shuffle=True, num_workers=0, collate_fn=batch_of)


@dataclass(frozen=True)
class Peer:
    """A library: how it writes all pairs, unless it reads the store, and how it yields a pass of batches."""

    package: str
    called: str
    read: Callable[[Path], Iterable[Pair]]
    write: Callable[[Pairs, Path], None] | None
    gate: float | None = None


OURS = Peer("genesis_toolkit", "PairLoader", OfStore, None)
PEERS = (
    Peer("streaming", "MosaicML streaming", read_mosaic, write_mosaic, 1.5),
    Peer("webdataset", "WebDataset", read_webdataset, write_webdataset, 1.5),
    Peer("datasets", "Hugging Face datasets", read_datasets, write_datasets, 1.5),
    Peer("tensorstore", "tensorstore, our files", OfTensorstore, None, 1.5),
    Peer("monai", "MONAI CacheDataset, in memory", read_monai, write_files),
)


def pairs_a_second(batches: Iterable[Pair]) -> float:
    """One pass, from the second batch on."""
    passing = iter(batches)
    next(passing)
    begin = time.perf_counter()
    count = sum(len(degraded) for degraded, _ in passing)
    return count / (time.perf_counter() - begin)


def check_whole(called: str, batches: Iterable[Pair], expected: NDArray[np.float64]) -> None:
    """Check that a pass holds every pair once, by the mean of each."""
    found = torch.cat([torch.stack([one.mean((1, 2, 3, 4)) for one in both], 1) for both in batches]).numpy()
    order, into = (np.lexsort(means.T.round(5)) for means in (found, expected))
    if found.shape != expected.shape or not np.allclose(found[order], expected[into], atol=1e-4):
        raise SystemExit(f"{called} does not give every pair once")


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(folder: Path, rounds: int) -> None:
    free = gt.ExtractParameters(cubes_per_scan=64, border=(0, 0, 0), max_tissue=1.0)
    gt.extract_cubes(small_scans(folder / "scans"), folder / "cubes.zarr", free)
    place = folder / "pairs.zarr"
    store = gt.degrade_cubes(folder / "cubes.zarr", place, gt.DegradeParameters(variants=VARIANTS)).store
    pairs = np.stack(store[:], axis=1)
    expected = (pairs.mean((2, 3, 4)) - LOW) / SPAN
    turns: dict[Peer, Callable[[], float]] = {}
    sizes: dict[Peer, int] = {}
    for peer in (OURS, *PEERS):
        if find_spec(peer.package) is None:
            print(f"{peer.called}: not installed, left out")
            continue
        own = folder / peer.package if peer.write else place
        if peer.write:
            peer.write(pairs, own)
        batches = peer.read(own)
        check_whole(peer.called, batches, expected)
        sizes[peer], turns[peer] = bytes_in(own), partial(pairs_a_second, batches)
    rates: dict[Peer, list[float]] = {peer: [] for peer in turns}
    for _ in range(rounds):
        for peer, turn in turns.items():
            rates[peer].append(turn())
    show({peer: statistics.median(values) for peer, values in rates.items()}, sizes, len(pairs))


def show(rates: dict[Peer, float], sizes: dict[Peer, int], count: int) -> None:
    gates, ours = Gates(), rates[OURS]
    print(
        f"\n{'pairs of 64 x 64 x 32, batches of 32':<40}{'pairs/s':>10}{'KB a pair':>12}{'ours / theirs':>15}"
    )
    for peer, rate in rates.items():
        print(f"{peer.called:<40}{rate:>10.0f}{sizes[peer] / count / 1e3:>12.0f}{ours / rate:>15.2f}")
    for peer, rate in rates.items():
        if peer.gate:
            gates.at_least(f"pairs per second, relative to {peer.called}", ours / rate, peer.gate)
    gates.end()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=3)
    rounds = options.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), rounds)


if __name__ == "__main__":
    main()
