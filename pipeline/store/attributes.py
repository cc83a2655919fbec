"""What a store says of itself, and whether it is a finished one of ours: looked at before all else of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import LOG, MANIFEST, AnyPath, unfinished
from genesis_toolkit.pipeline.store.metadata import MOST_METADATA, parse_json
from genesis_toolkit.pipeline.store.salvage import ROOT
from genesis_toolkit.pipeline.store.schema import KINDS
from genesis_toolkit.pipeline.store.storage import (
    ARCHIVE,
    Archive,
    Folder,
    Storage,
    is_url,
    not_as_written,
    read_within,
)
from genesis_toolkit.pipeline.wording import words_of

_LONGEST_VERSION = 40


def finished_storage(place: AnyPath, kinds: Sequence[str] = tuple(KINDS)) -> Storage:
    """Where a store of one of these kinds lies: a folder, an archive, or a server.

    Raises:
        CallError: there is nothing, it is still being made, or it is of a kind that is not read.
        DataError: an archive that cannot be read.
    """
    if is_url(place):
        from genesis_toolkit.pipeline.store.remote import Remote

        return Remote(str(place))
    path = Path(place)
    if not path.exists():
        if unfinished(path).exists():
            raise CallError(f"{place} is not finished: repeat the command that makes it, and it goes on.")
        raise CallError(f"There is no store at {place}: make one with genesis-prep {KINDS[kinds[0]].maker}.")
    if path.is_file():
        if path.suffix.lower() != ARCHIVE:
            raise CallError(f"{path} is no store: a folder, a {ARCHIVE} archive or a URL is wanted.")
        return Archive(path)
    return Folder(path)


def attributes_of(storage: Storage, kinds: Sequence[str]) -> dict[str, Any]:
    """What a store of one of these kinds says of itself, once format and version are known to be ours.

    Raises:
        CallError: it is something else, or is still being made.
        DataError: it is of another format version, or damaged.
    """
    place = storage.place
    try:
        attributes = parse_json(read_within(storage, ROOT, MOST_METADATA))["attributes"]["genesis"]
        name, version, finalised = attributes["format"], attributes["version"], attributes["finalised"]
    except DataError as error:
        raise DataError(f"{place}/{ROOT} {error}." if storage.near else str(error)) from None
    except (OSError, ValueError, KeyError, TypeError):
        if _is_there(storage, MANIFEST):
            raise not_as_written(place, ROOT) from None
        raise CallError(
            f"{place} is no store of this toolkit, which genesis-prep makes: no zarr.json in it says so."
        ) from None
    if name not in kinds or not isinstance(attributes, dict):
        found = KINDS[name].noun if isinstance(name, str) and name in KINDS else f"{words_of(name)} store"
        wanted = " or ".join(f"a {KINDS[kind].noun}, as {KINDS[kind].maker} makes it" for kind in kinds)
        raise CallError(f"{place} is a {found}, and this takes {wanted}.")
    if version != (ours := KINDS[name].version):
        raise DataError(
            f"{place} is of format version {version}, this program reads version {ours}: use the "
            f"genesis-toolkit that wrote it{_written_by(storage)}, or a later one."
        )
    if not finalised:
        raise CallError(f"{place} is not finished: repeat the command that makes it.")
    return dict(attributes)


def _is_there(storage: Storage, path: str) -> bool:
    try:
        storage.size(path)
    except (OSError, DataError):
        return False
    return True


def read_log(storage: Storage) -> dict[str, Any]:
    """The facts of the run that made a store, any JSON by name; none where its log cannot be read."""
    try:
        return dict(parse_json(read_within(storage, LOG, MOST_METADATA)))
    except (OSError, DataError, ValueError, TypeError):
        return {}


def _written_by(storage: Storage) -> str:
    """The version of this toolkit that wrote a store, in brackets, where its log tells."""
    version = read_log(storage).get("genesis-toolkit")
    return f" (version {version})" if isinstance(version, str) and len(version) < _LONGEST_VERSION else ""
