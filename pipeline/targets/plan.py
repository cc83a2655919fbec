"""What a scan is to give to a target store, and which fold it is in."""

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

#: The numbers of `FOLDS`.
TRAIN, VALIDATION, TEST = range(3)

_DEALING = ("whose", "known", "part")  # of a source: the fold tells what comes of them

#: Fold of each LUNA16 subset: 0-4, 5-6, 7-9 (METHOD.md section 6).
FOLD_OF_SUBSET = (TRAIN,) * 5 + (VALIDATION,) * 2 + (TEST,) * 3

Asked = TypeVar("Asked", bound=TargetParameters, covariant=True)


@dataclass(frozen=True)
class Piece:
    """A scan or image, its fold (0 train, 1 validation, 2 test), and what the task asks of it, as JSON."""

    source: Source
    fold: int
    wanted: Any = None


@dataclass(frozen=True)
class Plan:
    """What a source holds for a task: the scans in their order, with paths relative to `root`.

    Sentences say what was left out, each with a way out where there is one.
    """

    root: Path
    pieces: tuple[Piece, ...]
    said: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Of what the source's names, tables and lists say: all that is wanted, but not the scans' voxels."""
        told = [
            [
                one.source.path,
                one.fold,
                one.wanted,
                {k: v for k, v in vars(one.source).items() if k not in _DEALING},
            ]
            for one in self.pieces
        ]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode(errors="surrogateescape")).hexdigest()


@dataclass(frozen=True)
class TargetTask(CutTask[Asked]):
    """One scan to cut: besides what every task knows, what is wanted of it, and the masks of its name."""

    piece: Piece
    masks: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The scan and its masks."""
        return (self.path, *self.masks)


def fold_of_source(source: Source) -> int:
    """The fold of a scan: by its part, its subset, else a hash of its patient, or of its identifier.

    It depends on the scan alone, so no other scan ever moves it.
    """
    if source.part is not None:
        return source.part
    if source.subset >= 0:
        return FOLD_OF_SUBSET[source.subset]
    return fold_of_hash(source.whose) if source.whose else fold_of_name(source.identifier)


def fold_of_name(name: str) -> int:
    """The fold that goes with a name, by its hash."""
    return fold_of_hash(int(stream_key(name)))


def fold_of_hash(number: int) -> int:
    """The fold that goes with a hash: eight of ten train, one validates, one tests."""
    return {8: VALIDATION, 9: TEST}.get(number % 10, TRAIN)


def fold_of_patient(patient: str) -> int:
    """The fold of a patient on `train_val_list.txt`: one in ten validates, by a hash."""
    # The hash that would test takes part in training here.
    return VALIDATION if fold_of_name(patient) == VALIDATION else TRAIN


def rows_words(rows: Sequence[int], most: int = 5) -> str:
    """Numbers of rows in a sentence: `rows 3, 4 and 17 more`."""
    return f"row{'' if len(rows) == 1 else 's'} {listed(rows, most)}"
