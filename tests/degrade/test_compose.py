"""Every kernel against the plain program of METHOD.md, voxel by voxel, on the same draws."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import oracle

from genesis_toolkit.pipeline import jit as compiling
from genesis_toolkit.pipeline.degrade import shuffle as shuffling
from genesis_toolkit.pipeline.degrade.compose import Degrader
from genesis_toolkit.pipeline.degrade.flip import flip_into
from genesis_toolkit.pipeline.degrade.nonlinear import fill_table
from genesis_toolkit.pipeline.degrade.recipes import RECIPES, Applied, get_recipe, only, shuffle_windows
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.hounsfield import Window

WINDOWS = {np.int16: Window(), np.uint8: Window(0, 255), np.uint16: Window(100, 50_000)}
SMALL = (28, 27, 30)
SLICE = (40, 150)  # a row of three 64-bit words


def cubes_of(n, size, dtype=np.int16, seed=0):
    window = WINDOWS[dtype]
    return np.random.default_rng(seed).integers(window.low, window.high + 1, (n, *size)).astype(dtype)


def degrade(recipe, cubes, streams, numbers, variant, seed=0, window=None):
    """(degraded cubes, flip, applied) of a batch."""
    out = np.full_like(cubes, 77)
    flip, applied = np.zeros(len(cubes), np.uint8), np.zeros(len(cubes), np.uint8)
    size = cubes.shape[1:]
    degrader = Degrader(recipe, size, window or WINDOWS[cubes.dtype.type], seed)
    degrader(cubes, np.array(streams, np.uint64), np.array(numbers), variant, out, flip, applied)
    return out, flip, applied


def flip_bits(turned):
    bits = 0
    for axis in turned:
        bits ^= {"channel": 0, "x": 1, "y": 2, "z": 4}[axis]
    return bits


def check_against_oracle(recipe, cubes, streams, numbers, variant, seed):
    """All equal but where a curve was applied: there within 1, and only where rounding is a close call."""
    window = WINDOWS[cubes.dtype.type]
    windows = shuffle_windows(recipe, cubes.shape[1:])
    degraded, flip, applied = degrade(recipe, cubes, streams, numbers, variant, seed)
    for i, cube in enumerate(cubes):
        draws = oracle.StreamDraws(seed, int(streams[i]), int(numbers[i]), variant)
        expected, turned, names = oracle.degrade(cube, recipe, windows, window.low, window.high, draws)
        assert flip[i] == flip_bits(turned)
        assert applied[i] == sum(Applied[name] for name in names)
        difference = np.abs(degraded[i].astype(np.int64) - expected)
        if "NONLINEAR" not in names:
            assert not difference.any()
        else:
            # The oracle's own curve has samples 1e-5 apart in s, so it is off by a part of a step itself.
            assert difference.max() <= max(1, 3e-5 * window.span)
            assert np.mean(difference > 0) < 0.02 * max(1, window.span / 2000)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("dtype", WINDOWS)
def test_pairs_equal_the_oracle(name, dtype):
    cubes = cubes_of(4, SMALL, dtype)
    check_against_oracle(RECIPES[name], cubes, [1, 2**63 - 1, 2**63, 2**64 - 1], range(4), 3, 5)


@pytest.mark.parametrize(
    ("name", "dtype"), list(zip(RECIPES, (np.int16, np.uint8, np.uint16, np.uint8), strict=True))
)
def test_pairs_in_two_dimensions_equal_the_oracle(name, dtype):
    """Windows lie 2 layers deep in genesis and paper, 29 in official-2020: both ways of shuffling."""
    cubes = cubes_of(4, (28, 37), dtype)
    check_against_oracle(RECIPES[name], cubes, [1, 2**63 - 1, 2**63, 2**64 - 1], range(4), 3, 5)


@pytest.mark.parametrize("size", [(64, 64, 32), (33, 40, 17), (14, 14, 14), SLICE, (64, 64), (15, 14)])
def test_other_sizes_equal_the_oracle(size):
    check_against_oracle(RECIPES["genesis"], cubes_of(2, size), [7, 8], [0, 2**32 - 1], 0, 2**63 - 1)


@pytest.mark.full
@pytest.mark.parametrize("size", [(96, 96, 96), (128, 128, 64), (224, 224), (512, 512)])
def test_large_sizes_equal_the_oracle(size):
    check_against_oracle(RECIPES["genesis"], cubes_of(2, size), [7, 12], [0, 1], 0, 1)


@pytest.mark.parametrize("applied", [0, 1, 2, 4, 8, 3, 5, 6, 7, 9, 10, 11])
@pytest.mark.parametrize(
    "name", ["genesis", *(pytest.param(name, marks=pytest.mark.full) for name in ("official-2019", "paper"))]
)
def test_each_of_the_twelve_combinations_equals_the_oracle(name, applied):
    recipe = only(RECIPES[name], Applied(applied))
    check_against_oracle(recipe, cubes_of(1, SMALL), [applied], [0], 0, 0)
    assert degrade(recipe, cubes_of(1, SMALL), [applied], [0], 0)[2][0] == applied


@pytest.mark.parametrize("applied", [2, 6, 10, 11])
def test_shuffling_many_layers_deep_equals_the_oracle(applied):
    """Alone, painted in, and with windows left over: 9 layers in rows that are longer than a 64-bit word."""
    recipe = only(get_recipe("official-2020", shuffle_windows=3000), Applied(applied))
    check_against_oracle(recipe, cubes_of(1, (130, 70)), [applied], [0], 0, 0)


@pytest.mark.parametrize("size", [SMALL, (20, 30, 70), SLICE, (64, 65), (130, 63)])
@pytest.mark.parametrize("applied", [2, 10])
def test_looking_for_buried_windows_does_not_show(monkeypatch, size, applied):
    """4 cubes, 3,000 windows, 0.5 to 10 layers: the same bits whether buried windows are shuffled or not."""
    recipe = only(get_recipe("official-2020", shuffle_windows=3000), Applied(applied))
    cubes = cubes_of(4, size)
    degraded = []
    for layers, looks in ((np.inf, False), (0.0, True)):
        monkeypatch.setattr(shuffling, "_LAYERS", layers)
        degrader = Degrader(recipe, size, Window(), 0)
        assert bool(degrader._scratch(cubes.dtype).shuffle.covered.size) == looks
        degraded.append(degrade(recipe, cubes, range(4), range(4), 0)[0])
    assert np.array_equal(*degraded)
    assert (degraded[0] != cubes).any()


@given(
    st.integers(0, 2**63 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)
)
@settings(max_examples=5, deadline=None)
def test_any_address_equals_the_oracle(seed, stream, number, variant):
    for size in ((14, 15, 16), (16, 15)):
        check_against_oracle(RECIPES["genesis"], cubes_of(1, size), [stream], [number], variant, seed)


@given(
    st.integers(0, 7), st.sampled_from([np.int16, np.uint8, np.float32]), st.sampled_from([(5, 6, 7), (6, 7)])
)
@settings(max_examples=40, deadline=None)
def test_flipping_equals_numpy(bits, dtype, size):
    cube = cubes_of(1, size)[0]
    out = np.zeros(cube.shape, dtype)
    bits %= 2 ** len(size)
    flip_into(cube, bits, out)
    axes = tuple(axis for axis in range(len(size)) if bits >> axis & 1)
    assert np.array_equal(out, np.flip(cube, axes).astype(dtype))


def test_noise_and_cube_are_one_or_the_other():
    """The noise of a voxel does not depend on the windows: degraded == where(mask, noise, cube)."""
    cube = cubes_of(1, SMALL)
    noise = oracle.StreamDraws(0, 5, 0, 0).noise(SMALL, -1000, 1000)
    for bit in (Applied.INPAINT, Applied.OUTPAINT):
        degraded = degrade(only(RECIPES["genesis"], bit), cube, [5], [0], 0)[0][0]
        assert np.all((degraded == cube[0]) | (degraded == noise))


def table_of(points, inverted, window, dtype=np.int16):
    table = np.zeros(np.iinfo(dtype).max - np.iinfo(dtype).min + 1, dtype)
    fill_table(*points, inverted, window.low, window.high, table)
    return table[np.arange(window.low, window.high + 1) % table.size].astype(np.int64)


unit = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0, 0.5, 1 / 3]))


@given(st.tuples(unit, unit, unit, unit), st.booleans())
@settings(max_examples=50, deadline=None)
def test_a_curve_is_monotone_exact_at_both_ends_and_within_one_of_the_oracle(points, inverted):
    window = Window()
    curve = table_of(points, inverted, window)
    assert (curve[0], curve[-1]) == ((1000, -1000) if inverted else (-1000, 1000))
    steps = np.diff(curve) * (-1 if inverted else 1)
    assert steps.min() >= 0
    expected = oracle.nonlinear(np.arange(-1000, 1001), points, inverted, -1000, 1000)
    assert np.abs(curve - expected).max() <= 1


@pytest.mark.parametrize(
    "points", [(1.0, 0.3, 0.0, 0.8), (1.0, 1.0, 0.0, 1.0), (0.0, 1.0, 0.0, 0.0), (0, 0, 1, 1)]
)
def test_a_curve_whose_x_stands_still_is_solved_exactly(points):
    """Where X' vanishes (P1x = 1, P2x = 0 at s = 1/2), against bisection to the last bit, within 0.01 HU."""
    window = Window()
    low, high = np.zeros(2001), np.ones(2001)
    value = np.arange(2001) / 2000
    x1, y1, x2, y2 = points
    for _ in range(60):
        s = (low + high) / 2
        over = 3 * (1 - s) ** 2 * s * x1 + 3 * (1 - s) * s**2 * x2 + s**3 > value
        low, high = np.where(over, low, s), np.where(over, s, high)
    y = (3 * (1 - s) ** 2 * s * y1 + 3 * (1 - s) * s**2 * y2 + s**3) * 2000 - 1000
    curve = table_of(points, False, window)
    assert np.abs(curve - y).max() <= 0.51


