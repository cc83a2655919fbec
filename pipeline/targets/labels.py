"""Classification: whole scans or images, or cubes of scans, labelled by columns of any table."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from genesis_toolkit.pipeline.cubes.crop import picture_facts
from genesis_toolkit.pipeline.cubes.records import Cut
from genesis_toolkit.pipeline.cubes.split_file import SplitFile, dealt_by
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.rng import stream_key
from genesis_toolkit.pipeline.scans.find import find_scans, layout_of
from genesis_toolkit.pipeline.scans.images import resize
from genesis_toolkit.pipeline.scans.mapping import apply_window
from genesis_toolkit.pipeline.scans.radiographs import picture_of
from genesis_toolkit.pipeline.scans.read import read_scan
from genesis_toolkit.pipeline.store.schema import UNKNOWN
from genesis_toolkit.pipeline.targets.cut import averaged, clipped_boxes, mask_corners
from genesis_toolkit.pipeline.targets.findings import deal_images, plan_folder
from genesis_toolkit.pipeline.targets.label_table import Labels, labels_by_source, read_labels
from genesis_toolkit.pipeline.targets.parameters import (
    ImageLabelParameters,
    ScanLabelParameters,
    TargetParameters,
)
from genesis_toolkit.pipeline.targets.plan import Piece, Plan, TargetTask, fold_of_source

TableParameters = ScanLabelParameters | ImageLabelParameters


def with_classes(parameters: TargetParameters) -> TargetParameters:
    """Return the parameters with the classes found in their table; those of other tasks unchanged.

    Raises:
        CallError: the table cannot be read, or yields no classes.
    """
    if not isinstance(parameters, TableParameters):
        return parameters
    return replace(parameters, classes=_table(parameters).classes)


def plan_labels(source: Path, parameters: TableParameters, split: SplitFile | None = None) -> Plan:
    """Return the scans or images that have a row in the table, each with its labels.

    Folds come from the split file, else from LUNA16's subsets or NIH's lists, else from a hash of the patient
    or the identifier. Scans without a row, or with empty labels only, are skipped with a message.

    Raises:
        CallError: the source is empty, or no row matches it.
        DataError: a table or list of the source is damaged.
    """
    table, given = _table(parameters), f"--label-table {parameters.label_table}"
    plan = _everything(source, parameters, split)
    labels = labels_by_source(given, table, (piece.source for piece in plan.pieces))
    noun = "images" if isinstance(parameters, ImageLabelParameters) else "scans"
    pieces, without, unknown = [], 0, 0
    for piece in plan.pieces:
        known = labels.get(piece.source.path)
        without += known is None
        unknown += known is not None and set(known) == {UNKNOWN}
        if known is not None and set(known) != {UNKNOWN}:
            pieces.append(replace(piece, data=known))
    if not pieces:
        raise CallError(
            f"{given} has only empty labels for the {noun} in {plan.root}: fill "
            "in the labels, or choose other columns."
        )
    said = [f"{without:,} {noun} without a row in the table are skipped."] if without else []
    said += [f"{unknown:,} {noun} whose labels are all empty are skipped."] if unknown else []
    return Plan(plan.root, tuple(pieces), (*plan.said, *said))


def cut_labelled_scan(task: TargetTask[ScanLabelParameters]) -> Cut:
    """Return the whole scan averaged to the size, or cubes drawn anywhere in it, all with its labels.

    Raises:
        DataError: it cannot be read.
    """
    asked, scan = task.parameters, read_scan(task.path, task.parameters.mr)
    scan, own = apply_window(scan, asked.window, asked.store_window)
    if asked.cubes_per_scan is None:
        corners = np.zeros((1, 3), np.int32)
        cubes = [averaged(scan.voxels, asked.size, asked.store_window)]
    else:
        nowhere, stream = np.zeros(scan.voxels.shape, np.bool_), stream_key(task.source.identifier)
        corners = mask_corners(nowhere, asked.size, asked.cubes_per_scan, asked.seed, stream)
        cubes = clipped_boxes(scan.voxels, corners, asked.size, asked.store_window)
    labels = [task.piece.data] * len(cubes)
    return Cut(scan.sha256, {**asdict(scan.geometry), **own}, corners, cubes, labels=labels)


def cut_labelled_image(task: TargetTask[ImageLabelParameters]) -> Cut:
    """Return the whole image, resized by area averaging the way `extract-cubes` does.

    Raises:
        DataError: it cannot be read.
    """
    picture = picture_of(task.path, task.parameters.layout)
    cubes, corner = [resize(picture.pixels, task.parameters.size)], np.zeros((1, 3), np.int32)
    facts = picture_facts(picture, task.parameters)
    return Cut(picture.sha256, facts, corner, cubes, labels=[task.piece.data])


def _table(parameters: TableParameters) -> Labels:
    assert parameters.label_table is not None  # the parameters ensure it
    return read_labels(parameters.label_table, parameters.label_columns)


def _everything(source: Path, parameters: TableParameters, split: SplitFile | None) -> Plan:
    """Return everything in a source, each item with its fold and no data for a task."""
    if parameters.layout == "nih":
        return deal_images(source, split)
    if parameters.layout == "images":
        return plan_folder(source, split)
    luna16 = parameters.layout == "luna16" or (parameters.layout == "auto" and layout_of(source) == "luna16")
    found = find_scans(source, parameters.layout, range(10) if luna16 else None, mr=parameters.mr)
    pieces = (Piece(one, fold_of_source(one)) for one in dealt_by(split, found.sources))
    return Plan(found.root, tuple(pieces), found.said)
