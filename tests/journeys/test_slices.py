"""Patches of slices: the tissue rule in 2D against brute force, the cuts, the store that comes of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.folders import GOLDEN
from support.scans import SMALL, lungs, write_scan

from genesis_toolkit.pipeline.cubes.cut import cut_cubes, read_turned, uniform
from genesis_toolkit.pipeline.cubes.explain import explain_scan
from genesis_toolkit.pipeline.cubes.extract import extract_cubes
from genesis_toolkit.pipeline.cubes.parameters import ExtractParameters
from genesis_toolkit.pipeline.cubes.rule import (
    CubeRule,
    Plane,
    count_scores,
    passing_corners,
    tissue_score,
    too_small,
)
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.pipeline.scans.geometry import Geometry, Scan
from genesis_toolkit.pipeline.store.open import open_cubes

Pair = tuple[int, int]
Triple = tuple[int, int, int]
PLANES = st.sampled_from(get_args(Plane))
SPACING = (0.7, 0.7, 1.5)


def patch_of(voxels: NDArray[np.generic], corner: Triple, size: Pair, plane: str) -> NDArray[np.generic]:
    """The pixels of a patch: the slice first, then the window in it."""
    x, y, z = corner
    a, b = size
    if plane == "axial":
        return voxels[:, :, z][x : x + a, y : y + b]
    if plane == "coronal":
        return voxels[:, y, :][x : x + a, z : z + b]
    return voxels[x, :, :][y : y + a, z : z + b]


def not_lung(pixels: NDArray[np.generic], low: int = -1000, high: int = 1000) -> NDArray[np.bool_]:
    """Our rule: pixels from -150 HU on, for real numbers scaled to [0, 1] first, and pixels below -950 HU."""
    values = pixels.astype(np.float64)
    tissue = values >= -150
    if pixels.dtype != np.int16:
        tissue = (values - low) / (high - low) >= (-150.0 - low) / (high - low)
    return tissue | (values < -950)


def around_both_bounds(seed: int, shape: Triple) -> NDArray[np.float64]:
    """Values next to -150 and next to -950, in equal parts."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < 0.5, rng.uniform(-200, -100, shape), rng.uniform(-975, -925, shape))


def scan_of(voxels: NDArray[np.int16] | NDArray[np.float32]) -> Scan:
    x, y, z = voxels.shape
    identity = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    return Scan(np.asfortranarray(voxels), Geometry((x, y, z), SPACING, (0.0, 0.0, 0.0), identity), "abc")


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 1000),
    plane=PLANES,
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    border=st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)),
    most=st.floats(0, 1) | st.sampled_from([0.7, 0.5, 0.0]),
    beyond=st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)),
    dtype=st.sampled_from([np.int16, np.float32]),
    window=st.sampled_from([(-1000, 1000), (-1024, 3071), (-151, -149)]),
)
def test_every_decision_is_that_of_brute_force(
    seed: int,
    plane: Plane,
    size: Pair,
    border: Triple,
    most: float,
    beyond: Triple,
    dtype: type,
    window: Pair,
) -> None:
    rule = CubeRule(size, border, most, plane=plane)
    x, y, z = (least + more for least, more in zip(rule.least_shape, beyond, strict=True))
    voxels = np.asfortranarray(around_both_bounds(seed, (x, y, z)).astype(dtype))
    corners = passing_corners(voxels, rule, Window(*window))
    # every place where the patch lies in the scan and clear of the border is a candidate, and no other
    a, b = size
    edges = {"axial": (a, b, 1), "coronal": (a, 1, b), "sagittal": (1, a, b)}[plane]
    ends = [n - width - edge + 1 for n, width, edge in zip((x, y, z), border, edges, strict=True)]
    assert corners.first == border
    assert corners.passing.shape == tuple(np.subtract(ends, border))
    by_score = count_scores(voxels, rule, Window(*window))
    for place in np.ndindex(*corners.passing.shape):
        corner = (place[0] + border[0], place[1] + border[1], place[2] + border[2])
        counted = int(not_lung(patch_of(voxels, corner, size, plane), *window).sum())
        assert corners.passing[place] == (counted <= most * (a * b))
        found = tissue_score(voxels, np.array(corner), size, Window(*window), plane)
        assert found == pytest.approx(counted / (a * b), abs=1e-12)
        by_score[2 * counted] -= 1
    assert not by_score.any()
    np.testing.assert_array_equal(corners.passing.sum(axis=(0, 1)), corners.by_slice)


