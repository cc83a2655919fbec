"""Abnormal findings in a chest radiograph, under NIH's names, drawn into the lungs of a torso.

A finding belongs to a patient: it stays in place from one image to the next, and comes and goes. So a patient
has a `Course`, and each image shows part of it. Every finding is drawn as its physical cause: fluid that
flows down, air that lets the lung shrink, tissue in place of air.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image

from genesis_toolkit.pipeline.practice.anatomy.patient import Floats, stream
from genesis_toolkit.pipeline.practice.anatomy.torso import FINE, Torso, View, magnified, pixel
from genesis_toolkit.pipeline.practice.anatomy.trees import Canvas, drawn_places

Label = Literal["Cardiomegaly", "Consolidation", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumothorax"]

#: The findings that are drawn, seven of NIH's fourteen, in the order of its table.
LABELS: tuple[Label, ...] = get_args(Label)

#: Share of patients with a finding at some time, and share of their images that show it.
_RATES: dict[Label, tuple[float, float]] = {
    "Cardiomegaly": (0.10, 1.0),
    "Consolidation": (0.11, 0.7),
    "Effusion": (0.20, 0.7),
    "Infiltration": (0.22, 0.7),
    "Mass": (0.08, 1.0),
    "Nodule": (0.12, 1.0),
    "Pneumothorax": (0.11, 0.7),
}

#: Scale of a normal heart, and of an enlarged one.
HEARTS = ((0.98, 1.2), (1.28, 1.5))

#: A nodule is at most 30 mm wide, a mass is larger.
_DIAMETERS: dict[str, tuple[float, float]] = {"Nodule": (11.0, 28.0), "Mass": (33.0, 62.0)}

_FLUID, _PUS, _TUMOUR, _AIR, _PLEURA = 8.0, 30.0, 45.0, -1000.0, 20.0


@dataclass(frozen=True)
class Course:
    """A patient's findings over time.

    Attributes:
        labels: the findings that some of the images show.
        sides: for each of LABELS, -1 for the patient's right and 1 for the left.
        heart: scale of the heart.
        size: for each of LABELS, 0 to 1: from the smallest that is drawn to the largest.
        seed: random seed for the positions and shapes.
    """

    labels: frozenset[Label]
    sides: dict[Label, int]
    heart: float
    size: dict[Label, float]
    seed: int

    @classmethod
    def drawn(cls, draw: np.random.Generator) -> "Course":
        """Draw one course; the draws have a fixed order, whatever the findings."""
        rolls = dict(zip(LABELS, draw.random((len(LABELS), 3)).tolist(), strict=True))
        labels = frozenset(label for label, (roll, _, _) in rolls.items() if roll < _RATES[label][0])
        return cls(
            labels=labels,
            sides={label: -1 if roll < 0.5 else 1 for label, (_, roll, _) in rolls.items()},
            heart=draw.uniform(*HEARTS["Cardiomegaly" in labels]),
            size={label: roll for label, (_, _, roll) in rolls.items()},
            seed=int(draw.integers(2**62)),
        )

    def shown(self, draw: np.random.Generator) -> tuple[Label, ...]:
        """Return the findings of one image, in the order of LABELS."""
        rolls = zip(LABELS, draw.random(len(LABELS)), strict=True)
        return tuple(label for label, roll in rolls if label in self.labels and roll < _RATES[label][1])


@dataclass(frozen=True)
class Lungs:
    """The volume of a torso with findings in it.

    Attributes:
        hu: float32, (z, y, x), HU; changed in place.
        aired: float32, (z, y, x), 1 in healthy lung, 0 outside and where no air is left around the vessels.
        lumps: float32, (rows, columns) of the projection, mm of water added by nodules and masses.
    """

    hu: Floats
    aired: Floats
    lumps: Floats


def with_findings(torso: Torso, course: Course, labels: tuple[Label, ...], view: View, grown: float) -> Lungs:
    """Add findings to a copy of a torso; cardiomegaly is part of the patient's heart already.

    Args:
        torso: left unchanged.
        course: the patient's findings: sides, sizes, positions.
        labels: those that this image shows.
        view: PA or AP, for directly projected structures.
        grown: scale of variable findings in this image, about 1.
    """
    lungs = Lungs(torso.canvas.hu.copy(), torso.lung.copy(), np.zeros_like(torso.vessels))
    for label in labels:
        # Each finding has its own stream, so its position does not depend on the others.
        draw = stream(course.seed, LABELS.index(label))
        side, size = course.sides[label], course.size[label]
        if label == "Effusion":
            _add_effusion(lungs, torso, side, grown * (26 + 48 * size))
        elif label == "Pneumothorax":
            _add_pneumothorax(lungs, torso, side, 1 - grown * (0.07 + 0.13 * size))
        elif label == "Consolidation":
            _add_patch(lungs, torso, side, grown * (24 + 20 * size), 0.85, draw)
        elif label == "Infiltration":
            for _ in range(1 + int(3 * draw.random())):
                radius = grown * (26 + 24 * draw.random())
                _add_patch(lungs, torso, side, radius, 0.14 + 0.14 * size, draw)
                side = side if draw.random() < 0.5 else -side
        elif label in _DIAMETERS:
            low, high = _DIAMETERS[label]
            _add_lump(lungs, torso, side, low + size * (high - low), view, draw)
    return lungs


def _axes(canvas: Canvas) -> tuple[Floats, Floats, Floats]:
    """Return the positions of the voxels in mm: x (X,), y (Y,), z (Z,)."""
    _, (x, y, z) = canvas.box((-1e6,) * 3, (1e6,) * 3)
    return x.ravel(), y.ravel(), z.ravel()


def _half(x: Floats, side: int) -> slice:
    """Return the columns of the patient's left half, side 1, or right half, -1."""
    middle = int(np.searchsorted(x, 0))
    return slice(middle, None) if side > 0 else slice(0, middle)


