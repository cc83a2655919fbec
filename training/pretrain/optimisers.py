"""The optimiser, and its learning rate as a pure function of the position (METHOD.md section 4)."""

import math
from collections.abc import Iterable

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from genesis_toolkit.training.pretrain.parameters import PretrainParameters


def make_optimiser(weights: Iterable[nn.Parameter], parameters: PretrainParameters) -> Optimizer:
    """The optimiser that the parameters name, over `weights`."""
    if parameters.optimiser == "sgd":
        return SGD(weights, lr=parameters.lr, momentum=parameters.momentum)
    return (Adam if parameters.optimiser == "adam" else AdamW)(weights, lr=parameters.lr)


def learning_rate(parameters: PretrainParameters, step: int, steps_per_epoch: int) -> float:
    """The learning rate of one step.

    It depends on nothing but the position, so a schedule has no state that a checkpoint could lose.

    Args:
        parameters: of the run.
        step: since the first epoch, counted from 0.
        steps_per_epoch: of every epoch.
    """
    if step < parameters.warmup:
        return parameters.lr * (step + 1) / parameters.warmup
    if parameters.schedule == "step":
        epoch = step // steps_per_epoch
        return parameters.lr * float(parameters.lr_factor ** (epoch // parameters.lr_step))
    last = parameters.epochs * steps_per_epoch
    last = min(last, parameters.max_steps or last)
    share = (step - parameters.warmup) / max(1, last - parameters.warmup)
    return parameters.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
