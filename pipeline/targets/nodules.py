"""NCC: cubes around LUNA16's nodule candidates, and the selection of candidates (METHOD.md section 6)."""

import csv
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from genesis_toolkit.pipeline.cubes.records import Cut
from genesis_toolkit.pipeline.cubes.split_file import SplitFile, dealt_by
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.rng import Operation, draw_words, stream_key
from genesis_toolkit.pipeline.scans.files import not_opened
from genesis_toolkit.pipeline.scans.find import find_scans
from genesis_toolkit.pipeline.scans.read import open_scan
from genesis_toolkit.pipeline.store.schema import FOLDS
from genesis_toolkit.pipeline.targets.cut import clipped_boxes, corners_around, inside, nearest_voxels
from genesis_toolkit.pipeline.targets.parameters import NoduleParameters
from genesis_toolkit.pipeline.targets.plan import Piece, Plan, TargetTask, fold_of_source, rows_words

#: Start of the reason of a scan with candidates outside it.
OUTSIDE = "candidates outside it"
TABLE = "candidates_V2.csv"
_COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ", "class")


class Candidate(NamedTuple):
    """A position x, y, z in mm that a detector reported as a nodule, and whether it is one.

    Rows of the table are counted from the line of the column names, which is row 1.
    """

    row: int
    place: tuple[float, float, float]
    nodule: bool


class Candidates(NamedTuple):
    """Candidates by seriesuid, each position once, in the order of the table; and which were merged."""

    by_scan: dict[str, list[Candidate]]
    said: list[str]


def read_candidates(source: Path) -> Candidates:
    """Read the table next to LUNA16's subsets.

    Raises:
        CallError: it does not exist.
        DataError: it cannot be read; see also `parse_candidates`.
    """
    path = source / TABLE
    if not path.exists():
        raise CallError(f"{source} has no {TABLE}: copy it from the download of LUNA16, next to the subsets.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: {not_opened(error)}.") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not text in UTF-8. Download LUNA16's table again.") from None
    return parse_candidates(text)


def parse_candidates(text: str) -> Candidates:
    """Parse a table of candidates.

    Columns are found by name. A repeated row counts once. A position that is a nodule in one row but not in
    another is one nodule.

    Raises:
        DataError: a column is missing; or rows lack a scan, a finite position, or a class of 0 or 1.
    """
    lines = _lines(text)
    header = [name.strip() for name in next(lines, [])]
    missing = [name for name in _COLUMNS if name not in header]
    if missing:
        lacks = f"{TABLE} has no column {', '.join(missing)}"
        raise DataError(
            f"{lacks}; its columns are {', '.join(header) or 'none'}. Download LUNA16's table again."
        )
    columns = [header.index(name) for name in _COLUMNS]
    found: dict[str, dict[tuple[float, float, float], Candidate]] = {}
    bad, again, torn, first = list[int](), list[int](), list[int](), ""
    for row, line in enumerate(lines, start=2):
        if not line:
            continue
        read = _candidate(row, line, columns)
        if read is None:
            first = first or ",".join(line)
            bad.append(row)
            continue
        scan, candidate = read
        other = found.setdefault(scan, {}).setdefault(candidate.place, candidate)
        if other is not candidate:
            (again if other.nodule == candidate.nodule else torn).append(row)
            found[scan][candidate.place] = max(other, candidate, key=lambda one: one.nodule)
    if bad:
        raise DataError(
            f"{TABLE} has {len(bad):,} rows that are not candidates ({rows_words(bad)}: "
            f"{first[:80]!r}). A row must have a seriesuid, three positions in mm and a class "
            "0 or 1: download LUNA16's table again."
        )
    said = []
    if again:
        said.append(f"{TABLE} repeats candidates ({rows_words(again)}): each is used once.")
    if torn:
        said.append(
            f"{TABLE} has positions that are a nodule in one row but not in another ({rows_words(torn)}): "
            "each is used once, as a nodule."
        )
    return Candidates({scan: list(places.values()) for scan, places in found.items()}, said)


def choose_candidates(
    by_scan: Mapping[str, list[Candidate]], folds: Mapping[str, int], negatives: int | None, seed: int
) -> dict[str, list[Candidate]]:
    """Select all nodules, and in each fold `negatives` others per nodule, drawn without replacement.

    Every candidate has a rank of 64 random bits from the stream of its scan, and those with the lowest ranks
    in their fold are selected.

    Args:
        by_scan: the candidates by seriesuid.
        folds: the fold of each scan; scans that are not in it are left out.
        negatives: number of others per nodule; None selects all.
        seed: random seed for the draw.

    Returns:
        The candidates by seriesuid, in the order of the table.
    """
    known, taken = {scan: by_scan.get(scan, []) for scan in folds}, set[tuple[str, int]]()
    if negatives is None:
        return known
    for fold in range(len(FOLDS)):
        mine = {scan: ones for scan, ones in known.items() if folds[scan] == fold}
        nodules = sum(one.nodule for ones in mine.values() for one in ones)
        ranked = sorted(
            (rank, scan, one.row)
            for scan, ones in mine.items()
            for rank, one in zip(_ranks(scan, len(ones), seed), ones, strict=True)
            if not one.nodule
        )
        taken |= {(scan, row) for _, scan, row in ranked[: negatives * nodules]}
    return {
        scan: [one for one in ones if one.nodule or (scan, one.row) in taken] for scan, ones in known.items()
    }


