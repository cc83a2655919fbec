"""Chest radiographs of made-up patients: several images of each, with findings under NIH's names.

The parts: `torso` draws the patient and sums along the rays, `findings` puts in what is wrong, `film` makes
the grey picture, and this module draws who is X-rayed, when and how. Everything is pure: no file is read or
written here.
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.practice.anatomy.film import Exposure, expose
from genesis_toolkit.pipeline.practice.anatomy.findings import Course, Label, with_findings
from genesis_toolkit.pipeline.practice.anatomy.patient import Patient
from genesis_toolkit.pipeline.practice.anatomy.torso import FINE, Torso, View, draw_torso, project, spread

Part = Literal["person", "body", "course", "vessels", "exposure"]

#: The fewest and the most pixels of a picture along each edge.
PICTURE_LIMITS = (64, 2048)

#: Share of the images that are taken at a bed, from the front.
_BEDSIDE = 0.35

#: Most images of one patient.
_MOST_IMAGES = 10

#: What draws the images of one patient is told apart from his other streams by this and the follow-up.
_IMAGES = len(get_args(Part))


@dataclass(frozen=True)
class Person:
    """A patient of the practice radiographs.

    Attributes:
        images: how many were taken, 1 to 10.
        age: years, at the first.
        gender: M or F.
    """

    images: int
    age: int
    gender: Literal["M", "F"]


@dataclass(frozen=True)
class Case:
    """A patient who is ready to be X-rayed.

    Attributes:
        torso: the body, without findings but for the size of the heart.
        course: the findings.
        seed, number: what names the patient, as in `person`.
    """

    torso: Torso
    course: Course
    seed: int
    number: int


@dataclass(frozen=True)
class Radiograph:
    """One picture.

    Attributes:
        grey: uint8, (rows, columns), the head above, the patient's left to the right.
        labels: what it shows, in alphabetical order; none of a healthy chest.
        view: PA or AP.
        field: width and height of what it shows, mm at the middle of the thorax.
    """

    grey: NDArray[np.uint8]
    labels: tuple[Label, ...]
    view: View
    field: tuple[float, float]


def person(seed: int, number: int) -> Person:
    """Who a patient is: quick, because images are counted with it.

    Args:
        seed: the seed of the whole data set, 0 or more.
        number: the number of the patient, from 0.
    """
    draw = _stream(seed, number, "person")
    images = min(int(draw.geometric(0.28)), _MOST_IMAGES)
    return Person(images, int(draw.integers(20, 88)), "F" if draw.random() < 0.45 else "M")


def draw_case(seed: int, number: int) -> Case:
    """Draw a patient: body, vessels and findings, once for all images.

    Args:
        seed: the seed of the whole data set, 0 or more.
        number: the number of the patient, from 0.
    """
    course = Course.drawn(_stream(seed, number, "course"))
    draw = _stream(seed, number, "body")
    patient = Patient.drawn(draw)
    breast = draw.uniform(18.0, 34.0) * patient.size if person(seed, number).gender == "F" else 0.0
    patient = replace(patient, heart=course.heart, breast=breast)
    return Case(draw_torso(patient, _stream(seed, number, "vessels")), course, seed, number)


def take(
    case: Case, follow_up: int, shape: tuple[int, int], *, labels: tuple[Label, ...] | None = None
) -> Radiograph:
    """Take one image of a patient.

    Args:
        case: the patient.
        follow_up: which image of the patient, from 0.
        shape: columns and rows of the picture, each within `PICTURE_LIMITS`.
        labels: the findings to show in place of those drawn; an enlarged heart stays what it is.

    Returns:
        The picture; the same arguments give the same pixels.
    """
    draw = np.random.Generator(
        np.random.Philox(np.random.SeedSequence((case.seed, case.number, _IMAGES, follow_up)))
    )
    torso, patient = case.torso, case.torso.patient
    drawn = case.course.shown(draw)
    labels = drawn if labels is None else labels
    bedside = bool(draw.random() < _BEDSIDE)
    view: View = "AP" if bedside else "PA"
    grown = draw.uniform(0.85, 1.15)
    exposure = Exposure.drawn(draw, (2 * patient.half_width, patient.length), bedside=bedside)
    lungs = with_findings(torso, case.course, labels, view, grown)
    water = project(torso.canvas, patient, lungs.hu, view)
    water = water + torso.vessels * spread(lungs.aired.sum(axis=1) / torso.air) + lungs.lumps
    pixel = (torso.canvas.spacing[0] / FINE, torso.canvas.spacing[2] / FINE)
    return Radiograph(expose(water, pixel, exposure, shape, draw), labels, view, exposure.field)


def _stream(seed: int, number: int, part: Part) -> np.random.Generator:
    """The random stream of one part of one patient: it depends on nothing else."""
    place = get_args(Part).index(part)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, number, place, 2**31))))
