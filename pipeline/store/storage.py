"""Access to the bytes of a finished store: a folder, one archive, or a server.

All offer the same four operations: read a file, read a part of it, read several parts, and return its size.
Nothing is unpacked, and from a server only the required bytes are fetched.
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

#: Suffix of a store's archive.
ARCHIVE = ".zip"

_LOCAL_HEADER = 30  # bytes of a member's own header; the lengths of its name and extra field are the last


class Storage(Protocol):
    """The files of one store, by their path relative to it, with `/`.

    Attributes:
        place: as given by the user, for messages.
        near: whether requesting every file is cheap.
    """

    place: str
    near: bool

    def read(self, path: str) -> bytes:
        """Read a whole file.

        Raises:
            OSError: it does not exist or cannot be read.
        """

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """Read a part of a file; fewer bytes if the file ends early. Raises as `read`."""
        (data,) = self.read_ranges(path, [(start, length)])
        return data

    def read_ranges(self, path: str, parts: Sequence[tuple[int, int]]) -> Iterable[bytes]:
        """Read several parts of a file, each (start, length), one by one if that is cheap.

        Raises as `read`, also during iteration.
        """

    def size(self, path: str) -> int:
        """Return the size of a file in bytes. Raises as `read`."""


class Folder(Storage):
    """A store in a folder. Each read of a part opens its file.

    Opening costs a few microseconds, and keeps a store of ten thousand shards below any limit of open files.
    """

    near = True

    def __init__(self, place: Path) -> None:
        self.place = str(place)
        self._prefix = os.fspath(place) + os.sep

    def read(self, path: str) -> bytes:
        """Read a whole file."""
        return Path(self._prefix + path).read_bytes()

    def read_ranges(self, path: str, parts: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """Read several parts of a file, opened once, each when it is requested."""
        with self.opened(path) as (descriptor, _):
            for start, length in parts:
                yield os.pread(descriptor, length, start)

    @contextmanager
    def opened(self, path: str) -> Iterator[tuple[int, int]]:
        """Hold a file open; yield its descriptor and the offset of the file in it. Raises as `read`."""
        descriptor = os.open(self._prefix + path, os.O_RDONLY)
        try:
            yield descriptor, 0
        finally:
            os.close(descriptor)

    def size(self, path: str) -> int:
        """Return the size of a file in bytes."""
        status = Path(self._prefix + path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(2, "not a regular file", path)
        return status.st_size


class Archive(Storage):
    """A store in one zip archive as written by `pack`, with uncompressed members.

    A part of a member is therefore a part of the archive, one `pread` at a known offset. (Through zarr's
    ZipStore a cube costs 24 ms or more, since a whole shard is read for each.)

    Raises:
        DataError: it is not a zip archive, is damaged, or holds what `pack` would not write.
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
        """Read a whole file."""
        return self.read_range(path, 0, self.size(path))

    def read_ranges(self, path: str, parts: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """Read several parts of a file, each when it is requested."""
        begin, end = self._begin(path), self.size(path)
        for start, length in parts:
            yield os.pread(self._file.fileno(), max(0, min(length, end - start)), begin + start)

    @contextmanager
    def opened(self, path: str) -> Iterator[tuple[int, int]]:
        """Do the same as `Folder.opened`; the archive itself stays open."""
        yield self._file.fileno(), self._begin(path)

    def size(self, path: str) -> int:
        """Return the size of a file in bytes."""
        if path not in self._members:
            raise FileNotFoundError(2, "no such file in the archive", f"{self.place}/{path}")
        return self._members[path].file_size

    def _begin(self, path: str) -> int:
        """Return the offset of a member's bytes, after its own header, which alone holds its own length."""
        if path not in self._begins:  # two threads may both get here; they set the same value
            offset = self._members[path].header_offset
            header = os.pread(self._file.fileno(), _LOCAL_HEADER, offset)
            if len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
                raise OSError(5, "the header in the archive is damaged", f"{self.place}/{path}")
            self._begins[path] = offset + _LOCAL_HEADER + sum(struct.unpack_from("<HH", header, 26))
        return self._begins[path]


def _check_member(place: Path, member: zipfile.ZipInfo) -> None:
    """Refuse members that `pack` would not write: compressed ones may be bombs, names may lead outside."""
    parts = member.filename.split("/")
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
        raise DataError(
            f"{place} is compressed ({member.filename}), so cubes cannot be read from it: unpack it, and "
            "create the archive again with genesis-prep pack."
        )
    if ".." in parts or "" in parts[:-1] or "\\" in member.filename or ":" in parts[0]:
        raise DataError(
            f"{place} holds {member.filename!r}, a path outside the archive, so it is not a store."
        )


def is_url(place: AnyPath) -> bool:
    """Return whether the name of a store is a URL."""
    return isinstance(place, str) and "://" in place


def located(place: AnyPath) -> str | Path:
    """Return the name of a store: a URL unchanged, anything else as a path."""
    return str(place) if is_url(place) else Path(place)


def not_as_written(place: str, path: str, how: str = "is missing or has changed") -> DataError:
    """Return the error for a store with a file that contradicts the manifest."""
    return DataError(f"The store {place} is damaged: {path} {how}. Run genesis-prep verify for details.")


def read_within(storage: Storage, path: str, most: int) -> bytes:
    """Read a whole file after checking that it is not larger than any of ours can be.

    Raises:
        OSError: it cannot be read.
        DataError: it is larger; the message follows its name.
    """
    size = storage.size(path) if storage.near else 0  # a server's response is measured as it arrives
    if size > most:
        raise DataError(f"has {size:,} bytes, but at most {most:,} are allowed")
    return storage.read(path)
