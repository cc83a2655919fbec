"""Reading by one kernel against reading cube by cube: the same numbers, and the same errors."""

import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs.blosc as blosc
import numpy as np
import pytest
from numpy.typing import NDArray
from support.chunks import chunk_of, sealed

import genesis_toolkit.pipeline.store.reading
from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.exchange.archive import pack_store
from genesis_toolkit.pipeline.store.open import open_cubes
from genesis_toolkit.pipeline.store.reading import read_cubes
from genesis_toolkit.pipeline.store.shards import ShardReader, encode_cube, shard_parts, shard_path
from genesis_toolkit.pipeline.store.storage import Folder

SIZE = (16, 8, 8)


def shards_of(folder: Path, chunks: list[bytes], length: int) -> ShardReader:
    for shard in range(-(-len(chunks) // length)):
        path = shard_path(folder / "a", shard, 4)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(shard_parts(chunks[shard * length : (shard + 1) * length], length)))
    return ShardReader(Folder(folder), "a", (len(chunks), *SIZE), np.dtype("int16"), length)


def hu(count: int, seed: int = 0) -> NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-1000, 1001, (count, *SIZE), np.int16)


@pytest.fixture
def no_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("left to the reference")

    if genesis_toolkit.pipeline.store.reading._HAS_KERNEL:  # elsewhere the reference is what there is to test
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


def test_without_the_instruction_the_reference_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(genesis_toolkit.pipeline.store.reading, "_HAS_KERNEL", False)
    monkeypatch.setattr(genesis_toolkit.pipeline.store.reading, "_read_all", None)
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
    harm(shard_path(tmp_path / "a", 1, 4))
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
        with pytest.raises(DataError, match="its checksum does not fit"):
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
