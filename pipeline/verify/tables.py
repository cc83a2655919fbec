"""Checks that the tables and attributes of a store are consistent. Pure: values in, sentences out.

Each function returns pairs: the name of a column or attribute, and its problem, phrased to follow the name.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
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
from genesis_toolkit.pipeline.hounsfield import GreyLevels
from genesis_toolkit.pipeline.store import schema
from genesis_toolkit.pipeline.store.salvage import Columns, Problem, Remains, where
from genesis_toolkit.pipeline.targets.findings import multi_hot
from genesis_toolkit.pipeline.targets.parameters import FindingParameters, parameters_of
from genesis_toolkit.pipeline.targets.plan import (
    FOLD_OF_SUBSET,
    TEST,
    fold_of_hash,
    fold_of_name,
    fold_of_patient,
)
from genesis_toolkit.pipeline.wording import words_of

_SHA256 = re.compile("[0-9a-f]{64}")
_OF_EXTRACTION = {field.name for field in fields(ExtractParameters)} - {
    "size",
    "hu",
    "window",
}  # parameters of other kinds of stores too
_BOTH_PAINTED = Applied.INPAINT | Applied.OUTPAINT


def store_problems(remains: Remains) -> list[Problem]:
    """Return the problems of a store's tables and attributes."""
    if remains.kind == schema.TARGETS:
        return _target_problems(remains)
    voxels, problems = remains.voxels, list[Problem]()
    if remains.kind and remains.attributes:
        problems += parameter_problems(remains.kind, remains.attributes)
    box = box_of(remains.cutting, voxels.shape[1:]) if voxels else None
    problems += table_problems(remains.columns, box)
    if remains.kind == schema.PAIRS and voxels:
        made = (remains.attributes or {}).get("parameters")
        variants = made.get("variants") if isinstance(made, dict) else None
        known = variants if type(variants) is int else None
        problems += pair_problems(remains.columns, len(voxels), known, len(voxels.shape) - 1)
    return problems


def _target_problems(remains: Remains) -> list[Problem]:
    """Return the problems of a target store's tables and attributes.

    Besides `table_problems` this checks the task and its parameters, corners, labels of images against their
    table, and that every scan or patient is in the right fold.
    """
    columns = remains.columns
    problems = [*(_attribute_problems(remains) if remains.attributes else ()), *table_problems(columns, None)]
    scan, scans = columns.get("scan"), remains.count("scans/identifier")
    if scan is None or scans is None or ((scan < 0) | (scan >= scans)).any():
        return problems
    images = schema.has_images(remains.manifest)
    of_nih = images and remains.cutting.get("layout", "nih") == "nih"
    if of_nih:
        problems += _image_problems(columns, scan, findings="label_table" not in remains.cutting)
    else:
        problems += _fold_problems(columns, scan)
    if "cubes" in remains.arrays:
        whole = "label_table" in remains.cutting and remains.cutting.get("cubes_per_scan") is None
        problems += _corner_problems(columns, scan, remains.arrays["cubes"].shape[1:], whole)
    return problems