@pytest.mark.parametrize("plane", get_args(Plane))
def test_the_bound_itself_passes_and_a_pixel_more_does_not(plane: Plane) -> None:
    for air, tissue in np.ndindex(13, 13):
        pixels = np.full(25, -950, np.int16)
        pixels[air:] = -151
        pixels[:air] = -951
        pixels[25 - tissue :] = -150
        across = {"axial": 2, "coronal": 1, "sagittal": 0}[plane]
        voxels = np.asfortranarray(np.expand_dims(pixels.reshape(5, 5), across))
        rule = CubeRule((5, 5), (0, 0, 0), 0.64, plane=plane)
        assert passing_corners(voxels, rule).count == (air + tissue <= 16)


def test_every_int16_value_is_judged() -> None:
    values = np.arange(-32768, 32768).astype(np.int16).reshape(256, 256, 1)
    corners = passing_corners(np.asfortranarray(values), CubeRule((1, 1), (0, 0, 0), 0.0))
    np.testing.assert_array_equal(corners.passing, (values >= -950) & (values < -150))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_real_numbers_are_judged_before_they_are_rounded(dtype: type) -> None:
    near = np.array([-2000, -950.4, -950.001, -950, -949.6, -150.4, -150.001, -150, -149.6], dtype)
    voxels = np.asfortranarray(near.reshape(9, 1, 1))
    lung = [False] * 3 + [True] * 4 + [False] * 2
    for window in (Window(), Window(-900, 100)):  # what is clipped afterwards changes nothing
        corners = passing_corners(voxels, CubeRule((1, 1), (0, 0, 0), 0.0), window)
        assert corners.passing.ravel().tolist() == lung
        scores = [tissue_score(voxels, np.array([x, 0, 0]), (1, 1), window, "axial") for x in range(9)]
        assert scores == [0.0 if passes else 1.0 for passes in lung]


def test_slices_before_the_patient_do_not_pass() -> None:
    """Coronal slices of a body in air, inside a round field of view: only those through the lungs pass."""
    x, y, _ = np.ogrid[-20:20, -20:20, :30]
    body, lung = x**2 + (1.5 * y) ** 2 < 18**2, (np.abs(x) > 2) & (x**2 + (1.8 * y) ** 2 < 15**2)
    air = np.random.default_rng(0).normal(-1000, 15, (40, 40, 30))
    voxels = np.where(lung, -800, np.where(body, 40, np.where(x**2 + y**2 < 20**2, air, -2000)))
    corners = passing_corners(
        np.asfortranarray(voxels.astype(np.int16)), CubeRule((24, 24), (0, 0, 0), plane="coronal")
    )
    share = corners.passing.mean(axis=(0, 2))
    assert share[20] == 1.0
    assert not share[:10].any()
    assert not share[31:].any()


def test_the_slices_beside_change_nothing() -> None:
    voxels = np.full((6, 6, 5), 100, np.int16, order="F")
    voxels[:, :, 2] = -800
    corners = passing_corners(voxels, CubeRule((3, 3), (0, 0, 0), 0.0))
    assert corners.by_slice.tolist() == [0, 0, 16, 0, 0]


@settings(deadline=None, max_examples=25)
@given(
    plane=PLANES,
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 99),
    real=st.booleans(),
)
def test_patches_are_pixels_of_their_slices(plane: Plane, size: Pair, seed: int, real: bool) -> None:
    voxels = lungs(seed, (14, 13, 12))
    values = voxels + np.float32(0.4) if real else voxels
    parameters = ExtractParameters(
        cubes_per_scan=8, size=size, plane=plane, border=(1, 2, 1), max_tissue=0.7, hu=(-900, 100)
    )
    corners, tissue, patches = cut_cubes(scan_of(values), uniform("a", 3), parameters)
    assert len(corners) == len(np.unique(corners, axis=0)) == len(tissue) == len(patches)
    for corner, score, patch in zip(corners.tolist(), tissue, patches, strict=True):
        pixels = patch_of(values, corner, size, plane)
        assert patch.flags.c_contiguous
        assert patch.dtype == parameters.dtype == np.int16
        np.testing.assert_array_equal(patch, np.rint(np.clip(pixels, -900, 100)))
        assert score == pytest.approx(not_lung(pixels).mean())


