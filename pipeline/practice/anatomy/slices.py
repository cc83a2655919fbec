"""Draws the contents of a thorax slice by slice: wall, bones, mediastinum, upper abdomen, lungs.

Every structure is a signed distance in mm, negative inside, and is blended in with an edge as wide as a
voxel, just as a scanner averages two substances in one voxel. HU of substances: METHOD.md section 1.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.hounsfield import SUBSTANCES
from genesis_toolkit.pipeline.practice.anatomy.patient import ANGLES, Patient, Plane

Floats = NDArray[Any]  # float32; numpy's types do not track it through a product with a number

_AIR, _SPLEEN, _DISC, _CARTILAGE = -1000.0, 48.0, 85.0, 110.0
_FAT, _MUSCLE, _LIVER, _CANCELLOUS, _CORTICAL = (
    float(np.mean(SUBSTANCES[name]))
    for name in ("fat", "muscle", "liver", "bone, cancellous", "bone, cortical")
)

#: Height (share of the scan); width and depth of the thoracic cavity relative to its widest level.
_CAVITY = np.array(
    [
        [0.00, 0.30, 0.55, 0.72, 0.85, 0.93, 1.00],
        [0.97, 1.00, 0.96, 0.88, 0.71, 0.54, 0.42],
        [1.00, 1.00, 0.97, 0.91, 0.79, 0.66, 0.58],
    ]
)

#: Angles of the table of radii: 0 to the back, positive to the left, +-pi to the front.
_TURNS = np.linspace(-np.pi, np.pi, ANGLES)


def blend(hu: Floats, distance: Floats, value: float | Floats, edge: float) -> None:
    """Fill the inside of a structure with a substance; the edge is as soft as a voxel is wide.

    Args:
        hu: changed in place.
        distance: signed distance in mm, negative inside, of the same shape.
        value: HU of the substance, a number or one per voxel.
        edge: mm over which the substance fades out.
    """
    share = distance * np.float32(-1 / edge)
    share += np.float32(0.5)
    np.clip(share, 0, 1, out=share)
    change = value - hu
    change *= share
    hu += change


def draw_table(patient: Patient, x: Floats, y: Floats, edge: float) -> Floats:
    """Draw what all slices share, HU (Y, X): air, and the table, a curved carbon shell over foam."""
    hu = np.full((y.size, x.size), _AIR, dtype=np.float32)
    back = patient.cavity[2] + 18 * patient.size + 0.75 * patient.fat + 8.0
    under = back - y - x**2 / np.float32(1800.0)
    inside = np.maximum(under, np.abs(x) - np.float32(215.0))
    foot = y - np.float32(back + 26.0)
    blend(hu, np.maximum(inside, foot), -330.0, edge)
    blend(hu, np.maximum(inside + 2.5, foot + 2.5), -960.0, edge)
    return hu


def draw_body(patient: Patient, plane: Plane, hu: Floats, step: float) -> NDArray[np.int8]:
    """Draw the body, without noise and without branching structures in the lungs.

    Args:
        patient: the proportions.
        plane: data shared by the slices.
        hu: (z, y, x), changed in place: HU.
        step: mm between slices.

    Returns:
        (z, y, x), depth below the surface of the lung in half millimetres, negative outside, -127 to 127.
    """
    depth = np.full(hu.shape, -127, dtype=np.int8)
    for z in range(len(hu)):
        height = np.float32((z + 0.5) * step)
        _draw_slice(patient, plane, height, hu[z][plane.body], depth[z][plane.body])
    return depth


def _draw_slice(patient: Patient, plane: Plane, z: np.float32, hu: Floats, depth: NDArray[np.int8]) -> None:
    """Draw the body on the part `plane.body` of the slice at height z, mm."""
    cavity, muscle, skin = (outline[plane.turn] for outline in _outlines(patient, float(z)))
    beyond = plane.away - cavity
    coarse = plane.coarse.at(z)
    fine = plane.fine.at(z)

    blend(hu, plane.away - skin, 5.0, plane.edge)
    blend(hu, plane.away - skin + 2.0, _FAT + 6 * coarse, plane.edge)
    # Muscles are separate bundles with fat between them.
    streaks = _MUSCLE - 100 * np.clip(fine + 0.5 * coarse - 1.1, 0, 1)
    blend(hu, plane.away - muscle, streaks, plane.edge)
    _draw_armpits(hu, patient, plane, z)
    blend(hu, beyond, _FAT, plane.edge)
    _draw_ribs(hu, patient, plane, beyond, z)
    _draw_girdle(hu, patient, plane, beyond, z)
    below = 0.75 * (plane.dome - z)
    if z < plane.dome.max() + 4.0:
        _draw_abdomen(hu, patient, plane, np.maximum(beyond, -below), fine)
    spine = _draw_spine(hu[plane.spine], patient, plane, z)
    pleura = _draw_mediastinum(hu[plane.middle], patient, plane, z)

    lung = np.maximum(beyond + np.float32(1.0), below)
    np.maximum(lung, _apex(patient, plane, z), out=lung)
    np.maximum(lung[plane.spine], -spine, out=lung[plane.spine])
    np.maximum(lung[plane.middle], -pleura, out=lung[plane.middle])
    if lung.min() < plane.edge:
        blend(hu, lung, _parenchyma(patient, plane, z, coarse, fine), plane.edge)
    depth[:] = np.clip(lung * -2, -127, 127)


def _outlines(patient: Patient, z: float) -> tuple[Floats, Floats, Floats]:
    """Return radii in mm of the pleura, of the muscles and of the skin at a height, for each angle."""
    height = z / patient.length
    s = patient.size
    width, front, back = patient.cavity
    narrow, shallow = (float(np.interp(height, _CAVITY[0], sizes)) for sizes in _CAVITY[1:])
    pleura = _egg(width * narrow, front * shallow, back * shallow, 2.3)
    pleura *= 1 - 0.30 * _bump(_TURNS / 0.32) - 0.07 * _bump((np.pi - abs(_TURNS)) / 0.3)

    shoulder = float(np.clip((height - 0.78) / 0.22, 0, 1)) ** 2
    wide, deep = (width + 19 * s) * (1 + 0.10 * shoulder), (front + 15 * s) * (1 - 0.18 * shoulder)
    muscle = np.maximum(_egg(wide, deep, back + 18 * s, 2.5), pleura + 13 * s)
    fat = patient.fat * (0.75 + 0.5 * np.sin(_TURNS) ** 2 + 0.25 * np.clip(-1.5 * np.cos(_TURNS), 0, 1))
    breast = patient.breast * _bump((height - 0.42) / 0.12) * _bump((abs(_TURNS) - 2.4) / 0.3)
    skin = muscle + fat + breast + 2.0
    return pleura.astype(np.float32), muscle.astype(np.float32), skin.astype(np.float32)


def _bump(away: Any) -> Any:
    """Return a bell curve, 1 at 0."""
    return np.exp(-(away**2))


def _egg(width: float, front: float, back: float, power: float) -> Any:
    """Return radii of a rounded box, flatter with a higher power, for each angle."""
    deep = np.where(np.cos(_TURNS) < 0, front, back)
    side = np.abs(np.sin(_TURNS) / width) ** power + np.abs(np.cos(_TURNS) / deep) ** power
    return side ** (-1 / power)


def _draw_armpits(hu: Floats, patient: Patient, plane: Plane, z: np.float32) -> None:
    """Draw the fat of the armpits, next to the upper ribs."""
    s = patient.size
    high = (float(z) / patient.length - 0.80) / 0.14
    if abs(high) >= 1:
        return
    swell = np.sqrt(1 - high**2) * s
    sides = (np.abs(plane.x) - np.float32(122 * s)) / np.float32(17 * swell)
    distance = np.sqrt(sides**2 + ((plane.y + np.float32(8 * s)) / np.float32(34 * swell)) ** 2) - 1
    blend(hu, distance * np.float32(17 * swell), _FAT, plane.edge)


def _bone(hu: Floats, distance: Floats, marrow: float | Floats, shell: float, edge: float) -> None:
    """Draw a bone: cortical shell, `shell` mm thick, around marrow."""
    blend(hu, distance, _CORTICAL, edge)
    blend(hu, distance + np.float32(shell), marrow, edge)


def _draw_ribs(hu: Floats, patient: Patient, plane: Plane, beyond: Floats, z: np.float32) -> None:
    """Draw ribs and costal cartilage: shells at a depth below the pleura.

    A rib descends from the spine to the front, so an axial slice cuts several obliquely.
    """
    s = patient.size
    apart, lowest = patient.ribs
    number = (plane.sunk + (z - np.float32(lowest))) * np.float32(1 / apart)
    number -= np.rint(number)
    number *= np.float32(0.9 * apart)
    rib = (beyond - np.float32(6.5 * s)) * np.float32(1.1)
    rib = np.sqrt(number * number + rib * rib) - np.float32(5.2 * s)
    np.maximum(rib, (np.float32(0.3) - plane.behind) * np.float32(70 * s), out=rib)
    # Towards the breast bone, bone turns into cartilage.
    front = (plane.behind - np.float32(2.45)) * np.float32(90 * s)
    _bone(hu, np.maximum(rib, front), _CANCELLOUS - 60, 1.1 * s, plane.edge)
    blend(hu, np.maximum(rib, -front), _CARTILAGE, plane.edge)


def _draw_girdle(hu: Floats, patient: Patient, plane: Plane, beyond: Floats, z: np.float32) -> None:
    """Draw the breast bone, the shoulder blades and the collar bones."""
    s = patient.size
    height = float(z) / patient.length
    if 0.28 < height < 0.88:
        x, layer = plane.x[:, plane.front[1]], beyond[plane.front]
        wide = float(np.interp(height, [0.28, 0.36, 0.74, 0.80, 0.88], [5, 13, 14, 24, 20])) * s
        thick = np.abs(layer - np.float32(7 * s)) - np.float32(5.5 * s)
        plate = np.maximum(np.abs(x) - np.float32(wide), thick)
        _bone(hu[plane.front], plate, _CANCELLOUS - 120, 1.2, plane.edge)
    if 0.60 < height < 0.96:
        wide = float(np.interp(height, [0.60, 0.72, 0.9, 0.96], [0.08, 0.26, 0.36, 0.2]))
        aside = np.abs(plane.behind - np.float32(0.95))
        blade = np.abs(beyond - np.float32(12 * s) * aside - np.float32(19 * s)) - np.float32(2.6)
        np.maximum(blade, (aside - np.float32(wide)) * np.float32(90), out=blade)
        _bone(hu, blade, _CANCELLOUS, 1.2, plane.edge)
    for part, distance in filter(None, (bone.near(plane.x, plane.y, z) for bone in plane.clavicles)):
        _bone(hu[part], distance, _CANCELLOUS, 1.5, plane.edge)


def _draw_spine(hu: Floats, patient: Patient, plane: Plane, z: np.float32) -> Floats:
    """Draw vertebra or disc, canal, arch and processes on `plane.spine`; return the distance to them."""
    s = patient.size
    height = float(z) / patient.length
    x = plane.x[:, plane.spine[1]] - np.float32(patient.lean * np.sin(5 * height))
    y = plane.y[plane.spine[0]] - np.float32((46 + 5 * np.sin(3 * height)) * s)
    phase = float(z) / (27.0 * s) % 1.0
    body = np.sqrt((x / np.float32(17.5 * s)) ** 2 + (y / np.float32(14.5 * s)) ** 2) - 1
    body = body * np.float32(15 * s)
    canal = np.hypot(x, y - np.float32(23 * s))
    cover = body - np.float32(4 * s)

    blend(hu, cover, _MUSCLE, plane.edge)
    if 0.12 < phase < 0.88:
        waist = np.float32(1.8 * s * np.sin(np.pi * (phase - 0.12) / 0.76))
        _bone(hu, body + waist, _CANCELLOUS - 130, 1.3, plane.edge)
    else:
        blend(hu, body, _DISC, plane.edge)
    if 0.2 < phase < 0.85:
        arch = np.abs(canal - np.float32(11 * s)) - np.float32(2.6 * s)
        _bone(hu, arch, _CANCELLOUS, 1.3, plane.edge)
        spread = np.abs(x) - np.float32(12 * s)
        side = np.hypot(np.maximum(spread - 20 * s, 0), y - np.float32(24 * s) - 0.3 * spread)
        _bone(hu, np.maximum(side - np.float32(4.5 * s), -spread), _CANCELLOUS, 1.3, plane.edge)
    if not 0.3 < phase < 0.6:
        tail = np.maximum(np.abs(x) - np.float32(3 * s), np.abs(y - np.float32(47 * s)) - np.float32(14 * s))
        _bone(hu, tail, _CANCELLOUS, 1.3, plane.edge)
    blend(hu, canal - np.float32(8.2 * s), 12.0, plane.edge)
    blend(hu, canal - np.float32(4.6 * s), 36.0, plane.edge)
    return cover


def _draw_abdomen(hu: Floats, patient: Patient, plane: Plane, cavity: Floats, fine: Floats) -> None:
    """Draw the organs under the diaphragm: liver, spleen, stomach with its bubble of air."""
    s = patient.size
    x, y = plane.x, plane.y
    blend(hu, cavity, _MUSCLE, plane.edge)
    blend(hu, cavity + 3, _FAT, plane.edge)
    liver = np.maximum(cavity + 3.2, 0.9 * x + 0.3 * y - np.float32(26 * s))
    blend(hu, liver, _LIVER + 3 * fine, plane.edge)
    spleen = (np.hypot((x - 92 * s) / (26 * s), (y - 40 * s) / (38 * s)) - 1) * np.float32(28 * s)
    blend(hu, np.maximum(cavity + 4, spleen), _SPLEEN, plane.edge)
    stomach = (np.hypot((x - 66 * s) / (36 * s), (y + 20 * s) / (40 * s)) - 1) * np.float32(37 * s)
    stomach = np.maximum(cavity + 6, stomach)
    blend(hu, stomach, _MUSCLE, plane.edge)
    blend(hu, stomach + 4, 14.0, plane.edge)
    blend(hu, np.maximum(stomach + 4, y + np.float32(30 * s)), _AIR + 15, plane.edge)


def _ellipsoid(
    at: tuple[Floats, Floats, np.float32], centre: Sequence[float], radii: Sequence[float]
) -> Floats:
    """Approximate the signed distance to an ellipsoid with a heart's long axis: left, forward, down."""
    dx, dy = at[0] - np.float32(centre[0]), at[1] - np.float32(centre[1])
    dz = at[2] - np.float32(centre[2])
    long = 0.74 * dx - 0.46 * dy - 0.49 * dz
    across = 0.53 * dx + 0.85 * dy
    up = 0.417 * dx - 0.26 * dy + 0.872 * dz
    q = (long / radii[0]) ** 2 + (across / radii[1]) ** 2 + (up / radii[2]) ** 2
    return np.asarray((np.sqrt(q) - 1) * min(radii), dtype=np.float32)


