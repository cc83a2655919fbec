"""A contact sheet of a target store: cubes or images with their labels or masks, and the fold they are in."""

from pathlib import Path
from textwrap import fill

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.pictures.sheet import (
    COLUMNS,
    MOST_LETTERS,
    PLANES,
    Picture,
    check_picture,
    draw_pictures,
    evenly,
    middle_slices,
    sheet_title,
)
from genesis_toolkit.pipeline.store.open import TargetStore
from genesis_toolkit.pipeline.store.schema import FOLDS

#: The masks of a row of pictures [across, down]; None of a picture without one.
Outlines = list[NDArray[np.uint8] | None]


def draw_targets(store: TargetStore, png: Path, rows: int) -> None:
    """Draw a contact sheet of a target store, as `target_rows` chooses it.

    Args:
        store: opened.
        png: the file to write.
        rows: how many rows to show.

    Raises:
        CallError: the file's name does not end in `.png`, or it would replace what is no picture.
    """
    check_picture(png)
    flat = len(store.size) == 2
    headings, pictures, outlines = target_rows(store, rows)
    title = sheet_title(store, len(store), "labelled images" if flat else "labelled cubes")
    draw_pictures(png, title, headings, pictures, store.window, outlines)


def target_rows(store: TargetStore, rows: int) -> tuple[list[str], list[list[Picture]], list[Outlines]]:
    """The pictures of a contact sheet, with the masks whose edges go over them.

    Where there are labels, half of the cubes show a class, as far as there are any; both kinds are taken
    evenly. Of a cube the middle axial, coronal and sagittal slice; images as they are, three a row.

    Args:
        store: opened.
        rows: how many rows to show, at most.

    Returns:
        headings : of the columns.
        pictures : by row and column, integers [across, down] in the store's window.
        outlines : by row and column, 0 and 1 [across, down]; None but of segmentation.
    """
    if len(store.size) == 3:
        chosen = _chosen(store, rows)
        shown = [_cube_row(store, cube) for cube in chosen]
        return list(PLANES), [pictures for pictures, _ in shown], [masks for _, masks in shown]
    columns = min(COLUMNS, len(store))
    chosen = _chosen(store, columns * min(rows, len(store) // columns))
    flat: list[Picture] = [(_read(store, cube), _told(store, cube)) for cube in chosen]
    pictures = [flat[start : start + columns] for start in range(0, len(flat), columns)]
    return ["image"] * columns, pictures, [[None] * len(line) for line in pictures]


def _chosen(store: TargetStore, count: int) -> list[int]:
    """So many cubes, in order; of labelled ones half with a class and half without, if there are any."""
    if store.labels is None:
        return evenly(len(store), count)
    any_class = store.labels.any(axis=1)
    shown, others = np.flatnonzero(any_class), np.flatnonzero(~any_class)
    most = min(len(shown), max(count // 2, count - len(others)))
    return sorted(
        int(kind[place])
        for kind, wanted in ((shown, most), (others, count - most))
        for place in (evenly(len(kind), wanted) if min(len(kind), wanted) else ())
    )


def _cube_row(store: TargetStore, cube: int) -> tuple[list[Picture], Outlines]:
    told, outlines = (_told(store, cube), "", ""), Outlines([None] * len(PLANES))
    if store.masks is not None:
        mask = np.empty(store.size, np.uint8)
        store.masks.read(cube, mask)
        outlines = list(middle_slices(mask))
        told = (_told(store, cube), f"{100 * mask.mean():.1f} % foreground", "")
    return list(zip(middle_slices(_read(store, cube)), told, strict=True)), outlines


def _read(store: TargetStore, cube: int) -> NDArray[np.integer]:
    voxels = np.empty(store.size, store.cubes.dtype)
    store.cubes.read(cube, voxels)
    return voxels


def _told(store: TargetStore, cube: int) -> str:
    """The lines under a picture: which cube it is, its fold, its classes."""
    row, fold = int(store.table.scan[cube]), FOLDS[int(store.table.fold[cube])]
    what = "scan" if len(store.size) == 3 else "image"
    lines = [f"cube {cube}, {what} {row}", fold]
    if store.labels is not None:
        classes = [name for name, there in zip(store.classes, store.labels[cube], strict=True) if there]
        none = f"no {store.classes[0]}" if len(store.classes) == 1 else "none of the classes"
        lines.append(fill(", ".join(classes) or none, MOST_LETTERS))
    return "\n".join(lines)
