"""Writes a report of a store: one self-contained HTML page to view, print and share.

Voxel statistics come from cubes spread evenly through the store, so they take seconds for a store of any
size. The page contains no folder, machine or time, so one store always gives the same bytes. All text from
the store is escaped, and the page allows no scripts.
"""

from collections.abc import Iterable, Sequence
from html import escape
from itertools import product
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.cubes.parameters import box_of
from genesis_toolkit.pipeline.describe import facts
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.hounsfield import SUBSTANCES, Window
from genesis_toolkit.pipeline.ledger import write_whole
from genesis_toolkit.pipeline.pictures.charts import bar_chart, histogram_chart
from genesis_toolkit.pipeline.pictures.sheet import contact_rows, evenly
from genesis_toolkit.pipeline.store.notebook import grey_picture
from genesis_toolkit.pipeline.store.open import CubeStore, PairStore
from genesis_toolkit.pipeline.store.schema import AXES, CubeTable, ImageTable, ScanTable
from genesis_toolkit.pipeline.store.shards import ShardReader
from genesis_toolkit.pipeline.store.write import check_place

_BEGINNING = '<!doctype html>\n<html lang="en"><!-- genesis-prep preview -->\n'
_MOST_CUBES = 512  # read for the histogram
_MOST_VOXELS = 2**27
_BLOCK, _BLOCK_VOXELS = 32, 2**22  # cubes and voxels read at a time
_BINS = 200  # at least, and a few more if needed
_BARS = 40
_PLANES = ("x, y", "x, z", "y, z")
_GRID = 48  # cells along each side of the map of corners
_MOST_EDGE = 96  # pixels of a picture
_MOST_PIXELS = 900_000  # in all pictures together: 1.2 MB if they are noise
_MOST_ROWS = 200  # rows of a table
_MOST_LETTERS = 300  # letters of a cell

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --faint: #c9ced4; --back: #ffffff; --fill: #3b78b5;
  --line: #c2571a; --band: #8a5fbf33; --soft: #5c6670; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e6e9; --faint: #454c54; --back: #15181b;
  --fill: #6aa5dd; --line: #f0925a; --band: #b794e84d; --soft: #9aa4ae; } }
