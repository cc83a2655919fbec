"""Packs a finished store into one file: a zip archive with uncompressed members.

Its bytes depend only on the store's: members sorted by name, one fixed date, no permissions. The log of the
run, with times and versions, is left out.
"""

import hashlib
import zipfile
from pathlib import Path

from genesis_toolkit.pipeline.engine import counting
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.ledger import MANIFEST, AnyPath, whole_file
from genesis_toolkit.pipeline.progress import Bars, Progress, callback, shows
from genesis_toolkit.pipeline.store.open import open_store
from genesis_toolkit.pipeline.store.storage import ARCHIVE, not_as_written
from genesis_toolkit.pipeline.store.write import check_place

_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that zip supports
_BLOCK = 1 << 20


@shows(Bars)
def pack_store(
    store: AnyPath, archive: AnyPath, *, overwrite: bool = False, progress: Progress | bool = False
) -> int:
    """Pack a finished store into one archive, which can be read like the store, without unpacking.

    Args:
        store: the folder of the store.
        archive: the file to make, ending in `.zip`; it appears only once it is complete.
        overwrite: replace an existing file.
        progress: True shows bars on stderr; a callback receives the progress.

    Returns:
        The size of the archive in bytes.

    Raises:
        CallError: there is no store, or something is in the way.
        DataError: a file of the store contradicts its manifest.
    """
    report = callback(progress)
    store, archive = Path(store), Path(archive)
    opened = open_store(store)
    folder = opened.path
    if archive.suffix.lower() != ARCHIVE:
        raise CallError(f"{archive} does not end in {ARCHIVE}: give a name such as {store.name}{ARCHIVE}.")
    check_place(archive)
    if archive.is_dir() or (archive.exists() and not overwrite):
        raise CallError(f"{archive} exists: choose another name, or replace the file with --overwrite.")
    digests = {**opened.manifest, MANIFEST: opened.manifest_sha256}
    count = counting(report, "files", len(digests), 0)
    with whole_file(archive) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as packed:
        for path in sorted(digests):
            _add(packed, folder, path, digests[path])
            count(path)
    return archive.stat().st_size


def _add(packed: zipfile.ZipFile, folder: Path, path: str, digest: str) -> None:
    """Add one file, comparing it with the manifest once more."""
    member = zipfile.ZipInfo(path, _DATE)
    member.create_system = 3  # the same on every system
    member.external_attr = 0o644 << 16
    member.file_size = (folder / path).stat().st_size
    found = hashlib.sha256()
    with (folder / path).open("rb") as source, packed.open(member, "w") as target:
        while block := source.read(_BLOCK):
            found.update(block)
            target.write(block)
    if found.hexdigest() != digest:
        raise not_as_written(str(folder), path, "has changed since it was written")
