"""Unfinished work under another name; the rename means done.

While a store is made, everything lies in `NAME.unfinished` beside its place:

    job.json     what is being made: the parameters, so that only the same command continues the work
    lock         held by the run at work, so that a second run on the same store is refused
    done/        a record for every finished piece of work, written after the piece itself
    stage/       finished pieces that are not yet in the store
    store/       the store itself, shard by shard

Every file is written under a temporary name, flushed to the disk and renamed, so a file that is there is
whole, whatever killed the run. Small pieces of work, of which there are many, are not flushed one by one:
their records hold a checksum (`SEAL`), and what a power failure took is found by it and made again. When all
is there, `store` is renamed to the store's own name; what was there before is moved to `replaced` first, and
moved back should a kill come between the two.
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
VERSION = 2  # of the records of finished pieces; those of version 1 tell less
MANIFEST = "manifest-sha256.txt"
LOG = "log.json"  # facts of the run: times, versions, workers. The manifest leaves it out.
_UNHASHED = {MANIFEST, LOG}

#: The fact in the record of a small piece of work that holds the CRC-32 of its staged file, 0 where it has
#: none. Such a piece and its record are not flushed: 471 X-ray images, which took 1,031 flushes and 9.7 s
#: with them, take 89 and 6.2 s.
SEAL = "crc32"

#: What a path may be given as.
AnyPath = str | os.PathLike[str]
_REPLACED = "replaced"


@dataclass(frozen=True)
class Ledger:
    """The unfinished work on one store, held by this run. Made by `hold`, and sent to other processes.

    Attributes:
        target: where the store will lie, absolute.
        run: of this run alone.
        replace: whether the finished store that lies there may be replaced.
    """

    target: Path
    run: str
    replace: bool = False

    @property
    def work(self) -> Path:
        """The folder of the unfinished work."""
        return self.target.with_name(self.target.name + SUFFIX)

    @property
    def store(self) -> Path:
        """The store under construction."""
        return self.work / "store"

    def staged(self, name: str) -> Path:
        """Where a finished piece waits until it is packed into the store."""
        return self.work / "stage" / name

    def write(self, path: Path, parts: bytes | Iterable[bytes | memoryview], *, flush: bool = True) -> str:
        """Write a piece of this work as `write_whole` does, so long as this run holds it.

        A worker of a cluster may still be at a task of a run that was interrupted, or taken for dead: what it
        made must not come into the work of the next run, nor bring finished work's folder back.

        Raises:
            DataError: another run holds the work now, or it is not to be seen here.
        """
        if (_begun(self.work) or {}).get("run") != self.run:
            raise DataError(f"{self.work} does not lie here, or belongs to another run now.")
        return write_whole(path, parts, flush=flush)

    def record(self, name: str, facts: Mapping[str, Any]) -> None:
        """Note that a piece of work is done. Call it after the piece itself is on the disk, or sealed."""
        data = json.dumps(facts).encode()
        self.write(self.work / "done" / f"{name}.json", data, flush=SEAL not in facts)

    def is_whole(self, name: str, facts: Mapping[str, Any]) -> bool:
        """Whether the staged file of a piece that was sealed is still as its record says."""
        if not facts.get(SEAL):
            return True
        with suppress(FileNotFoundError):
            return bool(zlib.crc32(self.staged(name).read_bytes()) == facts[SEAL])
        return False

    def records(self, names: Iterable[str]) -> Iterator[dict[str, Any]]:
        """What was noted of finished pieces of work, in the order given."""
        for name in names:
            if (facts := self.recorded(name)) is None:
                raise RuntimeError(f"{name} of {self.target} was never finished")
            yield facts

    def has_staged(self) -> bool:
        """Whether a finished piece waits to be packed into the store."""
        return any((self.work / "stage").iterdir())

    def names(self) -> set[str]:
        """The names of all pieces of work that are done."""
        return {path.stem for path in (self.work / "done").glob("[!.]*.json")}

    def recorded(self, name: str) -> dict[str, Any] | None:
        """What was noted of a finished piece of work; None while it is not done, or if its record is torn."""
        with suppress(FileNotFoundError, ValueError):
            return dict(json.loads((self.work / "done" / f"{name}.json").read_bytes()))
        return None

    def finish(self, hashes: Mapping[str, str], log: Mapping[str, Any]) -> None:
        """Write the manifest and the log of the run (`run_log`), flush all, and give the store its name.

        `hashes` has the sha256 by path of files whose hash is known from writing them; the others are read.
        """
        for left in self.store.rglob(".*.part"):  # of a run that was killed while it wrote
            left.unlink()
        write_whole(self.store / LOG, sealed_log(log))
        write_whole(self.store / MANIFEST, _manifest(self.store, hashes).encode())
        self.publish(hashes)

    def publish(self, flushed: Collection[str] = ()) -> None:
        """Flush all but the files that were flushed when they were written, and give the store its name."""
        for folder, _, names in os.walk(self.store):
            for name in names:
                if f"{Path(folder, name).relative_to(self.store)}" not in flushed:
                    _flush(Path(folder, name))
            _flush(Path(folder))
        if self.target.exists():
            self._make_way()
        self.store.rename(self.target)  # from here on there is no `store`: `hold` knows that all is done
        _flush(self.target.parent)
        shutil.rmtree(self.work)

    def _make_way(self) -> None:
        """Move what may be replaced away; it is deleted when the new store has its name."""
        empty = self.target.is_dir() and not any(self.target.iterdir())
        if not empty and not (self.replace and (self.target / MANIFEST).is_file()):
            raise CallError(
                f"{self.target} has come into being while this run was at work, so it is left alone: move it "
                "away and give the same command again."
            )
        self.target.rename(self.work / _REPLACED)

    def clear_store(self, keep: Collection[str] = ()) -> None:
        """Throw away what lies in the store under construction, but the shards of the arrays `keep`."""
        for path in self.store.iterdir():
            if path.name in keep:
                (path / "zarr.json").unlink(missing_ok=True)
            else:
                _remove(path)

    def abandon(self) -> None:
        """Throw the unfinished work away."""
        shutil.rmtree(self.work)


def unfinished(target: Path) -> Path:
    """The name under which work on `target` lies until it is done."""
    target = target.resolve()
    return target.with_name(target.name + SUFFIX)


def settle(target: Path) -> None:
    """Put in order what a run left that was killed while its store was given its name.

    A store that was moved out of the way comes back where the new one did not get its name; where it did, the
    rest of the work is removed.
    """
    work = unfinished(target)
    if _begun(work) is None:
        return
    with suppress(CallError), locked(work, ""):  # a run at work puts its own things in order
        if (work / _REPLACED).exists() and not target.exists():
            (work / _REPLACED).rename(target)
        elif not (work / "store").exists():
            shutil.rmtree(work)


@contextmanager
def hold(target: Path, job: Mapping[str, Any], *, overwrite: bool, grow: bool = False) -> Iterator[Ledger]:
    """Take hold of the unfinished work on `target`: begin it, or go on with what an earlier run left.

    Args:
        target: where the finished store will lie.
        job: the parameters, plain JSON values. Work that was begun with other parameters is refused, or
            thrown away with `overwrite`.
        overwrite: begin again where the parameters differ, and replace a finished store.
        grow: replace a finished store, of which this work is the continuation.

    Raises:
        CallError: another run holds the work, or it was begun with other parameters.
    """
    work = unfinished(target)
    job = json.loads(json.dumps(job))
    _check_ours(work)
    with locked(work, f"Another run is working on {target}: wait for it, or choose another name."):
        begun = _begun(work)
        if begun is not None:
            difference, other = first_difference(begun["job"], job), begun["version"] != VERSION
            if other and not overwrite:
                raise CallError(
                    f"{work} holds work begun by another version of this toolkit, which cannot be continued: "
                    "give --overwrite to begin again."
                )
            if difference and not overwrite:
                raise CallError(
                    f"{work} holds work begun with {difference}: repeat that call to continue it, or give "
                    "--overwrite to begin again."
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
    """Hold a folder, made where there is none, against every other process; a kill lets go of it.

    Raises:
        CallError: `busy`, where another process holds it; or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a")
    except OSError as error:
        place = error.filename or folder
        raise CallError(f"{place} cannot be written ({error.strerror}): choose another place.") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CallError(busy) from None
        yield


