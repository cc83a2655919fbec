"""The authors' cube files -> a cube store; the way back is `npy_export`.

A worker holds a piece of a cube and one encoded shard, never a file. What such a file does not tell (whose
scan, where in it, at what spacing) stands in the store as not known: docs/reference/store-format.md.
"""

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from genesis_toolkit.pipeline.cubes.rule import tissue_score
from genesis_toolkit.pipeline.describe.facts import Contents
from genesis_toolkit.pipeline.describe.finish import finish
from genesis_toolkit.pipeline.engine import Report, cores, counting, run, silent
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.exchange.npy_files import WINDOW, CubeReader, NpyFile, read_head
from genesis_toolkit.pipeline.ledger import Ledger, hold, run_log
from genesis_toolkit.pipeline.rng import stream_key
from genesis_toolkit.pipeline.store.open import CubeStore, begun_at, open_cubes
from genesis_toolkit.pipeline.store.schema import CUBES, CubeTable, ScanTable
from genesis_toolkit.pipeline.store.shards import encode_cube, shard_length, shard_parts, shard_path
from genesis_toolkit.pipeline.store.write import check_target, write_cube_store
from genesis_toolkit.pipeline.wording import listed

_DTYPE = np.dtype(np.int16)
_MOST_WORKERS = 8  # each holds a shard, and more read no faster from one disk

#: What the parameters of an imported store tell: all that is known of how its cubes were cut.
IMPORTED: dict[str, Any] = {"hu": [WINDOW.low, WINDOW.high], "imported": "npy"}


@dataclass(frozen=True)
class Imported:
    """What came of `import_npy`.

    Attributes:
        store: the finished store.
        done_before: the store was finished already, and nothing was done.
    """

    store: CubeStore
    done_before: bool


def import_npy(
    files: Sequence[Path],
    target: Path,
    *,
    workers: int | None = None,
    overwrite: bool = False,
    report: Report = silent,
) -> Imported:
    """Make a cube store of the authors' cube files, exactly: every value becomes the whole HU it stands for.

    A file is one row in the table of scans, its name without the suffix the identifier, and a cube's number
    its position in the file; so is what is drawn for it. Files are taken by subset and name, whatever order
    they are given in. Interrupted, it goes on when it is called again.

    Args:
        files: `.npy` files, float64 or float32 [cube, x, y, z], values (HU + 1000) / 2000 in [0, 1].
        target: the store to make.
        workers: shards at a time; None takes one a core, 8 at most.
        overwrite: replace a finished store, and begin again where other work was left.
        report: told as files and shards are finished.

    Raises:
        CallError: no file, two of one name, cubes of several sizes, something in the way.
        DataError: a file that is damaged, or a value that stands for no whole HU; nothing is left behind.
    """
    started = datetime.now(UTC)
    sources = _read_heads(files)
    if check_target(target, CUBES, overwrite=overwrite, inputs=files) is not None:
        return Imported(_made_of(target, sources), done_before=True)
    job = IMPORTED | {
        "size": list(sources[0].size),
        "files": [source.path.name for source in sources],
        "bytes": [source.bytes for source in sources],
    }
    workers = workers or min(cores(), _MOST_WORKERS)
    with hold(target, job, overwrite=overwrite) as ledger:
        tasks = _tasks(ledger, sources)
        problem = _run_all(ledger, tasks, workers, report)
        if problem:
            ledger.abandon()
            raise DataError(problem)
        _finish(ledger, sources, run_log(started, workers))
    return Imported(open_cubes(target), done_before=False)


def _read_heads(files: Sequence[Path]) -> list[NpyFile]:
    """The files by subset and name, known to go together."""
    if not files:
        raise CallError("No file was given: give the authors' cube files, as bat_32_s_64x64x32_0.npy.")
    sources = sorted(map(read_head, files), key=lambda source: (source.subset, source.path.name))
    for first, second in pairwise(sources):
        if first.identifier == second.identifier:
            raise CallError(
                f"{first.path} and {second.path} have the same name, from which their random streams are "
                "made: rename one."
            )
    for other in sources:
        if other.size != sources[0].size:
            sizes = [" x ".join(map(str, one.size)) for one in (sources[0], other)]
            raise CallError(
                f"{sources[0].path} holds cubes of {sizes[0]} voxels and {other.path} of {sizes[1]}: a store "
                "has cubes of one size, so import them apart."
            )
    return sources


def _made_of(target: Path, sources: Sequence[NpyFile]) -> CubeStore:
    """The finished store, once it is known to be made of these files.

    Raises:
        CallError: it was made of others, or one has changed since.
    """
    store = open_cubes(target)
    way_out = "choose another name, or give --overwrite to make it again."
    scans = store.scans
    held = list(zip(scans.identifier.tolist(), scans.cubes.tolist(), scans.bytes.tolist(), strict=True))
    asked = [(source.identifier, source.count, source.bytes) for source in sources]
    if "imported" not in store.attributes["parameters"] or held != asked:
        raise CallError(f"{target} was not made of these files, but holds {_names(held)}: {way_out}")
    begun = begun_at(store)
    for source, known in zip(sources, scans.sha256.tolist(), strict=True):
        if source.modified > begun and _hash(source)["sha256"] != known:
            raise CallError(f"{source.path} is no longer as before since {target} was made of it: {way_out}")
    return store


def _names(held: Sequence[tuple[str, int, int]]) -> str:
    return listed([name for name, _, _ in held], most=3)


@dataclass(frozen=True)
class _Task:
    """A piece of an import: a file to hash, or a shard to make of one file or several."""

    name: str
    files: tuple[NpyFile, ...]
    make: Callable[[], dict[str, Any]]

    def is_done(self, record: dict[str, Any] | None) -> bool:
        """Whether a record is of these very files."""
        return record is not None and record["modified"] == [source.modified for source in self.files]


