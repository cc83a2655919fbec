"""Batch norm with the statistics of a batch that several processes may share.

A shared batch is one batch, so its statistics cover all of it (METHOD.md section 4); torch's SyncBatchNorm
would do that on CUDA only.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from genesis_toolkit.training.machine.processes import Group


class _SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """The training mode of both norms here, when a group of processes shares every batch."""

    group = Group()

    def forward(self, input: Tensor) -> Tensor:
        """Normalise over batch and space, as torch does for a single process."""
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
        """Update the running statistics as torch does, with the unbiased variance."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            raise RuntimeError("this norm keeps running statistics")
        self.num_batches_tracked.add_(1)
        momentum = self.momentum or 0.0
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * count / (count - 1), momentum)


class BatchStatisticsNorm3d(_SharedBatchNorm, nn.BatchNorm3d):
    """Batch norm that uses the statistics of the batch, in evaluation too (METHOD.md section 4).

    The published network was trained and evaluated this way, so the output for one cube depends on the other
    cubes in the batch. Running statistics are kept because the file format has them; only training updates
    them.

    Attributes:
        by_running: evaluate with the running statistics instead, for tasks that score each cube by itself.
    """

    by_running = False

    def forward(self, input: Tensor) -> Tensor:
        """Normalise `input`, float `[batch, channel, x, y, z]`, over batch and space; the same shape."""
        if self.training or self.by_running:
            return super().forward(input)
        return functional.batch_norm(input, None, None, self.weight, self.bias, training=True, eps=self.eps)


class SharedBatchNorm2d(_SharedBatchNorm, nn.BatchNorm2d):
    """Batch norm of the 2D U-Net: batch statistics in training, running statistics in evaluation.

    It differs from the published 3D network's, for three reasons. That rule comes from the released 3D
    program, and no 2D program was released. Everyone else uses ResNet-18 weights, ImageNet's or those trained
    here, with their running statistics: a frozen encoder then gives an image the same features whatever else
    is in the batch, in torchvision's network and here. And a single image of 32 x 32 pixels, one value at the
    deepest level, can be evaluated. On 240 crops of chest X-rays, width 8, the two ways of evaluating the
    same weights gave losses within 1 % after six epochs of Adam; with SGD at 1.0, running statistics once
    lagged behind.
    """


def refresh_statistics(part: nn.Module, feed: Callable[[Tensor], object], batches: Iterable[Tensor]) -> None:
    """Set the running statistics to the mean over the batches fed, for the current weights.

    Updated as torch does it, by a tenth per step, they still contain a share of their initial values after a
    few steps, and of earlier weights: a classifier from scratch whose AUC was 0.93 with the statistics of the
    test batches got 0.58 with its running statistics after 20 steps.

    Args:
        part: only its norms in training mode are updated.
        feed: runs the network, or as much of it as those norms need.
        batches: the inputs to feed.
    """
    norms = [one for one in part.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    following = [(one, one.momentum) for one in norms if one.training and one.track_running_stats]
    for norm, _ in following:
        norm.reset_running_stats()
        norm.momentum = None  # all batches have equal weight
    try:
        if following:
            with torch.no_grad():
                for batch in batches:
                    feed(batch)
    finally:
        for norm, momentum in following:
            norm.momentum = momentum


def go_by_running(part: nn.Module) -> None:
    """Make the norms of the 3D U-Net evaluate with their running statistics, like all other norms."""
    for norm in part.modules():
        if isinstance(norm, BatchStatisticsNorm3d):
            norm.by_running = True


def share_batches(model: nn.Module, group: Group) -> None:
    """Make every norm of a network use the statistics of the batch that a group of processes shares."""
    for part in model.modules():
        if isinstance(part, _SharedBatchNorm):
            part.group = group


class _SharedNorm(torch.autograd.Function):
    """Batch norm over a batch that is spread over a group of processes, in parts of any size.

    Like torch's own, it keeps one copy of the input for the backward pass. The gradients of weight and bias
    cover this process's part; they are summed over the processes with all the others.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, eps: float, group: Group) -> Any:
        features = input.float()
        axes = _other_axes(input)
        channels = features.shape[1]
        # One row per process with the size, mean and variance of its part, then those of all parts together:
        # one exchange. Plain squares would need no more, but cancel in float32.
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
    """Return all axes but the channel axis."""
    return (0, *range(2, input.ndim))


def _wide(channel: Tensor, input: Tensor) -> Tensor:
    """Reshape one number per channel so that it broadcasts over all voxels of `input`."""
    return channel.view(1, -1, *(1 for _ in input.shape[2:]))
