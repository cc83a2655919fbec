"""X-ray images of any kind: what becomes of their pixels, against Pillow, pydicom and fractions."""

import subprocess
import sys
from fractions import Fraction
from math import ceil, floor
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.pixels import apply_windowing
from support.radiographs import chest, write_cr, write_picture

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.scans.image_folder import find_image_folder
from genesis_toolkit.pipeline.scans.radiographs import picture_of, picture_size, read_radiograph, read_values


def exactly(values: NDArray[Any], low: Fraction | int, high: Fraction | int) -> NDArray[np.uint8]:
    """Values mapped to 0..255, halves to even, one by one."""
    clipped = (min(max(Fraction(int(value)), low), high) for value in values.ravel())
    grey = [round(255 * (value - low) / (high - low)) for value in clipped]
    return np.array(grey, np.uint8).reshape(values.shape)


def test_eight_bits_stay_what_they_are(tmp_path: Path) -> None:
    pixels = chest(1).astype(np.uint8)
    for suffix in ("png", "PNG"):
        found = read_radiograph(write_picture(tmp_path / f"a.{suffix}", pixels, format="PNG"))
        np.testing.assert_array_equal(found.pixels, pixels.T)
        assert (found.window, found.inverted) == ((0, 255), False)


def test_grey_jpegs_are_decoded_as_pillow_does(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "a.jpeg", chest(2).astype(np.uint8), quality=90)
    np.testing.assert_array_equal(read_radiograph(path).pixels, np.asarray(Image.open(path)).T)
    assert picture_size(path, "images") == (20, 24)


def test_colour_becomes_grey_by_its_luma(tmp_path: Path) -> None:
    """Of PNG exactly as Pillow does; decoders of JPEG differ by a few levels where colours meet."""
    rng = np.random.default_rng(5)
    colours = rng.integers(0, 256, (6, 5, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    png = write_picture(tmp_path / "a.png", colours)
    np.testing.assert_array_equal(read_radiograph(png).pixels, np.asarray(Image.open(png).convert("L")).T)
    jpeg = write_picture(tmp_path / "a.jpg", colours, quality=100, subsampling=0)
    wanted = np.asarray(Image.open(jpeg).convert("L")).T.astype(int)
    assert np.abs(read_radiograph(jpeg).pixels - wanted).max() <= 2
    assert np.ptp(wanted) > 100


def test_sixteen_bits_are_mapped_by_their_own_range(tmp_path: Path) -> None:
    pixels = chest(3, most=4000) + np.uint16(50)
    path = write_picture(tmp_path / "a.png", pixels)
    found, low, high = read_radiograph(path), int(pixels.min()), int(pixels.max())
    np.testing.assert_array_equal(found.pixels, exactly(pixels, low, high).T)
    assert found.window == (low, high)
    np.testing.assert_array_equal(read_values(path), pixels.T)
    assert picture_size(path, "images") == (20, 24)
    with pytest.raises(DataError, match="16 bits per channel, grey; it must have 8 bits, grey"):
        picture_of(path, "nih")


def test_dicom_without_a_window_is_mapped_by_its_range(tmp_path: Path) -> None:
    pixels = chest(4, most=3000) + np.uint16(7)
    found = read_radiograph(write_cr(tmp_path / "a.dcm", pixels))
    np.testing.assert_array_equal(found.pixels, exactly(pixels, pixels.min(), pixels.max()).T)
    assert (found.window, found.inverted) == ((pixels.min(), pixels.max()), False)


@pytest.mark.parametrize("modality", ["CR", "DX"])
@pytest.mark.parametrize(
    ("window", "low", "high"),
    [
        ({"WindowCenter": 2000, "WindowWidth": 1001}, Fraction(2999, 2), Fraction(4999 - 0, 2)),
        ({"WindowCenter": [2000, 9], "WindowWidth": [1001, 9]}, Fraction(2999, 2), Fraction(4999, 2)),
        ({"WindowCenter": 2000, "WindowWidth": 1000, "VOILUTFunction": "LINEAR_EXACT"}, 1500, 2500),
    ],
)
def test_a_window_maps_and_monochrome1_inverts(
    tmp_path: Path, modality: str, window: dict[str, Any], low: Fraction, high: Fraction
) -> None:
    pixels = chest(6, most=4000)
    for kind, inverted in (("MONOCHROME2", False), ("MONOCHROME1", True)):
        path = write_cr(tmp_path / kind, pixels, modality, PhotometricInterpretation=kind, **window)
        found, wanted = read_radiograph(path), exactly(pixels, Fraction(low), Fraction(high))
        np.testing.assert_array_equal(found.pixels, (255 - wanted if inverted else wanted).T)
        assert (found.window, found.inverted) == ((low, high), inverted)
        assert picture_size(path, "images") == (20, 24)
    told = pydicom.dcmread(path)
    other = apply_windowing(pixels, told) / (2**12 - 1) * 255  # in the range of what is stored
    assert np.abs(other - wanted).max() <= 1


def test_slope_and_intercept_come_before_the_window(tmp_path: Path) -> None:
    pixels = chest(7, most=3000)
    scaled = {"RescaleSlope": "2", "RescaleIntercept": "-100"}
    path = write_cr(tmp_path / "a.dcm", pixels, WindowCenter=1000.5, WindowWidth=2001, **scaled)
    found = read_radiograph(path)
    np.testing.assert_array_equal(found.pixels, exactly(2 * pixels.astype(int) - 100, 0, 2000).T)


@pytest.mark.parametrize(
    "window",
    [
        {"WindowCenter": 9, "WindowWidth": 50, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": 9, "WindowWidth": 1},
    ],
)
def test_a_window_that_is_not_linear_is_passed_over(tmp_path: Path, window: dict[str, Any]) -> None:
    pixels = chest(8, most=3000)
    found = read_radiograph(write_cr(tmp_path / "a.dcm", pixels, **window))
    assert found.window == (pixels.min(), pixels.max())


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_outside_the_range(tmp_path: Path, kind: str) -> None:
    pixels = chest(9, most=3000) + np.uint16(10)
    pixels[:5] = 4095
    path = write_cr(tmp_path / "a.dcm", pixels, PixelPaddingValue=4095, PhotometricInterpretation=kind)
    found = read_radiograph(path)
    assert found.window == (pixels[5:].min(), pixels[5:].max())
    assert (found.pixels[:, :5] == 0).all()


def spoilt(path: Path, kind: str) -> Path:
    data = path.read_bytes()
    path.write_bytes(
        data[: floor(len(data) * 0.7)] if kind == "cut" else data[: ceil(len(data) * 0.7)] + b"\xff\xd9"
    )
    return path


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda at: spoilt(write_picture(at / "a.jpg", chest(1).astype(np.uint8)), "cut"), "gave an error"),
        (lambda at: spoilt(write_picture(at / "a.jpg", chest(1).astype(np.uint8)), "end"), "gave an error"),
        (lambda at: spoilt(write_picture(at / "a.png", chest(1, most=999)), "cut"), "cut short"),
        (lambda at: spoilt(write_cr(at / "a.dcm", chest(1)), "cut"), "cut short"),
        (lambda at: write_picture(at / "a.jpg", np.zeros((8, 8, 4), np.uint8), format="JPEG"), "CMYK"),
        (lambda at: write_picture(at / "a.png", np.full((8, 8), 7, np.uint16)), "the same grey level when 7"),
        (lambda at: write_cr(at / "a.dcm", chest(1), NumberOfFrames=2), "2 frames"),
        (lambda at: write_cr(at / "a.dcm", chest(1), "CT"), "modality is CT; only CR or DX is read"),
        (lambda at: write_cr(at / "a.dcm", chest(1), RescaleSlope="1"), "no valid intercept"),
        (lambda at: write_cr(at / "a.dcm", chest(1), PhotometricInterpretation="RGB"), "RGB"),
        (lambda at: write_cr(at / "a", chest(1), PixelPaddingValue=0, PixelPaddingRangeLimit=9999), "pad"),
        (lambda at: write_cr(at / "a.dcm", chest(1), WindowCenter=-900, WindowWidth=9), "same grey level"),
    ],
)  # fmt: skip
def test_what_is_damaged_or_not_supported_is_refused(tmp_path: Path, make: Any, why: str) -> None:
    if "CMYK" in why:
        Image.new("CMYK", (8, 8)).save(tmp_path / "a.jpg")
        path = tmp_path / "a.jpg"
    else:
        path = make(tmp_path)
    with pytest.raises(DataError, match=why):
        read_radiograph(path)