def _tasks(ledger: Ledger, sources: Sequence[NpyFile]) -> list[_Task]:
    """The shards of the store, and before the first shard of a file the hashing of that file."""
    ends = list(accumulate(source.count for source in sources))
    length = shard_length(sources[0].size, _DTYPE.itemsize)
    tasks, hashed = [], 0
    for shard in range(-(-ends[-1] // length)):
        first, last = shard * length, min((shard + 1) * length, ends[-1])
        spans = [
            (source, max(first, end - source.count) - end + source.count, min(last, end) - end + source.count)
            for source, end in zip(sources, ends, strict=True)
            if end > first and end - source.count < last
        ]
        while hashed < len(sources) and ends[hashed] - sources[hashed].count < last:
            tasks.append(_Task(f"file-{hashed}", (sources[hashed],), partial(_hash, sources[hashed])))
            hashed += 1
        of = tuple(source for source, _, _ in spans)
        tasks.append(_Task(f"shard-{shard}", of, partial(_make_shard, ledger, shard, length, spans)))
    return tasks


def _hash(source: NpyFile) -> dict[str, Any]:
    with source.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    source.check_same()
    return {"sha256": digest}


def _make_shard(
    ledger: Ledger, shard: int, length: int, spans: Sequence[tuple[NpyFile, int, int]]
) -> dict[str, Any]:
    """Read, check, encode and write the cubes `first` .. `last - 1` of each file."""
    size = spans[0][0].size
    # The slice after the last is not known. Taken for air, it makes the score 1 / (2 z) too low at most.
    room = np.full((*size[:2], size[2] + 1), WINDOW.low, _DTYPE)
    cube, corner = np.empty(size, _DTYPE), np.zeros(3, np.int32)
    chunks, tissue = [], []
    for source, first, last in spans:
        with CubeReader(source) as reader:
            for number in range(first, last):
                reader.read(number, cube)
                chunks.append(encode_cube(cube))
                room[:, :, :-1] = cube
                tissue.append(tissue_score(room, corner, size))
        source.check_same()
    path = shard_path(ledger.store / "cubes", shard, 1 + len(size))
    return {"sha256": ledger.write(path, *shard_parts(chunks, length)), "tissue": tissue}


def _run_all(ledger: Ledger, tasks: Sequence[_Task], workers: int, report: Report) -> str:
    """Do what an earlier run has not done; the first problem by place in the files, or no word.

    Tasks are begun in order, and none after a problem was found. So those before it all come to their end,
    and the one that is told is the same for any number of workers.
    """
    done = ledger.names()
    left = [
        (place, task)
        for place, task in enumerate(tasks)
        if task.name not in done or not task.is_done(ledger.recorded(task.name))
    ]
    stop = threading.Event()
    problems: dict[int, str] = {}

    def make(item: tuple[int, _Task]) -> None:
        place, task = item
        if stop.is_set():
            return
        try:
            facts = task.make()
        except DataError as error:
            problems[place] = str(error)
            stop.set()
        else:
            ledger.record(task.name, facts | {"modified": [source.modified for source in task.files]})

    finished = counting(report, "files and shards", len(tasks), len(tasks) - len(left))
    run(make, left, finished=finished, workers=workers, pool="threads")
    return problems[min(problems)] if problems else ""


def _finish(ledger: Ledger, sources: Sequence[NpyFile], log: dict[str, Any]) -> None:
    """Tables, manifest, and the store's own name."""
    size = sources[0].size
    count = sum(source.count for source in sources)
    hashes, tissue = {}, []
    for shard in range(-(-count // shard_length(size, _DTYPE.itemsize))):
        record = ledger.recorded(f"shard-{shard}") or {}
        hashes[shard_path(Path("cubes"), shard, 1 + len(size)).as_posix()] = record["sha256"]
        tissue += record["tissue"]
    sha256 = [(ledger.recorded(f"file-{number}") or {})["sha256"] for number in range(len(sources))]
    counts = np.array([source.count for source in sources], np.int32)
    table = CubeTable(
        scan=np.repeat(np.arange(len(sources), dtype=np.int32), counts),
        number=np.concatenate([np.arange(cubes, dtype=np.int32) for cubes in counts]),
        corner=np.full((count, 3), -1, np.int32),
        tissue=np.array(tissue, np.float64),
    )
    attributes = {"window": IMPORTED["hu"], "unit": "HU", "size": list(size)}
    attributes["parameters"] = IMPORTED | {"size": list(size)}
    ledger.clear_store(keep=("cubes",))  # the tables of a run that was killed while it wrote them
    scans = _scan_table(sources, counts, sha256)
    write_cube_store(ledger.store, attributes, _DTYPE, table, scans)
    finish(ledger.store, Contents(attributes, table, scans), _DTYPE)
    ledger.finish(hashes, log)


def _scan_table(sources: Sequence[NpyFile], counts: Any, sha256: Sequence[str]) -> ScanTable:
    """One row a file, zeros where a scan's own would tell its geometry."""
    rows = len(sources)
    return ScanTable(
        identifier=np.array([source.identifier for source in sources], object),
        subset=np.array([source.subset for source in sources], np.int16),
        path=np.array([source.path.name for source in sources], object),
        bytes=np.array([source.bytes for source in sources], np.int64),
        sha256=np.array(sha256, object),
        shape=np.zeros((rows, 3), np.int32),
        spacing=np.zeros((rows, 3)),
        origin=np.zeros((rows, 3)),
        direction=np.zeros((rows, 9)),
        status=np.full(rows, "used", object),
        reason=np.full(rows, "", object),
        cubes=counts,
        stream=np.array([stream_key(source.identifier) for source in sources], np.uint64),
    )
