"""What a pre-training run is made of, with the published values as defaults (METHOD.md section 4)."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.training.machine.options import check_counts, check_lr, check_seed, option

OPTIMISERS = ("sgd", "adam", "adamw")
SCHEDULES = ("step", "cosine")
NETWORKS = ("unet3d", "unet2d", "resenc-l", "plainconv")  # those of `registry`, without torch
PRECISIONS = ("float32", "tf32", "bf16", "fp16")

_LR = {"sgd": 1.0, "adam": 1e-3, "adamw": 1e-3}
_OPTIMISER = {"unet2d": "adam"}  # of other networks the published `sgd`


@dataclass(frozen=True)
class PretrainParameters:
    """The parameters of one pre-training run (METHOD.md section 4).

    Attributes:
        epochs: at most so many passes over the training cubes.
        patience: stop after so many epochs without a better validation loss.
        max_steps: at most so many steps, the last epoch cut short; None for no such limit.
        overfit: train and validate on so many fixed cubes, to see that the loss goes down; None for all.
        batch_size: cubes a batch, at most, all processes together.
        optimiser: `sgd`, `adam` or `adamw` (weight decay 0.01). When left out, None until the network is
            known, then `sgd` as published, or `adam` for `unet2d`, for which nothing was published.
        lr: learning rate of the first epochs; when left out 1.0 for `sgd`, 0.001 for the others. With SGD at
            1.0 the output can collapse to one value.
        momentum: of SGD.
        schedule: `step`, after every `lr_step` epochs times `lr_factor`, or `cosine`, which is 0 at the last
            step that `epochs` and `max_steps` allow.
        lr_step: see `schedule`.
        lr_factor: see `schedule`.
        warmup: over so many steps the learning rate rises to its first value.
        clip_norm: the gradient, all weights together, is scaled down to this length; None leaves it.
        ema: the decay of a moving average of the weights, which then is what validates and is kept as the
            best; None for none. It warms up, see `ema_decay`.
        drop_skips: the probability with which a training step zeroes each skip connection, in [0, 1]
            (`networks.skips`). 0 as published; 0.5 where data are few.
        precision: of the network's products: `float32`; `tf32`, float32 with products of 10 bits on GPUs that
            have it; or `bf16` or `fp16` where torch's autocast takes it.
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
    optimiser: str = None  # type: ignore[assignment] # a word once the network is known
    lr: float = None  # type: ignore[assignment] # a number once the optimiser is known
    momentum: float = 0.9
    schedule: str = "step"
    lr_step: int = 40
    lr_factor: float = 0.5
    warmup: int = 0
    clip_norm: float | None = None
    ema: float | None = None
    drop_skips: float = 0.0
    precision: str = "float32"
    network: str | None = None
    width: int | None = None
    seed: int = 0
    recipe: str | None = None

    def __post_init__(self) -> None:
        if self.optimiser is None and self.network is not None:
            object.__setattr__(self, "optimiser", _OPTIMISER.get(self.network, "sgd"))
        if self.lr is None:
            object.__setattr__(self, "lr", _LR.get(self.optimiser))
        check_counts(self, "epochs", "patience", "max_steps", "overfit", "batch_size", "lr_step", "width")
        check_counts(self, "warmup", least=0)
        for name, allowed in (
            ("optimiser", (None, *OPTIMISERS)),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
            ("network", (None, *NETWORKS)),
        ):
            if getattr(self, name) not in allowed:
                raise CallError(
                    f"{option(name)} {getattr(self, name)} is unknown; allowed: "
                    f"{', '.join(filter(None, allowed))}."
                )
        if self.lr is not None:
            check_lr(self.lr, "1.0")
        ema, norm = self.ema, self.clip_norm
        for fits, what, value, must_be in (
            (norm is None or 0 < norm < math.inf, "--clip-norm", norm, "above 0, as in --clip-norm 1.0"),
            (ema is None or 0 < ema < 1, "--ema", ema, "between 0 and 1, such as 0.999"),
            (0 <= self.drop_skips <= 1, "--drop-skips", self.drop_skips, "from 0 to 1, such as 0.5"),
            (0 <= self.momentum < 1, "The momentum", self.momentum, "in [0, 1), such as 0.9"),
            (0 < self.lr_factor <= 1, "The lr factor", self.lr_factor, "in (0, 1], such as 0.5"),
        ):
            if not fits:
                raise CallError(f"{what} {value:g} is out of range: it must be {must_be}.")
        check_seed(self.seed)

    @property
    def stopping_rules(self) -> tuple[str, ...]:
        """The parameters with which a run may go on when they differ: they change no step that was taken."""
        return ("patience",) if self.schedule == "cosine" else ("epochs", "patience")

    def of_network(self, network: str, width: int) -> "PretrainParameters":
        """The same for a network and a width, with what was left out until they are known."""
        return replace(self, network=network, width=width)

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name."""
        return asdict(self)


@dataclass(frozen=True)
class Execution:
    """How a run is carried out: nothing here changes what is learnt by more than rounding.

    Without `fast` and `compile` the same call gives the same bits.

    Attributes:
        device: `auto` (CUDA where there is one), `cpu` or `cuda`.
        devices: so many processes on this machine, one a GPU; 1 where `torchrun` has started them.
        compile: let torch compile the network, which takes a minute or two at the start.
        fast: let cuDNN choose its kernels by their speed of the moment, be their sums in any order.
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
    fast: bool = False
    channels_last: bool | None = None
    save_steps: int | None = None
    save_seconds: float = 600.0
    tensorboard: bool = False
    profile: bool = False

    def __post_init__(self) -> None:
        check_counts(self, "devices", "save_steps")
        if not self.save_seconds > 0:
            raise CallError(
                f"--save-seconds {self.save_seconds:g} is out of range: it must be above 0, such as 600."
            )


def learning_rate(parameters: PretrainParameters, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step, counted from 0 since the first epoch.

    It depends on nothing but the position, so a schedule has no state that a checkpoint could lose.
    """
    if step < parameters.warmup:
        return parameters.lr * (step + 1) / parameters.warmup
    if parameters.schedule == "step":
        epoch = step // steps_per_epoch
        return parameters.lr * float(parameters.lr_factor ** (epoch // parameters.lr_step))
    last = min(parameters.epochs * steps_per_epoch, parameters.max_steps or math.inf)
    share = (step - parameters.warmup) / max(1, last - 1 - parameters.warmup)
    return parameters.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def ema_decay(parameters: PretrainParameters, step: int) -> float:
    """The decay of the moving average after a step, counted from 0 since the first epoch.

    It rises to `ema`: at 0.999 from the start, a tenth of the first, random weights would still be in the
    average after 2,300 steps. So the first step weighs nine tenths, and one after 890 steps 1 %.
    """
    return min(parameters.ema or 0.0, (1 + step) / (10 + step))
