"""Pictures of a store: a contact sheet of cubes, or of pairs with each degradation alone and combined."""

import io
from pathlib import Path, PurePath
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.degrade.compose import Applied, Degrader
from pipeline.degrade.recipes import Recipe, only
from pipeline.errors import CallError
from pipeline.info import applied_words, flip_axes
from pipeline.ledger import write_whole
from pipeline.stores import CubeStore, PairStore, check_place

_PNG = b"\x89PNG\r\n\x1a\n"
_CELL = 1.7  # inches a picture
_COLUMNS = 3  # of patches or images
_MOST_LETTERS = 36  # of a line under a picture
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
    window = store.window
    what = "cubes" if isinstance(store, CubeStore) else "pairs"
    title = f"{PurePath(store.storage.place).name}: {len(store):,} {what}, "
    points = "voxels" if len(store.size) == 3 else "pixels"
    edges = " x ".join(map(str, store.size))
    title += f"{edges} {points}, {window.low} .. {window.high} {store.attributes['unit']}"
    _draw(png, title, headings, pictures, window.low, window.high)


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
        return ["axial", "coronal", "sagittal"], [_cube_row(store, cube) for cube in chosen]
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


def _cube_row(store: CubeStore, cube: int) -> list[Picture]:
    voxels = np.empty(store.size, store.cubes.dtype)
    store.cubes.read(cube, voxels)
    x, y, z = (edge // 2 for edge in store.size)
    tissue = f"tissue {store.table.tissue[cube]:.3f}"
    # The patient's feet are at the first slice: turned over, so that they are at the foot of the picture.
    return [
        (voxels[:, :, z], _where(store, cube)),
        (voxels[:, y, ::-1], tissue),
        (voxels[x, :, ::-1], ""),
    ]


def _where(store: CubeStore, cube: int) -> str:
    corner = ", ".join(map(str, store.table.corner[cube]))
    return f"cube {cube}, scan {store.table.scan[cube]}\ncorner {corner}"


def _flat_rows(store: CubeStore, rows: int) -> tuple[list[str], list[list[Picture]]]:
    """Patches of slices, or images, as they are, three a row, with what is known of each."""
    plane = store.attributes["parameters"].get("plane")
    columns = min(_COLUMNS, len(store))
    pictures: list[Picture] = []
    for cube in evenly(len(store), columns * min(rows, len(store) // columns)):
        pixels, row = np.empty(store.size, store.cubes.dtype), int(store.table.scan[cube])
        store.cubes.read(cube, pixels)
        if store.images is None:
            told = f"{_where(store, cube)}\ntissue {store.table.tissue[cube]:.3f}"
        else:
            labels = fill(str(store.images.labels[row]).replace("|", ", "), _MOST_LETTERS)
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


def _draw(
    png: Path, title: str, headings: list[str], pictures: list[list[Picture]], low: int, high: int
) -> None:
    figure = Figure(
        figsize=(_CELL * len(headings), (_CELL + 0.35) * len(pictures) + 0.8), dpi=120, layout="constrained"
    )
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=9, parse_math=False)
    cells = figure.subplots(len(pictures), len(headings), squeeze=False)
    for row, line in enumerate(pictures):
        for column, (voxels, label) in enumerate(line):
            cell = cells[row, column]
            cell.imshow(voxels.T, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
            cell.set_xticks([])
            cell.set_yticks([])
            cell.set_xlabel(label, fontsize=6)
            if row == 0:
                cell.set_title(headings[column], fontsize=8)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": None})
    write_whole(png, drawn.getvalue())
