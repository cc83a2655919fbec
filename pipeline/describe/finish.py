"""The last step of making a store: its card and its Croissant file."""

from pathlib import Path
from typing import Any

import numpy as np

from genesis_toolkit.pipeline.describe.card import CARD, dataset_card
from genesis_toolkit.pipeline.describe.croissant import CROISSANT, GROUP, croissant
from genesis_toolkit.pipeline.describe.facts import Contents
from genesis_toolkit.pipeline.ledger import sha256_of, write_whole


def finish(folder: Path, contents: Contents, dtype: np.dtype[Any]) -> None:
    """Write the card and the Croissant file of a store whose metadata is written.

    Args:
        folder: the store under construction.
        contents: of the store.
        dtype: of the voxels.
    """
    card = dataset_card(contents).encode()
    digests = {GROUP: sha256_of((folder / GROUP).read_bytes()), CARD: write_whole(folder / CARD, card)}
    write_whole(folder / CROISSANT, croissant(contents, dtype.name, digests).encode())
