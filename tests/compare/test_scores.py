"""Tables of scores: what is read alike, and the line of what is wrong."""

from pathlib import Path

import pytest
from support.score_tables import TABLE, TRIALS

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.training.compare.scores import ArmSummary, parse_table

WRONG: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "is empty"),
    "blank": ("\n\n", "is empty"),
    "columns": ("task,arm,value\na,b,1\n", "has the columns 'task,arm,value'"),
    "semicolons": ("task;arm;mean;sd;n\n", "separated by commas"),
    "both kinds": ("task,arm,trial,value,mean,sd,n\n", "with no others"),
    "a column twice": ("task,arm,mean,sd,n,n\n", "with no others"),
    "no row": ("task,arm,mean,sd,n\n", "no rows below"),
    "UTF-16": (TABLE.encode("utf-16"), "not UTF-8 text"),
    "short row": (TABLE + "IUC,x,1\n", "line 18: 3 cells for 5 columns"),
    "decimal comma": (TABLE + "IUC,x,9,5,1,2\n", "line 18: 6 cells for 5 columns"),
    "no number": (TABLE + "IUC,x,high,1,2\n", "line 18: mean is 'high'"),
    "NaN": (TABLE + "IUC,x,nan,1,2\n", "line 18: mean is 'nan'"),
    "infinite": (TABLE + "IUC,x,1e400,1,2\n", "line 18: the mean is inf"),
    "underscore": (TABLE + "IUC,x,1_0,1,2\n", "line 18: mean is '1_0'"),
    "negative sd": (TABLE + "IUC,x,1,-1,2\n", "line 18: the sd is -1"),
    "n of 1": (TABLE + "IUC,x,1,1,1\n", "line 18: arm x of task IUC has n = 1"),
    "n of 2.5": (TABLE + "IUC,x,1,1,2.5\n", "line 18: n is '2.5'"),
    "n of many digits": (TABLE + f"IUC,x,1,1,{'9' * 5000}\n", "line 18: n is '999"),
    "arm twice": (TABLE + "IUC,imagenet,1,1,2\n", "is already in line 15"),
    "one arm": (TABLE + "BMS,imagenet,1,1,2\n", "line 18: task BMS has only one arm, imagenet"),
    "empty cell": (TABLE + "IUC, ,1,1,2\n", "line 18: arm is empty"),
    "a name that cannot be printed": (TABLE + "IUC,a\x1bb,1,1,2\n", "line 18: the arm is named"),
    "a name without end": (TABLE + f"IUC,{'a' * 41},1,1,2\n", "line 18: the arm is named"),
    "an open quote": (TABLE + 'IUC,"x,1,1,2\n', "invalid CSV"),
    "trial twice": (
        TRIALS + "NCC,ours,2,77\n",
        "line 8: trial 2 of arm ours on task NCC is already in line 7",
    ),
    "one trial": (TRIALS + "NCC,third,0,77\n", "line 8: arm third of task NCC has n = 1"),
    "value": (TRIALS + "NCC,ours,9,\n", "line 8: value is empty"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_table_is_told_with_its_line(kind: str, tmp_path: Path) -> None:
    text, said = WRONG[kind]
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(DataError) as refused:
        parse_table(data, "scores.csv")
    assert said in str(refused.value)
    assert str(refused.value).startswith("scores.csv")
    assert len(str(refused.value)) < 300


def test_what_other_programs_write_is_read_alike() -> None:
    rows = [row.split(",") for row in TABLE.splitlines()]
    turned = "\r\n".join(f'"{n}" , {sd}, {arm},{mean},{task}' for task, arm, mean, sd, n in rows)
    assert parse_table(b"\xef\xbb\xbf" + turned.replace('" ', '"').encode(), "t") == parse_table(
        TABLE.encode(), "t"
    )
    assert parse_table(TRIALS.encode(), "t") == [
        ArmSummary("NCC", "scratch", 71.0, 1.0, 3),
        ArmSummary("NCC", "ours", 75.0, 1.0, 3),
    ]
