"""Finds the damaged files of a finished store, rebuilds them, and puts them back.

`verify` leaves a report next to the store, `NAME.damaged.json`, which the command that made the store reads;
obvious damage (a missing file, a truncated shard, a table) is found without one. A rebuilt file is put back
only if its sha256 is that in the manifest, so a repaired store is identical to the original.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from genesis_toolkit.pipeline.cubes.assemble import attributes_of, write_tables
from genesis_toolkit.pipeline.cubes.parameters import Parameters
from genesis_toolkit.pipeline.cubes.pseudonyms import Key
from genesis_toolkit.pipeline.cubes.recut import Recut, UnknownError, cut_again, needed, places_of, recuts
from genesis_toolkit.pipeline.engine import Workers
from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.job import run_all
from genesis_toolkit.pipeline.ledger import (
    LOG,
    MANIFEST,
    Ledger,
    hold,
    log_is_whole,
    run_log,
    sealed_log,
    sha256_of,
    write_whole,
)
from genesis_toolkit.pipeline.scans.readers import readers
from genesis_toolkit.pipeline.store.examine import examine
from genesis_toolkit.pipeline.store.metadata import MOST_MANIFEST, parse_json
from genesis_toolkit.pipeline.store.salvage import Remains, read_manifest, read_remains
from genesis_toolkit.pipeline.store.schema import (
    CUBES,
    KINDS,
    CubeTable,
    ImageTable,
    ScanTable,
    Table,
    array_names,
    has_images,
    is_shard,
    is_voxels,
)
from genesis_toolkit.pipeline.store.shards import encode_cube, read_index, shard_parts
from genesis_toolkit.pipeline.store.storage import Folder
from genesis_toolkit.pipeline.wording import listed

NOTE = ".damaged.json"
FORMAT = "genesis-damage"


@dataclass(frozen=True)
class Damage:
    """The damage of a finished store.

    Attributes:
        target: the store.
        files: those of its manifest that are missing or changed.
        log: whether its log is damaged.
        remains: its readable parts.
    """

    target: Path
    files: tuple[str, ...]
    log: bool
    remains: Remains

    @property
    def shards(self) -> list[str]:
        """Return the damaged shards."""
        return [path for path in self.files if is_shard(path)]

    @property
    def others(self) -> list[str]:
        """Return the damaged tables, metadata and accompanying files."""
        return [path for path in self.files if not is_shard(path)]

    def refuse(self, why: str) -> DataError:
        """Return the error for damage that cannot be repaired."""
        return DataError(
            f"{self.target} is damaged ({listed(self.files)}) and was left as it is: {why}. Use --overwrite "
            "to rebuild the whole store."
        )


def note_path(target: Path) -> Path:
    """Return the path of the damage report, next to the store (nothing else may be inside it)."""
    target = target.resolve()
    return target.with_name(target.name + NOTE)


def write_note(target: Path, files: Sequence[str]) -> Path | None:
    """Write a report of the damaged files of a store, if possible; return its path. Remove it if none is."""
    note = note_path(target)
    with suppress(OSError):
        if files:
            digest = sha256_of((target / MANIFEST).read_bytes())
            facts = {"format": FORMAT, "manifest_sha256": digest, "files": list(files)}
            write_whole(note, json.dumps(facts, indent=1).encode())
            return note
        note.unlink(missing_ok=True)
    return None


def find_damage(target: Path, kind: str) -> Damage | None:
    """Return the damage of a finished store, from its report and checks that need not read shards.

    None if no damage is found, if there is no store of that kind (`CUBES` or `PAIRS`), or if its manifest, on
    which all checks rely, is damaged too.
    """
    storage = Folder(target)
    manifest, digest, problems = read_manifest(storage)
    if problems or not all(f"{name}/zarr.json" in manifest for name in KINDS[kind].voxels):
        return None
    noted = _noted(target, digest)
    files = [path for path in manifest if path in noted or not is_shard(path)]
    damaged = {path for path in files if examine(storage, path).sha256 != manifest[path]}
    remains, _ = read_remains(storage, manifest, (), lambda path: path in manifest and path not in damaged)
    damaged |= {path for path in manifest if path not in files and not _ends_well(remains, path)}
    log = (target / LOG).is_file() and not log_is_whole((target / LOG).read_bytes())
    if remains.kind != kind or not (damaged or log):
        return None
    return Damage(target, tuple(path for path in manifest if path in damaged), log, remains)


def repair(damage: Damage, job: Mapping[str, Any], make_again: Callable[[Ledger], None]) -> int:
    """Rebuild the damaged files of a finished store, and put them back; return their number.

    Args:
        damage: damage of the store.
        job: the parameters of the call, in the form of a store made with them; 0 is returned if they differ.
        make_again: rebuilds the files, which stay in the ledger's store until all are verified.

    Raises:
        DataError: a file cannot be restored, so the store is left unchanged; the message has the reason.
    """
    said = damage.remains.attributes
    if said is not None and said.get("parameters") != job:
        return 0  # the caller reports the difference
    with hold(damage.target, job, overwrite=False) as ledger:
        ledger.clear_store()
        try:
            make_again(ledger)
            _put_back(damage, ledger)
        finally:
            ledger.clear_store()
            if not ledger.has_staged():  # no scans are being added
                ledger.abandon()
    return len(damage.files) + damage.log


def make_cubes_again(
    damage: Damage,
    source: Path,
    parameters: Parameters,
    job: dict[str, Any],
    key: Key | None,
    workers: Workers,
    ledger: Ledger,
) -> None:
    """Rebuild the damaged files of a cube store, shards from the scans whose cubes they hold.

    Args:
        damage, source: damage of the store, and folder of the scans.
        parameters, job: parameters of the extraction, and their form in the store.
        key: key of the pseudonyms in the store; None if it has the scans' own names.
        workers, ledger: the workers, and the ledger that receives the files.

    Raises:
        DataError: a file cannot be restored; the message has the reason.
    """
    remains = damage.remains
    try:
        if damage.others:
            attributes, tables = attributes_of(parameters, job), _tables(damage)
            write_tables(ledger.store, attributes, parameters.dtype, *tables)
        tasks = _shard_tasks(damage, source, parameters, key, ledger)
        recorded = dict(zip(*map(list, needed(remains, "scans/path", "scans/sha256")), strict=True))
    except UnknownError as error:
        raise damage.refuse(str(error)) from None
    problems = set[str]()

    def finished(made: _Made) -> None:
        problems.update(made[0])
        for scan, digest in made[1].items():
            if (key.digest(digest) if key else digest) != recorded[scan]:
                problems.add(f"{scan} has changed since its cubes were cut from it")

    paths = (recut.path for task in tasks for recut in task.recuts)
    run_all(readers(workers, paths, parameters), "shards rebuilt", _make, tasks, finished, _lost)
    if problems:
        raise damage.refuse(listed(sorted(problems), between="; "))


def _put_back(damage: Damage, ledger: Ledger) -> None:
    """Replace damaged files by rebuilt ones; a DataError if one differs from the original."""
    manifest, made = damage.remains.manifest, Folder(ledger.store)
    others = [path for path in damage.files if examine(made, path).sha256 != manifest[path]]
    if others:
        raise damage.refuse(
            f"{listed(others)} could not be rebuilt identically: the store was made with other versions of "
            "libraries, listed in its log.json, or the manifest itself is damaged"
        )
    for path in damage.files:
        write_whole(damage.target / path, made.read(path))
    if damage.log:
        # Without `started`, scans that changed since then are found by hashing them.
        log = {name: fact for name, fact in run_log(datetime.now(UTC), 1).items() if name != "started"}
        write_whole(damage.target / LOG, sealed_log(log))
    for left in damage.target.rglob(".*.part"):  # left by a repair that was killed
        left.unlink()
    note_path(damage.target).unlink(missing_ok=True)


#: Result of rebuilding a shard: problems, and the sha256 of the scans that were read, by their names.
_Made = tuple[list[str], dict[str, str]]


@dataclass(frozen=True)
class _Task:
    """One shard of cubes to rebuild."""

    ledger: Ledger
    path: str
    length: int
    recuts: tuple[Recut, ...]


def _make(task: _Task) -> _Made:
    """Rebuild one shard, in any process."""
    chunks, digests = dict[int, bytes](), dict[str, str]()
    for recut in task.recuts:
        try:
            digests[recut.name], cubes = cut_again(recut)
        except DataError as error:
            return [f"{recut.name}: {error}"], digests
        chunks |= zip(recut.numbers, map(encode_cube, cubes), strict=True)
    parts = shard_parts([chunks[number] for number in sorted(chunks)], task.length)
    task.ledger.write(task.ledger.store / task.path, parts)
    return [], digests


def _lost(task: _Task) -> _Made:
    return [f"{task.path}: the process that rebuilt it died"], {}


def _shard_tasks(
    damage: Damage, source: Path, parameters: Parameters, key: Key | None, ledger: Ledger
) -> list[_Task]:
    """Return a task for every damaged shard.

    Raises:
        DataError: a scan is no longer in the source.
        UnknownError: the tables that list a shard's contents are damaged.
    """
    if not damage.shards:
        return []
    remains = damage.remains
    if "cubes" not in remains.arrays:
        raise UnknownError("both copies of the metadata of its cubes are damaged")
    array, (scan, path) = remains.arrays["cubes"], needed(remains, "scan", "scans/path")
    places, _ = places_of(remains, source, parameters, key)
    tasks = []
    for shard in damage.shards:
        first = (array.place(shard) or 0) * array.chunk
        numbers = np.arange(first, min(first + array.chunk, len(array)))
        gone = [str(path[row]) for row in np.unique(scan[numbers]).tolist() if row not in places]
        if gone:
            raise damage.refuse(f"{listed(gone)} is no longer in {source}")
        again = tuple(recuts(remains, numbers, places, parameters))
        tasks.append(_Task(ledger, shard, array.chunk, again))
    return tasks


def _tables(damage: Damage) -> list[Any]:
    """Return the tables of cubes, scans and, if any, images; a DataError if a column is damaged."""
    remains, kinds = damage.remains, dict[str, type[Table]]({"": CubeTable, "scans/": ScanTable})
    kinds |= {"images/": ImageTable} if has_images(remains.manifest) else {}
    names = [name for name in array_names(CUBES, remains.manifest) if not is_voxels(name)]
    missing = [name for name in names if name not in remains.columns]
    if missing:
        raise damage.refuse(f"{', '.join(missing)} can only be restored by cutting all scans again")
    return [remains.table(kind, folder) for folder, kind in kinds.items()]


def _ends_well(remains: Remains, path: str) -> bool:
    """Return whether a shard exists and is complete, judging by the index at its end."""
    array = remains.arrays.get(path.split("/")[0])
    try:
        if array is not None:
            read_index(remains.storage, path, array.chunk)
        return remains.storage.size(path) > 0
    except (OSError, DataError):
        return False


def _noted(target: Path, manifest_sha256: str) -> set[str]:
    """Return the files listed in a report, if it belongs to this store."""
    note = note_path(target)
    try:
        if note.stat().st_size > MOST_MANIFEST:
            return set()
        facts = parse_json(note.read_bytes())
        same = facts["format"] == FORMAT and facts["manifest_sha256"] == manifest_sha256
        return set(facts["files"]) if same else set()
    except (OSError, ValueError, LookupError, TypeError):
        return set()
