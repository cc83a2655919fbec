import pytest

from genesis_toolkit.pipeline.cubes.parameters import ExtractParameters
from genesis_toolkit.pipeline.errors import CallError


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"hu": (1000, -1000)}, "1000,-1000 is an empty range: the lower limit must be"),
        ({"hu": (0, 40000)}, "--hu 0,40000"),
        ({"cubes_per_scan": 0}, "--cubes-per-scan 0"),
        ({"size": (64,)}, "--size 64"),
        ({"seed": -1}, "-1"),
    ],
)
def test_wrong_parameters_are_refused_with_the_value(values: dict[str, object], words: str) -> None:
    with pytest.raises(CallError, match=words):
        ExtractParameters(**values)  # type: ignore[arg-type]
