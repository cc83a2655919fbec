"""Reading by one kernel against reading cube by cube: the same numbers, and the same errors."""

import os
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs.blosc as blosc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.exchange.archive import pack_store
from genesis_toolkit.pipeline.store import reading
from genesis_toolkit.pipeline.store.open import open_cubes
from genesis_toolkit.pipeline.store.reading import read_cubes
from genesis_toolkit.pipeline.store.shards import ShardReader, encode_cube, shard_parts, shard_path
from genesis_toolkit.pipeline.store.storage import Folder

SIZE = (16, 8, 8)
kernel_only = pytest.mark.skipif(not reading.has_kernel(), reason="the reference reads here")


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


def decode(chunk: bytes, out: NDArray[Any]) -> bool:
    """Have the kernel alone read a chunk from a file into `out`; whether it says that it has."""
    done = np.zeros(1, np.bool_)
    with tempfile.TemporaryFile() as file:
        file.write(chunk)
        file.flush()
        spans = np.array([[file.fileno(), 0, len(chunk)]])
        packed = np.full(-(-(out.nbytes + 64) // 4), 0xA5A5A5A5, np.uint32)
        reading._read_all(spans, np.zeros(1, np.int64), packed, out.view(np.uint8)[None], done)
    return bool(done[0])


def shards_of(folder: Path, chunks: list[bytes], length: int) -> ShardReader:
    for shard in range(-(-len(chunks) // length)):
        path = folder / shard_path("a", shard, 4)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(shard_parts(chunks[shard * length : (shard + 1) * length], length)))
    return ShardReader(Folder(folder), "a", (len(chunks), *SIZE), np.dtype("int16"), length)


def hu(count: int, seed: int = 0) -> NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-1000, 1001, (count, *SIZE), np.int16)


@pytest.fixture
def no_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("left to the reference")

    if reading.has_kernel():  # elsewhere the reference is what there is to test
        monkeypatch.setattr(ShardReader, "read", refuse)
        monkeypatch.setattr(ShardReader, "read_many", refuse)


@pytest.mark.usefixtures("no_reference")
@pytest.mark.parametrize("length", [1, 4, 256])
def test_any_order_of_cubes(tmp_path: Path, length: int) -> None:
    """More shards than are open at once; cubes twice, and rows of a larger batch."""
    values = hu(150)
    reader = shards_of(tmp_path, [encode_cube(cube) for cube in values], length)
    order = np.random.default_rng(1).integers(0, 150, 200)
    out = np.zeros((300, *SIZE), np.int16)
    read_cubes(reader, order, out[50:250])
    np.testing.assert_array_equal(out[50:250], values[order])
    assert not out[:50].any()
    assert not out[250:].any()
    read_cubes(reader, [], out[:0])


@pytest.mark.usefixtures("no_reference")
def test_a_store_and_its_archive(cube_store: Path, tmp_path: Path) -> None:
    pack_store(cube_store, tmp_path / "cubes.zip")
    folder, archive = open_cubes(cube_store), open_cubes(tmp_path / "cubes.zip")
    out = [np.zeros((len(folder), *folder.size), np.int16) for _ in range(2)]
    read_cubes(folder.cubes, range(len(folder)), out[0])
    read_cubes(archive.cubes, range(len(folder)), out[1])
    assert out[0].any()
    np.testing.assert_array_equal(*out)


@pytest.mark.usefixtures("no_reference")
@pytest.mark.parametrize("dtype", ["int16", "uint16", "uint8", "float32"])
@pytest.mark.parametrize("codec", ["lz4", "zstd", "blosclz"])
@pytest.mark.parametrize("shuffle", [blosc.NOSHUFFLE, blosc.SHUFFLE, blosc.BITSHUFFLE])
@pytest.mark.parametrize("size", [SIZE, (5, 8, 8), (5, 3, 7)])
def test_what_is_of_another_make_comes_too(
    tmp_path: Path, dtype: str, codec: str, shuffle: int, size: tuple[int, ...]
) -> None:
    values = np.ascontiguousarray(hu(7)[:, : size[0], : size[1], : size[2]].astype(dtype))
    chunks = [chunk_of(cube, codec, shuffle) if number % 2 else encode_cube(cube)
              for number, cube in enumerate(values)]  # fmt: skip
    shards_of(tmp_path, chunks, 4)
    reader = ShardReader(Folder(tmp_path), "a", values.shape, values.dtype, 4)
    out = np.zeros_like(values)
    read_cubes(reader, range(7), out)
    np.testing.assert_array_equal(out, values)


@pytest.mark.skipif(sys.platform != "linux", reason="the tests know the wheels for Linux alone")
def test_the_wheels_export_what_the_kernel_calls() -> None:
    """Otherwise every read would quietly become slower."""
    assert reading.has_kernel()


@pytest.mark.parametrize(
    "missing", [{"no_such_function": "numcodecs.blosc"}, {"crc32c_extend": "no_such_module"}]
)
def test_a_wheel_that_exports_less_is_noticed(
    missing: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_MODULES", missing)
    assert not reading.has_kernel.__wrapped__()


def test_without_exported_functions_the_reference_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "has_kernel", lambda: False)
    monkeypatch.setattr(reading, "_read_all", None)
    values = hu(5)
    reader = shards_of(tmp_path, [encode_cube(cube) for cube in values], 4)
    out = np.zeros_like(values)
    read_cubes(reader, range(5), out)
    np.testing.assert_array_equal(out, values)


def test_few_open_files_are_enough(tmp_path: Path) -> None:
    """A limit that the shards of one call exceed, whose indexes are not known yet either."""
    values = hu(70)
    reader = shards_of(tmp_path, [encode_cube(cube) for cube in values], 1)
    out = np.zeros_like(values)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir("/dev/fd")))  # noqa: PTH208
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, hard))
    try:
        read_cubes(reader, range(70), out)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    np.testing.assert_array_equal(out, values)


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize("harm", [flip_bit, cut_short, Path.unlink])
@pytest.mark.parametrize("known", [False, True])
def test_damage_has_the_same_sentence(tmp_path: Path, harm: Callable[[Path], Any], known: bool) -> None:
    """Whether the shard's index was read before the harm or not; and the other cubes can be read."""
    values = hu(8)
    reader = shards_of(tmp_path, [encode_cube(cube) for cube in values], 4)
    out = np.zeros_like(values)
    if known:
        read_cubes(reader, range(8), out)
    harm(tmp_path / shard_path("a", 1, 4))
    sentences = []
    for read in (lambda: reader.read_many(range(8), out), lambda: read_cubes(reader, range(8), out)):
        with pytest.raises(DataError) as error:
            read()
        sentences.append(str(error.value))
    assert sentences[0] == sentences[1]
    read_cubes(reader, range(4), out[:4])
    np.testing.assert_array_equal(out[:4], values[:4])


