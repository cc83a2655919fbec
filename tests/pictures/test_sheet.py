import numpy as np
import pytest

from genesis_toolkit.pipeline.pictures.sheet import evenly


@pytest.mark.parametrize(("count", "most"), [(1, 5), (5, 5), (7, 3), (20_000, 512), (100, 1)])
def test_cubes_are_taken_evenly(count: int, most: int) -> None:
    taken = evenly(count, most)
    assert len(taken) == min(count, most)
    assert taken[0] == 0
    assert taken[-1] == count - 1 or most == 1
    gaps = np.diff(taken)
    assert (gaps > 0).all()
    assert not len(gaps) or gaps.max() - gaps.min() <= 1
