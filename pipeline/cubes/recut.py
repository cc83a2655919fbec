"""Compares a store with the scans it was made from, at cubes that are redrawn in every run."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.cubes.crop import cube_at
from genesis_toolkit.pipeline.cubes.cut import cubes_at, read_turned
from genesis_toolkit.pipeline.cubes.parameters import (
    ImageParameters,
    Parameters,
    extraction,
    find_sources,
    maps_values,
)
from genesis_toolkit.pipeline.cubes.pseudonyms import Key
from genesis_toolkit.pipeline.cubes.records import UNREADABLE, why
from genesis_toolkit.pipeline.engine import Workers
from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.job import run_all
from genesis_toolkit.pipeline.scans.files import HERE
from genesis_toolkit.pipeline.scans.radiographs import picture_of
from genesis_toolkit.pipeline.scans.read import scan_sha256
from genesis_toolkit.pipeline.scans.readers import readers
from genesis_toolkit.pipeline.store.metadata import leads_outside
from genesis_toolkit.pipeline.store.salvage import Problem, Remains
from genesis_toolkit.pipeline.store.schema import CUBES
from genesis_toolkit.pipeline.wording import reason_of

Voxels = NDArray[np.int16] | NDArray[np.uint8]


class UnknownError(Exception):
    """A comparison needs data that are damaged, or that this store never had; the message names them."""


@dataclass(frozen=True)
class Recut:
    """Cubes to cut again from one scan: its name in the store, its path, the cubes' numbers and corners."""

    name: str
    path: Path
    numbers: tuple[int, ...]
    corners: tuple[tuple[int, ...], ...]
    parameters: Parameters


def cut_again(task: Recut) -> tuple[str, list[Voxels]]:
    """Cut cubes at known corners; return the sha256 of the scan's files, and the cubes.

    Raises:
        DataError: the scan is unreadable, or a cube extends beyond it; the message follows its name.
    """
    parameters = task.parameters
    try:
        if isinstance(parameters, ImageParameters):
            picture = picture_of(task.path, parameters.layout)
            return picture.sha256, [cube_at(picture.pixels, corner, parameters) for corner in task.corners]
        scan = read_turned(task.path, parameters)
        return scan.sha256, list(cubes_at(scan.voxels, task.corners, parameters))
    except UNREADABLE as error:
        raise DataError(why(error)) from None


def recuts(
    remains: Remains, numbers: NDArray[np.integer[Any]], places: Mapping[int, Path], parameters: Parameters
) -> list[Recut]:
    """Return the tasks that cut cubes of a store again, scan by scan; `places` are paths of scans, by row.

    Raises:
        UnknownError: a required table is damaged.
    """
    scan, corner, path = needed(remains, "scan", "corner", "scans/path")
    tasks = []
    for row in np.unique(scan[numbers]).tolist():
        mine = numbers[scan[numbers] == row]
        corners = tuple(map(tuple, corner[mine].tolist()))
        tasks.append(Recut(str(path[row]), places[row], tuple(mine.tolist()), corners, parameters))
    return tasks


def needed(remains: Remains, *names: str) -> list[NDArray[Any]]:
    """Return columns of a store's tables; an UnknownError if one is damaged."""
    missing = [name for name in names if name not in remains.columns]
    if missing:
        raise UnknownError(f"{', '.join(missing)} cannot be read")
    return [remains.columns[name] for name in names]


def extraction_of(remains: Remains) -> Parameters:
    """Return the extraction parameters of a store.

    Raises:
        UnknownError: its attributes are damaged, or it was not cut from scans.
    """
    if remains.attributes is None:
        raise UnknownError("zarr.json cannot be read")
    try:
        return extraction(remains.cutting)
    except ValueError:
        raise UnknownError("the cubes were not cut from scans by extract-cubes") from None


