"""The model card: a page of Markdown beside exported weights that tells where they come from.

It names the store by its name and its hashes. Nothing in it tells of the machine that trained.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from genesis_toolkit.pipeline.describe.card import PATENT
from genesis_toolkit.pipeline.ledger import MANIFEST
from genesis_toolkit.pipeline.store.open import CubeStore, PairStore
from genesis_toolkit.pipeline.version import __version__

_OURS = """\
from genesis_toolkit.training.weights.export import load_encoder, load_network

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


@dataclass(frozen=True)
class CardFacts:
    """What a card tells of the file beside it.

    Attributes:
        file: its name.
        kind: its format, `official`, `nnssl` or `state-dict`.
        sha256: of its content, in hexadecimal.
        network: what it is, in words.
        width: channels of the first convolution.
        weights: parameters of the network, counted.
        edge_multiple: edges of its input must be divisible by this, in voxels.
        epoch: the one that the weights are of, counted from 1.
        validation_loss: mean squared error of values in [0, 1], after that epoch.
    """

    file: str
    kind: str
    sha256: str
    network: str
    width: int
    weights: int
    edge_multiple: int
    epoch: int
    validation_loss: float


def store_facts(store: CubeStore | PairStore) -> dict[str, Any]:
    """What a run keeps of its store for the card, and for programs that go on with its weights.

    Returns:
        Plain JSON values: `manifest`, the sha256 of the store's manifest, which covers every file of it;
        `scans`, how many gave cubes; `spacing_mm`, the median of their spacing in x, y, z, 0 where it is not
        known; and of a pair store `variants` and `seed`.
    """
    used = store.scans.cubes > 0
    facts = {
        "manifest": store.manifest_sha256,
        "scans": int(used.sum()),
        "spacing_mm": np.median(store.scans.spacing[used], axis=0).tolist(),
    }
    return facts | ({"variants": store.variants, "seed": store.seed} if isinstance(store, PairStore) else {})


def model_card(facts: CardFacts, run: Mapping[str, Any], by_degradation: Mapping[str, float]) -> str:
    """The text of a card.

    Args:
        facts: of the file.
        run: what `run.json` says of the run.
        by_degradation: the validation loss of every combination of degradations, after that epoch.

    Returns:
        Markdown that ends with a newline.
    """
    losses = _losses(facts, run["baselines"], by_degradation)
    return "\n".join((_heading(facts, run), _data(run), _training(run), losses, _loading(facts), _licence()))


def _heading(facts: CardFacts, run: Mapping[str, Any]) -> str:
    low, high = run["window"]
    axes = "z, y, x" if facts.kind == "nnssl" else ", ".join("xyz"[: len(run["size"])])
    learnt_on = f"{_cubes(run)} of unlabelled scans"
    return f"""\
# {facts.file}

A {facts.network}, pre-trained on {learnt_on}: they were degraded, and
it learnt to restore them (Models Genesis). Trained with genesis-toolkit {run["genesis_toolkit"]}, exported
with {__version__}.

- format `{facts.kind}`: {_FORMATS[facts.kind]}
- sha256: `{facts.sha256}`
- network: width {facts.width}, {facts.weights:,} parameters
- input: float32 `[batch, 1, {axes}]` in [0, 1]: voxels (HU in CT) clipped to [{low}, {high}] and scaled;
  every edge is a multiple of {facts.edge_multiple}
- output: the restored {_cubes(run)}, of the same shape and range
"""


def _data(run: Mapping[str, Any]) -> str:
    store = run["store"]
    lines = [f"store: `{PurePath(store['path']).name}` ({store['format']})"]
    if "manifest" in store:  # a run that was begun before it was kept does not have it
        lines += [
            f"sha256 of the store's `{MANIFEST}`: `{store['manifest']}`",
            f"scans: {store['scans']}, of {_spacing(store['spacing_mm'])}",
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


def _training(run: Mapping[str, Any]) -> str:
    first = run.get("initial_encoder")
    begun = f"- the encoder began with `{first['file']}`, sha256 `{first['sha256']}`\n" if first else ""
    return f"## Training\n\n{_listed(run['parameters'])}{begun}"


def _losses(facts: CardFacts, baselines: Mapping[str, Any], by_degradation: Mapping[str, float]) -> str:
    rows = [("all", facts.validation_loss, baselines)]
    rows += [(name, loss, baselines["by_degradation"][name]) for name, loss in by_degradation.items()]
    listed = "".join(
        f"| {name} | {loss:.6f} | {beside['copy']:.6f} | {beside['mean_image']:.6f} |\n"
        for name, loss, beside in rows
    )
    return f"""\
## Losses

Mean squared errors on the validation pairs, of values in [0, 1], after the best epoch, {facts.epoch}; beside
the network, the degraded cube taken for its restoration, and the mean image of the training originals.

| pairs | network | copy | mean image |
|---|---|---|---|
{listed}"""


def _loading(facts: CardFacts) -> str:
    code = (_NNSSL if facts.kind == "nnssl" else _OURS).format(file=facts.file)
    return f"## Load it\n\n```python\n{code}```\n"


def _licence() -> str:
    return f"""\
## Licence and patent

No weights of the method's authors are in this file. Those who trained it say under which licence it is passed
on; the terms of the scans bind them.

{PATENT}

The method: Zhou et al., *Models Genesis: Generic Autodidactic Models for 3D Medical Image Analysis* (MICCAI
2019, arXiv 1908.06912); *Models Genesis* (Medical Image Analysis 67, 2021, arXiv 2004.07882).
"""


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


def _spacing(millimetres: Sequence[float]) -> str:
    known = f"{_times(millimetres)} mm in x, y, z (median)"
    return known if all(millimetres) else "unknown spacing"


def _times(edges: Sequence[float]) -> str:
    return " x ".join(f"{edge:g}" for edge in edges)
