"""The dataset card: the README.md of a store, for those it is handed to and for hubs of datasets.

The manifest covers it, so its bytes depend on what the store holds alone: no date, no versions, no name of a
machine, of a folder or of the store itself.
"""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.degrade.recipes import RECIPES
from pipeline.info import applied_words
from pipeline.ledger import MANIFEST
from pipeline.tables import NO_SUBSET, CubeTable, PairTable, ScanTable

CARD = "README.md"

#: The sentence of NOTICE on licence and patent.
PATENT = """\
The authors' own program is licensed for non-commercial use only, and the Models Genesis method is covered by
US patent 11,922,628 B2 (issued 2024-03-05); the licence of this software grants no right under that
patent."""

#: Parameters of a cube store that `genesis-prep extract-cubes` takes as options of the same names.
EXTRACT_OPTIONS = (
    "layout",
    "subsets",
    "cubes_per_scan",
    "size",
    "hu",
    "border",
    "max_tissue",
    "min_tissue",
    "sampler",
    "seed",
    "spacing",
    "orient",
)
_KEY = "anonymized_with"
_MERGED = {"layout": "mixed", _KEY: "several keys"}  # of parts that one command could not have made
_LONGEST_LINE = 96


@dataclass(frozen=True)
class Contents:
    """What a store holds besides its voxels.

    Attributes:
        attributes: as `attrs["genesis"]`.
        cubes: one row a cube.
        scans: one row a scan.
        pairs: one row a pair; None of a cube store.
    """

    attributes: Mapping[str, Any]
    cubes: CubeTable
    scans: ScanTable
    pairs: PairTable | None = None

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
    def title(self) -> str:
        """What the store is, in three words."""
        return f"Models Genesis {'cubes' if self.pairs is None else 'pairs'}"


def dataset_card(contents: Contents) -> str:
    """The text of a store's card.

    Args:
        contents: of the store.

    Returns:
        Markdown that begins with a YAML block, as hubs of datasets read it, and ends with a newline.
    """
    rows = "".join(f"| {_cell(name)} | {_cell(value)} |\n" for name, value in summary(contents))
    return "\n".join(
        (
            _front_matter(contents),
            f"# {contents.title}\n\n{description(contents)}\n",
            f"| | |\n|---|---|\n{rows}",
            _loading(contents),
            _making(contents),
            _licence(contents),
        )
    )


def description(contents: Contents) -> str:
    """What the store is, in two sentences."""
    cubes, scans = len(contents.cubes), int(np.count_nonzero(contents.scans.cubes))
    what = "CT scan" if contents.attributes["unit"] == "HU" else "scan"
    if "imported" in contents.cutting:
        what = "imported file"
    edges = " x ".join(map(str, contents.attributes["size"]))
    source = f"{_count(cubes, 'cube')} of {edges} voxels out of {_count(scans, what)}, without labels"
    if contents.pairs is None:
        text = f"{source}."
    else:
        text = f"{_count(len(contents.pairs), 'pair')} of a cube and a degraded twin of it: {source}."
    return f"{text} Made for pre-training as in Models Genesis: a network learns to restore degraded cubes."


def summary(contents: Contents) -> list[tuple[str, str]]:
    """What a store holds and by which rule and recipe, as rows of a name and a value, for people."""
    attributes, scans, tissue = contents.attributes, contents.scans, contents.cubes.tissue
    low, high = attributes["window"]
    status = Counter(scans.status.tolist())
    rows = [
        (
            "cubes",
            f"{len(contents.cubes):,} of {' x '.join(map(str, attributes['size']))} voxels in x, y, z",
        ),
        *_pair_rows(contents),
        ("values", f"whole numbers, {attributes['unit']}, clipped to {low} .. {high}"),
        (
            "scans",
            ", ".join(f"{status.pop(word, 0):,} {word}" for word in ("used", "skipped", "failed")),
        ),
        ("spacing in mm", spacing_range(scans)),
        ("tissue score", f"{tissue.min():.3f} .. {tissue.max():.3f}, median {np.median(tissue):.3f}"),
    ]
    subsets = scans.subset[contents.cubes.scan]
    if (subsets != NO_SUBSET).any():
        found = zip(*np.unique(subsets, return_counts=True), strict=True)
        named = [f"{'none' if subset == NO_SUBSET else subset}: {count:,}" for subset, count in found]
        rows.append(("cubes by subset", ", ".join(named)))
    names = "pseudonyms" if _KEY in contents.cutting else "their own"
    return [*rows, ("names of the scans", names)]


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
            rows.append((words, _value(value)))
    return rows


def commands(contents: Contents) -> list[str]:
    """The commands that make the store again; none where no command line can say what was done.

    The options name every parameter, so that they mean the same when a default has changed.
    """
    cutting = contents.cutting
    if "imported" in cutting:
        first = ["genesis-prep", "import-npy", "FILES", "cubes.zarr"]
    elif set(cutting) - {_KEY} == set(EXTRACT_OPTIONS) and not _of_parts(cutting):
        options = _options({name: cutting[name] for name in EXTRACT_OPTIONS})
        key = ["--anonymize KEY"] if _KEY in cutting else []
        first = ["genesis-prep", "extract-cubes", "SOURCE", "cubes.zarr", *options, *key]
    else:
        return []
    if contents.pairs is None:
        return [_wrapped(first)]
    parameters = contents.attributes["parameters"]
    recipe, name = parameters["recipe"], parameters["recipe"]["name"]
    if name not in RECIPES:  # made with Python
        return []
    own = RECIPES[name].to_json()
    changes = {key: value for key, value in recipe.items() if value != own[key]}
    options = _options({"recipe": name, "variants": parameters["variants"], "seed": parameters["seed"]})
    second = ["genesis-prep", "degrade", "cubes.zarr", "pairs.zarr", *options, *_options(changes)]
    return [_wrapped(first), _wrapped(second)]


