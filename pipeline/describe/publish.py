"""A card that can be published: what the software cannot know, said by those who hand a store on.

The voxels, tables and metadata stay as they are. The card and the Croissant file are written anew, and the
manifest is told of them.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from genesis_toolkit.pipeline.describe.card import CARD, dataset_card
from genesis_toolkit.pipeline.describe.croissant import CROISSANT, GROUP, croissant
from genesis_toolkit.pipeline.describe.facts import Contents, contents_of
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.ledger import MANIFEST, read_manifest, sha256_of, write_whole
from genesis_toolkit.pipeline.store.open import CubeStore, PairStore, open_store
from genesis_toolkit.pipeline.store.storage import Folder

_LONGEST = 4000  # letters of one of them


@dataclass(frozen=True)
class Publication:
    """What those who hand a store on say of it; what is empty stays as the software says it.

    Attributes:
        title: of the data set.
        licence: its SPDX name, such as CC-BY-4.0, or a sentence or address.
        citation: what to cite.
        contact: whom to ask.

    Raises:
        CallError: one is longer than 4,000 letters.
    """

    title: str = ""
    licence: str = ""
    citation: str = ""
    contact: str = ""

    def __post_init__(self) -> None:
        for name, text in asdict(self).items():
            if len(text) > _LONGEST:
                raise CallError(f"--{name} has {len(text):,} letters: give {_LONGEST:,} at most.")


def publish(place: Path | str, said: Publication) -> str:
    """Write the card and the Croissant file of a cube or pair store with what is said; what was said stays.

    Args:
        place: a folder.
        said: of which empty fields leave what an earlier call said.

    Returns:
        The sha256 of the new manifest.

    Raises:
        CallError: it is no folder, or a target store, which has no card.
        DataError: the store is damaged.
    """
    store = open_store(place, CubeStore, PairStore)
    if not isinstance(store.storage, Folder):
        raise CallError(f"{place}: a card is written into a folder alone; unpack the store first.")
    folder, files = Path(store.storage.place), read_manifest(Path(store.storage.place))
    contents = contents_of(store)
    earlier = _said_before(json.loads((folder / CROISSANT).read_bytes()), contents)
    told = {name: text or earlier[name] for name, text in asdict(said).items()}
    card = dataset_card(contents, **told).encode()
    digests = {GROUP: files[GROUP], CARD: sha256_of(card)}
    voxels = (store.cubes if isinstance(store, CubeStore) else store.original).dtype.name
    described = croissant(contents, voxels, digests, **told).encode()
    files |= {CARD: digests[CARD], CROISSANT: sha256_of(described)}
    manifest = "".join(f"{digest}  {path}\n" for path, digest in sorted(files.items())).encode()
    for name, data in ((CARD, card), (CROISSANT, described), (MANIFEST, manifest)):
        write_whole(folder / name, data)
    return sha256_of(manifest)


def _said_before(document: dict[str, Any], contents: Contents) -> dict[str, str]:
    """What a Croissant file says that `publish` wrote, by the names of `Publication`."""
    plain = json.loads(croissant(contents, "", dict.fromkeys((GROUP, CARD), "")))
    name, licence = (document[key] if document[key] != plain[key] else "" for key in ("name", "license"))
    contact = document.get("publisher", {}).get("name", "")
    return {"title": name, "licence": licence, "citation": document.get("citeAs", ""), "contact": contact}
