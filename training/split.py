"""Which cubes train and which validate: a pure function of a store's tables (METHOD.md section 2)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.tables import CubeTable, ScanTable

#: LUNA16's folds (METHOD.md section 2): the last three are the test set of the nodule task.
TRAIN_SUBSETS = range(5)
VALIDATION_SUBSETS = range(5, 7)
TEST_SUBSETS = range(7, 10)

#: Where there are no such subsets, one scan in so many validates; with a single scan, one cube in so many.
ONE_IN = 10


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


def split_cubes(scans: ScanTable, cubes: CubeTable) -> Split:
    """Deal the cubes of a store into training and validation.

    By LUNA16's subsets (0-4 train, 5-6 validate) where both sides have cubes. Else by scan: those whose
    stream key is divisible by ten validate, or the one with the smallest key where there is none such. A
    single scan is split by cubes, every tenth. Subsets 7-9 take no part as long as there is anything else:
    they are the test set of the nodule task, so training on them leaks.

    Args:
        scans: the store's scans; `subset` and `stream` are read.
        cubes: the store's cubes; `scan` is read.

    Raises:
        DataError: there are fewer than two cubes to deal.
    """
    subset = scans.subset[cubes.scan]
    train = np.flatnonzero(np.isin(subset, TRAIN_SUBSETS))
    validation = np.flatnonzero(np.isin(subset, VALIDATION_SUBSETS))
    if train.size and validation.size:
        return Split(train, validation, "LUNA16 subsets 0-4 train, 5-6 validate")

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
    of_scan = cubes.scan[usable]
    present = np.unique(of_scan)
    if present.size == 1:
        held_out = np.arange(usable.size) % ONE_IN == 0
        rule = f"a single scan: one cube in {ONE_IN} validates{rule}"
        overlap = (
            "All cubes are of one scan, so cubes are held out, not scans: neighbouring cubes overlap, and "
            "the validation loss flatters. Extract from more scans for an honest figure."
        )
        warning = f"{warning} {overlap}" if warning else overlap
    else:
        held_out = np.isin(of_scan, _validating(scans, present))
        rule = f"one scan in {ONE_IN} validates, by its stream key{rule}"
    return Split(usable[~held_out], usable[held_out], rule, warning)


def _validating(scans: ScanTable, present: NDArray[np.int32]) -> NDArray[np.int32]:
    """Of the scans that gave cubes, those that validate: at least one, and not all."""
    keys: NDArray[np.uint64] = scans.stream[present]
    chosen: NDArray[np.int32] = present[keys % np.uint64(ONE_IN) == 0]
    if 0 < chosen.size < present.size:
        return chosen
    smallest = int(np.argmin(keys))
    return present[smallest : smallest + 1]
