"""What a pre-training run is made of, with the published values as defaults (METHOD.md section 4)."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.errors import CallError

_MOST_BATCH, _MOST_WIDTH = 4096, 512

#: Rules of stopping: a run may go on with others, for they change no step that was taken.
STOPPING_RULES = ("epochs", "patience")


@dataclass(frozen=True)
class PretrainParameters:
    """The parameters of one pre-training run (METHOD.md section 4).

    Attributes:
        epochs: at most so many passes over the training cubes.
        patience: stop after so many epochs without a better validation loss.
        batch_size: cubes a batch, at most.
        lr: learning rate of SGD in the first epochs. At 1.0 the output can collapse to one value.
        momentum: of SGD.
        lr_step: after every so many epochs the learning rate is multiplied by `lr_factor`.
        lr_factor: see `lr_step`.
        width: channels of the first convolution; 32 is the published network.
        seed: of the first weights and of the order of the cubes; from a cube store also of the degradations.
        recipe: of the degradations that are made on the fly from a cube store, `genesis` when left out. A
            pair store has its own.

    Raises:
        CallError: a value is out of range; the sentence names it.
    """

    epochs: int = 10_000
    patience: int = 50
    batch_size: int = 6
    lr: float = 1.0
    momentum: float = 0.9
    lr_step: int = 40
    lr_factor: float = 0.5
    width: int = 32
    seed: int = 0
    recipe: str | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "batch_size", "lr_step", "width"):
            if getattr(self, name) < 1:
                raise CallError(
                    f"{option(name)} {getattr(self, name)} is out of range: it must be at least 1."
                )
        for name, most in (("batch_size", _MOST_BATCH), ("width", _MOST_WIDTH)):
            if getattr(self, name) > most:
                raise CallError(f"{option(name)} {getattr(self, name)} is out of range: at most {most}.")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise CallError(f"--lr {self.lr:g} is out of range: it must be above 0, as in --lr 1.0.")
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

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers by name."""
        return asdict(self)


def option(name: str) -> str:
    """A parameter as it is written on the command line: `batch_size` is `--batch-size`."""
    return "--" + name.replace("_", "-")
