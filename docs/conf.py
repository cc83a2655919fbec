"""Sphinx: the pages of this folder, the commands' own help, the docstrings, and pictures the tool draws."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sphinx.application import Sphinx

import genesis_toolkit
from genesis_toolkit.pipeline.degrade.nonlinear import fill_table
from genesis_toolkit.training.compare.evidence import files_of, weigh
from genesis_toolkit.training.compare.scores import parse_table

project = "Genesis Toolkit"
author = "The Genesis Toolkit maintainers"
copyright = f"2026, {author}"
version = release = genesis_toolkit.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
exclude_patterns = ["_build", "_pictures", "**.ipynb_checkpoints", "notebooks/first-look"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
# The notebook is kept without its outputs: they are made here, anew where its code has changed.
nb_execution_mode = "cache"
nb_execution_timeout = 1200
nb_execution_in_temp = True
nb_execution_raise_on_error = True
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
add_module_names = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"Genesis Toolkit {release}"
html_copy_source = False

PICTURES = Path(__file__).parent / "_pictures"


def draw_pictures(_: Sphinx) -> None:
    """Draw what is not there, or older than the program that draws it: practice scans, cut and degraded."""
    names = ("cubes.png", "pairs.png", "curves.png", "compare.png")
    package = Path(genesis_toolkit.__file__).parent
    sources = [*package.rglob("*.py"), Path(__file__)]
    newest = max(path.stat().st_mtime for path in sources)
    if all((PICTURES / name).exists() and (PICTURES / name).stat().st_mtime > newest for name in names):
        return
    PICTURES.mkdir(exist_ok=True)
    draw_curves(PICTURES / "curves.png")
    draw_comparison(PICTURES / "compare.png")
    with tempfile.TemporaryDirectory() as work:
        for command in (
            f"phantom {work}/scans --scans 1 --shape 300,300,112",
            f"extract-cubes {work}/scans {work}/cubes.zarr --cubes-per-scan 8 --subsets 0-9",
            f"degrade {work}/cubes.zarr {work}/pairs.zarr --variants 4",
            f"preview {work}/cubes.zarr {PICTURES}/cubes.png --rows 3",
            f"preview {work}/pairs.zarr {PICTURES}/pairs.png --rows 4",
        ):
            prep = [sys.executable, "-m", "genesis_toolkit.cli.prep", *command.split()]
            subprocess.run(prep, check=True, stdout=subprocess.DEVNULL)


def draw_curves(png: Path) -> None:
    """Eight random curves as the kernel tabulates them: four increasing, four inverted."""
    rng = np.random.default_rng(4)
    units = np.arange(-1000, 1001)
    figure = Figure(figsize=(6.4, 3.2), dpi=120, layout="constrained")
    halves = figure.subplots(1, 2, sharey=True)
    for cell, inverted in zip(halves, (False, True), strict=True):
        for points in rng.random((4, 4)):
            table = np.arange(-32768, 32768).astype(np.int16)
            fill_table(*points.tolist(), inverted, -1000, 1000, table)
            cell.plot(units, table[units])
        cell.set_title("inverted" if inverted else "increasing", fontsize=9)
        cell.set_xlabel("HU before")
        cell.set_aspect("equal")
    halves[0].set_ylabel("HU after")
    figure.savefig(png)


def draw_comparison(png: Path) -> None:
    """The chart of the table that its own page shows."""
    page = (Path(__file__).parent / "how-to" / "compare.md").read_text(encoding="utf-8")
    table = page.partition("cat > scores.csv <<'CSV'\n")[2].partition("CSV\n")[0]
    png.write_bytes(files_of(weigh(parse_table(table.encode(), "scores.csv")))["figure.png"])


def setup(app: Sphinx) -> None:
    """Hook the pictures in before the pages are read."""
    app.connect("builder-inited", draw_pictures)
