"""Effective ranks: the formula against one written out, and the features against an encoder run by hand."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from support.training_runs import SMALL, blobs, losses, make_cube_store, make_pair_store

from genesis_toolkit.cli.train import main
from genesis_toolkit.pipeline.store.open import open_cubes
from genesis_toolkit.training.feeding.order import Work
from genesis_toolkit.training.networks.registry import build_network
from genesis_toolkit.training.networks.unet3d import UNet3D
from genesis_toolkit.training.pretrain.call import pretrain
from genesis_toolkit.training.pretrain.data import open_data
from genesis_toolkit.training.pretrain.parameters import Execution, PretrainParameters
from genesis_toolkit.training.pretrain.ranks import (
    LevelRank,
    collapse_words,
    effective_rank,
    level_ranks,
    works_to_rank,
)
from genesis_toolkit.training.weights.load import load_network


def plain_rank(features: NDArray[np.float64]) -> float:
    """By eigenvalues of the matrix of inner products, each of which is a loop: without singular values."""
    count = len(features)
    mean = [sum(column) / count for column in features.T.tolist()]
    rows = [[value - middle for value, middle in zip(row, mean, strict=True)] for row in features.tolist()]
    inner = [[sum(a * b for a, b in zip(one, other, strict=True)) for other in rows] for one in rows]
    lengths = [math.sqrt(value) for value in np.linalg.eigvalsh(np.array(inner)).tolist() if value > 1e-18]
    shares = [length / sum(lengths) for length in lengths]
    return math.exp(-sum(share * math.log(share) for share in shares))


@pytest.mark.parametrize(("cubes", "channels"), [(12, 5), (5, 12), (2, 3), (9, 1)])
def test_the_rank_is_that_of_a_formula_written_out(cubes: int, channels: int) -> None:
    rng = np.random.default_rng(cubes)
    features = rng.normal(3, 1, (cubes, channels)) * rng.uniform(0.01, 2, channels)
    assert effective_rank(features) == pytest.approx(plain_rank(features), rel=1e-6)
    assert effective_rank(7 * features + 100) == pytest.approx(plain_rank(features), rel=1e-6)


def test_ranks_that_are_known() -> None:
    for k in (1, 2, 5):  # equal lengths along k directions, each way
        axes = np.eye(8)[:k]
        assert effective_rank(np.concatenate((axes, -axes))) == pytest.approx(k)
    assert effective_rank(np.full((6, 4), 0.1)) == 0
    rng = np.random.default_rng(0)
    last_bit = np.where(rng.random((6, 4)) < 0.5, np.float32(1), np.nextafter(np.float32(1), np.float32(2)))
    assert plain_rank(1e7 * last_bit.astype(np.float64)) > 2
    assert effective_rank(last_bit) == 0


def test_at_most_so_many_cubes_and_never_one_alone() -> None:
    store = [Work(np.arange(first, first + 5), 0) for first in range(0, 1000, 5)]
    works = works_to_rank(store, 10)
    cubes = np.concatenate([work.cubes for work in works])
    assert (len(cubes), len(set(cubes.tolist())), cubes[0], cubes[-1]) == (256, 256, 0, 999)
    assert works_to_rank([Work(np.array([4]), 0)], 10) == []


def by_hand(network: torch.nn.Module, cubes: torch.Tensor, batches: list[NDArray[np.int64]]) -> list[float]:
    """A training network's levels, batch by batch; a copy's running statistics may move."""
    network = copy.deepcopy(network).train()
    encode: Any = network.features if isinstance(network, UNet3D) else network.get_submodule("encoder")
    pooled: list[list[torch.Tensor]] = []
    with torch.no_grad():
        for batch in batches:
            levels: list[torch.Tensor] = encode(cubes[batch])
            pooled.append([level.mean(tuple(range(2, level.ndim))) for level in levels])
    return [plain_rank(torch.cat(parts).double().numpy()) for parts in zip(*pooled, strict=True)]


@pytest.mark.parametrize(("name", "width", "size"), [("unet3d", 2, (16, 16, 16)), ("unet2d", 4, (64, 64))])
def test_the_features_are_those_of_the_encoder(
    name: str, width: int, size: tuple[int, ...], tmp_path: Path
) -> None:
    store = make_cube_store(tmp_path / "cubes.zarr", blobs(30, size), 3)
    data = open_data(store, PretrainParameters(width=width, batch_size=4, recipe="genesis"))
    torch.manual_seed(1)
    network = build_network(name, width)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    works = works_to_rank(data.validation, 4)
    ranks = level_ranks(network, data.batches(torch.device("cpu")), works)
    whole = torch.from_numpy((np.stack(list(open_cubes(store)))[:, None] + 1000.0) / 2000).float()
    for number, work in enumerate(works):  # as the pairs are: some of the cubes are flipped
        for batch in data.batches(torch.device("cpu")).stream(works[number : number + 1]):
            whole[work.cubes] = (batch.original.unsqueeze(1).float() + 1000) / 2000
    assert ranks == pytest.approx(by_hand(network, whole, [work.cubes for work in works]), rel=1e-3)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert network.training


def test_a_run_keeps_the_ranks_and_prints_them(tmp_path: Path) -> None:
    pairs = make_pair_store(tmp_path)
    words = f"pretrain {pairs} --out {tmp_path / 'run'} --width 4 --batch-size 4 --epochs 2 --lr 0.5".split()
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.stderr
    assert "effective rank of pooled features" in done.stdout
    told = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)["effective_rank"]
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    record = losses(tmp_path / "run")[
        torch.load(tmp_path / "run" / "best.pt", weights_only=True)["epoch"] - 1
    ]
    assert [level["first"] for level in told] == described["effective_rank"]
    assert [level["best"] for level in told] == record["effective_rank"]
    assert [(level["level"], level["channels"]) for level in told] == [(1, 8), (2, 16), (3, 32), (4, 64)]
    data = open_data(pairs, PretrainParameters(width=4, batch_size=4))
    batches, works = data.batches(torch.device("cpu")), works_to_rank(data.validation, 4)
    torch.manual_seed(0)
    assert level_ranks(build_network("unet3d", 4), batches, works) == pytest.approx(
        described["effective_rank"], rel=1e-4
    )
    best = load_network(tmp_path / "run")
    assert level_ranks(best, batches, works) == pytest.approx(record["effective_rank"], rel=1e-4)
    for name in told:
        assert f"{name['first']:.1f}" in done.stdout
        assert f"{name['best']:.1f}" in done.stdout


def test_an_older_run_without_ranks_goes_on_and_gets_them(tmp_path: Path) -> None:
    """It also knows no --drop-skips, which it has not used."""
    pairs, run = make_pair_store(tmp_path), tmp_path / "run"
    pretrain(pairs, run, replace(SMALL, epochs=1))
    whole = json.loads((run / "run.json").read_text())
    header, *lines = map(json.loads, (run / "losses.jsonl").read_text().splitlines())
    for one in (header, *lines):
        one.pop("effective_rank")
    del header["parameters"]["drop_skips"]
    (run / "run.json").write_text(json.dumps(header))
    (run / "losses.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in (header, *lines)))
    assert pretrain(pairs, run, replace(SMALL, epochs=1)).effective_rank == []
    outcome = pretrain(pairs, run, replace(SMALL, epochs=2))
    assert outcome.best_epoch == 2
    assert [level.first for level in outcome.effective_rank] == whole["effective_rank"]


@pytest.mark.full
def test_two_processes_measure_the_same_to_the_bit(tmp_path: Path) -> None:
    pairs, given = make_pair_store(tmp_path), replace(SMALL, epochs=1, lr=1e-30)
    one = pretrain(pairs, tmp_path / "one", given, Execution(device="cpu"))
    two = pretrain(pairs, tmp_path / "two", given, Execution(device="cpu", devices=2))
    assert [level.first for level in one.effective_rank] == [level.first for level in two.effective_rank]


def test_a_level_below_a_quarter_is_warned_of() -> None:
    assert collapse_words([LevelRank(1, 8, 4.0, 1.0), LevelRank(2, 16, 9.0, 12.0)], 0.0) is None
    ranks = [LevelRank(1, 8, 4.0, 3.0), LevelRank(2, 16, 9.96, 2.4)]
    words, dropping = collapse_words(ranks, 0.0), collapse_words(ranks, 0.5)
    assert words is not None
    assert "(effective rank: level 2 from 10.0 to 2.4)" in words
    assert "level 1" not in words
    assert "--drop-skips 0.5" in words
    assert dropping is not None
    assert "--drop-skips" not in dropping
