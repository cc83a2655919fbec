"""`--anonymize`: no name of the source is anywhere in the store, and not one voxel is another."""

import dataclasses
import hashlib
import os
import re
import stat
from pathlib import Path

import numpy as np
import pytest
import zarr
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from support.dicom import write_series
from support.scans import SMALL, lungs, write_scan

from genesis_toolkit.cli.prep import main
from genesis_toolkit.pipeline.cubes.extract import extract_cubes
from genesis_toolkit.pipeline.cubes.pseudonyms import WITHHELD, Key, read_key
from genesis_toolkit.pipeline.degrade.recipes import get_recipe
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.ledger import read_manifest, unfinished
from genesis_toolkit.pipeline.pairs.degrade import DegradeParameters, degrade_cubes
from genesis_toolkit.pipeline.rng import stream_key
from genesis_toolkit.pipeline.store.open import CubeStore

#: What the headers of a DICOM file may say of a person and a place.
TOLD = {
    "t0008_0020": "20190704",
    "t0008_0050": "ACC4711829",
    "t0008_0080": "St. Elsewhere Hospital",
    "t0008_0090": "HOUSE^GREGORY",
    "t0008_1010": "STATION12CT",
    "t0008_1030": "THORAX NATIVE STUDY",
    "t0008_103e": "LUNG B70F SERIES",
    "t0010_0010": "MUSTERMANN^ERIKA",
    "t0010_0020": "PID88127340",
    "t0010_0030": "19610812",
    "t0010_4000": "afraid of needles",
    "t0018_1000": "SERIAL99881",
    "t0018_1030": "PROTOCOL OMEGA",
    "t0020_000d": "1.2.826.0.1.555555.77777",
    "t0020_0052": "1.2.826.0.1.666666.88888",
}
SERIES = "1.2.826.0.1.3680043.2.1125.98765"

SMALL_CALL = "--size 16,16,16 --border 2,2,2 --max-tissue 0.4 --cubes-per-scan 6 --workers 1".split()


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def tables_of(path: Path) -> dict[str, list[object]]:
    """Every column of every table, by plain zarr."""
    group = zarr.open_group(path, mode="r")
    columns = {name: array for name, array in group.arrays() if array.ndim < 4}
    columns |= {f"scans/{name}": array for name, array in group["scans"].arrays()}  # type: ignore[union-attr]
    return {name: np.asarray(array[...]).tolist() for name, array in columns.items()}


def everything_in(path: Path) -> bytes:
    """Names and bytes of every file of a store, and its tables as text, in small letters."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    parts = [b"%s\n%s" % (os.fsencode(file.relative_to(path)), file.read_bytes()) for file in files]
    return b"\n".join([*parts, repr(tables_of(path)).encode()]).lower()


def names_in(folder: Path) -> set[bytes]:
    """Every part of every path of a source, with suffixes and without."""
    parts = {part for file in folder.rglob("*") for part in file.relative_to(folder).parts}
    parts |= {part.split(".")[0] for part in parts if not part.startswith("1.2")}
    return {part.lower().encode() for part in parts if len(part) > 3}


def voxels_of(store: CubeStore) -> np.ndarray:
    return np.asarray(zarr.open_group(store.path, mode="r")["cubes"][...])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Scans whose names tell of people, used, skipped, failed and passed over."""
    folder = tmp_path / "source"
    write_scan(folder / "Mustermann_Erika" / "study19610812" / "axialB70f.nii.gz", lungs(0))
    write_scan(folder / "Mustermann_Erika" / "study20190704" / "axialB31f.mha", lungs(1))
    write_scan(folder / "Mustermann_Erika" / "study20190704" / "axialB31f.nrrd", lungs(1))  # one name, twice
    write_scan(folder / "Doe_John" / "flatscan.mhd", lungs(2, (40, 38, 20)))
    broken = write_scan(folder / "Doe_John" / "brokenscan.mhd", lungs(3))
    broken.with_suffix(".raw").write_bytes(b"cut short")
    pointing = write_scan(folder / "Doe_John" / "pointing.mhd", lungs(3))
    text = pointing.read_text(encoding="utf-8")
    pointing.write_text(text.replace("pointing.raw", "elsewhere/Roe_Jane.raw"), encoding="utf-8")
    write_series(folder / "Roe_Jane" / "thorax", lungs(4), t0020_000e=SERIES, **TOLD)
    gap = write_series(
        folder / "Roe_Jane" / "withgap", lungs(5), t0020_000e="1.2.826.0.1.424242", t0010_0010="GAP^PATIENT"
    )
    gap[10].unlink()
    write_series(
        folder / "Roe_Jane" / "magnetic",
        lungs(6)[:, :, :4],
        t0008_0060="MR",
        t0020_000e="1.2.826.0.1.535353",
    )
    return folder


