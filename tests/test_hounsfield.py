import numpy as np
import pytest

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.hounsfield import Window


def test_clipping_keeps_whole_numbers_and_rounds_halves_to_even() -> None:
    window = Window()
    assert window.clip(np.array([-3024, -1000, 5, 1000, 3071], np.int16)).tolist() == [
        -1000,
        -1000,
        5,
        1000,
        1000,
    ]
    assert window.clip(np.array([-0.5, 0.5, 1.5, 999.5, 1e9])).tolist() == [0, 0, 2, 1000, 1000]
    assert window.clip(np.array([7], np.int16)).dtype == np.int16
    assert window.span == 2000


@pytest.mark.parametrize(("low", "high"), [(1000, -1000), (5, 5)])
def test_an_empty_window_is_refused(low: int, high: int) -> None:
    with pytest.raises(CallError, match=f"{low},{high} is an empty range: the lower limit must be"):
        Window(low, high)
