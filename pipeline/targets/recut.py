"""Compares a target store with its source, which is planned again, and from which cubes are cut again."""

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

    If the contents of the source's names, tables or lists have changed, no cube is cut.

    Args:
        remains: what is left of the store.
        source: as passed to `extract_targets`; a separate folder of masks is searched by name, in the source
            and next to it.
        places: paths of unchanged scans, by row.
        most: number of cubes to draw.
        workers: the workers.

    Returns:
        The number of cubes whose voxels, labels or masks, corner and fold were compared; and the problems, by
        the scan's name.

    Raises:
        UnknownError: required data are damaged, or the source cannot be planned.
    """
    scan, number, corner, fold, path = needed(remains, "scan", "number", "corner", "fold", "scans/path")
    plan, planned = _planned(remains, source)
    if plan.sha256 != remains.cutting["source_sha256"]:
        wrong = "differs from that of the source: its names, tables or lists have changed"
        return 0, [("parameters.source_sha256", wrong)]
    by_path = {task.source.path: task for task in planned}
    chosen = drawn(np.flatnonzero(np.isin(scan, list(places))), most)
    tasks = []
    for row in np.unique(scan[chosen]).tolist():
        mine, name = chosen[scan[chosen] == row], str(path[row])
        if name not in by_path:
            raise UnknownError(f"{name} is not one of the scans of the source")
        tasks.append(_Recut(name, by_path[name], tuple(mine.tolist()), tuple(number[mine].tolist())))
    suited = readers(workers, (path for one in tasks for path in one.task.files))
    labels = remains.columns.get("labels")
    readers_of = {name: remains.reader(name) for name in ("cubes", "masks") if name in remains.arrays}

    def compare(recut: _Recut, cut: Cut) -> Iterator[str | None]:
        for place, number in enumerate(recut.numbers):
            try:
                stored = {name: reader.rows([number])[0] for name, reader in readers_of.items()}
            except DataError:  # a damaged shard is reported separately
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
    """Plan a source again with the parameters of a store; an UnknownError if that fails."""
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
                    f"the table of labels, {parameters.label_table}, is neither in {source} nor next to it: "
                    "copy the table there"
                )
            parameters = replace(parameters, label_table=table)
        split = None
        if "scans/part" in remains.columns:
            path, part = needed(remains, "scans/path", "scans/part")
            parts = dict(zip(map(str, path), part.tolist(), strict=True))
            split = SplitFile(Path(), parts, EXCLUDE)  # others were skipped, and are in no table
        plan = plan_targets(source, parameters, split)
        return plan, target_tasks(plan, parameters, masks)
    except (CallError, DataError, ValueError) as error:
        raise UnknownError(str(error).rstrip(".")) from None


def _folder_of_masks(source: Path, name: str) -> Path:
    """Find the masks in the source or next to it: a store only records their folder's name."""
    found = _file_named(source, name, Path.is_dir)
    if found is None:
        raise DataError(
            f"the folder of masks, {name!r}, is neither in {source} nor next to it: copy the folder there"
        )
    return found


def _file_named(source: Path, name: str, is_there: Callable[[Path], bool]) -> Path | None:
    """Return the file or folder of this name in the source or next to it."""
    places = [] if leads_outside(name) else [source / name, source.resolve().parent / name]
    return next((place for place in places if is_there(place)), None)


def _cut_again(recut: _Recut) -> Cut:
    """Cut a scan again and return the cubes to compare. A DataError if it gives too few."""
    cut, places = cut_target(recut.task), recut.places
    if len(cut.cubes) <= max(places):
        raise DataError(f"the scan gives {len(cut.cubes)} cubes, but the store has more from it")
    return replace(
        cut,
        corners=cut.corners[list(places)],
        cubes=[cut.cubes[place] for place in places],
        labels=[cut.labels[place] for place in places] if cut.labels else (),
        masks=[cut.masks[place] for place in places] if cut.masks else (),
    )
