"""Practice data: chest-like CT phantoms in the layout of LUNA16.

    DIR/subset0 .. subset9/<SeriesInstanceUID>.mhd + .raw, DIR/annotations.csv, DIR/candidates_V2.csv,
    DIR/seg-lungs-LUNA16 and DIR/seg-nodules/<SeriesInstanceUID>.mhd + .zraw

The lung masks have LUNA16's folder name; LUNA16 has no nodule masks. Both are outside the subsets, where this
layout is never searched for scans.

`anatomy` draws the scans, and this module writes them. They are entirely made up and show nobody; a network
trained on them has learned nothing about people.
"""

import csv
import hashlib
import io
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.engine import Workers, cores
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.job import run_missing
from genesis_toolkit.pipeline.ledger import AnyPath, hold, write_whole
from genesis_toolkit.pipeline.practice.anatomy.chest import SHAPE_LIMITS, TABLES, Chest, draw_chest
from genesis_toolkit.pipeline.practice.anatomy.patient import stream
from genesis_toolkit.pipeline.progress import Bars, Progress, callback, shows
from genesis_toolkit.pipeline.rng import checked_seed

#: LUNA16's ten folds.
SUBSETS = 10

#: Folders of the masks, on the scans' grids: uint8, 1 inside and 0 outside.
LUNG_MASKS = "seg-lungs-LUNA16"
NODULE_MASKS = "seg-nodules"

_SCANS_LIMIT = 10_000
_SECONDS_A_SCAN, _SECONDS_A_VOXEL = 0.3, 1.6e-7  # to draw it, most of them with the GIL held
_TABLES = {
    "annotations.csv": "seriesuid,coordX,coordY,coordZ,diameter_mm",
    "candidates_V2.csv": "seriesuid,coordX,coordY,coordZ,class",
}
_AXIS_CODES = {1.0: "RAI", -1.0: "LPI"}
_Row = tuple[object, ...]


@dataclass(frozen=True)
class PhantomParameters:
    """Parameters of a phantom data set.

    Attributes:
        scans: number of scans, 1 to 10,000, distributed round robin over the ten subsets.
        shape: voxels of every scan along x, y, z, 32 to 1024 each. The body always fits: with fewer voxels,
            each is larger. The published cube rule needs x and y >= 265 and z >= 96.
        seed: at least 0, below 2 to the 63rd. A scan depends only on the seed, the shape and its own number.

    Raises:
        CallError: a value is out of range.
    """

    scans: int = 10
    shape: tuple[int, int, int] = (320, 320, 128)
    seed: int = 0

    def __post_init__(self) -> None:
        must_be = "cannot hold a chest: it must be three numbers of voxels, x, y and z"
        check_made(self, "scans", _SCANS_LIMIT, SHAPE_LIMITS, must_be)


def series_uid(parameters: PhantomParameters, index: int) -> str:
    """Return the SeriesInstanceUID of a scan, in the DICOM arc 2.25 for freely drawn numbers.

    Digits and dots, at most 44 characters; another seed, shape or number of the scan gives another UID.
    """
    name = f"genesis phantom {parameters.seed} {parameters.shape} {index}"
    return f"2.25.{int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], 'big')}"


@shows(Bars)
def write_luna16(
    folder: AnyPath,
    parameters: PhantomParameters,
    *,
    workers: int | None = None,
    progress: Progress | bool = False,
) -> list[Path]:
    """Write a phantom data set in LUNA16's layout.

    Call it again to resume an interrupted run.

    Args:
        folder: the target folder, which must be missing or empty. Its parents are created.
        parameters: number of scans, their size, and the seed.
        workers: scans at a time; None means one per core. The bytes do not depend on it.
        progress: True shows bars on stderr; a callback receives the progress.

    Returns:
        The `.mhd` headers, in the order of the scans' numbers.

    Raises:
        CallError: the folder is a file or not empty.
    """
    folder = check_free(Path(folder))
    with hold(folder, asdict(parameters), overwrite=False) as ledger:
        for name in (*(f"subset{number}" for number in range(SUBSETS)), LUNG_MASKS, NODULE_MASKS):
            (ledger.store / name).mkdir(exist_ok=True)
        scans = {str(index): index for index in range(parameters.scans)}
        draw = partial(_draw_scan, ledger.store, parameters)
        each = _SECONDS_A_SCAN + _SECONDS_A_VOXEL * math.prod(parameters.shape)

        def suited(crew: Workers, left: Sequence[int]) -> Workers:
            return crew.for_seconds(each * len(left))

        crew = Workers(workers or cores(), progress=callback(progress))
        run_missing(crew, ledger, "scans", scans, draw, suited=suited)
        records = list(ledger.records(scans))
        for name, columns in _TABLES.items():
            write_table(ledger.store / name, columns, (row for record in records for row in record[name]))
        ledger.publish()
    return [folder / record["header"] for record in records]


