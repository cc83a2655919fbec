"""The Croissant file of a store: what the card says, for programs (MLCommons Croissant 1.1).

Croissant knows files and records. The files are listed with their formats; the manifest, which Croissant can
read line by line, gives the sha256 of each as the record set `files`, so that nothing is hashed in a circle:
the manifest covers this file, and this file names the manifest without its hash. The tables and voxels are
record sets whose columns are arrays of the Zarr group; a reader of Zarr is needed for what is in them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from genesis_toolkit.pipeline.describe.card import CARD
from genesis_toolkit.pipeline.describe.contents import Contents, description
from genesis_toolkit.pipeline.ledger import MANIFEST
from genesis_toolkit.pipeline.store.schema import (
    COLUMNS,
    WIDTH,
    CubeTable,
    ImageTable,
    PairTable,
    ScanTable,
    Table,
)

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

#: The JSON-LD context that Croissant 1.1 prescribes.
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}

# What the columns are, in few words; docs/reference/store-format.md says more.
_MEANINGS = {
    "cubes": "Voxels x, y, z of a cube.",
    "original": "Voxels x, y, z of a cube.",
    "degraded": "Voxels x, y, z of the degraded twin, flipped.",
    "scan": "Row of the cube's scan in scans, from 0.",
    "number": "The cube's number in its scan, from 0.",
    "corner": "First voxel of the cube in the scan's x, y, z; -1: not known.",
    "tissue": "Score of the tissue rule, 0..1.",
    "cube": "Row of the pair's cube in cubes, from 0.",
    "variant": "Which of the cube's degraded twins, from 0.",
    "flip": "Bits: the original is to be flipped along x (1), y (2), z (4).",
    "applied": "Bits: non-linear (1), shuffling (2), in-painting (4), out-painting (8).",
    "scans/identifier": "The scan's identifier, or a pseudonym.",
    "scans/subset": "LUNA16 subset, -1: none.",
    "scans/path": "Path relative to the source, or a pseudonym.",
    "scans/bytes": "Bytes of the scan's files.",
    "scans/sha256": "sha256 of the scan's files, or a pseudonym.",
    "scans/shape": "Voxels in x, y, z.",
    "scans/spacing": "Spacing in x, y, z, mm.",
    "scans/origin": "Origin in x, y, z, mm.",
    "scans/direction": "Direction cosines, row by row.",
    "scans/status": "used, skipped or failed.",
    "scans/reason": "Why it was skipped or failed.",
    "scans/cubes": "Cubes that it gave.",
    "scans/stream": "Random stream key.",
    "images/patient": "Whose image it is, or a pseudonym.",
    "images/view": "View position, such as PA or AP.",
    "images/labels": "Findings, joined by |.",
}
# Of patches of slices and of images.
_MEANINGS_2D = _MEANINGS | {
    "cubes": "Pixels of a patch or an image, columns first.",
    "original": "Pixels of a patch or an image, columns first.",
    "degraded": "Pixels of the degraded twin, flipped.",
    "corner": "First pixel in the scan's x, y, z.",
    "tissue": "Score of the tissue rule, 0..1; images have none, and 0.",
    "flip": "Bits: the original is to be flipped along its first axis (1), its second (2).",
}


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
        "license": f"The licence of the {_source(contents)} applies, see {CARD}.",
        "distribution": _distribution(contents, digests),
        "recordSet": _record_sets(contents, voxels),
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _modality(contents: Contents) -> str:
    return "computed tomography" if contents.images is None else "chest X-ray"


def _source(contents: Contents) -> str:
    return "scans" if contents.images is None else "images"


def _arrays(contents: Contents) -> dict[str, tuple[str, ...]]:
    """The arrays of every record set, by their paths in the store; the voxels come first."""
    tables = {"cubes": ("cubes", *_names(CubeTable)), "scans": tuple(f"scans/{n}" for n in _names(ScanTable))}
    if contents.images is not None:
        tables["images"] = tuple(f"images/{name}" for name in _names(ImageTable))
    if contents.pairs is None:
        return tables
    tables["cubes"] = ("original", *tables["cubes"][1:])
    return {**tables, "pairs": ("degraded", *_names(PairTable))}


def _names(table: type[Table]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(table))


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
    folders = [*dict.fromkeys(path.split("/")[0] for paths in _arrays(contents).values() for path in paths)]
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
        "scans": f"{len(contents.scans)} {_source(contents)} that were found, used or not.",
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
            "field": [_array_field(name, path, contents, voxels) for path in paths],
        }
        for name, paths in _arrays(contents).items()
    ]
    return [*tables, _manifest_records()]


def _array_field(record_set: str, path: str, contents: Contents, voxels: str) -> dict[str, Any]:
    """A column of a table: an array of the group, its first axis left out."""
    name = path.rpartition("/")[2]
    if path in ("cubes", "original", "degraded"):
        dtype, shape = voxels, list(contents.attributes["size"])
    else:
        dtype, second = COLUMNS[name]
        shape = [WIDTH[second]] if second else []
    array = {"isArray": True, "arrayShape": ",".join(map(str, shape))} if shape else {}
    return {
        "@type": "cr:Field",
        "@id": f"{record_set}/{name}",
        "name": name,
        "description": (_MEANINGS if contents.edges == 3 else _MEANINGS_2D)[path],
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
