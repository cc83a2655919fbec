"""What a pre-training run is made of, with the published values as defaults (METHOD.md section 4)."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from genesis_toolkit.pipeline.errors import CallError

OPTIMISERS = ("sgd", "adam", "adamw")
SCHEDULES = ("step", "cosine")
NETWORKS = (
    "unet3d",
    "unet2d",
    "resenc-l",
    "plainconv",
)  # those of `registry`, without torch
PRECISIONS = ("float32", "bf16", "fp16")

_MOST = {"batch_size": 4096, "width": 512, "warmup": 10**9}
_PUBLISHED_LR, _ADAM_LR = 1.0, 1e-3
_MOST_LR = 1e30  # beyond, a step is no float32 any more


@dataclass(frozen=True)
class PretrainParameters:
    """The parameters of one pre-training run (METHOD.md section 4).

    Attributes:
        epochs: at most so many passes over the training cubes.
        patience: stop after so many epochs without a better validation loss.
        max_steps: at most so many steps, the last epoch cut short; None for no such limit.
        overfit: train and validate on so many fixed cubes, to see that the loss goes down; None for all.
        batch_size: cubes a batch, at most, all processes together.
        optimiser: `sgd` as published, `adam` or `adamw` (weight decay 0.01).
        lr: learning rate of the first epochs; when left out 1.0 for `sgd`, 0.001 for the others. With SGD at
            1.0 the output can collapse to one value.
        momentum: of SGD.
        schedule: `step`, after every `lr_step` epochs times `lr_factor`, or `cosine`, down to 0 at the last
            step that `epochs` and `max_steps` allow.
        lr_step: see `schedule`.
        lr_factor: see `schedule`.
        warmup: over so many steps the learning rate rises to its first value.
        clip_norm: the gradient, all weights together, is scaled down to this length; None leaves it.
        ema: the decay of a moving average of the weights, which then is what validates and is kept as the
            best; None for none.
        precision: of the network's products: `float32`, or `bf16` or `fp16` where torch's autocast takes it.
        network: `unet3d` or `unet2d` of the papers, or one of nnU-Net's (`registry`). None
            until the store is open, whose number of axes then decides between the first two.
        width: channels of the first convolution. None until the store is open, then the published one: 32,
            or 64 for `unet2d`.
        seed: of the first weights and of the order of the cubes; from a cube store also of the degradations.
        recipe: of the degradations that are made on the fly from a cube store, `genesis` when left out. A
            pair store has its own.

    Raises:
        CallError: a value is out of range; the sentence names it.
    """

    epochs: int = 10_000
    patience: int = 50
    max_steps: int | None = None
    overfit: int | None = None
    batch_size: int = 6
    optimiser: str = "sgd"
    lr: float = None  # type: ignore[assignment] # a number from __post_init__ on
    momentum: float = 0.9
    schedule: str = "step"
    lr_step: int = 40
    lr_factor: float = 0.5
    warmup: int = 0
    clip_norm: float | None = None
    ema: float | None = None
    precision: str = "float32"
    network: str | None = None
    width: int | None = None
    seed: int = 0
    recipe: str | None = None

    def __post_init__(self) -> None:
        if self.lr is None:
            object.__setattr__(self, "lr", _PUBLISHED_LR if self.optimiser == "sgd" else _ADAM_LR)
        for name in ("epochs", "patience", "max_steps", "overfit", "batch_size", "lr_step", "width"):
            _check_at_least(name, getattr(self, name), 1)
        _check_at_least("warmup", self.warmup, 0)
        for name, most in _MOST.items():
            if (getattr(self, name) or 0) > most:
                raise CallError(f"{option(name)} {getattr(self, name)} is out of range: at most {most}.")
        for name, allowed in (
            ("optimiser", OPTIMISERS),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
            ("network", (None, *NETWORKS)),
        ):
            if getattr(self, name) not in allowed:
                raise CallError(
                    f"{option(name)} {getattr(self, name)} is unknown; allowed: "
                    f"{', '.join(filter(None, allowed))}."
                )
        assert self.lr is not None
        check_lr(self.lr, "1.0")
        if self.clip_norm is not None and not (math.isfinite(self.clip_norm) and self.clip_norm > 0):
            raise CallError(
                f"--clip-norm {self.clip_norm:g} is out of range: it must be above 0, as in --clip-norm 1.0."
            )
        if self.ema is not None and not 0 < self.ema < 1:
            raise CallError(f"--ema {self.ema:g} is out of range: it must be between 0 and 1, such as 0.999.")
        if not 0 <= self.momentum < 1:
            raise CallError(
                f"The momentum {self.momentum:g} is out of range: it must be in [0, 1), such as 0.9."
            )
        if not 0 < self.lr_factor <= 1:
            raise CallError(
                f"The lr factor {self.lr_factor:g} is out of range: it must be in (0, 1], such as 0.5."
            )
        if not 0 <= self.seed < 2**63:
            raise CallError(
                f"--seed {self.seed} is out of range: it must be a whole number from 0 to 2^63 - 1."
            )

    @property
    def stopping_rules(self) -> tuple[str, ...]:
        """The parameters with which a run may go on when they differ: they change no step that was taken."""
        return ("patience",) if self.schedule == "cosine" else ("epochs", "patience")

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name."""
        return asdict(self)


@dataclass(frozen=True)
class Execution:
    """How a run is carried out: nothing here changes what is learnt by more than rounding.

    Attributes:
        device: `auto` (CUDA where there is one), `cpu` or `cuda`.
        devices: so many processes on this machine, one a GPU; 1 also where `torchrun` has started more.
        compile: let torch compile the network, which takes a minute or two at the start.
        channels_last: the order of the voxels in memory; None takes it on the CPU only.
        save_steps: write the checkpoint after every so many steps, beside every epoch; None for never.
        save_seconds: likewise, whenever so many seconds have gone by.
        tensorboard: write events for TensorBoard into the run's folder as well.
        profile: write where the time of some early steps goes into the run's folder.

    Raises:
        CallError: a value is out of range; the sentence names it.
    """

    device: str = "auto"
    devices: int = 1
    compile: bool = False
    channels_last: bool | None = None
    save_steps: int | None = None
    save_seconds: float = 600.0
    tensorboard: bool = False
    profile: bool = False

    def __post_init__(self) -> None:
        for name in ("devices", "save_steps"):
            _check_at_least(name, getattr(self, name), 1)
        if not self.save_seconds > 0:
            raise CallError(
                f"--save-seconds {self.save_seconds:g} is out of range: it must be above 0, such as 600."
            )


def check_lr(lr: float, example: str) -> None:
    """Refuse a learning rate that is none.

    Raises:
        CallError: it is not above 0, or no step with it could be computed.
    """
    if not 0 < lr <= _MOST_LR:  # which nan is not either
        raise CallError(
            f"--lr {lr:g} is out of range: it must be above 0 and at most {_MOST_LR:g}, as in --lr {example}."
        )


def option(name: str) -> str:
    """A parameter as it is written on the command line: `batch_size` is `--batch-size`."""
    return "--" + name.replace("_", "-")


def _check_at_least(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise CallError(f"{option(name)} {value} is out of range: it must be at least {least}.")
