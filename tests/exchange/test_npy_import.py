"""The authors' cube files in and out: exact, streamed, resumable; a hostile file is one sentence."""

import dataclasses
import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.scans import SMALL, kill_after

from genesis_toolkit.cli.prep import main
from genesis_toolkit.pipeline.cubes.extract import extract_cubes
from genesis_toolkit.pipeline.degrade.recipes import get_recipe
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.exchange.npy_files import export_npy, hu_of, read_head, values_of
from genesis_toolkit.pipeline.exchange.npy_import import import_npy
from genesis_toolkit.pipeline.ledger import Ledger, read_manifest, unfinished
from genesis_toolkit.pipeline.pairs.degrade import DegradeParameters, degrade_cubes
from genesis_toolkit.pipeline.rng import stream_key
from genesis_toolkit.pipeline.store.open import CubeStore, open_cubes, open_store
from genesis_toolkit.pipeline.store.shards import shard_path
from genesis_toolkit.training.feeding.feeds import CubeFeed, PairBuffer, PairFeed
from genesis_toolkit.training.feeding.split import split_cubes

NAME = "bat_32_s_16x16x16_0.npy"


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def hu(seed: int, count: int = 5, size: tuple[int, ...] = (16, 16, 16)) -> NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-1000, 1001, (count, *size), dtype=np.int16)


def by_the_authors(values: NDArray[np.int16], dtype: str = "float64") -> NDArray[Any]:
    """METHOD.md section 2: clipped HU, scaled linearly to [0, 1]."""
    return (1.0 * (values - -1000.0) / (1000.0 - -1000.0)).astype(dtype)


def write(path: Path, values: NDArray[np.int16], dtype: str = "float64") -> Path:
    np.save(path, by_the_authors(values, dtype))
    return path


def voxels_of(store: CubeStore) -> NDArray[np.int16]:
    """By plain zarr."""
    return np.asarray(zarr.open_group(store.path, mode="r")["cubes"][...])


@pytest.fixture
def four_a_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("exchange.npy_import", "store.shards", "store.write"):
        monkeypatch.setattr(f"genesis_toolkit.pipeline.{module}.shard_length", lambda *_: 4)


@pytest.mark.parametrize("dtype", ["float64", "float32", ">f8", ">f4"])
def test_all_2001_values_are_told_apart_and_come_back(dtype: str) -> None:
    every = np.arange(-1000, 1001, dtype=np.int16)
    found, bad = hu_of(by_the_authors(every, dtype))
    assert bad is None
    np.testing.assert_array_equal(found, every)
    np.testing.assert_array_equal(values_of(found, np.dtype(dtype)), by_the_authors(every, dtype))


@settings(deadline=None)
@given(value=st.floats(width=64, allow_nan=True, allow_infinity=True) | st.floats(-0.001, 1.001))
def test_a_value_is_whole_or_bad(value: float) -> None:
    found, bad = hu_of(np.array([0.5, value]))
    near = math.isfinite(value * 2000) and -1000 <= round(value * 2000 - 1000) <= 1000
    if near and abs(value * 2000 - 1000 - round(value * 2000 - 1000)) <= 0.001:
        assert bad is None
        assert found[1] == round(value * 2000 - 1000)
    else:
        assert bad == 1


