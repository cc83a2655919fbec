"""Where the bytes of a finished store lie: a folder, one archive, or a server.

A store is read through four questions, the same for all: a whole file, a part of a file, several parts, and
how long a file is. Nothing is unpacked, and of a server nothing is fetched but the bytes asked for.
"""

import os
import stat
import struct
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.ledger import AnyPath

#: What a store's archive ends in.
ARCHIVE = ".zip"

_LOCAL_HEADER = 30  # bytes of a member's own header; the lengths of its name and extra field end it


class Storage(Protocol):
    """The files of one store, by their path relative to it, with `/`.

    Attributes:
        place: as it was given, for messages.
        near: whether asking for every file costs next to nothing.
    """

    place: str
    near: bool

    def read(self, path: str) -> bytes:
        """A whole file.

        Raises:
            OSError: there is no such file, or it cannot be read.
        """

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """A part of a file; fewer bytes where it ends before. Raises as `read`."""
        (data,) = self.read_ranges(path, [(start, length)])
        return data

    def read_ranges(self, path: str, parts: Sequence[tuple[int, int]]) -> Iterable[bytes]:
        """Several parts of a file, each as (start, length): one after the other, where that costs nothing.

        Raises as `read`; also while they are gone through.
        """

    def size(self, path: str) -> int:
        """How many bytes a file has. Raises as `read`."""


class Folder(Storage):
    """A store in a folder. A file is opened for each part that is read.

    That costs a few microseconds, and keeps a store of ten thousand shards within any limit of open files.
    """

    near = True

    def __init__(self, place: Path) -> None:
        self.place = str(place)
        self._prefix = os.fspath(place) + os.sep

    def read(self, path: str) -> bytes:
        """A whole file."""
        return Path(self._prefix + path).read_bytes()

    def read_ranges(self, path: str, parts: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """Several parts of a file, opened once, each read as it is asked for."""
        with self.opened(path) as (descriptor, _):
            for start, length in parts:
                yield os.pread(descriptor, length, start)

    @contextmanager
    def opened(self, path: str) -> Iterator[tuple[int, int]]:
        """A file held open: its descriptor, and where in that the file begins. Raises as `read`."""
        descriptor = os.open(self._prefix + path, os.O_RDONLY)
        try:
            yield descriptor, 0
        finally:
            os.close(descriptor)

    def size(self, path: str) -> int:
        """How many bytes a file has."""
        status = Path(self._prefix + path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(2, "it is no file", path)
        return status.st_size


class Archive(Storage):
    """A store in one zip archive as `pack` writes it: every member stored as it is, not compressed.

    So a part of a member is a part of the archive, one `pread` at a known offset. (Through zarr's ZipStore a
    cube costs 24 ms or more, since a whole shard is read for each.)

    Raises:
        DataError: it is no zip archive, is damaged, or holds what `pack` would not write.
    """

    near = True

    def __init__(self, place: Path) -> None:
        self.place = str(place)
        self._begins: dict[str, int] = {}
        try:
            with zipfile.ZipFile(place) as archive:
                members = archive.infolist()
            self._file = place.open("rb", buffering=0)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
            raise DataError(f"{place} cannot be read as a zip archive: {error}.") from None
        for member in members:
            _check_member(place, member)
        self._members = {member.filename: member for member in members}

    def __reduce__(self) -> tuple[type["Archive"], tuple[Path]]:
        return Archive, (Path(self.place),)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def read(self, path: str) -> bytes:
        """A whole file."""
        return self.read_range(path, 0, self.size(path))

    def read_ranges(self, path: str, parts: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """Several parts of a file, each read as it is asked for."""
        begin, end = self._begin(path), self.size(path)
        for start, length in parts:
            yield os.pread(self._file.fileno(), max(0, min(length, end - start)), begin + start)

    @contextmanager
    def opened(self, path: str) -> Iterator[tuple[int, int]]:
        """As `Folder.opened`; the archive itself stays open."""
        yield self._file.fileno(), self._begin(path)

    def size(self, path: str) -> int:
        """How many bytes a file has."""
        if path not in self._members:
            raise FileNotFoundError(2, "no such file in the archive", f"{self.place}/{path}")
        return self._members[path].file_size

    def _begin(self, path: str) -> int:
        """Where a member's bytes begin: behind its own header, whose length only that header tells."""
        if path not in self._begins:  # two threads may both come here; they set the same
            offset = self._members[path].header_offset
            header = os.pread(self._file.fileno(), _LOCAL_HEADER, offset)
            if len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
                raise OSError(5, "its header is damaged", f"{self.place}/{path}")
            self._begins[path] = offset + _LOCAL_HEADER + sum(struct.unpack_from("<HH", header, 26))
        return self._begins[path]


def _check_member(place: Path, member: zipfile.ZipInfo) -> None:
    """Refuse what `pack` would not write: compressed members may be bombs, and names may lead outside."""
    parts = member.filename.split("/")
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
        raise DataError(
            f"{place} is compressed ({member.filename}), so no cube can be read out of it: unpack it, and "
            "make the archive with genesis-prep pack."
        )
    if ".." in parts or "" in parts[:-1] or "\\" in member.filename or ":" in parts[0]:
        raise DataError(f"{place} holds {member.filename!r}, a name that leads out of it, so it is no store.")


def is_url(place: AnyPath) -> bool:
    """Whether a store's name is that of a server."""
    return isinstance(place, str) and "://" in place


def located(place: AnyPath) -> str | Path:
    """The name of a store: a URL as it is, all else a path."""
    return str(place) if is_url(place) else Path(place)


def not_as_written(place: str, path: str, how: str = "missing or not as it was written") -> DataError:
    """The error for a store one file of which is no longer what its manifest says."""
    return DataError(f"The store {place} is damaged: {path} is {how}. genesis-prep verify says more.")


def read_within(storage: Storage, path: str, most: int) -> bytes:
    """A whole file, once it is known to have no more bytes than one of ours can have.

    Raises:
        OSError: it cannot be read.
        DataError: it has more; goes after its name.
    """
    size = storage.size(path) if storage.near else 0  # a server's answer is measured as it comes
    if size > most:
        raise DataError(f"has {size:,} bytes, and {most:,} at most are read")
    return storage.read(path)
