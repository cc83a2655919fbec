"""Structures in the lungs: airways, vessels, nodules, and positions that look like nodules.

A tree grows towards a cloud of end points: from each branching it runs part of the way to the centre of the
points it has to reach, then divides them between two children. It fills the lung like real vessels, and a
radius follows from the number of end points it feeds (Murray's law: r cubed is preserved at a branching).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.practice.anatomy.patient import WINDPIPE, Capsule, Floats, Patient, tubes
from genesis_toolkit.pipeline.practice.anatomy.slices import blend

Place = NDArray[np.float64]
Kind = Literal["solid", "part-solid", "ground-glass"]
Attached = Literal["nothing", "wall", "vessel"]

#: Tubes that fill less of any voxel are lost in the noise and not drawn.
_FAINT = 0.04


@dataclass(frozen=True)
class Nodule:
    """A nodule of the lung.

    Attributes:
        centre: voxel position along x, y, z, may be fractional.
        diameter_mm: 3 to 30 mm, averaged over all directions.
        kind: its composition.
        attached: the structure it touches.
    """

    centre: tuple[float, float, float]
    diameter_mm: float
    kind: Kind
    attached: Attached


@dataclass(frozen=True)
class Canvas:
    """The volume that is drawn on.

    Attributes:
        hu: float32, (z, y, x), HU.
        depth: int8, (z, y, x), depth below the surface of the lung in half millimetres, negative outside.
        spacing: mm along x, y, z.
        middle: mm from voxel 0 to the middle of the thorax, along x and y.
    """

    hu: Floats
    depth: NDArray[np.int8]
    spacing: tuple[float, float, float]
    middle: tuple[float, float]

    @property
    def edge(self) -> float:
        """Return the width of the soft edge of bodies drawn in all directions, mm."""
        return 0.65 * (self.spacing[0] + min(self.spacing[2], 2.5 * self.spacing[0]))

    @property
    def shift(self) -> Place:
        """Return (3,) mm from voxel 0 to the origin of the patient's frame."""
        return np.array([*self.middle, -0.5 * self.spacing[2]])

    def voxel(self, place: Place) -> Place:
        """Convert mm in the patient's frame to voxels along x, y, z."""
        return np.asarray((place + self.shift) / np.array(self.spacing))

    def place(self, voxel: Place) -> Place:
        """Convert voxels along x, y, z to mm in the patient's frame."""
        return np.asarray(voxel * np.array(self.spacing) - self.shift)

    def below(self, place: Place) -> float:
        """Return the depth of a position below the surface of the lung, mm; negative outside."""
        voxel = np.rint(self.voxel(place)).astype(int)[::-1]
        inside = (voxel >= 0).all() and (voxel < self.depth.shape).all()
        return 0.5 * float(self.depth[tuple(voxel)]) if inside else -64.0

    def box(
        self, low: Place | Sequence[float], high: Place | Sequence[float]
    ) -> tuple[tuple[slice, slice, slice], tuple[Floats, Floats, Floats]]:
        """Return the voxels between two corners given in mm: slices (z, y, x) and positions x, y, z in mm."""
        parts, along = [], []
        axes = zip(low, high, self.hu.shape[::-1], self.spacing, self.shift.tolist(), strict=True)
        for least, most, size, step, shift in axes:
            first = min(max(math.floor((least + shift) / step), 0), size)
            last = min(max(math.ceil((most + shift) / step) + 1, first), size)
            parts.append(slice(first, last))
            along.append((np.arange(first, last) * step - shift).astype(np.float32))
        z, y, x = np.ix_(*along[::-1])
        return (parts[2], parts[1], parts[0]), (x, y, z)

    def pleura(self, part: tuple[slice, slice, slice]) -> Floats:
        """Return the signed distance to the surface of the lung, mm, negative inside."""
        return self.depth[part] * np.float32(-0.5)


