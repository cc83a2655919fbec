"""The model card: what trained weights are, where they come from, and how to load them.

The card is Markdown that begins with the YAML block that model hubs read. It names no folder of the machine.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from genesis_toolkit.pipeline.describe.card import PATENT
from genesis_toolkit.pipeline.ledger import MANIFEST
from genesis_toolkit.pipeline.version import __version__
from genesis_toolkit.training.networks.registry import Architecture

_OURS = """\
from genesis_toolkit import load_encoder, load_network

network = load_network("{file}")  # degraded cubes in, restored cubes out
encoder = load_encoder("{file}")  # cubes in, one feature map per level out
"""
_ENCODER = """\
from genesis_toolkit import load_encoder

encoder = load_encoder("{file}")  # cubes in, one feature map per level out
"""
_TARGET = """\
from pathlib import Path

from genesis_toolkit.training.finetune.heads import build_target_network
from genesis_toolkit.training.weights.load import Beginning, read_weights

beginning = Beginning("{network}", width={width})
network = build_target_network(beginning, "{kind}", classes={classes}, axes={axes}, seed=0{more})
{frozen}network.load_state_dict(read_weights(Path("{file}")), strict=True)
network.eval()  # cubes in, logits out
"""
_NNSSL = """\
import torch

checkpoint = torch.load("{file}", weights_only=True)
plan = checkpoint["nnssl_adaptation_plan"]
print(plan["architecture_plans"]["arch_class_name"], len(checkpoint["network_weights"]))
"""
_NNUNET = """
### In nnU-Net: encoder and decoder

nnU-Net 2.8.1 takes {encoder} tensors of the encoder and {decoder} of the decoder, that is, all except the
segmentation layers. DATASET is the number of your dataset, which must have one input channel.

```bash
nnUNetv2_plan_and_preprocess -d DATASET -c 3d_fullres -pl {planner}
nnUNetv2_train DATASET 3d_fullres 0 -p {plans} -pretrained_weights {file}
```

nnU-Net stops at the first tensor whose shape differs: it plans fewer stages for small scans and other kernels
for thick slices. The weights fit a plan with the configuration `nnunet_configuration` from the `config.json`
that `genesis-train export --format nnssl --folder` writes next to them.

### In nnU-Net: encoder only

These commands have been in nnU-Net's source since July 2026, but in no release up to 2.8.1. They leave the
decoder at its random start. Always name the plan: with the default plan they may load no tensor at all and
still print "Loaded".
{channels}

```bash
nnUNetv2_preprocess_like_nnssl -d DATASET -n genesis -pc {file} -pl {plans}
nnUNetv2_train_pretrained DATASET 3d_fullres 0 -p {plans}
```
"""
#: By the class of the network: nnU-Net's planner, its plans, and the sentence on channels for "encoder only".
_ROADS = {
    "ResidualEncoderUNet": (
        "nnUNetPlannerResEncL",
        "nnUNetResEncUNetLPlans",
        "More than one input channel is possible here.",
    ),
    "PlainConvUNet": ("ExperimentPlanner", "nnUNetPlans", "One input channel is possible here, too."),
}
_FORMATS = {
    "official": """\
a dict with `epoch`, `state_dict` (every key begins with `module.`) and
  `optimizer_state_dict`, like the weights published by the method's authors""",
    "state-dict": "the tensors by name, with nothing else",
    "safetensors": """\
the tensors by name; a tensor with several names (nnU-Net's networks have some)
  is kept under the first""",
    "nnssl": """\
a checkpoint with an adaptation plan, for nnU-Net v2; the kernels follow nnU-Net's axis order,
  and the network returns logits, whose sigmoid is the restored cube""",
}
_LICENCE = f"""\
## Licence and patent

This file contains no weights by the method's authors. Whoever trained these weights decides under which
licence to share them, within the terms of use of the scans.

{PATENT}

The method: Zhou et al., *Models Genesis: Generic Autodidactic Models for 3D Medical Image Analysis* (MICCAI
2019, arXiv 1908.06912); *Models Genesis* (Medical Image Analysis 67, 2021, arXiv 2004.07882).
"""


@dataclass(frozen=True)
class WeightsResult:
    """Result of `export`, with the facts for the card.

    Attributes:
        file: path of the weights.
        card: path of the model card, next to the weights.
        format: `official`, `nnssl`, `state-dict` or `safetensors`.
        part: `network`, or `encoder` for the encoder only.
        task: `ncc`, `segment` or `dxc` for a fine-tuned network; None for a pre-trained one.
        network: name of the architecture.
        width: channels of the first convolution.
        weights: number of parameters in that part.
        epoch: epoch of the run that the weights come from, counted from 1.
        validation_loss: loss after that epoch: the mean squared error of values in [0, 1], or the loss of the
            task for a fine-tuned network.
        sha256: hash of the file, in hexadecimal.
    """

    file: str
    card: str
    format: str
    part: str
    task: str | None
    network: str
    width: int
    weights: int
    epoch: int
    validation_loss: float
    sha256: str