def test_what_is_left_out_is_put_in() -> None:
    slices = ExtractParameters(size=(224, 224))
    assert (slices.plane, slices.max_tissue, slices.box) == ("axial", 0.7, (224, 224, 1))
    assert (slices.unit, slices.dtype) == ("HU", np.dtype(np.int16))
    assert ExtractParameters(size=(20, 30), plane="coronal").box == (20, 1, 30)
    assert ExtractParameters(size=(20, 30), plane="sagittal").box == (1, 20, 30)
    assert ExtractParameters(size=(20, 30), max_tissue=0.15).max_tissue == 0.15
    cubes = ExtractParameters()
    assert (cubes.plane, cubes.max_tissue, cubes.box) == (None, 0.15, (64, 64, 32))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"size": (9,)},
            "--size 9 is invalid: it must be three edges .* two for a patch of a slice, for example 224,224",
        ),
        ({"size": (9, 9, 9, 9)}, "--size 9,9,9,9"),
        ({"size": (9, 0)}, "--size 9,0"),
        ({"plane": "coronal"}, "--plane coronal is for patches .* --size 64,64,32 .* omit --plane"),
        (
            {"size": (9, 9), "plane": "oblique"},
            "--plane oblique is unknown: it must be one of axial, coronal, sagittal",
        ),
        ({"size": (9, 9), "sampler": "official"}, "--sampler official .* omit --sampler"),
        ({"size": (9, 9), "border": (1, 1)}, "--border 1,1 is invalid: it must be three numbers"),
        ({"size": (9, 9), "min_tissue": 0.25}, "--min-tissue 0.25 applies only to cubes.* Omit --min-tissue"),
        ({"size": (9, 9), "max_tissue": 1.5}, "--max-tissue 1.5"),
    ],
)
def test_wrong_calls_are_refused_with_the_value(values: dict[str, object], words: str) -> None:
    with pytest.raises(CallError, match=words):
        ExtractParameters(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("plane", "least"),
    [("axial", (424, 424, 61)), ("coronal", (424, 201, 284)), ("sagittal", (201, 424, 284))],
)
def test_a_scan_that_is_too_small_is_told_what_it_needs(plane: Plane, least: Triple) -> None:
    def by(edges: Sequence[int]) -> str:
        return " x ".join(map(str, edges))

    rule = CubeRule((224, 224), plane=plane)
    assert rule.least_shape == least
    assert too_small(least, rule) is None
    for axis in range(3):
        shape = list(least)
        shape[axis] -= 1
        said = too_small((shape[0], shape[1], shape[2]), rule)
        assert (
            said
            == f"{shape[0]} x {shape[1]} x {shape[2]} voxels, {least[0]} x {least[1]} x {least[2]} needed"
        )
        (shortage,) = explain_scan(np.zeros(shape, np.int16, order="F"), SPACING, rule).shortages
        assert (shortage.axis, shortage.found, shortage.needed) == ("xyz"[axis], least[axis] - 1, least[axis])
        widest = (100, 100, 30)[axis] - 1
        assert shortage.largest_border == widest


def test_the_smallest_scan_has_one_place() -> None:
    for plane in get_args(Plane):
        rule = CubeRule((5, 4), (2, 3, 1), 1.0, plane=plane)
        assert passing_corners(np.zeros(rule.least_shape, np.int16, order="F"), rule).passing.size == 1


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 99),
    shape=st.tuples(st.integers(3, 10), st.integers(3, 10), st.integers(3, 10)),
    plane=PLANES,
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    border=st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)),
)
def test_the_explanation_counts_patches(
    seed: int, shape: Triple, plane: Plane, size: Pair, border: Triple
) -> None:
    rule = CubeRule(size, border, plane=plane)
    voxels = np.asfortranarray(around_both_bounds(seed, shape).astype(np.int16))
    found = explain_scan(voxels, SPACING, rule)
    counts = {"whole": 0, "inside": 0, "dense": 0}
    for x, y, z in np.ndindex(shape):
        far = np.add((x, y, z), rule.box)
        if (far > shape).any():
            continue
        counts["whole"] += 1
        if (np.array((x, y, z)) < border).any() or (far > np.subtract(shape, border)).any():
            continue
        counts["inside"] += 1
        counted = int(not_lung(patch_of(voxels, (x, y, z), size, plane)).sum())
        counts["dense"] += counted > 0.7 * rule.voxels
    assert (found.places_whole, found.candidates) == (counts["whole"], counts["inside"])
    assert (found.lost_to_max_tissue, found.lost_to_min_tissue) == (counts["dense"], 0)
    assert found.places_whole - sum(found.lost_to_border) == found.candidates
    assert (found.size, found.plane, found.box) == (size, plane, rule.box)
    json.dumps(vars(found), default=vars)


