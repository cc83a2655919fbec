"""Runs whose best weights a test writes, and their weights read with torch alone."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from genesis_toolkit.training.pretrain.call import new_state
from genesis_toolkit.training.pretrain.loop import pack
from genesis_toolkit.training.pretrain.parameters import PretrainParameters


def describe(folder: Path, store: dict[str, Any], **changes: Any) -> None:
    """Change what `run.json` says of the run and of its store."""
    path = folder / "run.json"
    described = json.loads(path.read_bytes())
    path.write_text(json.dumps(described | changes | {"store": described["store"] | store}))


def put_weights(folder: Path, network: nn.Module) -> None:
    """Let other weights be the best of a run, as the trainer would write them."""
    parameters = PretrainParameters(width=2)
    state = new_state(parameters, torch.device("cpu"))
    state.epoch = state.best_epoch = 1
    state.best_loss = 0.5
    (folder / "best.pt").write_bytes(pack(state, parameters))
    checkpoint = torch.load(folder / "best.pt", weights_only=True)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for weights in network.parameters():
        weights.grad = torch.ones_like(weights)
    optimiser.step()
    checkpoint |= {"state_dict": network.state_dict(), "optimizer_state_dict": optimiser.state_dict()}
    torch.save(checkpoint, folder / "best.pt")


def best_weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(folder / "best.pt", weights_only=True)["state_dict"])


def same_bits(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    return list(ours) == list(theirs) and all(
        ours[key].dtype == theirs[key].dtype and torch.equal(ours[key], theirs[key]) for key in ours
    )