@media print { :root { color-scheme: light; --ink: #000; --faint: #ccc; --back: #fff; --fill: #3b78b5;
  --line: #c2571a; --band: #8a5fbf33; --soft: #444; } section { break-inside: avoid-page; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--back);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
p, figcaption { max-width: 48rem; } figcaption, .note { color: var(--soft); font-size: .85rem; }
figure { margin: 0 0 1rem; } svg { width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; vertical-align: top;
  padding: .2rem .6rem .2rem 0; border-bottom: 1px solid var(--faint); font-weight: normal; }
thead th { color: var(--soft); } tbody th { white-space: nowrap; } tr { break-inside: avoid; }
.sheet { table-layout: fixed; } .sheet td { border: 0; padding: 0 .4rem .5rem 0; }
.sheet img, .maps img { width: 100%; display: block; image-rendering: pixelated; background: #000; }
.maps { display: flex; gap: 1rem; } .maps figure { flex: 1; }
"""


def write_report(store: CubeStore | PairStore, html: Path, rows: int) -> None:
    """Write the report of a store.

    Args:
        store: an open store.
        html: the file to write.
        rows: number of cubes on the contact sheet; fewer if the page would become large.

    Raises:
        CallError: the file's name does not end in `.html`, or it would replace something other than a report.
        DataError: the store is damaged.
    """
    if html.suffix.lower() != ".html":
        raise CallError(f"{html}: the name of a report must end in .html.")
    if html.exists() and not (html.is_file() and html.read_bytes().startswith(_BEGINNING.encode())):
        said = f"{html} exists and is not a report of a store, so it is left untouched"
        raise CallError(f"{said}: choose another name.")
    check_place(html)
    try:
        page = report(store, rows)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(
            f"The store {store.storage.place} is damaged: reading its data failed with {error!r}. "
            "Run genesis-prep verify for details."
        ) from None
    write_whole(html, page.encode(errors="replace"))  # a folder's name may not be UTF-8


def report(store: CubeStore | PairStore, rows: int) -> str:
    """Return the page of a store; see `write_report`. For X-ray images it has patients, views and labels."""
    contents = facts.contents_of(store)
    name, images = escape(PurePath(store.storage.place).name), store.images
    parts = [("What it holds", _table((), facts.summary(contents)))]
    parts += [(f"Values in {store.attributes['unit']}" if images is None else "Grey levels", _values(store))]
    if images is None:
        parts += [("Spacing", _spacing(store.scans)), ("Tissue score", _tissue(contents))]
    else:
        parts += [("Patients, views and labels", _of_images(store, images))]
    if contents.thing != "image":  # whole images have no position
        parts += [(f"Where {contents.things} were cut", _places(store, contents))]
    parts += [("Contact sheet", _sheet(store, rows))]
    parts += [(f"{'Scans' if images is None else 'Images'} not used", _unused(store))]
    parts += [("Parameters", _parameters(contents))]
    head = f"<h1>{name}</h1>\n<p>{escape(facts.description(contents))}</p>"
    body = "\n".join(
        [head, *(f"<section><h2>{escape(what)}</h2>\n{content}\n</section>" for what, content in parts)]
    )
    return (
        f'{_BEGINNING}<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{name}</title><style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def count_values(reader: ShardReader, rows: Sequence[int], window: Window) -> NDArray[np.int64]:
    """Count how often each whole number of the window occurs in these cubes: int64 [high - low + 1].

    Voxels outside the window count as its ends.

    Raises:
        DataError: a cube is damaged, or the window does not fit the dtype.
    """
    limits = np.iinfo(reader.dtype)
    if window.low < limits.min or window.high > limits.max:
        raise DataError(
            f"The window {window.low} .. {window.high} is wider than "
            f"{reader.dtype} allows, so the store's zarr.json is damaged. Run genesis-prep "
            "verify for details."
        )
    counts = np.zeros(window.span + 1, np.int64)
    block = max(1, min(_BLOCK, _BLOCK_VOXELS // int(np.prod(reader.shape[1:]))))
    voxels = np.empty((block, *reader.shape[1:]), reader.dtype)
    for start in range(0, len(rows), block):
        found = voxels[: len(rows[start : start + block])]
        reader.read_many(rows[start : start + block], found)
        values = np.clip(found.ravel(), window.low, window.high).astype(np.int64) - window.low
        counts += np.bincount(values, minlength=len(counts))
    return counts


def coverage(table: CubeTable, scans: ScanTable, box: Sequence[int]) -> NDArray[np.float64] | None:
    """Map where cubes, which take up `box` voxels in x, y, z, are in their scans, all scaled to one frame.

    Returns:
        float64 [plane, across, down] in 0..1, the planes xy, xz and yz: the share of cubes that touch each
        cell. None if no cube's position is known.
    """
    shape = scans.shape[table.scan].astype(np.float64)
    known = (shape > 0).all(axis=1) & (table.corner >= 0).all(axis=1)
    if not known.any():
        return None
    corner, shape = table.corner[known], shape[known]
    first = np.clip(np.floor(corner / shape * _GRID), 0, _GRID - 1).astype(np.int64)
    end = np.clip(np.ceil((corner + np.asarray(box)) / shape * _GRID), 1, _GRID).astype(np.int64)
    planes = []
    for a, b in ((0, 1), (0, 2), (1, 2)):
        changes = np.zeros((_GRID + 1, _GRID + 1))  # a box is four changes of its running sum
        for across, down in product((first, end), repeat=2):
            np.add.at(changes, (across[:, a], down[:, b]), 1 if across is down else -1)
        planes.append(changes.cumsum(0).cumsum(1)[:-1, :-1])
    return np.asarray(np.stack(planes) / len(corner))


def _values(store: CubeStore | PairStore) -> str:
    """Return the section on the values of cubes that are spread evenly through the store."""
    window, most = store.window, max(1, min(_MOST_CUBES, _MOST_VOXELS // int(np.prod(store.size))))
    cubes = evenly(len(store.table), most)
    if isinstance(store, CubeStore):
        looked_at = {"cubes": (store.cubes, cubes)}
    else:
        pairs = [row % store.variants * len(store.table) + cube for row, cube in enumerate(cubes)]
        looked_at = {"original": (store.original, cubes), "degraded": (store.degraded, pairs)}
    counts = {name: count_values(reader, rows, window) for name, (reader, rows) in looked_at.items()}
    width = max(1, window.span // _BINS)
    starts = np.arange(0, window.span + 1, width)
    binned = {name: np.add.reduceat(each, starts) for name, each in counts.items()}
    marks = SUBSTANCES if store.attributes["unit"] == "HU" else {}
    chart = histogram_chart("Histogram of the values", window.low, width, binned, marks)
    first, *others = binned
    lines = f"; the line: {', '.join(others)}" if others else ""
    caption = (
        f"Filled: {first}{lines}. From {len(cubes):,} of {len(store.table):,} cubes, spaced evenly; shares "
        f"of voxels in bins of {width}, on a logarithmic scale."
    )
    if marks:
        caption += " Values outside the window were set to its limits."
    return _figure(chart, caption) + (_substances(counts[first], window) if marks else "")


def _substances(counts: NDArray[np.int64], window: Window) -> str:
    rows = []
    for name, (low, high) in SUBSTANCES.items():
        inside = counts[max(0, low - window.low) : max(0, high - window.low + 1)]
        within = window.low <= low and high <= window.high
        share = f"{inside.sum() / counts.sum():.2%}" if within else "outside the window"
        rows.append((name, f"{low}" if low == high else f"{low} .. {high}", share))
    return _table(("substance", "HU", "share of voxels"), rows)


def _of_images(store: CubeStore | PairStore, images: ImageTable) -> str:
    counts, used = facts.image_counts(images, store.scans), int(np.count_nonzero(store.scans.cubes))
    tables = ""
    for what in ("view", "label"):
        of = counts[f"{what}s"].items()
        rows = [(name or "unknown", f"{count:,}", f"{count / used:.1%}") for name, count in of]
        tables += _table((what, "images", "share"), rows)
    of = f" of {counts['patients']:,} patients" if counts["patients"] else ""
    caption = f"Of {used:,} images{of}; one image may have several labels."
    return tables + _note(caption)


def _spacing(scans: ScanTable) -> str:
    known = scans.spacing[(scans.cubes > 0) & (scans.spacing > 0).all(axis=1)]
    if not len(known):
        return _note("The spacing of the scans is unknown.")
    rows = [
        (axis, *(f"{value:.4g}" for value in (column.min(), np.median(column), column.max())))
        for axis, column in zip(AXES, known.T, strict=True)
    ]
    caption = f"For the {len(known):,} scans that gave cubes."
    return _table(("mm", "least", "median", "most"), rows) + _note(caption)


def _tissue(contents: facts.Contents) -> str:
    tissue = contents.cubes.tissue
    last = float(tissue.max()) or 1.0
    counts, _ = np.histogram(tissue, bins=_BARS, range=(0.0, last))
    span = f"{tissue.min():.3f} to {tissue.max():.3f}, median {np.median(tissue):.3f}"
    caption = f"Cubes by the score of the tissue rule, {span}."
    chart = _figure(bar_chart("Cubes by tissue score", 0.0, last, counts), caption)
    air = facts.without_tissue_words(facts.without_tissue(contents), len(tissue))
    return chart + (f"<p>{escape(air)}</p>" if air else "")


def _places(store: CubeStore | PairStore, contents: facts.Contents) -> str:
    """Return the section on where cubes were cut."""
    things, box = contents.things, box_of(contents.cutting, store.size)
    planes = coverage(store.table, store.scans, box) if box else None
    if planes is None:
        return _note(f"It is unknown where the {things} were cut.")
    figures = []
    for plane, name in zip(planes, _PLANES if contents.images is None else _PLANES[:1], strict=False):
        # z grows towards the head, which is at the top of a picture.
        turned = plane if name == "x, y" else plane[:, ::-1]
        uri = grey_picture((turned / plane.max() * 255).astype(np.int64), 0, 255, _GRID)
        note = f"{name}: 0 to {plane.max():.0%} of the {things}"
        figures.append(f'<figure><img src="{uri}" alt="{note}"><figcaption>{note}</figcaption></figure>')
    note = (
        "The extents of all scans scaled to one square, projected along an axis; the brighter a position, "
        f"the more {things} cover it."
    )
    return f'<div class="maps">{"".join(figures)}</div>{_note(note)}'


def _sheet(store: CubeStore | PairStore, rows: int) -> str:
    across, down = (min(edge, _MOST_EDGE) for edge in sorted(store.size)[-2:])
    columns = 3 if isinstance(store, CubeStore) else 6
    shown = max(1, min(rows, _MOST_PIXELS // (columns * across * down)))
    headings, pictures = contact_rows(store, shown)
    low, high = store.window.low, store.window.high
    lines = []
    for row in pictures:
        cells = []
        for picture, heading in zip(row, headings, strict=True):
            note = escape(" / ".join(picture.label.split("\n")))
            uri = grey_picture(picture.voxels, low, high, _MOST_EDGE)
            across, down = picture.voxels.shape
            style = f"aspect-ratio: {across} / {down * picture.aspect:.6g}"
            image = f'<img src="{uri}" alt="{escape(heading)}" style="{style}">'
            cells.append(f"<td><figure>{image}<figcaption>{note}</figcaption></figure></td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    flat = isinstance(store, CubeStore) and len(store.size) == 2  # several in a row
    cubes = sum(map(len, pictures)) if flat else len(pictures)
    few = cubes < min(rows, len(store.table))
    fewer = f" Fewer than the requested {rows}, to keep the page small." if few else ""
    return (
        f'<table class="sheet"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
        + _note(f"{cubes} of {len(store.table):,} cubes, spaced evenly.{fewer}")
    )


def _unused(store: CubeStore | PairStore) -> str:
    what = "scan" if store.images is None else "image"
    rows = [row for row in facts.not_used(store.scans) if row["status"] != "used"]
    if not rows:
        return _note(f"Every {what} that was found gave cubes.")
    rows.sort(key=lambda row: row["status"] != "failed")
    shown = [[row["scan"], row["status"], row["reason"]] for row in rows[:_MOST_ROWS]]
    more = len(rows) - len(shown)
    left = _note(f"And {more:,} more; genesis-prep info --json lists all.") if more else ""
    return _table((what, "status", "reason"), shown) + left


def _parameters(contents: facts.Contents) -> str:
    made = {"cubes": contents.cutting}
    made |= {"pairs": contents.attributes["parameters"]} if contents.pairs is not None else {}
    named = ((what, row) for what, of in made.items() for row in facts.parameter_rows(of))
    return _table((), [(f"{what}: {name}", value) for what, (name, value) in named][:_MOST_ROWS])


def _figure(chart: str, caption: str) -> str:
    return f"<figure>{chart}<figcaption>{escape(caption)}</figcaption></figure>"


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of text, the first cell of a row its heading."""
    cells = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    head = f"<thead><tr>{cells}</tr></thead>" if headings else ""
    body = "".join(
        f'<tr><th scope="row">{_cell(first)}</th>{"".join(f"<td>{_cell(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    return f"<table>{head}<tbody>{body}</tbody></table>"


def _cell(text: str) -> str:
    return escape(text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 1]}\u2026")
