"""The split that users say themselves."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from support.damage import look
from support.dicom import SMALL, VOXELS, write_volume

import genesis_toolkit as gt
from genesis_toolkit.cli.prep import main
from genesis_toolkit.pipeline.cubes.split_file import read_split_file
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.training.feeding.split import split_cubes


def table(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for number, name in enumerate("abcd"):
        write_volume(tmp_path / "in" / f"{name}.mha", VOXELS + np.int16(number))
        write_volume(tmp_path / "masks" / f"{name}.mha", (VOXELS > -500).astype(np.int16))
    return tmp_path / "in"


UNSHUFFLED = gt.DegradeParameters(recipe=replace(gt.get_recipe("genesis"), shuffle_rate=0.0, paint_rate=0.0))
ROWS = "part,note,scan\ntest,,a.mha\n\nvalidation,x,b\nexclude,,c.mha\n train ,, d \ntrain,,gone\n"


def test_the_parts_are_recorded_and_decide(source: Path, tmp_path: Path) -> None:
    csv = table(tmp_path / "split.csv", "\ufeff" + ROWS)
    store = gt.extract_cubes(source, tmp_path / "c.zarr", SMALL, workers=1, split_file=csv).store
    assert store.scans.part is not None
    assert store.scans.part.tolist() == [2, 1, 3, 0]
    assert store.scans.status.tolist() == ["used", "used", "skipped", "used"]
    assert store.scans.reason.tolist()[2] == "excluded by the split file"
    split = split_cubes(store.scans, store.table)
    assert (split.validation.tolist(), split.train.tolist()) == ([3, 4, 5], [6, 7, 8])
    assert look(tmp_path / "c.zarr", source=source).findings == ()
    assert gt.extract_cubes(source, tmp_path / "c.zarr", SMALL, workers=1, split_file=csv).done_before
    pairs = gt.degrade_cubes(tmp_path / "c.zarr", tmp_path / "p.zarr", UNSHUFFLED, workers=1).store
    np.testing.assert_array_equal(pairs.scans.part, store.scans.part)


def test_a_table_that_grows_takes_scans_in_and_none_changes_sides(source: Path, tmp_path: Path) -> None:
    csv = table(tmp_path / "split.csv", ROWS)
    gt.extract_cubes(source, tmp_path / "c.zarr", SMALL, workers=1, split_file=csv)
    write_volume(source / "e.mha", VOXELS + 9)
    with pytest.raises(CallError, match=r"no row for e\.mha: add a row"):
        gt.extract_cubes(source, tmp_path / "c.zarr", SMALL, workers=1, split_file=csv)
    table(csv, ROWS + "validation,,e\n")
    store = gt.extract_cubes(source, tmp_path / "c.zarr", SMALL, workers=1, split_file=csv).store
    assert np.asarray(store.scans.part).tolist() == [2, 1, 3, 0, 1]
    table(csv, ROWS.replace("test,,a", "train,,a") + "validation,,e\n")
    with pytest.raises(CallError, match=r"a\.mha is in another part than before"):
        gt.extract_cubes(source, tmp_path / "c.zarr", SMALL, workers=1, split_file=csv)
    with pytest.raises(CallError, match="was made with split file"):
        gt.extract_cubes(source, tmp_path / "c.zarr", SMALL, workers=1)


def test_folds_of_targets_are_the_parts(source: Path, tmp_path: Path) -> None:
    csv = table(tmp_path / "split.csv", ROWS)
    asked = gt.MaskParameters(size=(4, 4, 2), cubes_per_scan=2, masks=tmp_path / "masks")
    store = gt.extract_targets(source, tmp_path / "t.zarr", asked, workers=1, split_file=csv).store
    assert isinstance(store, gt.TargetStore)
    assert store.table.fold.tolist() == [2, 2, 1, 1, 0, 0]
    assert np.asarray(store.scans.part).tolist() == [2, 1, 3, 0]
    found = look(tmp_path / "t.zarr", source=source)
    assert (found.findings, found.left_out, found.cut_again) == ((), (), 6)
    store.table.fold[:] = 0
    assert gt.extract_targets(source, tmp_path / "t.zarr", asked, workers=1, split_file=csv).done_before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("scan;part\n", "has the columns scan;part, but it needs scan,part"),
        ("", "has the columns none"),
        (
            "scan,part\na,trian\n",
            "row 2: 'a,trian' is invalid: a row must be a scan and train, validation, test or exclude",
        ),
        ("scan,part\n,train\n", "row 2"),
        ("scan,part\na\n", "row 2"),
        ("scan,part\na,train\na,test\n", "row 3: a is in two parts"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(CallError) as error:
        read_split_file(table(tmp_path / "s.csv", text))
    assert said in str(error.value)


def test_what_cannot_be_read_and_a_scan_in_two_parts_are_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes("scan,part\n\u00e9,train".encode("latin-1"))
    for name, said in (("none", "cannot be opened"), ("latin", "not a CSV table in UTF-8")):
        with pytest.raises(CallError, match=said):
            read_split_file(tmp_path / name)
    csv = table(tmp_path / "split.csv", ROWS + "train,,a\n")
    with pytest.raises(CallError, match=r"puts a\.mha into two parts"):
        gt.extract_cubes(source, tmp_path / "c.zarr", SMALL, split_file=csv)


@pytest.mark.parametrize(
    ("option", "value"), [("--subsets", "0"), ("--split", "train_val"), ("--split", "test")]
)
def test_it_excludes_the_other_splits(source: Path, tmp_path: Path, option: str, value: str) -> None:
    csv = table(tmp_path / "split.csv", ROWS)
    call = ["extract-cubes", str(source), str(tmp_path / "c.zarr"), "--split-file", str(csv), option, value]
    done = CliRunner().invoke(main, call)
    assert done.exit_code == 2
    assert all(fact in done.output for fact in ("--split-file", option, "omit one"))
