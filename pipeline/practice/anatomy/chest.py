"""A chest-like CT phantom as plain arrays: one patient, drawn from a seed and a number, and the scanner.

Lengths are mm in the patient's frame: x to the patient's left, y to the back, z to the head, with the origin
in the middle of the thorax, on the lowest slice. Arrays are drawn in (z, y, x) order, so that x runs fastest
(the order of LUNA16 files), and returned as (x, y, z) views.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.practice.anatomy.patient import Floats, Patient, Plane, stream
from genesis_toolkit.pipeline.practice.anatomy.slices import draw_body, draw_table
from genesis_toolkit.pipeline.practice.anatomy.trees import (
    Canvas,
    Nodule,
    draw_airways,
    draw_nodules,
    draw_vessels,
    tempting_places,
)

Triple = tuple[float, float, float]

#: Random streams of the parts of a scan: the last number, after the seed and the number of the scan.
_PATIENT, _TREES, _NODULES, _NOISE, TABLES = range(5)

#: Smallest and largest number of voxels of a phantom along each axis.
SHAPE_LIMITS = (32, 1024)

#: Range of a scanner: 12 bits around water. Padding outside the field of view is below it.
SCANNER_HU = (-1024, 3071)

#: With fewer voxels in the plane, the published border of 100 voxels leaves less than half of the image,
#: which in a centred patient is the heart.
_NARROW = 400


@dataclass(frozen=True)
class Chest:
    """One phantom scan.

    Attributes:
        hu: int16, (x, y, z), HU in [-1024, 3071], or the padding value outside the field of view.
        spacing: mm between voxels along x, y, z.
        origin: world position (LPS, mm) of voxel (0, 0, 0).
        direction: 3 x 3 row by row: column j is the world direction of array axis j.
        padding: HU outside the circular field of view (-2000 or -3024), or None if the scan has none.
        nodules: the nodules in the scan, in voxels.
        tempting: float64 (n, 3): voxel positions (x, y, z) outside every nodule that look like one:
            branching points of vessels, and vessels that touch the wall.
        lung: bool, (x, y, z), True inside the pleura, vessels and nodules included.
        nodule: bool, (x, y, z), True where the centre of a voxel is inside a nodule.
    """

    hu: NDArray[np.int16]
    spacing: Triple
    origin: Triple
    direction: tuple[float, ...]
    padding: int | None
    nodules: tuple[Nodule, ...]
    tempting: NDArray[np.float64]
    lung: NDArray[np.bool_]
    nodule: NDArray[np.bool_]

    def to_world(self, voxel: Triple | NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the world position of voxels, origin + direction x spacing x index: float64, mm, LPS.

        Args:
            voxel: (3,) or (n, 3), in voxels along x, y, z; fractions are allowed.
        """
        scaled = np.asarray(voxel, dtype=np.float64) * np.asarray(self.spacing)
        return np.asarray(scaled @ np.reshape(self.direction, (3, 3)).T + np.asarray(self.origin))


def draw_chest(shape: tuple[int, int, int], seed: int, index: int) -> Chest:
    """Draw one phantom scan.

    Args:
        shape: voxels along x, y, z, each within `SHAPE_LIMITS`.
        seed: the seed of the whole data set, at least 0.
        index: the number of the scan, from 0.

    Returns:
        The scan; equal arguments give equal voxels.
    """
    draw = stream(seed, index, _PATIENT)
    patient = Patient.drawn(draw)
    spacing, middle = _placed(patient, shape, draw)
    x = (np.arange(shape[0]) * spacing[0] - middle[0]).astype(np.float32)[None]
    y = (np.arange(shape[1]) * spacing[1] - middle[1]).astype(np.float32)[:, None]
    edge = 1.3 * spacing[0]
    plane = Plane.of(patient, x, y, edge)

    hu: Floats = np.empty(shape[::-1], dtype=np.float32)
    hu[:] = draw_table(patient, x, y, edge)
    depth = draw_body(patient, plane, hu, spacing[2])
    canvas = Canvas(hu, depth, spacing, middle)
    trees = stream(seed, index, _TREES)
    vessels = draw_vessels(canvas, patient, trees)
    draw_airways(canvas, patient, trees)
    picks = stream(seed, index, _NODULES)
    nodule = np.zeros(hu.shape, dtype=np.bool_)
    nodules = draw_nodules(canvas, patient.nodules, vessels, nodule, picks)
    tempting = tempting_places(canvas, vessels, nodules, picks)
    values = _scanned(hu, patient.noise, patient.padding, stream(seed, index, _NOISE))
    # About half a field of view from the centre, at any table height.
    x0, y0 = (-0.5 * shape[axis] * spacing[axis] + draw.uniform(-20.0, 20.0) for axis in (0, 1))
    origin = (round(x0, 6), round(y0, 6), round(draw.uniform(-400.0, -150.0), 6))
    straight = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    masks = (depth > 0).T, nodule.T
    chest = Chest(values.T, spacing, origin, straight, patient.padding, nodules, tempting, *masks)
    return _turned(chest) if draw.random() < 0.125 else chest


