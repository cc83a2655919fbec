"""Labels of a table on their way into a store: of scans, of images, with unknown ones, and back again."""

import csv
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from support.scans import lungs, write_scan

import genesis_toolkit as gt
from genesis_toolkit.cli.prep import main
from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.pipeline.targets.cut import averaged

TABLED = ["--label-table", "TABLE", "--label-columns"]


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, words)))


def made(*words: str | Path) -> Result:
    done = call(*words)
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for number in range(4):
        write_scan(tmp_path / "scans" / f"p{number}" / "ct.mha", lungs(number, (20, 18, 17)))
    rows = "scan,nodule,sex,age\np0/ct,1,F,70\np1/ct.mha,0,M,\np2/ct,,F,40\np9/ct,1,M,50\n"
    (tmp_path / "labels.csv").write_text(rows)
    (tmp_path / "split.csv").write_text("scan,part\np0/ct,train\np1/ct,validation\np2/ct,test\np3/ct,train\n")
    return tmp_path / "scans"


def asked(scans: Path, store: Path) -> list[str | Path]:
    table, split = scans.parent / "labels.csv", scans.parent / "split.csv"
    return ["extract-targets", scans, store, "--label-table", table, "--split-file", split, "--size", "8,8,8"]


def test_scans_have_the_labels_of_their_rows(scans: Path, tmp_path: Path) -> None:
    store = tmp_path / "t.zarr"
    done = made(*asked(scans, store), "--label-columns", "nodule,sex,age>60")
    assert "1 scans without a row in the table" in done.output
    targets = gt.open_store(store)
    assert isinstance(targets, gt.TargetStore)
    assert (targets.task, targets.classes) == ("classify", ("nodule", "sex=M", "age>60"))
    assert targets.scans.path.tolist() == [f"p{n}/ct.mha" for n in range(3)]
    assert targets.labels is not None
    assert targets.labels.tolist() == [[1, 0, 1], [0, 1, 255], [255, 0, 0]]
    assert targets.table.fold.tolist() == [0, 1, 2]
    for number in range(3):
        cube, labels = targets[number]
        whole = averaged(lungs(number, (20, 18, 17)), (8, 8, 8), Window())
        np.testing.assert_array_equal(cube, whole)
        np.testing.assert_array_equal(labels, targets.labels[number])
    assert "nothing done" in made(*asked(scans, store), "--label-columns", "nodule,sex,age>60").output
    facts = json.loads(made("info", store, "--json").stdout)
    assert facts["folds"]["test"]["classes"] == {"nodule": 0, "sex=M": 0, "age>60": 0}
    assert facts["parameters"]["label_table"] == "labels.csv"
    verified = json.loads(made("verify", store, "--source", scans, "--json").stdout)
    assert verified["cut_again"] == 3
    made("preview", store, tmp_path / "sheet.png")
    (tmp_path / "labels.csv").write_text("scan,nodule,sex,age\np0/ct,0,F,70\np1/ct,0,M,\np2/ct,1,F,40\n")
    assert "lists have changed" in " ".join(call("verify", store, "--source", scans).output.split())


def test_cubes_of_a_scan_share_its_labels(scans: Path, tmp_path: Path) -> None:
    store = tmp_path / "t.zarr"
    made(*asked(scans, store), "--label-columns", "nodule", "--cubes-per-scan", "3")
    targets = gt.open_store(store)
    assert isinstance(targets, gt.TargetStore)
    assert targets.labels is not None
    assert targets.labels.tolist() == [[1]] * 3 + [[0]] * 3  # that of p2 is not known
    for number in range(6):
        x, y, z = targets.table.corner[number]
        voxels = lungs(int(targets.table.scan[number]), (20, 18, 17))[x : x + 8, y : y + 8, z : z + 8]
        np.testing.assert_array_equal(targets[number][0], voxels.clip(-1000, 1000))
    made("verify", store, "--source", scans)