def test_values_outside_the_window_stay_and_harm_nothing():
    cube = np.full((1, 16, 16, 16), -32768, np.int16)
    cube[0, 0] = 32767
    degraded = degrade(only(RECIPES["genesis"], Applied.NONLINEAR), cube, [0], [0], 0)[0]
    assert np.array_equal(degraded, cube)


def test_the_identity_copies():
    cube = cubes_of(2, (4, 5, 6))
    nothing = get_recipe("genesis", flip_rate=0.0, shuffle_rate=0.0, nonlinear_rate=0.0, paint_rate=0.0)
    degraded, flip, applied = degrade(nothing, cube, [0, 1], [0, 0], 0)
    assert np.array_equal(degraded, cube)
    assert not flip.any()
    assert not applied.any()


@pytest.mark.parametrize("size", [SMALL, SLICE])
def test_the_dtype_does_not_show(size):
    """With one window, the degraded cubes of 4 are the same numbers in every dtype."""
    cubes = cubes_of(4, size, np.uint8)
    degraded = [
        degrade(RECIPES["genesis"], cubes.astype(dtype), range(4), range(4), 0, window=Window(0, 255))
        for dtype in WINDOWS
    ]
    for other in degraded[1:]:
        for one, two in zip(degraded[0], other, strict=True):
            assert np.array_equal(one, two)