def _fill(lungs: Lungs, part: tuple[slice, ...], share: Floats, value: float, kept: float) -> None:
    """Fill a share of each voxel in a part with a substance; `kept` of the filled share shows vessels."""
    hu = lungs.hu[part]
    hu += share * (np.float32(value) - hu)
    lungs.aired[part] *= 1 - share * np.float32(1 - kept)


def _add_effusion(lungs: Lungs, torso: Torso, side: int, level: float) -> None:
    """Add fluid around a lung: it collects at the bottom and rises along the wall."""
    lung = torso.lung
    x, _, z = _axes(torso.canvas)
    columns = _half(x, side)
    filled = np.flatnonzero((lung[:, :, columns] > 0).any(axis=(1, 2)))
    top = z[filled[0]] + level + 34.0
    part = (slice(int(filled[0]), int(np.searchsorted(z, top + 8)) + 1), slice(None), columns)
    inside = lung[part]
    # Distance outwards: 0 in the centre of the body, 1 at the wall.
    out = np.abs(x[columns])
    wall = np.where(inside > 0, out[None, None], 0).max(axis=(1, 2))
    share = (out[None] / np.maximum(wall, 1)[:, None])[:, None]
    height = z[filled[0]] + np.float32(level) + np.float32(34) * (share**6 - np.float32(0.35))
    fluid = np.clip((height - z[part[0]][:, None, None]) / np.float32(5) + np.float32(0.5), 0, 1) * inside
    _fill(lungs, part, fluid, _FLUID, 0.0)