def drawn_places(canvas: Canvas, count: int, least: float, side: int, draw: np.random.Generator) -> Place:
    """Draw (n, 3) positions at least `least` mm deep in one lung (side -1 right, 1 left); n <= `count`."""
    size = np.array(canvas.hu.shape[::-1])
    voxels = draw.random((60 * count + 400, 3)) * size
    x, y, z = voxels.astype(int).T
    places = canvas.place(voxels.astype(int).astype(np.float64))
    inside = (canvas.depth[z, y, x] >= 2 * least) & (places[:, 0] * side > 0)
    return np.asarray(places[inside][:count])


@dataclass(frozen=True)
class Branch:
    """A piece of a tree between two branchings, and the number of end points beyond it."""

    tube: Capsule
    feeds: int


def grow(root: Place, ends: Place, thin: float, thick: float, draw: np.random.Generator) -> list[Branch]:
    """Grow a tree from a root (3,) to end points (n, 3), all in mm; return its branches, root first.

    Args:
        root, ends: positions.
        thin: radius at an end point.
        thick: largest radius of a branch.
        draw: a random stream.
    """
    branches: list[Branch] = []
    waiting = [(root, ends, thick)]
    while waiting:
        start, cloud, before = waiting.pop()
        if len(cloud) == 0:
            continue
        radius = min(before, thick, thin * len(cloud) ** (1 / 2.7))
        if len(cloud) == 1:
            branches.append(Branch(_tube(start, cloud[0], radius, 0.5 * radius), 1))
            continue
        way = cloud.mean(axis=0) - start
        bend = draw.normal(0.0, 0.09, 3) * np.linalg.norm(way)
        stop = start + draw.uniform(0.38, 0.56) * way + bend
        branches.append(Branch(_tube(start, stop, min(before, 1.06 * radius), radius), len(cloud)))
        # The children separate along the direction in which the cloud is widest.
        about = cloud - cloud.mean(axis=0)
        spread = np.linalg.eigh(about.T @ about)[1][:, -1]
        order = np.argsort(cloud @ spread, kind="stable")
        cut = min(max(round(len(cloud) * draw.uniform(0.3, 0.7)), 1), len(cloud) - 1)
        waiting += [(stop, cloud[order[:cut]], radius), (stop, cloud[order[cut:]], radius)]
    return branches


def _tube(start: Place, end: Place, first: float, last: float) -> Capsule:
    """Return a tube between two positions."""
    a, b = start.tolist(), end.tolist()
    return Capsule((a[0], a[1], a[2]), (b[0], b[1], b[2]), (first, last))


def _draw_tube(canvas: Canvas, tube: Capsule, value: float, wider: float, *, brighter: bool) -> None:
    """Blend a tube into the lung, widened by `wider` mm; `brighter` keeps voxels that are brighter."""
    edge = canvas.edge
    radius = 0.5 * sum(tube.radii) + wider
    # A soft edge widens a tube thinner than a voxel, so it is made fainter to preserve its area.
    weight = min(1.0, 3 * radius**2 * edge / (radius + 0.5 * edge) ** 3)
    if weight * (0.5 + radius / edge) < _FAINT:
        return
    reach = max(tube.radii) + wider + 0.5 * edge
    low, high = np.sort([tube.start, tube.end], axis=0)
    part, (x, y, z) = canvas.box(low - reach, high + reach)
    hu = canvas.hu[part]
    if hu.size == 0:
        return
    share = tube.distance(x, y, z)
    share *= np.float32(-1 / edge)
    share += np.float32(0.5 + wider / edge)
    np.clip(share, 0, 1, out=share)
    share *= np.clip(0.5 - canvas.pleura(part) / np.float32(edge), 0, 1)
    share *= np.float32(weight)
    change = np.float32(value) - hu
    if brighter:
        np.maximum(change, 0, out=change)
    change *= share
    hu += change


