"""DICOM files of many frames, such as enhanced CT: each frame as a slice with a place and a scale of its own.

Source: DICOM PS3.3 (multi-frame functional groups module).
"""

import warnings
from dataclasses import replace
from typing import Any

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.scans.dicom import QUIET, Slice
from genesis_toolkit.pipeline.scans.gate import damaged, unsupported

#: The SOP classes of enhanced CT and of what was converted to it.
ENHANCED = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")

_SINGLE = "export it as single slices"


def unfolded(slices: tuple[Slice, ...]) -> tuple[Slice, ...]:
    """The slices, those of files of many frames one by one.

    Raises:
        DataError: frames that are compressed, do not say where they lie, or form several volumes.
    """
    found: list[Slice] = []
    for one in slices:
        found += _frames(one) if one.frames > 1 or one.pixels.sop_class in ENHANCED else [one]
    if len(found) > len(slices):
        places = {tuple(round(edge, 2) for edge in one.position) for one in found}
        if len(places) < len(found):
            why = f"its {len(found)} frames lie at {len(places)} places, so they form no single volume"
            raise unsupported(why, _SINGLE)
    return tuple(found)


def _frames(one: Slice) -> list[Slice]:
    if one.pixels.length is None:
        raise unsupported("it is a compressed DICOM file of many frames", f"decompress it, or {_SINGLE}")
    try:
        said = _said_of_frames(one)
    except DataError:
        raise
    except Exception:  # pydicom lets through whatever damaged bytes lead to
        raise damaged(f"what {one.path.name} says of its frames cannot be read") from None
    if len(said) != one.frames:
        raise damaged(f"{one.path.name} has {one.frames} frames and says where {len(said)} lie")
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
    """Position, orientation and spacing of rows and columns, slope and intercept of each frame."""
    import pydicom

    with QUIET, warnings.catch_warnings(action="ignore"):
        header = pydicom.dcmread(one.path, stop_before_pixels=True, force=True)
        each, shared = (
            header.get("PerFrameFunctionalGroupsSequence"),
            header.get("SharedFunctionalGroupsSequence"),
        )
        if not each:
            raise unsupported("it is a DICOM file of many frames that do not say where they lie", _SINGLE)

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