@settings(deadline=None, max_examples=12)
@given(
    counts=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    size=st.tuples(*[st.integers(1, 9)] * 3),
    dtype=st.sampled_from(["float64", "float32"]),
    length=st.integers(1, 5),
    seed=st.integers(0, 999),
)
def test_the_round_trip_keeps_voxels_and_sha256(
    tmp_path_factory: pytest.TempPathFactory,
    counts: list[int],
    size: tuple[int, int, int],
    dtype: Any,
    length: int,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("npy")
    edges = "x".join(map(str, size))
    with pytest.MonkeyPatch.context() as patch:
        for module in ("exchange.npy_import", "store.shards", "store.write"):
            patch.setattr(f"genesis_toolkit.pipeline.{module}.shard_length", lambda *_: length)
        arrays = [hu(seed + subset, count, size) for subset, count in enumerate(counts)]
        files = [
            write(folder / f"bat_32_s_{edges}_{subset}.npy", values, dtype)
            for subset, values in enumerate(arrays)
        ]
        store = import_npy(files, folder / "c.zarr", workers=2).store
        np.testing.assert_array_equal(voxels_of(store), np.concatenate(arrays))
        exported = export_npy(folder / "c.zarr", folder / "out", dtype=dtype)
        assert [one.path.read_bytes() for one in exported] == [file.read_bytes() for file in files]
        again = import_npy([one.path for one in exported], folder / "again.zarr", workers=1).store
        assert read_manifest(again.path) == read_manifest(store.path)


def test_what_the_tables_hold_and_what_is_not_known(tmp_path: Path, four_a_shard: None) -> None:
    first, third = hu(0), hu(3, 7)
    files = [write(tmp_path / "bat_32_16x16x16_3.npy", third, "float32"), write(tmp_path / NAME, first)]
    store = import_npy(files, tmp_path / "c.zarr").store
    scans, table = store.scans, store.table
    assert scans.identifier.tolist() == ["bat_32_s_16x16x16_0", "bat_32_16x16x16_3"]
    assert scans.path.tolist() == [NAME, "bat_32_16x16x16_3.npy"]
    assert scans.subset.tolist() == [0, 3]
    assert scans.cubes.tolist() == [5, 7]
    assert scans.stream.tolist() == [int(stream_key(str(name))) for name in scans.identifier]
    assert scans.bytes.tolist() == [file.stat().st_size for file in reversed(files)]
    for column in (scans.shape, scans.spacing, scans.origin, scans.direction):
        assert not column.any()
    assert table.number.tolist() == [*range(5), *range(7)]
    assert (table.corner == -1).all()
    done = subprocess.run(["sha256sum", *reversed(files)], capture_output=True, encoding="utf-8", check=True)
    assert scans.sha256.tolist() == [line.split()[0] for line in done.stdout.splitlines()]
    tissue = np.concatenate([first, third]) >= -150
    after = np.zeros_like(tissue)
    after[..., :-1] = tissue[..., 1:]
    expected = np.where(tissue, 1.0, np.where(after, 0.5, 0.0)).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(table.tissue, expected)
    assert store.attributes["parameters"] == {"hu": [-1000, 1000], "imported": "npy", "size": [16, 16, 16]}
    shown = call("info", tmp_path / "c.zarr")
    assert "unknown" in shown.stdout
    checked = subprocess.run(
        ["sha256sum", "--check", "--quiet", "manifest-sha256.txt"], cwd=store.path, check=False
    )
    assert checked.returncode == 0


@pytest.mark.parametrize(
    ("name", "subset"),
    [
        ("bat_32_s_64x64x32_7.npy", 7),
        ("bat_32_64x64x32_0.npy", 0),
        ("bat_64_s_112x112x64_5.npy", 5),
        ("bat_32_s_64x64x32.npy", -1),
        ("bat_32_s_64x64x32_12.npy", -1),
        ("mine_3.npy", -1),
    ],
)
def test_the_subset_stands_in_the_name(tmp_path: Path, name: str, subset: int) -> None:
    assert read_head(write(tmp_path / name, hu(0, 1, (2, 2, 2)))).subset == subset


def test_neither_workers_nor_order_show(tmp_path: Path, four_a_shard: None) -> None:
    files = [write(tmp_path / f"bat_32_s_16x16x16_{subset}.npy", hu(subset, 6)) for subset in range(3)]
    one = import_npy(files, tmp_path / "one.zarr", workers=1).store
    three = import_npy(files[::-1], tmp_path / "three.zarr", workers=3).store
    assert read_manifest(one.path) == read_manifest(three.path)


def test_interrupted_anywhere_it_ends_with_the_same_bytes(
    tmp_path: Path, four_a_shard: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import genesis_toolkit.pipeline.exchange.npy_import as npy

    files = [write(tmp_path / f"bat_32_s_16x16x16_{subset}.npy", hu(subset, 6)) for subset in range(2)]
    whole = read_manifest(import_npy(files, tmp_path / "whole.zarr", workers=1).store.path)
    encode, left = npy.encode_cube, 0

    def interrupt(cube: NDArray[Any]) -> bytes:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return encode(cube)

    monkeypatch.setattr(npy, "encode_cube", interrupt)
    target = tmp_path / "c.zarr"
    for budget in (0, 5, 5, 5):  # a shard has four
        left = budget
        with pytest.raises(KeyboardInterrupt):
            import_npy(files, target, workers=1)
        assert not target.exists()
        if budget == 5 and len(list((unfinished(target) / "done").iterdir())) == 4:
            break
    left = 4  # only the last shard is made now
    assert read_manifest(import_npy(files, target, workers=1).store.path) == whole
    assert not unfinished(target).exists()


def test_tables_that_a_kill_left_are_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, target = write(tmp_path / NAME, hu(0)), tmp_path / "c.zarr"
    whole = read_manifest(import_npy([file], tmp_path / "whole.zarr").store.path)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            import_npy([file], target)
    assert (unfinished(target) / "store" / "scans").is_dir()
    assert read_manifest(import_npy([file], target).store.path) == whole


def test_a_file_that_was_written_since_is_read_again(
    tmp_path: Path, four_a_shard: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import genesis_toolkit.pipeline.exchange.npy_import as npy

    file, target = write(tmp_path / NAME, hu(0, 8)), tmp_path / "c.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(npy, "_finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            import_npy([file], target, workers=1)
    write(file, hu(1, 8))
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 10**9))
    np.testing.assert_array_equal(voxels_of(import_npy([file], target, workers=1).store), hu(1, 8))


@pytest.mark.full
def test_killed_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    values = np.tile(hu(0, 512), (6, 1, 1, 1))  # six shards
    file = write(tmp_path / NAME, values)
    whole, killed = tmp_path / "whole.zarr", tmp_path / "killed.zarr"

    def words(target: Path) -> list[str]:
        return [
            sys.executable,
            "-m",
            "genesis_toolkit.cli.prep",
            "import-npy",
            str(file),
            str(target),
            "--workers",
            "2",
        ]

    subprocess.run(words(whole), check=True, capture_output=True)
    assert [kill_after(words(killed), killed, pieces) for pieces in (0, 2, 4)] == [True] * 3
    subprocess.run(words(killed), check=True, capture_output=True)
    assert read_manifest(killed) == read_manifest(whole)


def test_finished_work_is_left_alone_and_other_files_refused(tmp_path: Path) -> None:
    file, other = write(tmp_path / NAME, hu(0)), write(tmp_path / "bat_32_s_16x16x16_1.npy", hu(1))
    target = tmp_path / "c.zarr"
    import_npy([file], target)
    before = read_manifest(target)
    assert import_npy([file], target).done_before
    os.utime(file)  # touched, not changed
    assert import_npy([file], target).done_before
    with pytest.raises(CallError, match=r"was not built from these files, but holds bat_32_s_16x16x16_0: "):
        import_npy([file, other], target)
    write(file, hu(2))
    with pytest.raises(CallError, match=r"bat_32_s_16x16x16_0\.npy has changed since"):
        import_npy([file], target)
    assert read_manifest(target) == before
    np.testing.assert_array_equal(voxels_of(import_npy([file], target, overwrite=True).store), hu(2))


def test_an_imported_store_and_an_extracted_one_do_not_pass_for_each_other(
    luna16: Path, cube_store: Path, tmp_path: Path
) -> None:
    file = write(tmp_path / NAME, hu(0))
    with pytest.raises(CallError, match=r"was not built from these files, but holds 1\.2\.3"):
        import_npy([file], cube_store)
    import_npy([file], tmp_path / "c.zarr")
    with pytest.raises(CallError, match="was imported, not extracted"):
        extract_cubes(luna16, tmp_path / "c.zarr", SMALL)


class _Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (self.path,)


def head(text: str, version: bytes = b"\x01\x00") -> bytes:
    length = len(text).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + length + text.encode()


def header(descr: str = "<f8", order: str = "False", shape: str = "(1, 2, 2, 2)") -> str:
    return f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n"


def saved(array: NDArray[Any]) -> Callable[[Path], None]:
    return lambda path: np.save(path, array)


def raw(data: bytes) -> Callable[[Path], None]:
    return lambda path: (path.write_bytes(data), None)[1]


def changed(value: float) -> Callable[[Path], None]:
    """A file with one strange value, at voxel 1,2,3 of cube 4."""
    values = by_the_authors(hu(0))
    values[4, 1, 2, 3] = value
    return saved(values)


def pickled(path: Path) -> None:
    np.save(path, np.array([_Trap(path.parent / "trapped")], dtype=object), allow_pickle=True)


def zipped(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.zeros((1, 2, 2, 2)))


LONGEST = b"\x93NUMPY\x02\x00\xff\xff\xff\x7f"  # the header is to have 2 GiB
HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "objects": (pickled, "holds Python objects"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps(_Trap(path.parent / "trapped"))), "is not a .npy"),
    "structured objects": (raw(head(header("|O"))), "holds Python objects"),
    "zip": (zipped, "is not a .npy file"),
    "text": (raw(b"bat"), "is not a .npy file"),
    "empty": (raw(b""), "the file is empty"),
    "no header": (raw(b"\x93NUMPY\x01\x00"), "an unreadable header"),
    "cut in the header": (raw(head(header())[:40]), "an unreadable header"),
    "no dict": (raw(head("[" * 4000)), "an unreadable header"),
    "long header": (raw(head(" " * 60000)), "an unreadable header"),
    "longer header": (raw(LONGEST + b" " * 99), "an unreadable header"),
    "code": (raw(head("__import__('os').mkdir('trapped')")), "an unreadable header"),
    "version": (raw(head(header(), b"\x03\x00")), "version 3.0; only 1.0 and 2.0 are supported"),
    "int16": (
        saved(np.zeros((1, 2, 2, 2), np.int16)),
        "holds int16 values, but it must hold float64 or float32",
    ),
    "float16": (saved(np.zeros((1, 2, 2, 2), np.float16)), "holds float16 values"),
    "complex": (saved(np.zeros((1, 2, 2, 2), complex)), "holds complex128 values"),
    "3 axes": (saved(np.zeros((2, 2, 2))), "has the shape 2 x 2 x 2, but it must have four dimensions"),
    "5 axes": (saved(np.zeros((1, 2, 2, 2, 1))), "has the shape 1 x 2 x 2 x 2 x 1"),
    "0 axes": (saved(np.float64(0.5)), "has the shape ()"),  # type: ignore[arg-type]
    "no cube": (saved(np.zeros((0, 2, 2, 2))), "holds no values: its shape is 0 x 2 x 2 x 2"),
    "no voxel": (saved(np.zeros((3, 2, 0, 2))), "holds no values"),
    "negative": (raw(head(header(shape="(-1, 2, 2, 2)"))), "holds no values"),
    "fortran": (saved(np.asfortranarray(np.zeros((3, 2, 2, 2)))), "in Fortran order"),
    "petabyte": (raw(head(header(shape=f"({10**13}, 4, 4, 4)"))), "is cut short: "),
    "more than 2^64": (raw(head(header(shape=f"({10**30}, 4, 4, 4)"))), "is cut short: "),
    "one huge cube": (raw(head(header(shape=f"(1, {10**9}, {10**9}, 4)"))), "at most 268435456 voxels"),
    "cut short": (raw(head(header()) + bytes(63)), "is cut short: "),
    "too long": (raw(head(header()) + bytes(65)), "is too long: "),
    "nan": (changed(math.nan), "cube 4 has nan at voxel 1,2,3, outside 0 .. 1"),
    "infinite": (changed(-math.inf), "cube 4 has -inf at voxel 1,2,3, outside 0 .. 1"),
    "above": (changed(1.001), "cube 4 has 1.001 at voxel 1,2,3, outside 0 .. 1"),
    "HU": (changed(-700.0), "cube 4 has -700.0 at voxel 1,2,3, outside 0 .. 1"),
    "between": (changed(0.50013), "which is 0.2600 HU, 0.2600 from a whole number"),
    "a folder": (lambda path: path.mkdir(), "the path is not a regular file"),
    "a pipe": (os.mkfifo, "the path is not a regular file"),
}