@pytest.mark.parametrize("size", [SMALL, SLICE])
def test_a_pair_depends_on_nothing_around_it(size):
    cubes = cubes_of(8, size)
    streams, numbers = np.arange(8, dtype=np.uint64) * np.uint64(2**61), np.arange(8)
    together = degrade(RECIPES["genesis"], cubes, streams, numbers, 2)
    order = np.random.default_rng(1).permutation(8)
    shuffled = degrade(RECIPES["genesis"], cubes[order], streams[order], numbers[order], np.full(8, 2))
    for whole, part in zip(together, shuffled, strict=True):
        assert np.array_equal(whole[order], part)
    alone = degrade(RECIPES["genesis"], cubes[3:4], streams[3:4], numbers[3:4], 2)
    assert np.array_equal(alone[0][0], together[0][3])


@pytest.mark.parametrize(("name", "size"), [("genesis", SMALL), ("official-2020", SLICE)])
def test_four_threads_give_the_same_bits(name, size):
    cubes = cubes_of(24, size)
    streams, numbers = np.arange(24, dtype=np.uint64), np.arange(24)
    degrader = Degrader(RECIPES[name], size, Window(), 1)
    expected, flip, applied = np.zeros_like(cubes), np.zeros(24, np.uint8), np.zeros(24, np.uint8)
    degrader(cubes, streams, numbers, 0, expected, flip, applied)
    results = [np.zeros_like(cubes) for _ in range(4)]

    def work(out):
        for i in range(0, 24, 3):
            part = slice(i, i + 3)
            bits = np.zeros(3, np.uint8)
            degrader(cubes[part], streams[part], numbers[part], 0, out[part], bits, bits.copy())

    threads = [threading.Thread(target=work, args=(out,)) for out in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for out in results:
        assert np.array_equal(out, expected)


@pytest.mark.full  # numba compiles everything once more for read-only arrays
def test_the_original_is_read_only_and_may_be_so():
    cubes = cubes_of(2, SMALL)
    before = cubes.copy()
    cubes.flags.writeable = False
    degrade(RECIPES["genesis"], cubes, [0, 1], [0, 0], 0)
    assert np.array_equal(cubes, before)


def test_arrays_that_do_not_fit_are_refused():
    degrader = Degrader(RECIPES["genesis"], SMALL, Window(), 0)
    good = cubes_of(2, SMALL)
    bits = np.zeros(2, np.uint8)
    rest = (np.zeros(2, np.uint64), np.zeros(2, np.int64), 0)
    for cubes, out, words in (
        (good, np.zeros_like(good[:1]), "the buffer for the degraded ones"),
        (good, good.astype(np.uint16), "one dtype"),
        (cubes_of(2, (28, 27, 31)), np.zeros((2, 28, 27, 31), np.int16), r"\(28, 27, 30\)"),
        (good.astype(np.int32), good.astype(np.int32), "int16, uint8 or uint16"),
        (good.astype(np.uint8), good.astype(np.uint8), "does not fit into uint8"),
        (np.asfortranarray(good), good.copy(), "C-contiguous"),
    ):
        with pytest.raises(CallError, match=words):
            degrader(cubes, *rest, out, bits, bits.copy())
    with pytest.raises(CallError, match="stream"):
        degrader(good, rest[0][:1], rest[1], 0, good.copy(), bits, bits.copy())
    with pytest.raises(CallError, match="applied"):
        degrader(good, *rest, good.copy(), bits, bits[:1])
    with pytest.raises(CallError, match=r"must be \[n, x, y\] of one dtype with x, y = \(40, 150\)"):
        Degrader(RECIPES["genesis"], SLICE, Window(), 0)(good, *rest, good.copy(), bits, bits.copy())
    for size in ((64,), (64, 64, 32, 1)):
        with pytest.raises(CallError, match=f"has {len(size)} edges"):
            Degrader(RECIPES["genesis"], size, Window(), 0)
    with pytest.raises(CallError, match="seed is -1"):
        Degrader(RECIPES["genesis"], SMALL, Window(), -1)


# --- compiling -------------------------------------------------------------------------------------------


def copy_of_two_modules(folder):
    """A package with `compiling.py` and a kernel that calls a kernel of another module."""
    package = folder / "kernels"
    package.mkdir()
    shutil.copy(Path(compiling.__file__), package / "compiling.py")
    (package / "__init__.py").write_text("")
    (package / "callee.py").write_text(
        "from kernels.compiling import kernel\n\n@kernel\ndef step(x):\n    return x + 1\n"
    )
    (package / "caller.py").write_text(
        "from kernels.callee import step\nfrom kernels.compiling import kernel\n\n"
        "@kernel\ndef twice(x):\n    return step(step(x))\n"
    )
    return package


PRINT = "from kernels.caller import twice; print(twice(10), sum(twice.stats.cache_hits.values()))"


def run(folder, code, **environment):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA")}
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(folder), **environment},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_cache_sees_an_edit_in_another_modules_callee(tmp_path):
    package = copy_of_two_modules(tmp_path)
    assert run(tmp_path, PRINT) == ["12", "0"]
    assert run(tmp_path, PRINT) == ["12", "1"]
    callee = package / "callee.py"
    callee.write_text(callee.read_text().replace("x + 1", "x + 5"))
    assert run(tmp_path, PRINT) == ["20", "0"]
    assert run(tmp_path, PRINT) == ["20", "1"]


