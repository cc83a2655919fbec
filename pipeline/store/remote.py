"""Reads a store on a web server or in a bucket through obstore, fetching only the byte ranges it needs.

obstore retries when a connection breaks, and follows at most ten redirects. Ranges of one shard are requested
together, and adjacent ones in a single request.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import MANIFEST, sha256_of, write_whole
from genesis_toolkit.pipeline.progress import waited_for
from genesis_toolkit.pipeline.store.storage import Storage

#: URL schemes that can be read.
SCHEMES = ("http", "https", "s3")

#: Environment variable with a folder for caching fetched ranges.
CACHE = "GENESIS_CACHE"

_LARGEST_FILE = 2**28  # bytes; no table or metadata file of a store is larger
_RETRIES: Any = {"max_retries": 6, "retry_timeout": timedelta(seconds=60)}
_CLIENT: Any = {"allow_http": True, "connect_timeout": "10s", "timeout": "60s"}
#: Parts of obstore's errors, with a readable cause; the full errors fill a page.
_CAUSES = {
    "Range request not supported": "the server cannot send parts of files (HTTP ranges), like Python's "
    "http.server: download the store, or serve it with another program, such as nginx",
    "dns error": "no server has that name",
    "kind: Connect,": "no server responds there",
    "kind: Timeout,": "the server did not respond in time",
    "401 Unauthorized": "the server requires authentication (401)",
    "403 Forbidden": "the server denies access (403)",
}


class Remote(Storage):
    """The files of one store below a URL.

    Args:
        place: `http://`, `https://` or `s3://`. S3 settings (keys, region, endpoint) are taken from the
            environment variables of AWS.

    Raises:
        CallError: another URL scheme, or obstore is not installed.
    """

    near = False

    def __init__(self, place: str) -> None:
        self.place = place.rstrip("/")
        scheme = place.partition("://")[0].lower()
        if scheme not in SCHEMES:
            raise CallError(f"{place} is not a readable URL: it must start with one of {', '.join(SCHEMES)}.")
        self._store = _connect(self.place)
        self._kept: Path | None = None
        if os.environ.get(CACHE):
            # Keyed by the manifest's sha256, so a replaced store is fetched again.
            self._kept = Path(os.environ[CACHE], sha256_of(self.place.encode() + self._fetch(MANIFEST)))

    def __reduce__(self) -> tuple[type["Remote"], tuple[str]]:
        return Remote, (self.place,)

    def read(self, path: str) -> bytes:
        """Read a whole file."""
        return self._once(path, lambda: self._fetch(path))

    def read_ranges(self, path: str, parts: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read several parts of a file."""
        names = [f"{path}@{start}+{length}" for start, length in parts]
        found = [self._held(name) for name in names]
        missing = [place for place, data in enumerate(found) if data is None]
        if missing:
            import obstore

            starts, lengths = zip(*(parts[place] for place in missing), strict=True)
            fetched = self._ask(
                path, lambda: obstore.get_ranges(self._store, path, starts=starts, lengths=lengths)
            )
            for place, data in zip(missing, fetched, strict=True):
                found[place] = bytes(data)
                self._keep(names[place], bytes(data))
        return [data for data in found if data is not None]

    def size(self, path: str) -> int:
        """Return the size of a file in bytes."""
        import obstore

        def ask() -> bytes:
            return str(self._ask(path, lambda: obstore.head(self._store, path))["size"]).encode()

        return int(self._once(f"{path}#size", ask))

    def _fetch(self, path: str) -> bytes:
        import obstore

        with waited_for(f"asking {self.place}"):
            answer = self._ask(path, lambda: obstore.get(self._store, path))
        if (size := answer.meta["size"]) > _LARGEST_FILE:
            raise DataError(f"{self.place}/{path} has {size:,} bytes, too many for a table of a store.")
        return bytes(self._ask(path, answer.bytes))

    def _ask(self, path: str, question: Callable[[], Any]) -> Any:
        """Query the server, and convert obstore's errors to OSError."""
        from obstore.exceptions import BaseError

        try:
            return question()
        except FileNotFoundError:
            raise
        except (BaseError, OSError, ValueError) as error:
            raise OSError(5, _reason(error), f"{self.place}/{path}") from None

    def _once(self, name: str, fetch: Callable[[], bytes]) -> bytes:
        data = self._held(name)
        if data is None:
            data = fetch()
            self._keep(name, data)
        return data

    def _held(self, name: str) -> bytes | None:
        with suppress(FileNotFoundError):
            return (self._kept / sha256_of(name.encode())).read_bytes() if self._kept else None
        return None

    def _keep(self, name: str, data: bytes) -> None:
        if self._kept is not None:
            write_whole(self._kept / sha256_of(name.encode()), data)


def _connect(place: str) -> Any:
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError:
        raise CallError(
            f"Reading {place} from a server needs obstore: install it with pip install "
            '"genesis-toolkit[remote]".'
        ) from None
    try:
        return from_url(place, client_options=_CLIENT, retry_config=_RETRIES)
    except (BaseError, OSError, ValueError) as error:
        raise CallError(f"{place} is not a readable address: {_reason(error)}.") from None


def _reason(error: BaseException) -> str:
    """Return the cause in plain words if it is a known one, else the first sentence of obstore's error."""
    text = str(error)
    for mark, cause in _CAUSES.items():
        if mark in text:
            return cause
    return " ".join(str(error).split("\n\nDebug source")[0].split())[:300].rstrip(".")
