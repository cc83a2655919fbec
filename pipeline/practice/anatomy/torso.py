"""A patient as seen by an X-ray tube: sums along the rays, from the front to the back.

A radiograph keeps the width and the height of the body and sums its depth, so the volume is coarse along the
rays, and the vessels, the visible structures of a lung, are projected one by one, not drawn in it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image

from genesis_toolkit.pipeline.practice.anatomy.patient import Floats, Patient, Plane
from genesis_toolkit.pipeline.practice.anatomy.slices import draw_body
from genesis_toolkit.pipeline.practice.anatomy.trees import Branch, Canvas, grow_vessels

View = Literal["PA", "AP"]

#: Voxels of the volume along x, y, z.
GRID = (224, 72, 128)

#: Pixels of a projection per voxel edge: directly projected structures are finer than the volume.
FINE = 3

#: Slabs of the body along the rays; each is magnified according to its distance from the tube.
_SLABS = 6

#: Voxels by which a slab is extended beyond the volume before magnification.
_BEYOND = 16

#: Distance from the tube to the detector, mm. PA: the patient's chest is at the detector. AP: the back is at
#: the detector and the tube is close, as at a bedside, so the heart looks larger.
_TUBE_MM: dict[View, float] = {"PA": 1830.0, "AP": 1150.0}

#: End points of the arteries and of the veins of one lung: thinner vessels would be invisible.
_VESSEL_ENDS = (240, 200)


@dataclass(frozen=True)
class Torso:
    """One patient, without findings.

    Attributes:
        patient: the proportions.
        canvas: the volume: HU without noise, without vessels; GRID voxels.
        vessels: float32, (rows, columns) of the projection, mm of water added by the vessels.
        lung: float32, (z, y, x), 1 in the lungs and 0 outside.
        air: float32, (z, x), number of lung voxels behind each other; at least a thousandth.
    """

    patient: Patient
    canvas: Canvas
    vessels: Floats
    lung: Floats
    air: Floats


def draw_torso(patient: Patient, draw: np.random.Generator) -> Torso:
    """Draw a patient for radiographs; the random stream is that of the vessels."""
    # Tissue textures average out along the rays, and X-rays are taken without contrast medium.
    smooth = np.zeros((1, 2, 2), dtype=np.float32)
    patient = replace(patient, coarse=smooth, fine=smooth, blood=45.0)
    columns, rows, slices = GRID
    middle = (1.03 * patient.half_width, 1.08 * patient.half_depth)
    spacing = (2 * middle[0] / columns, 2 * middle[1] / rows, patient.length / slices)
    x = ((np.arange(columns) + 0.5) * spacing[0] - middle[0]).astype(np.float32)[None]
    y = ((np.arange(rows) + 0.5) * spacing[1] - middle[1]).astype(np.float32)[:, None]
    plane = Plane.of(patient, x, y, edge=0.75 * spacing[1])
    hu: Floats = np.full(GRID[::-1], -1000, dtype=np.float32)
    depth = draw_body(patient, plane, hu, spacing[2])
    # The canvas measures x and y from the centre of voxel 0.
    canvas = Canvas(hu, depth, spacing, (middle[0] - 0.5 * spacing[0], middle[1] - 0.5 * spacing[1]))
    branches = grow_vessels(canvas, patient, _VESSEL_ENDS, draw)
    vessels = _projected_vessels(canvas, branches, patient.blood - patient.lung)
    lung = np.clip(depth * np.float32(0.25), 0, 1)
    return Torso(patient, canvas, vessels, lung, np.maximum(lung.sum(axis=1), np.float32(1e-3)))


def water(hu: Floats) -> Floats:
    """Return attenuation relative to water, from HU: 1 + HU / 1000, and never negative."""
    share = hu * np.float32(0.001)
    share += np.float32(1)
    np.maximum(share, 0, out=share)
    return share


def magnified(patient: Patient, view: View, y: float) -> float:
    """Return the magnification at depth y (mm) relative to the middle of the thorax; 1 at y = 0."""
    tube, half = _TUBE_MM[view], patient.half_depth
    to_detector, middle = (half + y, half) if view == "PA" else (half - y, half)
    return (tube - middle) / (tube - to_detector)


def project(canvas: Canvas, patient: Patient, hu: Floats, view: View) -> Floats:
    """Sum the attenuation of `hu`, (z, y, x) of the canvas, along the rays, from front to back.

    Returns:
        float32, (rows, columns), head at the top, the patient's left on the right; FINE times the voxels
        along z and x. Line integrals in mm of water.
    """
    columns, rows, slices = GRID
    along = rows // _SLABS
    total = np.zeros((slices, columns), dtype=np.float32)
    for first in range(0, rows, along):
        slab = water(hu[:, first : first + along]).sum(axis=1) * np.float32(canvas.spacing[1])
        y = (first + 0.5 * along) * canvas.spacing[1] - patient.half_depth * 1.08
        total += _zoomed(slab[::-1], magnified(patient, view, y))
    return _finer(total, Image.Resampling.BICUBIC)


def spread(values: Floats) -> Floats:
    """Resize a map (z, x) of the volume to the size of a projection, head at the top."""
    return _finer(np.ascontiguousarray(values[::-1]), Image.Resampling.BILINEAR)


def _finer(picture: Floats, by: Image.Resampling) -> Floats:
    rows, columns = picture.shape
    return np.asarray(Image.fromarray(picture).resize((columns * FINE, rows * FINE), by))


def pixel(canvas: Canvas, patient: Patient, view: View, place: Sequence[float]) -> tuple[float, float]:
    """Return row and column in a projection of a position in the patient's frame (mm); may be fractional."""
    factor = magnified(patient, view, place[1])
    height = factor * (place[2] - 0.5 * patient.length)
    row = (0.5 * patient.length - height) / canvas.spacing[2] * FINE - 0.5
    column = (factor * place[0] + canvas.middle[0] + 0.5 * canvas.spacing[0]) / canvas.spacing[0] * FINE - 0.5
    return row, column


