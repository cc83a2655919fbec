"""Our shards against zarr's: each must read what the other wrote, and damage must be seen."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.store.shards import (
    ShardReader,
    encode_cube,
    shard_length,
    shard_parts,
    shard_path,
)
from genesis_toolkit.pipeline.store.storage import Folder

SIZE = (6, 5, 4)


def zarr_array(folder: Path, count: int, length: int, dtype: str) -> zarr.Array[Any]:
    blosc = BloscCodec(typesize=np.dtype(dtype).itemsize, cname="lz4", clevel=5, shuffle="bitshuffle")
    return zarr.create_array(
        folder,
        shape=(count, *SIZE),
        chunks=(1, *SIZE),
        shards=(length, *SIZE),
        dtype=dtype,
        compressors=(blosc, Crc32cCodec()),
    )


def cubes(count: int, dtype: str) -> NDArray[Any]:
    info = np.iinfo(dtype)
    return np.random.default_rng(count).integers(info.min, info.max, (count, *SIZE), dtype=dtype)


def write_ours(folder: Path, values: NDArray[Any], length: int) -> None:
    for shard in range(-(-len(values) // length)):
        path = folder.parent / shard_path(folder.name, shard, values.ndim)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = values[shard * length : (shard + 1) * length]
        chunks = [encode_cube(np.ascontiguousarray(cube)) for cube in part]
        path.write_bytes(b"".join(shard_parts(chunks, length)))


@pytest.mark.parametrize("dtype", ["int16", "uint8", "uint16"])
@pytest.mark.parametrize("count", [1, 4, 7])
def test_zarr_reads_what_we_write(tmp_path: Path, dtype: str, count: int) -> None:
    array = zarr_array(tmp_path / "a", count, 4, dtype)
    values = cubes(count, dtype)
    write_ours(tmp_path / "a", values, 4)
    np.testing.assert_array_equal(array[...], values)


@pytest.mark.parametrize("dtype", ["int16", "uint8"])
def test_we_read_what_zarr_writes(tmp_path: Path, dtype: str) -> None:
    array = zarr_array(tmp_path / "a", 7, 4, dtype)
    values = cubes(7, dtype)
    array[...] = values
    reader = ShardReader(Folder(tmp_path), "a", values.shape, values.dtype, 4)
    out = np.empty((3, *SIZE), dtype)
    reader.read_many([6, 0, 3], out)
    np.testing.assert_array_equal(out, values[[6, 0, 3]])


@settings(deadline=None, max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_seen(tmp_path_factory: pytest.TempPathFactory, place: float, bit: int) -> None:
    folder = tmp_path_factory.mktemp("shard")
    values = cubes(3, "int16")
    write_ours(folder, values, 4)
    path = folder.parent / shard_path(folder.name, 0, 4)
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    path.write_bytes(data)
    reader = ShardReader(Folder(folder.parent), folder.name, values.shape, values.dtype, 4)
    out = np.empty_like(values)
    with pytest.raises(DataError, match="damaged"):
        reader.read_many(range(3), out)


def test_missing_and_truncated_shards_are_named(tmp_path: Path) -> None:
    values = cubes(3, "int16")
    reader = ShardReader(Folder(tmp_path.parent), tmp_path.name, values.shape, values.dtype, 4)
    with pytest.raises(DataError, match=r"c/0/0/0/0 cannot be read: No such file"):
        reader.read(0, np.empty(SIZE, "int16"))
    write_ours(tmp_path, values, 4)
    path = tmp_path.parent / shard_path(tmp_path.name, 0, 4)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match="damaged"):
        reader.read(0, np.empty(SIZE, "int16"))
    with pytest.raises(IndexError):
        reader.read(3, np.empty(SIZE, "int16"))


@pytest.mark.parametrize(
    ("size", "itemsize", "length"),
    [((64, 64, 32), 2, 256), ((160, 160, 160), 2, 8), ((224, 224), 1, 512), ((512, 512, 512), 2, 1)],
)
def test_shard_length(size: tuple[int, ...], itemsize: int, length: int) -> None:
    assert shard_length(size, itemsize) == length
