"""Whatever is done to a store, `verify` finds it, names it, and does not fall over it."""

import errno
import functools
import hashlib
import http.server
import importlib.util
import json
import os
import random
import shutil
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs.blosc
import numpy as np
import pytest
import zarr
from click.testing import CliRunner, Result
from support.damage import describe_anew, files_of, flip, forge, look, set_attribute, set_value, told
from support.folders import GOLDEN
from support.scans import SMALL
from support.servers import Ranges

from genesis_toolkit.cli.prep import main
from genesis_toolkit.pipeline.cubes.extract import extract_cubes
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.exchange.archive import pack_store
from genesis_toolkit.pipeline.ledger import LOG, MANIFEST, read_manifest, sha256_of
from genesis_toolkit.pipeline.pairs.degrade import DegradeParameters, degrade_cubes
from genesis_toolkit.pipeline.store.metadata import Array, described, read_column
from genesis_toolkit.pipeline.store.open import open_store
from genesis_toolkit.pipeline.store.schema import CUBES, PAIRS, array_names
from genesis_toolkit.pipeline.verify.verify import Verification, verify_store

MOST_MEMORY = 100e6  # bytes that hostile metadata may cost


@pytest.fixture
def stores(finished: Path, tmp_path: Path) -> Path:
    """Copies to do harm to."""
    for name in ("cubes.zarr", "pairs.zarr"):
        shutil.copytree(finished / name, tmp_path / name)
    return tmp_path


# --- sound stores ---------------------------------------------------------------------------------------


def test_a_sound_store_is_sound_in_every_respect(finished: Path) -> None:
    found = look(finished / "pairs.zarr", source=finished / "scans", cubes=99, pairs=99)
    assert found.findings == found.left_out == found.damaged == ()
    assert (found.kind, found.cubes, found.pairs) == ("genesis-pairs", 12, 24)
    assert (found.scans, found.cut_again, found.replayed) == (2, 12, 24)
    assert found.files == len(read_manifest(finished / "pairs.zarr"))
    assert found.bytes == sum(
        (finished / "pairs.zarr" / name).stat().st_size for name in read_manifest(finished / "pairs.zarr")
    )
    found = look(finished / "cubes.zarr", source=finished / "scans", cubes=5)
    assert (found.findings, found.cut_again, found.pairs) == ((), 5, None)


def test_threads_do_not_show(stores: Path) -> None:
    flip(stores / "pairs.zarr" / "degraded" / "c" / "3" / "0" / "0" / "0", 700)
    (stores / "pairs.zarr" / "more").write_bytes(b"?")
    assert verify_store(stores / "pairs.zarr", workers=7) == look(stores / "pairs.zarr")


def test_archives_and_servers_are_looked_at_alike(stores: Path, server: str) -> None:
    pack_store(stores / "pairs.zarr", stores / "pairs.zip")
    assert look(stores / "pairs.zip", source=None, pairs=3).findings == ()
    url = verify_store(f"{server}/pairs.zarr", workers=3)
    assert (url.findings, url.files) == ((), look(stores / "pairs.zip").files)
    assert url.left_out == ("files that are not in the manifest: a server does not list its files",)
    shard = "original/c/1/0/0/0"
    flip(stores / "pairs.zarr" / shard, 99)
    whole = (stores / "pairs.zip").read_bytes()
    with (stores / "pairs.zip").open("r+b") as file:
        file.seek(whole.index((stores / "pairs.zarr" / shard).read_bytes()[100:300]))
        file.write(b"\0")
    for place in (f"{server}/pairs.zarr", stores / "pairs.zip"):
        found = verify_store(place, workers=2)
        assert [finding.name for finding in found.findings] == [shard]
        assert found.findings[0].rows == (4, 7)


@pytest.fixture
def server(stores: Path) -> Iterator[str]:
    pytest.importorskip("obstore")
    handler = functools.partial(Ranges, directory=str(stores))
    Ranges.sent, Ranges.wrong = 0, ""
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    served.server_close()


# --- flipped bytes --------------------------------------------------------------------------------------


