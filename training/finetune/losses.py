"""The losses of target tasks (METHOD.md section 6)."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from genesis_toolkit.pipeline.store.schema import UNKNOWN
from genesis_toolkit.training.finetune.data import TargetData

#: Maps logits and labels or masks to the mean loss of a batch.
Loss = Callable[[Tensor, Tensor], Tensor]


def loss_of(data: TargetData, device: torch.device) -> Loss:
    """Return the loss: binary cross entropy, positives weighted; Dice for masks (METHOD.md section 6).

    Dice is computed over the whole batch, since it is undefined for a cube without foreground.
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
    """Return the binary cross entropy of the known labels, positives weighted; 0 if none is known.

    Args:
        weight: float32 [class], weight of positives.
        logits: float32 [cube, class].
        truth: float32 [cube, class]: 0, 1 or `UNKNOWN`.
    """
    known = truth != UNKNOWN
    each = functional.binary_cross_entropy_with_logits(
        logits, truth * known, weight=known.float(), pos_weight=weight, reduction="sum"
    )
    return each / known.sum().clamp(min=1)
