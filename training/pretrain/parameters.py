"""The parameters of a pre-training run, with the published values as defaults (METHOD.md section 4)."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.training.machine.options import check_counts, check_lr, check_seed, option

OPTIMISERS = ("sgd", "adam", "adamw")
SCHEDULES = ("step", "cosine")
NETWORKS = ("unet3d", "unet2d", "resenc-l", "plainconv")  # the names in `registry`, without torch
PRECISIONS = ("float32", "tf32", "bf16", "fp16")

_LR = {"sgd": 1.0, "adam": 1e-3, "adamw": 1e-3}
_EPOCHS = {"patience": 50, "lr_step": 40}  # as published
# Nothing was published for `unet2d`. Measured on 20 radiographs of NIH ChestX-ray14, 4 steps an epoch; three
# others validate (the mean image has 0.0302). Lowest validation loss, and its median over the last epochs.
#
#     width 16, 299 epochs   0.001, halved every 40 epochs   0.0246   0.0256 (last 49)
#                            0.001, never halved             0.0196   0.0244          (patience 50: 0.0227)
#               250 epochs   0.001, cosine                   0.0209   0.0252 (last 50); never halved: 0.0253
#                72 epochs   0.001, batches of 2             0.0251
#                75 epochs   0.003                           0.0286          (0.001: 0.0263)
#                55 epochs   0.0003                          0.0318          (0.001: 0.0267)
#     width 64, 106 epochs   0.0003                          0.0235   0.0278 (last 19), training loss 0.0278
#                            0.001                           0.0254   0.0308                          0.0313
#
# 68 practice radiographs, width 64, epochs 5 to 9: mean 0.0168 with 0.0003, 0.0169 with 0.001.
_LEAST_STEPS = {"patience": 1000, "lr_step": 2000}  # `unet2d`: or as many epochs as have so many steps
_WIDE, _LR_WIDE = 64, 3e-4  # `unet2d`: Adam's learning rate from this width on


@dataclass(frozen=True)
class PretrainParameters:
    """The parameters of one pre-training run (METHOD.md section 4).

    Attributes:
        epochs: largest number of passes over the training cubes.
        patience: stop after this many epochs without a better validation loss; by default 50, and for
            `unet2d` at least 1,000 steps. None until the data are known.
        max_steps: largest number of steps, cutting the last epoch short; None for no limit.
        overfit: train and validate on this many fixed cubes, to check that the loss falls; None for all.
        batch_size: cubes per batch, at most, over all processes.
        optimiser: `sgd`, `adam` or `adamw` (weight decay 0.01). By default `sgd` as published, or `adam` for
            `unet2d`, for which nothing was published; None until the network is known.
        lr: learning rate of the first epochs; by default 1.0 for `sgd`, 0.001 for the others. If `unet2d` has
            its default optimiser and at least its default width, 0.0003. With SGD at 1.0 the output can
            collapse to one value.
        momentum: momentum of SGD.
        schedule: `step`, multiplied by `lr_factor` after every `lr_step` epochs, or `cosine`, which reaches 0
            at the last step that `epochs` and `max_steps` allow.
        lr_step: see `schedule`; by default 40, and for `unet2d` at least 2,000 steps. None until the data are
            known.
        lr_factor: see `schedule`.
        warmup: number of steps in which the learning rate rises to its first value.
        clip_norm: largest norm of the gradient of all weights together, in L2; None for no limit.
        ema: decay of a moving average of the weights, which then is validated and kept as the best; None for
            none. It warms up, see `ema_decay`.
        drop_skips: probability that a training step zeroes a skip connection, in [0, 1] (`networks.skips`).
            0 as published; 0.5 if data are scarce.
        precision: precision of the network's products: `float32`; `tf32`, with 10-bit mantissas on GPUs that
            support it; or `bf16` or `fp16` where torch's autocast uses them.
        network: `unet3d` or `unet2d` of the papers, or one of nnU-Net's (`registry`). None until the store
            is open, whose number of axes then selects one of the first two.
        width: channels of the first convolution. None until the store is open, then the published width: 32,
            or 64 for `unet2d`.
        seed: seed of the initial weights and of the order of the cubes; for a cube store also of the
            degradations.
        recipe: recipe of the degradations on the fly for a cube store, `genesis` by default. A pair store has
            its own.

    Raises:
        CallError: a value is out of range; the error names it.
    """

    epochs: int = 10_000
    patience: int = None  # type: ignore[assignment] # set once the number of steps is known
    max_steps: int | None = None
    overfit: int | None = None
    batch_size: int = 6
    optimiser: str = None  # type: ignore[assignment] # set once the network is known
    lr: float = None  # type: ignore[assignment] # set once the optimiser is known
    momentum: float = 0.9
    schedule: str = "step"
    lr_step: int = None  # type: ignore[assignment] # set once the number of steps is known
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
        self._set_defaults()
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
            (norm is None or 0 < norm < math.inf, "--clip-norm", norm, "above 0, such as 1.0"),
            (ema is None or 0 < ema < 1, "--ema", ema, "between 0 and 1, such as 0.999"),
            (0 <= self.drop_skips <= 1, "--drop-skips", self.drop_skips, "between 0 and 1, such as 0.5"),
            (0 <= self.momentum < 1, "The momentum", self.momentum, "in [0, 1), such as 0.9"),
            (
                0 < self.lr_factor <= 1,
                "The learning-rate factor",
                self.lr_factor,
                "in (0, 1], such as 0.5",
            ),
        ):
            if not fits:
                raise CallError(f"{what} {value:g} is out of range: it must be {must_be}.")
        check_seed(self.seed)

    def _set_defaults(self) -> None:
        """Set what the network decides, and for `unet2d` its width, as far as they are known."""
        known: dict[str, Any] = {}
        if self.network == "unet2d":
            if self.optimiser is None and self.width is not None:
                known |= {"optimiser": "adam", "lr": _LR["adam"] if self.width < _WIDE else _LR_WIDE}
        elif self.network is not None:
            known |= {"optimiser": "sgd", **_EPOCHS}
        for name, value in known.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.lr is None:
            object.__setattr__(self, "lr", _LR.get(self.optimiser))

    @property
    def stopping_rules(self) -> tuple[str, ...]:
        """The parameters that may differ when a run is resumed: they change no step already taken."""
        return ("patience",) if self.schedule == "cosine" else ("epochs", "patience")

    def of_network(self, network: str, width: int) -> "PretrainParameters":
        """Return the parameters for a network and a width, with the defaults that depend on them."""
        return replace(self, network=network, width=width)

    def of_steps(self, steps: int) -> "PretrainParameters":
        """Return the parameters of `unet2d` for epochs of that many steps; those of others stay the same."""
        known: Any = {
            name: max(epochs, -(-_LEAST_STEPS[name] // steps))
            for name, epochs in _EPOCHS.items()
            if getattr(self, name) is None
        }
        return replace(self, **known)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values by name."""
        return asdict(self)


