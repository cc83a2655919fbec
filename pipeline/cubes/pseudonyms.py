"""Pseudonyms for stores that are passed on: keyed hashes that replace everything that identifies a scan.

HMAC-SHA256 (RFC 2104) with a key that stays in a separate file. With one key a name has the same pseudonym in
every store, and every part of a path has its own, so the scans in one patient's folder stay together. Hashes
for different purposes differ.
"""

import hmac
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.scans.files import check_file
from genesis_toolkit.pipeline.store.write import check_place

_KEY_BYTES = 32
_MOST_BYTES = 4096  # length of a key; a larger file was given by mistake
_NAME_DIGITS = 32  # 128 bits, so collisions are ruled out
_FINGERPRINT_DIGITS = 16

#: Replaces a reason, since it may contain names or quote a header.
WITHHELD = "withheld, since it may contain names (--anonymize)"


@dataclass(frozen=True)
class Key:
    """A secret, and the pseudonyms derived from it.

    Attributes:
        path: the file that holds it.
        secret: its bytes.
        drawn: whether it is new and not yet written to its file, see `keep`.
    """

    path: Path
    secret: bytes = field(repr=False)
    drawn: bool

    @property
    def fingerprint(self) -> str:
        """Return a value that identifies this key without revealing it; stored with the pseudonyms."""
        return self._hash("key", "")[:_FINGERPRINT_DIGITS]

    def name(self, text: str) -> str:
        """Return the pseudonym of an identifier or a path, part by part: `patient/series` -> `4f../a0..`."""
        return "/".join(self._hash("name", part)[:_NAME_DIGITS] for part in text.split("/"))

    def patient(self, text: str) -> str:
        """Return the pseudonym of a patient, which keeps their images together; empty for no patient."""
        return self._hash("patient", text)[:_NAME_DIGITS] if text else ""

    def number(self, whose: int) -> int:
        """Return the pseudonym of a patient's hash in a table of scans, 64 bits; 0 for no patient."""
        return int(self._hash("patient", str(whose))[:16], 16) if whose else 0

    def digest(self, sha256: str) -> str:
        """Return the pseudonym of a file's sha256, which would otherwise identify a public scan."""
        return self._hash("file", sha256) if sha256 else ""

    def keep(self) -> None:
        """Write a new key to its file, readable by its owner only.

        Raises:
            CallError: the file cannot be written, or has been created meanwhile.
        """
        if not self.drawn:
            return
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(self.secret + b"\n")
                file.flush()
                os.fsync(descriptor)
        except OSError as error:
            raise CallError(
                f"The key {self.path} cannot be written: {error.strerror}. Choose another location for it."
            ) from None

    def _hash(self, purpose: str, text: str) -> str:
        return hmac.digest(self.secret, f"{purpose}\0{text}".encode(), "sha256").hex()


def read_key(path: Path) -> Key:
    """Read a key, or generate one if the file does not exist; `Key.keep` then writes it.

    White space at either end is ignored, so that an editor's final line break does not change the key.

    Raises:
        CallError: it cannot be read, has an invalid length, or would be inside a store.
    """
    if not path.exists():
        check_place(path)
        if not path.parent.is_dir():
            raise CallError(
                f"--anonymize {path} is in a folder that does not exist: create "
                f"{path.parent}, or choose another location for the key."
            )
        return Key(path, secrets.token_hex(_KEY_BYTES).encode(), drawn=True)
    try:
        check_file(path)
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except (DataError, OSError) as error:
        raise CallError(
            f"--anonymize {path} cannot be used: {error}. Give a file that holds a key."
        ) from None
    secret = data.strip()
    if not _KEY_BYTES <= len(secret) <= _MOST_BYTES:
        found = f"more than {_MOST_BYTES}" if len(data) > _MOST_BYTES else len(secret)
        raise CallError(
            f"--anonymize {path} holds {found} bytes, but a key has {_KEY_BYTES} to "
            f"{_MOST_BYTES}: to generate a key, give the name of a file that does not exist "
            "yet."
        )
    return Key(path, secret, drawn=False)