def flip_and_look(store: Path, places: int, seed: int, *, evenly: bool) -> None:
    """Flip bytes of a store one after the other, each in its turn, and look for it.

    Args:
        store: of which the bytes are; afterwards it is as before.
        places: how many bytes.
        seed: of where they are.
        evenly: each file as often as any other, not each byte.
    """
    files, draw = files_of(store), random.Random(seed)
    sizes = [1 if evenly else path.stat().st_size for path in files]
    for path in draw.choices(files, sizes, k=places):
        place, bits = draw.randrange(path.stat().st_size), draw.randrange(1, 256)
        before = flip(path, place, bits)
        name = path.relative_to(store).as_posix()
        found = look(store)
        assert found.findings, (name, place, bits)
        if name != MANIFEST:  # a digest that was flipped there names the file that it belongs to
            assert name in told(found), (name, place, bits)
            assert found.damaged == (name,)
        path.write_bytes(before)
    assert look(store).findings == ()


@pytest.mark.parametrize("evenly", [True, False])
def test_a_flipped_byte_is_found(stores: Path, evenly: bool) -> None:
    flip_and_look(stores / "pairs.zarr", 25, 1, evenly=evenly)


@pytest.mark.full
@pytest.mark.parametrize("evenly", [True, False])
@pytest.mark.parametrize("name", ["cubes.zarr", "pairs.zarr"])
def test_a_flipped_byte_at_200_random_places_is_found(stores: Path, name: str, evenly: bool) -> None:
    flip_and_look(stores / name, 200, 2, evenly=evenly)


@pytest.mark.full
def test_any_flipped_byte_of_the_manifest_and_the_log_is_found(stores: Path) -> None:
    store = stores / "cubes.zarr"
    for name in (MANIFEST, LOG):
        for place in range((store / name).stat().st_size):
            before = flip(store / name, place, 1 << place % 8)
            assert look(store).findings, (name, place)
            (store / name).write_bytes(before)


def test_opening_a_store_with_a_flipped_byte_is_refused_with_a_sentence(stores: Path) -> None:
    draw, store = random.Random(3), stores / "pairs.zarr"
    files = [
        path for path in files_of(store) if "degraded/c" not in str(path) and "original/c" not in str(path)
    ]
    for path in draw.choices([path for path in files if path.name != LOG], k=40):
        before = flip(path, draw.randrange(path.stat().st_size), draw.randrange(1, 256))
        with pytest.raises((CallError, DataError)):
            open_store(store)
        path.write_bytes(before)


# --- files ----------------------------------------------------------------------------------------------


def test_deleted_and_truncated_shards_are_named_with_their_cubes(stores: Path) -> None:
    store = stores / "pairs.zarr"
    shutil.rmtree(store / "original" / "c" / "1")
    short = store / "degraded" / "c" / "5" / "0" / "0" / "0"
    short.write_bytes(short.read_bytes()[:-10])
    found = look(store)
    first, second = found.findings
    assert (second.name, second.what, second.rows) == ("original/c/1/0/0/0", "is missing", (4, 7))
    assert (first.name, first.rows, first.counted) == ("degraded/c/5/0/0/0", (20, 23), "pairs")
    assert "the checksum of the index is wrong" in first.what
    assert set(found.damaged) == {first.name, second.name}


def test_swapped_shards_are_told_apart(stores: Path) -> None:
    shards = [stores / "cubes.zarr" / "cubes" / "c" / str(n) / "0" / "0" / "0" for n in (0, 2)]
    first, second = (shard.read_bytes() for shard in shards)
    shards[0].write_bytes(second)
    shards[1].write_bytes(first)
    found = look(stores / "cubes.zarr")
    assert told(found) == {
        "cubes/c/0/0/0/0": "is the file cubes/c/2/0/0/0, in the wrong place",
        "cubes/c/2/0/0/0": "is the file cubes/c/0/0/0/0, in the wrong place",
    }
    assert [finding.rows for finding in found.findings] == [(0, 3), (8, 11)]


def test_one_cube_among_sound_ones_is_named(stores: Path) -> None:
    store = stores / "cubes.zarr"
    index = np.frombuffer((store / "cubes/c/1/0/0/0").read_bytes()[-68:-4], "<u8").reshape(4, 2)
    flip(store / "cubes/c/1/0/0/0", int(index[2, 0]) + 30)
    assert told(look(store))["cubes/c/1/0/0/0"].endswith("cube 6: the checksum is wrong")


def test_what_no_line_of_the_manifest_knows_is_named(stores: Path) -> None:
    store = stores / "cubes.zarr"
    (store / "cubes" / "c" / "3").mkdir()
    (store / "cubes" / "c" / "3" / "x").write_bytes(b"")
    (store / "link").symlink_to(stores)
    (store / "\x1b[31m\udcff").write_bytes(b"")
    found = told(look(store))
    assert found == dict.fromkeys(
        ["cubes/c/3/x", "link", "\\x1b[31m\\udcff"], "is not listed in the manifest"
    )


