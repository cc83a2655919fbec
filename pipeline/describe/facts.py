"""Facts about a store: plain data for programs, and phrases for its card, its report and its Croissant file.

They name patches of slices and X-ray images as such.
"""

import csv
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genesis_toolkit.pipeline.degrade.recipes import Applied
from genesis_toolkit.pipeline.scans.find import NO_SUBSET
from genesis_toolkit.pipeline.scans.gather import SAME
from genesis_toolkit.pipeline.store import schema
from genesis_toolkit.pipeline.store.open import AnyStore, CubeStore, PairStore, TargetStore, statuses_words
from genesis_toolkit.pipeline.store.salvage import read_log
from genesis_toolkit.pipeline.wording import counted, size_words, value_words

#: The parameter of a store whose scans have pseudonyms.
KEY = "anonymized_with"

# The result of each degradation, in the order in which they are applied.
_WORDS = {
    Applied.SHUFFLE: "shuffled",
    Applied.NONLINEAR: "non-linear",
    Applied.INPAINT: "in-painted",
    Applied.OUTPAINT: "out-painted",
}
#: A value for `--min-tissue` that refuses cubes of air but hardly any others: of 64 cubes from two real chest
#: scans 11 had no tissue, and 2 had some but less than this.
LEAST_TISSUE = 0.001
_MOST_SCANS = 3  # scans named in a sentence
_MOST_LABELS = 15  # the fourteen findings of NIH's table, and `No Finding`
_PLANE_AXES = {"axial": "x, y", "coronal": "x, z", "sagittal": "y, z"}


@dataclass(frozen=True)
class Contents:
    """The contents of a cube store or pair store without its voxels: `attrs["genesis"]`, and its tables.

    A cube store has no pairs; `images` has one row per scan, and is None unless the scans are X-ray images.
    """

    attributes: Mapping[str, Any]
    cubes: schema.CubeTable
    scans: schema.ScanTable
    pairs: schema.PairTable | None = None
    images: schema.ImageTable | None = None

    @property
    def cutting(self) -> Mapping[str, Any]:
        """The extraction parameters of the cubes."""
        parameters: Mapping[str, Any] = self.attributes["parameters" if self.pairs is None else "cubes"]
        return parameters

    @property
    def edges(self) -> int:
        """Number of edges of a cube: three, or two for a slice or an image."""
        return len(self.attributes["size"])

    @property
    def thing(self) -> str:
        """Noun for one row of the cubes: a cube, a patch of a slice, an image, or a crop of an image."""
        if self.images is not None:
            return "crop" if self.cutting.get("cubes_per_scan") else "image"
        return "cube" if self.edges == 3 else "patch"

    @property
    def things(self) -> str:
        """Plural of `thing`."""
        return "patches" if self.thing == "patch" else f"{self.thing}s"

    @property
    def source(self) -> str:
        """Noun for one row of the scans: a scan, an X-ray image or an imported file."""
        if self.images is not None:
            return "X-ray image"
        if "imported" in self.cutting:
            return "imported file"
        return "CT scan" if self.attributes["unit"] == "HU" else "scan"

    @property
    def sources(self) -> str:
        """Plural of `source`, in one word."""
        return "scans" if self.images is None else "images"

    @property
    def title(self) -> str:
        """Title of the store, in three or four words."""
        what = "cubes" if self.edges == 3 else "X-ray images" if self.images is not None else "patches"
        if what == "patches" and self.attributes["unit"] == "HU":
            what = "CT patches"
        if self.pairs is not None:
            what = "pairs" if what == "cubes" else f"pairs of {what}"
        return f"Models Genesis {what}"


def contents_of(store: CubeStore | PairStore) -> Contents:
    """Return the contents of an open store."""
    pairs = store.pairs if isinstance(store, PairStore) else None
    return Contents(store.attributes, store.table, store.scans, pairs, store.images)


