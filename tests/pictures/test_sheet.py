import dataclasses
from pathlib import Path

import numpy as np
import pytest

from genesis_toolkit.pipeline.pairs.degrade import degrade_cubes
from genesis_toolkit.pipeline.pictures.sheet import contact_rows, evenly
from genesis_toolkit.pipeline.store.open import open_cubes


@pytest.mark.parametrize(("count", "most"), [(1, 5), (5, 5), (7, 3), (20_000, 512), (100, 1)])
def test_cubes_are_taken_evenly(count: int, most: int) -> None:
    taken = evenly(count, most)
    assert len(taken) == min(count, most)
    assert taken[0] == 0
    assert taken[-1] == count - 1 or most == 1
    gaps = np.diff(taken)
    assert (gaps > 0).all()
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_slices_have_the_aspect_of_their_scan_and_its_name(cube_store: Path, tmp_path: Path) -> None:
    store = open_cubes(cube_store)
    spacing = np.array([[0.5, 1.0, 3.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    scans = dataclasses.replace(store.scans, spacing=spacing)
    store = dataclasses.replace(store, scans=scans)
    _, (first, *_, last) = contact_rows(store, 2)
    assert [picture.aspect for picture in first] == [2.0, 6.0, 3.0]
    assert [picture.aspect for picture in last] == [1.0, 1.0, 1.0]  # not known
    assert first[0].label.split("\n")[0] == "cube 0 of subset0/1.2.3.mhd"
    pairs = degrade_cubes(cube_store, tmp_path / "p.zarr", workers=1).store
    pairs = dataclasses.replace(pairs, scans=scans)
    _, (row, *_) = contact_rows(pairs, 1)
    assert {picture.aspect for picture in row} == {2.0}
    assert row[0].label == "cube 0 of subset0/1.2.3.mhd"