def test_a_pipe_and_a_device_in_the_place_of_files_hold_nothing_up(stores: Path) -> None:
    store = stores / "cubes.zarr"
    pipe, link = store / "scan" / "c" / "0", store / "cubes" / "c" / "0" / "0" / "0" / "0"
    for path in (pipe, link):
        path.unlink()
    os.mkfifo(pipe)
    link.symlink_to("/dev/zero")
    assert told(look(store)) == {"scan/c/0": "is missing", "cubes/c/0/0/0/0": "is missing"}


def test_a_file_that_the_disk_no_longer_gives_is_named(stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pread = os.pread

    def failing(descriptor: int, length: int, start: int) -> bytes:
        if "cubes/c/2/" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(descriptor, length, start)

    monkeypatch.setattr("os.pread", failing)
    found = look(stores / "cubes.zarr")
    assert told(found) == {"cubes/c/2/0/0/0": "cannot be read: Input/output error"}


def test_every_finding_is_told_not_the_first_alone(stores: Path) -> None:
    store = stores / "pairs.zarr"
    broken = [
        "zarr.json",
        "flip/c/0",
        "scans/path/zarr.json",
        "degraded/c/0/0/0/0",
        "original/c/2/0/0/0",
        LOG,
    ]
    for name in broken:
        flip(store / name, 5)
    (store / "tissue" / "c" / "0").unlink()
    (store / "extra").write_bytes(b"")
    found = look(store, pairs=5)
    assert set(told(found)) == {*broken, "tissue/c/0", "extra"}
    assert set(found.damaged) == {*broken, "tissue/c/0"}
    assert any(what.startswith("flip:") for what in found.left_out)
    assert any("zarr.json is damaged" in what for what in found.left_out)
    assert found.replayed == 0


@pytest.mark.parametrize("harm", ["missing", "empty", "binary", "long"])
def test_without_its_manifest_a_store_is_looked_at_as_far_as_it_goes(stores: Path, harm: str) -> None:
    path = stores / "cubes.zarr" / MANIFEST
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "binary": bytes(range(256)) * 9, "long": b"x" * (2**28 + 1)}[harm])
    found = look(stores / "cubes.zarr")
    assert MANIFEST in told(found) or set(told(found)) >= {"zarr.json", "cubes/c/0/0/0/0"}
    with pytest.raises(DataError):
        open_store(stores / "cubes.zarr")


# --- attributes and tables that were edited, the manifest made to fit -----------------------------------


