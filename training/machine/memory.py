"""Estimate the memory that training needs, without training."""

import copy

import torch
from torch import Tensor, nn

FLOAT = 4  # bytes


def weights_of(network: nn.Module) -> int:
    """Return the number of parameters of a network."""
    return sum(weights.numel() for weights in network.parameters())


def batch_bytes(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, in float32.

    The temporary memory of the kernels comes on top and cannot be predicted.

    Args:
        network: left unchanged.
        shape: shape of a batch, `[cube, 1, x, y, z]` or `[cube, 1, x, y]`.
    """
    twin = copy.deepcopy(network).to("meta").train()
    of_weights = {one.untyped_storage()._cdata for one in (*twin.parameters(), *twin.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor  # kept alive, or another tensor could reuse its memory
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        restored = twin(torch.empty(shape, device="meta"))
    del restored
    return sum(one.untyped_storage().nbytes() for key, one in kept.items() if key not in of_weights)
