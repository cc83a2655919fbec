"""The compiled decoder against numcodecs' blosc: the same numbers, and no harm from frames that lie."""

from collections.abc import Callable
from typing import Any

import google_crc32c
import numcodecs.blosc as blosc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import pipeline.decoding
from pipeline.decoding import decode_compiled
from pipeline.errors import DataError


def sealed(frame: bytes) -> bytes:
    return frame + int(google_crc32c.value(frame)).to_bytes(4, "little")


def chunk_of(
    values: NDArray[Any], codec: str = "lz4", shuffle: int = blosc.BITSHUFFLE, block: int = 0
) -> bytes:
    frame: bytes = blosc.compress(values, codec.encode(), 5, shuffle, block, values.itemsize)
    return sealed(frame)


def numbers(kind: str, count: int, seed: int) -> NDArray[np.int16]:
    """Contents of which LZ4 makes long literals, long matches, short periods, and a mixture."""
    rng = np.random.default_rng(seed)
    found: dict[str, Callable[[], NDArray[Any]]] = {
        "noise": lambda: rng.integers(-(2**15), 2**15, count),
        "window": lambda: rng.integers(-1000, 1001, count),
        "constant": lambda: np.full(count, rng.integers(-1000, 1001)),
        "period": lambda: np.resize(rng.integers(-1000, 1001, rng.integers(1, 300)), count),
        "steps": lambda: np.repeat(rng.integers(-1000, 1001, count), rng.integers(1, 99, count))[:count],
        "half": lambda: np.where(np.arange(count) < count // 2, 7, rng.integers(-1000, 1001, count)),
    }
    return found[kind]().astype(np.int16)


@pytest.fixture
def no_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("left to numcodecs")

    monkeypatch.setattr(pipeline.decoding, "decode_chunk", refuse)


@pytest.mark.usefixtures("no_reference")
@pytest.mark.parametrize("kind", ["noise", "window", "constant", "period", "steps", "half"])
@pytest.mark.parametrize("codec", ["lz4", "lz4hc"])
@pytest.mark.parametrize(
    ("count", "block"), [(128, 0), (1920, 0), (131072, 0), (90112, 65536), (32768, 65536)]
)
def test_the_numbers_that_were_packed(kind: str, codec: str, count: int, block: int) -> None:
    """Blocks of two streams and of one (lz4hc's); several, the last of them short."""
    for seed in range(3):
        values = numbers(kind, count, seed)
        chunk = chunk_of(values, codec, block=block)
        if chunk[2] & 2:  # blosc keeps what it cannot pack as it is, without blocks
            continue
        out = np.full_like(values, -9)
        decode_compiled(chunk, out)
        np.testing.assert_array_equal(out, values)


def test_frames_of_another_make_go_to_the_reference() -> None:
    for dtype in ("int16", "uint16", "uint8", "float32"):
        values = numbers("period", 1024, 0).astype(dtype).reshape(8, 16, 8)
        for codec in ("lz4", "zstd", "blosclz"):
            for shuffle in (blosc.NOSHUFFLE, blosc.SHUFFLE, blosc.BITSHUFFLE):
                for cut in (values, values[:5], values[:5, :3, :7].copy()):
                    out = np.zeros_like(cut)
                    decode_compiled(chunk_of(cut, codec, shuffle), out)
                    np.testing.assert_array_equal(out, cut)


@pytest.mark.usefixtures("no_reference")
def test_damage_is_named() -> None:
    values = numbers("steps", 4096, 1)
    chunk = chunk_of(values)
    for bit in range(0, 8 * len(chunk), 101):
        # Of these the header says that they are of another make; the reference then sees the same.
        if bit // 8 in (0, 2, 3, *range(8, 12)):
            continue
        damaged = bytearray(chunk)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DataError, match="its checksum does not fit"):
            decode_compiled(bytes(damaged), np.zeros_like(values))
    with pytest.raises(DataError, match="another number of bytes"):
        decode_compiled(chunk, np.zeros(8192, np.int16))


def test_short_chunks_are_named() -> None:
    for length in range(24):
        with pytest.raises(DataError):
            decode_compiled(sealed(bytes(length)), np.zeros(128, np.int16))


@settings(deadline=None, max_examples=150)
@given(data=st.data(), kind=st.sampled_from(["half", "period", "steps"]))
def test_frames_that_lie_write_nothing_elsewhere(data: st.DataObject, kind: str) -> None:
    """Their checksum fits, their lengths and streams do not: an error or some numbers, all in their place."""
    values = numbers(kind, 81920, 0)
    frame = bytearray(chunk_of(values, block=65536)[:-4])
    for _ in range(data.draw(st.integers(1, 4))):
        starts = [int.from_bytes(frame[16 + 4 * k : 20 + 4 * k], "little") for k in range(2)]
        near = st.sampled_from([16, *(min(start, len(frame) - 50) for start in starts)])
        place = data.draw(near.flatmap(lambda at: st.integers(at, at + 49)) | st.integers(16, len(frame) - 1))
        frame[place] = data.draw(st.sampled_from([0, 1, 15, 16, 127, 240, 255]) | st.integers(0, 255))
    del frame[data.draw(st.integers(len(frame) - 40, len(frame)) | st.integers(16, len(frame))) :]
    frame[12:16] = len(frame).to_bytes(4, "little")
    around = np.full(len(values) + 512, 77, np.int16)
    room, needed = pipeline.decoding._room, int.from_bytes(frame[8:12], "little") + 16
    room.planes = np.full(needed + 256, 55, np.uint8)
    try:
        decode_compiled(sealed(bytes(frame)), around[256:-256])
    except DataError as error:
        assert str(error) == "it cannot be decoded"  # noqa: PT017
    assert (np.delete(around, slice(256, -256)) == 77).all()
    assert (room.planes[needed:] == 55).all()