@pytest.mark.parametrize(
    ("edit", "name", "words"),
    [
        (set_value("scan", 3, 3), "scan", "not one of the 3 rows of scans: cube 3"),
        (set_value("scan", 3, -1), "scan", "not one of the 3 rows of scans: cube 3"),
        (set_value("scan", 3, 2), "scans/cubes", "differs from the number of its cubes: scan 0, 2"),
        (set_value("number", 7, 5), "number", "does not count within its scan: cube 7"),
        (set_value("corner", 2, [30, 0, 0]), "corner", "is outside its scan: cube 2"),
        (set_value("corner", 2, [-1, 0, 0]), "corner", "is outside its scan: cube 2"),
        (set_value("corner", 2, [2**31 - 1, 0, 0]), "corner", "is outside its scan: cube 2"),
        (set_value("tissue", 4, 1.5), "tissue", "not in 0..1: cube 4"),
        (set_value("tissue", 4, np.nan), "tissue", "not in 0..1: cube 4"),
        (set_value("scans/cubes", 1, 1), "scans/cubes", "differs from the number of its cubes: scan 1"),
        (set_value("scans/cubes", 1, -7), "scans/cubes", "is negative: scan 1"),
        (set_value("scans/status", 0, "failed"), "scans/status", "contradicts the number"),
        (set_value("scans/status", 0, "fine"), "scans/status", "none of used, skipped, failed: scan 0"),
        (set_value("scans/sha256", 2, "0" * 63), "scans/sha256", "not a sha256: scan 2"),
        (set_value("cube", slice(0, 24), 0), "cube", "pair 1, 2, 3, 4, 5 and 17 more"),
        (set_value("variant", 3, 1), "variant", "does not match the pair's number: pair 3"),
        (set_value("flip", 23, 8), "flip", "not in 0..7: pair 23"),
        (set_value("applied", 0, 16), "applied", "not a set of degradations: pair 0"),
        (set_value("applied", 0, 12), "applied", "not a set of degradations: pair 0"),
        (set_attribute("window", value=[0, 1000]), "cubes", "outside the window"),
        (set_attribute("window", value=[5, 5]), "window", "must be the lowest and the highest value"),
        (set_attribute("window", value=None), "window", "must be the lowest and the highest value"),
        (set_attribute("size", value=[16, 16, 8]), "original", "the cubes are (16, 16, 16), not"),
        (set_attribute("size", value=[16.0, 16, 16]), "size", "three edges"),
        (set_attribute("unit", value=3), "unit", "must be a name"),
        (set_attribute("finalised", value="yes"), "finalised", "must be true"),
        (set_attribute("parameters", value=None), "parameters", "must be parameters by name"),
        (set_attribute("cubes", value=None), "cubes", "must be parameters by name"),
        (set_attribute("cubes", "size", value=[8, 8, 8]), "parameters.size", "the store has [16, 16, 16]"),
        (set_attribute("cubes", "sampler", value=None), "parameters", "sampler is missing"),
        (set_attribute("cubes", "orient", value=[1]), "parameters", "not those of extract-cubes"),
        (set_attribute("parameters", "variants", value=3), "degraded", "instead of 3 for each of 12 cubes"),
        (set_attribute("parameters", "variants", value=True), "parameters.variants", "a whole number"),
        (set_attribute("parameters", "seed", value=-1), "parameters.seed", "a whole number"),
        (set_attribute("parameters", "seed", value=None), "parameters.seed", "is None"),
        (
            set_attribute("parameters", "recipe", "flip_rate", value=0.5),
            "parameters.recipe_sha256",
            "not the",
        ),
        (set_attribute("parameters", "recipe", "flip_rate", value=7), "parameters.recipe", "flip-rate"),
        (set_attribute("parameters", "recipe", "flip_rate", value=None), "parameters.recipe", "lacks"),
        (set_attribute("parameters", "cubes_sha256", value="x"), "parameters.cubes_sha256", "not a sha256"),
    ],
)
def test_edits_with_a_manifest_that_fits_are_found(
    stores: Path, edit: Callable[[Path], None], name: str, words: str
) -> None:
    store = stores / "pairs.zarr"
    edit(store)
    forge(store)
    findings = look(store, source=stores, pairs=4).findings
    hits = [one for one in findings if one.name == name or one.name.startswith(("original/c", "degraded/c"))]
    assert any(words in one.what for one in hits), findings


def test_a_table_that_was_edited_is_found_by_its_hash(stores: Path) -> None:
    set_value("tissue", 0, 0.25)(stores / "cubes.zarr")
    assert told(look(stores / "cubes.zarr")) == {
        "tissue/c/0": "has changed since it was written: the sha256 differs"
    }


def test_metadata_that_says_two_things_is_found(stores: Path) -> None:
    store = stores / "cubes.zarr"
    path = store / "number" / "zarr.json"
    path.write_text(
        path.read_text(encoding="utf-8").replace('"fill_value": 0', '"fill_value": 7'), encoding="utf-8"
    )
    forge(store)
    assert "contradicts the store's zarr.json on number" in told(look(store))["number"]


def test_voxels_outside_the_window_are_found(stores: Path) -> None:
    store = stores / "cubes.zarr"
    array = zarr.open_group(store, mode="r+")["cubes"]
    array[5, 3, 3, 3] = 1001
    array[10, 0, 0, 0] = -1001
    forge(store)
    assert told(look(store)) == {
        "cubes/c/1/0/0/0": "cube 5: values outside the window -1000..1000",
        "cubes/c/2/0/0/0": "cube 10: values outside the window -1000..1000",
    }


def test_cubes_that_are_not_there_or_too_many_are_found(stores: Path) -> None:
    store = stores / "cubes.zarr"
    array = zarr.open_group(store, mode="r+", use_consolidated=False)["cubes"]
    array[5] = -32768  # the fill value, which zarr does not write
    forge(store)
    assert (
        "cube 5: missing from the shard, although the store lists it" in told(look(store))["cubes/c/1/0/0/0"]
    )
    for name in ("cubes", "scan", "number", "corner", "tissue"):
        shape = [10, *json.loads((store / name / "zarr.json").read_bytes())["shape"][1:]]
        describe_anew(store, name, lambda metadata, shape=shape: metadata.update(shape=shape))
    assert "holds more than the 2 cubes that the store lists" in told(look(store))["cubes/c/2/0/0/0"]


