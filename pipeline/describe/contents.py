"""What a store holds, in words and numbers for people: of its card, its report and its Croissant file.

Pure: attributes and tables in, text out. A store of patches of slices or of X-ray images says so.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from genesis_toolkit.pipeline.describe.facts import applied_words, image_counts
from genesis_toolkit.pipeline.scans.find import NO_SUBSET
from genesis_toolkit.pipeline.store.schema import CubeTable, ImageTable, PairTable, ScanTable

#: The parameter of a store that tells its scans by pseudonyms.
KEY = "anonymized_with"

_MOST_LABELS = 15  # the fourteen findings of NIH's table, and none
_PLANE_AXES = {"axial": "x, y", "coronal": "x, z", "sagittal": "y, z"}


@dataclass(frozen=True)
class Contents:
    """What a store holds besides its voxels.

    Attributes:
        attributes: as `attrs["genesis"]`.
        cubes: one row a cube.
        scans: one row a scan.
        pairs: one row a pair; None of a cube store.
        images: one row a scan too; None where the scans are no X-ray images.
    """

    attributes: Mapping[str, Any]
    cubes: CubeTable
    scans: ScanTable
    pairs: PairTable | None = None
    images: ImageTable | None = None

    @property
    def name(self) -> str:
        """What the store is called in examples; its own name is for its owner to choose."""
        return "cubes.zarr" if self.pairs is None else "pairs.zarr"

    @property
    def cutting(self) -> Mapping[str, Any]:
        """The parameters with which the cubes were cut."""
        parameters: Mapping[str, Any] = self.attributes["parameters" if self.pairs is None else "cubes"]
        return parameters

    @property
    def edges(self) -> int:
        """How many edges a cube has: three, or two of a slice or an image."""
        return len(self.attributes["size"])

    @property
    def thing(self) -> str:
        """What one row of the cubes is: a cube, a patch of a slice, an image, or a crop of an image."""
        if self.images is not None:
            return "crop" if self.cutting.get("cubes_per_scan") else "image"
        return "cube" if self.edges == 3 else "patch"

    @property
    def things(self) -> str:
        """Several of them."""
        return "patches" if self.thing == "patch" else f"{self.thing}s"

    @property
    def points(self) -> str:
        """What it is made of."""
        return "voxels" if self.edges == 3 else "pixels"

    @property
    def axes(self) -> str:
        """Its axes, in the scan's: `x, y, z`, or `x, z` of a patch of a coronal slice."""
        return "x, y, z" if self.edges == 3 else _PLANE_AXES.get(str(self.cutting.get("plane")), "x, y")

    @property
    def origin(self) -> str:
        """What one row of the scans is: a scan, an X-ray image or an imported file."""
        if self.images is not None:
            return "X-ray image"
        if "imported" in self.cutting:
            return "imported file"
        return "CT scan" if self.attributes["unit"] == "HU" else "scan"

    @property
    def title(self) -> str:
        """What the store is, in three words or four."""
        what = "cubes" if self.edges == 3 else "X-ray images" if self.images is not None else "CT patches"
        return (
            f"Models Genesis {what if self.pairs is None else f'pairs of {what}'.removesuffix(' of cubes')}"
        )


def description(contents: Contents) -> str:
    """What the store is, in two sentences."""
    cubes, scans = len(contents.cubes), int(np.count_nonzero(contents.scans.cubes))
    thing, edges = contents.thing, " x ".join(map(str, contents.attributes["size"]))
    many = f"{cubes:,} {thing if cubes == 1 else contents.things}"
    source = f"{many} of {edges} {contents.points} out of {counted(scans, contents.origin)}"
    if contents.images is None:
        source += ", without labels"
    if contents.pairs is None:
        text = f"{source}."
    else:
        pairs = counted(len(contents.pairs), "pair")
        text = f"{pairs} of {_article(thing)} and a degraded twin of it: {source}."
    what = contents.things
    return f"{text} Made for pre-training as in Models Genesis: a network learns to restore degraded {what}."