def _placed(
    patient: Patient, shape: tuple[int, int, int], draw: np.random.Generator
) -> tuple[Triple, tuple[float, float]]:
    """Return the spacing (mm) that fits the patient into the shape, and the thorax's position (mm)."""
    if min(shape[0], shape[1]) < _NARROW:
        # The right lung is in the centre, as for a patient off the centre of the table: with a
        # border of 100 voxels, only the centre of a small image is ever cut.
        aside = draw.uniform(40.0, 48.0) * patient.size
    else:
        aside = draw.uniform(-12.0, 12.0) * patient.size
    wide = 2.0 * (patient.half_width * draw.uniform(1.06, 1.10) + 0.75 * abs(aside))
    tall = 2.0 * patient.half_depth * draw.uniform(1.25, 1.35)
    across = round(max(wide / shape[0], tall / shape[1]), 6)
    spacing = (across, across, round(patient.length / shape[2], 6))
    above = draw.uniform(-8.0, 4.0) * patient.size
    middle = (0.5 * (shape[0] - 1) * across + aside, 0.5 * (shape[1] - 1) * across + above)
    return spacing, middle


def _scanned(hu: Floats, noise: float, padding: int | None, draw: np.random.Generator) -> NDArray[np.int16]:
    """Add scanner effects to (z, y, x): correlated noise, whole HU, padding outside the field of view."""
    values = np.empty(hu.shape, dtype=np.int16)
    rows, columns = hu.shape[1:]
    half = 0.5 * max(rows, columns)
    away = np.hypot(
        np.arange(rows)[:, None] - 0.5 * (rows - 1), np.arange(columns)[None] - 0.5 * (columns - 1)
    )
    outside = away > half
    # Fewer photons reach the centre of the body, so noise is strongest there.
    level = (noise * (1.15 - 0.45 * (away / half) ** 2)).clip(0.4 * noise).astype(np.float32)
    below: Floats | None = None
    for z in range(hu.shape[0]):
        fresh = draw.standard_normal((rows + 2, columns + 2), dtype=np.float32)
        smooth = fresh[:, :-2] + 2 * fresh[:, 1:-1] + fresh[:, 2:]
        smooth = (smooth[:-2] + 2 * smooth[1:-1] + smooth[2:]) / np.float32(6.0)
        # Neighbouring slices share part of their rays; the weights keep the variance at one.
        below = smooth if below is None else np.float32(0.45) * below + np.float32(0.893) * smooth
        hu[z] += below * level
        np.clip(np.rint(hu[z]), *SCANNER_HU, out=hu[z])
        if padding is not None:
            hu[z][outside] = padding
        values[z] = hu[z]
    return values


def _turned(chest: Chest) -> Chest:
    """Return the patient with both in-plane axes reversed, which a few LUNA16 scans have."""
    last = np.array([chest.hu.shape[0] - 1, chest.hu.shape[1] - 1, 0], dtype=np.float64)
    x, y, z = chest.to_world(last).tolist()

    def mirrored(nodule: Nodule) -> Nodule:
        across, down, up = nodule.centre
        return replace(nodule, centre=(float(last[0]) - across, float(last[1]) - down, up))

    return replace(
        chest,
        hu=chest.hu[::-1, ::-1],
        origin=(round(x, 6), round(y, 6), z),
        direction=(-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0),
        nodules=tuple(map(mirrored, chest.nodules)),
        tempting=last + np.array([-1.0, -1.0, 1.0]) * chest.tempting,
        lung=chest.lung[::-1, ::-1],
        nodule=chest.nodule[::-1, ::-1],
    )
