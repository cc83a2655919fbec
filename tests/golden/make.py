"""Makes the golden stores of format version 1: once, and never again. They will always be read.

    python tests/golden/make.py FOLDER

The scans are arithmetic, written byte by byte, so that neither a generator of random numbers nor a library
that writes images has a part in them.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.cubes.extract import extract_cubes
from genesis_toolkit.pipeline.cubes.parameters import ExtractParameters
from genesis_toolkit.pipeline.pairs.degrade import DegradeParameters, degrade_cubes

CUTTING = ExtractParameters(cubes_per_scan=3, size=(16, 16, 16), border=(1, 1, 1), max_tissue=0.6)
DEGRADING = DegradeParameters(variants=2, seed=5)
HEADER = """\
ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
CompressedData = False
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = -10.5 0 20
ElementSpacing = 0.75 0.75 {spacing}
DimSize = {x} {y} {z}
ElementType = MET_SHORT
ElementDataFile = {raw}
"""


def voxels(number: int, shape: tuple[int, int, int]) -> NDArray[np.int16]:
    """A scan [x, y, z]: a lung with walls, in steps of 4 HU."""
    x, y, z = np.indices(shape)
    lung = -800 + 4 * ((3 * x + 5 * y + 7 * z + number * x * y) % 64)
    return np.where((x + number * z) % 13 < 3, 40 + 4 * (y % 8), lung).astype(np.int16)


def write_scan(path: Path, number: int, shape: tuple[int, int, int], spacing: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = path.with_suffix(".raw")
    x, y, z = shape
    text = HEADER.format(spacing=spacing, x=x, y=y, z=z, raw=raw.name)
    path.write_bytes(text.encode("ascii"))
    raw.write_bytes(voxels(number, shape).T.astype("<i2").tobytes())


def write_scans(folder: Path) -> Path:
    """The scans, laid out as LUNA16: two that give cubes, one too flat, one cut short."""
    write_scan(folder / "subset0" / "1.1.mhd", 1, (30, 28, 26), "1.25")
    write_scan(folder / "subset0" / "1.2.mhd", 2, (30, 28, 12), "2.5")
    write_scan(folder / "subset6" / "1.3.mhd", 3, (28, 30, 27), "1")
    write_scan(folder / "subset6" / "1.4.mhd", 4, (28, 30, 27), "1")
    with (folder / "subset6" / "1.4.raw").open("r+b") as file:
        file.truncate(99)
    return folder


def main() -> None:
    folder = Path(sys.argv[1])
    extract_cubes(write_scans(folder / "scans"), folder / "cubes.zarr", CUTTING, workers=1)
    degrade_cubes(folder / "cubes.zarr", folder / "pairs.zarr", DEGRADING, workers=1)


if __name__ == "__main__":
    main()
