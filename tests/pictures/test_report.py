"""The report of a store: true figures, nothing from elsewhere, nothing that runs, whatever the store says."""

import base64
import dataclasses
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.image
import numpy as np
import pytest
import zarr
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from support.scans import SMALL, lungs, write_scan

from genesis_toolkit.cli.prep import main
from genesis_toolkit.pipeline.cubes.extract import extract_cubes
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.exchange.archive import pack_store
from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.pipeline.ledger import hold
from genesis_toolkit.pipeline.pairs.degrade import DegradeParameters, degrade_cubes
from genesis_toolkit.pipeline.pictures.report import count_values, coverage, report, write_report
from genesis_toolkit.pipeline.pictures.sheet import evenly
from genesis_toolkit.pipeline.store.notebook import grey_picture
from genesis_toolkit.pipeline.store.open import CubeStore, open_cubes, open_store
from genesis_toolkit.pipeline.store.schema import CUBES, CubeTable, ScanTable
from genesis_toolkit.pipeline.store.shards import encode_cube, shard_length, shard_parts, shard_path
from genesis_toolkit.pipeline.store.write import write_store

VOID = {"meta", "img", "br", "link", "input", "source"}
EVIL = """</style></title><script>alert(1)</script><img src=x onerror=alert(2)>"&'"""