# --- the scans and the degradations ---------------------------------------------------------------------


def test_scans_that_changed_or_are_gone_are_named(stores: Path, finished: Path) -> None:
    shutil.copytree(finished / "scans", stores / "scans")
    flip(stores / "scans" / "subset0" / "1.2.3.raw", 1000)
    (stores / "scans" / "subset5" / "1.2.5.mhd").unlink()
    found = look(stores / "cubes.zarr", source=stores / "scans", cubes=12)
    assert "the sha256 differs" in told(found)["subset0/1.2.3.mhd"]
    assert "cannot be compared" in told(found)["subset5/1.2.5.mhd"]
    assert (found.scans, found.cut_again, found.damaged) == (2, 0, ())


def test_cubes_that_are_not_those_of_the_scans_are_named(stores: Path, finished: Path) -> None:
    store = stores / "cubes.zarr"
    array = zarr.open_group(store, mode="r+")["cubes"]
    array[7, 0, 0, 0] = int(array[7, 0, 0, 0]) ^ 1
    forge(store)
    found = look(store, source=finished / "scans", cubes=12)
    assert told(found) == {"subset5/1.2.5.mhd": "has voxels that differ from those of cube 7"}
    assert found.cut_again == 12


def test_pairs_that_are_not_those_of_their_originals_are_named(stores: Path) -> None:
    store = stores / "pairs.zarr"
    group = zarr.open_group(store, mode="r+")
    group["degraded"][17, 2, 2, 2] = 0
    group["flip"][20] = int(group["flip"][20]) ^ 1
    forge(store)
    found = look(store, pairs=24)
    assert {(one.name, one.what) for one in found.findings} == {
        ("degraded", "pair 17 differs from what its original yields"),
        ("flip, applied", "those of pair 20 differ from the draws"),
    }


def test_a_table_that_leads_out_of_the_source_is_not_followed(stores: Path, finished: Path) -> None:
    set_value("scans/path", 0, "../scans/subset0/1.2.3.mhd")(stores / "cubes.zarr")
    forge(stores / "cubes.zarr")
    found = look(stores / "cubes.zarr", source=finished / "scans")
    assert told(found) == {"../scans/subset0/1.2.3.mhd": "is not in the source"}