def model_card(
    result: WeightsResult,
    kind: Architecture,
    run: Mapping[str, Any],
    by_degradation: Mapping[str, float],
    names: Sequence[str],
) -> str:
    """Return the card of pre-trained weights in Markdown.

    `run` holds the contents of the run's `run.json`, `by_degradation` the validation loss of every
    combination of degradations after that epoch, and `names` the names of the tensors.
    """
    first = run.get("initial_encoder")
    begun = f"- initial encoder: `{first['file']}`, sha256 `{first['sha256']}`\n" if first else ""
    training = f"## Training\n\n{_listed(run['parameters'])}{begun}"
    losses = _losses(result, run["baselines"], by_degradation)
    whole = _NNSSL if result.format == "nnssl" else _OURS
    roads = _nnunet(result, kind, names) if result.format == "nnssl" else ""
    loading = _loading(result, whole) + roads
    heading = _heading(result, kind, run)
    return "\n".join((_front_matter(result, run), heading, _data(run), training, losses, loading, _LICENCE))


def target_card(
    result: WeightsResult, kind: Architecture, run: Mapping[str, Any], scores: Mapping[str, Any]
) -> str:
    """Return the card of the weights of a fine-tuned network in Markdown.

    `run` holds the contents of the run's `run.json`, `scores` those of its `result.json`.
    """
    # Since version 2 of such runs, a frozen encoder has a linear head, and its norms are frozen, too.
    probe = run["parameters"]["freeze_encoder"] and run["version"] > 1
    code = _TARGET.format(
        file="{file}",
        network=result.network,
        width=result.width,
        kind=run["kind"],
        classes=len(run["classes"]),
        axes=len(run["size"]),
        more=(", all_levels=True" if run["parameters"].get("head") == "all" else "")
        + (", probe=True" if probe else ""),
        frozen="network.freeze_encoder()\n" if probe else "",
    )
    parts = (
        _front_matter(result, run),
        _target_heading(result, kind, run),
        _target_data(run),
        f"## Training\n\n{_listed(run['parameters'])}{_beginning(run['beginning'])}",
        _scores(result, scores),
        _loading(result, code),
        _LICENCE,
    )
    return "\n".join(parts)


def _front_matter(result: WeightsResult, run: Mapping[str, Any]) -> str:
    """Return the YAML block that model hubs read; whoever trained the weights must fill in the licence."""
    tasks = {"segment": "image-segmentation", "classify": "image-classification"}
    tags = ["models-genesis", "self-supervised-learning", "medical", f"{len(run['size'])}d", result.network]
    tags += ["pytorch"] if result.format != "safetensors" else []
    tags += ["nnunet"] if result.format == "nnssl" else []
    tags += ["fine-tuned"] if result.task else []
    if result.part == "encoder" or not result.task:
        pipeline = "image-feature-extraction"
    else:
        pipeline = tasks[run["kind"]]
    listed = "".join(f"- {tag}\n" for tag in tags)
    return f"""\
---
license: unknown
library_name: genesis-toolkit
pipeline_tag: {pipeline}
datasets:
- {json.dumps(PurePath(run["store"]["path"]).name)}
tags:
{listed}---
"""


def _loading(result: WeightsResult, whole: str) -> str:
    code = (_ENCODER if result.part == "encoder" else whole).format(file=PurePath(result.file).name)
    return f"## Load it\n\n```python\n{code}```\n"


def _nnunet(result: WeightsResult, kind: Architecture, names: Sequence[str]) -> str:
    """Return the complete commands that load the weights into nnU-Net, with the number of tensors loaded."""
    planner, plans, channels = _ROADS[kind.class_name]
    decoder = [
        name
        for name in names
        if name.startswith("decoder.") and not name.startswith(("decoder.encoder.", "decoder.seg_layers."))
    ]
    return _NNUNET.format(
        file=PurePath(result.file).name,
        encoder=sum(name.startswith("encoder.") for name in names),
        decoder=len(decoder),
        planner=planner,
        plans=plans,
        channels=channels,
    )


def _heading(result: WeightsResult, kind: Architecture, run: Mapping[str, Any]) -> str:
    axes = "z, y, x" if result.format == "nnssl" else ", ".join("xyz"[: len(run["size"])])
    cubes = _cubes(run)
    if result.part == "encoder":
        what, output = "The encoder of a", "one feature map per level"
    else:
        what, output = "A", f"the restored {cubes}, of the same shape and range"
    return f"""\
# {PurePath(result.file).name}

{what} {kind.words}, pre-trained on {cubes} from unlabelled scans
by restoring the originals from degraded copies (Models Genesis). Trained with genesis-toolkit
{run["genesis_toolkit"]}, exported with {__version__}.

{_file(result)}{_input(kind, run, axes)}- output: {output}
"""


