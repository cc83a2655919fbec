"""NCC: cubes around LUNA16's nodule candidates (METHOD.md section 6)."""

from dataclasses import asdict
from pathlib import Path

from genesis_toolkit.pipeline.cubes.records import Cut
from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.scans.find import find_scans
from genesis_toolkit.pipeline.scans.read import read_geometry, read_scan
from genesis_toolkit.pipeline.targets.candidates import TABLE, choose_candidates, read_candidates
from genesis_toolkit.pipeline.targets.cut import clipped_boxes, corners_around
from genesis_toolkit.pipeline.targets.parameters import NoduleParameters
from genesis_toolkit.pipeline.targets.plan import Piece, Plan, TargetTask, fold_of_subset, rows_words
from genesis_toolkit.pipeline.targets.world import inside, nearest_voxels

#: Begins the reason of a scan some of whose candidates lie outside it.
OUTSIDE = "candidates outside it"


def plan_nodules(source: Path, parameters: NoduleParameters) -> Plan:
    """The scans of LUNA16, and the candidates of each that are to be cut.

    Candidates of scans that are not there are passed over, and said: most downloads are a part.

    Raises:
        CallError: no LUNA16, or no table beside it.
        DataError: the table is damaged, or none of its nodules is of a scan that is there.
    """
    found = find_scans(source, "luna16", range(10))
    table = read_candidates(found.root)
    usable = [one for one in found.sources if not one.problem and not one.skip]
    folds = {one.identifier: fold_of_subset(one.subset) for one in usable}
    chosen = choose_candidates(table.by_scan, folds, parameters.negatives, parameters.seed)
    if not any(one.nodule for ones in chosen.values() for one in ones):
        raise DataError(
            f"{TABLE} has no nodule of a scan that lies in {found.root}: the table and the subsets are not "
            "of one data set."
        )
    said = list(table.said)
    known = {one.identifier for one in found.sources}
    rows = [one.row for scan, ones in table.by_scan.items() if scan not in known for one in ones]
    if rows:
        scans = sum(scan not in known for scan in table.by_scan)
        said.append(
            f"{TABLE} has {len(rows):,} candidates of {scans:,} scans that are not there "
            f"({rows_words(sorted(rows))}), as in a part of the download: passed over."
        )
    pieces = tuple(
        Piece(
            one,
            fold_of_subset(one.subset),
            [[candidate.row, *candidate.place, int(candidate.nodule)] for candidate in chosen[one.identifier]]
            if one.identifier in chosen
            else [],
        )
        for one in found.sources
    )
    return Plan(found.root, pieces, tuple(said))


def cut_nodules(task: TargetTask[NoduleParameters]) -> Cut:
    """Cut a cube around every candidate of a scan.

    The nearest voxel to a candidate is the cube's middle, size // 2, but where the cube is moved so as to lie
    inside the scan, or the scan is smaller and the rest has the window's lowest value. A candidate outside
    the scan gives no cube, and the reason names its row.

    Raises:
        DataError: the scan cannot be read, or none of its candidates lies in it.
    """
    wanted, size, window = task.piece.wanted, task.parameters.size, task.parameters.window
    if not wanted:
        return Cut("", {"status": "skipped", "reason": "no candidate of it was taken"})
    geometry = read_geometry(task.path)
    voxels = nearest_voxels([row[1:4] for row in wanted], geometry)
    within = inside(voxels, geometry.shape)
    rows = [row[0] for row, there in zip(wanted, within, strict=True) if not there]
    reason = f"{OUTSIDE}: {rows_words(rows)} of {TABLE}" if rows else ""
    if not within.any():
        raise DataError(reason)
    scan = read_scan(task.path)
    corners = corners_around(voxels[within], geometry.shape, size)
    cubes = clipped_boxes(scan.voxels, corners, size, window)
    labels = [[row[4]] for row, there in zip(wanted, within, strict=True) if there]
    return Cut(scan.sha256, {**asdict(scan.geometry), "reason": reason}, corners, cubes, labels=labels)