def test_any_flipped_bit_of_a_chunk_is_named(tmp_path: Path) -> None:
    chunk = encode_cube(np.repeat(hu(1)[0, :2], 8, axis=0))
    out = np.zeros((1, *SIZE), np.int16)
    for bit in range(0, 8 * len(chunk), 101):
        damaged = bytearray(chunk)
        damaged[bit // 8] ^= 1 << bit % 8
        reader = shards_of(tmp_path, [bytes(damaged)], 1)
        with pytest.raises(DataError, match="the checksum is wrong"):
            read_cubes(reader, [0], out)


def test_a_chunk_of_another_size_is_no_cube(tmp_path: Path) -> None:
    """Sound chunks, but of more or fewer voxels; and one with nothing in it."""
    good = encode_cube(hu(1)[0])
    short = [sealed(bytes(length)) for length in range(24)]
    for strange in (encode_cube(hu(2)), encode_cube(hu(1)[0, :8].copy()), b"", b"abc", *short):
        reader = shards_of(tmp_path, [good, strange], 2)
        out = np.zeros((2, *SIZE), np.int16)
        with pytest.raises(DataError, match=r"Cube 1 in .* is damaged"):
            read_cubes(reader, [0, 1], out)
    with pytest.raises(IndexError):
        read_cubes(reader, [2], out[:1])


@kernel_only
@pytest.mark.parametrize("kind", ["noise", "window", "constant", "period", "steps", "half"])
@pytest.mark.parametrize("codec", ["lz4", "lz4hc"])
@pytest.mark.parametrize(
    ("count", "block"), [(128, 0), (1920, 0), (131072, 0), (90112, 65536), (32768, 65536)]
)
def test_the_numbers_that_were_packed(kind: str, codec: str, count: int, block: int) -> None:
    """Blocks of two streams and of one (lz4hc's); several, the last one short; and frames left unpacked."""
    for seed in range(3):
        values = numbers(kind, count, seed)
        out = np.full_like(values, -9)
        assert decode(chunk_of(values, codec, block=block), out)
        np.testing.assert_array_equal(out, values)


@kernel_only
def test_frames_that_say_another_length_are_refused() -> None:
    """Their checksums fit, so the lengths alone stand between them and blosc; nothing is written."""
    values = numbers("steps", 4096, 1)
    chunk = chunk_of(values)
    frame, out = chunk[:-4], np.full(8192, 77, np.int16)
    assert decode(chunk, np.zeros(4096, np.int16))
    for count in (0, 128, 3968, 4095, 4097, 4224, 8192):
        assert not decode(chunk, out[:count])
    for length in (*range(40), len(frame) - 1):
        assert not decode(sealed(frame[:length]), out[:4096])
    assert not decode(sealed(frame + b"\0"), out[:4096])
    for place in (4, 12):  # the lengths of the content and of the frame
        for length in (0, 1, 15, 16, 17, 8191, 8193, 2**24, 2**31 - 1, 2**31, 2**32 - 1):
            other = frame[:place] + length.to_bytes(4, "little") + frame[place + 4 :]
            assert not decode(sealed(other), out[:4096])
    assert (out == 77).all()


@kernel_only
@settings(deadline=None, max_examples=150)
@given(data=st.data(), kind=st.sampled_from(["half", "period", "steps"]))
def test_frames_that_lie_write_nothing_elsewhere(data: st.DataObject, kind: str) -> None:
    """Headers, lengths and streams that do not fit together: some numbers or none, all in their place."""
    values = numbers(kind, 81920, 0)
    frame = bytearray(chunk_of(values, block=65536)[:-4])
    for _ in range(data.draw(st.integers(1, 4))):
        starts = [int.from_bytes(frame[16 + 4 * k : 20 + 4 * k], "little") for k in range(2)]
        near = st.sampled_from([0, 16, *(min(start, len(frame) - 50) for start in starts)])
        place = data.draw(near.flatmap(lambda at: st.integers(at, at + 49)) | st.integers(0, len(frame) - 1))
        frame[place] = data.draw(st.sampled_from([0, 1, 15, 16, 127, 240, 255]) | st.integers(0, 255))
    del frame[data.draw(st.integers(len(frame) - 40, len(frame)) | st.integers(16, len(frame))) :]
    frame[4:8] = (2 * len(values)).to_bytes(4, "little")  # so that they come as far as blosc
    frame[12:16] = len(frame).to_bytes(4, "little")
    around = np.full(len(values) + 512, 77, np.int16)
    decode(sealed(bytes(frame)), around[256:-256])
    assert (np.delete(around, slice(256, -256)) == 77).all()
