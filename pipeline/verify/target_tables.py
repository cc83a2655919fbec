"""Whether the tables and attributes of a target store agree. Pure: values in, sentences out."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.store.salvage import Columns, Problem, Remains, where
from genesis_toolkit.pipeline.store.schema import FOLDS, has_images
from genesis_toolkit.pipeline.targets.findings import fold_of_patient, multi_hot
from genesis_toolkit.pipeline.targets.parameters import (
    FindingParameters,
    TargetParameters,
    parameters_of,
)
from genesis_toolkit.pipeline.targets.plan import SUBSETS, TEST, fold_of_name, fold_of_subset
from genesis_toolkit.pipeline.verify.tables import is_sha256, table_problems
from genesis_toolkit.pipeline.wording import words_of


def target_problems(remains: Remains) -> list[Problem]:
    """What is wrong with the tables and attributes of a target store.

    Besides what `tables.table_problems` looks at: the task and what it is asked for with, the
    corner of every cube, labels of 0 and 1, of X-ray images those that the table of images says, and that all
    cubes of a scan, and all images of a patient, are in the fold that the scan or patient is dealt to.

    Returns:
        The name of a table's column or of an attribute, and what is wrong, to go after it.
    """
    columns = remains.columns
    problems = list(_attribute_problems(remains)) if remains.attributes else []
    problems += table_problems(columns, None)
    scan, scans = columns.get("scan"), remains.count("scans/identifier")
    if scan is None or scans is None or ((scan < 0) | (scan >= scans)).any():
        return problems
    images = has_images(remains.manifest)
    problems += _image_problems(columns, scan) if images else _fold_problems(columns, scan)
    if "cubes" in remains.arrays:
        problems += _corner_problems(columns, scan, remains.arrays["cubes"].shape[1:])
    return problems


def _attribute_problems(remains: Remains) -> Iterator[Problem]:
    attributes = remains.attributes or {}
    if attributes.get("folds") != list(FOLDS):
        yield "folds", f"is {words_of(attributes.get('folds'))}, {words_of(list(FOLDS))} wanted"
    made = attributes.get("parameters")
    if not isinstance(made, dict):
        return
    if not is_sha256(made.get("source_sha256")):
        yield "parameters.source_sha256", f"is {words_of(made.get('source_sha256'))}, no sha256"
    try:
        found = parameters_of(made)
    except ValueError as error:
        yield "parameters", f"are not those of extract-targets: {error}"
        return
    for name, value in _told_by(found).items():
        if attributes.get(name) != value:
            yield name, f"is {words_of(attributes.get(name))}, and with these parameters {words_of(value)}"
    there = has_images(remains.manifest)
    if there != isinstance(found, FindingParameters):
        yield "images", f"are {'' if there else 'not '}there, and the task has {'none' if there else 'them'}"


def _told_by(parameters: TargetParameters) -> Mapping[str, Any]:
    """The attributes that hang on the parameters."""
    return {
        "task": parameters.task,
        "classes": list(parameters.classes),
        "size": list(parameters.size),
        "window": [parameters.window.low, parameters.window.high],
        "unit": parameters.unit,
    }


def _fold_problems(columns: Columns, scan: NDArray[np.int32]) -> Iterator[Problem]:
    """Of CT scans: the fold of LUNA16's subset, or of the hash of the identifier where there is none."""
    fold, subset, names = (columns.get(name) for name in ("fold", "scans/subset", "scans/identifier"))
    if subset is None:
        return
    strange = (subset < -1) | (subset >= SUBSETS)
    yield from where(strange, "scans/subset", f"is none of 0..{SUBSETS - 1}, nor -1", "scan")
    if fold is None or names is None or strange.any():
        return
    dealt = [
        fold_of_name(str(name)) if number < 0 else fold_of_subset(number)
        for number, name in zip(subset.tolist(), names, strict=True)
    ]
    wrong = (fold != np.array(dealt, np.uint8)[scan]) & (fold < len(FOLDS))
    yield from where(wrong, "fold", "is not that of its scan", "cube")


def _image_problems(columns: Columns, scan: NDArray[np.int32]) -> Iterator[Problem]:
    """Of X-ray images: the findings of the table, and one fold a patient."""
    fold, labels = columns.get("fold"), columns.get("labels")
    patient, findings = columns.get("images/patient"), columns.get("images/labels")
    if findings is not None and labels is not None:
        known, row = np.unique(findings[scan], return_inverse=True)
        hot = [_multi_hot(str(one)) for one in known]
        strange = np.array([one is None for one in hot], bool)[row]
        yield from where(strange, "images/labels", "are none of NIH's findings", "cube")
        rows = np.array([one or [0] * len(FindingParameters.classes) for one in hot], np.uint8)[row]
        if rows.shape == labels.shape:
            differs = (rows != labels).any(axis=1) & ~strange
            yield from where(differs, "labels", "is not what images/labels says", "cube")
    if fold is not None and patient is not None:
        people, first, row = np.unique(patient[scan], return_index=True, return_inverse=True)
        dealt = [
            TEST if one == TEST else fold_of_patient(str(name))
            for name, one in zip(people, fold[first].tolist(), strict=True)
        ]
        wrong = (fold != np.array(dealt, np.uint8)[row]) & (fold < len(FOLDS))
        yield from where(wrong, "fold", "is not that of its patient", "cube")


def _corner_problems(columns: Columns, scan: NDArray[np.int32], size: tuple[int, ...]) -> Iterator[Problem]:
    corner, shape = columns.get("corner"), columns.get("scans/shape")
    if corner is None or shape is None:
        return
    if len(size) == 2:  # whole images
        yield from where(np.any(corner != 0, axis=1), "corner", "is not that of a whole image", "cube")
        return
    room = shape[scan].astype(np.int64) - size
    # Where the scan is smaller than a cube it lies in the cube's middle.
    right = np.where(room < 0, corner == room // 2, (corner >= 0) & (corner <= room))
    yield from where(~np.all(right, axis=1), "corner", "does not lie in its scan", "cube")


def _multi_hot(findings: str) -> list[int] | None:
    try:
        return multi_hot("", findings)
    except DataError:
        return None
