"""Checks the metadata of a store against format version 1.

Pure: metadata comes as parsed JSON, files by name. No number is trusted before it is known to fit the
existing files, so metadata that claims a petabyte results in an error message without using memory.
"""

import json
import re
import struct
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from numcodecs import VLenUTF8
from numpy.typing import NDArray

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.store import schema
from genesis_toolkit.pipeline.store.shards import decode_chunk, shard_path
from genesis_toolkit.pipeline.wording import words_of

#: Size limits in bytes of a zarr.json or a log, of a chunk of a table, and of a manifest.
MOST_METADATA = 2**24
MOST_CHUNK = MOST_MANIFEST = 2**28

_LINE = re.compile(r"([0-9a-f]{64})  ([^\x00-\x1f\x7f]+)")  # line of a manifest
_STRINGS = np.dtypes.StringDType()  # as zarr reads them
_MOST_ROWS = 2**40
_MOST_CHUNK_ROWS = 2**20
_MOST_CUBE_BYTES = 2**31 - 17  # what blosc takes
_MOST_TEXT = 2**28  # bytes of a chunk of strings
_DEEPEST = 64
_TOO_DEEP = "the JSON is nested too deeply"
_PACKED = ["blosc", "crc32c"]


@dataclass(frozen=True)
class Array:
    """One array of a store, by its path, and how its values, rows first, are distributed over files.

    Attributes:
        dtype: None for strings.
        chunk: rows per chunk; for voxels, cubes per shard.
        fill: value of a chunk without a file.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None
    chunk: int
    fill: Any

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def chunks(self) -> int:
        """Return the number of chunks that its rows fill."""
        return -(-len(self) // self.chunk)

    def path(self, chunk: int) -> str:
        """Return the path of a chunk in the store."""
        return shard_path(self.name, chunk, len(self.shape))

    def place(self, path: str) -> int | None:
        """Return which of its chunks a file is; None if it is not one."""
        number = path.removeprefix(f"{self.name}/c/").split("/")[0]
        known = number.isdecimal() and len(number) < 12 and path == self.path(int(number))
        return int(number) if known and int(number) < self.chunks else None


def parse_json(data: bytes) -> Any:
    """Parse JSON from a store.

    Raises:
        ValueError: it is invalid, or nested more deeply than any of ours.
    """
    try:
        parsed = json.loads(data)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    level = [parsed]
    for _ in range(_DEEPEST):
        inner = (value for value in level if isinstance(value, dict | list))
        level = list(chain.from_iterable(one.values() if isinstance(one, dict) else one for one in inner))
        if not level:
            return parsed
    raise ValueError(_TOO_DEEP)


def described(kind: str, name: str, metadata: Any) -> Array:
    """Return one array of a kind of store as described by its parsed `zarr.json`.

    Raises:
        ValueError: it violates the format; the message gives the reason and follows its name.
    """
    expected = schema.columns_of_kind(kind)[name]
    try:
        shape, chunk = metadata["shape"], metadata["chunk_grid"]["configuration"]["chunk_shape"]
        kinds = schema.VOXELS if expected.dtype == "voxels" else (expected.dtype,)
        _among(metadata["node_type"], ("array",), "node_type")
        _among(metadata["zarr_format"], (3,), "zarr_format")
        _among(metadata["chunk_grid"]["name"], ("regular",), "chunk_grid")
        _among(metadata["chunk_key_encoding"]["name"], ("default",), "chunk_key_encoding")
        encoding = metadata["chunk_key_encoding"].get("configuration", {})
        _among(encoding.get("separator", "/"), ("/",), "separator")
        _among(metadata["data_type"], kinds, "data_type")
        if expected.dtype == "voxels" and isinstance(shape, list) and len(shape) - 1 in schema.EDGES:
            expected = replace(expected, others=expected.others[: len(shape) - 1])
        _among(metadata["dimension_names"], ([expected.dimension, *expected.others],), "dimension_names")
        _check_shape(shape, chunk, expected)
        _check_codecs(metadata["codecs"], expected, shape, metadata["data_type"])
        dtype = None if expected.dtype == "string" else np.dtype(metadata["data_type"])
        fill = "" if dtype is None else dtype.type(metadata["fill_value"])
    except (LookupError, TypeError, AttributeError, OverflowError):
        raise ValueError("the description violates the format") from None
    voxels = int(np.prod(shape[1:], dtype=object)) if expected.dtype == "voxels" else 0
    if dtype and voxels > _MOST_CUBE_BYTES // dtype.itemsize:
        raise ValueError(f"a cube of {' x '.join(map(str, shape[1:]))} voxels is larger than a chunk can be")
    return Array(name, tuple(shape), dtype, chunk[0], fill)


def check_lengths(
    arrays: Mapping[str, Array], files: Collection[str]
) -> tuple[set[str], list[tuple[str, str]]]:
    """Compare the lengths of arrays with one another, and with the existing files.

    A chunk of numbers that all equal the fill value has no file, so tables are measured by arrays that always
    have files: shards, and the identifiers of scans.

    Returns:
        The names of arrays with a plausible length, and the problems of the others, to follow their names.
    """
    believed, problems = set[str](), []
    for dimension, names in _MEASURES.items():
        measure = next((arrays[name] for name in names if name in arrays), None)
        if measure is None:
            continue
        lacking = _lacking(measure, files)
        if lacking:
            problems.append((measure.name, lacking))
            continue
        for name, array in arrays.items():
            if _DIMENSIONS[name] != dimension:
                continue
            wrong = _lacking(array, files) if name == "masks" else ""  # shards as well
            if len(array) != len(measure):
                wrong = f"the array has {len(array):,} rows, but {measure.name} has {len(measure):,}"
            if wrong:
                problems.append((name, wrong))
            else:
                believed.add(name)
    return believed, problems


def read_column(array: Array, read: Callable[[str], bytes | None]) -> NDArray[Any]:
    """Read all values of a table's column; `read` returns a file by its name, or None if it is missing.

    Raises:
        DataError: a chunk is damaged; the message follows the array's name.
    """
    values = np.empty(array.shape, array.dtype or _STRINGS)  # its pages stay unused until a chunk fills them
    for chunk in range(array.chunks):
        data, rows = read(array.path(chunk)), values[chunk * array.chunk : (chunk + 1) * array.chunk]
        if data is None:
            rows[...] = array.fill
        else:
            found = _strings(data, array.chunk) if array.dtype is None else _numbers(data, array)
            rows[...] = found[: len(rows)]
    return values


def strict_manifest(data: bytes) -> tuple[dict[str, str], list[str]]:
    """Return the sha256 by path of all readable lines of a manifest, and the problems of the others."""
    found, problems = dict[str, str](), []
    *lines, rest = data.decode(errors="backslashreplace").split("\n")
    if rest:
        problems.append("the last line is incomplete")
    for number, line in enumerate([*lines, rest] if rest else lines, start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            problems.append(f"line {number} is not a sha256 followed by a path: {words_of(line)}")
        elif leads_outside(match[2]):
            problems.append(f"line {number} has a path outside the store: {words_of(match[2])}")
        elif match[2] in found:
            problems.append(f"line {number} names {words_of(match[2])} a second time")
        else:
            found[match[2]] = match[1]
    return found, problems


def leads_outside(path: str) -> bool:
    """Return whether a path from a stranger is outside the folder that it is relative to."""
    return bool({"", ".", ".."} & set(path.split("/"))) or "\\" in path or "\0" in path


def _lacking(array: Array, files: Iterable[str]) -> str:
    """Return the problem with the number of an array's files, if every chunk must have one."""
    there = sum(array.place(path) is not None for path in files)
    if there == array.chunks:
        return ""
    return f"the {len(array):,} rows need {array.chunks:,} files, but there are {there:,}"


