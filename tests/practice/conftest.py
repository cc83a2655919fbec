from dataclasses import replace

import pytest

from genesis_toolkit.pipeline.practice.anatomy.chest import Chest, draw_chest
from genesis_toolkit.pipeline.practice.anatomy.findings import LABELS
from genesis_toolkit.pipeline.practice.anatomy.radiograph import Case, draw_case

SMALL = (96, 96, 48)
SEED = 5


@pytest.fixture(scope="module")
def chests() -> list[Chest]:
    return [draw_chest(SMALL, SEED, index) for index in range(3)]


@pytest.fixture(scope="module")
def case() -> Case:
    """A patient of middle size in everything."""
    drawn = draw_case(0, 0)
    return replace(drawn, course=replace(drawn.course, size=dict.fromkeys(LABELS, 0.6)))
