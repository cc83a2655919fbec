"""What a fine-tuning run is made of (METHOD.md section 6), and how shares of labels are written."""

import math
import re
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from typing import Any

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.training.machine.options import check_counts, check_lr, check_seed, option

#: The score of each task: one of the metrics of `metrics`.
SCORES = {"ncc": "auc", "segment": "iou", "dxc": "mean_auc", "classify": "mean_auc"}

SELECTS = ("last", "best")
SCHEDULES = ("cosine", "constant")
PRECISIONS = ("float32", "tf32", "bf16", "fp16")
HEADS = ("deepest", "all")
KEEPS = ("encoder", "all-but-last", "all")

#: Of a run that names neither steps nor epochs.
DEFAULT_STEPS = 500

# How a network is trained step by step; a linear probe is not.
_OF_STEPS = ("steps", "epochs", "select", "patience", "lr", "schedule", "warmup", "at_steps")

_MOST_STEPS = 10**8
_MOST_WARMUP = 50  # steps, where none are named
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%")


@dataclass(frozen=True)
class FinetuneParameters:
    """The parameters of one fine-tuning run: Adam for a fixed number of steps (METHOD.md section 6).

    Attributes:
        steps: how many; 500 when both this and `epochs` are left out.
        epochs: in place of `steps`, how many passes over the labelled training cubes.
        select: `last` evaluates the network after the last step, `best` that of the epoch with the lowest
            validation loss, as published. With few validation cubes the best epoch is a lottery.
        patience: with `best` only: stop after so many epochs without a better validation loss; None never
            stops early.
        batch_size: cubes a batch, at most.
        lr: Adam's highest learning rate.
        schedule: `cosine`, which falls to 0 behind the last step, or `constant`, as published.
        warmup: over so many steps the learning rate rises to `lr`; None takes a tenth of the steps, at most
            50.
        augment: flip, shift, turn and tint the training cubes at random (`augment`).
        precision: of the network's products: `float32`; `tf32`, float32 with products of 10 bits on GPUs that
            have it; or `bf16` or `fp16` where torch's autocast takes it.
        labels: how many scans of the train fold are labelled: a share in (0, 1] where it is a float, a number
            of scans where it is an int. Validation and test stay whole.
        head: what a classifier sees, pooled: the `deepest` level of the encoder, as published, or `all`
            levels.
        keep: which parts of pre-trained weights a segmenter begins with: `encoder`, `all-but-last`, all but
            the last level of the decoder, or `all`. None takes `all-but-last`. A classifier has an encoder
            only.
        freeze_encoder: keep the encoder as it is. A classifier is then a linear probe: logistic regression on
            standardised features, fitted to convergence (`probe`); of a segmenter the decoder learns.
        at_steps: evaluate the network on the test fold after these steps as well.
        seed: of the labelled scans, of the first weights of the head (from scratch, of all), of the order
            of the cubes, and of the augmentation.

    Raises:
        CallError: a value is out of range; the sentence names it.
    """

    steps: int | None = None
    epochs: int | None = None
    select: str = "last"
    patience: int | None = None
    batch_size: int = 8
    lr: float = 1e-3
    schedule: str = "cosine"
    warmup: int | None = None
    augment: bool = True
    precision: str = "float32"
    labels: float | int = 1.0
    head: str = "deepest"
    keep: str | None = None
    freeze_encoder: bool = False
    at_steps: tuple[int, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(self, "steps", "epochs", "patience", "batch_size")
        check_counts(self, "warmup", least=0)
        check_lr(self.lr, "0.001")
        for name, allowed in (
            ("select", SELECTS),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
            ("head", HEADS),
            ("keep", (None, *KEEPS)),
        ):
            if getattr(self, name) not in allowed:
                raise CallError(
                    f"{option(name)} {getattr(self, name)} is unknown; allowed: "
                    f"{', '.join(filter(None, allowed))}."
                )
        if self.steps is not None and self.epochs is not None:
            raise CallError(
                f"--steps {self.steps} and --epochs {self.epochs} both say how long to train: give one of "
                "them."
            )
        if (self.steps or 0) > _MOST_STEPS:
            raise CallError(f"--steps {self.steps} is out of range: at most {_MOST_STEPS:,}.")
        if self.patience is not None and self.select != "best":
            raise CallError(
                f"--patience {self.patience} needs --select best: without it the last step is evaluated, and "
                "all steps are taken."
            )
        if self.patience is not None and self.at_steps:
            raise CallError(
                f"--patience {self.patience} may end a run before all of --at-steps: leave one of them out."
            )
        most = math.inf if isinstance(self.labels, int) else 1.0
        if isinstance(self.labels, bool) or not 0 < self.labels <= most:
            raise CallError(
                f"--labels {labels_words(self.labels)} is out of range: a share above 0 % and up to 100 %, "
                "or a number of scans from 1 on, as in --labels 10% or --labels 25."
            )
        check_seed(self.seed)
        object.__setattr__(self, "at_steps", tuple(sorted(set(self.at_steps))))
        if self.epochs is None:
            self.check_at_steps(self.steps_of(0))

    def steps_of(self, per_epoch: int) -> int:
        """Return how many steps the run has, where an epoch has so many."""
        return self.steps or (DEFAULT_STEPS if self.epochs is None else self.epochs * per_epoch)

    def warmup_of(self, steps: int) -> int:
        """Return how many of all steps the learning rate rises over."""
        return min(_MOST_WARMUP, steps // 10) if self.warmup is None else self.warmup

    def check_at_steps(self, steps: int) -> None:
        """Refuse steps to evaluate after that a run of so many steps does not have."""
        for step in self.at_steps:
            if not 1 <= step <= steps:
                raise CallError(f"--at-steps {step} is out of range: the run has the steps 1 to {steps}.")

    def of_probe(self) -> "FinetuneParameters":
        """Return those of a linear probe: one pass over the labelled cubes, without augmentation.

        Raises:
            CallError: an option of training by steps was given.
        """
        for name in _OF_STEPS:
            if getattr(self, name) != getattr(FinetuneParameters, name):
                raise CallError(
                    f"{option(name)} {getattr(self, name)} does not apply to --freeze-encoder on a "
                    "classification task, which fits a linear probe to convergence: leave one of them out."
                )
        return replace(self, epochs=1, augment=False)

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name; `labels` in words, since in JSON and in Python 1 equals 1.0."""
        steps = self.steps_of(0) if self.epochs is None else None
        named = {"steps": steps, "labels": labels_words(self.labels), "at_steps": list(self.at_steps)}
        return {**asdict(self), **named}

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> "FinetuneParameters":
        """What `as_dict` gave."""
        named = {"labels": parse_labels(told["labels"]), "at_steps": tuple(told.get("at_steps") or ())}
        return cls(**{**told, **named})


#: What runs of the first version did that had no options for it.
FIRST_VERSION = {"select": "best", "schedule": "constant", "warmup": 0, "augment": False, "keep": "all"}


def learning_rate(parameters: FinetuneParameters, step: int, steps: int) -> float:
    """Return the learning rate of a step, counted from 0, in a run of so many steps."""
    warmup = parameters.warmup_of(steps)
    if step < warmup:
        return parameters.lr * (step + 1) / warmup
    if parameters.schedule == "constant":
        return parameters.lr
    return parameters.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


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
