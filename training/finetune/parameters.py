"""What a fine-tuning run is made of (METHOD.md section 6), and how shares of labels are written."""

import math
import re
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.training.machine.options import check_counts, check_lr, check_seed

#: The score of each task: one of the metrics of `metrics`.
SCORES = {"ncc": "auc", "segment": "iou", "dxc": "mean_auc"}

_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%")


@dataclass(frozen=True)
class FinetuneParameters:
    """The parameters of one fine-tuning run: Adam, best on validation (METHOD.md section 6).

    Attributes:
        epochs: at most so many passes over the labelled training cubes.
        patience: stop after so many epochs without a better validation loss.
        batch_size: cubes a batch, at most.
        lr: Adam's learning rate, the same in every step.
        labels: how many scans of the train fold are labelled: a share in (0, 1] where it is a float, a number
            of scans where it is an int. Validation and test stay whole.
        freeze_encoder: train the head alone, or the decoder: a linear probe.
        seed: of the labelled scans, of the first weights of the head (from scratch, of all), and of the order
            of the cubes.

    Raises:
        CallError: a value is out of range; the sentence names it.
    """

    epochs: int = 100
    patience: int = 20
    batch_size: int = 8
    lr: float = 1e-3
    labels: float | int = 1.0
    freeze_encoder: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(self, "epochs", "patience", "batch_size")
        check_lr(self.lr, "0.001")
        most = math.inf if isinstance(self.labels, int) else 1.0
        if isinstance(self.labels, bool) or not 0 < self.labels <= most:
            raise CallError(
                f"--labels {labels_words(self.labels)} is out of range: a share above 0 % and up to 100 %, "
                "or a number of scans from 1 on, as in --labels 10% or --labels 25."
            )
        check_seed(self.seed)

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name; `labels` in words, since in JSON and in Python 1 equals 1.0."""
        return {**asdict(self), "labels": labels_words(self.labels)}

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> "FinetuneParameters":
        """What `as_dict` gave."""
        return cls(**{**told, "labels": parse_labels(told["labels"])})


def parse_labels(text: str) -> float | int:
    """A share of labelled scans as people write it, `10%`, as a float, or their number, `25`, as an int."""
    share = _SHARE.fullmatch(text.strip())
    if share:
        return float(Decimal(share[1]) / 100)
    try:
        return int(text)
    except ValueError:
        raise CallError(
            f"--labels {text} is neither a share nor a number of scans: write --labels 10% or --labels 25."
        ) from None


def labels_words(labels: float | int) -> str:
    """What `parse_labels` reads: `10%` of the share 0.1, `25` of 25 scans."""
    if isinstance(labels, int) or not math.isfinite(labels):
        return str(labels)
    return f"{(Decimal(repr(labels)) * 100).normalize():f}%"
