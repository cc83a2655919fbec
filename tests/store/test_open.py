"""A store behaves as a sequence of its rows; plain zarr, which knows nothing of it, says what they are."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from support.damage import flip, set_attribute
from support.target_stores import make_target_store

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.exchange.archive import pack_store
from genesis_toolkit.pipeline.pairs.degrade import DegradeParameters, degrade_cubes
from genesis_toolkit.pipeline.store.open import CubeStore, PairStore, TargetStore, open_store
from genesis_toolkit.pipeline.store.reading import read_cubes


@pytest.fixture
def pair_store(cube_store: Path) -> Path:
    degrade_cubes(cube_store, cube_store.with_name("pairs.zarr"), DegradeParameters(variants=2), workers=1)
    return cube_store.with_name("pairs.zarr")


def arrays(path: Path, *names: str) -> list[NDArray[Any]]:
    """Whole arrays, as plain zarr reads them."""
    group = zarr.open_group(path, mode="r")
    return [np.asarray(group[name]) for name in names]


def flipped(cube: NDArray[Any], bits: int) -> NDArray[Any]:
    for axis, bit in enumerate((1, 2, 4)):
        cube = np.flip(cube, axis) if bits & bit else cube
    return cube


KEYS: list[Any] = [
    slice(None),
    slice(2, 7, 2),
    slice(-3, None),
    slice(None, None, -1),
    slice(5, 5),
    slice(3, 999),
    [4, 1, 1],
    [-1, 0],
    (),
    range(3),
    np.array([7, 2], np.int32),
    np.array([], np.int64),
]


@pytest.mark.parametrize("key", KEYS[:8] + KEYS[9:])
def test_rows_of_cubes_are_those_of_zarr(cube_store: Path, key: Any) -> None:
    (truth,) = arrays(cube_store, "cubes")
    found = open_store(cube_store, CubeStore)[key]
    expected = truth[list(key) if isinstance(key, range) else key] if np.size(key) else truth[:0]
    assert (found.dtype, found.shape) == (truth.dtype, expected.shape)
    np.testing.assert_array_equal(found, expected)


def test_one_row_a_mask_and_all_of_them(cube_store: Path) -> None:
    (truth,) = arrays(cube_store, "cubes")
    store = open_store(cube_store, CubeStore)
    assert len(store) == len(truth) == 12
    for row in (0, 11, -1, -12, np.int16(5), np.uint8(3)):
        np.testing.assert_array_equal(store[row], truth[int(row)])
        assert store[row].flags.writeable
    mask = np.arange(12) % 5 == 1
    np.testing.assert_array_equal(store[mask], truth[mask])
    np.testing.assert_array_equal(list(store), truth)
    low, high = store.window
    assert (low, high) == (-1000, 1000)
    assert tuple(reversed([int(cube.sum()) for cube in store])) == tuple(
        int(cube.sum()) for cube in truth[::-1]
    )


def test_a_pair_is_a_degraded_cube_and_its_original_flipped(pair_store: Path) -> None:
    degraded, original, cube, bits = arrays(pair_store, "degraded", "original", "cube", "flip")
    store = open_store(pair_store, PairStore)
    assert len(store) == len(degraded) == 24
    assert len(set(bits.tolist())) > 3
    for row, (x, y) in enumerate(store):
        np.testing.assert_array_equal(x, degraded[row])
        np.testing.assert_array_equal(y, flipped(original[cube[row]], int(bits[row])))
    x, y = store[[23, 4]]
    np.testing.assert_array_equal(x, degraded[[23, 4]])
    np.testing.assert_array_equal(y[1], flipped(original[cube[4]], int(bits[4])))
    np.testing.assert_array_equal(store[-1][1], y[0])


@pytest.mark.parametrize(("task", "size"), [("ncc", (12, 10, 9)), ("segment", (9, 11, 10)), ("dxc", (9, 11))])
def test_a_target_is_a_cube_and_its_answer(tmp_path: Path, task: str, size: tuple[int, ...]) -> None:
    path = make_target_store(tmp_path / "t.zarr", task, size=size)
    cubes, answers = arrays(path, "cubes", "masks" if task == "segment" else "labels")
    store = open_store(path)
    assert isinstance(store, TargetStore)
    assert len(store) == len(cubes)
    voxels, answer = store[-3]
    np.testing.assert_array_equal(voxels, cubes[-3])
    np.testing.assert_array_equal(answer, answers[-3])
    assert answer.dtype == np.uint8
    several = store[5:9]
    np.testing.assert_array_equal(several[0], cubes[5:9])
    np.testing.assert_array_equal(several[1], answers[5:9])


def test_an_archive_has_the_same_rows(pair_store: Path, tmp_path: Path) -> None:
    pack_store(pair_store, tmp_path / "pairs.zip")
    for mine, other in zip(open_store(pair_store)[::5], open_store(tmp_path / "pairs.zip")[::5], strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("key", [12, -13, [0, 12], [-13], [True, False]])
def test_a_row_that_is_not_there_is_an_index_error(cube_store: Path, key: Any) -> None:
    with pytest.raises(IndexError):
        open_store(cube_store)[key]


@pytest.mark.parametrize("key", [(0, 1), (), 1.5, "0", None, [0.5], [[0, 1]], {"a": 1}])
def test_what_is_no_row_is_told_what_to_write(cube_store: Path, key: Any) -> None:
    with pytest.raises(CallError, match=re.escape("store[3], store[2:8] or store[[4, 1]]")):
        open_store(cube_store)[key]


def test_a_damaged_cube_is_named(cube_store: Path) -> None:
    store = open_store(cube_store)
    flip(cube_store / "cubes" / "c" / "0" / "0" / "0" / "0", 40)
    with pytest.raises(DataError, match=r"Cube 0 in .*cubes/c/0/0/0/0 is damaged"):
        store[:3]
    assert "holds" in store._repr_html_()


# --- reading into arrays --------------------------------------------------------------------------------


def locked(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda shape: np.empty(shape, np.int16, order="F"), r"int16 \[.*\], not in C order"),
        (lambda shape: np.empty(shape, np.float64), r"float64 \["),
        (lambda shape: np.empty(shape, np.uint16), r"uint16 \["),
        (lambda shape: np.empty(shape, np.float16), r"float16 \["),
        (lambda shape: np.empty(shape, ">i2"), r">i2 \["),
        (lambda shape: np.empty((*shape[:-1], 15), np.int16), r"int16 \[.*15\]"),
        (lambda shape: np.empty((*shape, 1), np.int16), r"int16 \[.*1\]"),
        (lambda shape: np.empty((*shape[:-1], 32), np.int16)[..., ::2], "not in C order"),
        (lambda shape: locked(np.empty(shape, np.int16)), "read-only"),
        (lambda shape: [[0]], r"list \["),
    ],
)
def test_a_wrong_array_to_read_into_gets_the_right_line(
    cube_store: Path, make: Callable[[tuple[int, ...]], Any], words: str
) -> None:
    """The line that is told makes an array that is filled with what plain zarr reads."""
    (truth,) = arrays(cube_store, "cubes")
    reader = open_store(cube_store, CubeStore).cubes
    calls: list[tuple[Callable[[Any], None], tuple[int, ...], NDArray[Any]]] = [
        (lambda out: reader.read(3, out), (16, 16, 16), truth[3]),
        (lambda out: reader.read_many([3, 1], out), (2, 16, 16, 16), truth[[3, 1]]),
        (lambda out: read_cubes(reader, [3, 1], out), (2, 16, 16, 16), truth[[3, 1]]),
    ]
    for read, shape, expected in calls:
        with pytest.raises(CallError, match=words) as error:
            read(make(shape))
        line = re.search(r"out = (np\.empty\(.*\))\.$", str(error.value))
        assert line is not None
        out = eval(line[1], {"np": np})
        read(out)
        np.testing.assert_array_equal(out, expected)


# --- how it looks ---------------------------------------------------------------------------------------


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.words += f" {data}"


def test_a_store_is_told_in_one_line(cube_store: Path, pair_store: Path, tmp_path: Path) -> None:
    place = f"<CubeStore {cube_store}: "
    assert repr(open_store(cube_store)) == f"{place}12 cubes of 16 x 16 x 16 voxels, -1000 .. 1000 HU>"
    assert "24 pairs of 16 x 16 x 16 voxels" in repr(open_store(pair_store))
    target = repr(open_store(make_target_store(tmp_path / "t.zarr", "dxc", size=(9, 11))))
    assert "40 labelled cubes of 9 x 11 pixels, 0 .. 255 grey level" in target


def test_a_notebook_shows_a_table_and_eight_cubes(pair_store: Path, tmp_path: Path) -> None:
    page = Page(open_store(pair_store)._repr_html_())
    assert page.tags.count("img") == 8
    assert page.tags.count("table") == 1
    for words in ("24 pairs of", "2 used, 1 skipped, 0 failed", "seed 0, 2 variants per cube"):
        assert words in page.words
    target = Page(open_store(make_target_store(tmp_path / "t.zarr", "ncc"))._repr_html_())
    assert "ncc: nodule" in target.words
    assert "24 train, 8 validation, 8 test" in target.words


def test_text_of_a_stranger_does_nothing_in_a_notebook(cube_store: Path) -> None:
    evil = "<script>alert(1)</script>"
    set_attribute("unit", value=evil)(cube_store)
    page = Page(open_store(cube_store)._repr_html_())
    assert evil in page.words
    assert "script" not in page.tags


# --- one opening for all --------------------------------------------------------------------------------


def test_a_store_of_another_kind_is_refused_with_what_it_is(cube_store: Path, pair_store: Path) -> None:
    with pytest.raises(
        CallError, match=r"is a pair store, but .* needs a cube store \(made by extract-cubes"
    ):
        open_store(pair_store, CubeStore)
    with pytest.raises(
        CallError, match=r"is a cube store, but .* needs a target store \(made by extract-targets"
    ):
        open_store(cube_store, TargetStore)
    with pytest.raises(CallError, match="make one with genesis-prep degrade"):
        open_store(cube_store.with_name("none.zarr"), PairStore)
    assert isinstance(open_store(str(cube_store), CubeStore, PairStore), CubeStore)


def test_an_array_that_is_described_nowhere_is_missed(cube_store: Path) -> None:
    """Both copies of its metadata are gone, and the manifest does not know it."""
    metadata = json.loads((cube_store / "zarr.json").read_bytes())
    del metadata["consolidated_metadata"]["metadata"]["tissue"]
    (cube_store / "zarr.json").write_text(json.dumps(metadata), encoding="utf-8")
    (cube_store / "tissue" / "zarr.json").unlink()
    set_attribute("unit", value="HU")(cube_store)
    with pytest.raises(DataError, match="tissue: has no description"):
        open_store(cube_store)
