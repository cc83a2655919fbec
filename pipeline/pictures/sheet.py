"""Pictures of a store: a contact sheet of cubes, or of pairs with each degradation alone and combined."""

import io
from collections.abc import Sequence
from pathlib import Path, PurePath
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from genesis_toolkit.pipeline.degrade.compose import Degrader
from genesis_toolkit.pipeline.degrade.recipes import Applied, Recipe, only
from genesis_toolkit.pipeline.describe.facts import applied_words, flip_axes
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.pipeline.ledger import write_whole
from genesis_toolkit.pipeline.store.open import AnyStore, CubeStore, PairStore
from genesis_toolkit.pipeline.store.write import check_place

#: The headings of `middle_slices`.
PLANES = ("axial", "coronal", "sagittal")

_PNG = b"\x89PNG\r\n\x1a\n"
_CELL = 1.7  # inches a picture
COLUMNS = 3  # of patches or images
MOST_LETTERS = 36  # of a line under a picture
_ALONE = {
    Applied.NONLINEAR: "non-linear",
    Applied.SHUFFLE: "local shuffling",
    Applied.INPAINT: "in-painting",
    Applied.OUTPAINT: "out-painting",
}

#: One picture: a slice [across, down] of voxels, and the lines under it.
Picture = tuple[NDArray[Any], str]


def draw_sheet(store: CubeStore | PairStore, png: Path, rows: int) -> None:
    """Draw a contact sheet, one row a cube, cubes taken evenly through the store.

    Of a cube store: the middle axial, coronal and sagittal slice, or the patch or image itself. Of a pair
    store: the middle axial slice of the original, or the original itself, each degradation alone as the
    store's recipe draws it, and the degraded twin as stored.

    Args:
        store: opened.
        png: the file to write.
        rows: how many cubes to show.

    Raises:
        CallError: the file's name does not end in `.png`, or it would replace what is no picture.
    """
    check_picture(png)
    headings, pictures = contact_rows(store, rows)
    what = "cubes" if isinstance(store, CubeStore) else "pairs"
    draw_pictures(png, sheet_title(store, len(store), what), headings, pictures, store.window)


def contact_rows(store: CubeStore | PairStore, rows: int) -> tuple[list[str], list[list[Picture]]]:
    """The pictures of a contact sheet, one row a cube, cubes taken evenly through the store.

    Args:
        store: opened.
        rows: how many cubes to show, at most.

    Returns:
        headings : of the columns.
        pictures : by row and column, integers [across, down] in the store's window.
    """
    chosen = evenly(len(store.table), rows)
    if isinstance(store, CubeStore) and len(store.size) == 2:
        return _flat_rows(store, rows)
    if isinstance(store, CubeStore):
        return list(PLANES), [_cube_row(store, cube) for cube in chosen]
    headings = ["original", *(f"{_ALONE[member]} alone" for member in _drawn(store)), "as stored"]
    return headings, [_pair_row(store, cube, row % store.variants) for row, cube in enumerate(chosen)]


def evenly(count: int, most: int) -> list[int]:
    """At most so many of the numbers from 0 to `count` - 1, spread evenly from the first to the last."""
    return [int(number) for number in np.unique(np.linspace(0, count - 1, min(most, count)).round())]


def check_picture(png: Path) -> None:
    """Refuse to draw over anything but a picture, or into a store.

    Raises:
        CallError: which it would be.
    """
    if png.suffix.lower() != ".png":
        raise CallError(f"{png} is neither a picture nor a report: give a name that ends in .png or .html.")
    if png.exists() and not (png.is_file() and png.read_bytes()[:8] == _PNG):
        raise CallError(f"{png} exists and is no PNG picture, so it is left alone: choose another name.")
    check_place(png)


def sheet_title(store: AnyStore, count: int, what: str) -> str:
    """What stands over a contact sheet: the store's name, how much of what it holds, size and window."""
    points = "voxels" if len(store.size) == 3 else "pixels"
    edges, window = " x ".join(map(str, store.size)), store.window
    title = f"{PurePath(store.storage.place).name}: {count:,} {what}, {edges} {points}"
    return f"{title}, {window.low} .. {window.high} {store.attributes['unit']}"


def draw_pictures(
    png: Path,
    title: str,
    headings: Sequence[str],
    pictures: Sequence[Sequence[Picture]],
    window: Window,
    outlines: Sequence[Sequence[NDArray[np.uint8] | None]] | None = None,
) -> None:
    """Draw pictures in rows and columns into one file.

    Args:
        png: the file.
        title: over all.
        headings: of the columns.
        pictures: by row and column.
        window: lowest value black, highest white.
        outlines: by row and column a mask [across, down] of 0 and 1 whose edge is drawn over the picture.
    """
    figure = Figure(
        figsize=(_CELL * len(headings), (_CELL + 0.35) * len(pictures) + 0.8), dpi=120, layout="constrained"
    )
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=9, parse_math=False)
    cells = figure.subplots(len(pictures), len(headings), squeeze=False)
    for row, line in enumerate(pictures):
        for column, (voxels, label) in enumerate(line):
            cell = cells[row, column]
            cell.imshow(voxels.T, cmap="gray", vmin=window.low, vmax=window.high, interpolation="nearest")
            mask = outlines[row][column] if outlines else None
            if mask is not None and mask.min() < mask.max():  # else there is no edge, and matplotlib warns
                cell.contour(mask.T, levels=[0.5], colors="tab:orange", linewidths=0.8)
            cell.set_xticks([])
            cell.set_yticks([])
            cell.set_xlabel(label, fontsize=6)
            if row == 0:
                cell.set_title(headings[column], fontsize=8)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": None})
    write_whole(png, drawn.getvalue())


