"""What a run has come to so far: files as they may be found, at work, stopped, finished or torn."""

import json
from pathlib import Path
from typing import Any

import pytest

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.training.machine.run_folder import Run, hold_run
from genesis_toolkit.training.machine.so_far import read_so_far

RULES = {"epochs": 9, "patience": 3, "max_steps": None}


def make_run(folder: Path, losses: list[float], **change: Any) -> Path:
    """A pre-training run of epochs of 5 steps with these validation losses."""
    folder.mkdir()
    described = {"format": "genesis-pretrain-run", "parameters": RULES | change}
    (folder / "run.json").write_text(json.dumps(described), encoding="utf-8")
    lines = [described] + [
        {"epoch": number, "steps": 5, "validation_loss": loss} for number, loss in enumerate(losses, 1)
    ]
    (folder / "losses.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("losses", "change", "status", "rule"),
    [
        ([], {}, "stopped", None),
        ([0.5, 0.4, 0.3], {}, "stopped", None),
        ([0.5, 0.4, 0.3], {"epochs": 3}, "finished", "epochs"),
        ([0.5, 0.2, 0.3, 0.4], {}, "stopped", None),
        ([0.5, 0.2, 0.3, 0.4, 0.2], {}, "finished", "patience"),
        ([0.5, 0.4], {"max_steps": 10}, "finished", "max_steps"),
        ([0.5, 0.4], {"max_steps": 11}, "stopped", None),
    ],
)
def test_whether_a_run_is_finished(
    tmp_path: Path, losses: list[float], change: dict[str, Any], status: str, rule: str | None
) -> None:
    told = read_so_far(make_run(tmp_path / "run", losses, **change))
    assert (told.kind, told.status, told.stopped_by) == ("pretrain", status, rule)
    assert [record["validation_loss"] for record in told.records] == losses
    best = told.best
    assert (best and best["epoch"]) == (losses.index(min(losses)) + 1 if losses else None)


def test_a_run_at_work_is_left_alone(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [0.5, 0.4], epochs=2)
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert run["format"] == Run.format
    with hold_run(folder, Run):
        with (folder / "losses.jsonl").open("a") as file:
            file.write('{"epoch": 3, "ste')  # the next line is being written
        before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
        told = read_so_far(folder)
        assert (told.status, told.stopped_by, len(told.records)) == ("running", None, 2)
        assert before == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert read_so_far(folder).status == "finished"
    with hold_run(folder, Run):  # it can be held after it was asked
        pass


def test_of_fine_tuning_the_network_that_was_kept_counts(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", [0.2, 0.3])
    (folder / "run.json").write_text('{"format": "genesis-finetune-run"}', encoding="utf-8")
    lines = (folder / "losses.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines[1:]]
    records += [{"epoch": 3, "steps": 5, "validation_loss": None, "kept": False}]
    for kept, epoch in (([False, True, False], 2), ([False, False, False], 1)):
        told = [{**record, "kept": one} for record, one in zip(records, kept, strict=True)]
        text = "".join(f"{json.dumps(line)}\n" for line in [json.loads(lines[0]), *told])
        (folder / "losses.jsonl").write_text(text, encoding="utf-8")
        best = read_so_far(folder).best
        assert best is not None
        assert best["epoch"] == epoch


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(CallError, match=r"There is no run at .*nothing: give the folder"):
        read_so_far(tmp_path / "nothing")
    with pytest.raises(CallError, match=r"is not a run folder.*for a store, use genesis-prep info"):
        read_so_far(tmp_path)
    with hold_run(tmp_path / "new", Run), pytest.raises(CallError, match="has not started its first epoch"):
        read_so_far(tmp_path / "new")
    (tmp_path / "run.json").write_text('{"format": "genesis-comparison"}')
    with pytest.raises(CallError, match="is not a run of genesis-train pretrain or finetune"):
        read_so_far(tmp_path)
    (tmp_path / "run.json").write_text('{"format"')
    with pytest.raises(DataError, match=r"run\.json is damaged"):
        read_so_far(tmp_path)
