"""DXC: NIH's X-ray images with the findings of their table (METHOD.md sections 5 and 6)."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from genesis_toolkit.pipeline.cubes.records import Cut
from genesis_toolkit.pipeline.cubes.split_file import SplitFile, dealt_by
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.scans import nih
from genesis_toolkit.pipeline.scans.image_folder import find_image_folder
from genesis_toolkit.pipeline.scans.images import read_image, resize
from genesis_toolkit.pipeline.targets.parameters import FindingParameters
from genesis_toolkit.pipeline.targets.plan import (
    TEST,
    Piece,
    Plan,
    TargetTask,
    fold_of_patient,
    fold_of_source,
)
from genesis_toolkit.pipeline.wording import counted

_NOTHING = "No Finding"


def plan_findings(source: Path, _: FindingParameters, split: SplitFile | None = None) -> Plan:
    """Return the images on NIH's lists, each with a 0 or 1 for each of the fourteen findings.

    `test_list.txt` is the test fold. Of the patients on `train_val_list.txt` one in ten validates, by a hash
    of the patient. Images on neither list are skipped. With a split file the lists are ignored.

    Raises:
        CallError: the layout is not NIH ChestX-ray14's, or no image is on a list.
        DataError: the table or a list is damaged, a finding is not NIH's, or a patient is on both lists.
    """
    plan = deal_images(source, split)
    pieces = (
        replace(piece, data=multi_hot(name, one.labels) if not one.problem else [])
        for piece in plan.pieces
        if isinstance(one := piece.source, nih.ImageSource)
        for name in [one.path.rpartition("/")[2]]
    )
    return replace(plan, pieces=tuple(pieces))


def deal_images(source: Path, split: SplitFile | None) -> Plan:
    """Return the images on NIH's lists with their folds and no data for a task; raises as `plan_findings`."""
    found = nih.find_images(source, "all")
    all_images = tuple(one for one in found.sources if isinstance(one, nih.ImageSource))
    images = [(one.path.rpartition("/")[2], one) for one in dealt_by(split, all_images)]
    lists = {} if split else nih.official_lists(found.root)
    rows = {name: nih.Row(one.patient, one.view, one.labels) for name, one in images if one.patient}
    train_val, test = lists.get("train_val", {}), lists.get("test", {})
    nih.check_split_of_patients(train_val, test, rows)
    pieces = [
        Piece(
            one, one.part if one.part is not None else TEST if name in test else fold_of_patient(one.patient)
        )
        for name, one in images
        if split or name in train_val or name in test
    ]
    if not pieces:
        raise CallError(
            f"None of the images in {found.root} is on NIH's lists in this folder: "
            "download the lists again, or assign the images with --split-file."
        )
    others = len(images) - len(pieces)
    said = f"Skipped {counted(others, 'image')} on neither of NIH's lists."
    return Plan(found.root, tuple(pieces), (said,) if others else ())


def plan_folder(source: Path, split: SplitFile | None, aside: Path | None = None) -> Plan:
    """Return the X-ray images of any folder, except those in `aside`, with their folds and no task data.

    Raises:
        CallError: there are none.
    """
    found = find_image_folder(source)
    mine = os.path.relpath(aside.resolve(), found.root.resolve()) if aside else None
    sources = tuple(one for one in found.sources if mine is None or not one.path.startswith(f"{mine}/"))
    pieces = (Piece(one, fold_of_source(one)) for one in dealt_by(split, sources))
    return Plan(found.root, tuple(pieces))


def multi_hot(name: str, labels: str) -> list[int]:
    """Return the findings of an image as 0 or 1 for each of `FindingParameters.classes`, in their order.

    Args:
        name: of the image, for the message.
        labels: in the format of NIH's table, `Effusion|Mass`; or only `No Finding`.

    Raises:
        DataError: a finding is not one of NIH's fourteen, or there is none.
    """
    classes = FindingParameters.classes
    names = labels.split("|")
    if names == [_NOTHING]:
        return [0] * len(classes)
    strange = [label for label in names if label not in classes]
    if strange:
        raise DataError(
            f"The table has {labels!r} for {name}, but {strange[0]!r} is not one of NIH's findings: "
            f"{', '.join(classes)}, or {_NOTHING}. Download NIH's table again."
        )
    return [int(label in names) for label in classes]


def cut_findings(task: TargetTask[FindingParameters]) -> Cut:
    """Return the whole image, resized by area averaging the way `extract-cubes` does.

    Raises:
        DataError: it cannot be read.
    """
    picture = read_image(task.path)
    x, y = picture.pixels.shape
    cubes = [resize(picture.pixels, task.parameters.size)]
    corner, labels = np.zeros((1, 3), np.int32), [task.piece.data]
    return Cut(picture.sha256, {"shape": [x, y, 1]}, corner, cubes, labels=labels)
