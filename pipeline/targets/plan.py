"""Plans what each scan contributes to a target store, and assigns its fold."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from genesis_toolkit.pipeline.cubes.records import CutTask
from genesis_toolkit.pipeline.rng import stream_key
from genesis_toolkit.pipeline.scans.find import Source
from genesis_toolkit.pipeline.targets.parameters import TargetParameters
from genesis_toolkit.pipeline.wording import listed

#: Numbers of the folds, in the order of `FOLDS`.
TRAIN, VALIDATION, TEST = range(3)

_DEALING = ("whose", "known", "part")  # fields of a source that only determine its fold

#: Fold of each LUNA16 subset: 0-4, 5-6, 7-9 (METHOD.md section 6).
FOLD_OF_SUBSET = (TRAIN,) * 5 + (VALIDATION,) * 2 + (TEST,) * 3

Asked = TypeVar("Asked", bound=TargetParameters, covariant=True)


@dataclass(frozen=True)
class Piece:
    """A scan or image, its fold (0 train, 1 validation, 2 test), and its data for the task, as JSON."""

    source: Source
    fold: int
    data: Any = None


@dataclass(frozen=True)
class Plan:
    """The scans of a source for a task, in order, with paths relative to `root`.

    `said` has sentences on what was left out, each with a way out if there is one.
    """

    root: Path
    pieces: tuple[Piece, ...]
    said: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Return the sha256 of the contents of names, tables and lists, but not of the scans' voxels."""
        what = [
            [
                one.source.path,
                one.fold,
                one.data,
                {k: v for k, v in vars(one.source).items() if k not in _DEALING},
            ]
            for one in self.pieces
        ]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode(errors="surrogateescape")).hexdigest()


@dataclass(frozen=True)
class TargetTask(CutTask[Asked]):
    """One scan to cut, with its data for the task, and the masks that match its name."""

    piece: Piece
    masks: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the scan and its masks."""
        return (self.path, *self.masks)


def fold_of_source(source: Source) -> int:
    """Return the fold of a scan: by its part, its subset, or a hash of its patient or its identifier.

    It depends on this scan alone, so other scans never change it.
    """
    if source.part is not None:
        return source.part
    if source.subset >= 0:
        return FOLD_OF_SUBSET[source.subset]
    return fold_of_hash(source.whose) if source.whose else fold_of_name(source.identifier)


def fold_of_name(name: str) -> int:
    """Return the fold of a name, by its hash."""
    return fold_of_hash(int(stream_key(name)))


def fold_of_hash(number: int) -> int:
    """Return the fold of a hash: eight of ten train, one validates, one tests."""
    return {8: VALIDATION, 9: TEST}.get(number % 10, TRAIN)


def fold_of_patient(patient: str) -> int:
    """Return the fold of a patient on `train_val_list.txt`: one in ten validates, by a hash."""
    # A hash that would mean testing means training here.
    return VALIDATION if fold_of_name(patient) == VALIDATION else TRAIN


def rows_words(rows: Sequence[int], most: int = 5) -> str:
    """Return numbers of rows for a sentence: `rows 3, 4 and 17 more`."""
    return f"row{'' if len(rows) == 1 else 's'} {listed(rows, most)}"
