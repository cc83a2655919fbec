"""The checksum in a kernel, against google-crc32c and the published value."""

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis_toolkit.pipeline.store.crc32c import behind_zeros, crc32c, has_instruction

pytestmark = pytest.mark.skipif(not has_instruction(), reason="no x86 with SSE 4.2")


def checksum(data: bytes, skip: int = 0) -> int:
    return int(crc32c(np.frombuffer(data, np.uint8)[skip:], behind_zeros()))


def test_the_published_check_value() -> None:
    """RFC 3720, appendix B.4, and the check value of CRC-32C in every catalogue."""
    assert checksum(b"123456789") == 0xE3069283
    assert checksum(bytes(32)) == 0x8A9136AA
    assert checksum(b"\xff" * 32) == 0x62A8AB43
    assert checksum(bytes(range(32))) == 0x46DD794E


@settings(deadline=None, max_examples=200)
@given(
    seed=st.integers(0, 2**32), length=st.integers(0, 70) | st.integers(3000, 20000), skip=st.integers(0, 9)
)
def test_it_is_googles(seed: int, length: int, skip: int) -> None:
    """Lengths around eight bytes and around three blocks, at addresses that are no multiples."""
    data = np.random.default_rng(seed).bytes(length + skip)
    assert checksum(data, skip) == google_crc32c.value(data[skip:])
