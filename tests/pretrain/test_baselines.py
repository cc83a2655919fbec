"""How a loss stands to what needs no network."""

import pytest

from genesis_toolkit.training.pretrain.baselines import Baselines


def test_the_lowest_comes_first_whichever_it_is() -> None:
    usual = Baselines(copy=0.27, mean_image=0.0136, constant=0.0141, by_degradation={})
    assert usual.named() == {"mean image": 0.0136, "best constant": 0.0141, "copying": 0.27}
    assert list(usual.named()) == ["mean image", "best constant", "copying"]
    # On real CT, whose cubes lie anywhere in the chest, a mean image can be worse than one value.
    real = Baselines(copy=0.27, mean_image=0.0311, constant=0.0248, by_degradation={})
    assert next(iter(real.named())) == "best constant"


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (0.0118, "13 % below the lowest baseline (mean image 0.0136)"),
        (0.0272, "100 % above the lowest baseline (mean image 0.0136)"),
        (0.013599, "slightly below the lowest baseline (mean image 0.0136)"),
        (0.0136, "equal to the lowest baseline (mean image 0.0136)"),
    ],
)
def test_a_loss_beside_the_lowest(loss: float, words: str) -> None:
    assert Baselines(0.27, 0.0136, 0.0141, {}).compare(loss) == words


def test_cubes_that_are_all_alike_need_no_division() -> None:
    assert Baselines(0.1, 0.0, 0.0, {}).compare(0.1) == "above the lowest baseline (mean image 0.0000)"