def extract(source: Path, target: Path, key: Path | None = None) -> CubeStore:
    return extract_cubes(source, target, SMALL, workers=1, anonymize=key).store


def test_no_name_of_the_source_is_anywhere_in_the_store(source: Path, tmp_path: Path) -> None:
    plain = extract(source, tmp_path / "plain.zarr")
    store = extract(source, tmp_path / "secret.zarr", tmp_path / "study.key")
    assert sorted(plain.scans.status.tolist()) == ["failed"] * 3 + ["skipped"] * 3 + ["used"] * 3
    told = names_in(source) | {str(name).lower().encode() for name in plain.scans.identifier}
    told |= {value.lower().encode() for value in (*TOLD.values(), SERIES, "1.2.826", "GAP^PATIENT")}
    told |= {str(digest).encode() for digest in plain.scans.sha256 if digest}
    told |= {b"study.key", (tmp_path / "study.key").read_bytes().strip(), b"roe_jane", bytes(tmp_path)}
    secret, open_book = everything_in(store.path), everything_in(plain.path)
    assert {name for name in told if name in secret} == set()
    assert len({name for name in told if name in open_book}) > 20, "the test looks for nothing"
    assert not store.scans.bytes.any()


def test_nothing_of_dicom_headers_but_the_series_and_geometry_enters_a_store(tmp_path: Path) -> None:
    write_series(tmp_path / "source" / "p1", lungs(4), t0020_000e=SERIES, **TOLD)
    store = extract(tmp_path / "source", tmp_path / "plain.zarr")
    assert store.scans.identifier.tolist() == [SERIES]
    held = everything_in(store.path)
    assert SERIES.encode() in held
    for value in TOLD.values():
        for part in re.split(r"\^|\s", value):
            assert len(part) < 4 or part.lower().encode() not in held, part


def test_voxels_streams_and_pairs_are_the_same(source: Path, tmp_path: Path) -> None:
    plain = extract(source, tmp_path / "plain.zarr")
    store = extract(source, tmp_path / "secret.zarr", tmp_path / "key")
    np.testing.assert_array_equal(voxels_of(store), voxels_of(plain))
    np.testing.assert_array_equal(store.streams(), plain.streams())
    assert plain.scans.stream.tolist() == [int(stream_key(str(name))) for name in plain.scans.identifier]
    hidden = {"identifier", "path", "bytes", "sha256", "reason"}
    before, after = tables_of(plain.path), tables_of(store.path)
    differ = {name for name in before if before[name] != after[name]}
    assert differ == {f"scans/{name}" for name in {*hidden, "patient"}}
    twins = []
    for one in (plain, store):
        degrade_cubes(one.path, tmp_path / "p.zarr", DegradeParameters(get_recipe("genesis")), overwrite=True)
        twins.append(np.asarray(zarr.open_group(tmp_path / "p.zarr", mode="r")["degraded"][...]))
    np.testing.assert_array_equal(*twins)


def test_reasons_of_the_rule_stay_and_those_that_name_files_do_not(source: Path, tmp_path: Path) -> None:
    plain = extract(source, tmp_path / "plain.zarr").scans
    secret = extract(source, tmp_path / "secret.zarr", tmp_path / "key").scans
    told, pseudonyms = secret.reason.tolist(), secret.path.tolist()
    for status, before, after in zip(plain.status.tolist(), plain.reason.tolist(), told, strict=True):
        if before == "20 slices, 24 needed" or status == "used":
            assert after == before
        elif before.startswith("the same scan as "):
            assert after in {f"the same scan as {path}" for path in pseudonyms}
        else:
            assert after == WITHHELD
    assert "20 slices, 24 needed" in told


def by_hand(key: bytes, purpose: str, text: str) -> str:
    """HMAC-SHA256 as RFC 2104 writes it down."""
    block = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block) + purpose.encode() + b"\0" + text.encode())
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in block) + inner.digest()).hexdigest()


def test_pseudonyms_are_keyed_hashes_part_by_part(source: Path, tmp_path: Path) -> None:
    plain = extract(source, tmp_path / "plain.zarr").scans
    store = extract(source, tmp_path / "secret.zarr", tmp_path / "key")
    secret = (tmp_path / "key").read_bytes().strip()
    assert re.fullmatch(rb"[0-9a-f]{64}", secret)
    for before, after in ((plain.path, store.scans.path), (plain.identifier, store.scans.identifier)):
        for name, pseudonym in zip(before.tolist(), after.tolist(), strict=True):
            parts = name.split("/")
            assert pseudonym == "/".join(by_hand(secret, "name", part)[:32] for part in parts)
    for before, after in zip(plain.sha256.tolist(), store.scans.sha256.tolist(), strict=True):
        assert after == (by_hand(secret, "file", before) if before else "")
    parameters = store.attributes["parameters"]
    assert parameters["anonymized_with"] == by_hand(secret, "key", "")[:16]
    assert "anonymized_with" not in extract(source, tmp_path / "plain.zarr").attributes["parameters"]


