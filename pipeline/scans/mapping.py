"""Maps values without a unit, such as those of MR, to whole numbers, linearly between two window ends.

An end is a number or a percentile of the scan. Percentiles are values that occur in the scan: of its n voxels
in order, the one at rank ceil(P / 100 x n), at least 1. Voxels of value 0, such as the background of a
skull-stripped head, and padding are not counted.
"""

import re
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.hounsfield import Ends, Window
from genesis_toolkit.pipeline.scans.gate import OUTSIDE
from genesis_toolkit.pipeline.scans.geometry import Scan, Voxels
from genesis_toolkit.pipeline.wording import counted

_PERCENTILE = re.compile(r"p(\d+(\.\d+)?)")
_INT16 = np.iinfo(np.int16)
_HIGHEST = 100
_WAYS = "give two numbers such as 0,4000, or percentiles such as p0.5,p99.5"


def checked_ends(ends: tuple[Any, ...]) -> Ends:
    """Return the two ends of a window, numbers or percentiles such as `p99.5`, in the form to be recorded.

    Raises:
        CallError: an end is neither, or the first is not below the second.
    """
    said = f"--window {','.join(map(str, ends))}"
    if len(ends) != 2:
        raise CallError(f"{said} has {counted(len(ends), 'limit')}, but must have two: {_WAYS}.")
    low, high = (_checked_end(end, said) for end in ends)
    ranks = [_share(end) if isinstance(end, str) else None for end in (low, high)]
    both = ranks if None not in ranks else [low, high] if ranks == [None, None] else [0, 1]
    if not both[0] < both[1]:  # type: ignore[operator] # both are numbers
        raise CallError(
            f"{said} is an empty range: the lower limit must be less than the upper limit; {_WAYS}."
        )
    return low, high


def apply_window(scan: Scan, ends: Ends | None, window: Window) -> tuple[Scan, dict[str, Any]]:
    """Map a scan's voxels to a store's window as int16; return it and the entries of its record. Pure.

    Without ends the same scan is returned, with no entries. The record's `window` holds the two values of the
    scan that become the lowest and the highest of the store.

    Raises:
        DataError: there are no percentiles, they are equal, or all voxels become equal; the reason follows
            the scan's name.
    """
    if ends is None:
        return scan, {}
    low, high = window_ends(scan.voxels, ends)
    voxels = mapped(scan.voxels.T, low, high, window).T
    if voxels.min() == voxels.max():
        raise DataError(
            f"--window {_words(ends)} ({low:g} to {high:g} in the image's stored values) maps "
            f"all voxels to {voxels.min()}: choose other limits, or omit the option"
        )
    return replace(scan, voxels=voxels), {"window": [low, high]}


def window_ends(voxels: Voxels, ends: Ends) -> tuple[float, float]:
    """Return the values of a scan at a window's ends; `voxels` as returned by `read_scan`.

    Raises:
        DataError: all voxels are 0, both ends are equal, or one is where values were clipped.
    """
    shares = [_share(end) for end in ends if isinstance(end, str)]
    found = iter(_percentiles(voxels, shares) if shares else ())
    low, high = (float(next(found) if isinstance(end, str) else end) for end in ends)
    said = f"--window {_words(ends)}"
    if not low < high:
        raise DataError(
            f"{said} corresponds to stored values {low:g} to {high:g}, an empty range: choose other limits"
        )
    if min(low, high) <= _INT16.min or max(low, high) >= _INT16.max:
        raise DataError(
            f"{said} corresponds to stored values {low:g} to {high:g}, but values beyond "
            f"{_INT16.min + 1} .. {_INT16.max - 1} are clipped: divide all values by a "
            "constant first"
        )
    return low, high


def mapped(values: NDArray[Any], low: float, high: float, window: Window) -> NDArray[Any]:
    """Map values linearly to the whole numbers of a window, halves to even.

    A value v, clipped to [low, high], becomes window.low + span x (v - low) / (high - low), computed in that
    order in double precision. For whole numbers this is exact: quotients other than halves are farther from
    a half than the rounding error.

    Args:
        values: int16, float32 or float64, any shape with rows along the last axis.
        low, high: the values that become the window's ends.
        window: whole numbers within int16.

    Returns:
        int16, the same shape, C-contiguous.
    """
    out = np.empty(values.shape, np.int16)
    table = _mapped(np.arange(_INT16.min, _INT16.max + 1, dtype=np.float64), low, high, window)
    for plane, room in zip(values, out, strict=True):  # plane by plane, to save memory
        if values.dtype == np.int16:
            np.take(table, plane.astype(np.int32) - _INT16.min, out=room)
        else:
            room[...] = _mapped(plane.astype(np.float64), low, high, window)
    return out


def _mapped(values: NDArray[np.float64], low: float, high: float, window: Window) -> NDArray[np.int16]:
    steps = window.span * (np.clip(values, low, high) - low) / (high - low)
    return (np.rint(steps) + window.low).astype(np.int16)


def _percentiles(voxels: Voxels, shares: list[Fraction]) -> list[float]:
    """Return the values at these shares, 0..1, of the voxels that are neither 0 nor padding."""
    if voxels.dtype != np.int16:
        real = np.sort(voxels[(voxels != 0) & (voxels != OUTSIDE)], axis=None)
        return [float(real[_rank(share, real.size) - 1]) for share in shares]
    counts = np.zeros(_INT16.max - _INT16.min + 1, np.int64)
    for plane in voxels.T:
        counts += np.bincount(plane.astype(np.int32).ravel() - _INT16.min, minlength=counts.size)
    counts[[-_INT16.min, OUTSIDE - _INT16.min]] = 0
    ends = np.cumsum(counts)
    ranks = [_rank(share, int(ends[-1])) for share in shares]
    return [float(np.searchsorted(ends, rank) + _INT16.min) for rank in ranks]


def _rank(share: Fraction, count: int) -> int:
    """Return the rank of a percentile among `count` values, from 1."""
    if not count:
        raise DataError("all voxels are 0, so percentiles cannot be computed: give two numbers with --window")
    return max(1, -(-share.numerator * count // share.denominator))


def _checked_end(end: Any, said: str) -> float | str:
    if isinstance(end, str) and (match := _PERCENTILE.fullmatch(end)):
        if Decimal(match[1]) > _HIGHEST:
            raise CallError(f"{said} is invalid: {end} is not a percentile from p0 to p100; {_WAYS}.")
        return f"p{Decimal(match[1]).normalize():f}"
    if isinstance(end, str | bool):
        raise CallError(f"{said} is invalid: {end!r} is neither a number nor a percentile; {_WAYS}.")
    if not _INT16.min < end < _INT16.max:
        raise CallError(
            f"{said} is invalid: {end} must be from {_INT16.min + 1} to {_INT16.max - 1}; {_WAYS}."
        )
    return int(end) if end == int(end) else float(end)


def _share(end: float | str) -> Fraction:
    return Fraction(str(end)[1:]) / _HIGHEST


def _words(ends: Ends) -> str:
    return ",".join(map(str, ends))
