"""Enhanced CT, whose file holds many frames: the same scan as its export to single slices."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from support.dicom import VOXELS, write_series

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.scans.find import find_scans
from genesis_toolkit.pipeline.scans.frames import ENHANCED
from genesis_toolkit.pipeline.scans.read import read_scan, scan_sha256

UPRIGHT = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]


def group(**values: object) -> Sequence:
    inner = Dataset()
    for name, value in values.items():
        setattr(inner, name, value)
    return Sequence([inner])


def enhanced(path: Path, change: Callable[[Dataset], object] | None = None) -> Path:
    """`VOXELS` as one file of frames out of order, each second with a slope of 2."""
    (first, *_), order = write_series(path.parent / "made"), [3, 0, 5, 1, 4, 2]
    data = pydicom.dcmread(first)
    for file in (path.parent / "made").iterdir():
        file.unlink()
    (path.parent / "made").rmdir()
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope"):
        delattr(data, name)
    del data.RescaleIntercept
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = ENHANCED[0]
    data.NumberOfFrames = len(order)
    data.PixelRepresentation, data.BitsAllocated, data.BitsStored, data.HighBit = 1, 16, 16, 15
    shared, frames, planes = Dataset(), [], []
    shared.PlaneOrientationSequence = group(ImageOrientationPatient=UPRIGHT)
    shared.PixelMeasuresSequence = group(PixelSpacing=[0.75, 0.5], SliceThickness=2)
    for place, z in enumerate(order):
        frame, slope = Dataset(), 1 + place % 2
        frame.PlanePositionSequence = group(ImagePositionPatient=[-10, -20, 2.0 * z])
        # Odd values take an intercept of 1, which makes their halves whole.
        plane = VOXELS[:, :, z].T // slope
        frame.PixelValueTransformationSequence = group(
            RescaleSlope=slope, RescaleIntercept=0, RescaleType="HU"
        )
        frames.append(frame)
        planes.append(plane.astype("<i2"))
    data.SharedFunctionalGroupsSequence = Sequence([shared])
    data.PerFrameFunctionalGroupsSequence = Sequence(frames)
    data.PixelData = np.stack(planes).tobytes()
    if change is not None:
        change(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(action="ignore"):
        data.save_as(path)
    return path


WANTED = VOXELS.copy()
for odd in (0, 1, 2):  # the frames whose slope is 2
    WANTED[:, :, odd] = VOXELS[:, :, odd] // 2 * 2


def test_it_is_the_scan_of_its_single_slices(tmp_path: Path) -> None:
    enhanced(tmp_path / "one" / "ct.dcm")
    write_series(tmp_path / "many", WANTED)
    one, many = read_scan(tmp_path / "one"), read_scan(tmp_path / "many")
    np.testing.assert_array_equal(one.voxels, WANTED)
    np.testing.assert_array_equal(one.voxels, many.voxels)
    assert one.voxels.dtype == many.voxels.dtype
    assert one.geometry == many.geometry
    assert scan_sha256(tmp_path / "one") == one.sha256
    (source,) = find_scans(tmp_path / "one").sources
    assert (source.skip, source.problem) == ("", "")


def test_what_simple_itk_writes_in_one_file_is_read_as_it_reads_it(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.ascontiguousarray(VOXELS.T))
    image.SetSpacing((0.5, 0.75, 2.0))
    image.SetOrigin((-10, -20, 5))
    image.SetMetaData("0008|0060", "CT")
    sitk.WriteImage(image, str(tmp_path / "all.dcm"))
    scan, wanted = read_scan(tmp_path), sitk.ReadImage(str(tmp_path / "all.dcm"))
    np.testing.assert_array_equal(scan.voxels, sitk.GetArrayFromImage(wanted).T)
    assert (scan.geometry.spacing, scan.geometry.origin) == (wanted.GetSpacing(), wanted.GetOrigin())


def frames_of(data: Dataset) -> list[Dataset]:
    return list(data.PerFrameFunctionalGroupsSequence)


def two_phases(data: Dataset) -> None:
    for frame, other in zip(frames_of(data)[::2], frames_of(data)[1::2], strict=True):
        other.PlanePositionSequence = copy.deepcopy(frame.PlanePositionSequence)


def turned(data: Dataset) -> None:
    frames_of(data)[2].PlaneOrientationSequence = group(ImageOrientationPatient=[0, 1, 0, 0, 0, -1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            two_phases,
            "the file is not supported: the 6 frames have 3 positions, so they do not form a single volume",
        ),
        (turned, "the file is not supported: the slices have several orientations"),
        (lambda data: delattr(frames_of(data)[1], "PlanePositionSequence"), "has no position"),
        (
            lambda data: delattr(frames_of(data)[1], "PixelValueTransformationSequence"),
            "no valid slope",
        ),
        (
            lambda data: delattr(data, "PerFrameFunctionalGroupsSequence"),
            "DICOM file have no position",
        ),
        (lambda data: setattr(data, "NumberOfFrames", 7), "has 7 frames but positions for 6"),
        (
            lambda data: setattr(data, "PixelData", data.PixelData[:-2]),
            "is cut short: 142 bytes, but 144 are needed",
        ),
        (
            lambda data: setattr(
                frames_of(data)[0].PlanePositionSequence[0], "ImagePositionPatient", [-10, -20, 20]
            ),
            "slices are missing or irregular",
        ),
    ],
)
def test_what_forms_no_volume_is_refused(
    tmp_path: Path, change: Callable[[Dataset], object], said: str
) -> None:
    enhanced(tmp_path / "one" / "ct.dcm", change)
    with pytest.raises(DataError) as error:
        read_scan(tmp_path / "one")
    assert said in str(error.value)


def test_compressed_frames_are_refused_by_name(tmp_path: Path) -> None:
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEG2000Lossless

    def packed(data: Dataset) -> None:
        data.PixelData = encapsulate([b"\xff\x4f\xff\x51"] * 6)
        data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
        data.file_meta.TransferSyntaxUID = JPEG2000Lossless

    enhanced(tmp_path / "one" / "ct.dcm", packed)
    with pytest.raises(
        DataError, match="not supported: the multi-frame DICOM file is compressed; decompress"
    ):
        read_scan(tmp_path / "one")
