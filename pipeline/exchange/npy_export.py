"""A cube store -> the files in which the method's authors keep their cubes; the way in is `npy`."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.engine import counting
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.exchange.npy_files import WINDOW, head_of, values_of
from genesis_toolkit.pipeline.ledger import AnyPath, write_whole
from genesis_toolkit.pipeline.progress import Bars, Progress, callback, shows
from genesis_toolkit.pipeline.scans.find import NO_SUBSET
from genesis_toolkit.pipeline.store.open import CubeStore, open_cubes
from genesis_toolkit.pipeline.store.schema import AXES
from genesis_toolkit.pipeline.store.storage import located
from genesis_toolkit.pipeline.store.write import check_place
from genesis_toolkit.pipeline.wording import size_words

_BLOCK_VOXELS = 1 << 22  # decoded at a time
_CUBES_PER_SCAN = 32  # in the authors' names, where the store does not tell


@dataclass(frozen=True)
class ExportResult:
    """One file of `export_npy`.

    Attributes:
        path: the file.
        subset: whose cubes it holds, -1 for those without one.
        cubes: how many.
        sha256: of the file.
        done_before: it lay there already, with this content.
    """

    path: Path
    subset: int
    cubes: int
    sha256: str
    done_before: bool


@shows(Bars)
def export_npy(
    cubes: AnyPath,
    folder: AnyPath,
    *,
    dtype: Literal["float64", "float32"] = "float64",
    overwrite: bool = False,
    progress: Progress | bool = False,
) -> list[ExportResult]:
    """Write the cubes of a store as the authors' cube files, one a subset, as `numpy.save` would.

    The cubes of a subset stand in the order of the store. A file is there whole or not at all; one that is
    there already with the very content is left as it is.

    Args:
        cubes: the cube store, with the published HU window.
        folder: where the files are to lie, made where there is none.
        dtype: of the values, (HU + 1000) / 2000.
        overwrite: replace files of other content.
        progress: True shows bars on stderr; a callback is told as the work goes on.

    Raises:
        CallError: no cube store, one of patches or images, another window, or a file of other content is in
            the way.
        DataError: the store is damaged.
    """
    report = callback(progress)
    cubes, folder = located(cubes), Path(folder)
    store = open_cubes(cubes)
    if len(store.size) != len(AXES):
        raise CallError(
            f"{cubes} holds patches or images of {size_words(store.size)}, and the authors "
            "published files of cubes alone: read them with zarr, as the store's README.md shows."
        )
    if (store.window, store.attributes["unit"]) != (WINDOW, "HU"):
        raise CallError(
            f"{cubes} holds {store.window.low} .. {store.window.high} {store.attributes['unit']}, and the "
            "authors' files are of -1000 .. 1000 HU: extract the cubes with --hu -1000,1000."
        )
    check_place(folder / "cubes.npy")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CallError(f"{folder} cannot be made ({error.strerror}): choose another place.") from None
    subsets = store.scans.subset[store.table.scan]
    chosen = {int(subset): np.flatnonzero(subsets == subset) for subset in np.unique(subsets)}
    paths = {subset: folder / _file_name(store, subset) for subset in chosen}
    there: dict[int, str] = {}
    for subset, positions in chosen.items():
        if paths[subset].exists() and not overwrite:
            there[subset] = _checked(paths[subset], _parts(store, positions, np.dtype(dtype)))
    written, exported = counting(report, "cubes", len(store), 0), []
    for subset, positions in chosen.items():
        path, parts = paths[subset], _parts(store, positions, np.dtype(dtype), written)
        for left in folder.glob(f".{path.name}.*.part"):  # of a run that was killed while it wrote
            left.unlink()
        digest = there.get(subset) or write_whole(path, parts)
        exported.append(ExportResult(path, subset, len(positions), digest, subset in there))
    return exported


def _file_name(store: CubeStore, subset: int) -> str:
    """As the released trainer reads it, `bat_32_s_64x64x32_0.npy`; without a number where there is none."""
    each = store.attributes["parameters"].get("cubes_per_scan", _CUBES_PER_SCAN)
    number = "" if subset == NO_SUBSET else f"_{subset}"
    return f"bat_{each}_s_{'x'.join(map(str, store.size))}{number}.npy"


def _parts(
    store: CubeStore,
    positions: NDArray[np.int64],
    dtype: np.dtype[Any],
    written: Callable[[object], None] = lambda _: None,
) -> Iterator[bytes | memoryview]:
    """The bytes of a file, a few cubes at a time."""
    yield head_of((len(positions), *store.size), dtype)
    step = max(1, _BLOCK_VOXELS // int(np.prod(store.size)))
    room = np.empty((min(step, len(positions)), *store.size), store.cubes.dtype)
    for start in range(0, len(positions), step):
        block = positions[start : start + step]
        hu = room[: len(block)]
        store.cubes.read_many(block, hu)
        if hu.min() < WINDOW.low or hu.max() > WINDOW.high:
            raise DataError(f"{store.storage.place} holds values outside its window: it is damaged.")
        yield values_of(hu, dtype).data.cast("B")
        for cube in block:
            written(cube)


def _checked(path: Path, parts: Iterator[bytes | memoryview]) -> str:
    """The sha256 of a file that is there; a CallError where it holds something else than these parts."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for part in parts:
            if file.read(len(part)) != part:
                break
            digest.update(part)
        else:
            if not file.read(1):
                return digest.hexdigest()
    raise CallError(
        f"{path} exists and holds something else: choose another folder, or give --overwrite to replace it."
    )
