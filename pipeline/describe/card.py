"""The dataset card: the README.md of a store, for the people who receive it and for dataset hubs.

The manifest covers the card, so its bytes depend only on the contents of the store: no date, no versions, and
no name of a machine, of a folder or of the store itself.
"""

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from genesis_toolkit.pipeline.degrade.recipes import RECIPES
from genesis_toolkit.pipeline.describe.facts import KEY, Contents, description, parameter_rows, summary
from genesis_toolkit.pipeline.ledger import MANIFEST
from genesis_toolkit.pipeline.wording import value_words

CARD = "README.md"

#: The sentence of NOTICE on licence and patent.
PATENT = """\
The authors' own program is licensed for non-commercial use only, and the Models Genesis method is covered by
US patent 11,922,628 B2 (issued 2024-03-05); the licence of this software grants no right under that
patent."""

#: Parameters of a cube store that `genesis-prep extract-cubes` takes as options of the same names; `plane`
#: for slices only, and either `hu` or `window`.
EXTRACT_OPTIONS = tuple(
    "layout subsets cubes_per_scan size plane hu window border max_tissue min_tissue sampler seed spacing "
    "orient".split()
)
#: Those of a store of X-ray images.
_MAY_LACK = ("plane", "hu", "window", "split")
IMAGE_OPTIONS = ("layout", "split", "size", "cubes_per_scan", "seed")
_MERGED = {"layout": "mixed", KEY: "several keys"}  # values of parts that one command could not have made
_LONGEST_LINE = 96
_SPDX = re.compile(r"[A-Za-z0-9.+-]+")


def dataset_card(
    contents: Contents, title: str = "", licence: str = "", citation: str = "", contact: str = ""
) -> str:
    """Return the card of a store: Markdown that begins with the YAML block that dataset hubs read.

    The texts come from the publisher of the store (`publish.Publication`); empty ones are left out.
    """
    parts = (
        _front_matter(contents, title, licence),
        f"# {title or contents.title}\n\n{description(contents)}\n",
        _table("", "", summary(contents)),
        _loading(contents),
        _making(contents),
        _licence(contents, licence),
        *(f"## {name}\n\n{text}\n" for name, text in (("Cite", citation), ("Contact", contact)) if text),
    )
    return "\n".join(parts)


def commands(contents: Contents) -> list[str]:
    """Return the commands that reproduce the store; none if no command line can express what was done.

    The options name every parameter, so that the commands still mean the same after a default has changed.
    """
    cutting = contents.cutting
    if "imported" in cutting:
        first = ["genesis-prep", "import-npy", "FILES", "cubes.zarr"]
    elif (names := _options_of(cutting)) and not any(cutting.get(key) == _MERGED[key] for key in _MERGED):
        options = _options({name: cutting[name] for name in names})
        key = ["--anonymize KEY"] if KEY in cutting else []
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
    asked = {"recipe": name, "variants": parameters["variants"], "seed": parameters["seed"], **changes}
    second = ["genesis-prep", "degrade", "cubes.zarr", "pairs.zarr", *_options(asked)]
    return [_wrapped(first), _wrapped(second)]


def _options_of(cutting: Mapping[str, Any]) -> list[str]:
    """Return the options that name every parameter of an extraction; none if a parameter has no option."""
    for options in (EXTRACT_OPTIONS, IMAGE_OPTIONS):
        names = [name for name in options if name in cutting or name not in _MAY_LACK]
        if set(names) == set(cutting) - {KEY}:
            return names
    return []


def _options(values: Mapping[str, Any]) -> list[str]:
    given = {name.replace("_", "-"): value for name, value in values.items() if value is not None}
    return [f"--{name} {shlex.quote(value_words(value))}" for name, value in given.items()]


def _wrapped(words: Sequence[str]) -> str:
    """Wrap a command into lines of moderate length; an option stays with its value."""
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + len(word) > _LONGEST_LINE:
            lines.append(" ")
        lines[-1] += f" {word}"
    return " \\\n".join(lines)


def _front_matter(contents: Contents, title: str, licence: str) -> str:
    rows = contents.cubes if contents.pairs is None else contents.pairs
    tags = ["models-genesis", "self-supervised-learning", "medical", f"{contents.edges}d", "zarr"]
    tags += ["computed-tomography"] if contents.attributes["unit"] == "HU" else []
    tags += ["chest-x-ray"] if contents.images is not None else []
    listed = "".join(f"- {tag}\n" for tag in tags)
    return f"""\
---
pretty_name: {json.dumps(title, ensure_ascii=False) if title else contents.title}
{_licence_lines(licence)}
size_categories:
- {_size_category(len(rows))}
tags:
{listed}---
"""