def _zoomed(picture: Floats, factor: float) -> Floats:
    """Magnify a picture about its centre; its edges continue outwards."""
    rows, columns = picture.shape
    wide = np.pad(picture, _BEYOND, mode="edge")
    step = 1 / factor
    left, top = (0.5 * edge * (1 - step) + _BEYOND for edge in (columns, rows))
    turned = Image.fromarray(wide).transform(
        (columns, rows), Image.Transform.AFFINE, (step, 0, left, 0, step, top), Image.Resampling.BICUBIC
    )
    return np.asarray(turned)


def _projected_vessels(canvas: Canvas, branches: list[Branch], contrast: float) -> Floats:
    """Return line integrals through all vessels, mm of water: chords through tubes, longer along them."""
    across, up = canvas.spacing[0] / FINE, canvas.spacing[2] / FINE
    total = np.zeros((GRID[2] * FINE, GRID[0] * FINE), dtype=np.float32)
    height = GRID[2] * canvas.spacing[2]
    left = canvas.middle[0] + 0.5 * canvas.spacing[0]
    xs = (np.arange(total.shape[1]) + 0.5) * across - left
    zs = height - (np.arange(total.shape[0]) + 0.5) * up
    for branch in branches:
        (ax, ay, az), (bx, by, bz) = branch.tube.start, branch.tube.end
        reach = max(branch.tube.radii)
        first, last = (min(ax, bx) - reach + left) / across, (max(ax, bx) + reach + left) / across
        top, bottom = (height - max(az, bz) - reach) / up, (height - min(az, bz) + reach) / up
        part = (
            slice(max(math.floor(top), 0), max(math.ceil(bottom), 0)),
            slice(max(math.floor(first), 0), max(math.ceil(last), 0)),
        )
        box = total[part]
        x, z = xs[part[1]] - ax, zs[part[0]] - az
        dx, dz = bx - ax, bz - az
        flat = max(dx * dx + dz * dz, 1e-6)
        along = (x[None] * dx + z[:, None] * dz) / flat
        share = np.clip(along, 0, 1)
        # Round ends would add up at branchings; a slightly longer tube with flat ends does not.
        within = np.abs(along - 0.5) < 0.5 + 0.3 * reach / math.sqrt(flat)
        away = (x[None] - share * dx) ** 2 + (z[:, None] - share * dz) ** 2
        radius = branch.tube.radii[0] + share * (branch.tube.radii[1] - branch.tube.radii[0])
        steep = min(math.sqrt(1 + (by - ay) ** 2 / flat), 2.0)
        box += (2 * steep * within * np.sqrt(np.maximum(radius**2 - away, 0))).astype(np.float32)
    return total * np.float32(0.001 * contrast)
