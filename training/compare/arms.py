"""The arms of a comparison: ways to begin a network, by name (METHOD.md section 6).

An arm is `NAME` or `NAME=WEIGHTS`. Six names are those of the published comparisons, and each says whether
there are weights and of how many axes the network is; any other name stands for whatever weights it is given.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.training.networks.registry import OF_THE_PAPERS, architecture
from genesis_toolkit.training.weights.beginning import Beginning, read_beginning

#: The names of the published comparisons: axes of the network, 3 or 2, and which part of it has weights,
#: `network` or `encoder` (ImageNet's), or None from scratch.
KNOWN: dict[str, tuple[int, str | None]] = {
    "scratch-3d": (3, None),
    "scratch-2d": (2, None),
    "genesis-ct-3d": (3, "network"),
    "imagenet": (2, "encoder"),
    "genesis-ct-2d": (2, "network"),
    "genesis-xray-2d": (2, "network"),
}
_PARTS = {"network": "a whole network", "encoder": "an encoder, as ImageNet's"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,39}")  # of a folder as well, and of a bar in the chart


@dataclass(frozen=True)
class Arm:
    """One way to begin a network.

    Attributes:
        name: 1 to 40 letters, digits and `.`, `_`, `+`, `-`, the first a letter or a digit.
        weights: a file or the folder of a run, as `beginning.read_beginning` takes them; None from
            scratch.

    Raises:
        CallError: the name is not allowed, or wants weights that are not given or must not be.
    """

    name: str
    weights: Path | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise CallError(
                f"--arm {self.name!r} is no name of an arm: give it 1 to 40 letters, digits and any of "
                "._+-, the first a letter or a digit."
            )
        known = self.name in KNOWN
        pretrained = KNOWN[self.name][1] if known else None
        if not known and self.weights is None:
            raise CallError(
                f"--arm {self.name} is unknown without weights; allowed: scratch-3d and scratch-2d as they "
                f"are, any other name with weights, as in --arm {self.name}=run."
            )
        if pretrained and self.weights is None:
            raise CallError(
                f"--arm {self.name} needs weights: name a run or a file, as in --arm {self.name}=run; they "
                "are never downloaded."
            )
        if known and not pretrained and self.weights is not None:
            raise CallError(
                f"--arm {self.name}={self.weights}: this arm begins from nothing; leave the weights out, or "
                "give the arm another name."
            )


def parse_arm(text: str) -> Arm:
    """An arm as it is written on the command line, `NAME` or `NAME=WEIGHTS`.

    Raises:
        CallError: it is neither, or see `Arm`.
    """
    name, equals, weights = text.partition("=")
    if equals and not weights:
        raise CallError(f"--arm {text} has no weights behind the '=': name them, or leave the '=' out.")
    return Arm(name, Path(weights) if equals else None)


def check_arms(arms: Sequence[Arm]) -> None:
    """Refuse arms that cannot be held against each other: fewer than two, or two of one name."""
    if len(arms) < 2:
        given = f"only {arms[0].name} was given" if arms else "none was given"
        raise CallError(
            f"A comparison needs two arms or more, and {given}: add one, as in --arm scratch-3d "
            "--arm genesis-ct-3d=run."
        )
    names = [arm.name for arm in arms]
    for name in names:
        if names.count(name) > 1:
            raise CallError(f"Two arms are named {name}: name them apart, as in --arm {name}-2=WEIGHTS.")


def read_arms(arms: Sequence[Arm], width: int | None = None) -> list[Beginning]:
    """What the networks of the arms begin with, in their order.

    Arms from scratch are to differ from the others in their first weights alone: where all weights of as many
    axes are of one network and one width, scratch takes these.

    Args:
        arms: see `check_arms`.
        width: of the arms from scratch; when left out that of the others, or the published one.

    Raises:
        CallError, DataError: as `read_beginning`; or the weights are not what the arm's name says.
    """
    read = {arm.name: read_beginning(arm.weights) for arm in arms if arm.weights is not None}
    for arm in arms:
        if arm.name in read:
            _check_kind(arm, read[arm.name])

    def scratch(axes: int) -> Beginning:
        others = {(one.network, one.width) for one in read.values() if axes_of(one) == axes}
        network, channels = others.pop() if len(others) == 1 else (OF_THE_PAPERS[axes], None)
        return read_beginning(None, network, channels if width is None else width)

    return [read[arm.name] if arm.name in read else scratch(KNOWN[arm.name][0]) for arm in arms]


def axes_of(beginning: Beginning) -> int:
    """Of the network: 3, or 2."""
    return architecture(beginning.network).axes


def _check_kind(arm: Arm, beginning: Beginning) -> None:
    """Refuse weights that are not what a known name stands for."""
    axes, pretrained = KNOWN.get(arm.name, (0, None))
    part = str(beginning.describe()["pretrained"])
    if pretrained and (axes_of(beginning), part) != (axes, pretrained):
        raise CallError(
            f"--arm {arm.name} stands for weights of {_PARTS[pretrained]} in {axes}D, and "
            f"{arm.weights} holds those of {_PARTS[part]} in {axes_of(beginning)}D ({beginning.network}): "
            "name other weights, or give the arm another name."
        )
