"""The headers of DICOM files: every way to write one, and no damage does more than say so."""

import struct
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from support.dicom import explicit, write_series

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.scans.dicom import read_header


@pytest.mark.parametrize(
    "made",
    [
        explicit(),
        explicit(syntax=b"1.2.840.10008.1.2\0", implicit=True),
        explicit(syntax=b"1.2.840.10008.1.2.2\0", order=">"),
        explicit(syntax=b"1.2.840.10008.1.2.1.99"),
        explicit(implicit=True),
        explicit(syntax=b"1.2.840.10008.1.2\0"),
    ],
    ids=[
        "explicit",
        "implicit",
        "big endian",
        "deflated",
        "implicit, said explicit",
        "explicit, said implicit",
    ],
)
def test_every_way_to_write_a_header(tmp_path: Path, made: bytes) -> None:
    path = tmp_path / "s"
    path.write_bytes(made)
    one = read_header(path)
    assert one is not None
    assert (one.series, one.skip, one.edges, one.frames) == ("1.2.345", "", (400, 300), 1)
    assert one.position == (1.0, -2.5, 30.0)
    assert one.spacing == (0.8, 0.7)
    assert one.orientation == ()
    for length in np.random.default_rng(0).integers(150, len(made), 20).tolist():
        path.write_bytes(made[:length])
        try:
            short = read_header(path)
        except DataError as error:
            reason = str(error)
        else:  # cut between two elements
            assert short is not None
            reason = short.skip
        assert reason in (
            "the DICOM header cannot be read: the file is damaged",
            "a DICOM object without an image, not a volume",
        )


def test_no_damage_does_more_than_say_so(tmp_path: Path) -> None:
    whole = write_series(tmp_path)[0].read_bytes()
    path = tmp_path / "damaged"
    rng = np.random.default_rng(1)
    for _ in range(500):
        data = bytearray(whole)
        for place in rng.integers(132, len(data), 4):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        try:
            reason = str(read_header(path) and "")
        except DataError as error:
            reason = str(error)
        assert reason in ("", "the DICOM header cannot be read: the file is damaged")


def test_what_pydicom_thinks_of_a_file_is_not_heard(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It warns of alphabets, of types of values, of ends; from threads, and none of it stays switched off."""
    whole = explicit(implicit=True)
    at = whole.index(b"\x08\0\x08\0")
    alphabet = b"\x08\0\x05\0" + struct.pack("<I", 8) + b"KLINGON "
    unended = whole.index(b"\x09\0\x01\x10")  # of undefined length, and it never ends
    makings = [
        whole[:at] + alphabet + whole[at:],
        whole[: unended + 4] + b"\xff" * 4 + b"no items",
    ]
    paths = []
    for number, made in enumerate(makings):
        paths.append(tmp_path / f"{number}")
        paths[-1].write_bytes(made)
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            pydicom.dcmread(paths[-1], stop_before_pixels=True)
        assert heard, "it warns"
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as threads:
        read = [threads.submit(read_header, path) for path in paths * 20]
    assert {one.result().series for one in read[::2]} == {"1.2.345"}  # type: ignore[union-attr]
    for one in read[1::2]:
        with pytest.raises(DataError, match="header cannot be read: the file is damaged"):
            one.result()
    assert warnings.filters == before
    assert capfd.readouterr().err == ""


def test_a_deflated_header_is_not_inflated_without_limit(tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    whole = explicit(syntax=b"1.2.840.10008.1.2.1.99")
    at = whole.index(b"1.2.840.10008.1.2.1.99") + 22
    body = zlib.decompress(whole[at:], wbits=-zlib.MAX_WBITS)
    body += struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, 2**27) + bytes(2**27)
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    path.write_bytes(whole[:at] + packer.compress(body) + packer.flush())
    read_header(path)
    tracemalloc.start()
    try:
        one = read_header(path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert one is not None
    assert one.spacing == (0.8, 0.7)
    assert most < 2**26


def test_real_headers_are_those_of_simple_itk(real_data: Path) -> None:
    reader = sitk.ImageFileReader()
    paths = sorted(path for path in (real_data / "dicom").rglob("*") if path.is_file())
    for path in paths:
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        one = read_header(path)
        assert one is not None
        assert one.series == reader.GetMetaData("0020|000e").strip(" \0")
        assert one.skip == ""
        assert one.edges == reader.GetSize()[:2]
        np.testing.assert_allclose(one.position, reader.GetOrigin(), rtol=1e-9)
        np.testing.assert_allclose(one.spacing, reader.GetSpacing()[:2], rtol=1e-9)
        np.testing.assert_allclose(
            np.reshape(one.orientation, (2, 3)).T, np.reshape(reader.GetDirection(), (3, 3))[:, :2], atol=1e-6
        )
    assert len(paths) == 99


def test_a_header_without_preamble(tmp_path: Path) -> None:
    path = tmp_path / "bare"
    whole = explicit()
    path.write_bytes(whole[whole.index(b"\x08\0\x08\0") :])
    one = read_header(path)
    assert one is not None
    assert one.series == "1.2.345"
    path.write_bytes(whole[whole.index(b"\x08\0\x08\0") :][:131])
    assert read_header(path) is None, "too short to tell"
    path.write_bytes(b"x" * 200)
    assert read_header(path) is None