def places_of(
    remains: Remains, source: Path, parameters: Parameters | None, key: Key | None
) -> tuple[dict[int, Path], list[Problem]]:
    """Locate the scans of a store in its source, by row, for those that were read when it was made.

    Args:
        remains: what is left of the store.
        source: the folder of the scans, or a single file.
        parameters: parameters of the extraction; needed with `key` only.
        key: key of the pseudonyms in the store; None if it has the scans' own names.

    Returns:
        The paths found, and the scans without one.
    """
    paths, digests = needed(remains, "scans/path", "scans/sha256")
    rows = {row: str(path) for row, path in enumerate(paths) if digests[row]}
    root = source if source.is_dir() else source.parent
    if key is not None and parameters is not None:
        found = find_sources(source, parameters).sources
        here = {key.name(scan.path): root / scan.path for scan in found}
    else:
        here = {path: root / path for path in rows.values() if path == HERE or not leads_outside(path)}
    gone = [(path, "is not in the source") for path in rows.values() if path not in here]
    return {row: here[path] for row, path in rows.items() if path in here}, gone


def compare_scans(
    remains: Remains, places: Mapping[int, Path], key: Key | None, workers: Workers
) -> dict[int, Problem]:
    """Compare the sha256 of scans with those in a store; return the problems, by row."""
    paths, digests = needed(remains, "scans/path", "scans/sha256")
    said = dict[int, str]()

    def look(row: int) -> tuple[int, str]:
        try:
            found = scan_sha256(places[row], maps_values(remains.cutting))
        except (DataError, OSError, ValueError) as error:
            return row, f"cannot be compared: {reason_of(error)}"
        same = (key.digest(found) if key else found) == str(digests[row])
        return row, "" if same else "is not the scan that the cubes were cut from: the sha256 differs"

    run_all(workers, "scans", look, list(places), lambda answer: said.update([answer]))
    return {row: (str(paths[row]), problem) for row, problem in said.items() if problem}


def compare_cubes(
    remains: Remains, places: Mapping[int, Path], most: int, workers: Workers
) -> tuple[int, list[Problem]]:
    """Cut up to `most` random cubes again, and compare them with a store; returns like `compare_again`.

    `places` are the paths of unchanged scans, by row.

    Raises:
        UnknownError: required data are damaged, or the cubes were not cut from scans.
    """
    (scan,) = needed(remains, "scan")
    there = np.flatnonzero(np.isin(scan, list(places)))
    parameters = extraction_of(remains)
    tasks = recuts(remains, drawn(there, most), places, parameters)
    suited = readers(workers, (task.path for task in tasks), parameters)
    reader = remains.reader("cubes" if remains.kind == CUBES else "original")

    def compare(task: Recut, given: tuple[str, list[Voxels]]) -> Iterator[str | None]:
        for number, cube in zip(task.numbers, given[1], strict=True):
            try:
                same = np.array_equal(cube, reader.rows([number])[0])
            except DataError:  # a damaged shard is reported separately
                yield None
            else:
                yield "" if same else f"has voxels that differ from those of cube {number}"

    return compare_again(suited, tasks, cut_again, compare)


def compare_again(
    workers: Workers,
    tasks: Sequence[Any],
    cut: Callable[[Any], Any],
    compare: Callable[[Any, Any], Iterable[str | None]],
) -> tuple[int, list[Problem]]:
    """Cut scans again, and compare the results with a store.

    Args:
        workers, tasks: the workers, and one task per scan, with its `name`.
        cut: cuts one; raises one of `UNREADABLE` if that is impossible.
        compare: yields the problem of each cube, empty if it is the same, and None if the store's own cannot
            be read.

    Returns:
        The number of cubes compared, and the problems, by the scan's name.
    """
    compared, wrong = 0, list[Problem]()

    def finished(answer: tuple[Any, str, Any]) -> None:
        nonlocal compared
        task, problem, given = answer
        if given is None:
            wrong.append((task.name, f"cannot be cut again: {problem}"))
            return
        found = list(compare(task, given))
        compared += sum(words is not None for words in found)
        wrong.extend((task.name, words) for words in found if words)

    def lost(task: Any) -> tuple[Any, str, None]:
        return task, "reading the scan killed the process: the file is broken", None

    run_all(workers, "scans cut again", partial(_try, cut), tasks, finished, lost)
    return compared, wrong


def _try(cut: Callable[[Any], Any], task: Any) -> tuple[Any, str, Any]:
    try:
        return task, "", cut(task)
    except UNREADABLE as error:
        return task, why(error), None


def drawn(numbers: NDArray[np.integer[Any]], most: int) -> NDArray[np.integer[Any]]:
    """Return some of the numbers, in order, without repetition."""
    rng = np.random.default_rng()
    return np.sort(rng.choice(numbers, min(most, len(numbers)), replace=False))
