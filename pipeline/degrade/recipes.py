"""Recipes: kinds, rates and sizes of degradations (METHOD.md section 3).

The released program had several dialects, all different from the paper, so a recipe has a name and is
recorded in full in the store. Edges are rules in L, the edge of the cube along the same axis: "L//6" is a
sixth of it, rounded down, "3L//7" three sevenths, "10" ten voxels.
"""

import hashlib
import json
import re
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from enum import IntFlag
from functools import cache
from typing import Any

import numpy as np

from genesis_toolkit.pipeline.errors import CallError, DataError

#: The bits of a net flip: axis x is 1, y is 2, z is 4.
FLIP_X, FLIP_Y, FLIP_Z = 1, 2, 4

#: Bit of each axis of a recipe. The released program's arrays have a channel axis of length 1.
AXIS_BITS = {"channel": 0, "x": FLIP_X, "y": FLIP_Y, "z": FLIP_Z}

#: Number of voxels that windows keep from the border (METHOD.md section 3).
MARGIN = 3

#: Cube size of the published numbers of windows.
REFERENCE_SIZE = (64, 64, 32)

_RULE = re.compile(r"(?:([1-9]\d*)?L//([1-9]\d*)|([1-9]\d*))", re.ASCII)
_SHARES = ("_rate", "_continue", "_share")
_LONGEST = 1024  # longest edge tried in the search for a rule's smallest edge


class Applied(IntFlag):
    """The degradations of a pair: the bits of `applied` in a pair store. Never renumber."""

    NONLINEAR = 1
    SHUFFLE = 2
    INPAINT = 4
    OUTPAINT = 8