def plan_nodules(source: Path, parameters: NoduleParameters, split: SplitFile | None = None) -> Plan:
    """Return the scans of LUNA16, with the candidates of each that are to be cut.

    Candidates of missing scans are skipped with a message, since most downloads are partial.

    Raises:
        CallError: the source is not LUNA16, or has no table.
        DataError: the table is damaged, or has no nodule of a scan that is present.
    """
    found = find_scans(source, "luna16", range(10))
    table = read_candidates(found.root)
    sources = dealt_by(split, found.sources)
    usable = [one for one in sources if not one.problem and not one.skip]
    folds = {one.identifier: fold_of_source(one) for one in reversed(usable)}  # the first of copies is used
    chosen = choose_candidates(table.by_scan, folds, parameters.negatives, parameters.seed)
    if not any(one.nodule for ones in chosen.values() for one in ones):
        raise DataError(
            f"{TABLE} has no nodule of a scan in {found.root}: the table and the subsets belong to different "
            "data sets."
        )
    said, known = table.said, {one.identifier for one in sources}
    rows = [one.row for scan, ones in table.by_scan.items() if scan not in known for one in ones]
    if rows:
        scans = sum(scan not in known for scan in table.by_scan)
        said.append(
            f"Skipped {len(rows):,} candidates in {TABLE} of {scans:,} scans that are missing "
            f"({rows_words(sorted(rows))}), which is normal if LUNA16 was downloaded only in "
            "part."
        )
    data = {scan: [[one.row, *one.place, int(one.nodule)] for one in ones] for scan, ones in chosen.items()}
    pieces = (Piece(one, fold_of_source(one), data.get(one.identifier, [])) for one in sources)
    return Plan(found.root, tuple(pieces), tuple(said))


def cut_nodules(task: TargetTask[NoduleParameters]) -> Cut:
    """Cut a cube around every candidate of a scan.

    The voxel nearest to a candidate is the cube's centre, size // 2, unless the cube must be shifted to be
    inside the scan, or the scan is smaller and the rest gets the window's lowest value. A candidate outside
    the scan gives no cube, and the reason names its row.

    Raises:
        DataError: the scan cannot be read, or all its candidates are outside it.
    """
    data, size, window = task.piece.data, task.parameters.size, task.parameters.store_window
    if not data:
        return Cut("", {"status": "skipped", "reason": "none of the scan's candidates was selected"})
    opened = open_scan(task.path)
    geometry = opened.geometry
    voxels = nearest_voxels([row[1:4] for row in data], geometry)
    within = inside(voxels, geometry.shape)
    rows = [row[0] for row, there in zip(data, within, strict=True) if not there]
    reason = f"{OUTSIDE}: {rows_words(rows)} of {TABLE}" if rows else ""
    if not within.any():
        raise DataError(reason)
    scan = opened.read()
    corners = corners_around(voxels[within], geometry.shape, size)
    cubes = clipped_boxes(scan.voxels, corners, size, window)
    labels = [[row[4]] for row, there in zip(data, within, strict=True) if there]
    return Cut(scan.sha256, {**asdict(scan.geometry), "reason": reason}, corners, cubes, labels=labels)


def _lines(text: str) -> Iterator[list[str]]:
    """Yield the rows of a table one at a time: LUNA16's 754,975 together take half a gigabyte."""
    try:
        yield from csv.reader(io.StringIO(text, newline=""))
    except csv.Error as error:
        raise DataError(f"{TABLE} is not a CSV table: {error}. Download LUNA16's table again.") from None


def _candidate(row: int, line: list[str], columns: list[int]) -> tuple[str, Candidate] | None:
    """Return the scan and the candidate in a row; None if the row is invalid."""
    if len(line) <= max(columns):
        return None
    scan, *places, kind = (line[column].strip() for column in columns)
    try:
        x, y, z = map(float, places)
    except ValueError:
        return None
    if not scan or kind not in ("0", "1") or not all(map(math.isfinite, (x, y, z))):
        return None
    return scan, Candidate(row, (x, y, z), kind == "1")


def _ranks(scan: str, count: int, seed: int) -> list[int]:
    words = draw_words(seed, stream_key(scan), 0, 0, Operation.TARGET, 2 * count).astype(np.uint64)
    return list((words[0::2] << np.uint64(32) | words[1::2]).tolist())
