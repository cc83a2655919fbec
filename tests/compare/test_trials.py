"""Arms x trials: the same numbers whatever happens on the way, and a sentence for whatever cannot be done."""

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from support.scans import gone, lungs, write_scan

import genesis_toolkit.training.compare.evidence
import genesis_toolkit.training.compare.trials
from genesis_toolkit.cli.compare import remaining
from genesis_toolkit.cli.train import main
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import write_whole
from genesis_toolkit.pipeline.targets.extract import extract_targets
from genesis_toolkit.pipeline.targets.parameters import MaskParameters, NoduleParameters
from genesis_toolkit.training.compare.curves import Point
from genesis_toolkit.training.compare.evidence import FILES, Evidence, files_of, weigh
from genesis_toolkit.training.compare.plan import (
    Arm,
    Trial,
)
from genesis_toolkit.training.compare.registration import Primary, Registration, parse_primary
from genesis_toolkit.training.compare.scores import parse_table
from genesis_toolkit.training.compare.trials import compare_trials, scores_table
from genesis_toolkit.training.finetune.parameters import FinetuneParameters
from genesis_toolkit.training.networks.registry import build_network

SCRATCH = [Arm("scratch-3d"), Arm("scratch-2d")]
QUICK = FinetuneParameters(epochs=3, batch_size=4)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six scans as two target stores: nodules.zarr, where class 1 is bright, and blobs.zarr, with masks."""
    folder = tmp_path_factory.mktemp("trials")
    rows = ["seriesuid,coordX,coordY,coordZ,class"]
    for number, subset in enumerate((0, 1, 2, 5, 7, 8)):
        voxels = lungs(number, (36, 36, 12))
        voxels[6:16, 6:16, :] += 600
        write_scan(folder / "LUNA16" / f"subset{subset}" / f"1.{number}.mhd", voxels)
        mask = (voxels > -300).astype(np.uint8)
        write_scan(folder / "LUNA16" / "seg-lungs-LUNA16" / f"1.{number}.mhd", mask)
        for x, kind in ((10, 1), (14, 1), (20, 0), (24, 0), (25, 0)):
            rows.append(f"1.{number},{-100.5 + 0.7 * x},{-80.25 + 0.7 * 14},{30 + 1.5 * 6},{kind}")
    (folder / "LUNA16" / "candidates_V2.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    extract_targets(folder / "LUNA16", folder / "nodules.zarr", NoduleParameters(size=(32, 32, 8)), workers=1)
    masks = MaskParameters(size=(32, 32, 8), cubes_per_scan=2)
    extract_targets(folder / "LUNA16", folder / "blobs.zarr", masks, workers=1)
    return folder


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fine-tuning and drawing that take no time; the folders it was called with.

    With --lr 0.5 the trials of seed 1 fail, until `again` is put among the folders.
    """
    called: list[str] = []

    def fake(targets: Path, out: Path, parameters: FinetuneParameters, **given: Any) -> SimpleNamespace:
        called.append("/".join(out.parts[-3:]))
        if parameters.lr == 0.5 and parameters.seed == 1 and "again" not in called:
            raise DataError("The loss is no longer finite.")
        score = 0.5 + parameters.seed / 100 + 0.1 * ("3d" in str(out)) + given["beginning"].width / 1000
        out.mkdir(parents=True)
        (out / "last.pt").write_bytes(b"large")
        after = {str(step): {"score": score - 0.1 / step} for step in parameters.at_steps}
        told = {"score": score, "at_steps": after}
        (out / "result.json").write_text(json.dumps(told), encoding="utf-8")
        return SimpleNamespace(score=score, notes=["a window of its own"])

    def plain(evidence: Evidence) -> dict[str, bytes]:
        return dict.fromkeys(FILES, json.dumps(evidence.as_dict()).encode())

    monkeypatch.setattr(genesis_toolkit.training.compare.trials, "finetune", fake)
    monkeypatch.setattr(genesis_toolkit.training.compare.evidence, "files_of", plain)
    return called