class Page(HTMLParser):
    """What a browser would make of a page: its elements, each closed in order, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return "\n".join(self.words)


def assert_alone(text: str) -> Page:
    """Nothing in the page runs, and nothing is fetched."""
    page = Page(text)
    names = {name for name, _ in page.elements}
    assert not names & {"script", "link", "iframe", "object", "embed", "base", "form", "a"}
    for name, attributes in page.elements:
        for key, value in attributes.items():
            assert not key.startswith("on"), (name, key)
            if key in ("src", "href", "xlink:href", "srcset", "data", "action"):
                assert str(value).startswith("data:image/png;base64,"), (name, value)
    assert not re.search(r"url\(|@import|javascript:", text)
    (policy,) = [each["content"] for each in page.all("meta") if "http-equiv" in each]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return page


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def pair_store(cube_store: Path) -> Path:
    target = cube_store.with_name("pairs.zarr")
    degrade_cubes(cube_store, target, DegradeParameters(variants=2), workers=1)
    return target


def noise_store(path: Path, size: tuple[int, int, int], count: int) -> CubeStore:
    """A store of noise, of which pictures cannot be made small; whose scans say nothing of themselves."""
    cubes = np.random.default_rng(0).integers(-1000, 1001, (count, *size)).astype(np.int16)
    rows = np.arange(count, dtype=np.int32)
    words, zeros = np.full(count, "", object), np.zeros((count, 3))
    scans = ScanTable(
        identifier=np.array([f"s{row}" for row in rows], object),
        subset=np.full(count, -1, np.int16),
        path=words,
        bytes=rows.astype(np.int64),
        sha256=words,
        shape=zeros.astype(np.int32),
        spacing=zeros,
        origin=zeros,
        direction=np.zeros((count, 9)),
        status=np.full(count, "used", object),
        reason=words,
        cubes=np.ones(count, np.int32),
        stream=rows.astype(np.uint64),
    )
    table = CubeTable(rows, rows * 0, np.full((count, 3), -1, np.int32), np.zeros(count))
    attributes = {"window": [-1000, 1000], "unit": "HU", "size": list(size), "parameters": {}}
    length = shard_length(size, 2)
    with hold(path, {}, overwrite=False) as ledger:
        for shard in range(-(-count // length)):
            place = ledger.store / shard_path("cubes", shard, 4)
            place.parent.mkdir(parents=True)
            chunks = [encode_cube(cube) for cube in cubes[shard * length : (shard + 1) * length]]
            place.write_bytes(b"".join(shard_parts(chunks, length)))
        write_store(ledger.store, CUBES, attributes, np.dtype(np.int16), [table], scans)
        ledger.finish({}, {})
    return open_cubes(path)


def test_the_command_writes_it(cube_store: Path, pair_store: Path, tmp_path: Path) -> None:
    for store, pictures, further in (
        (cube_store, 3, "genesis-prep degrade {} pairs.zarr"),
        (pair_store, 6, "genesis-train pretrain {} --out pretrained"),
    ):
        target = tmp_path / f"{store.stem}.html"
        done = call("preview", store, target, "--rows", 2)
        assert done.exit_code == 0, done.output
        assert done.stdout == f"The report is {target}.\n"
        assert done.stderr == f"Next: {further.format(store)}\n"
        page = assert_alone(target.read_text(encoding="utf-8"))
        assert len(page.all("img")) == 2 * pictures + 3
        assert len(page.all("svg")) == 2
        for words in ("20 slices, 24 needed", "subset1/1.2.4.mhd", "16 x 16 x 16", "lung", "max tissue"):
            assert words in page.text
        assert str(tmp_path) not in target.read_text(encoding="utf-8")


def test_what_is_no_report_is_left_alone(cube_store: Path, tmp_path: Path) -> None:
    target = tmp_path / "thesis.html"
    target.write_text("<!doctype html><p>years of work", encoding="utf-8")
    for name, words in (
        ("thesis.html", "is not a report"),
        ("r.htm", r".png or .html"),
        ("cubes.zarr/r.html", "is inside the store"),
    ):
        done = call("preview", cube_store, tmp_path / name)
        assert done.exit_code == 2, done.output
        assert words in done.stderr
    assert "years of work" in target.read_text(encoding="utf-8")
    with pytest.raises(CallError, match=r"must end in \.html"):
        write_report(open_store(cube_store), tmp_path / "r.png", 1)
    for _ in range(2):  # one's own report is replaced
        assert call("preview", cube_store, tmp_path / "mine.html").exit_code == 0


def test_one_store_gives_one_page(pair_store: Path, tmp_path: Path) -> None:
    first = report(open_store(pair_store), 3)
    assert report(open_store(pair_store), 3) == first
    pack_store(pair_store, tmp_path / "pairs.zip")
    packed = report(open_store(tmp_path / "pairs.zip"), 3)
    assert packed.replace("pairs.zip", "pairs.zarr") == first


def test_what_a_store_says_is_never_markup(luna16: Path, tmp_path: Path) -> None:
    write_scan(luna16 / "subset0" / "<script>alert(1)<b>.mhd", lungs(1, (40, 38, 20)))
    target = tmp_path / "<img src=x onerror=alert(3)>.zarr"
    extract_cubes(luna16, target, SMALL, workers=1)
    page = assert_alone(report(open_store(target), 2))
    assert "subset0/<script>alert(1)<b>.mhd" in page.words
    assert page.words.count("<img src=x onerror=alert(3)>.zarr") == 2  # its title and its heading
    assert len(page.all("img")) == 2 * 3 + 3


def test_hostile_attributes_and_tables(pair_store: Path) -> None:
    store = open_store(pair_store)
    scans = dataclasses.replace(
        store.scans,
        path=np.full(3, EVIL, object),
        reason=np.full(3, EVIL * 1000, object),
        status=np.full(3, EVIL, object),
    )
    parameters = store.attributes["parameters"] | {EVIL: {EVIL: [EVIL]}}
    attributes = store.attributes | {"unit": EVIL, "parameters": parameters}
    text = report(dataclasses.replace(store, attributes=attributes, scans=scans), 2)
    page = assert_alone(text)
    assert EVIL in page.words
    assert len(page.all("img")) == 2 * 6 + 3
    assert len(text) < 300_000


def test_a_store_that_lacks_what_it_should_say_is_damaged(pair_store: Path, tmp_path: Path) -> None:
    store = open_store(pair_store)
    for parameters in ({}, {"recipe": {}}, {"recipe": 3, "variants": "x"}):
        changed = dataclasses.replace(store, attributes=store.attributes | {"parameters": parameters})
        with pytest.raises(DataError):
            write_report(changed, tmp_path / "r.html", 1)
    wide = dataclasses.replace(store, attributes=store.attributes | {"window": [-(2**60), 2**60]})
    with pytest.raises(DataError, match="is wider than int16 allows"):
        write_report(wide, tmp_path / "r.html", 1)
    assert not (tmp_path / "r.html").exists()


def test_values_are_counted(cube_store: Path) -> None:
    store = open_cubes(cube_store)
    cubes = np.asarray(zarr.open_group(cube_store, mode="r")["cubes"][...])
    rows = [1, 3, 10]
    window = Window(-700, 200)
    edges = np.arange(-700, 202) - 0.5
    expected, _ = np.histogram(np.clip(cubes[rows], -700, 200), bins=edges)
    np.testing.assert_array_equal(count_values(store.cubes, rows, window), expected)
    text = report(store, 1)
    share = np.count_nonzero((cubes >= -120) & (cubes <= -90)) / cubes.size
    assert f'<th scope="row">fat</th><td>-120 .. -90</td><td>{share:.2%}</td>' in text
    assert '<th scope="row">bone, cortical</th><td>1800 .. 1900</td><td>outside the window</td>' in text


def test_cubes_lie_where_the_map_says(cube_store: Path) -> None:
    store = open_cubes(cube_store)
    found = coverage(store.table, store.scans, store.size)
    assert found is not None
    cells = found.shape[1]
    expected = np.zeros_like(found)
    for scan, corner in zip(store.table.scan, store.table.corner, strict=True):
        shape = store.scans.shape[scan]
        touched = [
            [
                cell
                for cell in range(cells)
                if (cell + 1) * shape[axis] > corner[axis] * cells
                and cell * shape[axis] < (corner[axis] + store.size[axis]) * cells
            ]
            for axis in range(3)
        ]
        for plane, (a, b) in enumerate(((0, 1), (0, 2), (1, 2))):
            expected[plane][np.ix_(touched[a], touched[b])] += 1 / len(store.table)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    nowhere = dataclasses.replace(store.table, corner=store.table.corner * 0 - 1)
    assert coverage(nowhere, store.scans, store.size) is None


def decoded(uri: str | None) -> NDArray[Any]:
    data = base64.b64decode(str(uri).removeprefix("data:image/png;base64,"))
    return np.asarray(matplotlib.image.imread(io.BytesIO(data), format="png"))


def test_pictures_are_the_slices() -> None:
    values = np.random.default_rng(1).integers(-1200, 1200, (20, 12)).astype(np.int16)
    found = decoded(grey_picture(values, -1000, 1000, 96))
    np.testing.assert_allclose(found, (np.clip(values, -1000, 1000).T + 1000) / 2000, atol=1 / 255)
    assert decoded(grey_picture(values, -1000, 1000, 10)).shape == (6, 10)


def test_the_sheet_shows_the_cubes_that_it_names(cube_store: Path) -> None:
    store = open_cubes(cube_store)
    page = Page(report(store, 4))
    found = re.findall(r"cube (\d+) of (\S+)", page.text)
    named = [int(cube) for cube, _ in found]
    assert named == evenly(12, 4)
    assert [path for _, path in found] == [store.scans.path[store.table.scan[cube]] for cube in named]
    cubes = np.asarray(zarr.open_group(cube_store, mode="r")["cubes"][...])
    pictures = [each["src"] for each in page.all("img") if each["alt"] == "axial"]
    for cube, picture in zip(named, pictures, strict=True):
        np.testing.assert_allclose(decoded(picture), (cubes[cube, :, :, 8].T + 1000.0) / 2000, atol=1 / 255)


@pytest.mark.parametrize(("size", "shown"), [((64, 64, 32), 50), ((96, 96, 96), 32)])
def test_it_stays_small_and_says_what_is_left_out(
    tmp_path: Path, size: tuple[int, int, int], shown: int
) -> None:
    store = noise_store(tmp_path / "noise.zarr", size, 50)
    target = tmp_path / "r.html"
    write_report(store, target, 50)
    assert target.stat().st_size < 2_000_000
    text = assert_alone(target.read_text(encoding="utf-8")).text
    assert f"{shown} of 50 cubes, spaced evenly." in text
    assert ("Fewer than the requested 50" in text) == (shown < 50)
    for words in ("The spacing of the scans is unknown.", "It is unknown where the cubes were cut."):
        assert words in text
    assert "Every scan that was found gave cubes." in text


def test_long_tables_are_cut(cube_store: Path) -> None:
    store = open_cubes(cube_store)
    columns = {
        name: np.resize(column, (5000, *column.shape[1:]))
        for name, column in vars(store.scans).items()
        if column is not None
    }
    scans = ScanTable(**columns | {"status": np.full(5000, "failed", object)})
    page = Page(report(dataclasses.replace(store, scans=scans), 1))
    assert page.words.count("failed") == 200
    assert "And 4,800 more; genesis-prep info --json lists all." in page.text