@pytest.mark.parametrize("plane", get_args(Plane))
def test_a_store_holds_patches_of_resampled_scans(luna16: Path, tmp_path: Path, plane: Plane) -> None:
    parameters = ExtractParameters(
        cubes_per_scan=5, size=(14, 12), plane=plane, border=(1, 1, 1), spacing=(1.0, 1.0, 1.0)
    )
    store = extract_cubes(luna16, tmp_path / "slices.zarr", parameters, workers=1).store
    assert store.attributes["parameters"]["plane"] == plane
    assert store.attributes["parameters"]["max_tissue"] == 0.7
    assert store.attributes["size"] == [14, 12]
    assert (store.window, store.attributes["unit"]) == (Window(-1000, 1000), "HU")
    assert store.scans.status.tolist() == ["used"] * 3
    assert store.table.corner.shape == (15, 3)
    pixels = np.empty((14, 12), np.int16)
    for number, (row, corner) in enumerate(zip(store.table.scan, store.table.corner, strict=True)):
        scan = read_turned(luna16 / store.scans.path[row], parameters)
        assert scan.geometry.spacing == (1.0, 1.0, 1.0)
        store.cubes.read(number, pixels)
        found = patch_of(scan.voxels, tuple(corner.tolist()), (14, 12), plane)
        np.testing.assert_array_equal(pixels, np.clip(found, -1000, 1000))
        assert store.table.tissue[number] == pytest.approx(not_lung(found).mean())
    again = extract_cubes(luna16, tmp_path / "slices.zarr", parameters, workers=1)
    assert again.done_before


def test_another_plane_is_another_job(luna16: Path, tmp_path: Path) -> None:
    parameters = ExtractParameters(size=(16, 16), border=(2, 2, 2), cubes_per_scan=2)
    extract_cubes(luna16, tmp_path / "slices.zarr", parameters, workers=1)
    other = ExtractParameters(size=(16, 16), border=(2, 2, 2), cubes_per_scan=2, plane="coronal")
    with pytest.raises(CallError, match="plane"):
        extract_cubes(luna16, tmp_path / "slices.zarr", other, workers=1)


def test_scans_without_a_place_are_told_why(tmp_path: Path) -> None:
    write_scan(tmp_path / "scans" / "dense.mhd", np.full((24, 24, 26), 40, np.int16))
    write_scan(tmp_path / "scans" / "small.mhd", lungs(0, (24, 19, 26)))
    parameters = ExtractParameters(size=(16, 16), border=(2, 2, 2))
    with pytest.raises(DataError) as error:
        extract_cubes(tmp_path / "scans", tmp_path / "slices.zarr", parameters, workers=1)
    assert "no position of a cube has a tissue score of 0.7 or less" in str(error.value)
    assert "24 x 19 x 26 voxels, 20 x 20 x 5 needed" in str(error.value)


def test_stores_of_cubes_say_what_they_always_said(luna16: Path, tmp_path: Path) -> None:
    golden = open_cubes(GOLDEN / "cubes.zarr").attributes
    store = extract_cubes(luna16, tmp_path / "cubes.zarr", SMALL, workers=1).store
    assert list(store.attributes["parameters"]) == list(golden["parameters"])


@pytest.mark.full
def test_patches_of_a_real_scan_show_lung(real_data: Path, tmp_path: Path) -> None:
    parameters = ExtractParameters(size=(224, 224), subsets=(0,))
    store = extract_cubes(real_data / "luna16", tmp_path / "slices.zarr", parameters, workers=1).store
    assert len(store) == 32
    patches = np.empty((32, 224, 224), np.int16)
    store.cubes.read_many(np.arange(32), patches)
    lung = ((patches >= -950) & (patches < -500)).mean(axis=(1, 2))
    assert lung.min() > 0.25, "each shows lung"
    assert (patches < -950).mean(axis=(1, 2)).max() < 0.5, "none shows mostly the air around the patient"