@pytest.mark.parametrize("size", [(4, 3, 2), (5, 6, 7), (3, 9, 1)])
def test_a_whole_scan_is_averaged_exactly(size: tuple[int, int, int]) -> None:
    """Against fractions, voxel by voxel: the share of each voxel in each part, halves to even."""
    shape = (5, 6, 3)
    voxels = np.random.default_rng(3).integers(-1200, 1200, shape).astype(np.int16)
    voxels[:2] = (voxels[:2] // 2) * 2
    shares = [
        [
            [
                max(Fraction(0), min(Fraction(n * (j + 1), m), i + 1) - max(Fraction(n * j, m), i))
                for i in range(n)
            ]
            for j in range(m)
        ]
        for n, m in zip(shape, size, strict=True)
    ]
    wanted = np.empty(size, int)
    part = Fraction(np.prod(shape).item(), np.prod(size).item())
    for place in np.ndindex(size):
        total = sum(
            shares[0][place[0]][x]
            * shares[1][place[1]][y]
            * shares[2][place[2]][z]
            * int(voxels[x, y, z].clip(-1000, 1000))
            for x, y, z in np.ndindex(shape)
        )
        wanted[place] = round(total / part)
    np.testing.assert_array_equal(averaged(voxels, size, Window()), wanted)


def test_mr_is_classified_too(scans: Path, tmp_path: Path) -> None:
    store = tmp_path / "t.zarr"
    made(*asked(scans, store), "--label-columns", "sex", "--window", "p1,p99")
    targets = gt.open_store(store)
    assert (targets.scans.window is not None, targets.attributes["unit"]) == (True, "mapped intensity")
    made("verify", store, "--source", scans)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--task", "classify"], "needs a table and its columns"),
        (["--label-table", "TABLE"], "needs a table and its columns"),
        (
            ["--label-table", "TABLE", "--label-columns", "age"],
            "give a threshold, for example --label-columns 'age>70'",
        ),
        (
            [*TABLED, "sex", "--negatives", "3"],
            "--negatives does not apply",
        ),
        (
            [*TABLED, "sex", "--task", "dxc"],
            "does not apply to --task dxc",
        ),
        ([], "Missing option '--task'. Give ncc, segment, dxc or classify"),
        (["--task", "ncc", "--layout", "images"], "--task ncc is for CT scans, but these are X-ray images"),
    ],
)
def test_wrong_calls_are_refused(scans: Path, tmp_path: Path, options: list[str], why: str) -> None:
    options = [str(tmp_path / "labels.csv") if one == "TABLE" else one for one in options]
    refused = call("extract-targets", scans, tmp_path / "t.zarr", *options)
    assert refused.exit_code == 2
    assert why in " ".join(refused.output.split())
    assert not (tmp_path / "t.zarr").exists()


def test_sex_view_and_age_of_the_real_table_of_nih(real_data: Path, tmp_path: Path) -> None:
    """One option away; the folds are those of NIH's lists, and the labels those that csv reads."""
    nih, store = real_data / "nih", tmp_path / "views.zarr"
    made(
        *("extract-targets", nih, store, "--label-table", nih / "Data_Entry_2017.csv"),
        *("--label-columns", "View Position,Patient Gender,Patient Age>50", "--size", "32,32"),
    )
    targets = gt.open_store(store)
    assert isinstance(targets, gt.TargetStore)
    assert targets.classes == ("View Position=PA", "Patient Gender=M", "Patient Age>50")
    with (nih / "Data_Entry_2017.csv").open() as file:
        rows = {row["Image Index"]: row for row in csv.DictReader(file)}
    tested = (nih / "test_list.txt").read_text().split()
    assert targets.labels is not None
    assert len(targets) == len(rows) == 30
    for number, path in enumerate(targets.scans.path[targets.table.scan].tolist()):
        row = rows[path.rpartition("/")[2]]
        wanted = [row["View Position"] == "PA", row["Patient Gender"] == "M", int(row["Patient Age"]) > 50]
        assert targets.labels[number].tolist() == wanted
        assert (targets.table.fold[number] == 2) == (row["Image Index"] in tested)
    made("verify", store, "--source", nih)
    refused = call(
        *("extract-targets", nih, tmp_path / "no.zarr", "--label-table", nih / "Data_Entry_2017.csv"),
        *("--label-columns", "Patient Age"),
    )
    assert refused.exit_code == 2
    assert "'Patient Age' holds numbers" in refused.output
