"""Batch norm by the statistics of a batch that several processes may share.

Such a batch is one batch, so its statistics are taken over all of it (METHOD.md section 4); torch's
SyncBatchNorm would do that on CUDA only.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from genesis_toolkit.training.machine.processes import Group


class _SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """What both norms here do in training, where a group of processes shares every batch."""

    group = Group()

    def forward(self, input: Tensor) -> Tensor:
        """Normalise over batch and space, as torch does for a process by itself."""
        if not self.training or self.group.world == 1:
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


class BatchStatisticsNorm3d(_SharedBatchNorm, nn.BatchNorm3d):
    """Batch norm that normalises by the statistics of the batch, in evaluation too (METHOD.md section 4).

    The published network was trained and evaluated this way, so what comes out for one cube depends on the
    cubes beside it. Running statistics are kept because the file format has them; only training changes them.

    Attributes:
        by_running: evaluate by the running statistics after all, where each cube must count by itself.
    """

    by_running = False

    def forward(self, input: Tensor) -> Tensor:
        """Normalise `input`, float `[batch, channel, x, y, z]`, over batch and space; the same shape."""
        if self.training or self.by_running:
            return super().forward(input)
        return functional.batch_norm(input, None, None, self.weight, self.bias, training=True, eps=self.eps)


class SharedBatchNorm2d(_SharedBatchNorm, nn.BatchNorm2d):
    """Batch norm of the 2D U-Net: by the batch in training, by running statistics in evaluation.

    Unlike the published 3D network's, for three reasons. That rule is one of the released 3D program, and no
    2D program was released. Weights of ResNet-18, ImageNet's or those trained here, are used with their
    running statistics everywhere else: a frozen encoder gives an image the same features whatever lies beside
    it, and the same in torchvision's network as here. And a single image of 32 x 32 pixels, one value at the
    deepest level, can be evaluated. On 240 crops of chest X-rays, width 8, both ways of evaluating the same
    weights gave losses within 1 % after six epochs of Adam; at SGD's 1.0 running statistics once lagged
    behind.
    """


def refresh_statistics(part: nn.Module, feed: Callable[[Tensor], object], batches: Iterable[Tensor]) -> None:
    """Make the running statistics those of the weights as they are: the mean over the batches that are fed.

    Followed as torch does it, a tenth a step, they still hold a share of their first values after few steps,
    and of weights that are gone: a classifier from scratch whose AUC was 0.93 by the statistics of the test
    batches came out with 0.58 by its running statistics after 20 steps.

    Args:
        part: of its norms that are in training the statistics are renewed; of others they stay.
        feed: runs the network, or as much of it as those norms need.
        batches: what to feed.
    """
    norms = [one for one in part.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    following = [(one, one.momentum) for one in norms if one.training and one.track_running_stats]
    for norm, _ in following:
        norm.reset_running_stats()
        norm.momentum = None  # all batches weigh the same
    try:
        if following:
            with torch.no_grad():
                for batch in batches:
                    feed(batch)
    finally:
        for norm, momentum in following:
            norm.momentum = momentum


def go_by_running(part: nn.Module) -> None:
    """Let norms of the 3D U-Net evaluate by their running statistics, as all others do."""
    for norm in part.modules():
        if isinstance(norm, BatchStatisticsNorm3d):
            norm.by_running = True


def share_batches(model: nn.Module, group: Group) -> None:
    """Let every norm of a network take its statistics over the batch that a group of processes shares."""
    for part in model.modules():
        if isinstance(part, _SharedBatchNorm):
            part.group = group


class _SharedNorm(torch.autograd.Function):
    """Batch norm over a batch of which every process of a group has a part, of any size.

    Like torch's own it keeps one copy of the input for the backward pass. The gradients of weight and bias
    are those of this process's part: they are added up with all the others.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, eps: float, group: Group) -> Any:
        features = input.float()
        axes = _other_axes(input)
        channels = features.shape[1]
        # Of each part its size, mean and variance, a row a process, and then those of all parts together: one
        # talk. Plain squares, which would need no more either, would cancel in float32.
        parts = features.new_zeros(group.world, 1 + 2 * channels)
        variance, mean = torch.var_mean(features, axes, correction=0)
        size = mean.new_full((1,), features.numel() / channels)
        parts[group.rank] = torch.cat((size, mean, variance))
        sizes, means, variances = torch.split(group.add_up(parts), [1, channels, channels], dim=1)
        count = sizes.sum()
        mean = (sizes * means).sum(0) / count
        variance = (sizes * (variances + (means - mean).square())).sum(0) / count
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(input, weight, mean, scale, count)
        ctx.group = group
        normalised = (features - _wide(mean, input)) * _wide(scale * weight, input) + _wide(bias, input)
        ctx.mark_non_differentiable(mean, variance, count)
        return normalised.to(input.dtype), mean, variance, count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        input, weight, mean, scale, count = ctx.saved_tensors
        axes = _other_axes(input)
        down = gradients[0].float()
        normalised = (input.float() - _wide(mean, input)) * _wide(scale, input)
        of_bias, of_weight = down.sum(axes), (down * normalised).sum(axes)
        both = ctx.group.add_up(torch.stack((of_bias, of_weight))) / count
        up = down - _wide(both[0], input) - normalised * _wide(both[1], input)
        return (up * _wide(scale * weight, input)).to(input.dtype), of_weight, of_bias, None, None


def _other_axes(input: Tensor) -> tuple[int, ...]:
    """All axes but the channels'."""
    return (0, *range(2, input.ndim))


def _wide(channel: Tensor, input: Tensor) -> Tensor:
    """One number a channel, to be spread over all voxels of `input`."""
    return channel.view(1, -1, *(1 for _ in input.shape[2:]))
