"""Which mask belongs to which scan, by names alone."""

from collections.abc import Iterable
from pathlib import Path

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.scans.files import HERE, walk, within
from genesis_toolkit.pipeline.scans.find import Found, Source, find_scans, layout_of
from genesis_toolkit.pipeline.scans.formats import SUFFIXES
from genesis_toolkit.pipeline.targets.parameters import MaskParameters
from genesis_toolkit.pipeline.targets.plan import Piece, Plan, fold_of_name, fold_of_subset

#: LUNA16's masks of the lungs.
LUNGS = "seg-lungs-LUNA16"


def plan_masks(source: Path, parameters: MaskParameters) -> Plan:
    """The scans of a source, each with the path of its mask.

    A mask has the name of its scan: its path relative to the masks' folder is that of the scan relative to
    the source, whatever the suffix; or it is the scan's identifier, as of LUNA16's masks of the lungs. Scans
    without one are passed over. What lies in the masks' folder is no scan.

    Raises:
        CallError: no scans, no masks, or no scan with a mask.
    """
    found = _found(source, parameters)
    folder = masks_folder(source, parameters)
    by_name = _by_name(_masks_in(folder))
    mine = _within(folder, found.root)
    pieces, without = [], 0
    for one in found.sources:
        if mine is not None and (one.path == mine or one.path.startswith(f"{mine}/")):
            continue
        masks = _masks_of(one, by_name)
        if not masks:
            without += 1
            continue
        fold = fold_of_subset(one.subset) if found.layout == "luna16" else fold_of_name(one.identifier)
        pieces.append(Piece(one, fold, sorted(masks)))
    if not pieces:
        raise CallError(
            f"No scan in {found.root} has a mask in {folder}: a mask has the name of its scan, as "
            f"{_stem(found.sources[0].path)}.nii.gz."
        )
    said = f"{without:,} scans have no mask in {folder}, and are passed over."
    return Plan(found.root, tuple(pieces), (said,) if without else ())


def masks_folder(source: Path, parameters: MaskParameters) -> Path:
    """The folder of the masks.

    Raises:
        CallError: there is none, or none was given and the source is not LUNA16.
    """
    folder = parameters.masks or source / LUNGS
    if parameters.masks is None and layout_of(source) != "luna16":
        raise CallError(
            f"{source} is not laid out as LUNA16: give the folder of the masks, as in --masks masks."
        )
    if not folder.is_dir():
        raise CallError(f"There is no folder {folder}: give that of the masks, as in --masks masks.")
    if folder.resolve() == source.resolve():
        raise CallError(f"--masks {folder} is the folder of the scans: masks lie in one of their own.")
    return folder


def _found(source: Path, parameters: MaskParameters) -> Found:
    luna16 = parameters.layout == "luna16" or (parameters.layout == "auto" and layout_of(source) == "luna16")
    return find_scans(source, parameters.layout, range(10) if luna16 else None)


def _masks_in(folder: Path) -> list[str]:
    """All files of a folder that may be masks, by their paths in it."""
    files, _ = walk(folder, SUFFIXES)
    return [
        within(place, name)
        for place, names in files.items()
        for name in names
        if name.lower().endswith(SUFFIXES)
    ]


def _by_name(masks: Iterable[str]) -> dict[str, list[str]]:
    named: dict[str, list[str]] = {}
    for mask in masks:
        named.setdefault(_stem(mask), []).append(mask)
    return named


def _masks_of(source: Source, by_name: dict[str, list[str]]) -> set[str]:
    return {mask for name in (_stem(source.path), source.identifier) for mask in by_name.get(name, [])}


def _within(folder: Path, root: Path) -> str | None:
    """The path of a folder relative to the root it lies in; None where it lies elsewhere."""
    folder, root = folder.resolve(), root.resolve()
    place = folder.relative_to(root).as_posix() if folder.is_relative_to(root) else HERE
    return None if place == HERE else place


def _stem(path: str) -> str:
    """A path without the suffix of a scan."""
    suffix = max((one for one in SUFFIXES if path.lower().endswith(one)), key=len, default="")
    return path[: len(path) - len(suffix)]