def grow_vessels(
    canvas: Canvas, patient: Patient, ends: tuple[int, int], draw: np.random.Generator
) -> list[Branch]:
    """Grow the arteries and veins of both lungs, without drawing them.

    Args:
        canvas: the volume; only the depth of the lungs is used.
        patient: the proportions.
        ends: number of end points of the arteries and of the veins of one lung.
        draw: a random stream.
    """
    s = patient.size
    roots = {
        -1: (patient.place(-30, 1, 0.515), patient.place(-31, 4, 0.43)),
        1: (patient.place(34, 3, 0.55), patient.place(39, 8, 0.435)),
    }
    branches: list[Branch] = []
    for side, hila in roots.items():
        for hilum, count in zip(hila, ends, strict=True):
            places = drawn_places(canvas, count, 3.0, side, draw)
            branches += grow(np.array(hilum), places, 0.95 * s, 7.0 * s, draw)
    return branches


def draw_vessels(canvas: Canvas, patient: Patient, draw: np.random.Generator) -> list[Branch]:
    """Draw the arteries and veins of both lungs on a canvas; return all branches."""
    branches = grow_vessels(canvas, patient, (400, 320), draw)
    for branch in branches:
        _draw_tube(canvas, branch.tube, patient.blood, 0.0, brighter=True)
    return branches


def draw_airways(canvas: Canvas, patient: Patient, draw: np.random.Generator) -> None:
    """Draw the bronchi beyond the two main ones: walls first, so that lumens connect."""
    branches: list[Branch] = []
    for side, bronchus in zip((-1, 1), tubes(patient, WINDPIPE[1:]), strict=True):
        ends = drawn_places(canvas, 70, 14.0, side, draw)
        branches += grow(np.array(bronchus.end), ends, 0.85 * patient.size, bronchus.radii[1], draw)
    for branch in branches:
        _draw_tube(canvas, branch.tube, 20.0, 0.35 + 0.14 * branch.tube.radii[0], brighter=True)
    for branch in branches:
        _draw_tube(canvas, branch.tube, -985.0, 0.0, brighter=False)


def draw_nodules(
    canvas: Canvas, count: int, vessels: list[Branch], mask: NDArray[np.bool_], draw: np.random.Generator
) -> tuple[Nodule, ...]:
    """Draw nodules in the lungs, at least 8 mm apart.

    Args:
        canvas: changed in place.
        count: number of nodules; fewer if there is no room.
        vessels: branches that a nodule may touch.
        mask: (z, y, x) of the canvas; set to True inside nodules.
        draw: a random stream.

    Returns:
        The nodules, none much smaller than a voxel.
    """
    least = min(max(3.0, 1.3 * max(canvas.spacing)), 20.0)
    free = np.concatenate([drawn_places(canvas, 400, 1.0, side, draw) for side in (-1, 1)])
    on_vessels = np.array([branch.tube.end for branch in vessels if branch.feeds in (2, 3, 4, 5)])
    nodules: list[Nodule] = []
    for _ in range(count):
        diameter = least * (30.0 / least) ** (draw.random() ** 1.7)
        attached: Attached = ("nothing", "nothing", "wall", "vessel")[int(draw.integers(4))]
        if attached == "vessel" and len(on_vessels) == 0:
            attached = "nothing"
        choices = on_vessels if attached == "vessel" else free
        low, high = (0.15, 0.4) if attached == "wall" else (0.55, np.inf)
        for place in choices[draw.permutation(len(choices))[:120]]:
            voxel = np.rint(canvas.voxel(place))
            centre = canvas.place(voxel)
            near = (
                np.linalg.norm(canvas.place(np.array(other.centre)) - centre)
                <= 0.5 * (diameter + other.diameter_mm) + 8
                for other in nodules
            )
            if low * diameter <= canvas.below(centre) <= high * diameter and not any(near):
                x, y, z = voxel.tolist()
                kind: Kind = ("solid", "solid", "solid", "part-solid", "ground-glass")[int(draw.integers(5))]
                kind = "solid" if diameter < 6.0 else kind
                nodules.append(Nodule((x, y, z), round(diameter, 3), kind, attached))
                part, inside = _draw_nodule(canvas, nodules[-1], centre, draw)
                mask[part] |= inside
                break
    return tuple(nodules)


