"""Keeps unfinished work under another name; the rename means done.

While a store is made, everything is kept in `NAME.unfinished` next to it:

    job.json     the parameters of the store, so that only the same command continues the work
    lock         held by the running process, so that a second run on the same store is refused
    done/        a record for every finished piece of work, written after the piece itself
    stage/       finished pieces that are not yet in the store
    store/       the store itself, shard by shard

Every file is written under a temporary name, flushed to disk and renamed, so an existing file is always
complete, however the run ended. Small pieces of work are not flushed one by one: their records hold a
checksum (`SEAL`), which reveals what a power failure destroyed, and those pieces are redone. At the end
`store` is renamed to the store's own name; an older store is moved to `replaced` first, and moved back if
the process is killed between the two renames.
"""

import fcntl
import hashlib
import json
import os
import platform
import shutil
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.version import __version__
from genesis_toolkit.pipeline.wording import first_difference

SUFFIX = ".unfinished"
FORMAT = "genesis-unfinished"
VERSION = 2  # version of the records of finished pieces; version 1 recorded less
MANIFEST = "manifest-sha256.txt"
LOG = "log.json"  # facts of the run: times, versions, workers; not part of the manifest
_UNHASHED = {MANIFEST, LOG}

#: Key in the record of a small piece of work: the CRC-32 of its staged file, or 0 if it has none. Neither
#: such a piece nor its record is flushed: 471 X-ray images took 1,031 flushes and 9.7 s with flushing,
#: 89 flushes and 6.2 s without.
SEAL = "crc32"

#: Types accepted as a path.
AnyPath = str | os.PathLike[str]
_REPLACED = "replaced"


