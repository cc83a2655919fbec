"""The checksum of chunks, CRC-32C, for kernels: by the processor's own instruction.

google-crc32c is the reference and a tenth faster, but a kernel cannot call it.

The instruction takes eight bytes, and three of them can be under way at once. So three neighbouring blocks
are taken at once, and put together by tables of what a block of zeros behind it makes of a checksum, which is
linear in its bits (Gopal et al., "Fast CRC computation for iSCSI polynomial using CRC32 instruction", 2011).
"""

import platform
from functools import cache
from typing import Final

import google_crc32c
import numpy as np
from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba import types
from numba.core import config
from numpy.typing import NDArray

from genesis_toolkit.pipeline.jit import inlined, instructions, kernel

_BLOCK: Final = 1024  # bytes; of 512 to 8,192 none is faster
_BYTES: Final = np.uintp(_BLOCK)
_STEP: Final = np.uintp(8)
_ONES: Final = np.uint64(0xFFFFFFFF)
_BYTE: Final = np.uint64(0xFF)


def has_instruction() -> bool:
    """Whether kernels may use it here: an x86 with SSE 4.2, and numba compiling for this very processor."""
    own = config.CPU_NAME is None and config.CPU_FEATURES is None  # type: ignore[attr-defined]
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return own and x86 and bool(binding.get_host_cpu_features().get("sse4.2", False))


@cache
def behind_zeros() -> NDArray[np.uint64]:
    """What a block of zeros makes of a checksum before it.

    Returns:
        uint64 [4, 256]: for each byte of the checksum, the lowest first, and each value of it.
    """
    zeros, ones = bytes(_BLOCK), int(_ONES)
    return np.array(
        [
            [google_crc32c.extend(value << 8 * byte ^ ones, zeros) ^ ones for value in range(256)]
            for byte in range(4)
        ],
        np.uint64,
    )


@instructions
def _take_eight(typing, checksum, address):  # type: ignore[no-untyped-def]  # noqa: ARG001
    """The checksum with eight bytes more, without the inversions before and after."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]  # noqa: ARG001
        word = ir.IntType(64)
        name = "llvm.x86.sse42.crc32.64.64"
        instruction = builder.module.globals.get(name)
        if instruction is None:
            instruction = ir.Function(builder.module, ir.FunctionType(word, [word, word]), name)
        value = builder.load(builder.inttoptr(arguments[1], word.as_pointer()))
        value.align = 1
        return builder.call(instruction, [arguments[0], value])

    return types.uint64(types.uint64, types.uintp), generate


@inlined
def _behind(checksum, table):  # type: ignore[no-untyped-def]
    """A checksum with a block of zeros more."""
    return (
        table[0, checksum & _BYTE]
        ^ table[1, (checksum >> np.uint64(8)) & _BYTE]
        ^ table[2, (checksum >> np.uint64(16)) & _BYTE]
        ^ table[3, checksum >> np.uint64(24)]
    )


@kernel
def crc32c(data, table):  # type: ignore[no-untyped-def]
    """The CRC-32C of bytes.

    Args:
        data: uint8 [byte], C-contiguous.
        table: see `behind_zeros`.

    Returns:
        uint64 that holds 32 bits.
    """
    at = np.uintp(data.ctypes.data)
    left = np.uintp(data.size)
    first = _ONES
    while left >= _BYTES + _BYTES + _BYTES:
        second = np.uint64(0)
        third = np.uint64(0)
        for k in range(np.uintp(0), _BYTES, _STEP):
            first = _take_eight(first, at + k)
            second = _take_eight(second, at + _BYTES + k)
            third = _take_eight(third, at + _BYTES + _BYTES + k)
        first = _behind(_behind(first, table) ^ second, table) ^ third
        at += _BYTES + _BYTES + _BYTES
        left -= _BYTES + _BYTES + _BYTES
    while left >= _STEP:
        first = _take_eight(first, at)
        at += _STEP
        left -= _STEP
    for k in range(data.size - np.int64(left), data.size):
        first ^= np.uint64(data[k])
        for _ in range(8):  # the polynomial, bit by bit
            first = (first >> np.uint64(1)) ^ (np.uint64(0x82F63B78) * (first & np.uint64(1)))
    return first ^ _ONES