def test_one_key_gives_one_name_one_pseudonym_in_every_store(source: Path, tmp_path: Path) -> None:
    first = extract(source, tmp_path / "a.zarr", tmp_path / "key").scans
    (source / "Doe_John" / "flatscan.mhd").unlink()
    write_scan(source / "Mustermann_Erika" / "another" / "scan.mha", lungs(7))
    second = extract(source, tmp_path / "b.zarr", tmp_path / "key").scans
    other = extract(source, tmp_path / "c.zarr", tmp_path / "other").scans
    assert len(set(first.path.tolist()) & set(second.path.tolist())) == len(first) - 1
    patients = [{str(path).split("/")[0] for path in scans.path} for scans in (first, second, other)]
    assert len(patients[0]) == 3
    assert patients[0] == patients[1]
    assert not patients[1] & patients[2]


@given(
    one=st.text(min_size=1),
    other=st.text(min_size=1),
    secrets=st.tuples(st.binary(min_size=32), st.binary(min_size=32)),
)
def test_names_keys_and_purposes_are_told_apart(one: str, other: str, secrets: tuple[bytes, bytes]) -> None:
    first, second = (Key(Path("k"), secret, drawn=False) for secret in secrets)
    one, other = (text.encode("utf-8", "replace").decode() for text in (one, other))
    assert (first.name(one) == first.name(other)) == (one == other)
    assert first.name(one).count("/") == one.count("/")
    assert len({first.name("a"), first.digest("a")[:32], first.fingerprint}) == 3
    # RFC 2104 fills short keys with zeros, so these are the same key.
    if secrets[0].rstrip(b"\0") != secrets[1].rstrip(b"\0"):
        assert first.name(one) != second.name(one)
        assert first.fingerprint != second.fingerprint
    assert secrets[0].hex() not in repr(first)
    assert repr(secrets[0]) not in repr(first)


def test_a_finished_store_knows_its_scans_through_the_key(source: Path, tmp_path: Path) -> None:
    key, target = tmp_path / "key", tmp_path / "secret.zarr"
    extract(source, target, key)
    before = read_manifest(target)
    assert extract_cubes(source, target, SMALL, anonymize=key).done_before
    os.utime(source / "Mustermann_Erika" / "study19610812" / "axialB70f.nii.gz")  # touched, not changed
    assert extract_cubes(source, target, SMALL, anonymize=key).done_before
    with pytest.raises(CallError, match=r"anonymized with [0-9a-f]{16} \(requested: none\)"):
        extract_cubes(source, target, SMALL)
    with pytest.raises(CallError, match=r"anonymized with [0-9a-f]{16} \(requested: [0-9a-f]{16}\)"):
        extract_cubes(source, target, SMALL, anonymize=tmp_path / "other")
    assert not (tmp_path / "other").exists(), "a refused call made a key"
    assert read_manifest(target) == before


def test_it_takes_new_scans_and_mended_ones_in_under_pseudonyms(source: Path, tmp_path: Path) -> None:
    key, target = tmp_path / "key", tmp_path / "secret.zarr"
    before = voxels_of(extract(source, target, key))
    write_scan(source / "Late_Comer" / "newscan.mha", lungs(8))
    write_scan(source / "Doe_John" / "brokenscan.mhd", lungs(3))
    twin = write_scan(source / "Late_Comer" / "twin" / "x.mhd", lungs(9))
    result = extract_cubes(source, target, SMALL, workers=1, anonymize=key)
    store = result.store
    assert result.taken_in == 3
    assert len(store) == len(before) + 18
    np.testing.assert_array_equal(voxels_of(store)[: len(before)], before)
    plain = extract(source, tmp_path / "plain.zarr").scans
    named_by = read_key(key)
    assert set(store.scans.path.tolist()) == {named_by.name(str(path)) for path in plain.path}
    assert {name for name in names_in(source) if name in everything_in(target)} == set()
    write_scan(twin.with_suffix(".nrrd"), lungs(9))  # the identifier of one that is in the store
    again = extract_cubes(source, target, SMALL, workers=1, anonymize=key)
    assert again.taken_in == 1
    assert [(one.status, one.reason) for one in again.unused] == [
        ("skipped", "the same scan as Late_Comer/twin/x.mhd")
    ]
    assert again.unused[0].path == "Late_Comer/twin/x.nrrd"


