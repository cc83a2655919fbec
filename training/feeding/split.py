"""Split cubes into training and validation: a pure function of a store's tables (METHOD.md section 2)."""

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

#: Without such subsets, one in this many scans or patients validates; with a single one, one in this many
#: cubes.
ONE_IN = 10

_ONE_PATIENT = (
    "All scans are from one patient, so scans of that patient are held out for validation: "
    "the validation loss will be optimistic. Extract from more patients for an unbiased "
    "figure."
)


@dataclass(frozen=True)
class Split:
    """The cubes of a store, split into two disjoint parts.

    Attributes:
        train: int64 [cube], indices into the store, ascending.
        validation: int64 [cube], likewise.
        rule: the rule that split them, in words.
        warning: a caution about the validation loss; None without one.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    rule: str
    warning: str | None = None


def split_cubes(scans: ScanTable, cubes: CubeTable, images: ImageTable | None = None) -> Split:
    """Split the cubes of a store into training and validation.

    The first rule that applies: the parts of a split file; LUNA16's subsets (0-4 train, 5-6 validate) if both
    sides have cubes; by patient if the store records them; by scan. Patients or scans whose key is divisible
    by ten validate, or if there are none, the one with the smallest key. The scans of a single patient are
    split by scan, a single scan by cubes, every tenth. Subsets 7-9 are left out unless there is nothing else:
    they are the test set of the nodule task, so training on them leaks.

    X-ray images are split by patient in the same way, with a key derived from the patient's name, because
    images of a patient are similar (METHOD.md section 5). A store with pseudonyms has other names, so other
    patients validate.

    For X-ray images, `images` has one row per row of `scans`.

    Raises:
        DataError: there are fewer than two cubes, or a split file left one side empty.
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
            "All cubes are from LUNA16 subsets 7-9, the test set of the nodule task: do not "
            "evaluate these weights on that task."
        )
    elif tested.any():
        rule = "; subsets 7-9 left out"
    if usable.size < 2:
        raise DataError(
            f"There is {usable.size or 'no'} cube to train on, but training and validation "
            "need at least one each. Extract more cubes, or more scans."
        )
    by_patient = scans.patient is not None or (images is not None and any(images.patient.tolist()))
    whose, kind = "patient" if by_patient else "scan", "cubes" if images is None else "images"
    key = _keys(scans, images)[cubes.scan[usable]]
    stream = scans.stream[cubes.scan[usable]]
    if images is None and np.unique(key).size == 1 < np.unique(stream).size:
        key, whose, by_patient = stream, "scan", False
        warning = " ".join(filter(None, [warning, _ONE_PATIENT]))
    present = np.unique(key)
    if present.size == 1:
        held_out = np.arange(usable.size) % ONE_IN == 0
        rule = f"a single {whose}: one in {ONE_IN} {kind} validates{rule}"
        alike = "neighbouring cubes overlap" if images is None else "images of a patient are similar"
        overlap = (
            f"All {kind} are from one {whose}, so {kind} of that {whose} are held out for "
            f"validation: {alike}, so the validation loss will be optimistic. Extract from "
            f"more {whose}s for an unbiased figure."
        )
        warning = f"{warning} {overlap}" if warning else overlap
    else:
        chosen = present[present % np.uint64(ONE_IN) == 0]  # at least one must validate, and not all
        held_out = np.isin(key, chosen if 0 < chosen.size < present.size else present[:1])
        by = "a hash of the patient" if by_patient else "its stream key"
        rule = f"one {whose} in {ONE_IN} validates, by {by}{rule}"
    train, validation = usable[~held_out], usable[held_out]
    few = _few(validation, noun)
    return Split(train, validation, rule, " ".join(filter(None, (warning, few))) or None)


def _few(validation: NDArray[np.int64], noun: str) -> str | None:
    """Return the warning for a single validation cube or image."""
    if validation.size > 1:
        return None
    return (
        f"Only one {noun} is used for validation, so the validation loss means little: use "
        "more scans or patients."
    )


def _by_parts(part: NDArray[np.uint8]) -> Split:
    """Return the split of a split file, given the part of every cube."""
    train, validation = (np.flatnonzero(part == PARTS.index(name)) for name in ("train", "validation"))
    if not (train.size and validation.size):
        raise DataError(
            f"The split file gave {len(train):,} cubes for training and {len(validation):,} "
            "for validation, but each needs at least one: change the split file and extract "
            "the cubes again."
        )
    return Split(train, validation, "by the split file")


def _keys(scans: ScanTable, images: ImageTable | None) -> NDArray[np.uint64]:
    """Return a key per scan, shared by the scans of a patient: uint64 [scan]; unknown patients share none."""
    if images is None:
        return scans.stream if scans.patient is None else scans.patient
    other = scans.stream if scans.patient is None else scans.patient
    own = zip(images.patient.tolist(), other.tolist(), strict=True)
    return np.array([stream_key(patient) if patient else key for patient, key in own], np.uint64)