def _target_heading(result: WeightsResult, kind: Architecture, run: Mapping[str, Any]) -> str:
    axes = ", ".join("xyz"[: len(run["size"])])
    encoder = result.part == "encoder"
    what = "The encoder of a" if encoder else "A"
    begun = run["beginning"]["pretrained"]
    source = f"started from pre-trained weights of the {begun}" if begun else "was trained from scratch"
    logits = f"`[batch, {len(run['classes'])}, {axes}]`" if run["kind"] == "segment" else "`[batch, class]`"
    output = "one feature map per level" if encoder else f"logits {logits}: {', '.join(run['classes'])}"
    return f"""\
# {PurePath(result.file).name}

{what} network fine-tuned for the task `{run["task"]}` ({run["kind"]}), a {kind.words}. It {source}; these
are fine-tuned, not pre-trained, weights. Trained with genesis-toolkit {run["genesis_toolkit"]}, exported with
{__version__}.

{_file(result)}{_input(kind, run, axes)}- output: {output}
"""


def _file(result: WeightsResult) -> str:
    return f"""\
- format `{result.format}`: {_FORMATS[result.format]}
- sha256: `{result.sha256}`
- network: {result.network}, width {result.width}, {result.weights:,} parameters
"""


def _input(kind: Architecture, run: Mapping[str, Any], axes: str) -> str:
    low, high = run["window"]
    return f"""\
- input: float32 `[batch, 1, {axes}]` in [0, 1]: voxels (HU for CT) clipped to [{low}, {high}] and scaled;
  every edge must be a multiple of {kind.edge_multiple}
"""


def _target_data(run: Mapping[str, Any]) -> str:
    store = run["store"]
    return f"""\
## Data

- store: `{PurePath(store["path"]).name}` ({store["format"]})
- sha256 of the store's `{MANIFEST}`: `{store["fingerprint"]}`
- {_cubes(run)} of {_times(run["size"])} voxels: {run["train_cubes"]} of {run["train_scans"]} labelled scans
  for training, {run["validation_cubes"]} for validation, {run["test_cubes"]} for testing
"""


def _beginning(beginning: Mapping[str, Any]) -> str:
    if beginning["file"] is None:
        return "- trained from scratch\n"
    return (
        f"- initial weights of the {beginning['pretrained']}: `{beginning['file']}`, "
        f"sha256 `{beginning['sha256']}`\n"
    )


def _scores(result: WeightsResult, scores: Mapping[str, Any]) -> str:
    """Return the scores of the network on the test fold."""
    rows = "".join(
        f"| {name.replace('_', ' ')} | {'undetermined' if value is None else f'{value:.4f}'} |\n"
        for name, value in scores["metrics"].items()
    )
    notes = "".join(f"- {note}\n" for note in scores["notes"])
    return f"""\
## Scores

Scores of the whole network on the test fold after epoch {result.epoch} (validation loss
{result.validation_loss:.6f}).

| metric | value |
|---|---|
{rows}{notes and f"{chr(10)}{notes}"}"""


def _data(run: Mapping[str, Any]) -> str:
    store = run["store"]
    lines = [f"store: `{PurePath(store['path']).name}` ({store['format']})"]
    if "manifest" in store:  # absent in runs started before it was recorded
        known = f"{_times(store['spacing_mm'])} mm in x, y, z (median)"
        lines += [
            f"sha256 of the store's `{MANIFEST}`: `{store['manifest']}`",
            f"scans: {store['scans']}, of {known if all(store['spacing_mm']) else 'unknown spacing'}",
        ]
    if "seed" in store:
        lines.append(f"pairs: {store['variants']} variants of every cube, degraded with seed {store['seed']}")
    lines += [
        f"fingerprint of the store's tables and parameters: `{store['fingerprint']}`",
        f"{_cubes(run)} of {_times(run['size'])} voxels: {run['train_cubes']} for training, "
        f"{run['validation_cubes']} for validation ({run['split']})",
    ]
    listed = "".join(f"- {line}\n" for line in lines)
    return f"## Data\n\n{listed}\n## Degradations\n\n{_listed(store['recipe'])}"


def _losses(result: WeightsResult, baselines: Mapping[str, Any], by_degradation: Mapping[str, float]) -> str:
    rows = [("all", result.validation_loss, baselines)]
    rows += [(name, loss, baselines["by_degradation"][name]) for name, loss in by_degradation.items()]
    listed = "".join(
        f"| {name} | {loss:.6f} | {beside['copy']:.6f} | {beside['mean_image']:.6f} |\n"
        for name, loss, beside in rows
    )
    return f"""\
## Losses

Mean squared error of values in [0, 1] on the validation pairs, after the best epoch, {result.epoch}. Two
baselines for comparison: "copy" returns the degraded cube unchanged, "mean image" always returns the mean of
the training originals.

| pairs | network | copy | mean image |
|---|---|---|---|
{listed}"""


def _listed(parameters: Mapping[str, Any]) -> str:
    """Return parameters as a Markdown list, without those that are None."""
    return "".join(
        f"- {name.replace('_', ' ')}: {', '.join(value) if isinstance(value, list) else value}\n"
        for name, value in parameters.items()
        if value is not None
    )


def _cubes(run: Mapping[str, Any]) -> str:
    """Return the noun for what the network restores: cubes in 3D, images in 2D."""
    return "cubes" if len(run["size"]) == len("xyz") else "images"


def _times(edges: Sequence[float]) -> str:
    return " x ".join(f"{edge:g}" for edge in edges)
