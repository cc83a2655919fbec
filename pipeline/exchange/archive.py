"""A finished store in one file: a zip archive whose members are stored as they are.

Its bytes depend on the store's alone: members sorted by name, one date for all, no permissions. The log of
the run, which says when and by what the store was made, stays behind.
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

_DATE = (1980, 1, 1, 0, 0, 0)  # the first that zip knows
_BLOCK = 1 << 20


@shows(Bars)
def pack_store(
    store: AnyPath, archive: AnyPath, *, overwrite: bool = False, progress: Progress | bool = False
) -> int:
    """Put a finished store into one archive, which is read as the store is, without unpacking.

    Args:
        store: the folder of the store.
        archive: the file to make, ending in `.zip`; it is there whole or not at all.
        overwrite: replace a file that is there.
        progress: True shows bars on stderr; a callback is told as the work goes on.

    Returns:
        The bytes of the archive.

    Raises:
        CallError: no store, or something in the way.
        DataError: a file of the store is not as its manifest says.
    """
    report = callback(progress)
    store, archive = Path(store), Path(archive)
    opened = open_store(store)
    folder = opened.path
    if archive.suffix.lower() != ARCHIVE:
        raise CallError(f"{archive} does not end in {ARCHIVE}: give a name such as {store.name}{ARCHIVE}.")
    check_place(archive)
    if archive.is_dir() or (archive.exists() and not overwrite):
        raise CallError(f"{archive} exists: choose another name, or give --overwrite to replace the file.")
    digests = {**opened.manifest, MANIFEST: opened.manifest_sha256}
    count = counting(report, "files", len(digests), 0)
    with whole_file(archive) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as packed:
        for path in sorted(digests):
            _add(packed, folder, path, digests[path])
            count(path)
    return archive.stat().st_size


def _add(packed: zipfile.ZipFile, folder: Path, path: str, digest: str) -> None:
    """Add one file, once more comparing it with the manifest."""
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
        raise not_as_written(str(folder), path, "not as it was written")