def test_changed_and_vanished_scans_are_refused(source: Path, tmp_path: Path) -> None:
    key, target = tmp_path / "key", tmp_path / "secret.zarr"
    scan = source / "Mustermann_Erika" / "study20190704" / "axialB31f.mha"
    extract(source, target, key)
    whole, times = scan.read_bytes(), scan.stat()
    other = write_scan(tmp_path / "other.mha", lungs(77))
    os.utime(other, ns=(0, 0))
    other.rename(scan)  # older than the store, and as many bytes or not
    with pytest.raises(CallError, match=r"has changed since"):
        extract(source, target, key)
    scan.write_bytes(whole)
    os.utime(scan, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert extract_cubes(source, target, SMALL, anonymize=key).done_before
    scan.unlink()
    pseudonym = read_key(key).name(scan.relative_to(source).as_posix())
    with pytest.raises(CallError, match=f"{pseudonym} is missing"):
        extract(source, target, key)


def test_a_scan_that_lost_its_voxels_is_refused(luna16: Path, tmp_path: Path) -> None:
    key, target = tmp_path / "key", tmp_path / "secret.zarr"
    extract(luna16, target, key)
    (luna16 / "subset0" / "1.2.3.raw").unlink()
    with pytest.raises(CallError, match="has changed since"):
        extract(luna16, target, key)


def test_interrupted_it_leaves_pseudonyms_too(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genesis_toolkit.pipeline.cubes import assemble

    key, target = tmp_path / "key", tmp_path / "secret.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(assemble, "write_store", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            extract(source, target, key)
    assert unfinished(target).exists()
    store = extract(source, target, key)
    assert {name for name in names_in(source) if name in everything_in(store.path)} == set()


def test_the_key_is_made_for_its_owner_alone_and_kept(luna16: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    before = os.umask(0)
    try:
        extract(luna16, tmp_path / "a.zarr", key)
    finally:
        os.umask(before)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    held = key.read_bytes()
    extract(luna16, tmp_path / "b.zarr", key)
    assert key.read_bytes() == held
    key.write_bytes(held.strip() + b"\r\n\n")  # as an editor leaves it
    assert extract_cubes(luna16, tmp_path / "b.zarr", SMALL, anonymize=key).done_before


def test_wrong_keys_exit_with_2(luna16: Path, cube_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.zarr"
    (tmp_path / "short").write_text("password\n", encoding="utf-8")
    (tmp_path / "long").write_bytes(bytes(range(1, 255)) * 100)
    (tmp_path / "empty").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    cases = [
        (tmp_path / "short", "holds 8 bytes, but a key has 32 to 4096"),
        (tmp_path / "long", "holds more than 4096 bytes"),
        (tmp_path / "empty", "the file is empty"),
        (tmp_path / "pipe", "the path is not a regular file"),
        (tmp_path, "the path is not a regular file"),
        (tmp_path / "nowhere" / "key", "is in a folder that does not exist"),
        (cube_store / "key", "is inside the store"),
    ]
    for key, sentence in cases:
        result = call("extract-cubes", luna16, out, *SMALL_CALL, "--anonymize", key)
        assert result.exit_code == 2, (key, result.output)
        assert sentence in result.stderr
        assert result.stderr.count("\n") == 1
    assert not out.exists()
    assert not unfinished(out).exists()


def test_a_dry_run_makes_no_key(luna16: Path, tmp_path: Path) -> None:
    words = ("extract-cubes", luna16, tmp_path / "c.zarr", *SMALL_CALL, "--anonymize", tmp_path / "key")
    assert call(*words, "--dry-run").exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["luna16"]


def test_the_command_tells_failures_by_their_own_names_on_stderr(source: Path, tmp_path: Path) -> None:
    words = ("extract-cubes", source, tmp_path / "c.zarr", *SMALL_CALL, "--anonymize", tmp_path / "key")
    result = call(*words)
    assert result.exit_code == 1
    assert "Doe_John/brokenscan.mhd: failed, " in result.stderr
    assert "Doe_John/flatscan.mhd: skipped, 20 slices, 24 needed" in result.stderr
    assert "Doe_John" not in result.stdout
    assert "Doe_John" not in call("info", tmp_path / "c.zarr").output
    assert "Doe_John" not in call(*words, "--json").stdout


def test_the_official_draws_are_the_same(luna16: Path, tmp_path: Path) -> None:
    official = dataclasses.replace(SMALL, sampler="official", seed=None)
    plain = extract_cubes(luna16, tmp_path / "a.zarr", official, workers=1).store
    store = extract_cubes(luna16, tmp_path / "b.zarr", official, workers=1, anonymize=tmp_path / "key").store
    np.testing.assert_array_equal(voxels_of(store), voxels_of(plain))
