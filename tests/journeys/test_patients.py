"""Sources with several scans of a patient, copies of scans, and a split that users say themselves."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from support.damage import look
from support.dicom import SMALL, VOXELS, write_series, write_volume

import genesis_toolkit as gt
from genesis_toolkit.cli.prep import main
from genesis_toolkit.pipeline.describe.facts import not_used
from genesis_toolkit.pipeline.scans.read import scan_path
from genesis_toolkit.training.feeding.split import split_cubes


def patients(root: Path, count: int = 4, **tags: str) -> Path:
    """Two reconstructions of each patient, the second softer, in folders that do not tell whose they are."""
    for one in range(count):
        for kernel in range(2):
            told = {"t0010_0020": f"P-{one}", "t0020_000e": f"1.2.{kernel}.{one}"} | tags
            write_series(root / f"s{kernel}{one}", VOXELS - np.int16(kernel + 10 * one), **told)
    return root


def test_both_reconstructions_of_a_patient_share_a_hash_and_a_side(tmp_path: Path) -> None:
    store = gt.extract_cubes(patients(tmp_path / "in"), tmp_path / "c.zarr", SMALL, workers=1).store
    scans = store.scans
    assert scans.patient is not None
    wanted = [hashlib.sha256(f"patient P-{path[-1]}".encode()).digest()[:8] for path in scans.path.tolist()]
    assert [int(one).to_bytes(8, "little") for one in scans.patient] == wanted
    streams = [hashlib.sha256(str(uid).encode()).digest()[:8] for uid in scans.identifier]
    assert [int(one).to_bytes(8, "little") for one in scans.stream] == streams
    assert look(tmp_path / "c.zarr", source=tmp_path / "in").findings == ()
    split = split_cubes(scans, store.table)
    sides = [set(scans.patient[store.table.scan[side]].tolist()) for side in (split.train, split.validation)]
    assert all(sides)
    assert not sides[0] & sides[1]
    assert not any(b"P-0" in file.read_bytes() for file in (tmp_path / "c.zarr").rglob("*") if file.is_file())


def test_without_a_patient_the_study_and_frame_tell_and_without_these_each_scan_is_its_own(
    tmp_path: Path,
) -> None:
    root = tmp_path / "in"
    for name, place in (("a", "1"), ("b", "1"), ("c", "2")):
        told = {"t0010_0020": "ANONYMOUS", "t0020_000d": f"1.9.{place}", "t0020_0052": "1.5"}
        write_series(root / name, VOXELS - np.int16(ord(name)), t0020_000e=f"1.2.{ord(name)}", **told)
    scans = gt.extract_cubes(root, tmp_path / "c.zarr", SMALL, workers=1).store.scans
    assert scans.patient is not None
    assert scans.patient[0] == scans.patient[1] != scans.patient[2]
    assert scans.patient[0] not in scans.stream


def test_pseudonyms_key_the_patients_and_leave_streams_and_voxels(tmp_path: Path) -> None:
    root = patients(tmp_path / "in")
    plain = gt.extract_cubes(root, tmp_path / "c.zarr", SMALL, workers=1).store
    keyed = gt.extract_cubes(root, tmp_path / "k.zarr", SMALL, workers=1, anonymize=tmp_path / "key").store
    again = gt.extract_cubes(root, tmp_path / "l.zarr", SMALL, workers=1, anonymize=tmp_path / "other").store
    assert plain.scans.patient is not None
    groups = []
    for store in (plain, keyed, again):
        patient = np.asarray(store.scans.patient)
        groups.append(np.unique(patient, return_inverse=True)[1])
        assert [patient[i] == patient[i + 4] for i in range(4)] == [True] * 4
        assert np.unique(patient).size == 4
        np.testing.assert_array_equal(store[:], plain[:])
        np.testing.assert_array_equal(store.scans.stream, plain.scans.stream)
    assert not set(plain.scans.patient) & set(np.asarray(keyed.scans.patient))
    assert not set(np.asarray(again.scans.patient)) & set(np.asarray(keyed.scans.patient))


def test_merged_and_updated_stores_keep_their_patients(tmp_path: Path) -> None:
    root = patients(tmp_path / "in")
    whole = gt.extract_cubes(root, tmp_path / "whole.zarr", SMALL, workers=1).store
    parts = []
    for kernel in range(2):
        part = tmp_path / f"in{kernel}"
        part.mkdir()
        for folder in sorted(root.glob(f"s{kernel}*")):
            folder.rename(part / folder.name)
        parts.append(tmp_path / f"{kernel}.zarr")
        gt.extract_cubes(part, parts[-1], SMALL, workers=1)
    merged = gt.merge_stores(parts, tmp_path / "merged.zarr", workers=1).store
    np.testing.assert_array_equal(merged.scans.patient, whole.scans.patient)
    for folder in (tmp_path / "in1").iterdir():
        folder.rename(tmp_path / "in0" / folder.name)
    grown = gt.extract_cubes(tmp_path / "in0", parts[0], SMALL, workers=1).store
    np.testing.assert_array_equal(grown.scans.patient, whole.scans.patient)
    assert look(parts[0]).findings == ()
    assert look(tmp_path / "merged.zarr").findings == ()


def test_names_that_tables_show_lead_back_to_their_scans(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for number, name in enumerate(("B31f", "B70f")):
        told = {
            "t0008_103e": f" {name}  axial ",
            "t0020_0011": str(number + 3),
            "t0020_000e": f"1.2.{number}",
        }
        for path in write_series(tmp_path / "made", VOXELS - np.int16(number), **told):
            (root / "ct").mkdir(parents=True, exist_ok=True)
            path.rename(root / "ct" / f"{number}{path.name}")
    write_volume(tmp_path / "luna" / "subset1" / "1.3.6.1.4.777001.mhd")
    write_volume(tmp_path / "luna" / "subset1" / "1.3.6.1.4.777002.mhd", VOXELS + 1)
    found = gt.find_scans(root)
    names = found.names()
    assert sorted(names.values()) == ["ct#3 B31f axial", "ct#4 B70f axial"]
    for path, name in names.items():
        assert scan_path(str(root / name)) == root / path
    assert scan_path(str(root / "ct#4…axial")) == root / "ct#1.2.1"
    assert set(gt.find_scans(root / "ct").names().values()) == {"ct#3 B31f axial", "ct#4 B70f axial"}
    luna = gt.find_scans(tmp_path / "luna", subsets=[1]).names()
    assert list(luna.values()) == ["subset1/777001", "subset1/777002"]
    for path, name in luna.items():
        assert scan_path(str(tmp_path / "luna" / name)) == tmp_path / "luna" / path
    store = gt.extract_cubes(root, tmp_path / "c.zarr", SMALL, workers=1).store
    assert len(store) == 6
    files = (file for file in (tmp_path / "c.zarr").rglob("*") if file.is_file())
    assert not any(b"B70f" in file.read_bytes() for file in files)


def test_a_store_of_a_single_folder_verifies_and_repairs(tmp_path: Path) -> None:
    write_series(tmp_path / "case7")
    call = ["extract-cubes", str(tmp_path / "case7"), str(tmp_path / "c.zarr"), "--size", "4,4,2"]
    call += ["--border", "0,0,0", "--max-tissue", "1", "--workers", "1"]
    done = CliRunner().invoke(main, call)
    assert done.exit_code == 0, done.output
    assert "case7" in done.stdout
    found = look(tmp_path / "c.zarr", source=tmp_path / "case7")
    assert (found.findings, found.scans, found.cut_again > 0) == ((), 1, True)
    (shard,) = (path for path in (tmp_path / "c.zarr" / "cubes" / "c").rglob("*") if path.is_file())
    shard.write_bytes(shard.read_bytes()[:-5])
    done = CliRunner().invoke(main, call)
    assert "1 damaged file rewritten" in done.stdout
    assert look(tmp_path / "c.zarr", source=tmp_path / "case7").findings == ()


def test_a_series_in_several_folders_is_named_by_the_folder_above_them(tmp_path: Path) -> None:
    """In its own row, in that of its copy, and where its cubes hold no tissue."""
    root = tmp_path / "case7"
    write_series(root / "whole", np.full_like(VOXELS, -1000))
    files = sorted((root / "whole").iterdir())
    for number, file in enumerate(files):
        half = root / f"half{number % 2}"
        half.mkdir(exist_ok=True)
        (half / file.name).write_bytes(file.read_bytes())
    call = ["extract-cubes", str(root), str(tmp_path / "c.zarr"), "--size", "4,4,2", "--workers", "1"]
    done = CliRunner().invoke(main, [*call, "--border", "0,0,0", "--max-tissue", "1"])
    assert done.exit_code == 0, done.output
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["case7", "used"] in [[row[0], row[-2]] for row in rows if len(row) > 2]
    assert "the same scan as case7" in done.stdout
    assert "of case7." in done.stdout


def test_what_reads_the_store_alone_names_a_scan_that_was_its_own_source(tmp_path: Path) -> None:
    """By its identifier, since the store tells no folder above the source: never `.`."""
    write_series(tmp_path / "case7", np.full_like(VOXELS, -1000))
    parameters = gt.ExtractParameters(size=(4, 4, 2), border=(0, 0, 0), max_tissue=1.0)
    store = gt.extract_cubes(tmp_path / "case7", tmp_path / "c.zarr", parameters, workers=1).store
    assert store.scans.path.tolist() == ["."]
    (uid,) = store.scans.names.tolist()
    assert uid == store.scans.identifier[0] != "."
    (air,) = gt.describe_store(store)["without_tissue"]
    assert (air["scan"], air["path"]) == (uid, ".")
    scans = replace(
        store.scans,
        path=np.array([".", "copy"], object),
        identifier=np.array([uid, uid], object),
        status=np.array(["used", "skipped"], object),
        reason=np.array(["", "the same scan as ."], object),
    )
    assert not_used(scans) == [
        {"scan": "copy", "path": "copy", "status": "skipped", "reason": f"the same scan as {uid}"}
    ]
    done = CliRunner().invoke(main, ["preview", str(tmp_path / "c.zarr"), str(tmp_path / "report.html")])
    assert done.exit_code == 0, done.output
    assert uid in (tmp_path / "report.html").read_text(encoding="utf-8")