def describe_store(store: AnyStore) -> dict[str, Any]:
    """Describe a store in one object of plain JSON values.

    Returns:
        Location, format, version, counts, window, size, bytes on disk and before compression, the scans by
        status, those that gave nothing or not everything and why, the parameters, the facts of the run and
        `without_tissue`. For cubes and pairs also `facts_of`; for targets the task, its classes and `folds`
        (see `count_folds`).
    """
    attributes, scans = store.attributes, store.scans
    arrays = [getattr(store, name) for name in schema.KINDS[attributes["format"]].voxels]
    voxels = sum(len(array) * array.dtype.itemsize for array in filter(None, arrays))
    facts: dict[str, Any] = {
        "store": store.storage.place,
        **{name: attributes[name] for name in ("format", "version", "size", "window", "unit", "parameters")},
        "cubes": len(store.table),
        "bytes": sum(store.storage.size(path) for path in store.manifest),
        "bytes_uncompressed": voxels * int(np.prod(store.size)),
        "scans": dict(sorted(Counter(scans.status.tolist()).items())),
        "not_used": not_used(scans),
        "run": read_log(store.storage),
        "without_tissue": [],
    }
    if isinstance(store, TargetStore):
        folds = count_folds(store.table.fold, store.table.scan, store.labels, store.classes)
        return facts | {"task": store.task, "classes": list(store.classes), "folds": folds}
    contents = contents_of(store)
    return facts | facts_of(contents) | {"without_tissue": without_tissue(contents)}


def not_used(scans: schema.ScanTable) -> list[dict[str, str]]:
    """Return scans that gave nothing or not everything, each with `scan`, `path`, `status` and `reason`."""
    names = dict(zip(scans.path.tolist(), scans.names.tolist(), strict=True))
    columns = (scans.path.tolist(), scans.status.tolist(), scans.reason.tolist())
    rows = []
    for path, status, reason in zip(*columns, strict=True):
        if status != "used" or reason:
            twin = reason.removeprefix(SAME) if reason.startswith(SAME) else ""
            reason = SAME + names.get(twin, twin) if twin else reason
            rows.append({"scan": names[path], "path": path, "status": status, "reason": reason})
    return rows


def without_tissue(contents: Contents) -> list[dict[str, Any]]:
    """Return the scans with cubes that hold no tissue, like air around the patient, most such cubes first.

    A voxel is tissue from -150 HU up; a cube without any has a tissue score of exactly 0. The score of
    patches, images and mapped values does not show this, so none are returned for them.

    Returns:
        For each `scan` (its name) its `path`, the number of its cubes `without_tissue`, and of its `cubes`.
    """
    if contents.thing != "cube" or contents.attributes["unit"] != "HU":
        return []
    scans, tissue = contents.scans, contents.cubes.tissue
    names, counts = scans.names, np.bincount(contents.cubes.scan[tissue == 0], minlength=len(scans))
    return [
        {
            "scan": str(names[row]),
            "path": str(scans.path[row]),
            "without_tissue": int(counts[row]),
            "cubes": int(scans.cubes[row]),
        }
        for row in np.argsort(-counts, kind="stable")
        if counts[row]
    ]


def without_tissue_words(found: Sequence[Mapping[str, Any]], cubes: int) -> str:
    """Say how many of the cubes hold no tissue, and from which scans; empty if every cube holds some.

    `found` is the result of `without_tissue`.
    """
    if not found:
        return ""
    count, most = sum(one["without_tissue"] for one in found), found[:_MOST_SCANS]
    of = [f"{one['without_tissue']:,} of the {one['cubes']:,} of {one['scan']}" for one in most]
    of += [f"the rest of {counted(len(found) - len(most), 'other scan')}"] if len(found) > len(most) else []
    return (
        f"{count:,} of {counted(cubes, 'cube')} hold no tissue, only air: {', '.join(of)}. "
        f"--min-tissue {LEAST_TISSUE:g} leaves such cubes out."
    )


