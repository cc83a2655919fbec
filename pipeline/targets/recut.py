"""Holds a target store against its source: the source is planned again, and cubes are cut from it again."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from genesis_toolkit.pipeline.cubes.records import Cut
from genesis_toolkit.pipeline.cubes.recut import UnknownError, compare_again, drawn, needed
from genesis_toolkit.pipeline.cubes.split_file import EXCLUDE, SplitFile
from genesis_toolkit.pipeline.engine import Workers
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.scans.readers import readers
from genesis_toolkit.pipeline.store.metadata import leads_outside
from genesis_toolkit.pipeline.store.salvage import Problem, Remains
from genesis_toolkit.pipeline.targets.extract import cut_target, plan_targets, target_tasks
from genesis_toolkit.pipeline.targets.labels import TableParameters
from genesis_toolkit.pipeline.targets.masks import masks_folder
from genesis_toolkit.pipeline.targets.parameters import (
    ImageMaskParameters,
    MaskParameters,
    parameters_of,
)
from genesis_toolkit.pipeline.targets.plan import Plan, TargetTask


@dataclass(frozen=True)
class _Recut:
    """A scan to cut again, and its cubes to compare: their numbers in the store, and in the scan."""

    name: str
    task: TargetTask[Any]
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
    plan, planned = _planned(remains, source)
    if plan.sha256 != remains.cutting["source_sha256"]:
        wrong = "is not that of the source: its names, tables or lists say something else than they did"
        return 0, [("parameters.source_sha256", wrong)]
    by_path = {task.source.path: task for task in planned}
    chosen = drawn(np.flatnonzero(np.isin(scan, list(places))), most)
    tasks = []
    for row in np.unique(scan[chosen]).tolist():
        mine, name = chosen[scan[chosen] == row], str(path[row])
        if name not in by_path:
            raise UnknownError(f"{name} is none of the scans of the source")
        tasks.append(_Recut(name, by_path[name], tuple(mine.tolist()), tuple(number[mine].tolist())))
    suited = readers(workers, (path for one in tasks for path in one.task.files))
    labels = remains.columns.get("labels")
    readers_of = {name: remains.reader(name) for name in ("cubes", "masks") if name in remains.arrays}

    def compare(recut: _Recut, cut: Cut) -> Iterator[str | None]:
        for place, number in enumerate(recut.numbers):
            try:
                stored = {name: reader.rows([number])[0] for name, reader in readers_of.items()}
            except DataError:  # a damaged shard is named by itself
                yield None
                continue
            same = {
                "corner": np.array_equal(cut.corners[place], corner[number]),
                "voxels": "cubes" in stored and np.array_equal(cut.cubes[place], stored["cubes"]),
                "mask": "masks" not in stored or np.array_equal(cut.masks[place], stored["masks"]),
                "labels": labels is None or np.array_equal(cut.labels[place], labels[number]),
                "fold": recut.task.piece.fold == fold[number],
            }
            others = [name for name, equal in same.items() if not equal]
            yield f"differs from cube {number} in its {', '.join(others)}" if others else ""

    return compare_again(suited, tasks, _cut_again, compare)


def _planned(remains: Remains, source: Path) -> tuple[Plan, tuple[TargetTask[Any], ...]]:
    """What a source holds now, planned with the parameters of a store; an UnknownError where that fails."""
    try:
        parameters, masks = parameters_of(remains.cutting), None
        if isinstance(parameters, MaskParameters | ImageMaskParameters):
            if parameters.masks is not None:
                parameters = replace(parameters, masks=_folder_of_masks(source, str(parameters.masks)))
            masks = masks_folder(source, parameters)
        if isinstance(parameters, TableParameters):
            table = _file_named(source, str(parameters.label_table), Path.is_file)
            if table is None:
                raise DataError(
                    f"the table of labels, {parameters.label_table}, lies not in {source} or beside it"
                )
            parameters = replace(parameters, label_table=table)
        split = None
        if "scans/part" in remains.columns:
            path, part = needed(remains, "scans/path", "scans/part")
            parts = dict(zip(map(str, path), part.tolist(), strict=True))
            split = SplitFile(Path(), parts, EXCLUDE)  # others were passed over, and stand in no table
        plan = plan_targets(source, parameters, split)
        return plan, target_tasks(plan, parameters, masks)
    except (CallError, DataError, ValueError) as error:
        raise UnknownError(str(error).rstrip(".")) from None


def _folder_of_masks(source: Path, name: str) -> Path:
    """Where the masks lie, in the source or beside it: a store tells their folder's name alone."""
    found = _file_named(source, name, Path.is_dir)
    if found is None:
        raise DataError(f"the masks lie in no folder {name!r} in {source} or beside it")
    return found


def _file_named(source: Path, name: str, is_there: Callable[[Path], bool]) -> Path | None:
    """The file or folder of this name in the source or beside it."""
    places = [] if leads_outside(name) else [source / name, source.resolve().parent / name]
    return next((place for place in places if is_there(place)), None)


def _cut_again(recut: _Recut) -> Cut:
    """Cut a scan again; of what it gives, the cubes to compare. A DataError where it gives too few."""
    cut, places = cut_target(recut.task), recut.places
    if len(cut.cubes) <= max(places):
        raise DataError(f"it gives {len(cut.cubes)} cubes, and the store has more of it")
    return replace(
        cut,
        corners=cut.corners[list(places)],
        cubes=[cut.cubes[place] for place in places],
        labels=[cut.labels[place] for place in places] if cut.labels else (),
        masks=[cut.masks[place] for place in places] if cut.masks else (),
    )
