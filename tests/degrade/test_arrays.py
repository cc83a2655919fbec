"""Own arrays are degraded as the cubes of a store are, and what cannot be degraded is refused."""

from pathlib import Path

import numpy as np
import pytest
import support.oracle as oracle
from support.scans import lungs

from genesis_toolkit.pipeline.degrade.arrays import degrade_arrays
from genesis_toolkit.pipeline.degrade.recipes import Applied, get_recipe, shuffle_windows
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.pipeline.pairs.degrade import DegradeParameters, degrade_cubes
from genesis_toolkit.pipeline.store.open import open_cubes


def in_window(size: tuple[int, ...], count: int, dtype: type, low: int, high: int) -> np.ndarray:
    return np.random.default_rng(1).integers(low, high + 1, (count, *size)).astype(dtype)


@pytest.mark.parametrize(
    ("size", "dtype", "low", "high"),
    [((28, 27, 30), np.int16, -1000, 1000), ((40, 50), np.uint8, 0, 255), ((40, 50), np.int16, -200, 300)],
)
def test_they_equal_the_plain_oracle(size: tuple[int, ...], dtype: type, low: int, high: int) -> None:
    cubes = in_window(size, 5, dtype, low, high)
    before = cubes.copy()
    recipe = get_recipe("genesis", nonlinear_rate=0.0, shuffle_windows=300, shuffle_keeps="number")
    window = None if (low, high) in ((-1000, 1000), (0, 255)) else (low, high)
    made = degrade_arrays(cubes, recipe, seed=7, variant=2, window=window)
    assert made.degraded.dtype == dtype
    for number, cube in enumerate(cubes):
        draws = oracle.StreamDraws(7, 0, number, 2)
        expected, turned, names = oracle.degrade(
            cube, recipe, shuffle_windows(recipe, size), low, high, draws
        )
        np.testing.assert_array_equal(made.degraded[number], expected)
        bits = 0
        for axis in turned:
            bits ^= {"channel": 0, "x": 1, "y": 2, "z": 4}[axis]
        assert made.flip[number] == bits
        assert made.applied[number] == sum(Applied[name] for name in names)
    np.testing.assert_array_equal(cubes, before)


def test_with_streams_and_numbers_of_a_store_its_pairs_come_out(cube_store: Path, tmp_path: Path) -> None:
    store, asked = open_cubes(cube_store), DegradeParameters(variants=2, seed=3)
    pairs = degrade_cubes(cube_store, tmp_path / "p.zarr", asked, workers=1).store
    cubes = np.empty((len(store), *store.size), np.int16)
    store.cubes.read_many(range(len(store)), cubes)
    stored = np.empty_like(cubes)
    for variant in range(2):
        here = np.flatnonzero(pairs.pairs.variant == variant)
        pairs.degraded.read_many(here, stored)
        own = {"streams": store.streams(), "numbers": store.table.number}
        made = degrade_arrays(cubes, seed=3, variant=variant, **own)
        np.testing.assert_array_equal(made.degraded, stored)
        np.testing.assert_array_equal(made.flip, pairs.pairs.flip[here])
        np.testing.assert_array_equal(made.applied, pairs.pairs.applied[here])


def test_a_cube_does_not_depend_on_its_company_nor_on_the_order_in_memory() -> None:
    cubes = in_window((28, 27, 30), 4, np.int16, -1000, 1000)
    whole = degrade_arrays(np.asfortranarray(cubes))
    alone = degrade_arrays(cubes[2:3], numbers=[2])
    np.testing.assert_array_equal(whole.degraded[2], alone.degraded[0])
    assert not np.array_equal(whole.degraded, degrade_arrays(cubes, variant=1).degraded)
    assert not np.array_equal(whole.degraded, degrade_arrays(cubes, seed=1).degraded)


@pytest.mark.parametrize(
    ("cubes", "options", "words"),
    [
        (
            lungs(1)[None],
            {},
            r"hold -2000 \.\. \d+, but values must be within the window -1000 \.\. 1000: clip",
        ),
        (lungs(1).clip(-1000, 1000), {"recipe": "nothing"}, "no recipe 'nothing'"),
        (np.zeros((28, 28), np.int16), {}, r"shape \(28, 28\).*cube\[None\]"),
        (np.zeros((1, 28, 28, 28), np.float32), {}, "float32, but they must be int16"),
        (np.zeros((1, 4, 4, 4), np.int16), {}, "needs at least"),
        (np.zeros((1, 28, 28, 28), np.uint8), {"window": Window()}, "does not fit into uint8"),
        (np.zeros((2, 28, 28, 28), np.int16), {"numbers": [0]}, "number has shape"),
    ],
)
def test_what_cannot_be_degraded_is_refused(
    cubes: np.ndarray, options: dict[str, object], words: str
) -> None:
    with pytest.raises(CallError, match=words):
        degrade_arrays(cubes, **options)