def parameter_problems(kind: str, attributes: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the problems of the parameters of a cube store or pair store (any JSON), if it has any."""
    for name in dict.fromkeys(("parameters", schema.KINDS[kind].cutting)):
        if not isinstance(attributes.get(name), dict):
            return
        if not attributes[name]:
            yield name, "is {}, but must be parameters by name"
            return
    made = attributes[schema.KINDS[kind].cutting]
    for name, kept in (("size", attributes.get("size")), ("hu", attributes.get("window"))):
        if name in made and made[name] != kept:
            yield f"parameters.{name}", f"is {words_of(made[name])}, but the store has {words_of(kept)}"
    if any(name in made for name in _OF_EXTRACTION):
        try:
            found = extraction(made)
        except ValueError as error:
            yield "parameters", f"are not those of extract-cubes: {error}"
        else:
            yield from _window_problems(found, attributes)
    if kind == schema.PAIRS:
        yield from _recipe_problems(attributes["parameters"])


def table_problems(columns: Columns, box: tuple[int, ...] | None) -> list[Problem]:
    """Return the problems of the tables of scans and cubes, in the columns that are readable.

    `box` is the space that a cube takes up in its scan, voxels in x, y, z, see `box_of`; None if unknown.
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
    """Return the problems of the table of pairs of `cubes` cubes, in the columns that are readable.

    `variants` is the number of degraded variants per cube, None if unknown; `edges` the edges of a cube.
    """
    problems = []
    own = schema.columns_of(schema.PairTable)
    pairs = max((len(columns[name]) for name in own if name in columns), default=0)
    if pairs and variants is not None and pairs != cubes * variants:
        problems.append(
            ("degraded", f"has {pairs:,} rows instead of {variants:,} for each of {cubes:,} cubes")
        )
    variant, cube = np.divmod(np.arange(pairs), max(1, cubes))
    for name, expected in (("cube", cube), ("variant", variant)):
        if name in columns:
            problems += where(columns[name] != expected, name, "does not match the pair's number", "pair")
    if "flip" in columns:
        flips = 2**edges - 1
        problems += where(columns["flip"] > flips, "flip", f"is not in 0..{flips}", "pair")
    if "applied" in columns:
        applied = columns["applied"]
        wrong = (applied > sum(Applied)) | ((applied & _BOTH_PAINTED) == _BOTH_PAINTED)
        problems += where(wrong, "applied", "is not a set of degradations", "pair")
    return problems


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and bool(_SHA256.fullmatch(value))


def _window_problems(found: Parameters, attributes: Mapping[str, Any]) -> Iterator[Problem]:
    """Check the store's window and unit against the extraction; for CT the window is a parameter."""
    window = list(found.store_window)
    if (isinstance(found, ImageParameters) or found.mr) and attributes.get("window") != window:
        yield "window", f"is {words_of(attributes.get('window'))}, but the extraction used {window}"
    if attributes.get("unit") != found.unit:
        yield "unit", f"is {words_of(attributes.get('unit'))}, but the extraction gave {found.unit}"


def _recipe_problems(parameters: Mapping[str, Any]) -> Iterator[Problem]:
    if not _is_sha256(parameters.get("cubes_sha256")):
        yield "parameters.cubes_sha256", f"is {words_of(parameters.get('cubes_sha256'))}, not a sha256"
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
        unknown = ~np.isin(status, schema.STATUSES)
        yield from where(unknown, "scans/status", f"is none of {', '.join(schema.STATUSES)}", "scan")
        if cubes is not None:
            differs = (status == "used") != (cubes > 0)
            yield from where(differs, "scans/status", "contradicts the number of its cubes", "scan")
    if "scans/part" in columns:
        strange = columns["scans/part"] >= len(schema.PARTS)
        yield from where(strange, "scans/part", f"is none of {', '.join(schema.PARTS)}", "scan")
    if "scans/patient" in columns:
        yield from where(columns["scans/patient"] == 0, "scans/patient", "is 0, but must be a hash", "scan")
    if "scans/sha256" in columns:
        wrong = np.array([bool(text) and not _is_sha256(text) for text in columns["scans/sha256"]], bool)
        yield from where(wrong, "scans/sha256", "is not a sha256", "scan")


def _count_problems(
    columns: Columns, scan: NDArray[Any], counts: NDArray[Any], box: tuple[int, ...] | None
) -> Iterator[Problem]:
    """Check the numbers within scans, and the corners, of cubes whose scans are all known."""
    given = np.bincount(scan, minlength=len(counts))
    yield from where(given != counts, "scans/cubes", "differs from the number of its cubes", "scan")
    if "number" in columns:
        order = np.argsort(scan, kind="stable")
        expected = np.empty(len(scan), np.int64)
        expected[order] = np.arange(len(scan)) - np.repeat(np.cumsum(given) - given, given)
        yield from where(columns["number"] != expected, "number", "does not count within its scan", "cube")
    corner, shape = columns.get("corner"), columns.get("scans/shape")
    if corner is not None and shape is not None and box is not None:
        # Cubes imported without scans have no known corner; their scans have no shape.
        known = (shape[scan] > 0).all(axis=1)
        inside = (corner >= 0).all(axis=1) & (corner.astype(np.int64) + box <= shape[scan]).all(axis=1)
        yield from where(known & ~inside, "corner", "is outside its scan", "cube")


def _attribute_problems(remains: Remains) -> Iterator[Problem]:
    attributes = remains.attributes or {}
    if attributes.get("folds") != list(schema.FOLDS):
        yield "folds", f"is {words_of(attributes.get('folds'))}, but must be {words_of(list(schema.FOLDS))}"
    made = attributes.get("parameters")
    if not isinstance(made, dict):
        return
    if not _is_sha256(made.get("source_sha256")):
        yield "parameters.source_sha256", f"is {words_of(made.get('source_sha256'))}, not a sha256"
    try:
        found = parameters_of(made)
    except ValueError as error:
        yield "parameters", f"are not those of extract-targets: {error}"
        return
    entries = {"task": found.task, "classes": list(found.classes), "size": list(found.size)}
    entries |= {"window": list(found.store_window), "unit": found.unit}
    for name, value in entries.items():
        if attributes.get(name) != value:
            yield name, f"is {words_of(attributes.get(name))}, but the parameters mean {words_of(value)}"
    there = schema.has_images(remains.manifest)
    if there != isinstance(found, GreyLevels):
        yield "images", "exist, but the task has none" if there else "are missing, but the task needs them"


def _fold_problems(columns: Columns, scan: NDArray[np.int32]) -> Iterator[Problem]:
    """Check folds of CT scans: by part, LUNA16's subset, or the hash of the patient or the identifier."""
    fold, subset, names = (columns.get(name) for name in ("fold", "scans/subset", "scans/identifier"))
    if subset is None:
        return
    strange = (subset < -1) | (subset >= len(FOLD_OF_SUBSET))
    yield from where(strange, "scans/subset", f"is neither in 0..{len(FOLD_OF_SUBSET) - 1} nor -1", "scan")
    if fold is None or names is None or strange.any():
        return
    hashes, part = columns.get("scans/patient"), columns.get("scans/part")
    whose = (
        [fold_of_name(str(name)) for name in names] if hashes is None else map(fold_of_hash, hashes.tolist())
    )
    dealt = [
        own if number < 0 else FOLD_OF_SUBSET[number]
        for number, own in zip(subset.tolist(), whose, strict=True)
    ]
    dealt = dealt if part is None else part.tolist()
    wrong = (fold != np.array(dealt, np.uint8)[scan]) & (fold < len(schema.FOLDS))
    yield from where(wrong, "fold", "differs from the fold of its scan", "cube")


def _image_problems(columns: Columns, scan: NDArray[np.int32], findings: bool) -> Iterator[Problem]:
    """Check NIH's images: labels equal the table's findings, where applicable, and one fold per patient."""
    fold, labels = columns.get("fold"), columns.get("labels")
    patient, entries = columns.get("images/patient"), columns.get("images/labels")
    if findings and entries is not None and labels is not None:
        known, row = np.unique(entries[scan], return_inverse=True)
        hot = [_multi_hot(str(one)) for one in known]
        strange = np.array([one is None for one in hot], bool)[row]
        yield from where(strange, "images/labels", "are not findings of NIH", "cube")
        rows = np.array([one or [0] * len(FindingParameters.classes) for one in hot], np.uint8)[row]
        if rows.shape == labels.shape:
            differs = (rows != labels).any(axis=1) & ~strange
            yield from where(differs, "labels", "contradicts images/labels", "cube")
    if fold is not None and patient is not None:
        people, first, row = np.unique(patient[scan], return_index=True, return_inverse=True)
        dealt = np.array([fold_of_patient(str(name)) for name in people], np.uint8)
        dealt[fold[first] == TEST] = TEST
        part = columns.get("scans/part")
        wrong = (fold != (dealt[row] if part is None else part[scan])) & (fold < len(schema.FOLDS))
        yield from where(wrong, "fold", "differs from the fold of its patient", "cube")


def _corner_problems(
    columns: Columns, scan: NDArray[np.int32], size: tuple[int, ...], whole: bool
) -> Iterator[Problem]:
    corner, shape = columns.get("corner"), columns.get("scans/shape")
    if corner is None or shape is None:
        return
    if whole or len(size) == 2:
        what = "image" if len(size) == 2 else "scan"
        yield from where(
            np.any(corner != 0, axis=1), "corner", f"differs from that of a whole {what}", "cube"
        )
        return
    room = shape[scan].astype(np.int64) - size
    # A scan smaller than a cube is in the cube's middle.
    right = np.where(room < 0, corner == room // 2, (corner >= 0) & (corner <= room))
    yield from where(~np.all(right, axis=1), "corner", "is outside its scan", "cube")


def _multi_hot(findings: str) -> list[int] | None:
    with suppress(DataError):
        return multi_hot("", findings)
    return None
