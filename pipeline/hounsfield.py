"""Hounsfield units: the window that is kept, and the substances a unit names.

A CT scan carries its own annotation: the Hounsfield unit (HU) of a voxel names the substance (METHOD.md
section 1). Values travel as whole numbers inside one window; [0, 1] is made of them once, by the trainer. The
grey levels of X-ray images, which name nothing, have a window as well.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import CallError

#: HU of substances, lowest and highest, from the Hounsfield scale (slides; METHOD.md section 1).
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

#: The unit of values that were mapped from a scan's own.
MAPPED = "mapped intensity"

#: A voxel is tissue from this HU on (METHOD.md section 2, the tissue rule).
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
                f"The HU window {self.low},{self.high} is empty: the first number must be below the second, "
                "as in --hu -1000,1000."
            )

    def __iter__(self) -> Iterator[int]:
        return iter((self.low, self.high))

    @property
    def span(self) -> int:
        """The number of steps from `low` to `high`: what [0, 1] is divided into."""
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


#: The ends of a window of a scan's own values: numbers, or percentiles such as `p99.5`.
Ends = tuple[float | str, float | str]


class HounsfieldValues:
    """What the parameters of scans say of the values that are stored: their unit, and their dtype.

    Attributes:
        hu: the HU window, lowest and highest value kept.
        window: what of each scan's own values is mapped to that window, where they are no HU; else None.
    """

    dtype: ClassVar = np.dtype(np.int16)
    hu: tuple[int, int]
    window: Ends | None

    @property
    def unit(self) -> str:
        """Of the values stored."""
        return "HU" if self.window is None else MAPPED

    @property
    def maps(self) -> bool:
        """Whether each scan's own values are mapped, and the ends recorded."""
        return self.window is not None

    @property
    def mr(self) -> bool:
        """Whether DICOM of MR is taken."""
        return self.maps

    @property
    def store_window(self) -> Window:
        """The whole numbers that may be stored."""
        return Window(*self.hu)

    def check_window(self, checked: Callable[[Any], Ends]) -> None:
        """Check both windows, and put the ends of `window` as `checked` gives them.

        Raises:
            CallError: one is out of range, or both are given.
        """
        if len(self.hu) != 2 or min(self.hu) <= -32768 or max(self.hu) > 32767:
            found = f"--hu {','.join(map(str, self.hu))}"
            raise CallError(f"{found}: it must be two numbers within -32767..32767, as in -1000,1000.")
        window = Window(*self.hu)
        if self.window is None:
            return
        if window != Window():
            raise CallError("--hu is for CT, --window for scans without HU, as of MR: leave one out.")
        object.__setattr__(self, "window", checked(self.window))


class GreyLevels:
    """What the parameters of X-ray images say of the values that are stored, which are all grey levels."""

    unit: ClassVar = "grey level"
    dtype: ClassVar = np.dtype(np.uint8)
    store_window: ClassVar = Window(0, 255)
    mr: ClassVar = False

    @property
    def maps(self) -> bool:
        """Whether values are mapped, and the ends recorded for each image: not of NIH's, which are 8 bits."""
        return bool(getattr(self, "layout", "nih") == "images")
