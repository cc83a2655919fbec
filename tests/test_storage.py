"""A store is the same store in a folder, in an archive and on a server."""

import functools
import http.server
import json
import pickle
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cli.prep import main
from pipeline.archive import pack
from pipeline.degrade.pairs import DegradeParameters, degrade
from pipeline.errors import CallError, DataError
from pipeline.ledger import LOG, MANIFEST, read_manifest
from pipeline.storage import Archive, Folder, open_storage
from pipeline.stores import CubeStore, PairStore, open_cubes, open_store


@pytest.fixture
def pair_store(cube_store: Path, tmp_path: Path) -> Path:
    degrade(cube_store, tmp_path / "pairs.zarr", DegradeParameters(variants=2), workers=1)
    return tmp_path / "pairs.zarr"


class Ranges(http.server.SimpleHTTPRequestHandler):
    """A static server with byte ranges, which Python's own has not; it counts the bytes that it sends."""

    protocol_version = "HTTP/1.1"
    sent = 0
    wrong = ""  # how it misbehaves

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if self.wrong == "redirects":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        first, last = 0, len(data) - 1
        if "Range" in self.headers:
            begin, end = self.headers["Range"].removeprefix("bytes=").split("-")
            first, last = int(begin), min(int(end or last), last)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        else:
            self.send_response(200)
        part = data[first : last + 1]
        type(self).sent += len(part)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if self.wrong == "stops":
            self.wfile.write(part[: len(part) // 2])
            self.close_connection = True
            return
        self.wfile.write(part[::-1] if self.wrong == "lies" else part)

    def do_HEAD(self) -> None:
        path = Path(self.translate_path(self.path))
        self.send_response(200 if path.is_file() else 404)
        self.send_header("Content-Length", str(path.stat().st_size if path.is_file() else 0))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    pytest.importorskip("obstore")
    handler = functools.partial(Ranges, directory=str(tmp_path))
    Ranges.sent, Ranges.wrong = 0, ""
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    served.server_close()


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
        assert pack(path, archive) == archive.stat().st_size
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
    pack(cube_store, tmp_path / "one.zip")
    (cube_store / LOG).write_text("{}")
    for path in sorted(cube_store.rglob("*")):
        path.chmod(0o700)
    pack(cube_store, tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_an_archive_goes_to_other_processes(cube_store: Path, tmp_path: Path) -> None:
    pack(cube_store, tmp_path / "c.zip")
    store = open_cubes(tmp_path / "c.zip")
    again = pickle.loads(pickle.dumps(store))
    same(store, again)


def test_what_is_in_the_way_stays(cube_store: Path, tmp_path: Path) -> None:
    target = tmp_path / "c.zip"
    target.write_text("mine")
    with pytest.raises(CallError, match="--overwrite"):
        pack(cube_store, target)
    assert target.read_text() == "mine"
    pack(cube_store, target, overwrite=True)
    with pytest.raises(CallError, match=r"does not end in \.zip"):
        pack(cube_store, tmp_path / "c.tar")
    with pytest.raises(CallError, match="lies inside the store"):
        pack(cube_store, cube_store / "c.zip")
    shard = next((cube_store / "cubes" / "c").rglob("0/0/0/0"))
    shard.write_bytes(shard.read_bytes()[::-1])
    with pytest.raises(DataError, match="is not as it was written"):
        pack(cube_store, tmp_path / "damaged.zip")
    assert not [path for path in tmp_path.iterdir() if "damaged" in path.name]


def zipped(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_hostile_archives_are_refused(cube_store: Path, tmp_path: Path) -> None:
    pack(cube_store, tmp_path / "c.zip")
    whole = (tmp_path / "c.zip").read_bytes()
    for name in ("../../evil", "/etc/passwd", "C:\\evil", "a//b"):
        with pytest.raises(DataError, match="a name that leads out of it"):
            open_store(zipped(tmp_path / "evil.zip", {name: b"x"}))
    with pytest.raises(DataError, match=r"is compressed \(zarr\.json\).*genesis-prep pack"):
        open_store(zipped(tmp_path / "bomb.zip", {"zarr.json": bytes(10**7)}, zipfile.ZIP_DEFLATED))
    with pytest.raises(CallError, match="is no store of this toolkit"):
        open_store(zipped(tmp_path / "other.zip", {"readme": b"x"}))
    for damaged in (b"", whole[: len(whole) // 2], b"PK" + bytes(100)):
        (tmp_path / "cut.zip").write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be read as a zip archive"):
            open_store(tmp_path / "cut.zip")
    (tmp_path / "c.tar").write_bytes(whole)
    with pytest.raises(CallError, match=r"a folder, a \.zip archive or a URL is wanted"):
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
    pack(cube_store, tmp_path / "c.zip")
    storage = open_storage(cube_store if kind is Folder else tmp_path / "c.zip")
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
    degrade(f"{server}/cubes.zarr", tmp_path / "p.zarr", DegradeParameters(variants=2), workers=2)
    assert read_manifest(tmp_path / "p.zarr") == read_manifest(pair_store)
    done = CliRunner().invoke(main, ["info", f"{server}/pairs.zarr", "--json"])
    assert json.loads(done.stdout)["pairs"] == 24
    sheet = CliRunner().invoke(main, ["preview", f"{server}/pairs.zarr", str(tmp_path / "s.png")])
    assert sheet.exit_code == 0, sheet.output


def test_a_bucket_is_read_as_the_folder_is(
    pair_store: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Path-style addresses without a signature, as a public bucket has them; the endpoint is the server."""
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ALLOW_HTTP": "true",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    bucket = pair_store.parent / "bucket" / "stores"
    bucket.mkdir(parents=True)
    pair_store.rename(bucket / "pairs.zarr")
    same(open_store(bucket / "pairs.zarr"), open_store("s3://bucket/stores/pairs.zarr"))


def test_only_the_bytes_of_a_cube_are_fetched(cube_store: Path, server: str) -> None:
    store = open_cubes(f"{server}/cubes.zarr")
    out = np.empty((2, *store.size), np.int16)
    store.cubes.read(0, out[0])
    before = Ranges.sent
    store.cubes.read(5, out[0])
    local = open_cubes(cube_store)
    assert Ranges.sent - before == len(local.cubes.encoded(5))


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
    monkeypatch.setattr("pipeline.remote._RETRIES", {"max_retries": 1})
    with pytest.raises(CallError, match="is no store of this toolkit"):
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
    monkeypatch.setattr("pipeline.remote._RETRIES", {"max_retries": 0})
    with pytest.raises((CallError, DataError), match=place.partition("?")[0]):
        open_store(place)


def test_without_obstore_there_is_a_sentence(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['obstore'] = None\n"
        "from pipeline.stores import open_store\n"
        "from pipeline.errors import CallError\n"
        "try: open_store('http://127.0.0.1/x')\n"
        "except CallError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert "genesis-toolkit[remote]" in done.stdout
