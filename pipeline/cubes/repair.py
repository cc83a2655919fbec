"""Finds the damaged files of a finished store, and puts them back once they have been made again.

`verify` leaves a note beside the store, `NAME.damaged.json`, which the command that made the store reads;
what can be seen at once (a missing file, a shard that is cut short, a table) it sees without one. A file goes
back only where its sha256 is that of the manifest: so a repaired store is to the byte what it was.
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
    """What is damaged of a finished store.

    Attributes:
        target: the store.
        files: of its manifest, those that are not as they were written.
        log: whether its log is not.
        remains: what can be read of it.
    """

    target: Path
    files: tuple[str, ...]
    log: bool
    remains: Remains

    @property
    def shards(self) -> list[str]:
        """The damaged shards."""
        return [path for path in self.files if is_shard(path)]

    @property
    def others(self) -> list[str]:
        """The damaged tables, metadata and what lies beside them."""
        return [path for path in self.files if not is_shard(path)]

    def refuse(self, why: str) -> DataError:
        """The error for damage that cannot be mended."""
        return DataError(
            f"{self.target} is damaged ({listed(self.files)}) and was left as it is: {why}. --overwrite "
            "makes the whole store again."
        )


def note_path(target: Path) -> Path:
    """Where the note on a store's damage lies: beside the store, in which only it itself lies."""
    target = target.resolve()
    return target.with_name(target.name + NOTE)


