"""A store is the same store in a folder, in an archive and on a server."""

import functools
import http.server
import json
import pickle
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest
from click.testing import CliRunner
from support.servers import Ranges, installed, moto, nginx, ranges

from genesis_toolkit.cli.prep import main
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.exchange.archive import pack_store
from genesis_toolkit.pipeline.ledger import LOG, MANIFEST, read_manifest
from genesis_toolkit.pipeline.pairs.degrade import DegradeParameters, degrade_cubes
from genesis_toolkit.pipeline.progress import told_of_waiting, waited_for
from genesis_toolkit.pipeline.store.open import CubeStore, PairStore, finished_storage, open_cubes, open_store
from genesis_toolkit.pipeline.store.shards import ShardReader, encode_cube, shard_parts, shard_path
from genesis_toolkit.pipeline.store.storage import Archive, Folder
from genesis_toolkit.pipeline.verify.verify import verify_store


@pytest.fixture
def pair_store(cube_store: Path, tmp_path: Path) -> Path:
    degrade_cubes(cube_store, tmp_path / "pairs.zarr", DegradeParameters(variants=2), workers=1)
    return tmp_path / "pairs.zarr"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    pytest.importorskip("obstore")
    with ranges(tmp_path) as address:
        yield address


def same(first: CubeStore | PairStore, second: CubeStore | PairStore) -> None:
    assert first.manifest_sha256 == second.manifest_sha256
    assert first.attributes == second.attributes
    for mine, other in ((first.table, second.table), (first.scans, second.scans)):
        for name, column in vars(mine).items():
            np.testing.assert_array_equal(column, getattr(other, name))
    for name in ("cubes", "original", "degraded"):
        if hasattr(first, name):
            mine, other = getattr(first, name), getattr(second, name)
            out = [np.empty((len(mine), *first.size), mine.dtype) for _ in range(2)]
            order = np.random.default_rng(0).permutation(len(mine))
            mine.read_many(order, out[0])
            for row, position in enumerate(order):
                other.read(int(position), out[1][row])
            np.testing.assert_array_equal(*out)
            other.read_many(order, out[0])
            np.testing.assert_array_equal(*out)


def test_an_archive_is_read_as_the_folder_is(pair_store: Path, cube_store: Path, tmp_path: Path) -> None:
    for path in (pair_store, cube_store):
        archive = tmp_path / f"{path.stem}.zip"
        assert pack_store(path, archive) == archive.stat().st_size
        same(open_store(path), open_store(archive))
        with zipfile.ZipFile(archive) as packed:
            assert packed.testzip() is None
            assert set(packed.namelist()) == {*read_manifest(path), MANIFEST}
    words = ["degrade", str(tmp_path / "cubes.zip"), str(tmp_path / "p.zarr"), "--variants", "2"]
    assert CliRunner().invoke(main, words).exit_code == 0
    assert read_manifest(tmp_path / "p.zarr") == read_manifest(pair_store)
    assert CliRunner().invoke(main, ["info", str(tmp_path / "pairs.zip")]).exit_code == 0
    sheet = CliRunner().invoke(main, ["preview", str(tmp_path / "pairs.zip"), str(tmp_path / "s.png")])
    assert sheet.exit_code == 0, sheet.output