def scans_csv(scans: schema.ScanTable, images: schema.ImageTable | None = None) -> str:
    """Return the whole table of scans as CSV, one row per scan, with a heading.

    The columns are those of `ScanTable` and, for X-ray images, `ImageTable`; a column with several numbers is
    split: `shape_x`, `direction_0`. Optional columns that the store lacks are left out.
    """
    columns: dict[str, list[Any]] = {}
    for name, values in {**vars(scans), **(vars(images) if images is not None else {})}.items():
        if values is None:
            continue
        if values.ndim == 1:
            columns[name] = values.tolist()
            continue
        places = schema.AXES if len(values.T) == len(schema.AXES) else range(len(values.T))
        columns |= {
            f"{name}_{place}": column.tolist() for place, column in zip(places, values.T, strict=True)
        }
    text = StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def facts_of(contents: Contents) -> dict[str, Any]:
    """Summarise the tables of a cube store or pair store in plain JSON values.

    Returns:
        The cubes by subset, the range of the scans' spacing in mm (0 if unknown), the tissue scores, or for
        X-ray images their patients, views and labels, and for pairs how many get each degradation,
        combination and flip.
    """
    scans, tissue, pairs = contents.scans, contents.cubes.tissue, contents.pairs
    known = scans.spacing[(scans.cubes > 0) & (scans.spacing > 0).all(axis=1)]
    known = known if len(known) else np.zeros((1, len(schema.AXES)))
    subsets = _counts(scans.subset[contents.cubes.scan]).items()
    facts: dict[str, Any] = {
        "cubes_by_subset": {"none" if one == NO_SUBSET else str(one): count for one, count in subsets},
        "spacing_mm": {"least": known.min(axis=0).tolist(), "most": known.max(axis=0).tolist()},
    }
    if contents.images is not None:
        facts["images"] = image_counts(contents.images, scans)
    else:
        least, median, most = float(tissue.min()), float(np.median(tissue)), float(tissue.max())
        facts["tissue"] = {"least": least, "median": median, "most": most}
    if pairs is None:
        return facts
    touched = {word: int(np.count_nonzero(pairs.applied & member)) for member, word in _WORDS.items()}
    return facts | {
        "pairs": len(pairs),
        "variants": contents.attributes["parameters"]["variants"],
        "degradations": touched,
        "combinations": _tallied(pairs.applied, lambda bits: [", ".join(applied_words(bits)) or "none"]),
        "flips": _tallied(pairs.flip, lambda bits: [flip_axes(bits) or "none"]),
    }


def count_folds(
    fold: NDArray[np.uint8], scan: NDArray[np.int32], labels: NDArray[np.uint8] | None, classes: Sequence[str]
) -> dict[str, Any]:
    """Count the cubes in each fold, their scans, and how many of them show each class, by fold.

    Args:
        fold, scan: fold of each cube (0 train, 1 validation, 2 test), and row of its scan.
        labels: [cube, class], 0, 1 or `UNKNOWN`; None for segmentation, where classes are not counted.
        classes: the names of the columns of `labels`.
    """
    folds = {}
    for number, name in enumerate(schema.FOLDS):
        mine = fold == number
        shown = (
            zip(classes, (labels[mine] == 1).sum(axis=0).tolist(), strict=True) if labels is not None else ()
        )
        folds[name] = {"cubes": int(mine.sum()), "scans": len(np.unique(scan[mine])), "classes": dict(shown)}
    return folds


def image_counts(images: schema.ImageTable, scans: schema.ScanTable) -> dict[str, Any]:
    """Count the patients of the X-ray images that were used, and the images with each view and label.

    The most common come first, ties by name; an image counts for each of its labels. The number of patients
    is 0 if the source does not identify them.
    """
    used = scans.cubes > 0
    whose = images.patient if scans.patient is None else scans.patient
    labels = [label for joined in images.labels[used].tolist() for label in joined.split("|")]
    return {
        "patients": len(set(whose[used].tolist()) - {""}),
        "views": dict(Counter(sorted(images.view[used].tolist())).most_common()),
        "labels": dict(Counter(sorted(labels)).most_common()),
    }


def description(contents: Contents) -> str:
    """Describe the store in two sentences."""
    what, scans = contents.things, int(np.count_nonzero(contents.scans.cubes))
    size = size_words(contents.attributes["size"])
    many = f"{counted(len(contents.cubes), contents.thing, what)} of {size}"
    labels = ", without labels" if contents.images is None else ""
    text = f"{many} from {counted(scans, contents.source)}{labels}."
    if contents.pairs is not None:
        article = "an" if contents.thing[0] in "aeiou" else "a"
        pairs = counted(len(contents.pairs), "pair")
        text = f"{pairs} of {article} {contents.thing} and a degraded variant of it: {text}"
    return f"{text} Made for pre-training as in Models Genesis: a network learns to restore degraded {what}."


