"""Turning and resampling a scan: nibabel as the other truth, and every voxel keeps its place."""

from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from numpy.typing import NDArray
from support.scans import lungs

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.scans.geometry import Geometry, Scan, reorient, reoriented, resample, resampled

CODES = [
    "".join(pair[side] for pair, side in zip(order, sides, strict=True))
    for order in permutations(("LR", "PA", "SI"))
    for sides in product((0, 1), repeat=3)
]
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
FLIPPED = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
TURNED = (0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
OBLIQUE = tuple(
    float(cosine)
    for cosine in np.linalg.qr([[0.9, 0.3, 0.1], [-0.3, 0.2, 0.95], [0.2, -0.9, 0.3]])[0].ravel()
)
DIRECTIONS = pytest.mark.parametrize(
    "direction", [IDENTITY, FLIPPED, TURNED, OBLIQUE], ids=["identity", "flipped", "turned", "oblique"]
)


def scan_of(direction: tuple[float, ...], shape: tuple[int, int, int] = (9, 8, 7)) -> Scan:
    voxels = np.asfortranarray(lungs(8, shape))
    return Scan(voxels, Geometry(shape, (0.7, 0.8, 2.5), (-100.5, 20.25, 30.0), direction), "abc")


def place(geometry: Geometry, index: tuple[int, ...]) -> list[float]:
    """Where a voxel lies, mm."""
    turn = np.reshape(geometry.direction, (3, 3))
    return (np.array(geometry.origin) + turn @ (np.array(geometry.spacing) * index)).tolist()


def affine_of(geometry: Geometry) -> NDArray[np.float64]:
    """The matrix that nibabel knows a grid by: x to the right, y to the front."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(geometry.direction, (3, 3)) * geometry.spacing
    affine[:3, 3] = geometry.origin
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


@DIRECTIONS
@pytest.mark.parametrize("code", CODES)
def test_turning_is_what_nibabel_does(code: str, direction: tuple[float, ...]) -> None:
    scan = scan_of(direction)
    turned = reorient(scan, code)
    affine = affine_of(scan.geometry)
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(code))
    voxels = apply_orientation(scan.voxels, turn)
    np.testing.assert_array_equal(turned.voxels, voxels)
    assert turned.geometry.shape == voxels.shape
    expected = affine @ inv_ornt_aff(turn, scan.voxels.shape)
    np.testing.assert_allclose(affine_of(turned.geometry), expected, atol=1e-9)
    assert turned.voxels.flags.f_contiguous
    assert turned.sha256 == "abc"


@DIRECTIONS
@pytest.mark.parametrize("code", CODES)
def test_every_voxel_keeps_its_place(code: str, direction: tuple[float, ...]) -> None:
    scan = scan_of(direction, (4, 3, 2))
    scan.voxels[...] = np.arange(24).reshape(4, 3, 2)  # no value twice
    turned = reorient(scan, code)
    for index in np.ndindex(4, 3, 2):
        (there,) = np.argwhere(turned.voxels == scan.voxels[index]).tolist()
        assert place(turned.geometry, there) == pytest.approx(place(scan.geometry, index), abs=1e-9)


@DIRECTIONS
def test_turning_there_and_back_changes_nothing(direction: tuple[float, ...]) -> None:
    scan = scan_of(direction)
    native = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(direction)
    assert reorient(scan, native) is scan
    for code in CODES:
        back = reorient(reorient(scan, code), native.lower())
        np.testing.assert_array_equal(back.voxels, scan.voxels)
        np.testing.assert_allclose(back.geometry.origin, scan.geometry.origin, atol=1e-9)
        assert back.geometry.direction == scan.geometry.direction


@pytest.mark.parametrize("code", ["", "LP", "LPSS", "LPX", "LRS", "LPL"])
def test_codes_that_are_none(code: str) -> None:
    with pytest.raises(CallError, match=f"--orient {code} is invalid: it must .* L/R, P/A and S/I"):
        reoriented(scan_of(IDENTITY).geometry, code)


@pytest.mark.parametrize("direction", [(0.0,) * 9, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0)])
def test_axes_that_span_no_space_are_not_turned(direction: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="the axes lie in one plane"):
        reorient(scan_of(direction), "RAI")


@DIRECTIONS
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.35, 0.8, 5.0), (0.7, 1.9, 0.9)])
def test_resampling_is_linear_interpolation(
    spacing: tuple[float, float, float], direction: tuple[float, ...]
) -> None:
    scan = scan_of(direction, (12, 11, 40))
    new = resample(scan, spacing)
    assert new.geometry == resampled(scan.geometry, spacing)
    assert new.geometry.shape == new.voxels.shape
    assert new.voxels.dtype == np.int16
    assert new.voxels.flags.f_contiguous
    for old, edge, old_mm, mm in zip(
        scan.voxels.shape, new.voxels.shape, scan.geometry.spacing, spacing, strict=True
    ):
        assert (edge - 1) * mm <= (old - 1) * old_mm + 1e-4 < edge * mm + 1e-3
    truth = scan.voxels.astype(np.float64)
    for axis, (edge, mm) in enumerate(zip(new.voxels.shape, spacing, strict=True)):
        at = np.minimum(np.arange(edge) * mm / scan.geometry.spacing[axis], truth.shape[axis] - 1)
        below = np.minimum(at.astype(int), truth.shape[axis] - 2)
        share = np.expand_dims(at - below, [other for other in range(3) if other != axis])
        truth = truth.take(below, axis) * (1 - share) + truth.take(below + 1, axis) * share
    assert np.abs(new.voxels - truth).max() <= 0.5 + 1e-3  # rounding, and float32 before it


@DIRECTIONS
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_real_numbers_are_turned_and_resampled_without_rounding(
    dtype: type, direction: tuple[float, ...]
) -> None:
    whole = scan_of(direction, (12, 11, 10))
    rng = np.random.default_rng(2)
    real = np.asfortranarray((whole.voxels + rng.uniform(-0.5, 0.5, whole.voxels.shape)).astype(dtype))
    scan = Scan(real, whole.geometry, "abc")
    turned = reorient(scan, "RAI")
    assert turned.voxels.dtype == dtype
    turn = ornt_transform(io_orientation(affine_of(scan.geometry)), axcodes2ornt("RAI"))
    np.testing.assert_array_equal(turned.voxels, apply_orientation(real, turn))
    spacing = (0.7, 0.5, 2.5)
    new = resample(scan, spacing)
    assert new.voxels.dtype == dtype
    assert new.voxels.flags.f_contiguous
    truth = real.astype(np.float64)
    at = np.arange(new.geometry.shape[1]) * 0.5 / 0.8
    below = at.astype(int)
    share = (at - below)[None, :, None]
    truth = truth[:, below] * (1 - share) + truth[:, np.minimum(below + 1, 10)] * share
    np.testing.assert_allclose(new.voxels, truth, rtol=0, atol=1e-3 if dtype == np.float32 else 1e-9)


def test_a_spacing_that_it_has_already_changes_nothing() -> None:
    scan = scan_of(OBLIQUE)
    assert resample(scan, scan.geometry.spacing) is scan
    once = resample(scan, (0.35, 0.4, 1.25))
    np.testing.assert_array_equal(once.voxels[::2, ::2, ::2], scan.voxels)  # old voxels are met again
    assert once.geometry.shape == (17, 15, 13)


@pytest.mark.parametrize("spacing", [(0.0, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, 1.0, float("nan"))])
def test_spacings_that_are_none(spacing: tuple[float, float, float]) -> None:
    with pytest.raises(
        CallError, match=r"--spacing .*: all three numbers must be above 0 mm, for example 1,1,1"
    ):
        resample(scan_of(IDENTITY), spacing)


@DIRECTIONS
def test_a_bright_voxel_keeps_its_place(direction: tuple[float, ...]) -> None:
    scan = scan_of(direction, (20, 22, 18))
    scan.voxels[:] = -1000
    scan.voxels[13, 4, 9] = 3000
    before = place(scan.geometry, (13, 4, 9))
    for code in CODES[::7]:
        turned = reorient(scan, code)
        index = np.unravel_index(turned.voxels.argmax(), turned.voxels.shape)
        np.testing.assert_allclose(place(turned.geometry, index), before, atol=1e-9)
        new = resample(turned, (0.6, 0.6, 0.6))
        index = np.unravel_index(new.voxels.argmax(), new.voxels.shape)
        assert (
            np.linalg.norm(np.subtract(place(new.geometry, index), before)) <= 0.5 * np.sqrt(3) * 0.6 + 1e-9
        )
