"""One process of two whose norm sees the whole batch; spawned processes import it by name."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from genesis_toolkit.training.machine.processes import Group
from genesis_toolkit.training.networks.norms import BatchStatisticsNorm3d, share_batches


def part(rank: int) -> slice:
    return slice(0, 3) if rank == 0 else slice(3, 5)


@dataclass(frozen=True)
class Counting(Group):
    talks: list[int] = field(default_factory=list)

    def add_up(self, numbers: torch.Tensor) -> torch.Tensor:
        self.talks.append(numbers.numel())
        return super().add_up(numbers)


def norm_in_a_process(rank: int, port: int, folder: str) -> None:
    """One of two processes with a part of the batch each, of 3 and 2 cubes."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    case: dict[str, Any] = torch.load(Path(folder) / "case.pt", weights_only=True)
    norm = BatchStatisticsNorm3d(4)
    norm.load_state_dict(case["norm"])
    group = Counting(rank, 2, 2)
    share_batches(norm, group)
    input = case["input"][part(rank)].clone().requires_grad_()
    output = norm(input)
    forward = len(group.talks)
    (output * case["weights"][part(rank)]).sum().backward()
    found = {"output": output.detach(), "input": input.grad, "norm": norm.state_dict()}
    found |= {"talks": (forward, len(group.talks))}
    found |= {"weight": norm.weight.grad, "bias": norm.bias.grad}
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
