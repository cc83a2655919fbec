"""Chunks as a shard holds them: a frame of blosc behind which its checksum stands."""

from typing import Any

import google_crc32c
import numcodecs.blosc as blosc
from numpy.typing import NDArray


def sealed(frame: bytes) -> bytes:
    return frame + int(google_crc32c.value(frame)).to_bytes(4, "little")


def chunk_of(
    values: NDArray[Any], codec: str = "lz4", shuffle: int = blosc.BITSHUFFLE, block: int = 0
) -> bytes:
    frame: bytes = blosc.compress(values, codec.encode(), 5, shuffle, block, values.itemsize)
    return sealed(frame)
