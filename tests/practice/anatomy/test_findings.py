from dataclasses import replace

import numpy as np
import pytest

from genesis_toolkit.pipeline.practice.anatomy.findings import LABELS
from genesis_toolkit.pipeline.practice.anatomy.radiograph import Case, take

SIDE = 256


def change(case: Case, label: str) -> np.ndarray:
    """What a finding changes in a picture: grey levels, (rows, columns), without what changes everywhere."""
    healthy, ill = (take(case, 0, (SIDE, SIDE), labels=labels) for labels in ((), (label,)))
    assert healthy.view == ill.view
    assert ill.labels == (label,)
    difference = ill.grey.astype(float) - healthy.grey
    difference -= np.median(difference)
    assert np.abs(difference).max() > 8, "it can be seen"
    return np.where(np.abs(difference) > 5, difference, 0.0)


@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize("label", ["Consolidation", "Effusion", "Mass", "Nodule", "Pneumothorax"])
def test_a_finding_is_where_it_belongs(case, label, side):
    course = replace(case.course, sides=dict.fromkeys(LABELS, side))
    changed = change(replace(case, course=course), label)
    # The patient's left is to the right of the picture.
    mine = changed[:, SIDE // 2 :] if side > 0 else changed[:, : SIDE // 2]
    weight = np.abs(mine).sum()
    assert weight > 0.9 * np.abs(changed).sum()
    if label == "Pneumothorax":
        assert -mine[mine < 0].sum() > 0.7 * weight, "air is dark"
        assert np.abs(mine[: SIDE // 2]).sum() > 0.6 * weight, "and rises"
    else:
        assert mine[mine > 0].sum() > 0.95 * weight
    if label == "Effusion":
        assert np.abs(mine[SIDE // 2 :]).sum() > 0.95 * weight, "fluid runs down"


def test_infiltration_is_fainter_than_consolidation(case):
    faint, dense = change(case, "Infiltration"), change(case, "Consolidation")
    assert (faint >= 0).mean() > 0.99
    assert np.percentile(faint[faint > 0], 95) < 0.7 * np.percentile(dense[dense > 0], 95)


@pytest.mark.parametrize(("label", "diameter"), [("Nodule", 11 + 0.6 * 17), ("Mass", 33 + 0.6 * 29)])
def test_a_nodule_is_as_large_as_was_drawn_and_no_larger_than_30_mm(case, label, diameter):
    seen = change(case, label) > 0
    width, height = take(case, 0, (64, 64), labels=()).field
    area = seen.sum() * (width / SIDE) * (height / SIDE)
    assert 2 * np.sqrt(area / np.pi) == pytest.approx(diameter, rel=0.25)
    assert (diameter <= 30) == (label == "Nodule")