def test_equal_stores_give_equal_archives(cube_store: Path, tmp_path: Path) -> None:
    pack_store(cube_store, tmp_path / "one.zip")
    (cube_store / LOG).write_text("{}")
    for path in sorted(cube_store.rglob("*")):
        path.chmod(0o700)
    pack_store(cube_store, tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_an_archive_goes_to_other_processes(cube_store: Path, tmp_path: Path) -> None:
    pack_store(cube_store, tmp_path / "c.zip")
    store = open_cubes(tmp_path / "c.zip")
    again = pickle.loads(pickle.dumps(store))
    same(store, again)


def test_what_is_in_the_way_stays(cube_store: Path, tmp_path: Path) -> None:
    target = tmp_path / "c.zip"
    target.write_text("mine")
    with pytest.raises(CallError, match="--overwrite"):
        pack_store(cube_store, target)
    assert target.read_text() == "mine"
    pack_store(cube_store, target, overwrite=True)
    with pytest.raises(CallError, match=r"does not end in \.zip"):
        pack_store(cube_store, tmp_path / "c.tar")
    with pytest.raises(CallError, match="is inside the store"):
        pack_store(cube_store, cube_store / "c.zip")
    shard = next((cube_store / "cubes" / "c").rglob("0/0/0/0"))
    shard.write_bytes(shard.read_bytes()[::-1])
    with pytest.raises(DataError, match="has changed since it was written"):
        pack_store(cube_store, tmp_path / "damaged.zip")
    assert not [path for path in tmp_path.iterdir() if "damaged" in path.name]


def zipped(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("text", ["", "{}", '{"attributes": 1}', None])
def test_damaged_metadata_of_a_store_is_no_other_folder(cube_store: Path, text: str | None) -> None:
    metadata = cube_store / "zarr.json"
    metadata.unlink() if text is None else metadata.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"cubes\.zarr is damaged: zarr\.json is missing or has changed"):
        open_store(cube_store)
    metadata.write_text("{}", encoding="utf-8")
    (cube_store / MANIFEST).unlink()
    with pytest.raises(CallError, match="is not a store made by genesis-prep"):
        open_store(cube_store)


def test_hostile_archives_are_refused(cube_store: Path, tmp_path: Path) -> None:
    pack_store(cube_store, tmp_path / "c.zip")
    whole = (tmp_path / "c.zip").read_bytes()
    for name in ("../../evil", "/etc/passwd", "C:\\evil", "a//b"):
        with pytest.raises(DataError, match="a path outside the archive"):
            open_store(zipped(tmp_path / "evil.zip", {name: b"x"}))
    with pytest.raises(DataError, match=r"is compressed \(zarr\.json\).*genesis-prep pack"):
        open_store(zipped(tmp_path / "bomb.zip", {"zarr.json": bytes(10**7)}, zipfile.ZIP_DEFLATED))
    with pytest.raises(CallError, match="is not a store made by genesis-prep"):
        open_store(zipped(tmp_path / "other.zip", {"readme": b"x"}))
    for damaged in (b"", whole[: len(whole) // 2], b"PK" + bytes(100)):
        (tmp_path / "cut.zip").write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be read as a zip archive"):
            open_store(tmp_path / "cut.zip")
    (tmp_path / "c.tar").write_bytes(whole)
    with pytest.raises(CallError, match=r"must be a folder, a \.zip archive or a URL"):
        open_store(tmp_path / "c.tar")
    flipped = bytearray(whole)
    flipped[whole.index(b"PK\x03\x04", 100)] ^= 1  # a member's own header
    (tmp_path / "flipped.zip").write_bytes(flipped)
    with pytest.raises(DataError, match="damaged"):
        open_store(tmp_path / "flipped.zip")


@pytest.mark.parametrize("kind", [Folder, Archive])
def test_parts_of_files_are_what_slices_are(
    cube_store: Path, tmp_path: Path, kind: type[Folder] | type[Archive]
) -> None:
    pack_store(cube_store, tmp_path / "c.zip")
    storage = finished_storage(cube_store if kind is Folder else tmp_path / "c.zip")
    assert isinstance(storage, kind)
    for name in read_manifest(cube_store):
        data = (cube_store / name).read_bytes()
        assert storage.read(name) == data
        assert storage.size(name) == len(data)
        for start, length in ((0, 5), (3, 10**9), (len(data), 4), (len(data) // 2, 7)):
            assert storage.read_range(name, start, length) == data[start : start + length]
    for question in (storage.read, storage.size):
        with pytest.raises(FileNotFoundError):
            question("no/such/file")


def test_a_server_is_read_as_the_folder_is(
    pair_store: Path, cube_store: Path, tmp_path: Path, server: str
) -> None:
    same(open_store(pair_store), open_store(f"{server}/pairs.zarr"))
    degrade_cubes(f"{server}/cubes.zarr", tmp_path / "p.zarr", DegradeParameters(variants=2), workers=2)
    assert read_manifest(tmp_path / "p.zarr") == read_manifest(pair_store)
    done = CliRunner().invoke(main, ["info", f"{server}/pairs.zarr", "--json"])
    assert json.loads(done.stdout)["pairs"] == 24
    sheet = CliRunner().invoke(main, ["preview", f"{server}/pairs.zarr", str(tmp_path / "s.png")])
    assert sheet.exit_code == 0, sheet.output


def keys(endpoint: str, **more: str) -> dict[str, str]:
    return {"AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1", **more}


def test_a_bucket_is_read_as_the_folder_is(
    pair_store: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Path-style addresses without a signature, as a public bucket has them; the endpoint is the server."""
    for name, value in keys(server, AWS_SKIP_SIGNATURE="true").items():
        monkeypatch.setenv(name, value)
    bucket = pair_store.parent / "bucket" / "stores"
    bucket.mkdir(parents=True)
    pair_store.rename(bucket / "pairs.zarr")
    same(open_store(bucket / "pairs.zarr"), open_store("s3://bucket/stores/pairs.zarr"))


@pytest.mark.skipif(not installed("nginx"), reason="nginx is not there; our own server stands in")
def test_nginx_serves_a_store(pair_store: Path, tmp_path: Path) -> None:
    pytest.importorskip("obstore")
    with nginx(tmp_path, tmp_path / "nginx") as address:
        same(open_store(pair_store), open_store(f"{address}/pairs.zarr"))
        assert verify_store(f"{address}/pairs.zarr").findings == ()


@pytest.mark.skipif(
    not installed("moto_server"), reason="moto is not installed; the tests' own server stands in"
)
def test_motos_bucket_holds_a_store(pair_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With signatures, and a prefix below the bucket."""
    obstore = pytest.importorskip("obstore")
    with moto() as address:
        signed = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "secret"}
        for name, value in keys(address, **signed).items():
            monkeypatch.setenv(name, value)
        urlopen(Request(f"{address}/bucket", method="PUT")).close()
        bucket = obstore.store.from_url("s3://bucket", client_options={"allow_http": True})
        for path in [MANIFEST, *read_manifest(pair_store)]:
            obstore.put(bucket, f"stores/pairs.zarr/{path}", pair_store / path)
        same(open_store(pair_store), open_store("s3://bucket/stores/pairs.zarr"))
        assert verify_store("s3://bucket/stores/pairs.zarr").findings == ()


@pytest.mark.full
def test_training_is_the_same_to_the_bit_wherever_the_store_lies(
    pair_store: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain = pytest.importorskip("genesis_toolkit.training.pretrain.call").pretrain
    from support.training_runs import assert_equal_weights, losses

    from genesis_toolkit.training.pretrain.parameters import PretrainParameters

    for name, value in keys(server, AWS_SKIP_SIGNATURE="true").items():
        monkeypatch.setenv(name, value)
    pack_store(pair_store, tmp_path / "pairs.zip")
    (tmp_path / "bucket").symlink_to(tmp_path)
    places = [pair_store, tmp_path / "pairs.zip", f"{server}/pairs.zarr", "s3://bucket/pairs.zarr"]
    given = PretrainParameters(width=2, epochs=2, batch_size=4, lr=0.1)
    for number, place in enumerate(places):
        pretrain(place, tmp_path / f"run{number}", given)
        assert losses(tmp_path / f"run{number}") == losses(tmp_path / "run0"), place
        for name in ("last.pt", "best.pt"):
            assert_equal_weights(tmp_path / f"run{number}" / name, tmp_path / "run0" / name)


def test_only_the_bytes_of_a_cube_are_fetched(cube_store: Path, server: str) -> None:
    store = open_cubes(f"{server}/cubes.zarr")
    out = np.empty((2, *store.size), np.int16)
    store.cubes.read(0, out[0])
    before = Ranges.sent
    store.cubes.read(5, out[0])
    local = open_cubes(cube_store)
    assert Ranges.sent - before == len(local.cubes.encoded(5))


def test_several_shards_are_asked_for_at_once(tmp_path: Path, server: str) -> None:
    cubes = np.random.default_rng(0).integers(-1000, 1001, (6, 4, 4, 4)).astype(np.int16)
    chunks = [encode_cube(cube) for cube in cubes]
    for shard in range(3):
        path = tmp_path / "store" / shard_path("cubes", shard, 4)
        path.parent.mkdir(parents=True)
        path.write_bytes(b"".join(shard_parts(chunks[2 * shard : 2 * shard + 2], 2)))
    reader = ShardReader(finished_storage(f"{server}/store"), "cubes", cubes.shape, cubes.dtype, 2)
    Ranges.meeting = threading.Barrier(3)
    out = np.empty((3, 4, 4, 4), np.int16)
    reader.read_many([4, 1, 2], out)
    np.testing.assert_array_equal(out, cubes[[4, 1, 2]])
    Ranges.meeting = None
    (tmp_path / "store" / reader.path(1)).unlink()
    reader = ShardReader(finished_storage(f"{server}/store"), "cubes", cubes.shape, cubes.dtype, 2)
    with pytest.raises(DataError, match="c/1/0/0/0 cannot be read"):
        reader.read_many([4, 1, 2], out)


def test_what_was_fetched_is_kept_where_a_cache_is_named(
    cube_store: Path, tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENESIS_CACHE", str(tmp_path / "cache"))
    local = open_cubes(cube_store)
    same(local, open_cubes(f"{server}/cubes.zarr"))
    before = Ranges.sent
    same(local, open_cubes(f"{server}/cubes.zarr"))
    assert Ranges.sent - before == len((cube_store / MANIFEST).read_bytes()), "only to see whether it is new"


def test_a_server_that_misbehaves_is_named(
    cube_store: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genesis_toolkit.pipeline.store.remote._RETRIES", {"max_retries": 1})
    with pytest.raises(CallError, match=r"no zarr.json there \(404\)"):
        open_store(f"{server}/nothing.zarr")
    store = open_cubes(f"{server}/cubes.zarr")
    out = np.empty(store.size, np.int16)
    for wrong, words in (("lies", "damaged"), ("stops", "cannot be read"), ("redirects", "cannot be read")):
        Ranges.wrong = wrong
        with pytest.raises(DataError, match=words):
            store.cubes.read(0, out)
        with pytest.raises((CallError, DataError)):
            open_store(f"{server}/cubes.zarr")
    Ranges.wrong = ""
    store.cubes.read(0, out)


@pytest.mark.parametrize("place", ["ftp://a/b", "gopher://x", "http://127.0.0.1:1/x.zarr"])
def test_addresses_that_lead_nowhere(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    monkeypatch.setattr("genesis_toolkit.pipeline.store.remote._RETRIES", {"max_retries": 0})
    with pytest.raises((CallError, DataError), match=place.partition("?")[0]):
        open_store(place)


def test_without_obstore_there_is_a_sentence(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['obstore'] = None\n"
        "from genesis_toolkit.pipeline.store.open import open_store\n"
        "from genesis_toolkit.pipeline.errors import CallError\n"
        "try: open_store('http://127.0.0.1/x')\n"
        "except CallError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert "genesis-toolkit[remote]" in done.stdout


def test_a_server_that_gives_no_store_is_refused_by_its_cause(
    server: str, cube_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our server has ranges; Python's own has none, and on port 1 there is none at all."""
    monkeypatch.setattr("genesis_toolkit.pipeline.store.remote._RETRIES", {"max_retries": 0})
    with pytest.raises(CallError, match=r"There is no store at .*/none: .*\(404\)"):
        open_store(f"{server}/none")
    with pytest.raises(CallError, match=r"is an archive on a server, .* download the archive"):
        open_store(f"{server}/cubes.zip")
    with pytest.raises(DataError, match=r"cubes\.zarr cannot be read: no server responds there\."):
        open_store("http://127.0.0.1:1/cubes.zarr")
    plain = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), plain) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        store = open_store(f"http://127.0.0.1:{served.server_port}/{cube_store.name}")
        with pytest.raises(DataError, match=r"cannot send parts of files \(HTTP ranges\)"):
            store[0]
        served.shutdown()


def test_who_waits_for_a_server_is_told_after_a_while() -> None:
    said: list[str] = []
    told_of_waiting.append(said.append)
    try:
        with waited_for("asking quickly", 5):
            pass
        with waited_for("asking slowly", 0.01):
            for _ in range(1000):
                if said:
                    break
                time.sleep(0.01)
    finally:
        told_of_waiting.remove(said.append)
    assert said == ["asking slowly"]
