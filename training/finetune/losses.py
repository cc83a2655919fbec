"""The losses of target tasks (METHOD.md section 6)."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from genesis_toolkit.pipeline.store.schema import UNKNOWN
from genesis_toolkit.training.finetune.data import TargetData

#: Logits and labels or masks -> the mean loss of a batch.
Loss = Callable[[Tensor, Tensor], Tensor]


def loss_of(data: TargetData, device: torch.device) -> Loss:
    """Binary cross entropy, positives weighted; Dice where there are masks (METHOD.md section 6).

    Dice is that of the whole batch: a cube without foreground has none of its own.
    """
    if data.kind == "segment":
        from monai.losses import DiceLoss  # MONAI takes seconds to load

        dice: Loss = DiceLoss(sigmoid=True, batch=True)
        return dice
    weight = torch.from_numpy(data.positive_weights()).to(device)
    if np.any(data.store.labels == UNKNOWN):
        return partial(known_loss, weight)
    return partial(functional.binary_cross_entropy_with_logits, pos_weight=weight)


def known_loss(weight: Tensor, logits: Tensor, truth: Tensor) -> Tensor:
    """Return the binary cross entropy of the labels that are known, positives weighted; 0 where none is.

    Args:
        weight: float32 [class], of positives.
        logits: float32 [cube, class].
        truth: float32 [cube, class]: 0, 1 or `UNKNOWN`.
    """
    known = truth != UNKNOWN
    each = functional.binary_cross_entropy_with_logits(
        logits, truth * known, weight=known.float(), pos_weight=weight, reduction="sum"
    )
    return each / known.sum().clamp(min=1)
