"""What SimpleITK does not notice in a file of scans: that it is cut short, damaged, or points elsewhere, or
that its header says nothing certain.

Tried with each format cut in half and with a byte turned: a short `.nii` or `.nii.gz` is read without a word,
with what memory held in place of the missing voxels; a damaged `.zraw` likewise, with a quarter of the voxels
wrong; a short `.raw` says "No such file". NRRD is checked well by SimpleITK itself. A byte that turned in an
uncompressed file cannot be noticed by anyone; that is what the sha256 in the store is for.
"""

import gzip
import hashlib
import math
import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.scans.files import check_file, not_opened

META_IMAGE = (".mhd", ".mha")
NIFTI = (".nii", ".nii.gz")

#: What a scan's file may be called.
SUFFIXES = (*META_IMAGE, *NIFTI, ".nrrd")

_HEADER_BYTES = (4096, 65536)  # a MetaImage header is a few hundred bytes of text; how much is read of one
_NIFTI_1, _NIFTI_2 = 348, 540  # bytes of a NIfTI header, with which it begins
_BLOCK = 1 << 20
_CACHED = 1 << 18  # bytes that stay in a core's own cache
_MOST_DEFLATED = 1100  # no stream of zlib inflates to more times its bytes
_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}


def files_of(path: Path) -> list[Path]:
    """The files that a scan is made of, header first."""
    data = _data_file(path, _meta_header(path)) if path.suffix.lower() in META_IMAGE else None
    return [path] if data is None else [path, data]


def check_meta_image(path: Path) -> None:
    """Refuse a MetaImage whose voxels are missing, cut short, or outside its own folder.

    Raises:
        DataError: why, to go after the scan's name.
    """
    header = _meta_header(path)
    if not header.get("ElementDataFile"):
        raise DataError("its header names no ElementDataFile")
    if header["ElementDataFile"].startswith("LIST") or "%" in header["ElementDataFile"]:
        raise DataError("its voxels lie in a list of files, which is not read: write it as one file")
    data = _data_file(path, header)
    if data is None:
        return
    if not data.is_file():
        raise DataError(f"its data file {data.name} is missing")
    found, needed = data.stat().st_size, _stored_bytes(header)
    if needed is not None and found < needed:
        raise DataError(f"its data file {data.name} is cut short: {found} bytes, {needed} needed")


def inflate_meta_image(path: Path) -> NDArray[Any] | None:
    """The voxels [z, y, x] of a compressed MetaImage, its checksum looked at; None for any other MetaImage.

    Raises:
        DataError: the compressed voxels are damaged or cut short.
    """
    header = _meta_header(path)
    if not _is_deflated(header):
        return None
    dtype = _TYPES[header["ElementType"]]
    shape = _edges(header)[::-1]
    order = (
        ">" if _is_true(header, "BinaryDataByteOrderMSB") or _is_true(header, "ElementByteOrderMSB") else "<"
    )
    needed = int(np.prod(shape, dtype=object)) * int(dtype[1])
    data = _data_file(path, header)
    with (data or path).open("rb") as file:
        if data is None:
            head = file.read(_HEADER_BYTES[1])
            file.seek(head.index(b"\n", head.index(b"ElementDataFile")) + 1)
        believable = needed <= _MOST_DEFLATED * os.fstat(file.fileno()).st_size
        values = np.empty(needed if believable else 0, np.uint8)
        found = _inflate(file, values)
    if not shape or found != needed:
        raise DataError(f"it holds {found} bytes of voxels, its header asks for {needed}")
    return values.view(order + dtype).reshape(shape).astype(dtype, copy=False)


def read_by_us(path: Path) -> bool:
    """Whether the voxels of a scan are read without SimpleITK: those of most MetaImages."""
    if path.suffix.lower() not in META_IMAGE:
        return False
    try:
        check_file(path)
        header = _meta_header(path)
        return _is_deflated(header) or _plain_voxels(path, header) is not None
    except (DataError, OSError):
        return True  # nothing reads it