def _draw_scan(folder: Path, parameters: PhantomParameters, index: int) -> dict[str, Any]:
    """Draw and write one scan; return its path, and its rows of the tables."""
    uid = series_uid(parameters, index)
    chest = draw_chest(parameters.shape, parameters.seed, index)
    header = _write_image(folder / f"subset{index % SUBSETS}", uid, chest, chest.hu)
    for name, mask in ((LUNG_MASKS, chest.lung), (NODULE_MASKS, chest.nodule)):
        _write_image(folder / name, uid, chest, mask)
    annotations, candidates = _rows(uid, chest, stream(parameters.seed, index, TABLES))
    place = header.relative_to(folder).as_posix()
    return {"header": place, "annotations.csv": annotations, "candidates_V2.csv": candidates}


def check_made(made: Any, noun: str, most: int, limits: tuple[int, int], must_be: str) -> None:
    """Refuse a number of scans or images, a shape or a seed that is out of range (CallError)."""
    (low, high), usual = limits, type(made)
    if not 1 <= made.scans <= most:
        raise CallError(
            f"--scans {made.scans} is out of range: it must be between 1 and {most} {noun}, "
            f"for example --scans {usual.scans}."
        )
    if len(made.shape) != len(usual.shape) or not all(low <= size <= high for size in made.shape):
        found, typed = (",".join(map(str, shape)) for shape in (made.shape, usual.shape))
        raise CallError(f"--shape {found} {must_be}, each from {low} to {high}, for example --shape {typed}.")
    checked_seed(made.seed)


def check_free(folder: Path) -> Path:
    """Return the folder; a CallError if it is a file or not empty."""
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise CallError(f"{path} is a file: give a new or empty folder.")
    if folder.exists() and any(folder.iterdir()):
        raise CallError(
            f"{folder} is not empty, and practice data must not be mixed with other files: "
            "give a new folder, or empty this folder."
        )
    return folder


def _write_image(folder: Path, uid: str, chest: Chest, values: NDArray[np.int16] | NDArray[np.bool_]) -> Path:
    """Write one scan, or a mask, compressed; voxels first, so that no header points to a partial file."""
    mask = values.dtype == np.bool_
    # MetaImage stores x fastest: the transpose of (x, y, z) in C order.
    data = np.ascontiguousarray(values.transpose(2, 1, 0), dtype="u1" if mask else "<i2").tobytes()
    raw, header = folder / f"{uid}.{'zraw' if mask else 'raw'}", folder / f"{uid}.mhd"
    data = zlib.compress(data, 1) if mask else data
    write_whole(raw, data)
    fields = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": str(mask),
        **({"CompressedDataSize": str(len(data))} if mask else {}),
        "TransformMatrix": " ".join(f"{value:g}" for value in np.reshape(chest.direction, (3, 3)).T.ravel()),
        "Offset": " ".join(repr(value) for value in chest.origin),
        "CenterOfRotation": "0 0 0",
        "AnatomicalOrientation": _AXIS_CODES[chest.direction[0]],
        "ElementSpacing": " ".join(repr(value) for value in chest.spacing),
        "DimSize": " ".join(str(size) for size in values.shape),
        "ElementType": "MET_UCHAR" if mask else "MET_SHORT",
        "ElementDataFile": raw.name,
    }
    write_whole(header, "".join(f"{key} = {value}\n" for key, value in fields.items()).encode("ascii"))
    return header


def _rows(uid: str, chest: Chest, draw: np.random.Generator) -> tuple[list[_Row], list[_Row]]:
    """Return the rows of one scan in the tables of nodules and of candidates, in world mm."""
    annotations, candidates = list[_Row](), list[_Row]()
    for nodule in chest.nodules:
        centre = chest.to_world(nodule.centre)
        annotations.append((uid, *np.round(centre, 6).tolist(), nodule.diameter_mm))
        # A detector finds a nodule slightly off its centre.
        aside = draw.uniform(-0.08, 0.08, 3) * nodule.diameter_mm
        candidates.append((uid, *np.round(centre + aside, 6).tolist(), 1))
    candidates += [(uid, *np.round(place, 6).tolist(), 0) for place in chest.to_world(chest.tempting)]
    order = draw.permutation(len(candidates))
    return annotations, [candidates[int(row)] for row in order]


def write_table(path: Path, columns: str, rows: Iterable[Sequence[object]]) -> None:
    """Write a table like those of LUNA16 and NIH: comma separated, one line of column names."""
    text = io.StringIO()
    text.write(f"{columns}\n")
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_whole(path, text.getvalue().encode("ascii"))