def _add_pneumothorax(lungs: Lungs, torso: Torso, side: int, shrunk: float) -> None:
    """Add air around a lung that has shrunk towards its root; it collects at the top, without vessels."""
    canvas, lung = torso.canvas, torso.lung
    x, _, z = _axes(canvas)
    columns = _half(x, side)
    part = (slice(None), slice(None), columns)
    # Air collects at the top, so the lung below its root nearly keeps its size.
    root_x, root_z = 30.0 * side * torso.patient.size, 0.5 * torso.patient.length
    above = np.clip((z - np.float32(root_z)) / np.float32(0.3 * torso.patient.length) + np.float32(0.6), 0, 1)
    factor = 1 - np.float32(1 - shrunk) * above
    from_z = root_z + (z - root_z) / np.where(z > root_z, factor, 1)
    rows = np.clip(np.searchsorted(z, from_z), 0, len(z) - 1)
    from_x = root_x + (x[columns][None] - root_x) / factor[:, None]
    picks = np.clip(np.searchsorted(x, from_x), 0, len(x) - 1)
    y = np.arange(canvas.depth.shape[1])
    depth = canvas.depth[rows[:, None, None], y[None, :, None], picks[:, None]] * np.float32(0.5)
    left = np.clip(depth / np.float32(canvas.spacing[0]) + np.float32(0.5), 0, 1)
    gone = lung[part] * (1 - left)
    _fill(lungs, part, gone, _AIR, 0.0)
    # The pleura of the lung, seen edge-on, is the visible line.
    skin = np.clip(1 - np.abs(depth) / np.float32(canvas.spacing[0]), 0, 1) * np.minimum(lung[part], gone * 4)
    _fill(lungs, part, np.clip(skin * np.float32(0.5), 0, 1), _PLEURA, 0.5)


def _add_patch(
    lungs: Lungs, torso: Torso, side: int, radius: float, strength: float, draw: np.random.Generator
) -> None:
    """Add a clouded region of a lung, without a sharp edge: fluid replaces `strength` of its air."""
    canvas, lung = torso.canvas, torso.lung
    places = drawn_places(canvas, 40, 12.0, side, draw)
    centre = places[int(draw.integers(len(places)))]
    radii = radius * draw.uniform(0.75, 1.3, 3)
    part, axes = canvas.box(centre - 1.5 * radii, centre + 1.5 * radii)
    dx, dy, dz = (
        (at - np.float32(middle)) / np.float32(reach)
        for at, middle, reach in zip(axes, centre, radii, strict=True)
    )
    ragged = Image.fromarray(draw.standard_normal((7, 7), dtype=np.float32))
    cloud = np.asarray(ragged.resize((dx.size, dz.size), Image.Resampling.BICUBIC))
    share = np.float32(1.25) - np.sqrt(dx**2 + dy**2 + dz**2) + np.float32(0.28) * cloud[:, None]
    share = np.clip(share * np.float32(1.6), 0, 1) * lung[part] * np.float32(strength)
    _fill(lungs, part, share, _PUS, 1 - strength)


def _add_lump(
    lungs: Lungs, torso: Torso, side: int, diameter: float, view: View, draw: np.random.Generator
) -> None:
    """Add a nodule or a mass: the shadow of a lobed ball, where a ray crosses enough lung to show it."""
    canvas, patient = torso.canvas, torso.patient
    radius = 0.5 * diameter
    thick = torso.air * canvas.spacing[1]
    places = drawn_places(canvas, 300, min(0.6 * radius, 14.0), side, draw)
    x, _, z = np.rint(canvas.voxel(places)).astype(int).T
    centre = places[np.argmax(thick[z, x] >= 70.0)].tolist()
    factor = magnified(patient, view, centre[1])
    row, column = pixel(canvas, patient, view, centre)
    across, up = canvas.spacing[0] / FINE, canvas.spacing[2] / FINE
    rows, columns = np.ogrid[: lungs.lumps.shape[0], : lungs.lumps.shape[1]]
    dx = ((columns - column) * across / factor).astype(np.float32)
    dz = ((rows - row) * up / factor).astype(np.float32)
    angle = np.arctan2(dz, dx)
    lobes, turns = draw.normal(0.0, 0.05, 4), draw.uniform(0.0, 2 * np.pi, 4)
    edge = 1 + sum(
        np.float32(size) * np.sin(number * angle + np.float32(turn))
        for number, size, turn in zip(range(2, 6), lobes, turns, strict=True)
    )
    chord = 2 * np.sqrt(np.maximum((np.float32(radius) * edge) ** 2 - dx**2 - dz**2, 0))
    np.maximum(lungs.lumps, chord * np.float32(0.001 * (_TUMOUR - patient.lung)), out=lungs.lumps)