def test_a_damaged_jpeg_is_not_heard_on_stdout(tmp_path: Path) -> None:
    """Where programs read what a command says as JSON."""
    path = spoilt(write_picture(tmp_path / "a.jpg", chest(1).astype(np.uint8)), "end")
    code = (
        "import sys; from pathlib import Path\n"
        "from genesis_toolkit.pipeline.errors import DataError\n"
        "from genesis_toolkit.pipeline.scans.radiographs import read_radiograph\n"
        "try: read_radiograph(Path(sys.argv[1]))\n"
        "except DataError: print('refused')\n"
    )
    call = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("refused\n", "")


def test_a_folder_is_searched_to_the_bottom(tmp_path: Path) -> None:
    pixels = chest(1).astype(np.uint8)
    write_picture(tmp_path / "a" / "one.PNG", pixels, format="PNG")
    write_picture(tmp_path / "a" / "b" / "two.jpeg", pixels)
    write_cr(tmp_path / "three", chest(2))
    write_cr(tmp_path / "four.dcm", chest(3), PatientID="somebody")
    write_cr(tmp_path / "five.dcm", chest(4), "CT")
    (tmp_path / "labels.csv").write_text("name,label\n")
    (tmp_path / "notes").write_text("no DICOM")
    (tmp_path / "six.dcm").write_text("no DICOM")
    found = {one.path: one for one in find_image_folder(tmp_path).sources}
    assert set(found) == {"a/one.PNG", "a/b/two.jpeg", "three", "four.dcm", "five.dcm", "six.dcm"}
    assert [found[path].identifier for path in ("a/one.PNG", "a/b/two.jpeg", "four.dcm")] == [
        "a/one",
        "a/b/two",
        "four",
    ]
    assert found["five.dcm"].skip == "the DICOM modality is CT; only CR or DX is read"
    assert found["six.dcm"].problem == "the file has a DICOM file name but another format"
    assert found["three"].whose == found["four.dcm"].whose != 0
    assert found["a/one.PNG"].whose == 0
    alone = find_image_folder(tmp_path / "four.dcm")
    assert [one.path for one in alone.sources] == ["four.dcm"]
