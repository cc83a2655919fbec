"""Scans that come later are taken in behind the cubes that are there; a scan that changed is refused."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from support.folders import TESTS
from support.scans import SMALL, extract_call, kill_after, lungs, write_scan

from genesis_toolkit.pipeline.cubes.extract import extract_cubes
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.ledger import read_manifest, settle, unfinished
from genesis_toolkit.pipeline.store.open import CubeStore, open_cubes
from genesis_toolkit.pipeline.store.shards import shard_path


def voxels_of(store: CubeStore) -> np.ndarray:
    return np.asarray(zarr.open_group(store.path, mode="r")["cubes"][...])


def add(folder: Path, name: str, seed: int) -> Path:
    return write_scan(folder / name, lungs(seed))


def test_new_scans_come_behind_cubes_that_keep_bytes_and_numbers(luna16: Path, cube_store: Path) -> None:
    before = open_cubes(cube_store)
    old, chunks = voxels_of(before), [before.cubes.encoded(cube) for cube in range(len(before))]
    add(luna16, "subset0/1.2.1.mhd", 11)  # sorted before all others
    add(luna16, "subset4/1.2.8.mhd", 12)
    result = extract_cubes(luna16, cube_store, SMALL, workers=1)
    assert (result.taken_in, result.done_before) == (2, False)
    store = result.store
    assert len(store) == len(before) + 12
    np.testing.assert_array_equal(voxels_of(store)[: len(before)], old)
    assert [store.cubes.encoded(cube) for cube in range(len(before))] == chunks
    for name in ("scan", "number", "corner", "tissue"):
        np.testing.assert_array_equal(getattr(store.table, name)[: len(before)], getattr(before.table, name))
    assert store.scans.path.tolist()[:3] == before.scans.path.tolist()
    assert store.scans.path.tolist()[3:] == ["subset0/1.2.1.mhd", "subset4/1.2.8.mhd"]
    assert store.table.scan[len(before) :].tolist() == [3] * 6 + [4] * 6
    assert extract_cubes(luna16, cube_store, SMALL).done_before
    assert not unfinished(cube_store).exists()


def test_a_new_scan_gives_the_cubes_that_it_gives_alone(
    luna16: Path, cube_store: Path, tmp_path: Path
) -> None:
    add(luna16, "subset4/1.2.8.mhd", 12)
    grown = extract_cubes(luna16, cube_store, SMALL, workers=1).store
    alone = extract_cubes(
        luna16, tmp_path / "alone.zarr", dataclasses.replace(SMALL, subsets=(4,)), workers=1
    ).store
    np.testing.assert_array_equal(voxels_of(grown)[12:], voxels_of(alone))


def test_full_shards_are_linked_and_the_last_one_is_filled(
    luna16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("store.shards", "cubes.assemble", "store.write"):  # four cubes a shard, not 256
        monkeypatch.setattr(f"genesis_toolkit.pipeline.{module}.shard_length", lambda *_: 4)
    many = dataclasses.replace(SMALL, cubes_per_scan=5)
    path = tmp_path / "c.zarr"
    before = extract_cubes(luna16, path, many, workers=1).store
    old, inode = voxels_of(before), (path / shard_path("cubes", 1, 4)).stat().st_ino
    add(luna16, "subset6/1.2.8.mhd", 12)
    store = extract_cubes(luna16, path, many, workers=1).store
    assert (len(before), len(store)) == (10, 15)
    assert (path / shard_path("cubes", 1, 4)).stat().st_ino == inode
    np.testing.assert_array_equal(voxels_of(store)[:10], old)
    check = subprocess.run(
        ["sha256sum", "--quiet", "--check", "manifest-sha256.txt"], cwd=path, capture_output=True, check=False
    )
    assert check.returncode == 0


def test_where_there_are_no_links_shards_are_copied(
    luna16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, path: Path) -> None:
        if "/c/" in str(source):
            raise OSError(1, "Operation not permitted")
        link(source, path)  # zarr makes its metadata by links

    link = os.link
    for module in ("store.shards", "cubes.assemble", "store.write"):
        monkeypatch.setattr(f"genesis_toolkit.pipeline.{module}.shard_length", lambda *_: 4)
    path = tmp_path / "c.zarr"
    old = voxels_of(extract_cubes(luna16, path, SMALL, workers=1).store)
    add(luna16, "subset6/1.2.8.mhd", 12)
    monkeypatch.setattr("os.link", refuse)
    store = extract_cubes(luna16, path, SMALL, workers=1).store
    np.testing.assert_array_equal(voxels_of(store)[: len(old)], old)


def test_a_scan_that_failed_is_taken_in_once_it_is_mended(luna16: Path, tmp_path: Path) -> None:
    raw = luna16 / "subset0" / "1.2.3.raw"
    whole = raw.read_bytes()
    raw.write_bytes(whole[:99])
    path = tmp_path / "c.zarr"
    before = extract_cubes(luna16, path, SMALL, workers=1).store
    old = voxels_of(before)
    assert before.scans.status.tolist() == ["failed", "skipped", "used"]
    assert extract_cubes(luna16, path, SMALL).done_before
    raw.write_bytes(whole)
    store = extract_cubes(luna16, path, SMALL, workers=1).store
    assert store.scans.status.tolist() == ["used", "skipped", "used"]
    assert store.scans.reason.tolist()[0] == ""
    assert store.table.scan.tolist() == [2] * 6 + [0] * 6
    np.testing.assert_array_equal(voxels_of(store)[:6], old)
    assert store.scans.cubes.tolist() == [6, 0, 6]


def test_scans_that_are_gone_are_named(luna16: Path, cube_store: Path) -> None:
    before = read_manifest(cube_store)
    for path in (luna16 / "subset0").iterdir():
        path.unlink()
    with pytest.raises(CallError, match=r"subset0/1\.2\.3\.mhd is missing from the source.*--overwrite"):
        extract_cubes(luna16, cube_store, SMALL)
    assert read_manifest(cube_store) == before


def test_a_changed_scan_is_named_whatever_its_size(luna16: Path, cube_store: Path) -> None:
    raw = luna16 / "subset0" / "1.2.3.raw"
    begin, data = raw.stat().st_mtime_ns, bytearray(raw.read_bytes())
    os.utime(raw)  # touched, not changed
    assert extract_cubes(luna16, cube_store, SMALL).done_before
    data[1000] ^= 1
    raw.write_bytes(data)
    assert raw.stat().st_mtime_ns >= begin
    with pytest.raises(CallError, match=r"subset0/1\.2\.3\.mhd has changed since"):
        extract_cubes(luna16, cube_store, SMALL)


def test_a_new_scan_with_the_identifier_of_one_in_the_store_is_refused_alone(
    luna16: Path, cube_store: Path
) -> None:
    add(luna16, "subset2/1.2.3.mhd", 13)
    add(luna16, "subset2/1.2.7.mhd", 14)
    store = extract_cubes(luna16, cube_store, SMALL, workers=1).store
    assert store.scans.status.tolist() == ["used", "skipped", "used", "failed", "used"]
    assert store.scans.reason.tolist()[3] == (
        "subset0/1.2.3.mhd and subset2/1.2.3.mhd have the same identifier but different voxels: rename or "
        "remove all but one"
    )


def test_the_official_draws_of_a_subset_are_not_disturbed(luna16: Path, tmp_path: Path) -> None:
    official = dataclasses.replace(SMALL, sampler="official", seed=None)
    path = tmp_path / "o.zarr"
    extract_cubes(luna16, path, official, workers=1)
    add(luna16, "subset3/1.3.1.mhd", 15)
    assert extract_cubes(luna16, path, official, workers=1).taken_in == 1
    add(luna16, "subset3/1.3.0.mhd", 16)
    with pytest.raises(
        CallError, match=r"subset3/1\.3\.0\.mhd is new in a subset whose cubes are already drawn"
    ):
        extract_cubes(luna16, path, official, workers=1)


def test_killed_between_the_two_names_the_old_store_comes_back(luna16: Path, cube_store: Path) -> None:
    before = read_manifest(cube_store)
    add(luna16, "subset4/1.2.8.mhd", 12)
    code = (
        "import os, signal, sys; from pathlib import Path; from support.scans import SMALL\n"
        "from genesis_toolkit.pipeline.ledger import Ledger\n"
        "from genesis_toolkit.pipeline.cubes.extract import extract_cubes\n"
        "way = Ledger._make_way\n"
        "def kill(self): way(self); os.kill(os.getpid(), signal.SIGKILL)\n"
        "Ledger._make_way = kill\n"
        f"extract_cubes(Path({str(luna16)!r}), Path({str(cube_store)!r}), SMALL, workers=1)"
    )
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=False, capture_output=True)
    assert not cube_store.exists()
    settle(cube_store)
    assert read_manifest(cube_store) == before
    assert extract_cubes(luna16, cube_store, SMALL, workers=1).taken_in == 1


@pytest.mark.full
def test_killed_while_it_grows_it_ends_with_the_same_bytes(luna16: Path, tmp_path: Path) -> None:
    kept, killed = tmp_path / "kept.zarr", tmp_path / "killed.zarr"
    for path in (kept, killed):
        extract_cubes(luna16, path, SMALL, workers=1)
    for number in range(5):
        add(luna16, f"subset3/1.3.{number}.mhd", 30 + number)
    extract_cubes(luna16, kept, SMALL, workers=1)
    assert [kill_after(extract_call(luna16, killed), killed, pieces) for pieces in (0, 1, 3, 5)] == [True] * 4
    assert len(open_cubes(killed)) == 12, "the old store is there until the new one is whole"
    extract_cubes(luna16, killed, SMALL, workers=1)
    assert read_manifest(killed) == read_manifest(kept)
