from dataclasses import replace

import numpy as np
import pytest

from genesis_toolkit.pipeline.practice.anatomy.findings import HEARTS
from genesis_toolkit.pipeline.practice.anatomy.torso import GRID, draw_torso, magnified, project, water


def test_an_enlarged_heart_has_a_wider_shadow(case):
    wide = []
    for heart in HEARTS[0][1], HEARTS[1][0]:  # the largest that is normal, the smallest that is not
        torso = draw_torso(replace(case.torso.patient, heart=heart), np.random.default_rng(0))
        depth = torso.canvas.spacing[1] * water(torso.canvas.hu[30:60]).sum(axis=1)
        inside = np.abs(np.arange(GRID[0]) - GRID[0] / 2) < 0.3 * GRID[0]  # not the wall of the chest
        wide.append((depth[:, inside] > 130).sum() * torso.canvas.spacing[0] / len(depth))
    assert wide[1] > wide[0] + 4, "mm"


def test_rays_sum_what_they_cross(case):
    """A block of water 100 mm deep gives 100 mm; air gives none."""
    torso = case.torso
    canvas, patient = torso.canvas, torso.patient
    hu = np.full(GRID[::-1], -1000, dtype=np.float32)
    assert np.abs(project(canvas, patient, hu, "PA")).max() < 1e-3
    voxels = round(100 / canvas.spacing[1])
    middle = GRID[1] // 2
    hu[44:84, middle - voxels // 2 : middle - voxels // 2 + voxels, 80:144] = 0
    shadow = project(canvas, patient, hu, "PA")
    rows, columns = shadow.shape
    inner = shadow[rows // 2 - 20 : rows // 2 + 20, columns // 2 - 40 : columns // 2 + 40]
    np.testing.assert_allclose(inner, voxels * canvas.spacing[1], rtol=2e-3)
    assert shadow[: rows // 5].max() < 1e-3


def test_what_is_near_the_tube_is_larger(case):
    """By similar triangles: the heart, in front, is smaller PA than AP."""
    patient = case.torso.patient
    front = -30.0
    for view, tube, to_detector in (
        ("PA", 1830, patient.half_depth + front),
        ("AP", 1150, patient.half_depth - front),
    ):
        middle = tube / (tube - patient.half_depth)
        assert magnified(patient, view, front) == pytest.approx(tube / (tube - to_detector) / middle)
        assert magnified(patient, view, 0.0) == 1.0
    assert magnified(patient, "PA", front) < 1 < magnified(patient, "AP", front)


def test_vessels_lie_in_the_lungs(case):
    lung = (case.torso.canvas.depth > 0).any(axis=1)[::-1]
    fine = lung.repeat(3, axis=0).repeat(3, axis=1)
    vessels = case.torso.vessels
    assert vessels[~fine].sum() < 0.02 * vessels.sum()
    assert 0.1 < (vessels[fine] > 0.5).mean() < 0.9