def summary(contents: Contents) -> list[tuple[str, str]]:
    """What a store holds and by which rule and recipe, as rows of a name and a value, for people."""
    attributes, scans = contents.attributes, contents.scans
    low, high = attributes["window"]
    status = Counter(scans.status.tolist())
    edges = " x ".join(map(str, attributes["size"]))
    origin = "scans" if contents.images is None else "X-ray images"
    rows = [
        (contents.things, f"{len(contents.cubes):,} of {edges} {contents.points} in {contents.axes}"),
        *_pair_rows(contents),
        ("values", f"whole numbers, {_values(contents)} {low} .. {high}"),
        (origin, ", ".join(f"{status.pop(word, 0):,} {word}" for word in ("used", "skipped", "failed"))),
        *(_scan_rows(contents) if contents.images is None else _image_rows(contents.images, scans)),
    ]
    names = "pseudonyms" if KEY in contents.cutting else "their own"
    told = "names of the scans" if contents.images is None else "names of images and patients"
    return [*rows, (told, names)]


def spacing_range(scans: ScanTable) -> str:
    """The spacing of the scans that gave cubes, least and most in x, y, z; of imported cubes not known."""
    known = scans.spacing[(scans.cubes > 0) & (scans.spacing > 0).all(axis=1)]
    if not len(known):
        return "not known"
    ends = zip("xyz", known.min(axis=0), known.max(axis=0), strict=True)
    return ", ".join(
        f"{axis} {low:.3g}" if low == high else f"{axis} {low:.3g}-{high:.3g}" for axis, low, high in ends
    )


def parameter_rows(parameters: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Parameters as rows of a name and a value; what is nested follows the name it is nested in."""
    rows = []
    for name, value in parameters.items():
        words = name.replace("_", " ")
        if isinstance(value, Mapping):
            rows += [(f"{words}: {inner}", told) for inner, told in parameter_rows(value)]
        elif value is not None:
            rows.append((words, value_words(value)))
    return rows


def value_words(value: Any) -> str:
    """A parameter's value, as an option takes it."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def counted(number: int, thing: str) -> str:
    """`1 cube`, `2 cubes`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _values(contents: Contents) -> str:
    return f"{contents.attributes['unit']}, clipped to" if contents.images is None else "grey levels"


def _article(thing: str) -> str:
    return f"an {thing}" if thing[0] in "aeiou" else f"a {thing}"


def _pair_rows(contents: Contents) -> list[tuple[str, str]]:
    if contents.pairs is None:
        return []
    parameters = contents.attributes["parameters"]
    counts: Counter[str] = Counter()
    for bits, count in zip(*np.unique(contents.pairs.applied, return_counts=True), strict=True):
        for word in applied_words(int(bits)) or ["unchanged"]:
            counts[word] += int(count)
    flipped = int(np.count_nonzero(contents.pairs.flip))
    told = ", ".join(f"{count:,} {word}" for word, count in [("flipped", flipped), *counts.most_common()])
    recipe = f"{parameters['recipe']['name']}, seed {parameters['seed']}"
    variants = counted(parameters["variants"], "variant")
    return [
        ("pairs", f"{len(contents.pairs):,}, {variants} of every {contents.thing}"),
        ("recipe", recipe),
        ("degradations", told),
    ]


def _scan_rows(contents: Contents) -> list[tuple[str, str]]:
    """The spacing, the tissue scores and the subsets of cubes or slices of scans."""
    tissue = contents.cubes.tissue
    rows = [
        ("spacing in mm", spacing_range(contents.scans)),
        ("tissue score", f"{tissue.min():.3f} .. {tissue.max():.3f}, median {np.median(tissue):.3f}"),
    ]
    subsets = contents.scans.subset[contents.cubes.scan]
    if (subsets != NO_SUBSET).any():
        found = zip(*np.unique(subsets, return_counts=True), strict=True)
        named = [f"{'none' if subset == NO_SUBSET else subset}: {count:,}" for subset, count in found]
        rows.append((f"{contents.things} by subset", ", ".join(named)))
    return rows


def _image_rows(images: ImageTable, scans: ScanTable) -> list[tuple[str, str]]:
    """The patients, views and labels of the images that were used."""
    counts = image_counts(images, scans)
    most = list(counts["labels"].items())[:_MOST_LABELS]
    labels = [f"{name or 'none told'}: {count:,}" for name, count in most]
    views = [f"{name or 'not told'}: {count:,}" for name, count in counts["views"].items()]
    return [
        ("patients", f"{counts['patients']:,}"),
        ("images by view", ", ".join(views)),
        ("images by label", ", ".join(labels)),
    ]
