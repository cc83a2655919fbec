"""Labels from tables that the test wrote: every rule for columns, and which row is of which scan."""

from pathlib import Path

import pytest

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.scans.find import Source
from genesis_toolkit.pipeline.targets.label_table import labels_by_source, read_labels

TABLE = """\
Follow-up #,Image Index,mass,view,age,grade,kind,uncertain,year
0,a.png,1,PA,058Y,1,x,1.0,2001
1,b.png,0,AP,61,2,y,-1.0,2002
2,c.png,,PA,7,3,z,,2003

3,d.png,1,,018M,3,,0.0,
"""


def written(folder: Path, text: str = TABLE) -> Path:
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8-sig")
    return path


@pytest.mark.parametrize(
    ("column", "classes", "labels"),
    [
        ("mass", ["mass"], [[1], [0], [255], [1]]),
        ("view", ["view=PA"], [[1], [0], [1], [255]]),
        ("kind", ["kind=x", "kind=y", "kind=z"], [[1, 0, 0], [0, 1, 0], [0, 0, 1], [255, 255, 255]]),
        ("age>58", ["age>58"], [[0], [1], [0], [0]]),
        ("age>=58", ["age>=58"], [[1], [1], [0], [0]]),
        ("age < 2", ["age < 2"], [[0], [0], [0], [1]]),  # 018M is a year and a half
        ("age<=7", ["age<=7"], [[0], [0], [1], [1]]),
        ("grade=3", ["grade=3"], [[0], [0], [1], [1]]),
        ("uncertain=1", ["uncertain=1"], [[1], [0], [255], [0]]),
        ("view=AP", ["view=AP"], [[0], [1], [0], [255]]),
        ("year>2001", ["year>2001"], [[0], [1], [1], [255]]),
    ],
)
def test_columns_become_classes(
    tmp_path: Path, column: str, classes: list[str], labels: list[list[int]]
) -> None:
    found = read_labels(written(tmp_path), [column])
    assert list(found.classes) == classes
    assert [list(row) for row in found.labels] == labels


def test_several_columns_stand_side_by_side(tmp_path: Path) -> None:
    found = read_labels(written(tmp_path), ["mass", "kind"])
    assert found.classes == ("mass", "kind=x", "kind=y", "kind=z")
    assert found.labels[1] == (0, 0, 1, 0)


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        (["nothing"], "has no column 'nothing'; its columns are Follow-up #, Image Index, mass"),
        (["age"], "'age' has 4 different values|holds numbers"),
        (["grade"], "'grade' holds numbers such as 3.*'grade>3', or a value, 'grade=3'"),
        (["uncertain"], "'uncertain' holds numbers"),
        (["age>old"], "'old' is not a number"),
        (["view>60"], "'view' holds 'PA', which is not a number"),
        (["mass", "mass"], "name each class once"),
    ],
)
def test_columns_that_give_no_classes_are_refused(tmp_path: Path, columns: list[str], why: str) -> None:
    with pytest.raises(CallError, match=why):
        read_labels(written(tmp_path), columns)


@pytest.mark.parametrize("words", [1, 17])
def test_one_word_or_too_many_are_no_classes(tmp_path: Path, words: int) -> None:
    text = "name,word\n" + "".join(f"{row},w{row % words}\n" for row in range(40))
    with pytest.raises(CallError, match=f"has {words} different values, but classes need 2 to 16"):
        read_labels(written(tmp_path, text), ["word"])


@pytest.mark.parametrize(("text", "why"), [("", "no row"), ("a,b\n", "no row"), ("a,a\n1,0\n", "2 columns")])
def test_tables_that_are_none_are_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(CallError, match=why):
        read_labels(written(tmp_path, text), ["a"])


def test_a_table_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CallError, match=r"--label-table .*none.csv: the file cannot be opened"):
        read_labels(tmp_path / "none.csv", ["a"])


def sources(*paths: str) -> list[Source]:
    return [Source(path.partition(".")[0], -1, path) for path in paths]


def test_rows_name_scans_in_whichever_column_names_most(tmp_path: Path) -> None:
    table = read_labels(written(tmp_path), ["mass"])
    found = labels_by_source("t", table, sources("images/a.png", "images/b.png", "0.png"))
    assert found == {"images/a.png": [1], "images/b.png": [0]}  # though one image is named as a follow-up


def test_a_name_of_two_scans_names_none(tmp_path: Path) -> None:
    text = "scan,mass\np1/ct,1\nct.nii.gz,0\np2/ct.nii.gz,0\n"
    table = read_labels(written(tmp_path, text), ["mass"])
    found = labels_by_source("t", table, sources("p1/ct.nii.gz", "p2/ct.nii.gz"))
    assert found == {"p1/ct.nii.gz": [1], "p2/ct.nii.gz": [0]}


def test_a_dot_in_an_identifier_is_no_suffix(tmp_path: Path) -> None:
    table = read_labels(written(tmp_path, "uid,mass\n1.3.6,1\n1.3.7,0\n1,0\n"), ["mass"])
    scans = [Source(uid, 0, f"subset0/{uid}.mhd") for uid in ("1.3.6", "1.3.7")]
    assert labels_by_source("t", table, scans) == {"subset0/1.3.6.mhd": [1], "subset0/1.3.7.mhd": [0]}


def test_two_rows_of_one_scan_must_say_the_same(tmp_path: Path) -> None:
    table = read_labels(written(tmp_path, "scan,mass\na,1\na.png,1\n"), ["mass"])
    assert labels_by_source("t", table, sources("a.png")) == {"a.png": [1]}
    table = read_labels(written(tmp_path, "scan,mass\na,1\na,0\n"), ["mass"])
    with pytest.raises(CallError, match=r"two rows for a\.png that differ"):
        labels_by_source("t", table, sources("a.png"))


def test_a_table_of_other_scans_is_refused(tmp_path: Path) -> None:
    table = read_labels(written(tmp_path), ["mass"])
    with pytest.raises(CallError, match=r"no column that identifies a scan, for example other\.png"):
        labels_by_source("t", table, sources("other.png"))
