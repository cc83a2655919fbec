"""Stores made apart come together: the bytes of one made at once, nothing decoded, nothing taken on trust."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from support.scans import SMALL, kill_after, lungs, write_scan

from genesis_toolkit.cli.prep import main
from genesis_toolkit.pipeline.cubes.extract import extract_cubes
from genesis_toolkit.pipeline.degrade.recipes import get_recipe
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.exchange.archive import pack_store
from genesis_toolkit.pipeline.exchange.merge import merge_stores
from genesis_toolkit.pipeline.exchange.npy_import import import_npy
from genesis_toolkit.pipeline.ledger import Ledger, read_manifest, unfinished
from genesis_toolkit.pipeline.pairs.degrade import DegradeParameters, degrade_cubes
from genesis_toolkit.pipeline.store.open import CubeStore, open_cubes
from genesis_toolkit.pipeline.store.shards import ShardReader, shard_path

#: One subset of the folder `luna16` each.
ZERO, FIVE = (dataclasses.replace(SMALL, subsets=(subset,)) for subset in (0, 5))


def shorten(patch: pytest.MonkeyPatch, length: int) -> None:
    """So many cubes a shard."""
    for module in ("exchange.npy_import", "exchange.merge", "cubes.assemble", "store.shards", "store.write"):
        patch.setattr(f"genesis_toolkit.pipeline.{module}.shard_length", lambda *_: length)


def voxels_of(store: CubeStore) -> np.ndarray:
    return np.asarray(zarr.open_group(store.path, mode="r")["cubes"][...])


@pytest.fixture
def halves(luna16: Path, tmp_path: Path) -> list[Path]:
    """Subset 0 and subset 5, six cubes each, cut apart."""
    paths = [tmp_path / "zero.zarr", tmp_path / "five.zarr"]
    for path, parameters in zip(paths, (ZERO, FIVE), strict=True):
        extract_cubes(luna16, path, parameters, workers=1)
    return paths


def test_subsets_cut_apart_are_the_store_cut_at_once(
    luna16: Path, halves: list[Path], tmp_path: Path
) -> None:
    at_once = dataclasses.replace(SMALL, subsets=(0, 5))
    extract_cubes(luna16, tmp_path / "once.zarr", at_once, workers=1)
    result = merge_stores(halves, tmp_path / "merged.zarr")
    assert read_manifest(result.store.path) == read_manifest(tmp_path / "once.zarr")
    assert extract_cubes(luna16, tmp_path / "merged.zarr", at_once).done_before
    write_scan(luna16 / "subset5" / "1.2.9.mhd", lungs(9))
    assert extract_cubes(luna16, tmp_path / "merged.zarr", at_once, workers=1).taken_in == 1


def test_a_scan_that_changed_before_the_merge_is_seen_after_it(
    luna16: Path, halves: list[Path], tmp_path: Path
) -> None:
    raw = luna16 / "subset0" / "1.2.3.raw"
    data = bytearray(raw.read_bytes())
    data[1000] ^= 1
    raw.write_bytes(data)
    merge_stores(halves, tmp_path / "merged.zarr")
    with pytest.raises(CallError, match=r"subset0/1\.2\.3\.mhd has changed since"):
        extract_cubes(luna16, tmp_path / "merged.zarr", dataclasses.replace(SMALL, subsets=(0, 5)))


@pytest.mark.full
@settings(deadline=None, max_examples=12)
@given(
    counts=st.lists(st.integers(1, 7), min_size=2, max_size=4),
    length=st.integers(1, 4),
    workers=st.integers(1, 3),
)
def test_any_stores_are_the_store_made_at_once(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], length: int, workers: int
) -> None:
    folder = tmp_path_factory.mktemp("merge")
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch, length)
        files, parts = [], []
        for subset, count in enumerate(counts):
            values = np.random.default_rng(subset).integers(0, 2001, (count, 3, 4, 5)) / 2000
            files.append(folder / f"bat_32_s_3x4x5_{subset}.npy")
            np.save(files[-1], values)
            parts.append(import_npy(files[-1:], folder / f"{subset}.zarr", workers=1).store.path)
        once = import_npy(files, folder / "once.zarr", workers=1).store
        merged = merge_stores(parts, folder / "merged.zarr", workers=workers)
        assert read_manifest(merged.store.path) == read_manifest(once.path)
        aligned, first = 0, 0
        for number, count in enumerate(counts):  # by counting: whole shards, and a last one that stays last
            if first % length == 0:
                aligned += count // length + (count % length > 0 and number == len(counts) - 1)
            first += count
        assert merged.linked == aligned


def test_nothing_is_decoded_and_whole_shards_are_linked(
    luna16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, 4)
    paths = [tmp_path / "zero.zarr", tmp_path / "five.zarr"]
    for path, parameters in zip(paths, (ZERO, FIVE), strict=True):
        extract_cubes(luna16, path, parameters, workers=1)
    expected = np.concatenate([voxels_of(open_cubes(path)) for path in paths])

    def refuse(*_: object) -> None:
        raise AssertionError("a cube was decoded")

    with monkeypatch.context() as patch:
        patch.setattr(ShardReader, "read", refuse)
        patch.setattr(ShardReader, "read_many", refuse)
        result = merge_stores(paths, tmp_path / "merged.zarr")
    assert result.linked == 1
    inodes = [(path / shard_path("cubes", 0, 4)).stat().st_ino for path in (paths[0], result.store.path)]
    assert inodes[0] == inodes[1]
    np.testing.assert_array_equal(voxels_of(result.store), expected)
    check = ["sha256sum", "--quiet", "--check", "manifest-sha256.txt"]
    assert subprocess.run(check, cwd=result.store.path, check=False).returncode == 0


def test_where_there_are_no_links_shards_are_copied(
    halves: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, path: Path) -> None:
        if "/c/" in str(source):
            raise OSError(18, "Invalid cross-device link")
        link(source, path)  # zarr makes its metadata by links

    link = os.link
    shorten(monkeypatch, 3)
    files = []
    for subset in range(2):
        files.append(tmp_path / f"bat_32_s_2x2x2_{subset}.npy")
        np.save(files[-1], np.full((3, 2, 2, 2), 0.5))
        import_npy(files[-1:], tmp_path / f"{subset}.zarr")
    monkeypatch.setattr("os.link", refuse)
    result = merge_stores([tmp_path / "0.zarr", tmp_path / "1.zarr"], tmp_path / "merged.zarr")
    assert (result.store.path / shard_path("cubes", 0, 4)).stat().st_nlink == 1
    np.testing.assert_array_equal(voxels_of(result.store), np.zeros((6, 2, 2, 2), np.int16))


def test_rows_are_numbered_anew(luna16: Path, halves: list[Path], tmp_path: Path) -> None:
    one = extract_cubes(
        luna16, tmp_path / "one.zarr", dataclasses.replace(SMALL, subsets=(1, 5)), workers=1
    ).store
    store = merge_stores([tmp_path / "one.zarr", halves[0]], tmp_path / "merged.zarr").store
    assert store.scans.identifier.tolist() == ["1.2.4", "1.2.5", "1.2.3"]
    assert store.scans.status.tolist() == ["skipped", "used", "used"]
    assert store.table.scan.tolist() == [1] * 6 + [2] * 6
    assert store.table.number.tolist() == [*range(6)] * 2
    assert store.attributes["parameters"]["subsets"] == [0, 1, 5]
    np.testing.assert_array_equal(voxels_of(store)[:6], voxels_of(one))
    zero = open_cubes(halves[0])
    for name in ("corner", "tissue"):
        np.testing.assert_array_equal(getattr(store.table, name)[6:], getattr(zero.table, name))
    np.testing.assert_array_equal(store.streams()[6:], zero.streams())


def test_archives_are_merged_as_folders_are(halves: list[Path], tmp_path: Path) -> None:
    merge_stores(halves, tmp_path / "folders.zarr")
    pack_store(halves[0], tmp_path / "zero.zip")
    result = merge_stores([tmp_path / "zero.zip", halves[1]], tmp_path / "merged.zarr")
    assert read_manifest(result.store.path) == read_manifest(tmp_path / "folders.zarr")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "seed is 1 in the former and 0 in the latter"),
        ({"max_tissue": 0.5, "seed": 1}, "max tissue is 0.5 in the former and 0.4 in the latter"),
        ({"size": (8, 16, 16)}, "size is 8,16,16 in the former and 16,16,16 in the latter"),
        ({"hu": (-1000, 400)}, "hu is -1000,400 in the former and -1000,1000 in the latter"),
        ({"orient": "RAS"}, "orient is RAS in the former and None in the latter"),
        ({"sampler": "official", "seed": 0}, "sampler is official in the former and uniform in the latter"),
    ],
)
def test_different_parameters_are_refused_by_name(
    luna16: Path, halves: list[Path], tmp_path: Path, change: dict[str, object], words: str
) -> None:
    other = dataclasses.replace(FIVE, **change)  # type: ignore[arg-type]
    extract_cubes(luna16, tmp_path / "other.zarr", other, workers=1)
    with pytest.raises(CallError, match=words):
        merge_stores([halves[0], tmp_path / "other.zarr"], tmp_path / "merged.zarr")
    assert not (tmp_path / "merged.zarr").exists()
    assert not unfinished(tmp_path / "merged.zarr").exists()


def test_an_imported_store_is_not_merged_with_an_extracted_one(halves: list[Path], tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.full((1, 16, 16, 16), 0.5))
    import_npy([tmp_path / "a.npy"], tmp_path / "imported.zarr")
    with pytest.raises(CallError, match="border is none in the former and 2,2,2 in the latter"):
        merge_stores([halves[0], tmp_path / "imported.zarr"], tmp_path / "merged.zarr")


def test_layouts_may_differ(luna16: Path, halves: list[Path], tmp_path: Path) -> None:
    write_scan(tmp_path / "files" / "p01" / "ct.nii.gz", lungs(4))
    extract_cubes(tmp_path / "files", tmp_path / "files.zarr", SMALL, workers=1)
    for order in ((halves[0], tmp_path / "files.zarr"), (tmp_path / "files.zarr", halves[0])):
        parameters = merge_stores(order, tmp_path / "m.zarr", overwrite=True).store.attributes["parameters"]
        assert parameters["layout"] == "mixed"
        assert parameters["subsets"] == [0]


def test_a_scan_in_two_stores_is_named(luna16: Path, cube_store: Path, tmp_path: Path) -> None:
    write_scan(luna16 / "subset6" / "1.2.9.mhd", lungs(9))
    other = dataclasses.replace(SMALL, subsets=(5, 6))
    extract_cubes(luna16, tmp_path / "other.zarr", other, workers=1)
    with pytest.raises(CallError, match=r"must not share a scan: 1\.2\.5 in \S+cubes\.zarr and \S+other"):
        merge_stores([cube_store, tmp_path / "other.zarr"], tmp_path / "merged.zarr")
    key = tmp_path / "key"
    extract_cubes(luna16, tmp_path / "secret.zarr", other, workers=1, anonymize=key)
    with pytest.raises(CallError, match=r"must not share a scan: 1\.2\.5 or [0-9a-f]{32} in "):
        merge_stores([cube_store, tmp_path / "secret.zarr"], tmp_path / "merged.zarr")


def test_the_official_draws_of_a_subset_are_not_put_together(luna16: Path, tmp_path: Path) -> None:
    official = dataclasses.replace(ZERO, sampler="official", seed=None)
    extract_cubes(luna16, tmp_path / "one.zarr", official, workers=1)
    (luna16 / "subset0" / "1.2.3.mhd").unlink()
    write_scan(luna16 / "subset0" / "1.2.7.mhd", lungs(7))
    extract_cubes(luna16, tmp_path / "two.zarr", official, workers=1)
    with pytest.raises(CallError, match=r"both hold cubes of subset 0, but the official draws"):
        merge_stores([tmp_path / "one.zarr", tmp_path / "two.zarr"], tmp_path / "merged.zarr")


def test_wrong_calls_exit_with_2(cube_store: Path, halves: list[Path], tmp_path: Path) -> None:
    degrade_cubes(cube_store, tmp_path / "p.zarr", DegradeParameters(get_recipe("genesis")))
    out, before = tmp_path / "merged.zarr", read_manifest(halves[0])
    cases = [
        ((halves[0], out), "two or more stores"),
        ((out,), "Missing argument"),
        ((*halves, halves[0]), "is one of the stores to merge"),
        ((*halves, halves[0], "--overwrite"), "is one of the stores to merge"),
        ((halves[0], halves[0], out), "the same store"),
        ((halves[0], tmp_path / "absent", out), "There is no store"),
        ((halves[0], tmp_path / "p.zarr", out), "is a pair store"),
        ((*halves, tmp_path / "p.zarr"), "is not a genesis-cubes store"),
        ((*halves, halves[0] / "m.zarr"), "is inside the store"),
        ((*halves, tmp_path, "--overwrite"), "which would be replaced"),
    ]
    for words, sentence in cases:
        result = CliRunner().invoke(main, ["merge", *map(str, words)])
        assert result.exit_code == 2, (words, result.output)
        assert sentence in " ".join(result.stderr.split()), result.stderr
    assert not out.exists()
    assert read_manifest(halves[0]) == before


def test_finished_work_is_left_alone(halves: list[Path], cube_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged.zarr"
    words = ["merge", *map(str, halves), str(out), "--json"]
    facts = [json.loads(CliRunner().invoke(main, words).stdout) for _ in range(2)]
    assert [one["done_before"] for one in facts] == [False, True]
    assert [one["cubes"] for one in facts] == [12, 12]
    with pytest.raises(CallError, match="exists and was not built from these stores"):
        merge_stores(halves[::-1], out)
    before = read_manifest(out)
    merge_stores(halves[::-1], out, overwrite=True)
    assert read_manifest(out) != before


@pytest.mark.parametrize("damage", ["flipped", "swapped", "missing", "short"])
def test_a_damaged_shard_is_named_and_the_merge_goes_on_once_it_is_mended(
    luna16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    shorten(monkeypatch, 2)
    paths = [tmp_path / "zero.zarr", tmp_path / "five.zarr"]
    for path, parameters in zip(paths, (ZERO, FIVE), strict=True):
        extract_cubes(luna16, path, parameters, workers=1)
    shards = [paths[0] / shard_path("cubes", number, 4) for number in (0, 1)]
    whole = [shard.read_bytes() for shard in shards]
    if damage == "flipped":
        shards[1].write_bytes(whole[1][:-1] + bytes([whole[1][-1] ^ 1]))
    elif damage == "swapped":
        for shard, data in zip(shards, whole[::-1], strict=True):
            shard.write_bytes(data)
    elif damage == "missing":
        shards[1].unlink()
    else:
        shards[1].write_bytes(whole[1][:100])
    out = tmp_path / "merged.zarr"
    with pytest.raises(DataError, match=r"zero\.zarr\S* is damaged.*(sha256|cubes/c/1/0/0/0)"):
        merge_stores(paths, out, workers=1)
    assert not out.exists()
    for shard, data in zip(shards, whole, strict=True):
        shard.write_bytes(data)
    assert len(merge_stores(paths, out).store) == 12


def test_interrupted_it_goes_on(luna16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import genesis_toolkit.pipeline.exchange.merge as module

    shorten(monkeypatch, 4)
    paths = [tmp_path / "zero.zarr", tmp_path / "five.zarr"]
    for path, parameters in zip(paths, (ZERO, FIVE), strict=True):
        extract_cubes(luna16, path, parameters, workers=1)
    whole = read_manifest(merge_stores(paths, tmp_path / "whole.zarr").store.path)
    make, left = module._make_shard, 1

    def interrupt(*arguments: object) -> dict[str, object]:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return make(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_make_shard", interrupt)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            merge_stores(paths, tmp_path / "c.zarr", workers=1)
        assert not (tmp_path / "c.zarr").exists()
        left = 1
        if len(list((unfinished(tmp_path / "c.zarr") / "done").iterdir())) == 4 + 2:
            break  # four shards checked, two of three made
    assert read_manifest(merge_stores(paths, tmp_path / "c.zarr", workers=1).store.path) == whole


def test_tables_that_a_kill_left_are_written_anew(
    halves: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, whole = (
        tmp_path / "c.zarr",
        read_manifest(merge_stores(halves, tmp_path / "whole.zarr").store.path),
    )
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            merge_stores(halves, target)
    assert (unfinished(target) / "store" / "scans").is_dir()
    assert read_manifest(merge_stores(halves, target).store.path) == whole


@pytest.mark.full
def test_killed_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    parts = []
    for subset in range(2):  # of 512 cubes a shard, and none aligned after the first store
        values = np.random.default_rng(subset).integers(0, 2001, (1300, 16, 16, 8)) / 2000
        np.save(tmp_path / f"bat_32_s_16x16x8_{subset}.npy", values)
        parts.append(tmp_path / f"{subset}.zarr")
        import_npy([tmp_path / f"bat_32_s_16x16x8_{subset}.npy"], parts[-1])
    whole, killed = tmp_path / "whole.zarr", tmp_path / "killed.zarr"

    def words(target: Path) -> list[str]:
        return [
            sys.executable,
            "-m",
            "genesis_toolkit.cli.prep",
            "merge",
            *map(str, parts),
            str(target),
            "--workers",
            "1",
        ]

    subprocess.run(words(whole), check=True, capture_output=True)
    assert [kill_after(words(killed), killed, pieces) for pieces in (0, 4, 8)] == [True] * 3
    subprocess.run(words(killed), check=True, capture_output=True)
    assert read_manifest(killed) == read_manifest(whole)


@pytest.mark.parametrize("length", [4, 256])
def test_all_parts_make_up_the_undivided_store(
    twelve_scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    """In any order, with other shards and with the scans that gave nothing: file by file the same sha256."""
    shorten(monkeypatch, length)
    extract_cubes(twelve_scans, tmp_path / "once.zarr", SMALL, workers=1)
    parts = [tmp_path / f"{number}.zarr" for number in (3, 1, 2)]
    for path in parts:
        extract_cubes(twelve_scans, path, SMALL, workers=1, part=f"{path.stem}/3")
    held = [set(open_cubes(path).scans.identifier.tolist()) for path in parts]
    once = open_cubes(tmp_path / "once.zarr")
    assert sum(map(len, held)) == len(once.scans)
    assert set.union(*held) == set(once.scans.identifier.tolist())
    merged = merge_stores(parts, tmp_path / "merged.zarr").store
    assert read_manifest(merged.path) == read_manifest(once.path)
    assert merge_stores(parts, tmp_path / "merged.zarr").done_before
    assert extract_cubes(twelve_scans, merged.path, SMALL).done_before
    some = merge_stores(parts[:2], tmp_path / "some.zarr").store
    assert some.attributes["parameters"]["part"] == "1/3, 3/3"
    rest = merge_stores([some.path, parts[2]], tmp_path / "rest.zarr").store
    assert rest.manifest_sha256 == once.manifest_sha256, "merged in two steps"
    assert extract_cubes(twelve_scans, parts[0], SMALL, part="3/3").done_before
    with pytest.raises(CallError, match=r"was made with part 3/3 \(requested: 1/3\)"):
        extract_cubes(twelve_scans, parts[0], SMALL, part="1/3")
    assert open_cubes(parts[1]).attributes["parameters"]["part"] == "1/3"
