"""A damaged store, made whole by the very call that made it: the damaged files come back to the byte."""

import dataclasses
import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from support.scans import SMALL, lungs, small_shards, write_scan

import genesis_toolkit.pipeline.cubes.repair
from genesis_toolkit.cli.prep import main
from genesis_toolkit.pipeline.cubes.extract import ExtractionResult, extract_cubes
from genesis_toolkit.pipeline.cubes.parameters import ExtractParameters
from genesis_toolkit.pipeline.cubes.repair import note_path, write_note
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import LOG, MANIFEST, unfinished
from genesis_toolkit.pipeline.pairs.degrade import DegradeParameters, degrade_cubes
from genesis_toolkit.pipeline.store.open import open_cubes
from genesis_toolkit.pipeline.verify.verify import verify_store

TWICE = DegradeParameters(variants=2)


@pytest.fixture
def stores(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copies to do harm to."""
    small_shards(monkeypatch)
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path


def bytes_of(store: Path) -> dict[str, bytes]:
    return {
        path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()
    }


def flip(path: Path, place: int = 40) -> None:
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 16
    path.write_bytes(data)


def shard(store: Path, array: str, number: int) -> Path:
    return store / array / "c" / str(number) / "0" / "0" / "0"


def look_and_note(store: Path) -> tuple[str, ...]:
    found = verify_store(store, workers=1)
    write_note(store, found.damaged)
    return found.damaged


def extract_again(stores: Path, parameters: ExtractParameters = SMALL, workers: int = 1) -> ExtractionResult:
    return extract_cubes(stores / "scans", stores / "cubes.zarr", parameters, workers=workers)


# --- cube stores ----------------------------------------------------------------------------------------


def test_only_the_damaged_shard_is_cut_again(stores: Path) -> None:
    store = stores / "cubes.zarr"
    before, broken = bytes_of(store), shard(store, "cubes", 1)
    times = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file() and path != broken}
    flip(broken)
    assert extract_again(stores).repaired == 0, "nothing is seen of it without the note, at no cost"
    assert look_and_note(store) == ("cubes/c/1/0/0/0",)
    result = extract_again(stores)
    assert (result.repaired, result.done_before, result.taken_in) == (1, True, 0)
    assert bytes_of(store) == before
    assert all(path.stat().st_mtime_ns == when for path, when in times.items())
    assert not note_path(store).exists()
    assert not unfinished(store).exists()
    assert extract_again(stores).repaired == 0


def test_only_scans_whose_cubes_lie_in_the_shard_are_read(
    stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, cut = [], genesis_toolkit.pipeline.cubes.repair.cut_again
    monkeypatch.setattr(
        "genesis_toolkit.pipeline.cubes.repair.cut_again", lambda task: (read.append(task.name), cut(task))[1]
    )
    shutil.rmtree(shard(stores / "cubes.zarr", "cubes", 0).parent)
    assert extract_again(stores).repaired == 1
    assert read == ["subset0/1.2.3.mhd"]
    shard(stores / "cubes.zarr", "cubes", 1).unlink()
    extract_again(stores)
    assert read[1:] == ["subset0/1.2.3.mhd", "subset5/1.2.5.mhd"]


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: path.write_bytes(path.read_bytes() + b"\0"),
        lambda path: path.write_bytes(b""),
    ],
)
def test_what_is_seen_at_once_needs_no_note(stores: Path, harm: Callable[[Path], None]) -> None:
    before = bytes_of(stores / "cubes.zarr")
    harm(shard(stores / "cubes.zarr", "cubes", 2))
    assert extract_again(stores).repaired == 1
    assert bytes_of(stores / "cubes.zarr") == before


@pytest.mark.parametrize("name", ["zarr.json", "tissue/zarr.json", "cubes/zarr.json", "README.md"])
@pytest.mark.parametrize("gone", [True, False])
def test_metadata_and_what_lies_beside_it_is_written_again(stores: Path, name: str, gone: bool) -> None:
    store = stores / "cubes.zarr"
    before = bytes_of(store)
    if gone:
        (store / name).unlink()
    else:
        flip(store / name, 700)
    flip(shard(store, "cubes", 0))
    assert set(look_and_note(store)) == {name, "cubes/c/0/0/0/0"}
    assert extract_again(stores).repaired == 2
    assert bytes_of(store) == before


def test_a_damaged_log_is_begun_anew(stores: Path) -> None:
    flip(stores / "cubes.zarr" / LOG)
    assert extract_again(stores).repaired == 1
    assert verify_store(stores / "cubes.zarr").findings == ()


def test_a_table_of_a_cube_store_comes_with_overwrite_only(stores: Path) -> None:
    store = stores / "cubes.zarr"
    before = bytes_of(store)
    flip(store / "corner" / "c" / "0" / "0", 30)
    flip(shard(store, "cubes", 1))
    look_and_note(store)
    harmed = bytes_of(store)
    with pytest.raises(DataError, match=r"corner can only be restored by cutting all scans.*--overwrite"):
        extract_again(stores)
    assert bytes_of(store) == harmed
    assert not unfinished(store).exists()
    extract_cubes(stores / "scans", store, SMALL, workers=1, overwrite=True)
    assert {name: data for name, data in bytes_of(store).items() if name != LOG} == {
        name: data for name, data in before.items() if name != LOG
    }


def test_a_store_whose_scans_are_no_longer_the_same_is_left_as_it_is(stores: Path) -> None:
    store, raw = stores / "cubes.zarr", stores / "scans" / "subset0" / "1.2.3.raw"
    for number in (0, 2):  # of the scan that changes, and of one that does not
        shard(store, "cubes", number).unlink()
    harmed, whole = bytes_of(store), raw.read_bytes()
    flip(raw, 1000)
    with pytest.raises(DataError, match=r"subset0/1\.2\.3\.mhd has changed since its cubes"):
        extract_again(stores)
    raw.unlink()
    with pytest.raises(DataError, match=r"was left as it is: subset0/1\.2\.3\.mhd: "):
        extract_again(stores)
    assert bytes_of(store) == harmed
    assert not unfinished(store).exists()
    raw.write_bytes(whole)
    assert extract_again(stores).repaired == 2


def test_another_call_than_the_one_that_made_it_repairs_nothing(stores: Path) -> None:
    shard(stores / "cubes.zarr", "cubes", 0).unlink()
    harmed = bytes_of(stores / "cubes.zarr")
    with pytest.raises(CallError, match=r"seed 0 \(requested: 3\)"):
        extract_again(stores, dataclasses.replace(SMALL, seed=3))
    assert bytes_of(stores / "cubes.zarr") == harmed


@pytest.mark.parametrize(
    "other",
    [
        {"spacing": (1.0, 0.8, 1.2), "orient": "RAS"},
        {"sampler": "official", "seed": None},
        {"hu": (-900, 300), "size": (10, 12, 14)},
    ],
)
def test_whatever_the_parameters_a_shard_comes_back(stores: Path, other: dict[str, object]) -> None:
    parameters = dataclasses.replace(SMALL, **other)  # type: ignore[arg-type]
    store = stores / "other.zarr"
    extract_cubes(stores / "scans", store, parameters, workers=1)
    before = bytes_of(store)
    flip(shard(store, "cubes", 1))
    look_and_note(store)
    assert extract_cubes(stores / "scans", store, parameters, workers=1).repaired == 1
    assert bytes_of(store) == before


def test_a_store_of_pseudonyms_is_repaired_with_its_key(stores: Path) -> None:
    def again() -> ExtractionResult:
        return extract_cubes(stores / "scans", stores / "a.zarr", SMALL, workers=1, anonymize=stores / "key")

    again()
    before = bytes_of(stores / "a.zarr")
    shard(stores / "a.zarr", "cubes", 1).unlink()
    with pytest.raises(CallError, match="anonymized with"):
        extract_cubes(stores / "scans", stores / "a.zarr", SMALL, workers=1)
    assert again().repaired == 1
    assert bytes_of(stores / "a.zarr") == before


def test_a_store_that_grew_is_repaired_and_grows_in_one_call(stores: Path) -> None:
    write_scan(stores / "scans" / "subset0" / "1.2.1.mhd", lungs(11))
    assert extract_again(stores).taken_in == 1
    before = bytes_of(stores / "cubes.zarr")
    for number in (1, 3, 4):
        flip(shard(stores / "cubes.zarr", "cubes", number))
    look_and_note(stores / "cubes.zarr")
    assert extract_again(stores).repaired == 3
    assert bytes_of(stores / "cubes.zarr") == before
    flip(shard(stores / "cubes.zarr", "cubes", 4))
    look_and_note(stores / "cubes.zarr")
    write_scan(stores / "scans" / "subset6" / "1.2.9.mhd", lungs(12))
    result = extract_again(stores)
    assert (result.repaired, result.taken_in, len(result.store)) == (1, 1, 24)
    assert verify_store(stores / "cubes.zarr", source=stores / "scans").findings == ()


def test_scans_that_were_being_taken_in_are_kept_through_a_repair(
    stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    write_scan(stores / "scans" / "subset6" / "1.2.9.mhd", lungs(12))
    with monkeypatch.context() as patch:
        patch.setattr("genesis_toolkit.pipeline.cubes.extract.assemble", interrupt)
        with pytest.raises(KeyboardInterrupt):
            extract_again(stores)
    done = list((unfinished(stores / "cubes.zarr") / "done").iterdir())
    assert len(done) == 1
    when = done[0].stat().st_mtime_ns
    shard(stores / "cubes.zarr", "cubes", 0).unlink()
    with monkeypatch.context() as patch:
        patch.setattr("genesis_toolkit.pipeline.cubes.extract.assemble", interrupt)
        with pytest.raises(KeyboardInterrupt):
            extract_again(stores)
    assert done[0].stat().st_mtime_ns == when
    result = extract_again(stores)
    assert (result.taken_in, len(result.store)) == (1, 18)


def test_stopped_while_files_are_put_back_it_goes_on(stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = stores / "cubes.zarr"
    before = bytes_of(store)
    for number in range(3):
        flip(shard(store, "cubes", number))
    look_and_note(store)
    count, write = 0, genesis_toolkit.pipeline.cubes.repair.write_whole

    def stopping(path: Path, *parts: bytes) -> str:
        nonlocal count
        count += 1
        if count == 2:
            path.with_name(f".{path.name}.0123.part").write_bytes(b"half")  # as a kill leaves it
            raise KeyboardInterrupt
        return write(path, *parts)

    with monkeypatch.context() as patch:
        patch.setattr("genesis_toolkit.pipeline.cubes.repair.write_whole", stopping)
        with pytest.raises(KeyboardInterrupt):
            extract_again(stores)
    assert note_path(store).exists()
    assert extract_again(stores).repaired == 2
    assert bytes_of(store) == before


def test_other_bytes_than_those_that_were_written_are_not_put_back(
    stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another version of a library would make them."""
    shard(stores / "cubes.zarr", "cubes", 0).unlink()
    harmed = bytes_of(stores / "cubes.zarr")
    with monkeypatch.context() as patch:
        patch.setattr("genesis_toolkit.pipeline.store.shards.COMPRESSION_LEVEL", 1)
        with pytest.raises(DataError, match=r"cubes/c/0/0/0/0 could not be rebuilt identically"):
            extract_again(stores)
    assert bytes_of(stores / "cubes.zarr") == harmed
    assert extract_again(stores).repaired == 1


@pytest.mark.full
def test_processes_repair_as_one_does(stores: Path) -> None:
    before = bytes_of(stores / "cubes.zarr")
    for number in range(3):
        shard(stores / "cubes.zarr", "cubes", number).unlink()
    assert extract_again(stores, workers=2).repaired == 3
    assert bytes_of(stores / "cubes.zarr") == before


# --- pair stores ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ["degraded/c/3/0/0/0"],
        ["original/c/1/0/0/0"],
        ["flip/c/0"],
        ["applied/c/0", "degraded/c/0/0/0/0"],
        ["corner/c/0/0", "scans/path/c/0", "cube/c/0", "zarr.json"],
        ["flip/zarr.json", "original/zarr.json", "scans/zarr.json", "original/c/0/0/0/0"],
    ],
)
def test_a_pair_store_comes_back_from_its_cubes(stores: Path, names: list[str]) -> None:
    store = stores / "pairs.zarr"
    before = bytes_of(store)
    for name in names:
        flip(store / name)
    assert set(look_and_note(store)) == set(names)
    result = degrade_cubes(stores / "cubes.zarr", store, TWICE, workers=1)
    assert (result.repaired, result.done_before) == (len(names), True)
    assert bytes_of(store) == before
    assert not note_path(store).exists()
    assert not unfinished(store).exists()
    assert degrade_cubes(stores / "cubes.zarr", store, TWICE).repaired == 0


