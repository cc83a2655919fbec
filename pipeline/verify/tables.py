"""Whether the tables and attributes of a store agree with one another. Pure: values in, sentences out.

Each function gives pairs: the name of a table's column or of an attribute, and what is wrong, to go after it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.cubes.parameters import (
    ExtractParameters,
    ImageParameters,
    Parameters,
    box_of,
    extraction,
)
from genesis_toolkit.pipeline.degrade.recipes import Applied, Recipe
from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.store.salvage import Columns, Problem, Remains, where
from genesis_toolkit.pipeline.store.schema import KINDS, PAIRS, STATUSES, PairTable, columns_of
from genesis_toolkit.pipeline.wording import words_of

_SHA256 = re.compile("[0-9a-f]{64}")
_OF_EXTRACTION = {field.name for field in fields(ExtractParameters)} - {"size", "hu"}  # those every store has
_BOTH_PAINTED = Applied.INPAINT | Applied.OUTPAINT


def store_problems(remains: Remains) -> list[Problem]:
    """What is wrong with the tables and attributes of a cube store or pair store."""
    voxels, problems = remains.voxels, list[Problem]()
    if remains.kind and remains.attributes:
        problems += parameter_problems(remains.kind, remains.attributes)
    box = box_of(remains.cutting, voxels.shape[1:]) if voxels else None
    problems += table_problems(remains.columns, box)
    if remains.kind == PAIRS and voxels:
        made = (remains.attributes or {}).get("parameters")
        variants = made.get("variants") if isinstance(made, dict) else None
        known = variants if type(variants) is int else None
        problems += pair_problems(remains.columns, len(voxels), known, len(voxels.shape) - 1)
    return problems


def parameter_problems(kind: str, attributes: Mapping[str, Any]) -> Iterator[Problem]:
    """What is wrong with the parameters of a cube store or pair store, as far as they are parameters.

    Args:
        kind: `CUBES` or `PAIRS`.
        attributes: of a store of this version, `attrs["genesis"]`; any JSON below that.
    """
    for name in dict.fromkeys(("parameters", KINDS[kind].cutting)):
        if not isinstance(attributes.get(name), dict):
            return
        if not attributes[name]:
            yield name, "is {}, parameters by name wanted"
            return
    made = attributes[KINDS[kind].cutting]
    for name, kept in (("size", attributes.get("size")), ("hu", attributes.get("window"))):
        if name in made and made[name] != kept:
            yield f"parameters.{name}", f"is {words_of(made[name])}, and the store has {words_of(kept)}"
    if any(name in made for name in _OF_EXTRACTION):
        try:
            found = extraction(made)
        except ValueError as error:
            yield "parameters", f"are not those of extract-cubes: {error}"
        else:
            yield from _window_problems(found, attributes)
    if kind == PAIRS:
        yield from _recipe_problems(attributes["parameters"])


def table_problems(columns: Columns, box: tuple[int, ...] | None) -> list[Problem]:
    """What is wrong with the tables of scans and cubes.

    Args:
        columns: those that could be read, by name; all of one table have one length.
        box: what a cube takes up in its scan, voxels in x, y, z, see `box_of`; None where that is not known.
    """
    problems = [*_scan_problems(columns)]
    scan, scans = columns.get("scan"), columns.get("scans/cubes")
    if scan is not None and scans is not None and not ((scan < 0) | (scan >= len(scans))).any():
        problems += _count_problems(columns, scan, scans, box)
    if "tissue" in columns:
        tissue = columns["tissue"]
        problems += where(~((tissue >= 0) & (tissue <= 1)), "tissue", "is not in 0..1", "cube")
    return problems


def pair_problems(columns: Columns, cubes: int, variants: int | None, edges: int) -> list[Problem]:
    """What is wrong with the table of pairs.

    Args:
        columns: those that could be read, by name.
        cubes: how many cubes the store has.
        variants: degraded twins of each; None where that is not known.
        edges: how many a cube has.
    """
    problems = []
    pairs = max((len(columns[name]) for name in columns_of(PairTable) if name in columns), default=0)
    if pairs and variants is not None and pairs != cubes * variants:
        problems.append(("degraded", f"has {pairs:,} rows, and {cubes:,} cubes have {variants:,} twins each"))
    variant, cube = np.divmod(np.arange(pairs), max(1, cubes))
    for name, wanted in (("cube", cube), ("variant", variant)):
        if name in columns:
            problems += where(columns[name] != wanted, name, "is not that of the pair's number", "pair")
    if "flip" in columns:
        flips = 2**edges - 1
        problems += where(columns["flip"] > flips, "flip", f"is not in 0..{flips}", "pair")
    if "applied" in columns:
        applied = columns["applied"]
        wrong = (applied > sum(Applied)) | ((applied & _BOTH_PAINTED) == _BOTH_PAINTED)
        problems += where(wrong, "applied", "is no set of degradations", "pair")
    return problems


def is_sha256(value: Any) -> bool:
    """Whether a value is a sha256 in hexadecimal."""
    return isinstance(value, str) and bool(_SHA256.fullmatch(value))


def _window_problems(found: Parameters, attributes: Mapping[str, Any]) -> Iterator[Problem]:
    """Whether the store has the window and the unit of what was cut; those of CT stand in its parameters."""
    window = [found.window.low, found.window.high]
    if isinstance(found, ImageParameters) and attributes.get("window") != window:
        yield "window", f"is {words_of(attributes.get('window'))}, and images have {window}"
    if attributes.get("unit") != found.unit:
        yield "unit", f"is {words_of(attributes.get('unit'))}, and {found.unit} was cut"


def _recipe_problems(parameters: Mapping[str, Any]) -> Iterator[Problem]:
    if not is_sha256(parameters.get("cubes_sha256")):
        yield "parameters.cubes_sha256", f"is {words_of(parameters.get('cubes_sha256'))}, no sha256"
    recipe = parameters.get("recipe")
    try:
        digest = Recipe.from_json(recipe if isinstance(recipe, dict) else {}).digest()
    except (DataError, TypeError, ValueError) as error:
        yield "parameters.recipe", f"cannot be used: {error}"
        return
    if parameters.get("recipe_sha256") != digest:
        yield "parameters.recipe_sha256", "is not the sha256 of the recipe"


def _scan_problems(columns: Columns) -> Iterator[Problem]:
    status, cubes = columns.get("scans/status"), columns.get("scans/cubes")
    if cubes is not None:
        yield from where(cubes < 0, "scans/cubes", "is negative", "scan")
    if status is not None:
        unknown = ~np.isin(status, STATUSES)
        yield from where(unknown, "scans/status", f"is none of {', '.join(STATUSES)}", "scan")
        if cubes is not None:
            differs = (status == "used") != (cubes > 0)
            yield from where(differs, "scans/status", "does not go with the number of its cubes", "scan")
    if "scans/sha256" in columns:
        wrong = np.array([bool(text) and not is_sha256(text) for text in columns["scans/sha256"]], bool)
        yield from where(wrong, "scans/sha256", "is no sha256", "scan")


def _count_problems(
    columns: Columns, scan: NDArray[Any], counts: NDArray[Any], box: tuple[int, ...] | None
) -> Iterator[Problem]:
    """Numbers within scans, and corners, of cubes whose scans are all known."""
    given = np.bincount(scan, minlength=len(counts))
    yield from where(given != counts, "scans/cubes", "is not the number of its cubes", "scan")
    if "number" in columns:
        order = np.argsort(scan, kind="stable")
        wanted = np.empty(len(scan), np.int64)
        wanted[order] = np.arange(len(scan)) - np.repeat(np.cumsum(given) - given, given)
        yield from where(columns["number"] != wanted, "number", "does not count within its scan", "cube")
    corner, shape = columns.get("corner"), columns.get("scans/shape")
    if corner is not None and shape is not None and box is not None:
        # Of cubes that came without their scans nothing is known; their scans have no shape.
        known = (shape[scan] > 0).all(axis=1)
        inside = (corner >= 0).all(axis=1) & (corner.astype(np.int64) + box <= shape[scan]).all(axis=1)
        yield from where(known & ~inside, "corner", "does not lie in its scan", "cube")