def read_plain(path: Path) -> tuple[NDArray[np.int16], str] | None:
    """The voxels of a MetaImage of plain int16 in a file of its own, and the sha256 of header and voxels.

    They are hashed as they are read, block by block while a block is in the processor's cache: 0.74 of the
    time of SimpleITK's reading and of hashing the files after it.

    Returns:
        int16 [voxel], x fastest, and the sha256 in hexadecimal; None for any other MetaImage.

    Raises:
        DataError: it became shorter while it was read.
    """
    header = _meta_header(path)
    data, needed = _plain_voxels(path, header), _stored_bytes(header)
    if data is None or needed is None:
        return None
    values = np.empty(needed // 2, np.dtype("<i2"))
    digest, room, done = hashlib.sha256(path.read_bytes()), values.view(np.uint8), 0
    with data.open("rb", buffering=0) as file:
        while count := file.readinto(room[done : done + _CACHED].data):
            digest.update(room[done : done + count].data)
            done += count
    if done != needed:
        raise DataError(f"its data file {data.name} was cut short while it was read")
    return values.astype(np.int16, copy=False), digest.hexdigest()


def _is_deflated(header: dict[str, str]) -> bool:
    """Whether the voxels are compressed, one number each."""
    known = header.get("ElementType", "") in _TYPES
    return known and _is_true(header, "CompressedData") and _channels(header) == 1


def _plain_voxels(path: Path, header: dict[str, str]) -> Path | None:
    """The file of voxels that are int16 as they lie in memory, and nothing else in it; None for any other."""
    data, needed = _data_file(path, header), _stored_bytes(header)
    swapped = _is_true(header, "BinaryDataByteOrderMSB") or _is_true(header, "ElementByteOrderMSB")
    plain = header.get("ElementType") == "MET_SHORT" and header.get("BinaryData", "True").lower() == "true"
    if data is None or not plain or swapped or _is_true(header, "CompressedData") or _channels(header) != 1:
        return None
    return None if "HeaderSize" in header or data.stat().st_size != needed else data


def _inflate(file: BinaryIO, room: NDArray[np.uint8]) -> int:
    """Inflate a file into an array by blocks; how many bytes there are, those it has no room for too."""
    packed, count = zlib.decompressobj(), 0
    with suppress(zlib.error):  # after one there is no end
        while not packed.eof and (block := file.read(_BLOCK // 4)):
            piece = np.frombuffer(packed.decompress(block), np.uint8)
            room[count : count + piece.size] = piece[: max(room.size - count, 0)]
            count += piece.size
    if not packed.eof:
        raise DataError("its voxels cannot be read: the file is damaged or cut short")
    return count


def check_nifti_header(path: Path) -> None:
    """Refuse a NIfTI file whose header leaves open how large its voxels are, or how their values are scaled.

    SimpleITK takes a spacing of 0 or NaN for 1 without a word, and a slope of 0 or NaN for 1 together with
    any intercept, where nibabel, to the letter of the standard, leaves the intercept out.

    Raises:
        DataError: why, to go after the scan's name.
    """
    head = _nifti_head(path)
    order = next((order for order in "<>" if head[:4] == struct.pack(order + "i", _NIFTI_1)), "")
    if head[:4] in (struct.pack("<i", _NIFTI_2), struct.pack(">i", _NIFTI_2)):
        raise DataError("it is of NIfTI's second version, which is not read: write it as NIfTI-1")
    if not order or len(head) < _NIFTI_1:
        return  # SimpleITK says what is wrong with it
    spacing = tuple(float(f"{edge:g}") for edge in struct.unpack_from(order + "3f", head, 80))
    if not all(math.isfinite(edge) and edge > 0 for edge in spacing):
        raise DataError(f"its spacing {spacing} is not positive")
    slope, intercept = struct.unpack_from(order + "2f", head, 112)
    scaled = math.isfinite(slope) and slope != 0
    if not (math.isfinite(intercept) if scaled else intercept == 0 or math.isnan(intercept)):
        raise DataError(
            f"its header has slope {slope:g} and intercept {intercept:g}, which programs take in different "
            "ways: write it with a slope that is not 0, and an intercept"
        )


def check_nifti(path: Path, reader: Any) -> None:
    """Refuse a NIfTI file that ends before its last voxel, or whose compression is damaged.

    A compressed one is inflated to its end for this, once more than reading does.

    Args:
        path: the file.
        reader: a SimpleITK reader that has read its header.

    Raises:
        DataError: why, to go after the scan's name.
    """
    bits, offset = int(reader.GetMetaData("bitpix")), float(reader.GetMetaData("vox_offset"))
    needed = int(offset) + int(np.prod(reader.GetSize(), dtype=object)) * bits // 8
    found = _inflated_bytes(path) if path.suffix.lower() == ".gz" else path.stat().st_size
    if found < needed:
        raise DataError(f"it is cut short: {found} bytes, {needed} needed")


def _nifti_head(path: Path) -> bytes:
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            return file.read(_NIFTI_2)
    except (EOFError, OSError, zlib.error):
        raise DataError("its header cannot be read: it is damaged or of another format") from None


def _inflated_bytes(path: Path) -> int:
    count = 0
    try:
        with gzip.open(path) as file:
            while block := file.read(_BLOCK):
                count += len(block)
    except (EOFError, OSError, zlib.error):
        raise DataError("its voxels cannot be read: the file is damaged or cut short") from None
    return count


def _meta_header(path: Path) -> dict[str, str]:
    try:
        with path.open("rb", buffering=0) as file:
            text = file.read(_HEADER_BYTES[0])
            if b"\n" not in text.partition(b"ElementDataFile")[2]:
                text += file.read(_HEADER_BYTES[1])
    except OSError as error:
        raise DataError(not_opened(error)) from None
    header: dict[str, str] = {}
    for line in text.decode("utf-8", errors="replace").splitlines():
        key, mark, value = line.partition("=")
        if mark:
            header[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":  # the last key; voxels may follow
            break
    return header


def _data_file(path: Path, header: dict[str, str]) -> Path | None:
    """The file of voxels beside the header; None where they are in the header's file or in many files."""
    name = header.get("ElementDataFile", "")
    if name in ("", "LOCAL", "LIST") or "%" in name:
        return None
    if Path(name).name != name:
        raise DataError(f"its header points to {name}, outside its own folder, which is refused")
    return path.with_name(name)


def _stored_bytes(header: dict[str, str]) -> int | None:
    """How many bytes of voxels the header asks for; None where it does not say."""
    if _is_true(header, "CompressedData"):
        said = header.get("CompressedDataSize", "")
        return int(said) if _is_number(said) else None
    dtype = _TYPES.get(header.get("ElementType", ""))
    edges = _edges(header)
    if dtype is None or not edges:
        return None
    return int(dtype[1]) * _channels(header) * int(np.prod(edges, dtype=object))


def _edges(header: dict[str, str]) -> tuple[int, ...]:
    edges = header.get("DimSize", "").split()
    return tuple(int(edge) for edge in edges) if all(_is_number(edge) for edge in edges) else ()


def _channels(header: dict[str, str]) -> int:
    said = header.get("ElementNumberOfChannels", "1")
    return int(said) if _is_number(said) else 1


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _is_true(header: dict[str, str], key: str) -> bool:
    return header.get(key, "False").lower() in ("true", "1")