def test_a_store_of_pseudonyms_is_compared_with_its_key(finished: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    extract_cubes(finished / "scans", tmp_path / "a.zarr", SMALL, workers=1, anonymize=key)
    found = look(tmp_path / "a.zarr", source=finished / "scans", anonymize=key, cubes=12)
    assert (found.findings, found.scans, found.cut_again) == ((), 2, 12)
    (tmp_path / "other").write_bytes(b"another key, of thirty-two bytes or more")
    for wrong in (None, tmp_path / "other", tmp_path / "absent"):
        with pytest.raises(CallError, match="has pseudonyms for its scans: give the key file"):
            look(tmp_path / "a.zarr", source=finished / "scans", anonymize=wrong)
    assert not (tmp_path / "absent").exists()


# --- strangers' stores ----------------------------------------------------------------------------------


def assert_cheap(store: Path) -> Verification:
    """What is found of a hostile store, which `open_store` refuses; neither takes much memory."""
    tracemalloc.start()
    try:
        found = look(store, pairs=1 if "pairs" in store.name else 0)
        assert found.findings
        with pytest.raises((CallError, DataError)):
            open_store(store)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()
    return found


@pytest.mark.parametrize("name", ["cubes", "scan", "tissue", "scans/identifier", "scans/shape"])
@pytest.mark.parametrize("chunk", [None, 2**20, 2**50])
def test_metadata_that_asks_for_a_petabyte_gets_a_sentence(
    stores: Path, name: str, chunk: int | None
) -> None:
    def grow(metadata: dict[str, Any]) -> None:
        metadata["shape"][0] = 2**50
        if chunk is not None:
            metadata["chunk_grid"]["configuration"]["chunk_shape"][0] = chunk

    describe_anew(stores / "cubes.zarr", name, grow)
    assert any(one.name == name for one in assert_cheap(stores / "cubes.zarr").findings)


def test_a_store_all_of_whose_tables_ask_for_a_petabyte_gets_a_sentence(stores: Path) -> None:
    for name in ("cubes", "scan", "number", "corner", "tissue"):
        describe_anew(stores / "cubes.zarr", name, lambda metadata: metadata["shape"].__setitem__(0, 2**39))
    assert (
        "rows need 137,438,953,472 files, but there are 3"
        in told(assert_cheap(stores / "cubes.zarr"))["cubes"]
    )


def test_a_cube_of_a_petabyte_gets_a_sentence(stores: Path) -> None:
    def grow(metadata: dict[str, Any]) -> None:
        metadata["shape"][1:] = [2**17] * 3
        metadata["chunk_grid"]["configuration"]["chunk_shape"][1:] = [2**17] * 3
        metadata["codecs"][0]["configuration"]["chunk_shape"][1:] = [2**17] * 3

    describe_anew(stores / "cubes.zarr", "cubes", grow)
    set_attribute("size", value=[2**17] * 3)(stores / "cubes.zarr")
    assert "is larger than a chunk can be" in told(assert_cheap(stores / "cubes.zarr"))["cubes"]


@pytest.mark.parametrize("name", ["zarr.json", "scan/zarr.json", LOG])
@pytest.mark.parametrize(
    "text", [b"[" * 10**8, b'{"attributes":' * 900 + b"1" + b"}" * 900, b'"' + b"x" * 10**8 + b'"']
)
def test_json_of_a_hundred_megabytes_gets_a_sentence(stores: Path, name: str, text: bytes) -> None:
    store = stores / "cubes.zarr"
    (store / name).write_bytes(text)
    forge(store)
    tracemalloc.start()
    try:
        if name == "zarr.json":
            with pytest.raises((CallError, DataError)):
                look(store)
        else:
            assert name in told(look(store))
        if name == "zarr.json" or (name != LOG and len(text) >= 10**8):
            with pytest.raises((CallError, DataError)):
                open_store(store)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


JUNK: list[Any] = [
    None,
    True,
    -1,
    2**63,
    10**400,
    1e308,
    "",
    "x",
    "\ud800",
    [],
    {},
    [[]],
    [2**50] * 4,
    {"a": 1},
]


def places_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in parsed JSON, keys and numbers."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places_in(inner, (*path, key))


@pytest.mark.parametrize("name", ["cubes.zarr", "pairs.zarr"])
def test_whatever_stands_in_the_json_there_are_sentences(stores: Path, finished: Path, name: str) -> None:
    draw, whole = random.Random(8), (stores / name / "zarr.json").read_bytes()
    ways = list(places_in(json.loads(whole)))
    for way in draw.choices(ways[: len(ways) // 8], k=40) + draw.choices(ways, k=40):
        root = place = json.loads(whole)
        for key in way[:-1]:
            place = place[key]
        place[way[-1]] = draw.choice(JUNK)
        (stores / name / "zarr.json").write_text(json.dumps(root), encoding="utf-8")
        forge(stores / name)
        replayed = 2 if name == "pairs.zarr" else 0
        for read in (functools.partial(look, source=finished / "scans", cubes=1, pairs=replayed), open_store):
            with suppress(CallError, DataError):
                read(stores / name)


def packed(data: bytes, length: int | None = None) -> bytes:
    """A chunk of a table that says of itself whatever is asked for, its checksum right."""
    chunk = bytearray(numcodecs.blosc.compress(data, b"lz4", 5, 0, 0, 1))
    if length is not None:
        chunk[4:8] = length.to_bytes(4, "little")
    return bytes(chunk) + google_crc32c.value(bytes(chunk)).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("name", "chunk"),
    [
        ("scan/c/0", packed(bytes(48), 2**31 - 64)),
        ("scan/c/0", packed(bytes(20))),
        ("scan/c/0", b""),
        ("scan/c/0", packed(bytes(10**6))[:-100]),
        ("scans/path/c/0", packed(b"\xff\xff\xff\x7f" + bytes(20))),
        ("scans/path/c/0", packed(b"\3\0\0\0" + b"\xff\xff\xff\x7fab")),
        ("scans/path/c/0", packed(b"\3\0\0\0" + b"\1\0\0\0\xff" * 3)),
        ("scans/path/c/0", packed(bytes(100), 2**31 - 64)),
    ],
)
def test_a_chunk_of_a_table_that_lies_of_its_length_gets_a_sentence(
    stores: Path, name: str, chunk: bytes
) -> None:
    (stores / "cubes.zarr" / name).write_bytes(chunk)
    forge(stores / "cubes.zarr")
    tracemalloc.start()
    try:
        assert set(told(look(stores / "cubes.zarr"))) == {name.removesuffix("/c/0")}
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("offset", [2**64 - 2, 2**63, 10**9])
def test_an_index_that_points_far_away_gets_a_sentence(stores: Path, offset: int) -> None:
    path = stores / "cubes.zarr" / "cubes" / "c" / "0" / "0" / "0" / "0"
    data = path.read_bytes()
    index = np.frombuffer(data[-68:-4], "<u8").copy()
    index[:2] = offset, 3
    table = index.tobytes()
    path.write_bytes(data[:-68] + table + google_crc32c.value(table).to_bytes(4, "little"))
    forge(stores / "cubes.zarr")
    assert "points past the end of the file" in told(look(stores / "cubes.zarr"))["cubes/c/0/0/0/0"]
    with pytest.raises(DataError, match="points past the end of the file"):
        open_store(stores / "cubes.zarr").cubes.read(0, np.empty((16, 16, 16), np.int16))  # type: ignore[union-attr]


def test_a_manifest_that_leads_out_of_the_store_is_not_followed(stores: Path) -> None:
    secret = stores / "secret"
    secret.write_bytes(b"x")
    for path in ("../secret", str(secret), "scan/../../secret", "scan/./c/0"):
        manifest = stores / "cubes.zarr" / MANIFEST
        text = manifest.read_text(encoding="utf-8")
        manifest.write_text(text + f"{sha256_of(b'x')}  {path}\n", encoding="utf-8")
        assert "has a path outside the store" in told(look(stores / "cubes.zarr"))[MANIFEST]
        with pytest.raises(DataError, match="has a path outside the store"):
            open_store(stores / "cubes.zarr")
        manifest.write_text(text, encoding="utf-8")


# --- versions -------------------------------------------------------------------------------------------


def test_another_version_is_refused_with_the_version_that_it_needs(stores: Path) -> None:
    set_attribute("version", value=2)(stores / "pairs.zarr")
    words = "format version 2, but this program reads version 1: use the genesis-toolkit that wrote it"
    for read in (verify_store, open_store):
        with pytest.raises(DataError, match=words + r" \(version 0\.\d+\.\d+\), or a later one"):
            read(stores / "pairs.zarr")
    (stores / "pairs.zarr" / LOG).write_bytes(b"[" * 999)
    with pytest.raises(DataError, match="use the genesis-toolkit that wrote it, or a later one"):
        open_store(stores / "pairs.zarr")


def golden_scans() -> Any:
    """The module that made the golden stores."""
    spec = importlib.util.spec_from_file_location("golden_make", GOLDEN / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_golden_store_of_version_1_reads(tmp_path: Path) -> None:
    """Bytes written once and never again: if this fails, the format has changed under people's stores."""
    make = golden_scans()
    pairs = open_store(GOLDEN / "pairs.zarr")
    assert len(pairs) == 12
    degraded = np.empty((12, 16, 16, 16), np.int16)
    pairs.degraded.read_many(range(12), degraded)  # type: ignore[union-attr]
    assert hashlib.sha256(degraded.tobytes()).hexdigest() == (
        "2edc6093ead8a02ccc638aa67465abc0aa7eac45b33000169c8e9189017b72d4"
    )
    cubes = open_store(GOLDEN / "cubes.zarr")
    assert cubes.scans.path.tolist() == [f"subset{n}/1.{m}.mhd" for n, m in ((0, 1), (0, 2), (6, 3), (6, 4))]
    assert cubes.scans.status.tolist() == ["used", "skipped", "used", "failed"]
    assert cubes.table.scan.tolist() == [0, 0, 0, 2, 2, 2]
    scans = {0: make.voxels(1, (30, 28, 26)), 2: make.voxels(3, (28, 30, 27))}
    out = np.empty((16, 16, 16), np.int16)
    for number, (row, (x, y, z)) in enumerate(zip(cubes.table.scan, cubes.table.corner, strict=True)):
        cubes.cubes.read(number, out)  # type: ignore[union-attr]
        np.testing.assert_array_equal(
            out, scans[int(row)][x : x + 16, y : y + 16, z : z + 16].clip(-1000, 1000)
        )
    source = make.write_scans(tmp_path / "scans")
    for name, again in (("cubes.zarr", 0), ("pairs.zarr", 12)):
        found = look(GOLDEN / name, source=source, cubes=6, pairs=again)
        assert (found.findings, found.left_out, found.cut_again, found.replayed) == ((), (), 6, again)


# --- reading tables -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 3, 65536])
def test_tables_are_read_as_zarr_reads_them(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr("genesis_toolkit.pipeline.store.schema.TABLE_ROWS", rows)
    extract_cubes(finished / "scans", tmp_path / "cubes.zarr", SMALL, workers=1)
    degrade_cubes(tmp_path / "cubes.zarr", tmp_path / "pairs.zarr", DegradeParameters(variants=2), workers=1)
    for kind, name in ((CUBES, "cubes.zarr"), (PAIRS, "pairs.zarr")):
        group = zarr.open_group(tmp_path / name, mode="r")
        for column in array_names(kind):
            if column in ("cubes", "original", "degraded"):
                continue
            array = described(kind, column, json.loads((tmp_path / name / column / "zarr.json").read_bytes()))
            values = read_column(array, functools.partial(chunk_of, tmp_path / name))
            np.testing.assert_array_equal(values, np.asarray(group[column][...]).astype(values.dtype))


def chunk_of(store: Path, path: str) -> bytes | None:
    return (store / path).read_bytes() if (store / path).exists() else None


def test_strings_of_any_kind_are_read_as_zarr_reads_them(tmp_path: Path) -> None:
    texts = ["", "a", "ä" * 70, "\0", "日本", "\U0001f600 x", *map(str, range(40))]
    array = zarr.create_array(
        tmp_path / "x",
        shape=(len(texts),),
        chunks=(9,),
        dtype=str,
        compressors=(zarr.codecs.BloscCodec(typesize=1, cname="lz4"), zarr.codecs.Crc32cCodec()),
    )
    array[...] = np.array(texts, dtype=object)
    column = Array("x", (len(texts),), None, 9, "")
    assert read_column(column, functools.partial(chunk_of, tmp_path)).tolist() == texts


# --- the command ----------------------------------------------------------------------------------------


def call(*words: object) -> Result:
    return CliRunner().invoke(main, ["verify", *map(str, words)])


def test_the_command_says_that_a_store_is_sound(finished: Path) -> None:
    done = call(finished / "pairs.zarr", "--replay", 7)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "pairs.zarr is sound (" in done.stdout
    assert "12 cubes, 24 pairs)." in done.stdout
    assert "Degraded again and compared: 7 pairs." in done.stdout
    facts = json.loads(
        call(finished / "cubes.zarr", "--source", finished / "scans", "--cubes", 3, "--json").stdout
    )
    assert facts["sound"] is True
    assert (facts["findings"], facts["cut_again"], facts["scans"], facts["note"]) == ([], 3, 2, None)
    assert not (finished / "cubes.zarr.damaged.json").exists()


def test_the_command_names_a_damaged_shard_with_its_cubes(stores: Path) -> None:
    flip(stores / "cubes.zarr" / "cubes" / "c" / "2" / "0" / "0" / "0", 100)
    done = call(stores / "cubes.zarr")
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    words = " ".join(done.stdout.split())
    assert "cubes/c/2/0/0/0 cubes 8-11 has changed since it was written" in words
    assert "is damaged: 1 finding (" in words
    assert "run the same genesis-prep extract-cubes command again" in done.stderr
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 80
    facts = json.loads(call(stores / "cubes.zarr", "--json").stdout)
    assert facts["sound"] is False
    assert facts["findings"][0]["cubes"] == [8, 11]
    assert facts["damaged"] == ["cubes/c/2/0/0/0"]
    assert Path(facts["note"]).exists()


def test_wrong_calls_of_the_command_exit_with_2(stores: Path) -> None:
    for words, said in (
        ([stores / "absent"], "There is no store"),
        ([stores], "is not a store made by genesis-prep"),
        ([stores / "cubes.zarr", "--replay", 3], "is a cube store"),
        ([stores / "cubes.zarr", "--cubes", 3], "need --source"),
        ([stores / "cubes.zarr", "--source", stores / "absent"], "There is no folder"),
    ):
        done = call(*words)
        assert done.exit_code == 2, words
        assert said in done.stderr
        assert "Traceback" not in done.output


def test_what_a_stranger_named_is_printed_without_harm(stores: Path) -> None:
    (stores / "cubes.zarr" / "\x1b[2J\udcff\u202e").write_bytes(b"")
    done = call(stores / "cubes.zarr")
    assert done.exit_code == 1
    assert "\x1b" not in done.stdout
    assert "\\x1b[2J\\udcff\\u202e" in done.stdout
