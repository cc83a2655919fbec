"""The Croissant file: its validator takes it, and what it says of files and arrays is so."""

import fnmatch
import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from genesis_toolkit.pipeline.describe.croissant import CROISSANT
from genesis_toolkit.pipeline.ledger import LOG, MANIFEST, read_manifest
from genesis_toolkit.pipeline.pairs.degrade import DegradeParameters, degrade_cubes

#: What the store cannot know, and the validator would like: a date, a version and a paper on the data.
MISSING = ("citeAs", "datePublished", "version")


@pytest.fixture(params=["cubes", "pairs"])
def store(request: pytest.FixtureRequest, cube_store: Path) -> Path:
    if request.param == "cubes":
        return cube_store
    degrade_cubes(cube_store, cube_store.with_name("pairs.zarr"), DegradeParameters(variants=2), workers=1)
    return cube_store.with_name("pairs.zarr")


def read(store: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((store / CROISSANT).read_text(encoding="utf-8"))
    return document


def opened(place: Path | dict[str, Any]) -> Any:
    """A data set as the reference implementation opens it; its own libraries warn."""
    mlcroissant = pytest.importorskip("mlcroissant")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mlcroissant.Dataset(place if isinstance(place, dict) else str(place / CROISSANT))


def test_the_validator_takes_it(store: Path) -> None:
    issues = opened(store).metadata.ctx.issues
    assert not issues.errors
    assert len(issues.warnings) == len(MISSING)
    for word in MISSING:
        assert any(word in warning for warning in issues.warnings)


def test_the_validator_would_find_what_is_wrong(store: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    document = read(store)
    del document["distribution"][0]["encodingFormat"]
    with pytest.raises(mlcroissant.ValidationError, match="encodingFormat"):
        opened(document)


def test_it_gives_the_sha256_of_every_file(store: Path) -> None:
    records = opened(store).records("files")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {row["files/path"].decode(): row["files/sha256"].decode() for row in records}
    assert found == read_manifest(store)


def test_every_file_is_described_once(store: Path) -> None:
    distribution = read(store)["distribution"]
    names = {entry["contentUrl"] for entry in distribution if entry["@type"] == "cr:FileObject"}
    patterns = [
        pattern for entry in distribution if entry["@type"] == "cr:FileSet" for pattern in entry["includes"]
    ]
    files = {path.relative_to(store).as_posix() for path in store.rglob("*") if path.is_file()}
    for file in files - {CROISSANT, LOG}:
        fitting = (file in names) + sum(fnmatch.fnmatchcase(file, pattern) for pattern in patterns)
        assert fitting == 1, file
    assert {MANIFEST, "zarr.json", "README.md"} <= files
    for entry in distribution:
        if entry["@type"] == "cr:FileObject":
            data = (store / entry["contentUrl"]).read_bytes()
            assert entry["sha256"] == hashlib.sha256(data).hexdigest()


def test_its_columns_are_the_arrays_of_the_group(store: Path) -> None:
    group = zarr.open_group(store, mode="r")
    described = {}
    for record_set in read(store)["recordSet"]:
        for field in record_set["field"]:
            path = field["source"]["extract"].get("column")
            if path is None:
                continue
            array = group[path]
            assert isinstance(array, zarr.Array)
            shape = [int(edge) for edge in field.get("arrayShape", "").split(",") if edge]
            assert shape == list(array.shape[1:]), path
            assert field.get("isArray", False) == bool(shape)
            kind = field["dataType"].partition(":")[2]
            if kind == "Text":
                assert array.dtype.kind in "OTU"
            else:
                assert np.dtype(kind.lower()) == array.dtype, path
            assert field["description"]
            described[path] = array
    arrays = {
        path.parent.relative_to(store).as_posix()
        for path in store.rglob("zarr.json")
        if json.loads(path.read_bytes())["node_type"] == "array"
    }
    assert set(described) == arrays


def test_it_says_how_many(store: Path) -> None:
    meanings = {record_set["@id"]: record_set.get("description") for record_set in read(store)["recordSet"]}
    assert meanings["cubes"] == "12 cubes."
    assert meanings["scans"].startswith("3 scans")
    assert meanings.get("pairs", "24 pairs;").startswith("24 pairs;")
    assert set(meanings) == {"cubes", "scans", "files"} | ({"pairs"} if "pairs" in store.name else set())
