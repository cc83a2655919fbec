"""The named recipes: METHOD.md's table, what may be changed, and which cubes are large enough."""

import json
from dataclasses import fields

import numpy as np
import pytest

from genesis_toolkit.pipeline.degrade import recipes
from genesis_toolkit.pipeline.degrade.recipes import RECIPES, Applied, Recipe, get_recipe, only
from genesis_toolkit.pipeline.errors import CallError, DataError

SHUFFLE, INPAINT, OUTPAINT = Applied.SHUFFLE, Applied.INPAINT, Applied.OUTPAINT


def test_the_recipes_are_those_of_the_method():
    assert list(RECIPES) == ["genesis", "official-2020", "official-2019", "paper"]
    genesis, o2020, o2019, paper = RECIPES.values()
    assert genesis.flip_axes == ("x", "y", "z")
    assert (genesis.flip_rate, genesis.shuffle_rate, genesis.shuffle_windows) == (0.4, 0.5, 10_000)
    assert (genesis.nonlinear_rate, genesis.invert_rate) == (0.9, 0.5)
    assert (genesis.paint_rate, genesis.inpaint_share) == (0.9, 0.2)
    assert o2020 == Recipe(name="official-2020", flip_axes=("channel", "x", "y"), shuffle_keeps="number")
    assert (o2019.flip_rate, o2019.shuffle_rate, o2019.shuffle_windows) == (0.9, 0.1, 500)
    assert (o2019.inpaint_windows, o2019.inpaint_edges, o2019.inpaint_fill) == (1, ("10", "20"), "constant")
    assert (o2019.outpaint_windows, o2019.outpaint_margins, o2019.outpaint_fill) == (1, ("10", "20"), "noise")
    assert paper == Recipe(name="paper", inpaint_fill="constant", outpaint_fill="constant")


@pytest.mark.parametrize(
    ("name", "smallest"),
    [("genesis", (10, 8, 14)), ("official-2020", (10, 8, 14)), ("paper", (10, 8, 14)),
     ("official-2019", (10, 26, 21))],
)  # fmt: skip
def test_the_smallest_edges_are_those_of_the_method(name, smallest):
    found = recipes.smallest_edges(RECIPES[name])
    assert tuple(found[d] for d in (SHUFFLE, INPAINT, OUTPAINT)) == smallest


def test_the_edges_at_the_published_size():
    def all_edges(degradation):
        return [recipes.window_edges(RECIPES["genesis"], degradation, length) for length in (64, 64, 32)]

    assert all_edges(SHUFFLE) == [(1, 6), (1, 6), (1, 3)]
    assert all_edges(INPAINT) == [(10, 21), (10, 21), (5, 10)]
    assert all_edges(OUTPAINT) == [(28, 37), (28, 37), (14, 19)]


@pytest.mark.parametrize(
    ("degradation", "small", "large"),
    [(SHUFFLE, (1, 22), (1, 51)), (INPAINT, (37, 74), (85, 170)), (OUTPAINT, (96, 128), (220, 293))],
)
def test_the_edges_of_slices(degradation, small, large):
    assert recipes.window_edges(RECIPES["genesis"], degradation, 224) == small
    assert recipes.window_edges(RECIPES["genesis"], degradation, 512) == large


@pytest.mark.parametrize(
    ("rule", "length", "edge"),
    [("L//6", 64, 10), ("3L//7", 64, 27), ("1", 64, 1), ("20", 5, 20), ("L//1", 9, 9)],
)
def test_edge_rules(rule, length, edge):
    assert recipes.apply_rule(rule, length) == edge


@pytest.mark.parametrize(
    "rule", ["", "L", "L/6", "0", "L//0", "6//L", "-1", "3 L//7", "1.5", "03", "٣", "L//6\n"]
)
def test_anything_else_is_no_rule(rule):
    with pytest.raises(CallError, match="edge rule"):
        recipes.apply_rule(rule, 64)


def test_the_covered_share_is_the_published_one():
    """Exact, by summing over voxels; and by counting windows, 1 cube of 64 x 64 x 32."""
    genesis = RECIPES["genesis"]
    assert recipes.shuffle_coverage(genesis, (64, 64, 32), 10_000) == pytest.approx(0.81908, abs=5e-6)
    rng = np.random.default_rng(0)
    inside = np.zeros((64, 64, 32), bool)
    for _ in range(10_000):
        edges = rng.integers(1, (7, 7, 4))
        x, y, z = rng.integers(0, (64, 64, 32) - edges + 1)
        inside[x : x + edges[0], y : y + edges[1], z : z + edges[2]] = True
    assert inside.mean() == pytest.approx(0.819, abs=0.006)


@pytest.mark.parametrize("name", RECIPES)
def test_the_number_of_windows_at_the_published_size_is_exact(name):
    assert recipes.shuffle_windows(RECIPES[name], (64, 64, 32)) == RECIPES[name].shuffle_windows


