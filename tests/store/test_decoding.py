"""The compiled decoder against numcodecs' blosc: the same numbers, and no harm from frames that lie."""

from collections.abc import Callable
from typing import Any

import numcodecs.blosc as blosc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.chunks import chunk_of

from genesis_toolkit.pipeline.store.decoding import decode_frame, decode_scratch


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


def decode(frame: bytes, out: NDArray[Any]) -> bool:
    """Decode a frame without its checksum; whether that was done."""
    return bool(decode_frame(np.frombuffer(frame, np.uint8), decode_scratch(out.nbytes), out.view(np.uint16)))


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
        assert decode(chunk[:-4], out)
        np.testing.assert_array_equal(out, values)


def test_frames_of_another_make_are_left_alone() -> None:
    for codec in ("lz4", "zstd", "blosclz"):
        for shuffle in (blosc.NOSHUFFLE, blosc.SHUFFLE, blosc.BITSHUFFLE):
            for count in (1024, 640, 105):
                values = numbers("period", count, 0)
                out, frame = np.zeros_like(values), chunk_of(values, codec, shuffle)[:-4]
                ours = codec == "lz4" and shuffle == blosc.BITSHUFFLE and count % 128 == 0
                assert decode(frame, out) == ours
                np.testing.assert_array_equal(out, values if ours else 0)
    for dtype in ("uint8", "float32"):
        frame = chunk_of(numbers("period", 1024, 0).astype(dtype))[:-4]
        assert not decode(frame, np.zeros(1024 * np.dtype(dtype).itemsize // 2, np.int16))


def test_frames_that_say_another_length_are_refused() -> None:
    values = numbers("steps", 4096, 1)
    frame = chunk_of(values)[:-4]
    assert decode(frame, np.zeros(4096, np.int16))
    for count in (128, 3968, 4224, 8192):
        assert not decode(frame, np.zeros(count, np.int16))
    for length in (*range(40), len(frame) - 1):
        assert not decode(frame[:length], np.zeros(4096, np.int16))
    assert not decode(frame + b"\0", np.zeros(4096, np.int16))
    for version in (0, 1):  # of the frame, and of LZ4's streams
        other = bytearray(frame)
        other[version] += 1
        assert not decode(bytes(other), np.zeros(4096, np.int16))


@settings(deadline=None, max_examples=150)
@given(data=st.data(), kind=st.sampled_from(["half", "period", "steps"]))
def test_frames_that_lie_write_nothing_elsewhere(data: st.DataObject, kind: str) -> None:
    """Lengths and streams that do not fit together: some numbers or none, all in their place."""
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
    planes = np.full(2 * len(values) + 16 + 256, 55, np.uint8)
    scratch = decode_scratch(2 * len(values))._replace(planes=planes)
    decode_frame(np.frombuffer(bytes(frame), np.uint8), scratch, around[256:-256].view(np.uint16))
    assert (np.delete(around, slice(256, -256)) == 77).all()
    assert (planes[2 * len(values) + 16 :] == 55).all()
