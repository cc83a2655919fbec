"""Splits multi-frame DICOM files, such as enhanced CT, into slices, each with its position and scale.

Source: DICOM PS3.3 (multi-frame functional groups module).
"""

import warnings
from dataclasses import replace
from typing import Any

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.scans.dicom import QUIET, Slice
from genesis_toolkit.pipeline.scans.gate import damaged, unsupported

#: The SOP classes of enhanced CT and of images converted to it.
ENHANCED = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")

_SINGLE = "export the scan as single slices"


def unfolded(slices: tuple[Slice, ...]) -> tuple[Slice, ...]:
    """Return the slices, with multi-frame files split into frames.

    Raises:
        DataError: frames are compressed, have no position, or form several volumes.
    """
    found: list[Slice] = []
    for one in slices:
        found += _frames(one) if one.frames > 1 or one.pixels.sop_class in ENHANCED else [one]
    if len(found) > len(slices):
        places = {tuple(round(edge, 2) for edge in one.position) for one in found}
        if len(places) < len(found):
            why = f"the {len(found)} frames have {len(places)} positions, so they do not form a single volume"
            raise unsupported(why, _SINGLE)
    return tuple(found)


def _frames(one: Slice) -> list[Slice]:
    if one.pixels.length is None:
        raise unsupported("the multi-frame DICOM file is compressed", f"decompress the file, or {_SINGLE}")
    try:
        said = _said_of_frames(one)
    except DataError:
        raise
    except Exception:  # pydicom does not catch all effects of damaged bytes
        raise damaged(f"the frame descriptions of {one.path.name} cannot be read") from None
    if len(said) != one.frames:
        raise damaged(f"{one.path.name} has {one.frames} frames but positions for {len(said)}")
    columns, rows = one.edges
    size = columns * rows * one.pixels.allocated // 8
    frames = []
    for number, (position, orientation, spacing, slope, intercept) in enumerate(said):
        offset, length = one.pixels.offset + number * size, max(one.pixels.length - number * size, 0)
        pixels = replace(one.pixels, offset=offset, length=length, slope=slope, intercept=intercept)
        place = {"position": position, "orientation": orientation, "spacing": spacing[::-1]}
        frames.append(replace(one, frames=1, pixels=pixels, **place))
    return frames


def _said_of_frames(one: Slice) -> list[tuple[Any, ...]]:
    """Return position, orientation, spacing of rows and columns, slope and intercept of each frame."""
    import pydicom

    with QUIET, warnings.catch_warnings(action="ignore"):
        header = pydicom.dcmread(one.path, stop_before_pixels=True, force=True)
        each, shared = (
            header.get("PerFrameFunctionalGroupsSequence"),
            header.get("SharedFunctionalGroupsSequence"),
        )
        if not each:
            raise unsupported("the frames of the multi-frame DICOM file have no position", _SINGLE)

        def of(frame: Any, group: str, name: str) -> Any:
            for holder in (frame, *(shared or ())):
                inner = holder.get(group)
                if inner and inner[0].get(name) not in (None, ""):
                    return inner[0].get(name)
            return header.get(name)

        return [
            (
                _several(of(frame, "PlanePositionSequence", "ImagePositionPatient")),
                _several(of(frame, "PlaneOrientationSequence", "ImageOrientationPatient")),
                _several(of(frame, "PixelMeasuresSequence", "PixelSpacing")),
                _number(of(frame, "PixelValueTransformationSequence", "RescaleSlope")),
                _number(of(frame, "PixelValueTransformationSequence", "RescaleIntercept")),
            )
            for frame in each
        ]


def _several(values: Any) -> tuple[float, ...]:
    return tuple(map(float, values or ()))


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
