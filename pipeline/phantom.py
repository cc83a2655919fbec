"""Practice data: chest-like CT phantoms in the layout of LUNA16.

    DIR/subset0 .. subset9/<SeriesInstanceUID>.mhd + .raw, DIR/annotations.csv, DIR/candidates_V2.csv

The scans are drawn by `anatomy`; this module writes them down. They are made up from end to end and show
nobody; a network that is trained on them has learned nothing about people.
"""

import csv
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.anatomy import SHAPE_LIMITS, Chest, draw_chest, stream
from pipeline.errors import CallError

#: LUNA16's ten folds.
SUBSETS = 10

_SCANS_LIMIT = 10_000
_SEED_LIMIT = 2**63 - 1
_AXIS_CODES = {1.0: "RAI", -1.0: "LPI"}


@dataclass(frozen=True)
class PhantomParameters:
    """What a phantom data set is made of.

    Attributes:
        scans: how many scans, 1 to 10,000, dealt round robin over the ten subsets.
        shape: voxels of every scan along x, y, z, 32 to 1024 each. The body always fits: fewer voxels are
            larger ones. The published cube rule needs x and y >= 265 and z >= 96.
        seed: 0 or more, below 2 to the 63rd. A scan depends on the seed, the shape and its own number only.

    Raises:
        CallError: a value is out of its range.
    """

    scans: int = 10
    shape: tuple[int, int, int] = (320, 320, 128)
    seed: int = 0

    def __post_init__(self) -> None:
        low, high = SHAPE_LIMITS
        if not 1 <= self.scans <= _SCANS_LIMIT:
            raise CallError(
                f"A phantom of {self.scans} scans cannot be written: give a number from 1 to {_SCANS_LIMIT}, "
                "as in --scans 10."
            )
        if len(self.shape) != 3 or not all(low <= size <= high for size in self.shape):
            found = ",".join(str(size) for size in self.shape)
            raise CallError(
                f"The shape {found} cannot hold a chest: give three numbers of voxels, x, y and z, each from "
                f"{low} to {high}, as in --shape 320,320,128."
            )
        if not 0 <= self.seed <= _SEED_LIMIT:
            raise CallError(
                f"The seed {self.seed} is out of range: give a whole number from 0 to {_SEED_LIMIT}, "
                "as in --seed 0."
            )


def series_uid(parameters: PhantomParameters, index: int) -> str:
    """The SeriesInstanceUID of a scan, in the DICOM arc 2.25 for numbers that anyone may draw.

    Args:
        parameters: seed and shape are used: another image has another name.
        index: the number of the scan, from 0.

    Returns:
        Digits and dots, at most 44 characters.
    """
    name = f"genesis phantom {parameters.seed} {parameters.shape} {index}"
    return f"2.25.{int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], 'big')}"


def write_luna16(
    folder: Path, parameters: PhantomParameters, *, report: Callable[[str, int, int], None] | None = None
) -> list[Path]:
    """Write a phantom data set in LUNA16's layout.

    Args:
        folder: where; it must not exist, or be empty. Its parents are made.
        parameters: how many scans, how large, which seed.
        report: called with ("scans", done, total) before the first scan and after each.

    Returns:
        The `.mhd` headers, in the order of the scans' numbers.

    Raises:
        CallError: the folder is a file or holds something.
    """
    _claim(folder)
    headers: list[Path] = []
    annotations: list[tuple[object, ...]] = []
    candidates: list[tuple[object, ...]] = []
    for number in range(SUBSETS):
        (folder / f"subset{number}").mkdir()
    for index in range(parameters.scans):
        if report is not None:
            report("scans", index, parameters.scans)
        uid = series_uid(parameters, index)
        chest = draw_chest(parameters.shape, parameters.seed, index)
        headers.append(_write_scan(folder / f"subset{index % SUBSETS}", uid, chest))
        found, offered = _rows(uid, chest, stream(parameters.seed, index, "tables"))
        annotations += found
        candidates += offered
    _write_table(
        folder / "annotations.csv", ("seriesuid", "coordX", "coordY", "coordZ", "diameter_mm"), annotations
    )
    _write_table(
        folder / "candidates_V2.csv", ("seriesuid", "coordX", "coordY", "coordZ", "class"), candidates
    )
    if report is not None:
        report("scans", parameters.scans, parameters.scans)
    return headers


def _claim(folder: Path) -> None:
    """Make the folder, or refuse it."""
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise CallError(f"{path} is a file: give a folder that does not exist yet, or an empty one.")
    if folder.exists() and any(folder.iterdir()):
        raise CallError(
            f"{folder} is not empty, and a phantom is not mixed with other files: give a folder that does "
            "not exist yet, or empty this one."
        )
    folder.mkdir(parents=True, exist_ok=True)


def _write_scan(folder: Path, uid: str, chest: Chest) -> Path:
    """Write one scan: voxels first, so that a header never points at a file that is not whole."""
    raw, header = folder / f"{uid}.raw", folder / f"{uid}.mhd"
    # MetaImage stores x fastest: the transpose of (x, y, z) in C order.
    _write_whole(raw, np.ascontiguousarray(chest.hu.transpose(2, 1, 0), dtype="<i2").data)
    fields = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": " ".join(f"{value:g}" for value in np.reshape(chest.direction, (3, 3)).T.ravel()),
        "Offset": " ".join(repr(value) for value in chest.origin),
        "CenterOfRotation": "0 0 0",
        "AnatomicalOrientation": _AXIS_CODES[chest.direction[0]],
        "ElementSpacing": " ".join(repr(value) for value in chest.spacing),
        "DimSize": " ".join(str(size) for size in chest.hu.shape),
        "ElementType": "MET_SHORT",
        "ElementDataFile": raw.name,
    }
    _write_whole(header, "".join(f"{key} = {value}\n" for key, value in fields.items()).encode("ascii"))
    return header


def _write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file under another name, then give it its own."""
    unfinished = path.with_name(f".{path.name}.partial")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _rows(
    uid: str, chest: Chest, draw: np.random.Generator
) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    """The rows of one scan in the tables of nodules and of candidates, in world mm."""
    annotations: list[tuple[object, ...]] = []
    candidates: list[tuple[object, ...]] = []
    for nodule in chest.nodules:
        centre = chest.to_world(nodule.centre)
        annotations.append((uid, *np.round(centre, 6).tolist(), nodule.diameter_mm))
        # A detector finds a nodule a little beside its middle.
        aside = draw.uniform(-0.08, 0.08, 3) * nodule.diameter_mm
        candidates.append((uid, *np.round(centre + aside, 6).tolist(), 1))
    candidates += [(uid, *np.round(place, 6).tolist(), 0) for place in chest.to_world(chest.tempting)]
    order = draw.permutation(len(candidates))
    return annotations, [candidates[int(row)] for row in order]


def _write_table(path: Path, columns: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    """Write a table as LUNA16 does: comma separated, one line of column names."""
    unfinished = path.with_name(f".{path.name}.partial")
    with unfinished.open("w", newline="", encoding="ascii") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
    unfinished.replace(path)
