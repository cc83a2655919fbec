"""Reads MetaImage headers: how a `.mhd` or `.mha` stores its voxels.

The rules are SimpleITK's: a key ends at the first `=` or `:`, a boolean is true if it starts with T, t or 1,
BinaryDataByteOrderMSB overrides ElementByteOrderMSB, and voxels are binary by default.
"""

import re
from pathlib import Path

import numpy as np

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.scans.files import not_opened
from genesis_toolkit.pipeline.scans.gate import damaged, data_file, unsupported
from genesis_toolkit.pipeline.scans.stored import Stored

_HEADER_BYTES = (4096, 65536)  # bytes to read: a header is a few hundred bytes of text
_DATA, _LOCAL = "ElementDataFile", ("LOCAL", "Local", "local")
_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}


def stored_meta_image(path: Path) -> Stored:
    """Return how the voxels of a MetaImage are stored.

    Raises:
        DataError: its header is ambiguous, its voxels are missing or outside its own folder, or they are
            stored in an unsupported way.
    """
    header, end = _header(path)
    name, kind = header.get(_DATA, ""), header.get("ElementType", "")
    if not name:
        raise damaged(f"the header has no {_DATA}")
    if name.startswith("LIST") or "%" in name:
        raise unsupported("the voxels are in a list of files", "save the scan as one file")
    if kind not in _TYPES:
        raise unsupported(
            f"the ElementType is {kind or 'not given'}", f"save the voxels as {', '.join(_TYPES)}"
        )
    inside = name in _LOCAL
    said = header.get("HeaderSize", "0")
    if not re.fullmatch(r"-1|\d+", said):
        raise damaged(f"the HeaderSize is {said}")
    if inside and int(said) > 0:
        raise unsupported(
            f"the HeaderSize is {said} with voxels in the same file", "save the scan without HeaderSize"
        )
    order = header.get("BinaryDataByteOrderMSB") or header.get("ElementByteOrderMSB", "")
    offset = None if said == "-1" else end if inside else int(said)
    packed = _is_true(header.get("CompressedData", ""))
    if packed and said == "-1":
        raise unsupported("the HeaderSize is -1 with compressed voxels", "save the scan without HeaderSize")
    return Stored(
        header=path,
        parts=((path if inside else data_file(path, name), offset),),
        dtype=np.dtype((">" if _is_true(order) else "<") + _TYPES[kind]),
        packing="packed" if packed else "plain" if _is_true(header.get("BinaryData", "True")) else "text",
    )


def files_of_meta_image(path: Path) -> list[Path]:
    """Return the files of a MetaImage, header first, even if its header is otherwise unusable.

    Raises:
        DataError: its header cannot be opened, or names files outside its folder.
    """
    name = _header(path)[0].get(_DATA, "")
    inside = not name or name in _LOCAL or name.startswith("LIST") or "%" in name
    return [path] if inside else [path, data_file(path, name)]


def _header(path: Path) -> tuple[dict[str, str], int]:
    """Return the header's fields, and the position at which it ends."""
    try:
        with path.open("rb", buffering=0) as file:
            text = file.read(_HEADER_BYTES[0])
            if b"\n" not in text.partition(_DATA.encode())[2]:
                text += file.read(_HEADER_BYTES[1])
    except OSError as error:
        raise DataError(not_opened(error)) from None
    header: dict[str, str] = {}
    end = 0
    for line in text.splitlines(keepends=True):
        end += len(line)
        parts = re.split("[=:]", line.decode("utf-8", errors="replace"), maxsplit=1)
        if len(parts) < 2:
            continue
        key, value = (part.strip() for part in parts)
        header[key] = value
        if key == _DATA:  # the last key; voxels may follow
            break
    return header, end


def _is_true(value: str) -> bool:
    return value[:1] in ("T", "t", "1")
