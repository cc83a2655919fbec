"""Holds a target store against its source: the source is planned again, and cubes are cut from it again."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.cubes.recut import UnknownError, drawn, needed
from genesis_toolkit.pipeline.engine import Workers, counting, run
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.scans.readers import readers
from genesis_toolkit.pipeline.store.metadata import leads_outside
from genesis_toolkit.pipeline.store.salvage import Problem, Remains
from genesis_toolkit.pipeline.targets.mask_files import masks_folder
from genesis_toolkit.pipeline.targets.parameters import MaskParameters, TargetParameters
from genesis_toolkit.pipeline.targets.plan import Cut, Piece, Plan
from genesis_toolkit.pipeline.targets.tasks import cut_piece, parameters_of, plan_task


@dataclass(frozen=True)
class _Recut:
    """A scan to cut again.

    Attributes:
        path: where it lies.
        masks: those that have its name.
        piece: what is wanted of it.
        parameters: of the store.
        numbers: of the cubes to compare, in the store.
        places: of the same cubes among all of their scan.
    """

    path: Path
    masks: tuple[Path, ...]
    piece: Piece
    parameters: TargetParameters
    numbers: tuple[int, ...]
    places: tuple[int, ...]


def compare_targets(
    remains: Remains, source: Path, places: Mapping[int, Path], most: int, workers: Workers
) -> tuple[int, list[Problem]]:
    """Plan the source again, cut random cubes again, and compare both with a store.

    Where the source's names, tables or lists say something else than they did, no cube is cut.

    Args:
        remains: of the store.
        source: as it was given to `extract_targets`; masks that lay in a folder of another name are looked
            for by the name of that folder, in the source and beside it.
        places: of the scans that are as they were, by row.
        most: how many cubes to draw.
        workers: who does it.

    Returns:
        How many cubes were compared, voxels, labels or masks, corner and fold; and what is wrong, by the
        scan's name.

    Raises:
        UnknownError: what is needed is damaged, or the source cannot be planned.
    """
    scan, number, corner, fold, path = needed(remains, "scan", "number", "corner", "fold", "scans/path")
    parameters, plan = _planned(remains, source)
    if plan.sha256 != remains.cutting["source_sha256"]:
        wrong = "is not that of the source: its names, tables or lists say something else than they did"
        return 0, [("parameters.source_sha256", wrong)]
    pieces = {piece.source.path: piece for piece in plan.pieces}
    there = np.flatnonzero(np.isin(scan, list(places)))
    chosen = drawn(there, most)
    tasks = []
    for row in np.unique(scan[chosen]).tolist():
        mine, piece = chosen[scan[chosen] == row], pieces.get(str(path[row]))
        if piece is None:
            raise UnknownError(f"{path[row]} is none of the scans of the source")
        masks = _masks_of(piece, source, parameters)
        numbers, within = tuple(mine.tolist()), tuple(number[mine].tolist())
        tasks.append(_Recut(places[row], masks, piece, parameters, numbers, within))
    stored = _Stored(remains, corner, fold)
    compared, problems = 0, list[Problem]()
    count = counting(workers.progress, "scans cut again", len(tasks), 0)

    def finished(answer: tuple[_Recut, str, Cut | None]) -> None:
        nonlocal compared
        task, problem, cut = answer
        if cut is None:
            problems.append((task.piece.source.path, f"cannot be cut again: {problem}"))
        else:
            found = [stored.differs(task, cut, place) for place in range(len(task.numbers))]
            compared += sum(words is not None for words in found)
            problems.extend((task.piece.source.path, words) for words in found if words)
        count(answer)

    lost = partial(_answer_of, problem="the process that read it died: its file is broken")
    suited = readers(workers, (path for task in tasks for path in (task.path, *task.masks)))
    run(_try, tasks, finished=finished, workers=suited, lost=lost)
    return compared, problems


@dataclass(frozen=True)
class _Stored:
    """What a store has of its cubes."""

    remains: Remains
    corner: NDArray[np.int32]
    fold: NDArray[np.uint8]

    def differs(self, task: _Recut, cut: Cut, place: int) -> str | None:
        """In what a cube differs from one that was cut again, in words; None where it cannot be read."""
        number = task.numbers[place]
        try:
            cube, mask = self._read("cubes", number), self._read("masks", number)
        except DataError:  # a damaged shard is named by itself
            return None
        labels = self.remains.columns.get("labels")
        same = {
            "corner": np.array_equal(cut.corners[place], self.corner[number]),
            "voxels": cube is not None and np.array_equal(cut.cubes[place], cube),
            "mask": mask is None or np.array_equal(cut.masks[place], mask),
            "labels": labels is None or np.array_equal(cut.labels[place], labels[number]),
            "fold": task.piece.fold == self.fold[number],
        }
        others = [name for name, equal in same.items() if not equal]
        return f"differs from cube {number} in its {', '.join(others)}" if others else ""

    def _read(self, name: str, number: int) -> NDArray[Any] | None:
        if name not in self.remains.arrays:
            return None
        reader = self.remains.reader(name)
        out = np.empty(reader.shape[1:], reader.dtype)
        reader.read(number, out)
        return out


def _planned(remains: Remains, source: Path) -> tuple[TargetParameters, Plan]:
    """The parameters of a store, and what its source holds now.

    Raises:
        UnknownError: either cannot be had.
    """
    try:
        parameters = parameters_of(remains.cutting)
        if isinstance(parameters, MaskParameters) and parameters.masks is not None:
            parameters = replace(parameters, masks=_folder_of_masks(source, str(parameters.masks)))
        return parameters, plan_task(source, parameters)
    except (CallError, DataError, ValueError) as error:
        raise UnknownError(str(error).rstrip(".")) from None


def _folder_of_masks(source: Path, name: str) -> Path:
    """Where the masks lie, of which a store tells the folder's name alone.

    Raises:
        DataError: neither in the source nor beside it.
    """
    places = [] if leads_outside(name) else [source / name, source.resolve().parent / name]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise DataError(f"the masks lie in no folder {name!r} in {source} or beside it")
    return found


def _masks_of(piece: Piece, source: Path, parameters: TargetParameters) -> tuple[Path, ...]:
    if not isinstance(parameters, MaskParameters):
        return ()
    folder = masks_folder(source, parameters)
    return tuple(folder / name for name in piece.wanted)


def _try(task: _Recut) -> tuple[_Recut, str, Cut | None]:
    """Cut a scan again; of what it gives, the cubes to compare."""
    try:
        cut = cut_piece(task.path, task.masks, task.piece, task.parameters)
    except DataError as error:
        return _answer_of(task, str(error))
    except (OSError, ValueError, MemoryError) as error:  # whatever else a strange file leads to
        return _answer_of(task, f"it cannot be read: {error}")
    if len(cut.cubes) <= max(task.places):
        return _answer_of(task, f"it gives {len(cut.cubes)} cubes, and the store has more of it")
    return (
        task,
        "",
        replace(
            cut,
            corners=cut.corners[list(task.places)],
            cubes=[cut.cubes[place] for place in task.places],
            labels=[cut.labels[place] for place in task.places] if cut.labels else (),
            masks=[cut.masks[place] for place in task.places] if cut.masks else (),
        ),
    )


def _answer_of(task: _Recut, problem: str) -> tuple[_Recut, str, Cut | None]:
    return task, problem, None