def _draw_nodule(
    canvas: Canvas, nodule: Nodule, centre: Place, draw: np.random.Generator
) -> tuple[tuple[slice, slice, slice], NDArray[np.bool_]]:
    """Blend in a lobed ball, some with spicules or a denser core; return a part, and its inside voxels.

    A voxel is inside if its centre is.
    """
    radius = 0.5 * nodule.diameter_mm
    reach = 1.6 * radius + canvas.edge
    part, (x, y, z) = canvas.box(centre - reach, centre + reach)
    dx, dy, dz = x - np.float32(centre[0]), y - np.float32(centre[1]), z - np.float32(centre[2])
    away = np.sqrt(dx**2 + dy**2 + dz**2)
    lobes = np.zeros_like(away)
    for axis in draw.normal(size=(4, 3)).astype(np.float32):
        lobes += np.sin((dx * axis[0] + dy * axis[1] + dz * axis[2]) * np.float32(2.2 / radius))
    ball = away - np.float32(radius) * (1 + np.float32(0.05) * lobes)
    solid = float(draw.uniform(15.0, 70.0))
    glass = float(draw.uniform(-560.0, -430.0))
    if nodule.kind == "solid" and nodule.diameter_mm > 8 and draw.random() < 0.5:
        for way in draw.normal(size=(9, 3)):
            tip = centre + way / np.linalg.norm(way) * radius * draw.uniform(1.25, 1.5)
            np.minimum(ball, _tube(centre, tip, 0.16 * radius, 0.0).distance(x, y, z), out=ball)
    pleura = canvas.pleura(part)
    lung = np.clip(0.5 - pleura / np.float32(canvas.edge), 0, 1)
    edge = min(canvas.edge, 1.2 * nodule.diameter_mm)
    layers = [(ball, solid if nodule.kind == "solid" else glass)]
    if nodule.kind == "part-solid":
        layers.append((away - np.float32(0.5 * radius), solid))
    hu = canvas.hu[part]
    for distance, value in layers:
        filled = hu.copy()
        blend(filled, distance, value, edge)
        np.maximum(hu, hu + lung * (filled - hu), out=hu)
    return part, (ball < 0) & (pleura < 0)


def tempting_places(
    canvas: Canvas, vessels: list[Branch], nodules: tuple[Nodule, ...], draw: np.random.Generator
) -> Place:
    """Return positions that look like a nodule: branching points of vessels, vessels that touch the wall.

    Returns:
        float64 (n, 3), voxels along x, y, z, each at least 5 mm from the surface of every nodule; mostly 24.
    """
    ends = np.array([branch.tube.end for branch in vessels]).reshape(-1, 3)
    feeds = np.array([branch.feeds for branch in vessels], dtype=int)
    below = np.array([canvas.below(end) for end in ends])
    clear = below > 0
    for nodule in nodules:
        away = np.linalg.norm(ends - canvas.place(np.array(nodule.centre)), axis=1)
        clear &= away > 0.55 * nodule.diameter_mm + 5.0
    branching = np.flatnonzero(clear & (feeds >= 5) & (below > 2.0))
    touching = np.flatnonzero(clear & (feeds == 1) & (below < 5.0))
    chosen = [*draw.permutation(branching)[:16], *draw.permutation(touching)[:8]]
    if len(chosen) < 24:
        spare = np.setdiff1d(np.flatnonzero(clear), chosen)
        chosen += [*draw.permutation(spare)[: 24 - len(chosen)]]
    return canvas.voxel(ends[np.array(chosen, dtype=int)])
