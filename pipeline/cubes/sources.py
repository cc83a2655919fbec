"""The two kinds of sources, CT scans and X-ray images, told apart by the parameters they are cut with."""

from pathlib import Path

from genesis_toolkit.pipeline.cubes.crop import ImageParameters
from genesis_toolkit.pipeline.cubes.cut import ExtractParameters
from genesis_toolkit.pipeline.scans.find import Found, find_scans
from genesis_toolkit.pipeline.scans.nih import find_images

Parameters = ExtractParameters | ImageParameters


def find_sources(source: Path | str, parameters: Parameters) -> Found:
    """Find what is to be cut with these parameters.

    Raises:
        CallError: as `find_scans` and `find_images`.
        DataError: a table of the images is damaged.
    """
    if isinstance(parameters, ImageParameters):
        return find_images(source, parameters.split)
    return find_scans(source, parameters.layout, parameters.subsets)
