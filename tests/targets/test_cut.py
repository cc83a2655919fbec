"""World <-> voxels, held against SimpleITK on grids that are flipped, turned and stretched."""

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.scans.geometry import Geometry
from genesis_toolkit.pipeline.targets.cut import inside, nearest_voxels, same_grid, to_voxels, to_world

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def rotation(quaternion: tuple[float, ...], flips: tuple[int, ...]) -> tuple[float, ...]:
    """Direction cosines, row by row, each column turned round where its flip is -1."""
    w, x, y, z = np.array(quaternion) / np.linalg.norm(quaternion)
    matrix = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return tuple((np.array(matrix) * flips).ravel().tolist())


coordinates = st.floats(-500, 500).map(lambda value: round(value, 3))
geometries = st.builds(
    Geometry,
    shape=st.tuples(*[st.integers(1, 40)] * 3),
    spacing=st.tuples(*[st.floats(0.1, 5.0).map(lambda value: round(value, 3))] * 3),
    origin=st.tuples(*[coordinates] * 3),
    direction=st.builds(
        rotation,
        # in thousandths: SimpleITK's own inverse comes out as NaN where a cosine is 4e-313
        st.tuples(*[st.integers(-1000, 1000)] * 4).filter(lambda q: np.linalg.norm(q) > 100),
        st.tuples(*[st.sampled_from([-1, 1])] * 3),
    ),
)


def image_of(geometry: Geometry) -> sitk.Image:
    image = sitk.Image(*geometry.shape, sitk.sitkUInt8)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    return image


def test_the_nodule_of_luna16_falls_on_its_voxel():
    # The header of subset2's ...179049373636438705059720603192.mhd and its nodule in annotations.csv.
    scan = Geometry((512, 512, 16), (0.703125, 0.703125, 2.5), (-166.0, -171.699997, -132.5), IDENTITY)
    nodule = [(56.208405, 86.343413, -115.867579)]
    assert nearest_voxels(nodule, scan).tolist() == [[316, 367, 7]]
    assert nearest_voxels([(56.2, 86.3, -115.9)], scan).tolist() == [[316, 367, 7]]
    assert image_of(scan).TransformPhysicalPointToIndex(nodule[0]) == (316, 367, 7)


@given(geometries, st.lists(st.tuples(*[st.floats(-60, 60)] * 3), min_size=1, max_size=5))
@settings(max_examples=150, deadline=None)
def test_there_and_back(geometry, voxels):
    assert np.allclose(to_voxels(to_world(voxels, geometry), geometry), voxels, atol=1e-7)
    whole = np.floor(voxels).astype(np.int64)
    assert (nearest_voxels(to_world(whole, geometry), geometry) == whole).all()


@given(geometries, st.tuples(*[coordinates] * 3))
@settings(max_examples=150, deadline=None)
def test_places_are_those_of_simpleitk(geometry, place):
    image = image_of(geometry)
    between = image.TransformPhysicalPointToContinuousIndex(place)
    assert np.allclose(to_voxels([place], geometry)[0], between, rtol=1e-9, atol=1e-7)
    if np.all(np.abs(np.mod(between, 1) - 0.5) > 1e-6):  # on a half, rounding errors decide
        assert tuple(nearest_voxels([place], geometry)[0]) == image.TransformPhysicalPointToIndex(place)
    voxel = tuple(edge - 1 for edge in geometry.shape)
    assert np.allclose(to_world([voxel], geometry)[0], image.TransformIndexToPhysicalPoint(voxel), atol=1e-9)


def test_halves_go_up():
    grid = Geometry((9, 9, 9), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), IDENTITY)
    places = [(-0.5, 0.5, 1.5), (2.5, 3.4999, -0.50001)]
    found = nearest_voxels(places, grid)
    assert found.tolist() == [[0, 1, 2], [3, 3, -1]]
    assert [image_of(grid).TransformPhysicalPointToIndex(place) for place in places] == [
        tuple(row) for row in found.tolist()
    ]


def test_inside_is_from_the_first_voxel_to_the_last():
    voxels = np.array([[0, 0, 0], [3, 4, 5], [4, 4, 5], [0, -1, 0], [0, 0, 6]])
    assert inside(voxels, (4, 5, 6)).tolist() == [True, True, False, False, False]
    far = nearest_voxels([(1e300, 0, 0)], Geometry((4, 5, 6), (1, 1, 1), (0, 0, 0), IDENTITY))
    assert not inside(far, (4, 5, 6)).any()


def test_a_grid_is_the_same_to_a_hundredth_of_a_voxel():
    one = Geometry((20, 20, 20), (0.7, 0.7, 2.0), (-100.0, 5.0, 9.0), IDENTITY)
    assert same_grid(one, Geometry(one.shape, one.spacing, (-100.006, 5.0, 9.0), IDENTITY))
    others = [
        Geometry(one.shape, one.spacing, (-100.008, 5.0, 9.0), IDENTITY),
        Geometry(one.shape, (0.7, 0.7, 2.001), one.origin, IDENTITY),
        Geometry((20, 20, 19), one.spacing, one.origin, IDENTITY),
        # Turned over in place: the same box in the world, its voxels the other way round.
        Geometry(one.shape, one.spacing, (-100.0 + 19 * 0.7, 5.0, 9.0), (-1.0, *IDENTITY[1:])),
    ]
    assert not any(same_grid(one, other) for other in others)


def test_directions_in_one_plane_are_refused():
    flat = Geometry((2, 2, 2), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 1.0, 0, 0, 0, 0, 1.0))
    with pytest.raises(DataError, match="in one plane"):
        to_voxels([(0.0, 0.0, 0.0)], flat)