def run(stores: Path, out: Path, **given: Any) -> Any:
    """A comparison on nodules with two trials, but for what is given, in this process."""
    names = given.pop("names", ["nodules"])
    arms = given.pop("arms", SCRATCH)
    parameters = given.pop("parameters", QUICK)
    given = {"trials": 2, "width": 2, "workers": 1, "device": "cpu", **given}
    return compare_trials([stores / f"{name}.zarr" for name in names], arms, out, parameters, **given)


def contents(folder: Path) -> dict[str, bytes]:
    """All files but those that hold times, or nothing."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("lock", "losses.jsonl")
    }


# --- pure -----------------------------------------------------------------------------------------------


def test_the_time_left_is_that_of_the_work_of_this_call() -> None:
    told: list[str] = []
    times = iter([100.0, 160.0, 220.0, 230.0])
    report = remaining(lambda what, done, total: told.append(what), lambda: next(times))
    for done in (6, 6, 8, 10):
        report("work", done, 10)
    assert told == ["work", "work", "2 min left, work", "work"]


def test_the_table_of_scores_reads_back_as_the_same_evidence() -> None:
    scores = {
        Trial(task, arm, seed): 0.1 * seed + 1 / 3 + 0.01 * len(arm)
        for task in ("a, b", "ö")
        for arm in ("x", "longer")
        for seed in (5, 6, 7)
    }
    summaries = parse_table(scores_table(scores), "scores.csv")
    assert [(one.task, one.arm, one.n) for one in summaries][:2] == [("a, b", "x", 3), ("a, b", "longer", 3)]
    plan = SimpleNamespace(
        tasks=[SimpleNamespace(name="a, b", code="ncc"), SimpleNamespace(name="ö", code="dxc")]
    )
    ours = genesis_toolkit.training.compare.trials.evidence_of(plan, scores)  # type: ignore[arg-type]
    assert list(ours.summaries) == summaries
    assert ours.comparisons == weigh(summaries).comparisons
    assert ours.metrics == {"a, b": "auc", "ö": "mean_auc"}


def test_the_chart_names_the_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    words = genesis_toolkit.training.compare.figure._SETTINGS | {"svg.fonttype": "none"}
    monkeypatch.setattr(genesis_toolkit.training.compare.figure, "_SETTINGS", words)
    table = b"task,arm,mean,sd,n\na,x,1,1,3\na,y,2,1,3\nb,x,1,1,3\nb,y,2,1,3\n"
    summaries = parse_table(table, "t")
    chart = files_of(weigh(summaries, metrics={"a": "iou"}))["figure.svg"].decode()
    assert chart.count("IoU, n = 3, fewer than 10 trials") == 1
    assert chart.count("n = 3, fewer than 10 trials") == 2


# --- with fine-tuning that takes no time ------------------------------------------------------------------


def test_what_is_done_is_read_and_more_may_be_added(stores: Path, tmp_path: Path, faked: list[str]) -> None:
    out, said = tmp_path / "out", list[str]()
    first = run(stores, out, say=said.append)
    assert faked == [
        "nodules/scratch-3d/0",
        "nodules/scratch-2d/0",
        "nodules/scratch-3d/1",
        "nodules/scratch-2d/1",
    ]
    assert [sentence for sentence in said if "window" in sentence] == [
        "Note: scratch-3d on nodules: a window of its own",
        "Note: scratch-2d on nodules: a window of its own",
    ]
    assert "nodules/scratch-3d/1: AUC 0.6120" in said
    with (out / "scores.csv").open(encoding="utf-8", newline="") as file:
        assert [row[3] for row in csv.reader(file)] == ["value", "0.602", "0.612", "0.502", "0.512"]
    told = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert (told["metrics"], told["fewer_than_10_trials"]) == ({"nodules": "auc"}, True)
    assert not list(out.rglob("last.pt"))
    before = contents(out)
    del faked[:]
    for place in (out, out / "trials" / "nodules" / "scratch-3d" / "0"):
        (place / ".run.json.0123.part").write_bytes(b"half")  # as a kill leaves it
    again = run(stores, out)
    assert (faked, first.status, again.status) == ([], "written", "already there")
    assert contents(out) == before
    arms = [*SCRATCH, Arm("mine", stores / "weights.pt")]
    torch.save(build_network("unet3d", 4).state_dict(), stores / "weights.pt")
    run(stores, out, names=["nodules", "blobs"], arms=arms, trials=3)
    assert len(faked) == 3 * 3 * 2 - 4
    assert not {"nodules/scratch-3d/0", "nodules/scratch-2d/1"} & set(faked)
    assert len((out / "scores.csv").read_text(encoding="utf-8").splitlines()) == 1 + 3 * 3 * 2
    fewer = run(stores, out)
    assert (fewer.evidence, contents(out)["results.json"]) == (first.evidence, before["results.json"])


def test_another_comparison_is_refused_and_says_what_differs(
    stores: Path, tmp_path: Path, faked: list[str]
) -> None:
    out = tmp_path / "out"
    weights = tmp_path / "weights.pt"
    torch.save(build_network("unet3d", 2).state_dict(), weights)
    arms = [Arm("scratch-3d"), Arm("genesis-ct-3d", weights)]
    run(stores, out, arms=arms, width=None)
    before = contents(out)
    torch.save(build_network("unet3d", 2).state_dict(), weights)
    moved = tmp_path / "nodules.zarr"
    extract_targets(stores / "LUNA16", moved, NoduleParameters(size=(32, 32, 8), negatives=1), workers=1)
    for change, said in (
        ({"arms": arms}, "weights .* of the arm genesis-ct-3d, but this call has"),
        ({"parameters": replace(QUICK, lr=0.01)}, "--lr 0.001, but this call has --lr 0.01"),
        ({"width": 4}, "width 2 of the arm scratch-3d, but this call has 4"),
    ):
        with pytest.raises(CallError, match=said):
            run(stores, out, **change)
    with pytest.raises(CallError, match="a different store nodules"):
        compare_trials([moved], SCRATCH, out, QUICK, trials=2, width=2, workers=1)
    assert contents(out) == before
    run(stores, out, parameters=replace(QUICK, lr=0.01), overwrite=True)
    assert len(faked) == 8
    assert contents(out) != before


def test_a_trial_that_fails_is_named_and_the_others_go_on(
    stores: Path, tmp_path: Path, faked: list[str]
) -> None:
    out, said = tmp_path / "out", list[str]()
    with pytest.raises(
        DataError, match=r"2 of 6 trials failed.*nodules/scratch-3d/1: The loss is no longer finite"
    ):
        run(stores, out, trials=3, parameters=replace(QUICK, lr=0.5), say=said.append)
    assert len(faked) == 6
    assert "nodules/scratch-2d/1: failed. The loss is no longer finite." in said
    assert not {"scores.csv", *FILES} & {path.name for path in out.iterdir()}
    faked.append("again")
    run(stores, out, trials=3, parameters=replace(QUICK, lr=0.5))
    assert faked[-2:] == ["nodules/scratch-3d/1", "nodules/scratch-2d/1"]
    assert len(faked) == 6 + 1 + 2


def test_other_things_in_the_folder_stay(stores: Path, tmp_path: Path, faked: list[str]) -> None:
    table = tmp_path / "t.csv"
    table.write_text("task,arm,mean,sd,n\na,x,1,1,3\na,y,2,1,3\n", encoding="utf-8")
    out = tmp_path / "out"
    assert call("--from-csv", table, "--out", out).exit_code == 0
    with pytest.raises(CallError, match=r"holds other results .*use --overwrite"):
        run(stores, out)
    run(stores, out, overwrite=True)
    refused = call("--from-csv", table, "--out", out, "--overwrite")
    assert (refused.exit_code, "lock, which is not a file of a comparison" in refused.stderr) == (2, True)
    (out / "trials.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="damaged or was written by another version: use --overwrite"):
        run(stores, out)
    (out / "thesis.txt").write_text("three years", encoding="utf-8")
    with pytest.raises(CallError, match=r"thesis\.txt"):
        run(stores, out, overwrite=True)
    assert (out / "thesis.txt").exists()


def test_a_full_disk_leaves_no_results_beside_others(
    stores: Path, tmp_path: Path, faked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(stores, out)

    def full(path: Path, *parts: bytes) -> str:
        if path.name == "figure.svg":
            raise OSError(28, "No space left on device", str(path))
        return write_whole(path, *parts)

    with monkeypatch.context() as patch:
        patch.setattr(genesis_toolkit.training.compare.evidence, "write_whole", full)
        with pytest.raises(OSError, match="No space left"):
            run(stores, out, trials=3)
    assert not (out / "results.json").exists()
    run(stores, out, trials=3)
    for trials in (2, 3):
        run(stores, tmp_path / "whole", trials=trials)
    assert contents(out) == contents(tmp_path / "whole")


# --- curves, and what was registered -----------------------------------------------------------------------


def test_a_curve_over_labels_is_a_comparison_at_each_number(
    stores: Path, tmp_path: Path, faked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Any, int]] = []
    fake = genesis_toolkit.training.compare.trials.finetune

    def noted(targets: Path, out: Path, parameters: FinetuneParameters, **given: Any) -> Any:
        asked.append((out.parent.parent.name, parameters.labels, parameters.seed))
        return fake(targets, out, parameters, **given)

    monkeypatch.setattr(genesis_toolkit.training.compare.trials, "finetune", noted)
    out = tmp_path / "out"
    found = run(stores, out, labels=[1, 3]).evidence
    assert asked == [(arm.name, n, seed) for seed in (0, 1) for n in (1, 3) for arm in SCRATCH]
    assert "labels-1/scratch-3d" not in faked
    assert (out / "trials/nodules/scratch-3d/labels-3/1/result.json").exists()
    assert [(one.task, one.arm) for one in found.summaries] == [
        (f"nodules, {n} labels", arm.name) for n in (1, 3) for arm in SCRATCH
    ]
    assert found.points["nodules, 3 labels"] == Point("nodules", "labelled cases", 3.0)
    assert [one.task for one in found.comparisons] == ["nodules, 1 labels", "nodules, 3 labels"]
    first, second = found.comparisons
    assert first.p is not None
    assert first.p_holm == pytest.approx(min(1, 2 * first.p))  # both points are one family
    assert second.first.scores.keys() == second.second.scores.keys() == {"0", "1"}
    done = len(asked)
    run(stores, out, labels=[1, 2, 3])
    assert [n for _, n, _ in asked[done:]] == [2] * 4
    table = (out / "scores.csv").read_text(encoding="utf-8")
    assert '"nodules, 2 labels",scratch-2d,1,' in table
    with pytest.raises(CallError, match="--labels of a curve, but this call has --labels 100%"):
        run(stores, out)


def test_a_curve_over_steps_is_read_from_the_same_trials(
    stores: Path, tmp_path: Path, faked: list[str]
) -> None:
    given = FinetuneParameters(steps=50, batch_size=4, at_steps=(5, 50))
    found = run(stores, tmp_path / "out", parameters=given).evidence
    assert len(faked) == 4
    means = {(one.task, one.arm): one.mean for one in found.summaries}
    assert means["nodules, 5 steps", "scratch-3d"] == pytest.approx(0.607 - 0.02)
    assert means["nodules, 50 steps", "scratch-3d"] == pytest.approx(0.607 - 0.002)
    assert found.points["nodules, 5 steps"] == Point("nodules", "steps", 5)
    result = tmp_path / "out/trials/nodules/scratch-3d/0/result.json"
    result.write_text('{"score": 0.5}', encoding="utf-8")
    with pytest.raises(DataError, match="lacks scores after some steps"):
        run(stores, tmp_path / "out", parameters=given)


@pytest.mark.parametrize(
    ("labels", "at_steps", "said"),
    [
        ([1, 0.5], (), "is not a curve"),
        ([2, 2], (), "is not a curve"),
        ([1, 2], (5,), "two curves at once"),
        ([1, 9], (), "only 3 scans"),
    ],
)
def test_what_makes_no_curve_is_refused(
    stores: Path, tmp_path: Path, faked: list[str], labels: list[Any], at_steps: tuple[int, ...], said: str
) -> None:
    given = FinetuneParameters(steps=50, at_steps=at_steps)
    with pytest.raises(CallError, match=said):
        run(stores, tmp_path / "out", parameters=given, labels=labels)
    assert not faked


def test_what_decides_is_registered_before_any_trial(
    stores: Path, tmp_path: Path, faked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, seen = tmp_path / "out", list[str]()
    fake = genesis_toolkit.training.compare.trials.finetune

    def noted(*given: Any, **more: Any) -> Any:
        seen.append(hashlib.sha256((out / "registration.json").read_bytes()).hexdigest())
        return fake(*given, **more)

    monkeypatch.setattr(genesis_toolkit.training.compare.trials, "finetune", noted)
    primary = Primary("nodules, 3 labels", "scratch-3d", "scratch-2d")
    found = run(stores, out, labels=[1, 3], primary=primary).evidence
    assert found.registration == Registration(seen[0], primary, ())
    assert len(set(seen)) == 1
    told = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert told["registration"]["sha256"] == seen[0]
    assert (found.primary, found.primary and found.primary.task) == (found.comparisons[1], primary.task)
    kept = json.loads((out / "registration.json").read_text(encoding="utf-8"))
    assert (kept["seeds"], kept["labels"], kept["test"]) == ([0, 1], ["1", "3"], "welch_two_sided")
    assert kept["primary"] == {"task": primary.task, "first": "scratch-3d", "second": "scratch-2d"}
    assert kept["parameters"]["epochs"] == 3
    more = run(stores, out, labels=[1, 3], primary=primary, trials=3).evidence
    assert more.registration == Registration(seen[0], primary, ("seeds",))
    other = run(stores, out, labels=[1, 3]).evidence
    assert other.registration is not None
    assert other.registration.primary == primary  # a later call cannot choose another
    text = (out / "registration.json").read_text(encoding="utf-8")
    (out / "registration.json").write_text(text.replace("3 labels", "1 labels"))
    with pytest.raises(DataError, match=r"registration\.json was changed since the comparison started"):
        run(stores, out, labels=[1, 3])
    (out / "registration.json").unlink()
    with pytest.raises(DataError, match=r"registration\.json is missing since"):
        run(stores, out, labels=[1, 3])


def test_a_single_outcome_is_the_primary_one(stores: Path, tmp_path: Path, faked: list[str]) -> None:
    alone = run(stores, tmp_path / "a").evidence
    assert alone.primary is not None
    assert run(stores, tmp_path / "b", names=["nodules", "blobs"]).evidence.primary is None
    with pytest.raises(CallError, match="is not an outcome here; allowed: nodules,scratch-3d:scratch"):
        run(stores, tmp_path / "c", primary=Primary("nodules", "scratch-2d", "scratch-3d"))
    for text in ("nodules", "nodules,a", "a:b", ",a:b"):
        with pytest.raises(CallError, match="is not an outcome"):
            parse_primary(text)
    assert parse_primary("t, 20 labels, a:b") == Primary("t, 20 labels", "a", "b")


# --- the command ------------------------------------------------------------------------------------------


def call(*words: object) -> Result:
    return CliRunner().invoke(main, ["compare", *map(str, words)])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("a.zarr", "--from-csv", "t.csv"), "omit the target stores"),
        (("--from-csv", "t.csv", "--arm", "scratch-3d"), "omit --arm"),
        (("--from-csv", "t.csv", "--trials", "10"), "omit --trials"),
        (("--arm", "scratch-3d", "--arm", "scratch-2d"), "No target store was given"),
        (("a.zarr", "--arm", "scratch-3d"), "only scratch-3d was given"),
        (("a.zarr", "--arm", "scratch-3d", "--arm", "genesis-ct-3d"), "needs weights"),
        (
            ("a.zarr", "b/a.zarr.zip", "--arm", "scratch-3d", "--arm", "scratch-2d"),
            "would both be the task a",
        ),
        (("a.zarr", "--arm", "scratch-3d", "--arm", "scratch-2d", "--trials", "1"), "--trials 1 is out of"),
        (("a.zarr", "--arm", "scratch-3d", "--arm", "scratch-2d", "--labels", "ten"), "neither a share"),
        (("a.zarr", "--arm", "scratch-3d", "--arm", "scratch-2d", "--labels", "5,x"), "neither a share"),
        (("a.zarr", "--arm", "scratch-3d", "--arm", "scratch-2d", "--primary", "a"), "is not an outcome"),
    ],
)
def test_a_wrong_call_is_told_in_a_sentence(
    words: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("a.zarr", "b/a.zarr.zip", "t.csv"):
        (tmp_path / place).mkdir(parents=True)
    done = call(*words, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_is_said_before_any_trial(stores: Path, tmp_path: Path, faked: list[str]) -> None:
    small = tmp_path / "small.zarr"
    extract_targets(stores / "LUNA16", small, NoduleParameters(size=(16, 16, 8)), workers=1)
    arms = ("--arm", "scratch-3d", "--arm", "scratch-2d", "--width", 2, "--out", tmp_path / "out")
    for store, more, said in (
        (small, (), "scratch-2d cannot be fine-tuned on"),
        (stores / "nodules.zarr", ("--labels", 4), "only 3 scans"),
        (stores / "nodules.zarr", ("--pairs", "scratch-2d:scratch"), "not an arm here"),
        (stores / "nodules.zarr", ("--workers", 0), "--workers 0 is out of range"),
    ):
        done = call(store, *arms, *more)
        assert (done.exit_code, said in done.stderr) == (2, True), done.output
    assert not faked
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_which_trials_there_are(stores: Path, tmp_path: Path, faked: list[str]) -> None:
    out = tmp_path / "out"
    words = (
        stores / "nodules.zarr",
        "--out",
        out,
        "--arm",
        "scratch-3d",
        "--arm",
        "scratch-2d",
        "--width",
        2,
    )
    done = call(*words, "--dry-run", "--trials", 3)
    assert done.exit_code == 0, done.output
    assert "slice by slice" in done.stdout
    assert "Left to do: 6 trials." in done.stderr
    assert not out.exists()
    assert call(*words, "--trials", 2, "--workers", 1, "--device", "cpu").exit_code == 0
    told = json.loads(call(*words, "--dry-run", "--trials", 3, "--json").stdout)
    assert [trial["done"] for trial in told["trials"]] == [True] * 4 + [False] * 2
    other = call(*words, "--dry-run", "--lr", "0.5")
    assert (other.exit_code, "--lr 0.001" in other.stderr) == (2, True)


@pytest.mark.full
def test_interrupted_killed_and_resumed_it_ends_with_the_same_bytes(stores: Path, tmp_path: Path) -> None:
    run(stores, tmp_path / "whole", parameters=replace(QUICK, select="best"))  # a checkpoint an epoch
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "genesis_toolkit.cli.train",
        "compare",
        str(stores / "nodules.zarr"),
        "--out",
        str(out),
    ]
    command += "--arm scratch-3d --arm scratch-2d --width 2 --trials 2 --epochs 3".split()
    command += "--select best --batch-size 4 --device cpu --workers".split()

    def until(there: Callable[[], bool], kill: Callable[[subprocess.Popen[str]], None]) -> tuple[int, str]:
        work = subprocess.Popen(
            [*command, "2"], stderr=subprocess.PIPE, encoding="utf-8", start_new_session=True
        )
        while not there() and work.poll() is None:
            time.sleep(0.01)
        assert work.poll() is None, work.stderr and work.stderr.read()
        kill(work)
        _, said = work.communicate()
        gone(work.pid)  # with its processes
        return work.returncode, said

    # Ctrl-C, which a terminal sends to all of them, in the middle of the first trials.
    code, said = until(lambda: any(out.rglob("last.pt")), lambda work: os.killpg(work.pid, signal.SIGINT))
    assert code == 130
    assert said.endswith("the same command continues from there.\n")
    # SIGKILL, which its processes are not told of, with some trials done and others begun.
    results = len(list(out.rglob("result.json")))
    code, _ = until(
        lambda: len(list(out.rglob("result.json"))) > results, lambda work: os.kill(work.pid, signal.SIGKILL)
    )
    assert code == -signal.SIGKILL
    assert not (out / "results.json").exists()
    assert len(list(out.rglob("result.json"))) < 4
    done = subprocess.run([*command, "1", "--json"], capture_output=True, encoding="utf-8", check=True)
    assert json.loads(done.stdout)["status"] == "written"
    assert contents(out) == contents(tmp_path / "whole")
