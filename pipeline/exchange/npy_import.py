"""The authors' cube files -> a cube store; the way back is `export_npy`.

A worker holds a piece of a cube and one encoded shard, never a file. What such a file does not tell (whose
scan, where in it, at what spacing) stands in the store as not known: docs/reference/store-format.md.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from genesis_toolkit.pipeline.cubes.assemble import numbered, scan_tables, write_tables
from genesis_toolkit.pipeline.cubes.records import NOTHING_KNOWN
from genesis_toolkit.pipeline.cubes.rule import tissue_score
from genesis_toolkit.pipeline.engine import Workers, cores
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.exchange.npy_files import WINDOW, NpyFile, read_cubes, read_head
from genesis_toolkit.pipeline.job import Facts, run_missing
from genesis_toolkit.pipeline.ledger import AnyPath, Ledger, hold, run_log
from genesis_toolkit.pipeline.progress import Bars, Progress, callback, shows
from genesis_toolkit.pipeline.rng import stream_key
from genesis_toolkit.pipeline.store.open import CubeStore, begun_at, open_cubes
from genesis_toolkit.pipeline.store.schema import CUBES, CubeTable
from genesis_toolkit.pipeline.store.shards import encode_cube, shard_length, shard_parts, shard_path, spread
from genesis_toolkit.pipeline.store.write import check_target
from genesis_toolkit.pipeline.wording import listed

_DTYPE = np.dtype(np.int16)
_MOST_WORKERS = 8  # each holds a shard, and more read no faster from one disk

#: What the parameters of an imported store tell: all that is known of how its cubes were cut.
IMPORTED: dict[str, Any] = {"hu": [WINDOW.low, WINDOW.high], "imported": "npy"}


@dataclass(frozen=True)
class ImportResult:
    """What came of `import_npy`.

    Attributes:
        store: the finished store.
        done_before: the store was finished already, and nothing was done.
    """

    store: CubeStore
    done_before: bool


@shows(Bars)
def import_npy(
    files: Sequence[AnyPath],
    target: AnyPath,
    *,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | bool = False,
) -> ImportResult:
    """Make a cube store of the authors' cube files, exactly: every value becomes the whole HU it stands for.

    A file is one row in the table of scans, its name without the suffix the identifier, and a cube's number
    its position in the file; so is what is drawn for it. Files are taken by subset and name, whatever order
    they are given in. Interrupted, it goes on when it is called again.

    Args:
        files: `.npy` files, float64 or float32 [cube, x, y, z], values (HU + 1000) / 2000 in [0, 1].
        target: the store to make.
        workers: shards at a time; None takes one a core, 8 at most.
        overwrite: replace a finished store, and begin again where other work was left.
        progress: True shows bars on stderr; a callback is told as the work goes on.

    Raises:
        CallError: no file, two of one name, cubes of several sizes, something in the way.
        DataError: a file that is damaged, or a value that stands for no whole HU; nothing is left behind.
    """
    report = callback(progress)
    started = datetime.now(UTC)
    target, inputs = Path(target), list(map(Path, files))
    sources = _read_heads(inputs)
    if check_target(target, CUBES, overwrite=overwrite, inputs=inputs) is not None:
        return ImportResult(_made_of(target, sources), done_before=True)
    told = {"files": [one.path.name for one in sources], "bytes": [one.bytes for one in sources]}
    job = IMPORTED | {"size": list(sources[0].size)} | told
    crew = Workers(workers or min(cores(), _MOST_WORKERS), progress=report)
    with hold(target, job, overwrite=overwrite) as ledger:
        if problem := _run_all(crew, ledger, _tasks(ledger, sources)):
            ledger.abandon()
            raise DataError(problem)
        _finish(ledger, sources, run_log(started, crew.count))
    return ImportResult(open_cubes(target), done_before=False)


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
    """The finished store; a CallError where it was made of other files, or one has changed since."""
    store = open_cubes(target)
    way_out = "choose another name, or give --overwrite to make it again."
    scans = store.scans
    held = list(zip(scans.identifier.tolist(), scans.cubes.tolist(), scans.bytes.tolist(), strict=True))
    asked = [(source.identifier, source.count, source.bytes) for source in sources]
    if "imported" not in store.attributes["parameters"] or held != asked:
        names = listed(scans.identifier.tolist(), most=3)
        raise CallError(f"{target} was not made of these files, but holds {names}: {way_out}")
    begun = begun_at(store)
    for source, known in zip(sources, scans.sha256.tolist(), strict=True):
        if source.modified > begun and _hash(source)["sha256"] != known:
            raise CallError(f"{source.path} has changed since {target} was made from it: {way_out}")
    return store


@dataclass(frozen=True)
class _Task:
    """A piece of an import: a file to hash, or a shard to make of one file or several.

    When its files were last written tells whether a record is of these very files.
    """

    place: int
    modified: list[int]
    make: Callable[[], Facts]


def _tasks(ledger: Ledger, sources: Sequence[NpyFile]) -> dict[str, _Task]:
    """The shards of the store, and before the first shard of a file the hashing of that file."""
    length, tasks = shard_length(sources[0].size, _DTYPE.itemsize), dict[str, _Task]()
    for shard, parts in enumerate(spread([source.count for source in sources], length)):
        for part, first, _ in parts:
            if first == 0:
                hashing = partial(_hash, sources[part])
                tasks[f"file-{part}"] = _Task(len(tasks), [sources[part].modified], hashing)
        spans = [(sources[part], range(first, stop)) for part, first, stop in parts]
        make = partial(_make_shard, ledger, shard, length, spans)
        tasks[f"shard-{shard}"] = _Task(len(tasks), [one.modified for one, _ in spans], make)
    return tasks


def _hash(source: NpyFile) -> Facts:
    with source.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    source.check_same()
    return {"sha256": digest}


def _make_shard(ledger: Ledger, shard: int, length: int, spans: Sequence[tuple[NpyFile, range]]) -> Facts:
    """Read, check, encode and write cubes of each file."""
    size = spans[0][0].size
    # The slice after the last is not known. Taken for air, it makes the score 1 / (2 z) too low at most.
    room = np.full((*size[:2], size[2] + 1), WINDOW.low, _DTYPE)
    cube, corner = np.empty(size, _DTYPE), np.zeros(3, np.int32)
    chunks, tissue = [], []
    for source, numbers in spans:
        for _ in read_cubes(source, numbers, cube):
            chunks.append(encode_cube(cube))
            room[:, :, :-1] = cube
            tissue.append(tissue_score(room, corner, size))
        source.check_same()
    path = ledger.store / shard_path("cubes", shard, 1 + len(size))
    return {"sha256": ledger.write(path, shard_parts(chunks, length)), "tissue": tissue}


def _run_all(workers: Workers, ledger: Ledger, tasks: Mapping[str, _Task]) -> str:
    """Do what an earlier run has not done; the first problem by place in the files, or no word.

    None is begun that comes after a problem in the files. So those before it all come to their end, and the
    one that is told is the same for any number of workers.
    """
    problems: dict[int, str] = {}

    def make(task: _Task) -> Facts:
        if any(known < task.place for known in list(problems)):
            return {}
        try:
            return task.make() | {"modified": task.modified}
        except DataError as error:
            problems[task.place] = str(error)
            return {}

    def is_true(task: _Task, facts: Facts) -> bool:
        return facts.get("modified") == task.modified

    run_missing(workers, ledger, "files and shards", tasks, make, is_true=is_true)
    return problems[min(problems)] if problems else ""


def _finish(ledger: Ledger, sources: Sequence[NpyFile], log: dict[str, Any]) -> None:
    """Tables, manifest, and the store's own name."""
    size, count = sources[0].size, sum(source.count for source in sources)
    shards = range(-(-count // shard_length(size, _DTYPE.itemsize)))
    hashes, tissue = {}, []
    for shard, record in enumerate(ledger.records(f"shard-{shard}" for shard in shards)):
        hashes[shard_path("cubes", shard, 1 + len(size))] = record["sha256"]
        tissue += record["tissue"]
    sha256 = [record["sha256"] for record in ledger.records(f"file-{n}" for n in range(len(sources)))]
    records = [
        {
            **NOTHING_KNOWN,
            "identifier": source.identifier,
            "subset": source.subset,
            "path": source.path.name,
            "bytes": source.bytes,
            "sha256": digest,
            "status": "used",
            "cubes": source.count,
            "stream": stream_key(source.identifier),
        }
        for source, digest in zip(sources, sha256, strict=True)
    ]
    scan, number = numbered(records)
    table = CubeTable(scan, number, np.full((count, 3), -1, np.int32), np.array(tissue, np.float64))
    told = {"window": IMPORTED["hu"], "unit": "HU", "size": list(size)}
    attributes = told | {"parameters": IMPORTED | {"size": list(size)}}
    ledger.clear_store(keep=("cubes",))  # the tables of a run that was killed while it wrote them
    write_tables(ledger.store, attributes, _DTYPE, table, *scan_tables(records))
    ledger.finish(hashes, log)
