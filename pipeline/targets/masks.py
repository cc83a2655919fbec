"""Segmentation: cubes of scans with the same boxes of their masks (METHOD.md section 6).

Masks and scans are matched by name only.
"""

import os
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.cubes.crop import picture_facts
from genesis_toolkit.pipeline.cubes.records import Cut
from genesis_toolkit.pipeline.cubes.split_file import SplitFile, dealt_by
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.rng import stream_key
from genesis_toolkit.pipeline.scans.files import walk, within
from genesis_toolkit.pipeline.scans.find import find_scans, layout_of
from genesis_toolkit.pipeline.scans.formats import SUFFIXES, stem_of
from genesis_toolkit.pipeline.scans.images import resize
from genesis_toolkit.pipeline.scans.mapping import apply_window
from genesis_toolkit.pipeline.scans.radiographs import picture_of, read_values
from genesis_toolkit.pipeline.scans.read import open_scan
from genesis_toolkit.pipeline.targets.cut import box_at, clipped_boxes, grid_words, mask_corners, same_grid
from genesis_toolkit.pipeline.targets.findings import plan_folder
from genesis_toolkit.pipeline.targets.parameters import ImageMaskParameters, MaskParameters
from genesis_toolkit.pipeline.targets.plan import Piece, Plan, TargetTask, fold_of_source

#: Folder of LUNA16's masks of the lungs.
LUNGS = "seg-lungs-LUNA16"

_PNG, _LESS_THAN_HALF = ".png", 127


def plan_masks(source: Path, parameters: MaskParameters, split: SplitFile | None = None) -> Plan:
    """Return the scans of a source, each with the path of its mask.

    A mask is named like its scan: its path in the masks' folder is that of the scan in the source, whatever
    the suffix; or its name is the scan's identifier, as for LUNA16's masks of the lungs. Scans without a mask
    are skipped. Files in the masks' folder do not count as scans.

    Raises:
        CallError: there are no scans, no masks, or no scan with a mask.
    """
    luna16 = parameters.layout == "luna16" or (parameters.layout == "auto" and layout_of(source) == "luna16")
    found = find_scans(source, parameters.layout, range(10) if luna16 else None, mr=parameters.mr)
    folder = masks_folder(source, parameters)
    by_name = _masks_in(folder)
    mine = os.path.relpath(folder.resolve(), found.root.resolve())
    pieces, without = [], 0
    others = (one for one in found.sources if one.path != mine and not one.path.startswith(f"{mine}/"))
    for one in dealt_by(split, tuple(others)):
        masks = {mask for name in (_stem(one.path), one.identifier) for mask in by_name[name]}
        if not masks:
            without += 1
            continue
        pieces.append(Piece(one, fold_of_source(one), sorted(masks)))
    if not pieces:
        raise CallError(
            f"No scan in {found.root} has a mask in {folder}: a mask must be named like its scan, "
            f"for example {_stem(found.sources[0].path)}.nii.gz."
        )
    said = f"{without:,} scans without a mask in {folder} are skipped."
    return Plan(found.root, tuple(pieces), (*found.said, said) if without else found.said)


def masks_folder(source: Path, parameters: MaskParameters | ImageMaskParameters) -> Path:
    """Return the folder of the masks.

    Raises:
        CallError: it does not exist, or none was given and the source is not LUNA16.
    """
    folder = parameters.masks or source / LUNGS
    if parameters.masks is None and layout_of(source) != "luna16":
        raise CallError(f"{source} does not have LUNA16's layout: give the folder of the masks with --masks.")
    if not folder.is_dir():
        raise CallError(f"There is no folder {folder}: give the folder of the masks with --masks.")
    if folder.resolve() == source.resolve():
        raise CallError(f"--masks {folder} is the folder of the scans: keep masks in a folder of their own.")
    return folder


def plan_image_masks(source: Path, parameters: ImageMaskParameters, split: SplitFile | None = None) -> Plan:
    """Return the X-ray images of a source, each with the path of its mask.

    A mask is a PNG named like its image, whatever the suffix, optionally with `_mask` appended, at the same
    path in the masks' folder. Images without one are skipped. Files in the masks' folder do not count as
    images.

    Raises:
        CallError: there are no images, no masks, or no image with a mask.
    """
    folder = masks_folder(source, parameters)
    plan = plan_folder(source, split, aside=folder)
    named = defaultdict[str, list[str]](list)
    for place, names in walk(folder, (_PNG,))[0].items():
        for mask in (within(place, name) for name in names if name.lower().endswith(_PNG)):
            named[mask[: -len(_PNG)]].append(mask)
    pieces, without = [], 0
    for piece in plan.pieces:
        stem = stem_of(piece.source.path)
        masks = sorted({*named[stem], *named[f"{stem}_mask"]})
        without += not masks
        pieces += [replace(piece, data=masks)] if masks else []
    if not pieces:
        first = stem_of(plan.pieces[0].source.path) if plan.pieces else "p1"
        raise CallError(
            f"No image in {plan.root} has a mask in {folder}: a mask must be named like its image, "
            f"for example {first}.png or {first}_mask.png."
        )
    said = f"{without:,} images without a mask in {folder} are skipped."
    return Plan(plan.root, tuple(pieces), (said,) if without else ())