def _of_parts(cutting: Mapping[str, Any]) -> bool:
    return any(cutting.get(name) == value for name, value in _MERGED.items())


def _options(values: Mapping[str, Any]) -> list[str]:
    return [
        f"--{name.replace('_', '-')} {shlex.quote(_value(value))}"
        for name, value in values.items()
        if value is not None
    ]


def _wrapped(words: Sequence[str]) -> str:
    """A command in lines that are not too long; an option stays with its value."""
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + len(word) > _LONGEST_LINE:
            lines.append(" ")
        lines[-1] += f" {word}"
    return " \\\n".join(lines)


def _front_matter(contents: Contents) -> str:
    rows = len(contents.cubes if contents.pairs is None else contents.pairs)
    tags = ["models-genesis", "self-supervised-learning", "medical", "3d", "zarr"]
    tags += ["computed-tomography"] if contents.attributes["unit"] == "HU" else []
    listed = "".join(f"- {tag}\n" for tag in tags)
    return f"""\
---
pretty_name: {contents.title}
license: unknown
size_categories:
- {_size_category(rows)}
tags:
{listed}---
"""


def _size_category(rows: int) -> str:
    """In which of the classes that hubs know a number of rows falls: `10K<n<100K`."""
    ends = [1000 * 10**step for step in range(10)]
    names = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"]
    place = sum(rows >= end for end in ends)
    if place in (0, len(ends)):
        return f"n<{names[0]}" if place == 0 else f"n>{names[-1]}"
    return f"{names[place - 1]}<n<{names[place]}"


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
    return [
        ("pairs", f"{len(contents.pairs):,}, {_count(parameters['variants'], 'variant')} of every cube"),
        ("recipe", recipe),
        ("degradations", told),
    ]


def _loading(contents: Contents) -> str:
    voxels = "cubes" if contents.pairs is None else "degraded"
    plain = _PLAIN_CUBES if contents.pairs is None else _PLAIN_PAIRS
    return f"""\
## Load it

The store is a Zarr v3 group, here under the name `{contents.name}`. With zarr alone, `[x, y, z]` in [0, 1]:

```python
{plain}```

With genesis-toolkit, which made it:

```python
import numpy as np
from pipeline.stores import open_store

store = open_store("{contents.name}")  # or its archive, or its address
voxels = np.empty(store.size, store.{voxels}.dtype)
store.{voxels}.read(0, voxels)
```

`genesis-train pretrain {contents.name} --out run` trains from it. Whether all is as it was made, in its
folder:

```bash
sha256sum --check --quiet {MANIFEST}
```
"""


_PLAIN_CUBES = """\
import zarr

store = zarr.open_group("cubes.zarr", mode="r")
low, high = store.attrs["genesis"]["window"]
cube = (store["cubes"][0].astype("float32") - low) / (high - low)
"""
_PLAIN_PAIRS = """\
import numpy as np
import zarr

store = zarr.open_group("pairs.zarr", mode="r")
low, high = store.attrs["genesis"]["window"]
degraded, original = store["degraded"][0], store["original"][int(store["cube"][0])]
original = np.flip(original, [axis for axis in range(3) if int(store["flip"][0]) >> axis & 1])
x, y = ((voxels.astype("float32") - low) / (high - low) for voxels in (degraded, original))
"""


def _making(contents: Contents) -> str:
    text = "## How it was made\n\n"
    if again := commands(contents):
        calls = "\n".join(again)
        text += f"""\
From the same scans this makes the same again; of scans that were added one after the other, in the order in
which they are found:

```text
{calls}
```
"""
    else:
        text += "No command line alone makes it again.\n"
    tables = [("Cubes", contents.cutting)]
    tables += [("Pairs", contents.attributes["parameters"])] if contents.pairs is not None else []
    for name, parameters in tables:
        rows = "".join(f"| {_cell(key)} | {_cell(value)} |\n" for key, value in parameter_rows(parameters))
        text += f"\n| {name}: parameter | value |\n|---|---|\n{rows}"
    return text


def _licence(contents: Contents) -> str:
    luna16 = ""
    if contents.cutting.get("layout") == "luna16":
        luna16 = """
The scans were laid out as LUNA16. Those that are LUNA16's own come from LIDC-IDRI, which is under CC BY 3.0.
"""
    return f"""\
## Licence and patent

The licence of the scans applies to what was cut out of them. The software that made this store does not know
it: those who hand the store on say which it is.
{luna16}
The software, genesis-toolkit, is under the Apache License 2.0 and holds no code of the method's authors.
{PATENT}

The method: Zhou et al., *Models Genesis: Generic Autodidactic Models for 3D Medical Image Analysis* (MICCAI
2019, arXiv 1908.06912); *Models Genesis* (Medical Image Analysis 67, 2021, arXiv 2004.07882).
"""


def _cell(text: str) -> str:
    """Text for a cell of a Markdown table, where it means nothing but itself."""
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())


def _value(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