def counted_coverage(size, windows, cubes):
    """The share of voxels inside at least one window, by drawing the windows of `cubes` cubes."""
    rng, shares = np.random.default_rng(0), []
    for _ in range(cubes):
        inside = np.zeros(size, bool)
        for edges in rng.integers(1, np.array(size) // 10 + 1, (windows, len(size))):
            start = rng.integers(0, np.array(size) - edges + 1)
            inside[tuple(slice(a, a + edge) for a, edge in zip(start, edges, strict=True))] = True
        shares.append(inside.mean())
    return np.mean(shares)


@pytest.mark.parametrize("size", [(224, 224), (40, 60)])
def test_the_covered_share_of_slices_is_the_published_one(size):
    """By counting windows, 10 slices: 81.9 %, tolerance 1.2, with far fewer windows than a cube has."""
    genesis = RECIPES["genesis"]
    windows = recipes.shuffle_windows(genesis, size)
    assert windows < 1000
    assert counted_coverage(size, windows, 10) == pytest.approx(0.819, abs=0.012)


def test_the_10000_windows_of_the_official_recipe_cover_a_slice():
    """1 slice of 224 x 224, by counting, within 0.15 points of the exact 99.8 %."""
    official = RECIPES["official-2020"]
    assert recipes.shuffle_windows(official, (224, 224)) == 10_000
    exact = recipes.shuffle_coverage(official, (224, 224), 10_000)
    assert exact == pytest.approx(0.998, abs=0.001)
    assert counted_coverage((224, 224), 10_000, 1) == pytest.approx(exact, abs=0.0015)


@pytest.mark.parametrize(
    "size",
    [
        (96, 96, 96),
        (128, 128, 64),
        (160, 160, 160),
        (33, 40, 17),
        (10, 10, 10),
        (224, 224),
        (512, 512),
        (10, 11),
    ],
)
def test_other_sizes_keep_the_covered_share(size):
    genesis = RECIPES["genesis"]
    n = recipes.shuffle_windows(genesis, size)
    wanted = recipes.shuffle_coverage(genesis, (64, 64, 32), 10_000)
    assert (
        recipes.shuffle_coverage(genesis, size, n) >= wanted > recipes.shuffle_coverage(genesis, size, n - 1)
    )


def test_the_search_itself_finds_10000_again():
    """The shortcut for the published size hides nothing: a cube with its axes swapped needs as many."""
    assert recipes.shuffle_windows(RECIPES["genesis"], (64, 32, 64)) == 10_000


@pytest.mark.parametrize("name", ["official-2020", "official-2019"])
def test_the_official_recipes_keep_their_number(name):
    for size in ((96, 96, 96), (64, 64), (512, 512)):
        assert recipes.shuffle_windows(RECIPES[name], size) == RECIPES[name].shuffle_windows


def test_overrides_keep_the_name_and_change_the_digest():
    changed = get_recipe("genesis", nonlinear_rate=0.5)
    assert changed.name == "genesis"
    assert changed.nonlinear_rate == 0.5
    assert changed.digest() != RECIPES["genesis"].digest()
    assert get_recipe("genesis") == RECIPES["genesis"]
    assert get_recipe("genesis", shuffle_rate=1).digest() == get_recipe("genesis", shuffle_rate=1.0).digest()
    assert len({r.digest() for r in RECIPES.values()}) == 4


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(CallError, match=r"'models'.*genesis, official-2020, official-2019, paper"):
        get_recipe("models")


@pytest.mark.parametrize("key", ["shufle_rate", "name"])
def test_an_unknown_parameter_is_named(key):
    with pytest.raises(CallError, match=f"no parameter '{key}'.*shuffle_rate"):
        get_recipe("genesis", **{key: 0.5})


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("flip_rate", -0.1, "from 0 to 1"),
        ("shuffle_rate", 1.5, "from 0 to 1"),
        ("nonlinear_rate", float("nan"), "from 0 to 1"),
        ("inpaint_share", True, "from 0 to 1"),
        ("outpaint_continue", "0.5", "from 0 to 1"),
        ("shuffle_windows", 0, "1 to 1000000"),
        ("inpaint_windows", 2.0, "1 to 64"),
        ("flip_axes", (), "one to three"),
        ("flip_axes", ("x", "y", "z", "x"), "one to three"),
        ("flip_axes", ("w",), "channel, x, y, z"),
        ("shuffle_keeps", "density", "coverage or number"),
        ("inpaint_fill", "zero", "noise or constant"),
        ("inpaint_edges", ("L/6", "L//3"), "two edge rules"),
        ("outpaint_margins", ("10",), "two edge rules"),
    ],
)
def test_a_value_out_of_range_is_refused_with_value_and_range(key, value, allowed):
    with pytest.raises(CallError) as caught:
        get_recipe("genesis", **{key: value})
    message = str(caught.value)
    assert "--" + key.replace("_", "-") in message
    assert repr(value) in message
    assert allowed in message


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_json(name):
    text = json.dumps(RECIPES[name].to_json())
    assert Recipe.from_json(json.loads(text)) == RECIPES[name]
    assert Recipe.from_json(json.loads(text)).digest() == RECIPES[name].digest()