def _joined(first: Floats, second: Floats, fillet: float) -> Floats:
    """Return the union of two bodies, with the groove between them filled."""
    near = np.clip(1 - np.abs(first - second) / np.float32(fillet), 0, 1)
    return np.asarray(np.minimum(first, second) - near * near * np.float32(fillet / 4))


def _draw_mediastinum(hu: Floats, patient: Patient, plane: Plane, z: np.float32) -> Floats:
    """Draw heart, large vessels, oesophagus and windpipe on `plane.middle`; return the pleura's distance."""
    s = patient.size
    x, y = plane.x[:, plane.middle[1]], plane.y[plane.middle[0]]
    core = np.hypot((x - 2 * s) / (15 * s), (y + 8 * s) / (42 * s)) - 1
    # In front of the large vessels the two lungs almost touch.
    narrow = np.maximum(np.abs(x - 2 * s) - np.float32(2 * s), y + 15 * s)
    pleura: Floats = np.minimum(core * np.float32(15 * s), narrow)

    k = patient.heart
    centre = patient.place(17, -26, 0.285)
    at = (x, y, z)
    if abs(z - centre[2]) < 75 * k:
        hollows = [[c + off * k for c, off in zip(centre, offset, strict=True)] for offset, _ in _CHAMBERS]
        left_atrium = _ellipsoid(at, hollows[-1], (25, 19, 22))
        heart = _joined(_ellipsoid(at, centre, (62 * k, 44 * k, 42 * k)), left_atrium, 12.0)
        blend(hu, heart, _MUSCLE, plane.edge)
        pleura = _joined(pleura, heart - np.float32(3.0), 9.0)
        for middle, (_, axes) in zip(hollows, _CHAMBERS, strict=True):
            chamber = _ellipsoid(at, middle, [axis * k for axis in axes])
            blend(hu, np.maximum(chamber, heart + 3), patient.blood, plane.edge)
    # Each tube, widened by its wall and the pleura around it.
    for tubes, value, wall in (
        (plane.vessels, patient.blood, 0.0),
        (plane.gullet, _MUSCLE - 8, 0.0),
        (plane.windpipe, _MUSCLE, 2.0 * s),
        (plane.windpipe, _AIR + 10, 0.0),
    ):
        for part, distance in filter(None, (tube.near(*at) for tube in tubes)):
            distance -= np.float32(wall)
            blend(hu[part], distance, value, plane.edge)
            pleura[part] = _joined(pleura[part], distance - np.float32(1.5), 8.0)
    return pleura