def _licence_lines(licence: str) -> str:
    """Return the licence lines for hubs: an SPDX name in lower case, or `other` with the given words."""
    if not licence:
        return "license: unknown"
    if _SPDX.fullmatch(licence):
        return f"license: {licence.lower()}"
    return f"license: other\nlicense_name: {json.dumps(licence, ensure_ascii=False)}"


def _size_category(rows: int) -> str:
    """Return the size class of hubs that a number of rows falls into, such as `10K<n<100K`."""
    classes = "n<1K 1K<n<10K 10K<n<100K 100K<n<1M 1M<n<10M 10M<n<100M 100M<n<1B 1B<n<10B 10B<n<100B 100B<n<1T"
    return [*classes.split(), "n>1T"][min(max(0, len(str(rows)) - 3), 10)]


def _loading(contents: Contents) -> str:
    name = "cubes.zarr" if contents.pairs is None else "pairs.zarr"  # its own is for its owner to choose
    read = "cube" if contents.pairs is None else "degraded, original"
    plain = _PLAIN_CUBES if contents.pairs is None else _PLAIN_PAIRS.format(edges=contents.edges)
    axes = ", ".join("xyz"[: contents.edges])
    return f"""\
## Load it

The store is a Zarr v3 group, called `{name}` here. With zarr alone, `[{axes}]` scaled to [0, 1]:

```python
{plain}```

With genesis-toolkit, the software that made the store:

```python
import genesis_toolkit as gt

store = gt.open_store("{name}")  # a folder, an archive or an address
{read} = store[0]  # integers [{axes}]
low, high = store.window
```

To train on the store, run `genesis-train pretrain {name} --out run`. To check that every file is unchanged,
run this command inside the store's folder:

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
original = np.flip(original, [axis for axis in range({edges}) if int(store["flip"][0]) >> axis & 1])
x, y = ((voxels.astype("float32") - low) / (high - low) for voxels in (degraded, original))
"""


def _making(contents: Contents) -> str:
    text = "## How it was made\n\n"
    if again := commands(contents):
        calls = "\n".join(again)
        text += f"""\
Running these commands on the same {contents.sources} reproduces this store exactly. \
{contents.sources.capitalize()} added later must be added in the same order.

```text
{calls}
```
"""
    else:
        text += "No command line alone can reproduce this store.\n"
    tables = [(contents.things.capitalize(), contents.cutting)]
    tables += [("Pairs", contents.attributes["parameters"])] if contents.pairs is not None else []
    for name, parameters in tables:
        text += "\n" + _table(f" {name}: parameter", " value", parameter_rows(parameters))
    return text


def _licence(contents: Contents, licence: str) -> str:
    said = f"Licence of this store, as stated by its publisher: {licence}\n\n" if licence else ""
    known = _SOURCES.get(str(contents.cutting.get("layout")), "")
    return f"""\
## Licence and patent

{said}The licence of the {contents.sources} applies to everything cut out of them. The software \
cannot know that licence; whoever publishes this store must state it.
{known}
The software, genesis-toolkit, is licensed under the Apache License 2.0 and contains no code by the method's
authors.
{PATENT}

The method: Zhou et al., *Models Genesis: Generic Autodidactic Models for 3D Medical Image Analysis* (MICCAI
2019, arXiv 1908.06912); *Models Genesis* (Medical Image Analysis 67, 2021, arXiv 2004.07882).
"""


# What is known about the origin of the data, by layout.
_SOURCES = {
    "luna16": """
The scans were organised like LUNA16. Original LUNA16 scans come from LIDC-IDRI, which is under CC BY 3.0.
""",
    "nih": """
The images were organised like NIH ChestX-ray14. Original ChestX-ray14 images were released by the NIH
Clinical Center, which must be named as their source: Wang et al., *ChestX-ray8: Hospital-scale Chest X-ray
Database and Benchmarks on Weakly-Supervised Classification and Localization of Common Thorax Diseases* (CVPR
2017).
""",
}


def _table(name: str, value: str, rows: Iterable[tuple[str, str]]) -> str:
    lines = "".join(f"| {_cell(one)} | {_cell(other)} |\n" for one, other in rows)
    return f"|{name} |{value} |\n|---|---|\n{lines}"


def _cell(text: str) -> str:
    """Escape text for a cell of a Markdown table."""
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())