def test_a_recorded_recipe_must_be_whole():
    mapping = RECIPES["genesis"].to_json()
    for field in fields(Recipe):
        with pytest.raises(DataError, match=f"lacks parameter '{field.name}'"):
            Recipe.from_json({k: v for k, v in mapping.items() if k != field.name})
    with pytest.raises(DataError, match="unknown parameter 'rotate_rate'"):
        Recipe.from_json({**mapping, "rotate_rate": 0.5})
    with pytest.raises(DataError, match=r"invalid.*--flip-rate is 2"):
        Recipe.from_json({**mapping, "flip_rate": 2})


@pytest.mark.parametrize(
    ("name", "size", "overrides", "words"),
    [
        ("genesis", (64, 9, 32), {}, ["9 voxels along y", "shuffling", "at least 10", "--shuffle-rate 0"]),
        (
            "genesis",
            (64, 64, 13),
            {},
            ["13 voxels along z", "out-painting", "at least 14", "--inpaint-share 1"],
        ),
        ("genesis", (7, 64, 64), {"shuffle_rate": 0.0}, ["along x", "in-painting", "at least 8", "--size"]),
        (
            "official-2019",
            (25, 64, 64),
            {},
            ["25 voxels along x", "in-painting", "at least 26", "--paint-rate 0"],
        ),
        ("genesis", (64, 13), {}, ["13 pixels along y", "out-painting", "at least 14", "--inpaint-share 1"]),
        ("genesis", (9, 9), {"paint_rate": 0.0}, ["9 pixels along x", "shuffling", "at least 10"]),
    ],
)
def test_a_cube_too_small_says_for_what_and_how_to_go_on(name, size, overrides, words):
    with pytest.raises(CallError) as caught:
        recipes.check_size(get_recipe(name, **overrides), size)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("size", "overrides"),
    [
        ((64, 64, 32), {}),
        ((14, 14, 14), {}),
        ((4, 4, 4), {"shuffle_rate": 0.0, "paint_rate": 0.0}),
        ((10, 10, 10), {"inpaint_share": 1.0}),
        ((14, 14), {}),
        ((4, 4), {"shuffle_rate": 0.0, "paint_rate": 0.0}),
    ],
)
def test_a_degradation_that_never_happens_asks_nothing(size, overrides):
    recipes.check_size(get_recipe("genesis", **overrides), size)


def test_rules_that_fit_into_no_cube_are_refused():
    with pytest.raises(CallError, match=r"--inpaint-edges .* fits no cube: .* --inpaint-edges L//6,L//3"):
        recipes.check_size(get_recipe("genesis", inpaint_edges=("L//3", "L//6")), (64, 64, 32))


@pytest.mark.parametrize(
    ("name", "overrides", "axes"),
    [
        ("genesis", {}, ("x", "y")),
        ("paper", {}, ("x", "y")),
        ("official-2020", {}, ("channel", "x", "y")),
        ("genesis", {"flip_axes": ("y",)}, ("y",)),
        ("genesis", {"flip_axes": ("z",), "flip_rate": 0.0}, ()),
    ],
)
def test_slices_flip_the_axes_that_they_have(name, overrides, axes):
    recipe = get_recipe(name, **overrides)
    recipes.check_size(recipe, (64, 64))
    assert recipes.flip_axes(recipe, (64, 64)) == axes
    assert recipes.flip_axes(recipe, (64, 64, 32)) == recipe.flip_axes


@pytest.mark.parametrize(
    ("name", "axes"), [("genesis", ("z",)), ("genesis", ("x", "z")), ("official-2020", ("x", "y", "z"))]
)
def test_slices_have_no_z_to_choose(name, axes):
    with pytest.raises(CallError) as caught:
        recipes.check_size(get_recipe(name, flip_axes=axes), (64, 64))
    for word in ("--flip-axes is " + ",".join(axes), "two dimensions", "omit z"):
        assert word in str(caught.value)
    recipes.check_size(get_recipe(name, flip_axes=axes), (64, 64, 32))


def test_only_forces_exactly_what_is_asked():
    forced = only(RECIPES["genesis"], SHUFFLE | OUTPAINT)
    assert (forced.flip_rate, forced.shuffle_rate, forced.nonlinear_rate) == (0, 1, 0)
    assert (forced.paint_rate, forced.inpaint_share) == (1, 0)
    with pytest.raises(CallError, match="exclude each other"):
        only(RECIPES["genesis"], INPAINT | OUTPAINT)