def summary(contents: Contents) -> list[tuple[str, str]]:
    """Return what a store holds, and its rule and recipe, as rows of name and value for people."""
    facts, (low, high) = facts_of(contents), contents.attributes["window"]
    flat = contents.images is not None
    values = "grey levels" if flat else f"{contents.attributes['unit']}, clipped to"
    names = "pseudonyms" if KEY in contents.cutting else "their own"
    of_patches = _PLANE_AXES.get(str(contents.cutting.get("plane")), "x, y")
    axes = "x, y, z" if contents.edges == 3 else of_patches
    size = size_words(contents.attributes["size"])
    return [
        (contents.things, f"{len(contents.cubes):,} of {size} in {axes}"),
        *(_pair_rows(contents, contents.pairs) if contents.pairs is not None else ()),
        ("values", f"whole numbers, {values} {low} .. {high}"),
        ("X-ray images" if flat else "scans", statuses_words(contents.scans)),
        *(_image_rows(facts["images"]) if flat else _scan_rows(contents, facts)),
        (f"names of {'images and patients' if flat else 'the scans'}", names),
    ]


def parameter_rows(parameters: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return parameters as rows of name and value; nested names follow the name they are nested in."""
    rows = []
    for name, value in parameters.items():
        words = name.replace("_", " ")
        if isinstance(value, Mapping):
            rows += [(f"{words}: {inner}", shown) for inner, shown in parameter_rows(value)]
        elif value is not None:
            rows.append((words, value_words(value)))
    return rows


def applied_words(applied: int) -> list[str]:
    """Return the effects of these bits on a cube, in order of application: `shuffled`, `out-painted`."""
    return [word for member, word in _WORDS.items() if applied & member]


def flip_axes(flip: int) -> str:
    """Return the axes that these bits flip: `x, z`; empty for none."""
    return ", ".join(axis for bit, axis in enumerate(schema.AXES) if flip >> bit & 1)


def _pair_rows(contents: Contents, pairs: schema.PairTable) -> list[tuple[str, str]]:
    parameters = contents.attributes["parameters"]
    touched = _tallied(pairs.applied, lambda bits: applied_words(bits) or ["unchanged"])
    counts = {"flipped": int(np.count_nonzero(pairs.flip)), **touched}
    return [
        ("pairs", f"{len(pairs):,}, {counted(parameters['variants'], 'variant')} per {contents.thing}"),
        ("recipe", f"{parameters['recipe']['name']}, seed {parameters['seed']}"),
        ("degradations", ", ".join(f"{count:,} {word}" for word, count in counts.items())),
    ]


def _scan_rows(contents: Contents, facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the spacing, the tissue scores and the subsets of cubes or slices of scans."""
    tissue, subsets = facts["tissue"], facts["cubes_by_subset"]
    ends = zip(schema.AXES, facts["spacing_mm"]["least"], facts["spacing_mm"]["most"], strict=True)
    spacing = [f"{axis} {low:.3g}" + (f"-{high:.3g}" if low != high else "") for axis, low, high in ends]
    rows = [
        ("spacing in mm", ", ".join(spacing) if any(facts["spacing_mm"]["most"]) else "unknown"),
        ("tissue score", "{least:.3f} .. {most:.3f}, median {median:.3f}".format(**tissue)),
    ]
    if set(subsets) != {"none"}:
        rows.append((f"{contents.things} by subset", _counts_words(subsets)))
    return rows


def _image_rows(images: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the patients, views and labels of the images that were used."""
    labels = dict(list(images["labels"].items())[:_MOST_LABELS])
    return [
        ("patients", f"{images['patients']:,}" if images["patients"] else "unknown"),
        ("images by view", _counts_words(images["views"], "unknown")),
        ("images by label", _counts_words(labels, "unknown")),
    ]


def _counts_words(counts: Mapping[str, int], unnamed: str = "") -> str:
    return ", ".join(f"{name or unnamed}: {count:,}" for name, count in counts.items())


def _counts(numbers: NDArray[np.integer[Any]]) -> dict[int, int]:
    """Count how often each number occurs, by number, in order."""
    found, counts = np.unique(numbers, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _tallied(numbers: NDArray[np.uint8], words: Callable[[int], Sequence[str]]) -> dict[str, int]:
    """Count how often each word for these bits occurs, the most common first."""
    found = Counter[str]()
    for bits, count in _counts(numbers).items():
        found.update(dict.fromkeys(words(bits), count))
    return dict(found.most_common())
