"""The proportions of one phantom patient, and the grid of the scan.

Lengths are mm in the patient's frame of `anatomy`: x to the left, y to the back, z to the head.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Point = tuple[float, float, float]
#: A point and a radius on a tube: x, y, height, radius.
Knot = tuple[float, float, float, float]

#: Angles in a table of radii around the thorax.
ANGLES = 2048


@dataclass(frozen=True)
class Patient:
    """The proportions of one patient; lengths in mm, HU where stated.

    Attributes:
        size: scale of the whole patient, 1 for the average.
        length: height of the scanned part.
        cavity: half widths of the thoracic cavity: to the side, to the front, to the back.
        fat: thickness of the fat under the skin.
        breast: height of the breasts, 0 for none.
        heart: scale of the heart.
        dome: height of the right half of the diaphragm, as a share of `length`.
        apex: height of the tips of the lungs, as a share of `length`.
        lean: sideways curvature of the spine.
        lung: HU of the parenchyma in the middle of the lungs.
        gradient: increase of the parenchyma's HU over 100 mm from front to back.
        blood: HU of the blood, above 100 after contrast medium.
        noise: standard deviation of the scanner's noise, HU.
        padding: HU outside the circular field of view, or None.
        ribs: distance between ribs, and the height of the lowest.
        coarse: (z, y, x) standard normal numbers on a 22 mm grid: the slow part of all textures.
        fine: the same on a 7 mm grid.
        nodules: number of nodules.
    """

    size: float
    length: float
    cavity: tuple[float, float, float]
    fat: float
    breast: float
    heart: float
    dome: float
    apex: float
    lean: float
    lung: float
    gradient: float
    blood: float
    noise: float
    padding: int | None
    ribs: tuple[float, float]
    coarse: Floats
    fine: Floats
    nodules: int

    @classmethod
    def drawn(cls, draw: np.random.Generator) -> "Patient":
        """Draw one patient; the draws have a fixed order."""
        size = draw.uniform(0.9, 1.1)
        paddings = (None, None, None, -2000, -3024)
        return cls(
            size=size,
            length=draw.uniform(290.0, 330.0) * size,
            cavity=(
                draw.uniform(126.0, 136.0) * size,
                draw.uniform(84.0, 94.0) * size,
                draw.uniform(88.0, 97.0) * size,
            ),
            fat=draw.uniform(6.0, 20.0) * size,
            breast=draw.uniform(18.0, 34.0) * size if draw.random() < 0.45 else 0.0,
            heart=draw.uniform(0.86, 1.08) * size,
            dome=draw.uniform(0.17, 0.23),
            apex=draw.uniform(0.92, 0.95),
            lean=draw.normal(0.0, 2.5),
            lung=draw.uniform(-855.0, -795.0),
            gradient=draw.uniform(20.0, 55.0),
            blood=draw.uniform(150.0, 290.0) if draw.random() < 0.4 else draw.uniform(38.0, 50.0),
            noise=draw.uniform(8.0, 26.0),
            padding=paddings[int(draw.integers(len(paddings)))],
            ribs=(draw.uniform(25.0, 29.0) * size, draw.uniform(0.0, 25.0) * size),
            coarse=draw.standard_normal((20, 26, 26), dtype=np.float32),
            fine=draw.standard_normal((60, 80, 80), dtype=np.float32),
            nodules=int(draw.integers(2, 8)),
        )

    @property
    def half_width(self) -> float:
        """Return half the width of the body at its widest level below the shoulders, mm."""
        return self.cavity[0] + 22.0 * self.size + 1.25 * self.fat

    @property
    def half_depth(self) -> float:
        """Return half the depth of the body, front to back, mm."""
        return 0.5 * (self.cavity[1] + self.cavity[2]) + 22.0 * self.size + self.fat + 0.5 * self.breast

    def place(self, x: float, y: float, height: float) -> Point:
        """Scale a position given for the average patient: x and y in mm, height as a share of the scan."""
        return x * self.size, y * self.size, height * self.length


@dataclass(frozen=True)
class Capsule:
    """A tube with round ends between two points, mm, whose radius changes linearly."""

    start: Point
    end: Point
    radii: tuple[float, float]

    def near(self, x: Floats, y: Floats, z: np.float32) -> tuple[tuple[slice, slice], Floats] | None:
        """Return the signed distance on the part of a slice that is closer than 12 mm.

        Args:
            x, y, z: positions of the columns (1, X), of the rows (Y, 1) and of the slice, mm.

        Returns:
            Rows and columns of the part, and float32 distances in mm on it; None if nothing is close.
        """
        (left, front, bottom), (right, back, top) = (
            tuple(choose(pair) for pair in zip(self.start, self.end, strict=True)) for choose in (min, max)
        )
        reach = max(self.radii) + 12.0
        if not bottom - reach < z < top + reach:
            return None
        part = _part(x, y, (left - reach, right + reach), (front - reach, back + reach))
        distance = self.distance(x[:, part[1]], y[part[0]], z)
        return (part, distance) if distance.size else None

    def distance(self, x: Floats, y: Floats, z: Floats | np.float32) -> Floats:
        """Return the signed distance in mm, negative inside, at positions in mm that broadcast together."""
        start = np.asarray(self.start, dtype=np.float32)
        along = np.asarray(self.end, dtype=np.float32) - start
        dx, dy, dz = x - start[0], y - start[1], z - start[2]
        share = dx * along[0] + dy * along[1] + dz * along[2]
        share = np.clip(share * np.float32(1 / max(float(along @ along), 1e-6)), 0, 1)
        away = (dx - share * along[0]) ** 2 + (dy - share * along[1]) ** 2 + (dz - share * along[2]) ** 2
        share *= np.float32(self.radii[1] - self.radii[0])
        return np.asarray(np.sqrt(away) - (share + np.float32(self.radii[0])))


class Texture:
    """A random texture in space: numbers on a grid, interpolated slice by slice.

    Args:
        grid: float32 (z, y, x), standard normal numbers.
        step: distance between them, mm.
        x, y: positions of a slice's columns and rows, mm.
    """

    def __init__(self, grid: Floats, step: float, x: Floats, y: Floats) -> None:
        self._grid = grid
        self._step = step
        self._across = _weave(x.ravel(), grid.shape[2], step).T
        self._down = _weave(y.ravel(), grid.shape[1], step)
        self._levels: dict[int, Floats] = {}

    def at(self, z: np.float32) -> Floats:
        """Return the slice at a height in mm: float32 (y, x), about standard normal, smooth over `step`."""
        height = float(z) / self._step
        low = int(height)
        below, above = self._level(low), self._level(low + 1)
        return below + np.float32(height - low) * (above - below)

    def _level(self, number: int) -> Floats:
        """Return the slice through a layer of the grid; the latest two are cached."""
        if number not in self._levels:
            self._levels = {key: level for key, level in self._levels.items() if key >= number - 1}
            woven = self._down @ self._grid[number % len(self._grid)] @ self._across
            self._levels[number] = woven * np.float32(1.7)
        return self._levels[number]


@dataclass(frozen=True)
class Plane:
    """Data shared by all slices of a scan, on the part of the plane that the body may fill.

    Attributes:
        body: rows and columns of that part; the arrays below cover it, Y rows and X columns.
        x, y: (1, X) and (Y, 1): position in the patient's frame, mm.
        away: (Y, X): distance from the middle of the thorax, mm.
        turn: (Y, X): row of the table of angles.
        behind: (Y, X): angle from the back, 0, over the sides, pi/2, to the front, pi.
        sunk: (Y, X): how far a rib has descended from the spine, mm.
        edge: width of soft edges, mm.
        dome: (Y, X): height of the diaphragm, mm.
        middle, spine, front: rows and columns of the mediastinum, the spine and the breast bone.
        vessels, gullet, windpipe: the tubes of the mediastinum.
        clavicles: the collar bones.
        coarse, fine: textures, smooth over 22 mm and over 7 mm.
    """

    body: tuple[slice, slice]
    x: Floats
    y: Floats
    away: Floats
    turn: NDArray[np.intp]
    behind: Floats
    sunk: Floats
    edge: float
    dome: Floats
    middle: tuple[slice, slice]
    spine: tuple[slice, slice]
    front: tuple[slice, slice]
    vessels: tuple[Capsule, ...]
    gullet: tuple[Capsule, ...]
    windpipe: tuple[Capsule, ...]
    clavicles: tuple[Capsule, ...]
    coarse: Texture
    fine: Texture

    @classmethod
    def of(cls, patient: Patient, x: Floats, y: Floats, edge: float) -> "Plane":
        """Lay out the plane of a scan, given all its columns and rows."""
        s = patient.size
        width, front, back = patient.cavity
        beside = 1.12 * (width + 19 * s) + 1.3 * patient.fat + 4
        before = front + 17 * s + 1.1 * patient.fat + patient.breast
        body = _part(x, y, (-beside, beside), (-before, back + 20 * s + patient.fat))
        x, y = x[:, body[1]], y[body[0]]
        turn = np.arctan2(x, y)
        behind = np.abs(turn)
        top = patient.dome * patient.length
        right = top - 58 * s * (((x + 0.5 * width) / (0.56 * width)) ** 2 + ((y + 6 * s) / front) ** 2)
        left = top - 13 * s - 58 * s * (((x - 0.5 * width) / (0.56 * width)) ** 2 + ((y - 6 * s) / back) ** 2)
        return cls(
            body=body,
            x=x,
            y=y,
            away=np.hypot(x, y),
            turn=np.rint((turn / np.pi + 1.0) * 0.5 * (ANGLES - 1)).astype(np.intp),
            behind=behind,
            sunk=np.float32(78 * s) * np.sin(np.minimum(behind, 2.5) / 2) ** 2,
            edge=edge,
            dome=np.maximum(right, left).astype(np.float32),
            middle=_part(x, y, (-100 * s, 120 * s), (-110 * s, 90 * s)),
            spine=_part(x, y, (-62 * s, 62 * s), (20 * s, 130 * s)),
            front=_part(x, y, (-45 * s, 45 * s), (-150 * s, -20 * s)),
            vessels=tubes(patient, _LARGE_VESSELS),
            gullet=tubes(patient, _GULLET),
            windpipe=tubes(patient, WINDPIPE),
            clavicles=tubes(patient, _CLAVICLES),
            coarse=Texture(patient.coarse, 22.0, x, y),
            fine=Texture(patient.fine, 7.0, x, y),
        )


def stream(*key: int) -> np.random.Generator:
    """Return the random stream of one part of one scan or patient, which depends only on these numbers."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def _part(
    x: Floats, y: Floats, across: tuple[float, float], down: tuple[float, float]
) -> tuple[slice, slice]:
    """Return rows and columns between positions in mm."""
    rows = slice(*np.searchsorted(y.ravel(), down).tolist())
    return rows, slice(*np.searchsorted(x.ravel(), across).tolist())