def write_note(target: Path, files: Sequence[str]) -> Path | None:
    """Leave a note of the damaged files of a store, where it can be; its place. Without any, remove it."""
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
    """The damage of a finished store, as far as its note tells and as it can be seen without reading shards.

    None where no damage is seen, where there is no store of that kind (`CUBES` or `PAIRS`), and where its
    manifest is damaged too, by which all else is known.
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
    """Make the damaged files of a finished store again, and put them back; how many, 0 of others' stores.

    Args:
        damage: of the store.
        job: the parameters of the call, as they stand in a store that it makes.
        make_again: makes the files, which lie in the ledger's store until all are known to be right.

    Raises:
        DataError: a file cannot be made as it was, and the store is left as it is; the sentence says why.
    """
    said = damage.remains.attributes
    if said is not None and said.get("parameters") != job:
        return 0  # whoever finds out what is to be done says what differs
    with hold(damage.target, job, overwrite=False) as ledger:
        ledger.clear_store()
        try:
            make_again(ledger)
            _put_back(damage, ledger)
        finally:
            ledger.clear_store()
            if not ledger.has_staged():  # scans that were being taken in
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
    """Make the damaged files of a cube store, shards from the scans whose cubes lie in them.

    Args:
        damage, source: of the store, and the scans.
        parameters, job: what is cut, and the same as it stands in the store.
        key: what the names in the store were made with; None where they are the scans' own.
        workers, ledger: who does it, and what takes the files.

    Raises:
        DataError: a file cannot be made as it was; the sentence says why.
    """
    remains = damage.remains
    try:
        if damage.others:
            attributes, tables = attributes_of(parameters, job), _tables(damage)
            write_tables(ledger.store, attributes, parameters.dtype, *tables)
        tasks = _shard_tasks(damage, source, parameters, key, ledger)
        wanted = dict(zip(*map(list, needed(remains, "scans/path", "scans/sha256")), strict=True))
    except UnknownError as error:
        raise damage.refuse(str(error)) from None
    problems = set[str]()

    def finished(made: _Made) -> None:
        problems.update(made[0])
        for scan, digest in made[1].items():
            if (key.digest(digest) if key else digest) != wanted[scan]:
                problems.add(f"{scan} is no longer the scan that its cubes were cut from")

    paths = (recut.path for task in tasks for recut in task.recuts)
    run_all(readers(workers, paths, parameters), "shards made again", _make, tasks, finished, _lost)
    if problems:
        raise damage.refuse(listed(sorted(problems), between="; "))


def _put_back(damage: Damage, ledger: Ledger) -> None:
    """Put files that were made again in the place of the damaged ones; a DataError where one is another."""
    manifest, made = damage.remains.manifest, Folder(ledger.store)
    others = [path for path in damage.files if examine(made, path).sha256 != manifest[path]]
    if others:
        raise damage.refuse(
            f"{listed(others)}, made again, would not be as before: other versions of "
            "libraries made it, which its log.json names, or the manifest itself is damaged"
        )
    for path in damage.files:
        write_whole(damage.target / path, made.read(path))
    if damage.log:
        # Without `started`: what has changed in the scans since then is then found by hashing them.
        log = {name: fact for name, fact in run_log(datetime.now(UTC), 1).items() if name != "started"}
        write_whole(damage.target / LOG, sealed_log(log))
    for left in damage.target.rglob(".*.part"):  # of a repair that was killed
        left.unlink()
    note_path(damage.target).unlink(missing_ok=True)


#: What came of making a shard: what is wrong, and the sha256 of the scans that were read, by their names.
_Made = tuple[list[str], dict[str, str]]


@dataclass(frozen=True)
class _Task:
    """One shard of cubes to make again."""

    ledger: Ledger
    path: str
    length: int
    recuts: tuple[Recut, ...]


def _make(task: _Task) -> _Made:
    """Make one shard, in whatever process this runs."""
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
    return [f"{task.path}: the process that made it again died"], {}


def _shard_tasks(
    damage: Damage, source: Path, parameters: Parameters, key: Key | None, ledger: Ledger
) -> list[_Task]:
    """A task for every damaged shard.

    Raises:
        DataError: a scan is not in the source any more.
        UnknownError: the tables that tell what lies in a shard are damaged.
    """
    if not damage.shards:
        return []
    remains = damage.remains
    if "cubes" not in remains.arrays:
        raise UnknownError("the metadata of its cubes is damaged in both places")
    array, (scan, path) = remains.arrays["cubes"], needed(remains, "scan", "scans/path")
    places, _ = places_of(remains, source, parameters, key)
    tasks = []
    for shard in damage.shards:
        first = (array.place(shard) or 0) * array.chunk
        numbers = np.arange(first, min(first + array.chunk, len(array)))
        gone = [str(path[row]) for row in np.unique(scan[numbers]).tolist() if row not in places]
        if gone:
            raise damage.refuse(f"{listed(gone)} lies no longer in {source}")
        again = tuple(recuts(remains, numbers, places, parameters))
        tasks.append(_Task(ledger, shard, array.chunk, again))
    return tasks


def _tables(damage: Damage) -> list[Any]:
    """The tables of cubes, scans and, where there are any, images; a DataError where a column is damaged."""
    remains, kinds = damage.remains, dict[str, type[Table]]({"": CubeTable, "scans/": ScanTable})
    kinds |= {"images/": ImageTable} if has_images(remains.manifest) else {}
    names = [name for name in array_names(CUBES, remains.manifest) if not is_voxels(name)]
    missing = [name for name in names if name not in remains.columns]
    if missing:
        raise damage.refuse(f"{', '.join(missing)} would come only of cutting all scans again")
    return [remains.table(kind, folder) for folder, kind in kinds.items()]


def _ends_well(remains: Remains, path: str) -> bool:
    """Whether a shard is there, and not cut short, as far as the index at its end tells."""
    array = remains.arrays.get(path.split("/")[0])
    try:
        if array is not None:
            read_index(remains.storage, path, array.chunk)
        return remains.storage.size(path) > 0
    except (OSError, DataError):
        return False


def _noted(target: Path, manifest_sha256: str) -> set[str]:
    """The files that a note names, if it is on the store that lies here."""
    note = note_path(target)
    try:
        if note.stat().st_size > MOST_MANIFEST:
            return set()
        facts = parse_json(note.read_bytes())
        same = facts["format"] == FORMAT and facts["manifest_sha256"] == manifest_sha256
        return set(facts["files"]) if same else set()
    except (OSError, ValueError, LookupError, TypeError):
        return set()
