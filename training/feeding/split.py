"""Which cubes train and which validate: a pure function of a store's tables (METHOD.md section 2)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.rng import stream_key
from genesis_toolkit.pipeline.store.schema import PARTS, CubeTable, ImageTable, ScanTable

#: LUNA16's folds (METHOD.md section 2): the last three are the test set of the nodule task.
TRAIN_SUBSETS = range(5)
VALIDATION_SUBSETS = range(5, 7)
TEST_SUBSETS = range(7, 10)

#: Where there are no such subsets, one scan or patient in so many validates; with a single one, one cube in
#: so many.
ONE_IN = 10

_ONE_PATIENT = (
    "All scans are of one patient, so scans are held out, not patients: the validation loss flatters. "
    "Extract from more patients for an honest figure."
)


@dataclass(frozen=True)
class Split:
    """The cubes of a store, dealt into two parts that share none.

    Attributes:
        train: int64 [cube], indices into the store, ascending.
        validation: int64 [cube], likewise.
        rule: how they were told apart, in words.
        warning: what to keep in mind when reading the validation loss; None where there is nothing.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    rule: str
    warning: str | None = None


def split_cubes(scans: ScanTable, cubes: CubeTable, images: ImageTable | None = None) -> Split:
    """Deal the cubes of a store into training and validation.

    By the parts of a split file where there was one. By LUNA16's subsets (0-4 train, 5-6 validate) where both
    sides have cubes. Else by patient where the store tells, or by scan: those whose key is divisible by ten
    validate, or the one with the smallest key where there is none such. The scans of a single patient are
    split by scan, a single scan by cubes, every tenth. Subsets 7-9 take no part as long as there is anything
    else: they are the test set of the nodule task, so training on them leaks.

    X-ray images are split by patient in the same way, with a key made of the patient's name, because images
    of a patient are alike (METHOD.md section 5). A store with pseudonyms has other names, so other patients
    validate.

    There is one row of `images` a row of `scans` where the store is of X-ray images.

    Raises:
        DataError: there are fewer than two cubes to deal, or a split file gave one side none.
    """
    if scans.part is not None:
        return _by_parts(scans.part[cubes.scan])
    subset = scans.subset[cubes.scan]
    train = np.flatnonzero(np.isin(subset, TRAIN_SUBSETS))
    validation = np.flatnonzero(np.isin(subset, VALIDATION_SUBSETS))
    noun = "cube" if images is None else "image"
    if train.size and validation.size:
        rule = "LUNA16 subsets 0-4 train, 5-6 validate"
        return Split(train, validation, rule, _few(validation, noun))

    tested = np.isin(subset, TEST_SUBSETS)
    usable = np.flatnonzero(~tested)
    rule, warning = "", None
    if not usable.size:
        usable = np.flatnonzero(tested)
        warning = (
            "All cubes are of LUNA16 subsets 7-9, the test set of the nodule task: "
            "do not judge these weights on that task."
        )
    elif tested.any():
        rule = "; subsets 7-9 left out"
    if usable.size < 2:
        raise DataError(
            f"There is {usable.size or 'no'} cube to learn from: training and validation need one each, at "
            "least. Extract more cubes, or more scans."
        )
    told = scans.patient is not None or (images is not None and any(images.patient.tolist()))
    whose, kind = "patient" if told else "scan", "cubes" if images is None else "images"
    key = _keys(scans, images)[cubes.scan[usable]]
    stream = scans.stream[cubes.scan[usable]]
    if images is None and np.unique(key).size == 1 < np.unique(stream).size:
        key, whose, told = stream, "scan", False
        warning = " ".join(filter(None, [warning, _ONE_PATIENT]))
    present = np.unique(key)
    if present.size == 1:
        held_out = np.arange(usable.size) % ONE_IN == 0
        rule = f"a single {whose}: one of {ONE_IN} {kind} validates{rule}"
        alike = "neighbouring cubes overlap" if images is None else "images of a patient are alike"
        overlap = (
            f"All {kind} are of one {whose}, so {kind} are held out, not {whose}s: {alike}, and the "
            f"validation loss flatters. Extract from more {whose}s for an honest figure."
        )
        warning = f"{warning} {overlap}" if warning else overlap
    else:
        chosen = present[present % np.uint64(ONE_IN) == 0]  # at least one is to validate, and not all
        held_out = np.isin(key, chosen if 0 < chosen.size < present.size else present[:1])
        by = "a hash of the patient" if told else "its stream key"
        rule = f"one {whose} in {ONE_IN} validates, by {by}{rule}"
    train, validation = usable[~held_out], usable[held_out]
    few = _few(validation, noun)
    return Split(train, validation, rule, " ".join(filter(None, (warning, few))) or None)


def _few(validation: NDArray[np.int64], noun: str) -> str | None:
    """The warning where one cube or image alone validates."""
    if validation.size > 1:
        return None
    return (
        f"Only one {noun} validates, so the validation loss says little: extract from more scans or patients."
    )


def _by_parts(part: NDArray[np.uint8]) -> Split:
    """The split that a split file asks for, given the part of every cube."""
    train, validation = (np.flatnonzero(part == PARTS.index(name)) for name in ("train", "validation"))
    if not (train.size and validation.size):
        raise DataError(
            f"The split file gave {len(train):,} cubes to train and {len(validation):,} to validate, and "
            "both need one at least: extract again with another --split-file."
        )
    return Split(train, validation, "as the split file says")


def _keys(scans: ScanTable, images: ImageTable | None) -> NDArray[np.uint64]:
    """One number a scan, which those of a patient share: uint64 [scan]. An unknown patient has one scan."""
    if images is None:
        return scans.stream if scans.patient is None else scans.patient
    other = scans.stream if scans.patient is None else scans.patient
    own = zip(images.patient.tolist(), other.tolist(), strict=True)
    return np.array([stream_key(patient) if patient else key for patient, key in own], np.uint64)
