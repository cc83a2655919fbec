"""What SimpleITK does not notice in a file of scans: that it is cut short, damaged, or points elsewhere.

Tried with each format cut in half and with a byte turned: a short `.nii` or `.nii.gz` is read without a word,
with what memory held in place of the missing voxels; a damaged `.zraw` likewise, with a quarter of the voxels
wrong; a short `.raw` says "No such file". NRRD is checked well by SimpleITK itself. A byte that turned in an
uncompressed file cannot be noticed by anyone; that is what the sha256 in the store is for.
"""

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError

META_IMAGE = (".mhd", ".mha")
NIFTI = (".nii", ".nii.gz")

_HEADER_BYTES = 65536  # a MetaImage header is a few hundred bytes of text
_BLOCK = 1 << 20
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
    dtype = _TYPES.get(header.get("ElementType", ""))
    if not _is_true(header, "CompressedData") or dtype is None or _channels(header) != 1:
        return None
    data = _data_file(path, header)
    stored = path.read_bytes().partition(b"LOCAL")[2].lstrip(b"\r\n") if data is None else data.read_bytes()
    try:
        inflated = zlib.decompress(stored)
    except zlib.error:
        raise DataError("its voxels cannot be read: the file is damaged or cut short") from None
    shape = _edges(header)[::-1]
    order = (
        ">" if _is_true(header, "BinaryDataByteOrderMSB") or _is_true(header, "ElementByteOrderMSB") else "<"
    )
    needed = int(np.prod(shape, dtype=object)) * int(dtype[1])
    if not shape or len(inflated) != needed:
        raise DataError(f"it holds {len(inflated)} bytes of voxels, its header asks for {needed}")
    values = np.frombuffer(inflated, order + dtype)
    return values.reshape(shape).astype(dtype, copy=False)


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
        with path.open("rb") as file:
            text = file.read(_HEADER_BYTES).decode("utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"it cannot be opened: {error.strerror}") from None
    header: dict[str, str] = {}
    for line in text.splitlines():
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
