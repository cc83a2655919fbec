"""Practice data: made-up chest radiographs in the layout of NIH ChestX-ray14.

    DIR/images_001/images/<patient>_<nnn>.png .., DIR/Data_Entry_2017.csv,
    DIR/train_val_list.txt, DIR/test_list.txt

`anatomy` draws the pictures, and this module writes them. The pictures show the findings listed in the table,
which are made up as well.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from genesis_toolkit.pipeline.engine import Workers, cores
from genesis_toolkit.pipeline.job import run_missing
from genesis_toolkit.pipeline.ledger import AnyPath, hold, write_whole
from genesis_toolkit.pipeline.practice.anatomy.radiograph import (
    PICTURE_LIMITS,
    draw_case,
    person,
    take,
)
from genesis_toolkit.pipeline.practice.luna16 import check_free, check_made, write_table
from genesis_toolkit.pipeline.progress import Bars, Progress, callback, shows

TABLE = "Data_Entry_2017.csv"
TRAIN_VAL_LIST = "train_val_list.txt"
TEST_LIST = "test_list.txt"

#: The columns of NIH's table, word for word; two of the names contain a comma.
COLUMNS = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)

_IMAGES_LIMIT = 100_000
_SECONDS_AN_IMAGE = 0.4  # to draw it, most of them with the GIL held
_HEALTHY = "No Finding"

#: Images per folder, and folders: like NIH's twelve, even a small data set has several.
_A_FOLDER, _FOLDERS = 20, 12

#: One patient in this many is on the test list, the second, the sixth ..; NIH has 23 % of its images there.
_TEST_PATIENTS = 4

#: One image in this many is written with four channels, like a few of NIH's.
_RGBA_IMAGES = 25

#: Detector pixel size before the picture was reduced, mm; the value of most rows of NIH's table.
_DETECTOR_MM = 0.168


@dataclass(frozen=True)
class RadiographParameters:
    """Parameters of a data set of practice radiographs.

    Attributes:
        scans: number of images, 1 to 100,000. A patient has several, 3.4 on average.
        shape: columns and rows of every picture, 64 to 2048 each; the patient is stretched to fill it, like
            NIH's originals.
        seed: at least 0, below 2 to the 63rd. An image depends only on the seed, the shape and its number.

    Raises:
        CallError: a value is out of range.
    """

    scans: int = 100
    shape: tuple[int, int] = (1024, 1024)
    seed: int = 0

    def __post_init__(self) -> None:
        must_be = "does not suit a radiograph: it must be two numbers of pixels, columns and rows"
        check_made(self, "images", _IMAGES_LIMIT, PICTURE_LIMITS, must_be)


@dataclass(frozen=True)
class Sitting:
    """The images of one patient: their number, and the first of them in the data set, both from 0."""

    patient: int
    first: int
    images: int


@shows(Bars)
def write_nih(
    folder: AnyPath,
    parameters: RadiographParameters,
    *,
    workers: int | None = None,
    progress: Progress | bool = False,
) -> list[Path]:
    """Write practice radiographs in the layout of NIH ChestX-ray14; for the rest see `write_luna16`.

    Returns:
        The pictures, in the order of the table.

    Raises:
        CallError: the folder is a file or not empty.
    """
    folder = check_free(Path(folder))
    sittings = {str(one.patient): one for one in planned(parameters)}
    with hold(folder, {"layout": "nih"} | asdict(parameters), overwrite=False) as ledger:
        draw = partial(_draw_images, ledger.store, parameters)

        def suited(crew: Workers, left: Sequence[Sitting]) -> Workers:
            return crew.for_seconds(_SECONDS_AN_IMAGE * sum(one.images for one in left))

        crew = Workers(workers or cores(), progress=callback(progress))
        run_missing(crew, ledger, "images", sittings, draw, suited=suited, pieces=lambda one: one.images)
        rows = [row for record in ledger.records(sittings) for row in record["rows"]]
        write_table(ledger.store / TABLE, COLUMNS, rows)
        for name, test in ((TRAIN_VAL_LIST, False), (TEST_LIST, True)):
            names = [f"{row[0]}\n" for row in rows if is_test(int(row[3]) - 1) == test]
            write_whole(ledger.store / name, "".join(names).encode("ascii"))
        ledger.publish()
    return [folder / _place(number, row[0]) for number, row in enumerate(rows)]


def planned(parameters: RadiographParameters) -> Iterator[Sitting]:
    """Assign images to patients: the first images stay the same, however many follow.

    The last patient may have fewer images than were drawn.
    """
    first = patient = 0
    while first < parameters.scans:
        images = min(person(parameters.seed, patient).images, parameters.scans - first)
        yield Sitting(patient, first, images)
        first, patient = first + images, patient + 1


def is_test(patient: int) -> bool:
    """Return whether the images of a patient (a number from 0) are on the test list: all of them, or none."""
    return patient % _TEST_PATIENTS == 1


def _place(number: int, name: str) -> str:
    """Return the path of an image in the data set, from its number and its name."""
    return f"images_{number // _A_FOLDER % _FOLDERS + 1:03d}/images/{name}"


def _draw_images(folder: Path, parameters: RadiographParameters, sitting: Sitting) -> dict[str, Any]:
    """Draw and write the images of one patient; return their rows of the table."""
    patient, rows = sitting.patient, []
    case, who = draw_case(parameters.seed, patient), person(parameters.seed, patient)
    for follow_up in range(sitting.images):
        number, name = sitting.first + follow_up, f"{patient + 1:08d}_{follow_up:03d}.png"
        radiograph = take(case, follow_up, parameters.shape)
        entries = (name, "|".join(radiograph.labels) or _HEALTHY, follow_up, patient + 1)
        of_the_day = (who.age + follow_up // 2, who.gender, radiograph.view)
        # Width and height are those before the reduction.
        edges = (round(edge / _DETECTOR_MM) for edge in radiograph.field)
        rows.append([*entries, *of_the_day, *edges, _DETECTOR_MM, _DETECTOR_MM])
        picture, data = Image.fromarray(radiograph.grey), io.BytesIO()
        picture = picture.convert("RGBA") if number % _RGBA_IMAGES == 3 else picture
        # Stronger compression of noise saves a tenth of the bytes but takes four times as long.
        picture.save(data, "png", compress_level=1)
        write_whole(folder / _place(number, name), data.getvalue())
    return {"rows": rows}