#: Chambers of the heart, left, right, then the atria: offset of the centre and half axes, mm.
_CHAMBERS = (
    ((17.0, 8.0, -8.0), (34.0, 20.0, 20.0)),
    ((2.0, -18.0, -2.0), (38.0, 15.0, 26.0)),
    ((-34.0, 6.0, 10.0), (20.0, 22.0, 24.0)),
    ((-15.0, 27.0, 27.0), (23.0, 17.0, 20.0)),
)


def _apex(patient: Patient, plane: Plane, z: np.float32) -> Floats:
    """Return the signed distance to the two domes that close the lungs at the top."""
    s = patient.size
    high = (float(z) / patient.length - 0.6) / (patient.apex - 0.6)
    round_ = max(1 - max(high, 0.0) ** 2, 1e-4) ** 0.7
    side = (np.abs(plane.x) - np.float32(52 * s)) / np.float32(84 * s * round_)
    back = (plane.y - np.float32(6 * s)) / np.float32(108 * s * round_)
    return np.asarray((np.sqrt(side**2 + back**2) - 1) * np.float32(84 * s * round_))


def _parenchyma(patient: Patient, plane: Plane, z: np.float32, coarse: Floats, fine: Floats) -> Floats:
    """Return HU of the lung without vessels: denser at the back, mottled, with the oblique fissures."""
    hu = np.float32(patient.lung) + plane.y * np.float32(patient.gradient / 100) + 16 * coarse + 11 * fine
    rise = np.float32(0.9) * (z - np.float32(0.5 * patient.length))
    fissure = np.abs(plane.y - 10 - rise + 5 * coarse - 0.1 * plane.x) * np.float32(0.74)
    hu += 90 * np.clip(1 - fissure / np.float32(0.9 * plane.edge), 0, 1)
    return np.asarray(np.clip(hu, -950, -640))