def test_only_the_damaged_shard_is_degraded_again(stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    degrading = genesis_toolkit.pipeline.pairs.degrade._degrade

    def noting(task: object, store: object) -> object:
        made.append(f"{task.array}-{task.shard}")  # type: ignore[attr-defined]
        return degrading(task, store)  # type: ignore[arg-type]

    monkeypatch.setattr("genesis_toolkit.pipeline.pairs.degrade._degrade", noting)
    shard(stores / "pairs.zarr", "degraded", 4).unlink()
    assert degrade_cubes(stores / "cubes.zarr", stores / "pairs.zarr", TWICE, workers=1).repaired == 1
    assert made == ["degraded-4"]


def test_a_pair_store_whose_cubes_are_damaged_or_others_is_left_as_it_is(stores: Path) -> None:
    store = stores / "pairs.zarr"
    shard(store, "original", 0).unlink()
    harmed = bytes_of(store)
    flip(shard(stores / "cubes.zarr", "cubes", 0))
    with pytest.raises(DataError, match="damaged: the sha256 differs from the one in the manifest"):
        degrade_cubes(stores / "cubes.zarr", store, TWICE, workers=1)
    with pytest.raises(CallError, match=r"variants 2 \(requested: 3\)"):
        degrade_cubes(stores / "cubes.zarr", store, DegradeParameters(variants=3), workers=1)
    assert bytes_of(store) == harmed
    assert not unfinished(store).exists()


# --- notes ----------------------------------------------------------------------------------------------


def test_a_note_on_another_store_or_none_of_ours_is_not_believed(stores: Path) -> None:
    store = stores / "cubes.zarr"
    before = bytes_of(store)
    for text in (
        json.dumps({"format": "genesis-damage", "manifest_sha256": "0" * 64, "files": ["zarr.json"]}),
        json.dumps({"format": "genesis-damage", "manifest_sha256": "0" * 64, "files": 7}),
        "[" * 10**6,
        "{}",
    ):
        note_path(store).write_text(text, encoding="utf-8")
        assert extract_again(stores).repaired == 0
    assert bytes_of(store) == before


def test_a_note_of_a_file_that_is_sound_again_costs_nothing(stores: Path) -> None:
    store = stores / "cubes.zarr"
    write_note(store, ["cubes/c/1/0/0/0"])
    assert extract_again(stores).repaired == 0


def test_looking_at_a_sound_store_takes_its_note_away(stores: Path) -> None:
    write_note(stores / "cubes.zarr", ["cubes/c/1/0/0/0"])
    assert call("verify", stores / "cubes.zarr").exit_code == 0
    assert not note_path(stores / "cubes.zarr").exists()


def test_where_no_note_can_be_written_there_is_another_way(
    stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    flip(shard(stores / "cubes.zarr", "cubes", 0))
    monkeypatch.setattr("genesis_toolkit.pipeline.cubes.repair.write_whole", refuse)
    done = call("verify", stores / "cubes.zarr")
    assert done.exit_code == 1
    assert not note_path(stores / "cubes.zarr").exists()
    assert "could not be written next to the store" in done.stdout


def test_what_is_no_store_of_this_kind_is_left_to_its_own_errors(stores: Path) -> None:
    shard(stores / "pairs.zarr", "degraded", 0).unlink()
    with pytest.raises(CallError, match="not a genesis-cubes store, so it is left untouched"):
        extract_cubes(stores / "scans", stores / "pairs.zarr", SMALL, workers=1)
    (stores / "cubes.zarr" / MANIFEST).write_bytes(b"x")
    with pytest.raises(DataError, match=r"is damaged: manifest-sha256\.txt: the last line is incomplete"):
        extract_again(stores)


# --- the commands ---------------------------------------------------------------------------------------


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_the_commands_say_what_they_repaired(stores: Path) -> None:
    small = "--size 16,16,16 --border 2,2,2 --max-tissue 0.4 --cubes-per-scan 6 --workers 1".split()
    flip(shard(stores / "cubes.zarr", "cubes", 2))
    flip(shard(stores / "pairs.zarr", "degraded", 2))
    for name in ("cubes.zarr", "pairs.zarr"):
        assert call("verify", stores / name).exit_code == 1
        assert note_path(stores / name).exists()
    done = call("extract-cubes", stores / "scans", stores / "cubes.zarr", *small)
    assert done.exit_code == 0, done.output
    assert "(1 skipped); 1 damaged file rewritten." in done.stdout
    done = call("degrade", stores / "cubes.zarr", stores / "pairs.zarr", "--variants", 2, "--json")
    assert json.loads(done.stdout)["repaired"] == 1
    for name in ("cubes.zarr", "pairs.zarr"):
        assert call("verify", stores / name).exit_code == 0
    assert (
        "nothing done"
        in call("degrade", stores / "cubes.zarr", stores / "pairs.zarr", "--variants", 2).stdout
    )


def test_a_repaired_store_is_read_by_all(stores: Path) -> None:
    before = np.empty((12, 16, 16, 16), np.int16)
    open_cubes(stores / "cubes.zarr").cubes.read_many(range(12), before)
    for number in range(3):
        shard(stores / "cubes.zarr", "cubes", number).unlink()
    (stores / "cubes.zarr" / "zarr.json").unlink()
    assert extract_again(stores).repaired == 4
    again = np.empty_like(before)
    open_cubes(stores / "cubes.zarr").cubes.read_many(range(12), again)
    np.testing.assert_array_equal(before, again)
