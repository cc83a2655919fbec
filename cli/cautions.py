"""What to know before training on a store: sizes that no network takes, too little to validate on."""

from collections.abc import Sequence

import genesis_toolkit as gt
from genesis_toolkit.pipeline.degrade.recipes import RECIPES, smallest_edges
from genesis_toolkit.training.feeding.split import split_cubes

#: What every edge of a cube must be divisible by for a network of the papers, by the number of edges. Not
#: taken from the networks themselves: these import torch, which takes longer than many an extraction.
_MULTIPLES = {3: (8, "the 3D U-Net"), 2: (32, "the 2D U-Net")}


def cautions_of_size(size: Sequence[int]) -> list[str]:
    """A warning where no network or no recipe takes cubes of this size, with the two nearest that fit."""
    multiple, network = _MULTIPLES[len(size)]
    least = min(max(smallest_edges(recipe).values()) for recipe in RECIPES.values())
    if all(edge >= least and edge % multiple == 0 for edge in size):
        return []
    first = -(-least // multiple)
    smaller = [max(first, edge // multiple) * multiple for edge in size]
    larger = [max(first, -(-edge // multiple)) * multiple for edge in size]
    near = " and ".join(dict.fromkeys(",".join(map(str, edges)) for edges in (smaller, larger)))
    return [
        f"Warning: no network can be pre-trained on cubes of --size {','.join(map(str, size))}: {network} "
        f"takes edges that are multiples of {multiple}, and the recipes need {least} or more. The nearest "
        f"sizes that fit: {near}."
    ]


def cautions_of_cubes(store: gt.CubeStore) -> list[str]:
    """A warning where the cubes of a store are too few, or of too few scans, to train and to validate."""
    try:
        warning = split_cubes(store.scans, store.table, store.images).warning
    except gt.DataError as error:
        warning = str(error)
    return [f"Warning: {warning}"] if warning else []