@pytest.mark.parametrize("which", HOSTILE)
def test_a_hostile_file_is_one_sentence(tmp_path: Path, which: str) -> None:
    make, words = HOSTILE[which]
    good, bad = write(tmp_path / "bat_32_s_16x16x16_1.npy", hu(1)), tmp_path / NAME
    make(bad)
    before = sorted(tmp_path.iterdir())
    result = call("import-npy", bad, good, tmp_path / "c.zarr")
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.count("\n") == 1
    assert words in result.stderr
    assert str(bad) in result.stderr
    assert sorted(tmp_path.iterdir()) == before, "something was left behind"


def test_one_fortran_cube_is_no_trouble(tmp_path: Path) -> None:
    """Of one cube of one row both orders are the same."""
    values = np.zeros((1, 1, 3, 1))
    np.save(tmp_path / "a.npy", np.asfortranarray(values))
    assert len(import_npy([tmp_path / "a.npy"], tmp_path / "c.zarr").store) == 1


def test_headers_of_python_2_are_read(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_bytes(head(header(shape="(1L, 2L, 2L, 2L)")) + np.zeros(8).tobytes())
    assert read_head(path).count == 1


def test_the_bad_value_that_is_named_is_the_first_whoever_reads(tmp_path: Path, four_a_shard: None) -> None:
    files = []
    for subset in range(3):
        values = by_the_authors(hu(subset, 9))
        values[[2, 7], 3] = 0.77777
        np.save(tmp_path / f"bat_32_s_16x16x16_{subset}.npy", values)
        files.append(tmp_path / f"bat_32_s_16x16x16_{subset}.npy")
    for workers in (1, 2, 8):
        for _ in range(5):
            with pytest.raises(DataError, match=r"_0\.npy: cube 2 has 0\.77777 at voxel 3,0,0"):
                import_npy(files, tmp_path / "c.zarr", workers=workers)
            assert not unfinished(tmp_path / "c.zarr").exists()


def test_wrong_calls_exit_with_2(cube_store: Path, tmp_path: Path) -> None:
    file, out = write(tmp_path / NAME, hu(0)), tmp_path / "c.zarr"
    (tmp_path / "b").mkdir()
    cases = [
        (("import-npy", tmp_path / "absent.npy", out), "There is no file"),
        (("import-npy", out), "Missing argument"),
        (("import-npy", file, write(tmp_path / "b" / NAME, hu(1)), out), "have the same name"),
        (
            ("import-npy", file, write(tmp_path / "s_1.npy", hu(1, 1, (8, 8, 8))), out),
            "8 x 8 x 8 voxels but",
        ),
        (("import-npy", file, file), "is not a genesis-cubes store"),
        (("import-npy", file, cube_store / "c.zarr"), "is inside the store"),
        (("export-npy", tmp_path / "absent", tmp_path / "out"), "There is no store"),
        (("export-npy", cube_store, file), "cannot be created"),
        (("export-npy", cube_store, cube_store / "npy"), "is inside the store"),
        (("export-npy", cube_store, tmp_path / "out", "--dtype", "float16"), "float16"),
    ]
    for words, sentence in cases:
        result = call(*words)
        assert result.exit_code == 2, (words, result.output)
        assert sentence in " ".join(result.stderr.split()), result.stderr
        assert "Traceback" not in result.output
    assert not out.exists()
    assert not (tmp_path / "out").exists()


def test_export_refuses_another_window_and_pairs(luna16: Path, cube_store: Path, tmp_path: Path) -> None:
    wide = dataclasses.replace(SMALL, hu=(-1000, 2000))
    extract_cubes(luna16, tmp_path / "wide.zarr", wide, workers=1)
    with pytest.raises(CallError, match=r"holds -1000 \.\. 2000 HU"):
        export_npy(tmp_path / "wide.zarr", tmp_path / "out")
    degrade_cubes(cube_store, tmp_path / "p.zarr", DegradeParameters(get_recipe("genesis")))
    with pytest.raises(CallError, match="is a pair store"):
        export_npy(tmp_path / "p.zarr", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_export_writes_a_file_a_subset_as_numpy_would(cube_store: Path, tmp_path: Path) -> None:
    store = open_cubes(cube_store)
    out = tmp_path / "deep" / "out"
    result = call("export-npy", cube_store, out, "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)["files"]
    assert [Path(one["path"]).name for one in facts] == ["bat_6_s_16x16x16_0.npy", "bat_6_s_16x16x16_5.npy"]
    subsets = store.scans.subset[store.table.scan]
    for one in facts:
        expected = tmp_path / "expected.npy"
        np.save(expected, by_the_authors(voxels_of(store)[subsets == one["subset"]]))
        assert Path(one["path"]).read_bytes() == expected.read_bytes()
        done = subprocess.run(["sha256sum", one["path"]], capture_output=True, encoding="utf-8", check=True)
        assert done.stdout.split()[0] == one["sha256"]
    (out / ".bat_6_s_16x16x16_5.npy.0123456789ab.part").write_bytes(b"of a run that was killed")
    (out / "bat_6_s_16x16x16_5.npy").unlink()
    again = json.loads(call("export-npy", cube_store, out, "--json").stdout)["files"]
    assert [one["done_before"] for one in again] == [True, False]
    assert [one["sha256"] for one in again] == [one["sha256"] for one in facts]
    assert sorted(path.name for path in out.iterdir()) == [Path(one["path"]).name for one in facts]


@pytest.mark.parametrize("content", [b"mine", b"", None])
def test_export_replaces_nothing_unasked(cube_store: Path, tmp_path: Path, content: bytes | None) -> None:
    out = tmp_path / "out"
    whole = export_npy(cube_store, out)[1].path.read_bytes()
    there, other = out / "bat_6_s_16x16x16_5.npy", out / "bat_6_s_16x16x16_0.npy"
    other.unlink()
    there.write_bytes(whole + b"1" if content is None else content)
    before = there.read_bytes()
    with pytest.raises(CallError, match=r"_5\.npy already exists with different content"):
        export_npy(cube_store, out)
    assert there.read_bytes() == before
    assert not other.exists()
    export_npy(cube_store, out, overwrite=True)
    assert there.read_bytes() == whole


def test_export_of_a_damaged_store_leaves_no_half_file(cube_store: Path, tmp_path: Path) -> None:
    shard = cube_store / shard_path("cubes", 0, 4)
    data = bytearray(shard.read_bytes())
    data[len(data) // 4] ^= 1
    shard.write_bytes(data)
    result = call("export-npy", cube_store, tmp_path / "out")
    assert result.exit_code == 1
    assert "is damaged: the checksum is wrong" in result.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_cubes_without_a_subset_have_a_file_without_a_number(tmp_path: Path) -> None:
    import_npy([write(tmp_path / "mine.npy", hu(0))], tmp_path / "c.zarr")
    (one,) = export_npy(tmp_path / "c.zarr", tmp_path / "out", dtype="float32")
    assert one.path.name == "bat_32_s_16x16x16.npy"
    assert read_head(one.path).subset == -1
    np.testing.assert_array_equal(np.load(one.path), by_the_authors(hu(0), "float32"))


def test_an_imported_store_is_degraded_and_learnt_from_as_any_other(tmp_path: Path) -> None:
    files = [write(tmp_path / f"bat_32_s_16x16x16_{subset}.npy", hu(subset, 4)) for subset in (0, 5)]
    store = import_npy(files, tmp_path / "c.zarr").store
    pairs = degrade_cubes(
        tmp_path / "c.zarr", tmp_path / "p.zarr", DegradeParameters(get_recipe("genesis"))
    ).store
    split = split_cubes(store.scans, store.table)
    assert split.train.tolist() == [0, 1, 2, 3]
    assert split.validation.tolist() == [4, 5, 6, 7]
    opened = open_store(tmp_path / "p.zarr")
    assert len(pairs) == len(opened) == 8
    rooms = []
    for feed in (PairFeed(pairs), CubeFeed(store, get_recipe("genesis"), 0)):
        cubes = np.empty((2, 8, 16, 16, 16), np.int16)
        bits = np.empty((2, 8), np.uint8)
        room = PairBuffer(cubes[0], cubes[1], bits[0], bits[1], np.empty((16, 16, 16), np.int16))
        feed.fill(np.arange(8), 0, room)
        rooms.append(room)
    for name in ("original", "degraded", "flip", "applied"):
        np.testing.assert_array_equal(getattr(rooms[0], name), getattr(rooms[1], name))


def peak_of(*words: object) -> float:
    """Run a command; the most memory it held, in MB."""
    code = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    call = [sys.executable, "-c", code, sys.executable, "-m", "genesis_toolkit.cli.prep", *map(str, words)]
    done = subprocess.run(call, capture_output=True, encoding="utf-8", check=True)
    return int(done.stdout) * (1 if sys.platform == "darwin" else 1024) / 1e6


@pytest.mark.full
def test_three_gigabytes_are_imported_in_less_than_one(tmp_path: Path) -> None:
    file = tmp_path / "bat_32_s_64x64x32_0.npy"
    np.lib.format.open_memmap(file, "w+", np.dtype("f8"), (2848, 64, 64, 32)).flush()
    assert file.stat().st_size > 2.9e9  # of air, which takes no room on the disk
    assert peak_of("import-npy", file, tmp_path / "c.zarr", "--workers", 8) < 1000
    assert len(open_cubes(tmp_path / "c.zarr")) == 2848


@pytest.mark.full
def test_a_file_is_exported_in_less_memory_than_it_has(tmp_path: Path) -> None:
    file = tmp_path / "bat_32_s_64x64x32_0.npy"
    np.lib.format.open_memmap(file, "w+", np.dtype("f8"), (400, 64, 64, 32)).flush()
    import_npy([file], tmp_path / "c.zarr")
    assert peak_of("export-npy", tmp_path / "c.zarr", tmp_path / "out") < 300
    assert (tmp_path / "out" / file.name).stat().st_size > 400e6
