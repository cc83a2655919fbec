"""From what lies along the rays to a grey picture: attenuation, scatter, noise, the tones of a display."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]

#: Attenuation of water at the mean energy of a chest X-ray, 1/mm: between 0.0184 at 80 keV and 0.0171 at 100.
_WATER = 0.0178

#: Pixels of a projection that are averaged before the scatter is spread.
_SCATTER = 48


@dataclass(frozen=True)
class Exposure:
    """How one picture was taken and shown.

    Attributes:
        field: width and height of the picture, mm.
        centre: where its middle lies in the projection, mm to the right of and below the middle.
        turn: degrees by which the patient leans.
        scatter: scattered against direct radiation behind the open field.
        noise: standard deviation of the noise where nothing is in the way, as a share of the signal.
        contrast: steepness of the tones.
        tone: where the middle grey lies, 0 at the darkest of the lungs and 1 at the brightest of the belly.
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
        """Draw one exposure; the draws come in a fixed order.

        Args:
            draw: a random stream.
            body: width and height of the patient, mm.
            bedside: a mobile tube without a grid: more scatter, less care.
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


def expose(
    water: Floats,
    pixel: tuple[float, float],
    exposure: Exposure,
    shape: tuple[int, int],
    draw: np.random.Generator,
) -> NDArray[np.uint8]:
    """Take a picture of a projection.

    Args:
        water: (rows, columns), line integrals in mm of water, the head above.
        pixel: width and height of a pixel of it, mm.
        exposure: how.
        shape: columns and rows of the picture.
        draw: the stream of the noise.

    Returns:
        uint8, (rows, columns): bone is bright, air is dark.
    """
    direct = np.exp(water * np.float32(-_WATER))
    scattered = np.float32(exposure.scatter) * _blurred(direct)
    signal = (direct + scattered) / np.float32(1 + exposure.scatter)
    film = _framed(-np.log(signal), pixel, exposure, shape)
    rows, columns = film.shape
    # The machine finds its own tones: from the lungs to the belly in the middle of the picture.
    middle = film[rows // 6 : -rows // 8 : 4, columns // 6 : -columns // 6 : 4]
    dark, bright = np.percentile(middle, (5, 95))
    grain = draw.standard_normal(film.shape, dtype=np.float32)
    # Noise of counted photons: behind the belly, where few arrive, it is strongest.
    film += grain * np.exp(0.5 * film) * np.float32(exposure.noise)
    tones = (film - np.float32(dark)) / np.float32(bright - dark) - np.float32(exposure.tone)
    grey = np.float32(255) / (1 + np.exp(tones * np.float32(-exposure.contrast)))
    _mark(grey, exposure.mark)
    picture: NDArray[np.uint8] = np.rint(grey).astype(np.uint8)
    return picture


def _blurred(signal: Floats) -> Floats:
    """The signal, smooth over a few centimetres: where scattered radiation arrives."""
    rows, columns = signal.shape
    small = Image.fromarray(signal).resize((columns // _SCATTER, rows // _SCATTER), Image.Resampling.BOX)
    return np.asarray(small.resize((columns, rows), Image.Resampling.BICUBIC))


def _framed(film: Floats, pixel: tuple[float, float], exposure: Exposure, shape: tuple[int, int]) -> Floats:
    """The part of a projection that the picture shows, turned and brought to its pixels."""
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
    start = [
        middle[axis] - 0.5 * (row[0] * shape[0] + row[1] * shape[1])
        for axis, row in enumerate((across, down))
    ]
    picture = Image.fromarray(wide).transform(
        shape,
        Image.Transform.AFFINE,
        (*across, start[0], *down, start[1]),
        Image.Resampling.BICUBIC,
    )
    return np.array(picture)


def _mark(grey: Floats, height: float) -> None:
    """The letter L at the patient's left shoulder, as lead leaves it."""
    rows, columns = grey.shape
    tall = round(height * rows)
    if tall < 4:
        return
    thick = max(tall // 5, 1)
    top, left = round(0.04 * rows), round(0.93 * columns)
    grey[top : top + tall, left : left + thick] = 250
    grey[top + tall - thick : top + tall, left : left + round(0.55 * tall)] = 250
