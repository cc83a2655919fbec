"""Draws contact sheets of a store: cubes, or pairs with each degradation alone and combined."""

from pathlib import Path, PurePath
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from genesis_toolkit.pipeline.degrade.compose import Degrader
from genesis_toolkit.pipeline.degrade.recipes import Applied, Recipe, only, shares
from genesis_toolkit.pipeline.describe.facts import applied_words, flip_axes
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.pictures.charts import save_png
from genesis_toolkit.pipeline.store.open import AnyStore, CubeStore, PairStore, TargetStore
from genesis_toolkit.pipeline.store.schema import FOLDS
from genesis_toolkit.pipeline.store.write import check_place

#: The headings of `middle_slices`.
PLANES = ("axial", "coronal", "sagittal")

_SHOWN = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}  # axes across and down

_PNG = b"\x89PNG\r\n\x1a\n"
_CELL = 1.7  # inches per picture
_MOST_ASPECT = 20.0  # limits implausible spacings in a store
_COLUMNS = 3  # columns of patches or images
_MOST_LETTERS = 36  # per line under a picture
_ALONE = {
    Applied.NONLINEAR: "non-linear",
    Applied.SHUFFLE: "local shuffling",
    Applied.INPAINT: "in-painting",
    Applied.OUTPAINT: "out-painting",
}


class Picture(NamedTuple):
    """One picture of a sheet.

    Attributes:
        voxels: a slice, integers [across, down] in the store's window.
        label: the lines under it.
        mask: 0 and 1 [across, down], whose edge is drawn over the picture; None if there is none.
        aspect: aspect of a voxel, its height divided by its width.
    """

    voxels: NDArray[Any]
    label: str = ""
    mask: NDArray[np.uint8] | None = None
    aspect: float = 1.0


def draw_sheet(store: AnyStore, png: Path, rows: int) -> None:
    """Draw a contact sheet, as selected by `contact_rows`.

    Args:
        store: an open store.
        png: the file to write.
        rows: number of rows to show.

    Raises:
        CallError: the file's name does not end in `.png`, or it would replace something other than a picture.
    """
    if png.suffix.lower() != ".png":
        raise CallError(f"{png} is neither a picture nor a report: the name must end in .png or .html.")
    if png.exists() and not (png.is_file() and png.read_bytes()[:8] == _PNG):
        raise CallError(f"{png} exists and is not a PNG, so it is left untouched: choose another name.")
    check_place(png)
    low, high = store.window.low, store.window.high
    headings, pictures = contact_rows(store, rows)
    figure = Figure(
        figsize=(_CELL * len(headings), (_CELL + 0.35) * len(pictures) + 0.8), dpi=120, layout="constrained"
    )
    title = f"{PurePath(store.storage.place).name}: {store.contents}, {store.values}"
    figure.suptitle(title, fontsize=9, parse_math=False)
    cells = figure.subplots(len(pictures), len(headings), squeeze=False)
    for row, line in enumerate(pictures):
        for column, (voxels, label, mask, aspect) in enumerate(line):
            cell = cells[row, column]
            look: Any = {"cmap": "gray", "interpolation": "nearest", "aspect": aspect}
            cell.imshow(voxels.T, vmin=low, vmax=high, **look)
            if mask is not None and mask.min() < mask.max():  # otherwise it has no edge, and matplotlib warns
                cell.contour(mask.T, levels=[0.5], colors="tab:orange", linewidths=0.8)
            cell.set_xticks([])
            cell.set_yticks([])
            label = "\n".join(fill(words, _MOST_LETTERS) for words in label.split("\n"))
            cell.set_xlabel(label, fontsize=6, parse_math=False)
            if row == 0:
                cell.set_title(headings[column], fontsize=8)
    save_png(figure, png)


