import numpy as np
import pytest

from genesis_toolkit.pipeline.hounsfield import TISSUE_HU
from genesis_toolkit.pipeline.practice.anatomy.chest import Chest, draw_chest


@pytest.fixture(scope="module")
def large() -> Chest:
    return draw_chest((300, 300, 112), 0, 0)


def test_masks_hold_what_they_say(chests, large):
    for chest in (*chests, large):
        inside = chest.hu[chest.lung]
        assert (inside < -400).mean() > 0.85
        air = (chest.hu < -400) & (chest.hu > -950)
        assert chest.lung[air].mean() > 0.5, "most of what looks like lung is marked"
        assert not (chest.nodule & ~chest.lung).any()
        assert chest.hu[chest.nodule].mean() > inside.mean() + 200
        marked = np.argwhere(chest.nodule)
        claimed = np.zeros(len(marked), dtype=bool)
        for nodule in chest.nodules:
            assert chest.nodule[tuple(np.rint(nodule.centre).astype(int))]
            away = np.linalg.norm((marked - nodule.centre) * chest.spacing, axis=1)
            near = away <= 0.8 * nodule.diameter_mm
            if nodule.attached != "wall" and nodule.diameter_mm > 3 * max(chest.spacing):
                volume = near.sum() * np.prod(chest.spacing)
                assert volume == pytest.approx(np.pi / 6 * nodule.diameter_mm**3, rel=0.35)
            claimed |= near
        assert claimed.all(), "nothing is marked away from the nodules"


def test_values_are_those_of_a_scanner(chests, large):
    for chest in (*chests, large):
        assert chest.hu.dtype == np.int16
        inside = chest.hu[chest.hu != chest.padding] if chest.padding is not None else chest.hu
        assert inside.min() >= -1024
        assert inside.max() <= 3071
        assert chest.hu[0, 0].max() <= (-900 if chest.padding is None else chest.padding)


def test_substances_are_plausible(large):
    hu = large.hu
    assert -900 <= np.median(hu[large.lung]) <= -650
    assert 0.08 < large.lung.mean() < 0.3
    assert 0.008 < (hu > 250).mean() < 0.05
    assert hu.max() > 900, "cortical bone"
    soft = ((hu > 0) & (hu < 100)).mean()
    fat = ((hu > -150) & (hu < -60)).mean()
    assert 0.1 < soft < 0.4
    assert 0.02 < fat < 0.3
    vessels = (hu[large.lung] > TISSUE_HU).mean()
    assert 0.01 < vessels < 0.12
    assert (hu[large.lung] < -940).mean() > 1e-4, "airways"


@pytest.mark.parametrize("shape", [(32, 32, 32), (48, 40, 33), (40, 64, 32)])
def test_the_smallest_shapes_hold_a_body_with_lungs(shape):
    chest = draw_chest(shape, 0, 0)
    assert chest.hu.shape == chest.lung.shape == shape
    assert 0.03 < chest.lung.mean() < 0.3
    assert np.median(chest.hu[chest.lung]) < -400
    assert (chest.hu > -200).mean() > 0.1
    assert (chest.hu > 250).any()
    assert len(chest.tempting) >= 4


def test_the_published_rule_finds_cubes(large):
    tissue = large.hu >= TISSUE_HU
    following = np.zeros_like(tissue)
    following[:, :, :-1] = tissue[:, :, 1:]
    score = np.where(tissue, 1.0, np.where(following, 0.5, 0.0))
    # Every third corner of the rule's range, x and y 100 to X-165, z 30 to Z-66.
    valid = [
        score[x : x + 64, y : y + 64, z : z + 32].mean() <= 0.15
        for x in range(100, 136, 3)
        for y in range(100, 136, 3)
        for z in range(30, 47, 3)
    ]
    assert sum(valid) * 27 > 2000
    x, y, z = np.argwhere(np.reshape(valid, (12, 12, 6)))[0] * 3 + (100, 100, 30)
    assert large.lung[x : x + 64, y : y + 64, z : z + 32].mean() > 0.6, "lung, not the air around the body"
