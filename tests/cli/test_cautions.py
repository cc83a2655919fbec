"""Warnings at extraction: sizes that no network takes, stores on which nothing honest can be validated."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.scans import SMALL, lungs, write_scan

from genesis_toolkit.cli.cautions import cautions_of_cubes, cautions_of_size
from genesis_toolkit.pipeline.cubes.extract import extract_cubes
from genesis_toolkit.pipeline.degrade.recipes import RECIPES, check_size
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.training.networks.registry import OF_THE_PAPERS, check_cubes


def is_taken(size: tuple[int, ...]) -> bool:
    """Whether a network of the papers and the published recipe take cubes of this size."""
    try:
        check_cubes(OF_THE_PAPERS[len(size)], size)
        check_size(RECIPES["genesis"], size)
    except CallError:
        return False
    return True


@given(st.lists(st.integers(1, 200), min_size=2, max_size=3).map(tuple))
def test_a_size_is_warned_of_where_no_network_takes_it(size: tuple[int, ...]) -> None:
    said = cautions_of_size(size)
    assert bool(said) != is_taken(size)
    for sentence in said:
        near = sentence.rpartition(": ")[2].rstrip(".").split(" and ")
        assert 1 <= len(near) <= 2
        assert all(is_taken(tuple(map(int, one.split(",")))) for one in near)


def test_the_nearest_sizes_are_one_step_away() -> None:
    (said,) = cautions_of_size((30, 30, 10))
    assert "--size 30,30,10" in said
    assert said.endswith("Nearest valid sizes: 24,24,16 and 32,32,16.")
    assert cautions_of_size((224, 224)) == []


@pytest.mark.parametrize(("scans", "said"), [(1, "All cubes are from one scan"), (3, "")])
def test_one_scan_is_warned_of(tmp_path: Path, scans: int, said: str) -> None:
    for number in range(scans):
        write_scan(tmp_path / "scans" / f"{number}.mhd", lungs(number))
    store = extract_cubes(tmp_path / "scans", tmp_path / "c.zarr", SMALL, workers=1).store
    warnings = cautions_of_cubes(store)
    assert len(warnings) == bool(said)
    assert said in " ".join(warnings)
