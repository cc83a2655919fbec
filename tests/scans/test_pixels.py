"""The pixels of DICOM slices: every syntax, sign and width, and no value but the one that was written.

The expected HU are those that the test wrote, or stored values as pydicom decodes them, which the product
asks for headers alone.
"""

import os
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from support.dicom import VOXELS, rewrite, write_series, write_slice

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.pipeline.scans.read import read_geometry, read_scan

SYNTAXES = [
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
]
PLANE_BYTES = VOXELS.shape[0] * VOXELS.shape[1] * 2


def refused(folder: Path) -> str:
    """Why a series is refused; the header alone does not have to say so."""
    with pytest.raises(DataError) as refusal:
        read_scan(folder)
    return str(refusal.value)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
def test_every_syntax_gives_what_was_written(tmp_path: Path, syntax: UID) -> None:
    for path in write_series(tmp_path):
        rewrite(path, syntax=syntax)
    np.testing.assert_array_equal(read_scan(tmp_path).voxels, VOXELS)


@pytest.mark.parametrize("missing", [2, PLANE_BYTES // 2])
@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("which", [[2], range(6)], ids=["one", "all"])
def test_pixels_that_are_too_few(tmp_path: Path, syntax: UID, missing: int, which: list[int]) -> None:
    files = write_series(tmp_path)
    for number, path in enumerate(files):
        short = (lambda one: setattr(one, "PixelData", one.PixelData[:-missing])) if number in which else None
        rewrite(path, short, syntax)
    first = min(files[number].name for number in which) if len(which) == 1 else files[0].name
    said = f"slice {first} is cut short: {PLANE_BYTES - missing} bytes, but {PLANE_BYTES} are needed"
    assert refused(tmp_path) == said


def test_a_byte_that_is_missing_at_the_end_and_one_that_may_be(tmp_path: Path) -> None:
    files = write_series(tmp_path / "a")
    whole = files[0].read_bytes()
    assert whole.endswith((VOXELS[-1, -1, 0] + 1024).astype("<i2").tobytes())
    files[0].write_bytes(whole[:-1])
    assert f"{PLANE_BYTES - 1} bytes, but {PLANE_BYTES} are needed" in refused(tmp_path / "a")
    odd = np.arange(9 * 7 * 4, dtype=np.uint8).reshape(9, 7, 4)
    for k in range(4):  # 63 bytes a slice, which a pad byte makes even
        path = write_slice(tmp_path / "b" / f"{k}.dcm", odd[:, :, k], (0, 0, k), t0028_1052="-100")
        rewrite(path, lambda one, k=k: setattr(one, "PixelData", odd[:, :, k].tobytes(order="F") + b"\0"))
        rewrite(path, lambda one: setattr(one, "RescaleIntercept", -100))
        written = path.read_bytes()
        path.write_bytes(written[:-1])
        assert len(written) % 2 == 0
    np.testing.assert_array_equal(read_scan(tmp_path / "b").voxels, odd.astype(int) - 100)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    ("allocated", "stored", "high"), [(16, 12, 11), (16, 16, 15), (16, 12, 15), (8, 8, 7), (32, 20, 19)]
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_bits_that_count_are_those_of_pydicom(
    tmp_path: Path, signed: bool, allocated: int, stored: int, high: int, order: str
) -> None:
    """Others, which overlays once lay in, are not looked at."""
    if order == ">" and allocated == 8:
        pytest.skip("two bytes lie in a word there")
    rng = np.random.default_rng(allocated + stored)
    raw = rng.integers(0, 2**allocated, (6, 8, 9), np.uint64).astype(f"u{allocated // 8}")
    expected = []
    for k, path in enumerate(write_series(tmp_path)):

        def change(one: Dataset, k: int = k) -> None:
            one.BitsAllocated, one.BitsStored, one.HighBit = allocated, stored, high
            one.PixelRepresentation, one.RescaleIntercept = int(signed), -1024
            one["PixelData"].VR = "OB" if allocated == 8 else "OW"
            one.PixelData = raw[k].astype(raw.dtype.newbyteorder(order)).tobytes()

        rewrite(path, change)
        if order == ">":
            one = pydicom.dcmread(path)
            one.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
            pydicom.dcmwrite(path, one, implicit_vr=False, little_endian=False)
        with warnings.catch_warnings(action="ignore"):
            one = pydicom.dcmread(path)
            pixels = one.pixel_array if high == stored - 1 else np.array([])
        if not pixels.size:  # pydicom takes no bits from the middle: by hand
            pixels = (raw[k].astype(np.int64) >> (high + 1 - stored)) % 2**stored
            pixels = np.where(pixels >= 2 ** (stored - 1), pixels - 2**stored, pixels) if signed else pixels
        expected.append(pixels.astype(np.int64) - 1024)
    found = read_scan(tmp_path).voxels
    np.testing.assert_array_equal(found, np.array(expected).T.clip(-32768, 32767))


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("which", [[3], range(6)], ids=["one", "all"])
def test_monochrome1_is_not_inverted(tmp_path: Path, syntax: UID, signed: int, which: list[int]) -> None:
    for number, path in enumerate(write_series(tmp_path)):

        def change(one: Dataset, number: int = number) -> None:
            one.PixelRepresentation = signed
            if number in which:
                one.PhotometricInterpretation = "MONOCHROME1"

        rewrite(path, change, syntax)
    np.testing.assert_array_equal(read_scan(tmp_path).voxels, VOXELS)


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000", "RLE"])
def test_compressed_slices(tmp_path: Path, compressor: str) -> None:
    voxels = smooth(4)
    for k in range(4):
        path = write_slice(tmp_path / f"{k}.dcm", voxels[:, :, k], (0, 0, 2 * k))
        if compressor == "RLE":
            rewrite(path, lambda one: one.compress(RLELossless))
        else:
            compress_in_place(path, compressor)
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(read_scan(tmp_path).voxels, voxels)
    rewrite(path, lambda one: setattr(one, "PhotometricInterpretation", "MONOCHROME1"))
    assert refused(tmp_path).startswith(
        "the file is not supported: slice 3.dcm is compressed and MONOCHROME1;"
    )


def compress_in_place(path: Path, compressor: str) -> None:
    """Have GDCM compress the pixels of a slice."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    image = sitk.GetImageFromArray(sitk.GetArrayFromImage(reader.Execute()).astype(np.int16))
    for key in reader.GetMetaDataKeys():
        if key not in ("0028|0010", "0028|0011"):
            image.SetMetaData(key, reader.GetMetaData(key))
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetUseCompression(True)
    writer.SetCompressor(compressor)
    writer.SetFileName(str(path))
    writer.Execute(image)


def smooth(count: int) -> NDArray[np.int16]:
    """Slices [x, y, z] that GDCM compresses well."""
    noise = np.random.default_rng(5).integers(0, 30, (64, 64, count))
    slope = 3 * np.add.outer(np.arange(64), np.arange(64))[:, :, np.newaxis] - 1000
    return (slope + noise + 10 * np.arange(count)).astype(np.int16)


def test_what_a_decoder_complains_of_is_damage(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A byte that turns in a JPEG is seldom noticed by anyone, but where libjpeg says so it is no scan."""
    voxels = smooth(2)
    for k in range(2):
        compress_in_place(write_slice(tmp_path / f"{k}.dcm", voxels[:, :, k], (0, 0, 2 * k)), "JPEG")
    path = tmp_path / "1.dcm"
    whole = path.read_bytes()
    np.testing.assert_array_equal(read_scan(tmp_path).voxels, voxels)
    end = whole.rindex(b"\xff\xd9")
    path.write_bytes(whole[: end - 200] + b"\xff\xd9" * 101 + whole[end + 2 :])
    sitk.ReadImage(str(path))
    assert "Corrupt JPEG data" in capfd.readouterr().err
    assert refused(tmp_path).startswith("the file is damaged: decompressing slice 1.dcm gave an error (Corru")
    assert capfd.readouterr().err == ""
    os.write(2, b"what others say is heard\n")
    assert capfd.readouterr().err == "what others say is heard\n"


def drop(*names: str) -> object:
    return lambda one: [delattr(one, name) for name in names]


def lut(one: Dataset) -> None:
    del one.RescaleSlope, one.RescaleIntercept
    one.ModalityLUTSequence = [Dataset()]


def as_float(one: Dataset) -> None:
    one.FloatPixelData = np.frombuffer(one.PixelData, "<i2").astype("<f4").tobytes()
    one.BitsAllocated = 32
    del one.PixelData


def private(one: Dataset) -> None:
    one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = "1.3.12.2.1107.5.9.1"


REFUSED = {
    "no slope": (drop("RescaleSlope"), "not supported: slice 004.dcm has no valid slope"),
    "no intercept": (
        drop("RescaleIntercept"),
        "not supported: slice 004.dcm has no valid intercept",
    ),
    "neither": (
        drop("RescaleSlope", "RescaleIntercept"),
        "not supported: slice 004.dcm has no valid slope",
    ),
    "empty": (
        lambda one: setattr(one, "RescaleSlope", None),
        "not supported: slice 004.dcm has no valid slope",
    ),
    "slope 0": (
        lambda one: setattr(one, "RescaleSlope", 0),
        "not supported: slice 004.dcm has slope 0 and",
    ),
    "table": (lut, "not supported: slice 004.dcm has a Modality LUT;"),
    "float": (as_float, "not supported: slice 004.dcm holds FloatPixelData;"),
    "private": (private, "not supported: slice 004.dcm is of the private SOP class 1.3.12.2.1107.5.9.1;"),
    "no pixels": (drop("PixelData"), "damaged: slice 004.dcm holds no pixels;"),
    "palette": (
        lambda one: setattr(one, "PhotometricInterpretation", "PALETTE COLOR"),
        "not supported: slice 004.dcm has the photometric interpretation PALETTE COLOR;",
    ),
    "1 bit": (
        lambda one: setattr(one, "BitsAllocated", 1),
        "not supported: slice 004.dcm stores 16 of 1 bits",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_slices_that_are_refused_say_which_is_true(tmp_path: Path, kind: str) -> None:
    change, reason = REFUSED[kind]
    for number, path in enumerate(write_series(tmp_path)):
        rewrite(path, change if number == 2 else None)  # type: ignore[arg-type]
    said = refused(tmp_path)
    assert said.startswith(f"the file is {reason}")
    assert ("damaged" in said) == reason.startswith("damaged")
    with pytest.raises(DataError, match=r"^the file is (damaged|not supported)"):
        read_geometry(tmp_path)


def test_decimal_commas(tmp_path: Path) -> None:
    """In a spacing they can only be points; in a slope they are refused, as programs differ."""
    for path in write_series(tmp_path / "spacing"):
        written = path.read_bytes()
        assert written.count(b".75\\.5") == 1
        path.write_bytes(written.replace(b".75\\.5", b",75\\,5"))
    scan = read_scan(tmp_path / "spacing")
    assert scan.geometry.spacing == pytest.approx((0.5, 0.75, 2))
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    slope = b"\x28\0\x53\x10\x02\0\0\0" + b"1 "
    for path in write_series(tmp_path / "slope"):
        written = path.read_bytes()
        assert slope in written
        path.write_bytes(written.replace(slope, slope[:4] + b"\x04\0\0\0" + b"1,0 "))
    assert "has no valid slope" in refused(tmp_path / "slope")


@pytest.mark.parametrize("syntax", SYNTAXES[1:3], ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize(("first", "last"), [(4000, None), (3000, 3500), (3500, 3000), (30000, 32767)])
def test_padding_above_the_window_is_its_low_end(
    tmp_path: Path, syntax: UID, signed: int, first: int, last: int | None
) -> None:
    expected = VOXELS.copy()
    expected[:7, 0, :] = -1000
    for path in write_series(tmp_path):

        def change(one: Dataset) -> None:
            pixels = np.frombuffer(one.PixelData, "<i2").copy()
            pixels[:4], pixels[4:7] = first, last or first
            one.PixelData, one.PixelRepresentation = pixels.tobytes(), signed
            kind = "SS" if signed else "US"
            one.add_new(0x00280120, kind, first)
            if last is not None:
                one.add_new(0x00280121, kind, last)

        rewrite(path, change, syntax)
    found = read_scan(tmp_path).voxels
    np.testing.assert_array_equal(Window().clip(found), expected.clip(-1000, 1000))
    np.testing.assert_array_equal(Window(-2000, 3000).clip(found[:7, 0, :]), -2000)
    np.testing.assert_array_equal(found[:, 1:], VOXELS[:, 1:])


def test_padding_below_the_window_stays(tmp_path: Path) -> None:
    for path in write_series(tmp_path):

        def change(one: Dataset) -> None:
            pixels = np.frombuffer(one.PixelData, "<i2").copy()
            pixels[:7] = -2000
            one.PixelData = pixels.tobytes()
            one.add_new(0x00280120, "US", 63536)  # as many scanners write -2000

        rewrite(path, change)
    found = read_scan(tmp_path).voxels
    assert set(found[:7, 0].ravel().tolist()) == {-3024}
    np.testing.assert_array_equal(found[:, 1:], VOXELS[:, 1:])


@pytest.mark.parametrize(
    "element", [b"\x20\0\x00\x40\0\0\x04\0abcd", b"\x20\0\x00\x40\0\0\0\0"], ids=["text", "empty"]
)
def test_a_type_of_two_nuls(tmp_path: Path, element: bytes) -> None:
    for path in write_series(tmp_path):
        rewrite(path, syntax=ExplicitVRLittleEndian)
        written = path.read_bytes()
        at = written.index(b"\x28\0\x02\0US")
        path.write_bytes(written[:at] + element + written[at:])
        assert sitk.ReadImage(str(path)).GetSize() == (9, 8, 1)
    np.testing.assert_array_equal(read_scan(tmp_path).voxels, VOXELS)


def test_implicit_data_said_explicit(tmp_path: Path) -> None:
    """SimpleITK reads it as well, but takes seconds for each slice."""
    for path in write_series(tmp_path):
        written = path.read_bytes()
        head = written.index(b"1.2.840.10008.1.2\0")
        length = int.from_bytes(written[140:144], "little")
        explicit = b"1.2.840.10008.1.2.1\0"
        made = written[: head - 2] + len(explicit).to_bytes(2, "little") + explicit + written[head + 18 :]
        path.write_bytes(made[:140] + (length + 2).to_bytes(4, "little") + made[144:])
        with warnings.catch_warnings(action="ignore"):
            one = pydicom.dcmread(path)
        assert one.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert (one.Rows, one.Columns) == (8, 9)
    np.testing.assert_array_equal(read_scan(tmp_path).voxels, VOXELS)


def test_float64_is_not_needed_for_whole_numbers(tmp_path: Path) -> None:
    write_series(tmp_path)
    assert read_scan(tmp_path).voxels.dtype == np.int16


@pytest.mark.parametrize(("step", "start"), [(0.625, 0.0), (1.25, -130.37), (0.3, 7.0)])
def test_positions_written_to_a_tenth_of_a_mm(tmp_path: Path, step: float, start: float) -> None:
    voxels = np.arange(6 * 5 * 14, dtype=np.int16).reshape(6, 5, 14)
    heights = tuple(round(start + step * k, 1) for k in range(14))
    write_series(tmp_path / "whole", voxels, heights)
    scan = read_scan(tmp_path / "whole")
    np.testing.assert_array_equal(scan.voxels, voxels)
    assert scan.geometry.spacing[2] == pytest.approx((heights[-1] - heights[0]) / 13)
    for gone in (1, 7, 12):
        kept = [k for k in range(14) if k != gone]
        write_series(tmp_path / f"{gone}", voxels[:, :, kept], tuple(heights[k] for k in kept))
        assert "slices are missing or irregular" in refused(tmp_path / f"{gone}")


def test_slices_that_are_irregular_stay_refused(tmp_path: Path) -> None:
    voxels = np.arange(6 * 5 * 6, dtype=np.int16).reshape(6, 5, 6)
    irregular = [(0, 5, 10, 15, 21, 26), (0, 0.6, 1.2, 1.8, 2.5, 3.2), (0, 1, 2, 3, 4, 5.2)]
    for number, heights in enumerate(irregular):
        write_series(tmp_path / f"{number}", voxels, heights)
        assert "slices are missing or irregular" in refused(tmp_path / f"{number}")
