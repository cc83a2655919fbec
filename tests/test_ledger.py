"""Unfinished work stays apart, is continued by the same call only, and is never shared by two runs."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.ledger import MANIFEST, hold, read_manifest, unfinished, whole_file, write_whole
from genesis_toolkit.pipeline.wording import first_difference


def test_finished_work_takes_its_name_with_a_true_manifest(tmp_path: Path) -> None:
    target = tmp_path / "store"
    with hold(target, {"seed": 0}, overwrite=False) as ledger:
        write_whole(ledger.store / "a" / "b", b"hello")
        write_whole(ledger.store / "c", b"world")
        assert not target.exists()
        ledger.finish({"c": hashlib.sha256(b"world").hexdigest()}, {})
    assert not unfinished(target).exists()
    assert set(read_manifest(target)) == {"a/b", "c"}
    check = subprocess.run(["sha256sum", "--check", MANIFEST], cwd=target, capture_output=True, check=False)
    assert check.returncode == 0


def test_work_goes_on_only_with_the_same_parameters(tmp_path: Path) -> None:
    target = tmp_path / "store"
    with hold(target, {"seed": 0, "size": (1, 2)}, overwrite=False) as ledger:
        ledger.record("x", {"n": 1})
    with hold(target, {"seed": 0, "size": (1, 2)}, overwrite=False) as ledger:
        assert ledger.recorded("x") == {"n": 1}
        assert ledger.recorded("y") is None
    with (
        pytest.raises(CallError, match=r"started with seed 0 \(requested: 1\).*--overwrite"),
        hold(target, {"seed": 1, "size": (1, 2)}, overwrite=False),
    ):
        pass
    with hold(target, {"seed": 1, "size": (1, 2)}, overwrite=True) as ledger:
        assert ledger.recorded("x") is None


def test_a_second_run_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "store"
    with hold(target, {}, overwrite=False):
        with pytest.raises(CallError, match="Another run"), hold(target, {}, overwrite=True):
            pass
        with pytest.raises(CallError, match="Another run"), hold(target, {"other": 1}, overwrite=False):
            pass


def test_overwriting_keeps_the_old_store_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "store"
    write_whole(target / "old", b"1")
    write_whole(target / MANIFEST, b"")
    with hold(target, {}, overwrite=True) as ledger:
        write_whole(ledger.store / "new", b"2")
        assert (target / "old").exists()
        ledger.finish({}, {})
    assert not (target / "old").exists()
    assert (target / "new").read_bytes() == b"2"


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "file", b"x")
    assert list(tmp_path.iterdir()) == []


def test_the_first_difference_is_told_in_words() -> None:
    assert first_difference({"a": 1}, {"a": 1}) is None
    assert first_difference({"max_tissue": 0.15}, {"max_tissue": 0.2}) == "max tissue 0.15 (requested: 0.2)"
    assert first_difference({"size": [1, 2]}, {"size": [1, 3]}) == "size 1,2 (requested: 1,3)"
    recipe = {"recipe": {"name": "genesis", "rate": 0.9}}
    assert (
        first_difference(recipe, {"recipe": {"name": "genesis", "rate": 0.8}}) == "rate 0.9 (requested: 0.8)"
    )


def test_somebody_elses_folder_of_that_name_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "store"
    thesis = unfinished(target) / "mine" / "thesis.txt"
    write_whole(thesis, b"years of work")
    write_whole(unfinished(target) / "job.json", b'{"job": 1}')
    for overwrite in (False, True):
        with pytest.raises(CallError, match="left untouched"), hold(target, {}, overwrite=overwrite):
            pass
    assert thesis.read_bytes() == b"years of work"


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_comes_into_being_meanwhile_is_left_alone(tmp_path: Path, overwrite: bool) -> None:
    target = tmp_path / "store"
    with hold(target, {}, overwrite=overwrite) as ledger:
        write_whole(ledger.store / "new", b"2")
        write_whole(target / "thesis.txt", b"years of work")
        with pytest.raises(CallError, match="left untouched"):
            ledger.finish({}, {})
    assert (target / "thesis.txt").read_bytes() == b"years of work"
    (target / "thesis.txt").unlink()
    with hold(target, {}, overwrite=overwrite) as ledger:
        ledger.finish({}, {})
    assert (target / "new").read_bytes() == b"2"


def test_a_lost_piece_is_noticed_before_the_store_gets_its_name(tmp_path: Path) -> None:
    target = tmp_path / "store"
    with pytest.raises(RuntimeError, match="a/b is missing"), hold(target, {}, overwrite=False) as ledger:
        ledger.finish({"a/b": "0" * 64}, {})
    assert not target.exists()


def test_work_of_another_version_is_refused_until_it_may_be_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "store"
    with hold(target, {"seed": 0}, overwrite=False) as ledger:
        ledger.record("x", {"n": 1})
    note = unfinished(target) / "job.json"
    facts = json.loads(note.read_text())
    del facts["version"]  # as the first version wrote it
    note.write_text(json.dumps(facts))
    with (
        pytest.raises(CallError, match=r"another version.*--overwrite"),
        hold(target, {"seed": 0}, overwrite=False),
    ):
        pass
    assert (unfinished(target) / "done" / "x.json").exists()
    with hold(target, {"seed": 0}, overwrite=True) as ledger:
        assert ledger.names() == set()


def test_a_whole_file_is_there_when_its_block_is_left_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a" / "file"
    with whole_file(path) as file:
        file.write(b"one")
        assert not path.exists()
    assert path.read_bytes() == b"one"
    with pytest.raises(TypeError), whole_file(path) as file:
        file.writelines([b"two", "no bytes"])  # type: ignore[list-item]
    assert path.read_bytes() == b"one"
    assert write_whole(path, (part for part in (b"th", b"ree"))) == hashlib.sha256(b"three").hexdigest()
    assert [left.name for left in path.parent.iterdir()] == ["file"]
