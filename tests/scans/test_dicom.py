"""The headers of DICOM files: every way to write one, and no damage does more than say so."""

from pathlib import Path

import numpy as np
import pytest
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
    ],
    ids=["explicit", "implicit", "big endian", "deflated"],
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
            "its DICOM header cannot be read: it is damaged or cut short",
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
        assert reason in ("", "its DICOM header cannot be read: it is damaged or cut short")


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