#: Arrays that determine the number of rows of each dimension.
_MEASURES = {"cube": ("cubes", "original"), "pair": ("degraded",), "scan": ("scans/identifier",)}

#: Row dimension of every array.
_ALL = [column for kind in schema.KINDS for column in schema.columns_of_kind(kind).items()]
_DIMENSIONS = {name: column.dimension for name, column in _ALL}


def _check_shape(shape: Any, chunk: Any, expected: schema.Column) -> None:
    for found, what in ((shape, "shape"), (chunk, "chunk_shape")):
        whole = isinstance(found, list) and all(type(edge) is int and edge >= 0 for edge in found)
        if not whole or len(found) != 1 + len(expected.others):
            raise ValueError(f"the {what} is {words_of(found)} instead of {1 + len(expected.others)} numbers")
    if expected.dtype != "voxels" and expected.others != ("class",):
        _among(shape[1:], ([schema.WIDTH[other] for other in expected.others],), "shape of a row")
    elif min(shape[1:]) < 1:
        raise ValueError(f"the cubes have the shape {words_of(shape[1:])}")
    _among(chunk[1:], (shape[1:],), "chunk_shape of a row")
    if shape[0] > _MOST_ROWS or not 1 <= chunk[0] <= _MOST_CHUNK_ROWS:
        raise ValueError(
            f"the array has {shape[0]:,} rows in chunks of {chunk[0]:,} rows, which is out of range"
        )


def _check_codecs(codecs: Any, expected: schema.Column, shape: list[int], dtype: str) -> None:
    if expected.dtype == "voxels":
        _among([codec["name"] for codec in codecs], (["sharding_indexed"],), "codecs")
        sharding = codecs[0]["configuration"]
        _among(sharding["chunk_shape"], ([1, *shape[1:]],), "chunk_shape in a shard")
        _among(sharding.get("index_location", "end"), ("end",), "index_location")
        _among([codec["name"] for codec in sharding["index_codecs"]], (["bytes", "crc32c"],), "index_codecs")
        codecs = sharding["codecs"]
    first = "vlen-utf8" if expected.dtype == "string" else "bytes"
    _among([codec["name"] for codec in codecs], ([first, *_PACKED],), "codecs")
    if first == "bytes" and np.dtype(dtype).itemsize > 1:
        _among(codecs[0]["configuration"]["endian"], ("little",), "endian")


def _among(found: Any, expected: tuple[Any, ...], what: str) -> None:
    if found not in expected:
        raise ValueError(f"the {what} is {words_of(found)} instead of {' or '.join(map(words_of, expected))}")


def _numbers(data: bytes, array: Array) -> NDArray[Any]:
    out = np.empty((array.chunk, *array.shape[1:]), array.dtype)
    decode_chunk(data, out)
    return out


def _strings(data: bytes, rows: int) -> NDArray[Any]:
    """Decode the strings of one chunk in zarr's `vlen-utf8`: their number, then each with its length."""
    size = struct.unpack_from("<I", data, 4)[0] if len(data) >= 8 else 0
    if not 4 <= size <= _MOST_TEXT:
        raise DataError("a chunk of strings is damaged")
    out = np.empty(size, np.uint8)
    decode_chunk(data, out)
    text = out.tobytes()
    if struct.unpack_from("<I", text)[0] != rows:  # prevents allocating as many as it claims
        raise DataError(f"a chunk of strings does not hold {rows:,} strings")
    try:
        return np.array(VLenUTF8().decode(text), _STRINGS)
    except ValueError:
        raise DataError("a chunk of strings is damaged") from None