def cut_image_masks(task: TargetTask[ImageMaskParameters]) -> Cut:
    """Return the whole image and its mask, both resized: a pixel is foreground if at least half of it is.

    Raises:
        DataError: it has several masks, either cannot be read, or they have different edges.
    """
    parameters, (mask, *others) = task.parameters, task.masks
    if others:
        names = ", ".join(mask.name for mask in task.masks)
        raise DataError(f"there are {len(task.masks)} masks, {names}: keep one")
    picture = picture_of(task.path, parameters.layout)
    try:
        values = read_values(mask)
    except DataError as error:
        raise DataError(f"mask {mask.name}: {error}") from None
    if values.shape != picture.pixels.shape:
        edges = (f"{x} x {y}" for x, y in (values.shape, picture.pixels.shape))
        raise DataError("mask {} has {} pixels, but the image has {}".format(mask.name, *edges))
    foreground = _foreground(values.astype(np.int32), parameters.foreground)
    shares = resize(foreground.astype(np.uint8) * np.uint8(255), parameters.size)
    cubes, corner = [resize(picture.pixels, parameters.size)], np.zeros((1, 3), np.int32)
    facts = picture_facts(picture, parameters) | {"foreground": int(np.count_nonzero(foreground))}
    # 255 x one half is 127.5, which rounds to the even 128.
    return Cut(picture.sha256, facts, corner, cubes, masks=[(shares > _LESS_THAN_HALF).astype(np.uint8)])


def cut_masks(task: TargetTask[MaskParameters]) -> Cut:
    """Cut cubes of a scan and of its mask.

    Returns:
        Its facts include `foreground`, the number of foreground voxels in the scan.

    Raises:
        DataError: it has several masks; or either cannot be read, or their grids differ, since nothing is
            resampled.
    """
    parameters, (mask, *others) = task.parameters, task.masks
    if others:
        names = ", ".join(mask.name for mask in task.masks)
        raise DataError(f"there are {len(task.masks)} masks, {names}: keep one")
    opened = open_scan(task.path, parameters.mr)
    geometry = opened.geometry
    try:
        its = open_scan(mask)
        grid = its.geometry
        if not same_grid(geometry, grid):
            raise DataError(
                f"the mask's grid ({grid_words(grid)}) differs from the scan's "
                f"({grid_words(geometry)}): resample the mask to the scan's grid with "
                "nearest-neighbour interpolation"
            )
        foreground = _foreground(its.read().voxels, parameters.foreground)
    except DataError as error:
        raise DataError(f"mask {mask.name}: {error}") from None
    scan, own = apply_window(opened.read(), parameters.window, parameters.store_window)
    stream = stream_key(task.source.identifier)
    asked = parameters.size, parameters.cubes_per_scan, parameters.seed
    corners = mask_corners(foreground, *asked, stream)
    cubes = clipped_boxes(scan.voxels, corners, parameters.size, parameters.store_window)
    masks = [box_at(foreground, corner, parameters.size, 0).astype(np.uint8) for corner in corners]
    facts = {**asdict(scan.geometry), **own, "foreground": int(np.count_nonzero(foreground))}
    return Cut(scan.sha256, facts, corners, cubes, masks=masks)


def _foreground(voxels: NDArray[Any], values: tuple[int, ...] | None) -> NDArray[np.bool_]:
    if voxels.dtype.kind != "i":
        raise DataError("some values are not whole numbers")
    return voxels != 0 if values is None else np.isin(voxels, values)


def _masks_in(folder: Path) -> dict[str, list[str]]:
    """Return the paths in a folder of all files that may be masks, by path without suffix."""
    named = defaultdict[str, list[str]](list)
    for place, names in walk(folder, SUFFIXES)[0].items():
        for mask in (within(place, name) for name in names if name.lower().endswith(SUFFIXES)):
            named[_stem(mask)].append(mask)
    return named


def _stem(path: str) -> str:
    """Return a path without the suffix of a scan."""
    suffix = max((one for one in SUFFIXES if path.lower().endswith(one)), key=len, default="")
    return path[: len(path) - len(suffix)]
