"""The Croissant file of a store: the contents of the card for programs (MLCommons Croissant 1.1).

Croissant describes files and records. The files are listed with their formats; the manifest, which Croissant
can read line by line, gives the sha256 of each file as the record set `files`. This avoids a circular hash:
the manifest covers this file, and this file names the manifest without its hash. The tables and voxels are
record sets whose columns are arrays of the Zarr group; reading their values takes a Zarr reader.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genesis_toolkit.pipeline.describe.card import CARD, dataset_card
from genesis_toolkit.pipeline.describe.facts import Contents, description
from genesis_toolkit.pipeline.ledger import MANIFEST, sha256_of, write_whole
from genesis_toolkit.pipeline.store.schema import CUBES, PAIRS, WIDTH, Column, array_names, columns_of_kind

CROISSANT = "croissant.json"
GROUP = "zarr.json"
# Zarr has no agreed media type; Croissant allows the address of a page instead.
_ZARR = "https://zarr.dev"
# Terms of Croissant itself, each `cr:` and its name.
_TERMS = """
arrayShape citeAs column containedIn equivalentProperty extract field fileObject fileProperty
fileSet format includes isArray isLiveDataset jsonPath key md5 parentField path recordSet
references regex repeated replace samplingRate separator source subField transform
"""
#: The JSON-LD context that Croissant 1.1 prescribes.
_CONTEXT: dict[str, Any] = dict(
    sorted(
        {
            "@language": "en",
            "@vocab": "https://schema.org/",
            "conformsTo": "dct:conformsTo",
            "cr": "http://mlcommons.org/croissant/",
            "data": {"@id": "cr:data", "@type": "@json"},
            "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
            "dct": "http://purl.org/dc/terms/",
            "description": {"@container": "@language"},
            "examples": {"@id": "cr:examples", "@type": "@json"},
            "name": {"@container": "@language"},
            "rai": "http://mlcommons.org/croissant/RAI/",
            "sc": "https://schema.org/",
            **{term: f"cr:{term}" for term in _TERMS.split()},
        }.items()
    )
)


def finish(folder: Path, contents: Contents, dtype: np.dtype[Any]) -> None:
    """Write the card and the Croissant file of a store with voxels of `dtype`; its metadata must exist."""
    card = dataset_card(contents).encode()
    digests = {GROUP: sha256_of((folder / GROUP).read_bytes()), CARD: write_whole(folder / CARD, card)}
    write_whole(folder / CROISSANT, croissant(contents, dtype.name, digests).encode())


def croissant(
    contents: Contents,
    voxels: str,
    digests: Mapping[str, str],
    title: str = "",
    licence: str = "",
    citation: str = "",
    contact: str = "",
) -> str:
    """Return the JSON-LD text, given the dtype of the voxels and the sha256 of the files listed singly.

    The texts come from the publisher of the store (`publish.Publication`); empty ones are left out.
    """
    scans = "computed tomography" if contents.attributes["unit"] == "HU" else "medical image"
    modality = scans if contents.images is None else "chest X-ray"
    document = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": title or contents.title,
        "description": description(contents),
        "keywords": ["Models Genesis", "self-supervised learning", modality, "zarr"],
        "license": licence or f"The licence of the {contents.sources} applies, see {CARD}.",
        **({"citeAs": citation} if citation else {}),
        **({"publisher": {"@type": "sc:Organization", "name": contact}} if contact else {}),
        "distribution": _distribution(contents, digests),
        "recordSet": _record_sets(contents, voxels),
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _arrays(contents: Contents) -> dict[str, dict[str, Column]]:
    """Return the arrays of every record set by their paths in the store; the voxels come first."""
    kind = CUBES if contents.pairs is None else PAIRS
    found: dict[str, dict[str, Column]] = {name: {} for name in ("cubes", "scans", "images", "pairs")}
    there = [f"scans/{name}/" for name, values in vars(contents.scans).items() if values is not None]
    for path in array_names(kind, there if contents.images is None else [*there, "images/"]):
        column = columns_of_kind(kind)[path]
        top = path.split("/")[0]
        found[top if top in found else f"{column.dimension}s"][path] = column
    return {name: columns for name, columns in found.items() if columns}


def _node(kind: str, name: str, meaning: str, inside: str = "", **more: Any) -> dict[str, Any]:
    """Return a Croissant node with its name and description; a field also names its record set."""
    entries = {"description": meaning} if meaning else {}
    return {"@type": f"cr:{kind}", "@id": f"{inside}{name}", "name": name, **entries, **more}


def _distribution(contents: Contents, digests: Mapping[str, str]) -> list[dict[str, Any]]:
    entries = {
        GROUP: ("application/json", "Metadata of the Zarr group and all its arrays."),
        CARD: ("text/markdown", "The dataset card."),
    }
    files = [
        _node("FileObject", name, meaning, contentUrl=name, encodingFormat=form, sha256=digests[name])
        for name, (form, meaning) in entries.items()
    ]
    paths = (path for columns in _arrays(contents).values() for path in columns)
    folders = [f"{name}/**" for name in dict.fromkeys(path.split("/")[0] for path in paths)]
    sets = [
        ("manifest", "SHA-256 of every file except the manifest itself.", "text/plain", [MANIFEST]),
        ("zarr", "The arrays of the Zarr v3 group.", _ZARR, folders),
    ]
    return files + [
        _node("FileSet", name, meaning, encodingFormat=form, includes=includes)
        for name, meaning, form, includes in sets
    ]


def _record_sets(contents: Contents, voxels: str) -> list[dict[str, Any]]:
    pairs = len(contents.pairs) if contents.pairs is not None else 0
    meanings = {
        "cubes": f"{len(contents.cubes)} {contents.things}.",
        "scans": f"{len(contents.scans)} {contents.sources} found, both used and unused.",
        "images": "Rows of the NIH table, one for each image of the record set `scans`.",
        "pairs": f"{pairs} pairs; the pair of cube c and variant v is row v * cubes + c.",
    }
    tables = [
        _node(
            "RecordSet",
            name,
            meanings[name],
            field=[_array_field(name, path, column, contents, voxels) for path, column in columns.items()],
        )
        for name, columns in _arrays(contents).items()
    ]
    return [*tables, _manifest_records()]


def _array_field(
    record_set: str, path: str, column: Column, contents: Contents, voxels: str
) -> dict[str, Any]:
    """Describe a column of a table: an array of the group without its first axis."""
    name, meaning = path.rpartition("/")[2], column.flat if contents.edges == 2 else ""
    if column.dtype == "voxels":
        dtype, shape = voxels, contents.attributes["size"]
    else:
        dtype, shape = column.dtype, [WIDTH[other] for other in column.others]
    array = {"isArray": True, "arrayShape": ",".join(map(str, shape))} if shape else {}
    source = {"fileSet": {"@id": "zarr"}, "extract": {"column": path}}
    kind = "sc:Text" if dtype == "string" else f"cr:{dtype.title().replace('Uint', 'UInt')}"
    facts = {"dataType": kind, **array, "source": source}
    return _node("Field", name, meaning or column.meaning, f"{record_set}/", **facts)


def _manifest_records() -> dict[str, Any]:
    lines = {"fileSet": {"@id": "manifest"}, "extract": {"fileProperty": "lines"}}
    patterns = {"sha256": "^([0-9a-f]{64})", "path": "^[0-9a-f]{64}  (.+)$"}
    fields = [
        _node("Field", name, "", "files/", dataType="sc:Text", source=lines | {"transform": {"regex": one}})
        for name, one in patterns.items()
    ]
    meaning = "SHA-256 of every file of the store except the manifest itself."
    return _node("RecordSet", "files", meaning, field=fields)
