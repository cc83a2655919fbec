"""Imports the authors' cube files into a cube store; `export_npy` does the opposite.

A worker holds a piece of a cube and one encoded shard, never a file. What these files do not contain (each
cube's scan, position and spacing) is marked as unknown in the store: docs/reference/store-format.md.
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
_MOST_WORKERS = 8  # each holds a shard, and more are no faster on one disk

#: Extraction parameters of an imported store: all that is known.
IMPORTED: dict[str, Any] = {"hu": [WINDOW.low, WINDOW.high], "imported": "npy"}


@dataclass(frozen=True)
class ImportResult:
    """Outcome of `import_npy`.

    Attributes:
        store: the finished store.
        done_before: the store was already finished, and nothing was done.
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
    """Make a cube store from the authors' cube files, exactly: every value becomes its whole number of HU.

    A file is one row in the table of scans, with its name without suffix as identifier; a cube's number is
    its position in the file, which also determines its random draws. Files are sorted by subset and name,
    regardless of the order given. Call it again to resume an interrupted run.

    Args:
        files: `.npy` files, float64 or float32 [cube, x, y, z], values (HU + 1000) / 2000 in [0, 1].
        target: the store to make.
        workers: shards at a time; None means one per core, at most 8.
        overwrite: replace a finished store, and start again if other unfinished work exists.
        progress: True shows bars on stderr; a callback receives the progress.

    Raises:
        CallError: no file was given, two have the same name, cube sizes differ, or something is in the way.
        DataError: a file is damaged, or a value is not a whole number of HU; nothing is left behind.
    """
    report = callback(progress)
    started = datetime.now(UTC)
    target, inputs = Path(target), list(map(Path, files))
    sources = _read_heads(inputs)
    if check_target(target, CUBES, overwrite=overwrite, inputs=inputs) is not None:
        return ImportResult(_made_of(target, sources), done_before=True)
    entries = {"files": [one.path.name for one in sources], "bytes": [one.bytes for one in sources]}
    job = IMPORTED | {"size": list(sources[0].size)} | entries
    crew = Workers(workers or min(cores(), _MOST_WORKERS), progress=report)
    with hold(target, job, overwrite=overwrite) as ledger:
        if problem := _run_all(crew, ledger, _tasks(ledger, sources)):
            ledger.abandon()
            raise DataError(problem)
        _finish(ledger, sources, run_log(started, crew.count))
    return ImportResult(open_cubes(target), done_before=False)


def _read_heads(files: Sequence[Path]) -> list[NpyFile]:
    """Return the files by subset and name, after checking that they belong together."""
    if not files:
        raise CallError("No file was given: give the authors' cube files, such as bat_32_s_64x64x32_0.npy.")
    sources = sorted(map(read_head, files), key=lambda source: (source.subset, source.path.name))
    for first, second in pairwise(sources):
        if first.identifier == second.identifier:
            raise CallError(
                f"{first.path} and {second.path} have the same name, but the random numbers for degrading "
                "the cubes of a file depend on its name: rename one of the files."
            )
    for other in sources:
        if other.size != sources[0].size:
            sizes = [" x ".join(map(str, one.size)) for one in (sources[0], other)]
            raise CallError(
                f"{sources[0].path} holds cubes of {sizes[0]} voxels but {other.path} of {sizes[1]}: a store "
                "has cubes of one size, so import them separately."
            )
    return sources


def _made_of(target: Path, sources: Sequence[NpyFile]) -> CubeStore:
    """Return the finished store; a CallError if it was made from other files, or one has changed."""
    store = open_cubes(target)
    way_out = "choose another name, or rebuild it with --overwrite."
    scans = store.scans
    held = list(zip(scans.identifier.tolist(), scans.cubes.tolist(), scans.bytes.tolist(), strict=True))
    asked = [(source.identifier, source.count, source.bytes) for source in sources]
    if "imported" not in store.attributes["parameters"] or held != asked:
        names = listed(scans.identifier.tolist(), most=3)
        raise CallError(f"{target} was not built from these files, but holds {names}: {way_out}")
    begun = begun_at(store)
    for source, known in zip(sources, scans.sha256.tolist(), strict=True):
        if source.modified > begun and _hash(source)["sha256"] != known:
            raise CallError(f"{source.path} has changed since {target} was built from it: {way_out}")
    return store


@dataclass(frozen=True)
class _Task:
    """A piece of an import: a file to hash, or a shard to make from one file or several.

    The files' modification times show whether a record belongs to these files.
    """

    place: int
    modified: list[int]
    make: Callable[[], Facts]


def _tasks(ledger: Ledger, sources: Sequence[NpyFile]) -> dict[str, _Task]:
    """Return the shards of the store, and before the first shard of a file the hashing of that file."""
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
    """Read, check, encode and write cubes from each file."""
    size = spans[0][0].size
    # The slice after the last is unknown. Counted as air, it lowers the score by at most 1 / (2 z).
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
    """Run all missing tasks; return the first problem in file order, or an empty text.

    No task after a problem is started, while those before it are completed. The reported problem is therefore
    the same for any number of workers.
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
    """Write tables and manifest, and rename the store to its own name."""
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
    entries = {"window": IMPORTED["hu"], "unit": "HU", "size": list(size)}
    attributes = entries | {"parameters": IMPORTED | {"size": list(size)}}
    ledger.clear_store(keep=("cubes",))  # removes tables of a run that was killed
    write_tables(ledger.store, attributes, _DTYPE, table, *scan_tables(records))
    ledger.finish(hashes, log)
