"""X-ray images: decoded as Pillow decodes them, resized exactly, refused in one sentence."""

import hashlib
import io
import struct
import tempfile
import warnings
import zlib
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.scans.images import read_image, read_image_size, resize
from genesis_toolkit.pipeline.scans.png import HEADER_BYTES, MOST_PIXELS

RNG = np.random.default_rng(7)
GREY = RNG.integers(0, 256, (9, 12), dtype=np.uint8)  # [y, x]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    columns: int,
    rows: int,
    body: bytes,
    *,
    bits: int = 8,
    kind: int = 0,
    interlaced: int = 0,
    more: bytes = b"",
) -> bytes:
    """A PNG put together by hand, so that it may say of itself what is not so."""
    head = struct.pack(">IIBBBBB", columns, rows, bits, kind, 0, 0, interlaced)
    parts = [chunk(b"IHDR", head), more, chunk(b"IDAT", zlib.compress(body)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def decoded(data: bytes) -> NDArray[np.uint8]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.png"
        path.write_bytes(data)
        return read_image(path).pixels.T


def overlaps(edge: int, size: int) -> list[dict[int, Fraction]]:
    """Of each pixel of the result, how much of each pixel of the image it covers, along one axis."""
    bounds = [(Fraction(i * edge, size), Fraction((i + 1) * edge, size)) for i in range(size)]
    covered = [{k: min(high, k + 1) - max(low, k) for k in range(edge)} for low, high in bounds]
    return [{k: share for k, share in each.items() if share > 0} for each in covered]


def by_fractions(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Area averages by the definition, in exact fractions; Python rounds halves to even."""
    out = np.empty(size, np.uint8)
    across, down = (overlaps(edge, own) for edge, own in zip(pixels.shape, size, strict=True))
    area = Fraction(pixels.shape[0] * pixels.shape[1], size[0] * size[1])
    for x, y in product(range(size[0]), range(size[1])):
        total = sum(a * b * int(pixels[i, j]) for i, a in across[x].items() for j, b in down[y].items())
        out[x, y] = round(total / area)
    return out


edges = st.integers(1, 7)


@settings(max_examples=25, deadline=None)
@given(edges, edges, edges, edges, st.integers(0, 2**32 - 1))
def test_area_averages_are_exact(columns: int, rows: int, x: int, y: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (columns, rows), dtype=np.uint8)
    found = resize(pixels, (x, y))
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, by_fractions(pixels, (x, y)))


def test_halves_go_to_the_even_number() -> None:
    pixels = np.array([[0, 1, 1, 2, 2, 3, 254, 255]], np.uint8)
    assert resize(pixels, (1, 4)).tolist() == [[0, 2, 2, 254]]


def test_whole_ratios_are_those_of_pillow() -> None:
    pixels = RNG.integers(0, 256, (128, 64), dtype=np.uint8)
    reduced = np.asarray(Image.fromarray(pixels).reduce((2, 4)))
    difference = np.abs(resize(pixels.T, (32, 32)).T.astype(int) - reduced)
    assert difference.max() <= 1  # Pillow rounds halves up, and with 24 bits
    assert (difference == 1).mean() < 0.1


def test_the_largest_image_does_not_overflow() -> None:
    for shape in ((2**16, 3), (3, 2**16)):
        assert (resize(np.full(shape, 255, np.uint8), (5, 7)) == 255).all()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
def test_any_8_bits_are_read_as_pillow_converts_them(tmp_path: Path, mode: str) -> None:
    path, bands = tmp_path / "a.png", len(Image.new(mode, (1, 1)).getbands())
    values = RNG.integers(0, 256, (9, 12, bands), dtype=np.uint8)
    image = Image.merge(mode, [Image.fromarray(values[..., band]) for band in range(bands)])
    image.save(path)
    picture = read_image(path)
    np.testing.assert_array_equal(picture.pixels, np.asarray(image.convert("L")).T)
    assert picture.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_image_size(path) == (12, 9) == picture.pixels.shape


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([(0, 1), (2, 3), (4, 2), (6, 4)]), edges, edges, st.data())
def test_all_filters_are_undone_as_pillow_undoes_them(
    kind: tuple[int, int], columns: int, rows: int, data: st.DataObject
) -> None:
    """Any bytes are a filtered image, so every filter meets every other, at the borders too."""
    colour, channels = kind
    lines = [
        bytes([data.draw(st.integers(0, 4))]) + data.draw(st.binary(min_size=n, max_size=n))
        for n in [columns * channels] * rows
    ]
    file = png(columns, rows, b"".join(lines), kind=colour)
    with Image.open(io.BytesIO(file)) as image:
        np.testing.assert_array_equal(decoded(file), np.asarray(image.convert("L")))


@pytest.mark.parametrize(
    "more",
    [
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**22))),
        chunk(b"iCCP", b"p\0\0none"),
        chunk(b"tRNS", b"\0\1"),
        chunk(b"sBIT", b"\5"),
        chunk(b"PLTE", bytes(6)),
        chunk(b"gAMA", bytes(4)),
        chunk(b"tIME", struct.pack(">H5B", 2017, 0, 0, 0, 0, 0)),
        chunk(b"tIME", struct.pack(">H5B", 2017, 9, 1, 0, 0, 0))[:-1] + b"?",
        chunk(b"tIME", struct.pack(">H5B", 2017, 9, 1, 0, 0, 0)),
        chunk(b"tIME", b""),
        chunk(b"TEXT", b"necessary, it says"),
    ],
    ids=lambda more: more[4:8].decode(),
)
@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_other_chunks_are_not_looked_into(
    more: bytes, kind: int, channels: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """A text that unpacks to much, a profile that is none, bits to be shifted: others refuse or warn."""
    body = b"\0" + bytes(range(50, 50 + 2 * channels))
    with Image.open(io.BytesIO(png(2, 1, body, kind=kind))) as image:
        expected = np.asarray(image.convert("L"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(decoded(png(2, 1, body, kind=kind, more=more)), expected)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("body", [b"\0\x05\x07\x09", b"\0\x05\x07" + bytes(2**20)])
def test_bytes_after_the_last_pixel_are_not_looked_at(body: bytes) -> None:
    file = png(2, 1, body)
    with Image.open(io.BytesIO(file)) as image:
        assert decoded(file).tolist() == np.asarray(image).tolist() == [[5, 7]]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GIF89a", "the file is not a PNG"),
        (b"", "the file is empty"),
        (png(2, 1, b"\0\x05\x07")[:20], "the header cannot be read"),
        (png(2, 1, b"\0\x05\x07")[:-5], r"the file is cut short: .* \d\d bytes"),
        (png(2, 1, b"\0\x05\x07")[:-12], "the file is cut short"),
        (png(2, 1, b"\0\x05\x07").replace(b"IDATx", b"IDATy"), "the pixels cannot be decoded"),
        (png(2, 2, b"\0\x05\x07"), "the pixels cannot be decoded"),  # which Pillow takes for black
        (png(2, 1, b"\x05\x05\x07"), "the pixels cannot be decoded"),
        (png(2, 1, b"\0\x05\x07", interlaced=1), "the PNG is interlaced, which is not supported"),
        (png(0, 4, b""), r"the image has no pixels \(0 x 4\)"),
        (
            png(2, 1, b"\0" + bytes(4), bits=16),
            "16 bits per channel, grey; it must have 8 bits, grey or colour",
        ),
        (png(2, 1, b"\0\x05\x07", kind=3), "8 bits per channel, palette"),
        (png(2**15, 2**15, bytes(100)), r"32,768 x 32,768 pixels, but at most 67,108,864"),
        (png(2**17, 1, bytes(100)), r"131,072 x 1 pixels, .* 65,536 per side"),
    ],
)
def test_what_cannot_be_taken_is_said_in_a_sentence(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "a.png").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match=words):
            read_image(tmp_path / "a.png")


def test_a_gigantic_image_is_refused_by_its_header(tmp_path: Path) -> None:
    edge = int(MOST_PIXELS**0.5)
    (tmp_path / "a.png").write_bytes(png(edge + 1, edge, b""))
    with pytest.raises(DataError, match="at most"):
        read_image_size(tmp_path / "a.png")
    with pytest.raises(DataError, match="cannot be opened"):
        read_image_size(tmp_path / "absent.png")


@pytest.mark.parametrize("more", [b"", chunk(b"tEXt", b"a\0b")], ids=["pixels alone", "and a text"])
@pytest.mark.parametrize("mode", ["L", "RGBA", "LA"])
def test_any_flipped_bit_is_found_or_changes_no_pixel(
    tmp_path: Path, mode: str, more: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of the header, the pixels and the end; of other chunks those that are told by their names."""
    path = tmp_path / "a.png"
    Image.fromarray(GREY).convert(mode).save(path)
    written = path.read_bytes()
    whole = written[:HEADER_BYTES] + more + written[HEADER_BYTES:]
    path.write_bytes(whole)
    expected = read_image(path).pixels
    np.testing.assert_array_equal(expected, GREY.T)
    refused = 0
    for at in range(8, len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        try:
            np.testing.assert_array_equal(read_image(path).pixels, expected)
        except DataError:
            refused += 1
        else:
            assert HEADER_BYTES <= at < HEADER_BYTES + len(more), "in the pixels every flipped bit is refused"
    assert refused >= len(written) - 8
    assert capfd.readouterr().err == ""


def test_damage_that_checksums_do_not_show_ends_in_a_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    """A stream that was damaged before its checksum was made."""
    rng = np.random.default_rng(3)
    reasons = []
    for turn in range(200):
        kind, channels = [(0, 1), (2, 3), (4, 2), (6, 4)][turn % 4]
        lines = np.hstack([np.full((9, 1), turn % 5), rng.integers(0, 4, (9, 12 * channels))])
        stream = bytearray(zlib.compress(lines.astype(np.uint8).tobytes()))
        stream[rng.integers(len(stream))] ^= 1 << rng.integers(8)
        whole = png(12, 9, b"", kind=kind)
        try:
            assert decoded(whole[:HEADER_BYTES] + chunk(b"IDAT", stream) + whole[-12:]).shape == (9, 12)
        except DataError as error:
            reasons.append(str(error))
    assert set(reasons) == {"the pixels cannot be decoded: the file is damaged"}
    assert len(reasons) > 100
    assert capfd.readouterr().err == ""


def test_real_images_are_those_of_pillow(real_data: Path) -> None:
    paths = sorted((real_data / "nih" / "images").glob("*.png"))
    modes = []
    for path in paths:
        with Image.open(path) as image:
            modes.append(image.mode)
            if len(modes) <= 6 or image.mode != "L":
                np.testing.assert_array_equal(read_image(path).pixels, np.asarray(image.convert("L")).T)
    assert modes.count("RGBA") == 3
    pixels = read_image(paths[0]).pixels
    x, y = (Fraction(1024, 224) * at for at in (100, 57))  # one pixel of the result, by its definition
    box = pixels[int(x) : int(x) + 6, int(y) : int(y) + 6].astype(float)
    step = Fraction(1024, 224)
    across, down = (
        np.array([float(max(0, min(at + step, k + 1) - max(at, k))) for k in range(int(at), int(at) + 6)])
        for at in (x, y)
    )
    assert resize(pixels, (224, 224))[100, 57] == round(across @ box @ down / float(step) ** 2)