def _weave(positions: Floats, points: int, step: float) -> Floats:
    """Return (n, points) weights of linear interpolation from a grid, `step` mm apart, around position 0."""
    where = np.clip(positions / step + 0.5 * points, 0, points - 1.001)
    return np.asarray(np.clip(1 - np.abs(where[:, None] - np.arange(points)), 0, 1), dtype=np.float32)


def tubes(patient: Patient, lines: tuple[tuple[Knot, ...], ...]) -> tuple[Capsule, ...]:
    """Return tubes through points (x, y, height, radius) of the average patient, see `Patient.place`."""
    return tuple(
        Capsule(patient.place(*a[:3]), patient.place(*b[:3]), (a[3] * patient.size, b[3] * patient.size))
        for line in lines
        for a, b in pairwise(line)
    )


#: Aorta with its branches, venae cavae, pulmonary arteries and veins up to the lungs.
_LARGE_VESSELS: tuple[tuple[Knot, ...], ...] = (
    (
        (-10, -28, 0.42, 15), (-15, -30, 0.57, 15.5), (-7, -26, 0.66, 14), (12, -2, 0.69, 13),
        (23, 27, 0.655, 12), (22, 34, 0.45, 11), (14, 30, 0.0, 10),
    ),
    ((-4, -16, 0.69, 6), (-17, -8, 0.82, 5), (-24, -4, 1.0, 4.5)),
    ((12, -2, 0.69, 5), (17, -6, 1.0, 4)),
    ((20, 10, 0.69, 5), (24, 4, 0.85, 5), (32, 6, 1.0, 4.5)),
    ((-21, -16, 0.45, 9), (-21, -20, 0.69, 8.5), (-22, -24, 0.85, 6), (-30, -18, 0.99, 6)),
    ((-20, -25, 0.73, 6), (14, -34, 0.80, 5.5), (30, -14, 0.99, 5.5)),
    ((-24, 4, -0.02, 11), (-24, -2, 0.25, 11)),
    ((10, -42, 0.42, 14), (13, -24, 0.545, 13), (34, 2, 0.55, 8)),
    ((12, -22, 0.535, 10), (-14, -6, 0.525, 9), (-30, 0, 0.515, 7)),
    ((-12, 6, 0.44, 8), (-32, 4, 0.43, 5.5)),
    ((18, 8, 0.44, 8), (40, 8, 0.435, 5.5)),
)  # fmt: skip

#: The oesophagus, between windpipe and spine, then in front of the aorta.
_GULLET: tuple[tuple[Knot, ...], ...] = (
    ((3, 20, 1.02, 6), (3, 24, 0.6, 6), (5, 24, 0.3, 6.5), (26, 4, 0.1, 7)),
)

#: The collar bones, right and left, from the breast bone to the shoulders.
_CLAVICLES: tuple[tuple[Knot, ...], ...] = (
    ((-17, -70, 0.88, 6), (-70, -72, 0.935, 5.5), (-135, -35, 0.975, 6)),
    ((17, -70, 0.88, 6), (70, -72, 0.935, 5.5), (135, -35, 0.975, 6)),
)

#: The lumen of the trachea and of the right and the left main bronchus, which branch at one point.
WINDPIPE: tuple[tuple[Knot, ...], ...] = (
    ((0, 0, 1.02, 8.5), (-1, 9, 0.585, 8.0)),
    ((-1, 9, 0.585, 6.8), (-29, 11, 0.525, 5.6)),
    ((-1, 9, 0.585, 6.2), (38, 13, 0.51, 5.2)),
)