@dataclass(frozen=True)
class Recipe:
    """Every parameter of the degradations (METHOD.md section 3). Shares are of pairs.

    Raises:
        CallError: a value is outside its range; the message names the option, the value and the range.
    """

    name: str = "genesis"
    #: A cube is turned about one of flip_axes while U < flip_rate, at most three times. Cubes of two
    #: dimensions have no z: see `flip_axes`.
    flip_rate: float = 0.4
    flip_axes: tuple[str, ...] = ("x", "y", "z")
    shuffle_rate: float = 0.5
    #: Number of windows in a cube of 64 x 64 x 32.
    shuffle_windows: int = 10_000
    #: What is kept at other sizes: the "coverage" (share of voxels in a window) or the "number".
    shuffle_keeps: str = "coverage"
    shuffle_edges: tuple[str, str] = ("1", "L//10")
    nonlinear_rate: float = 0.9
    invert_rate: float = 0.5
    paint_rate: float = 0.9
    #: The share of in-painting among painted cubes; the others are out-painted.
    inpaint_share: float = 0.2
    inpaint_windows: int = 5
    inpaint_continue: float = 0.95
    inpaint_edges: tuple[str, str] = ("L//6", "L//3")
    #: "noise", per voxel, or "constant", one random value per window.
    inpaint_fill: str = "noise"
    outpaint_windows: int = 5
    outpaint_continue: float = 0.95
    #: The edge of a kept window is L - r, r uniform between these.
    outpaint_margins: tuple[str, str] = ("3L//7", "4L//7")
    outpaint_fill: str = "noise"

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            _check_value(field.name, value)
            if field.name.endswith(_SHARES):  # 1 and 1.0 are one recipe, so they must have one digest
                object.__setattr__(self, field.name, float(value))

    def to_json(self) -> dict[str, Any]:
        """Return every parameter by name, in JSON types: tuples become lists."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def from_json(cls, mapping: Mapping[str, Any]) -> "Recipe":
        """Return the recipe written by `to_json`.

        Raises:
            DataError: a key is missing or unknown, or a value is not allowed.
        """
        known = {field.name for field in fields(cls)}
        for key in sorted(known ^ set(mapping)):
            found = "lacks" if key in known else "has the unknown"
            raise DataError(
                f"The recorded recipe {found} parameter {key!r}: the store was written by another version, "
                "or is damaged."
            )
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in mapping.items()}
        try:
            return cls(**values)
        except CallError as error:
            raise DataError(f"The recorded recipe is invalid: {error}") from error

    def digest(self) -> str:
        """Return the sha256, hex, of the canonical JSON (sorted keys, no spaces), identifying a recipe."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def _check_value(key: str, value: Any) -> None:
    """Refuse a parameter outside its range."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if key.endswith(_SHARES):
        good, allowed = number and 0 <= value <= 1, "a number from 0 to 1"
    elif key.endswith("_windows"):
        most = 1_000_000 if key == "shuffle_windows" else 64
        good = number and isinstance(value, int) and 1 <= value <= most
        allowed = f"a whole number from 1 to {most}"
    elif key == "shuffle_keeps":
        good, allowed = value in ("coverage", "number"), "coverage or number"
    elif key.endswith("_fill"):
        good, allowed = value in ("noise", "constant"), "noise or constant"
    elif key == "flip_axes":
        good = isinstance(value, tuple) and 1 <= len(value) <= 3 and all(v in AXIS_BITS for v in value)
        allowed = f"one to three of {', '.join(AXIS_BITS)}"
    elif key.endswith(("_edges", "_margins")):
        good = isinstance(value, tuple) and len(value) == 2
        good = good and all(isinstance(v, str) and _RULE.fullmatch(v) for v in value)
        allowed = "two edge rules, for example L//6,L//3 or 3L//7,4L//7 (L: edge of the cube)"
    else:
        good, allowed = isinstance(value, str) and bool(value), "a name"
    if not good:
        raise CallError(f"{_option(key)} is {value!r}, but it must be {allowed}.")


def _option(key: str) -> str:
    return "--" + key.replace("_", "-")


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(),
        Recipe(name="official-2020", flip_axes=("channel", "x", "y"), shuffle_keeps="number"),
        Recipe(
            name="official-2019",
            flip_rate=0.9,
            flip_axes=("channel", "x", "y"),
            shuffle_rate=0.1,
            shuffle_windows=500,
            shuffle_keeps="number",
            inpaint_windows=1,
            inpaint_continue=1.0,
            inpaint_edges=("10", "20"),
            inpaint_fill="constant",
            outpaint_windows=1,
            outpaint_margins=("10", "20"),
        ),
        Recipe(name="paper", inpaint_fill="constant", outpaint_fill="constant"),
    )
}


def get_recipe(name: str, /, **overrides: Any) -> Recipe:
    """Return a recipe by name, with single parameters replaced.

    Args:
        name: a key of RECIPES.
        overrides: parameters of `Recipe`; the result keeps the name, but has another `digest`.

    Raises:
        CallError: the recipe or a parameter is unknown, or a value is outside its range.
    """
    if name not in RECIPES:
        raise CallError(f"There is no recipe {name!r}: choose --recipe from {', '.join(RECIPES)}.")
    known = [field.name for field in fields(Recipe) if field.name != "name"]
    for key in overrides:
        if key not in known:
            raise CallError(f"A recipe has no parameter {key!r}; its parameters are {', '.join(known)}.")
    return replace(RECIPES[name], **overrides)


def only(recipe: Recipe, applied: Applied) -> Recipe:
    """Return the recipe that always applies exactly these degradations, without flips, for illustration.

    The streams are unchanged, so each degradation looks the same as within a pair.

    Raises:
        CallError: in- and out-painting are combined.
    """
    if applied & Applied.INPAINT and applied & Applied.OUTPAINT:
        raise CallError("In-painting and out-painting exclude each other: request only one.")
    return replace(
        recipe,
        flip_rate=0.0,
        nonlinear_rate=float(bool(applied & Applied.NONLINEAR)),
        shuffle_rate=float(bool(applied & Applied.SHUFFLE)),
        paint_rate=float(bool(applied & (Applied.INPAINT | Applied.OUTPAINT))),
        inpaint_share=float(bool(applied & Applied.INPAINT)),
    )


def apply_rule(rule: str, length: int) -> int:
    """Evaluate a rule such as "3L//7" for an axis of `length` voxels.

    Raises:
        CallError: it is not a rule.
    """
    match = _RULE.fullmatch(rule)
    if match is None:
        raise CallError(
            f"The edge rule {rule!r} is invalid: it must look like 10, L//6 or 3L//7 (L: edge of the cube)."
        )
    times, divisor, voxels = match.groups()
    return int(voxels) if voxels else int(times or 1) * length // int(divisor)


def window_edges(recipe: Recipe, degradation: Applied, length: int) -> tuple[int, int]:
    """Return the smallest and largest window edge of a degradation, for an axis of `length`, in voxels."""
    low, high = (apply_rule(rule, length) for rule in getattr(recipe, _RULES[degradation]))
    return (length - high, length - low) if degradation is Applied.OUTPAINT else (low, high)


@cache
def smallest_edges(recipe: Recipe) -> dict[Applied, int]:
    """Return the smallest edge of a cube, in voxels, for each degradation with windows.

    From this edge on all larger ones work: windows have at least one voxel per axis, fit between the free
    borders, and the rule's two ends are in order. METHOD.md section 3 lists the values for our recipes.

    Raises:
        CallError: the rules of a degradation work for no cube.
    """
    smallest = {}
    for degradation, rules in _RULES.items():
        free = 0 if degradation is Applied.SHUFFLE else 2 * MARGIN
        edges = ((length, *window_edges(recipe, degradation, length)) for length in range(_LONGEST, 0, -1))
        failing = next((n for n, low, high in edges if not 1 <= low <= high <= n - free), 0)
        if failing == _LONGEST:
            found, usual = (",".join(getattr(one, rules)) for one in (recipe, RECIPES["genesis"]))
            raise CallError(
                f"{_option(rules)} {found} fits no cube: give the smaller edge first; a "
                "window must be at least one voxel wide and leave a margin inside the cube. "
                f"Try {_option(rules)} {usual}."
            )
        smallest[degradation] = failing + 1
    return smallest


#: The parameter for the window size of each degradation.
_RULES = {
    Applied.SHUFFLE: "shuffle_edges",
    Applied.INPAINT: "inpaint_edges",
    Applied.OUTPAINT: "outpaint_margins",
}
_LABELS = {Applied.SHUFFLE: "shuffling", Applied.INPAINT: "in-painting", Applied.OUTPAINT: "out-painting"}
_WAYS_OUT = {
    Applied.SHUFFLE: "--shuffle-rate 0.",
    Applied.INPAINT: "--inpaint-share 0 (or --paint-rate 0).",
    Applied.OUTPAINT: "--inpaint-share 1 (or --paint-rate 0).",
}


def shares(recipe: Recipe) -> dict[Applied, float]:
    """Return the share of pairs that get each degradation."""
    return {
        Applied.NONLINEAR: recipe.nonlinear_rate,
        Applied.SHUFFLE: recipe.shuffle_rate,
        Applied.INPAINT: recipe.paint_rate * recipe.inpaint_share,
        Applied.OUTPAINT: recipe.paint_rate * (1 - recipe.inpaint_share),
    }


def flip_axes(recipe: Recipe, size: tuple[int, ...]) -> tuple[str, ...]:
    """Return the axes that a flip draws from, in cubes of this size.

    In two dimensions the z of a named recipe is left out, since it means all existing axes. An axis chosen by
    the user is not, since z alone would leave nothing.

    Raises:
        CallError: z was chosen for cubes that have no z.
    """
    if len(size) == 3 or "z" not in recipe.flip_axes:
        return recipe.flip_axes
    if recipe.flip_rate and recipe.flip_axes != getattr(RECIPES.get(recipe.name), "flip_axes", None):
        raise CallError(
            f"--flip-axes is {','.join(recipe.flip_axes)}, but the cubes have two dimensions, x and y: omit "
            "z, or omit --flip-axes to use the recipe's axes."
        )
    return tuple(axis for axis in recipe.flip_axes if axis != "z")


def check_size(recipe: Recipe, size: tuple[int, ...]) -> None:
    """Refuse cubes too small for a degradation of the recipe, or without an axis chosen for flips.

    Degradations with a rate of 0 are ignored.

    Raises:
        CallError: names the axis, the edge found, the smallest edge, the degradation and the way out.
    """
    flip_axes(recipe, size)
    voxels = "voxels" if len(size) == 3 else "pixels"
    for degradation, smallest in smallest_edges(recipe).items():
        for axis, edge in zip("xyz", size, strict=False):
            if edge < smallest and shares(recipe)[degradation]:
                raise CallError(
                    f"The cubes have {edge} {voxels} along {axis}, but {_LABELS[degradation]} "
                    f"needs at least {smallest}: extract cubes with a larger --size, or turn "
                    f"{_LABELS[degradation]} off with {_WAYS_OUT[degradation]}"
                )


def shuffle_coverage(recipe: Recipe, size: tuple[int, ...], windows: int) -> float:
    """Return the expected share of voxels in at least one of `windows` shuffling windows, in 0 .. 1."""
    # The possible probabilities that one window contains a voxel, and the share of voxels with each.
    values, shares = np.ones(1), np.ones(1)
    for length in size:
        low, high = window_edges(recipe, Applied.SHUFFLE, length)
        chance = np.zeros(length)
        at = np.arange(length)
        for edge in range(low, high + 1):
            starts = np.minimum(at, length - edge) - np.maximum(at - edge + 1, 0) + 1
            chance += starts / (length - edge + 1) / (high - low + 1)
        axis, counts = np.unique(chance.round(14), return_counts=True)
        values = np.multiply.outer(values, axis).ravel()
        shares = np.multiply.outer(shares, counts / length).ravel()
    return float(np.sum(shares * (1 - (1 - values) ** windows)))


@cache
def shuffle_windows(recipe: Recipe, size: tuple[int, ...]) -> int:
    """Return the number of shuffling windows in a cube of this size, which `check_size` has accepted.

    With `shuffle_keeps` "coverage" it is the smallest number that covers the same share of voxels as the
    recipe's number in a cube of 64 x 64 x 32 (81.9 % with 10,000); with "number" it is the recipe's.
    """
    if recipe.shuffle_keeps == "number" or tuple(size) == REFERENCE_SIZE:
        return recipe.shuffle_windows
    target = shuffle_coverage(recipe, REFERENCE_SIZE, recipe.shuffle_windows)
    return bisect_left(range(2**40), target, key=lambda windows: shuffle_coverage(recipe, size, windows))