@dataclass(frozen=True)
class Execution:
    """Settings of the machine for a run; they affect the result by rounding errors at most.

    Without `fast` and `compile` the same call gives the same bits.

    Attributes:
        device: `auto` (CUDA if available), `cpu` or `cuda`.
        devices: number of processes on this machine, one per GPU; 1 if `torchrun` starts them.
        compile: compile the network with torch, which takes a minute or two at the start.
        fast: let cuDNN pick the fastest kernels, in whatever order they sum.
        channels_last: use the channels-last memory order; None uses it on the CPU only.
        save_steps: write a checkpoint every so many steps, besides after every epoch; None for never.
        save_seconds: likewise, every so many seconds.
        tensorboard: also write events for TensorBoard into the run folder.
        profile: write the time spent in each operation during some early steps into the run folder.

    Raises:
        CallError: a value is out of range; the error names it.
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
    """Return the learning rate of a step, counted from 0 since the first epoch.

    It depends on the position only, so a schedule has no state that a checkpoint could lose.
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
    """Return the decay of the moving average after a step, counted from 0 since the first epoch.

    It rises to `ema`: with 0.999 from the start, a tenth of the initial, random weights would still be in the
    average after 2,300 steps. So the first step weighs nine tenths, and one after 890 steps 1 %.
    """
    return min(parameters.ema or 0.0, (1 + step) / (10 + step))
