"""Complete the card of a store for publication with facts that only its publisher knows.

The voxels, tables and metadata stay as they are. The card and the Croissant file are rewritten, and the
manifest gets their new sha256.
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

_LONGEST = 4000  # characters of each text


@dataclass(frozen=True)
class Publication:
    """Facts that the publisher of a store adds to its card; an empty one keeps the software's text.

    Attributes:
        title: title of the data set.
        licence: an SPDX name, such as CC-BY-4.0, or a sentence or an address.
        citation: the reference to cite.
        contact: the person or organisation to ask.

    Raises:
        CallError: a text is longer than 4,000 characters.
    """

    title: str = ""
    licence: str = ""
    citation: str = ""
    contact: str = ""

    def __post_init__(self) -> None:
        for name, text in asdict(self).items():
            if len(text) > _LONGEST:
                raise CallError(f"--{name} has {len(text):,} characters: give at most {_LONGEST:,}.")


def publish(place: Path | str, said: Publication) -> str:
    """Rewrite the card and the Croissant file of a cube or pair store with the publisher's facts.

    Args:
        place: the folder of the store.
        said: the facts; an empty field keeps the text of an earlier call.

    Returns:
        The sha256 of the new manifest.

    Raises:
        CallError: `place` is not a folder, or holds a target store, which has no card.
        DataError: the store is damaged.
    """
    store = open_store(place, CubeStore, PairStore)
    if not isinstance(store.storage, Folder):
        raise CallError(
            f"{place} is not a folder: a card can only be written into a folder; unpack the store first."
        )
    folder, files = Path(store.storage.place), read_manifest(Path(store.storage.place))
    contents = contents_of(store)
    earlier = _said_before(json.loads((folder / CROISSANT).read_bytes()), contents)
    texts = {name: text or earlier[name] for name, text in asdict(said).items()}
    card = dataset_card(contents, **texts).encode()
    digests = {GROUP: files[GROUP], CARD: sha256_of(card)}
    voxels = (store.cubes if isinstance(store, CubeStore) else store.original).dtype.name
    described = croissant(contents, voxels, digests, **texts).encode()
    files |= {CARD: digests[CARD], CROISSANT: sha256_of(described)}
    manifest = "".join(f"{digest}  {path}\n" for path, digest in sorted(files.items())).encode()
    for name, data in ((CARD, card), (CROISSANT, described), (MANIFEST, manifest)):
        write_whole(folder / name, data)
    return sha256_of(manifest)


def _said_before(document: dict[str, Any], contents: Contents) -> dict[str, str]:
    """Return what an earlier call of `publish` wrote into a Croissant file, by the names of `Publication`."""
    plain = json.loads(croissant(contents, "", dict.fromkeys((GROUP, CARD), "")))
    name, licence = (document[key] if document[key] != plain[key] else "" for key in ("name", "license"))
    contact = document.get("publisher", {}).get("name", "")
    return {"title": name, "licence": licence, "citation": document.get("citeAs", ""), "contact": contact}
