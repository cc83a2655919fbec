"""Batch norm as the published network was trained and judged: by the statistics of the whole batch.

A batch that several processes share is one batch, so its statistics are taken over all of it (METHOD.md
section 4); torch's SyncBatchNorm would do that on CUDA only, and not in evaluation.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.processes import Group

_AXES = (0, 2, 3, 4)


class BatchStatisticsNorm3d(nn.BatchNorm3d):
    """Batch norm that normalises by the statistics of the batch, in evaluation too (METHOD.md section 4).

    The published network was trained and judged this way, so what comes out for one cube depends on the cubes
    beside it. Running statistics are kept because the file format has them; only training changes them.

    Attributes:
        group: the processes among whom a training batch is dealt; in evaluation each has batches of its own.
    """

    group = Group()

    def forward(self, input: Tensor) -> Tensor:
        """Normalise `input`, float `[batch, channel, x, y, z]`, over batch and space; the same shape."""
        if not self.training:
            return functional.batch_norm(
                input, None, None, self.weight, self.bias, training=True, eps=self.eps
            )
        if self.group.world == 1:
            return super().forward(input)
        result: tuple[Tensor, Tensor, Tensor, Tensor] = _SharedNorm.apply(  # type: ignore[no-untyped-call]
            input, self.weight, self.bias, self.eps, self.group
        )
        normalised, mean, variance, count = result
        self._follow(mean, variance, count)
        return normalised

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Move the running statistics as torch does: with the unbiased variance."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            raise RuntimeError("this norm keeps running statistics")
        self.num_batches_tracked.add_(1)
        momentum = self.momentum or 0.0
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * count / (count - 1), momentum)


def share_batches(model: nn.Module, group: Group) -> None:
    """Let every norm of a network take its statistics over the batch that a group of processes shares."""
    for part in model.modules():
        if isinstance(part, BatchStatisticsNorm3d):
            part.group = group


class _SharedNorm(torch.autograd.Function):
    """Batch norm over a batch of which every process of a group has a part, of any size.

    Like torch's own it keeps one copy of the input for the way back. The gradients of weight and bias are
    those of this process's part: they are added up with all the others.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, eps: float, group: Group) -> Any:
        features = input.float()
        channels = features.shape[1]
        size = torch.full((1,), features.numel() / channels, device=features.device)
        together = group.add_up(torch.cat((features.sum(_AXES), size)))
        count = together[-1]
        mean = together[:-1] / count
        # The mean first, then what is left of it: squares summed at once would cancel in float32.
        variance = group.add_up((features - _wide(mean)).square().sum(_AXES)) / count
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(input, weight, mean, scale, count)
        ctx.group = group
        normalised = (features - _wide(mean)) * _wide(scale * weight) + _wide(bias)
        ctx.mark_non_differentiable(mean, variance, count)
        return normalised.to(input.dtype), mean, variance, count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        input, weight, mean, scale, count = ctx.saved_tensors
        down = gradients[0].float()
        normalised = (input.float() - _wide(mean)) * _wide(scale)
        of_bias, of_weight = down.sum(_AXES), (down * normalised).sum(_AXES)
        both = ctx.group.add_up(torch.stack((of_bias, of_weight))) / count
        up = (down - _wide(both[0]) - normalised * _wide(both[1])) * _wide(scale * weight)
        return up.to(input.dtype), of_weight, of_bias, None, None


def _wide(channel: Tensor) -> Tensor:
    return channel.view(1, -1, 1, 1, 1)
