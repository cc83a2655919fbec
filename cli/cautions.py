"""Cautions before training on a store: cube sizes that no network accepts, too little to validate on."""

from collections.abc import Sequence

import genesis_toolkit as gt
from genesis_toolkit.pipeline.degrade.recipes import RECIPES, smallest_edges
from genesis_toolkit.training.feeding.split import split_cubes

#: Required divisor of every edge of a cube for the networks of the papers, by the number of edges. Not
#: read from the networks themselves: these import torch, which takes longer than many extractions.
_MULTIPLES = {3: (8, "the 3D U-Net"), 2: (32, "the 2D U-Net")}


def cautions_of_size(size: Sequence[int]) -> list[str]:
    """Return a warning if no network or no recipe accepts this cube size, with the two nearest that fit."""
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
        f"needs edges that are multiples of {multiple}, and the recipes at least {least}. Nearest "
        f"valid sizes: {near}."
    ]


def cautions_of_cubes(store: gt.CubeStore) -> list[str]:
    """Return a warning if a store has too few cubes, or cubes from too few scans, to train and validate."""
    try:
        warning = split_cubes(store.scans, store.table, store.images).warning
    except gt.DataError as error:
        warning = str(error)
    return [f"Warning: {warning}"] if warning else []
