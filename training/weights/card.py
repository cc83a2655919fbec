"""The model card: a page of Markdown beside exported weights that tells where they come from.

It names the store by its name and its hashes. Nothing in it tells of the machine that trained.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from genesis_toolkit.pipeline.describe.card import PATENT
from genesis_toolkit.pipeline.ledger import MANIFEST
from genesis_toolkit.pipeline.version import __version__
from genesis_toolkit.training.networks.registry import architecture

_OURS = """\
from genesis_toolkit import load_encoder, load_network

network = load_network("{file}")  # degraded cubes in, restored cubes out
encoder = load_encoder("{file}")  # cubes in, a list of features by level out
"""
_NNSSL = """\
import torch

checkpoint = torch.load("{file}", weights_only=True)
plan = checkpoint["nnssl_adaptation_plan"]
print(plan["architecture_plans"]["arch_class_name"], len(checkpoint["network_weights"]))
"""
_FORMATS = {
    "official": """\
a dict of `epoch`, `state_dict`, every key of which begins with `module.`, and
  `optimizer_state_dict`, as the method's authors publish theirs""",
    "state-dict": "the tensors by name, and nothing else",
    "nnssl": """\
a checkpoint with an adaptation plan, for nnU-Net v2's `nnUNetv2_preprocess_like_nnssl`,
  `nnUNetv2_plan_like_dynamic` and `nnUNetv2_train_pretrained`; the kernels are turned to its order of axes,
  and the network gives logits, whose sigmoid is the restored cube""",
}


_LICENCE = f"""\
## Licence and patent

No weights of the method's authors are in this file. Those who trained it say under which licence it is passed
on; the terms of the scans bind them.

{PATENT}

The method: Zhou et al., *Models Genesis: Generic Autodidactic Models for 3D Medical Image Analysis* (MICCAI
2019, arXiv 1908.06912); *Models Genesis* (Medical Image Analysis 67, 2021, arXiv 2004.07882).
"""


@dataclass(frozen=True)
class WeightsResult:
    """What `export` wrote, and what the card tells of it.

    Attributes:
        file: the weights.
        card: the model card beside them.
        format: `official`, `nnssl` or `state-dict`.
        network: name of the architecture.
        width: channels of the first convolution.
        weights: parameters of the network, counted.
        epoch: of the run, counted from 1.
        validation_loss: mean squared error of values in [0, 1] after that epoch.
        sha256: of the file, in hexadecimal.
    """

    file: str
    card: str
    format: str
    network: str
    width: int
    weights: int
    epoch: int
    validation_loss: float
    sha256: str


def model_card(result: WeightsResult, run: Mapping[str, Any], by_degradation: Mapping[str, float]) -> str:
    """The text of a card in Markdown, of what was written and what `run.json` says of its run.

    Beside it the validation loss of every combination of degradations, after that epoch.
    """
    first = run.get("initial_encoder")
    begun = f"- the encoder began with `{first['file']}`, sha256 `{first['sha256']}`\n" if first else ""
    training = f"## Training\n\n{_listed(run['parameters'])}{begun}"
    losses = _losses(result, run["baselines"], by_degradation)
    code = (_NNSSL if result.format == "nnssl" else _OURS).format(file=PurePath(result.file).name)
    loading = f"## Load it\n\n```python\n{code}```\n"
    return "\n".join((_heading(result, run), _data(run), training, losses, loading, _LICENCE))


def _heading(result: WeightsResult, run: Mapping[str, Any]) -> str:
    low, high = run["window"]
    kind = architecture(result.network)
    axes = "z, y, x" if result.format == "nnssl" else ", ".join("xyz"[: len(run["size"])])
    return f"""\
# {PurePath(result.file).name}

A {kind.words}, pre-trained on {_cubes(run)} of unlabelled scans: they were degraded, and
it learnt to restore them (Models Genesis). Trained with genesis-toolkit {run["genesis_toolkit"]}, exported
with {__version__}.

- format `{result.format}`: {_FORMATS[result.format]}
- sha256: `{result.sha256}`
- network: width {result.width}, {result.weights:,} parameters
- input: float32 `[batch, 1, {axes}]` in [0, 1]: voxels (HU in CT) clipped to [{low}, {high}] and scaled;
  every edge is a multiple of {kind.edge_multiple}
- output: the restored {_cubes(run)}, of the same shape and range
"""


def _data(run: Mapping[str, Any]) -> str:
    store = run["store"]
    lines = [f"store: `{PurePath(store['path']).name}` ({store['format']})"]
    if "manifest" in store:  # a run that was begun before it was kept does not have it
        known = f"{_times(store['spacing_mm'])} mm in x, y, z (median)"
        lines += [
            f"sha256 of the store's `{MANIFEST}`: `{store['manifest']}`",
            f"scans: {store['scans']}, of {known if all(store['spacing_mm']) else 'unknown spacing'}",
        ]
    if "seed" in store:
        lines.append(f"pairs: {store['variants']} variants of every cube, degraded with seed {store['seed']}")
    lines += [
        f"fingerprint of its tables and parameters: `{store['fingerprint']}`",
        f"{_cubes(run)} of {_times(run['size'])} voxels: {run['train_cubes']} train, "
        f"{run['validation_cubes']} validate ({run['split']})",
    ]
    told = "".join(f"- {line}\n" for line in lines)
    return f"## Data\n\n{told}\n## Degradations\n\n{_listed(store['recipe'])}"


def _losses(result: WeightsResult, baselines: Mapping[str, Any], by_degradation: Mapping[str, float]) -> str:
    rows = [("all", result.validation_loss, baselines)]
    rows += [(name, loss, baselines["by_degradation"][name]) for name, loss in by_degradation.items()]
    listed = "".join(
        f"| {name} | {loss:.6f} | {beside['copy']:.6f} | {beside['mean_image']:.6f} |\n"
        for name, loss, beside in rows
    )
    return f"""\
## Losses

Mean squared errors on the validation pairs, of values in [0, 1], after the best epoch, {result.epoch}; beside
the network, the degraded cube taken for its restoration, and the mean image of the training originals.

| pairs | network | copy | mean image |
|---|---|---|---|
{listed}"""


def _listed(parameters: Mapping[str, Any]) -> str:
    """Parameters as a list of Markdown; those that were left out are not told."""
    return "".join(
        f"- {name.replace('_', ' ')}: {', '.join(value) if isinstance(value, list) else value}\n"
        for name, value in parameters.items()
        if value is not None
    )


def _cubes(run: Mapping[str, Any]) -> str:
    """What the network restores: cubes, or in 2D slices and images."""
    return "cubes" if len(run["size"]) == len("xyz") else "images"


def _times(edges: Sequence[float]) -> str:
    return " x ".join(f"{edge:g}" for edge in edges)
