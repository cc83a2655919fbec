"""The Croissant file of a store: what the card says, for programs (MLCommons Croissant 1.1).

Croissant knows files and records. The files are listed with their formats; the manifest, which Croissant can
read line by line, gives the sha256 of each as the record set `files`, so that nothing is hashed in a circle:
the manifest covers this file, and this file names the manifest without its hash. The tables and voxels are
record sets whose columns are arrays of the Zarr group; a reader of Zarr is needed for what is in them.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from genesis_toolkit.pipeline.describe.card import CARD
from genesis_toolkit.pipeline.describe.facts import Contents, description
from genesis_toolkit.pipeline.ledger import MANIFEST
from genesis_toolkit.pipeline.store.schema import CUBES, PAIRS, WIDTH, Column, array_names, columns_of_kind

CROISSANT = "croissant.json"

_ZARR = (
    "https://zarr.dev"  # there is no media type that all agree on; a page stands for one, as Croissant allows
)
GROUP = "zarr.json"
_TYPES = {
    "string": "sc:Text",
    "uint8": "cr:UInt8",
    "uint16": "cr:UInt16",
    "uint64": "cr:UInt64",
    "int16": "cr:Int16",
    "int32": "cr:Int32",
    "int64": "cr:Int64",
    "float64": "cr:Float64",
}

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


def croissant(contents: Contents, voxels: str, digests: Mapping[str, str]) -> str:
    """The text of a store's Croissant file.

    Args:
        contents: of the store.
        voxels: the dtype of the voxels, such as `int16`.
        digests: sha256 of the files that stand in it one by one: the group's metadata, and the card.

    Returns:
        JSON-LD that ends with a newline.
    """
    document = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": contents.title,
        "description": description(contents),
        "keywords": ["Models Genesis", "self-supervised learning", _modality(contents), "zarr"],
        "license": f"The licence of the {contents.sources} applies, see {CARD}.",
        "distribution": _distribution(contents, digests),
        "recordSet": _record_sets(contents, voxels),
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _modality(contents: Contents) -> str:
    return "computed tomography" if contents.images is None else "chest X-ray"


def _arrays(contents: Contents) -> dict[str, dict[str, Column]]:
    """The arrays of every record set, by their paths in the store; the voxels come first."""
    kind = CUBES if contents.pairs is None else PAIRS
    found: dict[str, dict[str, Column]] = {name: {} for name in ("cubes", "scans", "images", "pairs")}
    for path in array_names(kind, () if contents.images is None else ("images/",)):
        column = columns_of_kind(kind)[path]
        top = path.split("/")[0]
        found[top if top in found else f"{column.dimension}s"][path] = column
    return {name: columns for name, columns in found.items() if columns}


def _distribution(contents: Contents, digests: Mapping[str, str]) -> list[dict[str, Any]]:
    formats = {GROUP: "application/json", CARD: "text/markdown"}
    meanings = {GROUP: "Metadata of the group and of all its arrays.", CARD: "The dataset card."}
    files = [
        {
            "@type": "cr:FileObject",
            "@id": name,
            "name": name,
            "description": meanings[name],
            "contentUrl": name,
            "encodingFormat": formats[name],
            "sha256": digest,
        }
        for name, digest in digests.items()
    ]
    folders = [
        *dict.fromkeys(path.split("/")[0] for columns in _arrays(contents).values() for path in columns)
    ]
    manifest = _file_set("manifest", "sha256 of every file but itself.", "text/plain", [MANIFEST])
    zarr = _file_set("zarr", "The arrays of the Zarr v3 group.", _ZARR, [f"{name}/**" for name in folders])
    return [*files, manifest, zarr]


def _file_set(name: str, meaning: str, encoding: str, includes: Sequence[str]) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        "description": meaning,
        "encodingFormat": encoding,
        "includes": list(includes),
    }


def _record_sets(contents: Contents, voxels: str) -> list[dict[str, Any]]:
    meanings = {
        "cubes": f"{len(contents.cubes)} {contents.things}.",
        "scans": f"{len(contents.scans)} {contents.sources} that were found, used or not.",
        "images": "What NIH's table says of each of them, row by row.",
        "pairs": "Degraded twins and the cubes that they are made of.",
    }
    if contents.pairs is not None:
        meanings["pairs"] = f"{len(contents.pairs)} pairs; that of cube c and variant v is v * cubes + c."
    tables = [
        {
            "@type": "cr:RecordSet",
            "@id": name,
            "name": name,
            "description": meanings[name],
            "field": [_array_field(name, path, columns[path], contents, voxels) for path in columns],
        }
        for name, columns in _arrays(contents).items()
    ]
    return [*tables, _manifest_records()]


def _array_field(
    record_set: str, path: str, column: Column, contents: Contents, voxels: str
) -> dict[str, Any]:
    """A column of a table: an array of the group, its first axis left out."""
    name, flat = path.rpartition("/")[2], contents.edges == 2
    if column.dtype == "voxels":
        dtype, shape = voxels, contents.attributes["size"]
    else:
        dtype, shape = column.dtype, [WIDTH[other] for other in column.others]
    array = {"isArray": True, "arrayShape": ",".join(map(str, shape))} if shape else {}
    return {
        "@type": "cr:Field",
        "@id": f"{record_set}/{name}",
        "name": name,
        "description": column.flat if flat and column.flat else column.meaning,
        "dataType": _TYPES[dtype],
        **array,
        "source": {"fileSet": {"@id": "zarr"}, "extract": {"column": path}},
    }


def _manifest_records() -> dict[str, Any]:
    patterns = {"sha256": "^([0-9a-f]{64})", "path": "^[0-9a-f]{64}  (.+)$"}
    return {
        "@type": "cr:RecordSet",
        "@id": "files",
        "name": "files",
        "description": "The sha256 of every file of the store but the manifest itself.",
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"files/{name}",
                "name": name,
                "dataType": "sc:Text",
                "source": {
                    "fileSet": {"@id": "manifest"},
                    "extract": {"fileProperty": "lines"},
                    "transform": {"regex": pattern},
                },
            }
            for name, pattern in patterns.items()
        ],
    }
