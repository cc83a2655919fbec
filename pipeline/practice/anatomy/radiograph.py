"""Chest radiographs of made-up patients: several images of each, with findings under NIH's names.

This module draws who is X-rayed, when and how, and renders the grey picture of the attenuation along the
rays: attenuation, scatter, noise, display tones. It is pure: no file is read or written here.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from genesis_toolkit.pipeline.practice.anatomy.findings import Course, Label, with_findings
from genesis_toolkit.pipeline.practice.anatomy.patient import Floats, Patient, stream
from genesis_toolkit.pipeline.practice.anatomy.torso import FINE, Torso, View, draw_torso, project, spread

#: Smallest and largest number of pixels of a picture along each edge.
PICTURE_LIMITS = (64, 2048)

#: Share of images taken at the bedside, from the front.
_BEDSIDE = 0.35

#: Most images of one patient.
_MOST_IMAGES = 10

#: Random streams of the parts of a patient, after the seed and the number of the patient. The patient's own
#: stream ends in a reserved number; images have their follow-up number in its place.
_PERSON, _BODY, _COURSE, _VESSELS, _, _IMAGES = range(6)
_OF_PATIENT = 2**31

#: Attenuation of water at the mean energy of a chest X-ray, 1/mm: between 0.0184 at 80 keV and 0.0171 at 100.
_WATER = 0.0178

#: Pixels of a projection that are averaged before scatter is spread.
_SCATTER = 48


@dataclass(frozen=True)
class Person:
    """A patient: number of images, 1 to 10, and age in years at the first."""

    images: int
    age: int
    gender: Literal["M", "F"]


@dataclass(frozen=True)
class Case:
    """A patient ready to be X-rayed.

    Attributes:
        torso: the body, without findings except for the size of the heart.
        course: the findings.
        seed, number: identify the patient, see `person`.
    """

    torso: Torso
    course: Course
    seed: int
    number: int


@dataclass(frozen=True)
class Radiograph:
    """One picture.

    Attributes:
        grey: uint8, (rows, columns), head at the top, the patient's left on the right.
        labels: its findings, in alphabetical order; none for a healthy chest.
        view: PA or AP.
        field: width and height of the field of view, mm in the middle of the thorax.
    """

    grey: NDArray[np.uint8]
    labels: tuple[Label, ...]
    view: View
    field: tuple[float, float]


@dataclass(frozen=True)
class Exposure:
    """Settings with which one picture was taken and displayed.

    Attributes:
        field: width and height of the picture, mm.
        centre: position of its centre in the projection, mm to the right of and below the middle.
        turn: degrees by which the patient leans.
        scatter: ratio of scattered to direct radiation behind the open field.
        noise: standard deviation of the noise in the open field, as a share of the signal.
        contrast: steepness of the tone curve.
        tone: position of middle grey, 0 at the darkest of the lungs and 1 at the brightest of the belly.
        mark: height of the letter at the patient's left shoulder, as a share of the picture; 0 for none.
    """

    field: tuple[float, float]
    centre: tuple[float, float]
    turn: float
    scatter: float
    noise: float
    contrast: float
    tone: float
    mark: float

    @classmethod
    def drawn(cls, draw: np.random.Generator, body: tuple[float, float], *, bedside: bool) -> "Exposure":
        """Draw one exposure of a body (width and height in mm); the draws have a fixed order.

        At the bedside a mobile tube has no grid: more scatter, less precise positioning.
        """
        careless = 1.6 if bedside else 1.0
        return cls(
            field=(body[0] * draw.uniform(0.9, 1.05), body[1] * draw.uniform(0.98, 1.08)),
            centre=(careless * draw.uniform(-9.0, 9.0), draw.uniform(-8.0, 8.0)),
            turn=careless * draw.normal(0.0, 1.1),
            scatter=draw.uniform(0.9, 1.5) if bedside else draw.uniform(0.35, 0.8),
            noise=draw.uniform(0.0018, 0.0045),
            contrast=draw.uniform(2.8, 4.2),
            tone=draw.uniform(0.26, 0.46),
            mark=draw.uniform(0.025, 0.045) if draw.random() < 0.8 else 0.0,
        )


def person(seed: int, number: int) -> Person:
    """Return patient `number`, from 0, of a data set; fast, since it is used to count images."""
    draw = stream(seed, number, _PERSON, _OF_PATIENT)
    images = min(int(draw.geometric(0.28)), _MOST_IMAGES)
    return Person(images, int(draw.integers(20, 88)), "F" if draw.random() < 0.45 else "M")


def draw_case(seed: int, number: int) -> Case:
    """Draw a patient, with the number of `person`: body, vessels and findings, once for all images."""
    course = Course.drawn(stream(seed, number, _COURSE, _OF_PATIENT))
    draw = stream(seed, number, _BODY, _OF_PATIENT)
    patient = Patient.drawn(draw)
    breast = draw.uniform(18.0, 34.0) * patient.size if person(seed, number).gender == "F" else 0.0
    patient = replace(patient, heart=course.heart, breast=breast)
    return Case(draw_torso(patient, stream(seed, number, _VESSELS, _OF_PATIENT)), course, seed, number)


def take(
    case: Case, follow_up: int, shape: tuple[int, int], *, labels: tuple[Label, ...] | None = None
) -> Radiograph:
    """Take one image of a patient.

    Args:
        case: the patient.
        follow_up: number of the patient's image, from 0.
        shape: columns and rows of the picture, each within `PICTURE_LIMITS`.
        labels: findings to show instead of those drawn; an enlarged heart is unaffected.

    Returns:
        The picture; equal arguments give equal pixels.
    """
    draw = stream(case.seed, case.number, _IMAGES, follow_up)
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


def expose(
    water: Floats,
    pixel: tuple[float, float],
    exposure: Exposure,
    shape: tuple[int, int],
    draw: np.random.Generator,
) -> NDArray[np.uint8]:
    """Take a picture of a projection: uint8, (rows, columns), bone is bright, air is dark.

    Args:
        water: (rows, columns), line integrals in mm of water, head at the top.
        pixel: width and height of one of its pixels, mm.
        exposure: exposure and display settings.
        shape: columns and rows of the picture.
        draw: the stream of the noise.
    """
    direct = np.exp(water * np.float32(-_WATER))
    scattered = np.float32(exposure.scatter) * _blurred(direct)
    signal = (direct + scattered) / np.float32(1 + exposure.scatter)
    film = _framed(-np.log(signal), pixel, exposure, shape)
    rows, columns = film.shape
    # The machine adapts its tones: from the lungs to the belly in the centre of the picture.
    middle = film[rows // 6 : -rows // 8 : 4, columns // 6 : -columns // 6 : 4]
    dark, bright = np.percentile(middle, (5, 95))
    grain = draw.standard_normal(film.shape, dtype=np.float32)
    # Photon-counting noise is strongest behind the belly, where few photons arrive.
    film += grain * np.exp(0.5 * film) * np.float32(exposure.noise)
    tones = (film - np.float32(dark)) / np.float32(bright - dark) - np.float32(exposure.tone)
    grey = np.float32(255) / (1 + np.exp(tones * np.float32(-exposure.contrast)))
    _mark(grey, exposure.mark)
    return np.asarray(np.rint(grey), dtype=np.uint8)


def _blurred(signal: Floats) -> Floats:
    """Return the signal smoothed over a few centimetres: where scattered radiation arrives."""
    rows, columns = signal.shape
    small = Image.fromarray(signal).resize((columns // _SCATTER, rows // _SCATTER), Image.Resampling.BOX)
    return np.asarray(small.resize((columns, rows), Image.Resampling.BICUBIC))


def _framed(film: Floats, pixel: tuple[float, float], exposure: Exposure, shape: tuple[int, int]) -> Floats:
    """Return the part of a projection that the picture shows, rotated and resampled to its pixels."""
    rows, columns = film.shape
    beyond = rows // 6
    wide = np.pad(film, beyond, mode="edge")
    step = (exposure.field[0] / shape[0], exposure.field[1] / shape[1])
    turn = np.deg2rad(exposure.turn)
    across = (np.cos(turn) * step[0] / pixel[0], np.sin(turn) * step[1] / pixel[0])
    down = (-np.sin(turn) * step[0] / pixel[1], np.cos(turn) * step[1] / pixel[1])
    middle = (
        0.5 * columns + beyond + exposure.centre[0] / pixel[0],
        0.5 * rows + beyond + exposure.centre[1] / pixel[1],
    )
    left, top = (
        at - 0.5 * (row[0] * shape[0] + row[1] * shape[1])
        for at, row in zip(middle, (across, down), strict=True)
    )
    matrix = (*across, left, *down, top)
    return np.array(
        Image.fromarray(wide).transform(shape, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    )


def _mark(grey: Floats, height: float) -> None:
    """Draw the letter L at the patient's left shoulder, like a lead marker."""
    rows, columns = grey.shape
    tall = round(height * rows)
    if tall < 4:
        return
    thick = max(tall // 5, 1)
    top, left = round(0.04 * rows), round(0.93 * columns)
    grey[top : top + tall, left : left + thick] = 250
    grey[top + tall - thick : top + tall, left : left + round(0.55 * tall)] = 250
