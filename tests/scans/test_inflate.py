"""Streams of zlib and gzip: what zlib refuses is refused whatever inflates them, and the bytes are zlib's."""

import gzip
import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest

from genesis_toolkit.pipeline.scans import inflate

RNG = np.random.default_rng(0)
PLAIN = RNG.normal(0, 30, 700).astype(np.int16).tobytes() + bytes(600)
RAW = zlib.compress(PLAIN, 6)[2:-4]
HEAD = b"\x1f\x8b\x08\x02" + bytes(4) + b"\x00\x03"  # whose own checksum follows


def named() -> bytes:
    file = io.BytesIO()
    with gzip.GzipFile("scan.raw", "wb", fileobj=file) as stream:
        stream.write(PLAIN)
    return file.getvalue()


def fixed() -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, 15, 8, zlib.Z_FIXED)
    return packer.compress(PLAIN) + packer.flush()


STREAMS = {
    "zlib": zlib.compress(PLAIN),
    "stored": zlib.compress(PLAIN, 0),
    "fixed": fixed(),
    "gzip": gzip.compress(PLAIN),
    "gzip with a name": named(),
    "gzip with a checked header": HEAD
    + struct.pack("<H", zlib.crc32(HEAD) & 0xFFFF)
    + RAW
    + struct.pack("<II", zlib.crc32(PLAIN), len(PLAIN)),
}


@pytest.fixture(params=["as installed", "zlib"])
def inflated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> object:
    """What a stream holds, in pieces of three lengths; None where it is refused or does not end."""
    if request.param == "zlib":
        monkeypatch.setattr(inflate, "_fast", None)

    def read(data: bytes, step: int) -> bytes | None:
        stream, out = inflate.Inflater(), b""
        try:
            for start in range(0, len(data), step):
                out += stream.decompress(data[start : start + step]) if not stream.eof else b""
        except inflate.ERRORS:
            return None
        return out if stream.eof else None

    return read


def by_zlib(data: bytes) -> bytes | None:
    stream = zlib.decompressobj(47)
    try:
        out = stream.decompress(data)
    except zlib.error:
        return None
    return out if stream.eof else None


def turned(data: bytes) -> Iterator[bytes]:
    """Every bit of the first and last bytes turned, and of some between."""
    places = {*range(24), *range(len(data) - 9, len(data)), *RNG.integers(0, len(data), 60).tolist()}
    for place in sorted(places):
        for bit in range(8):
            yield data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


@pytest.mark.parametrize("name", STREAMS)
def test_a_turned_bit_is_refused_where_zlib_refuses_it(name: str, inflated) -> None:  # type: ignore[no-untyped-def]
    data = STREAMS[name]
    for step in (1, 3, 1 << 16):
        assert inflated(data, step) == PLAIN
    outcomes = [(by_zlib(one), inflated(one, 777)) for one in turned(data)]
    assert all(expected == found for expected, found in outcomes)
    assert 0.8 < sum(found is None for _, found in outcomes) / len(outcomes) <= 1


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_that_is_cut_short_has_no_end(name: str, inflated) -> None:  # type: ignore[no-untyped-def]
    data = STREAMS[name]
    assert all(inflated(data[:cut], 1 << 16) is None for cut in range(1, len(data)))


def test_what_follows_a_stream_is_given_back() -> None:
    stream = inflate.Inflater()
    assert stream.unused_data == b""
    assert stream.decompress(STREAMS["zlib"] + b"more") == PLAIN
    assert stream.unused_data == b"more"
