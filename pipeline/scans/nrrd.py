"""Reads NRRD headers: how a `.nrrd` or `.nhdr` stores its voxels, in its own file or in others.

Source: the definition of the NRRD file format at teem.sourceforge.net/nrrd/format.html.
"""

import re
from pathlib import Path

import numpy as np

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.scans.files import not_opened
from genesis_toolkit.pipeline.scans.gate import NO_HEADER, damaged, data_file, unsupported
from genesis_toolkit.pipeline.scans.stored import Packing, Stored

_HEADER_BYTES = 1 << 20  # allows for a long list of data files
_MAGIC = b"NRRD000"
_NAMES = {
    "i1": "signed char, int8, int8_t",
    "u1": "uchar, unsigned char, uint8, uint8_t",
    "i2": "short, short int, signed short, signed short int, int16, int16_t",
    "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "i4": "int, signed int, int32, int32_t",
    "u4": "uint, unsigned int, uint32, uint32_t",
    "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "f4": "float",
    "f8": "double",
}
_TYPES = {name: code for code, names in _NAMES.items() for name in names.split(", ")}
_ENCODINGS: dict[str, Packing] = {
    "raw": "plain",
    "gz": "packed",
    "gzip": "packed",
    "txt": "text",
    "text": "text",
    "ascii": "text",
    "hex": "hex",
}
_PATTERN = re.compile(r"(.*%0?\d*d.*?)\s+(-?\d+)\s+(-?\d+)\s+(-?\d+)(?:\s+\d+)?")
_MOST_FILES = 100_000


def stored_nrrd(path: Path) -> Stored:
    """Return how the voxels of a NRRD are stored.

    Raises:
        DataError: its header is ambiguous, its data files are missing or outside its own folder, or they are
            stored in an unsupported way.
    """
    header, listed, end = _header(path)
    kind, encoding = header.get("type", ""), header.get("encoding", "").lower()
    if kind.lower() not in _TYPES:
        raise unsupported(f"the type is {kind or 'not given'}", "save the voxels as int16")
    if encoding not in _ENCODINGS:
        raise unsupported(f"the encoding is {encoding or 'not given'}", "save the voxels as raw or gzip")
    order, dtype = header.get("endian", "").lower(), np.dtype(_TYPES[kind.lower()])
    packing = _ENCODINGS[encoding]
    if order not in ("little", "big"):
        if dtype.itemsize > 1 and packing != "text":
            raise damaged(f"the endian is {order or 'not given'}")
        order = "little"
    lines, skip = (_whole(header, name) for name in ("lineskip", "byteskip"))
    names = _data_names(header.get("datafile", ""), listed)
    files = [data_file(path, name) for name in names] if names else [path]
    starts = [_after_lines(file, 0 if names else end, lines) for file in files]
    if skip < 0 and packing != "plain":
        raise unsupported(
            f"the byte skip is {skip} with {encoding} encoding", "save the scan without a byte skip"
        )
    plain = packing == "plain"
    return Stored(
        header=path,
        parts=tuple(
            (file, None if skip < 0 else start + skip * plain)
            for file, start in zip(files, starts, strict=True)
        ),
        dtype=dtype.newbyteorder("<" if order == "little" else ">"),
        packing=packing,
        skip=0 if plain else skip,
    )


def files_of_nrrd(path: Path) -> list[Path]:
    """Return the files of a NRRD, header first, even if its header is otherwise unusable.

    Raises:
        DataError: its header cannot be read, or names files outside its folder.
    """
    header, listed, _ = _header(path)
    return [path, *(data_file(path, name) for name in _data_names(header.get("datafile", ""), listed))]


def _header(path: Path) -> tuple[dict[str, str], list[str], int]:
    """Return the fields (lower case, no spaces), the data files listed after them, and where they end."""
    try:
        with path.open("rb") as file:
            if not file.read(len(_MAGIC)) == _MAGIC:
                raise damaged(NO_HEADER)
            file.readline()
            fields: dict[str, str] = {}
            while (line := file.readline(_HEADER_BYTES)).strip():
                text = line.decode("utf-8", errors="replace").strip()
                name, mark, value = text.partition(": ")
                if mark and not text.startswith("#") and ":=" not in text.split(": ")[0]:
                    fields[name.lower().replace(" ", "")] = value.strip()
                if fields.get("datafile", "").startswith("LIST"):
                    names = file.read(_HEADER_BYTES).decode("utf-8", errors="replace").splitlines()
                    return fields, [one.strip() for one in names if one.strip()], file.tell()
            return fields, [], file.tell()
    except OSError as error:
        raise DataError(not_opened(error)) from None


def _data_names(said: str, listed: list[str]) -> list[str]:
    """Return the data files: one, those of a list, or those of a pattern such as `s%03d.raw 1 12 1`."""
    if said.startswith("LIST"):
        if not listed:
            raise damaged("the header lists no data files")
        return listed
    pattern = _PATTERN.fullmatch(said)
    if pattern is None:
        return [said] if said else []
    form, first, last, step = pattern[1], *map(int, pattern.groups()[1:])
    numbers = range(first, last + (1 if step > 0 else -1), step) if step else range(0)
    if not 0 < len(numbers) <= _MOST_FILES or form.count("%") != 1:
        raise damaged(f"the data file field is {said}, which names no files")
    return [form % number for number in numbers]


def _after_lines(path: Path, start: int, lines: int) -> int:
    """Return the position in a file after `lines` lines."""
    if not lines:
        return start
    try:
        with path.open("rb") as file:
            file.seek(start)
            for _ in range(lines):
                file.readline()
            return file.tell()
    except OSError as error:
        raise DataError(not_opened(error)) from None


def _whole(header: dict[str, str], name: str) -> int:
    said = header.get(name, "0")
    if not re.fullmatch(r"-1|\d+", said):
        raise damaged(f"the {name.replace('skip', ' skip')} is {said}")
    return int(said)