def contact_rows(store: AnyStore, rows: int) -> tuple[list[str], list[list[Picture]]]:
    """Return the pictures of a contact sheet, for cubes spaced evenly through the store.

    A cube is shown by its middle axial, coronal and sagittal slice, with the edge of its mask; patches and
    images as they are, three per row. A pair is shown by the original (for cubes, the middle axial slice),
    each degradation alone as the store's recipe draws it, and the stored degraded cube. If there are labels,
    half of the cubes show a class, as far as available.

    Args:
        store: an open store.
        rows: largest number of rows.

    Returns:
        headings : headings of the columns.
        pictures : by row and column.
    """
    if isinstance(store, PairStore):
        headings = ["original", *(f"{_ALONE[member]} alone" for member in _drawn(store)), "as stored"]
        chosen = enumerate(evenly(len(store.table), rows))
        return headings, [_pair_row(store, cube, row % store.variants) for row, cube in chosen]
    if len(store.size) == 3:
        return list(PLANES), [_planes(store, cube) for cube in _chosen(store, rows)]
    columns = min(_COLUMNS, len(store))
    plane = store.attributes["parameters"].get("plane")
    pictures = [
        Picture(
            _upright(_cube(store, cube)[0], plane), _label(store, cube), None, _aspect(store, cube, plane)
        )
        for cube in _chosen(store, columns * min(rows, len(store) // columns))
    ]
    heading = "image" if store.images is not None else str(plane or "axial")
    return [heading] * columns, [pictures[at : at + columns] for at in range(0, len(pictures), columns)]


def evenly(count: int, most: int) -> list[int]:
    """Return at most `most` of the numbers 0 .. `count` - 1, spread evenly from the first to the last."""
    return [int(number) for number in np.unique(np.linspace(0, count - 1, min(most, count)).round())]


def middle_slices(voxels: NDArray[Any]) -> list[NDArray[Any]]:
    """Return the middle axial, coronal and sagittal slice of a cube [x, y, z], each [across, down]."""
    x, y, z = (edge // 2 for edge in voxels.shape)
    # The first slice is at the patient's feet: flipped, so that they are at the bottom of the picture.
    return [voxels[:, :, z], voxels[:, y, ::-1], voxels[x, :, ::-1]]


def _aspect(store: AnyStore, cube: int, plane: object = None) -> float:
    """Return the height of a voxel divided by its width, in a slice of a cube's scan; 1 if unknown."""
    spacing = store.scans.spacing[int(store.table.scan[cube])]
    across, down = spacing[list(_SHOWN.get(str(plane), (0, 1)))]
    if not (across > 0 and down > 0):
        return 1.0
    return min(max(float(down / across), 1 / _MOST_ASPECT), _MOST_ASPECT)


def _chosen(store: CubeStore | TargetStore, count: int) -> list[int]:
    """Return `count` cubes, in order; if labelled, half with a class and half without, if possible."""
    if not isinstance(store, TargetStore) or store.labels is None:
        return evenly(len(store), count)
    any_class = (store.labels == 1).any(axis=1)
    shown, others = np.flatnonzero(any_class), np.flatnonzero(~any_class)
    most = min(len(shown), max(count // 2, count - len(others)))
    return sorted(
        int(kind[place])
        for kind, share in ((shown, most), (others, count - most))
        for place in (evenly(len(kind), share) if min(len(kind), share) else ())
    )


def _cube(store: CubeStore | TargetStore, cube: int) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
    """Return the voxels of a cube, and its mask if it has one."""
    if isinstance(store, CubeStore):
        return store[cube], None
    voxels, answer = store[cube]
    return voxels, None if store.masks is None else answer


def _planes(store: CubeStore | TargetStore, cube: int) -> list[Picture]:
    """Return the three slices of a cube."""
    voxels, mask = _cube(store, cube)
    below = "" if mask is None else f"{100 * mask.mean():.1f} % foreground"
    if isinstance(store, CubeStore):
        below = f"tissue {store.table.tissue[cube]:.3f}"
    masks = [None] * len(PLANES) if mask is None else middle_slices(mask)
    aspects = [_aspect(store, cube, plane) for plane in PLANES]
    return list(map(Picture, middle_slices(voxels), (_label(store, cube), below, ""), masks, aspects))


def _label(store: CubeStore | TargetStore, cube: int) -> str:
    """Return the lines under a cube's first picture: its identity, and what is known of it."""
    row = int(store.table.scan[cube])
    lines = [f"cube {cube} of {store.scans.names[row]}"]
    if isinstance(store, TargetStore):
        lines.append(FOLDS[int(store.table.fold[cube])])
        if store.labels is not None:
            classes = [
                name for name, there in zip(store.classes, store.labels[cube] == 1, strict=True) if there
            ]
            none = f"no {store.classes[0]}" if len(store.classes) == 1 else "none of the classes"
            lines.append(", ".join(classes) or none)
    elif store.images is not None:
        labels = str(store.images.labels[row]).replace("|", ", ")
        lines += [str(store.images.view[row]), labels]
    else:
        lines.append(f"corner {', '.join(map(str, store.table.corner[cube]))}")
        lines += [f"tissue {store.table.tissue[cube]:.3f}"] if len(store.size) == 2 else []
    return "\n".join(lines)


def _upright(pixels: NDArray[Any], plane: object) -> NDArray[Any]:
    """Return a patch with the patient's feet, which are at the first slice, at the bottom."""
    return pixels[:, ::-1] if plane in ("coronal", "sagittal") else pixels


def _drawn(store: PairStore) -> list[Applied]:
    """Return the degradations that the store's recipe can apply."""
    made = shares(Recipe.from_json(store.attributes["parameters"]["recipe"]))
    return [member for member in _ALONE if made[member] > 0]


def _pair_row(store: PairStore, cube: int, variant: int) -> list[Picture]:
    original = store.original.rows([cube])
    pair = variant * len(store.table) + cube
    flip, applied = int(store.pairs.flip[pair]), int(store.pairs.applied[pair])
    recipe = Recipe.from_json(store.attributes["parameters"]["recipe"])
    aspect = _aspect(store, cube, store.attributes["cubes"].get("plane"))
    scan = store.scans.names[int(store.table.scan[cube])]
    row = [Picture(_shown(store, original), f"cube {cube} of {scan}", None, aspect)]
    for member in _drawn(store):
        alone = np.empty_like(original)
        bits = np.zeros(1, np.uint8)
        stream, number = store.streams()[[cube]], store.table.number[[cube]]
        degrader = Degrader(only(recipe, member), store.size, store.window, store.seed)
        degrader(original, stream, number, variant, alone, bits, bits.copy())
        row.append(Picture(_shown(store, alone), "", None, aspect))
    done = [f"flipped {flip_axes(flip)}"] if flip else []
    label = f"variant {variant}\n" + ", ".join([*done, *(applied_words(applied) or ["unchanged"])])
    return [*row, Picture(_shown(store, store.degraded.rows([pair])), label, None, aspect)]


def _shown(store: PairStore, cubes: NDArray[Any]) -> NDArray[Any]:
    """Return the middle axial slice of the first cube given; patches and images whole."""
    if len(store.size) == 3:
        return cubes[0, :, :, store.size[2] // 2]
    return _upright(cubes[0], store.attributes["cubes"].get("plane"))