def middle_slices(voxels: NDArray[Any]) -> list[NDArray[Any]]:
    """The middle axial, coronal and sagittal slice of a cube [x, y, z], each [across, down]."""
    x, y, z = (edge // 2 for edge in voxels.shape)
    # The patient's feet are at the first slice: turned over, so that they are at the foot of the picture.
    return [voxels[:, :, z], voxels[:, y, ::-1], voxels[x, :, ::-1]]


def _cube_row(store: CubeStore, cube: int) -> list[Picture]:
    voxels = np.empty(store.size, store.cubes.dtype)
    store.cubes.read(cube, voxels)
    told = (_where(store, cube), f"tissue {store.table.tissue[cube]:.3f}", "")
    return list(zip(middle_slices(voxels), told, strict=True))


def _where(store: CubeStore, cube: int) -> str:
    corner = ", ".join(map(str, store.table.corner[cube]))
    return f"cube {cube}, scan {store.table.scan[cube]}\ncorner {corner}"


def _flat_rows(store: CubeStore, rows: int) -> tuple[list[str], list[list[Picture]]]:
    """Patches of slices, or images, as they are, three a row, with what is known of each."""
    plane = store.attributes["parameters"].get("plane")
    columns = min(COLUMNS, len(store))
    pictures: list[Picture] = []
    for cube in evenly(len(store), columns * min(rows, len(store) // columns)):
        pixels, row = np.empty(store.size, store.cubes.dtype), int(store.table.scan[cube])
        store.cubes.read(cube, pixels)
        if store.images is None:
            told = f"{_where(store, cube)}\ntissue {store.table.tissue[cube]:.3f}"
        else:
            labels = fill(str(store.images.labels[row]).replace("|", ", "), MOST_LETTERS)
            told = f"cube {cube}, image {row}\n{store.images.view[row]}\n{labels}"
        pictures.append((_upright(pixels, plane), told))
    heading = "image" if store.images is not None else str(plane or "axial")
    return [heading] * columns, [
        pictures[start : start + columns] for start in range(0, len(pictures), columns)
    ]


def _upright(pixels: NDArray[Any], plane: object) -> NDArray[Any]:
    """A patch, its patient's feet at the foot of the picture: they are at the first slice of a scan."""
    return pixels[:, ::-1] if plane in ("coronal", "sagittal") else pixels


def _drawn(store: PairStore) -> list[Applied]:
    """The degradations that the store's recipe makes at all."""
    recipe = Recipe.from_json(store.attributes["parameters"]["recipe"])
    rates = {
        Applied.NONLINEAR: recipe.nonlinear_rate,
        Applied.SHUFFLE: recipe.shuffle_rate,
        Applied.INPAINT: recipe.paint_rate * recipe.inpaint_share,
        Applied.OUTPAINT: recipe.paint_rate * (1 - recipe.inpaint_share),
    }
    return [member for member in _ALONE if rates[member] > 0]


def _pair_row(store: PairStore, cube: int, variant: int) -> list[Picture]:
    original = np.empty((1, *store.size), store.original.dtype)
    store.original.read(cube, original[0])
    pair = variant * len(store.table) + cube
    stored = np.empty_like(original)
    store.degraded.read(pair, stored[0])
    flip, applied = int(store.pairs.flip[pair]), int(store.pairs.applied[pair])
    recipe = Recipe.from_json(store.attributes["parameters"]["recipe"])
    row: list[Picture] = [(_shown(store, original), f"cube {cube}")]
    for member in _drawn(store):
        alone = np.empty_like(original)
        bits = np.zeros(1, np.uint8)
        stream, number = store.streams()[[cube]], store.table.number[[cube]]
        degrader = Degrader(only(recipe, member), store.size, store.window, store.seed)
        degrader(original, stream, number, variant, alone, bits, bits.copy())
        row.append((_shown(store, alone), ""))
    done = [f"flipped {flip_axes(flip)}"] if flip else []
    label = f"variant {variant}\n" + ", ".join([*done, *(applied_words(applied) or ["unchanged"])])
    return [*row, (_shown(store, stored), label)]


def _shown(store: PairStore, cubes: NDArray[Any]) -> NDArray[Any]:
    """Of the first of some cubes the middle axial slice; of patches and images all."""
    if len(store.size) == 3:
        return cubes[0, :, :, store.size[2] // 2]
    return _upright(cubes[0], store.attributes["cubes"].get("plane"))
