"""Values mapped by a window: against exact fractions, voxel by voxel; percentiles counted by hand."""

from fractions import Fraction
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.pipeline.scans.geometry import Geometry, Scan
from genesis_toolkit.pipeline.scans.mapping import apply_window, checked_ends, mapped, window_ends

WHOLE = st.integers(-32767, 32767)
GEOMETRY = Geometry((2, 2, 2), (1, 1, 1), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))


def one_by_one(value: int, low: int, high: int, window: Window) -> int:
    """The definition, exactly; `round` takes halves to even."""
    clipped = min(max(value, low), high)
    return window.low + round(Fraction(window.span * (clipped - low), high - low))


@given(st.lists(WHOLE, min_size=8, max_size=8), WHOLE, WHOLE, st.sampled_from([Window(), Window(0, 255)]))
def test_whole_numbers_are_mapped_exactly(values: list[int], a: int, b: int, window: Window) -> None:
    low, high = min(a, b), max(a, b) + (a == b)
    voxels = np.array(values, np.int16).reshape(2, 2, 2)
    wanted = [one_by_one(value, low, high, window) for value in values]
    assert mapped(voxels, low, high, window).ravel().tolist() == wanted
    real = mapped(voxels.astype(np.float64), low, high, window)
    assert real.ravel().tolist() == wanted  # by another way through the code
    assert real.dtype == np.int16


@pytest.mark.parametrize("span", [3, 16, 2000, 4000, 4001, 65534])
def test_halves_go_to_the_even_number(span: int) -> None:
    """Every value of a window whose steps fall on halves, and of windows that have none."""
    low = -32767 if span == 65534 else -5
    voxels = np.arange(low, low + span + 1, dtype=np.int16).reshape(1, -1)
    wanted = [one_by_one(value, low, low + span, Window()) for value in voxels[0].tolist()]
    assert mapped(voxels, low, low + span, Window())[0].tolist() == wanted


@given(
    st.lists(st.floats(-1000, 1000, width=32), min_size=4, max_size=4), st.floats(-900, 0), st.floats(1, 900)
)
def test_real_numbers_are_mapped_in_double_precision(values: list[float], low: float, high: float) -> None:
    wanted = [round(2000 * (min(max(v, low), high) - low) / (high - low)) - 1000 for v in values]
    assert mapped(np.array([values], np.float32), low, high, Window())[0].tolist() == wanted


@given(
    st.lists(st.integers(-50, 50), min_size=8, max_size=8),
    st.sampled_from(["0", "0.5", "12.5", "25", "50"]),
    st.sampled_from(["62.5", "99", "99.5", "100"]),
)
def test_percentiles_are_values_of_the_scan_that_are_not_0(values: list[int], low: str, high: str) -> None:
    voxels = np.array(values, np.int16).reshape(2, 2, 2)
    ordered = sorted(value for value in values if value)
    picked = [ordered[max(1, ceil(Fraction(p) / 100 * len(ordered))) - 1] for p in (low, high) if ordered]
    for dtype in (np.int16, np.float32):
        if not ordered or picked[0] == picked[1]:
            with pytest.raises(DataError, match=r"all voxels are 0|an empty range"):
                window_ends(voxels.astype(dtype), (f"p{low}", f"p{high}"))
        else:
            assert window_ends(voxels.astype(dtype), (f"p{low}", f"p{high}")) == tuple(picked)


def test_padding_is_no_part_of_the_percentiles() -> None:
    voxels = np.array([-32768] * 5 + [0] * 5 + [3, 5], np.int16).reshape(3, 2, 2)
    assert window_ends(voxels, ("p0", "p100")) == (3, 5)
    assert window_ends(voxels, (0, "p100")) == (0, 5)


def scan_of(voxels: NDArray[np.int16]) -> Scan:
    return Scan(voxels, GEOMETRY, "0" * 64)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize(
    ("value", "ends", "why"),
    [
        (0, ("p0.5", "p99.5"), "all voxels are 0"),
        (7, ("p0.5", "p99.5"), "stored values 7 to 7, an empty"),
        (7, (0, 100), "maps all voxels to -860"),
        (7, (10, 100), "maps all voxels to -1000"),
    ],
)
def test_a_constant_or_empty_scan_is_refused(
    dtype: type[np.generic], value: int, ends: tuple[float | str, float | str], why: str
) -> None:
    with pytest.raises(DataError, match=why):
        apply_window(scan_of(np.full((2, 2, 2), value, dtype)), ends, Window())  # type: ignore[arg-type]


def test_an_end_where_values_are_cut_off_is_refused() -> None:
    voxels = np.full((2, 2, 2), 32767, np.int16)
    voxels[0, 0, 0] = 5
    with pytest.raises(DataError, match="are clipped: divide"):
        window_ends(voxels, (0, "p99"))
    assert window_ends(voxels, (0, 3000)) == (0, 3000)  # nothing of it is lost


def test_without_a_window_a_scan_is_as_it_is() -> None:
    scan = scan_of(np.arange(8, dtype=np.int16).reshape(2, 2, 2))
    assert apply_window(scan, None, Window()) == (scan, {})


@pytest.mark.parametrize(
    ("ends", "kept"),
    [((0, 4000.0), (0, 4000)), ((0.5, "p99.50"), (0.5, "p99.5")), (("p0.5", "p100"), ("p0.5", "p100"))],
)
def test_ends_are_recorded_in_one_way(ends: tuple[float | str, ...], kept: tuple[float | str, ...]) -> None:
    assert checked_ends(ends) == kept


@pytest.mark.parametrize(
    ("ends", "why"),
    [
        ((0,), "has 1 limit, but must have two"),
        ((5, 5), "is an empty range"),
        (("p9", "p1"), "is an empty range"),
        (("p1", "p101"), "not a percentile"),
        (("a", 3), "neither a number nor a percentile"),
        (("p-1", "p3"), "neither"),
        ((0, 40000), "must be from -32767 to 32766"),
        ((float("nan"), 3), "must be from"),
    ],
)
def test_wrong_ends_are_refused_with_the_way_out(ends: tuple[float | str, ...], why: str) -> None:
    with pytest.raises(CallError, match=why) as caught:
        checked_ends(ends)
    assert str(caught.value).startswith("--window ")
    assert "0,4000, or percentiles such as p0.5,p99.5" in str(caught.value)