def test_no_cache_folder_costs_the_cache_and_not_the_run(tmp_path):
    """A file stands where every cache folder would have to be made."""
    package = copy_of_two_modules(tmp_path)
    (package / "__pycache__").write_text("")
    (tmp_path / "home").write_text("")
    home = str(tmp_path / "home")
    assert run(tmp_path, PRINT, HOME=home, XDG_CACHE_HOME=home) == ["12", "0"]
    assert run(tmp_path, PRINT, HOME=home, XDG_CACHE_HOME=home) == ["12", "0"]


def test_a_cache_that_fails_later_costs_the_cache_and_not_the_run(tmp_path):
    copy_of_two_modules(tmp_path)
    code = (
        "from numba.core.caching import IndexDataCacheFile\n"
        "def full(self, path): raise OSError(28, 'No space left on device')\n"
        "IndexDataCacheFile._open_for_write = full\n" + PRINT
    )
    assert run(tmp_path, code) == ["12", "0"]


def test_a_torn_cache_file_is_compiled_anew(tmp_path):
    package = copy_of_two_modules(tmp_path)
    assert run(tmp_path, PRINT) == ["12", "0"]
    for file in (package / "__pycache__").glob("*.nb?"):
        file.write_bytes(file.read_bytes()[:40])
    assert run(tmp_path, PRINT) == ["12", "0"]
    assert run(tmp_path, PRINT) == ["12", "1"]
