"""Cube store to pair store: what is stored, that it can be derived again, and that nothing else shows."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from support.scans import kill_after
from support.tasks import degraded_pair

from genesis_toolkit.pipeline.degrade.compose import Degrader
from genesis_toolkit.pipeline.degrade.recipes import Applied, Recipe, get_recipe
from genesis_toolkit.pipeline.engine import Workers, run
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import MANIFEST, hold, read_manifest, sha256_of, unfinished
from genesis_toolkit.pipeline.pairs.degrade import DegradeParameters, degrade_cubes
from genesis_toolkit.pipeline.store.open import PairStore, open_cubes, open_store

TWICE = DegradeParameters(get_recipe("genesis"), variants=2)


@pytest.fixture
def pair_store(cube_store: Path, tmp_path: Path) -> Path:
    degrade_cubes(cube_store, tmp_path / "pairs.zarr", TWICE, workers=1)
    return tmp_path / "pairs.zarr"


def test_plain_zarr_reads_what_the_degrader_makes(cube_store: Path, pair_store: Path) -> None:
    group = zarr.open_group(pair_store, mode="r")
    original, degraded = np.asarray(group["original"][...]), np.asarray(group["degraded"][...])
    np.testing.assert_array_equal(original, zarr.open_group(cube_store, mode="r")["cubes"][...])
    assert degraded.shape == (24, 16, 16, 16)
    assert group["cube"][...].tolist() == [*range(12)] * 2
    assert group["variant"][...].tolist() == [0] * 12 + [1] * 12
    cubes = open_cubes(cube_store)
    degrader = Degrader(get_recipe("genesis"), (16, 16, 16), cubes.window, 0)
    for variant in range(2):
        out = np.empty_like(original)
        flip, applied = np.empty(12, np.uint8), np.empty(12, np.uint8)
        degrader(original, cubes.streams(), cubes.table.number, variant, out, flip, applied)
        rows = slice(12 * variant, 12 * variant + 12)
        np.testing.assert_array_equal(degraded[rows], out)
        np.testing.assert_array_equal(group["flip"][rows], flip)
        np.testing.assert_array_equal(group["applied"][rows], applied)


def test_the_store_says_how_it_was_made(cube_store: Path, pair_store: Path) -> None:
    store = open_store(pair_store)
    assert isinstance(store, PairStore)
    parameters = store.attributes["parameters"]
    assert Recipe.from_json(parameters["recipe"]) == get_recipe("genesis")
    assert parameters["recipe_sha256"] == get_recipe("genesis").digest()
    assert (store.variants, store.seed, len(store)) == (2, 0, 24)
    assert store.attributes["cubes"] == open_cubes(cube_store).attributes["parameters"]
    assert store.scans.identifier.tolist() == ["1.2.3", "1.2.4", "1.2.5"]
    applied = zarr.open_group(pair_store, mode="r")["applied"].attrs
    meanings = str(applied["flag_meanings"]).split()
    assert dict(zip(meanings, applied["flag_masks"], strict=True)) == {m.name.lower(): m for m in Applied}  # type: ignore[union-attr,arg-type]


def test_xarray_opens_it_without_a_warning(pair_store: Path) -> None:
    import xarray

    with xarray.open_zarr(pair_store) as dataset:
        assert dataset["degraded"].dims == ("pair", "x", "y", "z")
        assert dataset["flip"].dims == ("pair",)


def test_workers_do_not_show(cube_store: Path, pair_store: Path, tmp_path: Path) -> None:
    degrade_cubes(cube_store, tmp_path / "four.zarr", TWICE, workers=4)
    assert read_manifest(tmp_path / "four.zarr") == read_manifest(pair_store)


def test_finished_work_is_left_alone_and_other_parameters_refused(cube_store: Path, pair_store: Path) -> None:
    assert degrade_cubes(cube_store, pair_store, TWICE).done_before
    for parameters, words in (
        (DegradeParameters(get_recipe("genesis"), 3), r"variants 2 \(requested: 3\)"),
        (DegradeParameters(get_recipe("genesis"), 2, 7), r"seed 0 \(requested: 7\)"),
        (DegradeParameters(get_recipe("paper"), 2), "inpaint fill noise|name genesis"),
    ):
        with pytest.raises(CallError, match=words):
            degrade_cubes(cube_store, pair_store, parameters)


def test_a_damaged_original_is_not_passed_on(cube_store: Path, tmp_path: Path) -> None:
    shard = cube_store / "cubes" / "c" / "0" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        degrade_cubes(cube_store, tmp_path / "pairs.zarr", TWICE, workers=1)
    assert not (tmp_path / "pairs.zarr").exists()


def test_stores_that_are_none(cube_store: Path, pair_store: Path, tmp_path: Path) -> None:
    with pytest.raises(CallError, match="There is no store at"):
        degrade_cubes(tmp_path / "absent.zarr", tmp_path / "p.zarr", TWICE)
    with pytest.raises(CallError, match="is a pair store"):
        degrade_cubes(pair_store, tmp_path / "p.zarr", TWICE)
    with pytest.raises(CallError, match="not a genesis-pairs store, so it is left untouched"):
        degrade_cubes(cube_store, cube_store, TWICE, overwrite=True)
    shutil.move(cube_store, unfinished(tmp_path / "later.zarr"))
    with pytest.raises(CallError, match="not finished"):
        open_store(tmp_path / "later.zarr")


def test_another_version_and_missing_parts_are_named(pair_store: Path) -> None:
    metadata = pair_store / "zarr.json"
    text = metadata.read_text()
    metadata.write_text(text.replace('"version": 1', '"version": 2'))
    with pytest.raises(DataError, match="format version 2, but this program reads version 1"):
        open_store(pair_store)
    metadata.write_text(text)
    shutil.rmtree(pair_store / "flip" / "c")
    with pytest.raises(DataError, match="flip/c/0 is missing or has changed"):
        open_store(pair_store)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"window": [\n', '"window": [[], \n'),
        ('"size": [\n', '"sizes": [\n'),
        ('"unit": "HU"', '"unit": 7'),
        ('"parameters": {', '"parameter": {'),
    ],
)
def test_attributes_that_no_store_has_are_named(cube_store: Path, old: str, new: str) -> None:
    metadata, manifest = cube_store / "zarr.json", cube_store / MANIFEST
    before = metadata.read_bytes()
    after = before.decode().replace(old, new, 1).encode()
    assert after != before
    metadata.write_bytes(after)
    with pytest.raises(DataError, match=r"zarr.json is missing or has changed"):
        open_store(cube_store)
    forged = manifest.read_text().replace(
        hashlib.sha256(before).hexdigest(), hashlib.sha256(after).hexdigest()
    )
    manifest.write_text(forged)
    with pytest.raises(DataError, match="is damaged"):
        open_store(cube_store)


def test_stores_do_not_nest(cube_store: Path, pair_store: Path) -> None:
    with pytest.raises(CallError, match="is inside the store"):
        degrade_cubes(cube_store, cube_store / "pairs.zarr", TWICE)
    moved = pair_store / "cubes.zarr"
    shutil.move(cube_store, moved)
    with pytest.raises(CallError, match="which would be replaced"):
        degrade_cubes(moved, pair_store, TWICE, overwrite=True)
    assert moved.exists()


def test_work_left_after_the_store_got_its_name_is_harmless(cube_store: Path, pair_store: Path) -> None:
    """A run killed between the rename and the end of cleaning up."""
    job = open_store(pair_store).attributes["parameters"]
    with hold(pair_store, job, overwrite=True) as ledger:
        ledger.record("original-0", {"sha256": "x"})
    shutil.rmtree(ledger.store)
    again = degrade_cubes(cube_store, pair_store, TWICE)
    assert again.done_before
    assert not unfinished(pair_store).exists()
    with hold(pair_store, job, overwrite=True) as ledger:
        ledger.record("original-0", {"sha256": "x"})
        ledger.record("degraded-0", {"sha256": "x", "flip": [0] * 24, "applied": [0] * 24})
    shutil.rmtree(ledger.store)
    before = arrays_of(pair_store)
    assert not degrade_cubes(cube_store, pair_store, TWICE, overwrite=True).done_before
    assert arrays_of(pair_store) == before


@pytest.mark.full
def test_killed_at_any_moment_it_ends_with_the_same_bytes(cube_store: Path, tmp_path: Path) -> None:
    def call(target: Path) -> list[str]:
        command = [sys.executable, "-m", "genesis_toolkit.cli.prep", "degrade", str(cube_store), str(target)]
        return [*command, "--variants", "500", "--workers", "2"]

    subprocess.run(call(tmp_path / "whole.zarr"), check=True, capture_output=True)
    target = tmp_path / "killed.zarr"
    assert [kill_after(call(target), target, pieces) for pieces in (0, 1, 3, 5)] == [True] * 4
    assert not target.exists()
    subprocess.run(call(target), check=True, capture_output=True)
    assert read_manifest(target) == read_manifest(tmp_path / "whole.zarr")
    assert not unfinished(target).exists()


def arrays_of(store: Path) -> dict[str, str]:
    """The sha256 of every array's values, whatever the chunks they lie in."""
    group = zarr.open_group(store, mode="r")
    names = (
        "original",
        "degraded",
        "cube",
        "variant",
        "flip",
        "applied",
        "scan",
        "number",
        "corner",
        "tissue",
    )
    return {name: sha256_of(np.ascontiguousarray(group[name][...]).tobytes()) for name in names}


@pytest.mark.parametrize("most", [1, 5, 8])
def test_the_size_of_shards_does_not_show(
    cube_store: Path, pair_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr("genesis_toolkit.pipeline.store.shards._MOST_CUBES", most)
    degrade_cubes(cube_store, tmp_path / "small.zarr", TWICE, workers=2)
    assert len(list((tmp_path / "small.zarr" / "degraded" / "c").iterdir())) == -(-24 // most)
    assert arrays_of(tmp_path / "small.zarr") == arrays_of(pair_store)


@pytest.mark.full
@pytest.mark.usefixtures("threads")
def test_processes_threads_and_order_do_not_show(cube_store: Path, pair_store: Path) -> None:
    degraded = np.asarray(zarr.open_group(pair_store, mode="r")["degraded"][...])
    stored = {pair: sha256_of(np.ascontiguousarray(cube).tobytes()) for pair, cube in enumerate(degraded)}
    backwards = [(cube_store, pair) for pair in reversed(range(24))]
    for processes in (True, False):
        made: dict[int, str] = {}
        run(
            degraded_pair,
            backwards,
            workers=Workers(2, processes=processes),
            finished=lambda record, made=made: made.update([record]),
        )
        assert made == stored
