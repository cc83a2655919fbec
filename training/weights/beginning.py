"""What the network of a target task begins with: pre-trained weights, or none (METHOD.md section 6)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import sha256_of
from genesis_toolkit.training.machine.run_folder import Run
from genesis_toolkit.training.networks.registry import MOST_WIDTH, architecture
from genesis_toolkit.training.networks.unet2d import UNet2D
from genesis_toolkit.training.weights.export import file_of, load_exactly, read_weights, recognise
from genesis_toolkit.training.weights.initial import InitialEncoder, read_initial_encoder

_RESNET = ("conv1.weight", "layer1.0.conv1.weight")  # torchvision's names; no network here has these
_KERNEL_AXES = 4


@dataclass(frozen=True, eq=False)
class Beginning:
    """What a network begins with.

    Attributes:
        network: its name in `registry`.
        width: channels of its first convolution.
        weights: of the whole network, by published name, on the CPU; None where there are none.
        encoder: weights of a ResNet-18 for the encoder of `unet2d`; None where there are none. Of `weights`
            and `encoder` one is None at least; from scratch both are.
        file: the name of the file of weights, without its folder; None from scratch.
        sha256: of that file, in hexadecimal; None from scratch.
        window: lowest and highest value that the weights were trained on, in HU or grey levels, where the
            folder of a run tells; else None.
    """

    network: str
    width: int
    weights: Mapping[str, Tensor] | None = None
    encoder: InitialEncoder | None = None
    file: str | None = None
    sha256: str | None = None
    window: tuple[int, int] | None = None

    def describe(self) -> dict[str, Any]:
        """Plain JSON values, and no folder of this machine; `pretrained` says which part has weights."""
        part = "network" if self.weights is not None else "encoder" if self.encoder is not None else None
        return {
            "network": self.network,
            "width": self.width,
            "pretrained": part,
            "file": self.file,
            "sha256": self.sha256,
            "window": None if self.window is None else list(self.window),
        }


def read_beginning(weights: Path | None, network: str | None = None, width: int | None = None) -> Beginning:
    """Read what a network begins with.

    Args:
        weights: the folder of a run (its best checkpoint is taken), a checkpoint, a file in the official
            format or a state dict, as `export.load_network` takes them; or a ResNet-18 as
            torchvision publishes it, for the encoder of `unet2d`. None: from scratch.
        network: of scratch; `unet3d` when left out. The weights tell theirs, so beside weights it only says
            what is expected.
        width: likewise; the published width when left out.

    Raises:
        CallError: there is nothing at `weights`, they are of another network or width than was asked for, or
            the name or the width is out of range.
        DataError: the file is damaged, or holds weights of no network that is known here.
    """
    kind = architecture(network)
    if width is not None and not 1 <= width <= MOST_WIDTH:
        raise CallError(f"--width {width} is out of range: it must be from 1 to {MOST_WIDTH} channels.")
    if weights is None:
        return Beginning(kind.name, kind.published_width if width is None else width)
    path = file_of(weights)
    found = _read(path, _window(weights))
    for option, asked, there in (("--network", network, found.network), ("--width", width, found.width)):
        if asked is not None and asked != there:
            raise CallError(
                f"{weights} holds weights of {found.network} of width {found.width}, and {option} {asked} "
                f"was asked for: leave {option} out, or name other weights."
            )
    return found


def _read(path: Path, window: tuple[int, int] | None) -> Beginning:
    """What lies in a file of weights, once it is known to fit."""
    sha256 = sha256_of(path.read_bytes())
    weights = read_weights(path)
    if all(name in weights for name in _RESNET):
        encoder = read_initial_encoder(path)
        shape = tuple(encoder.weights[_RESNET[0]].shape)
        if len(shape) != _KERNEL_AXES or not 1 <= shape[0] <= MOST_WIDTH:
            raise DataError(
                f"{path} has {_RESNET[0]} of shape {shape}, a ResNet-18 needs (width, 3, 7, 7), width at "
                f"least 1 and at most {MOST_WIDTH}."
            )
        width = shape[0]
        encoder.begin(UNet2D(width))
        return Beginning("unet2d", width, None, encoder, path.name, sha256)
    kind, width = recognise(weights, path)
    load_exactly(kind, width, weights, path)
    return Beginning(kind.name, width, weights, None, path.name, sha256, window)


def _window(weights: Path) -> tuple[int, int] | None:
    """The window of the store that a run was trained from, where the folder of that run was given."""
    try:
        described = Run(weights).described()
    except (CallError, DataError, OSError):
        return None  # another program's folder, or an older run: its weights may do all the same
    low, high = (described or {}).get("window", (0, 0))
    return (low, high) if low < high else None
