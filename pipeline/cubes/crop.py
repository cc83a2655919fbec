"""Cuts the cubes of one X-ray image: the resized whole image, or random crops at full resolution.

The authors did not publish how images were prepared for the 2D models (METHOD.md section 5), so this is ours.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.cubes.parameters import ImageParameters
from genesis_toolkit.pipeline.cubes.records import Cut, CutTask
from genesis_toolkit.pipeline.cubes.rule import place_words
from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.hounsfield import GreyLevels
from genesis_toolkit.pipeline.rng import draw_distinct
from genesis_toolkit.pipeline.scans.images import Picture, resize
from genesis_toolkit.pipeline.scans.radiographs import picture_of


def too_small(shape: tuple[int, int], parameters: ImageParameters) -> str | None:
    """Return why an image of this many columns and rows is too small for a crop; None if it is not."""
    (x, y), (least_x, least_y) = shape, parameters.size
    if parameters.cubes_per_scan is None or (x >= least_x and y >= least_y):
        return None
    return f"{x} x {y} pixels, {least_x} x {least_y} needed"


def cut_image(
    pixels: NDArray[np.uint8], identifier: str, parameters: ImageParameters
) -> tuple[NDArray[np.int32], list[float], list[NDArray[np.uint8]]]:
    """Take the whole image, or distinct crops drawn uniformly from the random stream of its identifier. Pure.

    The pixels are uint8 [x, y], grey levels; for crops, at least as large as one.

    Returns:
        corners : int32 [cube, 3], pixels in x and y, and 0; in the order drawn. 0, 0, 0 for a whole image.
        tissue : all 0, since grey levels do not identify tissue.
        cubes : uint8 [x, y] each.
    """
    corners = np.zeros((1, 3), np.int32)
    if parameters.cubes_per_scan is not None:
        words = place_words(parameters.seed, identifier, parameters.cubes_per_scan)
        corners = draw_crops(pixels.shape, parameters.size, parameters.cubes_per_scan, words)
    cubes = [cube_at(pixels, corner, parameters) for corner in corners]
    return corners, [0.0] * len(cubes), cubes


def draw_crops(
    shape: tuple[int, ...], size: tuple[int, int], count: int, words: NDArray[np.uint32]
) -> NDArray[np.int32]:
    """Draw positions of crops of this size, uniformly inside an image, with words from `place_words`.

    Returns:
        int32 [crop, 3], the first pixel in x and y, and 0; in the order drawn. Distinct, so all positions if
        there are fewer than `count`.
    """
    across, down = (edge - own + 1 for edge, own in zip(shape, size, strict=True))
    places = draw_distinct(across * down, count, words)
    corners = [places % across, places // across, np.zeros_like(places)]
    return np.stack(corners, axis=1).astype(np.int32)


def cube_at(
    pixels: NDArray[np.uint8], corner: Sequence[int] | NDArray[np.integer[Any]], parameters: ImageParameters
) -> NDArray[np.uint8]:
    """Return the cube of an image, uint8 [x, y], at a known corner; C-contiguous.

    The corner is ignored for a whole image.

    Raises:
        DataError: the crop extends beyond the image.
    """
    if parameters.cubes_per_scan is None:
        return resize(pixels, parameters.size)
    (x, y), (across, down) = map(int, corner[:2]), parameters.size
    crop = pixels[x : x + across, y : y + down]
    if min(x, y) < 0 or crop.shape != parameters.size:
        raise DataError(
            f"a crop of {across} x {down} pixels at {(x, y)} does not fit inside the image of "
            f"{' x '.join(map(str, pixels.shape))}"
        )
    return np.ascontiguousarray(crop)


def picture_facts(picture: Picture, parameters: GreyLevels) -> dict[str, Any]:
    """Return an image's record: its edges and, if values are mapped, the mapping."""
    facts: dict[str, Any] = {"shape": [*picture.pixels.shape, 1]}
    return facts | ({"window": list(picture.window), "inverted": picture.inverted} if parameters.maps else {})


def cut_picture(task: CutTask[ImageParameters]) -> Cut:
    """Read an image that is large enough, and cut it.

    Raises:
        DataError, OSError, ValueError, MemoryError: it cannot be read.
    """
    picture = picture_of(task.path, task.parameters.layout)
    x, y = picture.pixels.shape
    facts = picture_facts(picture, task.parameters)
    small = too_small((x, y), task.parameters)
    if small:
        return Cut("", facts | {"status": "skipped", "reason": small})
    corners, tissue, cubes = cut_image(picture.pixels, task.source.identifier, task.parameters)
    return Cut(picture.sha256, facts, corners, cubes, tissue)