def is_held(folder: Path) -> bool:
    """Whether a process holds a folder, see `locked`; nothing is written."""
    try:
        with (folder / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _begun(work: Path) -> dict[str, Any] | None:
    """What `job.json` says: `job`, `version`, and the `run` at work now or last; None: no work of ours."""
    try:
        noted = json.loads((work / "job.json").read_bytes())
    except (OSError, ValueError):
        return None
    ours = isinstance(noted, dict) and noted.get("format") == FORMAT and isinstance(noted.get("job"), dict)
    return {"run": "", "version": 1, **noted} if ours else None


def _check_ours(work: Path) -> None:
    """Refuse a folder, or anything else, that happens to have the name of our unfinished work."""
    if not work.exists() or _begun(work) is not None:
        return
    if not work.is_dir() or any(path.name != "lock" and path.suffix != ".part" for path in work.iterdir()):
        raise CallError(
            f"{work} is in the way and is no unfinished work of this toolkit, so it is left alone: move it "
            "away, or choose another name."
        )


def run_log(started: datetime, workers: int) -> dict[str, Any]:
    """The facts of a run that no hash covers: when, how wide, with which versions."""
    libraries = ("numpy", "numba", "numcodecs", "zarr", "SimpleITK")
    return {
        "started": started.isoformat(timespec="microseconds"),  # files changed later are looked at again
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "workers": workers,
        "python": platform.python_version(),
        "genesis-toolkit": __version__,
        **{name: version(name) for name in libraries},
    }


def check_same_parameters(target: Path, made: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse to go on with a finished store that was made with other parameters: the first that differs."""
    if difference := first_difference(made, asked):
        raise CallError(
            f"{target} was made with {difference}: choose another name, or give --overwrite to make it again."
        )


@contextmanager
def whole_file(path: Path, *, flush: bool = True) -> Iterator[BinaryIO]:
    """A file to write that is there under its name whole or not at all: once it is on the disk.

    Without `flush` that holds for whatever ends the process, and not for what ends the machine.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A process id is not enough: on a cluster two machines may write the same piece, under one id.
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
            error.filename = str(path)  # a full disk does not say which file was the one too many
        raise


def write_whole(path: Path, parts: bytes | Iterable[bytes | memoryview], *, flush: bool = True) -> str:
    """Write a file as `whole_file` does.

    Its parts may be made as they are written. Joined first, a shard of 40 MB would cost memory that is new to
    the process, ten times the time of writing them.

    Returns:
        The sha256 of the content, in hexadecimal.
    """
    digest = hashlib.sha256()
    with whole_file(path, flush=flush) as file:
        for part in (parts,) if isinstance(parts, bytes) else parts:
            file.write(part)
            digest.update(part)
    return digest.hexdigest()


def sha256_of(data: bytes) -> str:
    """The sha256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def read_manifest(store: Path) -> dict[str, str]:
    """The sha256 of every file of a finished store, by path relative to the store.

    Raises:
        OSError, ValueError: there is no manifest, or it is no text.
    """
    lines = (line.partition("  ") for line in (store / MANIFEST).read_bytes().decode().splitlines())
    return {path: digest for digest, _, path in lines}


def _manifest(store: Path, hashes: Mapping[str, str]) -> str:
    """The text of the manifest, in the format that `sha256sum --check` reads."""
    there = (path for path in store.rglob("*") if path.is_file() and path.name not in _UNHASHED)
    paths = sorted(path.relative_to(store).as_posix() for path in there)
    if missing := set(hashes).difference(paths):
        raise RuntimeError(f"{missing.pop()} is gone from {store}")
    digests = (hashes.get(path) or sha256_of((store / path).read_bytes()) for path in paths)
    return "".join(f"{digest}  {path}\n" for digest, path in zip(digests, paths, strict=True))


def _empty(work: Path) -> None:
    """Throw all but the lock away: removing that would let a second run in."""
    for path in work.iterdir():
        if path.name != "lock":
            _remove(path)


def _remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it."""
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
    """A log as JSON, with the CRC-32 of its text as the last of its facts."""
    crc = zlib.crc32(json.dumps(log, indent=1).encode())
    return json.dumps({**log, "crc32": f"{crc:08x}"}, indent=1).encode()


def log_is_whole(data: bytes) -> bool:
    """Whether a log is as `sealed_log` gave it, to the byte."""
    try:
        log = json.loads(data)
        del log["crc32"]
        return data == sealed_log(log)
    except (ValueError, LookupError, TypeError, RecursionError):
        return False