@dataclass(frozen=True)
class Ledger:
    """The unfinished work on one store, held by this run. `hold` creates it, and it can be pickled.

    Attributes:
        target: absolute path of the finished store.
        run: identifier of this run.
        replace: whether a finished store at `target` may be replaced.
    """

    target: Path
    run: str
    replace: bool = False

    @property
    def work(self) -> Path:
        """Return the folder of the unfinished work."""
        return self.target.with_name(self.target.name + SUFFIX)

    @property
    def store(self) -> Path:
        """Return the store under construction."""
        return self.work / "store"

    def staged(self, name: str) -> Path:
        """Return the path at which a finished piece waits to be packed into the store."""
        return self.work / "stage" / name

    def write(
        self,
        path: Path,
        parts: bytes | Iterable[bytes | memoryview],
        *,
        flush: bool = True,
        sha256: str | None = None,
    ) -> str:
        """Write a piece of this work as `write_whole` does, provided that this run still holds the work.

        A cluster worker may still be busy with a task of an interrupted run: its output must neither get into
        the work of the next run nor recreate the folder of finished work.

        Raises:
            DataError: another run holds the work now, or this machine does not see it.
        """
        if (_begun(self.work) or {}).get("run") != self.run:
            raise DataError(
                f"{self.work} does not exist on this machine, or another run is using "
                "it now: wait until that run ends."
            )
        return write_whole(path, parts, flush=flush, sha256=sha256)

    def record(self, name: str, facts: Mapping[str, Any]) -> None:
        """Record that a piece of work is done. Call it after the piece itself is on disk, or sealed."""
        data = json.dumps(facts).encode()
        self.write(self.work / "done" / f"{name}.json", data, flush=SEAL not in facts)

    def is_whole(self, name: str, facts: Mapping[str, Any]) -> bool:
        """Return whether the staged file of a sealed piece still matches its record."""
        if not facts.get(SEAL):
            return True
        with suppress(FileNotFoundError):
            return bool(zlib.crc32(self.staged(name).read_bytes()) == facts[SEAL])
        return False

    def records(self, names: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Yield the records of finished pieces of work, in the order given."""
        for name in names:
            if (facts := self.recorded(name)) is None:
                raise RuntimeError(f"{name} of {self.target} was never finished")
            yield facts

    def has_staged(self) -> bool:
        """Return whether a finished piece waits to be packed into the store."""
        return any((self.work / "stage").iterdir())

    def names(self) -> set[str]:
        """Return the names of all finished pieces of work."""
        return {path.stem for path in (self.work / "done").glob("[!.]*.json")}

    def recorded(self, name: str) -> dict[str, Any] | None:
        """Return the record of a finished piece of work; None if it is not done or its record is torn."""
        with suppress(FileNotFoundError, ValueError):
            return dict(json.loads((self.work / "done" / f"{name}.json").read_bytes()))
        return None

    def finish(self, hashes: Mapping[str, str], log: Mapping[str, Any]) -> None:
        """Write the manifest and the log of the run (`run_log`), flush everything, and rename the store.

        `hashes` maps paths to sha256 values known from writing the files; all other files are read.
        """
        for left in self.store.rglob(".*.part"):  # left by a run that was killed while writing
            left.unlink()
        write_whole(self.store / LOG, sealed_log(log))
        write_whole(self.store / MANIFEST, _manifest(self.store, hashes).encode())
        self.publish(hashes)

    def publish(self, flushed: Collection[str] = ()) -> None:
        """Flush all files except those in `flushed`, and rename the store to its own name."""
        for folder, _, names in os.walk(self.store):
            for name in names:
                if f"{Path(folder, name).relative_to(self.store)}" not in flushed:
                    _flush(Path(folder, name))
            _flush(Path(folder))
        if self.target.exists():
            self._make_way()
        self.store.rename(self.target)  # without `store`, `hold` recognises that all work is done
        _flush(self.target.parent)
        shutil.rmtree(self.work)

    def _make_way(self) -> None:
        """Move a replaceable store away; it is deleted once the new store has its name."""
        empty = self.target.is_dir() and not any(self.target.iterdir())
        if not empty and not (self.replace and (self.target / MANIFEST).is_file()):
            raise CallError(
                f"{self.target} was created by another program during this run, so it was "
                "left untouched: move it away and run the same command again."
            )
        self.target.rename(self.work / _REPLACED)

    def clear_store(self, keep: Collection[str] = ()) -> None:
        """Delete the contents of the store under construction, except the shards of the arrays `keep`."""
        for path in self.store.iterdir():
            if path.name in keep:
                (path / "zarr.json").unlink(missing_ok=True)
            else:
                _remove(path)

    def abandon(self) -> None:
        """Delete the unfinished work."""
        shutil.rmtree(self.work)


def unfinished(target: Path) -> Path:
    """Return the folder name of unfinished work on `target`."""
    target = target.resolve()
    return target.with_name(target.name + SUFFIX)


def settle(target: Path) -> None:
    """Clean up after a run that was killed while it renamed its store.

    If the new store did not get its name, the old one that was moved away comes back; otherwise the remains
    of the work are removed.
    """
    work = unfinished(target)
    if _begun(work) is None:
        return
    with suppress(CallError), locked(work, ""):  # a running process cleans up after itself
        if (work / _REPLACED).exists() and not target.exists():
            (work / _REPLACED).rename(target)
        elif not (work / "store").exists():
            shutil.rmtree(work)


@contextmanager
def hold(target: Path, job: Mapping[str, Any], *, overwrite: bool, grow: bool = False) -> Iterator[Ledger]:
    """Hold the unfinished work on `target`: start it, or continue what an earlier run left.

    Args:
        target: path of the finished store.
        job: the parameters, plain JSON values. Work started with other parameters is refused, or deleted
            with `overwrite`.
        overwrite: start again if the parameters differ, and replace a finished store.
        grow: replace a finished store that this work continues.

    Raises:
        CallError: another run holds the work, or it was started with other parameters.
    """
    work = unfinished(target)
    job = json.loads(json.dumps(job))
    _check_ours(work)
    with locked(work, f"Another run is working on {target}: wait until it ends, or choose another name."):
        begun = _begun(work)
        if begun is not None:
            difference, other = first_difference(begun["job"], job), begun["version"] != VERSION
            if other and not overwrite:
                raise CallError(
                    f"{work} holds work started by another version of this toolkit, which cannot be "
                    "continued: start again with --overwrite."
                )
            if difference and not overwrite:
                raise CallError(
                    f"{work} holds work started with {difference}: use the original values to "
                    "continue it, or start again with --overwrite."
                )
            if difference or other or not (work / "store").exists():
                _empty(work)
        run = uuid4().hex
        begun_now = {"format": FORMAT, "version": VERSION, "run": run, "job": job}
        write_whole(work / "job.json", json.dumps(begun_now, indent=1).encode())
        for folder in ("done", "stage", "store"):
            (work / folder).mkdir(exist_ok=True)
        yield Ledger(target.resolve(), run, overwrite or grow)


@contextmanager
def locked(folder: Path, busy: str) -> Iterator[None]:
    """Lock a folder, creating it if needed, against all other processes; a kill releases the lock.

    Raises:
        CallError: another process holds it (the message is `busy`), or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a")
    except OSError as error:
        place = error.filename or folder
        raise CallError(f"{place} cannot be written ({error.strerror}): choose another location.") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CallError(busy) from None
        yield


def is_held(folder: Path) -> bool:
    """Return whether a process holds a folder, see `locked`; nothing is written."""
    try:
        with (folder / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _begun(work: Path) -> dict[str, Any] | None:
    """Return the contents of `job.json`: `job`, `version` and the current or last `run`; None if not ours."""
    try:
        noted = json.loads((work / "job.json").read_bytes())
    except (OSError, ValueError):
        return None
    ours = isinstance(noted, dict) and noted.get("format") == FORMAT and isinstance(noted.get("job"), dict)
    return {"run": "", "version": 1, **noted} if ours else None


def _check_ours(work: Path) -> None:
    """Refuse a file or folder that merely shares the name of our unfinished work."""
    if not work.exists() or _begun(work) is not None:
        return
    if not work.is_dir() or any(path.name != "lock" and path.suffix != ".part" for path in work.iterdir()):
        raise CallError(
            f"{work} is in the way and was not created by this toolkit, so it is left untouched: move it "
            "away, or choose another name."
        )


def run_log(started: datetime, workers: int) -> dict[str, Any]:
    """Return the facts of a run that no hash covers: start and end, number of workers, versions."""
    libraries = ("numpy", "numba", "numcodecs", "zarr", "SimpleITK")
    return {
        "started": started.isoformat(timespec="microseconds"),  # files changed later are checked again
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "workers": workers,
        "python": platform.python_version(),
        "genesis-toolkit": __version__,
        **{name: version(name) for name in libraries},
    }


def check_same_parameters(target: Path, made: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse to continue a finished store made with other parameters; name the first that differs."""
    if difference := first_difference(made, asked):
        raise CallError(
            f"{target} was made with {difference}: choose another name, or replace it with --overwrite."
        )


@contextmanager
def whole_file(path: Path, *, flush: bool = True) -> Iterator[BinaryIO]:
    """Open a file for writing that appears under its name only once it is complete and on disk.

    Without `flush` this holds if the process ends for any reason, but not if the machine fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A process id is not enough: on a cluster two machines may write the same piece under one id.
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:12]}.part")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            if flush:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # the error of a full disk does not name the file
        raise


def write_whole(
    path: Path,
    parts: bytes | Iterable[bytes | memoryview],
    *,
    flush: bool = True,
    sha256: str | None = None,
) -> str:
    """Write a file as `whole_file` does.

    The parts may be produced as they are written. Joining them first would cost new memory for a shard of
    40 MB, which takes ten times as long as writing it.

    Args:
        sha256: sha256 of the content, where the caller has just taken it.

    Returns:
        The sha256 of the content, in hexadecimal.
    """
    digest = hashlib.sha256()
    with whole_file(path, flush=flush) as file:
        for part in (parts,) if isinstance(parts, bytes) else parts:
            file.write(part)
            if sha256 is None:
                digest.update(part)
    return sha256 or digest.hexdigest()


def sha256_of(data: bytes) -> str:
    """Return the sha256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def read_manifest(store: Path) -> dict[str, str]:
    """Return the sha256 of every file of a finished store, by path relative to the store.

    Raises:
        OSError, ValueError: there is no manifest, or it is not text.
    """
    lines = (line.partition("  ") for line in (store / MANIFEST).read_bytes().decode().splitlines())
    return {path: digest for digest, _, path in lines}


def _manifest(store: Path, hashes: Mapping[str, str]) -> str:
    """Return the text of the manifest, in the format of `sha256sum --check`."""
    there = (path for path in store.rglob("*") if path.is_file() and path.name not in _UNHASHED)
    paths = sorted(path.relative_to(store).as_posix() for path in there)
    if missing := set(hashes).difference(paths):
        raise RuntimeError(f"{missing.pop()} is missing from {store}")
    digests = (hashes.get(path) or sha256_of((store / path).read_bytes()) for path in paths)
    return "".join(f"{digest}  {path}\n" for digest, path in zip(digests, paths, strict=True))


def _empty(work: Path) -> None:
    """Delete everything but the lock, whose removal would let a second run in."""
    for path in work.iterdir():
        if path.name != "lock":
            _remove(path)


def _remove(path: Path) -> None:
    """Remove a file, or a folder with its contents."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sealed_log(log: Mapping[str, Any]) -> bytes:
    """Return a log as JSON whose last entry is the CRC-32 of its text."""
    crc = zlib.crc32(json.dumps(log, indent=1).encode())
    return json.dumps({**log, "crc32": f"{crc:08x}"}, indent=1).encode()


def log_is_whole(data: bytes) -> bool:
    """Return whether a log is byte for byte as `sealed_log` wrote it."""
    try:
        log = json.loads(data)
        del log["crc32"]
        return data == sealed_log(log)
    except (ValueError, LookupError, TypeError, RecursionError):
        return False
