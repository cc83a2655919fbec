"""Hounsfield units: the window of values that a store keeps, and typical units of substances.

A CT scan carries its own annotation: the Hounsfield unit (HU) of a voxel identifies the substance (METHOD.md
section 1). Values are kept as whole numbers inside one window; only the trainer scales them to [0, 1]. The
grey levels of X-ray images, which identify no substance, have a window as well.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import CallError

#: Lowest and highest HU of substances on the Hounsfield scale (slides; METHOD.md section 1).
SUBSTANCES: dict[str, tuple[int, int]] = {
    "air": (-1000, -1000),
    "lung": (-700, -600),
    "fat": (-120, -90),
    "water": (0, 0),
    "lymph nodes": (10, 20),
    "kidney": (20, 45),
    "muscle": (35, 55),
    "liver": (54, 66),
    "bone, cancellous": (300, 400),
    "bone, cortical": (1800, 1900),
}

#: The unit of values that were mapped from a scan's own intensities.
MAPPED = "mapped intensity"

#: Lowest HU that counts as tissue (METHOD.md section 2, the tissue rule).
TISSUE_HU = -150


@dataclass(frozen=True)
class Window:
    """The whole numbers from `low` to `high`, both included, that a store may hold.

    Values outside are clipped. The default is the published HU window (METHOD.md section 2).

    Raises:
        CallError: `low` is not below `high`.
    """

    low: int = -1000
    high: int = 1000

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise CallError(
                f"--hu {self.low},{self.high} is an empty range: the lower limit must be less "
                "than the upper limit; the default is -1000,1000."
            )

    def __iter__(self) -> Iterator[int]:
        return iter((self.low, self.high))

    @property
    def span(self) -> int:
        """Return the number of steps from `low` to `high`, the divisor that scales values to [0, 1]."""
        return self.high - self.low

    def clip(self, values: NDArray[Any], dtype: type[np.integer[Any]] = np.int16) -> NDArray[Any]:
        """Clip to the window and round to whole numbers, halves to even.

        Args:
            values: any shape, any real dtype without NaN, in HU (or grey levels).
            dtype: an integer type that holds `low` and `high`.

        Returns:
            `dtype`, the same shape, whole numbers in [low, high].
        """
        clipped = np.clip(values, self.low, self.high)
        if clipped.dtype.kind == "f":
            np.rint(clipped, out=clipped)
        whole: NDArray[Any] = clipped.astype(dtype)
        return whole


#: The ends of a window in a scan's own values: numbers, or percentiles such as `p99.5`.
Ends = tuple[float | str, float | str]


class HounsfieldValues:
    """The parameters that decide which values of a scan are stored, in which unit and dtype.

    Attributes:
        hu: the HU window, lowest and highest value kept.
        window: for scans without HU, the range of their own values that is mapped to `hu`; else None.
    """

    dtype: ClassVar = np.dtype(np.int16)
    hu: tuple[int, int]
    window: Ends | None

    @property
    def unit(self) -> str:
        """Return the unit of the stored values."""
        return "HU" if self.window is None else MAPPED

    @property
    def maps(self) -> bool:
        """Return whether each scan's own values are mapped, and the ends recorded."""
        return self.window is not None

    @property
    def mr(self) -> bool:
        """Return whether DICOM series of MR are accepted."""
        return self.maps

    @property
    def store_window(self) -> Window:
        """Return the whole numbers that may be stored."""
        return Window(*self.hu)

    def check_window(self, checked: Callable[[Any], Ends]) -> None:
        """Check both windows, and store the ends of `window` as `checked` returns them.

        Raises:
            CallError: a window is out of range, or both are given.
        """
        if len(self.hu) != 2 or min(self.hu) <= -32768 or max(self.hu) > 32767:
            found = f"--hu {','.join(map(str, self.hu))}"
            raise CallError(
                f"{found} is invalid: it must be two numbers from -32767 to 32767, for example -1000,1000."
            )
        window = Window(*self.hu)
        if self.window is None:
            return
        if window != Window():
            raise CallError("--hu is for CT and --window for scans without HU, such as MR: give only one.")
        object.__setattr__(self, "window", checked(self.window))


class GreyLevels:
    """The stored values of X-ray images, which are all grey levels."""

    unit: ClassVar = "grey level"
    dtype: ClassVar = np.dtype(np.uint8)
    store_window: ClassVar = Window(0, 255)
    mr: ClassVar = False

    @property
    def maps(self) -> bool:
        """Return whether values are mapped and the ends recorded per image: not for NIH's 8-bit images."""
        return bool(getattr(self, "layout", "nih") == "images")
