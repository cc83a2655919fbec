"""What a comparison is made of: arms, tasks and trials, and a sentence for what does not fit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.training.compare.plan import (
    Arm,
    ReadyArm,
    Task,
    arms_by_task,
    axes_of,
    check_arms,
    difference,
    parse_arm,
    read_arms,
    task_name,
    trials_of,
)
from genesis_toolkit.training.networks.registry import build_network

SCRATCH = [Arm("scratch-3d"), Arm("scratch-2d")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("scratch-4d", "unknown without weights; allowed: scratch-3d or scratch-2d"),
        ("genesis-ct-3d", "needs weights"),
        ("imagenet", "needs weights"),
        ("scratch-3d=run", "starts from scratch"),
        ("mine=", "no weights after the '='"),
        ("=run", "not a valid name"),
        ("a/b=run", "not a valid name"),
        ("..=run", "not a valid name"),
        ("a" * 41 + "=run", "not a valid name"),
    ],
)
def test_a_wrong_arm_is_told_in_a_sentence(text: str, said: str) -> None:
    with pytest.raises(CallError) as refused:
        parse_arm(text)
    assert said in str(refused.value)


def test_arms_are_two_or_more_of_different_names() -> None:
    assert parse_arm("mine=a=b/run") == Arm("mine", Path("a=b/run"))
    assert parse_arm("scratch-2d") == Arm("scratch-2d")
    check_arms(SCRATCH)
    for arms, said in (([], "none was given"), (SCRATCH[:1], "only scratch-3d"), (SCRATCH * 2, "Two arms")):
        with pytest.raises(CallError, match=said):
            check_arms(arms)


def test_trials_are_begun_seed_by_seed() -> None:
    trials = trials_of({"a": ["x", "y"], "b": ["y"]}, range(3, 5))
    assert list(map(str, trials)) == ["a/x/3", "a/y/3", "b/y/3", "a/x/4", "a/y/4", "b/y/4"]


def test_a_task_is_named_as_its_store() -> None:
    for place in ("data/nodules.zarr", "nodules.zarr.zip", "s3://bucket/nodules.zarr/", Path("x/nodules")):
        assert task_name(place) == "nodules"
    for place in ("/", "a" * 41 + ".zarr", ".zarr"):
        with pytest.raises(CallError, match="give the store a name of 1 to 40"):
            task_name(place)


def test_images_are_not_for_networks_in_3d() -> None:
    cubes = Task("cubes", "cubes.zarr", "ncc", (32, 32, 8), "1")
    images = replace(cubes, name="images", code="dxc", size=(64, 64))
    arms = [
        ReadyArm(Arm("scratch-3d"), "unet3d", 2, 3, None),
        ReadyArm(Arm("scratch-2d"), "unet2d", 2, 2, None),
        ReadyArm(Arm("mine", Path("w")), "unet2d", 2, 2, "2"),
    ]
    assert [arm.taken(cubes) for arm in arms] == ["3D", "slice by slice", "slice by slice"]
    assert [arm.taken(images) for arm in arms] == ["not", "2D", "2D"]
    assert arms_by_task([cubes, images], arms) == {
        "cubes": ["scratch-3d", "scratch-2d", "mine"],
        "images": ["scratch-2d", "mine"],
    }
    with pytest.raises(CallError, match="1 of the arms are in 2D"):
        arms_by_task([images], arms[:2])


def test_a_difference_is_named_and_what_is_added_is_none() -> None:
    before: dict[str, dict[str, Any]] = {
        "parameters": {"lr": 0.1, "batch_size": 8},
        "tasks": {"a": {"manifest": "1"}},
        "arms": {"x": {"network": "unet3d", "width": 8, "weights": None}},
    }
    more = {
        **before,
        "tasks": {**before["tasks"], "b": {"manifest": "2"}},
        "arms": {**before["arms"], "y": {}},
    }
    assert difference(before, more) is difference(more, before) is None
    for change, said in (
        (
            {"parameters": {"lr": 0.1, "batch_size": 4}},
            "--batch-size 8, but this call has --batch-size 4",
        ),
        ({"tasks": {"a": {"manifest": "2"}}}, "a different store a"),
        ({"arms": {"x": {"network": "unet3d", "width": 2, "weights": None}}}, "width 8 of the arm x"),
        (
            {"arms": {"x": {"network": "unet3d", "width": 8, "weights": "ab" * 32}}},
            "this call has abababababab",
        ),
    ):
        assert said in str(difference(before, {**before, **change}))


def test_scratch_is_as_wide_as_the_weights_it_is_held_against(tmp_path: Path) -> None:
    paths = {}
    for network, width in (("unet3d", 4), ("unet3d", 2), ("unet2d", 2)):
        paths[network, width] = tmp_path / f"{network}-{width}.pt"
        torch.save(build_network(network, width).state_dict(), paths[network, width])
    narrow, wide = Arm("genesis-ct-3d", paths["unet3d", 2]), Arm("mine", paths["unet3d", 4])
    flat = Arm("genesis-ct-2d", paths["unet2d", 2])

    def widths(*arms: Arm, width: int | None = None) -> list[tuple[int, int]]:
        return [(axes_of(one), one.width) for one in read_arms(arms, width)]

    assert widths(SCRATCH[0], narrow) == [(3, 2), (3, 2)]
    assert widths(*SCRATCH, narrow, flat) == [(3, 2), (2, 2), (3, 2), (2, 2)]
    assert widths(*SCRATCH, narrow) == [(3, 2), (2, 64), (3, 2)]
    assert widths(SCRATCH[0], narrow, wide) == [(3, 32), (3, 2), (3, 4)]  # no width would suit both
    assert widths(SCRATCH[0], narrow, wide, width=4) == [(3, 4), (3, 2), (3, 4)]
    for name, path in (("genesis-ct-3d", "unet2d"), ("genesis-xray-2d", "unet3d"), ("imagenet", "unet2d")):
        with pytest.raises(CallError, match="needs weights of"):
            read_arms([Arm(name, paths[path, 2])])
