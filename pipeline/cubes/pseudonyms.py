"""Pseudonyms for stores that are handed on: hashes under a secret key in the place of what names a scan.

HMAC-SHA256 (RFC 2104) under a key that stays in a file of its own. One key gives one name always the same
pseudonym, in every store that is made with it, and every part of a path has a pseudonym of its own, so the
scans of one patient's folder stay together. What is hashed for one purpose is no hash for another.
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
_MOST_BYTES = 4096  # a key, not some other file by mistake
_NAME_DIGITS = 32  # 128 bits: no two of any number of names come to the same
_FINGERPRINT_DIGITS = 16

#: In the place of a reason, since it may name files, or repeat what a header says.
WITHHELD = "left out, since a reason may tell names (--anonymize)"


@dataclass(frozen=True)
class Key:
    """A secret, and the pseudonyms that it gives.

    Attributes:
        path: the file that holds it.
        secret: its bytes.
        drawn: whether it was made just now and does not lie in its file yet, see `keep`.
    """

    path: Path
    secret: bytes = field(repr=False)
    drawn: bool

    @property
    def fingerprint(self) -> str:
        """What tells this key from others and gives nothing of it away; stands in the store."""
        return self._hash("key", "")[:_FINGERPRINT_DIGITS]

    def name(self, text: str) -> str:
        """The pseudonym of an identifier or a path, part by part: `patient/series` becomes `4f../a0..`."""
        return "/".join(self._hash("name", part)[:_NAME_DIGITS] for part in text.split("/"))

    def patient(self, text: str) -> str:
        """The pseudonym of a patient, by which the images of one stay together; of none, none."""
        return self._hash("patient", text)[:_NAME_DIGITS] if text else ""

    def number(self, whose: int) -> int:
        """What stands for the hash of a patient in a table of scans, 64 bits; of none, 0."""
        return int(self._hash("patient", str(whose))[:16], 16) if whose else 0

    def digest(self, sha256: str) -> str:
        """What stands for the sha256 of files, by which anyone could look up a scan that is public."""
        return self._hash("file", sha256) if sha256 else ""

    def keep(self) -> None:
        """Write a key that was drawn into its file, for its owner alone to read.

        Raises:
            CallError: the file cannot be written, or has come into being meanwhile.
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
                f"The key {self.path} cannot be written: {error.strerror}. Choose another place for it."
            ) from None

    def _hash(self, purpose: str, text: str) -> str:
        return hmac.digest(self.secret, f"{purpose}\0{text}".encode(), "sha256").hex()


def read_key(path: Path) -> Key:
    """Read a key, or draw one where there is no file; it is then written by `Key.keep`.

    White space at either end does not count, so that an editor's last line break makes no other key.

    Raises:
        CallError: it cannot be read, is too short or too long to be a key, or would lie in a store.
    """
    if not path.exists():
        check_place(path)
        if not path.parent.is_dir():
            raise CallError(f"--anonymize {path}: there is no folder {path.parent} to put a key in.")
        return Key(path, secrets.token_hex(_KEY_BYTES).encode(), drawn=True)
    try:
        check_file(path)
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except (DataError, OSError) as error:
        raise CallError(f"--anonymize {path}: {error}: give a file that holds a key.") from None
    secret = data.strip()
    if not _KEY_BYTES <= len(secret) <= _MOST_BYTES:
        found = f"more than {_MOST_BYTES}" if len(data) > _MOST_BYTES else len(secret)
        raise CallError(
            f"--anonymize {path}: it holds {found} bytes, and a key has {_KEY_BYTES} to {_MOST_BYTES}: give "
            "the name of a file that does not exist, and a key is made."
        )
    return Key(path, secret, drawn=False)
