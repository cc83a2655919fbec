"""The parameters of a fine-tuning run (METHOD.md section 6), and the notation for shares of labels."""

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

#: Default if neither steps nor epochs are given.
DEFAULT_STEPS = 500

# Parameters of training step by step, which a linear probe does not use.
_OF_STEPS = ("steps", "epochs", "select", "patience", "lr", "schedule", "warmup", "at_steps")

_MOST_STEPS = 10**8
_MOST_WARMUP = 50  # default limit, in steps
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%")


@dataclass(frozen=True)
class FinetuneParameters:
    """The parameters of one fine-tuning run: Adam for a fixed number of steps (METHOD.md section 6).

    Attributes:
        steps: number of steps; 500 if both this and `epochs` are omitted.
        epochs: instead of `steps`, number of passes over the labelled training cubes.
        select: `last` evaluates the network after the last step, `best` that of the epoch with the lowest
            validation loss, as published. With few validation cubes the best epoch is a lottery.
        patience: only with `best`: stop after this many epochs without a better validation loss; None never
            stops early.
        batch_size: cubes per batch, at most.
        lr: Adam's highest learning rate.
        schedule: `cosine`, which falls to 0 after the last step, or `constant`, as published.
        warmup: number of steps in which the learning rate rises to `lr`; None for a tenth of the steps, at
            most 50.
        augment: flip, shift, rotate and tint the training cubes at random (`augment`).
        precision: precision of the network's products: `float32`; `tf32`, with 10-bit mantissas on GPUs that
            support it; or `bf16` or `fp16` where torch's autocast uses them.
        labels: labelled scans in the train fold: a share in (0, 1] as a float, or a number of scans as an
            int. Validation and test are unaffected.
        head: input of a classifier's head, pooled: the `deepest` level of the encoder, as published, or `all`
            levels.
        keep: the pre-trained parts a segmenter starts from: `encoder`, `all-but-last` (all except the last
            level of the decoder) or `all`. None means `all-but-last`. A classifier has only an encoder.
        freeze_encoder: freeze the encoder. A classifier is then a linear probe: logistic regression on
            standardised features, fitted to convergence (`probe`); a segmenter trains its decoder only.
        at_steps: also evaluate the network on the test fold after these steps.
        seed: seed of the choice of labelled scans, the initial weights of the head (from scratch, of all),
            the order of the cubes, and the augmentation.

    Raises:
        CallError: a value is out of range; the error names it.
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
                f"--steps {self.steps} and --epochs {self.epochs} both set the length of the "
                "run: use only one of them."
            )
        if (self.steps or 0) > _MOST_STEPS:
            raise CallError(f"--steps {self.steps} is out of range: it must be at most {_MOST_STEPS:,}.")
        if self.patience is not None and self.select != "best":
            raise CallError(
                f"--patience {self.patience} needs --select best: otherwise the run takes all "
                "steps and evaluates the last network."
            )
        if self.patience is not None and self.at_steps:
            raise CallError(
                f"--patience {self.patience} may end a run before all of --at-steps: omit one "
                "of the two options."
            )
        most = math.inf if isinstance(self.labels, int) else 1.0
        if isinstance(self.labels, bool) or not 0 < self.labels <= most:
            raise CallError(
                f"--labels {labels_words(self.labels)} is out of range: it must be a share above 0 % and up "
                "to 100 %, or a number of scans from 1, such as --labels 10% or --labels 25."
            )
        check_seed(self.seed)
        object.__setattr__(self, "at_steps", tuple(sorted(set(self.at_steps))))
        if self.epochs is None:
            self.check_at_steps(self.steps_of(0))

    def steps_of(self, per_epoch: int) -> int:
        """Return the number of steps of the run, given those per epoch."""
        return self.steps or (DEFAULT_STEPS if self.epochs is None else self.epochs * per_epoch)

    def warmup_of(self, steps: int) -> int:
        """Return the number of warm-up steps of the learning rate, out of `steps`."""
        return min(_MOST_WARMUP, steps // 10) if self.warmup is None else self.warmup

    def check_at_steps(self, steps: int) -> None:
        """Check that a run of `steps` steps has all steps of `at_steps`."""
        for step in self.at_steps:
            if not 1 <= step <= steps:
                raise CallError(f"--at-steps {step} is out of range: the run has steps 1 to {steps}.")

    def of_probe(self) -> "FinetuneParameters":
        """Return the parameters of a linear probe: one pass over the labelled cubes, without augmentation.

        Raises:
            CallError: an option of training by steps was given.
        """
        for name in _OF_STEPS:
            if getattr(self, name) != getattr(FinetuneParameters, name):
                raise CallError(
                    f"{option(name)} {getattr(self, name)} does not apply to --freeze-encoder "
                    "on a classification task, which fits a linear probe to convergence: "
                    "omit one of the two options."
                )
        return replace(self, epochs=1, augment=False)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values by name; `labels` in words, since in JSON and in Python 1 equals 1.0."""
        steps = self.steps_of(0) if self.epochs is None else None
        named = {"steps": steps, "labels": labels_words(self.labels), "at_steps": list(self.at_steps)}
        return {**asdict(self), **named}

    @classmethod
    def from_dict(cls, described: dict[str, Any]) -> "FinetuneParameters":
        """Return the parameters that `as_dict` gave."""
        named = {
            "labels": parse_labels(described["labels"]),
            "at_steps": tuple(described.get("at_steps") or ()),
        }
        return cls(**{**described, **named})


#: What runs of the first version did before there were options for it.
FIRST_VERSION = {"select": "best", "schedule": "constant", "warmup": 0, "augment": False, "keep": "all"}


def learning_rate(parameters: FinetuneParameters, step: int, steps: int) -> float:
    """Return the learning rate of a step, counted from 0, in a run of `steps` steps."""
    warmup = parameters.warmup_of(steps)
    if step < warmup:
        return parameters.lr * (step + 1) / warmup
    if parameters.schedule == "constant":
        return parameters.lr
    return parameters.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def parse_labels(text: str) -> float | int:
    """Return a share of labelled scans, written `10%`, as a float, or their number, `25`, as an int."""
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
    """Return the text that `parse_labels` reads: `10%` for the share 0.1, `25` for 25 scans."""
    if isinstance(labels, int) or not math.isfinite(labels):
        return str(labels)
    return f"{(Decimal(repr(labels)) * 100).normalize():f}%"
